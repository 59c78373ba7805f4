//! Tests of the module as a whole: hostile archives, round trips, other programs' archives, layers as one tree.

mod breakouts;
mod hostile;
mod index;
mod interop;
mod overlay;
mod round_trip;
mod squash;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::inode::Inspector;
use crate::rootfs::{self, RootDir};
use crate::tree::{self, Kind, Node, Time};

/// One header of an archive that no writer of ours would make, with its content.
fn raw(kind: u8, name: &str, target: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.as_old_mut().linkflag[0] = kind;
    header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    let (uid, gid) = own_ids();
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let padding = vec![0; (512 - content.len() % 512) % 512];
    [header.as_bytes(), content, &padding].concat()
}

fn file(name: &str, content: &str) -> Vec<u8> {
    raw(b'0', name, "", content.as_bytes())
}

/// What can be done about owners here: only root can give files away.
fn ownership() -> crate::layer::unpack::Ownership {
    use crate::layer::unpack::Ownership;
    if rustix::process::geteuid().is_root() { Ownership::Keep } else { Ownership::Ignore }
}

fn directory(name: &str) -> Vec<u8> {
    raw(b'5', name, "", b"")
}

fn symlink(target: &str, name: &str) -> Vec<u8> {
    raw(b'2', name, target, b"")
}

fn link(target: &str, name: &str) -> Vec<u8> {
    raw(b'1', name, target, b"")
}

/// An extended header with these records.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| length - length.to_string().len() == rest).unwrap();
        body += &format!("{length} {key}={value}\n");
    }
    raw(b'x', "PaxHeaders/x", "", body.as_bytes())
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 1024]].concat()
}

fn own_ids() -> (u32, u32) {
    (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

fn is_root() -> bool {
    own_ids().0 == 0
}

/// A tree as data: paths, headers and contents, hard links as sets of names.
type Listing = BTreeMap<Vec<u8>, (Node, Vec<u8>)>;

fn list(path: &Path) -> Listing {
    let root = RootDir::open(path).unwrap();
    let flags = rustix::fs::OFlags::RDONLY;
    let open = |path: &[u8]| root.open_without_links(path, flags, rustix::fs::Mode::empty()).unwrap();
    let mut inspector = Inspector::new(Default::default());
    let mut groups: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut found = Listing::new();
    let mut todo = vec![Vec::new()];
    while let Some(directory) = todo.pop() {
        for name in rootfs::names(open(&directory)).unwrap() {
            let path = tree::join(&directory, &name);
            let inode = inspector.look(&root, &path).unwrap().unwrap();
            let mut node = inode.node;
            let mut content = Vec::new();
            match node.kind {
                Kind::Directory => todo.push(path.clone()),
                Kind::File { .. } => {
                    std::fs::File::from(open(&path)).read_to_end(&mut content).unwrap();
                }
                _ => {}
            }
            if !node.is_directory() && inode.linked {
                let next = groups.len() as u64 + 1;
                node.link_group = *groups.entry(inode.id).or_insert(next);
            }
            found.insert(path, (node, content));
        }
    }
    found
}

/// Makes groups of hard links comparable: the number of a group is that of its first name.
fn by_first_name(listing: Listing) -> Listing {
    let mut order: BTreeMap<u64, u64> = BTreeMap::new();
    let renumber = |(path, (mut node, content)): (Vec<u8>, (Node, Vec<u8>))| {
        if node.link_group != 0 {
            let next = order.len() as u64 + 1;
            node.link_group = *order.entry(node.link_group).or_insert(next);
        }
        (path, (node, content))
    };
    listing.into_iter().map(renumber).collect()
}

fn whole_seconds(mut listing: Listing) -> Listing {
    for (node, _) in listing.values_mut() {
        node.mtime = Time { nanoseconds: 0, ..node.mtime };
    }
    listing
}
