//! The directories that entries are put into: opened beneath the root, made where no entry names them, and given their
//! modes and times when everything is in them.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{Style, UnpackError, Unpacker, id_of, open_child};
use crate::layer::{place, shown};
use crate::tree::{self, Node, Time};

/// Directories whose descriptor is kept: archives list a directory's entries together.
const MAX_PARENTS: usize = 16;

/// What a directory gets when everything is in it.
pub(super) struct Finish {
    /// Which directory was meant, should another take its name.
    pub(super) id: (u64, u64),
    /// None where the archive has no entry for a directory that was there: it only gets its time back.
    pub(super) mode: Option<u32>,
    pub(super) mtime: Time,
}

impl Unpacker<'_> {
    /// The directory for a marker; `None` where it lies behind a link to nothing: there is nothing to remove there.
    pub(super) fn marked_parent(&mut self, path: &[u8], directory: &[u8]) -> Result<Option<Rc<OwnedFd>>, UnpackError> {
        match self.open_parent(directory) {
            Ok(open) => Ok(Some(open)),
            Err(ParentError::Dangling) => Ok(None),
            Err(error) => Err(error.of(path, directory)),
        }
    }

    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
        let directory = tree::parent(path);
        self.open_parent(directory).map_err(|error| error.of(path, directory))
    }

    fn open_parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, ParentError> {
        if let Some(at) = self.parents.iter().rposition(|(known, _)| known == path) {
            let found = self.parents.remove(at);
            let open = Rc::clone(&found.1);
            self.parents.push(found);
            return Ok(open);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let open = match self.root.open_at(path, flags, Mode::empty()) {
            Ok(open) => open,
            Err(error) => self.make_parents(path, error)?,
        };
        self.remember_time(path, &open)?;
        let open = Rc::new(open);
        if self.parents.len() == MAX_PARENTS {
            self.parents.remove(0);
        }
        self.parents.push((path.to_vec(), Rc::clone(&open)));
        Ok(open)
    }

    /// A directory that was there and has no entry keeps its time, whatever is put into it.
    fn remember_time(&mut self, path: &[u8], open: &OwnedFd) -> io::Result<()> {
        if self.options.style == Style::Plain && !path.is_empty() && !self.directories.contains_key(path) {
            let stat = rustix::fs::fstat(open)?;
            let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
            let mtime = Time { seconds: stat.st_mtime, nanoseconds };
            self.directories.insert(path.to_vec(), Finish { id: id_of(&stat), mode: None, mtime });
        }
        Ok(())
    }

    /// Makes the directories of a path that are missing, from the top down.
    fn make_parents(&mut self, path: &[u8], error: io::Error) -> Result<OwnedFd, ParentError> {
        if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            return Err(error.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut above = self.root.open_at(b"", flags, Mode::empty())?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            above = match self.root.open_at(prefix, flags, Mode::empty()) {
                Ok(open) => open,
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_parent(prefix, &above)?,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    let name = tree::base_name(prefix);
                    // A removal of this layer, and something below it again: a new directory that hides the old one.
                    if self.options.style == Style::Plain || !place::is_whiteout(&above, name)? {
                        return Err(ParentError::NoDirectory);
                    }
                    rustix::fs::unlinkat(&above, name, AtFlags::empty()).map_err(io::Error::from)?;
                    let open = self.make_parent(prefix, &above)?;
                    place::opaque(&open)?;
                    open
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(above)
    }

    fn make_parent(&mut self, path: &[u8], above: &OwnedFd) -> Result<OwnedFd, ParentError> {
        let name = tree::base_name(path);
        match place::make_directory(above, name) {
            // The name is there but leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(ParentError::Dangling),
            result => result?,
        }
        let implied = self.options.implied.get(path).filter(|node| node.is_directory()).cloned();
        let node = implied.unwrap_or_else(|| Node::directory(Time::default()));
        let placed = place::own_directory(above, name, &node, self.options.ownership)?;
        self.note(path, &placed);
        let open = open_child(above, name)?;
        let stat = rustix::fs::fstat(&open).map_err(io::Error::from)?;
        let finish = Finish { id: id_of(&stat), mode: Some(node.mode & 0o7777), mtime: node.mtime };
        self.directories.insert(path.to_vec(), finish);
        Ok(open)
    }

    /// Gives directories their modes and times, the innermost first: a mode may forbid to enter.
    pub(super) fn finish_directories(&mut self) -> Result<(), UnpackError> {
        for (path, finish) in std::mem::take(&mut self.directories).iter().rev() {
            let failed = |source| UnpackError::Entry { path: shown(path), source };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let open = match self.root.open_at(path, flags, Mode::empty()) {
                Ok(open) => open,
                // Another entry took its place.
                Err(error) if is_replaced(&error) => continue,
                // It was there before, and this process may not even read it: its time is all that is lost.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && finish.mode.is_none() => continue,
                Err(error) => return Err(failed(error)),
            };
            let stat = rustix::fs::fstat(&open).map_err(|error| failed(error.into()))?;
            if id_of(&stat) == finish.id {
                place::finish_directory(&open, finish.mode, finish.mtime).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Says why a directory on the way to an entry cannot be used.
enum ParentError {
    /// A link leads to nothing.
    Dangling,
    /// Something else has the name.
    NoDirectory,
    Other(io::Error),
}

impl From<io::Error> for ParentError {
    fn from(error: io::Error) -> ParentError {
        ParentError::Other(error)
    }
}

impl ParentError {
    fn of(self, path: &[u8], parent: &[u8]) -> UnpackError {
        match self {
            ParentError::Other(source) => UnpackError::Entry { path: shown(path), source },
            _ => UnpackError::Parent { path: shown(path), parent: shown(parent) },
        }
    }
}

fn is_replaced(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(libc::ELOOP)
}
