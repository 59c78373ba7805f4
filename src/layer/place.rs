//! Puts one thing into an open directory, with its owner, mode, attributes and time.
//!
//! Contract: the name is the last component only, it is new (`EEXIST` otherwise), and no link is followed.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::attributes;
use super::inode::through_proc;
use super::unpack::Ownership;
use crate::owners::{self, Owner};
use crate::tree::{Kind, Node, Time};

/// What became of something that was to be put somewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is there.
    Whole,
    /// It is there, without the attribute of this name.
    Without(Vec<u8>),
    /// This process may not make such devices.
    NotAllowed,
}

/// Mode of what is being made, until it is whole.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Puts something that is no directory into an open directory. Metadata come in an order that survives itself: chown
/// clears setuid and capabilities, so mode and attributes follow it; the time is last.
pub(super) fn place(
    directory: impl AsFd,
    name: &[u8],
    node: &Node,
    ownership: Ownership,
    content: &mut dyn Read,
    buffer: &mut [u8],
) -> io::Result<Placed> {
    let directory = directory.as_fd();
    match &node.kind {
        Kind::File { .. } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, name, flags, PRIVATE_FILE)?;
            copy(content, &file, buffer)?;
            return finish_open(&file, node, ownership);
        }
        Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), directory, name)?,
        kind => {
            let (file_type, device) = match kind {
                Kind::CharDevice { major, minor } => (FileType::CharacterDevice, rustix::fs::makedev(*major, *minor)),
                Kind::BlockDevice { major, minor } => (FileType::BlockDevice, rustix::fs::makedev(*major, *minor)),
                _ => (FileType::Fifo, Dev::default()),
            };
            match rustix::fs::mknodat(directory, name, file_type, PRIVATE_FILE, device) {
                Err(Errno::PERM) => return Ok(Placed::NotAllowed),
                result => result?,
            }
        }
    }
    own(directory, name, node, ownership)?;
    if !matches!(node.kind, Kind::Symlink(_)) {
        rustix::fs::chmodat(directory, name, mode_of(node), AtFlags::empty())?;
    }
    let placed = set_attributes(&through_proc(directory, name), node, ownership)?;
    rustix::fs::utimensat(directory, name, &times(node.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(placed)
}

/// Makes a directory that only this process can enter until [`finish_directory`].
pub(super) fn make_directory(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(directory, name, Mode::RWXU)?)
}

/// Sets a directory's owner and attributes; its mode and time come last, when everything is in it.
pub(super) fn own_directory(
    directory: impl AsFd,
    name: &[u8],
    node: &Node,
    ownership: Ownership,
) -> io::Result<Placed> {
    own(&directory, name, node, ownership)?;
    set_attributes(&through_proc(&directory, name), node, ownership)
}

/// Sets what a directory gets last; without a mode, only its time.
pub(super) fn finish_directory(directory: &OwnedFd, mode: Option<u32>, mtime: Time) -> io::Result<()> {
    if let Some(mode) = mode {
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))?;
    }
    Ok(rustix::fs::futimens(directory, &times(mtime))?)
}

/// Makes a whiteout: a device where that is allowed, else an empty file with a mark (and its directory marked to say
/// that such files are in it).
pub(super) fn whiteout(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::mknodat(&directory, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => marked_whiteout(directory, name),
        result => Ok(result?),
    }
}

/// The form for where mknod is not allowed (Linux 6.7: overlayfs.rst, "whiteouts and opaque directories").
pub(super) fn marked_whiteout(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, name, flags, PRIVATE_FILE)?;
    rustix::fs::fsetxattr(&file, attributes::WHITEOUT, b"y", XattrFlags::empty())?;
    let path = of_descriptor(&directory);
    match rustix::fs::setxattr(path.as_slice(), attributes::OPAQUE, b"x", XattrFlags::CREATE) {
        // `y` hides everything below already.
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

/// Marks an open directory as hiding what is below it.
pub(super) fn opaque(directory: impl AsFd) -> io::Result<()> {
    let path = of_descriptor(&directory);
    Ok(rustix::fs::setxattr(path.as_slice(), attributes::OPAQUE, b"y", XattrFlags::empty())?)
}

/// Whether a name is a whiteout in either form.
pub(super) fn is_whiteout(directory: impl AsFd, name: &[u8]) -> io::Result<bool> {
    let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => Ok(stat.st_rdev == 0),
        FileType::RegularFile if stat.st_size == 0 => {
            let path = through_proc(&directory, name);
            match rustix::fs::lgetxattr(path.as_slice(), attributes::WHITEOUT, &mut [0u8; 16][..]) {
                Ok(_) => Ok(true),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
        _ => Ok(false),
    }
}

/// The path that stands for a descriptor, for calls that refuse one opened with `O_PATH`.
fn of_descriptor(directory: impl AsFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()).into_bytes()
}

fn finish_open(file: &OwnedFd, node: &Node, ownership: Ownership) -> io::Result<Placed> {
    if ownership == Ownership::Keep {
        let (uid, gid) = owner_of(node);
        rustix::fs::fchown(file, uid, gid).map_err(|error| owner_error(node, error))?;
    }
    // A mode without write permission does not matter to attributes set through an open file, but chown clears bits.
    rustix::fs::fchmod(file, mode_of(node))?;
    let mut placed = Placed::Whole;
    for (name, value) in recorded(node, ownership).iter().map(|(name, value)| (*name, value.as_slice())) {
        match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => placed = Placed::Without(name.to_vec()),
            result => result?,
        }
    }
    rustix::fs::futimens(file, &times(node.mtime))?;
    Ok(placed)
}

fn own(directory: impl AsFd, name: &[u8], node: &Node, ownership: Ownership) -> io::Result<()> {
    if ownership != Ownership::Keep {
        return Ok(());
    }
    let (uid, gid) = owner_of(node);
    rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| owner_error(node, error))
}

/// The kernel says only EINVAL of an id that its user namespace has no room for (user_namespaces(7)).
fn owner_error(node: &Node, error: Errno) -> io::Error {
    if error != Errno::INVAL {
        return error.into();
    }
    let text = format!("owner {}:{} is outside the ids that this user namespace has", node.uid, node.gid);
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn owner_of(node: &Node) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)))
}

fn mode_of(node: &Node) -> Mode {
    Mode::from_raw_mode(node.mode & 0o7777)
}

fn set_attributes(path: &[u8], node: &Node, ownership: Ownership) -> io::Result<Placed> {
    let mut placed = Placed::Whole;
    for (name, value) in recorded(node, ownership) {
        match rustix::fs::lsetxattr(path, name, &value, XattrFlags::empty()) {
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => placed = Placed::Without(name.to_vec()),
            result => result?,
        }
    }
    Ok(placed)
}

/// The node's attributes, and its owner as one where that is how owners are kept. Links and devices cannot have it: the
/// caller writes theirs into a table.
fn recorded(node: &Node, ownership: Ownership) -> Vec<(&[u8], Vec<u8>)> {
    let mut all: Vec<(&[u8], Vec<u8>)> =
        node.xattrs.iter().map(|(name, value)| (name.as_slice(), value.clone())).collect();
    let can = matches!(node.kind, Kind::File { .. } | Kind::Directory);
    if ownership == Ownership::Record && can && (node.uid, node.gid) != (0, 0) {
        let owner = Owner { uid: node.uid, gid: node.gid };
        all.push((owners::ATTRIBUTE.as_bytes(), owner.text().into_bytes()));
    }
    all
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

fn copy(content: &mut dyn Read, file: &OwnedFd, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        let count = match content.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            match rustix::io::write(file, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
