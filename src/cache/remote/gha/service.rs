//! The cache service of GitHub Actions in both its versions: entries that are found by the beginning of their key, and
//! written once.
//!
//! Version 2 is Twirp in JSON with blobs in Azure, version 1 (GitHub Enterprise Server, Gitea, Forgejo) REST. The client
//! that BuildKit uses (tonistiigi/go-actions-cache) is the reference for both.

use std::io::{self, Read};
use std::time::{Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Version;
use super::token::Claims;
use crate::cache::remote::secret::Secret;
use crate::cache::remote::storage::{RemoteError, ServiceRefusal};
use crate::digest::{Digest, VerifyReader};
use crate::image::manifest::Descriptor;
use crate::progress::Task;
use crate::registry::service::{Call, CallContent, Effort, Headers, Reply, Verb, presentable};
use crate::registry::{Client, Url};

type Result<T> = std::result::Result<T, RemoteError>;

/// The largest answer about an entry.
const ANSWER_LIMIT: u64 = 32 << 10;

/// A blob of more bytes is sent in parts.
const ONE_PIECE: u64 = 32 << 20;

/// Bytes of a part, which is in memory while it is sent.
const PART: u64 = 16 << 20;

/// What Azure calls its parts' version of the protocol.
const AZURE_VERSION: &str = "2021-12-02";

/// An entry that is there.
pub(super) struct Entry {
    pub key: String,
    address: Url,
}

/// What became of a key that was asked for.
pub(super) enum Reserved {
    Upload(Upload),
    /// Somebody has written it, is writing it, or gave up while writing it.
    Taken,
}

/// A key that is this process's to write.
pub(super) enum Upload {
    /// Version 1, by its number.
    Numbered(u64),
    /// Version 2, by the address that takes the content.
    At(Url),
}

/// What is written: a blob, opened anew for each try.
pub(super) struct Sent<'a> {
    pub descriptor: &'a Descriptor,
    pub open: &'a dyn Fn() -> io::Result<Box<dyn Read + Send>>,
}

/// The service, for one cache.
pub(super) struct Service {
    pub client: Client,
    pub version: Version,
    pub url: Url,
    pub token: Secret,
    /// Separates our entries from those of others; both versions compare it whole.
    pub namespace: Digest,
    /// Nothing is tried again after it.
    pub end: Instant,
}

impl Service {
    fn headers(&self) -> Headers {
        let mut headers = vec![("authorization", format!("Bearer {}", self.token.reveal()))];
        headers.push(match self.version {
            Version::One => ("accept", "application/json;api-version=6.0-preview.1".to_owned()),
            Version::Two => ("accept", "application/json".to_owned()),
        });
        headers
    }

    fn method(&self, name: &str) -> Url {
        let before = self.url.path().trim_end_matches('/');
        match self.version {
            Version::One => self.url.with_target(&format!("{before}/_apis/artifactcache/{name}")),
            Version::Two => {
                self.url.with_target(&format!("{before}/twirp/github.actions.results.api.v1.CacheService/{name}"))
            }
        }
    }

