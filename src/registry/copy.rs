//! Copies what a name stands for into a registry, byte for byte: an image, or an index with all of its images, its
//! attestations, and indexes within it. Digests stay what they are.
//!
//! Only what the target lacks is read: a blob is mounted from a repository of the same registry, or streamed from a request
//! to another, never through a disk. Tags are written last.

use std::collections::BTreeSet;

use super::Client;
use super::error::{RegistryError, escaped};
use super::push::{Blob, Content, OpenLayer, PushReport, is_distributable, push_blobs};
use super::several::several;
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, InvalidDocument, canonical};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::Task;

/// Indexes within indexes that are followed.
const DEPTH_LIMIT: usize = 5;

/// Documents that one name may lead to: all of them are held until they are written.
const DOCUMENTS_LIMIT: usize = 2_000;

/// What BuildKit writes on the entry of an attestation: the digest of what it attests.
const ATTESTED: &str = "vnd.docker.reference.digest";

/// Gives what an image is made of.
pub trait Origin: Sync {
    /// What people call it.
    fn name(&self) -> String;

    /// Reads a manifest or an index; its bytes are those of the descriptor's digest.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, CopyError>;

    /// How a blob is opened.
    fn blob(&self, descriptor: &Descriptor) -> OpenLayer;

    /// The repository that it is, if it is one.
    fn repository(&self) -> Option<&Reference>;
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its bytes, as they came.
    pub bytes: Vec<u8>,
    /// What they say.
    pub document: Document,
}

/// Why something is not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is copied from is no registry, and failed.
    #[error("read {place}")]
    Origin {
        /// What is read.
        place: String,
        /// Why it cannot be.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something is neither an image nor an index.
    #[error("read {reference}")]
    Document {
        /// What it is.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: InvalidDocument,
    },
    /// The target is there, and shall not be replaced.
    #[error("{target} exists already, with another content")]
    Exists {
        /// The name.
        target: String,
    },
    /// The target has a digest that is not the source's.
    #[error("{source_name} is {found} and cannot be copied to {target}")]
    OtherDigest {
        /// What is copied.
        source_name: String,
        /// Its digest.
        found: Digest,
        /// Where to.
        target: String,
    },
}

/// A repository of a registry as an origin.
pub struct RegistryOrigin {
    client: Client,
    repository: Reference,
}

impl RegistryOrigin {
    /// The repository that a name is in.
    pub fn new(client: &Client, repository: &Reference) -> RegistryOrigin {
        RegistryOrigin { client: client.clone(), repository: repository.clone() }
    }
}

impl Origin for RegistryOrigin {
    fn name(&self) -> String {
        self.repository.name()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, CopyError> {
        Ok(self.client.manifest(&self.repository, descriptor)?)
    }

    fn blob(&self, descriptor: &Descriptor) -> OpenLayer {
        let (client, from, wanted) = (self.client.clone(), self.repository.clone(), descriptor.clone());
        Box::new(move || Ok(Box::new(client.blob(&from, &wanted))))
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.repository)
    }
}

impl Listed {
    /// What a name in a registry stands for.
    ///
    /// # Errors
    /// The registry has no such thing, or cannot be asked.
    pub fn resolve(client: &Client, name: &Reference, task: Option<&Task>) -> Result<Listed, CopyError> {
        let found = client.resolve(name, task)?;
        let descriptor = Descriptor::new(&found.media_type, found.digest, found.bytes.len() as u64);
        Ok(Listed { descriptor, bytes: found.bytes, document: found.document })
    }

    /// What a descriptor points at.
    ///
    /// # Errors
    /// It is not there, or no manifest or index.
    pub fn read(origin: &dyn Origin, descriptor: &Descriptor) -> Result<Listed, CopyError> {
        let bytes = origin.document(descriptor)?;
        let reference = || format!("{}@{}", origin.name(), descriptor.digest);
        let document = Document::parse(&bytes, Some(&descriptor.media_type))
            .map_err(|source| CopyError::Document { reference: reference(), source })?;
        Ok(Listed { descriptor: descriptor.clone(), bytes, document })
    }

