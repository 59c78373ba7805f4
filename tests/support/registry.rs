//! A registry in this process, for tests: it keeps everything in memory, writes down what it is asked, and misbehaves on
//! demand.
//!
//! It is included with `#[path]` by unit tests and by integration tests, so it uses the standard library, sha2, base64 and
//! serde_json alone. It speaks plain HTTP/1.1 on a free port of 127.0.0.1 and ends when it is dropped.

// Each of the test binaries that include it uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base64::Engine as _;
use sha2::Digest as _;

/// What a client has to show.
#[derive(Clone, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    Open,
    /// User and password.
    Basic(&'static str, &'static str),
    /// A token of the registry's own token server (`/token`), which gives one to everybody for pulling, and to this user
    /// with this password for everything. The password is good as an identity token, too.
    Token(&'static str, &'static str),
}

/// A misbehaviour.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with a status, headers and a text, and does nothing.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// Sends this many bytes of the body and closes the connection.
    Cut(usize),
    /// Closes the connection before the answer.
    Reset,
    /// Closes the connection in the middle of the answer's headers.
    ResetInHeaders,
    /// Reads this many bytes of the request's body and closes the connection.
    ResetInRequest(usize),
    /// Takes this many bytes of the request's body for all of it, and closes the connection.
    KeepAndReset(usize),
    /// Does what it is asked, and closes the connection instead of saying so.
    LoseAnswer,
    /// Changes a byte of the body.
    Corrupt,
    /// Sends more than it should.
    TooLong,
    /// Redirects to this host (`http://…`) with the same path.
    Redirect(u16, String),
    /// Sends the body in pieces of this size with this pause between them.
    Drip(usize, Duration),
    /// Waits before it answers.
    Delay(Duration),
    /// Answers a request for a part with the whole.
    IgnoreRange,
    /// Answers a request for a part with another part.
    WrongRange,
    /// Replaces a header of the answer; an empty value leaves it out.
    Header(&'static str, String),
    /// Sends a header without end.
    EndlessHeader,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    /// Bytes of its body.
    pub bytes: usize,
}

struct Planned {
    method: &'static str,
    path: String,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    auth: Auth,
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// Token to what it allows (`repository:x:pull`).
    tokens: BTreeMap<String, BTreeSet<String>>,
    faults: Vec<Planned>,
    asked: Vec<Asked>,
    count: usize,
    connections: Vec<TcpStream>,
}

pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
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
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    pub fn start(auth: Auth) -> Registry {
        Registry::start_at("127.0.0.1:0", auth).expect("a free port")
    }

    /// Starts one at an address; `None` where this machine does not have it.
    pub fn start_at(address: &str, auth: Auth) -> Option<Registry> {
        let socket = TcpListener::bind(address).ok()?;
        let address = socket.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { auth, ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (state.clone(), stop.clone());
        let listener = thread::spawn(move || {
            for stream in socket.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = shared.clone();
                shared.lock().unwrap().connections.extend(stream.try_clone());
                // An error is a client that went away, or a fault that was asked for.
                thread::spawn(move || serve(&shared, address, stream).ok());
            }
        });
        Some(Registry { address, state, stop, listener: Some(listener) })
    }

    /// Host and port, as they stand in an image's name.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Misbehaves for the next `times` requests of this method (any if empty) whose path contains `path`, or whose query
    /// what follows its `?`. Of several faults that fit, the first planned comes first.
    pub fn plan(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        self.state().faults.push(Planned { method, path: path.to_owned(), left: times, fault });
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        self.state().blobs.insert((repository.to_owned(), digest.clone()), bytes.to_vec());
        digest
    }

    /// Puts a manifest or index under its digest and, where it is not empty, a tag.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        for version in [tag, digest.as_str()].into_iter().filter(|version| !version.is_empty()) {
            let content = (media_type.to_owned(), bytes.to_vec());
            self.state().manifests.insert((repository.to_owned(), version.to_owned()), content);
        }
        digest
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// Media type and bytes.
    pub fn manifest(&self, repository: &str, version: &str) -> Option<(String, Vec<u8>)> {
        self.state().manifests.get(&(repository.to_owned(), version.to_owned())).cloned()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// How many requests of this method had this in their path and query.
    pub fn count(&self, method: &str, text: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.method == method && asked.target.contains(text)).count()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// Makes all tokens that were given invalid.
    pub fn expire_tokens(&self) {
        self.state().tokens.clear();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for connection in &self.state().connections {
            connection.shutdown(Shutdown::Both).ok();
        }
        // Wakes the listener.
        TcpStream::connect(self.address).ok();
        if let Some(listener) = self.listener.take() {
            listener.join().ok();
        }
    }
}

