//! Collection: what may go, in which order, and how much there is.
//!
//! What may go are results of steps, cache mounts, downloads, logs, and as a last resort pulled images, the least recently
//! used first. What people gave a name to by a build never goes. Layers and blobs are not chosen: they go when nothing
//! that stays needs them.

mod inventory;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use self::inventory::Inventory;
use super::{FetchedRecord, LayerRecord, RecordKind, Result, StepRecord, Store, StoreError, trees};
use crate::digest::Digest;

/// What a collection may remove, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Only what was not used for so long.
    pub unused_for: Duration,
    /// The least recently used, until no more bytes than these are used; everything that may go where none is given.
    pub max_bytes: Option<u64>,
    /// Which kinds of entries.
    pub kinds: Kinds,
}

/// Which kinds of entries a collection may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Everything but images that have a name.
    Cache,
    /// The same, and at last pulled images, which can be pulled again.
    CacheAndPulled,
    /// Cache mounts.
    CacheMounts,
    /// Everything but cache mounts.
    Results,
}

/// The kinds of entries that can be removed by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// The result of a step.
    Step,
    /// What cache mounts of one id hold.
    CacheMount,
    /// A download.
    Fetched,
    /// What the command of a step wrote.
    Log,
    /// What a miss of a step is explained with, and the digests of a context's files.
    Memory,
    /// An image that was pulled.
    Pulled,
}

impl EntryKind {
    /// The name that people and programs see: BuildKit's, where it has one.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Step => "regular",
            EntryKind::CacheMount => "exec.cachemount",
            EntryKind::Fetched => "source.fetched",
            EntryKind::Log => "log",
            EntryKind::Memory => "internal",
            EntryKind::Pulled => "image.pulled",
        }
    }
}

/// Something that can be removed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The file or directory that stands for it.
    pub path: PathBuf,
    /// When it was used last.
    pub used: SystemTime,
    /// What people call it.
    pub title: String,
    /// What it takes by itself, in bytes; parts that it shares with others count with each.
    pub bytes: u64,
    /// Its layers.
    layers: Vec<Digest>,
    /// Whether an image that stays needs all of it anyway.
    is_held: bool,
}

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Entries that are gone.
    pub entries: u64,
    /// Trees that nobody can find any more; the caller removes them, for their files may belong to other ids.
    pub trees: Vec<PathBuf>,
}

/// Sizes on disk of what only the ids of the namespace can read: trees and cache mounts.
pub type Sizes = BTreeMap<PathBuf, u64>;

/// Disk use by kind, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Compressed layers, configs, manifests.
    pub blobs: u64,
    /// Unpacked layers.
    pub trees: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// Records, indexes and logs.
    pub records: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.blobs + self.trees + self.mounts + self.records
    }
}

impl Store {
    /// Directories whose sizes are not known: new trees, and cache mounts, which change.
    pub fn unmeasured(&self) -> Result<Vec<PathBuf>> {
        let mut paths = trees::cache_mounts(&self.root)?;
        for tree in self.stored_trees()? {
            let record: Option<LayerRecord> = self.read_record(RecordKind::Layer, &tree.layer)?;
            if record.is_none_or(|record| record.tree_bytes.is_none()) {
                paths.push(tree.path);
            }
        }
        Ok(paths)
    }

    /// Takes measured sizes, remembers those of trees, and gives them together with those that were known.
    pub fn sizes(&self, measured: Sizes) -> Result<Sizes> {
        let mut sizes = measured;
        for tree in self.stored_trees()? {
            let record: LayerRecord = self.read_record(RecordKind::Layer, &tree.layer)?.unwrap_or_default();
            match (sizes.get(&tree.path).copied(), record.tree_bytes) {
                (Some(bytes), None) if record != LayerRecord::default() => {
                    self.update_layer(&tree.layer, |record| record.tree_bytes = Some(bytes))?;
                }
                (None, Some(bytes)) => drop(sizes.insert(tree.path, bytes)),
                _ => {}
            }
        }
        Ok(sizes)
    }

