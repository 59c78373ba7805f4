//! Commands that are over and not yet gone: their processes have ended, but the kernel is still taking their mounts apart.
//!
//! Nobody has to wait for that, but for one: an overlay must not be mounted from a directory that another one still has as
//! its upper one (`overlayfs.rst`, "Sharing and copying layers"). So whoever needs such a directory waits here, which is
//! rare: between two commands of one chain lies the work of storing what the first one changed. A directory that was renamed
//! meanwhile is not recognised: the kernel notes that in its log and mounts it all the same, and as nobody can use the
//! earlier mount any more, nothing comes of it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::spec::{MountKind, RunSpec};
use super::wire::{self, Reply};

/// The job sockets of such commands, with their upper directories.
#[derive(Debug, Default)]
pub(super) struct Endings(Mutex<Vec<(PathBuf, OwnedFd)>>);

impl Endings {
    /// A command is over.
    pub(super) fn add(&self, upper: PathBuf, job: OwnedFd) {
        let mut endings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        endings.retain(|(_, job)| !has_news(job) || !is_gone(job));
        endings.push((upper, job));
    }

    /// Waits until nothing holds what a command is made of.
    pub(super) fn await_those_of(&self, spec: &RunSpec) {
        let needed = {
            let mut endings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            endings.extract_if(.., |(upper, _)| uses(spec, upper)).collect::<Vec<_>>()
        };
        for (_, job) in needed {
            while !is_gone(&job) {}
        }
    }
}

fn uses(spec: &RunSpec, upper: &PathBuf) -> bool {
    let merged = spec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::BindOverlay { lowers, .. } => Some(lowers),
        _ => None,
    });
    spec.upper == *upper || spec.lowers.contains(upper) || merged.into_iter().any(|lowers| lowers.contains(upper))
}

fn has_news(job: &OwnedFd) -> bool {
    // Where it cannot be asked it is not waited for either: the descriptor is kept, and closed with the sandbox.
    wire::has_news(job).unwrap_or(false)
}

/// Takes the next reply; true after the last one.
fn is_gone(job: &OwnedFd) -> bool {
    match wire::receive_reply(job) {
        Ok(Some((Reply::Gone(_), _)) | None) | Err(_) => true,
        Ok(Some(_)) => false,
    }
}
