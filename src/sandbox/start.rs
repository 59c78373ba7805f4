//! Starts a holder and gives it its ids.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread::JoinHandle;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::Sandbox;
use super::ending::Endings;
use super::entry::Limited;
use super::error::SandboxError;
use super::holder;
use super::limits::Limits;
use super::userns::{IdMap, NoRange};
use super::wire;

/// How a sandbox is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory beneath which every tree, upper and work directory lies. Made if missing.
    pub base: PathBuf,
    /// What has to be possible in it.
    pub isolation: Isolation,
    /// How trees become a command's root.
    pub storage: StorageDriver,
    /// What each command may use at most.
    pub limits: Limits,
}

impl Options {
    /// The best isolation that is possible, with everything beneath this directory.
    pub fn new(base: PathBuf) -> Options {
        Options { base, isolation: Isolation::Best, storage: StorageDriver::Auto, limits: Limits::default() }
    }
}

/// What a sandbox is kept apart by: the least that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// As `Full`; where there are no namespaces as `Chroot`, if the kernel has Landlock.
    Best,
    /// A user namespace, with a full range of ids if there is one to be had: commands and workers.
    Full,
    /// As `Full`; where there are no namespaces commands run as root in a chroot, confined by Landlock if there is any.
    Chroot,
    /// Nothing: workers only, with the caller's own ids.
    None,
}

/// How trees become a command's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StorageDriver {
    /// By an overlay mount where there is one to be had, else by copies.
    #[default]
    Auto,
    /// By an overlay mount; where that is refused, no command runs.
    Overlay,
    /// By copies.
    Copy,
}

/// What stands for the owners of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Ids of the host: files belong to whom they should.
    Kept,
    /// Records ([`crate::owners`]): all files are the caller's own, as there is no other id.
    Recorded,
}

pub(super) fn start(options: Options) -> Result<Sandbox, SandboxError> {
    // Before the holder, which hands its own limits on.
    let limited = Limited::new(options.limits);
    let base = &options.base;
    let mut sandbox = match options.isolation {
        Isolation::None => start_on(base, Confined::Not)?,
        Isolation::Full => start_in_namespaces(base)?,
        Isolation::Best | Isolation::Chroot => match start_in_namespaces(base) {
            Err(error @ (SandboxError::NoUserNamespace { .. } | SandboxError::NoIdRange { .. })) => {
                start_in_chroot(base, options.isolation, error)?
            }
            result => result?,
        },
    };
    sandbox.named = options.base;
    sandbox.storage = options.storage;
    sandbox.limited = limited;
    Ok(sandbox)
}

/// By trying: that /etc/subuid names a range does not mean that newuidmap can give it (`no_new_privs`).
fn start_in_namespaces(base: &Path) -> Result<Sandbox, SandboxError> {
    match IdMap::of_caller().map_err(no_range).and_then(|map| start_on(base, Confined::ByNamespaces(map))) {
        Err(no_range @ SandboxError::NoIdRange { .. }) => {
            start_on(base, Confined::ByNamespaces(IdMap::single())).map_err(|error| match error {
                // Where no namespace is allowed, a range of ids would not help.
                SandboxError::NoUserNamespace { .. } => error,
                // The range was the better choice, so its absence is what there is to say.
                _ => no_range,
            })
        }
        result => result,
    }
}

/// Where namespaces were refused for this reason.
fn start_in_chroot(base: &Path, wanted: Isolation, refused: SandboxError) -> Result<Sandbox, SandboxError> {
    if !super::probe::can_chroot() || (wanted == Isolation::Best && !super::probe::has_landlock()) {
        return Err(refused);
    }
    // What keeps from namespaces is what there is to say if that fails, too.
    start_on(base, Confined::ByChroot).map_err(|_| refused)
}

/// What keeps a holder's commands apart.
pub(super) enum Confined {
    ByNamespaces(IdMap),
    ByChroot,
    Not,
}

impl Confined {
    fn map(&self) -> Option<&IdMap> {
        match self {
            Confined::ByNamespaces(map) => Some(map),
            Confined::ByChroot | Confined::Not => None,
        }
    }
}

pub(super) fn start_on(base: &Path, confined: Confined) -> Result<Sandbox, SandboxError> {
    let base = prepare_base(base, confined.map())?;
    start_holder(base, confined)
}

