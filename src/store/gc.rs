//! Collection: what can go, and how much there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use super::{LayerRecord, Lock, Result, Store, StoreError};
use crate::digest::Digest;

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Entries that are gone.
    pub entries: u64,
    /// Bytes of blobs and indexes that are gone (trees are not measured before they go).
    pub bytes: u64,
    /// Trees that nobody can find any more; the caller removes them, for their files may belong to other ids.
    pub trees: Vec<PathBuf>,
}

/// Disk use by kind, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Compressed layers, configs, manifests.
    pub blobs: u64,
    /// Unpacked layers and cache mounts; what cannot be read without the ids of the namespace counts as nothing.
    pub trees: u64,
    /// Records and indexes.
    pub records: u64,
}

impl Store {
    /// Adds up the disk use.
    pub fn usage(&self) -> Usage {
        let size = |folder: &str| {
            WalkDir::new(self.root.join(folder))
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_file))
                .map(|metadata| metadata.len())
                .sum()
        };
        Usage {
            blobs: size("blobs"),
            trees: size("trees"),
            records: ["layers", "index", "steps", "slots", "fetched", "logs", "refs", "stat"]
                .into_iter()
                .map(size)
                .sum(),
        }
    }

    /// Removes the results of steps that were not used for `unused_for`, and everything that no remaining step and no
    /// named image needs.
    ///
    /// Waits until no other process uses the store, so nothing that a running build holds is removed.
    pub fn collect(self, unused_for: Duration) -> Result<(Store, Collected)> {
        let root = self.root.clone();
        // Our own shared lock would keep the exclusive one from ever being had.
        drop(self);
        let exclusive = Lock::exclusive(&root.join("locks/store"))?;
        let collected = Collection::new(&root).run(unused_for)?;
        drop(exclusive);
        Ok((Store::open(&root)?, collected))
    }
}

struct Collection<'a> {
    root: &'a Path,
    collected: Collected,
}

impl<'a> Collection<'a> {
    fn new(root: &'a Path) -> Collection<'a> {
        Collection { root, collected: Collected::default() }
    }

    fn run(mut self, unused_for: Duration) -> Result<Collected> {
        self.remove_old_steps(unused_for)?;
        let (layers, mut blobs) = self.reachable()?;
        for name in self.names("layers")? {
            if layers.contains(&name) {
                continue;
            }
            self.remove(&self.root.join("layers").join(name.hex()))?;
            self.remove(&self.root.join("index").join(name.hex()))?;
        }
        for name in &layers {
            if let Some(record) = self.layer(name)? {
                blobs.extend(record.blobs.values().map(|blob| blob.digest));
            }
        }
        self.collected.trees = super::trees::take_out_of_use(self.root, |layer| layers.contains(layer))?;
        for name in self.names("blobs/sha256")? {
            if !blobs.contains(&name) {
                self.remove(&self.root.join("blobs/sha256").join(name.hex()))?;
            }
        }
        self.remove_locks();
        Ok(self.collected)
    }

    /// Nobody holds the lock of an entry now: whoever would uses the store. Files that stay only take room.
    fn remove_locks(&self) {
        for entry in fs::read_dir(self.root.join("locks")).into_iter().flatten().flatten() {
            if entry.file_name() != "store" {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    fn remove_old_steps(&mut self, unused_for: Duration) -> Result<()> {
        let now = SystemTime::now();
        for folder in ["steps", "slots", "fetched", "logs"] {
            for name in self.names(folder)? {
                let path = self.root.join(folder).join(name.hex());
                let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
                if used.is_ok_and(|used| now.duration_since(used).unwrap_or_default() >= unused_for) {
                    self.remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// The layers and blobs that steps and named images need.
    fn reachable(&self) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>)> {
        let mut layers = BTreeSet::new();
        let mut blobs = BTreeSet::new();
        for name in self.names("steps")? {
            let step: Option<super::StepRecord> = read(&self.root.join("steps").join(name.hex()))?;
            layers.extend(step.map(|step| step.layer));
        }
        for name in self.names("fetched")? {
            let fetched: Option<super::FetchedRecord> = read(&self.root.join("fetched").join(name.hex()))?;
            blobs.extend(fetched.map(|fetched| fetched.blob));
        }
        let folder = self.root.join("refs");
        for entry in fs::read_dir(&folder).map_err(|error| StoreError::io("list", &folder, error))?.flatten() {
            let Some(tagged) = read::<super::Tagged>(&entry.path())? else { continue };
            layers.extend(tagged.image.layers);
            blobs.insert(tagged.image.config);
            blobs.extend(tagged.image.manifest);
            blobs.extend(tagged.image.source);
        }
        let mut todo: Vec<Digest> = layers.iter().copied().collect();
        while let Some(layer) = todo.pop() {
            for below in self.layer(&layer)?.map(|record| record.below).unwrap_or_default() {
                if layers.insert(below) {
                    todo.push(below);
                }
            }
        }
        Ok((layers, blobs))
    }

    fn layer(&self, name: &Digest) -> Result<Option<LayerRecord>> {
        read(&self.root.join("layers").join(name.hex()))
    }

    fn names(&self, folder: &str) -> Result<Vec<Digest>> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).map_err(|error| StoreError::io("list", &folder, error))?;
        Ok(entries.flatten().filter_map(|entry| Digest::from_hex(entry.file_name().to_str()?).ok()).collect())
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
        fs::remove_file(path).map_err(|error| StoreError::io("remove", path, error))?;
        self.collected.entries += 1;
        self.collected.bytes += metadata.len();
        Ok(())
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RecordKind, StepRecord, TreeName};

    fn owner() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    fn tree(store: &Store, name: &TreeName) -> PathBuf {
        let draft = store.tree_draft("1-1", owner()).unwrap();
        store.seal_tree("1-1", name, draft.path()).unwrap()
    }

    #[test]
    fn trees_without_records_and_variants_of_unwanted_trees_are_found_and_cannot_be_used_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let [wanted, unwanted, unknown, variant] = [b"a", b"b", b"c", b"v"].map(|name| Digest::of(name));
        let step = StepRecord { layer: wanted, title: String::new(), created: String::new() };
        store.write_record(RecordKind::Step, &variant, &step).unwrap();
        for layer in [&wanted, &unwanted] {
            store.update_layer(layer, |record| record.size = 1).unwrap();
        }
        let kept = [TreeName::of(&wanted), TreeName::variant(&wanted, &variant)];
        let gone = [TreeName::of(&unwanted), TreeName::variant(&unwanted, &variant), TreeName::of(&unknown)];
        for name in kept.iter().chain(&gone) {
            tree(&store, name);
        }
        let stub = store.root().join("trees/stubs").join(unknown.hex());
        fs::create_dir_all(&stub).unwrap();
        let draft = store.cache_draft("1-1", owner()).unwrap().path().to_owned();
        drop(store.lock("step", &unknown).unwrap());
        let (store, collected) = store.collect(Duration::from_secs(3600)).unwrap();
        assert!(kept.iter().all(|name| store.tree("1-1", name).is_some()), "a tree that is needed was taken away");
        assert!(gone.iter().all(|name| store.tree("1-1", name).is_none()), "a tree that goes can still be used");
        assert!(stub.is_dir() && collected.trees.iter().all(|path| path.is_dir()));
        assert_eq!(collected.trees.len(), 4);
        assert!(collected.trees.contains(&draft));
        // Whoever is killed before he removes them leaves what the next build finds.
        assert_eq!(store.abandoned_drafts("1-1").unwrap().len(), 4);
        assert!(!store.root().join("locks").join(format!("step-{}", unknown.hex())).exists());
    }
}
