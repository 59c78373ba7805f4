//! A reader of OCI layouts of our own: checks every digest and flattens the layers, so that tests look at what a reader
//! other than rbuild sees.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// One image of a layout, valid in all its digests and sizes.
pub struct Image {
    /// Digest of the manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// Digest of the config, which is the image's id.
    pub id: String,
    /// The config.
    pub config: Value,
    /// Every layer: its entries in the order of the archive.
    pub layers: Vec<Vec<Entry>>,
}

/// A file in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since 1970.
    pub modified: u64,
    /// Extended attributes.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file with content.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link.
    Link(String),
    /// Another name of a file (an absolute path).
    HardLink(String),
    /// A device or a pipe, with the tar type's letter.
    Special(char),
}

/// The files of an image, by path.
pub type Listing = BTreeMap<String, Entry>;

impl Image {
    /// Reads the only image of an OCI layout: a directory or a tar of one.
    pub fn read(path: &Path) -> Image {
        let layout = Layout::open(path);
        let index = layout.json("index.json");
        let version = &layout.json("oci-layout")["imageLayoutVersion"];
        assert_eq!(version, "1.0.0", "wrong version of the layout");
        let manifests = index["manifests"].as_array().expect("an index has manifests");
        assert_eq!(manifests.len(), 1, "not exactly one image: {index}");
        Image::from_descriptor(&layout, &manifests[0])
    }

    /// Reads the images under the only index of an OCI layout, each with its platform (`linux/arm/v7`), and the index.
    pub fn read_index(path: &Path) -> (Value, Vec<(String, Image)>) {
        let layout = Layout::open(path);
        let top = layout.json("index.json");
        let entries = top["manifests"].as_array().expect("an index has manifests");
        assert_eq!(entries.len(), 1, "not exactly one entry: {top}");
        let index = layout.json_blob(&entries[0]);
        assert_eq!(index["mediaType"], entries[0]["mediaType"], "index and descriptor disagree on the type");
        let platform = |descriptor: &Value| {
            let parts = ["os", "architecture", "variant"].map(|key| descriptor["platform"][key].as_str());
            parts.into_iter().flatten().collect::<Vec<_>>().join("/")
        };
        let images = list(&index["manifests"])
            .map(|descriptor| (platform(descriptor), Image::from_descriptor(&layout, descriptor)))
            .collect();
        (index, images)
    }

    fn from_descriptor(layout: &Layout, descriptor: &Value) -> Image {
        let manifest = layout.json_blob(descriptor);
        assert_eq!(manifest["schemaVersion"], 2, "wrong schema version");
        assert_eq!(manifest["mediaType"], descriptor["mediaType"], "manifest and descriptor disagree on the type");
        let config = layout.json_blob(&manifest["config"]);
        let diff_ids: Vec<&Value> = list(&config["rootfs"]["diff_ids"]).collect();
        let descriptors: Vec<&Value> = list(&manifest["layers"]).collect();
        assert_eq!(diff_ids.len(), descriptors.len(), "layers and diff_ids differ in number");
        let mut layers = Vec::new();
        for (descriptor, diff_id) in descriptors.into_iter().zip(diff_ids) {
            let tar = decompress(&layout.blob(descriptor), text(&descriptor["mediaType"]));
            assert_eq!(&Value::String(sha256(&tar)), diff_id, "a layer's content is not its diff_id");
            layers.push(read_layer(&tar));
        }
        let image = Image {
            digest: text(&descriptor["digest"]).to_owned(),
            id: text(&manifest["config"]["digest"]).to_owned(),
            manifest,
            config,
            layers,
        };
        image.check_history();
        image
    }

    fn check_history(&self) {
        let history = &self.config["history"];
        let with_layer = list(history).filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!(with_layer, self.layers.len(), "history and layers differ in number: {history:#}");
    }

    /// The root file system after all layers, hard links resolved to the first name in order of paths.
    pub fn files(&self) -> Listing {
        let mut files = Listing::new();
        for layer in &self.layers {
            apply(&mut files, layer);
        }
        files
    }

