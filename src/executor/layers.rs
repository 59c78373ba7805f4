//! The forms of a layer (index, tree, blob), each made when something asks for it, and made once.

mod digest;
mod fetch;
mod open;
mod patch;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};

pub(super) use digest::{DIGEST, run_digest};
pub(super) use patch::is_damage;
pub(super) use write::Origin;

use super::early::Early;
use super::ingest::{BlobForm, Known};
use super::namespace::Namespace;
use super::promised::Promised;
use super::waiting::Shared;
use super::workers::ImpliedDirectory;
use super::{ExecuteError, abreast};
use crate::digest::{Digest, Frame};
use crate::image::media_type::Compression;
use crate::image::reference::Reference;
use crate::layer::index::Index;
use crate::layer::view::MergedView;
use crate::owners::table_path;
use crate::progress::Task;
use crate::registry::{Client, EarlyUploads};
use crate::snapshot::Mapping;
use crate::store::{BlobRecord, LayerRecord, RecordKind, Store, TreeName};
use crate::tree::{Node, View};

/// What a layer is made into while it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// A blob of this form.
    pub blob: Option<BlobForm>,
    /// A tree.
    pub tree: bool,
}

impl Wanted {
    /// The same, with some blob at least.
    pub fn with_blob(self) -> Wanted {
        Wanted { blob: self.blob.or(Some(KEPT)), ..self }
    }
}

/// What becomes of a blob that came from a registry in another compression than an output asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is used as it came: base layers keep their digests.
    AsPulled,
    /// It is compressed anew (`force-compression=true`).
    Recompressed,
}

/// What becomes of a layer that RUN wrote, besides its diffID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Nothing: its tree is all that is needed.
    Digest,
    /// What any layer is kept as: it will be looked into and read.
    Kept,
    /// A blob of this form, and its index.
    Blob(BlobForm),
}

/// How a layer is kept when no output wants a blob and no RUN a tree: fast to write, small enough.
const KEPT: BlobForm = BlobForm { compression: Compression::Zstd, level: Some(1) };

/// Makes and finds layers.
pub struct Layers<'a> {
    pub(crate) store: &'a Store,
    pub(crate) registry: &'a Client,
    pub(super) namespace: &'a Namespace,
    indexes: Mutex<BTreeMap<Digest, Arc<Index>>>,
    making: Mutex<BTreeMap<(Digest, Form), Making>>,
    swept: Once,
    /// Layers of which some form can be had.
    pub(super) available: Mutex<BTreeSet<Digest>>,
    /// Layers that a cache elsewhere has.
    pub(super) promised: Promised,
    pub(super) early: Early,
}

/// Opens a layer's tar anew each time it is called.
pub type OpenTar = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// Held by whoever makes a form of a layer now.
type Making = Arc<Mutex<()>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Index,
    Tree,
    Blob,
}

type Result<T> = std::result::Result<T, ExecuteError>;

impl<'a> Layers<'a> {
    /// Layers of a store; missing blobs come from the registry, trees are made in the namespace.
    pub fn new(store: &'a Store, registry: &'a Client, namespace: &'a Namespace) -> Layers<'a> {
        let (indexes, making, available) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (promised, early) = (Promised::default(), Early::default());
        Layers { store, registry, namespace, indexes, making, swept: Once::new(), available, promised, early }
    }

    /// The same, where new layers go to the repository of a name while they are made into blobs of this form. Only for those
    /// that are all part of what is pushed there.
    pub fn sent_early(mut self, target: &Reference, form: BlobForm) -> Layers<'a> {
        // What no output wants is kept in a form of its own, and is no part of any.
        if form != KEPT {
            self.early = Early::to(self.registry, target, form);
        }
        self
    }

    /// Those on their way.
    pub fn early_uploads(&self) -> Option<&EarlyUploads> {
        self.early.uploads()
    }

    /// The id mapping of trees. Who asks first has removed what dead processes left of theirs.
    pub(super) fn mapping(&self) -> Result<&Mapping> {
        let mapping = self.namespace.mapping()?;
        self.swept.call_once(|| {
            // Garbage that stays is tried again next time; it is no reason not to build.
            let abandoned = self.store.abandoned_drafts(&mapping.name).unwrap_or_default();
            drop(self.namespace.remove(&abandoned));
        });
        Ok(mapping)
    }

    /// What is known of a layer.
    pub fn record(&self, layer: &Digest) -> Result<LayerRecord> {
        Ok(self.store.read_record(RecordKind::Layer, layer)?.unwrap_or_default())
    }

