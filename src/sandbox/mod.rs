//! Runs commands of an image, and workers of our own, where they can do no harm.
//!
//! # What it is for
//! [`Sandbox::run`] runs one command in a root made of trees, [`Sandbox::worker`] runs this program's own code with the
//! ids that files in those trees have. Both happen in children of the *holder*, a small process that enters a user and
//! a mount namespace once ([`Sandbox::start`]) and lives as long as the [`Sandbox`]. Commands get a nested user
//! namespace and namespaces of their own for everything else; see `child` for the steps and their reasons.
//!
//! # Contract
//! * Whatever the image holds and the command does, nothing outside is reached: paths in the image go through
//!   [`crate::rootfs`], mounts travel as descriptors, and no result of a step that protects is ignored.
//! * After the command none of its processes is left, and nobody can change what it made. What the kernel still has to
//!   take apart (pid 1 of its namespace, which is ours; its mounts, which end with their namespace) goes on beside, and
//!   with all the rest ends with the holder, which dies with this process, even by `kill -9`.
//! * What arrives in [`RunSpec::upper`] is what the command changed, and nothing of the sandbox's own.
//!
//! # Who owns what
//! Container root is a user of the host: the caller itself if that is unprivileged, otherwise one of a range that
//! stands for nobody ([`Sandbox::owner`]). Everything that the sandbox mounts from, and every upper and work directory,
//! lies beneath [`Options::base`]. The holder's working directory is the base directory, entered before it dropped the
//! caller's rights, so the base may sit in a directory that container root cannot enter (`/root`). If the caller is the
//! host's root, [`Sandbox::start`] makes the base directory container root's; what is in it should be made by workers,
//! or be given to [`Sandbox::owner`]. `stubs` beneath the base is the sandbox's own: mount points that images lack, made
//! once for each set of them, and free to be deleted whenever no command runs.
//!
//! # What it must not know
//! Dockerfiles, caches, layers as archives, registries, progress.

mod amenities;
mod beginning;
mod cancel;
mod child;
mod chroot;
mod command;
mod connector;
mod copied;
mod ending;
mod entry;
mod error;
mod foreign;
mod groups;
mod holder;
mod layers;
mod limits;
mod mounts;
mod order;
mod outcome;
mod overlay;
mod privileges;
mod probe;
mod recorder;
mod seccomp;
mod spec;
mod standard;
mod start;
mod streams;
mod stubs;
mod surroundings;
mod syscalls;
mod trial;
mod userns;
mod wire;
mod worker;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::thread::JoinHandle;

use rustix::mount::MountAttrFlags;

pub use amenities::amenities;
pub use cancel::Cancel;
pub use connector::{Connector, NAME_SERVER, Tool};
pub use error::SandboxError;
pub use foreign::check_architecture;
pub use limits::{CpuTime, CpuTimeForm, LimitedResource, Limits, MemorySwap, Ulimit};
pub use probe::{Finding, Report, Rung, probe};
pub use spec::{
    Access, Exit, Made, Mount, MountKind, Network, RunSpec, Secret, Security, SocketOwner, Status, Stream, UserSpec,
};
pub use start::{Isolation, Options, Ownership, StorageDriver};
pub use streams::{Foreground, StreamKind, Streams, TerminalSize};
pub use worker::Worker;

use crate::rootfs::RootDir;
use crate::sys::mount::{map_owners, set_attributes};
use copied::Copied;
use ending::Endings;
use entry::Limited;
use order::{Bytes, Order, OrderedKind, OrderedMount, Place};
use outcome::Attendance;
use streams::{Ends, OrderedStreams};
use trial::Trial;
use wire::{Job, Reply};

/// Becomes the sandbox's holder, and never returns, if this process was started as one.
///
/// Has to be the first line of `main`, before there are threads. `workers` are what [`Sandbox::worker`] can run.
pub fn enter_if_child(workers: &'static [Worker]) {
    holder::enter_if_holder(workers);
}

