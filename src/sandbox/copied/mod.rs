//! A root for a command where overlay is refused: a copy of the trees, and afterwards what is different in it.
//!
//! # What it is for
//! Kernels before 5.11, and stores that themselves lie on an overlay (a container's own file system) or on a network,
//! refuse overlay mounts in a user namespace. There [`make_root`] merges the trees into a directory of the run's work
//! directory before the command, and [`compare`] turns what the command left there into an upper directory, exactly as
//! overlay would have written it. So whatever comes after (layers, later commands, the cache) is the same.
//!
//! # Contract
//! * Content is shared where the file system can (`FICLONE`), else copied in the kernel. Never by hard links to the
//!   trees: a command that writes in place would write into the store.
//! * Names that were hard links in one tree are hard links in the copy. Where a command writes through one of them all
//!   change, as on any disk; overlay would have changed one. That is the one difference between layers of both.
//! * What is compared is what the kernel says of a file: inode and time of birth, `ctime`, which no command can set.
//!   Content is read only where these leave a question.
//!
//! It knows nothing of mounts but that trees are merged by overlay's rules.

mod compare;
mod inode;
mod merge;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Timestamps;
use serde::{Deserialize, Serialize};

pub(super) use compare::compare;
use merge::Merge;
use record::Fingerprint;

use super::child::{Reason, While};
use super::order::Bytes;
use crate::owners::table_path;
use crate::rootfs::RootDir;

/// Every path of a copy, with the number of the tree that it came from.
pub(super) type Entries = BTreeMap<Vec<u8>, usize>;

/// The copy beneath a work directory.
pub(super) fn root_in(work: &Path) -> PathBuf {
    work.join("root")
}

fn record_in(work: &Path) -> PathBuf {
    work.join("before")
}

fn filled_in(work: &Path) -> PathBuf {
    work.join("filled")
}

/// A place in a copy that stands for a mount: nothing there belongs to a layer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Filled {
    path: Bytes,
    /// Which inode it is, as a command may move it.
    number: u64,
    born: (i64, u32),
    /// The cache that takes the content back.
    cache: Option<PathBuf>,
}

impl Filled {
    /// What is at a path of a copy, through no link.
    pub(super) fn at(root: &RootDir, path: &[u8], cache: Option<PathBuf>) -> io::Result<Filled> {
        let (number, born) = Fingerprint::of(root, path)?.inode();
        Ok(Filled { path: Bytes(path.to_vec()), number, born, cache })
    }
}

/// The times of an open file.
pub(super) fn times_of(file: &OwnedFd) -> io::Result<Timestamps> {
    Ok(inode::Header::of_directory(file.as_fd())?.times())
}

/// What was copied, for [`compare`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Copied {
    /// Trees, top first.
    pub(super) lowers: Vec<PathBuf>,
    /// Receives what changed.
    pub(super) upper: PathBuf,
    /// Holds the copy and its record.
    pub(super) work: PathBuf,
}

/// Merges trees, top first, into the copy beneath a work directory, with a record of what it is like and a table of
/// owners where trees have one.
pub(super) fn make_root(lowers: &[PathBuf], work: &Path) -> Result<PathBuf, Reason> {
    let (root, entries) = copy_root(lowers, work)?;
    write_record(&entries, &[], work)?;
    Ok(root)
}

/// The copy alone; it is to be followed by [`write_record`] once the copy is as the command will see it.
pub(super) fn copy_root(lowers: &[PathBuf], work: &Path) -> Result<(PathBuf, Entries), Reason> {
    let root = root_in(work);
    std::fs::create_dir(&root).doing(root.display())?;
    let copied = Merge::open(lowers)?.copy(b"", &root)?;
    write_table(&copied.owners, &root)?;
    Ok((root, copied.entries))
}

/// Writes down what a copy is like, and which places in it are not to be looked at.
pub(super) fn write_record(entries: &Entries, filled: &[Filled], work: &Path) -> Result<(), Reason> {
    std::fs::write(filled_in(work), serde_json::to_vec(filled)?).doing("write down what was filled in")?;
    let is_filled = |path: &[u8]| {
        filled
            .iter()
            .any(|place| path.strip_prefix(&place.path.0[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
    };
    let looked_at: Entries =
        entries.iter().filter(|(path, _)| !is_filled(path)).map(|(path, tree)| (path.clone(), *tree)).collect();
    record::write(&root_in(work), &looked_at, &record_in(work)).doing("write down what was copied")
}

fn write_table(owners: &crate::owners::Table, tree: &Path) -> Result<(), Reason> {
    if owners.is_empty() {
        return Ok(());
    }
    let table = table_path(tree);
    owners.write_to(std::fs::File::create(&table)?).doing(table.display())
}

/// What a path of merged trees is.
pub(super) enum PartKind {
    Directory,
    /// Anything else.
    Other,
}

/// What is at a path of merged trees that leads through no link.
pub(super) fn part_kind(lowers: &[PathBuf], path: &[u8]) -> Result<PartKind, Reason> {
    match Merge::open(lowers)?.kind(path)? {
        merge::Kind::Directory => Ok(PartKind::Directory),
        merge::Kind::Other => Ok(PartKind::Other),
        merge::Kind::Nothing => Err(Reason(format!("{}: no such file or directory", String::from_utf8_lossy(path)))),
    }
}

/// Copies one path of merged trees, a directory with all that is in it, to a name that does not exist. Gives its table of
/// owners a place beside it.
pub(super) fn copy_part(lowers: &[PathBuf], path: &[u8], target: &Path) -> Result<(), Reason> {
    let merge = Merge::open(lowers)?;
    let owners = match part_kind(lowers, path)? {
        PartKind::Directory => {
            std::fs::create_dir(target).doing(target.display())?;
            merge.copy(path, target)?.owners
        }
        PartKind::Other => merge.copy_single(path, target)?,
    };
    write_table(&owners, target)
}
