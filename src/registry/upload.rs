//! Writes blobs and manifests.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::thread;

use ureq::http::Method;

use super::Client;
use super::answer::Answer;
use super::auth::Access;
use super::error::RegistryError;
use super::http::{Body, Request, upgraded};
use super::session::{NO_REGISTRY, refusal};
use super::url::{Scheme, Url};
use crate::digest::{Digest, VerifyReader};
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::progress::Part;

/// The size of a part, where an upload in one piece is not possible; it is held in memory.
const CHUNK: u64 = 8 << 20;

/// No registry may make us hold more than this.
const CHUNK_LIMIT: u64 = 256 << 20;

/// An upload that the registry is ready for.
#[derive(Debug, Clone)]
pub struct UploadSession {
    pub(super) url: Url,
    least_chunk: u64,
}

/// What came of asking a registry to take a blob over from another of its repositories.
#[derive(Debug, Clone)]
pub enum MountOutcome {
    /// The blob is there.
    Mounted,
    /// It has to be uploaded; the registry is ready for it.
    Upload(UploadSession),
}

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushOutcome {
    /// It was there.
    Existed,
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// How the bytes of an upload travel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    OnePiece,
    /// For registries, and proxies before them, that refuse large requests.
    Chunks,
}

/// Makes a fresh reader of a blob's bytes.
pub(super) type OpenBlob<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync);

