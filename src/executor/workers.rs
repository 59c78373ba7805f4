//! What runs as root of the namespace on behalf of the executor: the parts that touch trees.
//!
//! A worker gets open descriptors, never paths, so it works whatever the store's own directories allow, and a layer
//! that tricks it reaches nothing but what it was given.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::layer::emit::{EmitEntry, emit};
use crate::layer::pack::pack_with_owners;
use crate::layer::unpack::{Options, Ownership, Style, unpack, unpack_with};
use crate::layer::write::TarWriter;
use crate::owners::{self, Owner, Table};
use crate::rootfs::RootDir;
use crate::sandbox::Worker;
use crate::snapshot::StackView;
use crate::tree::{self, Kind, Last, Node, Time, View};

/// Unpacks a tar (second descriptor) into a directory (first); the argument is a list of [`ImpliedDirectory`]. With a
/// third descriptor, owners are recorded, and it is the file of their table.
pub const UNPACK: &str = "unpack";
/// Packs an overlay's upper directory (first descriptor) against the trees below (the next ones) into a pipe (last). The
/// argument is a table of owners, as it is written to a file.
pub const PACK: &str = "pack";
/// Writes chosen files of trees (descriptors) as a tar into a pipe (last); the argument lists them.
pub const EMIT: &str = "emit";

/// Fills a new cache mount (first descriptor) from trees (the others); the argument is a [`Seed`].
pub const SEED: &str = "seed";

/// Unpacks a tar (second descriptor) into a new cache mount (first); the argument says whether owners are recorded rather
/// than set.
pub const FILL: &str = "fill";

/// Measures directories (descriptors) and writes their sizes to a pipe (last).
pub const MEASURE: &str = "measure";

/// What a new cache mount starts as.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Seed {
    /// The directory within the trees to start from.
    pub source: Vec<u8>,
    /// Permission bits of the mount's root; not given, those of the directory that it starts from.
    pub mode: Option<u32>,
    /// Its owner, likewise.
    pub uid: Option<u32>,
    /// Its group, likewise.
    pub gid: Option<u32>,
    /// Whether owners are recorded rather than set.
    pub records: bool,
}

/// The workers that `main` offers to the sandbox.
pub const WORKERS: &[Worker] = &[
    (UNPACK, run_unpack),
    (PACK, run_pack),
    (super::layers::DIGEST, super::layers::run_digest),
    (EMIT, run_emit),
    (SEED, run_seed),
    (FILL, run_fill),
    (MEASURE, super::measure::run_measure),
    (super::steady::STEADY_WORKER, super::steady::run_steady),
];

/// Metadata of a directory that a layer changes something in but has no entry for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImpliedDirectory {
    /// Its path.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
}

impl ImpliedDirectory {
    /// Takes a directory's metadata from below.
    pub fn new(path: &[u8], node: &Node) -> ImpliedDirectory {
        let mtime = (node.mtime.seconds, node.mtime.nanoseconds);
        ImpliedDirectory { path: path.to_vec(), mode: node.mode, uid: node.uid, gid: node.gid, mtime }
    }

    fn node(&self) -> Node {
        let mtime = Time { seconds: self.mtime.0, nanoseconds: self.mtime.1 };
        Node { mode: self.mode, uid: self.uid, gid: self.gid, ..Node::directory(mtime) }
    }
}

fn run_unpack(args: &[u8], fds: Vec<OwnedFd>) -> Result<(), String> {
    let mut fds = fds.into_iter();
    let (directory, tar, table) = (fds.next(), fds.next(), fds.next());
    let (Some(directory), Some(tar)) = (directory, tar) else { return Err("unpack needs 2 descriptors".to_owned()) };
    let root = RootDir::from_fd(directory);
    // The pipe is read in large pieces: a read per 512-byte header would cost more than the unpacking.
    let mut tar = io::BufReader::with_capacity(256 << 10, File::from(tar));
    let implied: Vec<ImpliedDirectory> = serde_json::from_slice(args).map_err(|error| error.to_string())?;
    // It was made under the umask of who calls rbuild, which must not close a root file system to other users.
    rustix::fs::chmodat(&root, ".", rustix::fs::Mode::from_raw_mode(0o755), rustix::fs::AtFlags::empty())
        .map_err(|error| error.to_string())?;
    let ownership = if table.is_some() { Ownership::Record } else { Ownership::Keep };
    let mut options = Options::new(ownership, Style::OverlayLower);
    options.implied = implied.into_iter().map(|directory| (directory.path.clone(), directory.node())).collect();
    let unpacked = unpack_with(&mut tar, &root, &options).map_err(|error| chain(&error))?;
    // No layer says when its root was changed, and who looks at it must not see when this tree happened to be made.
    super::steady::set_steady(&root).map_err(|error| error.to_string())?;
    if let Some(table) = table {
        unpacked.owners.write_to(File::from(table)).map_err(|error| error.to_string())?;
    }
    // What follows the archive's end must be read all the same: its digest counts, and its writer must not find a closed pipe.
    io::copy(&mut tar, &mut io::sink()).map(drop).map_err(|error| error.to_string())
}

