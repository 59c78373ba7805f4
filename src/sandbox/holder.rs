//! The holder: a process of one thread that enters a user and a mount namespace once and starts everything from there.
//!
//! It never touches the network, holds no credentials (its environment is empty) and dies with main, in two ways: by
//! the parent-death signal, and because the control socket ends. Its children die with it; in a chroot, where nothing
//! but itself sees to that, only by the latter.

mod begin;
mod spare;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, sockopt};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getppid, pidfd_send_signal};

use self::begin::{detach, enter, prepare_chroot};
use self::spare::Spare;
use super::child::{self, Given};
use super::chroot;
use super::connector::attach;
use super::recorder;
use super::seccomp::Filters;
use super::spec::Status;
use super::trial;
use super::wire::{self, Job, Reply};
use super::worker::{self, Worker};
use crate::sys::descriptors::{self, StandardStreams};
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
        Ok(control) => match descriptors::keep_only(control, StandardStreams::Kept, go_on) {
            Ok(()) | Err(_) => process::exit_now(125),
        },
        Err(_) => process::exit_now(125),
    }
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

struct Holder {
    control: OwnedFd,
    proof: SingleThreaded,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    filters: Filters,
    owners: Owners,
    confinement: Confinement,
    running: Vec<Running>,
    spare: Spare,
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

/// A command's first process.
enum First {
    /// As seen by the holder, with the recorder's end of their socket.
    Parent { pid: Pid, child: OwnedFd, of_recorder: Option<OwnedFd> },
    /// As seen by itself.
    Child(Given),
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
            spare: Spare::default(),
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
                if job == Job::RunOnHostNetwork && self.confinement == Confinement::Namespaces {
                    self.keep_spare();
                }
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
        if job == Job::RunOnHostNetwork
            && let Some(family) = self.hand_to_spare(socket)?
        {
            return Ok(family);
        }
        let (namespaces, work): (_, CommandsWork) = match job {
            Job::Probe => (Namespaces::ALL_BUT_NETWORK, trial::try_all),
            Job::RunOnHostNetwork => (Namespaces::ALL_BUT_NETWORK, child::set_up_and_run),
            _ => (Namespaces::ALL, child::set_up_and_run),
        };
        let (connector, of_connector) = match job {
            Job::RunOnPrivateNetwork => wire::socket_pair().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
            _ => (None, None),
        };
        let forked = match self.fork_first(namespaces) {
            // It may take up the last namespace that there is to be had.
            Err(_) if self.end_spare() => self.fork_first(namespaces),
            forked => forked,
        };
        match forked? {
            First::Parent { pid, child, of_recorder } => {
                drop(connector);
                self.accompany(pid, child, of_recorder, of_connector)
            }
            First::Child(given) => {
                drop(of_connector);
                work(socket, Given { connector, ..given }, self.proof)
            }
        }
    }

    /// Forks a command's first process and maps its ids.
    fn fork_first(&mut self, namespaces: Namespaces) -> io::Result<First> {
        let (mapped, announce) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (recorder, of_recorder) = match self.owners {
            Owners::Kept => (None, None),
            Owners::Recorded => wire::socket_pair().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
        };
        match process::fork_into(namespaces, self.proof)? {
            Forked::Parent { pid, child } => {
                let mapping = self.map_ids(pid).and_then(|()| Ok(rustix::io::write(&announce, b"m")?));
                given_up(&child, mapping)?;
                Ok(First::Parent { pid, child, of_recorder })
            }
            Forked::Child => {
                drop((announce, of_recorder));
                self.forget_others();
                let filters = std::mem::take(&mut self.filters);
                Ok(First::Child(Given { mapped: Some(mapped), filters, recorder, connector: None }))
            }
        }
    }

    /// Starts what a command needs beside its first process, while that sets itself up.
    fn accompany(
        &mut self,
        pid: Pid,
        child: OwnedFd,
        of_recorder: Option<OwnedFd>,
        of_connector: Option<OwnedFd>,
    ) -> io::Result<Family> {
        let start = || {
            let connector = of_connector.map(|socket| self.start_connector(socket)).transpose()?;
            let recorder = of_recorder.map(|socket| self.start_recorder(socket)).transpose()?;
            Ok((recorder, connector))
        };
        let (recorder, connector) = given_up(&child, start())?;
        Ok(Family { pid, child, recorder, connector })
    }

    fn start_recorder(&mut self, socket: OwnedFd) -> io::Result<OwnedFd> {
        match process::fork(self.proof)? {
            Forked::Parent { child, .. } => Ok(child),
            Forked::Child => {
                self.forget_others();
                match descriptors::keep_only(socket, StandardStreams::Kept, recorder::record) {
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
                match descriptors::keep_only(socket, StandardStreams::Kept, attach::attach) {
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
        self.spare = Spare::default();
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            self.control = null;
        }
    }

    /// Main is gone, or wants no more: so is everything that was started.
    fn end(&mut self) -> ! {
        for running in &self.running {
            kill(&running.child);
        }
        self.end_spare();
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

/// Ends a child without which something else failed.
fn given_up<T>(child: &OwnedFd, result: io::Result<T>) -> io::Result<T> {
    if result.is_err() {
        kill(child);
        status_of(child)?;
    }
    result
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
