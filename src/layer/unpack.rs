//! Unpacks a layer into a directory: as a tree that overlayfs can use as a lower layer, or onto a tree that is there.
//!
//! Contract: whatever the archive says, nothing outside the root is made, changed or removed: parents are resolved by the
//! kernel beneath the root, the last component is never followed. Names go through links as they do for Docker; a later
//! entry replaces an earlier one. An interrupted unpack leaves a tree that its caller must throw away.

mod directories;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use self::directories::Finish;
use super::place::{self, Placed};
use super::read::{Entry, Limits, Marker, TarReader};
use super::shown;
use crate::owners::{Inode, Owner, Table};
use crate::rootfs::{self, RootDir};
use crate::tree::{self, Kind, Node};

/// What is done about owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Set, with the ids of the archive.
    Keep,
    /// Not set.
    Ignore,
    /// Written down ([`crate::owners`]), for where only one id exists.
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
    /// With [`Ownership::Record`], owners of what cannot carry them: the table that belongs beside the tree.
    pub owners: Table,
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
        } else if ownership == Ownership::Record && !matches!(node.kind, Kind::File { .. }) {
            let owner = Owner { uid: node.uid, gid: node.gid };
            self.result.owners.record(Inode::of(directory, name)?, owner);
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
