//! A cache in a bucket of S3, or of what speaks its language.
//!
//! Objects are where BuildKit has its own: layers and configs under `<prefix><blobs_prefix>sha256:…`, where both find each
//! other's layers, and manifests under `<prefix><manifests_prefix>rbuild/<name>`, where neither meets the other's.
//!
//! Contract: each request is signed for one host and goes to it alone; the secret key is in none. What is sent carries its
//! digest, which the service checks; what comes is verified by its reader. A policy of the bucket may remove what is old:
//! what a cache still has is touched in time (`touch_refresh`).

mod connection;
mod credentials;
mod profile;
mod signature;
#[cfg(test)]
mod tests;
mod upload;
mod xml;

use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::connection::{Asked, Connection, Lazy};
pub use self::signature::Keys;
use super::document;
use super::resumed::{Resumed, side_by_side};
use super::secret::Variables;
use super::storage::{Belief, Content, Keeping, Open, RemoteError, Storage, Written, read_whole};
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::progress::Task;
use crate::registry::service::{CallContent, Reply, Verb};
use crate::registry::{Client, Url};

type Result<T> = std::result::Result<T, RemoteError>;

/// The largest manifest.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// The largest object that is copied onto itself in one request.
const LARGEST_COPY: u64 = 5 << 30;

/// Where in S3 a cache is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    /// The bucket.
    pub bucket: String,
    /// Its region, where it is given.
    pub region: Option<String>,
    /// The service's address, where it is not Amazon's.
    pub endpoint: Option<Url>,
    /// Whose name the bucket is a part of.
    pub style: Style,
    /// The beginning of all keys.
    pub prefix: String,
    /// The beginning of the keys of blobs, after `prefix`.
    pub blobs_prefix: String,
    /// The beginning of the keys of manifests, after `prefix`.
    pub manifests_prefix: String,
    /// The name of the cache that is read and written.
    pub name: String,
    /// More names under which it is written.
    pub more_names: Vec<String>,
    /// Keys that were given with the cache.
    pub keys: Option<Keys>,
    /// How many blobs are sent at a time.
    pub upload_parallelism: NonZeroUsize,
    /// What is older is touched when it is found to be still of use.
    pub touch_refresh: Duration,
    /// What the environment says of Amazon.
    pub variables: Variables,
}

/// Where a bucket's name is in an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Before the host's, where that makes a name.
    Host,
    /// In the path.
    Path,
}

/// A cache in a bucket.
pub struct Bucket {
    client: Client,
    place: BucketPlace,
    connection: Lazy,
}

/// What is in a bucket under a key.
struct Object {
    size: Option<u64>,
    age: Option<Duration>,
}

impl Object {
    fn of(reply: &Reply) -> Object {
        let age = |changed| SystemTime::now().duration_since(changed).unwrap_or_default();
        let size = reply.header("content-length").and_then(|text| text.parse().ok());
        Object { size, age: reply.last_modified().map(age) }
    }
}

impl Bucket {
    /// A cache at this place; nothing is read or asked yet.
    pub fn new(client: Client, place: BucketPlace) -> Bucket {
        Bucket { client, place, connection: Lazy::default() }
    }

    fn connection(&self) -> Result<Arc<Connection>> {
        self.connection.of(&self.client, &self.place)
    }

    fn manifest_key(&self, name: &str) -> String {
        format!("{}{}rbuild/{name}", self.place.prefix, self.place.manifests_prefix)
    }

    fn blob_key(&self, digest: &Digest) -> String {
        format!("{}{}{digest}", self.place.prefix, self.place.blobs_prefix)
    }

    /// The manifest of a name, with its object; `None` where there is none.
    fn named(&self, name: &str) -> Result<Option<(Vec<u8>, Object)>> {
        let key = self.manifest_key(name);
        let connection = self.connection()?;
        let reply = connection.ask(&Asked::new(Verb::Get, &key))?;
        if reply.is_success() {
            let object = Object::of(&reply);
            return Ok(Some((reply.bytes(&key, MANIFEST_LIMIT)?, object)));
        }
        match connection.refused("read", &key, reply) {
            // That there is no bucket has the same status.
            RemoteError::Service(refusal) if refusal.status == 404 && refusal.code != "NoSuchBucket" => Ok(None),
            error => Err(error),
        }
    }

