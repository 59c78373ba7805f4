//! An image, or several under one index, as documents and blobs: what layouts and registries get.

use std::collections::BTreeSet;

use super::annotations::annotations_of;
use super::{Annotation, AnnotationTarget, Open};
use crate::attest::{AttestationDocuments, Attested, Form};
use crate::digest::Digest;
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document, Index, Manifest, canonical};
use crate::image::media_type::{Compression, Format, OCI_INDEX, OCI_MANIFEST};
use crate::image::reference::Reference;

/// A layer that is ready for outputs.
#[derive(Clone)]
pub struct ExportLayer {
    /// Digest of its tar.
    pub diff_id: Digest,
    /// How its blob is compressed.
    pub compression: Compression,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Opens the blob; it may have to be fetched first.
    pub open: Open,
    /// Repositories that hold the blob: a push to their registry can mount it.
    pub repositories: Vec<Reference>,
}

/// An image that is ready for outputs.
#[derive(Clone)]
pub struct ExportImage {
    /// Its config, complete.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<ExportLayer>,
    /// The documents that it came with, where nothing has changed it: an image that only passes through keeps its id.
    pub original: Option<Documents>,
    /// What is said about it.
    pub attested: Attested,
}

/// An image's documents, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The config.
    pub config: Vec<u8>,
    /// The manifest, where there is one.
    pub manifest: Option<Vec<u8>>,
}

impl Documents {
    /// The layers' blobs as the manifest names them; none where there is no manifest.
    pub fn blobs(&self) -> Vec<Digest> {
        match self.manifest.as_deref().map(|bytes| Document::parse(bytes, None)) {
            Some(Ok(Document::Manifest(manifest))) => manifest.layers.iter().map(|layer| layer.digest).collect(),
            Some(Ok(Document::Index(_)) | Err(_)) | None => Vec::new(),
        }
    }
}

/// A blob that a manifest names.
#[derive(Clone)]
pub struct Blob {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Opens it.
    pub open: Open,
    /// Repositories that hold it.
    pub repositories: Vec<Reference>,
}

/// An image as documents.
#[derive(Clone)]
pub struct Assembled {
    /// The config and its descriptor.
    pub config: (Descriptor, Vec<u8>),
    /// The manifest and its descriptor, platform included.
    pub manifest: (Descriptor, Vec<u8>),
    /// The layers.
    pub layers: Vec<Blob>,
    /// What is said about it.
    pub attestations: Option<AttestationDocuments>,
}

/// How documents are written.
#[derive(Debug, Clone, Copy)]
pub struct Style<'a> {
    /// In whose words.
    pub format: Format,
    /// Annotations.
    pub annotations: &'a [Annotation],
    /// The names under which attestations are about the images.
    pub names: &'a [Reference],
    /// How attestations are stored.
    pub attestations: Form,
}

/// What an output with documents holds.
#[derive(Clone)]
pub struct Bundle {
    /// The images.
    pub images: Vec<Assembled>,
    /// The index over them, where there is one.
    pub index: Option<(Descriptor, Vec<u8>)>,
    /// When the first image was made (RFC 3339).
    pub created: Option<String>,
}

/// Whether images lie under an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One image, which a name stands for itself.
    Image,
    /// A name stands for an index, even where that holds but one image.
    Index,
}

impl ExportImage {
    /// Writes config and manifest in a format; of an image that came from elsewhere they are what they were, as far as they
    /// still describe its blobs.
    pub fn assemble(&self, style: Style<'_>) -> Assembled {
        let mut assembled = self.image(style.format, style.annotations);
        assembled.attestations = self.attested.documents(&assembled.manifest.0, style.names, style.attestations);
        assembled
    }

    /// Without attestations, which name the image's manifest.
    fn image(&self, format: Format, annotations: &[Annotation]) -> Assembled {
        let original = self.original.as_ref();
        let config_bytes = original.map_or_else(|| self.config.to_bytes(), |documents| documents.config.clone());
        if let Some(bytes) = original.and_then(|documents| documents.manifest.as_ref())
            && annotations.is_empty()
            && let Some(assembled) = self.as_it_came(&config_bytes, bytes)
        {
            return assembled;
        }
        let config = Descriptor::of(format.config(), &config_bytes);
        let blob = |layer: &ExportLayer| Blob {
            descriptor: Descriptor::new(format.layer(layer.compression), layer.digest, layer.size),
            open: layer.open.clone(),
            repositories: layer.repositories.clone(),
        };
        let layers: Vec<Blob> = self.layers.iter().map(blob).collect();
        let platform = self.config.platform();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(format.manifest().to_owned()),
            artifact_type: None,
            config: config.clone(),
            layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
            subject: None,
            annotations: annotations_of(annotations, AnnotationTarget::Manifest, Some(&platform)),
        };
        let manifest_bytes = canonical(&manifest);
        let mut descriptor = Descriptor::of(format.manifest(), &manifest_bytes);
        descriptor.annotations = annotations_of(annotations, AnnotationTarget::ManifestDescriptor, Some(&platform));
        descriptor.platform = Some(platform);
        let manifest = (descriptor, manifest_bytes);
        Assembled { config: (config, config_bytes), manifest, layers, attestations: None }
    }

    /// With the manifest that it came with, where that names these very blobs.
    fn as_it_came(&self, config: &[u8], manifest: &[u8]) -> Option<Assembled> {
        let Ok(Document::Manifest(parsed)) = Document::parse(manifest, None) else { return None };
        let is_same = parsed.config.digest == Digest::of(config)
            && parsed.layers.iter().map(|layer| &layer.digest).eq(self.layers.iter().map(|layer| &layer.digest));
        let media_type = parsed.media_type.as_deref().unwrap_or(OCI_MANIFEST);
        let mut descriptor = Descriptor::of(media_type, manifest);
        descriptor.platform = Some(self.config.platform());
        let blob = |(descriptor, layer): (&Descriptor, &ExportLayer)| Blob {
            descriptor: descriptor.clone(),
            open: layer.open.clone(),
            repositories: layer.repositories.clone(),
        };
        is_same.then(|| Assembled {
            config: (parsed.config.clone(), config.to_vec()),
            manifest: (descriptor, manifest.to_vec()),
            layers: parsed.layers.iter().zip(&self.layers).map(blob).collect(),
            attestations: None,
        })
    }
}

