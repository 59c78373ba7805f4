//! A directory as a build context.
//!
//! Contract: it is the tree that Docker's client would send: owner 0:0, mode and times kept, ignored paths absent, links
//! kept as links. Nothing is read before it is asked for; nothing outside the directory is ever read, and nothing in it
//! can make a reader wait. It knows nothing of where its entries go.

mod once;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};
use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};

pub use once::ReadOnce;

use super::ignore::IgnoreRules;
use super::stat_cache::{Identity, Known, StatCache, now};
use super::steady::steady;
use super::walk::{Found, Reader, named, walk};
use crate::digest::{Digest, Hasher};
use crate::rootfs::RootDir;
use crate::tree::{Descendants, Kind, Node, View, join};

/// Bytes read at once when a file is digested.
const BLOCK: u64 = 256 * 1024;

/// A context that is a directory of this machine.
#[derive(Debug)]
pub struct DirContext {
    reader: Reader,
    rules: IgnoreRules,
    as_found: AsFound,
}

/// Whether nodes are what the file system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AsFound {
    /// They are.
    Whole,
    /// Without what depends on the checkout.
    Steady,
}

/// Says that a file is not what it was when it was opened.
#[derive(Debug, thiserror::Error)]
#[error("read {path:?} of the context: the file changed while it was read")]
struct Changed {
    path: String,
}

impl DirContext {
    /// Opens a directory. Digests are remembered in a file, where one is given; a missing or damaged one costs time only.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(root: &Path, ignore: IgnoreRules, stat_cache: Option<&Path>) -> io::Result<DirContext> {
        let root = RootDir::open(root)
            .map_err(|error| io::Error::new(error.kind(), format!("open context {}: {error}", root.display())))?;
        let reader = Reader::new(root, StatCache::new(stat_cache));
        Ok(DirContext { reader, rules: ignore, as_found: AsFound::Whole })
    }

    /// The same without what depends on where and how it was checked out: times, and permissions that follow a umask.
    pub fn steady(self) -> DirContext {
        DirContext { as_found: AsFound::Steady, ..self }
    }

    /// Everything below a path that is not ignored, whole paths, sorted by bytes, no link followed.
    ///
    /// # Errors
    /// A directory that is not ignored cannot be read; the path is named.
    pub fn walk(&self, path: &[u8]) -> io::Result<Vec<(Vec<u8>, Node)>> {
        Ok(self.descendants(path, &|_| true)?.collect())
    }

    /// Whether an ignore rule excludes a path, be there something or not (to say why a source is missing).
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        self.rules.excludes(path)
    }

    /// Whether the ignore rules leave nothing of a path: neither itself nor anything below it.
    pub fn leaves_nothing_of(&self, path: &[u8]) -> bool {
        self.rules.leave_nothing_of(path)
    }

    /// Whether something is at a path, and only the ignore rules hide it.
    pub fn hides(&self, path: &[u8]) -> bool {
        self.rules.excludes(path) && self.reader.entry(path).is_ok_and(|found| found.is_some())
    }

    /// The digest of a regular file's content, from the stat cache where that can be trusted.
    ///
    /// # Errors
    /// The file cannot be read, or changes twice while it is read.
    pub fn digest(&self, path: &[u8], node: &Node) -> io::Result<Digest> {
        if let Kind::File { digest: Some(digest), .. } = node.kind {
            return Ok(digest);
        }
        match self.read_digest(path) {
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Changed>()) => self.read_digest(path),
            result => result,
        }
    }

    /// Fills in the digests of regular files, several at a time.
    ///
    /// # Errors
    /// As [`DirContext::digest`].
    pub fn digests(&self, files: &mut [(&[u8], &mut Node)]) -> io::Result<()> {
        files.par_iter_mut().with_max_len(16).try_for_each(|(path, node)| {
            if !matches!(node.kind, Kind::File { digest: None, .. }) {
                return Ok(());
            }
            let found = self.digest(path, node)?;
            if let Kind::File { digest, .. } = &mut node.kind {
                *digest = Some(found);
            }
            Ok(())
        })
    }

    /// Writes the stat cache to its file.
    ///
    /// # Errors
    /// The file cannot be written; the build's result does not depend on it.
    pub fn save(&self) -> io::Result<()> {
        self.reader.cache.save()
    }

    /// Reads a file, unless it is known in the state in which it is opened.
    fn read_digest(&self, path: &[u8]) -> io::Result<Digest> {
        let read_at = now();
        let mut content = self.content(path)?;
        let identity = content.opened;
        if let Some(known) = self.reader.cache.find(&identity) {
            return Ok(known.digest);
        }
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; usize::try_from(identity.size.clamp(1, BLOCK)).unwrap_or(1)];
        loop {
            let length = content.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
        }
        let digest = hasher.finish();
        let known = Known { digest, plain: self.reader.cache.is_plain(&identity) };
        self.reader.cache.record(identity, known, read_at);
        Ok(digest)
    }

    /// The content of a file that is not ignored.
    fn visible_content(&self, path: &[u8]) -> io::Result<Content> {
        if self.rules.excludes(path) {
            return Err(named(&io::ErrorKind::NotFound.into(), "open", path));
        }
        self.content(path)
    }

    fn content(&self, path: &[u8]) -> io::Result<Content> {
        // Not blocking: the open of a FIFO would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.reader.open(path, flags).map_err(|error| named(&error, "open", path))?;
        let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
            return Err(named(&io::Error::other("it is not a regular file"), "open", path));
        }
        let opened = Identity::of(&stat);
        Ok(Content { file: file.into(), opened, read: 0, path: path.to_vec() })
    }

    /// The node of an entry.
    fn node_of(&self, found: Found) -> Node {
        let mut node = found.node;
        if self.as_found == AsFound::Steady {
            steady(&mut node);
        }
        node
    }

    /// Whether an excluded directory holds anything that is not.
    fn holds_included(&self, directory: &[u8]) -> io::Result<bool> {
        let mut todo = vec![directory.to_vec()];
        while let Some(directory) = todo.pop() {
            if !self.rules.may_descend(&directory) {
                continue;
            }
            let names = match self.reader.list(&directory) {
                Ok((_, names)) => names,
                Err(error) if is_unreadable(&error) => continue,
                Err(error) => return Err(error),
            };
            let scope = self.rules.scope(&directory);
            for (name, file_type) in names {
                let path = join(&directory, name.to_bytes());
                if !scope.excludes(&path) {
                    return Ok(true);
                }
                // A type that the directory does not tell is found out by trying to list it.
                if matches!(file_type, FileType::Directory | FileType::Unknown) {
                    todo.push(path);
                }
            }
        }
        Ok(false)
    }

    /// Whether an entry is part of the context by the rules, its existence given.
    fn is_visible(&self, found: &Found) -> io::Result<bool> {
        if !self.rules.excludes(&found.path) {
            return Ok(true);
        }
        Ok(found.node.is_directory() && self.holds_included(&found.path)?)
    }
}

