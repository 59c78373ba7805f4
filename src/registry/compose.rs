//! Composes an index of what registries have: `docker buildx imagetools create`, without pulling a layer to the disk.
//!
//! What the target's repository lacks is mounted from its own registry, or passed through from another, each blob once.

use std::collections::BTreeMap;

use super::Client;
use super::error::RegistryError;
use super::pull::CONFIG_LIMIT;
use super::push::{PushContent, PushImage, PushIndex, PushLayer, may_be_named, push};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document, Index, InvalidDocument, Manifest, canonical};
use crate::image::media_type::{self, Format};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::Task;

/// An image or an index that goes into a new index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub reference: Reference,
    /// What its entry says beside what is found: platform, annotations.
    pub said: Said,
}

/// What somebody says of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The platform, in place of that of the image's config.
    pub platform: Option<Platform>,
    /// Annotations of its descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// What an index becomes where there is one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Single {
    /// An index of one image.
    Index,
    /// A copy of what the source is.
    Copy,
}

/// What is put on the new index and on its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Of the index.
    pub index: BTreeMap<String, String>,
    /// Of its entries, all of them or those of one platform.
    pub entries: Vec<(Option<Platform>, String, String)>,
}

/// A new index, not pushed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where each image is that it leads to.
    images: Vec<(Reference, Descriptor)>,
}

/// Why an index cannot be composed.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An entry is neither an image nor an index of images.
    #[error("read {reference}")]
    Document {
        /// The entry.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: InvalidDocument,
    },
    /// An index in an index.
    #[error("{reference} is an index within an index, which most tools cannot read")]
    Nested {
        /// The inner one.
        reference: String,
    },
}

/// Composes an index of the sources in their order: an image is one entry, an index all of its entries. What comes twice
/// is in it once, with what is said last. What is in a repository that will be written comes from there: a mirror may not
/// have its newest state.
///
/// # Errors
/// A source cannot be had, or is an index of indexes.
pub fn compose(
    client: &Client,
    sources: &[Source],
    written: &[Reference],
    annotations: &Annotations,
    single: Single,
) -> Result<Composed, ComposeError> {
    let is_plain = *annotations == Annotations::default();
    let mut entries: Vec<(Reference, Descriptor)> = Vec::new();
    for source in sources {
        let resolved = match written.iter().any(|one| one.name() == source.reference.name()) {
            true => client.resolve_at(&source.reference, None)?,
            false => client.resolve(&source.reference, None)?,
        };
        let mut found = Descriptor::new(&resolved.media_type, resolved.digest, resolved.bytes.len() as u64);
        match resolved.document {
            Document::Index(index) => {
                let inner = index.manifests.into_iter().map(|entry| (source.reference.clone(), entry));
                if is_plain && sources.len() == 1 {
                    return Ok(Composed { descriptor: found, bytes: resolved.bytes, images: inner.collect() });
                }
                inner.for_each(|entry| add(&mut entries, entry));
            }
            Document::Manifest(manifest) => {
                if is_plain && sources.len() == 1 && single == Single::Copy {
                    let images = vec![(source.reference.clone(), found.clone())];
                    return Ok(Composed { descriptor: found, bytes: resolved.bytes, images });
                }
                found.platform = match &source.said.platform {
                    Some(platform) => Some(platform.clone()),
                    None => platform_of(client, &source.reference, &manifest)?,
                };
                found.annotations.clone_from(&source.said.annotations);
                add(&mut entries, (source.reference.clone(), found));
            }
        }
    }
    Ok(composed(entries, annotations))
}