impl Client {
    /// Whether a repository has a blob.
    pub fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        self.has_blob_with(reference, digest, None, &Access::pull(reference.repository()))
    }

    fn has_blob_with(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: Option<u64>,
        access: &Access,
    ) -> Result<bool, RegistryError> {
        let url = self.address(reference, &format!("blobs/{digest}"))?;
        let request = Request::new(Method::HEAD, url.clone());
        let answer = self.send(reference, access, &request)?;
        match answer.status {
            // A web server that has a page for every address has one of some other size for this.
            200 => Ok(match (size, answer.header("content-length").and_then(|text| text.trim().parse::<u64>().ok())) {
                (Some(size), Some(told)) => size == told,
                _ => true,
            }),
            404 => Ok(false),
            // Sent on to an object store, whose address was signed for GET alone: the registry has it.
            401 | 403 | 405 if !answer.url.same_origin(&url) => Ok(true),
            _ => Err(refusal(answer, reference, &format!("{reference} ({digest})"))),
        }
    }

    /// Asks the registry to take a blob over from another of its repositories.
    pub fn mount(&self, reference: &Reference, digest: &Digest, from: &str) -> Result<MountOutcome, RegistryError> {
        let access = Access::mount(reference.repository(), from);
        let url = self.address(reference, "blobs/uploads/")?;
        let url = url.with_parameter("mount", &digest.to_string()).with_parameter("from", from);
        let request = Request::new(Method::POST, url);
        let answer = self.send(reference, &access, &request)?;
        match answer.status {
            201 => Ok(MountOutcome::Mounted),
            202 => Ok(MountOutcome::Upload(next_session(&answer, None)?)),
            _ => Err(refusal(answer, reference, reference.repository())),
        }
    }

    /// Sends a blob, unless the repository has it; `open` is called for each try.
    ///
    /// What `open` gives is verified before its last bytes are sent.
    pub fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        open: OpenBlob<'_>,
        part: Option<Part>,
    ) -> Result<PushOutcome, RegistryError> {
        if self.has_for_push(reference, descriptor)? {
            if let Some(part) = part {
                part.finish();
            }
            return Ok(PushOutcome::Existed);
        }
        self.upload(reference, descriptor, open, part, None)
    }

    /// Whether a repository has a blob of this digest and, where the registry tells it, of this size.
    pub(super) fn has_for_push(&self, reference: &Reference, blob: &Descriptor) -> Result<bool, RegistryError> {
        self.has_blob_with(reference, &blob.digest, Some(blob.size), &Access::push(reference.repository()))
    }

    /// Sends a blob that is not there, from its start for each try.
    pub(super) fn upload(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        open: OpenBlob<'_>,
        part: Option<Part>,
        session: Option<UploadSession>,
    ) -> Result<PushOutcome, RegistryError> {
        let access = Access::push(reference.repository());
        let upload = Upload {
            client: self,
            reference,
            access,
            descriptor,
            open,
            part: RefCell::new(part),
            failures: Cell::new(0),
        };
        upload.run(session)?;
        if let Some(part) = upload.part.into_inner() {
            part.finish();
        }
        Ok(PushOutcome::Uploaded)
    }

    /// Sends a blob in chunks at once, which otherwise only a refusal brings about.
    #[cfg(test)]
    pub(super) fn upload_in_chunks(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        open: OpenBlob<'_>,
    ) -> Result<(), RegistryError> {
        let access = Access::push(reference.repository());
        let upload = Upload {
            client: self,
            reference,
            access,
            descriptor,
            open,
            part: RefCell::default(),
            failures: Cell::new(0),
        };
        upload.attempt(None, Way::Chunks)
    }

    /// Writes a manifest or index under the reference's tag, or under its digest where it has one.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        self.put_manifest(reference, &reference.version(), media_type, bytes)
    }

    pub(super) fn put_manifest(
        &self,
        reference: &Reference,
        version: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let url = self.address(reference, &format!("manifests/{version}"))?;
        let access = Access::push(reference.repository());
        let request =
            Request::new(Method::PUT, url).header("content-type", media_type).body(Body::Bytes(bytes)).commits();
        let mut retry = 0;
        loop {
            let answer = self.send(reference, &access, &request)?;
            let found = Digest::of(bytes);
            if matches!(answer.status, 200..=204) {
                let claimed = answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
                // The distribution-spec has 201 alone, some registries say 200, 202 or 204, as web servers do to anybody.
                if answer.status != 201 && claimed.is_none() && answer.is_page() {
                    return Err(answer.invalid(NO_REGISTRY));
                }
                answer.discard();
                return match claimed.filter(|claimed| *claimed != found) {
                    Some(expected) => Err(RegistryError::Digest { reference: reference.to_string(), expected, found }),
                    None => Ok(found),
                };
            }
            let status = answer.status;
            let error = refusal(answer, reference, &reference.to_string());
            // Registries over eventually consistent stores forget for a moment the blobs that they just took.
            let forgetful = matches!(&error, RegistryError::Protocol { message, .. } if message.contains("UNKNOWN"));
            if retry >= 3 || !(forgetful || status == 404) {
                return Err(match error {
                    RegistryError::Protocol { status: status @ (400 | 415), message, .. } => {
                        let (reference, media_type) = (reference.to_string(), media_type.to_owned());
                        RegistryError::ManifestRefused { reference, media_type, status, message }
                    }
                    error => error,
                });
            }
            thread::sleep(self.shared.transport.policy.delay(retry));
            retry += 1;
        }
    }
}

struct Upload<'a> {
    client: &'a Client,
    reference: &'a Reference,
    access: Access,
    descriptor: &'a Descriptor,
    open: OpenBlob<'a>,
    part: RefCell<Option<Part>>,
    /// Counts those of all tries.
    failures: Cell<u32>,
}

