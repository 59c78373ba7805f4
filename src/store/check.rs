//! Looks for damage: what the store says it has and has not, or has otherwise.
//!
//! Contract: what a running process makes is never taken for damage: things are written content first and names last, so
//! they are looked at names first. A repair removes what is damaged and what cannot be without it, never what is whole;
//! the next build makes it anew. What is in trees and indexes is the executor's business, which can read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::trees::{self, TreeName};
use super::{FetchedRecord, LayerRecord, Lock, Result, SlotRecord, StepRecord, Store, StoreError, Tagged};
use crate::digest::{Digest, Hasher};

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageKind {
    /// A record is not what a record looks like.
    UnreadableRecord,
    /// A list of a layer's content cannot be read.
    UnreadableIndex,
    /// A blob has other bytes than its name says.
    WrongDigest,
    /// A blob has another size than its layer's record says.
    WrongSize,
    /// A record names a blob that is not there.
    MissingBlob,
    /// A step's result is a layer that cannot be had.
    StepWithoutLayer,
    /// A name is given to an image whose config is not there.
    ImageWithoutConfig,
    /// A name is given to an image whose manifest, or the index that it stands in, is not there as it was pulled or loaded.
    ImageWithoutManifest,
    /// A name is given to an image of whose attestations a part is not there.
    ImageWithoutAttestation,
    /// A name is given to an image of which a layer cannot be had.
    ImageWithoutLayer,
    /// An unpacked layer holds something else than the layer.
    WrongTree,
    /// What a layer is said to be made of makes another one.
    WrongPatch,
}

impl DamageKind {
    /// The name that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            DamageKind::UnreadableRecord => "unreadable-record",
            DamageKind::UnreadableIndex => "unreadable-index",
            DamageKind::WrongDigest => "wrong-digest",
            DamageKind::WrongSize => "wrong-size",
            DamageKind::MissingBlob => "missing-blob",
            DamageKind::StepWithoutLayer => "step-without-layer",
            DamageKind::ImageWithoutConfig => "image-without-config",
            DamageKind::ImageWithoutManifest => "image-without-manifest",
            DamageKind::ImageWithoutAttestation => "image-without-attestation",
            DamageKind::ImageWithoutLayer => "image-without-layer",
            DamageKind::WrongTree => "wrong-tree",
            DamageKind::WrongPatch => "wrong-patch",
        }
    }
}

/// A damaged entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong.
    pub kind: DamageKind,
    /// The entry.
    pub path: PathBuf,
    /// What it is, and why it counts as damaged.
    pub detail: String,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// What dead processes left: it takes room and does no harm, and the next build removes it.
    pub leftovers: Vec<PathBuf>,
    /// Entries that were looked at.
    pub entries: u64,
}

/// How closely things are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Whether everything is there.
    Names,
    /// Whether it holds what it should: everything is read.
    Content,
}

/// A tree in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTree {
    /// Its directory.
    pub path: PathBuf,
    /// The name of the id mapping that its files have.
    pub mapping: String,
    /// Its layer.
    pub layer: Digest,
}

impl Store {
    /// Looks at everything but what is in trees and indexes.
    pub fn check(&self, depth: Depth) -> Result<Checked> {
        let mut check = Check { store: self, usable: BTreeMap::new(), checked: Checked::default() };
        check.images()?;
        check.steps()?;
        for (folder, kind) in [("slots", Folder::Slots), ("fetched", Folder::Fetched)] {
            check.other_records(folder, kind)?;
        }
        check.layers()?;
        if depth == Depth::Content {
            check.blobs()?;
        }
        check.checked.leftovers = self.leftovers()?;
        Ok(check.checked)
    }

    /// Every tree, whoever's ids it has.
    pub fn stored_trees(&self) -> Result<Vec<StoredTree>> {
        trees::stored(&self.root)
    }

    /// Removes what is damaged, and what cannot be without it. Trees are taken out of use, for the caller to remove: they
    /// may belong to other ids.
    pub fn repair(&self, damage: &[Damage]) -> Result<()> {
        for one in damage {
            match one.kind {
                DamageKind::WrongTree => {
                    let mapping = one.path.parent().unwrap_or(&self.root);
                    trees::distrust(mapping, &one.path.file_name().unwrap_or_default().to_string_lossy())?;
                }
                DamageKind::WrongPatch => {
                    if let Some(layer) = digest_of(&one.path) {
                        self.update_layer(&layer, |record| record.patch = None)?;
                    }
                }
                DamageKind::MissingBlob if one.path.starts_with(self.root.join("layers")) => {
                    if let Some(layer) = digest_of(&one.path) {
                        self.forget_blobs(&layer)?;
                    }
                }
                DamageKind::ImageWithoutManifest => self.forget_manifest(&one.path)?,
                DamageKind::ImageWithoutAttestation => self.forget_attestations(&one.path)?,
                _ => remove(&one.path)?,
            }
        }
        Ok(())
    }

