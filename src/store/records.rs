//! Records: small JSON files that say what the store knows of layers, steps and names.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::naming::flush_folder;
use super::{Result, Store, StoreError};
use crate::digest::{Digest, Frame};

/// Which folder a record is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// What is known of a layer.
    Layer,
    /// The result of a step.
    Step,
    /// The last step at a place in a Dockerfile, or by an instruction.
    Slot,
    /// What was fetched from an address.
    Fetched,
    /// What a cache mount is called; its time says when the mount was used last.
    Mount,
}

impl RecordKind {
    pub(super) fn folder(self) -> &'static str {
        match self {
            RecordKind::Layer => "layers",
            RecordKind::Step => "steps",
            RecordKind::Slot => "slots",
            RecordKind::Fetched => "fetched",
            RecordKind::Mount => "mounts",
        }
    }
}

/// What is known of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the tar before compression, once the layer was packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// Bytes of the tar, once known.
    #[serde(default)]
    pub size: u64,
    /// The layers below, lowest first, where the tree alone is not the whole layer: an overlay upper is packed against
    /// what it was made on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<Digest>,
    /// Compressed forms in the store, by how they were made (`gzip.3:6`, `pulled:gzip`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blobs: BTreeMap<String, BlobRecord>,
    /// Where the layer can be fetched from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<RemoteBlob>,
    /// By which rules its tar was written, where it has the entries of its index in their order and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<u32>,
    /// How its tar is made of another layer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<PatchRecord>,
    /// Bytes that its tree takes on the disk, once they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_bytes: Option<u64>,
}

impl LayerRecord {
    /// The layers without which some form of this one cannot be had.
    pub fn needs(&self) -> impl Iterator<Item = Digest> {
        self.below.iter().copied().chain(self.patch.iter().map(|patch| patch.base))
    }

    /// Notes a blob. A layer that has one needs no other to be had.
    pub fn add_blob(&mut self, form: String, blob: BlobRecord) {
        self.blobs.insert(form, blob);
        self.patch = None;
    }

    /// The blobs that belong to it.
    pub fn files(&self) -> impl Iterator<Item = (Digest, u64)> {
        let blobs = self.blobs.values().map(|blob| (blob.digest, blob.size));
        blobs.chain(self.patch.iter().map(|patch| (patch.blob, patch.size)))
    }
}

/// A layer as what differs from another, which is in the store as a blob of its own and is no patch itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchRecord {
    /// The other layer.
    pub base: Digest,
    /// The blob that says what differs.
    pub blob: Digest,
    /// The blob's size in bytes.
    pub size: u64,
}

/// A compressed layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it is compressed, as OCI exporters write it: `uncompressed`, `gzip`, `zstd`.
    pub compression: String,
}

/// A layer in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteBlob {
    /// Registry and repository.
    pub repository: String,
    /// The blob's media type.
    pub media_type: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Who says that it is there.
    #[serde(default, skip_serializing_if = "RemoteOrigin::is_image")]
    pub origin: RemoteOrigin,
}

/// Who says that a registry has a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteOrigin {
    /// The manifest of an image: without the layer there is no such image.
    #[default]
    Image,
    /// A cache: where the layer cannot be had, its step is carried out.
    Cache,
}

impl RemoteOrigin {
    fn is_image(&self) -> bool {
        *self == RemoteOrigin::Image
    }
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The layer that it made.
    pub layer: Digest,
    /// What people see of it.
    pub title: String,
    /// RFC 3339.
    pub created: String,
}

/// What was fetched from an address, a file or the files of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedRecord {
    /// The blob that holds it.
    pub blob: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// The address as people may see it.
    pub source: String,
    /// What the server calls this content (ETag).
    pub tag: Option<String>,
    /// When it was changed last, in seconds since 1970, where the server says so.
    pub modified: Option<i64>,
}

/// A cache mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// What people see of it.
    pub title: String,
}

