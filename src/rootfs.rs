//! The one gate for paths inside an image's root: every path is resolved here, beneath the root.
//!
//! Contract: whatever links an image holds, nothing outside the root is ever reached. Resolution is the kernel's
//! (`openat2` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`), so there is no window between check and use.
//! It knows nothing of layers, mounts or steps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A directory that stands for `/` of an image.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

impl RootDir {
    /// Opens a directory as a root. The path itself is the caller's own (the store's), not an image's.
    pub fn open(path: &Path) -> io::Result<RootDir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RootDir { fd: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Takes a directory that is open already.
    pub fn from_fd(fd: OwnedFd) -> RootDir {
        RootDir { fd }
    }

    /// Opens a path inside the root with these flags (`O_CLOEXEC` is added); links are followed inside the root, the
    /// last one too unless `O_NOFOLLOW` is given.
    pub fn open_at(&self, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        self.resolve(path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// As [`RootDir::open_at`], but any link on the way is an error (`ELOOP`).
    pub fn open_without_links(&self, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        self.resolve(path, flags | OFlags::NOFOLLOW, mode, how)
    }

    fn resolve(&self, path: &[u8], flags: OFlags, mode: Mode, how: ResolveFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let path = std::ffi::CString::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        loop {
            match rustix::fs::openat2(&self.fd, path.as_c_str(), flags | OFlags::CLOEXEC, mode, how) {
                // The kernel saw a rename while it resolved `..`; it asks to try again (openat2(2), EAGAIN).
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