    /// Adds up the disk use.
    pub fn usage(&self, sizes: &Sizes) -> Usage {
        let folder = |folder: &str| {
            let files = WalkDir::new(self.root.join(folder)).into_iter().flatten();
            files.filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_file)).map(|file| file.len()).sum()
        };
        let mounts = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with("caches"));
        let of =
            |is_mount: bool| sizes.iter().filter(|(path, _)| mounts(path) == is_mount).map(|(_, bytes)| bytes).sum();
        let records = super::RECORD_FOLDERS.iter().chain(&["logs", "stat"]).copied().map(folder).sum();
        Usage { blobs: folder("blobs"), trees: of(false), mounts: of(true), records }
    }

    /// Everything that can be removed by itself, in the order in which it goes.
    pub fn entries(&self, sizes: &Sizes) -> Result<Vec<Entry>> {
        Ok(Inventory::new(self, sizes)?.entries)
    }

    /// What a collection would remove now.
    pub fn foresee_collection(&self, policy: &Policy, sizes: &Sizes) -> Result<Vec<Entry>> {
        Ok(Inventory::new(self, sizes)?.chosen(policy))
    }

    /// Removes what a policy says, and everything that nothing which stays needs.
    pub(super) fn collect(&self, policy: &Policy, sizes: &Sizes) -> Result<Collected> {
        let chosen = self.foresee_collection(policy, sizes)?;
        let mut collection = Collection { root: &self.root, collected: Collected::default() };
        for entry in &chosen {
            if entry.kind == EntryKind::CacheMount {
                // Found with the other drafts, by the sweep.
                trees::discard(&entry.path)?;
                collection.remove(&self.record_path_of(RecordKind::Mount, &entry.path))?;
            } else {
                collection.remove(&entry.path)?;
            }
        }
        collection.sweep(self, policy)?;
        Ok(collection.collected)
    }

    fn record_path_of(&self, kind: RecordKind, named: &Path) -> PathBuf {
        self.root.join(kind.folder()).join(named.file_name().unwrap_or_default())
    }
}

struct Collection<'a> {
    root: &'a Path,
    collected: Collected,
}

impl Collection<'_> {
    /// Removes what nothing needs: layers, then blobs, so that nothing ever names what is gone.
    fn sweep(&mut self, store: &Store, policy: &Policy) -> Result<()> {
        let (layers, mut blobs) = reachable(store)?;
        for name in store.names("layers")? {
            if !layers.contains(&name) {
                self.remove(&self.root.join("layers").join(name.hex()))?;
            }
        }
        for name in store.names("index")? {
            if !layers.contains(&name) {
                self.remove(&self.root.join("index").join(name.hex()))?;
            }
        }
        for name in &layers {
            if let Some(record) = store.read_record::<LayerRecord>(RecordKind::Layer, name)? {
                blobs.extend(record.files().map(|(blob, _)| blob));
            }
        }
        let unwanted = trees::take_out_of_use(self.root, |layer| layers.contains(layer), policy.unused_for)?;
        self.collected.entries += unwanted.len() as u64;
        self.collected.trees.extend(unwanted);
        for name in store.names("blobs/sha256")? {
            if !blobs.contains(&name) {
                self.remove(&store.blob_path(&name))?;
            }
        }
        self.remove_locks();
        Ok(())
    }

    /// Nobody holds the lock of an entry now: whoever would uses the store. Files that stay only take room.
    fn remove_locks(&self) {
        for entry in fs::read_dir(self.root.join("locks")).into_iter().flatten().flatten() {
            if entry.file_name() != "store" {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Ok(()) => self.collected.entries += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", path, error)),
        }
        Ok(())
    }
}

/// The layers and blobs that steps, downloads and images need.
fn reachable(store: &Store) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>)> {
    let (mut layers, mut blobs) = (BTreeSet::new(), BTreeSet::new());
    for name in store.names("steps")? {
        layers.extend(store.read_record::<StepRecord>(RecordKind::Step, &name)?.map(|step| step.layer));
    }
    for name in store.names("fetched")? {
        blobs.extend(store.read_record::<FetchedRecord>(RecordKind::Fetched, &name)?.map(|fetched| fetched.blob));
    }
    for tagged in store.all_tagged()? {
        layers.extend(tagged.image.layers);
        blobs.insert(tagged.image.config);
        blobs.extend(tagged.image.manifest);
        blobs.extend(tagged.image.index);
        blobs.extend(tagged.image.source);
        blobs.extend(tagged.image.attestations);
    }
    let mut todo: Vec<Digest> = layers.iter().copied().collect();
    while let Some(layer) = todo.pop() {
        let record = store.read_record::<LayerRecord>(RecordKind::Layer, &layer)?;
        let needed: Vec<Digest> = record.iter().flat_map(LayerRecord::needs).collect();
        todo.extend(needed.into_iter().filter(|needed| layers.insert(*needed)));
    }
    Ok((layers, blobs))
}

impl Store {
    /// The digests by which the entries of a folder are named.
    fn names(&self, folder: &str) -> Result<Vec<Digest>> {
        let paths = trees::list(&self.root.join(folder))?;
        Ok(paths.iter().filter_map(|path| Digest::from_hex(path.file_name()?.to_str()?).ok()).collect())
    }
}

#[cfg(test)]
mod tests;
