//! OCI layouts (image-spec, image-layout.md), and what Docker, podman, skopeo and containerd write into their `index.json`.

use std::collections::BTreeMap;

use super::files::Files;
use super::place::labels;
use super::{ArchiveError, ArchivedImage};
use crate::attest::attested;
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Manifest};
use crate::image::media_type;
use crate::image::reference::Reference;

/// Indexes within indexes that are followed.
const DEPTH: usize = 5;

/// Media types of image configs; other manifests are artifacts (signatures, attestations), which are no images.
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// The images that a layout's `index.json` leads to, each once.
pub(super) fn images(files: &Files<'_>, index: &[u8]) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let Document::Index(index) =
        Document::parse(index, None).map_err(|error| files.refused(format!("index.json: {error}")))?
    else {
        return Err(files.refused("index.json is no index"));
    };
    let mut images: Vec<ArchivedImage> = Vec::new();
    for descriptor in &index.manifests {
        let mut found = Found::default();
        descend(files, descriptor, DEPTH, &mut found)?;
        let (name, labels) = (name(descriptor), labels(descriptor));
        let index = match media_type::is_index(&descriptor.media_type) {
            true => Some(files.small(&descriptor.digest, descriptor.size)?),
            false => None,
        };
        for mut image in found.images() {
            image.names.extend(name.clone());
            image.labels.extend(labels.clone());
            image.index.clone_from(&index);
            // An image that is in an index, and also there by itself, is two things with names of their own.
            match images.iter_mut().find(|other| other.manifest == image.manifest && other.index == image.index) {
                Some(other) => {
                    other.names.extend(image.names);
                    other.labels.extend(image.labels);
                }
                None => images.push(image),
            }
        }
    }
    Ok(images)
}

/// What an entry is called: containerd's annotation has the whole name. The standard one has a tag alone, or, as podman and
/// skopeo write it, a whole name; a word alone would be taken for a repository that nobody meant.
fn name(descriptor: &Descriptor) -> Option<Reference> {
    let annotation = |key: &str| descriptor.annotations.get(key).map(String::as_str);
    let whole = annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':'])));
    whole?.parse::<Reference>().ok().filter(|name| name.digest().is_none()).map(|name| name.with_default_tag())
}

/// What an entry of `index.json` leads to.
#[derive(Default)]
struct Found {
    images: Vec<ArchivedImage>,
    /// What is said, by the digest of the manifest that it is about.
    attestations: BTreeMap<Digest, Vec<Digest>>,
}

impl Found {
    /// The images, each with what is said about it.
    fn images(mut self) -> Vec<ArchivedImage> {
        for image in &mut self.images {
            let digest = image.manifest.as_deref().map(Digest::of);
            image.attestations = digest.and_then(|digest| self.attestations.remove(&digest)).unwrap_or_default();
        }
        self.images
    }

    /// Notes an attestation, if the archive has all that its manifest names.
    fn attest(
        &mut self,
        files: &Files<'_>,
        image: Digest,
        own: Digest,
        manifest: &Manifest,
    ) -> Result<(), ArchiveError> {
        let mut all = vec![own];
        for named in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if files.blob_of(&named.digest)? != Some(named.size) {
                return Ok(());
            }
            all.push(named.digest);
        }
        self.attestations.entry(image).or_insert(all);
        Ok(())
    }
}

fn descend(files: &Files<'_>, descriptor: &Descriptor, depth: usize, found: &mut Found) -> Result<(), ArchiveError> {
    let Some(size) = files.blob_of(&descriptor.digest)? else {
        // An index names all platforms; an archive may have been made of some.
        return if depth == DEPTH { Err(files.missing(&descriptor.digest.to_string())) } else { Ok(()) };
    };
    if size != descriptor.size {
        let text = format!("{} has {size} bytes and not the {} of its descriptor", descriptor.digest, descriptor.size);
        return Err(files.refused(text));
    }
    let bytes = files.small(&descriptor.digest, size)?;
    let document = Document::parse(&bytes, Some(&descriptor.media_type))
        .map_err(|error| files.refused(format!("{}: {error}", descriptor.digest)))?;
    match document {
        Document::Manifest(manifest) => match attested(descriptor) {
            Some(about) => found.attest(files, about, descriptor.digest, &manifest),
            None if CONFIGS.contains(&manifest.config.media_type.as_str()) && !is_for_nobody(descriptor) => {
                found.images.push(image(files, &manifest, bytes)?);
                Ok(())
            }
            None => Ok(()),
        },
        Document::Index(_) if depth == 0 => Err(files.refused("its indexes are nested too deep")),
        Document::Index(index) => {
            index.manifests.iter().try_for_each(|descriptor| descend(files, descriptor, depth - 1, found))
        }
    }
}

/// Attestations may be manifests with an image's config, for a platform that nobody has.
fn is_for_nobody(descriptor: &Descriptor) -> bool {
    descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

fn image(files: &Files<'_>, manifest: &Manifest, bytes: Vec<u8>) -> Result<ArchivedImage, ArchiveError> {
    let blob = |descriptor: &Descriptor| {
        let digest = descriptor.digest;
        let size = files.blob_of(&digest)?.ok_or_else(|| files.missing(&digest.to_string()))?;
        if size != descriptor.size {
            return Err(
                files.refused(format!("{digest} has {size} bytes and not the {} of its descriptor", descriptor.size))
            );
        }
        Ok((digest, size))
    };
    let (config, size) = blob(&manifest.config)?;
    let config = files.small(&config, size)?;
    let layers = manifest.layers.iter().map(blob).collect::<Result<_, ArchiveError>>()?;
    Ok(ArchivedImage {
        names: Vec::new(),
        labels: Vec::new(),
        index: None,
        manifest: Some(bytes),
        attestations: Vec::new(),
        config,
        layers,
    })
}
