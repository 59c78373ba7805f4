//! The child that becomes a command: an ordered list of named steps, each with its reason.
//!
//! It starts in new namespaces, one thread, all capabilities there, and ends as two processes: a shim (pid 1, which only
//! waits) and the command. A step that fails ends the child; nothing is skipped quietly.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};
use rustix::path::Arg;
use rustix::process::{DumpableBehavior, Pid, WaitOptions, fchdir, set_dumpable_behavior};

use super::beginning::{Begun, begin};
use super::command::{self, Outset};
use super::copied::{Entries, Filled};
use super::mounts::Shape;
use super::order::Order;
use super::seccomp::Filters;
use super::spec::{Network, Status};
use super::streams::{self, ChildEnds};
use super::wire::{self, Reply};
use super::{connector, entry, mounts, overlay, privileges, recorder, standard, stubs};
use crate::rootfs::RootDir;
use crate::sys::descriptors::{self, StandardStreams};
use crate::sys::process::{self, Forked, SingleThreaded};

/// Why a step failed, in words.
#[derive(Debug)]
pub(super) struct Reason(pub(super) String);

impl<E: std::error::Error> From<E> for Reason {
    fn from(error: E) -> Reason {
        Reason(error.to_string())
    }
}

/// Says in front of an error what was being done.
pub(super) trait While<T> {
    fn doing(self, what: impl Display) -> Result<T, Reason>;
}

impl<T, E: Into<Reason>> While<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Reason> {
        self.map_err(|error| Reason(format!("{what}: {}", error.into().0)))
    }
}

/// What the steps hand on to each other.
pub(super) struct SetUp {
    pub(super) order: Order,
    pub(super) filters: Filters,
    /// Where only one id exists: who answers for the others, and what it is to be given.
    pub(super) recorder: Option<OwnedFd>,
    pub(super) records: Option<recorder::Handed>,
    /// Where the command has a network of its own that leads out: who connects it.
    pub(super) connector: Option<OwnedFd>,
    /// What becomes the command's standard streams.
    pub(super) streams: ChildEnds,
    /// What main passed besides.
    pub(super) passed: Vec<Option<OwnedFd>>,
    /// The user's mounts, opened and not yet attached.
    pub(super) sources: Vec<mounts::Source>,
    /// Where nothing can be mounted: the places that are filled instead.
    pub(super) points: Vec<(String, Shape)>,
    /// Of a copied root: what is in it, and which places stand for mounts.
    pub(super) entries: Entries,
    pub(super) filled: Vec<Filled>,
    /// Below the image, if it lacks mount points.
    pub(super) stubs: Option<PathBuf>,
    /// What was there before the order; not in a chroot.
    pub(super) begun: Option<Begun>,
    /// Where what the command changes is found: the upper directory, or a copied root.
    pub(super) changes: PathBuf,
    /// Trees that the command sees files of: the image's and those of its mounts, or copies of them.
    pub(super) shown: Vec<PathBuf>,
    /// The image's root, once mounted.
    pub(super) root: Option<RootDir>,
    /// The command's working directory, found in the root.
    directory: Option<OwnedFd>,
    /// The host's /proc, through which a process finds itself whatever /proc the image gets.
    pub(super) proc: Option<OwnedFd>,
    pub(super) job: OwnedFd,
}

impl SetUp {
    /// The image's root; a step that needs it stands behind the one that mounts it.
    pub(super) fn root(&self) -> Result<&RootDir, Reason> {
        self.root.as_ref().ok_or_else(|| Reason("the root is not mounted".to_owned()))
    }

    /// Tells main something on the way.
    pub(super) fn report(&self, reply: &Reply) -> Result<(), Reason> {
        Ok(wire::reply(&self.job, reply, &[])?)
    }

    /// What the first steps left; as with the root.
    pub(super) fn begun(&self) -> Result<&Begun, Reason> {
        self.begun.as_ref().ok_or_else(|| Reason("the first steps were not taken".to_owned()))
    }
}

type Step<'a> = (&'a str, fn(&mut SetUp) -> Result<(), Reason>);

