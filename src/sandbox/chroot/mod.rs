//! Commands where no namespace is to be had: in a container whose profile forbids them, with root's uid.
//!
//! # What it is for
//! The last rung on which RUN works: a copied root ([`super::copied`]), never the builder's own, entered by chroot, with
//! Landlock keeping the command to it, so that the ways out of a chroot lead to nothing, and with `no_new_privs`, the
//! system-call filter, and without the capabilities for chroot and devices.
//!
//! # What it cannot do
//! Nothing can be mounted: `/proc` and `/sys` are empty, `/dev` has the nodes that the place lets us make, and what a
//! Dockerfile mounts is copied in, caches are copied out again ([`fill`]). There is no pid namespace: a supervisor, which
//! is the nearest ancestor of all that the command leaves behind, ends it ([`descendants`]). Network, ipc, host name and
//! the list of processes are the container's. Before Landlock's version 6 (Linux 6.12) signals reach the builder. What
//! this means is in the README's threat model.

pub(super) mod descendants;
mod fill;

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{DumpableBehavior, Pid, WaitOptions, fchdir, set_child_subreaper, set_dumpable_behavior};
use rustix::thread::CapabilitySet;

use super::child::{self, Reason, SetUp, While};
use super::command::{self, Outset};
use super::order::Order;
use super::overlay::make_upper;
use super::seccomp::Filters;
use super::spec::Status;
use super::wire::{self, Reply};
use super::{copied, entry, overlay, privileges, standard, streams, stubs};
use crate::rootfs::RootDir;
use crate::sys::privileges as sys;
use crate::sys::process::{self, Forked, SingleThreaded};

type Step = (&'static str, fn(&mut SetUp) -> Result<(), Reason>);

/// In the order in which they are done.
const STEPS: &[Step] = &[
    // Before there is anybody to inherit.
    ("become the parent of what the command leaves behind", adopt),
    ("wait to be in the control group", entry::wait_at_gate),
    ("look at what is to be mounted", fill::plan),
    ("lay the mount points below the image", stubs::lay),
    ("copy the image's root", copy_root),
    ("check /proc, /sys and /dev of the image", standard::refuse_links),
    ("make /dev", fill::make_devices),
    ("copy what is to be mounted", fill::fill),
    // After all that is ours was put there.
    ("write down what the root is like", record),
    ("open the host's /proc", child::open_proc),
];

/// In the process that becomes the command.
const LAST_STEPS: &[command::Step] = &[
    ("start a session", |_| Ok(rustix::process::setsid().map(drop)?)),
    ("take its own terminal", command::take_terminal),
    ("offer the command to the out-of-memory killer", privileges::offer_to_oom_killer),
    ("reset signals", |_| Ok(process::reset_signals()?)),
    ("limit resources", |outset| privileges::limit_resources_of(outset.order)),
    // Without CAP_SYS_ADMIN neither Landlock nor a filter is to be had otherwise. sudo in the image has no power then.
    ("allow no new privileges", |_| Ok(rustix::thread::set_no_new_privs(true)?)),
    // The rule is made for the root while it is known which directory that is.
    ("keep the command to its root", keep_to_root),
    ("give it a keyring of its own", privileges::isolate_keyring),
    ("install the system-call filter", privileges::install_filter),
    ("drop capabilities", |_| drop_capabilities()),
    ("become the user", privileges::become_user),
    ("tie the command's life to its supervisor", privileges::die_with_parent),
    ("close all other descriptors", |_| Ok(crate::sys::descriptors::close_on_exec_from(3)?)),
];

/// The whole life of a command's supervisor.
pub(super) fn set_up_and_run(job: &OwnedFd, filters: Filters, proof: SingleThreaded) -> ! {
    let mut setup = match child::receive_for_chroot(job, filters) {
        Ok(setup) => setup,
        Err(reason) => child::fail(job, "receive the command", reason),
    };
    for (name, step) in STEPS {
        if let Err(reason) = step(&mut setup) {
            child::fail(job, name, reason);
        }
    }
    // Before the fork: the command must at no time be able to look into its supervisor.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        child::fail(job, "hide the supervisor", error.into());
    }
    match process::fork(proof) {
        Err(error) => child::fail(job, "fork the command", error.into()),
        Ok(Forked::Parent { pid, child }) => {
            // Its copies of the command's outputs: their end would never be seen.
            drop(setup);
            supervise(job, pid, &child)
        }
        Ok(Forked::Child) => become_command(setup, job),
    }
}

