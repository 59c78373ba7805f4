//! What can go wrong between rbuild and a registry.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::image::manifest::InvalidDocument;

/// Says why a registry did not do what it was asked for.
///
/// No variant's text carries credentials, tokens or the query of an address; what a registry wrote is escaped and cut.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry wants credentials, other credentials, or the repository does not exist (many say the same for both).
    #[error("access {registry}/{repository}: unauthorized ({}){}", tried(.credentials), also(.message))]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
        /// Where the credentials that were refused came from; `None` where none were found.
        credentials: Option<String>,
        /// What the registry or its token server said; may be empty.
        message: String,
    },
    /// The credentials are good, but not for this.
    #[error("access {registry}/{repository}: denied{}", also(.message))]
    Denied {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
        /// What the registry said; may be empty.
        message: String,
    },
    /// There is no such repository, tag, manifest or blob.
    #[error("find {reference}: not found in its registry")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// The registry's rate limit was hit again and again.
    #[error("access {registry}: too many requests, still after {retries} retries{}", also(.message))]
    TooManyRequests {
        /// Host and port.
        registry: String,
        /// How often it was tried again.
        retries: u32,
        /// What the registry said; may be empty.
        message: String,
    },
    /// The certificate was not accepted, or there was no agreement on a protocol.
    #[error("connect to {host}: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// In rustls's words.
        reason: String,
    },
    /// What listens there answers, but not in TLS.
    #[error("connect to {host}: what listens there does not speak TLS (https)")]
    NoTls {
        /// Host and port.
        host: String,
    },
    /// No connection could be made.
    #[error("connect to {host}: {reason}")]
    Connect {
        /// Host and port (or the proxy, where the reason says so).
        host: String,
        /// Why not.
        reason: String,
    },
    /// A connection was cut, reset or stood still, on every try.
    #[error("{method} {url}: {source}")]
    Transfer {
        /// The HTTP method.
        method: String,
        /// The address without its query.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// An answer that the distribution-spec does not have there.
    #[error("{method} {url}: {}{}", described(*.status), also(.message))]
    Protocol {
        /// The HTTP method.
        method: String,
        /// The address without its query.
        url: String,
        /// The status; 0 where the answer was wrong in another way.
        status: u16,
        /// What the registry said, or what is wrong.
        message: String,
    },
    /// The bytes of a manifest or config are not those that were asked for.
    #[error("fetch {reference}: content has digest {found}, expected {expected}")]
    Digest {
        /// What was asked for.
        reference: String,
        /// As asked for, or as the registry claims.
        expected: Digest,
        /// Of the bytes that came.
        found: Digest,
    },
    /// A document that is larger than any honest one.
    #[error("fetch {reference}: larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was asked for.
        reference: String,
        /// The limit.
        limit: u64,
    },
    /// The manifest cannot be used.
    #[error("read {reference}")]
    Document {
        /// What was asked for.
        reference: String,
        /// Why.
        source: InvalidDocument,
    },
    /// The image config cannot be used.
    #[error("read config of {reference}")]
    Config {
        /// What was asked for.
        reference: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The index has nothing for the platform.
    #[error("{reference} has no image for {platform}, it has {}", list(.offered))]
    NoPlatform {
        /// The index.
        reference: String,
        /// The platform that was wanted.
        platform: String,
        /// The platforms that it has.
        offered: Vec<String>,
    },
    /// Credentials could not be looked up.
    #[error(transparent)]
    Credentials(#[from] super::credentials::CredentialsError),
    /// What is said about registries could not be read, or forbids it.
    #[error(transparent)]
    Registries(#[from] super::registries::RegistriesError),
    /// The registry does not take manifests of this type, or not this one.
    #[error("push {reference} as {media_type}: the registry refuses it (status {status}){}", also(.message))]
    ManifestRefused {
        /// What it was pushed as.
        reference: String,
        /// The manifest's media type.
        media_type: String,
        /// 400 or 415.
        status: u16,
        /// What the registry said; may be empty.
        message: String,
    },
    /// A name with a digest of something else than what is pushed.
    #[error("{target} cannot name what is pushed, whose digest is {digest}")]
    OtherDigest {
        /// The name.
        target: String,
        /// Of what is pushed.
        digest: Digest,
    },
    /// Neither the registry nor a mirror of it helped.
    #[error("{source}; before that, {others}")]
    Everywhere {
        /// What the last that was asked said.
        source: Box<RegistryError>,
        /// The others, each with what it said.
        others: String,
    },
    /// The environment names a proxy that is none.
    #[error("connect through the proxy that {variable} names: it is no valid address")]
    Proxy {
        /// The variable.
        variable: &'static str,
    },
    /// A certificate file could not be read.
    #[error("read certificate {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The content to push could not be read, or is not what its descriptor says.
    #[error("read {digest} to push it")]
    Source {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
}

impl RegistryError {
    /// Finds the registry's error in the `io::Error` that a blob's reader gave.
    pub fn of_io(error: &io::Error) -> Option<&RegistryError> {
        error.get_ref()?.downcast_ref()
    }

    /// Of a failure everywhere, the last one; otherwise itself.
    pub fn last(&self) -> &RegistryError {
        match self {
            RegistryError::Everywhere { source, .. } => source.last(),
            error => error,
        }
    }

    /// Of a connection that was not to the host itself: names the variable that names the proxy, whose value may hold a
    /// password.
    pub(super) fn through(self, variable: &str) -> RegistryError {
        let way = format!("(through the proxy that {variable} names)");
        match self {
            RegistryError::Connect { host, reason } => {
                RegistryError::Connect { host, reason: format!("{reason} {way}") }
            }
            RegistryError::Tls { host, reason } => RegistryError::Tls { host, reason: format!("{reason} {way}") },
            RegistryError::Transfer { method, url, source } => {
                let source = io::Error::new(source.kind(), format!("{source} {way}"));
                RegistryError::Transfer { method, url, source }
            }
            other => other,
        }
    }

    /// As an `io::Error`, for readers; [`RegistryError::of_io`] takes it out again.
    pub(super) fn into_io(self) -> io::Error {
        let kind = match self.last() {
            RegistryError::NotFound { .. } => io::ErrorKind::NotFound,
            RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => io::ErrorKind::PermissionDenied,
            RegistryError::Transfer { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

fn tried(credentials: &Option<String>) -> String {
    match credentials {
        Some(source) => format!("the credentials from {source} were refused, or the repository does not exist"),
        None => "no credentials were found, and it may not exist or not be public".to_owned(),
    }
}

fn also(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn described(status: u16) -> String {
    match status {
        0 => "invalid answer".to_owned(),
        status => format!("unexpected status {status}"),
    }
}

fn list(offered: &[String]) -> String {
    if offered.is_empty() { "none at all".to_owned() } else { offered.join(", ") }
}

/// Longest text of a registry that is shown.
const MESSAGE_LIMIT: usize = 2048;

/// Makes a registry's text fit for a terminal and a CI log: one line, no control characters, no more than 2 KiB.
///
/// Escape sequences could draw over our own output, and a line that starts with `::` commands GitHub's runner.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.trim().chars() {
        let mut piece = String::new();
        match character {
            '\n' | '\r' | '\t' => piece.push(' '),
            // Bidirectional overrides reorder what follows them on screen.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                piece.extend(character.escape_unicode());
            }
            other if other.is_control() => piece.extend(other.escape_unicode()),
            other => piece.push(other),
        }
        if out.len() + piece.len() > MESSAGE_LIMIT - 4 {
            out.push('…');
            break;
        }
        out.push_str(&piece);
    }
    if out.starts_with("::") || out.starts_with("##[") { format!("'{out}'") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_cannot_draw_on_the_terminal() {
        let text = escaped("a\x1b[2Jb\r\n::set-env name=X::y\u{202e}");
        assert_eq!(text, "a\\u{1b}[2Jb  ::set-env name=X::y\\u{202e}");
        assert_eq!(escaped("::error::x"), "'::error::x'");
        assert!(escaped(&"é".repeat(5000)).len() <= MESSAGE_LIMIT);
    }

    #[test]
    fn messages_say_whether_credentials_were_found() {
        let error = |credentials: Option<&str>| RegistryError::Unauthorized {
            registry: "r.example".into(),
            repository: "a".into(),
            credentials: credentials.map(str::to_owned),
            message: String::new(),
        };
        assert!(error(None).to_string().contains("no credentials were found"));
        assert!(error(Some("/x/config.json")).to_string().contains("from /x/config.json were refused"));
    }
}