/// In the order in which they are done, after [`begin`]. What is done, and why just there:
const STEPS: &[Step<'static>] = &[
    // Before anything is made that somebody has to clean up.
    ("see that the command is still wanted", end_if_unwanted),
    // Before /sys, which shows the control groups as this process sees them.
    ("wait to be in the control group", entry::pass_gate),
    // Early, as it takes a while, and through the host's /proc.
    ("have the network connected", connector::attach::ask),
    // While the host's paths are still there; files or directories decides what the stubs are.
    ("open what is to be mounted", mounts::open_sources),
    // Below the image, so that no mount point is ever made in what becomes a layer, and none is cleaned up
    // (CVE-2024-23652 was such a clean-up). Before the overlay: a lower layer must not change under it.
    ("lay the mount points below the image", stubs::lay),
    ("mount the image's root", overlay::mount_root),
    // Once the upper directory is there, and while the trees can be reached by name.
    ("open the records of file owners", recorder::open_records),
    // An image with links there would have us mount on, and mask, other things (CVE-2019-19921, CVE-2026-41579).
    ("check /proc, /sys and /dev of the image", standard::refuse_links),
    // The image's may turn out to be read-only.
    ("open the host's /proc", open_proc),
    ("mount /proc", standard::mount_proc),
    ("mount /sys", standard::mount_sys),
    ("mount /dev", standard::mount_dev),
    ("mount what the command asks for", mounts::attach_all),
    // After the user's mounts, so that none of them can lie over a mask.
    ("mask what tells of the host", standard::mask),
    ("make kernel settings read-only", standard::protect),
    // Before the old root lies on the new one for a while, where `..` could lead.
    ("enter the working directory", find_working_directory),
    ("enter the image's root", enter_root),
    ("let the recorder of file owners in", recorder::hand_over),
    ("set the host name", set_hostname),
    ("switch the loopback interface on", loopback_up),
    // In the new root, as a terminal is one of its own.
    ("connect the standard streams", streams::connect),
    ("stay in the working directory", enter_working_directory),
    ("limit resources", privileges::limit_resources),
    // As late as can be: the tool needs a while.
    ("wait for the network", connector::attach::wait),
];

/// What the holder gives a command's first process.
pub(super) struct Given {
    /// Gives a byte once its ids are mapped.
    pub(super) mapped: Option<OwnedFd>,
    pub(super) filters: Filters,
    pub(super) recorder: Option<OwnedFd>,
    pub(super) connector: Option<OwnedFd>,
}

/// Which step failed, and why.
pub(super) struct Failed {
    pub(super) step: &'static str,
    pub(super) reason: Reason,
}

/// The whole life of a command's first process.
pub(super) fn set_up_and_run(job: &OwnedFd, mut given: Given, proof: SingleThreaded) -> ! {
    let begun = begin(given.mapped.take(), given.recorder.is_some());
    go_on(job, given, begun, proof)
}

/// The whole life of one that is started before there is a command: it begins, and waits to be handed a command's job
/// socket.
pub(super) fn begin_and_wait(handover: OwnedFd, mut given: Given, proof: SingleThreaded) -> ! {
    let begun = begin(given.mapped.take(), given.recorder.is_some());
    if begun.is_err() && !wire::has_news(&handover).unwrap_or(false) {
        // It may go well for the next command, which starts a process of its own where this one has ended.
        process::exit_now(125);
    }
    let handed = wire::receive(&handover).ok().flatten().and_then(|(_, descriptors)| descriptors.into_iter().next());
    drop(handover);
    match handed {
        Some(job) => go_on(&job, given, begun, proof),
        // The holder is gone.
        None => process::exit_now(125),
    }
}

/// Takes the order off the socket whatever went wrong before: the other side would be told first that it was not read.
fn go_on(job: &OwnedFd, given: Given, begun: Result<Begun, Failed>, proof: SingleThreaded) -> ! {
    let received = receive(job, given).map_err(|reason| Failed { step: "receive the command", reason });
    let performed = received.and_then(|setup| perform(SetUp { begun: Some(begun?), ..setup }));
    match performed {
        Ok(setup) => split(setup, proof),
        Err(Failed { step, reason }) => fail(job, step, reason),
    }
}

fn perform(mut setup: SetUp) -> Result<SetUp, Failed> {
    for (name, perform) in STEPS {
        perform(&mut setup).map_err(|reason| Failed { step: name, reason })?;
    }
    Ok(setup)
}

fn receive(job: &OwnedFd, given: Given) -> Result<SetUp, Reason> {
    let (request, mut passed) = wire::receive_request(job)?;
    let order: Order = serde_json::from_slice(&request)?;
    let streams = ChildEnds::take(order.streams, &mut passed)?;
    Ok(SetUp {
        shown: Vec::new(),
        changes: order.upper.path().to_owned(),
        order,
        filters: given.filters,
        recorder: given.recorder,
        connector: given.connector,
        records: None,
        streams,
        passed: passed.into_iter().map(Some).collect(),
        sources: Vec::new(),
        points: Vec::new(),
        entries: Entries::new(),
        filled: Vec::new(),
        stubs: None,
        begun: None,
        root: None,
        directory: None,
        proc: None,
        job: job.try_clone()?,
    })
}