fn run_pack(args: &[u8], mut fds: Vec<OwnedFd>) -> Result<(), String> {
    let out = fds.pop().ok_or("pack needs a descriptor to write to")?;
    let mut roots = fds.into_iter().map(RootDir::from_fd);
    let upper = roots.next().ok_or("pack needs a directory")?;
    let lowers: Vec<RootDir> = roots.collect();
    let mut out = BufWriter::with_capacity(256 << 10, File::from(out));
    let owners = Table::read_from(args).map_err(|error| error.to_string())?;
    pack_with_owners(&upper, lowers.iter().collect(), owners, &mut out)
        .and_then(|()| out.flush())
        .map_err(|error| chain(&error))
}

fn run_emit(args: &[u8], mut fds: Vec<OwnedFd>) -> Result<(), String> {
    let out = fds.pop().ok_or("emit needs a descriptor to write to")?;
    let roots: Vec<RootDir> = fds.into_iter().map(RootDir::from_fd).collect();
    let entries: Vec<EmitEntry> = serde_json::from_slice(args).map_err(|error| error.to_string())?;
    let mut out = BufWriter::with_capacity(256 << 10, File::from(out));
    emit(&roots, &entries, &mut out).and_then(|()| out.flush()).map_err(|error| chain(&error))
}

fn run_seed(args: &[u8], fds: Vec<OwnedFd>) -> Result<(), String> {
    let seed: Seed = serde_json::from_slice(args).map_err(|error| error.to_string())?;
    let mut roots = fds.into_iter().map(RootDir::from_fd);
    let target = roots.next().ok_or("seed needs a directory")?;
    let view = StackView::new(roots.collect());
    let start = tree::resolve(&view, &seed.source, Last::Follow).map_err(|error| chain(&error))?;
    let mut tar = Vec::new();
    if start.node.is_some() {
        write_view(&view, &start.path, &mut tar).map_err(|error| chain(&error))?;
    }
    let below = start.node.unwrap_or_else(|| Node::directory(Time::default()));
    let ownership = if seed.records { Ownership::Record } else { Ownership::Keep };
    unpack(tar.as_slice(), &target, ownership, Style::Plain).map_err(|error| chain(&error))?;
    let owner = Owner { uid: seed.uid.unwrap_or(below.uid), gid: seed.gid.unwrap_or(below.gid) };
    own(&target, owner, ownership).map_err(|error| error.to_string())?;
    let mode = rustix::fs::Mode::from_raw_mode(seed.mode.unwrap_or(below.mode));
    rustix::fs::chmodat(&target, ".", mode, rustix::fs::AtFlags::empty()).map_err(|error| error.to_string())
}

fn run_fill(args: &[u8], fds: Vec<OwnedFd>) -> Result<(), String> {
    let records: bool = serde_json::from_slice(args).map_err(|error| error.to_string())?;
    let mut fds = fds.into_iter();
    let (Some(directory), Some(tar)) = (fds.next(), fds.next()) else {
        return Err("fill needs 2 descriptors".to_owned());
    };
    let mut tar = io::BufReader::with_capacity(256 << 10, File::from(tar));
    let ownership = if records { Ownership::Record } else { Ownership::Keep };
    unpack(&mut tar, &RootDir::from_fd(directory), ownership, Style::Plain).map_err(|error| chain(&error))?;
    io::copy(&mut tar, &mut io::sink()).map(drop).map_err(|error| error.to_string())
}

/// Gives a directory to an owner, in the file system or on record.
fn own(directory: &RootDir, owner: Owner, ownership: Ownership) -> io::Result<()> {
    use rustix::fs::{AtFlags, Gid, Uid, XattrFlags, chownat, setxattr};
    if ownership == Ownership::Record {
        let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        return Ok(setxattr(path, owners::ATTRIBUTE, owner.text().as_bytes(), XattrFlags::empty())?);
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(directory, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

/// Writes what a view has below a directory as a tar, the directory itself left out.
fn write_view(view: &dyn View, source: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut tar = TarWriter::new(out);
    let mut todo = vec![Vec::new()];
    while let Some(directory) = todo.pop() {
        for name in view.names(&tree::join(source, &directory))? {
            let path = tree::join(&directory, &name);
            let place = tree::join(source, &path);
            let Some(node) = view.node(&place)? else { continue };
            match node.kind {
                Kind::File { .. } => tar.append(&path, &node, None, &mut *view.open(&place)?)?,
                Kind::Socket => {}
                _ => tar.append(&path, &node, None, &mut io::empty())?,
            }
            if node.is_directory() {
                todo.push(path);
            }
        }
    }
    tar.finish().map(drop)
}

/// An error and its causes on one line: a worker's message crosses a process boundary as text.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
