//! The sandbox of a build, started when the first step needs it: a build of cache hits never does.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ExecuteError;
use super::layers::WorkerReader;
use crate::sandbox::{Isolation, Options, Ownership, Sandbox, SandboxError, WorkerHandle};
use crate::snapshot::Mapping;

/// A sandbox that is started on demand.
pub struct Namespace {
    options: Options,
    /// Whether a command may come; without one, workers can do without namespaces where there are none.
    commands: AtomicBool,
    started: OnceLock<Result<Started, Arc<SandboxError>>>,
    discarded: Mutex<Vec<PathBuf>>,
    /// Removals that go on.
    removals: Mutex<Vec<WorkerHandle>>,
    expected: OnceLock<String>,
    /// Whether it was said that commands run in a chroot.
    told: AtomicBool,
}

struct Started {
    sandbox: Sandbox,
    mapping: Mapping,
}

impl Namespace {
    /// A sandbox with these options, not started.
    pub fn new(options: Options) -> Namespace {
        let commands = AtomicBool::new(true);
        Namespace {
            options,
            commands,
            started: OnceLock::new(),
            discarded: Mutex::default(),
            removals: Mutex::default(),
            expected: OnceLock::new(),
            told: AtomicBool::new(false),
        }
    }

    /// No command will be run: a place that allows no user namespace is good enough.
    pub fn expect_no_commands(&self) {
        self.commands.store(false, Ordering::Relaxed);
    }

    /// Whether nobody has asked this before.
    pub(super) fn is_first_in_chroot(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    fn start(&self) -> Result<Sandbox, SandboxError> {
        match Sandbox::start(self.options.clone()) {
            Err(SandboxError::NoUserNamespace { .. } | SandboxError::NoIdRange { .. })
                if !self.commands.load(Ordering::Relaxed) =>
            {
                Sandbox::start(Options { isolation: Isolation::None, ..self.options.clone() })
            }
            result => result,
        }
    }

    fn started(&self) -> Result<&Started, ExecuteError> {
        let start = || {
            let sandbox = self.start().map_err(Arc::new)?;
            let owner = sandbox.owner();
            let mapping = Mapping { name: sandbox.mapping_name(), owner };
            Ok(Started { sandbox, mapping })
        };
        self.started.get_or_init(start).as_ref().map_err(|error| ExecuteError::NoSandbox(Arc::clone(error)))
    }

    /// The sandbox.
    pub fn sandbox(&self) -> Result<&Sandbox, ExecuteError> {
        Ok(&self.started()?.sandbox)
    }

    /// What is done about the owners of files that are unpacked.
    pub fn ownership(&self) -> Result<Ownership, ExecuteError> {
        Ok(self.sandbox()?.ownership())
    }

    /// The id mapping of trees.
    pub fn mapping(&self) -> Result<&Mapping, ExecuteError> {
        Ok(&self.started()?.mapping)
    }

    /// The id mapping, where the sandbox runs already.
    pub fn mapping_if_started(&self) -> Option<&Mapping> {
        self.started.get()?.as_ref().ok().map(|started| &started.mapping)
    }

    /// The name of the id mapping: of the sandbox that runs, else of the one that would be started.
    pub fn likely_mapping_name(&self) -> String {
        match self.started.get() {
            Some(Ok(started)) => started.mapping.name.clone(),
            Some(Err(_)) | None => self.expected.get_or_init(|| self.expect_mapping_name()).clone(),
        }
    }

    /// The likeliest name that has trees: those were made by a sandbox that did start here.
    fn expect_mapping_name(&self) -> String {
        let names = Sandbox::expected_mapping_names();
        let used = names.iter().find(|name| self.options.base.join(name).is_dir());
        used.or(names.first()).cloned().unwrap_or_default()
    }

    /// Starts a worker.
    pub fn worker(&self, name: &str, args: &[u8], fds: Vec<OwnedFd>) -> Result<WorkerHandle, ExecuteError> {
        Ok(self.sandbox()?.worker(name, args, fds)?)
    }

    /// Starts a worker that writes to a pipe, which is its last descriptor, and reads what it writes.
    pub fn reader(&self, name: &str, args: &[u8], mut fds: Vec<OwnedFd>) -> Result<Box<dyn Read + Send>, ExecuteError> {
        let (reader, writer) = io::pipe().map_err(ExecuteError::internal)?;
        fds.push(writer.into());
        let worker = self.worker(name, args, fds)?;
        Ok(Box::new(WorkerReader { file: File::from(OwnedFd::from(reader)), worker: Some(worker) }))
    }

    /// Takes nearly empty directories to be removed with others at the end: a worker for each would cost as much as a
    /// short RUN. Where that end is not reached, the next run sweeps them.
    pub(super) fn discard(&self, paths: impl IntoIterator<Item = PathBuf>) {
        self.discarded.lock().unwrap_or_else(PoisonError::into_inner).extend(paths);
    }

    /// Begins to remove what was discarded, beside what else is to be done.
    pub(super) fn begin_removal(&self) -> Result<(), ExecuteError> {
        let paths = std::mem::take(&mut *self.discarded.lock().unwrap_or_else(PoisonError::into_inner));
        if paths.is_empty() {
            return Ok(());
        }
        let removal = self.sandbox()?.begin_removal(&paths)?;
        self.removals.lock().unwrap_or_else(PoisonError::into_inner).push(removal);
        Ok(())
    }

    /// Waits for the removals that were begun.
    ///
    /// # Errors
    /// The first that failed.
    pub(super) fn end_removals(&self) -> Result<(), ExecuteError> {
        let removals = std::mem::take(&mut *self.removals.lock().unwrap_or_else(PoisonError::into_inner));
        let ends: Vec<_> = removals.into_iter().map(WorkerHandle::wait).collect();
        Ok(ends.into_iter().collect::<Result<(), _>>()?)
    }

    /// Removes directories whose files may belong to any id of the namespace.
    pub fn remove(&self, paths: &[PathBuf]) -> Result<(), ExecuteError> {
        if paths.is_empty() {
            return Ok(());
        }
        Ok(self.sandbox()?.remove_trees(paths)?)
    }
}
