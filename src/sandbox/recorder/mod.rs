//! Answers for the kernel where it knows one id only: who a process is, and who owns a file.
//!
//! # What it is for
//! In a user namespace with a single id every `chown` and `setuid` to another one fails, and package managers with
//! them. A command's filter there hands such calls to the recorder, which keeps the ids of each process itself and
//! writes down the owners of files ([`crate::owners`]), so that layers carry what would have been.
//!
//! # Where it runs
//! A child of the holder beside the command: outside the command's pid namespace, so that it can be neither seen nor
//! signalled, and with a `/proc` that shows the command's processes even where no new one can be mounted; inside its
//! mount namespace, so that a path means what it means to the command, and a wrong one leads nowhere else.
//!
//! # What is answered
//! * `chown` and its kin: the real call, to root, for its side effects (rights, errors, setuid bits and capabilities
//!   that go, a copy in the upper directory), then the record;
//! * `stat` and its kin where a file has a record, everything else is left to the kernel;
//! * `set*id`, `get*id`, groups: by the rules of credentials(7), see [`credentials`];
//! * calls that make files: left to the kernel for root, carried out here for everybody else, and in directories that
//!   hand down a group, so that the new file is recorded before anybody sees it;
//! * `rename` and `link` of what has its owner in the table: it is copied up first, as the copy is another inode;
//! * `execve`, for programs with setuid or setgid; `chroot`, to know whose paths begin elsewhere.
//!
//! # What it does not do
//! The kernel still sees root: permissions are checked for making files only, `/proc/PID/status` and socket credentials
//! show 0, and an attribute `user.rbuild.own` can be seen on files. Ids of 32-bit x86 calls of 16 bits stay real.

pub(super) mod calls;
mod create;
mod credentials;
mod files;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, fchdir, getppid, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, move_into_link_name_space};

use self::calls::{Call, Known};
use self::credentials::Credentials;
use super::child::{Reason, SetUp, While};
use super::privileges;
use super::wire;
use crate::owners::{Table, table_path};
use crate::rootfs::RootDir;
use crate::sys::notify::{self, Answer, Notice};
use crate::sys::process;

/// What is needed for other processes' memory and files, and nothing else.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RESOURCE);

/// What the command's set-up hands to its recorder.
pub(super) struct Handed {
    mount_namespace: OwnedFd,
    upper: OwnedFd,
    table: OwnedFd,
    below: Vec<OwnedFd>,
}

/// Opens what the recorder will need, while the host's paths are there.
pub(super) fn open_records(setup: &mut SetUp) -> Result<(), Reason> {
    if setup.recorder.is_none() {
        return Ok(());
    }
    let path = |path: &std::path::Path| -> Result<OwnedFd, Reason> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).doing(path.display())
    };
    let order = &setup.order;
    let upper = order.upper.path();
    // Of an earlier command that this one goes on after.
    let before = std::fs::read(table_path(upper)).unwrap_or_default();
    let table = File::create(table_path(upper)).doing(table_path(upper).display())?;
    let mut below = Vec::new();
    for tree in &setup.shown {
        match File::open(table_path(tree)) {
            Ok(file) => below.push(file.into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing(tree.display()),
        }
    }
    if !before.is_empty() {
        let copy = wire::memory_file(&before)?;
        rustix::fs::seek(&copy, rustix::fs::SeekFrom::Start(0))?;
        below.push(copy);
    }
    let namespace = File::open("/proc/self/ns/mnt").doing("/proc/self/ns/mnt")?;
    let upper = path(&setup.changes)?;
    setup.records = Some(Handed { mount_namespace: namespace.into(), upper, table: table.into(), below });
    Ok(())
}

/// Lets the recorder into the mount namespace and its root, which is the image's by now, and gives it main's ear.
pub(super) fn hand_over(setup: &mut SetUp) -> Result<(), Reason> {
    let (Some(recorder), Some(records)) = (&setup.recorder, setup.records.take()) else { return Ok(()) };
    let Handed { mount_namespace, upper, table, below } = &records;
    let root = setup.root()?.as_fd();
    let always = [mount_namespace.as_fd(), root, setup.job.as_fd(), upper.as_fd(), table.as_fd()];
    let all: Vec<_> = always.into_iter().chain(below.iter().map(AsFd::as_fd)).collect();
    Ok(wire::send_request(recorder, b"", &all)?)
}