    /// Leaves the manifest and the index that an image came with out of the record of its name: they are written anew where
    /// they are needed, with a digest of their own.
    fn forget_manifest(&self, path: &Path) -> Result<()> {
        let Some(mut tagged) = self.read_json::<Tagged>(path)? else { return Ok(()) };
        tagged.image.manifest = None;
        tagged.image.index = None;
        self.tag(&tagged)
    }

    /// Leaves what was said about an image out of the record of its name: the image is whole without.
    fn forget_attestations(&self, path: &Path) -> Result<()> {
        let Some(mut tagged) = self.read_json::<Tagged>(path)? else { return Ok(()) };
        tagged.image.attestations.clear();
        self.tag(&tagged)
    }

    /// Removes those blobs of a layer whose bytes are not what their names say, and takes those that are gone out of its
    /// record; whether there were any.
    pub fn drop_damaged_blobs(&self, layer: &Digest) -> Result<bool> {
        let record: LayerRecord = self.read_record(super::RecordKind::Layer, layer)?.unwrap_or_default();
        let mut is_damaged = false;
        for (blob, _) in record.files() {
            let (path, mut hasher) = (self.blob_path(&blob), Hasher::new());
            let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut hasher));
            if read.is_err() || hasher.finish() != blob {
                remove(&path)?;
                is_damaged = true;
            }
        }
        if is_damaged {
            self.forget_blobs(layer)?;
        }
        Ok(is_damaged)
    }

    /// Takes the blobs that are gone out of a layer's record.
    fn forget_blobs(&self, layer: &Digest) -> Result<()> {
        self.update_layer(layer, |record| {
            record.blobs.retain(|_, blob| self.has_blob(&blob.digest));
            record.patch.take_if(|patch| !self.has_blob(&patch.blob));
        })?;
        Ok(())
    }

    fn leftovers(&self) -> Result<Vec<PathBuf>> {
        let mut found: Vec<PathBuf> = paths(&self.root.join("tmp"))?;
        found.retain(|path| {
            path.extension().is_none_or(|extension| extension != "lock")
                && Lock::try_existing(&path.with_extension("lock")).is_ok_and(|lock| lock.is_some())
        });
        for mapping in trees::mappings(&self.root)? {
            let name = mapping.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.extend(self.abandoned_drafts(&name)?);
        }
        Ok(found)
    }
}

/// Which records a folder has.
#[derive(Clone, Copy)]
enum Folder {
    Slots,
    Fetched,
}

struct Check<'a> {
    store: &'a Store,
    /// Which layers can be had, as far as is known.
    usable: BTreeMap<Digest, bool>,
    checked: Checked,
}

