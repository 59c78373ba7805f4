//! The holder: a process of one thread that enters a user and a mount namespace once and starts everything from there.
//!
//! It never touches the network, holds no credentials (its environment is empty) and dies with main, in two ways: by
//! the parent-death signal, and because the control socket ends. Its children die with it; in a chroot, where nothing
//! but itself sees to that, only by the latter.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{AddressFamily, sockopt};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getppid, pidfd_send_signal,
    set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{Gid, Uid};

use super::child::{self, Given};
use super::chroot;
use super::connector::attach;
use super::recorder;
use super::seccomp::Filters;
use super::spec::Status;
use super::trial;
use super::userns;
use super::wire::{self, Job, Reply};
use super::worker::{self, Worker};
use crate::sys::descriptors;
use crate::sys::process::{self, Forked, Namespaces, SingleThreaded};

/// `argv[0]` of a holder.
pub(super) const NAME: &str = "rbuild-holder";
/// `argv[1]`: enter namespaces.
pub(super) const IN_NAMESPACES: &str = "namespaces";
/// `argv[1]`: stay where main is, and run commands in a chroot.
pub(super) const IN_CHROOT: &str = "chroot";
/// `argv[1]`: stay where main is; workers only.
pub(super) const PLAIN: &str = "plain";

/// What the program can do as a worker. A process is a holder once in its life, so the table is set once.
static WORKERS: OnceLock<&'static [Worker]> = OnceLock::new();

/// Goes on as the holder if this process was started as one, and then never returns.
pub(super) fn enter_if_holder(workers: &'static [Worker]) {
    let mut arguments = std::env::args_os();
    if arguments.next().as_deref() != Some(OsStr::new(NAME)) {
        return;
    }
    // A name can be given by anyone; the socket on descriptor 0, made by our own parent, cannot.
    let stdin = rustix::stdio::stdin();
    let of_parent = sockopt::socket_peercred(stdin).is_ok_and(|peer| Some(peer.pid) == getppid());
    if !of_parent || sockopt::socket_domain(stdin) != Ok(AddressFamily::UNIX) {
        return;
    }
    if WORKERS.set(workers).is_err() {
        process::exit_now(125);
    }
    match detach() {
        // The parent's descriptors that were inherited by accident are closed: workers must not see them.
        Ok(control) => match descriptors::keep_only(control, go_on) {
            Ok(()) | Err(_) => process::exit_now(125),
        },
        Err(_) => process::exit_now(125),
    }
}