fn serve(state: &Mutex<State>, address: SocketAddr, stream: TcpStream) -> io::Result<()> {
    let mut first = [0];
    if stream.peek(&mut first)? == 1 && first[0] == 0x16 {
        // A TLS client: what Go's server says to it.
        (&stream).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")?;
        return stream.shutdown(Shutdown::Both);
    }
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(mut request) = read_head(&mut reader)? {
        let length = request.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let fault = begin(state, &request, length);
        if let Some(Fault::ResetInRequest(bytes)) = fault {
            io::copy(&mut reader.by_ref().take(bytes as u64), &mut io::sink())?;
            return stream.shutdown(Shutdown::Both);
        }
        if let Some(Fault::KeepAndReset(bytes)) = fault {
            request.body = vec![0; bytes];
            reader.read_exact(&mut request.body)?;
            request.headers.remove("content-range");
            handle(state, address, &request);
            return stream.shutdown(Shutdown::Both);
        }
        request.body = vec![0; length];
        reader.read_exact(&mut request.body)?;
        if request.headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            request.body = read_pieces(&mut reader)?;
        }
        let answer = match &fault {
            Some(Fault::Status(status, headers, text)) => {
                let mut answer = Answer::new(*status, *text);
                answer.headers.extend(headers.iter().map(|(name, value)| (name.to_string(), value.clone())));
                answer
            }
            Some(Fault::Redirect(status, to)) => {
                let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
                Answer::new(*status, "").with("location", format!("{to}{}{query}", request.path))
            }
            Some(Fault::IgnoreRange) => {
                request.headers.remove("range");
                handle(state, address, &request)
            }
            Some(Fault::WrongRange) => {
                request.headers.insert("range".to_owned(), "bytes=1-".to_owned());
                handle(state, address, &request)
            }
            _ => handle(state, address, &request),
        };
        write_answer(&stream, &request, answer, fault)?;
    }
    Ok(())
}

/// A body whose size nobody knew beforehand (RFC 9112, 7.1).
fn read_pieces(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let start = body.len();
        // With the end of the line after it.
        body.resize(start + size + 2, 0);
        reader.read_exact(&mut body[start..])?;
        body.truncate(start + size);
        if size == 0 {
            return Ok(body);
        }
    }
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
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => return Ok(Some(Request { method, path, query, headers, body: Vec::new() })),
        };
    }
}

/// Writes the request down and picks its fault.
fn begin(state: &Mutex<State>, request: &Request, bytes: usize) -> Option<Fault> {
    let mut state = state.lock().unwrap();
    let separator = if request.query.is_empty() { "" } else { "?" };
    state.asked.push(Asked {
        method: request.method.clone(),
        target: format!("{}{separator}{}", request.path, request.query),
        authorization: request.headers.get("authorization").cloned(),
        range: request.headers.get("range").cloned(),
        bytes,
    });
    let fits = |planned: &&mut Planned| {
        planned.left > 0
            && (planned.method.is_empty() || planned.method == request.method)
            && match planned.path.strip_prefix('?') {
                Some(part) => request.query.contains(part),
                None => request.path.contains(&planned.path),
            }
    };
    let planned = state.faults.iter_mut().find(fits)?;
    planned.left -= 1;
    Some(planned.fault.clone())
}

