//! Reads manifests and configs: what a name stands for, and which image of it serves a platform.

use ureq::http::Method;

use super::Client;
use super::answer::Answer;
use super::auth::Access;
use super::error::{RegistryError, escaped};
use super::http::Request;
use super::registries::Naming;
use super::session::refusal;
use super::url::Url;
use crate::digest::Digest;
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document, Manifest};
use crate::image::media_type;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::Task;

/// The largest manifest or index (distribution-spec: registries refuse larger ones, too).
const MANIFEST_LIMIT: u64 = 4 << 20;

/// The largest image config.
pub(super) const CONFIG_LIMIT: u64 = 8 << 20;

/// How deep an index may lie in an index.
const DEPTH_LIMIT: usize = 5;

const ACCEPTED: [&str; 4] =
    [media_type::OCI_MANIFEST, media_type::OCI_INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_LIST];

/// What a name stood for when it was asked for.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The document's digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes, as they came.
    pub bytes: Vec<u8>,
    /// What they say.
    pub document: Document,
}

/// The image that serves a platform.
#[derive(Debug, Clone)]
pub struct PulledImage {
    /// The manifest's digest.
    pub manifest_digest: Digest,
    /// The digest of the index that the name stood for, where it was one.
    pub index_digest: Option<Digest>,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes, as they came.
    pub manifest_bytes: Vec<u8>,
    /// The image config.
    pub config: ImageConfig,
    /// Its bytes, as they came.
    pub config_bytes: Vec<u8>,
}

impl Client {
    /// Reads the manifest or index that a reference names; a digest in it wins over a tag. Mirrors are asked first.
    pub fn resolve(&self, reference: &Reference, task: Option<&Task>) -> Result<Resolved, RegistryError> {
        self.read_from_sources(reference, naming_of(reference), task, |source| self.resolve_at(source, task))
    }