    /// What there is of a blob; `None` where there is none.
    fn object(&self, key: &str) -> Result<Option<Object>> {
        let connection = self.connection()?;
        let reply = connection.ask(&Asked::new(Verb::Head, key))?;
        match reply.status() {
            404 => Ok(None),
            _ if reply.is_success() => Ok(Some(Object::of(&reply))),
            _ => Err(connection.refused("look for", key, reply)),
        }
    }

    /// Writes a blob, unless it is there; whether it was written. One that was found damaged may have its size all the same.
    fn put_blob(&self, descriptor: &Descriptor, open: &Open, belief: Belief, task: &Task) -> Result<bool> {
        let key = self.blob_key(&descriptor.digest);
        let known = if belief == Belief::Usual { self.object(&key)? } else { None };
        if let Some(object) = known.filter(|object| object.size.is_none_or(|size| size == descriptor.size)) {
            if object.age.is_none_or(|age| age < self.place.touch_refresh) {
                return Ok(false);
            }
            if descriptor.size < LARGEST_COPY {
                self.connection()?.touch(&key)?;
                return Ok(false);
            }
        }
        upload::put(self.connection()?.as_ref(), &key, descriptor, open, task)?;
        task.note(format!("{} written", descriptor.digest));
        Ok(true)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let key = self.manifest_key(name);
        let connection = self.connection()?;
        let asked =
            Asked { content: CallContent::Bytes(bytes), payload: Digest::of(bytes), ..Asked::new(Verb::Put, &key) };
        match connection.ask(&asked)? {
            reply if reply.is_success() => {
                reply.discard();
                Ok(())
            }
            reply => Err(connection.refused("write", &key, reply)),
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.place.name).chain(&self.place.more_names)
    }

    /// Whether all names have this manifest since so short a time that all that it names was touched then.
    fn is_fresh(&self, manifest: &[u8]) -> Result<bool> {
        for name in self.names() {
            let Some((bytes, object)) = self.named(name)? else { return Ok(false) };
            if bytes != manifest || object.age.is_none_or(|age| age >= self.place.touch_refresh) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Storage for Bucket {
    fn name(&self) -> String {
        format!("s3://{}/{}", self.place.bucket, self.manifest_key(&self.place.name))
    }

    fn top(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.named(&self.place.name)?.map(|(bytes, _)| bytes))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.small(descriptor, MANIFEST_LIMIT)
    }

    fn small(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        if descriptor.size > limit.min(document::LIMIT) {
            return Err(RemoteError::TooLarge { digest: descriptor.digest, limit });
        }
        read_whole(self, descriptor)
    }

    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let (key, connection) = (self.blob_key(&descriptor.digest), self.connection().map_err(io::Error::other)?);
        let open = move |offset| connection.open(&key, offset).map_err(io::Error::other);
        Ok(Box::new(Resumed::new(self.client.clone(), descriptor.size, Box::new(open))))
    }

    fn keeping(&self) -> Keeping {
        Keeping::WhileUsed
    }

    fn write(&self, content: Content, task: &Task) -> Result<Written> {
        let (_, manifest) = &content.manifest;
        if content.belief == Belief::Usual && self.is_fresh(manifest)? {
            return Ok(Written::default());
        }
        let (config, bytes) = content.config;
        let config_open: Open = Arc::new(move || Ok(Box::new(io::Cursor::new(bytes.clone()))));
        let layers = content.layers.iter().map(|piece| (&piece.descriptor, &piece.open, piece.belief));
        let all: Vec<(&Descriptor, &Open, Belief)> = layers.chain([(&config, &config_open, Belief::Usual)]).collect();
        let put = |(descriptor, open, belief): &(&Descriptor, &Open, Belief)| {
            let is_sent = self.put_blob(descriptor, open, *belief, task)?;
            Ok::<_, RemoteError>(if is_sent { Some(descriptor.size) } else { None })
        };
        let sent = side_by_side(&all, self.place.upload_parallelism, put)?;
        // The name last: what it leads to is there.
        for name in self.names() {
            self.put_manifest(name, manifest)?;
        }
        let sent: Vec<u64> = sent.into_iter().flatten().collect();
        Ok(Written { sent: sent.len(), bytes: sent.iter().sum() })
    }
}