fn composed(mut images: Vec<(Reference, Descriptor)>, annotations: &Annotations) -> Composed {
    for (platform, key, value) in &annotations.entries {
        let is_meant = |entry: &&mut (Reference, Descriptor)| platform.is_none() || entry.1.platform == *platform;
        for (_, entry) in images.iter_mut().filter(is_meant) {
            entry.annotations.insert(key.clone(), value.clone());
        }
    }
    // Readers of Docker's own list know no entries of OCI's types.
    let is_docker = |(_, entry): &(Reference, Descriptor)| entry.media_type.starts_with("application/vnd.docker.");
    let format =
        if images.iter().all(is_docker) && annotations.index.is_empty() { Format::Docker } else { Format::Oci };
    let index = Index {
        schema_version: 2,
        media_type: Some(format.index().to_owned()),
        manifests: images.iter().map(|(_, entry)| entry.clone()).collect(),
        annotations: annotations.index.clone(),
    };
    let bytes = canonical(&index);
    Composed { descriptor: Descriptor::of(format.index(), &bytes), bytes, images }
}

fn add(entries: &mut Vec<(Reference, Descriptor)>, (reference, new): (Reference, Descriptor)) {
    match entries.iter_mut().find(|(_, known)| known.digest == new.digest) {
        Some((_, known)) => {
            known.platform = new.platform.or(known.platform.take());
            known.annotations.extend(new.annotations);
        }
        None => entries.push((reference, new)),
    }
}

/// What an image's config says it runs on; nothing where the config is that of an artifact.
fn platform_of(client: &Client, reference: &Reference, manifest: &Manifest) -> Result<Option<Platform>, ComposeError> {
    if !matches!(manifest.config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        return Ok(None);
    }
    let bytes = client.blob_bytes(reference, &manifest.config, CONFIG_LIMIT)?;
    let config = ImageConfig::parse(&bytes)
        .map_err(|source| RegistryError::Config { reference: reference.to_string(), source })?;
    Ok(Some(config.platform()).filter(|platform| !platform.os.is_empty()))
}

impl Composed {
    /// Checks that each name may stand for this index.
    ///
    /// # Errors
    /// A name has the digest of something else.
    pub fn check_names(&self, names: &[Reference]) -> Result<(), ComposeError> {
        names.iter().try_for_each(|name| may_be_named(name, self.descriptor.digest)).map_err(ComposeError::from)
    }

    /// Pushes the index under tags of one repository, after what it leads to and the repository lacks.
    ///
    /// # Errors
    /// A source or the target cannot be reached, or refuses.
    pub fn push(&self, client: &Client, names: &[Reference], task: &Task) -> Result<(), ComposeError> {
        let Some(target) = names.first() else { return Ok(()) };
        self.check_names(names)?;
        let is_elsewhere =
            |source: &Reference| (source.registry(), source.repository()) != (target.registry(), target.repository());
        let elsewhere = self.images.iter().filter(|(source, _)| is_elsewhere(source));
        let images = elsewhere.map(|(source, entry)| image(client, source, entry)).collect::<Result<Vec<_>, _>>()?;
        let tags: Vec<String> = names[1..].iter().filter_map(|name| name.tag()).map(str::to_owned).collect();
        let index = (self.descriptor.clone(), self.bytes.clone());
        let content = PushContent::Index(Box::new(PushIndex { images, index }));
        push(client, target, &content, &tags, Some(task))?;
        Ok(())
    }
}

/// An image of a registry, as it is pushed to another repository.
fn image(client: &Client, source: &Reference, entry: &Descriptor) -> Result<PushImage, ComposeError> {
    let shown = || format!("{}/{}@{}", source.registry(), source.repository(), entry.digest);
    let bytes = client.manifest(source, entry)?;
    let document = Document::parse(&bytes, Some(&entry.media_type))
        .map_err(|source| ComposeError::Document { reference: shown(), source })?;
    let Document::Manifest(manifest) = document else {
        return Err(ComposeError::Nested { reference: shown() });
    };
    let config = client.blob_bytes(source, &manifest.config, CONFIG_LIMIT)?;
    let layer = |descriptor: Descriptor| {
        let (client, from, wanted) = (client.clone(), source.clone(), descriptor.clone());
        PushLayer {
            descriptor,
            open: Box::new(move || Ok(Box::new(client.blob(&from, &wanted)))),
            mount_from: vec![source.clone()],
        }
    };
    let layers = manifest.layers.into_iter().map(layer).collect();
    Ok(PushImage { layers, config: (manifest.config, config), manifest: (entry.clone(), bytes) })
}
