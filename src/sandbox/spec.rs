//! What a command is run with: the vocabulary of [`super::Sandbox::run`].

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::connector::Connector;

/// A command and the world it sees.
///
/// `lowers`, `upper` and `work` lie beneath the sandbox's base directory (see [`super::Options`]).
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// Trees of the image, top first; may be empty (`FROM scratch`).
    pub lowers: Vec<PathBuf>,
    /// Receives what the command changes, in overlayfs form. Made if missing, with its parents; must be new or empty, or
    /// that of an earlier command on the same trees, whose state this one then finds.
    pub upper: PathBuf,
    /// Scratch space of this run, on the file system of `upper`. Made if missing; delete it with
    /// [`super::Sandbox::remove_trees`]. Used twice only together with `upper`.
    pub work: PathBuf,
    /// Program and arguments. A program without a slash is looked for in `PATH` of `env`.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory; must exist in the image.
    pub cwd: String,
    /// Who the command runs as.
    pub user: UserSpec,
    /// Host name.
    pub hostname: String,
    /// What the command can reach.
    pub network: Network,
    /// Mounts beyond the standard ones. Parents are mounted before what lies in them, whatever their order here.
    pub mounts: Vec<Mount>,
    /// Content of `/etc/hosts`.
    pub hosts: Vec<u8>,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// How much the command is kept from.
    pub security: Security,
    /// Bytes that `/dev/shm` may hold.
    pub shm_size: u64,
}

/// Numeric ids inside the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What network a command has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The host's, without its abstract unix sockets.
    Host,
    /// A loopback interface of its own.
    None,
    /// The same, and a way out that leads to nothing of the host's loopback.
    Private(Connector),
}

/// How much a command is kept from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's capabilities, system-call filter and masked paths.
    Sandbox,
    /// `RUN --security=insecure`: every capability of the sandbox's user namespace, no filter, no masks.
    Insecure,
}

/// Something to mount into the root of one command.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Path in the image; links in it are followed within the image. Need not exist.
    pub target: String,
    /// What to mount there.
    pub kind: MountKind,
}

/// Whether a mount can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// `EROFS` on every change.
    ReadOnly,
    /// Changes reach what is mounted.
    ReadWrite,
}

/// What can be mounted.
#[derive(Debug, Clone)]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Directory that `source` cannot leave.
        source_root: PathBuf,
        /// Path within it; links are followed within it; empty for the directory itself.
        source: Vec<u8>,
        /// Whether it can be written to.
        access: Access,
    },
    /// A file or directory of a stage.
    BindOverlay {
        /// Trees of the stage, top first, beneath the sandbox's base directory.
        lowers: Vec<PathBuf>,
        /// Path within their merged view; empty for the root.
        source: Vec<u8>,
        /// With `ReadWrite`, changes go to a throwaway directory in [`RunSpec::work`].
        access: Access,
    },
    /// A directory that keeps its content. Made if it is missing and lies beneath the sandbox's base directory.
    Cache {
        /// The directory.
        dir: PathBuf,
        /// Whether it can be written to.
        access: Access,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Limit in bytes; the kernel's own (half of the memory) if absent.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
    },
    /// A read-only file that exists in memory only (a secret).
    File {
        /// Its bytes.
        content: Secret,
        /// Permission bits.
        mode: u32,
        /// Owner inside the image.
        uid: u32,
        /// Group inside the image.
        gid: u32,
    },
    /// A device node of the host, which the command can use as its permissions say.
    Device {
        /// The node.
        path: PathBuf,
    },
    /// A listening unix socket of the host (an ssh agent's).
    Socket {
        /// The socket.
        path: PathBuf,
        /// Who may connect; not given, who may on the host. Only a socket beneath the sandbox's base directory can be given
        /// away.
        owner: Option<SocketOwner>,
    },
}

/// Who may connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOwner {
    /// Permission bits.
    pub mode: u32,
    /// Owner inside the image.
    pub uid: u32,
    /// Group inside the image.
    pub gid: u32,
}

/// Bytes that are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({} bytes)", self.0.len())
    }
}

/// Which of a command's two outputs a piece of text came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal.
    pub status: Status,
    /// Whether the kernel killed a process for want of memory while the command ran. A shell can hide that behind a
    /// code of zero.
    pub out_of_memory: bool,
    /// How its root was made.
    pub root: Made,
}

impl RunSpec {
    /// A command that goes on where this one ended, in a root that was made so.
    pub fn continued(&self, root: &Made) -> RunSpec {
        let mut next = self.clone();
        if let Made::Copied { .. } = root {
            // A copy is compared with what it was made of, which now is one tree more.
            next.lowers.insert(0, std::mem::replace(&mut next.upper, self.work.join("after")));
        }
        next
    }
}

/// How a command's root was made of trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// By an overlay mount.
    Mounted,
    /// By a copy.
    Copied {
        /// Why overlay was refused; `None` if a copy was asked for, or it was told before.
        refused: Option<String>,
    },
}

/// What `wait` says of an ended process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Status {
    /// The number a shell would show: the code, or 128 and the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Status::Code(code) => code,
            Status::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Code(code) => write!(formatter, "exit code {code}"),
            Status::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}
