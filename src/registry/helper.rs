//! Speaks with a credential helper (`docker-credential-…`): asks for a registry's credentials, has it keep or forget some.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::credentials::{CredentialsError, Secret, Stored};
use super::error::escaped;

/// How long a helper may take; some unlock a key ring, none needs a coffee break.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How much a helper may print.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// What helpers print, with a failing exit status, for a registry they do not know.
const UNKNOWN: [&str; 2] = ["credentials not found", "no credentials server URL"];

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks the helper of this name about a server; `None` where it knows nothing.
///
/// Helpers are looked for on `PATH`, or in `directory` alone where one is given.
pub(super) fn ask(name: &str, server: &str, directory: Option<&Path>) -> Result<Option<Stored>, CredentialsError> {
    ask_within(name, server, directory, TIME_LIMIT)
}

/// Tells the helper of this name to do something (`store`, `erase`) with what it is given.
pub(super) fn tell(name: &str, action: &str, input: &[u8], directory: Option<&Path>) -> Result<(), CredentialsError> {
    let output = run(name, action, input, directory, TIME_LIMIT)?;
    if output.success || action == "erase" && output.knows_nothing() {
        return Ok(());
    }
    Err(output.failure(name))
}

fn ask_within(
    name: &str,
    server: &str,
    directory: Option<&Path>,
    limit: Duration,
) -> Result<Option<Stored>, CredentialsError> {
    let output = run(name, "get", server.as_bytes(), directory, limit)?;
    if !output.success {
        return if output.knows_nothing() { Ok(None) } else { Err(output.failure(name)) };
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed(name, "its answer is not what a helper prints".to_owned()))?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match answer.username.as_str() {
        "<token>" => Stored::IdentityToken(Secret::new(answer.secret)),
        _ => Stored::Password { username: answer.username, password: Secret::new(answer.secret) },
    }))
}

fn failed(name: &str, reason: String) -> CredentialsError {
    CredentialsError::Helper { name: escaped(name), reason }
}

fn run(
    name: &str,
    action: &str,
    input: &[u8],
    directory: Option<&Path>,
    limit: Duration,
) -> Result<Output, CredentialsError> {
    let failed = |reason: String| failed(name, reason);
    // The name becomes part of a program's name: a slash in it would choose any file.
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || !name.bytes().all(valid) {
        return Err(failed("the name may have letters, digits, '.', '_' and '-' only".to_owned()));
    }
    let program = PathBuf::from(format!("docker-credential-{name}"));
    let program = directory.map_or(program.clone(), |directory| directory.join(&program));
    let mut child = Command::new(program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("start it: {error}")))?;
    let outcome = converse(&mut child, input, limit);
    if outcome.is_err() {
        // It may have ended already; then there is nothing to kill.
        child.kill().ok();
    }
    child.wait().map_err(|error| failed(format!("wait for it: {error}")))?;
    outcome.map_err(|error| failed(error.to_string()))
}

struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    success: bool,
}

impl Output {
    fn knows_nothing(&self) -> bool {
        let said = String::from_utf8_lossy(&self.stdout);
        UNKNOWN.iter().any(|unknown| said.contains(unknown))
    }

    /// Helpers write errors to stdout; a secret comes there only with success.
    fn failure(&self, name: &str) -> CredentialsError {
        let (said, errors) = (String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr));
        failed(name, format!("it failed: {}", escaped(&format!("{said} {errors}"))))
    }
}

/// Reads on threads of their own: a grandchild that keeps the pipe open must not hold the build.
fn converse(child: &mut Child, input: &[u8], limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs_f32()));
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // It may know its answer without reading the question.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            outcome => outcome?,
        }
    }
    let stdout = read_limited(child.stdout.take());
    let stderr = read_limited(child.stderr.take());
    let remaining = || deadline.saturating_duration_since(Instant::now());
    let stdout = stdout.recv_timeout(remaining()).map_err(|_| late())??;
    let stderr = stderr.recv_timeout(remaining()).map_err(|_| late())??;
    if stdout.len() as u64 > OUTPUT_LIMIT {
        return Err(io::Error::other(format!("it prints more than {OUTPUT_LIMIT} bytes")));
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Output { stdout, stderr, success: status.success() });
        }
        if remaining().is_zero() {
            return Err(late());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn read_limited(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let outcome = stream.map_or(Ok(0), |stream| stream.take(OUTPUT_LIMIT + 1).read_to_end(&mut bytes));
        // Whoever asked may have given up.
        sender.send(outcome.map(|_| bytes)).ok();
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn asked(script: &str, limit: Duration) -> Result<Option<Stored>, CredentialsError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker-credential-x");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        loop {
            let answer = ask_within("x", "r.example", Some(directory.path()), limit);
            // Another test's child may have been started while the script was open here, and still have it so.
            let is_busy = |error: &CredentialsError| error.to_string().contains("Text file busy");
            if !answer.as_ref().is_err_and(is_busy) {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    const PATIENT: Duration = Duration::from_secs(10);

    #[test]
    fn a_helper_is_told_the_server_and_gives_credentials() {
        let script = r#"[ "$1" = get ] && printf '{"Username":"me","Secret":"%s-secret"}' "$(cat)""#;
        let Some(Stored::Password { username, password }) = asked(script, PATIENT).unwrap() else { panic!("none") };
        assert_eq!((username.as_str(), password.reveal()), ("me", "r.example-secret"));
        let token = asked(r#"echo '{"Username":"<token>","Secret":"t"}'"#, PATIENT).unwrap();
        assert!(matches!(token, Some(Stored::IdentityToken(token)) if token.reveal() == "t"));
    }

    #[test]
    fn a_helper_that_knows_nothing_is_no_error() {
        let script = "echo credentials not found in native keychain; exit 1";
        assert!(asked(script, PATIENT).unwrap().is_none());
    }

    #[test]
    fn a_helper_that_fails_hangs_or_floods_is_an_error_in_time() {
        let reason = |script: &str, limit| asked(script, limit).map(drop).unwrap_err().to_string();
        assert!(reason("echo boom >&2; exit 3", PATIENT).contains("boom"));
        assert!(reason("printf 'not json'", PATIENT).contains("not what a helper prints"));
        assert!(reason("yes", PATIENT).contains("more than"), "endless output");
        let started = Instant::now();
        assert!(reason("sleep 60 & sleep 60", Duration::from_millis(200)).contains("no answer within"));
        assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
    }

    #[test]
    fn a_helper_name_cannot_choose_a_file() {
        for name in ["../evil", "", "a b", "/bin/sh"] {
            let error = ask(name, "r.example", None).map(drop).unwrap_err();
            assert!(error.to_string().contains("letters"), "{name}: {error}");
        }
    }
}