/// A running holder. Share it by [`std::sync::Arc`]; dropping it ends everything that runs in it.
#[derive(Debug)]
pub struct Sandbox {
    control: OwnedFd,
    base: PathBuf,
    /// The base directory as the caller named it: its paths may lead through links.
    named: PathBuf,
    owner: (u32, u32),
    /// Set if the caller's rights are more than the holder's: then sources outside the base are opened here.
    user_namespace: Option<OwnedFd>,
    isolation: Isolation,
    ownership: Ownership,
    mapping: String,
    storage: StorageDriver,
    /// Why overlay was refused, once a command was told: later ones do not try again.
    refused: OnceLock<String>,
    /// What each command may use at most.
    limited: Limited,
    endings: Endings,
    /// Waits for the holder. It started it too: the parent-death signal comes when the starting *thread* ends.
    keeper: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts the holder.
    ///
    /// # Errors
    /// [`SandboxError::NoUserNamespace`] and [`SandboxError::NoIdRange`] where the system forbids what is needed, with
    /// what to change.
    pub fn start(options: Options) -> Result<Sandbox, SandboxError> {
        start::start(options)
    }

    /// The host's ids of container root.
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Where the owners of files are kept. With [`Ownership::Recorded`], workers that make trees record owners too, and
    /// the table beside each tree ([`crate::owners::table_path`]) belongs to it: [`RunSpec::upper`] gets one.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// What there is to say about limits that cannot be kept here; each sentence once.
    pub fn take_notices(&self) -> Vec<String> {
        self.limited.take_notices()
    }

    /// What keeps commands apart: [`Isolation::Full`], [`Isolation::Chroot`], or [`Isolation::None`] where none can run.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The names that [`Sandbox::mapping_name`] can have here, the likeliest first, without starting one.
    pub fn expected_mapping_names() -> Vec<String> {
        let of_namespaces = userns::IdMap::expected_name();
        // Where namespaces are refused, which only an attempt would tell.
        vec![of_namespaces, start::plain_name()]
    }

    /// The name of this id mapping: trees that were made under one are of no use under another.
    pub fn mapping_name(&self) -> String {
        self.mapping.clone()
    }

    /// How a path beneath the base directory has to be called in a worker, whose working directory is the base.
    ///
    /// # Errors
    /// [`SandboxError::OutsideBase`].
    pub fn path_inside(&self, path: &Path) -> Result<PathBuf, SandboxError> {
        let beneath = [&self.base, &self.named].into_iter().find_map(|base| path.strip_prefix(base).ok());
        let relative = if path.is_absolute() { beneath } else { Some(path) };
        let plain = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        match relative.filter(plain) {
            Some(relative) if !relative.as_os_str().is_empty() => Ok(relative.to_owned()),
            _ => Err(SandboxError::OutsideBase { path: path.to_owned(), base: self.base.clone() }),
        }
    }

    /// Starts a registered worker in a process of its own.
    ///
    /// # Errors
    /// [`SandboxError::HolderGone`] or [`SandboxError::Talk`]. What goes wrong in the worker is told by
    /// [`WorkerHandle::wait`].
    pub fn worker(&self, name: &str, args: &[u8], fds: Vec<OwnedFd>) -> Result<WorkerHandle, SandboxError> {
        let passed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let job = self.submit(Job::Worker, &worker::join(name, args), &passed)?;
        Ok(WorkerHandle { job, name: name.to_owned() })
    }

    /// Deletes trees beneath the base directory, with whatever a command left in them. Those that do not exist are
    /// fine; after a failure it goes on with the rest.
    ///
    /// # Errors
    /// The first failure.
    pub fn remove_trees<P: AsRef<Path>>(&self, paths: &[P]) -> Result<(), SandboxError> {
        self.begin_removal(paths)?.wait()
    }