impl Upload<'_> {
    fn run(&self, mut session: Option<UploadSession>) -> Result<(), RegistryError> {
        let policy = &self.client.shared.transport.policy;
        let mut way = Way::OnePiece;
        loop {
            let error = match self.attempt(session.take(), way) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let (after, retry) = (AfterFailure::of(&error, way), self.failures.get());
            if after == AfterFailure::GiveUp || retry >= policy.retries {
                return Err(error);
            }
            // A registry that refuses a large request often closes the connection in the middle of it, which looks
            // like a cut: after two of these the other way is worth a try.
            if after == AfterFailure::OtherWay || retry >= 1 {
                way = Way::Chunks;
            }
            thread::sleep(policy.delay(retry));
            self.failures.set(retry + 1);
            // The answer may have been lost, not the blob.
            if self.client.has_for_push(self.reference, self.descriptor)? {
                return Ok(());
            }
        }
    }

    fn attempt(&self, session: Option<UploadSession>, way: Way) -> Result<(), RegistryError> {
        let session = match session {
            Some(session) => session,
            None => self.begin()?,
        };
        match way {
            Way::OnePiece => self.send_whole(&session),
            Way::Chunks => self.send_chunks(session),
        }
    }

    fn begin(&self) -> Result<UploadSession, RegistryError> {
        let url = self.client.address(self.reference, "blobs/uploads/")?;
        // Sending it twice leaves an upload that nobody goes on with; registries sweep those.
        let answer = self.client.send(self.reference, &self.access, &Request::new(Method::POST, url))?;
        match answer.status {
            202 => next_session(&answer, None),
            _ => Err(self.refused(answer)),
        }
    }

    fn refused(&self, answer: Answer) -> RegistryError {
        match answer.status {
            // "not found" would say the wrong thing: it is the upload that is gone.
            404 => answer.invalid("the upload is not known (any more)"),
            _ => refusal(answer, self.reference, self.reference.repository()),
        }
    }

    /// Opens the content anew, verified and counted.
    fn opened(&self) -> io::Result<Box<dyn Read + '_>> {
        let inner = VerifyReader::new((self.open)()?, self.descriptor.digest, Some(self.descriptor.size));
        if let Some(part) = self.part.borrow_mut().as_mut() {
            part.reset(0);
        }
        Ok(Box::new(Counted { inner, part: &self.part }))
    }

    fn send_whole(&self, session: &UploadSession) -> Result<(), RegistryError> {
        let open = || self.opened();
        let digest = self.descriptor.digest;
        let url = session.url.with_parameter("digest", &digest.to_string());
        let request = Request::new(Method::PUT, url)
            .header("content-type", "application/octet-stream")
            .body(Body::Stream { digest, size: self.descriptor.size, open: &open })
            .commits()
            .once();
        self.finished(self.client.send(self.reference, &self.access, &request)?)
    }

    fn send_chunks(&self, mut session: UploadSession) -> Result<(), RegistryError> {
        let digest = self.descriptor.digest;
        let unreadable = |source| RegistryError::Source { digest, source };
        let mut content = self.opened().map_err(unreadable)?;
        let chunk = session.least_chunk.clamp(CHUNK, CHUNK_LIMIT);
        let mut buffer = Vec::new();
        let mut offset = 0;
        loop {
            buffer.clear();
            content.by_ref().take(chunk).read_to_end(&mut buffer).map_err(unreadable)?;
            if buffer.is_empty() {
                break;
            }
            session = self.send_chunk(session, offset, &buffer)?;
            offset += buffer.len() as u64;
        }
        let url = session.url.with_parameter("digest", &digest.to_string());
        let request = Request::new(Method::PUT, url).body(Body::Bytes(&[])).commits().once();
        self.finished(self.client.send(self.reference, &self.access, &request)?)
    }

    /// Sends one chunk. Where that fails, the registry is asked how much of it came, and the rest is sent.
    fn send_chunk(&self, session: UploadSession, start: u64, chunk: &[u8]) -> Result<UploadSession, RegistryError> {
        let policy = &self.client.shared.transport.policy;
        let (mut session, mut sent) = (session, 0);
        loop {
            let error = match self.patch(&session, start + sent as u64, &chunk[sent..]) {
                Ok(next) => return Ok(next),
                Err(error) => error,
            };
            let failures = self.failures.get();
            if AfterFailure::of(&error, Way::Chunks) == AfterFailure::GiveUp || failures >= policy.retries {
                return Err(error);
            }
            thread::sleep(policy.delay(failures));
            self.failures.set(failures + 1);
            let Some((next, stored)) = self.ask_how_far(&session) else { return Err(error) };
            let within = stored.checked_sub(start).and_then(|stored| usize::try_from(stored).ok());
            // Less than before this chunk, or more than there is: then only a new upload helps.
            let Some(within) = within.filter(|within| *within <= chunk.len()) else { return Err(error) };
            if within == chunk.len() {
                return Ok(next);
            }
            if within > sent {
                // A failure that brought bytes does not count.
                self.failures.set(failures);
            }
            (session, sent) = (next, within);
        }
    }

    fn patch(&self, session: &UploadSession, offset: u64, bytes: &[u8]) -> Result<UploadSession, RegistryError> {
        let request = Request::new(Method::PATCH, session.url.clone())
            .header("content-type", "application/octet-stream")
            .header("content-range", format!("{offset}-{}", offset + bytes.len() as u64 - 1))
            .body(Body::Bytes(bytes))
            .commits()
            .once();
        let answer = self.client.send(self.reference, &self.access, &request)?;
        if !matches!(answer.status, 201..=204) {
            return Err(self.refused(answer));
        }
        let next = next_session(&answer, Some(session))?;
        answer.discard();
        Ok(next)
    }

    /// How many bytes of an upload the registry has, and where it goes on; `None` where it does not say.
    fn ask_how_far(&self, session: &UploadSession) -> Option<(UploadSession, u64)> {
        let request = Request::new(Method::GET, session.url.clone());
        // What is not known now is found out by sending all again.
        let answer = self.client.send(self.reference, &self.access, &request).ok()?;
        if !matches!(answer.status, 200..=204) {
            return None;
        }
        let stored = stored(&answer)?;
        let next = next_session(&answer, Some(session)).ok()?;
        answer.discard();
        Some((next, stored))
    }

    fn finished(&self, answer: Answer) -> Result<(), RegistryError> {
        if !matches!(answer.status, 200 | 201 | 204) {
            return Err(self.refused(answer));
        }
        taken_as(answer, self.reference, self.descriptor.digest)
    }
}

