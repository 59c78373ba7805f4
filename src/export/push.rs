//! Registry output.

use super::{Assembled, ExportError, ExportImage};
use crate::image::media_type::Format;
use crate::image::reference::Reference;
use crate::progress::Task;
use crate::registry::Client;
use crate::registry::push::{PushContent, PushImage, PushLayer};

/// Pushes an image under its names; layers go to each repository once.
pub fn push(
    client: &Client,
    image: &ExportImage,
    format: Format,
    names: &[Reference],
    task: &Task,
) -> Result<Assembled, ExportError> {
    let assembled = image.assemble(format);
    for name in names {
        let layers = image.layers.iter().zip(&assembled.layers).map(|(layer, descriptor)| {
            let open = layer.open.clone();
            let mount_from =
                layer.repositories.iter().filter(|other| other.registry() == name.registry()).cloned().collect();
            PushLayer { descriptor: descriptor.clone(), open: Box::new(move || open()), mount_from }
        });
        let pushed = PushContent::Image(Box::new(PushImage {
            config: assembled.config.clone(),
            layers: layers.collect(),
            manifest: assembled.manifest.clone(),
        }));
        crate::registry::push::push(client, &name.with_default_tag(), &pushed, &[], Some(task))
            .map_err(|source| ExportError::Push { reference: name.familiar(), source })?;
    }
    Ok(assembled)
}
