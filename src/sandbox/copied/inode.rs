//! One file with all that belongs to it: copied, or asked whether it is still the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;

/// The kernel's limit for a list of attributes and for one value (`XATTR_SIZE_MAX`).
const ATTRIBUTES: usize = 64 * 1024;
/// How overlay names its own attributes, and how it stores those that a command gave such a name (overlayfs.rst, "Nesting
/// overlayfs mounts").
const OVERLAY: &[u8] = b"user.overlay.";
const ESCAPED: &[u8] = b"user.overlay.overlay.";
/// Set by the kernel or the host's policy, for each file as it sees fit.
const OF_THE_HOST: [&[u8]; 4] = [b"security.selinux", b"security.ima", b"security.evm", b"trusted."];

/// Attributes of a file, by name.
pub(super) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a file's header says, and its attributes.
pub(super) struct Header {
    pub(super) stat: Stat,
    pub(super) attributes: Attributes,
}

/// A path for the calls on attributes that have no form with a directory's descriptor (until Linux 6.13).
fn through_proc(directory: &impl AsFd, path: &[u8]) -> Vec<u8> {
    let mut whole = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    whole.extend_from_slice(path);
    whole
}

/// All attributes that can be read, as they are stored. No file is opened: a pipe would wait for its other end.
pub(super) fn stored_attributes(directory: impl AsFd, path: &[u8]) -> io::Result<Attributes> {
    let whole = through_proc(&directory, path);
    let mut buffer = vec![0; ATTRIBUTES];
    let mut found = Attributes::new();
    let length = match rustix::fs::llistxattr(whole.as_slice(), &mut buffer[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(found),
        result => result?,
    };
    let list = buffer[..length].to_vec();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if OF_THE_HOST.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        match rustix::fs::lgetxattr(whole.as_slice(), name, &mut buffer[..]) {
            Ok(length) => drop(found.insert(name.to_vec(), buffer[..length].to_vec())),
            Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// What a command sees of stored attributes through an overlay: overlay's own are hidden, escaped ones have their names.
pub(super) fn seen(stored: Attributes) -> Attributes {
    let visible = stored.into_iter().filter_map(|(name, value)| match name.strip_prefix(ESCAPED) {
        Some(rest) => Some(([OVERLAY, rest].concat(), value)),
        None if name.starts_with(OVERLAY) => None,
        None => Some((name, value)),
    });
    visible.collect()
}

impl Header {
    /// Of a file in a tree, as a command sees it.
    pub(super) fn seen(directory: impl AsFd, path: &[u8]) -> io::Result<Header> {
        let stat = rustix::fs::statat(&directory, path, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Header { stat, attributes: seen(stored_attributes(&directory, path)?) })
    }

    /// Of a directory itself that is open, as it is stored.
    pub(super) fn of_directory(directory: impl AsFd) -> io::Result<Header> {
        Ok(Header { stat: rustix::fs::fstat(&directory)?, attributes: stored_attributes(directory, b".")? })
    }

    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn times(&self) -> Timestamps {
        let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
        Timestamps {
            last_access: time(self.stat.st_atime, self.stat.st_atime_nsec),
            last_modification: time(self.stat.st_mtime, self.stat.st_mtime_nsec),
        }
    }

    /// Gives owner, mode, attributes and times to a name. In this order: a change of owner takes bits of the mode and
    /// capabilities away, and all of it sets times.
    pub(super) fn apply(&self, directory: impl AsFd, path: &[u8]) -> io::Result<()> {
        let is_link = self.file_type() == FileType::Symlink;
        let (uid, gid) = (Uid::from_raw(self.stat.st_uid), Gid::from_raw(self.stat.st_gid));
        rustix::fs::chownat(&directory, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_link {
            let mode = Mode::from_raw_mode(self.stat.st_mode & 0o7777);
            rustix::fs::chmodat(&directory, path, mode, AtFlags::empty())?;
        }
        let whole = through_proc(&directory, path);
        for (name, value) in &self.attributes {
            match rustix::fs::lsetxattr(whole.as_slice(), name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rustix::fs::utimensat(&directory, path, &self.times(), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Copies what is no directory under a new name.
pub(super) fn copy(from: impl AsFd, path: &[u8], header: &Header, directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let private = Mode::from_raw_mode(0o600);
    match header.file_type() {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = rustix::fs::openat(&from, path, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(&directory, name, flags, private)?;
            copy_content(&source, &target, header.stat.st_size.unsigned_abs())?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&from, path, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), &directory, name)?;
        }
        file_type => rustix::fs::mknodat(&directory, name, file_type, private, header.stat.st_rdev)?,
    }
    header.apply(directory, name)
}

/// Shares the content where the file system can, else copies its parts that are not holes.
fn copy_content(source: &OwnedFd, target: &OwnedFd, size: u64) -> io::Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(target, size)?;
    let mut from = 0;
    while from < size {
        let begin = match rustix::fs::seek(source, SeekFrom::Data(from)) {
            Ok(begin) => begin,
            // A hole to the end.
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(_) => from,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(begin)).unwrap_or(size).min(size);
        copy_part(source, target, begin, end)?;
        from = end.max(begin + 1);
    }
    Ok(())
}

fn copy_part(source: &OwnedFd, target: &OwnedFd, begin: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (begin, begin);
    while read_at < end {
        let length = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), length) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            // Another file system, or one that cannot: by hand from here on.
            Err(_) => return copy_by_hand(source, target, read_at, end),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, begin: u64, end: u64) -> io::Result<()> {
    let (mut source, mut target) = (File::from(source.try_clone()?), File::from(target.try_clone()?));
    rustix::fs::seek(&source, SeekFrom::Start(begin))?;
    rustix::fs::seek(&target, SeekFrom::Start(begin))?;
    io::copy(&mut Read::by_ref(&mut source).take(end - begin), &mut target)?;
    target.flush()
}

/// Whether two regular files hold the same bytes.
pub(super) fn same_content(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let (mut first, mut second) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut at = 0;
    loop {
        let (count, same) = (fill(one, &mut first, at)?, fill(other, &mut second, at)?);
        if first[..count] != second[..same] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
        at += count as u64;
    }
}

fn fill(file: &OwnedFd, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// Makes a name a whiteout: it hides what trees below have there. The marked form is for where mknod is refused, which an
/// overlay does (Linux 6.7: overlayfs.rst, "whiteouts and opaque directories").
pub(super) fn whiteout(directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let mode = Mode::empty();
    match rustix::fs::mknodat(directory, name, FileType::CharacterDevice, mode, makedev(0, 0)) {
        Err(Errno::PERM | Errno::ACCESS) => {}
        result => return Ok(result?),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::fsetxattr(&file, "user.overlay.whiteout", b"y", XattrFlags::empty())?;
    match rustix::fs::lsetxattr(through_proc(directory, b".").as_slice(), OPAQUE, b"x", XattrFlags::CREATE) {
        // `y` hides everything below already.
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

pub(super) const OPAQUE: &str = "user.overlay.opaque";

/// Makes a directory hide what trees below have in theirs.
pub(super) fn make_opaque(directory: impl AsFd, path: &[u8]) -> io::Result<()> {
    let whole = through_proc(&directory, path);
    Ok(rustix::fs::lsetxattr(whole.as_slice(), OPAQUE, b"y", XattrFlags::empty())?)
}

/// Whether a name in a tree is a whiteout, in either form.
pub(super) fn is_whiteout(directory: impl AsFd, name: &[u8], stat: &Stat) -> io::Result<bool> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => Ok(stat.st_rdev == 0),
        FileType::RegularFile if stat.st_size == 0 => {
            Ok(stored_attributes(directory, name)?.contains_key(b"user.overlay.whiteout".as_slice()))
        }
        _ => Ok(false),
    }
}

/// The name under which a command's attribute is stored: one that would steer overlay gets another.
pub(super) fn escaped_name(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(OVERLAY) {
        Some(rest) => [ESCAPED, rest].concat(),
        None => name.to_vec(),
    }
}

/// Gives attributes that a command may have set and that would steer overlay their other names.
pub(super) fn escape(directory: impl AsFd, path: &[u8]) -> io::Result<()> {
    let stored = stored_attributes(&directory, path)?;
    let whole = through_proc(&directory, path);
    for (name, value) in stored.iter().filter(|(name, _)| name.starts_with(OVERLAY)) {
        rustix::fs::lremovexattr(whole.as_slice(), name.as_slice())?;
        rustix::fs::lsetxattr(whole.as_slice(), escaped_name(name).as_slice(), value, XattrFlags::empty())?;
    }
    Ok(())
}
