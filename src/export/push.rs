//! Registry output.

use std::io;
use std::sync::Arc;
use std::thread;

use super::{Assembled, Bundle, ExportError};
use crate::attest::AttestationDocuments;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::progress::Task;
use crate::registry::push::{PushContent, PushImage, PushIndex, PushLayer};
use crate::registry::{Client, EarlyUploads};

/// Pushes an image, or several under an index, under its names: to each repository once, and to several at a time.
///
/// A name with a digest is pushed without a tag. Layers may be on their way to one of the repositories already (`early`).
///
/// # Errors
/// The first repository that could not be pushed to; the others are as far as they came.
pub fn push(
    client: &Client,
    bundle: &Bundle,
    names: &[Reference],
    early: Option<&EarlyUploads>,
    task: &Task,
) -> Result<(), ExportError> {
    let repositories = by_repository(names);
    let push_to = |names: &[Reference]| {
        let Some((first, others)) = names.split_first() else { return Ok(()) };
        let tags: Vec<String> = others.iter().filter_map(|name| name.tag()).map(str::to_owned).collect();
        let pushed =
            crate::registry::push::push_begun(client, first, &content(bundle, first), &tags, early, Some(task));
        pushed.map(drop).map_err(|source| ExportError::Push { reference: first.familiar(), source })
    };
    if let [only] = repositories.as_slice() {
        return push_to(only);
    }
    thread::scope(|scope| {
        let pushes: Vec<_> = repositories.iter().map(|names| scope.spawn(|| push_to(names))).collect();
        // All are waited for; the first that failed is told.
        let results: Vec<_> = pushes.into_iter().map(|push| push.join().expect("pushing does not panic")).collect();
        results.into_iter().collect()
    })
}

/// The names, those of one repository together, each with a tag or a digest.
pub(super) fn by_repository(names: &[Reference]) -> Vec<Vec<Reference>> {
    let mut repositories: Vec<Vec<Reference>> = Vec::new();
    for name in names {
        let name = if name.digest().is_some() { name.clone() } else { name.with_default_tag() };
        let is_same =
            |other: &Reference| other.registry() == name.registry() && other.repository() == name.repository();
        match repositories.iter_mut().find(|known| known.first().is_some_and(is_same)) {
            Some(known) => known.push(name),
            None => repositories.push(vec![name]),
        }
    }
    repositories
}

fn content(bundle: &Bundle, name: &Reference) -> PushContent {
    let mut images: Vec<PushImage> = bundle.images.iter().map(|image| push_image(image, name)).collect();
    images.extend(bundle.attestations().map(push_attestations));
    match (&bundle.index, images.len()) {
        (None, 1) => PushContent::Image(Box::new(images.remove(0))),
        _ => PushContent::Index(Box::new(PushIndex { images, index: bundle.top().clone() })),
    }
}

fn push_image(image: &Assembled, name: &Reference) -> PushImage {
    let layer = |layer: &super::Blob| {
        let open = layer.open.clone();
        let is_near = |other: &&Reference| other.registry() == name.registry();
        PushLayer {
            descriptor: layer.descriptor.clone(),
            open: Box::new(move || open()),
            mount_from: layer.repositories.iter().filter(is_near).cloned().collect(),
        }
    };
    PushImage {
        config: image.config.clone(),
        layers: image.layers.iter().map(layer).collect(),
        manifest: image.manifest.clone(),
    }
}

/// To a registry, what is said about an image is an image as well.
fn push_attestations(documents: &AttestationDocuments) -> PushImage {
    let statement = |(descriptor, bytes): &(Descriptor, Vec<u8>)| {
        let bytes: Arc<[u8]> = Arc::from(bytes.as_slice());
        PushLayer {
            descriptor: descriptor.clone(),
            open: Box::new(move || Ok(Box::new(io::Cursor::new(bytes.clone())))),
            mount_from: Vec::new(),
        }
    };
    PushImage {
        config: documents.config.clone(),
        layers: documents.statements.iter().map(statement).collect(),
        manifest: documents.manifest.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_repository_go_together() {
        let names = ["r.test/a:1", "r.test/b:1", "r.test/a:2", "s.test/a"].map(|name| name.parse().unwrap());
        let texts: Vec<Vec<String>> =
            by_repository(&names).iter().map(|names| names.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(texts, [vec!["r.test/a:1", "r.test/a:2"], vec!["r.test/b:1"], vec!["s.test/a:latest"]]);
    }
}
