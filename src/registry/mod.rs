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
//! images), [`compose`] (indexes), [`copy`]
//! (images and indexes as they are), `tags`, `blob`, `upload`, `early` (their parts), `sources`, `registries`, `configuration` (where names
//! lead), `session` (one registry), `auth`, `challenge`, [`credentials`], [`login`], `helper`, `http`, `proxy`, `answer`,
//! `retry`, `tls`, `url`, `error`. [`service`] lends the connections to caches that are kept elsewhere.

mod answer;
mod auth;
mod blob;
mod challenge;
pub mod compose;
mod configuration;
pub mod copy;
pub mod credentials;
mod download;
mod early;
mod error;
mod helper;
mod http;
pub mod login;
mod proxy;
pub mod pull;
pub mod push;
pub mod referrers;
mod registries;
mod retry;
pub mod service;
mod session;
mod several;
mod sources;
mod tags;
mod tls;
mod upload;
mod url;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub use blob::BlobReader;
pub use configuration::RegistryFiles;
pub use download::{Download, DownloadRequest, Downloaded, without_credentials};
pub use early::{Begun, EarlyUploads, Unfinished};
pub use error::RegistryError;
pub use proxy::Proxies;
pub use pull::Resolved;
pub use registries::{Registries, RegistriesError};
pub use retry::RetryPolicy;
pub use session::Entered;
pub use upload::{MountOutcome, PushOutcome, UploadSession};
pub use url::{Url, encode};

use credentials::Credentials;
use http::Transport;
use session::Session;
use sources::Places;
use tls::{Certificates, Trust};

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Registries whose certificate does not matter, and that may speak plain http: `host:port`, `host` for all its ports,
    /// `*` for all.
    pub insecure: Vec<String>,
    /// Files of certificates in PEM form that are trusted beside the system's.
    pub ca_certificates: Vec<PathBuf>,
    /// What is said about mirrors, short names and the like.
    pub registries: RegistryFiles,
    /// What the environment says about proxies.
    pub proxies: Proxies,
    /// Directories with a directory of certificates per registry.
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
            registries: RegistryFiles::none(),
            proxies: Proxies::none(),
            certificate_directories: Vec::new(),
            credentials: Credentials::none(),
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: RetryPolicy::default(),
        }
    }
}

impl ClientOptions {
    /// With what the environment, the home directory and `/etc` have: credentials, proxies, `registries.conf`, `certs.d`.
    pub fn load() -> ClientOptions {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        // The user's own first: of client certificates the first is shown.
        let own = home.iter().flat_map(|home| [home.join(".config/containers/certs.d"), home.join(".docker/certs.d")]);
        let system = ["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()];
        ClientOptions {
            credentials: Credentials::load(),
            registries: RegistryFiles::load(),
            proxies: Proxies::load(),
            certificate_directories: own.chain(system).collect(),
            ..ClientOptions::default()
        }
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
    places: Places,
    sessions: Mutex<HashMap<(String, Trust), Arc<Session>>>,
}

impl Client {
    /// Makes a client; nothing is read or asked before the first request.
    pub fn new(options: ClientOptions) -> Client {
        let certificates = Certificates::new(options.ca_certificates, options.certificate_directories);
        let transport = Transport::new(options.retry, options.user_agent, certificates, options.proxies);
        let places = Places::new(options.registries);
        let (credentials, insecure) = (options.credentials, options.insecure);
        Client { shared: Arc::new(Shared { transport, credentials, insecure, places, sessions: Mutex::default() }) }
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