/// What a step looked like when a place in a Dockerfile was built last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// Its key.
    pub key: Digest,
    /// What entered its key, by name in words.
    pub ingredients: Vec<(String, String)>,
    /// The layer that it made.
    pub layer: Option<Digest>,
    /// Which names the ingredients have; none in what earlier versions wrote, like all that follows.
    #[serde(default)]
    pub words: u32,
    /// What the step does, as titles say it.
    #[serde(default)]
    pub text: String,
    /// The same of the step before it.
    #[serde(default)]
    pub after: String,
    /// How many steps of its stage came before it.
    #[serde(default)]
    pub ordinal: usize,
    /// What of the files that it read is remembered besides.
    #[serde(default)]
    pub evidence: Evidence,
}

impl SlotRecord {
    /// Nothing but a key.
    pub fn of(key: Digest) -> SlotRecord {
        SlotRecord {
            key,
            ingredients: Vec::new(),
            layer: None,
            words: 0,
            text: String::new(),
            after: String::new(),
            ordinal: 0,
            evidence: Evidence::default(),
        }
    }
}

/// What tells later which files a step read, where its layer does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What its mounts showed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountEvidence>,
    /// Names and contents of a few files: of archives, a layer has what was in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<(String, Digest)>,
}

/// What a mount showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountEvidence {
    /// The ingredient that stands for its files.
    pub ingredient: String,
    /// Their digest.
    pub content: Digest,
    /// The path in its source.
    pub path: String,
    /// The layers of the stage that it was of, lowest first; none where it was of a context.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Digest>,
}

/// An image that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image's config, in the blobs; its digest is the image's id.
    pub config: Digest,
    /// The layers, lowest first, as the store names them.
    pub layers: Vec<Digest>,
    /// The manifest's digest in a registry, where the image was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The digest that the name had in its registry (the index's, where there is one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
    /// The index, in the blobs, that the name stands for, where images for several platforms were built together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// What is said about the image, in the blobs: the manifest of its attestations, then what that names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<Digest>,
    /// RFC 3339.
    pub created: String,
    /// Bytes of all layers, not compressed, where known.
    #[serde(default)]
    pub size: u64,
}

#[cfg(test)]
impl ImageRecord {
    /// An image of these, that was built here and of which nothing else is known.
    pub(super) fn sample(config: Digest, layers: Vec<Digest>) -> ImageRecord {
        ImageRecord {
            config,
            layers,
            manifest: None,
            source: None,
            index: None,
            attestations: Vec::new(),
            created: String::new(),
            size: 0,
        }
    }
}

/// A name and its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    /// The reference in full.
    pub name: String,
    /// The platform in which it was built or pulled.
    pub platform: String,
    /// Whether it was built here, or came in a file, rather than pulled: then nothing brings it back.
    pub built: bool,
    /// The image.
    pub image: ImageRecord,
}

impl Store {
    fn record_path(&self, kind: RecordKind, name: &Digest) -> PathBuf {
        self.root.join(kind.folder()).join(name.hex())
    }

    /// Reads a record; `None` where there is none.
    pub fn read_record<T: DeserializeOwned>(&self, kind: RecordKind, name: &Digest) -> Result<Option<T>> {
        self.read_json(&self.record_path(kind, name))
    }

    /// Writes a record, replacing an older one whole.
    pub fn write_record<T: Serialize>(&self, kind: RecordKind, name: &Digest, record: &T) -> Result<()> {
        let bytes = serde_json::to_vec(record).expect("records have string keys only");
        // A slot only explains, or saves a second reading, and a mount's record only names: losing one with the power is no
        // loss, and a build that changes nothing else has nothing to flush.
        let _writing =
            if matches!(kind, RecordKind::Slot | RecordKind::Mount) { None } else { Some(self.unflushed.begin()?) };
        self.write_whole(&self.record_path(kind, name), &bytes)
    }