impl Check<'_> {
    fn damaged(&mut self, kind: DamageKind, path: &Path, detail: String) {
        self.checked.damage.push(Damage { kind, path: path.to_owned(), detail });
    }

    /// The records of a folder that can be read; the others are noted.
    fn records<T: DeserializeOwned>(&mut self, folder: &str) -> Result<Vec<(PathBuf, T)>> {
        let mut records = Vec::new();
        for path in paths(&self.store.root.join(folder))? {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                // Somebody took it away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.damaged(DamageKind::UnreadableRecord, &path, error.to_string());
                    continue;
                }
            };
            self.checked.entries += 1;
            match serde_json::from_slice(&bytes) {
                Ok(record) => records.push((path, record)),
                Err(error) => self.damaged(DamageKind::UnreadableRecord, &path, error.to_string()),
            }
        }
        Ok(records)
    }

    fn images(&mut self) -> Result<()> {
        for (path, tagged) in self.records::<Tagged>("refs")? {
            let name = &tagged.name;
            if !self.store.has_blob(&tagged.image.config) {
                let detail = format!("{name}: its config {} is not there", tagged.image.config);
                self.damaged(DamageKind::ImageWithoutConfig, &path, detail);
            } else if let Some(layer) = self.first_unusable(&tagged.image.layers)? {
                let detail = format!("{name}: its layer {layer} cannot be had");
                self.damaged(DamageKind::ImageWithoutLayer, &path, detail);
            } else if let Some(lost) =
                [tagged.image.manifest, tagged.image.index].iter().flatten().find(|blob| !self.store.has_blob(blob))
            {
                let detail = format!("{name}: its manifest {lost} is not there; a new one has another digest");
                self.damaged(DamageKind::ImageWithoutManifest, &path, detail);
            } else if let Some(lost) = tagged.image.attestations.iter().find(|blob| !self.store.has_blob(blob)) {
                let detail = format!("{name}: its attestation {lost} is not there");
                self.damaged(DamageKind::ImageWithoutAttestation, &path, detail);
            }
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<()> {
        for (path, step) in self.records::<StepRecord>("steps")? {
            if let Some(layer) = self.first_unusable(std::slice::from_ref(&step.layer))? {
                let detail = format!("{}: its layer {layer} cannot be had", step.title);
                self.damaged(DamageKind::StepWithoutLayer, &path, detail);
            }
        }
        Ok(())
    }

    fn other_records(&mut self, folder: &str, kind: Folder) -> Result<()> {
        match kind {
            Folder::Slots => {
                // A slot is not flushed, for no result depends on it: an empty one was cut short by a power failure.
                self.records::<SlotRecord>(folder)?;
                self.checked.damage.retain(|damage| {
                    !(damage.path.parent() == Some(&self.store.root.join(folder))
                        && fs::metadata(&damage.path).is_ok_and(|metadata| metadata.len() == 0))
                });
            }
            Folder::Fetched => {
                for (path, fetched) in self.records::<FetchedRecord>(folder)? {
                    if !self.store.has_blob(&fetched.blob) {
                        let detail = format!("{}: its blob {} is not there", fetched.source, fetched.blob);
                        self.damaged(DamageKind::MissingBlob, &path, detail);
                    }
                }
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<()> {
        for (path, record) in self.records::<LayerRecord>("layers")? {
            for (blob, size) in record.files() {
                let file = self.store.blob_path(&blob);
                match fs::metadata(&file) {
                    Ok(metadata) if metadata.len() == size => {}
                    Ok(metadata) => {
                        let detail = format!("{} bytes, {size} are recorded", metadata.len());
                        self.damaged(DamageKind::WrongSize, &file, detail);
                    }
                    Err(_) => {
                        let forms = record.blobs.iter().find(|(_, known)| known.digest == blob);
                        let form = forms.map_or("patch", |(form, _)| form);
                        let detail = format!("its blob {blob} ({form}) is not there");
                        self.damaged(DamageKind::MissingBlob, &path, detail);
                    }
                }
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        for path in paths(&self.store.root.join("blobs/sha256"))? {
            let mut hasher = Hasher::new();
            let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut hasher));
            self.checked.entries += 1;
            match read {
                Ok(_) => {
                    let found = hasher.finish();
                    if digest_of(&path) != Some(found) {
                        self.damaged(DamageKind::WrongDigest, &path, format!("its bytes have digest {found}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.damaged(DamageKind::WrongDigest, &path, error.to_string()),
            }
        }
        Ok(())
    }

    fn first_unusable(&mut self, layers: &[Digest]) -> Result<Option<Digest>> {
        for layer in layers {
            if !self.is_usable(layer)? {
                return Ok(Some(*layer));
            }
        }
        Ok(None)
    }

    /// Whether a layer's tar can be had: from a blob, from a registry, or from its tree and those of the layers below.
    fn is_usable(&mut self, layer: &Digest) -> Result<bool> {
        if let Some(known) = self.usable.get(layer) {
            return Ok(*known);
        }
        // Until more is known: whatever needs itself cannot be had.
        self.usable.insert(*layer, false);
        // A record may be damaged itself, which is noted elsewhere.
        let record: Option<LayerRecord> = self.store.read_record(super::RecordKind::Layer, layer)?;
        let usable = match record {
            None => false,
            Some(record) if !record.remotes.is_empty() => true,
            Some(record) if self.store.has_layer(&record)? => true,
            Some(record) => self.has_tree(layer)? && self.first_unusable(&record.below)?.is_none(),
        };
        self.usable.insert(*layer, usable);
        Ok(usable)
    }

    fn has_tree(&self, layer: &Digest) -> Result<bool> {
        let name = TreeName::of(layer);
        let mappings = trees::mappings(&self.store.root)?;
        Ok(mappings.iter().any(|mapping| {
            mapping
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|mapping| self.store.tree(mapping, &name).is_some())
        }))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn digest_of(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.file_name()?.to_str()?).ok()
}

/// The entries of a folder, by name.
fn paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| StoreError::io("list", folder, error))?;
    let sorted: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    Ok(sorted.into_iter().collect())
}

#[cfg(test)]
mod tests;