fn write_answer(stream: &TcpStream, request: &Request, mut answer: Answer, fault: Option<Fault>) -> io::Result<()> {
    let mut stream = stream;
    let whole = answer.body.len();
    let closes = matches!(fault, Some(Fault::Cut(_) | Fault::TooLong));
    match &fault {
        Some(Fault::Reset | Fault::LoseAnswer) => return stream.shutdown(Shutdown::Both),
        Some(Fault::ResetInHeaders) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le")?;
            return stream.shutdown(Shutdown::Both);
        }
        Some(Fault::EndlessHeader) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nx-filler: ")?;
            loop {
                stream.write_all(&[b'0'; 4096])?;
            }
        }
        Some(Fault::Delay(time)) => thread::sleep(*time),
        Some(Fault::Cut(bytes)) => answer.body.truncate(*bytes),
        Some(Fault::Corrupt) => answer.body.iter_mut().take(1).for_each(|byte| *byte ^= 1),
        Some(Fault::TooLong) => answer.body.extend_from_slice(b"more"),
        Some(Fault::Header(name, value)) if value.is_empty() => drop(answer.headers.remove(*name)),
        Some(Fault::Header(name, value)) => drop(answer.headers.insert(name.to_string(), value.clone())),
        _ => {}
    }
    let length = if matches!(fault, Some(Fault::TooLong)) { answer.body.len() } else { whole };
    let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
    answer.headers.entry("content-length".to_owned()).or_insert_with(|| length.to_string());
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        match fault {
            Some(Fault::Drip(size, pause)) => {
                for piece in answer.body.chunks(size) {
                    stream.write_all(piece)?;
                    thread::sleep(pause);
                }
            }
            _ => stream.write_all(&answer.body)?,
        }
    }
    if closes { stream.shutdown(Shutdown::Both) } else { Ok(()) }
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: BTreeMap::new(), body: body.into() }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    fn error(status: u16, code: &str) -> Answer {
        let text = format!(r#"{{"errors":[{{"code":"{code}","message":"said by the test registry"}}]}}"#);
        Answer::new(status, text).with("content-type", "application/json")
    }
}

impl Request {
    /// The values of a parameter of the query (or of a form).
    fn values(text: &str, name: &str) -> Vec<String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).collect()
    }

    fn value(&self, name: &str) -> Option<String> {
        Request::values(&self.query, name).pop()
    }
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

fn handle(state: &Mutex<State>, address: SocketAddr, request: &Request) -> Answer {
    let state = &mut *state.lock().unwrap();
    if request.path == "/token" {
        return give_token(state, request);
    }
    let rest = request.path.strip_prefix("/v2/").unwrap_or_default();
    let split = ["/blobs/uploads/", "/blobs/", "/manifests/", "/tags/"]
        .into_iter()
        .find_map(|kind| rest.split_once(kind).map(|(repository, name)| (repository, kind, name)));
    let (repository, kind, name) = split.unwrap_or((rest, "", ""));
    let action = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
    if let Some(refusal) = refused(state, address, request, repository, action) {
        return refusal;
    }
    match kind {
        "/blobs/uploads/" => upload(state, request, repository, name),
        "/blobs/" => match state.blobs.get(&(repository.to_owned(), name.to_owned())) {
            Some(bytes) => ranged(request, bytes).with("docker-content-digest", name),
            None => Answer::error(404, "BLOB_UNKNOWN"),
        },
        "/manifests/" => manifest(state, request, repository, name),
        "/tags/" => {
            let names = state.manifests.keys().filter(|(of, tag)| of == repository && !tag.contains(':'));
            let tags: Vec<&str> = names.map(|(_, tag)| tag.as_str()).collect();
            Answer::new(200, serde_json::json!({"name": repository, "tags": tags}).to_string())
        }
        _ => Answer::new(200, "{}"),
    }
}