    fn call<'a>(&'a self, verb: Verb, address: &'a Url, headers: &'a dyn Fn() -> Headers) -> Call<'a> {
        Call {
            verb,
            address,
            headers,
            content: CallContent::None,
            effort: Effort::Until(self.end),
            passing: &[],
            task: None,
        }
    }

    /// Asks the service itself, which gets the token.
    fn ask(&self, verb: Verb, address: &Url, body: Option<&Value>) -> Result<Reply> {
        let bytes = body.map(Value::to_string);
        let headers = || {
            let mut headers = self.headers();
            headers.extend(bytes.iter().map(|_| ("content-type", "application/json".to_owned())));
            headers
        };
        let content = bytes.as_ref().map_or(CallContent::None, |bytes| CallContent::Bytes(bytes.as_bytes()));
        Ok(self.client.call(&Call { content, ..self.call(verb, address, &headers) })?)
    }

    /// The newest entry whose key begins with this.
    pub(super) fn find(&self, key: &str) -> Result<Option<Entry>> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(default, alias = "matched_key", alias = "matchedKey", alias = "cacheKey")]
            key: String,
            #[serde(default, alias = "signed_download_url", alias = "signedDownloadUrl", alias = "archiveLocation")]
            address: String,
        }
        let reply = match self.version {
            Version::One => {
                let address = self.method("cache").with_parameter("keys", key);
                self.ask(Verb::Get, &address.with_parameter("version", &self.namespace.hex()), None)?
            }
            Version::Two => {
                let body = json!({ "key": key, "restore_keys": [key], "version": self.namespace.hex() });
                self.ask(Verb::Post, &self.method("GetCacheEntryDownloadURL"), Some(&body))?
            }
        };
        // Version 1 says nothing of what it does not have; Twirp may say so, too.
        if matches!((reply.status(), self.version), (204, _) | (404, Version::Two)) {
            return Ok(None);
        }
        if !reply.is_success() {
            return Err(self.refused(&format!("look for {key}"), reply));
        }
        let bytes = reply.bytes(key, ANSWER_LIMIT)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let found: Found = parse(&bytes)?;
        if found.key.is_empty() || found.address.is_empty() {
            return Ok(None);
        }
        Ok(Some(Entry { key: found.key, address: self.address(&found.address)? }))
    }

    /// An address for content: it carries its permission, and is not spoken to less safely than the service itself.
    pub(super) fn address(&self, text: &str) -> Result<Url> {
        let wrong = |reason: &str| RemoteError::Document { reason: reason.to_owned() };
        let address = Url::parse(text).ok_or_else(|| wrong("the service gives no valid address for an entry"))?;
        if self.url.is_encrypted() && !address.is_encrypted() {
            return Err(wrong("the service is encrypted, and the address that it gives for an entry is not"));
        }
        Ok(address)
    }

    /// An entry's content from an offset on. Addresses end soon, so each try but the first asks for one.
    pub(super) fn open(&self, entry: &Entry, offset: u64) -> Result<Box<dyn Read + Send>> {
        let headers =
            || -> Headers { if offset > 0 { vec![("range", format!("bytes={offset}-"))] } else { Vec::new() } };
        let reply = self.client.call(&self.call(Verb::Get, &entry.address, &headers))?;
        let is_continued =
            || reply.header("content-range").is_some_and(|range| range.trim().starts_with(&format!("bytes {offset}-")));
        match reply.status() {
            200 if offset == 0 => Ok(reply.reader()),
            206 if offset > 0 && is_continued() => Ok(reply.reader()),
            200 | 206 => Err(RemoteError::Document { reason: format!("another part of {} came", entry.key) }),
            _ => Err(stored(&format!("read {}", entry.key), reply)),
        }
    }

    /// Asks for a key to write.
    pub(super) fn reserve(&self, key: &str) -> Result<Reserved> {
        #[derive(Deserialize)]
        struct Given {
            #[serde(default, alias = "signed_upload_url", alias = "signedUploadUrl")]
            address: String,
            #[serde(default, alias = "cacheId", alias = "cacheID")]
            number: u64,
            #[serde(default)]
            message: String,
        }
        let method = match self.version {
            Version::One => "caches",
            Version::Two => "CreateCacheEntry",
        };
        let body = json!({ "key": key, "version": self.namespace.hex() });
        let reply = self.ask(Verb::Post, &self.method(method), Some(&body))?;
        if !reply.is_success() {
            return match self.refused(&format!("write {key}"), reply) {
                RemoteError::Service(refusal) if says_it_exists(&refusal) => Ok(Reserved::Taken),
                error => Err(error),
            };
        }
        let given: Given = parse(&reply.bytes(key, ANSWER_LIMIT)?)?;
        Ok(match self.version {
            Version::One if given.number == 0 => {
                return Err(RemoteError::Document { reason: "the service gives no number for an entry".to_owned() });
            }
            Version::One => Reserved::Upload(Upload::Numbered(given.number)),
            // `ok` is false then; newer services say why.
            Version::Two if given.address.is_empty() => {
                let refusal = self.refusal(&format!("write {key}"), Said { message: given.message, ..Said::of(200) });
                match refusal.message.is_empty() || says_it_exists(&refusal) {
                    true => Reserved::Taken,
                    false => return Err(Box::new(refusal).into()),
                }
            }
            Version::Two => Reserved::Upload(Upload::At(self.address(&given.address)?)),
        })
    }

    /// Writes the content of a key, and closes it.
    pub(super) fn write(&self, key: &str, upload: &Upload, sent: &Sent<'_>, task: &Task) -> Result<()> {
        let Descriptor { digest, size, .. } = *sent.descriptor;
        let verified =
            || -> io::Result<Box<dyn Read>> { Ok(Box::new(VerifyReader::new((sent.open)()?, digest, Some(size)))) };
        let failed = |source| RemoteError::Io { action: "read", path: digest.to_string(), source };
        match upload {
            Upload::Numbered(number) => {
                let address = self.method(&format!("caches/{number}"));
                let mut offset = 0;
                for_each_part(verified().map_err(failed)?, failed, |part| {
                    self.put_chunk(key, &address, part, offset, task)?;
                    offset += part.len() as u64;
                    Ok(())
                })?;
                self.commit(key, &address, &json!({ "size": size }))
            }
            Upload::At(address) => {
                if size <= ONE_PIECE {
                    let content = CallContent::Blob { digest, size, open: &verified };
                    self.put_azure(key, address, content, task)?;
                } else {
                    self.put_blocks(key, address, verified().map_err(failed)?, failed, task)?;
                }
                let body = json!({ "key": key, "size_bytes": size, "version": self.namespace.hex() });
                self.commit(key, &self.method("FinalizeCacheEntryUpload"), &body)
            }
        }
    }

    fn put_chunk(&self, key: &str, address: &Url, part: &[u8], offset: u64, task: &Task) -> Result<()> {
        let headers = || {
            let mut headers = self.headers();
            let last = offset + part.len() as u64 - 1;
            headers.push(("content-type", "application/octet-stream".to_owned()));
            headers.push(("content-range", format!("bytes {offset}-{last}/*")));
            headers
        };
        let call = self.call(Verb::Patch, address, &headers);
        match self.client.call(&Call { content: CallContent::Bytes(part), task: Some(task), ..call })? {
            reply if reply.is_success() => {
                reply.discard();
                Ok(())
            }
            reply => Err(self.refused(&format!("write {key}"), reply)),
        }
    }

    /// Puts a blob, a block of one or a list of blocks; the address carries its permission, and the token stays here.
    fn put_azure(&self, key: &str, address: &Url, content: CallContent<'_>, task: &Task) -> Result<()> {
        let headers = || vec![("x-ms-blob-type", "BlockBlob".to_owned()), ("x-ms-version", AZURE_VERSION.to_owned())];
        let call = self.call(Verb::Put, address, &headers);
        match self.client.call(&Call { content, task: Some(task), ..call })? {
            reply if reply.is_success() => {
                reply.discard();
                Ok(())
            }
            reply => Err(stored(&format!("write {key}"), reply)),
        }
    }

    fn put_blocks(
        &self,
        key: &str,
        address: &Url,
        reader: Box<dyn Read>,
        failed: impl Fn(io::Error) -> RemoteError,
        task: &Task,
    ) -> Result<()> {
        let mut list = String::new();
        let mut number = 0;
        for_each_part(reader, failed, |part| {
            // All names of a blob's blocks have to be of one length.
            let name = STANDARD.encode(format!("{number:08}"));
            let block = address.with_parameter("comp", "block").with_parameter("blockid", &name);
            self.put_azure(key, &block, CallContent::Bytes(part), task)?;
            list.push_str(&format!("<Latest>{name}</Latest>"));
            number += 1;
            Ok(())
        })?;
        let document = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        let address = address.with_parameter("comp", "blocklist");
        self.put_azure(key, &address, CallContent::Bytes(document.as_bytes()), task)
    }

    fn commit(&self, key: &str, address: &Url, body: &Value) -> Result<()> {
        let reply = self.ask(Verb::Post, address, Some(body))?;
        if !reply.is_success() {
            return Err(self.refused(&format!("finish {key}"), reply));
        }
        let bytes = reply.bytes(key, ANSWER_LIMIT)?;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if self.version == Version::One || answer["ok"] != Value::Bool(false) {
            return Ok(());
        }
        let message = answer["message"].as_str().unwrap_or("it was not taken").to_owned();
        let refusal = self.refusal(&format!("finish {key}"), Said { message, ..Said::of(200) });
        Err(Box::new(refusal).into())
    }

    /// The error for an answer of the service itself.
    fn refused(&self, action: &str, reply: Reply) -> RemoteError {
        let status = reply.status();
        let text = reply.refusal();
        // GitHub's first version begins with a byte order mark.
        let said: Said = serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
        Box::new(self.refusal(action, Said { status, ..said })).into()
    }

    fn refusal(&self, action: &str, said: Said) -> ServiceRefusal {
        let has_ended = Claims::of(&self.token).has_ended(SystemTime::now());
        ServiceRefusal {
            action: format!("{action} at {}", self.url.authority()),
            status: said.status,
            code: presentable(&said.code),
            message: presentable(&said.message),
            advice: said.advice(has_ended).to_owned(),
        }
    }
}

