//! What a command's first process does before it has to know anything of the command, so that one can be kept ready.

use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{Gid, Uid};

use super::child::{Failed, Reason, While};
use super::mounts::{NO_SUID_DEV_EXEC, tmpfs};
use super::{standard, wire};

/// What the first steps leave.
pub(super) struct Begun {
    /// A directory in memory, for files and for mounts to be made on.
    pub(super) scratch: OwnedFd,
    /// A `/proc` that is not attached yet.
    pub(super) proc: OwnedFd,
    /// A `/dev` in the scratch directory, but for its `shm`.
    pub(super) dev: OwnedFd,
}

/// Takes the first steps. What is done, and why just there:
pub(super) fn begin(mapped: Option<OwnedFd>, one_id: bool) -> Result<Begun, Failed> {
    let named = |step| move |reason| Failed { step, reason };
    // Before the maps are written this process has no ids, so nothing could be opened as anybody.
    become_root(mapped).map_err(named("become root of the user namespace"))?;
    // After the change of ids, which clears the signal.
    die_with_holder().map_err(named("tie the command's life to the holder"))?;
    // Nothing mounted here may travel to the namespace this one was copied from.
    make_mounts_private().map_err(named("make mounts private"))?;
    // Attached, as Linux before 6.15 clones nothing from a detached mount. In memory, as secrets go there.
    let scratch = mount_scratch().map_err(named("mount a directory in memory"))?;
    let proc = standard::make_proc().map_err(named("mount /proc"))?;
    let dev = standard::make_dev(&scratch, one_id).map_err(named("mount /dev"))?;
    Ok(Begun { scratch, proc, dev })
}

/// Once the holder has said that ids are mapped.
pub(super) fn become_root(mapped: Option<OwnedFd>) -> Result<(), Reason> {
    let mapped = mapped.ok_or_else(|| Reason("done already".to_owned()))?;
    wire::wait_for_byte(mapped).doing("wait for the holder to map ids")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

fn die_with_holder() -> Result<(), Reason> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

pub(super) fn make_mounts_private() -> Result<(), Reason> {
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// A directory in memory on top of the base directory: that exists, and it is this process's working directory, from
/// which names still lead beneath what is mounted over it.
fn mount_scratch() -> Result<OwnedFd, Reason> {
    // Executable, for what is cloned from it inherits that, and scripts come from here; each clone takes it away again
    // where nothing is to be executed.
    let scratch = tmpfs(0o700, None, NO_SUID_DEV_EXEC.difference(MountAttrFlags::MOUNT_ATTR_NOEXEC))?;
    move_mount(&scratch, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(scratch)
}