fn is_unreadable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl View for DirContext {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let Some(found) = self.reader.entry(path)? else { return Ok(None) };
        Ok(if self.is_visible(&found)? { Some(self.node_of(found)) } else { None })
    }

    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        match self.reader.entry(path)? {
            Some(found) if found.node.is_directory() => {}
            _ => return Ok(Vec::new()),
        }
        let scope = self.rules.scope(path);
        let (_, listed) = self.reader.list(path)?;
        let mut names = Vec::with_capacity(listed.len());
        for (name, file_type) in listed {
            let entry = join(path, name.to_bytes());
            let excluded = scope.excludes(&entry);
            let directory = matches!(file_type, FileType::Directory | FileType::Unknown);
            if !excluded || (directory && self.holds_included(&entry)?) {
                names.push(name.into_bytes());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.visible_content(path)?))
    }

    fn descendants(&self, path: &[u8], enter: &(dyn Fn(&[u8]) -> bool + Sync)) -> io::Result<Descendants<'_>> {
        match self.reader.entry(path)? {
            Some(found) if found.node.is_directory() => {}
            _ => return Ok(Box::new(std::iter::empty())),
        }
        let found = walk(&self.reader, &self.rules, path, enter)?;
        Ok(Box::new(found.map(|mut entry| (std::mem::take(&mut entry.path), self.node_of(entry)))))
    }
}

/// The content of one file in one state: an error where it is no longer the state in which it was opened.
#[derive(Debug)]
struct Content {
    file: File,
    opened: Identity,
    read: u64,
    path: Vec<u8>,
}

impl Content {
    fn changed(&self) -> io::Error {
        io::Error::other(Changed { path: format!("/{}", String::from_utf8_lossy(&self.path)) })
    }

    /// The file's state now is the one in which it was opened.
    fn check(&self) -> io::Result<()> {
        let stat = rustix::fs::statx(self.file.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        if self.read == self.opened.size && Identity::of(&stat) == self.opened { Ok(()) } else { Err(self.changed()) }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // All of it was read, and `check` sees whether more has come: that saves a call for each small file.
        if self.read == self.opened.size && self.read > 0 {
            self.check()?;
            return Ok(0);
        }
        let length = self.file.read(buffer).map_err(|error| named(&error, "read", &self.path))?;
        self.read += length as u64;
        // A file that grows for ever must not be read for ever.
        if self.read > self.opened.size {
            return Err(self.changed());
        }
        if length == 0 {
            self.check()?;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
