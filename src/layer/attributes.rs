//! Which extended attributes a layer carries, and how overlayfs marks whiteouts and opaque directories with them.
//!
//! Contract: [`for_layer`] is the one rule for both directions. An attribute that steers overlayfs (`*.overlay.*`), that
//! belongs to the host (labels and signatures under `security.`, ACLs under `system.`) or that rbuild itself leaves on a
//! tree (`user.rbuild.*`) is neither written to a tar nor taken from one.

use std::collections::BTreeMap;

use crate::owners::{self, Owner};

/// Marks of overlayfs with and without the `userxattr` mount option.
const OVERLAY_PREFIXES: [&[u8]; 2] = [b"user.overlay.", b"trusted.overlay."];
/// Opaque mark that overlayfs mounted with `userxattr` understands.
pub const OPAQUE: &str = "user.overlay.opaque";
/// Whiteout mark on an empty regular file, for where mknod is not allowed.
pub const WHITEOUT: &str = "user.overlay.whiteout";
/// File capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";

/// Attributes as a tree has them or a tar names them.
pub type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// The attribute as a layer has it, from one that was found on a file or in a tar; `None` where it has no place there.
///
/// Overlayfs escapes its own names when a container sets them (`user.overlay.overlay.x`): these are a program's data, so
/// a tree's are unescaped by [`unescape`] before they come here.
pub fn for_layer(name: &[u8], value: Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
    if name == CAPABILITY {
        return Some((name.to_vec(), portable_capability(value)));
    }
    let host = [b"security.".as_slice(), b"system.", b"user.rbuild."];
    if host.iter().chain(&OVERLAY_PREFIXES).any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    Some((name.to_vec(), value))
}

/// The name that a container gave an attribute which overlayfs stored escaped.
pub fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    OVERLAY_PREFIXES.iter().find_map(|prefix| {
        let rest = name.strip_prefix(*prefix)?.strip_prefix(b"overlay.")?;
        Some([*prefix, rest].concat())
    })
}

/// Version 3 of `vfs_ns_cap_data` (linux/capability.h) names the root id of a user namespace, which means nothing on
/// another machine; version 2 is the same without it.
fn portable_capability(value: Vec<u8>) -> Vec<u8> {
    const REVISION: usize = 3;
    if value.len() != 24 || value[REVISION] != 3 {
        return value;
    }
    let mut value = value;
    value.truncate(20);
    value[REVISION] = 2;
    value
}

/// Takes the attributes of a file in a tree apart: what the layer carries, and what overlayfs and rbuild meant by theirs.
#[derive(Debug, Default)]
pub struct Found {
    /// What the layer carries.
    pub carried: Attributes,
    /// The directory hides what is below it.
    pub opaque: bool,
    /// The (empty, regular) file is a whiteout.
    pub whiteout: bool,
    /// The owner, where the file system could not be told.
    pub owner: Option<Owner>,
}

impl Found {
    /// Adds one attribute as the file system reports it.
    pub fn add(&mut self, name: &[u8], value: Vec<u8>) {
        if let Some(name) = unescape(name) {
            self.carried.insert(name, value);
            return;
        }
        match name {
            b"user.overlay.opaque" | b"trusted.overlay.opaque" => self.opaque = value == b"y",
            b"user.overlay.whiteout" | b"trusted.overlay.whiteout" => self.whiteout = true,
            name if name == owners::ATTRIBUTE.as_bytes() => self.owner = Owner::parse(&value),
            name => self.carried.extend(for_layer(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_steer_overlayfs_never_pass() {
        for name in
            ["user.overlay.redirect", "user.overlay.opaque", "trusted.overlay.metacopy", "user.overlay.overlay.opaque"]
        {
            assert_eq!(for_layer(name.as_bytes(), b"/etc".to_vec()), None, "{name}");
        }
        for name in ["security.selinux", "security.ima", "system.posix_acl_access", "user.rbuild.own"] {
            assert_eq!(for_layer(name.as_bytes(), b"x".to_vec()), None, "{name}");
        }
        assert!(for_layer(b"user.mine", b"x".to_vec()).is_some());
        assert!(for_layer(b"user.overlayed", b"x".to_vec()).is_some());
    }

    #[test]
    fn an_escaped_attribute_is_the_containers_own() {
        let mut found = Found::default();
        found.add(b"user.overlay.overlay.opaque", b"y".to_vec());
        found.add(b"user.overlay.origin", b"x".to_vec());
        found.add(b"user.rbuild.own", b"5:6".to_vec());
        assert!(!found.opaque);
        assert_eq!(found.owner, Some(Owner { uid: 5, gid: 6 }));
        assert_eq!(found.carried, BTreeMap::from([(b"user.overlay.opaque".to_vec(), b"y".to_vec())]));
    }

    #[test]
    fn a_capability_with_a_root_id_loses_it() {
        let third = [&[1, 0, 0, 3][..], &[7; 16], &[0xa0, 0x86, 1, 0]].concat();
        let second = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        assert_eq!(for_layer(CAPABILITY, third).unwrap().1, second);
        assert_eq!(for_layer(CAPABILITY, second.clone()).unwrap().1, second);
    }
}
