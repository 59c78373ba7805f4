//! Several images in one tar: what `docker save` and `podman save` write, which is an OCI layout too.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::layout::file;
use super::{Assembled, ExportError, ExportImage, FileTarget, LayoutForm, Open};
use crate::digest::{Digest, VerifyReader};
use crate::image::manifest::{Descriptor, Index, canonical};
use crate::image::media_type::{Format, OCI_INDEX};
use crate::image::reference::Reference;
use crate::layer::write::TarWriter;
use crate::progress::Task;
use crate::tree::{Node, Time};

/// An image and what it is called in the archive.
pub struct NamedImage {
    /// The image.
    pub image: ExportImage,
    /// Its names; may be none.
    pub names: Vec<Reference>,
}

/// Writes images into one tar, each blob once.
///
/// # Errors
/// The target cannot be written, or a layer cannot be read or is not what its digest says.
pub fn write_archive(
    images: &[NamedImage],
    format: Format,
    form: LayoutForm,
    target: &FileTarget,
    task: &Task,
) -> Result<(), ExportError> {
    let assembled: Vec<Assembled> = images.iter().map(|named| named.image.assemble(format)).collect();
    let archive = Archive { images, assembled: &assembled, form, task };
    match target {
        FileTarget::Stdout => {
            let out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
            archive.write(out).and_then(|mut out| out.flush()).map_err(ExportError::write(Path::new("-")))
        }
        FileTarget::Path(path) => {
            super::files::write_file(path, |out| archive.write(out).map(drop)).map_err(ExportError::write(path))
        }
    }
}

struct Archive<'a> {
    images: &'a [NamedImage],
    assembled: &'a [Assembled],
    form: LayoutForm,
    task: &'a Task,
}

enum Content<'a> {
    Bytes(&'a [u8]),
    Layer(&'a Open, Digest),
}

impl Archive<'_> {
    fn write<W: Write>(&self, out: W) -> io::Result<W> {
        let mut tar = TarWriter::new(out);
        for directory in ["blobs", "blobs/sha256"] {
            tar.append(directory.as_bytes(), &Node::directory(Time::default()), None, &mut io::empty())?;
        }
        for (hex, (size, content)) in self.blobs() {
            let path = format!("blobs/sha256/{hex}");
            match content {
                Content::Bytes(mut bytes) => tar.append(path.as_bytes(), &file(size), None, &mut bytes)?,
                Content::Layer(open, digest) => {
                    let part = self.task.part(format!("{digest} writing"), size);
                    let mut reader = VerifyReader::new(open()?, digest, Some(size));
                    tar.append(path.as_bytes(), &file(size), None, &mut reader)?;
                    part.finish();
                }
            }
        }
        let mut documents =
            vec![("index.json", self.index()), ("oci-layout", canonical(&json!({ "imageLayoutVersion": "1.0.0" })))];
        if self.form == LayoutForm::Docker {
            documents.insert(1, ("manifest.json", self.docker_manifest()));
        }
        for (name, bytes) in documents {
            tar.append(name.as_bytes(), &file(bytes.len() as u64), None, &mut bytes.as_slice())?;
        }
        tar.finish()
    }

    /// Each blob once, by its name.
    fn blobs(&self) -> BTreeMap<String, (u64, Content<'_>)> {
        let mut blobs = BTreeMap::new();
        for (named, assembled) in self.images.iter().zip(self.assembled) {
            for (descriptor, bytes) in [&assembled.config, &assembled.manifest] {
                blobs.insert(descriptor.digest.hex(), (descriptor.size, Content::Bytes(bytes)));
            }
            for layer in &named.image.layers {
                blobs.insert(layer.digest.hex(), (layer.size, Content::Layer(&layer.open, layer.digest)));
            }
        }
        blobs
    }

    fn index(&self) -> Vec<u8> {
        let mut manifests: Vec<Descriptor> = Vec::new();
        for (named, assembled) in self.images.iter().zip(self.assembled) {
            manifests.extend(super::layout::entries(&named.image, assembled, &named.names));
        }
        let media_type = Some(OCI_INDEX.to_owned());
        canonical(&Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() })
    }

    fn docker_manifest(&self) -> Vec<u8> {
        let item = |(named, assembled): (&NamedImage, &Assembled)| super::layout::docker_item(assembled, &named.names);
        canonical(&Value::from(self.images.iter().zip(self.assembled).map(item).collect::<Vec<Value>>()))
    }
}
