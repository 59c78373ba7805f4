//! Why a sandbox could not do what it was asked.

use std::io;
use std::path::PathBuf;

use super::spec::Status;

/// Any failure of the sandbox itself; a command that ends with a code other than zero is none.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The base directory cannot be used.
    #[error("prepare the sandbox's base directory {}", path.display())]
    Base {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The base directory belongs to another range of ids than the one in use now.
    #[error("prepare the sandbox's base directory {}: it belongs to user {found}, not to user {expected}", path.display())]
    BaseOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// Who container root is now.
        expected: u32,
    },
    /// The holder process could not be started.
    #[error("start the sandbox's holder process")]
    Spawn {
        /// Why.
        source: io::Error,
    },
    /// The kernel, or who restricts it, gives no user namespace.
    #[error("enter a user namespace: {reason}")]
    NoUserNamespace {
        /// What was seen.
        reason: String,
        /// What to change.
        remedy: String,
    },
    /// There is a user namespace, but no range of ids for it.
    #[error("map a range of user ids: {reason}")]
    NoIdRange {
        /// What was seen.
        reason: String,
        /// What to change.
        remedy: String,
    },
    /// A command wants what takes namespaces, and there are none.
    #[error("run in a chroot: {what} needs namespaces, which this place does not allow")]
    BeyondChroot {
        /// The option.
        what: &'static str,
    },
    /// The holder ended, or never answered.
    #[error("reach the sandbox's holder process: it is gone")]
    HolderGone,
    /// Talking to the holder failed.
    #[error("talk to the sandbox's holder process")]
    Talk {
        /// Why.
        source: io::Error,
    },
    /// A path that has to lie beneath the base directory does not.
    #[error("use {}: it is not beneath the sandbox's base directory {}", path.display(), base.display())]
    OutsideBase {
        /// The path.
        path: PathBuf,
        /// The base directory.
        base: PathBuf,
    },
    /// What is to be mounted cannot be opened.
    #[error("open {} to mount it", path.display())]
    MountSource {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image is for a processor whose programs do not run here.
    #[error("run commands of {architecture} images: {reason}")]
    ForeignArchitecture {
        /// The processor.
        architecture: String,
        /// Why.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// A network of a command's own cannot be connected.
    #[error("give RUN a private network: {reason}")]
    NoPrivateNetwork {
        /// Why.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// A command cannot be put into a control group of its own, although one could be made before.
    #[error("limit a command by a control group")]
    Group {
        /// Why.
        source: io::Error,
    },
    /// A step of setting up a command failed, or the image was refused.
    #[error("{step}: {reason}")]
    SetUp {
        /// What was being done.
        step: String,
        /// Why it failed.
        reason: String,
    },
    /// The command's program could not be started.
    #[error("run {program:?} in the image")]
    Program {
        /// As given.
        program: String,
        /// `NotFound` where no directory of `PATH` has it.
        source: io::Error,
    },
    /// A worker reported a failure.
    #[error("{message}")]
    Worker {
        /// In its own words.
        message: String,
    },
    /// A worker, or the set-up of a command, ended without a word.
    #[error("run the sandbox's {job}: it ended with {status}")]
    Died {
        /// Which.
        job: String,
        /// How.
        status: Status,
    },
    /// It was cancelled.
    #[error("run in the sandbox: cancelled")]
    Cancelled,
}
