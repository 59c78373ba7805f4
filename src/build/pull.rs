//! Pulling an image into the store without a build: its layers, the index that it lies under, and what is said about it.

use std::collections::BTreeSet;

use super::bases::{Beside, pulled_before, record_pulled};
use super::outputs::observed;
use super::{BuildError, stored};
use crate::attest::attested;
use crate::digest::Digest;
use crate::executor::{Layers, abreast};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document, Index};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::{Progress, Task};
use crate::registry::RegistryError;
use crate::registry::pull::{PulledImage, select_platform};
use crate::store::StoreError;

/// The largest statement that is kept beside an image. Lists of the software in large images have some ten megabytes.
const STATEMENT_LIMIT: u64 = 64 << 20;

/// Pulls the images of a name for some platforms, with all their layers; returns the digest of what the name stands for in
/// the store now.
///
/// That is the index, with what is said about its images, where several platforms were asked for, or where the index has
/// no other image: so it can be pushed or saved again as it was. Otherwise the name stands for the one image.
///
/// # Errors
/// The registry cannot be asked, or has no image for one of the platforms.
pub fn pull_image(
    layers: &Layers<'_>,
    name: &Reference,
    platforms: &[Platform],
    progress: &Progress,
) -> Result<Digest, BuildError> {
    let task = progress.task(format!("pulling {}", name.familiar()));
    observed(&task, || {
        let found = layers.registry.resolve(name, Some(&task))?;
        // What the tag stands for by the time that the next platform is asked for is not asked.
        let select = |platform: &Platform| {
            let pulled = select_platform(layers.registry, name, found.clone(), platform)?;
            if platforms.len() > 1 {
                check_platform(name, platform, &pulled)?;
            }
            Ok(pulled)
        };
        let pulled = platforms.iter().map(select).collect::<Result<Vec<_>, RegistryError>>()?;
        let images: Vec<(&Platform, PulledImage)> = platforms.iter().zip(pulled).collect();
        let kept = match &found.document {
            Document::Index(index) if platforms.len() > 1 || is_all_of(index, &images) => Some(index),
            Document::Index(_) | Document::Manifest(_) => None,
        };
        let stored = kept.map(|_| layers.store.put_blob(&found.bytes)).transpose()?;
        for (wanted, pulled) in &images {
            let platform = &platform_of(pulled, wanted);
            if platform != *wanted {
                progress.notice(only_for(&name.familiar(), platform, wanted));
            }
            let attestations = match kept {
                Some(index) => {
                    let full = name.with_default_tag().to_string();
                    let before = pulled_before(layers.store, &full, platform, pulled)?;
                    let kept = before.map(|before| before.attestations).unwrap_or_default();
                    attestations(layers, name, index, pulled, kept, progress)?
                }
                None => Vec::new(),
            };
            let beside = Some(Beside { index: stored, attestations });
            let failed = |source| BuildError::Base { name: name.to_string(), source };
            record_pulled(layers.store, name, platform, pulled, beside).map_err(failed)?;
        }
        let digest = match (stored, images.as_slice()) {
            (None, [(_, only)]) => only.manifest_digest,
            _ => found.digest,
        };
        fetch(layers, images.iter().map(|(_, pulled)| pulled), &task)?;
        Ok(digest)
    })
}

/// What a pulled image is kept for: what was asked for, unless it is no entry of an index and its config says that it is for
/// something else.
fn platform_of(pulled: &PulledImage, wanted: &Platform) -> Platform {
    match pulled.index_digest {
        Some(_) => wanted.clone(),
        None => other_platform(&pulled.config, wanted).unwrap_or_else(|| wanted.clone()),
    }
}

/// Says that an image is for another platform than the wanted one.
pub(super) fn only_for(name: &str, platform: &Platform, wanted: &Platform) -> String {
    format!("{name} is one image, for {platform}; there is none for {wanted}")
}

/// What an image is for by its config, where it says so and that is not what is wanted.
pub(super) fn other_platform(config: &ImageConfig, wanted: &Platform) -> Option<Platform> {
    let said = config.platform();
    let is_known = !said.os.is_empty() && !said.architecture.is_empty();
    (is_known && wanted.match_rank(&said).is_none()).then_some(said)
}

/// A name of one image stands for it on every platform; who asks for several wants each.
fn check_platform(name: &Reference, platform: &Platform, pulled: &PulledImage) -> Result<(), RegistryError> {
    let offered = pulled.config.platform();
    match platform.match_rank(&offered) {
        Some(_) => Ok(()),
        None => Err(RegistryError::NoPlatform {
            reference: name.to_string(),
            platform: platform.to_string(),
            offered: vec![offered.to_string()],
        }),
    }
}