fn refused(state: &State, address: SocketAddr, request: &Request, repository: &str, action: &str) -> Option<Answer> {
    let shown = request.headers.get("authorization").map(String::as_str).unwrap_or_default();
    match &state.auth {
        Auth::Open => None,
        Auth::Basic(user, password) => (shown != basic(user, password))
            .then(|| Answer::error(401, "UNAUTHORIZED").with("www-authenticate", "Basic realm=\"test\"")),
        Auth::Token(..) => {
            let allowed = shown.strip_prefix("Bearer ").and_then(|token| state.tokens.get(token));
            let wanted = format!("repository:{repository}:{action}");
            if allowed.is_some_and(|allowed| allowed.contains(&wanted)) {
                return None;
            }
            let challenge = format!(r#"Bearer realm="http://{address}/token",service="test",scope="{wanted}""#);
            Some(Answer::error(401, "UNAUTHORIZED").with("www-authenticate", challenge))
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn give_token(state: &mut State, request: &Request) -> Answer {
    let Auth::Token(user, password) = &state.auth else { return Answer::error(404, "NONE") };
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let shown = request.headers.get("authorization");
    let is_known = match request.method.as_str() {
        "POST" => Request::values(&form, "refresh_token") == [*password],
        _ => shown.is_some_and(|shown| *shown == basic(user, password)),
    };
    if !is_known && (request.method == "POST" || shown.is_some()) {
        return Answer::error(401, "UNAUTHORIZED");
    }
    let mut scopes = Request::values(&request.query, "scope");
    scopes.extend(Request::values(&form, "scope").iter().flat_map(|text| text.split(' ')).map(str::to_owned));
    let mut allowed = BTreeSet::new();
    for scope in &scopes {
        let (place, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        let granted = actions.split(',').filter(|action| is_known || *action == "pull");
        allowed.extend(granted.map(|action| format!("{place}:{action}")));
    }
    state.count += 1;
    let token = format!("token-{}", state.count);
    state.tokens.insert(token.clone(), allowed);
    Answer::new(200, serde_json::json!({"token": token, "expires_in": 300}).to_string())
}

fn ranged(request: &Request, bytes: &[u8]) -> Answer {
    let Some(range) = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")) else {
        return Answer::new(200, bytes);
    };
    let start: usize = range.split('-').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if start >= bytes.len() {
        return Answer::error(416, "RANGE_INVALID");
    }
    let content_range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    Answer::new(206, &bytes[start..]).with("content-range", content_range)
}

fn manifest(state: &mut State, request: &Request, repository: &str, version: &str) -> Answer {
    let key = (repository.to_owned(), version.to_owned());
    if request.method == "PUT" {
        let (digest, text) = (digest_of(&request.body), String::from_utf8_lossy(&request.body));
        if version.contains(':') && version != digest {
            return Answer::error(400, "DIGEST_INVALID");
        }
        let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let layers = document["layers"].as_array().cloned().unwrap_or_default();
        let mut needed = layers.iter().chain(document.get("config")).filter(|blob| blob.get("urls").is_none());
        let has = |digest: &str| state.blobs.contains_key(&(repository.to_owned(), digest.to_owned()));
        if !needed.all(|blob| has(blob["digest"].as_str().unwrap_or_default())) {
            return Answer::error(404, "MANIFEST_BLOB_UNKNOWN");
        }
        let media_type = request.headers.get("content-type").cloned().unwrap_or_default();
        let content = (media_type, request.body.clone());
        state.manifests.insert((repository.to_owned(), digest.clone()), content.clone());
        state.manifests.insert(key, content);
        return Answer::new(201, "").with("docker-content-digest", digest);
    }
    match state.manifests.get(&key) {
        Some((media_type, bytes)) => Answer::new(200, bytes.as_slice())
            .with("content-type", media_type)
            .with("docker-content-digest", digest_of(bytes)),
        None => Answer::error(404, "MANIFEST_UNKNOWN"),
    }
}

fn upload(state: &mut State, request: &Request, repository: &str, id: &str) -> Answer {
    let location = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}?state=s%3D1");
    match request.method.as_str() {
        "POST" => {
            if let (Some(digest), Some(from)) = (request.value("mount"), request.value("from"))
                && let Some(bytes) = state.blobs.get(&(from, digest.clone())).cloned()
            {
                state.blobs.insert((repository.to_owned(), digest.clone()), bytes);
                return Answer::new(201, "").with("docker-content-digest", digest);
            }
            if let Some(digest) = request.value("digest") {
                return commit(state, repository, digest, request.body.clone());
            }
            state.count += 1;
            let id = format!("upload-{}", state.count);
            state.uploads.insert(id.clone(), Vec::new());
            Answer::new(202, "").with("location", location(&id)).with("range", "0-0")
        }
        "PATCH" => {
            let Some(bytes) = state.uploads.get_mut(id) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
            let range = request.headers.get("content-range").map(String::as_str).unwrap_or_default();
            if !range.is_empty() && range.split('-').next() != Some(bytes.len().to_string().as_str()) {
                return Answer::error(416, "RANGE_INVALID");
            }
            bytes.extend_from_slice(&request.body);
            let last = bytes.len().saturating_sub(1);
            Answer::new(202, "").with("location", location(id)).with("range", format!("0-{last}"))
        }
        "PUT" => match state.uploads.remove(id) {
            Some(mut bytes) => {
                bytes.extend_from_slice(&request.body);
                commit(state, repository, request.value("digest").unwrap_or_default(), bytes)
            }
            None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
        },
        "DELETE" if state.uploads.remove(id).is_some() => Answer::new(204, ""),
        "GET" if state.uploads.contains_key(id) => {
            let last = state.uploads[id].len().saturating_sub(1);
            Answer::new(204, "").with("location", location(id)).with("range", format!("0-{last}"))
        }
        _ => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
    }
}

fn commit(state: &mut State, repository: &str, digest: String, bytes: Vec<u8>) -> Answer {
    if digest_of(&bytes) != digest {
        return Answer::error(400, "DIGEST_INVALID");
    }
    state.blobs.insert((repository.to_owned(), digest.clone()), bytes);
    Answer::new(201, "").with("docker-content-digest", digest)
}
