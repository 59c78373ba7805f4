//! Layers that a cache elsewhere has: taken when something needs them, and given up where they cannot be had.
//!
//! A cache promises layers. Whoever finds a promise broken (a blob that is gone, damaged, or another layer than was said)
//! fails as with any layer, and the layer is noted here: the build then forgets it and carries its step out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ExecuteError;
use super::layers::{Layers, PULLED};
use crate::cache::remote::{FoundStep, Storage};
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::progress::Task;
use crate::store::{LayerRecord, RemoteBlob, RemoteOrigin};

/// What is known of layers of caches.
#[derive(Default)]
pub(super) struct Promised {
    layers: Mutex<BTreeMap<Digest, Promise>>,
    broken: Broken,
}

/// Layers that could not be had.
#[derive(Clone, Default)]
struct Broken(Arc<Mutex<BTreeSet<Digest>>>);

/// What a cache says of a layer.
#[derive(Clone)]
enum Promise {
    /// Its blob is in a registry, which the layer's record in the store knows.
    Recorded,
    /// Its blob is in a storage.
    Stored(Box<Descriptor>, Arc<dyn Storage>),
    /// Nobody has it; its digest is enough for steps that need no more of it.
    Nowhere,
}

/// The bytes of a blob.
type Blob = Box<dyn Read + Send>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Promised {
    /// Whether a cache has said something of a layer that was not found to be wrong.
    pub(super) fn holds(&self, layer: &Digest) -> bool {
        lock(&self.layers).contains_key(layer)
    }

    /// A blob of a layer in a storage.
    pub(super) fn blob(&self, layer: &Digest) -> Option<(Descriptor, Arc<dyn Storage>)> {
        match lock(&self.layers).get(layer)? {
            Promise::Stored(descriptor, storage) => Some((Descriptor::clone(descriptor), Arc::clone(storage))),
            Promise::Recorded | Promise::Nowhere => None,
        }
    }
}

impl Layers<'_> {
    /// Takes a step's layer over from a cache, without fetching it.
    pub(super) fn take_over(&self, found: &FoundStep) -> Result<(), ExecuteError> {
        let layer = found.record.layer;
        let promise = match (&found.blob, found.storage.repository()) {
            (None, _) => Promise::Nowhere,
            (Some(_), Some(_)) => Promise::Recorded,
            (Some(descriptor), None) => Promise::Stored(Box::new(descriptor.clone()), Arc::clone(&found.storage)),
        };
        let remote = found.blob.as_ref().zip(found.storage.repository()).map(|(descriptor, repository)| RemoteBlob {
            repository: format!("{}/{}", repository.registry(), repository.repository()),
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            origin: RemoteOrigin::Cache,
        });
        self.store.update_layer(&layer, |record| {
            record.diff_id = Some(layer);
            record.size = if record.size == 0 { found.size } else { record.size };
            record.remotes.extend(remote.filter(|remote| !record.remotes.iter().any(|known| is_same(known, remote))));
        })?;
        lock(&self.promised.layers).entry(layer).or_insert(promise);
        Ok(())
    }

    /// Whether nobody has a layer of which only the digest is known.
    pub(crate) fn is_nowhere(&self, layer: &Digest) -> bool {
        matches!(lock(&self.promised.layers).get(layer), Some(Promise::Nowhere))
            && self.record(layer).is_ok_and(|record| record.files().next().is_none() && record.remotes.is_empty())
    }

    /// Whether a layer is in a cache whose place the store does not keep.
    pub(crate) fn is_only_promised(&self, layer: &Digest) -> Result<bool, ExecuteError> {
        let record = self.record(layer)?;
        Ok(record.remotes.is_empty() && self.promised.blob(layer).is_some())
    }

    /// The blob of a layer that is in a cache alone, and what has it.
    pub(crate) fn promised_blob(&self, layer: &Digest) -> Option<(Descriptor, Arc<dyn Storage>)> {
        self.promised.blob(layer)
    }

    /// Notes that a repository has layers now that were in a cache alone: from there they can be had without the cache.
    pub(crate) fn note_pushed(&self, layers: &[Digest], name: &Reference) -> Result<(), ExecuteError> {
        for layer in layers {
            let Some((descriptor, _)) = self.promised.blob(layer) else { continue };
            if !self.is_only_promised(layer)? || self.is_here(&self.record(layer)?) {
                continue;
            }
            let remote = RemoteBlob {
                repository: format!("{}/{}", name.registry(), name.repository()),
                media_type: descriptor.media_type,
                digest: descriptor.digest,
                size: descriptor.size,
                origin: RemoteOrigin::Image,
            };
            self.store.update_layer(layer, |record| record.remotes.push(remote))?;
        }
        Ok(())
    }

    /// Looks once into a layer that a cache promised, whether it is what it is said to be.
    pub(super) fn examine(&self, layer: &Digest, task: &Task) -> Result<(), ExecuteError> {
        if self.is_promised(layer) && self.read_index(layer).is_none() {
            self.index(layer, task)?;
        }
        Ok(())
    }

    fn is_promised(&self, layer: &Digest) -> bool {
        self.promised.holds(layer) || self.record(layer).is_ok_and(|record| is_of_cache(&record))
    }

    /// Notes that a layer could not be had or read, if it is a cache that promised it.
    pub(super) fn suspect(&self, layer: &Digest) {
        if self.is_promised(layer) {
            lock(&self.promised.broken.0).insert(*layer);
        }
    }

    /// Makes readers of a layer's blob note when the blob cannot be read.
    pub(crate) fn watch(&self, layer: &Digest, record: &LayerRecord) -> impl Fn(Blob) -> Blob + Send + Sync + 'static {
        let is_promised = is_of_cache(record) || self.promised.blob(layer).is_some();
        let (layer, broken) = (*layer, is_promised.then(|| self.promised.broken.clone()));
        move |inner| match &broken {
            Some(broken) => Box::new(Watched { inner, layer, broken: broken.clone() }),
            None => inner,
        }
    }

    /// Takes what is known to be broken out of use, so that its steps are not in the cache any more; how many layers these
    /// were. Of layers that nobody has all are given up with the first that is needed: what needs one needs what is below.
    pub(crate) fn forget_broken(&self) -> Result<BTreeSet<Digest>, ExecuteError> {
        let mut broken = std::mem::take(&mut *lock(&self.promised.broken.0));
        if broken.iter().any(|layer| self.is_nowhere(layer)) {
            let promised: Vec<Digest> = lock(&self.promised.layers).keys().copied().collect();
            broken.extend(promised.iter().filter(|layer| self.is_nowhere(layer)));
        }
        for layer in &broken {
            lock(&self.promised.layers).remove(layer);
            lock(&self.available).remove(layer);
            self.store.update_layer(layer, |record| {
                record.remotes.retain(|remote| remote.origin != RemoteOrigin::Cache);
                record.blobs.retain(|name, _| !name.starts_with(PULLED));
            })?;
        }
        Ok(broken)
    }
}

fn is_of_cache(record: &LayerRecord) -> bool {
    record.remotes.iter().any(|remote| remote.origin == RemoteOrigin::Cache)
}

fn is_same(one: &RemoteBlob, other: &RemoteBlob) -> bool {
    (&one.repository, &one.digest) == (&other.repository, &other.digest)
}

/// A reader of a blob; see [`Layers::watch`].
struct Watched {
    inner: Blob,
    layer: Digest,
    broken: Broken,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|_| {
            lock(&self.broken.0).insert(self.layer);
        })
    }
}