/// Whether an index names no other images than these.
fn is_all_of(index: &Index, images: &[(&Platform, PulledImage)]) -> bool {
    let mut others = index.manifests.iter().filter(|entry| attested(entry).is_none());
    others.all(|entry| images.iter().any(|(_, pulled)| pulled.manifest_digest == entry.digest))
}

/// Takes what an index says about one of its images into the store: the manifest first, then what that names. An image is
/// whole without: what its registry does not have, or what is too large to be a statement, is told and left out, but for
/// what an earlier pull of the same image has kept.
fn attestations(
    layers: &Layers<'_>,
    name: &Reference,
    index: &Index,
    pulled: &PulledImage,
    before: Vec<Digest>,
    progress: &Progress,
) -> Result<Vec<Digest>, BuildError> {
    let is_about = |entry: &&Descriptor| attested(entry) == Some(pulled.manifest_digest);
    let Some(entry) = index.manifests.iter().find(is_about) else { return Ok(Vec::new()) };
    match read_attestations(layers, name, entry) {
        Ok(documents) => {
            let kept: Result<Vec<Digest>, StoreError> =
                documents.iter().map(|bytes| layers.store.put_blob(bytes)).collect();
            Ok(kept?)
        }
        Err(error) if is_unavailable(&error) => {
            let (platform, familiar) = (pulled.config.platform(), name.familiar());
            let what = match before.first() {
                None => "are not kept",
                Some(_) => "stay those of the last pull",
            };
            progress.notice(format!("{familiar}: the attestations of its image for {platform} {what}: {error}"));
            Ok(before)
        }
        Err(error) => Err(error.into()),
    }
}

fn is_unavailable(error: &RegistryError) -> bool {
    matches!(
        error.last(),
        RegistryError::NotFound { .. } | RegistryError::TooLarge { .. } | RegistryError::Document { .. }
    )
}

fn read_attestations(layers: &Layers<'_>, name: &Reference, entry: &Descriptor) -> Result<Vec<Vec<u8>>, RegistryError> {
    let manifest = layers.registry.manifest(name, entry)?;
    let document = Document::parse(&manifest, Some(&entry.media_type)).map_err(|source| {
        let reference = format!("{}@{}", name.name(), entry.digest);
        RegistryError::Document { reference, source }
    })?;
    let named = stored::named_by(&document);
    let blobs = named.iter().map(|descriptor| layers.registry.blob_bytes(name, descriptor, STATEMENT_LIMIT));
    std::iter::once(Ok(manifest.clone())).chain(blobs).collect()
}

/// Fetches the layers of images as their manifests name them, each once: only so can the images be saved as they are.
fn fetch<'a>(
    layers: &Layers<'_>,
    images: impl Iterator<Item = &'a PulledImage>,
    task: &Task,
) -> Result<(), BuildError> {
    let blobs = |image: &'a PulledImage| {
        let named = image.manifest.layers.iter().map(|layer| layer.digest);
        image.config.rootfs.diff_ids.iter().copied().zip(named)
    };
    let all: BTreeSet<(Digest, Digest)> = images.flat_map(blobs).collect();
    abreast(&Vec::from_iter(all), |_, (layer, blob)| layers.fetch_named(layer, blob, task))?;
    Ok(layers.store.settle()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::Manifest;
    use crate::image::media_type::OCI_CONFIG;

    #[test]
    fn an_image_that_is_no_entry_of_an_index_is_kept_for_what_its_config_says() {
        let kept = |config: &str, index_digest: Option<Digest>, wanted: &str| {
            let manifest = Manifest {
                schema_version: 2,
                media_type: None,
                artifact_type: None,
                config: Descriptor::of(OCI_CONFIG, config.as_bytes()),
                layers: Vec::new(),
                subject: None,
                annotations: Default::default(),
            };
            let pulled = PulledImage {
                manifest_digest: Digest::of(b"manifest"),
                index_digest,
                manifest,
                manifest_bytes: Vec::new(),
                config: ImageConfig::parse(config.as_bytes()).unwrap(),
                config_bytes: config.as_bytes().to_vec(),
            };
            platform_of(&pulled, &wanted.parse().unwrap()).to_string()
        };
        let amd64 = r#"{"os":"linux","architecture":"amd64"}"#;
        assert_eq!(kept(amd64, None, "linux/s390x"), "linux/amd64");
        assert_eq!(kept(amd64, None, "linux/amd64"), "linux/amd64");
        // An index has the last word on its entries.
        assert_eq!(kept(amd64, Some(Digest::of(b"index")), "linux/s390x"), "linux/s390x");
        // It runs there, and is looked for under what was asked for.
        let older = r#"{"os":"linux","architecture":"arm","variant":"v6"}"#;
        assert_eq!(kept(older, None, "linux/arm/v7"), "linux/arm/v7");
        assert_eq!(kept("{}", None, "linux/s390x"), "linux/s390x");
    }
}
