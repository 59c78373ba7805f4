//! A cache in GitHub's cache service (`type=gha`), or one that speaks its language.
//!
//! Entries of the service cannot be changed, and are found by the beginning of their key, the newest first. So a layer is
//! an entry under its digest (or one beside it, where a job was ended while it wrote that), and the index, which has the manifest and its config in one, is an entry under a key that
//! ends with a number which grows. A branch writes its own, and reads those of its base as well. Keys are not BuildKit's,
//! so that both can be used in one repository.
//!
//! Contract: the token goes to the service, never to the addresses that it gives for content, and is in no message. What
//! nobody asks for is removed by the service after days, so what a cache still has is asked for once a day.

mod service;
#[cfg(test)]
mod tests;
mod token;

use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use self::service::{Entry, Reserved, Sent, Service};
use self::token::{Claims, Scope};
use super::document;
use super::resumed::{Resumed, side_by_side};
use super::secret::Secret;
use super::storage::{Belief, Content, Keeping, Open, RemoteError, Storage, Written, read_whole};
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::media_type::OCI_MANIFEST;
use crate::progress::Task;
use crate::registry::{Client, Url, encode};

type Result<T> = std::result::Result<T, RemoteError>;

/// The largest index: a manifest and a config as texts in JSON.
const INDEX_LIMIT: u64 = 2 * document::LIMIT;

/// Between a blob's key and the number of another that it is written under where the first is taken for good.
const AGAIN: &str = ".";

/// How many keys of one blob are tried.
const MOST_TAKEN: u32 = 4;

/// How many entries are written at a time.
const ABREAST: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// How long an index counts as new: entries that nobody asks for are removed after seven days.
const NEW: Duration = Duration::from_secs(24 * 60 * 60);

/// How many keys are tried for an index: others may be writing theirs.
const TRIES: u64 = 20;

/// Where a cache is in a CI's cache service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionsPlace {
    /// Its name within the repository.
    pub scope: String,
    /// The service's version and address, where they are known.
    pub service: Option<(Version, Url)>,
    /// Who asks.
    pub token: Option<Secret>,
    /// How long it is tried.
    pub timeout: Duration,
}

/// The version of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The first.
    One,
    /// The second.
    Two,
}

impl ActionsPlace {
    /// The caches to read: that of the branch, then those that it may read, too.
    pub fn readers(&self, client: &Client) -> Vec<Actions> {
        let scopes = self.token.as_ref().map(|token| Claims::of(token).scopes).unwrap_or_default();
        if scopes.is_empty() {
            return vec![Actions::new(client, self, None)];
        }
        scopes.into_iter().map(|scope| Actions::new(client, self, Some(scope))).collect()
    }

    /// The cache to write: that of the branch.
    pub fn writer(&self, client: &Client) -> Actions {
        let own = self.token.as_ref().and_then(|token| Claims::of(token).own().cloned());
        Actions::new(client, self, own)
    }
}

/// A cache in a CI's cache service.
pub struct Actions {
    client: Client,
    place: ActionsPlace,
    /// The branch or the like.
    scope: Option<Scope>,
    service: OnceLock<Arc<Service>>,
    /// What came with the manifest.
    config: Mutex<Option<Vec<u8>>>,
}

/// What an index has.
#[derive(Serialize, Deserialize)]
struct Index {
    /// When all that it names was asked for, in seconds since 1970.
    checked: u64,
    manifest: String,
    config: String,
}

impl Index {
    fn is_new(&self, now: SystemTime) -> bool {
        let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(self.checked.min(1 << 40));
        now.duration_since(checked).is_ok_and(|age| age < NEW)
    }
}

impl Actions {
    fn new(client: &Client, place: &ActionsPlace, scope: Option<Scope>) -> Actions {
        let (client, place) = (client.clone(), place.clone());
        Actions { client, place, scope, service: OnceLock::new(), config: Mutex::default() }
    }

    fn service(&self) -> Result<&Arc<Service>> {
        let missing = match (&self.place.service, &self.place.token) {
            (Some((version, url)), Some(token)) => {
                return Ok(self.service.get_or_init(|| {
                    Arc::new(Service {
                        client: self.client.clone(),
                        version: *version,
                        url: url.clone(),
                        token: token.clone(),
                        namespace: Digest::of(b"rbuild-cache-1"),
                        end: Instant::now() + self.place.timeout,
                    })
                }));
            }
            (None, None) => "the service (ACTIONS_RESULTS_URL) and its token (ACTIONS_RUNTIME_TOKEN) are",
            (None, Some(_)) => "the service (ACTIONS_RESULTS_URL) is",
            (Some(_), None) => "the service's token (ACTIONS_RUNTIME_TOKEN) is",
        };
        Err(RemoteError::NoRuntime { missing })
    }

    /// The key of the index, up to its number.
    fn index_key(&self) -> String {
        let branch = self.scope.as_ref().map_or("", |scope| scope.name.as_str());
        let hash = Digest::of(branch.as_bytes()).hex();
        format!("rbuild-index-1-{}-{}#", encode(&self.place.scope), &hash[..8])
    }

    fn blob_key(digest: &Digest) -> String {
        format!("rbuild-blob-1-{digest}")
    }

