//! Reads what a cache has: two small documents, whatever its size.

use std::sync::Arc;

use super::document::{self, Document, INLINE_KEY, Layer, Mount};
use super::storage::{RemoteError, Storage};
use super::{FoundMount, FoundStep};
use crate::digest::Digest;
use crate::image::config::ImageConfig;
use crate::image::manifest::{self, Descriptor, Manifest};
use crate::image::platform::Platform;

/// The largest image config.
const CONFIG_LIMIT: u64 = 8 << 20;

/// The config of BuildKit's caches.
const BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Whether a manifest with a config of this type is a cache and nothing else, of rbuild or of BuildKit.
pub fn is_cache(config_media_type: &str) -> bool {
    matches!(config_media_type, BUILDKIT | document::MEDIA_TYPE)
}

/// A cache that was read.
#[derive(Clone)]
pub struct Imported {
    /// What it has.
    pub document: Arc<Document>,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Where its layers are.
    pub storage: Arc<dyn Storage>,
}

impl Imported {
    pub(super) fn step(&self, key: &Digest) -> Option<FoundStep> {
        let record = self.document.steps.get(key)?;
        let Layer { size, blob } = self.document.layers.get(&record.layer)?;
        Some(FoundStep { record: record.clone(), size: *size, blob: blob.clone(), storage: Arc::clone(&self.storage) })
    }
}

impl Imported {
    pub(super) fn mount(&self, name: &Digest) -> Option<FoundMount> {
        let Mount { title, blob } = self.document.mounts.get(name)?.clone();
        Some(FoundMount { title, blob, storage: Arc::clone(&self.storage) })
    }
}

/// Reads a cache, or those within the images for some platforms; `None` where there is nothing of that name.
///
/// # Errors
/// It cannot be had, or is none of ours.
pub fn import(storage: Arc<dyn Storage>, platforms: &[Platform]) -> Result<Option<Imported>, RemoteError> {
    let Some(bytes) = storage.top()? else { return Ok(None) };
    let document = match manifest::Document::parse(&bytes, None)? {
        manifest::Document::Manifest(found) => read(storage.as_ref(), &found)?,
        manifest::Document::Index(index) => {
            if index.manifests.iter().any(|entry| entry.media_type == BUILDKIT) {
                return Err(RemoteError::BuildKit);
            }
            let mut all = Document::default();
            for platform in platforms {
                let none = || RemoteError::NoPlatform { platform: platform.to_string() };
                let bytes = storage.manifest(index.select(platform).ok_or_else(none)?)?;
                match manifest::Document::parse(&bytes, None)? {
                    manifest::Document::Manifest(found) => all.extend(read(storage.as_ref(), &found)?),
                    manifest::Document::Index(_) => return Err(RemoteError::Nested),
                }
            }
            all
        }
    };
    Ok(Some(Imported { document: Arc::new(document), manifest: Digest::of(&bytes), storage }))
}

fn read(storage: &dyn Storage, manifest: &Manifest) -> Result<Document, RemoteError> {
    match manifest.config.media_type.as_str() {
        BUILDKIT => Err(RemoteError::BuildKit),
        document::MEDIA_TYPE => {
            let bytes = storage.small(&manifest.config, document::LIMIT)?;
            let value =
                serde_json::from_slice(&bytes).map_err(|error| RemoteError::Document { reason: error.to_string() })?;
            Document::parse(value, &manifest.layers)
        }
        _ => inline(&storage.small(&manifest.config, CONFIG_LIMIT)?, &manifest.layers),
    }
}

/// The cache within an image: its layers are the image's, by their order.
fn inline(config: &[u8], blobs: &[Descriptor]) -> Result<Document, RemoteError> {
    let config = ImageConfig::parse(config).map_err(|error| RemoteError::Document { reason: error.to_string() })?;
    let value = match (config.extra.get(INLINE_KEY), config.extra.contains_key("moby.buildkit.cache.v0")) {
        (Some(value), _) => value.clone(),
        (None, true) => return Err(RemoteError::BuildKit),
        (None, false) => return Err(RemoteError::NoCache),
    };
    let mut document = Document::parse(value, &[])?;
    for (diff_id, blob) in config.rootfs.diff_ids.iter().zip(blobs) {
        if let Some(layer) = document.layers.get_mut(diff_id).filter(|_| document::is_usable(blob)) {
            layer.blob = Some(blob.clone());
        }
    }
    Ok(document)
}