/// Makes this process independent of everything of main's but its life. Gives the control socket.
fn detach() -> io::Result<OwnedFd> {
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

fn go_on(control: OwnedFd) -> ! {
    let mode = std::env::args_os().nth(1).unwrap_or_default();
    let entered = match mode.to_str() {
        Some(PLAIN) => SingleThreaded::check()
            .map(|proof| Holder::new(control.try_clone(), proof, [Vec::new(), Vec::new()], Owners::Kept)),
        Some(IN_CHROOT) => prepare_chroot(&control),
        _ => enter(&control),
    };
    let outcome = entered.and_then(|holder| {
        wire::send(&control, &[wire::READY], &[])?;
        drop(control);
        holder?.serve()
    });
    match outcome {
        Err(error) => {
            eprintln!("rbuild: the sandbox's holder process ends: {error}");
            process::exit_now(125)
        }
        Ok(never) => match never {},
    }
}

/// Finds out whether chroot works, in a child, and gets ready to inherit what commands leave behind.
fn prepare_chroot(control: &OwnedFd) -> io::Result<io::Result<Holder>> {
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
fn enter(control: &OwnedFd) -> io::Result<io::Result<Holder>> {
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

struct Holder {
    control: OwnedFd,
    proof: SingleThreaded,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    filters: Filters,
    owners: Owners,
    confinement: Confinement,
    running: Vec<Running>,
}

/// How commands are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confinement {
    Namespaces,
    Chroot,
}

/// Where a file's owner is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owners {
    /// In the file system.
    Kept,
    /// In records: there is one id only.
    Recorded,
}

/// What the first process of a command does.
type CommandsWork = fn(&OwnedFd, Given, SingleThreaded) -> !;

struct Running {
    pid: Pid,
    child: OwnedFd,
    job: OwnedFd,
    /// Ends by itself after the command, when it has written its records.
    recorder: Option<OwnedFd>,
    /// Has to be ended after the command.
    connector: Option<OwnedFd>,
    abandoned: bool,
}

/// What was started for one job.
struct Family {
    pid: Pid,
    child: OwnedFd,
    recorder: Option<OwnedFd>,
    connector: Option<OwnedFd>,
}

impl Holder {
    fn new(
        control: io::Result<OwnedFd>,
        proof: SingleThreaded,
        [uid_map, gid_map]: [Vec<u8>; 2],
        owners: Owners,
    ) -> io::Result<Holder> {
        let filters = Filters::default();
        Ok(Holder {
            control: control?,
            proof,
            uid_map,
            gid_map,
            filters,
            owners,
            confinement: Confinement::Namespaces,
            running: Vec::new(),
        })
    }

    /// Starts what main asks for and reports what has ended, until main closes the control socket.
    fn serve(mut self) -> io::Result<Infallible> {
        // After main was told to go on, as it has other things to do meanwhile.
        self.filters = match self.owners {
            Owners::Kept => Filters::confining(),
            Owners::Recorded => Filters::recording(),
        };
        loop {
            let (asked, events) = self.wait_for_events()?;
            self.reap(&events)?;
            if asked {
                match wire::receive(&self.control) {
                    Ok(Some((message, descriptors))) => self.start(&message, descriptors)?,
                    Ok(None) => self.end(),
                    // Main's end closed with something unread.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.end(),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Whether the control socket has something, and per running child whether it ended or main gave it up.
    fn wait_for_events(&self) -> io::Result<(bool, Vec<Event>)> {
        let mut polled = vec![PollFd::new(&self.control, PollFlags::IN)];
        for running in &self.running {
            polled.push(PollFd::new(&running.child, PollFlags::IN));
            let of_interest = if running.abandoned { running.child.as_fd() } else { running.job.as_fd() };
            polled.push(PollFd::from_borrowed_fd(of_interest, PollFlags::empty()));
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
        let events = polled[1..].chunks(2).map(|pair| match pair {
            [child, _] if !child.revents().is_empty() => Event::Ended,
            [_, job] if job.revents().contains(PollFlags::HUP) => Event::Abandoned,
            _ => Event::None,
        });
        Ok((!polled[0].revents().is_empty(), events.collect()))
    }

    fn reap(&mut self, events: &[Event]) -> io::Result<()> {
        let mut kept = Vec::with_capacity(self.running.len());
        let alive: Vec<Pid> = self.running.iter().map(|running| running.pid).collect();
        for (mut running, event) in std::mem::take(&mut self.running).into_iter().zip(events) {
            match event {
                Event::Ended => {
                    let status = status_of(&running.child)?;
                    if self.confinement == Confinement::Chroot {
                        // What its supervisor would have ended, had it not been killed itself.
                        chroot::descendants::end_all(&alive);
                    }
                    if let Some(recorder) = &running.recorder {
                        // With the command's last process its calls have an end, so it is writing, or has ended.
                        let ended = status_of(recorder)?;
                        if ended != Status::Code(0) {
                            // Owners that were lost would be root's in the layer.
                            let step = "record the owners of the command's files".to_owned();
                            let reason = format!("the recorder ended with {ended:?}");
                            answer(&running.job, &Reply::SetUpFailed { step, reason });
                        }
                    }
                    if let Some(connector) = &running.connector {
                        kill(connector);
                        status_of(connector)?;
                    }
                    answer(&running.job, &Reply::Gone(status));
                    continue;
                }
                Event::Abandoned if !running.abandoned => {
                    running.abandoned = true;
                    kill(&running.child);
                }
                Event::Abandoned | Event::None => {}
            }
            kept.push(running);
        }
        self.running = kept;
        Ok(())
    }

    fn start(&mut self, message: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let job = message.first().and_then(|byte| Job::from_byte(*byte));
        let (Some(job), [socket]) =
            (job, <[OwnedFd; 1]>::try_from(descriptors).unwrap_or_else(|_| process::exit_now(125)))
        else {
            return Err(io::Error::other("main sent what is no job"));
        };
        let started = match job {
            Job::Worker => self.start_worker(&socket),
            Job::RunOnHostNetwork if self.confinement == Confinement::Chroot => self.start_in_chroot(&socket),
            Job::Probe | Job::RunOnHostNetwork | Job::RunOnOwnNetwork | Job::RunOnPrivateNetwork => {
                self.start_command(&socket, job)
            }
        };
        match started {
            Ok(Family { pid, child, recorder, connector }) => {
                let replied = wire::reply(&socket, &Reply::Started, &[child.as_fd()]);
                // Main gave up already: the next poll sees that too.
                drop(replied);
                self.running.push(Running { pid, child, job: socket, recorder, connector, abandoned: false });
            }
            Err(error) => {
                let step = "start a process for it".to_owned();
                answer(&socket, &Reply::SetUpFailed { step, reason: error.to_string() });
                answer(&socket, &Reply::Gone(Status::Code(125)));
            }
        }
        Ok(())
    }

    fn start_in_chroot(&mut self, socket: &OwnedFd) -> io::Result<Family> {
        match process::fork(self.proof)? {
            Forked::Parent { pid, child } => Ok(Family { pid, child, recorder: None, connector: None }),
            Forked::Child => {
                self.forget_others();
                chroot::set_up_and_run(socket, std::mem::take(&mut self.filters), self.proof)
            }
        }
    }

    fn start_worker(&mut self, socket: &OwnedFd) -> io::Result<Family> {
        match process::fork(self.proof)? {
            Forked::Parent { pid, child } => Ok(Family { pid, child, recorder: None, connector: None }),
            Forked::Child => {
                self.forget_others();
                worker::work(socket, WORKERS.get().copied().unwrap_or(&[]))
            }
        }
    }

    /// The command's first process, and those beside it that it needs.
    fn start_command(&mut self, socket: &OwnedFd, job: Job) -> io::Result<Family> {
        let (namespaces, work): (_, CommandsWork) = match job {
            Job::Probe => (Namespaces::ALL_BUT_NETWORK, trial::try_all),
            Job::RunOnHostNetwork => (Namespaces::ALL_BUT_NETWORK, child::set_up_and_run),
            _ => (Namespaces::ALL, child::set_up_and_run),
        };
        let (mapped, announce) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (recorder, of_recorder) = match self.owners {
            Owners::Kept => (None, None),
            Owners::Recorded => wire::socket_pair().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
        };
        let (connector, of_connector) = match job {
            Job::RunOnPrivateNetwork => wire::socket_pair().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
            _ => (None, None),
        };
        match process::fork_into(namespaces, self.proof)? {
            Forked::Parent { pid, child } => {
                drop((mapped, recorder, connector));
                let mapping = self.map_ids(pid).and_then(|()| Ok(rustix::io::write(&announce, b"m")?));
                // While the command's process sets itself up.
                let beside = mapping.and_then(|_| {
                    let connector = of_connector.map(|socket| self.start_connector(socket)).transpose()?;
                    let recorder = of_recorder.map(|socket| self.start_recorder(socket)).transpose()?;
                    Ok((recorder, connector))
                });
                match beside {
                    Ok((recorder, connector)) => Ok(Family { pid, child, recorder, connector }),
                    Err(error) => {
                        kill(&child);
                        status_of(&child)?;
                        Err(error)
                    }
                }
            }
            Forked::Child => {
                drop((announce, of_recorder, of_connector));
                self.forget_others();
                let filters = std::mem::take(&mut self.filters);
                let given = Given { mapped: Some(mapped), filters, recorder, connector };
                work(socket, given, self.proof)
            }
        }
    }

    fn start_recorder(&mut self, socket: OwnedFd) -> io::Result<OwnedFd> {
        match process::fork(self.proof)? {
            Forked::Parent { child, .. } => Ok(child),
            Forked::Child => {
                self.forget_others();
                match descriptors::keep_only(socket, recorder::record) {
                    Ok(()) | Err(_) => process::exit_now(125),
                }
            }
        }
    }

    fn start_connector(&mut self, socket: OwnedFd) -> io::Result<OwnedFd> {
        match process::fork_into(Namespaces::PID, self.proof)? {
            Forked::Parent { child, .. } => Ok(child),
            Forked::Child => {
                self.forget_others();
                match descriptors::keep_only(socket, attach::attach) {
                    Ok(()) | Err(_) => process::exit_now(125),
                }
            }
        }
    }

    fn map_ids(&self, child: Pid) -> io::Result<()> {
        let directory = format!("/proc/{}", child.as_raw_nonzero());
        std::fs::write(Path::new(&directory).join("uid_map"), &self.uid_map)?;
        std::fs::write(Path::new(OsStr::from_bytes(directory.as_bytes())).join("gid_map"), &self.gid_map)
    }

    /// In a child: closes what belongs to the holder and to other jobs, so that their ends are seen when they end.
    fn forget_others(&mut self) {
        self.running.clear();
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            self.control = null;
        }
    }

    /// Main is gone, or wants no more: so is everything that was started.
    fn end(&mut self) -> ! {
        for running in &self.running {
            kill(&running.child);
        }
        for running in &self.running {
            // Nothing can be done for one that cannot be waited for; the others still can.
            drop(status_of(&running.child));
            drop(running.recorder.as_ref().map(status_of));
            if let Some(connector) = &running.connector {
                kill(connector);
                drop(status_of(connector));
            }
        }
        if self.confinement == Confinement::Chroot {
            chroot::descendants::end_all(&[]);
        }
        process::exit_now(0)
    }
}

enum Event {
    None,
    Ended,
    Abandoned,
}

/// A reply to somebody who may have stopped listening.
fn answer(socket: &OwnedFd, reply: &Reply) {
    drop(wire::reply(socket, reply, &[]));
}

fn kill(child: &OwnedFd) {
    // It is our child and not waited for, so the only failure is that it has ended: as good.
    pidfd_send_signal(child, Signal::KILL).ok();
}

/// Waits for a child.
fn status_of(child: &OwnedFd) -> io::Result<Status> {
    let ended =
        rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED))?;
    let ended = ended.ok_or_else(|| io::Error::other("the kernel reported no status"))?;
    Ok(match (ended.exit_status(), ended.terminating_signal()) {
        (Some(code), _) => Status::Code(code),
        (None, Some(signal)) => Status::Signal(signal),
        (None, None) => Status::Code(125),
    })
}
