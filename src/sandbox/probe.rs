//! What is possible here, found out by doing it, and what to change where something is not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::thread::CapabilitySet;

use super::error::SandboxError;
use super::start::{Confined, start_holder};
use super::userns::{IdMap, NoRange};

/// How well commands can be run, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// A user namespace with so many ids: everything works.
    FullRange {
        /// User ids inside, from 0 on.
        ids: u64,
    },
    /// A user namespace with the caller's id alone: file owners are recorded ([`crate::owners`]).
    SingleId,
    /// No user namespace: builds without RUN.
    None,
}

/// What `rbuild doctor` shows of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The best that is possible.
    pub rung: Rung,
    /// One per thing that was tried, in the order of the ladder.
    pub findings: Vec<Finding>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// Why it is not possible; `None` if it is.
    pub obstacle: Option<String>,
    /// What to change.
    pub remedy: Option<String>,
}

/// Tries what this process can do. Changes nothing: everything happens in a holder that ends at once.
pub fn probe() -> Report {
    let mut findings = Vec::new();
    let (full, ids) = match IdMap::of_caller() {
        Ok(map) => (attempt(map.clone()), map.count()),
        Err(NoRange { reason, remedy }) => (Err(SandboxError::NoIdRange { reason, remedy }), 0),
    };
    match full {
        Ok(()) => {
            findings.push(Finding::good("user namespace"));
            findings.push(Finding::good("range of ids"));
            return Report { rung: Rung::FullRange { ids }, findings };
        }
        Err(error @ SandboxError::NoIdRange { .. }) => findings.push(Finding::bad("range of ids", error)),
        Err(error) => {
            findings.push(Finding::bad("user namespace", error));
            return Report { rung: Rung::None, findings };
        }
    }
    match attempt(IdMap::single()) {
        Ok(()) => {
            findings.push(Finding::good("user namespace with one id"));
            Report { rung: Rung::SingleId, findings }
        }
        Err(error) => {
            findings.push(Finding::bad("user namespace with one id", error));
            Report { rung: Rung::None, findings }
        }
    }
}

/// Whether this process may change its root; the holder tries it.
pub(super) fn can_chroot() -> bool {
    let own = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    rustix::process::geteuid().is_root() && own.contains(CapabilitySet::SYS_CHROOT)
}

pub(super) fn has_landlock() -> bool {
    crate::sys::privileges::landlock_version().is_ok()
}

/// Starts a holder with this map and ends it.
fn attempt(map: IdMap) -> Result<(), SandboxError> {
    // Any directory that exists: nothing is mounted from it.
    start_holder("/".into(), Confined::ByNamespaces(map)).map(drop)
}

impl Finding {
    fn good(subject: &'static str) -> Finding {
        Finding { subject, obstacle: None, remedy: None }
    }

    fn bad(subject: &'static str, error: SandboxError) -> Finding {
        let (obstacle, remedy) = match error {
            SandboxError::NoUserNamespace { reason, remedy } | SandboxError::NoIdRange { reason, remedy } => {
                (reason, Some(remedy))
            }
            other => (other.to_string(), None),
        };
        Finding { subject, obstacle: Some(obstacle), remedy }
    }
}

/// What a refused `unshare` means here.
pub(super) fn no_user_namespace(error: &io::Error) -> SandboxError {
    let (reason, remedy) = explain(error.raw_os_error().unwrap_or(0), &Surroundings::read());
    SandboxError::NoUserNamespace { reason: format!("{reason} ({error})"), remedy }
}

/// What tells why a namespace was refused.
#[derive(Debug, Default)]
struct Surroundings {
    seccomp: bool,
    apparmor_restricts: bool,
    limit: Option<u64>,
    chroot: bool,
    program: String,
}

impl Surroundings {
    fn read() -> Surroundings {
        let number = |file: &str| -> Option<u64> { fs::read_to_string(file).ok()?.trim().parse().ok() };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let root = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        Surroundings {
            seccomp: status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2")),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            limit: number("/proc/sys/user/max_user_namespaces"),
            // Pid 1's root is the mount namespace's, if we may look.
            chroot: root("/proc/1/root/").is_some_and(|of_first| Some(of_first) != root("/")),
            program: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        }
    }
}

fn explain(errno: i32, around: &Surroundings) -> (String, String) {
    if errno == libc::ENOSPC || around.limit == Some(0) {
        let limit = around.limit.map_or("unknown".to_owned(), |limit| limit.to_string());
        return (
            format!("user.max_user_namespaces is {limit} and used up"),
            "as root: sysctl -w user.max_user_namespaces=15000".to_owned(),
        );
    }
    if around.seccomp {
        return (
            "this container's seccomp profile forbids namespaces (Docker default)".to_owned(),
            "give the container --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
             [--security-opt systempaths=unconfined], or build without RUN"
                .to_owned(),
        );
    }
    if around.apparmor_restricts {
        return (
            "AppArmor restricts unprivileged user namespaces (Ubuntu 23.10 and later)".to_owned(),
            apparmor(around),
        );
    }
    if around.chroot {
        return ("running in a chroot".to_owned(), "run rbuild outside of it".to_owned());
    }
    if errno == libc::ENOSYS {
        return ("this kernel has no user namespaces".to_owned(), "use a kernel with CONFIG_USER_NS".to_owned());
    }
    (
        "the system forbids user namespaces".to_owned(),
        "as root: sysctl -w kernel.unprivileged_userns_clone=1, or run rbuild as root".to_owned(),
    )
}

fn apparmor(around: &Surroundings) -> String {
    format!(
        "as root, put this into /etc/apparmor.d/rbuild and load it with `apparmor_parser -r /etc/apparmor.d/rbuild`:\n\
         abi <abi/4.0>,\ninclude <tunables/global>\nprofile rbuild {} flags=(unconfined) {{\n  userns,\n  \
         include if exists <local/rbuild>\n}}\n\
         in GitHub Actions: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or sudo rbuild",
        around.program
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sign_names_its_cause_and_remedy() {
        let text = |errno, around: Surroundings| {
            let (reason, remedy) = explain(errno, &around);
            format!("{reason}: {remedy}")
        };
        let around = Surroundings { seccomp: true, ..Surroundings::default() };
        assert!(text(libc::EPERM, around).contains("--security-opt seccomp=unconfined"));
        let around = Surroundings { limit: Some(0), seccomp: true, ..Surroundings::default() };
        assert!(text(libc::ENOSPC, around).contains("user.max_user_namespaces is 0"));
        let around =
            Surroundings { apparmor_restricts: true, program: "/opt/rbuild".to_owned(), ..Surroundings::default() };
        let said = text(libc::EPERM, around);
        assert!(said.contains("profile rbuild /opt/rbuild flags=(unconfined)"), "{said}");
        assert!(text(libc::EPERM, Surroundings { chroot: true, ..Surroundings::default() }).contains("chroot"));
    }
}
