//! A [`RunSpec`](super::RunSpec) as it travels to the child: paths made relative, sources opened where only main may.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::Ulimit;
use super::spec::{Access, Network, Security, SocketOwner, UserSpec};
use super::start::StorageDriver;
use super::streams::OrderedStreams;

/// What the child has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) lowers: Vec<Bytes>,
    pub(super) upper: Bytes,
    pub(super) work: Bytes,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: String,
    pub(super) user: UserSpec,
    pub(super) hostname: String,
    pub(super) network: Network,
    pub(super) mounts: Vec<OrderedMount>,
    pub(super) security: Security,
    pub(super) shm_size: u64,
    pub(super) ulimits: Vec<Ulimit>,
    /// Where the child waits until main has put it into its control group: a descriptor's place among those passed.
    pub(super) gate: Option<usize>,
    pub(super) streams: OrderedStreams,
    pub(super) storage: StorageDriver,
}

/// One mount of a command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OrderedMount {
    pub(super) target: String,
    pub(super) kind: OrderedKind,
}

/// As [`super::MountKind`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum OrderedKind {
    /// Something that exists: a bind, a cache or a socket.
    Existing { place: Place, access: Access },
    /// A device node of the host.
    Device { path: Bytes },
    /// A stage's merged view.
    Merged { lowers: Vec<Bytes>, source: Bytes, access: Access },
    /// An empty directory in memory.
    Tmpfs { size: Option<u64>, mode: u32 },
    /// A socket beneath the base directory, to be given away.
    Socket { path: Bytes, owner: SocketOwner },
    /// A file in memory.
    File { content: Bytes, mode: u32, uid: u32, gid: u32 },
}

/// Where something that exists is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Place {
    /// A directory beneath the base directory, which is the child's working directory; made if missing.
    Beneath(Bytes),
    /// Within a directory that the child can reach itself: beneath the base directory if the name is relative.
    Host { root: Bytes, source: Bytes },
    /// A detached mount that main made and passed: the descriptor's place among those of the request.
    Passed(usize),
}

/// Bytes that JSON carries as base64.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn of_path(path: &Path) -> Bytes {
        Bytes(path.as_os_str().as_bytes().to_vec())
    }

    pub(super) fn path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }
}

/// Some are secrets.
impl std::fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Bytes({})", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes).map_err(serde::de::Error::custom)
    }
}
