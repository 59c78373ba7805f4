//! What can go wrong while a plan is carried out.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::copy::CopyError;
use super::passwd::UserError;
use crate::diagnostic::Span;
use crate::digest::Digest;
use crate::plan::StepId;
use crate::registry::RegistryError;
use crate::sandbox::SandboxError;
use crate::store::StoreError;

/// A command that ended with another code than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFailure {
    /// The step's title.
    pub title: String,
    /// The command as it was written.
    pub command: String,
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// The file that has everything the command wrote, where it is kept.
    pub log: Option<std::path::PathBuf>,
    /// Whether the kernel ended a process of it for lack of memory.
    pub out_of_memory: bool,
    /// The store, where its disk was full when the command had failed: commands seldom say whose disk it was.
    pub full_disk: Option<std::path::PathBuf>,
    /// The instruction's place.
    pub span: Span,
}

/// What can go wrong while a plan is carried out.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// A RUN failed.
    #[error("process {:?} did not complete successfully: exit code: {}{}{}", .0.command, .0.code, out_of_memory(.0), full_disk(.0))]
    Run(RunFailure),
    /// COPY or ADD cannot be done.
    #[error("{title}: {source}")]
    Copy {
        /// The step's title.
        title: String,
        /// Why.
        source: CopyError,
        /// The instruction's place.
        span: Span,
    },
    /// A file cannot be fetched for ADD.
    #[error("{title}: {source}")]
    Download {
        /// The step's title.
        title: String,
        /// Why.
        source: Box<RegistryError>,
        /// The instruction's place.
        span: Span,
    },
    /// A user or group cannot be found.
    #[error("{title}: {source}")]
    User {
        /// The step's title.
        title: String,
        /// Why.
        source: UserError,
        /// The instruction's place.
        span: Span,
    },
    /// A step asks for something that it cannot have.
    #[error("{message}")]
    Step {
        /// What, and what to do.
        message: String,
        /// The instruction's place.
        span: Span,
    },
    /// RUN is not possible here.
    #[error("cannot run commands here")]
    NoSandbox(#[source] Arc<SandboxError>),
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer could not be read or written.
    #[error("layer {}: {source}", .layer.short())]
    Layer {
        /// The layer.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer could not be written that has no digest yet.
    #[error("write a new layer: {source}")]
    NewLayer {
        /// Why.
        source: io::Error,
    },
    /// The files of a step are asked for that was only foreseen.
    #[error("step {} is not carried out", .0.index())]
    NotMade(StepId),
    /// The user stopped the build.
    #[error("canceled")]
    Cancelled,
    /// Something that must not happen.
    #[error("{0}")]
    Internal(String),
}

fn out_of_memory(failure: &RunFailure) -> &'static str {
    if failure.out_of_memory { " (a process was killed for lack of memory)" } else { "" }
}

fn full_disk(failure: &RunFailure) -> String {
    let full = failure.full_disk.as_ref();
    full.map(|store| format!(" (the disk of the store, {}, is full)", store.display())).unwrap_or_default()
}

impl ExecuteError {
    pub(super) fn layer(layer: &Digest, source: io::Error) -> ExecuteError {
        ExecuteError::Layer { layer: *layer, source }
    }

    /// Of a layer that is written: one that is known by its digest, or a new one.
    pub(super) fn writing(layer: Option<&Digest>, source: io::Error) -> ExecuteError {
        match layer {
            Some(layer) => ExecuteError::layer(layer, source),
            None => ExecuteError::NewLayer { source },
        }
    }

    pub(crate) fn internal(error: impl fmt::Display) -> ExecuteError {
        ExecuteError::Internal(error.to_string())
    }

    pub(super) fn panicked(what: &str) -> ExecuteError {
        ExecuteError::Internal(format!("a thread that was to {what} panicked"))
    }

    /// The instruction's place in the Dockerfile, where there is one.
    pub fn span(&self) -> Option<Span> {
        match self {
            ExecuteError::Run(failure) => Some(failure.span),
            ExecuteError::Copy { span, .. }
            | ExecuteError::Download { span, .. }
            | ExecuteError::User { span, .. }
            | ExecuteError::Step { span, .. } => Some(*span),
            _ => None,
        }
    }

    /// One line for the step's own line on the screen.
    pub fn summary(&self) -> String {
        self.to_string()
    }
}
