//! A root file system for a step, without copying one: the trees of its layers, and a fresh directory on top.
//!
//! Contract: what a step writes lands in [`Draft::upper`] and nowhere else, and becomes a layer's tree only by
//! [`Draft::seal`]. It knows nothing of how the step runs.

mod stack;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

pub use stack::StackView;

use crate::digest::Digest;
use crate::store::{Store, StoreError};

/// The id mapping that trees are made under: its name in the store, and the host ids of its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// A file name.
    pub name: String,
    /// Host user and group ids of root inside.
    pub owner: (u32, u32),
}

/// The writable part of a step's root file system.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
}

impl Draft {
    /// Makes the directories that an overlay needs; the root's mode and owner are those of the layers below, for the
    /// upper directory is what a process sees as `/`.
    pub fn new(store: &Store, mapping: &Mapping, lowers: &[PathBuf]) -> Result<Draft, StoreError> {
        let draft = store.tree_draft(&mapping.name, mapping.owner)?;
        let folder = draft.path().to_owned();
        let draft = Draft { folder };
        draft.prepare(mapping, lowers).map_err(|source| StoreError::Io {
            action: "prepare directory",
            path: draft.folder.display().to_string(),
            source,
        })?;
        Ok(draft)
    }

    fn prepare(&self, mapping: &Mapping, lowers: &[PathBuf]) -> io::Result<()> {
        let below = lowers.first().map(fs::metadata).transpose()?;
        let (mode, owner) = match &below {
            Some(below) => (below.mode() & 0o7777, (below.uid(), below.gid())),
            None => (0o755, mapping.owner),
        };
        for (path, mode, owner) in [(self.upper(), mode, owner), (self.work(), 0o700, mapping.owner)] {
            fs::create_dir(&path)?;
            if rustix::process::geteuid().is_root() {
                chown(&path, Some(owner.0), Some(owner.1))?;
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// What the step writes: the layer.
    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// The overlay's own.
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// Where all of it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes what the step wrote the tree of a layer. The rest of the draft is left to be removed.
    pub fn seal(&self, store: &Store, mapping: &Mapping, layer: &Digest) -> Result<PathBuf, StoreError> {
        store.seal_tree(&mapping.name, layer, &self.upper())
    }
}
