//! Files as a caller names them, and their owners.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::calls::{Form, Links, Path};
use super::{Caller, Otherwise, Outcome, Recorder};
use crate::owners::{ATTRIBUTE, Inode, Owner};
use crate::sys::notify;

/// The kernel's limit for a path, its zero included.
const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;

const AT_FDCWD: u32 = libc::AT_FDCWD.cast_unsigned();
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
const AT_SYMLINK_NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();

/// Where a path begins, the path, and whether its last link is followed.
pub(super) struct Name {
    pub(super) directory: u32,
    pub(super) path: Vec<u8>,
    pub(super) follow: bool,
    /// An empty path means the directory's descriptor itself.
    pub(super) may_be_empty: bool,
}

/// Opens something that `/proc` has of a process. The working directory is `/proc`.
pub(super) fn open_of_process(thread: i32, what: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(format!("{thread}/{what}"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// What `/proc` calls a directory argument.
fn of_process(directory: u32) -> String {
    match directory {
        AT_FDCWD => "cwd".to_owned(),
        descriptor => format!("fd/{}", descriptor.cast_signed()),
    }
}

/// A path that names an open descriptor of the process itself: links that would lead to ours.
fn own_descriptor(path: &[u8]) -> Option<u32> {
    // The links that /dev has.
    let standard: [&[u8]; 3] = [b"/dev/stdin", b"/dev/stdout", b"/dev/stderr"];
    if let Some(number) = standard.iter().position(|name| *name == path) {
        return u32::try_from(number).ok();
    }
    let prefixes: [&[u8]; 3] = [b"/proc/self/fd/", b"/proc/thread-self/fd/", b"/dev/fd/"];
    let number = prefixes.iter().find_map(|prefix| path.strip_prefix(*prefix))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

impl Caller {
    /// A path in the caller's memory.
    pub(super) fn read_path(&self, address: u64) -> Result<Vec<u8>, Otherwise> {
        let mut path = vec![0; PATH_MAX];
        let mut filled = 0;
        while filled < PATH_MAX {
            // Up to the end of a page: the next one may not be there.
            let from = address.wrapping_add(filled as u64);
            let length = usize::try_from(PAGE - from % PAGE).unwrap_or(PATH_MAX).min(PATH_MAX - filled);
            let count = notify::read_memory(self.notice.thread, from, &mut path[filled..filled + length])
                .map_err(|_| Errno::FAULT)?;
            if let Some(end) = path[filled..filled + count].iter().position(|byte| *byte == 0) {
                path.truncate(filled + end);
                return Ok(path);
            }
            if count == 0 {
                return Err(Errno::FAULT.into());
            }
            filled += count;
        }
        Err(Errno::NAMETOOLONG.into())
    }

    pub(super) fn name(&self, path: Path) -> Result<Name, Otherwise> {
        let (directory, path, links) = match path {
            Path::Open(descriptor) => {
                let directory = self.number(descriptor);
                return Ok(Name { directory, path: Vec::new(), follow: true, may_be_empty: true });
            }
            Path::Named(path, links) => (AT_FDCWD, path, links),
            Path::At(directory, path, links) => (self.number(directory), path, links),
        };
        let flags = match links {
            Links::Followed => 0,
            Links::Meant => AT_SYMLINK_NOFOLLOW,
            Links::Flags(argument) => self.number(argument),
        };
        let may_be_empty = flags & AT_EMPTY_PATH != 0;
        let path = match self.address(path) {
            // Linux 6.11: no path at all means an empty one.
            0 if may_be_empty => Vec::new(),
            address => self.read_path(address)?,
        };
        Ok(Name { directory, path, follow: flags & AT_SYMLINK_NOFOLLOW == 0, may_be_empty })
    }

    /// What a name means to the caller, without opening it for anything.
    pub(super) fn open(&self, name: &Name) -> Result<OwnedFd, Otherwise> {
        let thread = self.notice.thread;
        if name.path.is_empty() {
            if !name.may_be_empty {
                return Err(Errno::NOENT.into());
            }
            return Ok(open_of_process(thread, &of_process(name.directory))?);
        }
        if let Some(descriptor) = own_descriptor(&name.path).filter(|_| name.follow) {
            return Ok(open_of_process(thread, &of_process(descriptor))?);
        }
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !name.follow {
            flags |= OFlags::NOFOLLOW;
        }
        self.open_with(name, flags, Mode::empty(), ResolveFlags::empty())
    }

    /// Opens a name that is not empty.
    pub(super) fn open_with(
        &self,
        name: &Name,
        flags: OFlags,
        mode: Mode,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Otherwise> {
        let start = match name.path.first() {
            Some(b'/') => None,
            _ => Some(open_of_process(self.notice.thread, &of_process(name.directory))?),
        };
        let start = start.as_ref().map_or(CWD, AsFd::as_fd);
        loop {
            let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(start, name.path.as_slice(), flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // A link of /proc that would mean something of ours, or too many links: the kernel knows.
                Err(Errno::LOOP) => return Err(Otherwise::Kernel),
                result => return Ok(result?),
            }
        }
    }
}

/// The path by which calls that take no descriptor reach an open file.
fn link_of(file: &OwnedFd) -> String {
    format!("self/fd/{}", file.as_raw_fd())
}

fn carries_attributes(stat: &Stat) -> bool {
    matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory)
}

impl Recorder {
    /// The owner on record; `None` where the kernel's answer is the right one.
    pub(super) fn owner_on_record(&self, file: &OwnedFd, stat: &Stat) -> Option<Owner> {
        if carries_attributes(stat) {
            let mut value = [0; 32];
            match rustix::fs::getxattr(link_of(file), ATTRIBUTE, &mut value[..]) {
                Ok(length) => return Owner::parse(&value[..length]),
                // The file system may have none: then the table has its owners.
                Err(Errno::OPNOTSUPP) => {}
                Err(_) => return None,
            }
        }
        if self.owners.is_empty() {
            return None;
        }
        self.owners.find(&Inode::of(file, b"").ok()?)
    }

    pub(super) fn owner(&self, file: &OwnedFd, stat: &Stat) -> Owner {
        self.owner_on_record(file, stat).unwrap_or(Owner { uid: stat.st_uid, gid: stat.st_gid })
    }

    pub(super) fn own(&mut self, caller: &Caller, path: Path) -> Outcome {
        let name = caller.name(path)?;
        let first = match path {
            Path::Open(at) | Path::Named(at, _) => at + 1,
            Path::At(_, at, _) => at + 1,
        };
        let (uid, gid) = (caller.id(first), caller.id(first + 1));
        let file = match caller.open(&name) {
            Err(Otherwise::Fails(Errno::NOENT)) if name.path.is_empty() && name.may_be_empty => {
                return Err(Errno::BADF.into());
            }
            result => result?,
        };
        let stat = rustix::fs::fstat(&file)?;
        let before = self.owner(&file, &stat);
        let after = caller.credentials.may_own(before, uid, gid)?;
        self.still_waits(caller)?;
        // For all that it does besides: whether it may (read-only mounts), the bits and capabilities that it clears, and
        // the copy in the upper directory, which an attribute alone would also make but a table's row would not.
        rustix::fs::chownat(&file, "", uid.map(|_| Uid::ROOT), gid.map(|_| Gid::ROOT), AtFlags::EMPTY_PATH)?;
        self.record(&file, &stat, after)?;
        Ok(Some(0))
    }

    /// Writes an owner down.
    pub(super) fn record(&mut self, file: &OwnedFd, stat: &Stat, owner: Owner) -> Result<(), Otherwise> {
        if carries_attributes(stat) {
            let done = match owner {
                Owner::ROOT => match rustix::fs::removexattr(link_of(file), ATTRIBUTE) {
                    Err(Errno::NODATA) => Ok(()),
                    result => result,
                },
                owner => rustix::fs::setxattr(link_of(file), ATTRIBUTE, owner.text().as_bytes(), XattrFlags::empty()),
            };
            match done {
                // A file system without attributes, one of the kernel's own (a terminal's), or a directory of many
                // attributes: kept as long as the command runs.
                Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                result => return Ok(result?),
            }
        }
        let inode = Inode::of(file, b"")?;
        self.owners.record(inode, owner);
        // A copy that overlayfs made of a link goes on showing the number of the one below, until it is forgotten.
        if let Some(copy) = self.in_upper(file).filter(|copy| *copy != inode && copy.born_with(&inode)) {
            self.owners.record(copy, owner);
        }
        Ok(())
    }

    /// Before the kernel moves a link: overlayfs's copy of it is made now, and recorded under its own number.
    pub(super) fn move_away(&mut self, caller: &Caller, path: Path) -> Outcome {
        if self.owners.is_empty() {
            return Err(Otherwise::Kernel);
        }
        let name = caller.name(path).map_err(|_| Otherwise::Kernel)?;
        let file = caller.open(&name).map_err(|_| Otherwise::Kernel)?;
        let stat = rustix::fs::fstat(&file)?;
        if !carries_attributes(&stat)
            && let Some(owner) = self.owner_on_record(&file, &stat)
        {
            // Whatever is wrong with it is wrong with the move too, and the kernel says so.
            let copied = rustix::fs::chownat(&file, "", Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::EMPTY_PATH);
            copied.map_err(|_| Otherwise::Kernel)?;
            self.record(&file, &stat, owner)?;
        }
        Err(Otherwise::Kernel)
    }

    pub(super) fn stat(&mut self, caller: &Caller, path: Path, form: Form) -> Outcome {
        if self.is_surely_unrecorded(caller, path)? {
            return Err(Otherwise::Kernel);
        }
        // Whatever goes wrong here, the kernel says it better.
        let name = caller.name(path)?;
        let file = caller.open(&name).map_err(|_| Otherwise::Kernel)?;
        let stat = rustix::fs::fstat(&file).map_err(|_| Otherwise::Kernel)?;
        let Some(Owner { uid, gid }) = self.owner_on_record(&file, &stat) else { return Err(Otherwise::Kernel) };
        self.still_waits(caller)?;
        let (address, bytes) = match form {
            Form::Stat(argument) => (caller.address(argument), notify::stat_with_owner(file.as_fd(), uid, gid)?),
            Form::Statx => {
                // How fresh the answer has to be is all that counts of the flags now.
                let flags = caller.number(2).cast_signed() & libc::AT_STATX_SYNC_TYPE;
                let bytes = notify::statx_with_owner(file.as_fd(), flags, caller.number(3), uid, gid)?;
                (caller.address(4), bytes)
            }
        };
        notify::write_memory(caller.notice.thread, address, &bytes).map_err(|_| Errno::FAULT)?;
        Ok(Some(0))
    }

    /// The common case in one call: no attribute, and no row in the table that could be meant.
    fn is_surely_unrecorded(&self, caller: &Caller, path: Path) -> Result<bool, Otherwise> {
        if !self.owners.is_empty() {
            return Ok(false);
        }
        let mut value = [0; 32];
        let name = caller.name(path).map_err(|_| Otherwise::Kernel)?;
        let found = match name.path.first() {
            None => {
                let link = format!("{}/{}", caller.notice.thread, of_process(name.directory));
                rustix::fs::getxattr(link, ATTRIBUTE, &mut value[..])
            }
            Some(b'/') if name.follow => rustix::fs::getxattr(name.path.as_slice(), ATTRIBUTE, &mut value[..]),
            Some(b'/') => rustix::fs::lgetxattr(name.path.as_slice(), ATTRIBUTE, &mut value[..]),
            Some(_) => return Ok(false),
        };
        Ok(found.is_err())
    }
}