/// What the service says instead of doing something.
#[derive(Deserialize, Default)]
struct Said {
    #[serde(skip)]
    status: u16,
    #[serde(default, alias = "typeKey")]
    code: String,
    #[serde(default, alias = "msg")]
    message: String,
}

impl Said {
    fn of(status: u16) -> Said {
        Said { status, ..Said::default() }
    }

    /// What can be done about it. Some refusals come with a status of success, or of another kind: then their words count.
    fn advice(&self, has_ended: bool) -> &'static str {
        let message = self.message.to_lowercase();
        let speaks_of = |words: &[&str]| words.iter().any(|word| message.contains(word));
        match (self.status, self.code.as_str()) {
            (401 | 403, _) | (_, "unauthenticated") if has_ended => "the token has ended: it lives as long as its job",
            // It speaks of a quota, too.
            (429, _) | (_, "resource_exhausted") => {
                "the service limits how much a repository asks; a later build goes on"
            }
            _ if speaks_of(&["quota", "storage limit", "size limit", "budget"]) => {
                "the room for caches is used up: remove entries of the repository, or cache less (mode=min)"
            }
            (401, _) | (_, "unauthenticated") => {
                "the token is not one of this service: ACTIONS_RUNTIME_TOKEN of this very job is"
            }
            (403, _) | (_, "permission_denied") => {
                "the token may not do this; jobs of pull requests from forks may only read"
            }
            (404, _) => "there is no such service; is the version right (version=1, version=2)?",
            _ if speaks_of(&["permission", "read-only", "read only", "not allowed", "denied"]) => {
                "the token may not do this; jobs of pull requests from forks may only read"
            }
            _ => "",
        }
    }
}

