//! Pushes whole images: all blobs first, several at once, then manifests, then tags.

use std::collections::BTreeSet;
use std::io::{self, Read};

use super::Client;
use super::early::EarlyUploads;
use super::error::RegistryError;
use super::several::several;
use super::upload::{MountOutcome, OpenBlob, PushOutcome};
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::progress::{Part, Task};

/// Makes a fresh reader of a layer's bytes; called for each try, and not at all where the registry has them.
pub type OpenLayer = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A layer to push.
pub struct PushLayer {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub open: OpenLayer,
    /// Repositories that may have it; those of other registries are passed over.
    pub mount_from: Vec<Reference>,
}

/// One image to push.
pub struct PushImage {
    /// Its layers.
    pub layers: Vec<PushLayer>,
    /// Its config.
    pub config: (Descriptor, Vec<u8>),
    /// Its manifest.
    pub manifest: (Descriptor, Vec<u8>),
}

/// What a name shall stand for.
pub enum PushContent {
    /// One image.
    Image(Box<PushImage>),
    /// An index of several.
    Index(Box<PushIndex>),
}

/// An index and what it leads to.
pub struct PushIndex {
    /// The images.
    pub images: Vec<PushImage>,
    /// The index.
    pub index: (Descriptor, Vec<u8>),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushReport {
    /// What the names stand for now: the digest of the manifest or index.
    pub digest: Digest,
    /// The tags that were written.
    pub tags: Vec<String>,
    /// Blobs that were there.
    pub existed: usize,
    /// Blobs that the registry took from other repositories.
    pub mounted: usize,
    /// Blobs that were sent.
    pub uploaded: usize,
    /// Their bytes.
    pub uploaded_bytes: u64,
}

impl PushReport {
    /// Nothing was done yet.
    pub(super) fn new(digest: Digest) -> PushReport {
        PushReport { digest, tags: Vec::new(), existed: 0, mounted: 0, uploaded: 0, uploaded_bytes: 0 }
    }
}

/// One blob, from wherever it comes.
pub(super) struct Blob<'a> {
    pub descriptor: &'a Descriptor,
    pub content: Content<'a>,
    pub mount_from: &'a [Reference],
}

pub(super) enum Content<'a> {
    Memory(&'a [u8]),
    Layer(&'a OpenLayer),
}

/// Pushes an image or an index under the target's tag and under `tags`.
///
/// Without any tag it is pushed as `latest`, or by digest alone where the target has a digest. Tags are written last, when
/// all that they lead to is there.
///
/// # Errors
/// The target has the digest of something else, which is found before anything is sent; or the registry refuses.
pub fn push(
    client: &Client,
    target: &Reference,
    content: &PushContent,
    tags: &[String],
    task: Option<&Task>,
) -> Result<PushReport, RegistryError> {
    push_begun(client, target, content, tags, None, task)
}

/// As [`push`], where blobs may be on their way already.
///
/// # Errors
/// As [`push`].
pub fn push_begun(
    client: &Client,
    target: &Reference,
    content: &PushContent,
    tags: &[String],
    early: Option<&EarlyUploads>,
    task: Option<&Task>,
) -> Result<PushReport, RegistryError> {
    let (images, top) = match content {
        PushContent::Image(image) => (std::slice::from_ref(&**image), &image.manifest),
        PushContent::Index(index) => (index.images.as_slice(), &index.index),
    };
    let digest = Digest::of(&top.1);
    may_be_named(target, digest)?;
    let mut report = PushReport::new(digest);
    push_blobs(client, target, blobs_of(images), early, task, &mut report)?;
    if let PushContent::Index(_) = content {
        for image in images {
            let (descriptor, bytes) = &image.manifest;
            client.put_manifest(target, &Digest::of(bytes).to_string(), &descriptor.media_type, bytes)?;
        }
    }
    report.tags = versions(target, tags);
    let (descriptor, bytes) = top;
    if report.tags.is_empty() {
        client.put_manifest(target, &digest.to_string(), &descriptor.media_type, bytes)?;
    }
    for tag in &report.tags {
        client.put_manifest(target, tag, &descriptor.media_type, bytes)?;
    }
    Ok(report)
}

/// Whether a name may stand for content of this digest: one with another digest would lead to nothing that was pushed.
pub(super) fn may_be_named(target: &Reference, digest: Digest) -> Result<(), RegistryError> {
    match target.digest() {
        Some(wanted) if wanted != digest => Err(RegistryError::OtherDigest { target: target.familiar(), digest }),
        _ => Ok(()),
    }
}

fn versions(target: &Reference, tags: &[String]) -> Vec<String> {
    let mut versions: Vec<String> = Vec::new();
    for tag in target.tag().into_iter().chain(tags.iter().map(String::as_str)) {
        if !versions.iter().any(|version| version == tag) {
            versions.push(tag.to_owned());
        }
    }
    if versions.is_empty() && target.digest().is_none() {
        versions.push("latest".to_owned());
    }
    versions
}

fn blobs_of(images: &[PushImage]) -> Vec<Blob<'_>> {
    let mut blobs = Vec::new();
    for image in images {
        for layer in &image.layers {
            let (content, mount_from) = (Content::Layer(&layer.open), layer.mount_from.as_slice());
            blobs.push(Blob { descriptor: &layer.descriptor, content, mount_from });
        }
        let (descriptor, bytes) = &image.config;
        blobs.push(Blob { descriptor, content: Content::Memory(bytes), mount_from: &[] });
    }
    blobs
}

