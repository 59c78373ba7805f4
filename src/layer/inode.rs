//! What a name in a directory is, as a layer sees it: its header without what only overlayfs, the host or rbuild meant.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::attributes::Found;
use crate::owners::{self, Owner, Table};
use crate::tree::{Kind, Node, Time};

/// One name in a tree.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) node: Node,
    pub(super) whiteout: bool,
    pub(super) opaque: bool,
    pub(super) id: (u64, u64),
    /// Whether it has other names too.
    pub(super) linked: bool,
    /// Whether its owner is on record; otherwise it is the file system's.
    pub(super) recorded: bool,
}

/// Looks names up; it keeps the buffer that attributes are read into.
pub(super) struct Inspector {
    buffer: Vec<u8>,
    /// Owners of what cannot carry them as an attribute.
    owners: Table,
}

/// The kernel's limit for a list of attributes and for one value (`XATTR_SIZE_MAX`).
const ATTRIBUTES: usize = 64 * 1024;

impl Inspector {
    pub(super) fn new(owners: Table) -> Inspector {
        Inspector { buffer: vec![0; ATTRIBUTES], owners }
    }

    /// Whether owners may be on record.
    pub(super) fn has_table(&self) -> bool {
        !self.owners.is_empty()
    }

    /// What a path below an open directory is; `None` where nothing is. The caller knows that all but the path's last
    /// component are directories.
    pub(super) fn look(&mut self, directory: impl AsFd, path: &[u8]) -> io::Result<Option<Inode>> {
        let stat = match rustix::fs::statat(&directory, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type == FileType::CharacterDevice && stat.st_rdev == 0 {
            return Ok(Some(inode(&stat, Kind::CharDevice { major: 0, minor: 0 }, Found::default())));
        }
        let mut found = self.attributes(directory.as_fd(), path)?;
        if self.has_table() && !matches!(file_type, FileType::RegularFile | FileType::Directory) {
            found.owner = self.owners.find(&owners::Inode::of(&directory, path)?);
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match file_type {
            FileType::RegularFile => Kind::File { size: stat.st_size.unsigned_abs(), digest: None },
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(rustix::fs::readlinkat(&directory, path, Vec::new())?.into_bytes()),
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Socket,
        };
        Ok(Some(inode(&stat, kind, found)))
    }

    /// Reads attributes without opening the file: its mode may forbid that, and a pipe would wait for its other end.
    fn attributes(&mut self, directory: impl AsFd, path: &[u8]) -> io::Result<Found> {
        let path = through_proc(directory, path);
        let mut found = Found::default();
        let length = match rustix::fs::llistxattr(path.as_slice(), &mut self.buffer[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(found),
            result => result?,
        };
        let list = self.buffer[..length].to_vec();
        for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match rustix::fs::lgetxattr(path.as_slice(), name, &mut self.buffer[..]) {
                Ok(length) => found.add(name, self.buffer[..length].to_vec()),
                // Listed but not for this process: `trusted.*` without the capability for it.
                Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

/// A path for the calls that have no form with a directory's descriptor (`*xattr`, until Linux 6.13).
pub(super) fn through_proc(directory: impl AsFd, path: &[u8]) -> Vec<u8> {
    let mut whole = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    whole.extend_from_slice(path);
    whole
}

fn inode(stat: &Stat, kind: Kind, found: Found) -> Inode {
    let whiteout = match kind {
        Kind::CharDevice { major: 0, minor: 0 } => true,
        Kind::File { size: 0, .. } => found.whiteout,
        _ => false,
    };
    let recorded = found.owner.is_some();
    let Owner { uid, gid } = found.owner.unwrap_or(Owner { uid: stat.st_uid, gid: stat.st_gid });
    let mtime = Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    let mode = stat.st_mode & 0o7777;
    let node = Node { kind, mode, uid, gid, mtime, xattrs: found.carried, link_group: 0 };
    let id = (stat.st_dev, stat.st_ino);
    Inode { node, whiteout, opaque: found.opaque, id, linked: stat.st_nlink > 1, recorded }
}
