//! Images that are in the store already, or shall be: push and pull without a build.

use super::assemble::Assembled;
use super::bases::record_pulled;
use super::outputs::{Exporter, Output, OutputKind, PushBy, observed};
use super::{BlobForm, BuildError};
use crate::digest::Digest;
use crate::executor::{ExecuteError, Layers, abreast};
use crate::export::Shape;
use crate::image::config::ImageConfig;
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::Progress;
use crate::store::{ImageRecord, Store, Tagged};

/// Pushes an image of the store under a name; where its name stands for an index, that and all images under it.
pub fn push_stored(
    layers: &Layers<'_>,
    tagged: &Tagged,
    name: &Reference,
    blob: BlobForm,
    progress: &Progress,
) -> Result<Descriptor, BuildError> {
    let store = layers.store;
    let (members, shape) = match &tagged.image.index {
        Some(index) => (store.members(&tagged.name, index)?, Shape::Index),
        None => (vec![tagged.clone()], Shape::Image),
    };
    let images = members.iter().map(|tagged| stored(store, &tagged.image)).collect::<Result<Vec<_>, _>>()?;
    let kind = OutputKind::Registry(PushBy::Tag);
    let output = Output { blob, names: vec![name.clone()], ..Output::plain(kind) };
    let task = progress.task(format!("pushing {}", name.familiar()));
    let exporter = Exporter { layers, shape };
    let manifest = observed(&task, || exporter.make(&output, &images, &task))?;
    Ok(manifest.expect("a push has a manifest"))
}

fn stored(store: &Store, image: &ImageRecord) -> Result<Assembled, BuildError> {
    let missing = || ExecuteError::Internal(format!("the config {} is not in the store any more", image.config));
    let bytes = store.read_blob(&image.config)?.ok_or_else(missing)?;
    let config = ImageConfig::parse(&bytes).map_err(|error| ExecuteError::Internal(error.to_string()))?;
    Ok(Assembled { config, layers: image.layers.clone(), size: image.size })
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