/// Layers that their owner wants to be fetched from elsewhere (Windows base images) are not pushed, as in Docker.
pub(super) fn is_distributable(descriptor: &Descriptor) -> bool {
    let name = &descriptor.media_type;
    descriptor.urls.is_empty() || !(name.contains(".nondistributable.") || name.contains(".foreign."))
}

/// Brings blobs into a repository, each once and several at a time, and counts how they came there.
pub(super) fn push_blobs(
    client: &Client,
    target: &Reference,
    mut blobs: Vec<Blob<'_>>,
    early: Option<&EarlyUploads>,
    task: Option<&Task>,
    report: &mut PushReport,
) -> Result<(), RegistryError> {
    let mut seen = BTreeSet::new();
    blobs.retain(|blob| is_distributable(blob.descriptor) && seen.insert(blob.descriptor.digest));
    // Largest first: the one that takes longest shall not be the last to start.
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.descriptor.size));
    let outcomes = several(&blobs, |blob| push_one(client, target, blob, early, task))?;
    for (outcome, size) in outcomes.into_iter().zip(blobs.iter().map(|blob| blob.descriptor.size)) {
        match outcome {
            PushOutcome::Existed => report.existed += 1,
            PushOutcome::Mounted => report.mounted += 1,
            PushOutcome::Uploaded => {
                report.uploaded += 1;
                report.uploaded_bytes += size;
            }
        }
    }
    Ok(())
}

fn push_one(
    client: &Client,
    target: &Reference,
    blob: &Blob<'_>,
    early: Option<&EarlyUploads>,
    task: Option<&Task>,
) -> Result<PushOutcome, RegistryError> {
    let Descriptor { digest, size, .. } = blob.descriptor;
    let early = early.and_then(|early| early.take(target, *digest));
    if client.has_for_push(target, blob.descriptor)? {
        return Ok(PushOutcome::Existed);
    }
    let mut part = None;
    let new_part = || task.map(|task| task.part(format!("sha256:{} pushing", digest.short()), *size));
    if let Some(early) = early {
        part = new_part();
        if early.finish(*digest, &mut part) {
            part.into_iter().for_each(Part::finish);
            return Ok(PushOutcome::Uploaded);
        }
        // The answer may have been lost, not the blob.
        if client.has_for_push(target, blob.descriptor)? {
            part.into_iter().for_each(Part::finish);
            return Ok(PushOutcome::Uploaded);
        }
    }
    let elsewhere = blob
        .mount_from
        .iter()
        .filter(|from| from.registry() == target.registry() && from.repository() != target.repository());
    let mut session = None;
    for from in elsewhere {
        match client.mount(target, digest, from.repository()) {
            Ok(MountOutcome::Mounted) => {
                part.into_iter().for_each(Part::finish);
                return Ok(PushOutcome::Mounted);
            }
            Ok(MountOutcome::Upload(ready)) => session = Some(ready),
            // It saves work where it works. Whether we may push at all, the upload finds out.
            Err(RegistryError::Connect { host, reason }) => return Err(RegistryError::Connect { host, reason }),
            Err(_) => {}
        }
    }
    let part = part.or_else(new_part);
    match &blob.content {
        Content::Layer(open) => client.upload(target, blob.descriptor, &**open, part, session),
        Content::Memory(bytes) => {
            let bytes: std::sync::Arc<[u8]> = std::sync::Arc::from(*bytes);
            let open: OpenBlob<'_> = &move || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
            client.upload(target, blob.descriptor, open, part, session)
        }
    }
}
