//! Unpacks a layer into a directory: as a tree that overlayfs can use as a lower layer, or onto a tree that is there.
//!
//! Contract: whatever the archive says, nothing outside the root is made, changed or removed: parents are resolved by the
//! kernel beneath the root, the last component is never followed. Names go through links as they do for Docker; a later
//! entry replaces an earlier one. An interrupted unpack leaves a tree that its caller must throw away.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::place::{self, Placed};
use super::read::{Entry, Limits, Marker, TarReader};
use super::shown;
use crate::rootfs::{self, RootDir};
use crate::tree::{self, Node, Time};

/// What is done about owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Set, with the ids of the archive.
    Keep,
    /// Not set.
    Ignore,
    /// Kept in an attribute (`user.rbuild.own`) of files and directories, for where only one id exists.
    Record,
}

/// What removals become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Overlayfs's marks (mounted with `userxattr`): the tree becomes a lower layer.
    OverlayLower,
    /// Removals: the tree holds the layers below.
    Plain,
}

/// How a layer is unpacked.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is done about owners.
    pub ownership: Ownership,
    /// What removals become.
    pub style: Style,
    /// What the archive may cost.
    pub limits: Limits,
    /// Headers of directories that the archive has no entry for, from the layers below
    /// ([`Index::implied_directories`](super::index::Index::implied_directories)); others become 0755, root, 1970.
    pub implied: BTreeMap<Vec<u8>, Node>,
    /// How names that begin with `.wh.` are read.
    pub names: NameMeaning,
}

/// How names that begin with `.wh.` are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameMeaning {
    /// As removals: the archive is a layer.
    Layer,
    /// Literally: the archive is a user's.
    Literal,
}

impl Options {
    /// The usual limits, no headers for implied directories, a layer's names.
    pub fn new(ownership: Ownership, style: Style) -> Options {
        Options { ownership, style, limits: Limits::default(), implied: BTreeMap::new(), names: NameMeaning::Layer }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries, markers included.
    pub entries: u64,
    /// What the file system or the process's rights did not allow: one sentence each, at most [`MAX_NOTES`].
    pub notes: Vec<String>,
}

/// Notes that are kept; a layer with a thousand devices has one reason.
pub const MAX_NOTES: usize = 20;

/// Says why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read or is refused.
    #[error("cannot read layer: {source}")]
    Read {
        /// The reason.
        source: io::Error,
    },
    /// An entry cannot be made.
    #[error("cannot unpack {path}: {source}")]
    Entry {
        /// Its path.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// A directory on the way to an entry is something else, or a link to nothing.
    #[error("cannot unpack {path}: {parent} is not a directory of the layer")]
    Parent {
        /// The entry's path.
        path: String,
        /// The directory's.
        parent: String,
    },
    /// A hard link's target is not there.
    #[error("cannot unpack {path}: it is a hard link to {target}, which is not in the layer")]
    Link {
        /// The entry's path.
        path: String,
        /// The target's.
        target: String,
    },
}

/// Unpacks a layer with the usual limits.
///
/// # Errors
/// See [`UnpackError`].
pub fn unpack(tar: impl Read, root: &RootDir, ownership: Ownership, style: Style) -> Result<Unpacked, UnpackError> {
    unpack_with(tar, root, &Options::new(ownership, style))
}

/// Unpacks a layer. Bytes behind the archive's end mark stay unread.
///
/// # Errors
/// See [`UnpackError`].
pub fn unpack_with(tar: impl Read, root: &RootDir, options: &Options) -> Result<Unpacked, UnpackError> {
    let mut reader = TarReader::with_limits(tar, options.limits);
    if options.names == NameMeaning::Literal {
        reader = reader.literal();
    }
    let mut unpacker = Unpacker {
        root,
        options,
        parents: Vec::new(),
        directories: BTreeMap::new(),
        written: HashSet::new(),
        skipped: HashSet::new(),
        result: Unpacked::default(),
        buffer: vec![0; 128 * 1024],
    };
    while let Some(entry) = reader.next_entry().map_err(|source| UnpackError::Read { source })? {
        unpacker.result.entries += 1;
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish_directories()?;
    Ok(unpacker.result)
}

/// Directories whose descriptor is kept: archives list a directory's entries together.
const MAX_PARENTS: usize = 16;

struct Unpacker<'a> {
    root: &'a RootDir,
    options: &'a Options,
    /// The directories used last, most recent at the end, by their path as written.
    parents: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    /// What directories get when everything is in them.
    directories: BTreeMap<Vec<u8>, Finish>,
    /// Paths of this archive, which its own removals do not touch; only for [`Style::Plain`].
    written: HashSet<Vec<u8>>,
    /// Devices that could not be made, so that links to them can be left out too.
    skipped: HashSet<Vec<u8>>,
    result: Unpacked,
    buffer: Vec<u8>,
}

struct Finish {
    /// Which directory was meant, should another take its name.
    id: (u64, u64),
    /// None where the archive has no entry for a directory that was there: it only gets its time back.
    mode: Option<u32>,
    mtime: Time,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut TarReader<R>) -> Result<(), UnpackError> {
        let path = entry.path.as_slice();
        let failed = |source| UnpackError::Entry { path: shown(path), source };
        match &entry.marker {
            Marker::Opaque => {
                if let Some(directory) = self.marked_parent(path, path)? {
                    self.opaque(path, &directory).map_err(failed)?;
                }
                Ok(())
            }
            // Docker ignores an archive's own root: its directory belongs to whoever unpacks.
            _ if path.is_empty() => Ok(()),
            Marker::Whiteout(name) => {
                if let Some(directory) = self.marked_parent(path, tree::parent(path))? {
                    self.whiteout(path, &directory, name).map_err(failed)?;
                }
                Ok(())
            }
            Marker::Plain => {
                let directory = self.parent(path)?;
                if self.options.style == Style::Plain {
                    self.written.insert(path.to_vec());
                }
                match &entry.link {
                    Some(target) => self.link(path, &directory, target),
                    None if entry.node.is_directory() => self.directory(path, &directory, &entry.node).map_err(failed),
                    None => self.other(path, &directory, &entry.node, reader).map_err(failed),
                }
            }
        }
    }

