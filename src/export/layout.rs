//! OCI image layouts (OCI image-spec, image-layout.md): a directory, a tar, and Docker's archive, which is a layout with
//! a `manifest.json` beside it, as BuildKit writes it: `docker load` of every age reads it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ahead::read_ahead;
use super::{Blob, Bundle, DamagedBlob, ExportError, FileTarget};
use crate::digest::{Digest, VerifyReader};
use crate::image::manifest::{Descriptor, Index, canonical};
use crate::image::media_type::OCI_INDEX;
use crate::image::reference::Reference;
use crate::layer::write::TarWriter;
use crate::progress::Task;
use crate::tree::{Kind, Node, Time};
use crate::unfinished;

/// Which kind of layout is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutForm {
    /// Plain OCI.
    Oci,
    /// With `manifest.json`, for `docker load`.
    Docker,
}

/// Where a layout goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutTarget {
    /// A directory; an existing layout in it is added to.
    Directory(PathBuf),
    /// A tar.
    Tar(FileTarget),
}

/// What is called something in a layout.
pub struct NamedBundle {
    /// An image, or several under an index.
    pub bundle: Bundle,
    /// Its names; may be none.
    pub names: Vec<Reference>,
    /// What it is called besides, as somebody who copies it into the layout says.
    pub label: Option<String>,
}

/// Writes images and indexes as one layout, each blob once.
///
/// # Errors
/// The target cannot be written, or a layer cannot be read or is not what its digest says.
pub fn write_layout(
    items: &[NamedBundle],
    form: LayoutForm,
    target: &LayoutTarget,
    task: &Task,
) -> Result<(), ExportError> {
    let layout = Layout { items, form, task };
    match target {
        LayoutTarget::Directory(path) => layout.directory(path),
        LayoutTarget::Tar(FileTarget::Stdout) => {
            let out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
            layout.tar(out).and_then(|mut out| out.flush()).map_err(ExportError::write(Path::new("-")))
        }
        LayoutTarget::Tar(FileTarget::Path(path)) => {
            super::files::write_file(path, |out| layout.tar(out).map(drop)).map_err(ExportError::write(path))
        }
    }
}

struct Layout<'a> {
    items: &'a [NamedBundle],
    form: LayoutForm,
    task: &'a Task,
}

