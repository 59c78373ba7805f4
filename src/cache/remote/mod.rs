//! Caches that are not this machine's store: what they have of a build, and what a build leaves in them.
//!
//! A cache is ordinary OCI: a manifest whose config ([`document`]) says which step made which layer, and whose layers are
//! the layers. A build that finds all its steps reads the manifest and the config, and no layer.
//!
//! Contract: nothing that a cache says is believed further than who may write it is trusted. A document that cannot be
//! read is no cache; a blob is verified by its digest, and a layer by its diffID when it is looked into. Who may write a
//! cache can choose the results of the steps that are found in it: that is what a cache is.
//!
//! Keys are those of [`super::key`]: they name no machine, user or place, so they mean the same everywhere. It knows
//! nothing of how layers are made, and nothing of progress.

pub mod document;
pub mod gha;
mod import;
mod local;
mod place;
mod registry;
mod resumed;
pub mod s3;
mod secret;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use document::{Document, INLINE_KEY};
pub use import::{Imported, import, is_cache};
pub use local::Directory;
pub use place::{CacheTarget, Form, Mode, Mounts, OnFailure, Others, Place};
pub use registry::Repository;
pub use secret::{Secret, Variables};
pub use storage::{Belief, Content, Keeping, Open, Piece, RemoteError, ServiceRefusal, Storage, Written};

use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::store::StepRecord;

/// What a build has to do with caches elsewhere: what was read from them, and what is to be written.
#[derive(Default)]
pub struct Remote {
    /// In the order in which they are asked.
    imported: Vec<Imported>,
    /// A cache mount whose tar has more bytes is not taken from any.
    mounts_limit: u64,
    /// Layers that turned out not to be had.
    broken: Mutex<Vec<Digest>>,
    notes: Mutex<Notes>,
}

/// What a build found out that others can use.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Steps with their results, by their place in the plan.
    pub steps: BTreeMap<usize, (Digest, StepRecord)>,
    /// Digests of what is at some paths of some layers, by what was asked.
    pub contents: BTreeMap<Digest, Digest>,
    /// Cache mounts that were used: what people call them, by name.
    pub mounts: BTreeMap<Digest, String>,
}

/// A cache mount that a cache has.
#[derive(Clone)]
pub struct FoundMount {
    /// What people call it.
    pub title: String,
    /// Its compressed tar.
    pub blob: Descriptor,
    /// What has it.
    pub storage: Arc<dyn Storage>,
}

/// A step that a cache has.
#[derive(Clone)]
pub struct FoundStep {
    /// Its result; the layer is named by its diffID.
    pub record: StepRecord,
    /// Bytes of the layer's tar.
    pub size: u64,
    /// The layer's blob, where the cache has it.
    pub blob: Option<Descriptor>,
    /// What has it.
    pub storage: Arc<dyn Storage>,
}

impl Remote {
    /// With what was read from caches, in the order in which they are asked. A cache mount whose tar has more bytes than
    /// the limit is not taken.
    pub fn new(imported: Vec<Imported>, mounts_limit: u64) -> Remote {
        Remote { imported, mounts_limit, ..Remote::default() }
    }

    /// How many bytes the tar of a cache mount may have, not compressed.
    pub fn mounts_limit(&self) -> u64 {
        self.mounts_limit
    }

    /// The caches that were read.
    pub fn imported(&self) -> &[Imported] {
        &self.imported
    }

    /// A step by its key. The first cache that has its layer; where none has, the first that knows the layer's digest.
    pub fn step(&self, key: &Digest) -> Option<FoundStep> {
        let broken = lock(&self.broken);
        let found = |imported: &Imported| imported.step(key).filter(|found| !broken.contains(&found.record.layer));
        let all: Vec<FoundStep> = self.imported.iter().filter_map(found).collect();
        all.iter().find(|found| found.blob.is_some()).or(all.first()).cloned()
    }

    /// Whether a cache names a layer, which is then its diffID.
    pub fn names(&self, layer: &Digest) -> bool {
        self.imported.iter().any(|imported| imported.document.layers.contains_key(layer))
    }

    /// The digest of what was asked for, where somebody has found it out.
    pub fn content(&self, question: &Digest) -> Option<Digest> {
        let known = lock(&self.notes).contents.get(question).copied();
        known.or_else(|| self.imported.iter().find_map(|imported| imported.document.contents.get(question).copied()))
    }

    /// Notes what is at some paths of some layers.
    pub fn note_content(&self, question: Digest, content: Digest) {
        lock(&self.notes).contents.insert(question, content);
    }

    /// Notes a step's result.
    pub fn note_step(&self, step: usize, key: Digest, record: &StepRecord) {
        lock(&self.notes).steps.insert(step, (key, record.clone()));
    }

    /// Notes that a cache mount is used.
    pub fn note_mount(&self, name: Digest, title: String) {
        lock(&self.notes).mounts.insert(name, title);
    }

    /// A cache mount by its name: that of the first cache that has it.
    pub fn mount(&self, name: &Digest) -> Option<FoundMount> {
        self.imported.iter().find_map(|imported| imported.mount(name))
    }

    /// The names of all cache mounts that caches have.
    pub fn mounts(&self) -> BTreeSet<Digest> {
        self.imported.iter().flat_map(|imported| imported.document.mounts.keys().copied()).collect()
    }

    /// Takes layers out of use that could not be had.
    pub fn forget(&self, layers: impl IntoIterator<Item = Digest>) {
        lock(&self.broken).extend(layers);
        lock(&self.notes).steps.clear();
    }

    /// How far caches are believed to have what they had.
    pub fn belief(&self) -> Belief {
        if lock(&self.broken).is_empty() { Belief::Usual } else { Belief::Shaken }
    }

    /// How far a place is believed that says that it has a layer: it may have other bytes.
    pub fn belief_in(&self, layer: &Digest) -> Belief {
        if lock(&self.broken).contains(layer) { Belief::Shaken } else { Belief::Usual }
    }

    /// What was noted.
    pub fn notes(&self) -> Notes {
        lock(&self.notes).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "../../../tests/support/cloud.rs"]
mod fake;

/// As patient as in real life, but without the waiting.
#[cfg(test)]
fn quick_client() -> crate::registry::Client {
    use std::time::Duration;

    let retry = crate::registry::RetryPolicy {
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(5),
        ..Default::default()
    };
    crate::registry::Client::new(crate::registry::ClientOptions { retry, ..Default::default() })
}
