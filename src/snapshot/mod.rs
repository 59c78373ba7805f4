//! A root file system for a step, without copying one: the trees of its layers, and a fresh directory on top.
//!
//! Contract: what a step writes lands in [`Draft::upper`] and nowhere else, and becomes a layer's tree only by
//! [`Draft::seal`]. It knows nothing of how the step runs.

mod stack;

use std::path::{Path, PathBuf};

pub use stack::StackView;

use crate::digest::Digest;
use crate::store::{Store, StoreError, TreeName};

/// The id mapping that trees are made under: its name in the store, and the host ids of its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// A file name.
    pub name: String,
    /// Host user and group ids of root inside.
    pub owner: (u32, u32),
}

/// The writable part of a step's root file system: names for an overlay's directories, which the sandbox makes, for it
/// alone can give the upper one the owner that the image's root has.
#[derive(Debug)]
pub struct Draft {
    upper: PathBuf,
    work: PathBuf,
}

impl Draft {
    /// Chooses names that nobody has.
    pub fn new(store: &Store, mapping: &Mapping) -> Result<Draft, StoreError> {
        let name = || store.draft_name(&mapping.name, mapping.owner);
        Ok(Draft { upper: name()?, work: name()? })
    }

    /// What the step writes: the layer.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// The overlay's own.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Makes what the step wrote the tree of a layer. The rest of the draft is left to be removed.
    pub fn seal(&self, store: &Store, mapping: &Mapping, layer: &Digest) -> Result<PathBuf, StoreError> {
        store.seal_tree(&mapping.name, &TreeName::of(layer), &self.upper)
    }
}
