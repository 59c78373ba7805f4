//! What is possible here, found out by doing it, and what to change where something is not.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::thread::CapabilitySet;

use super::Sandbox;
use super::error::SandboxError;
use super::start::{Confined, start_holder, start_on};
use super::surroundings;
use super::trial::{LEFT, Trial};
use super::userns::{self, IdMap, NoRange};

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
    /// No user namespace, but a chroot, with this version of Landlock (none: zero).
    Chroot {
        /// What Landlock of this kernel can do grows with it.
        landlock: i64,
    },
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

/// Tries what this process can do. Changes nothing: everything happens in a holder that ends at once, and in a directory
/// that is removed.
///
/// Overlay is tried where the store is, or would be.
pub fn probe(store: Option<&Path>) -> Report {
    let place = Place::new(store);
    let mut findings = Vec::new();
    let (sandbox, rung) = climb(&place, &mut findings);
    match &sandbox {
        Some(sandbox) => findings.extend(mounts(sandbox, place.store())),
        None if rung == Rung::None => findings.push(chroot()),
        None => {}
    }
    drop(sandbox);
    findings.extend(surroundings::look());
    Report { rung, findings }
}

/// Down the ladder of namespaces; a sandbox of the first rung that holds.
fn climb(place: &Place, findings: &mut Vec<Finding>) -> (Option<Sandbox>, Rung) {
    let (full, ids) = match IdMap::of_caller() {
        Ok(map) => (place.attempt(map.clone()), map.count()),
        Err(NoRange { reason, remedy }) => (Err(SandboxError::NoIdRange { reason, remedy }), 0),
    };
    match full {
        Ok(sandbox) => {
            findings.push(Finding::good("user namespace"));
            findings.push(Finding::good("range of ids"));
            return (Some(sandbox), Rung::FullRange { ids });
        }
        Err(error @ SandboxError::NoIdRange { .. }) => findings.push(Finding::bad("range of ids", error)),
        Err(error) => {
            findings.push(Finding::bad("user namespace", error));
            return (None, without_namespaces());
        }
    }
    match place.attempt(IdMap::single()) {
        Ok(sandbox) => {
            findings.push(Finding::good("user namespace with one id"));
            (Some(sandbox), Rung::SingleId)
        }
        Err(error) => {
            findings.push(Finding::bad("user namespace with one id", error));
            (None, without_namespaces())
        }
    }
}

fn without_namespaces() -> Rung {
    let landlock = crate::sys::privileges::landlock_version().unwrap_or(0);
    let holds = can_chroot() && start_holder("/".into(), Confined::ByChroot).is_ok();
    if holds { Rung::Chroot { landlock } } else { Rung::None }
}

/// Why not even a chroot is possible.
fn chroot() -> Finding {
    let obstacle = if rustix::process::geteuid().is_root() {
        "this process has no CAP_SYS_CHROOT"
    } else {
        "only root may change its root directory"
    };
    let remedy = "run rbuild as root of the container, with CAP_SYS_CHROOT as Docker gives it";
    Finding { subject: "chroot", obstacle: Some(obstacle.to_owned()), remedy: Some(remedy.to_owned()) }
}

/// What a command's set-up needs besides ids.
fn mounts(sandbox: &Sandbox, store: &str) -> Vec<Finding> {
    let trials = match sandbox.try_out() {
        Ok(trials) => trials,
        Err(error) => return vec![Finding::bad("mounts", error)],
    };
    // What is left is in the directory that is removed with it.
    drop(sandbox.remove_trees(&LEFT));
    let finding = |(trial, obstacle): (Trial, Option<String>)| {
        let (subject, remedy) = match trial {
            Trial::Mount => ("mounts", surroundings::remedy_for_mounts()),
            Trial::Overlay => ("overlay", surroundings::remedy_for_overlay(store)),
            Trial::Proc => (
                "a new /proc",
                "the outer one is shown, read-only, which lists the processes outside; for one of its own give the \
                 container --security-opt systempaths=unconfined (podman: unmask=ALL)"
                    .to_owned(),
            ),
            Trial::Notification => (
                "seccomp notification",
                "records of owners need Linux 5.9 or newer, and a container profile that allows seccomp(2)".to_owned(),
            ),
        };
        Finding { subject, remedy: obstacle.is_some().then_some(remedy), obstacle }
    };
    trials.into_iter().map(finding).collect()
}

/// An empty directory on the file system of the store, for as long as it is probed.
struct Place {
    store: String,
    directory: Option<PathBuf>,
}

impl Place {
    fn new(store: Option<&Path>) -> Place {
        let named = store.map_or_else(|| "the store".to_owned(), |store| store.display().to_string());
        let existing =
            store.and_then(|store| store.ancestors().find(|path| path.is_dir())).unwrap_or(Path::new("/tmp"));
        let directory = existing.join(format!(".rbuild-doctor-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&directory).is_ok();
        Place { store: named, directory: made.then_some(directory) }
    }

    fn store(&self) -> &str {
        &self.store
    }

    fn attempt(&self, map: IdMap) -> Result<Sandbox, SandboxError> {
        match &self.directory {
            Some(directory) => start_on(directory, Confined::ByNamespaces(map)),
            // Nothing can be made there, so the attempt at an overlay will say so.
            None => start_holder("/".into(), Confined::ByNamespaces(map)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            // Empty by now; if not, it tells what is left.
            drop(fs::remove_dir(directory));
        }
    }
}

/// Whether this process may change its root; the holder tries it.
pub(super) fn can_chroot() -> bool {
    let own = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    // Files have owners there that the caller must be able to give: root of a namespace with one id cannot.
    let ids = userns::current("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && own.contains(CapabilitySet::SYS_CHROOT) && !userns::is_single(&ids)
}

pub(super) fn has_landlock() -> bool {
    crate::sys::privileges::landlock_version().is_ok()
}

impl Finding {
    pub(super) fn good(subject: &'static str) -> Finding {
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
            chroot: root("/proc/1/root/").is_some_and(|of_first| Some(of_first) != root("/")) || has_other_root(),
            program: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        }
    }
}

/// Whether the root is a mount below that of pid 1, which shows where both see the same mounts.
fn has_other_root() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let mount = |path: &str| {
        let found = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        Some(found.stx_mnt_id)
    };
    let first = namespace("1");
    first.is_some() && first == namespace("self") && mount("/proc/1/root/") != mount("/")
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
             [--security-opt systempaths=unconfined]; as root of the container --isolation=chroot runs commands there, less \
             well kept apart"
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
        "as the host's root: sysctl -w kernel.unprivileged_userns_clone=1; in a chroot there are none, so run rbuild \
         outside of it"
            .to_owned(),
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
