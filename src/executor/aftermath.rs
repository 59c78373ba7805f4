//! A RUN that failed, kept as it was, so that somebody can look around in it.

use std::sync::{Mutex, PoisonError};

use super::{ExecuteError, Namespace, RunFailure};
use crate::sandbox::{self, Cancel, Exit, Streams};
use crate::snapshot::StackView;
use crate::store::Lock;
use crate::tree::{Kind, Last, View, resolve};

/// Where the first RUN that fails is kept.
#[derive(Default)]
pub struct Aftermath(Mutex<Option<FailedRun>>);

impl Aftermath {
    /// Keeps it, if none is kept yet.
    pub(super) fn keep(&self, failed: FailedRun) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed);
    }

    /// Takes what is kept, if it is what this is about: of two that fail together one is reported.
    pub fn take(&self, error: &ExecuteError) -> Option<FailedRun> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        matches!(error, ExecuteError::Run(failure) if *failure == kept.failure).then_some(kept)
    }
}

/// A RUN that failed, with everything that it had: what it wrote, variables, user, network and mounts.
pub struct FailedRun {
    /// How it failed.
    pub failure: RunFailure,
    pub(super) spec: sandbox::RunSpec,
    /// Its cache mounts stay its own.
    pub(super) locks: Vec<Lock>,
}

/// Shells that one can type into, best first. `sh` of Debian has no history.
const SHELLS: &[&[&str]] = &[
    &["/bin/bash"],
    &["/usr/bin/bash"],
    &["/bin/sh"],
    &["/usr/bin/sh"],
    &["/bin/ash"],
    &["/bin/busybox", "sh"],
    &["/busybox/sh"],
];

impl FailedRun {
    /// A shell that its root file system has, with arguments.
    ///
    /// # Errors
    /// The trees cannot be read.
    pub fn shell(&self) -> std::io::Result<Option<Vec<String>>> {
        let trees: Vec<_> = std::iter::once(&self.spec.upper).chain(&self.spec.lowers).cloned().collect();
        let view = StackView::open(&trees)?;
        for shell in SHELLS {
            let found = resolve(&view as &dyn View, shell[0].as_bytes(), Last::Follow)?;
            if found.node.is_some_and(|node| matches!(node.kind, Kind::File { .. })) {
                return Ok(Some(shell.iter().map(|word| (*word).to_owned()).collect()));
            }
        }
        Ok(None)
    }

    /// Runs another program where the RUN failed.
    ///
    /// # Errors
    /// It cannot be started, or was cancelled.
    pub fn run(
        &self,
        args: Vec<String>,
        namespace: &Namespace,
        streams: &Streams<'_>,
        cancel: &Cancel,
    ) -> Result<Exit, ExecuteError> {
        let mut env = self.spec.env.clone();
        if !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        let spec = sandbox::RunSpec { args, env, ..self.spec.clone() };
        Ok(namespace.sandbox()?.run(&spec, streams, cancel)?)
    }

    /// How many of its cache mounts it keeps others from.
    pub fn locked_caches(&self) -> usize {
        self.locks.len()
    }
}
