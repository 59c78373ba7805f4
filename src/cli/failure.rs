//! How rbuild ends when it does not succeed: what is said on standard error, and the exit status.
//!
//! Contract: modules say what happened; only here does an error get a kind, hints and a status. The statuses are part of
//! the interface: that of the RUN that failed, 2 for a command line that was not understood, 130 after Ctrl-C, 1 else.

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::sync::Arc;

use super::UsageError;
use crate::build::{BuildError, CacheFailure};
use crate::cache::remote::RemoteError;
use crate::diagnostic::Color;
use crate::export::{DamagedBlob, ExportError};
use crate::registry::RegistryError;
use crate::registry::login::LoginError;
use crate::sandbox::SandboxError;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The command line was not understood.
    Usage,
    /// The Dockerfile is wrong.
    Dockerfile,
    /// A RUN ended with a status that is not 0 (128 and its number for a signal).
    Command {
        /// The status.
        status: u8,
    },
    /// `rbuild run` could not run the image's command.
    Container {
        /// 125, 126 or 127, as docker.
        status: u8,
    },
    /// Somebody pressed Ctrl-C, or sent a signal.
    Interrupted,
    /// Everything else.
    Other,
}

/// What else a failure lets fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// Nothing: another image or tag may go well.
    #[default]
    Alone,
    /// All that asks the same registry, or writes to the same disk.
    Others,
}

/// A failure, ready to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What failed.
    pub message: String,
    /// Why, and why that, in order.
    pub causes: Vec<String>,
    /// The place in the Dockerfile, drawn; it takes the place of the message where it is a whole message itself.
    pub excerpt: Option<String>,
    /// What to do.
    pub hints: Vec<String>,
    /// What else it lets fail.
    pub extent: Extent,
}

impl Failure {
    /// A failure with a message alone.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        let (causes, hints) = (Vec::new(), Vec::new());
        Failure { kind, message: message.into(), causes, excerpt: None, hints, extent: Extent::Alone }
    }

    /// A failure by an error: its chain of causes, and hints for what the system said.
    pub fn of(kind: FailureKind, error: &(dyn Error + 'static)) -> Failure {
        let mut failure = Failure::new(kind, error.to_string());
        let mut next = Some(error);
        let mut disk = Disk::Store;
        while let Some(error) = next {
            let text = error.to_string();
            let said_already =
                failure.message.contains(&text) || failure.causes.last().is_some_and(|cause| cause.contains(&text));
            if !said_already {
                failure.causes.push(text);
            }
            if writes_elsewhere(error) {
                disk = Disk::Other;
            }
            let system = error.downcast_ref().and_then(|error| system_hint(error, disk));
            failure.hints.extend(system.map(str::to_owned));
            let cache = cache_of(error);
            let registry = registry_error(error).or_else(|| cache.and_then(cache_registry));
            failure.hints.extend(registry.and_then(registry_hint).or_else(|| cache.and_then(service_hint)));
            if fails_others(registry, error.downcast_ref()) {
                failure.extent = Extent::Others;
            }
            // A sandbox that could not start is shared by the steps that wanted it.
            let shared = error.downcast_ref::<Arc<SandboxError>>().map(Arc::as_ref);
            failure.hints.extend(error.downcast_ref().or(shared).and_then(sandbox_hint));
            next = error.source();
        }
        // What a worker says has crossed a process boundary as text.
        let is_full = |text: &String| text.contains("No space left on device");
        if disk == Disk::Store
            && failure.hints.is_empty()
            && (is_full(&failure.message) || failure.causes.iter().any(is_full))
        {
            failure.hints.push(FULL.to_owned());
        }
        failure
    }

    /// Ctrl-C.
    pub fn interrupted() -> Failure {
        Failure::new(FailureKind::Interrupted, "interrupted")
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// With hints that name the flags of `executor`, which has kaniko's.
    pub(super) fn for_executor(mut self) -> Failure {
        for hint in self.hints.iter_mut().filter(|hint| hint.contains(CA_CERTIFICATE)) {
            *hint = hint
                .replace(CA_CERTIFICATE, "--registry-certificate HOST=FILE")
                .replace("--insecure-registry", "--skip-tls-verify-registry");
        }
        self
    }

    /// Adds the place in the Dockerfile, drawn.
    pub fn excerpt(mut self, excerpt: impl Into<String>) -> Failure {
        self.excerpt = Some(excerpt.into());
        self
    }

    /// The exit status.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            FailureKind::Usage => 2,
            // A failed command cannot have 0; said all the same, so that no caller takes it for success.
            FailureKind::Command { status } | FailureKind::Container { status } => status.max(1),
            FailureKind::Interrupted => 130,
            FailureKind::Dockerfile | FailureKind::Other => 1,
        }
    }

    /// Says it: `error:`, the excerpt, the causes, the hints.
    pub fn print(&self, out: &mut dyn Write, color: Color) -> std::io::Result<()> {
        let paint = |code: &str, word: &str| match color {
            Color::Always => format!("\x1b[{code}m{word}\x1b[0m"),
            Color::Never => word.to_owned(),
        };
        let mut text = String::new();
        let is_drawn = self.kind == FailureKind::Dockerfile && self.excerpt.is_some();
        if !is_drawn {
            text.push_str(&format!("{} {}\n", paint("1;31", "error:"), indented(&self.message)));
        }
        if let Some(excerpt) = &self.excerpt {
            text.push_str(excerpt.trim_end());
            text.push('\n');
        }
        for cause in &self.causes {
            text.push_str(&format!("  caused by: {}\n", indented(cause)));
        }
        for hint in &self.hints {
            text.push_str(&format!("{} {}\n", paint("1;36", "hint:"), indented(hint)));
        }
        out.write_all(text.as_bytes())
    }
}

