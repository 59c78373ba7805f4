//! What a command's set-up would need, tried in a process like its first one. Nothing of it outlives that process but
//! three directories, which the caller removes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};
use serde::{Deserialize, Serialize};

use super::beginning::{become_root, make_mounts_private};
use super::child::{self, Given, Reason};
use super::mounts::{NO_SUID_DEV_EXEC, new_mount, tmpfs};
use super::overlay::{Overlay, make_directory};
use super::seccomp;
use super::wire::{self, Reply};
use crate::sys::notify;
use crate::sys::process::{self, SingleThreaded};

/// One thing that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trial {
    /// Any mount at all.
    Mount,
    /// An overlay in the base directory.
    Overlay,
    /// A new `/proc`.
    Proc,
    /// A filter whose calls are answered by another process.
    Notification,
}

type Attempt = fn() -> Result<(), Reason>;

/// In this order: the filter stays.
const TRIALS: &[(Trial, Attempt)] = &[
    (Trial::Mount, || scratch().map(drop)),
    (Trial::Overlay, overlay),
    (Trial::Proc, || new_mount("proc", &[], NO_SUID_DEV_EXEC).map(drop)),
    (Trial::Notification, || Ok(notify::install_with_listener(&seccomp::allow_all()).map(drop)?)),
];

/// What is left in the base directory.
pub(super) const LEFT: [&str; 3] = ["lower", "upper", "work"];

/// The whole life of the process.
pub(super) fn try_all(job: &OwnedFd, given: Given, _: SingleThreaded) -> ! {
    // Nothing is in it, but main would be told first that it was not read.
    if let Err(error) = wire::receive_request(job) {
        child::fail(job, "receive the request", error.into());
    }
    if let Err(reason) = become_root(given.mapped).and_then(|()| make_mounts_private()) {
        child::fail(job, "enter namespaces", reason);
    }
    let tried = TRIALS.iter().map(|(trial, attempt)| (*trial, attempt().err().map(|reason| reason.0))).collect();
    let replied = wire::reply(job.as_fd(), &Reply::Probed(tried), &[]);
    process::exit_now(if replied.is_ok() { 0 } else { 125 })
}

/// A directory in memory over the base directory, which is the working directory still.
fn scratch() -> Result<OwnedFd, Reason> {
    let memory = tmpfs(0o700, None, NO_SUID_DEV_EXEC)?;
    move_mount(&memory, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(memory)
}

fn overlay() -> Result<(), Reason> {
    let [lower, upper, work] = LEFT.map(PathBuf::from);
    for path in [&lower, &upper, &work] {
        make_directory(path)?;
    }
    Overlay { lowers: vec![lower], writable: Some((upper, work)) }.mount_in(&scratch()?, "root").map(drop)
}
