//! Two services in this process, for tests: S3, and the cache service of GitHub Actions with the storage of its blobs. They
//! keep everything in memory, check what they are sent as strictly as the real ones, and misbehave on demand.
//!
//! It is included with `#[path]` by unit tests and by integration tests. It speaks plain HTTP/1.1 on a free port of
//! 127.0.0.1; its threads end with the process.

// Each of the test binaries that include it uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use ring::hmac;
use serde_json::{Value, json};
use sha2::Digest as _;

/// The keys that S3 knows.
pub const KEY_ID: &str = "AKIDTEST";
pub const REGION: &str = "eu-test-1";
pub const BUCKET: &str = "caches";

/// A misbehaviour.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with a status, headers and a text, and does nothing.
    Status(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// Sends this many bytes of the body and closes the connection.
    Cut(usize),
    /// Changes a byte of the body.
    Corrupt,
    /// Closes the connection before the answer, having done what it was asked or not.
    LoseAnswer,
    /// Closes the connection without doing anything.
    Reset,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: BTreeMap<String, String>,
    /// Bytes of its body.
    pub bytes: usize,
}

impl Asked {
    /// Method and target.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

struct Planned {
    method: &'static str,
    part: String,
    left: usize,
    fault: Fault,
}

struct Object {
    bytes: Vec<u8>,
    changed: SystemTime,
}

/// An entry of the cache service.
struct Entry {
    scope: String,
    key: String,
    version: String,
    bytes: Vec<u8>,
    is_closed: bool,
}

#[derive(Default)]
struct State {
    secret: String,
    session: Option<String>,
    token: String,
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    entries: Vec<Entry>,
    blocks: BTreeMap<(usize, String), Vec<u8>>,
    /// The branch for which entries are written, and those that are read beside it.
    branch: String,
    others: Vec<String>,
    faults: Vec<Planned>,
    asked: Vec<Asked>,
}

/// A server of one of the services.
pub struct Cloud {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

type Handle = fn(&mut State, &Request, SocketAddr) -> Answer;

impl Cloud {
    fn start(state: State, handle: Handle) -> Cloud {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away in the middle is no failure of the server.
                thread::spawn(move || drop(serve(&state, address, &stream, handle)));
            }
        });
        Cloud { address, state }
    }

    /// S3 with one bucket and one key.
    pub fn s3(secret: &str, session: Option<&str>) -> Cloud {
        let (secret, session) = (secret.to_owned(), session.map(str::to_owned));
        Cloud::start(State { secret, session, ..State::default() }, s3)
    }

    /// The cache service, as a job of a branch sees it.
    pub fn actions(token: &str, branch: &str, others: &[&str]) -> Cloud {
        let others = others.iter().map(|name| (*name).to_owned()).collect();
        let (token, branch) = (token.to_owned(), branch.to_owned());
        Cloud::start(State { token, branch, others, ..State::default() }, actions)
    }

    /// Another job asks from now on.
    pub fn next_job(&self, token: &str, branch: &str, others: &[&str]) {
        let mut state = self.state();
        state.token = token.to_owned();
        state.branch = branch.to_owned();
        state.others = others.iter().map(|name| (*name).to_owned()).collect();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets requests of a method (`""` for all) whose target has a part in it fail.
    pub fn plan(&self, method: &'static str, part: &str, times: usize, fault: Fault) {
        self.state().faults.push(Planned { method, part: part.to_owned(), left: times, fault });
    }

    /// As [`Cloud::plan`], once and before whatever was planned.
    pub fn plan_first(&self, method: &'static str, part: &str, fault: Fault) {
        self.state().faults.insert(0, Planned { method, part: part.to_owned(), left: 1, fault });
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// What was asked so far is forgotten.
    pub fn forget_asked(&self) {
        self.state().asked.clear();
    }

    /// How often a method was asked for targets with a part in it.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.method == method && asked.target.contains(part)).count()
    }

    /// The keys of all objects, or of all entries that are closed.
    pub fn keys(&self) -> Vec<String> {
        let state = self.state();
        let entries = state.entries.iter().filter(|entry| entry.is_closed).map(|entry| entry.key.clone());
        state.objects.keys().cloned().chain(entries).collect()
    }

    /// An object, or the content of an entry.
    pub fn content(&self, key: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let entry = || state.entries.iter().find(|entry| entry.key == key).map(|entry| entry.bytes.clone());
        state.objects.get(key).map(|object| object.bytes.clone()).or_else(entry)
    }

    /// All that is kept.
    pub fn all_content(&self) -> Vec<Vec<u8>> {
        self.keys().iter().filter_map(|key| self.content(key)).collect()
    }

    /// Replaces what is under a key.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let mut state = self.state();
        match state.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.bytes = bytes.to_vec(),
            None => {
                let object = Object { bytes: bytes.to_vec(), changed: SystemTime::now() };
                state.objects.insert(key.to_owned(), object);
            }
        }
    }

    pub fn remove(&self, key: &str) {
        let mut state = self.state();
        state.objects.remove(key);
        state.entries.retain(|entry| entry.key != key);
    }

    /// Makes all objects older.
    pub fn age(&self, by: Duration) {
        self.state().objects.values_mut().for_each(|object| object.changed -= by);
    }

    /// Takes a key of the cache service, and never writes it.
    pub fn take(&self, key: &str) {
        let mut state = self.state();
        let (scope, key, version) = (state.branch.clone(), key.to_owned(), String::new());
        state.entries.push(Entry { scope, key, version, bytes: Vec::new(), is_closed: false });
    }

    /// Uploads in parts that were begun and neither finished nor given up.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }
}

