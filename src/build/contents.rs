//! What software an image has: `rbuild sbom`, and the document that an image is given.

use super::BuildError;
use super::outputs::observed;
use super::stored::stored;
use crate::digest::Digest;
use crate::executor::Layers;
use crate::image::time::seconds;
use crate::progress::{Progress, Task};
use crate::sbom::{Document, LayerFiles, Subject, SubjectKind, scan};
use crate::store::ImageRecord;

/// The software in layers of the store, lowest first.
///
/// # Errors
/// A layer cannot be had or read.
pub fn scan_layers(
    layers: &Layers<'_>,
    names: &[Digest],
    subject: &Subject,
    task: &Task,
) -> Result<Document, BuildError> {
    Ok(scan(&LayerFiles::new(layers.sources(names, task)?), subject)?)
}

/// The software in an image of the store, as of when it was created.
///
/// # Errors
/// Its config or a layer cannot be had or read.
pub fn scan_image(
    layers: &Layers<'_>,
    image: &ImageRecord,
    name: &str,
    progress: &Progress,
) -> Result<Document, BuildError> {
    let config = stored(layers, image)?.config;
    let subject = Subject {
        name: name.to_owned(),
        kind: SubjectKind::Image { id: image.config, manifest: image.manifest, platform: config.platform() },
        // An image need not say when it was created.
        created: config.created.as_deref().and_then(seconds).unwrap_or(0),
    };
    let task = progress.task(format!("listing the packages of {name}"));
    observed(&task, || scan_layers(layers, &image.layers, &subject, &task))
}
