//! Signed requests to a bucket.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::credentials::{Found, Sources};
use super::profile::Profile;
use super::signature::{Field, Keys, Unsigned, authorization, moment};
use super::{BucketPlace, Result, Style, xml};
use crate::cache::remote::storage::{RemoteError, ServiceRefusal};
use crate::digest::Digest;
use crate::progress::Task;
use crate::registry::service::{Call, CallContent, Effort, Headers, Reply, Verb, presentable};
use crate::registry::{Client, Url, encode};

/// What S3 calls refusals with a status of their own that another try may not meet: it waited too long for our bytes, or
/// somebody else was at the same key.
const PASSING: &[&str] = &["<Code>RequestTimeout</Code>", "<Code>OperationAborted</Code>"];

/// Keys that could not be renewed while they are still good are asked for again after this.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// A connection, made when it is first needed.
#[derive(Default)]
pub(super) struct Lazy(Mutex<Option<Arc<Connection>>>);

impl Lazy {
    pub(super) fn of(&self, client: &Client, place: &BucketPlace) -> Result<Arc<Connection>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref() {
            return Ok(Arc::clone(made));
        }
        let connection = Arc::new(Connection::new(client.clone(), place)?);
        Ok(Arc::clone(made.insert(connection)))
    }
}

/// How a bucket is spoken to.
pub(super) struct Connection {
    client: Client,
    place: BucketPlace,
    profile: Profile,
    region: String,
    /// Of the bucket; its path ends with `/`, and keys go after it.
    root: Url,
    held: Mutex<Option<Held>>,
}

/// Keys that were found.
struct Held {
    found: Found,
    /// They are not asked for before.
    again: Option<Instant>,
}

impl Held {
    fn are_good(&self, now: SystemTime) -> bool {
        self.found.is_fresh(now) || (self.found.is_valid(now) && self.again.is_some_and(|again| Instant::now() < again))
    }
}

/// A request.
pub(super) struct Asked<'a> {
    pub verb: Verb,
    pub key: &'a str,
    /// Percent-encoded, without `?`.
    pub query: String,
    pub headers: Headers,
    pub content: CallContent<'a>,
    pub payload: Digest,
    pub task: Option<&'a Task>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(verb: Verb, key: &'a str) -> Asked<'a> {
        let (content, payload) = (CallContent::None, Digest::of(b""));
        Asked { verb, key, query: String::new(), headers: Vec::new(), content, payload, task: None }
    }
}

impl Connection {
    fn new(client: Client, place: &BucketPlace) -> Result<Connection> {
        let profile = Profile::read(&place.variables)?;
        let of_profile = match profile.endpoint().filter(|_| place.endpoint.is_none()) {
            Some(text) => Some(Url::parse(text).ok_or_else(|| RemoteError::Credentials {
                reason: "the endpoint_url of the profile is no http or https address".to_owned(),
            })?),
            None => None,
        };
        let endpoint = place.endpoint.clone().or(of_profile);
        let named = place.region.as_deref().or(profile.region());
        let region = match (named, &endpoint) {
            (Some(region), _) => region.to_owned(),
            // Services that are not Amazon's call theirs so where they have one.
            (None, Some(_)) => "us-east-1".to_owned(),
            (None, None) => {
                return Err(RemoteError::Credentials {
                    reason: "the bucket's region is not known; give region=… or set AWS_REGION".to_owned(),
                });
            }
        };
        let root = root(&place.bucket, place.style, endpoint.as_ref(), &region)
            .ok_or_else(|| RemoteError::Credentials { reason: format!("the region {region:?} is none") })?;
        Ok(Connection { client, place: place.clone(), profile, region, root, held: Mutex::default() })
    }