fn serve(state: &Mutex<State>, address: SocketAddr, stream: &TcpStream, handle: Handle) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(mut request) = read_head(&mut reader)? {
        let length = request.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        request.body = vec![0; length];
        reader.read_exact(&mut request.body)?;
        let fault = begin(&mut state.lock().expect("no thread panics with it"), &request);
        let mut answer = match &fault {
            Some(Fault::Status(status, headers, text)) => {
                let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
                Answer { status: *status, headers, body: text.as_bytes().to_vec() }
            }
            Some(Fault::Reset) => return stream.shutdown(Shutdown::Both),
            _ => handle(&mut state.lock().expect("no thread panics with it"), &request, address),
        };
        let length = answer.body.len();
        match fault {
            Some(Fault::LoseAnswer) => return stream.shutdown(Shutdown::Both),
            Some(Fault::Cut(bytes)) => answer.body.truncate(bytes),
            Some(Fault::Corrupt) => answer.body.iter_mut().take(1).for_each(|byte| *byte ^= 1),
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
        if !answer.headers.iter().any(|(name, _)| *name == "content-length") && answer.status != 204 {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut out = stream;
        out.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method != "HEAD" {
            out.write_all(&answer.body)?;
        }
        if answer.body.len() < length {
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => return Ok(Some(Request { method, path, query, headers, body: Vec::new() })),
        };
    }
}

/// Writes the request down and picks its fault.
fn begin(state: &mut State, request: &Request) -> Option<Fault> {
    let separator = if request.query.is_empty() { "" } else { "?" };
    let target = format!("{}{separator}{}", request.path, request.query);
    let fits = |planned: &&mut Planned| {
        planned.left > 0
            && (planned.method.is_empty() || planned.method == request.method)
            && (target.contains(&planned.part) || String::from_utf8_lossy(&request.body).contains(&planned.part))
    };
    let fault = state.faults.iter_mut().find(fits).map(|planned| {
        planned.left -= 1;
        planned.fault.clone()
    });
    let (method, headers) = (request.method.clone(), request.headers.clone());
    state.asked.push(Asked { method, target, headers, bytes: request.body.len() });
    fault
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    fn xml(status: u16, code: &str) -> Answer {
        Answer::new(
            status,
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said &amp; done</Message></Error>"),
        )
    }

    fn json(status: u16, body: &Value) -> Answer {
        Answer::new(status, body.to_string()).with("content-type", "application/json")
    }

    /// What there is of some bytes, for a `Range` that has no end.
    fn part(bytes: &[u8], request: &Request) -> Answer {
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        match range.and_then(|start| start.parse::<usize>().ok()) {
            None => Answer::new(200, bytes),
            Some(start) if start < bytes.len() => {
                let (last, all) = (bytes.len() - 1, bytes.len());
                Answer::new(206, &bytes[start..]).with("content-range", format!("bytes {start}-{last}/{all}"))
            }
            Some(_) => Answer::new(416, ""),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let pair = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
        bytes.push(u8::from_str_radix(&String::from_utf8_lossy(&pair), 16).unwrap_or(b'?'));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
}

fn http_date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut left) = (1970, days);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while left >= if is_leap(year) { 366 } else { 365 } {
        left -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("Sat, {:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", left + 1, months[month])
}

/// Why S3 refuses a request; what is signed is computed from what came.
fn s3_refusal(state: &State, request: &Request) -> Option<Answer> {
    let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
    let authorization = header("authorization");
    let field = |name: &str| {
        let start = authorization.find(&format!("{name}="))? + name.len() + 1;
        authorization[start..].split(',').next()
    };
    let (credential, names, signature) = (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let (moment, payload) = (header("x-amz-date"), header("x-amz-content-sha256"));
    let scope = format!("{}/{REGION}/s3/aws4_request", moment.get(..8).unwrap_or_default());
    if credential != format!("{KEY_ID}/{scope}") {
        return Some(Answer::xml(403, "InvalidAccessKeyId"));
    }
    if state.session.as_deref() != request.headers.get("x-amz-security-token").map(String::as_str) {
        return Some(Answer::xml(403, "InvalidToken"));
    }
    if payload != sha256(&request.body) {
        return Some(Answer::xml(400, "XAmzContentSHA256Mismatch"));
    }
    let unsigned = request
        .headers
        .keys()
        .any(|name| (name.starts_with("x-amz-") || name == "host") && !names.split(';').any(|signed| signed == name));
    let mut pairs: Vec<&str> = request.query.split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_unstable();
    let lines: String = names.split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
    let canonical = format!("{}\n{}\n{}\n{lines}\n{names}\n{payload}", request.method, request.path, pairs.join("&"));
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut key = format!("AWS4{}", state.secret).into_bytes();
    for part in scope.split('/') {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
    (unsigned || signature != hex(expected.as_ref())).then(|| Answer::xml(403, "SignatureDoesNotMatch"))
}

fn s3(state: &mut State, request: &Request, _: SocketAddr) -> Answer {
    if !request.headers.contains_key("authorization") {
        return Answer::xml(403, "AccessDenied");
    }
    if let Some(refusal) = s3_refusal(state, request) {
        return refusal;
    }
    let Some(key) = request.path.strip_prefix(&format!("/{BUCKET}/")).map(decoded) else {
        return Answer::xml(404, "NoSuchBucket");
    };
    let upload = parameter(&request.query, "uploadId");
    match (request.method.as_str(), upload) {
        ("POST", None) if parameter(&request.query, "uploads").is_some() => {
            let id = format!("upload/{}+", state.uploads.len() + state.asked.len());
            state.uploads.insert(id.clone(), BTreeMap::new());
            Answer::new(
                200,
                format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
            )
        }
        (method, Some(id)) => s3_part(state, request, method, &key, &id),
        ("PUT", None) => {
            let changed = SystemTime::now();
            let bytes = match request.headers.get("x-amz-copy-source") {
                None => request.body.clone(),
                Some(source) => match state.objects.get(decoded(source).trim_start_matches(&format!("/{BUCKET}/"))) {
                    Some(object) => object.bytes.clone(),
                    None => return Answer::xml(404, "NoSuchKey"),
                },
            };
            state.objects.insert(key, Object { bytes, changed });
            Answer::new(200, "<CopyObjectResult/>")
        }
        ("GET" | "HEAD", None) => match state.objects.get(&key) {
            None => Answer::xml(404, "NoSuchKey"),
            Some(object) => Answer::part(&object.bytes, request).with("last-modified", http_date(object.changed)),
        },
        _ => Answer::xml(405, "MethodNotAllowed"),
    }
}

fn s3_part(state: &mut State, request: &Request, method: &str, key: &str, id: &str) -> Answer {
    let Some(parts) = state.uploads.get_mut(id) else { return Answer::xml(404, "NoSuchUpload") };
    let number = parameter(&request.query, "partNumber").and_then(|text| text.parse().ok());
    match (method, number) {
        ("PUT", Some(number)) => {
            let tag = format!("\"{}\"", sha256(&request.body));
            parts.insert(number, request.body.clone());
            Answer::new(200, "").with("etag", tag)
        }
        ("DELETE", None) => {
            state.uploads.remove(id);
            Answer::new(204, "")
        }
        ("POST", None) => {
            let part = |(number, bytes): (&u32, &Vec<u8>)| {
                let tag = sha256(bytes);
                format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag></Part>")
            };
            let expected: String = parts.iter().map(part).collect();
            if !String::from_utf8_lossy(&request.body).contains(&expected) {
                return Answer::xml(400, "InvalidPart");
            }
            if parts.values().rev().skip(1).any(|bytes| bytes.len() < 5 << 20) {
                return Answer::xml(400, "EntityTooSmall");
            }
            let bytes = parts.values().flatten().copied().collect();
            state.uploads.remove(id);
            state.objects.insert(key.to_owned(), Object { bytes, changed: SystemTime::now() });
            Answer::new(200, "<CompleteMultipartUploadResult/>")
        }
        _ => Answer::xml(405, "MethodNotAllowed"),
    }
}

/// The scope, key and version of a request, and where it fits entries.
fn newest<'s>(state: &'s State, key: &str, version: &str) -> Option<(usize, &'s Entry)> {
    let scopes = std::iter::once(&state.branch).chain(&state.others);
    let fits = |entry: &Entry, scope: &String| {
        entry.is_closed && entry.scope == *scope && entry.version == version && entry.key.starts_with(key)
    };
    let mut entries =
        scopes.flat_map(|scope| state.entries.iter().enumerate().rev().filter(move |(_, entry)| fits(entry, scope)));
    entries.next()
}

fn reserve(state: &mut State, key: &str, version: &str) -> Option<usize> {
    let is_taken = |entry: &Entry| entry.scope == state.branch && entry.key == key;
    if state.entries.iter().any(is_taken) {
        return None;
    }
    let (scope, key, version) = (state.branch.clone(), key.to_owned(), version.to_owned());
    state.entries.push(Entry { scope, key, version, bytes: Vec::new(), is_closed: false });
    Some(state.entries.len())
}

fn actions(state: &mut State, request: &Request, address: SocketAddr) -> Answer {
    if let Some(rest) = request.path.strip_prefix("/blobs/") {
        return azure(state, request, rest);
    }
    if request.headers.get("authorization") != Some(&format!("Bearer {}", state.token)) {
        return Answer::json(401, &json!({ "code": "unauthenticated", "msg": "who is this?" }));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let signed = |number: usize| format!("http://{address}/blobs/{number}?sig=very%2Bsecret");
    if let Some(method) = request.path.strip_prefix("/twirp/github.actions.results.api.v1.CacheService/") {
        return match method {
            "GetCacheEntryDownloadURL" => match newest(state, &text("key"), &text("version")) {
                Some((index, entry)) => {
                    let url = signed(index + 1);
                    Answer::json(200, &json!({ "ok": true, "signed_download_url": url, "matched_key": entry.key }))
                }
                None => Answer::json(200, &json!({ "ok": false, "signed_download_url": "", "matched_key": "" })),
            },
            "CreateCacheEntry" => match reserve(state, &text("key"), &text("version")) {
                Some(number) => Answer::json(200, &json!({ "ok": true, "signed_upload_url": signed(number) })),
                None => Answer::json(409, &json!({ "code": "already_exists", "msg": "cache entry with the same key" })),
            },
            "FinalizeCacheEntryUpload" => close(state, &text("key"), &body["size_bytes"]),
            _ => Answer::json(404, &json!({ "code": "bad_route", "msg": "no such method" })),
        };
    }
    let Some(rest) = request.path.strip_prefix("/_apis/artifactcache/") else { return Answer::new(404, "") };
    match (request.method.as_str(), rest.split_once('/')) {
        ("GET", None) if rest == "cache" => {
            let value = |name| parameter(&request.query, name).unwrap_or_default();
            match newest(state, &value("keys"), &value("version")) {
                Some((index, entry)) => {
                    let url = signed(index + 1);
                    Answer::json(200, &json!({ "cacheKey": entry.key, "scope": entry.scope, "archiveLocation": url }))
                }
                None => Answer::new(204, ""),
            }
        }
        ("POST", None) if rest == "caches" => match reserve(state, &text("key"), &text("version")) {
            Some(number) => Answer::json(201, &json!({ "cacheId": number })),
            None => Answer::json(
                409,
                &json!({ "typeKey": "ArtifactCacheItemAlreadyExistsException", "message": "Cache already exists." }),
            ),
        },
        ("PATCH", Some(("caches", number))) => {
            let range = request.headers.get("content-range").cloned().unwrap_or_default();
            let entry = number.parse::<usize>().ok().and_then(|number| state.entries.get_mut(number - 1));
            let Some(entry) = entry.filter(|entry| !entry.is_closed) else { return Answer::new(404, "") };
            let start: usize = range.trim_start_matches("bytes ").split('-').next().unwrap().parse().unwrap();
            let end = start + request.body.len();
            if range != format!("bytes {start}-{}/*", end.saturating_sub(1)) {
                return Answer::new(416, "");
            }
            entry.bytes.resize(entry.bytes.len().max(end), 0);
            entry.bytes[start..end].copy_from_slice(&request.body);
            Answer::new(204, "")
        }
        ("POST", Some(("caches", number))) => {
            let key = number.parse::<usize>().ok().and_then(|number| state.entries.get(number - 1));
            match key.map(|entry| entry.key.clone()) {
                Some(key) => close(state, &key, &body["size"]),
                None => Answer::new(404, ""),
            }
        }
        _ => Answer::new(404, ""),
    }
}

/// Closes an entry that has all its bytes.
fn close(state: &mut State, key: &str, size: &Value) -> Answer {
    let branch = state.branch.clone();
    let found = state.entries.iter_mut().find(|entry| entry.key == key && entry.scope == branch);
    match found {
        Some(entry) if size.as_u64() == Some(entry.bytes.len() as u64) => {
            entry.is_closed = true;
            Answer::json(200, &json!({ "ok": true, "entry_id": "1" }))
        }
        _ => Answer::json(400, &json!({ "code": "invalid_argument", "msg": "the size is another" })),
    }
}

/// Where the blobs are: who has an address needs nothing else, and is to send nothing else.
fn azure(state: &mut State, request: &Request, rest: &str) -> Answer {
    let index = rest.parse::<usize>().unwrap_or(0).wrapping_sub(1);
    if parameter(&request.query, "sig").as_deref() != Some("very+secret") || index >= state.entries.len() {
        return Answer::new(403, "").with("x-ms-error-code", "AuthenticationFailed");
    }
    if request.headers.contains_key("authorization") {
        return Answer::new(400, "").with("x-ms-error-code", "CredentialWasSent");
    }
    match (request.method.as_str(), parameter(&request.query, "comp").as_deref()) {
        ("GET", None) => Answer::part(&state.entries[index].bytes, request),
        ("PUT", None) if request.headers.get("x-ms-blob-type").is_some_and(|kind| kind == "BlockBlob") => {
            state.entries[index].bytes = request.body.clone();
            Answer::new(201, "")
        }
        ("PUT", Some("block")) => {
            let name = parameter(&request.query, "blockid").unwrap_or_default();
            state.blocks.insert((index, name), request.body.clone());
            Answer::new(201, "")
        }
        ("PUT", Some("blocklist")) => {
            let list = String::from_utf8_lossy(&request.body).into_owned();
            let names = list.split("<Latest>").skip(1).filter_map(|rest| rest.split("</Latest>").next());
            let blocks: Option<Vec<&Vec<u8>>> = names.map(|name| state.blocks.get(&(index, name.to_owned()))).collect();
            match blocks {
                Some(blocks) => {
                    state.entries[index].bytes = blocks.into_iter().flatten().copied().collect();
                    Answer::new(201, "")
                }
                None => Answer::new(400, "").with("x-ms-error-code", "InvalidBlockList"),
            }
        }
        _ => Answer::new(405, ""),
    }
}