impl Bundle {
    /// Writes the documents of images in a format.
    pub fn new(images: &[ExportImage], shape: Shape, style: Style<'_>) -> Bundle {
        let created = images.first().and_then(|image| image.config.created.clone());
        let images: Vec<Assembled> = images.iter().map(|image| image.assemble(style)).collect();
        let index = (shape == Shape::Index).then(|| index_of(&images, style.format, style.annotations));
        Bundle { images, index, created }
    }

    /// How many of the entries of an index that the images came with are not here, and how many it has; `None` where none is
    /// missing.
    pub fn missing_of(&self, index: &[u8]) -> Option<(usize, usize)> {
        let Ok(Document::Index(parsed)) = Document::parse(index, None) else { return None };
        let named: BTreeSet<&Digest> = parsed.manifests.iter().map(|entry| &entry.digest).collect();
        // Those that are here may be written in another form: that is somebody's wish, and nothing is missing.
        let missing = named.len().saturating_sub(entries(&self.images).count());
        (missing > 0).then_some((missing, named.len()))
    }

    /// With the index that the images came with, where that names these very images.
    pub fn keeping(mut self, index: &[u8]) -> Bundle {
        let Ok(Document::Index(parsed)) = Document::parse(index, None) else { return self };
        // Others put what is said about an image beside it, not behind all images.
        let named: BTreeSet<&Digest> = parsed.manifests.iter().map(|entry| &entry.digest).collect();
        let held: BTreeSet<&Digest> = entries(&self.images).map(|entry| &entry.digest).collect();
        if self.index.is_some() && named == held {
            let media_type = parsed.media_type.as_deref().unwrap_or(OCI_INDEX);
            self.index = Some((Descriptor::of(media_type, index), index.to_vec()));
        }
        self
    }

    /// What a name stands for: the index where there is one, else the manifest.
    pub fn top(&self) -> &(Descriptor, Vec<u8>) {
        // Without an index there is one image.
        self.index.as_ref().unwrap_or_else(|| &self.images[0].manifest)
    }

    /// The documents: configs, manifests, attestations, the index.
    pub fn documents(&self) -> impl Iterator<Item = &(Descriptor, Vec<u8>)> {
        let images = self.images.iter().flat_map(|image| [&image.config, &image.manifest]);
        images.chain(self.attestations().flat_map(AttestationDocuments::all)).chain(&self.index)
    }

    /// What is said about the images, where something is.
    pub fn attestations(&self) -> impl Iterator<Item = &AttestationDocuments> {
        self.images.iter().filter_map(|image| image.attestations.as_ref())
    }

    /// The layers of all images; one that several have comes several times.
    pub fn layers(&self) -> impl Iterator<Item = &Blob> {
        self.images.iter().flat_map(|image| &image.layers)
    }
}

/// The entries of an index over images: first they, then what is said about them.
fn entries(images: &[Assembled]) -> impl Iterator<Item = &Descriptor> {
    let attestations = images.iter().filter_map(|image| image.attestations.as_ref());
    images.iter().map(|image| &image.manifest.0).chain(attestations.map(|documents| &documents.manifest.0))
}

fn index_of(images: &[Assembled], format: Format, annotations: &[Annotation]) -> (Descriptor, Vec<u8>) {
    let index = Index {
        schema_version: 2,
        media_type: Some(format.index().to_owned()),
        manifests: entries(images).cloned().collect(),
        annotations: annotations_of(annotations, AnnotationTarget::Index, None),
    };
    let bytes = canonical(&index);
    let mut descriptor = Descriptor::of(format.index(), &bytes);
    descriptor.annotations = annotations_of(annotations, AnnotationTarget::IndexDescriptor, None);
    (descriptor, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Assembled {
        let document = |media_type: &str| (Descriptor::of(media_type, name.as_bytes()), name.as_bytes().to_vec());
        let (config, manifest) = (document(Format::Oci.config()), document(OCI_MANIFEST));
        Assembled { config, manifest, layers: Vec::new(), attestations: None }
    }

    #[test]
    fn of_an_index_it_is_known_how_much_is_missing() {
        let index = |names: &[&str]| {
            let images: Vec<Assembled> = names.iter().map(|name| image(name)).collect();
            index_of(&images, Format::Oci, &[])
        };
        let bundle = Bundle { images: vec![image("a"), image("b")], index: Some(index(&["a", "b"])), created: None };
        assert_eq!(bundle.missing_of(&index(&["b", "a"]).1), None);
        assert_eq!(bundle.missing_of(&index(&["a", "b", "c"]).1), Some((1, 3)));
        // Written in another form nothing is missing.
        assert_eq!(bundle.missing_of(&index(&["c", "d"]).1), None);
        // What names these very images is kept byte for byte.
        let (descriptor, bytes) = index(&["b", "a"]);
        assert_eq!(bundle.keeping(&bytes).index, Some((descriptor, bytes)));
    }
}