/// Starts a holder.
pub(super) fn start_holder(base: PathBuf, confined: Confined) -> Result<Sandbox, SandboxError> {
    let (mode, isolation) = match &confined {
        Confined::ByNamespaces(_) => (holder::IN_NAMESPACES, Isolation::Full),
        Confined::ByChroot => (holder::IN_CHROOT, Isolation::Chroot),
        Confined::Not => (holder::PLAIN, Isolation::None),
    };
    let map = confined.map().cloned();
    let (control, theirs) = wire::socket_pair().map_err(|source| SandboxError::Spawn { source })?;
    let (pid, keeper) = spawn(&base, mode, theirs)?;
    // From here on dropping it ends the holder, whatever goes wrong.
    let mut sandbox = Sandbox {
        control,
        named: base.clone(),
        base,
        owner: own_ids(),
        user_namespace: None,
        isolation,
        ownership: match &map {
            Some(map) if super::userns::is_single(&map.uids) => Ownership::Recorded,
            // Without a namespace, too, only root can give files away.
            None if !rustix::process::geteuid().is_root() => Ownership::Recorded,
            Some(_) | None => Ownership::Kept,
        },
        mapping: map.as_ref().map_or_else(plain_name, IdMap::name),
        storage: StorageDriver::Auto,
        refused: OnceLock::new(),
        limited: Limited::default(),
        endings: Endings::default(),
        keeper: Some(keeper),
    };
    if let Some(map) = map {
        sandbox.owner = map.root();
        expect(&sandbox.control, wire::NAMESPACES_ENTERED)?;
        map.apply(pid).map_err(no_range)?;
        if map.root() != own_ids() {
            let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
            sandbox.user_namespace = Some(fs::File::open(path).map_err(|source| SandboxError::Talk { source })?.into());
        }
        wire::send(&sandbox.control, &[wire::IDS_MAPPED], &[]).map_err(|source| SandboxError::Talk { source })?;
    }
    expect(&sandbox.control, wire::READY)?;
    Ok(sandbox)
}

/// The name of the ids without a namespace.
pub(super) fn plain_name() -> String {
    let (uid, gid) = own_ids();
    format!("{uid}-{gid}-plain")
}

fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The base directory, absolute, without links, and container root's.
fn prepare_base(base: &Path, map: Option<&IdMap>) -> Result<PathBuf, SandboxError> {
    let failed = |source| SandboxError::Base { path: base.to_owned(), source };
    fs::create_dir_all(base).map_err(failed)?;
    let base = base.canonicalize().map_err(failed)?;
    let Some(map) = map else { return Ok(base) };
    let (uid, gid) = map.root();
    let found = fs::metadata(&base).map_err(failed)?.uid();
    if found == uid {
        return Ok(base);
    }
    if found != own_ids().0 {
        return Err(SandboxError::BaseOwner { path: base, found, expected: uid });
    }
    std::os::unix::fs::chown(&base, Some(uid), Some(gid)).map_err(failed)?;
    Ok(base)
}

/// Starts the holder on a thread that then waits for it: the parent-death signal is sent when the thread that started
/// a process ends, and the caller's may end long before the sandbox does.
fn spawn(base: &Path, mode: &'static str, control: OwnedFd) -> Result<(Pid, JoinHandle<()>), SandboxError> {
    let (tell, told) = mpsc::channel();
    let base = base.to_owned();
    let keep = move || {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(holder::NAME).arg(mode).current_dir(base);
        // Nothing that main's environment holds (tokens, proxies with passwords) is known to what runs untrusted code.
        command.env_clear().stdin(Stdio::from(control)).stdout(Stdio::null());
        let started = command.spawn();
        // Its copy of the holder's end of the socket.
        drop(command);
        match started {
            Ok(mut child) => {
                // If nobody listens any more, the control socket is closed too, and the holder ends.
                drop(tell.send(Ok(child.id())));
                drop(child.wait());
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    };
    let failed = |source| SandboxError::Spawn { source };
    let keeper = std::thread::Builder::new().name("sandbox-keeper".to_owned()).spawn(keep).map_err(failed)?;
    let started = told.recv().map_err(|_| SandboxError::HolderGone)?.map_err(failed)?;
    let pid = i32::try_from(started).ok().and_then(Pid::from_raw).ok_or(SandboxError::HolderGone)?;
    Ok((pid, keeper))
}

fn expect(control: impl AsFd, wanted: u8) -> Result<(), SandboxError> {
    let received = wire::receive(control).map_err(|source| SandboxError::Talk { source })?;
    match received {
        Some((message, _)) if message == [wanted] => Ok(()),
        Some((message, _)) if message.len() == 5 && message[0] == wire::START_FAILED => {
            let number = message[1..].try_into().map_or(0, i32::from_le_bytes);
            Err(super::probe::no_user_namespace(&io::Error::from_raw_os_error(number)))
        }
        _ => Err(SandboxError::HolderGone),
    }
}

fn no_range(NoRange { reason, remedy }: NoRange) -> SandboxError {
    SandboxError::NoIdRange { reason, remedy }
}