/// Checks that a registry took a blob as what it is.
pub(super) fn taken_as(answer: Answer, reference: &Reference, expected: Digest) -> Result<(), RegistryError> {
    let claimed = answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
    answer.discard();
    match claimed.filter(|claimed| *claimed != expected) {
        Some(found) => Err(RegistryError::Digest { reference: reference.to_string(), expected, found }),
        None => Ok(()),
    }
}

/// What to do about an upload that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterFailure {
    GiveUp,
    Again,
    OtherWay,
}

impl AfterFailure {
    fn of(error: &RegistryError, way: Way) -> AfterFailure {
        match error {
            RegistryError::Transfer { .. } => AfterFailure::Again,
            RegistryError::Protocol { status, message, .. } => match (*status, way) {
                // The bytes were verified when they were sent: they were harmed on their way.
                (400, _) if message.contains("DIGEST_INVALID") => AfterFailure::Again,
                (404 | 408 | 416 | 500 | 502 | 503 | 504, _) => AfterFailure::Again,
                (400 | 405 | 411 | 413 | 415 | 501, Way::OnePiece) => AfterFailure::OtherWay,
                _ => AfterFailure::GiveUp,
            },
            _ => AfterFailure::GiveUp,
        }
    }
}

/// How many bytes of an upload a registry says that it has.
pub(super) fn stored(answer: &Answer) -> Option<u64> {
    let range = answer.header("range")?.trim_start_matches("bytes=").trim();
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    // `0-0` is what registries say of an upload without a byte, and nobody sends chunks of one.
    Some(if last == 0 { 0 } else { last + 1 })
}

/// Where an upload goes on; a chunk's answer may leave it where it was.
pub(super) fn next_session(answer: &Answer, before: Option<&UploadSession>) -> Result<UploadSession, RegistryError> {
    let url = match (answer.header("location"), before) {
        (Some(location), _) => answer.url.join(location),
        (None, Some(before)) => return Ok(before.clone()),
        (None, None) => None,
    };
    let url = url.ok_or_else(|| answer.invalid("the registry does not say where to upload to"))?;
    let url = upgraded(&answer.url, url);
    if answer.url.scheme() == Scheme::Https && url.scheme() == Scheme::Http {
        return Err(answer.invalid(format!("refused to upload over plain http to {url}")));
    }
    let least_chunk = answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Ok(UploadSession { url, least_chunk })
}

struct Counted<'a, R> {
    inner: R,
    part: &'a RefCell<Option<Part>>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(part) = self.part.borrow_mut().as_mut() {
            part.advance(count as u64);
        }
        Ok(count)
    }
}
