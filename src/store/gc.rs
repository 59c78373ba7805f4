//! Collection: what may go, in which order, and how much there is.
//!
//! What may go are results of steps, cache mounts, downloads, logs, and as a last resort pulled images, the least recently
//! used first. What people gave a name to by a build never goes. Layers and blobs are not chosen: they go when nothing
//! that stays needs them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use super::{
    FetchedRecord, LayerRecord, MountRecord, RecordKind, Result, StepRecord, Store, StoreError, Tagged, trees,
};
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

/// What there is, and who needs what.
struct Inventory<'a> {
    store: &'a Store,
    sizes: &'a Sizes,
    layers: BTreeMap<Digest, Layer>,
    entries: Vec<Entry>,
}

/// A layer, as far as a collection is concerned.
#[derive(Default)]
struct Layer {
    /// How many entries, images and layers above need it.
    needed_by: usize,
    bytes: u64,
    /// The layers that it needs; never itself, not even through others.
    below: Vec<Digest>,
    /// The one among them that it is a patch of: it takes room for this one as much as for itself.
    base: Option<Digest>,
}

impl<'a> Inventory<'a> {
    fn new(store: &'a Store, sizes: &'a Sizes) -> Result<Inventory<'a>> {
        let mut inventory = Inventory { store, sizes, layers: BTreeMap::new(), entries: Vec::new() };
        inventory.read_layers()?;
        let held = inventory.read_images()?;
        inventory.read_steps(&held)?;
        inventory.read_mounts()?;
        inventory.read_fetched()?;
        for (folder, kind) in [("logs", EntryKind::Log), ("slots", EntryKind::Memory), ("stat", EntryKind::Memory)] {
            for path in trees::list(&store.root.join(folder))? {
                let bytes = size_of(&path);
                inventory.add(kind, path, String::new(), bytes, Vec::new());
            }
        }
        inventory.order();
        Ok(inventory)
    }

    /// Puts the entries in the order in which they go. What a step was made on is used with it, so that a build's steps go
    /// together, and the last one first: what is below it gives no room as long as it is there.
    fn order(&mut self) {
        let mut used: BTreeMap<Digest, SystemTime> = BTreeMap::new();
        for entry in &self.entries {
            for layer in &entry.layers {
                let below = self.layers.get(layer).map_or(&[][..], |layer| &layer.below);
                for layer in below.iter().chain([layer]) {
                    let known = used.entry(*layer).or_insert(entry.used);
                    *known = entry.used.max(*known);
                }
            }
        }
        let depth = |layer: &Digest| self.layers.get(layer).map_or(0, |layer| layer.below.len());
        let place = |entry: &Entry| {
            let used = entry.layers.iter().filter_map(|layer| used.get(layer)).max().copied().unwrap_or(entry.used);
            (entry.kind == EntryKind::Pulled, used, Reverse(entry.layers.iter().map(depth).max()))
        };
        let mut placed: Vec<_> =
            std::mem::take(&mut self.entries).into_iter().map(|entry| (place(&entry), entry)).collect();
        placed.sort_by_key(|(place, _)| *place);
        self.entries = placed.into_iter().map(|(_, entry)| entry).collect();
    }

    fn add(&mut self, kind: EntryKind, path: PathBuf, title: String, bytes: u64, layers: Vec<Digest>) {
        let used = used(&path);
        self.entries.push(Entry { kind, path, used, title, bytes, layers, is_held: false });
    }

    fn read_layers(&mut self) -> Result<()> {
        let mut trees: BTreeMap<Digest, u64> = BTreeMap::new();
        for tree in self.store.stored_trees()? {
            *trees.entry(tree.layer).or_default() += self.sizes.get(&tree.path).copied().unwrap_or(0);
        }
        let mut patches = Vec::new();
        for name in self.store.names("layers")? {
            let record: LayerRecord = self.store.read_record(RecordKind::Layer, &name)?.unwrap_or_default();
            let blobs: BTreeSet<Digest> = record.files().map(|(blob, _)| blob).collect();
            let blobs: u64 = blobs.iter().map(|blob| size_of(&self.store.blob_path(blob))).sum();
            let tree = trees.get(&name).copied().unwrap_or(0);
            let bytes = blobs + tree + size_of(&self.store.index_path(&name));
            patches.extend(record.patch.map(|patch| (name, patch.base)));
            self.layers.insert(name, Layer { needed_by: 0, bytes, below: record.below, base: None });
        }
        for (name, base) in patches {
            // A damaged record may say that a layer is made of itself.
            if !self.is_needed_by(&name, &base)
                && let Some(layer) = self.layers.get_mut(&name)
            {
                layer.below.push(base);
                layer.base = Some(base);
            }
        }
        Ok(())
    }

    /// Whether a layer is another one, or something that the other one needs.
    fn is_needed_by(&self, name: &Digest, other: &Digest) -> bool {
        let (mut todo, mut seen) = (vec![*other], BTreeSet::new());
        while let Some(layer) = todo.pop() {
            if layer == *name {
                return true;
            }
            if seen.insert(layer) {
                todo.extend(self.layers.get(&layer).iter().flat_map(|layer| &layer.below));
            }
        }
        false
    }

    /// Notes the images; the layers that named ones hold.
    fn read_images(&mut self) -> Result<BTreeSet<Digest>> {
        let mut held = BTreeSet::new();
        for path in trees::list(&self.store.root.join("refs"))? {
            let Some(tagged) = self.store.read_json::<Tagged>(&path)? else { continue };
            for layer in &tagged.image.layers {
                self.need(layer);
            }
            if tagged.built {
                held.extend(self.with_bases(&tagged.image.layers));
                continue;
            }
            let documents = [Some(tagged.image.config), tagged.image.manifest, tagged.image.index];
            let documents = documents.iter().flatten().chain(&tagged.image.attestations);
            let documents: u64 = documents.map(|blob| size_of(&self.store.blob_path(blob))).sum();
            let bytes = documents + self.bytes_of(&tagged.image.layers);
            self.add(EntryKind::Pulled, path, tagged.name, bytes, tagged.image.layers);
        }
        Ok(held)
    }

    fn read_steps(&mut self, held: &BTreeSet<Digest>) -> Result<()> {
        for path in trees::list(&self.store.root.join("steps"))? {
            let Some(step) = self.store.read_json::<StepRecord>(&path)? else { continue };
            self.need(&step.layer);
            let bytes = self.bytes_of(&[step.layer]);
            self.add(EntryKind::Step, path, step.title, bytes, vec![step.layer]);
            if let Some(entry) = self.entries.last_mut() {
                entry.is_held = held.contains(&step.layer);
            }
        }
        Ok(())
    }

    fn read_mounts(&mut self) -> Result<()> {
        for path in trees::cache_mounts(&self.store.root)? {
            let record_path = self.store.record_path_of(RecordKind::Mount, &path);
            let title = self.store.read_json::<MountRecord>(&record_path)?.map(|record| record.title);
            let bytes = self.sizes.get(&path).copied().unwrap_or(0);
            self.add(EntryKind::CacheMount, path, title.unwrap_or_default(), bytes, Vec::new());
            if let Some(entry) = self.entries.last_mut()
                && record_path.exists()
            {
                entry.used = used(&record_path);
            }
        }
        Ok(())
    }

    fn read_fetched(&mut self) -> Result<()> {
        for path in trees::list(&self.store.root.join("fetched"))? {
            let Some(fetched) = self.store.read_json::<FetchedRecord>(&path)? else { continue };
            let bytes = size_of(&self.store.blob_path(&fetched.blob));
            self.add(EntryKind::Fetched, path, fetched.source, bytes, Vec::new());
        }
        Ok(())
    }

    fn bytes_of(&self, layers: &[Digest]) -> u64 {
        self.with_bases(layers).iter().filter_map(|layer| self.layers.get(layer)).map(|layer| layer.bytes).sum()
    }

    /// Layers, and what they are patches of.
    fn with_bases(&self, layers: &[Digest]) -> BTreeSet<Digest> {
        let bases = layers.iter().filter_map(|layer| self.layers.get(layer)?.base);
        layers.iter().copied().chain(bases).collect()
    }

    fn need(&mut self, name: &Digest) {
        let mut todo = vec![*name];
        while let Some(name) = todo.pop() {
            let Some(layer) = self.layers.get_mut(&name) else { continue };
            layer.needed_by += 1;
            if layer.needed_by == 1 {
                todo.extend(&layer.below);
            }
        }
    }

    /// Takes a need away; the bytes that nothing needs any more.
    fn release(&mut self, name: &Digest) -> u64 {
        let (mut todo, mut freed) = (vec![*name], 0);
        while let Some(name) = todo.pop() {
            let Some(layer) = self.layers.get_mut(&name) else { continue };
            layer.needed_by = layer.needed_by.saturating_sub(1);
            if layer.needed_by == 0 {
                freed += layer.bytes;
                todo.extend(&layer.below);
            }
        }
        freed
    }

    /// The entries that a policy removes.
    fn chosen(mut self, policy: &Policy) -> Vec<Entry> {
        let now = SystemTime::now();
        let may_go = |entry: &Entry| {
            let is_kind = match policy.kinds {
                Kinds::Cache => entry.kind != EntryKind::Pulled,
                Kinds::CacheAndPulled => true,
                Kinds::CacheMounts => entry.kind == EntryKind::CacheMount,
                Kinds::Results => !matches!(entry.kind, EntryKind::CacheMount | EntryKind::Pulled),
            };
            is_kind && now.duration_since(entry.used).unwrap_or_default() >= policy.unused_for
        };
        let candidates: Vec<Entry> = std::mem::take(&mut self.entries).into_iter().filter(may_go).collect();
        let Some(max) = policy.max_bytes else { return candidates };
        // What no entry needs goes in any case.
        let unneeded: u64 = self.layers.values().filter(|layer| layer.needed_by == 0).map(|layer| layer.bytes).sum();
        let mut total = self.store.usage(self.sizes).total().saturating_sub(unneeded);
        let mut chosen = Vec::new();
        for entry in candidates {
            if total <= max {
                break;
            }
            // To forget how a named image was made would free nothing.
            if entry.is_held {
                continue;
            }
            let own = if entry.layers.is_empty() { entry.bytes } else { size_of(&entry.path) };
            let freed: u64 = own + entry.layers.iter().map(|layer| self.release(layer)).sum::<u64>();
            total = total.saturating_sub(freed);
            chosen.push(entry);
        }
        chosen
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

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// When an entry was used last: uses set its time.
fn used(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
