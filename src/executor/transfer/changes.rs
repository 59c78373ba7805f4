//! How what a copy brings differs from what it brought before.

use crate::cache::miss::FileChanges;
use crate::digest::Digest;
use crate::executor::copy::Recipe;
use crate::layer::index::{Index, Item};
use crate::plan::CopyOp;
use crate::tree::{self, Kind, Node};

/// What a miss is explained with: everything that two states of a file can differ in but its time.
#[derive(PartialEq)]
struct Listed<'a> {
    mode: u32,
    owner: (u32, u32),
    content: Option<&'a Digest>,
    target: Option<&'a [u8]>,
}

impl<'a> Listed<'a> {
    fn of(node: &'a Node) -> Option<Listed<'a>> {
        let (content, target) = match &node.kind {
            Kind::Directory => return None,
            Kind::File { digest, .. } => (Some(digest.as_ref()?), None),
            Kind::Symlink(target) => (None, Some(target.as_slice())),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo | Kind::Socket => (None, None),
        };
        Some(Listed { mode: node.mode, owner: (node.uid, node.gid), content, target })
    }
}

/// How the files of a copy differ from those of an earlier layer; they are named as people write them at the destination.
pub(super) fn file_changes(old: &Index, new: &Recipe, op: &CopyOp) -> FileChanges {
    let old = old.entries().iter().filter_map(|entry| match &entry.item {
        Item::Present(present) => Some((entry.path.as_slice(), Listed::of(&present.node)?)),
        Item::Whiteout => None,
    });
    let new = new.entries.iter().filter_map(|entry| Some((entry.path.as_slice(), Listed::of(&entry.node)?)));
    let destination = tree::clean(op.destination.as_bytes());
    FileChanges::between(old, new, |path| {
        let shown = path.strip_prefix(destination.as_slice()).and_then(|rest| rest.strip_prefix(b"/")).unwrap_or(path);
        String::from_utf8_lossy(shown).into_owned()
    })
}