    /// Whether some form of a layer can be had, here or from a registry.
    pub fn is_available(&self, layer: &Digest, record: &LayerRecord) -> bool {
        self.is_here(record)
            || !record.remotes.is_empty()
            || self.promised.holds(layer)
            // Asked before it is known whether a namespace will be needed at all: a tree that was made with other ids
            // than those that this user has now is of no use.
            || (self.store.tree(&self.namespace.likely_mapping_name(), &TreeName::of(layer)).is_some()
                // Packed it is only what it changes in what it was made on.
                && record.below.iter().all(|below| self.is_known_available(below)))
    }

    /// Whether a layer can be had from blobs here, so that nobody else has to be asked for it.
    pub(crate) fn is_here(&self, record: &LayerRecord) -> bool {
        // A record that cannot be read is as good as none.
        self.store.has_layer(record).unwrap_or(false)
    }

    /// As [`Layers::is_available`], of a layer that many steps ask for.
    fn is_known_available(&self, layer: &Digest) -> bool {
        if self.available.lock().expect("no holder panics").contains(layer) {
            return true;
        }
        let is_available = self.record(layer).is_ok_and(|record| self.is_available(layer, &record));
        if is_available {
            self.available.lock().expect("no holder panics").insert(*layer);
        }
        is_available
    }

    fn once<T>(&self, layer: &Digest, form: Form, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let lock = Arc::clone(self.making.lock().expect("no holder panics").entry((*layer, form)).or_default());
        let _guard = lock.lock().expect("no holder panics");
        make().inspect_err(|_| {
            self.suspect(layer);
            // Its own error is the one to show.
            drop(self.distrust_patch(layer));
        })
    }

    /// What is in a layer.
    pub fn index(&self, layer: &Digest, task: &Task) -> Result<Arc<Index>> {
        self.once(layer, Form::Index, || {
            if let Some(index) = self.indexes.lock().expect("no holder panics").get(layer) {
                return Ok(Arc::clone(index));
            }
            // Where an index is and no diffID, whoever packed the layer was stopped, or is not done with it.
            let is_packed = self.record(layer)?.diff_id.is_some();
            let index = match self.read_index(layer).filter(|_| is_packed) {
                Some(index) => Arc::new(index),
                None => {
                    let mut tar = self.open_tar(layer, task)?;
                    let ingested = self
                        .ingest(Some(layer), Known::default(), None, None, |out| io::copy(&mut tar, out).map(drop))?;
                    Arc::new(self.keep(layer, ingested, None, Origin::default())?)
                }
            };
            self.indexes.lock().expect("no holder panics").insert(*layer, Arc::clone(&index));
            Ok(index)
        })
    }

    /// A missing, damaged or older index is made again.
    pub(super) fn read_index(&self, layer: &Digest) -> Option<Index> {
        Index::read_from(&std::fs::read(self.store.index_path(layer)).ok()?).ok()
    }

    /// The merged view of layers, lowest first. Content is read from trees, which are made where they are missing.
    pub fn view(&self, layers: &[Digest], task: &Task) -> Result<MergedView> {
        let indexes = layers.iter().map(|layer| self.index(layer, task)).collect::<Result<Vec<_>>>()?;
        Ok(MergedView::new(indexes, |_, _| {
            Err(io::Error::new(io::ErrorKind::Unsupported, "content of a layer is read through its tree"))
        }))
    }

