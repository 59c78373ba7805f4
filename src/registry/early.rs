//! Sends blobs to a repository while they are still made. What comes of it is only asked when the blob is pushed: whatever
//! went wrong until then, it is pushed as any other.

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::Client;
use super::error::RegistryError;
use super::upload::UploadSession;
use crate::digest::Digest;
use crate::image::reference::Reference;
use crate::progress::Part;

/// Blobs that are sent at a time.
const MOST: usize = 4;

/// A blob that is still made.
pub trait Unfinished: Debug + Send + Sync {
    /// Reads it from its start, and waits for what is not there yet. The end is an error where it was given up.
    fn open(&self) -> Box<dyn Read + Send>;

    /// Its digest, once it is whole.
    fn digest(&self) -> Option<Digest>;

    /// Gives it up, unless it is whole: who reads it need not wait any more.
    fn abandon(&self);
}

/// Blobs on their way to a repository.
#[derive(Debug)]
pub struct EarlyUploads {
    client: Client,
    target: Reference,
    /// `None`: nothing is taken any more.
    uploads: Mutex<Option<Vec<EarlyUpload>>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct EarlyUpload {
    blob: Arc<dyn Unfinished>,
    way: Arc<Way>,
}

/// How far an upload has come.
#[derive(Debug, Default)]
struct Way {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sent: u64,
    /// Nobody wants it any more.
    is_unwanted: bool,
    end: Option<Result<UploadSession, RegistryError>>,
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn is_unwanted(&self) -> bool {
        self.state().is_unwanted
    }

    /// What came of it, once it has ended. `part` shows how far it is meanwhile.
    fn end(&self, part: &mut Option<Part>) -> Option<UploadSession> {
        let mut state = self.state();
        loop {
            if let Some(part) = part {
                part.reset(state.sent);
            }
            if let Some(end) = state.end.take() {
                return end.ok();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl EarlyUpload {
    /// Stops it; what was sent is thrown away by the registry.
    pub(super) fn stop(&self) {
        self.way.change(|state| state.is_unwanted = true);
        self.blob.abandon();
    }

    /// Waits for its end, and says what it is. False where the repository has no such blob for that.
    pub(super) fn finish(&self, client: &Client, target: &Reference, digest: Digest, part: &mut Option<Part>) -> bool {
        let session = self.way.end(part);
        session.is_some_and(|session| client.complete_upload(target, &session, digest).is_ok())
    }
}

impl EarlyUploads {
    /// To the repository of a name.
    pub fn new(client: Client, target: Reference) -> EarlyUploads {
        EarlyUploads { client, target, uploads: Mutex::new(Some(Vec::new())) }
    }

    fn uploads(&self) -> MutexGuard<'_, Option<Vec<EarlyUpload>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to send a blob. Where that cannot be begun it is pushed later, as any other.
    pub fn begin(&self, blob: Arc<dyn Unfinished>) {
        let mut uploads = self.uploads();
        let Some(uploads) = uploads.as_mut().filter(|uploads| uploads.len() < MOST) else { return };
        let way = Arc::new(Way::default());
        let work = {
            let (client, target) = (self.client.clone(), self.target.clone());
            let (blob, way) = (Arc::clone(&blob), Arc::clone(&way));
            move || {
                let open = || Ok(Box::new(Counted { inner: blob.open(), way: &way }) as Box<dyn Read + '_>);
                let end = client.upload_unfinished(&target, &open);
                way.change(|state| state.end = Some(end));
            }
        };
        if thread::Builder::new().name("push".to_owned()).spawn(work).is_ok() {
            uploads.push(EarlyUpload { blob, way });
        }
    }

    /// Takes what is on its way to this repository and has become this blob.
    pub(super) fn take(&self, target: &Reference, digest: Digest) -> Option<EarlyUpload> {
        if (target.registry(), target.repository()) != (self.target.registry(), self.target.repository()) {
            return None;
        }
        let mut uploads = self.uploads();
        let uploads = uploads.as_mut()?;
        let at = uploads.iter().position(|upload| upload.blob.digest() == Some(digest))?;
        Some(uploads.swap_remove(at))
    }

    /// Stops what nobody has taken, and begins nothing any more.
    pub fn close(&self) {
        let left = self.uploads().take();
        left.iter().flatten().for_each(EarlyUpload::stop);
    }
}

impl Drop for EarlyUploads {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts, and ends when nobody wants more: also in the middle of what is whole.
struct Counted<'a> {
    inner: Box<dyn Read + Send>,
    way: &'a Way,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.way.is_unwanted() {
            return Err(io::Error::other("it is not wanted any more"));
        }
        let count = self.inner.read(buffer)?;
        self.way.change(|state| state.sent += count as u64);
        Ok(count)
    }
}