    /// The content of a file.
    #[track_caller]
    pub fn content(&self, path: &str) -> String {
        let files = self.files();
        let entry = files.get(path).unwrap_or_else(|| panic!("the image has no {path}"));
        match &entry.kind {
            Kind::File(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Kind::HardLink(target) => self.content(target),
            other => panic!("{path} is not a file but {other:?}"),
        }
    }

    /// The digests of the layers' content, lowest first.
    pub fn diff_ids(&self) -> Vec<&Value> {
        list(&self.config["rootfs"]["diff_ids"]).collect()
    }

    /// The texts of the history, each with `(empty)` where it has no layer.
    pub fn history(&self) -> Vec<String> {
        let line = |entry: &Value| {
            let empty = if entry["empty_layer"] == true { " (empty)" } else { "" };
            format!("{}{empty}", text(&entry["created_by"]))
        };
        list(&self.config["history"]).map(line).collect()
    }
}

/// One layer over what is below.
fn apply(files: &mut Listing, layer: &[Entry]) {
    // Whiteouts speak of the layers below only, wherever they stand in the archive.
    for entry in layer {
        let (parent, name) = entry.path.rsplit_once('/').expect("paths are absolute");
        let Some(name) = name.strip_prefix(".wh.") else { continue };
        if name == ".wh..opq" {
            remove_below(files, parent);
        } else {
            let path = format!("{parent}/{name}");
            remove_below(files, &path);
            files.remove(&path);
        }
    }
    for entry in layer.iter().filter(|entry| !entry.path.rsplit('/').next().unwrap_or_default().starts_with(".wh.")) {
        if entry.kind != Kind::Directory {
            remove_below(files, &entry.path);
        }
        if let Kind::HardLink(target) = &entry.kind {
            assert!(files.contains_key(target), "{} links to {target}, which is not there", entry.path);
        }
        files.insert(entry.path.clone(), entry.clone());
    }
}

fn remove_below(files: &mut Listing, directory: &str) {
    // Only what begins with the prefix is looked at: for each file of an image, all files would be too many.
    let prefix = format!("{directory}/");
    let below = files.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
    for path in below.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
        files.remove(&path);
    }
}

/// A listing for people: one line per entry that is new or different, and one for each that is gone.
pub fn describe_changes(before: &Listing, after: &Listing) -> String {
    let mut text = String::new();
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        writeln!(text, "gone {path}").expect("write to a string");
    }
    // A directory's time changes with its entries, which are listed themselves.
    let same = |old: &Entry, new: &Entry| match new.kind {
        Kind::Directory => Entry { modified: new.modified, ..old.clone() } == *new,
        _ => old == new,
    };
    for (path, entry) in after {
        if !before.get(path).is_some_and(|old| same(old, entry)) {
            writeln!(text, "{}", describe(entry)).expect("write to a string");
        }
    }
    text
}

fn describe(entry: &Entry) -> String {
    let Entry { path, mode, uid, gid, .. } = entry;
    let mut line = match &entry.kind {
        Kind::File(bytes) if bytes.len() <= 200 => {
            format!("file {path} {mode:04o} {uid}:{gid} {:?}", String::from_utf8_lossy(bytes))
        }
        Kind::File(bytes) => format!("file {path} {mode:04o} {uid}:{gid} {} bytes {}", bytes.len(), sha256(bytes)),
        Kind::Directory => format!("dir {path} {mode:04o} {uid}:{gid}"),
        // The mode of a link means nothing.
        Kind::Link(target) => format!("link {path} {uid}:{gid} -> {target}"),
        Kind::HardLink(target) => format!("hard {path} = {target}"),
        Kind::Special(letter) => format!("special {path} {mode:04o} {uid}:{gid} {letter}"),
    };
    for (name, value) in &entry.attributes {
        write!(line, " {name}={:?}", String::from_utf8_lossy(value)).expect("write to a string");
    }
    line
}

/// The files of a layout on disk.
struct Layout {
    directory: PathBuf,
    _unpacked: Option<tempfile::TempDir>,
}