/// What a command in a chroot needs, of which nobody has to map ids.
pub(super) fn receive_for_chroot(job: &OwnedFd, filters: Filters) -> Result<SetUp, Reason> {
    receive(job, Given { mapped: None, filters, recorder: None, connector: None })
}

/// Reports and ends.
pub(super) fn fail(job: impl AsFd, step: &str, reason: Reason) -> ! {
    let reply = Reply::SetUpFailed { step: step.to_owned(), reason: reason.0 };
    // If main does not listen any more, there is nobody to tell.
    drop(wire::reply(job, &reply, &[]));
    process::exit_now(125)
}

fn end_if_unwanted(setup: &mut SetUp) -> Result<(), Reason> {
    // The holder may have died before its death was to be told. It is outside this pid namespace, so its id tells nothing;
    // but main's end of the job socket closes with main, and the holder never outlives main.
    let mut polled = [PollFd::new(&setup.job, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if polled[0].revents().contains(PollFlags::HUP) {
        process::exit_now(125);
    }
    Ok(())
}

pub(super) fn open_proc(setup: &mut SetUp) -> Result<(), Reason> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    setup.proc = Some(rustix::fs::open("/proc", flags, Mode::empty())?);
    Ok(())
}

fn enter_root(setup: &mut SetUp) -> Result<(), Reason> {
    fchdir(setup.root()?)?;
    // Both names are the same directory, so the old root ends up on top of the new one and is taken off again
    // (pivot_root(2), "pivot_root(".", ".")"): no directory in the image is needed to put it in. Until [`let_go_of_host`]
    // has taken it off, no path may be looked up in which the image could have a `..`.
    rustix::process::pivot_root(".", ".").doing("pivot_root")
}

/// Takes the old root off the new one. The kernel returns when every processor has noticed, which takes as long as half of
/// the set-up: so the shim does it, while the command's process drops its power.
fn let_go_of_host(setup: &SetUp) -> Result<(), Reason> {
    fchdir(setup.root()?)?;
    unmount(".", UnmountFlags::DETACH).doing("let go of the host's root")?;
    Ok(rustix::process::chdir("/")?)
}

fn set_hostname(setup: &mut SetUp) -> Result<(), Reason> {
    Ok(rustix::system::sethostname(setup.order.hostname.as_bytes())?)
}

fn loopback_up(setup: &mut SetUp) -> Result<(), Reason> {
    match setup.order.network {
        Network::Host => Ok(()),
        Network::None | Network::Private(_) => Ok(crate::sys::network::loopback_up()?),
    }
}

fn find_working_directory(setup: &mut SetUp) -> Result<(), Reason> {
    setup.directory = Some(find_directory(setup.root()?, &setup.order.cwd)?);
    Ok(())
}

fn enter_working_directory(setup: &mut SetUp) -> Result<(), Reason> {
    let directory = setup.directory.take().ok_or_else(|| Reason("it was not found".to_owned()))?;
    enter_directory(&directory, &setup.order.cwd)
}

/// A working directory reached through a link like `/proc/self/fd/7` would be outside (CVE-2024-21626).
pub(super) fn find_directory(root: &RootDir, cwd: &str) -> Result<OwnedFd, Reason> {
    root.open_at(cwd.as_bytes(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(|error| {
        let outside = "it is outside the root, or a loop of links";
        let said = if error.raw_os_error() == Some(libc::ELOOP) { outside.to_owned() } else { error.to_string() };
        Reason(format!("{cwd:?}: {said}"))
    })
}

/// Beneath the root of this process.
pub(super) fn enter_directory(directory: &OwnedFd, cwd: &str) -> Result<(), Reason> {
    fchdir(directory).doing(cwd)?;
    let real = rustix::process::getcwd(Vec::new())?;
    if !real.to_bytes().starts_with(b"/") {
        return Err(Reason(format!("{cwd:?}: the working directory is outside the root")));
    }
    Ok(())
}

/// Becomes two: pid 1 stays ours, so that the command cannot clear the parent-death signal that ends all (§ directed
/// attack: as pid 1 it survived a `kill -9` of the builder).
fn split(setup: SetUp, proof: SingleThreaded) -> ! {
    // Before the fork: the command must at no time be able to look into the shim.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        fail(&setup.job, "hide the shim", error.into());
    }
    let (alone, announce) = match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        Ok(ends) => ends,
        Err(error) => fail(&setup.job, "fork the command", error.into()),
    };
    match process::fork(proof) {
        Err(error) => fail(&setup.job, "fork the command", error.into()),
        Ok(Forked::Parent { pid, child }) => {
            drop(alone);
            if let Err(reason) = let_go_of_host(&setup) {
                // Before the command's process sees the end of its pipe.
                fail(&setup.job, "let go of the host's root", reason);
            }
            // Before it says anything. Without it signals reach nobody; main is gone then, or will hear of the command's end.
            drop(wire::reply(&setup.job, &Reply::Running, &[child.as_fd()]));
            if let Err(error) = rustix::io::write(&announce, b"g") {
                fail(&setup.job, "let the command begin", error.into());
            }
            shim(setup, pid)
        }
        Ok(Forked::Child) => {
            drop(announce);
            let SetUp { order, filters, recorder, job, proc, .. } = setup;
            let (recorder, proc) = (recorder.as_ref(), proc.as_ref());
            let outset = Outset { order: &order, filters: &filters, recorder, proc, root: None, alone: Some(&alone) };
            command::become_command(&outset, command::STEPS, &job)
        }
    }
}

fn shim(setup: SetUp, command: Pid) -> ! {
    let job = setup.job;
    if let Err(reason) = privileges::drop_everything() {
        fail(&job, "take all power from the shim", reason);
    }
    COMMAND.store(command.as_raw_nonzero().get(), Ordering::Relaxed);
    // Of pipes main sees the end with the command's, not a little later. A terminal has an end when nobody has it open, also
    // while the command could open it again.
    let standard = match setup.streams {
        ChildEnds::Terminal(_) => StandardStreams::Kept,
        _ => StandardStreams::Closed,
    };
    match descriptors::keep_only(job, standard, wait_as_pid_1) {
        Ok(()) | Err(_) => process::exit_now(125),
    }
}

/// The command's id, for [`wait_as_pid_1`], which as a plain function can be handed nothing but the socket.
static COMMAND: AtomicI32 = AtomicI32::new(0);

/// Reaps whatever ends; with the command it ends itself, and the kernel ends the rest of the namespace with it.
fn wait_as_pid_1(job: OwnedFd) -> ! {
    let command = COMMAND.load(Ordering::Relaxed);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == command => {
                let status = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Status::Code(code),
                    (None, Some(signal)) => Status::Signal(signal),
                    // Stopped or continued: not asked for.
                    (None, None) => continue,
                };
                let told = wire::reply(&job, &Reply::Exited(status), &[]);
                match told.and_then(|()| if is_alone() { wire::reply(&job, &Reply::Alone, &[]) } else { Ok(()) }) {
                    Ok(()) => process::exit_now(0),
                    Err(_) => process::exit_now(125),
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => process::exit_now(125),
        }
    }
}

