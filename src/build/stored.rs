//! Images that are in the store already, or shall be: push and pull without a build.

use std::collections::BTreeSet;

use super::assemble::Assembled;
use super::bases::record_pulled;
use super::outputs::{Exporter, Output, OutputKind, PushBy, observed};
use super::{BlobForm, BuildError};
use crate::attest::{Attested, Earlier};
use crate::digest::Digest;
use crate::executor::{ExecuteError, Layers, abreast};
use crate::export::{Documents, Shape};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::{Progress, Task};
use crate::registry::RegistryError;
use crate::registry::pull::resolve_platform;
use crate::store::{ImageRecord, Tagged};

/// Pushes an image of the store under a name; where its name stands for an index, that and all images under it.
pub fn push_stored(
    layers: &Layers<'_>,
    tagged: &Tagged,
    name: &Reference,
    blob: BlobForm,
    progress: &Progress,
) -> Result<Descriptor, BuildError> {
    let (exporter, images) = stored_all(layers, tagged)?;
    let kind = OutputKind::Registry(PushBy::Tag);
    let output = Output { blob, names: vec![name.clone()], ..Output::plain(kind) };
    let task = progress.task(format!("pushing {}", name.familiar()));
    let manifest = observed(&task, || exporter.make(&output, &images, &task))?;
    Ok(manifest.expect("a push has a manifest"))
}

/// The images that a name in the store stands for, and what exports them.
pub(super) fn stored_all<'a>(
    layers: &'a Layers<'a>,
    tagged: &Tagged,
) -> Result<(Exporter<'a>, Vec<Assembled>), BuildError> {
    let store = layers.store;
    let Some(index) = &tagged.image.index else {
        let exporter = Exporter { layers, shape: Shape::Image, index: None };
        return Ok((exporter, vec![stored(layers, &tagged.image)?]));
    };
    let exporter = Exporter { layers, shape: Shape::Index, index: store.read_blob(index)? };
    let members = in_order(store.members(&tagged.name, index)?, exporter.index.as_deref());
    let images = members.iter().map(|member| stored(layers, &member.image)).collect::<Result<_, _>>()?;
    Ok((exporter, images))
}

/// Members of an index in its own order.
fn in_order(mut members: Vec<Tagged>, index: Option<&[u8]>) -> Vec<Tagged> {
    let parsed = index.and_then(|bytes| Document::parse(bytes, None).ok());
    if let Some(Document::Index(index)) = parsed {
        let place =
            |member: &Tagged| index.manifests.iter().position(|entry| Some(entry.digest) == member.image.manifest);
        members.sort_by_key(place);
    }
    members
}

/// An image of the store, with its documents as they are there.
pub(super) fn stored(layers: &Layers<'_>, image: &ImageRecord) -> Result<Assembled, BuildError> {
    let missing = || ExecuteError::Internal(format!("the config {} is not in the store any more", image.config));
    let bytes = layers.store.read_blob(&image.config)?.ok_or_else(missing)?;
    let config = ImageConfig::parse(&bytes).map_err(|error| ExecuteError::Internal(error.to_string()))?;
    let manifest = image.manifest.map(|manifest| layers.store.read_blob(&manifest)).transpose()?.flatten();
    let original = Some(Documents { config: bytes, manifest });
    let attested = attested(layers, image)?;
    Ok(Assembled { config, layers: image.layers.clone(), size: image.size, original, attested, dated: None })
}

/// What was said about an image of the store when it was built.
fn attested(layers: &Layers<'_>, image: &ImageRecord) -> Result<Attested, BuildError> {
    let (Some((manifest, others)), Some(about)) = (image.attestations.split_first(), image.manifest) else {
        return Ok(Attested::Nothing);
    };
    let read = |digest: &Digest| -> Result<Vec<u8>, BuildError> {
        let missing = || ExecuteError::Internal(format!("the attestation {digest} is not in the store any more"));
        Ok(layers.store.read_blob(digest)?.ok_or_else(missing)?)
    };
    let named = others.iter().map(|digest| Ok((*digest, read(digest)?))).collect::<Result<_, BuildError>>()?;
    Ok(Attested::Before(Box::new(Earlier { image: about, manifest: read(manifest)?, named })))
}

/// Pulls an image and all its layers; returns the manifest's digest. For several platforms the images are pulled and the
/// index that they lie under, whose digest is returned.
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
    let failed = |source| BuildError::Base { name: name.to_string(), source };
    observed(&task, || {
        if let [only] = platforms {
            let pulled = resolve_platform(layers.registry, name, only, Some(&task))?;
            record_pulled(layers.store, name, only, &pulled, None).map_err(failed)?;
            fetch(layers, &[pulled.config], &task)?;
            return Ok(pulled.manifest_digest);
        }
        let found = layers.registry.resolve(name, Some(&task))?;
        // The tag may stand for something else by the time that the next platform is asked for.
        let pinned = name.with_digest(found.digest);
        let mut configs = Vec::new();
        let index = match found.document {
            Document::Index(_) => Some(layers.store.put_blob(&found.bytes)?),
            Document::Manifest(_) => None,
        };
        for platform in platforms {
            let pulled = resolve_platform(layers.registry, &pinned, platform, Some(&task))?;
            let offered = pulled.config.platform();
            if platform.match_rank(&offered).is_none() {
                let (reference, platform, offered) =
                    (name.to_string(), platform.to_string(), vec![offered.to_string()]);
                return Err(RegistryError::NoPlatform { reference, platform, offered }.into());
            }
            record_pulled(layers.store, name, platform, &pulled, index).map_err(failed)?;
            configs.push(pulled.config);
        }
        fetch(layers, &configs, &task)?;
        Ok(found.digest)
    })
}

/// Fetches the layers of images, each once.
fn fetch(layers: &Layers<'_>, configs: &[ImageConfig], task: &Task) -> Result<(), BuildError> {
    let all: BTreeSet<&Digest> = configs.iter().flat_map(|config| &config.rootfs.diff_ids).collect();
    abreast(&Vec::from_iter(all), |_, layer| layers.fetch_blob(layer, task))?;
    Ok(layers.store.settle()?)
}
