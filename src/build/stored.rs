//! Images that are in the store already: push without a build.

use super::assemble::Assembled;
use super::outputs::{Exporter, Output, OutputKind, PushBy, observed};
use super::{BlobForm, BuildError};
use crate::attest::{Attested, Earlier};
use crate::digest::Digest;
use crate::executor::{ExecuteError, Layers};
use crate::export::{Documents, Shape};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document};
use crate::image::reference::Reference;
use crate::progress::Progress;
use crate::sign::SigningKey;
use crate::store::{ImageRecord, Tagged};

/// How an image of the store is pushed.
#[derive(Debug)]
pub struct PushForm {
    /// How layers are compressed that are not yet.
    pub blob: BlobForm,
    /// Keys that sign it.
    pub signing_keys: Vec<SigningKey>,
}

/// Pushes an image of the store under a name, and signs it; where its name stands for an index, that and all images under
/// it.
///
/// # Errors
/// A layer cannot be had, or the registry refuses.
pub fn push_stored(
    layers: &Layers<'_>,
    tagged: &Tagged,
    name: &Reference,
    form: &PushForm,
    progress: &Progress,
) -> Result<Descriptor, BuildError> {
    let (exporter, images) = stored_all(layers, tagged)?;
    let kind = OutputKind::Registry(PushBy::Tag);
    let output = Output { blob: form.blob, names: vec![name.clone()], ..Output::plain(kind) };
    let task = progress.task(format!("pushing {}", name.familiar()));
    let manifest = observed(&task, || exporter.make(&output, &images, &task))?.expect("a push has a manifest");
    exporter.sign(&manifest, &output.names, &form.signing_keys, progress)?;
    Ok(manifest)
}

/// The images that a name in the store stands for, and what exports them.
pub(super) fn stored_all<'a>(
    layers: &'a Layers<'a>,
    tagged: &Tagged,
) -> Result<(Exporter<'a>, Vec<Assembled>), BuildError> {
    let store = layers.store;
    let Some(index) = &tagged.image.index else { return alone(layers, &tagged.image) };
    let exporter = Exporter { layers, shape: Shape::Index, index: store.read_blob(index)? };
    let members = in_order(store.members(&tagged.name, index)?, exporter.index.as_deref());
    let images = members.iter().map(|member| stored(layers, &member.image)).collect::<Result<_, _>>()?;
    Ok((exporter, images))
}

/// One image, whatever index it is under. What is said about it is beside it in that index.
pub(super) fn alone<'a>(
    layers: &'a Layers<'a>,
    image: &ImageRecord,
) -> Result<(Exporter<'a>, Vec<Assembled>), BuildError> {
    let image = Assembled { attested: Attested::Nothing, ..stored(layers, image)? };
    Ok((Exporter { layers, shape: Shape::Image, index: None }, vec![image]))
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

/// The blobs that a document names: of attestations the config and the statements.
pub(super) fn named_by(document: &Document) -> Vec<Descriptor> {
    match document {
        Document::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).cloned().collect(),
        Document::Index(_) => Vec::new(),
    }
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