/// The whole life of a recorder's process. Ends when the last process of the command has.
pub(super) fn record(socket: OwnedFd) -> ! {
    let holder = getppid();
    let armed = set_parent_process_death_signal(Some(Signal::KILL));
    if armed.is_err() || getppid() != holder {
        process::exit_now(125);
    }
    match serve(socket) {
        Ok(()) => process::exit_now(0),
        Err(reason) => {
            eprintln!("rbuild: the recorder of file owners ends: {}", reason.0);
            process::exit_now(125)
        }
    }
}

fn serve(socket: OwnedFd) -> Result<(), Reason> {
    // The set-up may fail before it has come so far, and has told main why.
    let Ok((_, mut handed)) = wire::receive_request(&socket) else { return Ok(()) };
    if handed.len() < 5 {
        return Err(Reason("the records are missing".to_owned()));
    }
    let below = handed.split_off(5);
    let Ok([mount_namespace, root, job, upper, table]) = <[OwnedFd; 5]>::try_from(handed) else { return Ok(()) };
    let mut owners = Table::default();
    for file in below {
        owners.extend(Table::read_from(File::from(file)).doing("read the owners below")?);
    }
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_link_name_space(mount_namespace.as_fd(), Some(LinkNameSpaceType::Mount)).doing("enter the mounts")?;
    drop(mount_namespace);
    // One enters at the top of what lies on the root, which may still be the host's.
    fchdir(&root)?;
    rustix::process::chroot(".").doing("enter the root")?;
    // The way to /proc from here on: names without a slash at their beginning.
    fchdir(&proc)?;
    privileges::limit_to(KEPT)?;
    rustix::process::umask(Mode::empty());
    let Some((_, mut listener)) = wire::receive(&socket)? else { return Ok(()) };
    let listener = listener.pop().ok_or_else(|| Reason("the listener is missing".to_owned()))?;
    drop(socket);
    // Linux before 6.6 cannot: slower.
    drop(notify::answer_on_same_processor(listener.as_fd()));
    let mut recorder = Recorder {
        known: calls::known(),
        identities: Identities::new(),
        owners,
        upper: RootDir::from_fd(upper),
        root,
        proc,
        listener,
    };
    recorder.answer_all()?;
    recorder.owners.write_to(File::from(table)).doing("write the owners")?;
    // Whoever stopped listening has no use for it.
    drop(wire::reply(&job, &wire::Reply::Recorded, &[]));
    Ok(())
}

/// A call that fails with this, or that the kernel shall carry out.
#[derive(Debug)]
pub(super) enum Otherwise {
    Fails(Errno),
    Kernel,
}

impl From<Errno> for Otherwise {
    fn from(error: Errno) -> Otherwise {
        Otherwise::Fails(error)
    }
}

