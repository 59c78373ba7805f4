//! Sends blobs to a repository while they are still made. What comes of it is only asked when the blob is pushed: whatever
//! went wrong until then, it is pushed as any other. What nobody wants in the end is taken back.

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::Method;

use super::Client;
use super::auth::Access;
use super::error::RegistryError;
use super::http::{Body, Open, Request};
use super::session::refusal;
use super::upload::{UploadSession, next_session, stored, taken_as};
use crate::digest::Digest;
use crate::image::reference::Reference;
use crate::progress::Part;

/// Blobs that are sent at a time.
const MOST: usize = 4;
/// How long it is waited for that what was sent for nothing is taken back: a registry flushes what it has before it answers.
const FAREWELL: Duration = Duration::from_secs(5);

/// A blob that is still made.
pub trait Unfinished: Debug + Send + Sync {
    /// Reads it from its start, and waits for what is not there yet. The end is an error where it was given up.
    fn open(&self) -> Box<dyn Read + Send>;

    /// Its digest, once it is whole.
    fn digest(&self) -> Option<Digest>;

    /// Gives it up, unless it is whole: who reads it need not wait any more.
    fn abandon(&self);
}

/// Whether a blob is sent early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It is, or it cannot be and need not be offered again.
    Yes,
    /// As many as may be are on their way now.
    NotYet,
}

/// Blobs on their way to a repository.
#[derive(Debug)]
pub struct EarlyUploads {
    client: Client,
    target: Reference,
    uploads: Mutex<Uploads>,
}

#[derive(Debug, Default)]
struct Uploads {
    /// Those that nobody has taken yet.
    left: Vec<EarlyUpload>,
    /// All of them.
    ways: Vec<Arc<Way>>,
    /// Nothing is begun any more.
    are_closed: bool,
}

/// One of them; dropping it takes back what was sent, unless it was finished.
#[derive(Debug)]
pub(super) struct EarlyUpload {
    blob: Arc<dyn Unfinished>,
    way: Arc<Way>,
}

/// How far an upload has come, and what is to become of it: between its thread and who pushes.
#[derive(Debug, Default)]
struct Way {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sent: u64,
    /// All of it was sent, or that failed.
    is_sent: bool,
    /// What was sent is not all of it.
    is_cut: bool,
    verdict: Option<Verdict>,
    /// Whether the repository has the blob now.
    outcome: Option<bool>,
    /// The thread has no more to do.
    is_over: bool,
}

/// What is to become of what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is this blob.
    Blob(Digest),
    /// Nobody wants it.
    Nothing,
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn is_unwanted(&self) -> bool {
        self.state().verdict == Some(Verdict::Nothing)
    }

    fn verdict(&self) -> Verdict {
        let mut state = self.state();
        loop {
            match state.verdict {
                _ if state.is_cut => return Verdict::Nothing,
                Some(verdict) => return verdict,
                None => state = self.wait(state),
            }
        }
    }

    /// Waits until it is known whether the repository has the blob. `part` shows how far it is meanwhile.
    fn outcome(&self, part: &mut Option<Part>) -> bool {
        let (mut state, mut shown) = (self.state(), 0);
        loop {
            let sent = state.sent;
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            drop(state);
            match part {
                Some(part) if sent < shown => part.reset(sent),
                Some(part) => part.advance(sent - shown),
                None => {}
            }
            shown = sent;
            state = self.state();
            if state.outcome.is_none() && state.sent == sent {
                state = self.wait(state);
            }
        }
    }

    /// Waits for the thread's end, but not for ever.
    fn await_end(&self, until: Instant) {
        let mut state = self.state();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|_| !state.is_over) {
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Says that the thread has ended, however it did.
struct Ending<'a>(&'a Way);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.is_sent = true;
            state.outcome.get_or_insert(false);
            state.is_over = true;
        });
    }
}

impl EarlyUpload {
    /// Says what it is, and waits until the repository has it. False where it has no such blob for that.
    pub(super) fn finish(&self, digest: Digest, part: &mut Option<Part>) -> bool {
        self.way.change(|state| {
            state.verdict.get_or_insert(Verdict::Blob(digest));
        });
        self.way.outcome(part)
    }

    fn stop(&self) {
        self.way.change(|state| {
            state.verdict.get_or_insert(Verdict::Nothing);
        });
        self.blob.abandon();
    }
}

impl Drop for EarlyUpload {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An upload that has all of its bytes.
struct Sent {
    session: UploadSession,
    /// Bytes that the registry says it has.
    stored: Option<u64>,
}

impl Client {
    /// Begins an upload, once: there is another way.
    fn begin_upload(&self, reference: &Reference) -> Result<UploadSession, RegistryError> {
        let begin = Request::new(Method::POST, self.address(reference, "blobs/uploads/")?).without_retries();
        let answer = self.send(reference, &Access::push(reference.repository()), &begin)?;
        if answer.status != 202 {
            return Err(refusal(answer, reference, reference.repository()));
        }
        let session = next_session(&answer, None)?;
        answer.discard();
        Ok(session)
    }

    /// Sends a blob of which neither size nor digest is known yet, as Docker sends every blob, once. It is there when
    /// [`Client::complete_upload`] has said what it is.
    fn send_unfinished(
        &self,
        reference: &Reference,
        session: &UploadSession,
        open: Open<'_>,
    ) -> Result<Sent, RegistryError> {
        let send = Request::new(Method::PATCH, session.url.clone())
            .header("content-type", "application/octet-stream")
            .body(Body::Pieces { open })
            .commits()
            .without_retries();
        let answer = self.send(reference, &Access::push(reference.repository()), &send)?;
        if !matches!(answer.status, 201..=204) {
            return Err(refusal(answer, reference, reference.repository()));
        }
        let sent = Sent { session: next_session(&answer, Some(session))?, stored: stored(&answer) };
        answer.discard();
        Ok(sent)
    }

