//! Docker's archive: `manifest.json` names each image's config, tags and layers (moby, image/spec/v1.2.md). The form before
//! it (Docker 1.9, `repositories` alone) is not read.

use serde::Deserialize;

use super::files::Files;
use super::{ArchiveError, ArchivedImage};
use crate::image::reference::Reference;

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images of a `manifest.json`.
pub(super) fn images(files: &Files<'_>, manifest: &[u8]) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let items: Vec<Item> =
        serde_json::from_slice(manifest).map_err(|error| files.refused(format!("manifest.json: {error}")))?;
    items.iter().map(|item| image(files, item)).collect()
}

fn image(files: &Files<'_>, item: &Item) -> Result<ArchivedImage, ArchiveError> {
    let blob = |name: &String| files.blob(name)?.ok_or_else(|| files.missing(name));
    let (config, size) = blob(&item.config)?;
    let config = files.small(&config, size)?;
    let layers = item.layers.iter().flatten().map(blob).collect::<Result<_, ArchiveError>>()?;
    let name = |text: &String| match text.parse::<Reference>() {
        Ok(name) if name.digest().is_none() => Ok(name.with_default_tag()),
        Ok(_) => Err(files.refused(format!("{text:?} names an image and has a digest"))),
        Err(error) => Err(files.refused(error.to_string())),
    };
    let names = item.repo_tags.iter().flatten().map(name).collect::<Result<_, ArchiveError>>()?;
    let labels = item.repo_tags.clone().unwrap_or_default();
    Ok(ArchivedImage { names, labels, index: None, manifest: None, attestations: Vec::new(), config, layers })
}