fn become_command(setup: SetUp, job: &OwnedFd) -> ! {
    if let Err(reason) = enter(&setup) {
        child::fail(job, "enter the image's root", reason);
    }
    let SetUp { order, filters, proc, root, .. } = &setup;
    let root = root.as_ref().map(AsFd::as_fd);
    let outset = Outset { order, filters, recorder: None, proc: proc.as_ref(), root, alone: None };
    command::become_command(&outset, LAST_STEPS, job)
}

/// Streams, root and working directory. Devices are those outside: what stands for them inside may be plain files.
fn enter(setup: &SetUp) -> Result<(), Reason> {
    streams::connect_in(setup, &RootDir::open(std::path::Path::new("/"))?)?;
    fchdir(setup.root()?)?;
    rustix::process::chroot(".").doing("chroot")?;
    rustix::process::chdir("/")?;
    let cwd = &setup.order.cwd;
    child::enter_directory(&child::find_directory(&RootDir::open(std::path::Path::new("/"))?, cwd)?, cwd)
}

fn adopt(_: &mut SetUp) -> Result<(), Reason> {
    // Any number but zero switches it on.
    set_child_subreaper(Some(Pid::INIT)).doing("become a subreaper")
}

fn copy_root(setup: &mut SetUp) -> Result<(), Reason> {
    let Order { lowers, upper, work, .. } = &setup.order;
    make_upper(upper.path(), lowers.first().map(super::order::Bytes::path))?;
    overlay::make_directory(work.path())?;
    let lowers: Vec<_> = lowers.iter().map(|lower| lower.path().to_owned()).chain(setup.stubs.clone()).collect();
    let (root, entries) = copied::copy_root(&lowers, work.path())?;
    setup.root = Some(RootDir::open(&root)?);
    setup.changes = root;
    setup.entries = entries;
    setup.report(&Reply::Copied(None))
}

fn record(setup: &mut SetUp) -> Result<(), Reason> {
    let entries = std::mem::take(&mut setup.entries);
    copied::write_record(&entries, &setup.filled, setup.order.work.path())
}

/// Landlock, where the kernel has it: whoever asked for this rung without it was told what is missing.
fn keep_to_root(outset: &Outset<'_>) -> Result<(), Reason> {
    if sys::landlock_version().is_err() {
        return Ok(());
    }
    let root = outset.root.ok_or_else(|| Reason("there is no root".to_owned()))?;
    Ok(sys::landlock_beneath(root)?)
}

/// What Docker leaves to root, less what leads out of a chroot or makes devices, as far as we have it ourselves.
fn drop_capabilities() -> Result<(), Reason> {
    let own = rustix::thread::capabilities(None)?.permitted;
    let kept = privileges::KEPT.difference(CapabilitySet::SYS_CHROOT | CapabilitySet::MKNOD).intersection(own);
    privileges::limit_within(kept, own)
}

/// Waits for the command, or for the end of whoever wanted it, and leaves nothing of it running.
fn supervise(job: &OwnedFd, command: Pid, process: &OwnedFd) -> ! {
    let status = watch(job, command, process);
    descendants::end_all(&[]);
    let replied = match status {
        Ok(Some(status)) => wire::reply(job, &Reply::Exited(status), &[]),
        Ok(None) => Ok(()),
        Err(reason) => child::fail(job, "wait for the command", reason),
    };
    process::exit_now(if replied.is_ok() { 0 } else { 125 })
}

fn watch(job: &OwnedFd, command: Pid, process: &OwnedFd) -> Result<Option<Status>, Reason> {
    let own = rustix::thread::capabilities(None)?.permitted;
    privileges::limit_within(CapabilitySet::KILL.intersection(own), own)?;
    loop {
        let mut polled = [PollFd::new(process, PollFlags::IN), PollFd::new(job, PollFlags::empty())];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
        if polled[1].revents().contains(PollFlags::HUP) {
            return Ok(None);
        }
        if let Some((_, status)) = rustix::process::waitpid(Some(command), WaitOptions::NOHANG)? {
            match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => return Ok(Some(Status::Code(code))),
                (None, Some(signal)) => return Ok(Some(Status::Signal(signal))),
                (None, None) => {}
            }
        }
    }
}
