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

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use compare::compare;
use merge::Merge;

use super::child::{Reason, While};
use crate::owners::table_path;

/// The copy beneath a work directory.
pub(super) fn root_in(work: &Path) -> PathBuf {
    work.join("root")
}

fn record_in(work: &Path) -> PathBuf {
    work.join("before")
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
    let root = root_in(work);
    std::fs::create_dir(&root).doing(root.display())?;
    let copied = Merge::open(lowers)?.copy(b"", &root)?;
    copied.owners.write_to(std::fs::File::create(table_path(&root))?).doing(table_path(&root).display())?;
    record::write(&root, &copied.entries, &record_in(work)).doing("write down what was copied")?;
    Ok(root)
}

/// Copies one path of merged trees, a directory with all that is in it, to a name that does not exist. Gives its table of
/// owners a place beside it.
pub(super) fn copy_part(lowers: &[PathBuf], path: &[u8], target: &Path) -> Result<(), Reason> {
    let merge = Merge::open(lowers)?;
    let owners = match merge.kind(path)? {
        merge::Kind::Directory => {
            std::fs::create_dir(target).doing(target.display())?;
            merge.copy(path, target)?.owners
        }
        merge::Kind::Other => merge.copy_single(path, target)?,
        merge::Kind::Nothing => {
            return Err(Reason(format!("{}: no such file or directory", String::from_utf8_lossy(path))));
        }
    };
    owners.write_to(std::fs::File::create(table_path(target))?).doing(table_path(target).display())
}