    /// The newest index, and what it has.
    fn newest(&self) -> Result<Option<(Entry, Vec<u8>)>> {
        let service = self.service()?;
        let Some(entry) = service.find(&self.index_key())? else { return Ok(None) };
        let failed = |source| RemoteError::Io { action: "read", path: entry.key.clone(), source };
        let mut bytes = Vec::new();
        service.open(&entry, 0)?.take(INDEX_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > INDEX_LIMIT {
            return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        Ok(Some((entry, bytes)))
    }

    /// Writes a blob, unless it is there; whether it was written.
    fn put_blob(&self, descriptor: &Descriptor, open: &Open, task: &Task) -> Result<bool> {
        let (service, key) = (self.service()?, Actions::blob_key(&descriptor.digest));
        if self.find_blob(&descriptor.digest)?.is_some() {
            return Ok(false);
        }
        for again in 0..MOST_TAKEN {
            let key = if again == 0 { key.clone() } else { format!("{key}{AGAIN}{again}") };
            // Another job is writing it, or was ended while it did, in which case nobody ever finishes it. The index must
            // not name what may never be there, so it is written beside.
            let Reserved::Upload(upload) = service.reserve(&key)? else { continue };
            service.write(&key, &upload, &Sent { descriptor, open: open.as_ref() }, task)?;
            task.note(format!("{} written", descriptor.digest));
            return Ok(true);
        }
        match self.find_blob(&descriptor.digest)? {
            Some(_) => Ok(false),
            None => {
                Err(RemoteError::Document { reason: format!("{key} cannot be written: the service says it is taken") })
            }
        }
    }

    /// The entry of a blob, under its key or one beside it.
    fn find_blob(&self, digest: &Digest) -> Result<Option<Entry>> {
        find_blob(self.service()?, digest)
    }

    /// Writes an index after the one that is there. Whoever writes at the same time gets another number, and the newest
    /// counts: there is nothing to wait for.
    fn put_index(&self, last: Option<&Entry>, bytes: &[u8], task: &Task) -> Result<()> {
        let (service, prefix) = (self.service()?, self.index_key());
        let number = |entry: &Entry| entry.key.strip_prefix(&prefix).and_then(|number| number.parse::<u64>().ok());
        let last = last.and_then(number).unwrap_or(0);
        for number in (last.saturating_add(1)..).take(TRIES as usize) {
            let key = format!("{prefix}{number}");
            let Reserved::Upload(upload) = service.reserve(&key)? else { continue };
            let descriptor = Descriptor::of(OCI_MANIFEST, bytes);
            let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(bytes.to_vec()))) };
            return service.write(&key, &upload, &Sent { descriptor: &descriptor, open: &open }, task);
        }
        Err(RemoteError::Document { reason: format!("the {TRIES} keys after {prefix}{last} are taken") })
    }
}

fn find_blob(service: &Service, digest: &Digest) -> Result<Option<Entry>> {
    let key = Actions::blob_key(digest);
    // The service gives the newest entry whose key begins so.
    Ok(service
        .find(&key)?
        .filter(|entry| entry.key.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with(AGAIN))))
}

impl Storage for Actions {
    fn name(&self) -> String {
        match self.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            Some(branch) => format!("gha (scope {}, {})", self.place.scope, branch.name),
            None => format!("gha (scope {})", self.place.scope),
        }
    }

    fn top(&self) -> Result<Option<Vec<u8>>> {
        let Some((entry, bytes)) = self.newest()? else { return Ok(None) };
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| RemoteError::Document { reason: format!("{}: {error}", entry.key) })?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(index.config.into_bytes());
        Ok(Some(index.manifest.into_bytes()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.small(descriptor, document::LIMIT)
    }

    fn small(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let digest = descriptor.digest;
        if descriptor.size > limit {
            return Err(RemoteError::TooLarge { digest, limit });
        }
        let known = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(bytes) = known.filter(|bytes| Digest::of(bytes) == digest) {
            return Ok(bytes);
        }
        read_whole(self, descriptor)
    }

    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let (digest, service) = (descriptor.digest, self.service().map_err(io::Error::other)?.clone());
        let open = move |offset| {
            let found = find_blob(&service, &digest).map_err(io::Error::other)?;
            let missing =
                || io::Error::new(io::ErrorKind::NotFound, format!("there is no {}", Actions::blob_key(&digest)));
            let entry = found.ok_or_else(missing)?;
            service.open(&entry, offset).map_err(io::Error::other)
        };
        Ok(Box::new(Resumed::new(self.client.clone(), descriptor.size, Box::new(open))))
    }

    fn keeping(&self) -> Keeping {
        Keeping::WhileUsed
    }

    fn write(&self, content: Content, task: &Task) -> Result<Written> {
        if self.scope.is_none() {
            // What is missing is told first.
            self.service()?;
            return Err(RemoteError::Document { reason: "the token may only read".to_owned() });
        }
        let (config, manifest) = (content.config.1, content.manifest.1);
        let (last, now) = (self.newest()?, SystemTime::now());
        // One that cannot be read is followed by one that can.
        let is_same = |index: &Index| {
            content.belief == Belief::Usual && index.manifest.as_bytes() == manifest && index.is_new(now)
        };
        if last.as_ref().is_some_and(|(_, bytes)| serde_json::from_slice(bytes).is_ok_and(|index| is_same(&index))) {
            return Ok(Written::default());
        }
        let put = |piece: &super::Piece| {
            let is_sent = self.put_blob(&piece.descriptor, &piece.open, task)?;
            Ok::<_, RemoteError>(is_sent.then_some(piece.descriptor.size))
        };
        let sent: Vec<u64> = side_by_side(&content.layers, ABREAST, put)?.into_iter().flatten().collect();
        let text =
            |bytes| String::from_utf8(bytes).map_err(|error| RemoteError::Document { reason: error.to_string() });
        let checked = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let index = Index { checked, manifest: text(manifest)?, config: text(config)? };
        let bytes = serde_json::to_vec(&index).map_err(|error| RemoteError::Document { reason: error.to_string() })?;
        // The index last: what it leads to is there.
        self.put_index(last.as_ref().map(|(entry, _)| entry), &bytes, task)?;
        Ok(Written { sent: sent.len(), bytes: sent.iter().sum() })
    }
}