    /// As [`Sandbox::remove_trees`], but does not wait for the end, which the worker's handle tells.
    ///
    /// # Errors
    /// A path that is not beneath the base directory, or a worker that cannot be started.
    pub fn begin_removal<P: AsRef<Path>>(&self, paths: &[P]) -> Result<WorkerHandle, SandboxError> {
        let inside = paths.iter().map(|path| self.path_inside(path.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let arguments = serde_json::to_vec(&inside).map_err(|error| SandboxError::Talk { source: error.into() })?;
        self.worker(worker::REMOVE_TREES, &arguments, Vec::new())
    }

    /// Runs a command and returns when it, and everything that it started, has ended.
    ///
    /// # Errors
    /// Whatever kept the command from running; [`SandboxError::Cancelled`] if `cancel` ended it. A command that fails
    /// is an [`Exit`], not an error.
    pub fn run(&self, spec: &RunSpec, streams: &Streams<'_>, cancel: &Cancel) -> Result<Exit, SandboxError> {
        if cancel.is_cancelled() {
            return Err(SandboxError::Cancelled);
        }
        if self.isolation == Isolation::None {
            return Err(SandboxError::NoUserNamespace {
                reason: "this sandbox was started for workers only".to_owned(),
                remedy: "see `rbuild doctor`".to_owned(),
            });
        }
        self.check_possible(spec)?;
        self.endings.await_those_of(spec);
        let (ends, sent) = Ends::open(streams).map_err(|source| SandboxError::Talk { source })?;
        if self.user_namespace.is_some() {
            // A pipe belongs to who made it, here somebody whom the sandbox does not know: `/dev/stdout` could not be opened.
            sent.give_to(self.owner).map_err(|source| SandboxError::Talk { source })?;
        }
        let (mut order, mut mounts) = self.order(spec, sent.order)?;
        let entry = self.limited.entry(&mut order, &mut mounts)?;
        let request = serde_json::to_vec(&order).map_err(|error| SandboxError::Talk { source: error.into() })?;
        let job = {
            let passed: Vec<BorrowedFd<'_>> = sent.descriptors.iter().chain(&mounts).map(AsFd::as_fd).collect();
            let kind = match &spec.network {
                Network::Host => Job::RunOnHostNetwork,
                Network::None => Job::RunOnOwnNetwork,
                Network::Private(_) => Job::RunOnPrivateNetwork,
            };
            self.submit(kind, &request, &passed)?
        };
        // The command's ends have to be its own, or the end of the output would never be seen.
        drop(sent);
        let attendance = match (&entry, &spec.network, self.ownership) {
            (Some(_), ..) | (_, Network::Private(_), _) => Attendance::All,
            (None, _, Ownership::Recorded) => Attendance::Recorder,
            (None, _, Ownership::Kept) => Attendance::None,
        };
        let exit = outcome::follow(&job, ends, entry, attendance, cancel);
        if matches!(exit, Ok(_) | Err(SandboxError::Program { .. })) {
            self.endings.add(spec.upper.clone(), job);
        }
        let exit = exit?;
        if let Made::Copied { refused } = &exit.root {
            if let Some(refused) = refused {
                // Whoever told first said the same.
                let _ = self.refused.set(refused.clone());
            }
            self.compare(spec)?;
        }
        Ok(exit)
    }

    /// Tries, in a child like a command's first, what commands need besides namespaces.
    pub(crate) fn try_out(&self) -> Result<Vec<(Trial, Option<String>)>, SandboxError> {
        let job = self.submit(Job::Probe, b"", &[])?;
        let mut tried = Err(SandboxError::HolderGone);
        loop {
            match wire::receive_reply(&job).map_err(|source| SandboxError::Talk { source })?.map(|(reply, _)| reply) {
                Some(Reply::Probed(trials)) => tried = Ok(trials),
                Some(Reply::SetUpFailed { step, reason }) => tried = Err(SandboxError::SetUp { step, reason }),
                Some(Reply::Gone(_)) | None => return tried,
                Some(_) => {}
            }
        }
    }

    fn check_possible(&self, spec: &RunSpec) -> Result<(), SandboxError> {
        let refused = |what| Err(SandboxError::BeyondChroot { what });
        match (self.isolation, &spec.network, spec.security) {
            (Isolation::Chroot, Network::None, _) => refused("--network=none"),
            (Isolation::Chroot, Network::Private(_), _) => refused("--network=private"),
            (Isolation::Chroot, _, Security::Insecure) => refused("--security=insecure"),
            _ => Ok(()),
        }
    }

    /// Finds what a command changed in its copied root.
    fn compare(&self, spec: &RunSpec) -> Result<(), SandboxError> {
        let lowers = spec.lowers.iter().map(|lower| self.path_inside(lower)).collect::<Result<Vec<_>, _>>()?;
        let copied = Copied { lowers, upper: self.path_inside(&spec.upper)?, work: self.path_inside(&spec.work)? };
        let arguments = serde_json::to_vec(&copied).map_err(|error| SandboxError::Talk { source: error.into() })?;
        self.worker(worker::COMPARE, &arguments, Vec::new())?.wait()
    }

    fn submit(&self, kind: Job, request: &[u8], passed: &[BorrowedFd<'_>]) -> Result<OwnedFd, SandboxError> {
        let talk = |source| SandboxError::Talk { source };
        let (ours, theirs) = wire::socket_pair().map_err(talk)?;
        wire::send_request(&ours, request, passed).map_err(talk)?;
        wire::send(&self.control, &[kind as u8], &[theirs.as_fd()]).map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => SandboxError::HolderGone,
            _ => SandboxError::Talk { source: error },
        })?;
        Ok(ours)
    }

    /// The specification as the child needs it, with the mounts that have to be opened here.
    fn order(&self, spec: &RunSpec, streams: OrderedStreams) -> Result<(Order, Vec<OwnedFd>), SandboxError> {
        let mut passed = Vec::new();
        let generated = [("/etc/hosts", &spec.hosts), ("/etc/resolv.conf", &spec.resolv_conf)];
        let mut mounts: Vec<OrderedMount> = generated
            .into_iter()
            .map(|(target, content)| OrderedMount {
                target: target.to_owned(),
                kind: OrderedKind::File { content: Bytes(content.clone()), mode: 0o644, uid: 0, gid: 0 },
            })
            .collect();
        for Mount { target, kind } in &spec.mounts {
            mounts.push(OrderedMount { target: target.clone(), kind: self.ordered(kind, &mut passed)? });
        }
        let order = Order {
            lowers: self.names(&spec.lowers)?,
            upper: self.name(&spec.upper)?,
            work: self.name(&spec.work)?,
            args: spec.args.clone(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            hostname: spec.hostname.clone(),
            network: spec.network.clone(),
            mounts,
            security: spec.security,
            shm_size: spec.shm_size,
            ulimits: self.limited.ulimits(),
            gate: None,
            streams,
            storage: if self.refused.get().is_some() { StorageDriver::Copy } else { self.storage },
        };
        Ok((order, passed))
    }

    fn ordered(&self, kind: &MountKind, passed: &mut Vec<OwnedFd>) -> Result<OrderedKind, SandboxError> {
        Ok(match kind {
            MountKind::Bind { source_root, source, access } => {
                OrderedKind::Existing { place: self.place(source_root, source, *access, passed)?, access: *access }
            }
            MountKind::BindOverlay { lowers, source, access } => {
                OrderedKind::Merged { lowers: self.names(lowers)?, source: Bytes(source.clone()), access: *access }
            }
            MountKind::Cache { dir, access } => {
                let place = match self.path_inside(dir) {
                    Ok(inside) => Place::Beneath(Bytes::of_path(&inside)),
                    Err(_) => self.place(dir, b"", *access, passed)?,
                };
                OrderedKind::Existing { place, access: *access }
            }
            MountKind::Tmpfs { size, mode } => OrderedKind::Tmpfs { size: *size, mode: *mode },
            MountKind::File { content, mode, uid, gid } => {
                OrderedKind::File { content: Bytes(content.0.clone()), mode: *mode, uid: *uid, gid: *gid }
            }
            MountKind::Device { path } => OrderedKind::Device { path: Bytes::of_path(path) },
            MountKind::Socket { path, owner: Some(owner) } => {
                OrderedKind::Socket { path: self.name(path)?, owner: *owner }
            }
            MountKind::Socket { path, owner: None } => {
                let (root, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
                // Connecting is writing, as far as the socket's permissions go; the mount itself changes nothing.
                let place = self.place(root, name.as_bytes(), Access::ReadOnly, passed)?;
                OrderedKind::Existing { place, access: Access::ReadOnly }
            }
        })
    }

    /// Something of the host: named where the child can open it itself, opened where only this process can.
    fn place(
        &self,
        root: &Path,
        source: &[u8],
        access: Access,
        passed: &mut Vec<OwnedFd>,
    ) -> Result<Place, SandboxError> {
        // A relative name is the caller's working directory's, not the base's.
        if let (true, Ok(inside)) = (root.is_absolute(), self.path_inside(root)) {
            return Ok(Place::Host { root: Bytes::of_path(&inside), source: Bytes(source.to_vec()) });
        }
        let Some(user_namespace) = &self.user_namespace else {
            let absolute = std::path::absolute(root)
                .map_err(|source| SandboxError::MountSource { path: root.to_owned(), source })?;
            return Ok(Place::Host { root: Bytes::of_path(&absolute), source: Bytes(source.to_vec()) });
        };
        let mount = detached(root, source, access, user_namespace)
            .map_err(|error| SandboxError::MountSource { path: root.join(overlay::as_path(source)), source: error })?;
        passed.push(mount);
        Ok(Place::Passed(passed.len() - 1))
    }

    fn name(&self, path: &Path) -> Result<Bytes, SandboxError> {
        self.path_inside(path).map(|path| Bytes::of_path(&path))
    }

    fn names(&self, paths: &[PathBuf]) -> Result<Vec<Bytes>, SandboxError> {
        paths.iter().map(|path| self.name(path)).collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The holder sees the end of the socket, kills and waits for its children, and ends.
        rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both).ok();
        if let Some(keeper) = self.keeper.take() {
            // It does not panic, and if it did there would be nothing left to wait for.
            drop(keeper.join());
        }
    }
}

/// A mount of something that the host's root may open and the holder may not. Read-only ones show their owners as the
/// sandbox names them (host root's files belong to container root); a writable one does not: a file with setuid that a
/// command makes must not be the host root's.
fn detached(root: &Path, source: &[u8], access: Access, user_namespace: &OwnedFd) -> std::io::Result<OwnedFd> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let found = RootDir::open(root)?.open_at(source, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(&found, "", flags)?;
    match access {
        Access::ReadOnly => {
            set_attributes(&mount, MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            // Not every file system can: then what only its owner may read stays unreadable, which the command reports.
            drop(map_owners(&mount, user_namespace));
        }
        Access::ReadWrite => set_attributes(&mount, MountAttrFlags::MOUNT_ATTR_NODEV)?,
    }
    Ok(mount)
}

/// A worker that was started. Dropping it kills the worker.
#[derive(Debug)]
pub struct WorkerHandle {
    job: OwnedFd,
    name: String,
}

impl WorkerHandle {
    /// Waits until the worker's process has ended.
    ///
    /// # Errors
    /// [`SandboxError::Worker`] with the worker's message, or how its process died.
    pub fn wait(self) -> Result<(), SandboxError> {
        let mut outcome = None;
        loop {
            let reply = wire::receive_reply(&self.job).map_err(|source| SandboxError::Talk { source })?;
            match reply.map(|(reply, _)| reply) {
                Some(Reply::Done) => outcome = Some(Ok(())),
                Some(Reply::WorkerFailed(message)) => outcome = Some(Err(SandboxError::Worker { message })),
                Some(Reply::SetUpFailed { step, reason }) => {
                    outcome = Some(Err(SandboxError::SetUp { step, reason }));
                }
                Some(Reply::Gone(status)) => {
                    let died = SandboxError::Died { job: format!("worker {:?}", self.name), status };
                    return outcome.unwrap_or(Err(died));
                }
                Some(
                    Reply::Started
                    | Reply::Copied(_)
                    | Reply::Probed(_)
                    | Reply::Terminal
                    | Reply::Running
                    | Reply::ProgramFailed { .. }
                    | Reply::Exited(_)
                    | Reply::Alone
                    | Reply::Recorded,
                ) => {}
                None => return Err(SandboxError::HolderGone),
            }
        }
    }
}
