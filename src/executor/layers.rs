//! The forms of a layer (index, tree, blob), each made when something asks for it, and made once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};

use super::ingest::{BlobForm, Ingest, Ingested, compression_name};
use super::namespace::Namespace;
use super::promised::Promised;
use super::waiting::Shared;
use super::workers::ImpliedDirectory;
use super::{ExecuteError, abreast};
use crate::digest::{Digest, Frame, VerifyReader};
use crate::image::manifest::Descriptor;
use crate::image::media_type::Compression;
use crate::image::reference::Reference;
use crate::layer::decompress::decompress;
use crate::layer::index::Index;
use crate::layer::view::MergedView;
use crate::owners::{Table, table_path};
use crate::progress::{Part, Task};
use crate::registry::Client;
use crate::sandbox::Ownership;
use crate::snapshot::Mapping;
use crate::store::{BlobRecord, LayerRecord, RecordKind, RemoteBlob, Store, TreeName};
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
        let promised = Promised::default();
        Layers { store, registry, namespace, indexes, making, swept: Once::new(), available, promised }
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
        record.blobs.values().any(|blob| self.store.has_blob(&blob.digest))
            || !record.remotes.is_empty()
            || self.promised.holds(layer)
            // Asked before it is known whether a namespace will be needed at all: a tree that was made with other ids
            // than those that this user has now is of no use.
            || (self.store.tree(&self.namespace.likely_mapping_name(), &TreeName::of(layer)).is_some()
                // Packed it is only what it changes in what it was made on.
                && record.below.iter().all(|below| self.is_known_available(below)))
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
        make().inspect_err(|_| self.suspect(layer))
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
                    let ingested = self.ingest(layer, None, None, |out| io::copy(&mut tar, out).map(drop))?;
                    Arc::new(self.keep(layer, ingested, None)?)
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
            let (ingested, tree) = self.unpack(layer, None, &[], |out| io::copy(&mut tar, out).map(drop))?;
            let index = self.keep(layer, ingested, None)?;
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
        let (_, tree) = self.unpack(layer, None, implied, |out| io::copy(&mut tar, out).map(drop))?;
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

    /// Has what RUN wrote packed: a layer's diffID is known only then. Several at a time, and into a blob of this form at
    /// once, so that nothing is read twice.
    pub fn pack_all(&self, layers: &[Digest], blob: Option<BlobForm>, task: &Task) -> Result<()> {
        let pack = |_: usize, layer: &Digest| match blob {
            Some(form) => self.blob(layer, form, Reuse::AsPulled, task).map(drop),
            None => self.index(layer, task).map(drop),
        };
        abreast(layers, pack).map(drop)
    }

    /// A compressed layer for an output.
    pub fn blob(&self, layer: &Digest, form: BlobForm, reuse: Reuse, task: &Task) -> Result<BlobRecord> {
        self.once(layer, Form::Blob, || {
            let record = self.record(layer)?;
            let pulled = || if reuse == Reuse::AsPulled { self.pulled(&record) } else { None };
            if let Some(blob) = self.stored(&record, &form.name()).or_else(pulled) {
                return self.examined(layer, blob, task);
            }
            if reuse == Reuse::AsPulled && record.blobs.is_empty() && self.can_be_pulled(layer, &record) {
                let blob = self.pull(layer, &record, task)?;
                return self.examined(layer, blob, task);
            }
            let mut tar = self.open_tar(layer, task)?;
            let mut part = task.part(format!("packing {}", layer.short()), record.size);
            let ingested = self.ingest(layer, Some(form), None, |out| copy(&mut tar, out, &mut part))?;
            self.keep(layer, ingested, Some(form))?;
            part.finish();
            let record = self.record(layer)?;
            self.stored(&record, &form.name()).ok_or_else(|| ExecuteError::layer(layer, io::ErrorKind::NotFound.into()))
        })
    }

    fn stored(&self, record: &LayerRecord, name: &str) -> Option<BlobRecord> {
        record.blobs.get(name).filter(|blob| self.store.has_blob(&blob.digest)).cloned()
    }

    fn pulled(&self, record: &LayerRecord) -> Option<BlobRecord> {
        record.blobs.keys().find(|name| name.starts_with(PULLED)).and_then(|name| self.stored(record, name))
    }

    /// Has a layer's blob fetched, where it is not here.
    pub fn fetch_blob(&self, layer: &Digest, task: &Task) -> Result<BlobRecord> {
        self.once(layer, Form::Blob, || {
            let record = self.record(layer)?;
            let here = record.blobs.values().find(|blob| self.store.has_blob(&blob.digest)).cloned();
            let blob = here.map_or_else(|| self.pull(layer, &record, task), Ok)?;
            self.examined(layer, blob, task)
        })
    }

    /// Whether somebody else has a layer's blob.
    fn can_be_pulled(&self, layer: &Digest, record: &LayerRecord) -> bool {
        !record.remotes.is_empty() || self.promised.blob(layer).is_some()
    }

    /// Fetches a layer's blob; its digest is verified while it arrives.
    fn pull(&self, layer: &Digest, record: &LayerRecord, task: &Task) -> Result<BlobRecord> {
        let mut failure = None;
        let of_registries = record.remotes.iter().map(|remote| self.fetch(remote, task));
        let of_caches = self
            .promised
            .blob(layer)
            .into_iter()
            .map(|(descriptor, storage)| self.take(&descriptor, || storage.open(&descriptor), task));
        for fetched in of_registries.chain(of_caches) {
            match fetched {
                Ok(blob) => {
                    let name = format!("{PULLED}{}", blob.compression);
                    self.store.update_layer(layer, |record| {
                        record.blobs.insert(name, blob.clone());
                    })?;
                    return Ok(blob);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| ExecuteError::layer(layer, io::ErrorKind::NotFound.into())))
    }

    fn fetch(&self, remote: &RemoteBlob, task: &Task) -> Result<BlobRecord> {
        let repository: Reference = remote.repository.parse().map_err(ExecuteError::internal)?;
        let descriptor = Descriptor::new(&remote.media_type, remote.digest, remote.size);
        self.take(&descriptor, || Ok(Box::new(self.registry.blob(&repository, &descriptor))), task)
    }

    /// Takes a blob that somebody else has into the store.
    fn take(
        &self,
        descriptor: &Descriptor,
        open: impl FnOnce() -> io::Result<Box<dyn Read + Send>>,
        task: &Task,
    ) -> Result<BlobRecord> {
        let Descriptor { digest, size, media_type, .. } = descriptor;
        let compression = Compression::of_media_type(media_type)
            .ok_or_else(|| ExecuteError::internal(format!("unsupported layer type {media_type:?}")))?;
        let compression = compression_name(compression).to_owned();
        let blob = BlobRecord { digest: *digest, size: *size, compression };
        let _lock = Shared::Blob.lock(digest, self.store, task, None)?;
        if self.store.has_blob(digest) {
            return Ok(blob);
        }
        let failed = |error| ExecuteError::layer(digest, error);
        let mut part = task.part(digest.to_string(), *size);
        // The store verifies the digest; no source may go on for ever.
        let mut reader = open().map_err(failed)?.take(size.saturating_add(1));
        let mut writer = self.store.blob_writer()?;
        copy(&mut reader, &mut writer, &mut part).map_err(failed)?;
        writer.commit(Some(*digest))?;
        part.finish();
        Ok(blob)
    }

    /// A layer's tar: from a blob here, from its tree, from a registry; whichever is nearest.
    pub fn open_tar(&self, layer: &Digest, task: &Task) -> Result<Box<dyn Read + Send>> {
        let record = self.record(layer)?;
        let here = record.blobs.values().find(|blob| self.store.has_blob(&blob.digest)).cloned();
        let blob = match here {
            Some(blob) => blob,
            None if self.can_be_pulled(layer, &record) => self.pull(layer, &record, task)?,
            None => return self.pack(layer, &record, task),
        };
        let file = self.store.open_blob(&blob.digest)?;
        let tar = decompress(io::BufReader::with_capacity(256 << 10, file))
            .map_err(|error| ExecuteError::layer(layer, error))?;
        // A blob may have been damaged since it was stored; what comes out of it must be the layer that is asked for.
        match record.diff_id {
            Some(diff_id) => Ok(Box::new(VerifyReader::new(tar, diff_id, None))),
            None => Ok(tar),
        }
    }

    /// Opens a layer's tar as often as it is asked to: what has no blob yet gets one first.
    pub fn reopen(&self, layer: &Digest, task: &Task) -> Result<OpenTar> {
        let here = |record: &LayerRecord| record.blobs.values().find(|blob| self.store.has_blob(&blob.digest)).cloned();
        let blob = match here(&self.record(layer)?) {
            Some(blob) => blob,
            None => self.blob(layer, KEPT, Reuse::AsPulled, task)?,
        };
        let path = self.store.blob_path(&blob.digest);
        Ok(Arc::new(move || decompress(io::BufReader::with_capacity(256 << 10, File::open(&path)?))))
    }

    /// Takes a layer's blob from a file, which stays as it is.
    pub fn import(&self, layer: &Digest, descriptor: &Descriptor, path: &std::path::Path) -> Result<()> {
        let failed = |error| ExecuteError::layer(layer, error);
        let compression = Compression::of_media_type(&descriptor.media_type)
            .ok_or_else(|| ExecuteError::internal(format!("unsupported layer type {:?}", descriptor.media_type)))?;
        if !self.store.has_blob(&descriptor.digest) {
            let mut writer = self.store.blob_writer()?;
            io::copy(&mut File::open(path).map_err(failed)?, &mut writer).map_err(failed)?;
            writer.commit(Some(descriptor.digest))?;
        }
        let compression = compression_name(compression).to_owned();
        let blob = BlobRecord { digest: descriptor.digest, size: descriptor.size, compression };
        self.store.update_layer(layer, |record| {
            record.diff_id = Some(*layer);
            record.blobs.insert(format!("{PULLED}{}", blob.compression), blob);
        })?;
        Ok(())
    }

    /// The tar of what a RUN wrote.
    pub(super) fn pack(&self, layer: &Digest, record: &LayerRecord, task: &Task) -> Result<Box<dyn Read + Send>> {
        let mapping = self.mapping()?;
        let Some(upper) = self.store.tree(&mapping.name, &TreeName::of(layer)) else {
            return Err(ExecuteError::layer(layer, io::ErrorKind::NotFound.into()));
        };
        let lowers = self.trees(&record.below, task)?;
        let mut fds = Vec::new();
        let mut owners = Table::default();
        for path in std::iter::once(&upper).chain(&lowers) {
            fds.push(open_directory(path).map_err(|error| ExecuteError::layer(layer, error))?);
            owners.extend(Table::beside(path).map_err(|error| ExecuteError::layer(layer, error))?);
        }
        let mut table = Vec::new();
        owners.write_to(&mut table).map_err(|error| ExecuteError::layer(layer, error))?;
        self.namespace.reader(super::workers::PACK, &table, fds)
    }

    /// Writes a layer: `write` streams its tar. Its name is its diffID.
    /// The index is not kept in memory: who made a layer seldom looks into it.
    pub fn create(
        &self,
        wanted: Wanted,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(Digest, Index)> {
        let nothing = Digest::of(b"");
        if !wanted.tree {
            let blob = wanted.with_blob().blob;
            let ingested = self.ingest(&nothing, blob, None, write)?;
            let layer = ingested.diff_id;
            let index = self.keep(&layer, ingested, blob)?;
            return Ok((layer, index));
        }
        let blob = wanted.blob;
        let (ingested, tree) = self.unpack(&nothing, blob, &[], write)?;
        let layer = ingested.diff_id;
        let index = self.keep(&layer, ingested, blob)?;
        if blob.is_some() && !implied_directories(&index).is_empty() {
            // Its tree depends on what it is put on: it is made from the blob where it is needed.
            self.namespace.remove(&[tree.path])?;
            return Ok((layer, index));
        }
        tree.seal(self, &TreeName::of(&layer))?;
        Ok((layer, index))
    }

    fn ingest(
        &self,
        layer: &Digest,
        blob: Option<BlobForm>,
        pipe: Option<OwnedFd>,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Ingested> {
        let failed = |error| ExecuteError::layer(layer, error);
        let mut ingest = Ingest::start(self.store, blob, pipe).map_err(failed)?;
        let written = write(&mut ingest);
        let ingested = ingest.finish();
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match written {
            // However the writer wraps the pipe that broke: a full disk is the cause.
            Err(_) if ingested.as_ref().is_err_and(is_full) => ingested.map_err(failed),
            // The consumers' error is the cause where writing failed only because they had hung up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ingested.and(Err(error)).map_err(failed),
            Err(error) => Err(failed(error)),
            Ok(()) => ingested.map_err(failed),
        }
    }

    /// As [`Layers::ingest`], and unpacks the tar into a new directory.
    fn unpack(
        &self,
        layer: &Digest,
        blob: Option<BlobForm>,
        implied: &[ImpliedDirectory],
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(Ingested, UnpackedTree)> {
        let mapping = self.mapping()?;
        let draft = self.store.tree_draft(&mapping.name, mapping.owner)?;
        let path = draft.path().to_owned();
        let directory = open_directory(&path).map_err(|error| ExecuteError::layer(layer, error))?;
        let (reader, writer) = io::pipe().map_err(|error| ExecuteError::layer(layer, error))?;
        let args = serde_json::to_vec(implied).map_err(ExecuteError::internal)?;
        let mut fds = vec![directory, reader.into()];
        if self.namespace.ownership()? == Ownership::Recorded {
            let table = File::create(table_path(&path)).map_err(|error| ExecuteError::layer(layer, error))?;
            fds.push(table.into());
        }
        let worker = self.namespace.worker(super::workers::UNPACK, &args, fds)?;
        let ingested = self.ingest(layer, blob, Some(writer.into()), write);
        let unpacked = worker.wait();
        match (ingested, unpacked) {
            (Ok(ingested), Ok(())) => Ok((ingested, UnpackedTree { path })),
            (Err(error), Ok(())) => Err(error),
            // A worker that failed closes its pipe; its message says why.
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// Records what was learnt of a layer.
    fn keep(&self, layer: &Digest, ingested: Ingested, form: Option<BlobForm>) -> Result<Index> {
        let before = self.record(layer)?;
        if let Some(expected) = before.diff_id.filter(|expected| *expected != ingested.diff_id) {
            let text = format!("its tar has digest {}, expected {expected}", ingested.diff_id);
            return Err(ExecuteError::layer(layer, io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        self.store.update_layer(layer, |record| {
            record.diff_id = Some(ingested.diff_id);
            record.size = ingested.size;
            if let (Some(form), Some((digest, size))) = (form, ingested.blob) {
                let compression = compression_name(form.compression).to_owned();
                record.blobs.insert(form.name(), BlobRecord { digest, size, compression });
            }
        })?;
        // After the record: who finds the index may ask the record for the diffID.
        self.store.write_index(layer, &ingested.index.to_bytes())?;
        Ok(ingested.index)
    }
}

impl Drop for Layers<'_> {
    /// Removes what steps that failed left half made; nobody makes anything any more.
    fn drop(&mut self) {
        let Some(mapping) = self.namespace.mapping_if_started() else { return };
        // The next rbuild removes what stays.
        let drafts = self.store.own_drafts(&mapping.name).unwrap_or_default();
        drop(self.namespace.remove(&drafts));
    }
}

/// Copies bytes and tells how many.
fn copy(reader: &mut dyn Read, out: &mut dyn Write, part: &mut Part) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..count])?;
        part.advance(count as u64);
    }
}

/// What the record calls a blob that came from a registry.
pub(super) const PULLED: &str = "pulled:";

/// A tree that was written and has no name yet.
struct UnpackedTree {
    path: PathBuf,
}

impl UnpackedTree {
    fn seal(self, layers: &Layers<'_>, name: &TreeName) -> Result<PathBuf> {
        let mapping = layers.mapping()?;
        let sealed = layers.store.seal_tree(&mapping.name, name, &self.path)?;
        if self.path.exists() {
            // Somebody else's equal tree was there first.
            layers.namespace.remove(&[table_path(&self.path), self.path])?;
        }
        Ok(sealed)
    }
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