/// Whether this is the last process of its pid namespace. Whatever lost its parent there is a child of pid 1, so one
/// without children has the namespace for itself, and only its children could make new processes.
fn is_alone() -> bool {
    // Children that send another signal than SIGCHLD when they end count too (wait(2), __WALL).
    let of_every_kind = WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WALL.unsigned_abs());
    loop {
        match rustix::process::wait(of_every_kind) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return false,
            Err(error) => return error == rustix::io::Errno::CHILD,
        }
    }
}

/// The file type of what a descriptor refers to.
pub(super) fn file_type(file: BorrowedFd<'_>) -> Result<rustix::fs::FileType, Reason> {
    Ok(rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

/// Reads what the kernel says about a failed mount (`fsopen`'s log), which is more than its error number.
pub(super) fn mount_log(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut buffer = [0; 512];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        if length == 0 {
            break;
        }
        text.push_str("; ");
        text.push_str(String::from_utf8_lossy(&buffer[..length]).trim());
    }
    text
}

/// Creates a file with content in a directory that is ours.
pub(super) fn write_file(directory: impl AsFd, name: impl Arg, content: &[u8], mode: u32) -> Result<OwnedFd, Reason> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
    let mut file = File::from(file);
    std::io::Write::write_all(&mut file, content)?;
    // Apart from creating it, so that the umask has no say.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(file.into())
}
