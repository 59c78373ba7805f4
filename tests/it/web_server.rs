//! A web server on a loopback port: files with the headers that a test wants, redirects, and git repositories through
//! git's own `http-backend`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::harness::succeed;

/// What a path answers with.
#[derive(Clone, Default)]
pub struct Page {
    /// The status; 0 means 200.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

struct Shared {
    pages: BTreeMap<String, Page>,
    repositories: PathBuf,
    /// The `Authorization` that everybody has to come with.
    password: Option<String>,
    /// What was asked: method, path, `Authorization`.
    requests: Mutex<Vec<String>>,
}

/// A running server; its threads end with the test.
pub struct WebServer {
    directory: TempDir,
    shared: Arc<Shared>,
    port: u16,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl WebServer {
    /// Starts one with pages.
    pub fn start(pages: &[(&str, Page)], password: Option<&str>) -> WebServer {
        let directory = tempfile::Builder::new().prefix("rbuild-web-").tempdir().expect("create a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let shared = Arc::new(Shared {
            pages: pages.iter().map(|(path, page)| ((*path).to_owned(), page.clone())).collect(),
            repositories: directory.path().to_owned(),
            password: password.map(str::to_owned),
            requests: Mutex::default(),
        });
        let server = WebServer { directory, shared: Arc::clone(&shared), port };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client that goes away in the middle is no failure of the server.
                std::thread::spawn(move || drop(answer(stream, &shared)));
            }
        });
        server
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Host and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("no thread panics with it").clone()
    }

    /// Makes a repository of a work tree that git commands make; it is served as `/NAME.git`.
    pub fn repository(&self, name: &str, script: &str) -> PathBuf {
        let work = self.directory.path().join(format!("{name}.work"));
        std::fs::create_dir(&work).expect("create a work tree");
        let script = format!("set -e\ngit init -q -b main .\n{script}");
        succeed(git_environment(Command::new("sh").args(["-c", &script])).current_dir(&work));
        let bare = self.directory.path().join(format!("{name}.git"));
        succeed(
            git_environment(Command::new("git").args(["clone", "-q", "--bare", "--no-local"])).arg(&work).arg(&bare),
        );
        for setting in ["uploadpack.allowAnySHA1InWant", "http.uploadpack"] {
            succeed(git_environment(Command::new("git").args(["config", setting, "true"])).current_dir(&bare));
        }
        bare
    }
}

/// The object that a name is in a repository.
pub fn object(repository: &Path, name: &str) -> String {
    let output = succeed(git_environment(Command::new("git").args(["rev-parse", name])).current_dir(repository));
    String::from_utf8(output.stdout).expect("git prints text").trim().to_owned()
}

fn git_environment(command: &mut Command) -> &mut Command {
    command.env_clear().envs([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/dev/null"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "a"),
        ("GIT_AUTHOR_EMAIL", "a@example.org"),
        ("GIT_COMMITTER_NAME", "a"),
        ("GIT_COMMITTER_EMAIL", "a@example.org"),
        ("GIT_AUTHOR_DATE", "1700000000 +0000"),
        ("GIT_COMMITTER_DATE", "1700000000 +0000"),
    ])
}

fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let request = read(&stream)?;
    let authorization = request.headers.get("authorization").cloned();
    let line = format!("{} {} {}", request.method, request.path, authorization.as_deref().unwrap_or("-"));
    shared.requests.lock().expect("no thread panics with it").push(line);
    if shared.password.is_some() && shared.password != authorization {
        return stream.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    match shared.pages.get(&request.path) {
        Some(page) => {
            let matches =
                |(name, value): &(&str, String)| *name == "ETag" && request.headers.get("if-none-match") == Some(value);
            let unchanged = page.headers.iter().any(matches);
            let status = if unchanged { 304 } else { page.status.max(200) };
            write!(stream, "HTTP/1.1 {status} x\r\nConnection: close\r\n")?;
            for (name, value) in &page.headers {
                write!(stream, "{name}: {value}\r\n")?;
            }
            let body = if unchanged { &[][..] } else { &page.body };
            write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
            stream.write_all(body)
        }
        None if request.path.contains(".git/") => backend(stream, &request, shared),
        None => stream.write_all(b"HTTP/1.1 404 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    }
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length: u64 = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Request { method, path, query, headers, body })
}

/// Hands a request to git as a CGI program (RFC 3875).
fn backend(mut stream: TcpStream, request: &Request, shared: &Shared) -> std::io::Result<()> {
    let mut command = Command::new("git");
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    git_environment(command.arg("http-backend"))
        .env("GIT_PROJECT_ROOT", &shared.repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_ADDR", "127.0.0.1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    child.stdin.take().expect("it is a pipe").write_all(&request.body)?;
    let output = child.wait_with_output()?.stdout;
    let split = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(output.len());
    let headers = String::from_utf8_lossy(&output[..split]).into_owned();
    let status = headers.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n\r\n")?;
    stream.write_all(output.get(split + 4..).unwrap_or_default())
}
