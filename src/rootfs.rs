//! The one gate for paths inside an image's root: every path is resolved here, beneath the root.
//!
//! Contract: whatever links an image holds, nothing outside the root is ever reached. Resolution is the kernel's
//! (`openat2` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`), so there is no window between check and use.
//! It knows nothing of layers, mounts or steps.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

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

/// The names in an open directory, without `.` and `..`, sorted by bytes.
pub fn names(directory: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Directories that a removal has open at once; deeper ones are first moved up, so depth costs no descriptors.
const MAX_OPEN: usize = 64;

/// Removes a name in an open directory and everything beneath it, whatever its mode and depth; no link is followed.
///
/// # Errors
/// What the kernel reports for the first name that cannot be removed; one that is not there is no error.
pub fn remove_all(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut stack = vec![Removal::of(directory.as_fd(), name)?];
    let mut moved = 0u64;
    while let Some(top) = stack.last_mut() {
        let Some(name) = top.names.pop() else {
            let done = top.name.clone();
            stack.pop();
            let parent = stack.last().map_or(directory.as_fd(), |above| above.directory.as_fd());
            rustix::fs::unlinkat(parent, done.as_slice(), AtFlags::REMOVEDIR)?;
            continue;
        };
        match rustix::fs::unlinkat(&top.directory, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if stack.len() < MAX_OPEN => {
                let next = Removal::of(stack[stack.len() - 1].directory.as_fd(), &name)?;
                stack.push(next);
            }
            Err(Errno::ISDIR) => {
                let up = format!(".removing-{moved}").into_bytes();
                moved += 1;
                let deepest = &stack[stack.len() - 1].directory;
                match rustix::fs::renameat(deepest, name.as_slice(), &stack[0].directory, up.as_slice()) {
                    Ok(()) => stack[0].names.push(up),
                    // The name is taken: try the next one.
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {
                        let deepest = stack.len() - 1;
                        stack[deepest].names.push(name);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A directory that is being emptied.
struct Removal {
    directory: OwnedFd,
    name: Vec<u8>,
    names: Vec<Vec<u8>>,
}

impl Removal {
    fn of(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Removal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
        let directory = match open() {
            // A directory's own mode can forbid its owner to look into it.
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                open()?
            }
            result => result?,
        };
        let names = names(&directory)?;
        Ok(Removal { directory, name: name.to_vec(), names })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn removal_follows_no_link_and_ignores_modes_and_depth() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("kept"), "x").unwrap();
        let root = RootDir::open(directory.path()).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = root.open_at(b"", flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        symlink("../kept", directory.path().join("d/link")).unwrap();
        symlink(directory.path(), directory.path().join("d/d/link")).unwrap();
        std::fs::create_dir(directory.path().join("d/none")).unwrap();
        std::fs::set_permissions(directory.path().join("d/none"), PermissionsExt::from_mode(0o000)).unwrap();
        remove_all(&root, b"d").unwrap();
        let top = root.open_at(b"", OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(names(&top).unwrap(), [b"kept".to_vec()]);
        remove_all(&root, b"d").unwrap();
    }
}
