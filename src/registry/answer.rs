//! What a registry answers, and what it says when it refuses.

use std::io::{self, Read};

use ureq::http::{HeaderMap, Method};

use super::error::{RegistryError, escaped};
use super::url::Url;

/// How much of an answer that nobody wants is read, so that its connection can be used again.
const DRAIN_LIMIT: u64 = 64 << 10;

/// An answer whose body has not been read.
pub(super) struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub body: ureq::Body,
    /// What was asked last, after redirects.
    pub url: Url,
    method: Method,
}

impl Answer {
    pub fn new(method: Method, url: Url, status: u16, headers: HeaderMap, body: ureq::Body) -> Answer {
        Answer { status, headers, body, url, method }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// Whether it is a page for people, which no registry has.
    pub fn is_page(&self) -> bool {
        self.header("content-type").is_some_and(|value| value.contains("html"))
    }

    /// An error about this answer.
    pub fn invalid(&self, message: impl Into<String>) -> RegistryError {
        let (method, url) = (self.method.to_string(), self.url.to_string());
        RegistryError::Protocol { method, url, status: self.status, message: message.into() }
    }

    /// Reads all of the body; one that is larger than the limit is an error for `what`.
    pub fn bytes(mut self, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let outcome = self.body.as_reader().take(limit + 1).read_to_end(&mut bytes);
        if let Err(source) = outcome {
            let (method, url) = (self.method.to_string(), self.url.to_string());
            return Err(RegistryError::Transfer { method, url, source });
        }
        if bytes.len() as u64 > limit {
            return Err(RegistryError::TooLarge { reference: what.to_owned(), limit });
        }
        Ok(bytes)
    }

    /// What the registry says about its refusal, fit to be shown.
    pub fn message(&mut self) -> String {
        let mut bytes = Vec::new();
        // A message that cannot be read is no message; the status is what matters.
        self.body.as_reader().take(DRAIN_LIMIT).read_to_end(&mut bytes).ok();
        let is_page = self.is_page();
        message_of(&bytes)
            .unwrap_or_else(|| if is_page { String::new() } else { escaped(&String::from_utf8_lossy(&bytes)) })
    }

    /// Lets the connection be used again.
    pub fn discard(mut self) {
        // A connection that fails here is not used again, which is all there is to do.
        io::copy(&mut self.body.as_reader().take(DRAIN_LIMIT), &mut io::sink()).ok();
    }
}

/// Reads the distribution-spec's error document.
fn message_of(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let document: Document = serde_json::from_slice(bytes).ok()?;
    let texts: Vec<String> =
        document.errors.iter().map(|item| format!("{} {}", item.code, item.message).trim().to_owned()).collect();
    Some(escaped(&texts.join("; ")))
}
