//! What there is in the store, who needs what, and what of it a collection takes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Entry, EntryKind, Kinds, Policy, Sizes};
use crate::digest::Digest;
use crate::store::{FetchedRecord, LayerRecord, MountRecord, RecordKind, Result, StepRecord, Store, Tagged, trees};

/// What there is, and who needs what.
pub(super) struct Inventory<'a> {
    store: &'a Store,
    sizes: &'a Sizes,
    layers: BTreeMap<Digest, Layer>,
    pub(super) entries: Vec<Entry>,
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
    pub(super) fn new(store: &'a Store, sizes: &'a Sizes) -> Result<Inventory<'a>> {
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
    pub(super) fn chosen(mut self, policy: &Policy) -> Vec<Entry> {
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

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// When an entry was used last: uses set its time.
fn used(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