    /// Whether a view of layers needs nothing fetched or packed.
    pub(super) fn has_indexes(&self, layers: &[Digest]) -> Result<bool> {
        for layer in layers {
            if self.record(layer)?.diff_id.is_none() || !self.store.index_path(layer).is_file() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`Layers::view`], of layers whose indexes are here; nothing is fetched and nothing is made.
    pub(super) fn view_of_known(&self, layers: &[Digest]) -> Option<MergedView> {
        let indexes = layers.iter().map(|layer| Some(Arc::new(self.read_index(layer)?))).collect::<Option<Vec<_>>>()?;
        Some(MergedView::new(indexes, |_, _| {
            Err(io::Error::new(io::ErrorKind::Unsupported, "only names and digests of earlier layers are looked at"))
        }))
    }

    /// The directory that overlay uses for a layer, on the layers below it (lowest first).
    pub fn tree(&self, layer: &Digest, below: &[Digest], task: &Task) -> Result<PathBuf> {
        let mapping = self.mapping()?;
        self.once(layer, Form::Tree, || {
            if let Some(path) = self.store.tree(&mapping.name, &TreeName::of(layer)) {
                return Ok(path);
            }
            let _lock = Shared::Tree.lock(layer, self.store, task, None)?;
            if let Some(path) = self.store.tree(&mapping.name, &TreeName::of(layer)) {
                return Ok(path);
            }
            // Where the index is known, what the layer implies is known before it is unpacked.
            if let Some(index) = self.read_index(layer)
                && let Some(implied) = self.implied(&index, below, task)?
            {
                return self.tree_with_implied(layer, &implied, task);
            }
            let mut tar = self.open_tar(layer, task)?;
            let (ingested, tree) =
                self.unpack(Some(layer), Known::default(), None, &[], |out| io::copy(&mut tar, out).map(drop))?;
            let index = self.keep(layer, ingested, None, Origin::default())?;
            match self.implied(&index, below, task)? {
                None => tree.seal(self, &TreeName::of(layer)),
                Some(implied) => {
                    self.namespace.remove(&[table_path(&tree.path), tree.path])?;
                    self.tree_with_implied(layer, &implied, task)
                }
            }
        })
    }

    /// Directories that a layer has no entry for take their metadata from below, or an overlay would show them as 0755,
    /// root's: `/tmp` would lose its sticky bit. Such a tree belongs to these layers below, and has a name of its own.
    fn tree_with_implied(&self, layer: &Digest, implied: &[ImpliedDirectory], task: &Task) -> Result<PathBuf> {
        let mapping = self.mapping()?;
        let text = serde_json::to_string(implied).map_err(ExecuteError::internal)?;
        let name = TreeName::variant(layer, &Frame::new("rbuild.implied.1").text("implied", &text).finish());
        if let Some(path) = self.store.tree(&mapping.name, &name) {
            return Ok(path);
        }
        let mut tar = self.open_tar(layer, task)?;
        let (_, tree) =
            self.unpack(Some(layer), Known::default(), None, implied, |out| io::copy(&mut tar, out).map(drop))?;
        tree.seal(self, &name)
    }

    /// What the directories that a layer implies are below it; `None` for a layer that implies none, whose tree is the same
    /// on everything.
    fn implied(&self, index: &Index, below: &[Digest], task: &Task) -> Result<Option<Vec<ImpliedDirectory>>> {
        let paths = implied_directories(index);
        if paths.is_empty() {
            return Ok(None);
        }
        let view = self.view(below, task)?;
        let mut implied = Vec::new();
        for path in paths {
            let node = view.node(path).map_err(ExecuteError::internal)?;
            implied.extend(node.filter(Node::is_directory).map(|node| ImpliedDirectory::new(path, &node)));
        }
        Ok(Some(implied))
    }

    /// Trees of layers given lowest first; the result is highest first, as overlay takes them.
    pub fn trees(&self, layers: &[Digest], task: &Task) -> Result<Vec<PathBuf>> {
        let mapping = self.namespace.mapping()?;
        let is_there = |layer: &Digest| self.store.tree(&mapping.name, &TreeName::of(layer)).is_some();
        let make = |number: usize, layer: &Digest| self.tree(layer, &layers[..number], task);
        let mut trees = if layers.iter().all(is_there) {
            // Threads for what is there already would cost more than all else that a short RUN does.
            layers.iter().enumerate().map(|(number, layer)| make(number, layer)).collect::<Result<Vec<_>>>()?
        } else {
            abreast(layers, make)?
        };
        trees.reverse();
        Ok(trees)
    }

    /// The store that has them.
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// Whether some layers have trees, so that a command can be run on them at once.
    pub fn are_unpacked(&self, layers: &[Digest]) -> Result<bool> {
        let mapping = self.mapping()?;
        Ok(layers.iter().all(|layer| self.store.tree(&mapping.name, &TreeName::of(layer)).is_some()))
    }

    /// Those of some layers that RUN wrote and nobody has packed yet.
    pub fn not_packed(&self, layers: &[Digest]) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for layer in layers {
            if self.record(layer)?.diff_id.is_none() {
                found.push(*layer);
            }
        }
        Ok(found)
    }

    /// Has what RUN wrote packed: a layer's diffID is known only then. Several at a time, and into what is wanted at once, so
    /// that nothing is read twice.
    pub fn pack_all(&self, layers: &[Digest], packing: Packing, task: &Task) -> Result<()> {
        match packing {
            Packing::Digest => self.digest_all(layers, task),
            Packing::Kept => self.pack_all(layers, Packing::Blob(KEPT), task),
            Packing::Blob(form) => {
                abreast(layers, |_, layer| self.blob(layer, form, Reuse::AsPulled, task).map(drop)).map(drop)
            }
        }
    }

