//! What an overlay of trees will show, asked before it is mounted.
//!
//! Mount points have to exist in a layer when the overlay is mounted, and where they have to be depends on the links
//! in the other layers (`/var/run -> /run`). Only names and types are answered; see [`crate::tree`].

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::tree::{Kind, Node, Time, View, components};

use super::overlay::as_path;

/// Trees in overlayfs form, top first.
pub(super) struct Layers {
    trees: Vec<PathBuf>,
    /// Of directories that were asked for: the layers that are seen through each. Mount points share theirs.
    directories: Mutex<BTreeMap<Vec<u8>, Arc<[usize]>>>,
}

impl Layers {
    pub(super) fn new(trees: Vec<PathBuf>) -> Layers {
        let all = (Vec::new(), (0..trees.len()).collect());
        Layers { trees, directories: Mutex::new(BTreeMap::from([all])) }
    }

    fn known(&self, directory: &[u8]) -> Option<Arc<[usize]>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).get(directory).cloned()
    }

    fn path(&self, layer: usize, path: &[u8]) -> PathBuf {
        self.trees[layer].join(as_path(path))
    }

    /// What is there in one layer; `None` where it has nothing of that name.
    fn look(&self, layer: usize, path: &[u8]) -> io::Result<Option<std::fs::Metadata>> {
        match std::fs::symlink_metadata(self.path(layer, path)) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_opaque(&self, layer: usize, path: &[u8]) -> bool {
        let mut value = [0; 2];
        let full = self.path(layer, path);
        // `y` hides what is below; `x` only says that whiteouts of the other form are inside.
        matches!(rustix::fs::lgetxattr(full, "user.overlay.opaque", &mut value), Ok(1) if value[0] == b'y')
    }
}

impl View for Layers {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let mut kind = Kind::Directory;
        let mut done = Vec::new();
        for component in components(path) {
            if kind != Kind::Directory {
                return Ok(None);
            }
            let above = self.known(&done).unwrap_or_default();
            done = crate::tree::join(&done, &component);
            if self.known(&done).is_some() {
                continue;
            }
            let mut directories = Vec::new();
            let mut other = None;
            for &layer in above.iter() {
                let Some(found) = self.look(layer, &done)? else { continue };
                if !found.is_dir() {
                    other = Some((layer, found));
                    break;
                }
                directories.push(layer);
                if self.is_opaque(layer, &done) {
                    break;
                }
            }
            kind = match (directories.is_empty(), other) {
                (false, _) => Kind::Directory,
                (true, Some((layer, found))) => match kind_of(&found, || self.path(layer, &done))? {
                    Some(kind) => kind,
                    None => return Ok(None),
                },
                (true, None) => return Ok(None),
            };
            if kind == Kind::Directory {
                let mut known = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(done.clone(), directories.into());
            }
        }
        Ok(Some(Node { kind, ..Node::directory(Time::default()) }))
    }

    fn names(&self, _: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, _: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The kind of what is no directory; `None` for a whiteout (a character device 0:0).
fn kind_of(found: &std::fs::Metadata, path: impl Fn() -> PathBuf) -> io::Result<Option<Kind>> {
    let file_type = found.file_type();
    if file_type.is_symlink() {
        let target = std::fs::read_link(path())?;
        return Ok(Some(Kind::Symlink(target.into_os_string().into_encoded_bytes())));
    }
    if file_type.is_char_device() && found.rdev() == 0 {
        return Ok(None);
    }
    // Sizes and device numbers are of no interest to whoever looks for a mount point.
    Ok(Some(Kind::File { size: 0, digest: None }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Last, resolve};

    #[test]
    fn links_of_one_layer_lead_through_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let layer = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(layer("top/etc")).unwrap();
        std::fs::create_dir_all(layer("bottom/run/lock")).unwrap();
        std::fs::create_dir_all(layer("bottom/etc/hosts")).unwrap();
        std::os::unix::fs::symlink("../run", layer("top/var")).unwrap();
        std::os::unix::fs::symlink("/nowhere/else", layer("top/etc/resolv.conf")).unwrap();
        std::fs::write(layer("top/etc/hosts"), "").unwrap();
        let layers = Layers::new(vec![layer("top"), layer("bottom")]);
        let found = |path: &str| {
            let resolved = resolve(&layers, path.as_bytes(), Last::Follow).unwrap();
            (String::from_utf8(resolved.path).unwrap(), resolved.node.map(|node| node.is_directory()))
        };
        assert_eq!(found("/var/lock"), ("run/lock".to_owned(), Some(true)));
        assert_eq!(found("/var/new/x"), ("run/new/x".to_owned(), None));
        assert_eq!(found("/etc/hosts"), ("etc/hosts".to_owned(), Some(false)));
        assert_eq!(found("/etc/resolv.conf"), ("nowhere/else".to_owned(), None));
    }
}
