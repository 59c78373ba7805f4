//! The registry client (OCI distribution-spec), blocking, over `ureq`.
//!
//! It resolves names, reads and writes blobs and manifests, and finds out by itself how a registry wants to be spoken to:
//! scheme, token server, credentials, redirects, time limits, retries.
//!
//! Contract:
//! - what comes back was verified: documents before they are returned, a blob at the end of its reader;
//! - credentials and tokens go to the registry and its token server only, and are in no error and no log;
//! - every wait has a limit; what may be repeated is repeated, a blob from where it was cut;
//! - what a registry says is escaped before it is shown.
//!
//! It must not know of the store, of layers' content, or of command lines. Files in reading order: [`pull`], [`push`] (whole
//! images), [`compose`] (indexes), `blob`, `upload` (their parts), `session` (one registry), `auth`, `challenge`, [`credentials`], `helper`, `http`,
//! `answer`, `retry`, `tls`, `url`, `error`.

mod answer;
mod auth;
mod blob;
mod challenge;
pub mod compose;
pub mod credentials;
mod download;
mod error;
mod helper;
mod http;
pub mod pull;
pub mod push;
mod retry;
mod session;
mod tls;
mod upload;
mod url;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub use blob::BlobReader;
pub use download::{Download, DownloadRequest, Downloaded, without_credentials};
pub use error::RegistryError;
pub use pull::Resolved;
pub use retry::RetryPolicy;
pub use upload::{MountOutcome, PushOutcome, UploadSession};

use credentials::Credentials;
use http::Transport;
use session::Session;
use tls::Certificates;

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Registries that are spoken to in plain http: `host:port`, or `host` for all its ports.
    pub insecure: Vec<String>,
    /// Files of certificates in PEM form that are trusted beside the system's.
    pub ca_certificates: Vec<PathBuf>,
    /// Directories with a directory of `*.crt` files per registry.
    pub certificate_directories: Vec<PathBuf>,
    /// Where credentials are found.
    pub credentials: Credentials,
    /// `User-Agent`.
    pub user_agent: String,
    /// Patience.
    pub retry: RetryPolicy,
}

impl Default for ClientOptions {
    /// Without credentials, and without looking at the environment.
    fn default() -> ClientOptions {
        ClientOptions {
            insecure: Vec::new(),
            ca_certificates: Vec::new(),
            certificate_directories: vec!["/etc/docker/certs.d".into(), "/etc/containers/certs.d".into()],
            credentials: Credentials::none(),
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: RetryPolicy::default(),
        }
    }
}

impl ClientOptions {
    /// With what the environment and the home directory have: credentials and `certs.d`.
    pub fn load() -> ClientOptions {
        let mut options = ClientOptions { credentials: Credentials::load(), ..ClientOptions::default() };
        if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from) {
            options.certificate_directories.push(home.join(".config/containers/certs.d"));
            options.certificate_directories.push(home.join(".docker/certs.d"));
        }
        options
    }
}

/// Speaks to registries; cheap to clone, and all clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    credentials: Credentials,
    insecure: Vec<String>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

impl Client {
    /// Makes a client; nothing is read or asked before the first request.
    pub fn new(options: ClientOptions) -> Client {
        let certificates = Certificates::new(options.ca_certificates, options.certificate_directories);
        let transport = Transport::new(options.retry, options.user_agent, certificates);
        let (credentials, insecure) = (options.credentials, options.insecure);
        Client { shared: Arc::new(Shared { transport, credentials, insecure, sessions: Mutex::default() }) }
    }

    fn session(&self, registry: &str) -> Arc<Session> {
        let mut sessions = self.shared.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        sessions.entry(registry.to_owned()).or_insert_with(|| Arc::new(Session::new(registry))).clone()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("insecure", &self.shared.insecure).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "../../tests/support/registry.rs"]
mod fake;
#[cfg(test)]
mod tests;