    /// A compressed layer for an output.
    pub fn blob(&self, layer: &Digest, form: BlobForm, reuse: Reuse, task: &Task) -> Result<BlobRecord> {
        self.once(layer, Form::Blob, || {
            let record = self.record(layer)?;
            let pulled = || if reuse == Reuse::AsPulled { self.pulled(&record) } else { None };
            if let Some(blob) = self.stored(&record, &form.name()).or_else(pulled) {
                return self.examine(layer, task).map(|()| blob);
            }
            if reuse == Reuse::AsPulled && !self.is_here(&record) && self.can_be_pulled(layer, &record) {
                let blob = self.pull(layer, &record, task)?;
                return self.examine(layer, task).map(|()| blob);
            }
            let mut tar = self.open_tar(layer, task)?;
            let mut part = task.part(format!("packing {}", layer.short()), record.size);
            let ingested = self
                .ingest(Some(layer), Known::default(), Some(form), None, |out| fetch::copy(&mut tar, out, &mut part))?;
            self.keep(layer, ingested, Some(form), Origin::default())?;
            part.finish();
            let record = self.record(layer)?;
            self.stored(&record, &form.name()).ok_or_else(|| ExecuteError::layer(layer, io::ErrorKind::NotFound.into()))
        })
    }

    fn stored(&self, record: &LayerRecord, name: &str) -> Option<BlobRecord> {
        record.blobs.get(name).filter(|blob| self.store.has_blob(&blob.digest)).cloned()
    }

    fn pulled(&self, record: &LayerRecord) -> Option<BlobRecord> {
        let mut names = record.blobs.keys().filter(|name| name.starts_with(PULLED));
        names.find_map(|name| self.stored(record, name))
    }

    /// Has the very blob of a layer fetched that a manifest names, also where the layer could be made of something else that
    /// is here.
    pub fn fetch_named(&self, layer: &Digest, blob: &Digest, task: &Task) -> Result<()> {
        self.once(layer, Form::Blob, || {
            let record = self.record(layer)?;
            if !record.blobs.values().any(|known| known.digest == *blob && self.store.has_blob(blob)) {
                self.pull_named(layer, &record, blob, task)?;
            }
            self.examine(layer, task)
        })
    }

    /// Has a layer's blob fetched, where the layer cannot be had from what is here.
    pub fn fetch_blob(&self, layer: &Digest, task: &Task) -> Result<()> {
        self.once(layer, Form::Blob, || {
            let record = self.record(layer)?;
            if !self.is_here(&record) {
                self.pull(layer, &record, task)?;
            }
            self.examine(layer, task)
        })
    }
}

impl Drop for Layers<'_> {
    /// Removes what steps that failed left half made; nobody makes anything any more.
    fn drop(&mut self) {
        let Some(mapping) = self.namespace.mapping_if_started() else { return };
        // The next rbuild removes what stays.
        drop(self.namespace.end_removals());
        let drafts = self.store.own_drafts(&mapping.name).unwrap_or_default();
        drop(self.namespace.remove(&drafts));
    }
}

/// How the names of blobs begin in a record that came from elsewhere.
pub(super) const PULLED: &str = "pulled:";

/// Notes a blob that came from elsewhere. Several compressors make several blobs of one layer, and each image keeps its own.
pub(super) fn add_pulled(record: &mut LayerRecord, blob: BlobRecord) {
    // Its name was once without the digest.
    record.blobs.retain(|name, known| !name.starts_with(PULLED) || known.digest != blob.digest);
    record.add_blob(format!("{PULLED}{}:{}", blob.compression, blob.digest.hex()), blob);
}

/// Directories that a layer changes something in and has no entry for, but for the root.
fn implied_directories(index: &Index) -> Vec<&[u8]> {
    index.implied_directories().filter(|path| !path.is_empty()).collect()
}

/// Opens a directory to hand it to a worker.
pub(super) fn open_directory(path: &std::path::Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Reads a file descriptor that a worker writes, and reports the worker's failure at the end.
pub(super) struct WorkerReader {
    pub(super) file: File,
    pub(super) worker: Option<crate::sandbox::WorkerHandle>,
}

impl Read for WorkerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(worker) = self.worker.take()
        {
            worker.wait().map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_blob_that_came_from_elsewhere_is_in_the_record_once() {
        let blob = |bytes: &[u8]| BlobRecord { digest: Digest::of(bytes), size: 1, compression: "gzip".to_owned() };
        let mut record = LayerRecord::default();
        // As it was named before.
        record.add_blob(format!("{PULLED}gzip"), blob(b"one"));
        add_pulled(&mut record, blob(b"two"));
        assert_eq!(record.blobs.len(), 2);
        add_pulled(&mut record, blob(b"one"));
        add_pulled(&mut record, blob(b"one"));
        let digests: BTreeSet<Digest> = record.files().map(|(digest, _)| digest).collect();
        assert_eq!((record.blobs.len(), digests), (2, [Digest::of(b"one"), Digest::of(b"two")].into()));
        assert!(record.blobs.keys().all(|name| name.starts_with(PULLED)));
    }
}
