//! Image → outputs: OCI and Docker archives, directories, plain files, registries.
//!
//! Contract: an output is there whole or not at all (written beside its place, then renamed), and the same image gives
//! the same bytes on every machine. It knows nothing of steps, caches or Dockerfiles: what it needs of a layer is its
//! descriptor and a way to open it.

mod archive;
mod files;
mod layout;
mod push;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

pub use archive::{NamedImage, write_archive};
pub use files::{FilesTarget, LayerFiles, write_files};
pub use layout::{LayoutForm, LayoutTarget, write_layout};
pub use push::push;

use crate::digest::Digest;
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document, Manifest, canonical};
use crate::image::media_type::{Compression, Format, OCI_MANIFEST};
use crate::image::reference::Reference;
use crate::registry::RegistryError;

/// Opens a blob anew each time it is called: a push that is retried reads it again.
pub type Open = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

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
    /// Annotations of its manifest.
    pub annotations: BTreeMap<String, String>,
    /// The documents that it came with, where nothing has changed it: an image that only passes through keeps its id.
    pub original: Option<Documents>,
}

/// An image's documents, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The config.
    pub config: Vec<u8>,
    /// The manifest, where there is one.
    pub manifest: Option<Vec<u8>>,
}

/// An image as documents.
#[derive(Clone)]
pub struct Assembled {
    /// The config and its descriptor.
    pub config: (Descriptor, Vec<u8>),
    /// The manifest and its descriptor, platform included.
    pub manifest: (Descriptor, Vec<u8>),
    /// The layers' descriptors.
    pub layers: Vec<Descriptor>,
}

impl ExportImage {
    /// Writes config and manifest in a format; of an image that came from elsewhere they are what they were, as far as they
    /// still describe its blobs.
    pub fn assemble(&self, format: Format) -> Assembled {
        let original = self.original.as_ref();
        let config_bytes = original.map_or_else(|| self.config.to_bytes(), |documents| documents.config.clone());
        if let Some(bytes) = original.and_then(|documents| documents.manifest.as_ref())
            && let Some(assembled) = self.as_it_came(&config_bytes, bytes)
        {
            return assembled;
        }
        let config = Descriptor::of(format.config(), &config_bytes);
        let layers: Vec<Descriptor> = self
            .layers
            .iter()
            .map(|layer| Descriptor::new(format.layer(layer.compression), layer.digest, layer.size))
            .collect();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(format.manifest().to_owned()),
            artifact_type: None,
            config: config.clone(),
            layers: layers.clone(),
            subject: None,
            annotations: self.annotations.clone(),
        };
        let manifest_bytes = canonical(&manifest);
        let mut descriptor = Descriptor::of(format.manifest(), &manifest_bytes);
        descriptor.platform = Some(self.config.platform());
        Assembled { config: (config, config_bytes), manifest: (descriptor, manifest_bytes), layers }
    }
}

impl ExportImage {
    /// With the manifest that it came with, where that names these very blobs.
    fn as_it_came(&self, config: &[u8], manifest: &[u8]) -> Option<Assembled> {
        let Ok(Document::Manifest(parsed)) = Document::parse(manifest, None) else { return None };
        let is_same = parsed.config.digest == Digest::of(config)
            && parsed.layers.iter().map(|layer| &layer.digest).eq(self.layers.iter().map(|layer| &layer.digest))
            && self.annotations.is_empty();
        let media_type = parsed.media_type.as_deref().unwrap_or(OCI_MANIFEST);
        let mut descriptor = Descriptor::of(media_type, manifest);
        descriptor.platform = Some(self.config.platform());
        is_same.then(|| Assembled {
            config: (parsed.config.clone(), config.to_vec()),
            manifest: (descriptor, manifest.to_vec()),
            layers: parsed.layers.clone(),
        })
    }
}

/// What can go wrong while an output is written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file operation failed.
    #[error("write output {path}")]
    Write {
        /// Where to.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A layer could not be read.
    #[error("read layer {digest}")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The registry refused.
    #[error("push {reference}")]
    Push {
        /// The name.
        reference: String,
        /// Why it failed.
        #[source]
        source: RegistryError,
    },
}

impl ExportError {
    fn write(path: &std::path::Path) -> impl Fn(io::Error) -> ExportError + '_ {
        move |source| ExportError::Write { path: path.display().to_string(), source }
    }
}

/// Where a single-file output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileTarget {
    /// A file, replaced when it is complete.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}
