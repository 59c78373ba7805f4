//! Images that are in the store already, or shall be: push and pull without a build.

use std::collections::BTreeMap;

use super::assemble::Assembled;
use super::bases::record_pulled;
use super::outputs::{Exporter, Output, OutputKind, observed};
use super::{BlobForm, BuildError, Reuse};
use crate::digest::Digest;
use crate::executor::{ExecuteError, Layers, abreast};
use crate::export::Documents;
use crate::image::config::ImageConfig;
use crate::image::manifest::Descriptor;
use crate::image::media_type::Format;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::Progress;
use crate::store::ImageRecord;

/// Pushes an image of the store under a name.
pub fn push_stored(
    layers: &Layers<'_>,
    image: &ImageRecord,
    name: &Reference,
    blob: BlobForm,
    progress: &Progress,
) -> Result<Descriptor, BuildError> {
    let (assembled, original) = stored(layers, image)?;
    let output = Output {
        kind: OutputKind::Registry,
        format: Format::Oci,
        blob,
        reuse: Reuse::AsPulled,
        names: vec![name.clone()],
    };
    let task = progress.task(format!("pushing {}", name.familiar()));
    let exporter = Exporter { layers, annotations: &BTreeMap::new(), original: Some(original) };
    let manifest = observed(&task, || exporter.make(&output, &assembled, &task))?;
    Ok(manifest.expect("a push has a manifest"))
}

/// An image of the store, and its documents as they are there.
pub(super) fn stored(layers: &Layers<'_>, image: &ImageRecord) -> Result<(Assembled, Documents), BuildError> {
    let missing = || ExecuteError::Internal(format!("the config {} is not in the store any more", image.config));
    let bytes = layers.store.read_blob(&image.config)?.ok_or_else(missing)?;
    let config = ImageConfig::parse(&bytes).map_err(|error| ExecuteError::Internal(error.to_string()))?;
    let manifest = image.manifest.map(|manifest| layers.store.read_blob(&manifest)).transpose()?.flatten();
    Ok((Assembled { config, layers: image.layers.clone() }, Documents { config: bytes, manifest }))
}

/// Pulls an image and all its layers; returns the manifest's digest.
pub fn pull_image(
    layers: &Layers<'_>,
    name: &Reference,
    platform: &Platform,
    progress: &Progress,
) -> Result<Digest, BuildError> {
    let task = progress.task(format!("pulling {}", name.familiar()));
    observed(&task, || {
        let pulled = crate::registry::pull::resolve_platform(layers.registry, name, platform, Some(&task))?;
        let failed = |source| BuildError::Base { name: name.to_string(), source };
        record_pulled(layers.store, name, platform, &pulled).map_err(failed)?;
        abreast(&pulled.config.rootfs.diff_ids, |_, layer| layers.fetch_blob(layer, &task))?;
        layers.store.settle()?;
        Ok(pulled.manifest_digest)
    })
}