    fn other<R: Read>(
        &mut self,
        path: &[u8],
        directory: &OwnedFd,
        node: &Node,
        reader: &mut TarReader<R>,
    ) -> io::Result<()> {
        let name = tree::base_name(path);
        let ownership = self.options.ownership;
        let mut content = reader.content();
        // EEXIST comes from making the name, before any content is read, so a second try starts from the beginning.
        let placed = match place::place(directory, name, node, ownership, &mut content, &mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(path, directory)?;
                place::place(directory, name, node, ownership, &mut content, &mut self.buffer)?
            }
            result => result?,
        };
        if placed == Placed::NotAllowed {
            self.skipped.insert(path.to_vec());
        }
        self.note(path, &placed);
        Ok(())
    }

    fn directory(&mut self, path: &[u8], directory: &OwnedFd, node: &Node) -> io::Result<()> {
        let name = tree::base_name(path);
        match place::make_directory(directory, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    let removed = self.options.style == Style::OverlayLower && place::is_whiteout(directory, name)?;
                    self.clear(path, directory)?;
                    place::make_directory(directory, name)?;
                    if removed {
                        place::opaque(open_child(directory, name)?)?;
                    }
                }
            }
            result => result?,
        }
        let placed = place::own_directory(directory, name, node, self.options.ownership)?;
        self.note(path, &placed);
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let finish = Finish { id: id_of(&stat), mode: Some(node.mode & 0o7777), mtime: node.mtime };
        self.directories.insert(path.to_vec(), finish);
        Ok(())
    }

    fn link(&mut self, path: &[u8], directory: &OwnedFd, target: &[u8]) -> Result<(), UnpackError> {
        let failed = |source| UnpackError::Entry { path: shown(path), source };
        let missing = || UnpackError::Link { path: shown(path), target: shown(target) };
        if self.skipped.contains(target) {
            self.skipped.insert(path.to_vec());
            self.note(path, &Placed::NotAllowed);
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let from = match self.root.open_at(tree::parent(target), flags, Mode::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(missing());
            }
            result => result.map_err(failed)?,
        };
        let (old, new) = (tree::base_name(target), tree::base_name(path));
        let source = match rustix::fs::statat(&from, old, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(source) if FileType::from_raw_mode(source.st_mode) != FileType::Directory => source,
            Ok(_) | Err(Errno::NOENT) => return Err(missing()),
            Err(error) => return Err(failed(error.into())),
        };
        if self.options.style == Style::OverlayLower && place::is_whiteout(&from, old).map_err(failed)? {
            return Err(missing());
        }
        // Removing what has the name first would remove the target itself if they are one.
        if let Ok(there) = rustix::fs::statat(directory, new, AtFlags::SYMLINK_NOFOLLOW) {
            if id_of(&there) == id_of(&source) {
                return Ok(());
            }
            self.clear(path, directory).map_err(failed)?;
        }
        match rustix::fs::linkat(&from, old, directory, new, AtFlags::empty()) {
            Err(Errno::NOENT) => Err(missing()),
            result => result.map_err(|error| failed(error.into())),
        }
    }

    fn opaque(&mut self, path: &[u8], directory: &OwnedFd) -> io::Result<()> {
        match self.options.style {
            Style::OverlayLower => place::opaque(directory),
            Style::Plain => self.clear_others(path),
        }
    }

    fn whiteout(&mut self, path: &[u8], directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let there = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        match (self.options.style, there) {
            (Style::OverlayLower, None) => place::whiteout(directory, name),
            // The layer's own entry stays; what is below it goes, whichever came first.
            (Style::OverlayLower, Some(FileType::Directory)) => place::opaque(open_child(directory, name)?),
            (Style::OverlayLower, Some(_)) | (Style::Plain, None) => Ok(()),
            (Style::Plain, Some(file_type)) if self.written.contains(path) => match file_type {
                FileType::Directory => self.clear_others(path),
                _ => Ok(()),
            },
            (Style::Plain, Some(_)) => self.clear(path, directory),
        }
    }

    /// Removes what is at a path, and what was known of it.
    fn clear(&mut self, path: &[u8], directory: &OwnedFd) -> io::Result<()> {
        let name = tree::base_name(path);
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        rootfs::remove_all(directory, name)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            // A descriptor of something that was reached through a link that is gone must not be used again.
            FileType::Symlink => {
                self.parents.clear();
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.parents.clear();
        self.directories.remove(path);
        let below = [path, b"/"].concat();
        self.directories.retain(|name, _| !name.starts_with(&below));
        self.written.retain(|name| !name.starts_with(&below));
        Ok(())
    }

    /// Removes what a directory holds that is not of this archive.
    fn clear_others(&mut self, path: &[u8]) -> io::Result<()> {
        let mut todo = vec![path.to_vec()];
        while let Some(directory) = todo.pop() {
            let open = self.root.open_at(&directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            for name in rootfs::names(&open)? {
                let whole = tree::join(&directory, &name);
                if !self.is_ours(&whole) {
                    self.clear(&whole, &open)?;
                } else if is_directory(&open, &name)? {
                    todo.push(whole);
                }
            }
        }
        Ok(())
    }

    /// Whether this archive has a path, or something beneath it.
    fn is_ours(&self, path: &[u8]) -> bool {
        self.written.contains(path) || self.directories.get(path).is_some_and(|finish| finish.mode.is_some())
    }

    /// The directory for a marker; `None` where it lies behind a link to nothing: there is nothing to remove there.
    fn marked_parent(&mut self, path: &[u8], directory: &[u8]) -> Result<Option<Rc<OwnedFd>>, UnpackError> {
        match self.open_parent(directory) {
            Ok(open) => Ok(Some(open)),
            Err(ParentError::Dangling) => Ok(None),
            Err(error) => Err(error.of(path, directory)),
        }
    }

    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
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
    fn finish_directories(&mut self) -> Result<(), UnpackError> {
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

    fn note(&mut self, path: &[u8], placed: &Placed) {
        let text = match placed {
            Placed::Whole => return,
            Placed::NotAllowed => format!("left out device {}: not allowed here", shown(path)),
            Placed::Without(name) => format!("left out attribute {} of {}: not allowed here", shown(name), shown(path)),
        };
        if self.result.notes.len() < MAX_NOTES {
            self.result.notes.push(text);
        }
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

fn id_of(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn open_child(directory: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

fn is_directory(directory: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
