//! Signatures beside what was pushed: in the same repository, under a tag that names what is signed, as cosign looks for
//! them.

use std::io;
use std::sync::Arc;

use super::ExportError;
use super::push::by_repository;
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document};
use crate::image::reference::Reference;
use crate::progress::Task;
use crate::registry::push::{PushContent, PushImage, PushLayer, push};
use crate::registry::{Client, RegistryError};
use crate::sign::{Signatures, SigningKey, payload, sign as signatures, tag};

/// Signs what was pushed under names, once in each repository. Signatures that are there stay; a key that has signed signs
/// no second time.
///
/// # Errors
/// A key cannot sign, or a registry does not take the signature.
pub fn sign(
    client: &Client,
    signed: &Digest,
    names: &[Reference],
    keys: &[SigningKey],
    task: &Task,
) -> Result<(), ExportError> {
    for names in by_repository(names) {
        let Some(name) = names.first() else { continue };
        let failed = |source| ExportError::PushSignature { reference: name.familiar(), source: Box::new(source) };
        let place = at_tag(name, signed).map_err(failed)?;
        let before = existing(client, &place).map_err(failed)?;
        let made = signatures(&payload(name, signed), keys, &before)
            .map_err(|source| ExportError::Sign { reference: name.familiar(), source })?;
        if let Some(made) = made {
            let content = PushContent::Image(Box::new(image(client, &place, made, before)));
            push(client, &place, &content, &[], Some(task)).map_err(failed)?;
        }
        task.note(format!("signed {}@{signed}", name.name()));
    }
    Ok(())
}

fn at_tag(name: &Reference, signed: &Digest) -> Result<Reference, RegistryError> {
    let text = format!("{}:{}", name.name(), tag(signed));
    text.parse().map_err(|_| RegistryError::NotFound { reference: text })
}

/// The signatures that there are. The registry itself is asked: a mirror may not have yet what was written there.
fn existing(client: &Client, place: &Reference) -> Result<Vec<Descriptor>, RegistryError> {
    match client.resolve_at(place, None) {
        Ok(found) => match found.document {
            Document::Manifest(manifest) => Ok(manifest.layers),
            Document::Index(_) => Ok(Vec::new()),
        },
        Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Payload and manifest as an image of which everything but the new payload is there.
fn image(client: &Client, place: &Reference, made: Signatures, before: Vec<Descriptor>) -> PushImage {
    let old = |descriptor: Descriptor| {
        let (client, from, wanted) = (client.clone(), place.clone(), descriptor.clone());
        PushLayer {
            descriptor,
            open: Box::new(move || Ok(Box::new(client.blob(&from, &wanted)))),
            mount_from: Vec::new(),
        }
    };
    let (descriptor, bytes) = made.payload;
    let bytes: Arc<[u8]> = Arc::from(bytes);
    let new = PushLayer {
        descriptor,
        open: Box::new(move || Ok(Box::new(io::Cursor::new(bytes.clone())))),
        mount_from: Vec::new(),
    };
    PushImage {
        config: made.config,
        layers: std::iter::once(new).chain(before.into_iter().map(old)).collect(),
        manifest: made.manifest,
    }
}