    /// Says what the blob is that an upload has brought, of so many bytes.
    fn complete_upload(
        &self,
        reference: &Reference,
        sent: &Sent,
        size: u64,
        digest: Digest,
    ) -> Result<(), RegistryError> {
        let url = sent.session.url.with_parameter("digest", &digest.to_string());
        let request = Request::new(Method::PUT, url).body(Body::Bytes(&[])).commits().once();
        // Something on the way that knows no bodies of unknown size has thrown it away.
        if sent.stored.is_some_and(|stored| stored < size) {
            return Err(request.invalid("the registry has not got all of the blob"));
        }
        let answer = self.send(reference, &Access::push(reference.repository()), &request)?;
        match answer.status {
            200 | 201 | 204 => taken_as(answer, reference, digest),
            _ => Err(refusal(answer, reference, reference.repository())),
        }
    }

    /// Has the registry forget an upload. What goes wrong with that is its own affair.
    fn cancel_upload(&self, reference: &Reference, session: &UploadSession) {
        let cancel = Request::new(Method::DELETE, session.url.clone()).without_retries();
        drop(self.send(reference, &Access::push(reference.repository()), &cancel));
    }
}

/// The whole way of a blob, on a thread of its own.
fn send(client: &Client, target: &Reference, blob: &dyn Unfinished, way: &Way) {
    let _ending = Ending(way);
    let Ok(begun) = client.begin_upload(target) else { return };
    let open = || {
        way.change(|state| (state.sent, state.is_cut) = (0, false));
        Ok(Box::new(Counted { inner: blob.open(), way }) as Box<dyn Read + '_>)
    };
    let sent = client.send_unfinished(target, &begun, &open);
    way.change(|state| state.is_sent = true);
    let completed = match &sent {
        Ok(sent) => match way.verdict() {
            Verdict::Blob(digest) => Some(client.complete_upload(target, sent, way.state().sent, digest)),
            Verdict::Nothing => None,
        },
        Err(_) => None,
    };
    // Who waits need not wait for what is done about a failure.
    way.change(|state| state.outcome = Some(matches!(completed, Some(Ok(())))));
    let may_be_taken = match &completed {
        Some(Ok(()) | Err(RegistryError::Transfer { .. })) => true,
        Some(Err(RegistryError::Protocol { status, .. })) => *status >= 500,
        Some(Err(_)) | None => false,
    };
    if !may_be_taken {
        // Registries forget uploads that nobody goes on with, but after a week perhaps.
        client.cancel_upload(target, sent.as_ref().map_or(&begun, |sent| &sent.session));
    }
}

impl EarlyUploads {
    /// To the repository of a name.
    pub fn new(client: Client, target: Reference) -> EarlyUploads {
        EarlyUploads { client, target, uploads: Mutex::default() }
    }

    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to send a blob. Where that cannot be begun it is pushed later, as any other.
    pub fn begin(&self, blob: Arc<dyn Unfinished>) -> Begun {
        let mut uploads = self.uploads();
        if uploads.are_closed {
            return Begun::Yes;
        }
        if uploads.ways.iter().filter(|way| !way.state().is_sent).count() >= MOST {
            return Begun::NotYet;
        }
        let way = Arc::new(Way::default());
        let work = {
            let (client, target) = (self.client.clone(), self.target.clone());
            let (blob, way) = (Arc::clone(&blob), Arc::clone(&way));
            move || send(&client, &target, &*blob, &way)
        };
        if thread::Builder::new().name("push".to_owned()).spawn(work).is_ok() {
            uploads.ways.push(Arc::clone(&way));
            uploads.left.push(EarlyUpload { blob, way });
        }
        Begun::Yes
    }

    /// Takes what is on its way to this repository and has become this blob.
    pub(super) fn take(&self, target: &Reference, digest: Digest) -> Option<EarlyUpload> {
        if (target.registry(), target.repository()) != (self.target.registry(), self.target.repository()) {
            return None;
        }
        let mut uploads = self.uploads();
        let at = uploads.left.iter().position(|upload| upload.blob.digest() == Some(digest))?;
        Some(uploads.left.swap_remove(at))
    }

    /// Takes back what nobody has taken, and begins nothing any more.
    pub fn close(&self) {
        let Uploads { left, ways, .. } =
            std::mem::replace(&mut *self.uploads(), Uploads { are_closed: true, ..Uploads::default() });
        drop(left);
        // A process that ends at once would end the threads before they have said so to the registry.
        let until = Instant::now() + FAREWELL;
        ways.iter().for_each(|way| way.await_end(until));
    }
}

impl Drop for EarlyUploads {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts, and ends when nobody wants more or no more can be had: also in the middle of what is whole. That is an end like any
/// other, as registries let an upload be taken back only by who knows how much of it they have, which the answer tells.
struct Counted<'a> {
    inner: Box<dyn Read + Send>,
    way: &'a Way,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = if self.way.is_unwanted() { None } else { self.inner.read(buffer).ok() };
        self.way.change(|state| match read {
            Some(count) => state.sent += count as u64,
            None => state.is_cut = true,
        });
        Ok(read.unwrap_or(0))
    }
}