    /// The keys, looked for once, and again before they end. As long as they are good, it is no failure that there are no
    /// new ones yet.
    fn keys(&self, task: Option<&Task>) -> Result<Keys> {
        if let Some(keys) = &self.place.keys {
            return Ok(keys.clone());
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_ref().filter(|held| held.are_good(SystemTime::now())) {
            return Ok(held.found.keys.clone());
        }
        let sources = Sources { client: &self.client, variables: &self.place.variables, region: &self.region };
        match (sources.look(&self.profile), held.as_mut()) {
            (Ok(found), _) => Ok(held.insert(Held { found, again: None }).found.keys.clone()),
            (Err(error), Some(old)) if old.found.is_valid(SystemTime::now()) => {
                if let Some(task) = task {
                    task.note(format!("the keys for S3 are not renewed yet: {}", error.in_full()));
                }
                old.again = Some(Instant::now() + RENEW_AGAIN);
                Ok(old.found.keys.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    fn address(&self, key: &str, query: &str) -> Url {
        let separator = if query.is_empty() { "" } else { "?" };
        self.root.with_target(&format!("{}{}{separator}{query}", self.root.path(), path(key)))
    }

    /// Sends a request, signed; the answer, whatever its status.
    pub(super) fn ask(&self, asked: &Asked<'_>) -> Result<Reply> {
        let (keys, address) = (self.keys(asked.task)?, self.address(asked.key, &asked.query));
        let headers = || {
            let now = moment(SystemTime::now());
            let mut headers = asked.headers.clone();
            headers.extend([("x-amz-content-sha256", asked.payload.hex()), ("x-amz-date", now.clone())]);
            headers.extend(keys.session.iter().map(|token| ("x-amz-security-token", token.reveal().to_owned())));
            let unsigned = Unsigned {
                method: asked.verb.text(),
                host: address.authority(),
                path: address.path(),
                query: &asked.query,
                headers: &headers,
                payload: asked.payload,
            };
            let field = Field { region: &self.region, service: "s3" };
            headers.push(("authorization", authorization(&unsigned, &keys, &field, &now)));
            headers
        };
        let call = Call {
            verb: asked.verb,
            address: &address,
            headers: &headers,
            content: asked.content,
            effort: Effort::Usual,
            passing: PASSING,
            task: asked.task,
        };
        Ok(self.client.call(&call)?)
    }

    /// The error for an answer that is none of those that were hoped for.
    pub(super) fn refused(&self, action: &str, key: &str, reply: Reply) -> RemoteError {
        let (status, of_bucket) = (reply.status(), reply.header("x-amz-bucket-region").map(str::to_owned));
        self.error(action, key, status, of_bucket.as_deref(), &reply.refusal())
    }

    /// The error that a document tells of.
    pub(super) fn error(
        &self,
        action: &str,
        key: &str,
        status: u16,
        of_bucket: Option<&str>,
        document: &str,
    ) -> RemoteError {
        let field = |name| presentable(&xml::text(document, name).unwrap_or_default());
        let code = field("Code");
        let elsewhere = of_bucket.filter(|region| *region != self.region && matches!(status, 301 | 307 | 400 | 403));
        let advice = match (elsewhere, code.as_str(), status) {
            (Some(region), _, _) => format!("the bucket is in another region: region={}", presentable(region)),
            (None, "NoSuchBucket", _) => "rbuild does not make buckets".to_owned(),
            (None, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken", _) => {
                "the keys are not those of this service, or have ended".to_owned()
            }
            (None, "RequestTimeTooSkewed", _) => "the clock of this machine is wrong".to_owned(),
            (None, _, 403) => {
                "a cache needs s3:GetObject, s3:ListBucket and, to be written, s3:PutObject and s3:AbortMultipartUpload"
                    .to_owned()
            }
            (None, _, _) => String::new(),
        };
        let action = format!("{action} s3://{}/{key}", self.place.bucket);
        Box::new(ServiceRefusal { action, status, code, message: field("Message"), advice }).into()
    }

    /// An object from an offset on.
    pub(super) fn open(&self, key: &str, offset: u64) -> Result<Box<dyn Read + Send>> {
        let mut asked = Asked::new(Verb::Get, key);
        if offset > 0 {
            asked.headers.push(("range", format!("bytes={offset}-")));
        }
        let reply = self.ask(&asked)?;
        let is_continued =
            || reply.header("content-range").is_some_and(|range| range.trim().starts_with(&format!("bytes {offset}-")));
        match reply.status() {
            200 if offset == 0 => Ok(reply.reader()),
            206 if offset > 0 && is_continued() => Ok(reply.reader()),
            200 | 206 => Err(Box::new(ServiceRefusal {
                action: format!("read s3://{}/{key}", self.place.bucket),
                status: reply.status(),
                code: String::new(),
                message: "another part than was asked for".to_owned(),
                advice: String::new(),
            })
            .into()),
            _ => Err(self.refused("read", key, reply)),
        }
    }

    /// Makes an object as young as if it had been written now: it is copied onto itself.
    pub(super) fn touch(&self, key: &str) -> Result<()> {
        let mut asked = Asked::new(Verb::Put, key);
        asked.headers.extend([
            ("x-amz-copy-source", format!("/{}/{}", self.place.bucket, path(key))),
            // A copy onto itself has to change something.
            ("x-amz-meta-updated-at", moment(SystemTime::now())),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
        ]);
        let reply = self.ask(&asked)?;
        if !reply.is_success() {
            return Err(self.refused("touch", key, reply));
        }
        // What begins well may still fail: the document says so.
        let document = reply.refusal();
        match xml::text(&document, "Code") {
            Some(_) => Err(self.error("touch", key, 200, None, &document)),
            None => Ok(()),
        }
    }
}

/// A key in a path.
fn path(key: &str) -> String {
    key.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// The address of a bucket, with a `/` at its end; `None` of a region that cannot be part of a name.
fn root(bucket: &str, style: Style, endpoint: Option<&Url>, region: &str) -> Option<Url> {
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let service = match endpoint {
        Some(endpoint) => endpoint.clone().plain(),
        None if is_name(region) && !region.is_empty() => {
            let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
            Url::parse(&format!("https://s3.{region}.amazonaws.com{suffix}"))?
        }
        None => return None,
    };
    let before = service.path().trim_end_matches('/');
    // An address has no names below it, and no certificate is for a name with more dots.
    let is_address = service.host().parse::<std::net::IpAddr>().is_ok() || service.host() == "localhost";
    if style == Style::Path || is_address || bucket.contains('.') {
        return Some(service.with_target(&format!("{before}/{}/", encode(bucket))));
    }
    Some(service.below(bucket).with_target(&format!("{before}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_where_the_style_says() {
        let at = |bucket: &str, style, endpoint: Option<&str>, region: &str| {
            let endpoint = endpoint.map(|text| Url::parse(text).unwrap());
            root(bucket, style, endpoint.as_ref(), region).map(|url| url.to_string())
        };
        let cases = [
            ("b", Style::Host, None, "eu-west-1", "https://b.s3.eu-west-1.amazonaws.com/"),
            ("b", Style::Host, None, "cn-north-1", "https://b.s3.cn-north-1.amazonaws.com.cn/"),
            ("b", Style::Path, None, "eu-west-1", "https://s3.eu-west-1.amazonaws.com/b/"),
            ("b.c", Style::Host, None, "eu-west-1", "https://s3.eu-west-1.amazonaws.com/b.c/"),
            ("b", Style::Host, Some("https://minio.example:9000"), "x", "https://b.minio.example:9000/"),
            ("b", Style::Path, Some("https://minio.example:443/s3/"), "x", "https://minio.example/s3/b/"),
            ("b", Style::Host, Some("http://127.0.0.1:9000"), "x", "http://127.0.0.1:9000/b/"),
            ("b", Style::Host, Some("http://localhost:9000/"), "x", "http://localhost:9000/b/"),
        ];
        for (bucket, style, endpoint, region, expected) in cases {
            assert_eq!(at(bucket, style, endpoint, region).as_deref(), Some(expected));
        }
        assert_eq!(at("b", Style::Host, None, "evil.example/"), None);
        assert_eq!(path("a b/sha256:0/é"), "a%20b/sha256%3A0/%C3%A9");
    }
}