/// Later lines stand under the first one.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ")
}

/// Whether what comes after it would fail in the same way.
fn fails_others(registry: Option<&RegistryError>, system: Option<&std::io::Error>) -> bool {
    let is_refused = registry.map(RegistryError::last).is_some_and(|error| {
        matches!(
            error,
            RegistryError::Unauthorized { .. }
                | RegistryError::Connect { .. }
                | RegistryError::NoTls { .. }
                | RegistryError::Tls { .. }
        )
    });
    is_refused || system.is_some_and(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// What to do when a disk is full.
pub(super) const FULL: &str = "`rbuild du` says what the store takes, `rbuild prune` removes what no image needs";

/// The flag that adds an authority, as all commands but one have it.
const CA_CERTIFICATE: &str = "--ca-cert FILE";

/// Where a failure was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// In the store, as far as is known.
    Store,
    /// Where the user wants a file: nothing that is done to the store helps.
    Other,
}

/// Whether an error is about a file that is not the store's: an output, a cache in a directory, credentials.
fn writes_elsewhere(error: &(dyn Error + 'static)) -> bool {
    let export = match error.downcast_ref::<BuildError>() {
        Some(BuildError::Export(export)) => Some(export),
        _ => error.downcast_ref(),
    };
    matches!(export, Some(ExportError::Write { .. }))
        || matches!(cache_of(error), Some(CacheFailure::Remote(RemoteError::Io { .. })))
        || matches!(error.downcast_ref(), Some(LoginError::File { .. }))
}

/// What to do when the system says no, whoever asked.
fn system_hint(error: &std::io::Error, disk: Disk) -> Option<&'static str> {
    match error.kind() {
        _ if error.get_ref().is_some_and(|inner| inner.is::<DamagedBlob>()) => Some(
            "`rbuild check --deep --repair` removes what is damaged in the store; then build, pull or load it again",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(FULL).filter(|_| disk == Disk::Store),
        ErrorKind::ReadOnlyFilesystem if disk == Disk::Other => None,
        ErrorKind::ReadOnlyFilesystem => Some("--root DIR or RBUILD_ROOT puts the store elsewhere"),
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            Some("`ulimit -n` is too low: raise it, or run fewer steps at once with --jobs")
        }
        _ => None,
    }
}

/// What to do when a registry says no.
fn registry_hint(error: &RegistryError) -> Option<String> {
    match error {
        RegistryError::Unauthorized { registry, credentials: None, .. } => Some(format!(
            "no credentials for {registry} were found; `rbuild login {registry}` stores them, what docker and podman have stored \
             is found, and DOCKER_AUTH_CONFIG can hold them"
        )),
        RegistryError::Unauthorized { registry, credentials: Some(found), .. } => {
            Some(format!("{registry} does not accept the credentials from {found}"))
        }
        RegistryError::ManifestRefused { media_type, .. } if media_type.contains(".oci.") => Some(
            "a registry that knows Docker's types alone takes --output type=registry,oci-mediatypes=false".to_owned(),
        ),
        RegistryError::NoTls { host } => Some(format!("--insecure-registry {host} speaks plain http to it")),
        RegistryError::Tls { host, .. } => {
            Some(format!("{CA_CERTIFICATE} names a certificate to trust, --insecure-registry {host} does without"))
        }
        _ => None,
    }
}

fn registry_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a RegistryError> {
    error.downcast_ref().or_else(|| error.downcast_ref::<Box<RegistryError>>().map(Box::as_ref))
}

fn cache_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CacheFailure> {
    error.downcast_ref().or_else(|| error.downcast_ref::<Box<CacheFailure>>().map(Box::as_ref))
}

/// The registry's error of a cache, which is not in the chain of causes: a cache says it in its place.
fn cache_registry(failure: &CacheFailure) -> Option<&RegistryError> {
    match failure {
        CacheFailure::Remote(RemoteError::Registry(error)) => Some(error),
        _ => None,
    }
}

/// What to do when a cache's service cannot be asked; nothing that is said of registries counts for it but certificates.
fn service_hint(failure: &CacheFailure) -> Option<String> {
    match failure {
        CacheFailure::Remote(RemoteError::Reach(RegistryError::Tls { .. })) => {
            Some(format!("{CA_CERTIFICATE} names a certificate to trust"))
        }
        _ => None,
    }
}

/// What to change where a command cannot be run.
fn sandbox_hint(error: &SandboxError) -> Option<String> {
    match error {
        SandboxError::NoUserNamespace { remedy, .. } | SandboxError::NoIdRange { remedy, .. } => Some(format!(
            "{remedy}\n`rbuild doctor` says what this place allows; Dockerfiles without RUN build all the same"
        )),
        SandboxError::ForeignArchitecture { remedy, .. } => Some(remedy.clone()),
        SandboxError::NoPrivateNetwork { remedy, .. } => {
            Some(format!("{remedy}; or leave --network out: RUN then uses this machine's network"))
        }
        SandboxError::BaseOwner { .. } => {
            Some("the ids that rbuild may use have changed; give another store with --root".to_owned())
        }
        _ => None,
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Failure {
        let hints = error.hints();
        Failure { hints, ..Failure::new(FailureKind::Usage, error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("write blob")]
    struct Outer(#[source] std::io::Error);

    fn said(failure: &Failure) -> String {
        let mut out = Vec::new();
        failure.print(&mut out, Color::Never).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_chain_of_causes_is_said_once_with_a_hint_for_a_full_disk() {
        let full = std::io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let failure = Failure::of(FailureKind::Other, &Outer(full));
        assert_eq!(
            said(&failure),
            "error: write blob\n  caused by: No space left on device (os error 28)\nhint: `rbuild du` says what the store \
             takes, `rbuild prune` removes what no image needs\n"
        );
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn a_full_disk_that_is_not_the_stores_gets_no_hint_about_the_store() {
        for system in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT, rustix::io::Errno::ROFS] {
            let source = || std::io::Error::from_raw_os_error(system.raw_os_error());
            let path = "/elsewhere/x".to_owned();
            let write = ExportError::Write { path: path.clone(), source: source() };
            let cache = RemoteError::Io { action: "write", path, source: source() };
            let others: [Box<dyn Error>; 3] = [
                Box::new(BuildError::Export(write)),
                Box::new(BuildError::Cache { name: "dir".to_owned(), source: Box::new(CacheFailure::Remote(cache)) }),
                Box::new(LoginError::File { path: "/elsewhere/config.json".into(), source: source() }),
            ];
            for error in &others {
                let failure = Failure::of(FailureKind::Other, error.as_ref());
                assert_eq!(failure.hints, [""; 0], "{failure:?}");
            }
            assert_eq!(Failure::of(FailureKind::Other, &Outer(source())).hints.len(), 1, "{system:?}");
        }
    }

    #[test]
    fn no_certificate_helps_with_a_registry_that_does_not_speak_tls() {
        let error = RegistryError::NoTls { host: "r.test:5000".to_owned() };
        let failure = Failure::of(FailureKind::Other, &error);
        let [hint] = failure.hints.as_slice() else { panic!("{:?}", failure.hints) };
        assert!(hint.contains("--insecure-registry r.test:5000") && !hint.contains("--ca-cert"), "{hint}");
        assert_eq!(failure.extent, Extent::Others);
    }

    #[test]
    fn a_cache_in_a_registry_gets_the_registrys_hints() {
        let untrusted = || RegistryError::Tls { host: "r.test".to_owned(), reason: "UnknownIssuer".to_owned() };
        let hints = |source: RemoteError| {
            let (name, source) = ("r.test/cache".to_owned(), Box::new(CacheFailure::Remote(source)));
            Failure::of(FailureKind::Other, &BuildError::Cache { name, source }).hints.join("\n")
        };
        let of_registry = hints(RemoteError::Registry(Box::new(untrusted())));
        assert!(
            of_registry.contains("--ca-cert") && of_registry.contains("--insecure-registry r.test"),
            "{of_registry}"
        );
        let of_executor = Failure::of(FailureKind::Other, &untrusted()).for_executor().hints.join("");
        assert!(of_executor.contains("--registry-certificate HOST=FILE"), "{of_executor}");
        assert!(of_executor.contains("--skip-tls-verify-registry r.test does without"), "{of_executor}");
        let of_service = hints(RemoteError::Reach(untrusted()));
        assert!(of_service.contains("--ca-cert") && !of_service.contains("--insecure"), "{of_service}");
    }

    #[test]
    fn the_status_of_a_failed_command_is_passed_on() {
        for (kind, status) in [
            (FailureKind::Usage, 2),
            (FailureKind::Dockerfile, 1),
            (FailureKind::Command { status: 42 }, 42),
            (FailureKind::Command { status: 0 }, 1),
            (FailureKind::Interrupted, 130),
            (FailureKind::Other, 1),
        ] {
            assert_eq!(Failure::new(kind, "x").exit_code(), status, "{kind:?}");
        }
    }

    #[test]
    fn a_drawn_dockerfile_error_is_not_said_twice() {
        let failure = Failure::new(FailureKind::Dockerfile, "unknown instruction: RUM")
            .excerpt("error: unknown instruction: RUM\n --> Dockerfile:2:1\n")
            .hint("did you mean RUN?");
        let expected = "error: unknown instruction: RUM\n --> Dockerfile:2:1\nhint: did you mean RUN?\n";
        assert_eq!(said(&failure), expected);
    }
}
