//! `unpack(pack(t)) == t` for trees of any shape.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use super::{by_first_name, is_root, list, whole_seconds};
use crate::layer::index::{Item, index_tar};
use crate::layer::pack::{pack, pack_tree};
use crate::layer::unpack::{Ownership, Style, unpack};
use crate::rootfs::RootDir;
use crate::tree::Kind;

/// Something to be made in a tree; names come from a small set, so that they meet.
#[derive(Debug, Clone)]
enum Make {
    File { size: usize },
    Directory,
    Symlink(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
}

#[derive(Debug, Clone)]
struct Thing {
    path: Vec<u8>,
    make: Make,
    mode: u32,
    owner: (u32, u32),
    seconds: i64,
    attribute: Option<Vec<u8>>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-c]".prop_map(String::into_bytes),
        1 => "[a-z.-]{1,20}".prop_filter("a plain name", |name| name != "." && name != "..").prop_map(String::into_bytes),
        1 => Just("\u{e4}\u{1f600}".as_bytes().to_vec()),
        1 => Just(b"\xff\xfe bad".to_vec()),
        1 => Just(vec![b'n'; 200]),
    ]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(name(), 1..4).prop_map(|parts| parts.join(&b'/'))
}

fn make() -> impl Strategy<Value = Make> {
    prop_oneof![
        3 => prop_oneof![Just(0usize), 1usize..2000, Just(512usize)].prop_map(|size| Make::File { size }),
        3 => Just(Make::Directory),
        1 => path().prop_map(Make::Symlink),
        2 => path().prop_map(Make::Link),
        1 => Just(Make::Fifo),
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    let seconds = prop_oneof![0i64..2_000_000_000, Just(-86_400i64), Just(10_413_792_000i64)];
    let attribute = proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 0..40));
    let owner = prop_oneof![Just((0, 0)), (0u32..70_000, Just(3_000_000u32))];
    (path(), make(), 0u32..0o10000, owner, seconds, attribute)
        .prop_map(|(path, make, mode, owner, seconds, attribute)| Thing { path, make, mode, owner, seconds, attribute })
}

fn at(root: &Path, path: &[u8]) -> std::path::PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path))
}

/// Makes what can be made; what a random list asks for in vain (a file below a file) is left out.
fn build(root: &Path, things: &[Thing]) {
    for thing in things {
        let whole = at(root, &thing.path);
        if whole.symlink_metadata().is_ok() || whole.parent().is_some_and(|parent| fs::create_dir_all(parent).is_err())
        {
            continue;
        }
        match &thing.make {
            Make::File { size } => {
                let content: Vec<u8> = (0..*size).map(|at| (at % 251) as u8).collect();
                let _ = fs::write(&whole, content);
            }
            Make::Directory => {
                let _ = fs::create_dir(&whole);
            }
            Make::Symlink(target) => {
                let _ = std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &whole);
            }
            Make::Link(target) => {
                let _ = fs::hard_link(at(root, target), &whole);
            }
            Make::Fifo => {
                let _ = rustix::fs::mknodat(CWD, &whole, FileType::Fifo, Mode::RUSR, 0);
            }
        }
        let Ok(metadata) = whole.symlink_metadata() else { continue };
        if let (Some(value), true) = (&thing.attribute, metadata.is_file() || metadata.is_dir()) {
            rustix::fs::lsetxattr(&whole, "user.test", value, XattrFlags::empty()).unwrap();
        }
    }
    // In reverse, so that nothing is made in a directory after its time and mode were set.
    for thing in things.iter().rev() {
        let whole = at(root, &thing.path);
        let Ok(metadata) = whole.symlink_metadata() else { continue };
        if is_root() {
            std::os::unix::fs::lchown(&whole, Some(thing.owner.0), Some(thing.owner.1)).unwrap();
        }
        if !metadata.is_symlink() {
            let mode = if is_root() { thing.mode } else { thing.mode | 0o700 };
            rustix::fs::chmodat(CWD, &whole, Mode::from_raw_mode(mode), AtFlags::empty()).unwrap();
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: thing.seconds, tv_nsec: 0 },
        };
        rustix::fs::utimensat(CWD, &whole, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_was_packed_comes_back(things in proptest::collection::vec(thing(), 0..25)) {
        let before = tempfile::tempdir().unwrap();
        build(before.path(), &things);
        let mut tar = Vec::new();
        pack_tree(&RootDir::open(before.path()).unwrap(), &mut tar).unwrap();
        let mut again = Vec::new();
        pack_tree(&RootDir::open(before.path()).unwrap(), &mut again).unwrap();
        prop_assert!(tar == again, "two packs of one tree differ");

        let after = tempfile::tempdir().unwrap();
        let root = RootDir::open(after.path()).unwrap();
        let unpacked = unpack(tar.as_slice(), &root, Ownership::Keep, Style::OverlayLower).unwrap();
        prop_assert_eq!(unpacked.notes, Vec::<String>::new());
        let expected = by_first_name(whole_seconds(list(before.path())));
        let found = by_first_name(list(after.path()));
        prop_assert_eq!(&found, &expected);

        // The index says the same as the tree.
        let (index, ..) = index_tar(tar.as_slice()).unwrap();
        prop_assert_eq!(index.entries().len(), expected.len());
        for entry in index.entries() {
            let Item::Present(present) = &entry.item else { panic!("a removal in a whole tree") };
            let mut node = present.node.clone();
            if let Kind::File { digest, .. } = &mut node.kind {
                let content = &expected[&entry.path].1;
                prop_assert_eq!(digest.take(), Some(crate::digest::Digest::of(content)));
            }
            let mut wanted = expected[&entry.path].0.clone();
            prop_assert_eq!(node.link_group != 0, wanted.link_group != 0);
            (node.link_group, wanted.link_group) = (0, 0);
            prop_assert_eq!(node, wanted);
        }

        // A tree above an equal tree has no changes.
        let mut nothing = Vec::new();
        let unlinked = expected.values().all(|(node, _)| node.link_group == 0);
        pack(&root, &[RootDir::open(after.path()).unwrap()], &mut nothing).unwrap();
        if unlinked {
            prop_assert_eq!(nothing.len(), 1024);
        }
    }
}