impl Layout<'_> {
    fn index(&self, mut manifests: Vec<Descriptor>) -> Vec<u8> {
        let entries: Vec<Descriptor> = self.items.iter().flat_map(entries).collect();
        manifests.retain(|old| !entries.iter().any(|new| is_replaced(old, new)));
        manifests.extend(entries);
        let media_type = Some(OCI_INDEX.to_owned());
        canonical(&Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() })
    }

    /// Small files of the layout besides the blobs.
    fn documents(&self, others: Vec<Descriptor>) -> Vec<(&'static str, Vec<u8>)> {
        let mut documents = vec![
            ("index.json", self.index(others)),
            ("oci-layout", canonical(&json!({ "imageLayoutVersion": "1.0.0" }))),
        ];
        if self.form == LayoutForm::Docker {
            let items: Vec<Value> = self.items.iter().filter_map(docker_item).collect();
            documents.insert(1, ("manifest.json", canonical(&Value::from(items))));
        }
        documents
    }

    fn tar<W: Write>(&self, out: W) -> io::Result<W> {
        let mut tar = TarWriter::new(out);
        for directory in ["blobs", "blobs/sha256"] {
            tar.append(directory.as_bytes(), &Node::directory(Time::default()), None, &mut io::empty())?;
        }
        enum Content<'a> {
            Bytes(&'a [u8]),
            Layer(&'a Blob),
        }
        let mut blobs: BTreeMap<String, (u64, Content<'_>)> = BTreeMap::new();
        for (descriptor, bytes) in self.items.iter().flat_map(|item| item.bundle.documents()) {
            blobs.insert(descriptor.digest.hex(), (descriptor.size, Content::Bytes(bytes)));
        }
        for layer in self.items.iter().flat_map(|item| item.bundle.layers()) {
            blobs.insert(layer.descriptor.digest.hex(), (layer.descriptor.size, Content::Layer(layer)));
        }
        for (hex, (size, content)) in blobs {
            let path = format!("blobs/sha256/{hex}");
            match content {
                Content::Bytes(mut bytes) => tar.append(path.as_bytes(), &file(size), None, &mut bytes)?,
                Content::Layer(layer) => {
                    self.layer(layer, |reader| tar.append(path.as_bytes(), &file(size), None, reader))?;
                }
            }
        }
        for (name, bytes) in self.documents(Vec::new()) {
            tar.append(name.as_bytes(), &file(bytes.len() as u64), None, &mut bytes.as_slice())?;
        }
        tar.finish()
    }

    /// Reads a layer, checks it, and shows how far that has come.
    fn layer(&self, layer: &Blob, write: impl FnOnce(&mut dyn io::Read) -> io::Result<()>) -> io::Result<()> {
        let Descriptor { digest, size, .. } = layer.descriptor;
        let mut part = self.task.part(format!("{digest} writing"), size);
        let reader = VerifyReader::new((layer.open)()?, digest, Some(size));
        read_ahead(reader, |reader| write(&mut Counted { reader, part: &mut part })).map_err(|error| {
            match error.kind() {
                io::ErrorKind::InvalidData => {
                    io::Error::new(error.kind(), DamagedBlob { digest, reason: error.to_string() })
                }
                _ => error,
            }
        })?;
        part.finish();
        Ok(())
    }

    fn directory(&self, path: &Path) -> Result<(), ExportError> {
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(ExportError::write(&blobs))?;
        for directory in [path, &blobs] {
            unfinished::sweep(directory);
        }
        for layer in self.items.iter().flat_map(|item| item.bundle.layers()) {
            let target = blobs.join(layer.descriptor.digest.hex());
            if target.exists() {
                continue;
            }
            let written = super::files::write_file(&target, |mut out| {
                self.layer(layer, |reader| io::copy(reader, &mut out).map(drop))
            });
            written.map_err(ExportError::write(&target))?;
        }
        for (descriptor, bytes) in self.items.iter().flat_map(|item| item.bundle.documents()) {
            let target = blobs.join(descriptor.digest.hex());
            super::files::write_file(&target, |out| out.write_all(bytes)).map_err(ExportError::write(&target))?;
        }
        let others = existing_entries(&path.join("index.json"))?;
        for (name, bytes) in self.documents(others) {
            let target = path.join(name);
            super::files::write_file(&target, |out| out.write_all(&bytes)).map_err(ExportError::write(&target))?;
        }
        Ok(())
    }
}

/// Whole names of images in `index.json`, which containerd has introduced.
const WHOLE_NAME: &str = "io.containerd.image.name";
/// What the standard has: a tag, or whatever somebody called it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Whether a new entry takes the place of one that was there: that of its name, or what is the same and has none.
fn is_replaced(old: &Descriptor, new: &Descriptor) -> bool {
    let named = |entry: &Descriptor| [WHOLE_NAME, REF_NAME].map(|key| entry.annotations.get(key).cloned());
    match (named(old), named(new)) {
        ([None, None], _) => old.digest == new.digest,
        ([old, _], [Some(new), _]) => old == Some(new),
        ([_, old], [None, Some(new)]) => old == Some(new),
        (_, [None, None]) => old.digest == new.digest,
    }
}

/// The entries of `index.json`: one for each name, as containerd reads them.
fn entries(item: &NamedBundle) -> Vec<Descriptor> {
    let mut plain = item.bundle.top().0.clone();
    if let Some(created) = &item.bundle.created {
        plain.annotations.insert("org.opencontainers.image.created".to_owned(), created.clone());
    }
    if let Some(label) = &item.label {
        let mut entry = plain.clone();
        entry.annotations.insert(REF_NAME.to_owned(), label.clone());
        return vec![entry];
    }
    if item.names.is_empty() {
        return vec![plain];
    }
    let named = |name: &Reference| {
        let mut entry = plain.clone();
        let full = name.with_default_tag();
        entry.annotations.insert(WHOLE_NAME.to_owned(), full.to_string());
        if let Some(tag) = full.tag() {
            entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
        entry
    };
    item.names.iter().map(named).collect()
}

/// What `docker load` of all ages reads of an image in `manifest.json`; nothing of an index, for it knows one image alone.
fn docker_item(item: &NamedBundle) -> Option<Value> {
    let [image] = item.bundle.images.as_slice() else { return None };
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let tags: Vec<String> = item.names.iter().map(|name| name.with_default_tag().familiar()).collect();
    let layers: Vec<String> = image.layers.iter().map(|layer| blob(&layer.descriptor.digest)).collect();
    let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
    Some(json!({ "Config": blob(&image.config.0.digest), "RepoTags": tags, "Layers": layers }))
}

/// What an existing layout's index names.
fn existing_entries(path: &Path) -> Result<Vec<Descriptor>, ExportError> {
    match File::open(path) {
        Ok(file) => {
            let index: Index = serde_json::from_reader(file).map_err(|error| ExportError::write(path)(error.into()))?;
            Ok(index.manifests)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ExportError::write(path)(error)),
    }
}

fn file(size: u64) -> Node {
    let kind = Kind::File { size, digest: None };
    Node { kind, mode: 0o644, ..Node::directory(Time::default()) }
}

struct Counted<'a, R> {
    reader: R,
    part: &'a mut crate::progress::Part,
}

impl<R: io::Read> io::Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.part.advance(count as u64);
        Ok(count)
    }
}