impl From<std::io::Error> for Otherwise {
    fn from(error: std::io::Error) -> Otherwise {
        Otherwise::Fails(Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// What a call returns; `None` where it was answered with a descriptor already.
type Outcome = Result<Option<i64>, Otherwise>;

pub(super) struct Recorder {
    known: HashMap<(u32, u32), Known>,
    identities: Identities,
    owners: Table,
    /// The upper directory itself, not as the overlay shows it.
    upper: RootDir,
    root: OwnedFd,
    proc: OwnedFd,
    listener: OwnedFd,
}

/// The credentials that were ever had, each once; processes are marked with their place.
struct Identities(Vec<Credentials>);

/// Marks begin here: far from what anybody takes for a number of locks.
const MARKS: u64 = 0x7262_7569_0000_0000;

impl Identities {
    fn new() -> Identities {
        Identities(vec![Credentials::default()])
    }

    fn of(&self, thread: i32) -> Credentials {
        let mark = notify::mark(thread).unwrap_or(u64::MAX);
        let place = mark.checked_sub(MARKS).and_then(|place| usize::try_from(place).ok()).unwrap_or(0);
        self.0.get(place).unwrap_or(&self.0[0]).clone()
    }

    fn change(&mut self, thread: i32, credentials: Credentials) -> std::io::Result<()> {
        let place = self.0.iter().position(|known| *known == credentials).unwrap_or_else(|| {
            self.0.push(credentials);
            self.0.len() - 1
        });
        notify::set_mark(thread, MARKS + place as u64)
    }
}

/// Who calls.
pub(super) struct Caller {
    pub(super) notice: Notice,
    pub(super) credentials: Credentials,
}

impl Caller {
    /// An argument that is a number of 32 bits.
    fn number(&self, argument: usize) -> u32 {
        // The upper half of the register is not the call's.
        self.notice.arguments[argument] as u32
    }

    /// An id; `None` for "leave it".
    fn id(&self, argument: usize) -> Option<u32> {
        Some(self.number(argument)).filter(|id| *id != u32::MAX)
    }

    fn address(&self, argument: usize) -> u64 {
        self.notice.arguments[argument]
    }

    fn read_ids(&self, address: u64, count: usize) -> Result<Vec<u32>, Otherwise> {
        let mut bytes = vec![0; count * 4];
        if notify::read_memory(self.notice.thread, address, &mut bytes)? != bytes.len() {
            return Err(Errno::FAULT.into());
        }
        Ok(bytes.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect())
    }

    fn write_ids(&self, address: u64, ids: &[u32]) -> Result<(), Otherwise> {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        if bytes.is_empty() {
            return Ok(());
        }
        notify::write_memory(self.notice.thread, address, &bytes).map_err(|_| Errno::FAULT.into())
    }
}

impl Recorder {
    fn answer_all(&mut self) -> Result<(), Reason> {
        loop {
            let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
            if !polled[0].revents().contains(PollFlags::IN) {
                // Nobody is left who could call.
                return Ok(());
            }
            if let Some(notice) = notify::receive(self.listener.as_fd())? {
                self.answer_one(notice)?;
            }
        }
    }

    fn answer_one(&mut self, notice: Notice) -> Result<(), Reason> {
        let (thread, id) = (notice.thread, notice.id);
        let known = self.known.get(&(notice.architecture, notice.number)).copied();
        let caller = Caller { notice, credentials: self.identities.of(thread) };
        let elsewhere = caller.credentials.other_root;
        let outcome = match known {
            None => Err(Otherwise::Kernel),
            Some(known) if elsewhere => self.within_other_root(&caller, known.call),
            Some(known) => self.carry_out(&caller, known.call),
        };
        let answer = match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(value)) => Answer::Value(value),
            Err(Otherwise::Kernel) => Answer::Continue,
            Err(Otherwise::Fails(error)) => Answer::Errno(error.raw_os_error()),
        };
        Ok(notify::answer(self.listener.as_fd(), id, answer)?)
    }

    /// For a process that has changed its root: its paths begin there.
    fn within_other_root(&mut self, caller: &Caller, call: Call) -> Outcome {
        fchdir(files::open_of_process(caller.notice.thread, "root")?)?;
        let entered = rustix::process::chroot(".");
        fchdir(&self.proc)?;
        let outcome = entered.map_err(Otherwise::from).and_then(|()| self.carry_out(caller, call));
        fchdir(&self.root)?;
        rustix::process::chroot(".")?;
        fchdir(&self.proc)?;
        outcome
    }

    fn carry_out(&mut self, caller: &Caller, call: Call) -> Outcome {
        match call {
            Call::Identity(identity) => self.identity(caller, identity),
            Call::Own(path) => self.own(caller, path),
            Call::Stat(path, form) => self.stat(caller, path, form),
            Call::Make(path, made) => self.make(caller, path, made),
            Call::Execute(path) => self.execute(caller, path),
            Call::Move(path) => self.move_away(caller, path),
        }
    }

    fn still_waits(&self, caller: &Caller) -> Result<(), Otherwise> {
        // Its id may be another process's by now, and what was read that one's.
        if notify::still_waits(self.listener.as_fd(), caller.notice.id) { Ok(()) } else { Err(Errno::INTR.into()) }
    }

    fn shows(&self, file: &OwnedFd) -> Vec<u8> {
        let link = format!("self/fd/{}", file.as_raw_fd());
        rustix::fs::readlink(link, Vec::new()).map(|path| path.into_bytes()).unwrap_or_default()
    }

    /// The same file in the upper directory, if it is there.
    fn in_upper(&self, file: &OwnedFd) -> Option<crate::owners::Inode> {
        let path = self.shows(file);
        let inside = path.strip_prefix(b"/").filter(|inside| !inside.is_empty())?;
        let found = self.upper.open_without_links(inside, OFlags::PATH, Mode::empty()).ok()?;
        crate::owners::Inode::of(found, b"").ok()
    }
}
