//! What a place for caches has to be able to do, and what can go wrong there.

use std::io::{self, Read};
use std::sync::Arc;

use crate::digest::{Digest, VerifyReader};
use crate::image::manifest::{Descriptor, InvalidDocument};
use crate::image::reference::Reference;
use crate::progress::Task;
use crate::registry::RegistryError;

/// A place that has a cache, or gets one.
///
/// What it gives is verified by who asked for it: a storage may be anything.
pub trait Storage: Send + Sync {
    /// What people call it.
    fn name(&self) -> String;

    /// The manifest or index under the name that was given; `None` where there is nothing.
    fn top(&self) -> Result<Option<Vec<u8>>, RemoteError>;

    /// A manifest that an index names.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RemoteError>;

    /// A small blob, no larger than `limit`.
    fn small(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RemoteError>;

    /// A layer's blob.
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>>;

    /// The repository whose blobs these are, where it is one: then the store itself can say later where a layer is.
    fn repository(&self) -> Option<&Reference> {
        None
    }

    /// How long it keeps what it has.
    fn keeping(&self) -> Keeping {
        Keeping::Lasting
    }

    /// Writes a cache under the name that was given: what is missing, and the name last.
    fn write(&self, content: Content, task: &Task) -> Result<Written, RemoteError>;
}

/// Reads a blob to its end and holds it against its digest; who calls has seen that it is not too large.
pub(super) fn read_whole(storage: &dyn Storage, descriptor: &Descriptor) -> Result<Vec<u8>, RemoteError> {
    let digest = descriptor.digest;
    let failed = |source| RemoteError::Io { action: "read", path: digest.to_string(), source };
    let mut bytes = Vec::new();
    VerifyReader::new(storage.open(descriptor).map_err(failed)?, digest, Some(descriptor.size))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

/// How long a place keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Until somebody removes it: what was read there is there.
    Lasting,
    /// As long as it is used: it wants to hear that a cache counts, even one that did not change.
    WhileUsed,
}

/// A cache to write.
pub struct Content {
    /// The manifest.
    pub manifest: (Descriptor, Vec<u8>),
    /// The manifest's config.
    pub config: (Descriptor, Vec<u8>),
    /// The layers.
    pub layers: Vec<Piece>,
    /// How far it is believed that what was written before is still there.
    pub belief: Belief,
}

/// How far a place is believed that has, by its manifest, all that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Belief {
    /// It has what it had.
    #[default]
    Usual,
    /// Something of it could not be had when a step needed it: each blob is looked for.
    Shaken,
}

/// Opens a blob anew each time it is called.
pub type Open = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A layer to write.
pub struct Piece {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub open: Open,
    /// Repositories that have it.
    pub mount_from: Vec<Reference>,
    /// How far a place is believed that says that it has it.
    pub belief: Belief,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Blobs that were sent.
    pub sent: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A registry failed.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// A service that is no registry could not be asked.
    #[error(transparent)]
    Reach(#[from] RegistryError),
    /// A file cannot be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What it has is no manifest.
    #[error("read its manifest")]
    Manifest(#[from] InvalidDocument),
    /// What it has is no cache of ours.
    #[error("its records cannot be read: {reason}")]
    Document {
        /// Why.
        reason: String,
    },
    /// A newer rbuild wrote it.
    #[error("a newer rbuild wrote it (format {version})")]
    Newer {
        /// Its format.
        version: u64,
    },
    /// BuildKit wrote it.
    #[error("it is a cache of BuildKit, whose steps have other keys; write one of rbuild's with --cache-to")]
    BuildKit,
    /// It is an image without a cache.
    #[error("it is an image without a cache of rbuild's; build it with --cache-to type=inline")]
    NoCache,
    /// An index is in an index.
    #[error("it is an index of indexes")]
    Nested,
    /// An index has nothing for the platform.
    #[error("it has nothing for {platform}")]
    NoPlatform {
        /// The platform.
        platform: String,
    },
    /// Bytes are not those that were promised.
    #[error("blob {expected} has digest {found}")]
    Digest {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// There are no keys for a service.
    #[error("find keys for S3: {reason}")]
    Credentials {
        /// Why not.
        reason: String,
    },
    /// It is not said where a CI's cache is, or who asks.
    #[error(
        "{missing} not known here: GitHub gives it to actions, not to the commands of `run:`; a step `uses: crazy-max/ghaction-github-runtime@v3` before this one passes it on, or give url_v2=… and token=…"
    )]
    NoRuntime {
        /// What is missing, with its verb.
        missing: &'static str,
    },
    /// A service did not do what it was asked for.
    #[error(transparent)]
    Service(#[from] Box<ServiceRefusal>),
    /// A blob is larger than anything that rbuild writes there.
    #[error("blob {digest} has more than {limit} bytes")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// The limit.
        limit: u64,
    },
}

/// What a service said instead of doing what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {}{}", said(*.status, .code, .message), also(.advice))]
pub struct ServiceRefusal {
    /// What was tried, on what.
    pub action: String,
    /// The status of its answer.
    pub status: u16,
    /// What it calls this; may be empty.
    pub code: String,
    /// What it said; may be empty.
    pub message: String,
    /// What can be done about it; may be empty.
    pub advice: String,
}

fn said(status: u16, code: &str, message: &str) -> String {
    let parts = [code, message].into_iter().filter(|part| !part.is_empty());
    let text = parts.collect::<Vec<_>>().join(": ");
    if text.is_empty() { format!("status {status}") } else { format!("status {status} ({text})") }
}

fn also(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

impl RemoteError {
    /// The error with its causes, in one line.
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
