//! Plain requests to services that are no registries: object stores, a CI's cache.
//!
//! Contract: the connections, proxies, certificates and patience of the registry client, and nothing else of it: no
//! registry's credentials are sent, no challenge is answered and no redirect is followed, so that what a caller puts into a
//! request reaches the address that the caller names and no other. Headers are made anew for each try, as signatures age.
//! Patience ends where the caller says so.

use std::io::{self, Read};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::Method;

use super::Client;
use super::answer::Answer;
use super::error::{RegistryError, escaped};
use super::http::{Body, Patience, Request};
use super::retry::http_date;
use super::url::Url;
use crate::digest::Digest;
use crate::progress::Task;

/// How much of a refusal is read.
const REFUSAL_LIMIT: u64 = 64 << 10;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `PUT`
    Put,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Verb {
    /// As it is in a request.
    pub fn text(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Head => "HEAD",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
        }
    }

    fn method(self) -> Method {
        match self {
            Verb::Get => Method::GET,
            Verb::Head => Method::HEAD,
            Verb::Put => Method::PUT,
            Verb::Post => Method::POST,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        }
    }
}

/// Opens what is sent, anew for each try.
pub type OpenContent<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read>>;

/// What is sent.
#[derive(Clone, Copy)]
pub enum CallContent<'a> {
    /// Nothing.
    None,
    /// What is in memory.
    Bytes(&'a [u8]),
    /// A blob.
    Blob {
        /// Its digest, for messages.
        digest: Digest,
        /// Its size.
        size: u64,
        /// Its bytes.
        open: OpenContent<'a>,
    },
}

/// Headers of a request.
pub type Headers = Vec<(&'static str, String)>;

/// A request.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub address: &'a Url,
    /// Made for each try.
    pub headers: &'a dyn Fn() -> Headers,
    /// What is sent.
    pub content: CallContent<'a>,
    /// How long it is tried.
    pub effort: Effort,
    /// What the text of a refusal (status 400 or 409) has in it that another try may not meet.
    pub passing: &'a [&'a str],
    /// Told about retries.
    pub task: Option<&'a Task>,
}

/// How long a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As often as a registry's.
    Usual,
    /// As [`Effort::Usual`], but not beyond a moment.
    Until(Instant),
    /// Once and for a second: it may be that nobody is there.
    Glance,
}

/// An answer, whatever its status; its body has not been read, but of some refusals.
pub struct Reply {
    answer: Answer,
    refusal: Option<String>,
}

impl Reply {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.answer.status
    }

    /// Whether it is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.answer.status)
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.header(name)
    }

    /// When the content was changed last, where the service says so.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.header("last-modified").and_then(http_date)
    }

    /// All of the body; one that is larger than `limit` is an error for `what`.
    pub fn bytes(self, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        self.answer.bytes(what, limit)
    }

    /// The body as it comes.
    pub fn reader(self) -> Box<dyn Read + Send> {
        // Lifts ureq's limit of 10 MB; who reads knows how much there is to be.
        Box::new(self.answer.body.into_with_config().limit(u64::MAX).reader())
    }

    /// What a service says about a refusal, as far as it can be read; not fit to be shown before [`presentable`].
    pub fn refusal(mut self) -> String {
        self.refusal.take().unwrap_or_else(|| text_of(&mut self.answer))
    }

    /// Reads what a refusal says, if that may be one of those that pass; which one it is.
    fn passing(&mut self, passing: &[&str]) -> Option<String> {
        if passing.is_empty() || !matches!(self.answer.status, 400 | 409) {
            return None;
        }
        let text = self.refusal.insert(text_of(&mut self.answer));
        let found = passing.iter().find(|word| text.contains(**word))?;
        Some(format!("status {} ({found})", self.answer.status))
    }

    /// Lets the connection be used again.
    pub fn discard(self) {
        self.answer.discard();
    }
}

fn text_of(answer: &mut Answer) -> String {
    let mut bytes = Vec::new();
    // A message that cannot be read is no message; the status is what matters.
    answer.body.as_reader().take(REFUSAL_LIMIT).read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A service's text as it may be shown in a terminal and in a CI's log.
pub fn presentable(text: &str) -> String {
    escaped(text)
}

impl Client {
    /// Sends a request until there is an answer that another try would not change, or patience is at its end; the last
    /// answer then.
    ///
    /// # Errors
    /// There was no answer, or what is to be sent cannot be read.
    pub fn call(&self, call: &Call<'_>) -> Result<Reply, RegistryError> {
        let transport = &self.shared.transport;
        let open = || -> io::Result<Box<dyn Read>> {
            match call.content {
                CallContent::Blob { open, .. } => open(),
                CallContent::None | CallContent::Bytes(_) => Ok(Box::new(io::empty())),
            }
        };
        let body = match call.content {
            CallContent::None => Body::None,
            CallContent::Bytes(bytes) => Body::Bytes(bytes),
            CallContent::Blob { digest, size, .. } => Body::Stream { digest, size, open: &open },
        };
        let mut retry = 0;
        loop {
            let mut request = Request::new(call.verb.method(), call.address.clone()).body(body);
            request.headers = (call.headers)();
            request.patience = match (call.effort, call.content) {
                (Effort::Glance, _) => Patience::Glance,
                (_, CallContent::None) => Patience::Stall,
                _ => Patience::Commit,
            };
            let outcome = transport.exchange(&request, call.address, None);
            let mut outcome = outcome.map(|answer| Reply { answer, refusal: None });
            let passes = outcome.as_mut().ok().and_then(|reply| reply.passing(call.passing));
            let reason = match passes.or_else(|| transient(&outcome, retry)) {
                Some(reason) if call.effort != Effort::Glance && retry < transport.policy.retries => reason,
                _ => return outcome,
            };
            let asked = outcome.as_ref().ok().and_then(|reply| reply.header("retry-after"));
            let delay = transport.policy.delay_after(retry, asked, SystemTime::now());
            if let Effort::Until(end) = call.effort
                && Instant::now() + delay >= end
            {
                return outcome;
            }
            if let Ok(reply) = outcome {
                reply.discard();
            }
            retry += 1;
            self.wait(call, &reason, retry, delay);
        }
    }

    fn wait(&self, call: &Call<'_>, reason: &str, retry: u32, delay: Duration) {
        if let Some(task) = call.task {
            let (all, seconds) = (self.shared.transport.policy.retries, delay.as_secs_f32());
            let host = call.address.authority();
            task.note(format!("{host}: {reason}; retry {retry} of {all} in {seconds:.1} s"));
        }
        std::thread::sleep(delay);
    }

    /// How often a transfer that was cut is tried again, and the wait before a try, counted from 0.
    pub fn patience(&self, retry: u32) -> Option<Duration> {
        let policy = &self.shared.transport.policy;
        (retry < policy.retries).then(|| policy.delay(retry))
    }
}

/// Why a request should be sent again; `None` where the outcome stands. Requests of services are made so that they have
/// the same effect twice as once.
fn transient(outcome: &Result<Reply, RegistryError>, retry: u32) -> Option<String> {
    match outcome {
        Ok(reply) if matches!(reply.status(), 408 | 429 | 500 | 502 | 503 | 504) => {
            Some(format!("status {}", reply.status()))
        }
        Err(RegistryError::Transfer { source, .. }) => Some(escaped(&source.to_string())),
        // A wrong name or a dead host shall not cost minutes; a restart or a lost DNS packet is forgiven.
        Err(RegistryError::Connect { reason, .. }) if retry < 2 => Some(reason.clone()),
        _ => None,
    }
}