    /// The part for some platforms: of one the image itself, of several an index of these alone, with what attests them.
    ///
    /// What is no index serves every platform, as everywhere.
    ///
    /// # Errors
    /// There is no image for one of the platforms.
    pub fn for_platforms(self, origin: &dyn Origin, platforms: &[Platform]) -> Result<Listed, CopyError> {
        let mut listed = self;
        for _ in 0..DEPTH_LIMIT {
            let Document::Index(index) = &listed.document else { return Ok(listed) };
            let chosen = |platform: &Platform| {
                index.select(platform).ok_or_else(|| lacks_platform(origin, index, platform).into())
            };
            let chosen = platforms.iter().map(chosen).collect::<Result<Vec<_>, CopyError>>()?;
            match chosen.as_slice() {
                [] => return Ok(listed),
                [only] => listed = Listed::read(origin, only)?,
                several => return Ok(listed.reduced(&several.iter().map(|entry| entry.digest).collect())),
            }
        }
        Ok(listed)
    }

    /// The index without the entries that are not kept; everything else of it stays as it is.
    fn reduced(&self, kept: &BTreeSet<Digest>) -> Listed {
        let mut value: serde_json::Value = serde_json::from_slice(&self.bytes).expect("it was parsed before");
        let is_kept = |text: Option<&str>| {
            text.and_then(|text| text.parse().ok()).is_some_and(|digest: Digest| kept.contains(&digest))
        };
        if let Some(entries) = value["manifests"].as_array_mut() {
            entries
                .retain(|entry| is_kept(entry["digest"].as_str()) || is_kept(entry["annotations"][ATTESTED].as_str()));
        }
        let bytes = canonical(&value);
        let document = Document::parse(&bytes, None).expect("a part of an index is an index");
        Listed { descriptor: Descriptor::of(&self.descriptor.media_type, &bytes), bytes, document }
    }

    /// Its blobs, the config first, less those that their owner keeps elsewhere. An index has none.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let manifest = match &self.document {
            Document::Manifest(manifest) => Some(manifest),
            Document::Index(_) => None,
        };
        manifest.into_iter().flat_map(|manifest| {
            std::iter::once(&manifest.config).chain(manifest.layers.iter().filter(|layer| is_distributable(layer)))
        })
    }
}

fn lacks_platform(origin: &dyn Origin, index: &Index, platform: &Platform) -> RegistryError {
    let offered = index.manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
    let mut offered: Vec<String> = offered.map(|platform| escaped(&platform.to_string())).collect();
    offered.retain(|platform| platform != "unknown/unknown");
    offered.dedup();
    RegistryError::NoPlatform { reference: origin.name(), platform: platform.to_string(), offered }
}

/// Everything that a document leads to and that is wanted, what is led to before what leads there; the document is last.
///
/// # Errors
/// One of the documents cannot be read, or cannot be told to be wanted.
pub fn closure(
    origin: &dyn Origin,
    top: Listed,
    is_wanted: &(dyn Fn(&Descriptor) -> Result<bool, CopyError> + Sync),
) -> Result<Vec<Listed>, CopyError> {
    let mut found = Vec::new();
    descend(origin, top, is_wanted, DEPTH_LIMIT, &mut found)?;
    Ok(found)
}

fn descend(
    origin: &dyn Origin,
    top: Listed,
    is_wanted: &(dyn Fn(&Descriptor) -> Result<bool, CopyError> + Sync),
    depth: usize,
    found: &mut Vec<Listed>,
) -> Result<(), CopyError> {
    if let Document::Index(index) = &top.document {
        if depth == 0 {
            let reason = format!("indexes lie in indexes more than {DEPTH_LIMIT} deep");
            let reference = format!("{}@{}", origin.name(), top.descriptor.digest);
            return Err(CopyError::Document { reference, source: InvalidDocument::Unsupported { reason } });
        }
        let mut seen: BTreeSet<Digest> = found.iter().map(|known| known.descriptor.digest).collect();
        let new: Vec<Descriptor> = index.manifests.iter().filter(|entry| seen.insert(entry.digest)).cloned().collect();
        if seen.len() > DOCUMENTS_LIMIT {
            let reason = format!("it leads to more than {DOCUMENTS_LIMIT} documents");
            let reference = format!("{}@{}", origin.name(), top.descriptor.digest);
            return Err(CopyError::Document { reference, source: InvalidDocument::Unsupported { reason } });
        }
        let read = several(&new, |entry| match is_wanted(entry)? {
            true => Listed::read(origin, entry).map(Some),
            false => Ok(None),
        })?;
        for inner in read.into_iter().flatten() {
            if !found.iter().any(|known| known.descriptor.digest == inner.descriptor.digest) {
                descend(origin, inner, is_wanted, depth - 1, found)?;
            }
        }
    }
    found.push(top);
    Ok(())
}

