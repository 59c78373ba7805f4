//! How a holder begins: it becomes independent of main's process and enters what it is to hold.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{Gid, Uid};

use super::{Confinement, Holder, Owners, status_of};
use crate::sandbox::spec::Status;
use crate::sandbox::{userns, wire};
use crate::sys::process::{self, Forked, SingleThreaded};

/// Makes this process independent of everything of main's but its life. Gives the control socket.
pub(super) fn detach() -> io::Result<OwnedFd> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != parent {
        // Main died before the signal was armed.
        process::exit_now(125);
    }
    // A Ctrl-C in the terminal is main's to handle.
    rustix::process::setsid()?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    // Deep trees and many jobs take many descriptors; what is run gets its own limit.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(control)
}

/// Finds out whether chroot works, in a child, and gets ready to inherit what commands leave behind.
pub(super) fn prepare_chroot(control: &OwnedFd) -> io::Result<io::Result<Holder>> {
    let proof = SingleThreaded::check()?;
    let tried = match process::fork(proof)? {
        Forked::Child => {
            let errno = rustix::process::chroot(".").map_or_else(|error| error.raw_os_error(), |()| 0);
            process::exit_now(errno.min(255))
        }
        Forked::Parent { child, .. } => status_of(&child)?,
    };
    if tried != Status::Code(0) {
        refuse(control, tried.shell_code())?;
    }
    rustix::process::set_child_subreaper(Some(Pid::INIT))?;
    // No namespace ends the commands with this process: it has to, when main's end of the control socket closes. The
    // signal comes a little later than that, and would end this process halfway.
    set_parent_process_death_signal(None)?;
    let holder = Holder::new(control.try_clone(), proof, [Vec::new(), Vec::new()], Owners::Kept);
    Ok(holder.map(|holder| Holder { confinement: Confinement::Chroot, ..holder }))
}

/// Enters the namespaces and has main map the ids.
pub(super) fn enter(control: &OwnedFd) -> io::Result<io::Result<Holder>> {
    let proof = SingleThreaded::check()?;
    if let Err(error) = process::enter_user_and_mount_namespace(proof) {
        refuse(control, error.raw_os_error().unwrap_or(0))?;
    }
    wire::send(control, &[wire::NAMESPACES_ENTERED], &[])?;
    match wire::receive(control)? {
        Some((message, _)) if message == [wire::IDS_MAPPED] => {}
        _ => process::exit_now(125),
    }
    if let Err(error) = become_root() {
        // Ubuntu's AppArmor lets a process into a user namespace and then denies it everything there.
        refuse(control, error.raw_os_error().unwrap_or(0))?;
    }
    match crate::sys::privileges::new_session_keyring() {
        Ok(()) => {}
        // No keyrings in this kernel, or a filter around us that keeps everybody from them: none to be kept from.
        Err(error) if [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&error.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    let (uids, gids) = (userns::current("/proc/self/uid_map")?, userns::current("/proc/self/gid_map")?);
    let (uid_map, gid_map) = (userns::nested(&uids), userns::nested(&gids));
    let owners = if userns::is_single(&uids) { Owners::Recorded } else { Owners::Kept };
    Ok(Holder::new(control.try_clone(), proof, [uid_map.into_bytes(), gid_map.into_bytes()], owners))
}

/// Tells main why there is no holder, and ends.
fn refuse(control: &OwnedFd, errno: i32) -> io::Result<Infallible> {
    wire::send(control, &[&[wire::START_FAILED][..], &errno.to_le_bytes()].concat(), &[])?;
    process::exit_now(125)
}

/// Once the ids are mapped.
fn become_root() -> io::Result<()> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    // A change of ids clears the signal, and makes /proc/self belong to the host's root: then a child's id maps could
    // not be written.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}