    /// Notes that a cache mount is used now, and what people call it.
    pub fn use_mount(&self, name: &Digest, title: &str) -> Result<()> {
        let path = self.record_path(RecordKind::Mount, name);
        let now = FileTimes::new().set_modified(SystemTime::now());
        if File::open(&path).and_then(|file| file.set_times(now)).is_ok() {
            return Ok(());
        }
        self.write_record(RecordKind::Mount, name, &MountRecord { title: title.to_owned() })
    }

    /// Changes a layer's record under its lock; a missing one starts empty.
    pub fn update_layer(&self, layer: &Digest, change: impl FnOnce(&mut LayerRecord)) -> Result<LayerRecord> {
        let _lock = self.lock("layer", layer)?;
        let before: Option<LayerRecord> = self.read_record(RecordKind::Layer, layer)?;
        let mut record = before.clone().unwrap_or_default();
        change(&mut record);
        if before.as_ref() != Some(&record) {
            self.write_record(RecordKind::Layer, layer, &record)?;
        }
        Ok(record)
    }

    /// Where a layer's index is.
    pub fn index_path(&self, layer: &Digest) -> PathBuf {
        self.root.join("index").join(layer.hex())
    }

    /// Writes a layer's index.
    pub fn write_index(&self, layer: &Digest, bytes: &[u8]) -> Result<()> {
        let _writing = self.unflushed.begin()?;
        self.write_whole(&self.index_path(layer), bytes)
    }

    /// The image of a name and platform.
    pub fn tagged(&self, name: &str, platform: &str) -> Result<Option<Tagged>> {
        self.read_json(&self.tag_path(name, platform))
    }

    /// The images of a name that lie under one index, sorted by platform.
    pub fn members(&self, name: &str, index: &Digest) -> Result<Vec<Tagged>> {
        let is_member = |tagged: &Tagged| tagged.name == name && tagged.image.index == Some(*index);
        Ok(self.all_tagged()?.into_iter().filter(is_member).collect())
    }

    /// All names, sorted.
    pub fn all_tagged(&self) -> Result<Vec<Tagged>> {
        let folder = self.root.join("refs");
        let entries = fs::read_dir(&folder).map_err(|error| StoreError::io("list", &folder, error))?;
        let mut all = Vec::new();
        for entry in entries.flatten() {
            if let Some(tagged) = self.read_json::<Tagged>(&entry.path())? {
                all.push(tagged);
            }
        }
        all.sort_by(|left, right| (&left.name, &left.platform).cmp(&(&right.name, &right.platform)));
        Ok(all)
    }

    /// Takes a name away; says whether it was there.
    pub fn untag(&self, name: &str, platform: &str) -> Result<bool> {
        let path = self.tag_path(name, platform);
        match fs::remove_file(&path) {
            Ok(()) => flush_folder(&self.root.join("refs")).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", &path, error)),
        }
    }

    pub(super) fn tag_path(&self, name: &str, platform: &str) -> PathBuf {
        let hashed = Frame::new("rbuild.ref.1").text("name", name).text("platform", platform).finish();
        self.root.join("refs").join(hashed.hex())
    }

    /// Reads a JSON file; `None` where it is missing, was cut short by a power failure, or is damaged: what it said is made
    /// anew, which is better than to fail, and the damage is noted ([`Store::damaged_records`]).
    pub(super) fn read_json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path, error)),
        };
        let record = serde_json::from_slice(&bytes).ok();
        if record.is_none() && bytes.iter().any(|byte| *byte != 0) {
            self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        }
        Ok(record)
    }

    /// Writes a file beside its place, then renames it: readers see the old bytes or the new ones. It is flushed with
    /// everything else ([`Store::settle`]).
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = self.temporary();
        let written = File::create_new(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|error| {
            drop(fs::remove_file(&temporary));
            StoreError::io("write", path, error)
        })
    }
}
