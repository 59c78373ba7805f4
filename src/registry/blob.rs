//! Reads blobs: verified, and from where they were cut.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::thread;

use ureq::BodyReader;
use ureq::http::Method;

use super::Client;
use super::auth::Access;
use super::error::RegistryError;
use super::http::Request;
use super::registries::Naming;
use super::session::refusal;
use super::sources::Refusals;
use crate::digest::VerifyReader;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;

/// A transfer that brought this much since its last failure is alive: its failures are counted anew.
const ALIVE: u64 = 1 << 20;

impl Client {
    /// Reads a blob; the first read asks the registry.
    ///
    /// The bytes are verified when the reader is read to its end. An error of the registry can be taken out of the
    /// `io::Error` with [`RegistryError::of_io`]. Addresses in the descriptor's `urls` are never asked.
    pub fn blob(&self, reference: &Reference, descriptor: &Descriptor) -> BlobReader {
        let resuming = Resuming {
            client: self.clone(),
            reference: reference.clone(),
            sources: None,
            refusals: Refusals::default(),
            descriptor: descriptor.clone(),
            offset: 0,
            skip: 0,
            body: None,
            failures: 0,
            failed_at: 0,
            ranges: Ranges::Trusted,
        };
        BlobReader(VerifyReader::new(resuming, descriptor.digest, Some(descriptor.size)))
    }

    /// Reads all of a blob that is not larger than `limit`.
    pub fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let shown = format!("{}/{}@{}", reference.registry(), reference.repository(), descriptor.digest);
        if descriptor.size > limit {
            return Err(RegistryError::TooLarge { reference: shown, limit });
        }
        let mut bytes = Vec::new();
        match self.blob(reference, descriptor).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(match error.downcast::<RegistryError>() {
                Ok(error) => error,
                Err(source) => RegistryError::Transfer { method: "GET".to_owned(), url: shown, source },
            }),
        }
    }
}

/// The bytes of a blob, as [`Client::blob`] gives them.
pub struct BlobReader(VerifyReader<Resuming>);

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Whether the registry is asked for parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Trusted,
    /// It answered with another part than it was asked for; from now on all is read again and the known part skipped.
    Broken,
}

struct Resuming {
    client: Client,
    reference: Reference,
    /// The places left to ask, the one that is asked first; found out with the first read.
    sources: Option<VecDeque<Reference>>,
    refusals: Refusals,
    descriptor: Descriptor,
    /// Bytes given to the reader.
    offset: u64,
    /// Bytes still to come that the reader has already.
    skip: u64,
    body: Option<BodyReader<'static>>,
    failures: u32,
    failed_at: u64,
    ranges: Ranges,
}

impl Read for Resuming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let complete = self.offset >= self.descriptor.size;
            let Some(body) = &mut self.body else {
                if complete {
                    return Ok(0);
                }
                self.open().map_err(RegistryError::into_io)?;
                continue;
            };
            let wanted = match self.skip {
                0 => buffer.len(),
                skip => usize::try_from(skip).map_or(buffer.len(), |skip| skip.min(buffer.len())),
            };
            match body.read(&mut buffer[..wanted]) {
                Ok(count) if count > 0 && self.skip > 0 => self.skip -= count as u64,
                Ok(count) if count > 0 => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // All bytes came. How the connection ended is nobody's concern: the digest decides.
                _ if complete => return Ok(0),
                Ok(_) => {
                    let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer was cut");
                    self.failed(cut).map_err(RegistryError::into_io)?;
                }
                Err(error) => self.failed(error).map_err(RegistryError::into_io)?,
            }
        }
    }
}

impl Resuming {
    /// Asks the place at hand; where it will not help, the next one, which goes on where this one stopped.
    fn open(&mut self) -> Result<(), RegistryError> {
        loop {
            let source = self.source()?;
            match self.open_at(&source) {
                Ok(()) => {
                    self.client.prefer(&self.reference, &source);
                    return Ok(());
                }
                Err(error) => self.next_source(error)?,
            }
        }
    }

    fn source(&mut self) -> Result<Reference, RegistryError> {
        if self.sources.is_none() {
            self.sources = Some(self.client.sources(&self.reference, Naming::Digest)?.into());
        }
        let first = self.sources.as_ref().and_then(|sources| sources.front()).cloned();
        Ok(first.unwrap_or_else(|| self.reference.clone()))
    }

    /// Goes on to the next place; the error where there is none.
    fn next_source(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let Some(sources) = self.sources.as_mut().filter(|sources| sources.len() > 1) else {
            return Err(self.refusals.with(error));
        };
        if let Some(source) = sources.pop_front() {
            self.refusals.add(&source, &error);
        }
        (self.failures, self.ranges, self.body) = (0, Ranges::Trusted, None);
        Ok(())
    }

    fn open_at(&mut self, source: &Reference) -> Result<(), RegistryError> {
        let digest = self.descriptor.digest;
        let url = self.client.address(source, &format!("blobs/{digest}"))?;
        let mut request = Request::new(Method::GET, url);
        let resumes = self.offset > 0 && self.ranges == Ranges::Trusted;
        if resumes {
            request = request.header("range", format!("bytes={}-", self.offset));
        }
        let answer = self.client.send(source, &Access::pull(source.repository()), &request)?;
        self.skip = match answer.status {
            200 => self.offset,
            206 if resumes && self.is_continued_by(answer.header("content-range")) => 0,
            206 | 416 if resumes => {
                self.ranges = Ranges::Broken;
                return self.failed(io::Error::new(io::ErrorKind::InvalidData, "the registry gave another range"));
            }
            _ => return Err(refusal(answer, source, &format!("{}@{digest}", source.name()))),
        };
        // `with_config` lifts ureq's limit of 10 MB; how much is read is limited by the descriptor's size.
        self.body = Some(answer.body.into_with_config().limit(u64::MAX).reader());
        Ok(())
    }

    fn is_continued_by(&self, content_range: Option<&str>) -> bool {
        let range = content_range.and_then(|text| text.trim().strip_prefix("bytes"));
        let start = range.and_then(|range| range.trim().split('-').next()?.trim().parse::<u64>().ok());
        start == Some(self.offset)
    }

    /// Counts a failure, and waits before the next try; an error where there is none.
    fn failed(&mut self, source: io::Error) -> Result<(), RegistryError> {
        self.body = None;
        if self.offset - self.failed_at >= ALIVE {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        let policy = &self.client.shared.transport.policy;
        if self.failures >= policy.retries {
            let error = self.given_up(source);
            return self.next_source(error);
        }
        thread::sleep(policy.delay(self.failures));
        self.failures += 1;
        Ok(())
    }

    fn given_up(&self, source: io::Error) -> RegistryError {
        let source = match source.downcast::<RegistryError>() {
            Ok(error) => return error,
            Err(source) => source,
        };
        let place = self.sources.as_ref().and_then(|sources| sources.front()).unwrap_or(&self.reference);
        let (offset, size, retries) = (self.offset, self.descriptor.size, self.failures);
        let text = format!("{source} (after {offset} of {size} bytes and {retries} retries)");
        RegistryError::Transfer {
            method: "GET".to_owned(),
            url: format!("{}@{}", place.name(), self.descriptor.digest),
            source: io::Error::new(source.kind(), text),
        }
    }
}