impl Layout {
    fn open(path: &Path) -> Layout {
        if path.is_dir() {
            return Layout { directory: path.to_owned(), _unpacked: None };
        }
        let unpacked = tempfile::tempdir().expect("create a directory");
        let file = fs::File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        tar::Archive::new(file).unpack(unpacked.path()).expect("unpack an archive of a layout");
        Layout { directory: unpacked.path().to_owned(), _unpacked: Some(unpacked) }
    }

    fn json(&self, name: &str) -> Value {
        let bytes = fs::read(self.directory.join(name)).unwrap_or_else(|error| panic!("read {name}: {error}"));
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{name} is not JSON: {error}"))
    }

    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let digest = text(&descriptor["digest"]);
        let hex = digest.strip_prefix("sha256:").unwrap_or_else(|| panic!("not a sha256 digest: {digest}"));
        let bytes = fs::read(self.directory.join("blobs/sha256").join(hex))
            .unwrap_or_else(|error| panic!("read the blob {digest}: {error}"));
        assert_eq!(Some(bytes.len() as u64), descriptor["size"].as_u64(), "the size of {digest} is wrong");
        assert_eq!(sha256(&bytes), digest, "the content of {digest} is wrong");
        bytes
    }

    fn json_blob(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.blob(descriptor)).expect("manifests and configs are JSON")
    }
}

/// The elements of a list; BuildKit writes null for one without any.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    assert!(value.is_array() || value.is_null(), "not a list: {value}");
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}"))
}

/// `sha256:…` of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("write to a string");
    }
    text
}

fn decompress(bytes: &[u8], media_type: &str) -> Vec<u8> {
    let mut tar = Vec::new();
    let read: io::Result<usize> = if media_type.ends_with("gzip") {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut tar)
    } else if media_type.ends_with("zstd") {
        zstd::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut tar))
    } else {
        (&bytes[..]).read_to_end(&mut tar)
    };
    read.unwrap_or_else(|error| panic!("decompress a layer of type {media_type}: {error}"));
    tar
}

/// The entries of a tar, and the rules that layers keep: unique, relative, clean names.
pub fn read_layer(tar: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(tar);
    let mut entries: Vec<Entry> = Vec::new();
    for entry in archive.entries().expect("read a layer") {
        let entry = read_entry(entry.expect("read an entry of a layer"));
        let double = entries.iter().rev().take(1000).any(|other| other.path == entry.path);
        assert!(!double, "a layer holds {} twice", entry.path);
        entries.push(entry);
    }
    entries
}

fn read_entry(mut entry: tar::Entry<'_, &[u8]>) -> Entry {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    assert!(!name.split('/').any(|part| part == ".."), "a layer holds the name {name:?}");
    let mut attributes = BTreeMap::new();
    for extension in entry.pax_extensions().expect("read extended headers").into_iter().flatten() {
        let extension = extension.expect("read an extended header");
        let key = extension.key().expect("keys of extended headers are UTF-8").to_owned();
        if let Some(attribute) = key.strip_prefix("SCHILY.xattr.") {
            attributes.insert(attribute.to_owned(), extension.value_bytes().to_vec());
        }
    }
    let target = entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        tar::EntryType::Regular => {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("read a file of a layer");
            Kind::File(bytes)
        }
        tar::EntryType::Directory => Kind::Directory,
        tar::EntryType::Symlink => Kind::Link(target),
        tar::EntryType::Link => Kind::HardLink(absolute(&target)),
        other => Kind::Special(char::from(other.as_byte())),
    };
    Entry {
        path: absolute(&name),
        kind,
        mode: header.mode().expect("read a mode") & 0o7777,
        uid: header.uid().expect("read an owner"),
        gid: header.gid().expect("read a group"),
        modified: header.mtime().expect("read a time"),
        attributes,
    }
}

fn absolute(name: &str) -> String {
    let clean = name.trim_start_matches("./").trim_matches('/');
    format!("/{}", if clean == "." { "" } else { clean })
}