    /// As [`Client::resolve`], of the registry itself: a mirror may not have yet what was written there.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub fn resolve_at(&self, reference: &Reference, task: Option<&Task>) -> Result<Resolved, RegistryError> {
        let shown = reference.to_string();
        let answer = self.ask_for_manifest(reference, &reference.version(), task)?;
        if answer.status != 200 {
            return Err(refusal(answer, reference, &shown));
        }
        let content_type = content_type(&answer);
        let claimed = claimed_digest(&answer);
        let bytes = answer.bytes(&shown, MANIFEST_LIMIT)?;
        let found = Digest::of(&bytes);
        let mut claims = [reference.digest(), claimed].into_iter().flatten();
        if let Some(expected) = claims.find(|expected| *expected != found) {
            return Err(RegistryError::Digest { reference: shown, expected, found });
        }
        let document = Document::parse(&bytes, content_type.as_deref())
            .map_err(|source| RegistryError::Document { reference: shown, source })?;
        let media_type = media_type_of(&document, content_type);
        Ok(Resolved { digest: found, media_type, bytes, document })
    }

    /// Asks what a reference names without reading it; `None` where there is nothing of that name.
    pub fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        let found = self.read_from_sources(reference, naming_of(reference), None, |source| {
            let missing = || RegistryError::NotFound { reference: source.to_string() };
            self.head_manifest_at(source)?.ok_or_else(missing)
        });
        match found {
            Err(error) if matches!(error.last(), RegistryError::NotFound { .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// As [`Client::head_manifest`], of the registry itself.
    pub(super) fn head_manifest_at(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        self.head_manifest_with(reference, &Access::pull(reference.repository()))
    }

    /// Asks a place that is to be written to what is there. The right to write is asked for at once: some registries (GHCR)
    /// deny that to pull what does not exist.
    pub(super) fn head_target(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        self.head_manifest_with(reference, &Access::push(reference.repository()))
    }

    fn head_manifest_with(&self, reference: &Reference, access: &Access) -> Result<Option<Descriptor>, RegistryError> {
        let url = self.manifest_address(reference, &reference.version())?;
        let request = Request::new(Method::HEAD, url).header("accept", ACCEPTED.join(", "));
        let answer = self.send(reference, access, &request)?;
        match answer.status {
            200 => {}
            404 => return Ok(None),
            _ => return Err(refusal(answer, reference, &reference.to_string())),
        }
        let size = answer.header("content-length").and_then(|text| text.parse().ok());
        let (Some(digest), Some(size), Some(media_type)) = (claimed_digest(&answer), size, content_type(&answer))
        else {
            // The spec does not oblige registries to say all of it.
            let resolved = self.resolve_at(reference, None)?;
            return Ok(Some(Descriptor::new(&resolved.media_type, resolved.digest, resolved.bytes.len() as u64)));
        };
        if let Some(expected) = reference.digest().filter(|expected| *expected != digest) {
            return Err(RegistryError::Digest { reference: reference.to_string(), expected, found: digest });
        }
        Ok(Some(Descriptor::new(&media_type, digest, size)))
    }

    /// Reads the manifest that a descriptor points at, in the reference's repository.
    pub fn manifest(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.read_from_sources(reference, Naming::Digest, None, |source| self.manifest_at(source, descriptor))
    }

    fn manifest_at(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let expected = descriptor.digest;
        let shown = format!("{}/{}@{expected}", reference.registry(), reference.repository());
        if descriptor.size > MANIFEST_LIMIT {
            return Err(RegistryError::TooLarge { reference: shown, limit: MANIFEST_LIMIT });
        }
        let answer = self.ask_for_manifest(reference, &expected.to_string(), None)?;
        if answer.status != 200 {
            return Err(refusal(answer, reference, &shown));
        }
        let other_size =
            answer.invalid(format!("the manifest has not the {} bytes of its descriptor", descriptor.size));
        let bytes = answer.bytes(&shown, MANIFEST_LIMIT)?;
        let found = Digest::of(&bytes);
        if found != expected {
            return Err(RegistryError::Digest { reference: shown, expected, found });
        }
        if bytes.len() as u64 != descriptor.size {
            return Err(other_size);
        }
        Ok(bytes)
    }

    fn ask_for_manifest(
        &self,
        reference: &Reference,
        version: &str,
        task: Option<&Task>,
    ) -> Result<Answer, RegistryError> {
        let url = self.manifest_address(reference, version)?;
        let request = Request::new(Method::GET, url).header("accept", ACCEPTED.join(", ")).task(task);
        self.send(reference, &Access::pull(reference.repository()), &request)
    }

    fn manifest_address(&self, reference: &Reference, version: &str) -> Result<Url, RegistryError> {
        self.address(reference, &format!("manifests/{version}"))
    }
}

/// Finds the image that serves a platform, and reads its manifest and config; the layers are left to [`Client::blob`].
///
/// A name that stands for one image stands for it on every platform: whether the config's platform will do is for the
/// caller to say.
pub fn resolve_platform(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
    task: Option<&Task>,
) -> Result<PulledImage, RegistryError> {
    let resolved = client.resolve(reference, task)?;
    select_platform(client, reference, resolved, platform)
}

/// As [`resolve_platform`], of what the reference was found to stand for.
///
/// # Errors
/// As [`resolve_platform`].
pub fn select_platform(
    client: &Client,
    reference: &Reference,
    resolved: Resolved,
    platform: &Platform,
) -> Result<PulledImage, RegistryError> {
    let (mut digest, mut bytes, mut document) = (resolved.digest, resolved.bytes, resolved.document);
    let mut index_digest = None;
    for _ in 0..DEPTH_LIMIT {
        let index = match document {
            Document::Manifest(manifest) => {
                let shown = || format!("{}/{}@{digest}", reference.registry(), reference.repository());
                let config_bytes = client.blob_bytes(reference, &manifest.config, CONFIG_LIMIT)?;
                let config = ImageConfig::parse(&config_bytes)
                    .map_err(|source| RegistryError::Config { reference: shown(), source })?;
                let (manifest, manifest_digest, manifest_bytes) = (*manifest, digest, bytes);
                return Ok(PulledImage {
                    manifest_digest,
                    index_digest,
                    manifest,
                    manifest_bytes,
                    config,
                    config_bytes,
                });
            }
            Document::Index(index) => index,
        };
        index_digest = index_digest.or(Some(digest));
        let Some(descriptor) = index.select(platform) else {
            let offered = index.manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
            let mut offered: Vec<String> = offered.map(|platform| escaped(&platform.to_string())).collect();
            offered.retain(|platform| platform != "unknown/unknown");
            offered.dedup();
            let (reference, platform) = (reference.to_string(), platform.to_string());
            return Err(RegistryError::NoPlatform { reference, platform, offered });
        };
        bytes = client.manifest(reference, descriptor)?;
        digest = descriptor.digest;
        document = Document::parse(&bytes, Some(&descriptor.media_type)).map_err(|source| {
            let reference = format!("{}/{}@{digest}", reference.registry(), reference.repository());
            RegistryError::Document { reference, source }
        })?;
    }
    Err(RegistryError::Protocol {
        method: "GET".to_owned(),
        url: reference.to_string(),
        status: 0,
        message: format!("indexes lie in indexes more than {DEPTH_LIMIT} deep"),
    })
}

fn naming_of(reference: &Reference) -> Naming {
    if reference.digest().is_some() { Naming::Digest } else { Naming::Tag }
}

fn content_type(answer: &Answer) -> Option<String> {
    let text = answer.header("content-type")?.split(';').next()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What the registry says the digest is; one of another algorithm says nothing that could be checked.
fn claimed_digest(answer: &Answer) -> Option<Digest> {
    answer.header("docker-content-digest")?.trim().parse().ok()
}

/// As the document says, else as the registry says, else OCI's.
fn media_type_of(document: &Document, content_type: Option<String>) -> String {
    let told = content_type.filter(|told| media_type::is_index(told) || media_type::is_manifest(told));
    match document {
        Document::Manifest(manifest) => {
            manifest.media_type.clone().or(told).unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned())
        }
        Document::Index(index) => index.media_type.clone().or(told).unwrap_or_else(|| media_type::OCI_INDEX.to_owned()),
    }
}