/// What becomes of a tag that stands for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stands for the copy.
    Replaced,
    /// It stays, and nothing is copied.
    Refused,
}

/// Copies a document with all that it leads to under a name: with its tag (`latest` where it has none), or by its digest
/// alone.
///
/// # Errors
/// Something of it cannot be read or written. What was written until then has no tag.
pub fn copy(
    client: &Client,
    origin: &dyn Origin,
    top: Listed,
    target: &Reference,
    existing: Existing,
    task: Option<&Task>,
) -> Result<PushReport, CopyError> {
    let (digest, media_type) = (top.descriptor.digest, top.descriptor.media_type.clone());
    if let Some(found) = target.digest().filter(|wanted| *wanted != digest).map(|_| digest) {
        let (source_name, target) = (origin.name(), target.familiar());
        return Err(CopyError::OtherDigest { source_name, found, target });
    }
    let target = &target.with_default_tag();
    let mut report = PushReport::new(digest);
    report.tags.extend(target.tag().map(str::to_owned));
    // What the tag stands for, also where the name has a digest besides.
    let named = target.tag().map_or_else(|| target.clone(), |tag| tagged(target, tag));
    match there(client, &named, existing)? {
        Some(there) if there.digest == digest => return Ok(report),
        Some(_) if existing == Existing::Refused => return Err(CopyError::Exists { target: target.familiar() }),
        _ => {}
    }
    let bytes = top.bytes.clone();
    if is_missing(client, target, &digest)? {
        copy_content(client, origin, top, target, task, &mut report)?;
    }
    if let Some(tag) = target.tag() {
        client.put_manifest(target, tag, &media_type, &bytes)?;
    }
    Ok(report)
}

/// A tag of the repository that a name is in.
pub(super) fn tagged(repository: &Reference, tag: &str) -> Reference {
    format!("{}:{tag}", repository.name()).parse().expect("a repository and a tag make a reference")
}

/// Copies all but the tag.
fn copy_content(
    client: &Client,
    origin: &dyn Origin,
    top: Listed,
    target: &Reference,
    task: Option<&Task>,
    report: &mut PushReport,
) -> Result<(), CopyError> {
    let (digest, is_tagged) = (top.descriptor.digest, target.tag().is_some());
    let documents = closure(origin, top, &|entry| is_missing(client, target, &entry.digest))?;
    let blobs: Vec<(&Descriptor, OpenLayer)> =
        documents.iter().flat_map(Listed::blobs).map(|descriptor| (descriptor, origin.blob(descriptor))).collect();
    let repositories: Vec<Reference> = origin.repository().cloned().into_iter().collect();
    let pushed = blobs.iter().map(|(descriptor, open)| Blob {
        descriptor,
        content: Content::Layer(open),
        mount_from: &repositories,
    });
    push_blobs(client, target, pushed.collect(), None, task, report)?;
    for Listed { descriptor, bytes, .. } in &documents {
        // The tag brings it there, too.
        if descriptor.digest != digest || !is_tagged {
            client.put_manifest(target, &descriptor.digest.to_string(), &descriptor.media_type, bytes)?;
        }
    }
    Ok(())
}

/// Whether a repository lacks a document; where it has it, it has what that leads to.
fn is_missing(client: &Client, target: &Reference, digest: &Digest) -> Result<bool, CopyError> {
    Ok(there(client, &target.with_digest(*digest), Existing::Replaced)?.is_none())
}

/// What a place that is to be written to has. Who may only read it may still find that there is nothing to copy. A registry
/// that will not say has nothing, as far as a copy is concerned: who may not write either is told so by the first upload.
/// But where what is there is to stay, that has to be known.
fn there(client: &Client, place: &Reference, existing: Existing) -> Result<Option<Descriptor>, CopyError> {
    let is_refusal =
        |error: &RegistryError| matches!(error, RegistryError::Unauthorized { .. } | RegistryError::Denied { .. });
    let refusal = match client.head_target(place) {
        Err(error) if is_refusal(&error) => error,
        found => return Ok(found?),
    };
    match client.head_manifest_at(place) {
        Ok(Some(found)) => Ok(Some(found)),
        // What a reader does not see may be there all the same.
        Ok(None) if existing == Existing::Replaced => Ok(None),
        Err(error) if existing == Existing::Replaced && is_refusal(&error) => Ok(None),
        Ok(None) => Err(refusal.into()),
        Err(error) => Err(error.into()),
    }
}