/// The error for an answer of where the content is.
fn stored(action: &str, reply: Reply) -> RemoteError {
    let (status, code) = (reply.status(), reply.header("x-ms-error-code").map(presentable).unwrap_or_default());
    let (action, message, advice) = (action.to_owned(), String::new(), String::new());
    Box::new(ServiceRefusal { action, status, code, message, advice }).into()
}

fn says_it_exists(refusal: &ServiceRefusal) -> bool {
    let ServiceRefusal { status, code, message, .. } = refusal;
    let message = message.to_lowercase();
    code == "already_exists"
        || code.contains("AlreadyExists")
        || ["already exists", "another job may be creating"].iter().any(|words| message.contains(words))
        || (*status == 409 && matches!(code.as_str(), "" | "aborted"))
}

/// The parser's error is not shown: it may quote an address that carries its permission.
fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|_| RemoteError::Document { reason: "the service answers with something else than it should".into() })
}

/// Reads parts of a size that fits into memory.
fn for_each_part(
    mut reader: Box<dyn Read>,
    failed: impl Fn(io::Error) -> RemoteError,
    mut put: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    loop {
        let mut part = Vec::new();
        reader.by_ref().take(PART).read_to_end(&mut part).map_err(&failed)?;
        if part.is_empty() {
            return Ok(());
        }
        put(&part)?;
    }
}
