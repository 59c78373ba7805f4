//! Reads directories: what is in them, in parallel, beneath one root.
//!
//! Contract: no link is ever followed and nothing is opened but directories, so neither a link out of the context nor a
//! FIFO in it can do harm. A directory is opened by its path from the root, so the number of open files is the number of
//! threads however deep the tree is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};
use rustix::io::Errno;

use super::ignore::{IgnoreRules, Scope};
use super::stat_cache::{Identity, StatCache};
use crate::digest::Digest;
use crate::rootfs::RootDir;
use crate::tree::{Kind, Node, base_name, join, parent};

/// Paths longer than this are opened in pieces (the kernel's limit is 4096 with the final zero).
const MAX_PATH: usize = 4000;

/// An entry of a directory.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: Vec<u8>,
    pub(super) node: Node,
    /// Excluded by a rule, and here only for what may be re-included below it.
    excluded: bool,
}

/// Reads entries beneath a root.
#[derive(Debug)]
pub(super) struct Reader {
    root: RootDir,
    /// What earlier builds saw of files.
    pub(super) cache: StatCache,
    /// A device that said it has no extended attributes; asking again for each file would cost a call each.
    without_xattrs: AtomicU64,
    /// Link groups of files with several names, by device and inode. They are numbered as they are come to by several
    /// threads: a number says nothing beyond this reader.
    links: Mutex<HashMap<(u64, u64), u64>>,
}

impl Reader {
    pub(super) fn new(root: RootDir, cache: StatCache) -> Reader {
        Reader { root, cache, without_xattrs: AtomicU64::new(u64::MAX), links: Mutex::default() }
    }

    /// Opens a path beneath the root that has no link in it.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let mut rest = path;
        let mut base: Option<RootDir> = None;
        while rest.len() > MAX_PATH {
            let end = rest[..MAX_PATH].iter().rposition(|byte| *byte == b'/').ok_or(io::ErrorKind::InvalidFilename)?;
            let directory = OFlags::PATH | OFlags::DIRECTORY;
            let fd = base.as_ref().unwrap_or(&self.root).open_without_links(&rest[..end], directory, Mode::empty())?;
            base = Some(RootDir::from_fd(fd));
            rest = &rest[end + 1..];
        }
        base.as_ref().unwrap_or(&self.root).open_without_links(rest, flags, Mode::empty())
    }

    /// The entry of exactly this path; `None` where nothing is, or a link or file stands on the way.
    pub(super) fn entry(&self, path: &[u8]) -> io::Result<Option<Found>> {
        if path.is_empty() {
            return self.inspect(&self.root, c"", path);
        }
        let directory = match self.open(parent(path), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(named(&error, "open directory", parent(path))),
        };
        let name = CString::new(base_name(path)).map_err(|_| io::ErrorKind::InvalidFilename)?;
        self.inspect(&directory, &name, path)
    }

    /// The names in a directory and their types, as far as the directory tells.
    pub(super) fn list(&self, path: &[u8]) -> io::Result<(OwnedFd, Vec<(CString, FileType)>)> {
        let read = |error: io::Error| named(&error, "read directory", path);
        let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(read)?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|error| read(error.into()))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        Ok((directory, names))
    }

    /// What a name in an open directory is (the empty name: the directory itself).
    fn inspect(&self, directory: impl AsFd, name: &CStr, path: &[u8]) -> io::Result<Option<Found>> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
        let stat = match rustix::fs::statx(&directory, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(None),
            Err(error) => return Err(named(&error.into(), "stat", path)),
        };
        let Some(mut kind) = kind(&directory, name, &stat).map_err(|error| named(&error, "read link", path))? else {
            return Ok(None);
        };
        let identity = Identity::of(&stat);
        let xattrs = match &mut kind {
            Kind::File { digest, .. } => self.file(&directory, name, &identity, digest),
            Kind::Directory => self.xattrs(&directory, name, &identity),
            _ => Ok(BTreeMap::new()),
        };
        let is_linked = stat.stx_nlink > 1 && matches!(kind, Kind::File { .. });
        let node = Node {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: 0,
            gid: 0,
            mtime: identity.mtime,
            xattrs: xattrs.map_err(|error| named(&error, "read extended attributes", path))?,
            link_group: if is_linked { self.link_group(&identity) } else { 0 },
        };
        Ok(Some(Found { path: path.to_vec(), node, excluded: false }))
    }

    fn link_group(&self, identity: &Identity) -> u64 {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let next = links.len() as u64 + 1;
        *links.entry((identity.device, identity.inode)).or_insert(next)
    }

    /// The attributes of a regular file, and its digest where earlier builds saw it in this state.
    fn file(
        &self,
        directory: impl AsFd,
        name: &CStr,
        identity: &Identity,
        digest: &mut Option<Digest>,
    ) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let known = self.cache.find(identity);
        *digest = known.map(|known| known.digest);
        if known.is_some_and(|known| known.plain) {
            return Ok(BTreeMap::new());
        }
        let xattrs = self.xattrs(directory, name, identity)?;
        if xattrs.is_empty() {
            self.cache.saw_plain(identity);
        }
        Ok(xattrs)
    }

    /// `security.capability` and `user.*`: what a layer carries of a file's attributes.
    fn xattrs(&self, directory: impl AsFd, name: &CStr, of: &Identity) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        if self.without_xattrs.load(Ordering::Relaxed) == of.device {
            return Ok(found);
        }
        // By way of /proc: to ask a descriptor, the file would have to be opened, which needs the right to read it.
        let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(if name.is_empty() { b"." } else { name.to_bytes() });
        let path = CString::new(path)?;
        let mut names: Vec<u8> = Vec::with_capacity(256);
        loop {
            match rustix::fs::llistxattr(&path, spare_capacity(&mut names)) {
                Ok(_) => break,
                Err(Errno::RANGE) => names = Vec::with_capacity(names.capacity() * 4),
                Err(Errno::NOTSUP) => {
                    self.without_xattrs.store(of.device, Ordering::Relaxed);
                    return Ok(found);
                }
                // Without /proc nothing can be asked; a file that is gone has none.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(found),
                Err(error) => return Err(error.into()),
            }
        }
        let wanted = |name: &&[u8]| *name == b"security.capability" || name.starts_with(b"user.");
        for name in names.split(|byte| *byte == 0).filter(wanted) {
            let mut value = Vec::with_capacity(64 * 1024);
            match rustix::fs::lgetxattr(&path, name, spare_capacity(&mut value)) {
                Ok(_) => drop(found.insert(name.to_vec(), value)),
                Err(Errno::NODATA | Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

/// The kind of an entry; `None` where a link went away between two calls.
fn kind(directory: impl AsFd, name: &CStr, stat: &Statx) -> io::Result<Option<Kind>> {
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    Ok(Some(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File { size: stat.stx_size, digest: None },
        FileType::Directory => Kind::Directory,
        FileType::Symlink => match rustix::fs::readlinkat(directory, name, Vec::new()) {
            Ok(target) => Kind::Symlink(target.into_bytes()),
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        },
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return Err(io::ErrorKind::InvalidData.into()),
    }))
}

/// An error with what was being done, and to what.
pub(super) fn named(error: &io::Error, action: &str, path: &[u8]) -> io::Error {
    let path = String::from_utf8_lossy(path);
    io::Error::new(error.kind(), format!("{action} {:?} of the context: {error}", format!("/{path}")))
}

/// Whether an error says that there is nothing of that name.
fn is_absent(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG))
}

/// One recursive walk.
struct Walk<'a> {
    reader: &'a Reader,
    enter: &'a (dyn Fn(&[u8]) -> bool + Sync),
    found: Mutex<Listed>,
    failed: AtomicBool,
    error: Mutex<Option<io::Error>>,
}

/// What was found, in the order in which directories were read.
#[derive(Default)]
struct Listed {
    /// In one block of memory, which is a large one where there are many: it goes back to the system.
    entries: Vec<Option<Found>>,
    /// Where the sorted entries of each directory are.
    directories: HashMap<Vec<u8>, Range<usize>>,
}

impl Listed {
    fn add(&mut self, directory: Vec<u8>, entries: Vec<Found>) {
        let start = self.entries.len();
        self.entries.extend(entries.into_iter().map(Some));
        self.directories.insert(directory, start..self.entries.len());
    }

    fn path(&self, at: usize) -> Option<&[u8]> {
        self.entries.get(at)?.as_ref().map(|entry| entry.path.as_slice())
    }
}

/// Everything below a directory that the rules leave, sorted by bytes. `enter` says whether the content of a directory
/// is wanted.
pub(super) fn walk(
    reader: &Reader,
    rules: &IgnoreRules,
    path: &[u8],
    enter: &(dyn Fn(&[u8]) -> bool + Sync),
) -> io::Result<impl Iterator<Item = Found> + use<>> {
    let walk = Walk { reader, enter, found: Mutex::default(), failed: AtomicBool::new(false), error: Mutex::default() };
    let excluded = rules.excludes(path);
    let scope = rules.scope(path);
    rayon::scope(|tasks| walk.directory(tasks, path.to_vec(), &scope, excluded));
    if let Some(error) = walk.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let found = walk.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let hollow = hollow(&found.entries);
    Ok(Sorted::new(found, path).filter(move |entry| !hollow.contains(&entry.path)))
}

impl<'a> Walk<'a> {
    fn directory<'s>(&'s self, tasks: &rayon::Scope<'s>, path: Vec<u8>, scope: &Scope<'s>, excluded: bool) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let found = match self.entries(&path, scope) {
            Ok(found) => found,
            // What the rules exclude need not be readable, though an exception might match below it.
            Err(error) if excluded && error.kind() == io::ErrorKind::PermissionDenied => return,
            // Removed since its parent was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => return,
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        };
        for entry in found.iter().filter(|entry| entry.node.is_directory() && (self.enter)(&entry.path)) {
            let (path, inner, excluded) = (entry.path.clone(), scope.enter(&entry.path), entry.excluded);
            tasks.spawn(move |tasks| self.directory(tasks, path, &inner, excluded));
        }
        self.found.lock().unwrap_or_else(PoisonError::into_inner).add(path, found);
    }

    /// The entries of one directory that are part of the context, or may hold something that is, sorted.
    fn entries(&self, path: &[u8], scope: &Scope) -> io::Result<Vec<Found>> {
        let (directory, mut names) = self.reader.list(path)?;
        names.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let mut entries = Vec::with_capacity(names.len());
        for (name, file_type) in names {
            let path = join(path, name.to_bytes());
            let excluded = scope.excludes(&path);
            if excluded && !matches!(file_type, FileType::Directory | FileType::Unknown) {
                continue;
            }
            if excluded && !scope.may_descend(&path) {
                continue;
            }
            let Some(entry) = self.reader.inspect(&directory, &name, &path)? else { continue };
            if !excluded || entry.node.is_directory() {
                entries.push(Found { excluded, ..entry });
            }
        }
        Ok(entries)
    }
}

/// Excluded directories in which nothing was re-included.
fn hollow(found: &[Option<Found>]) -> HashSet<Vec<u8>> {
    let all = || found.iter().flatten();
    let mut hollow: HashSet<Vec<u8>> = all().filter(|entry| entry.excluded).map(|entry| entry.path.clone()).collect();
    if hollow.is_empty() {
        return hollow;
    }
    for entry in all().filter(|entry| !entry.excluded) {
        let mut path = parent(&entry.path);
        while hollow.remove(path) {
            path = parent(path);
        }
    }
    hollow
}

/// Puts directories whose entries are sorted into one order, that of the bytes of whole paths. To sort all paths would
/// take as long as a third of the walk.
struct Sorted {
    found: Listed,
    /// The directory that is gone through and those above it.
    open: Vec<Opened>,
}

/// A directory that is gone through.
struct Opened {
    /// Its entries that were not come to yet.
    entries: Range<usize>,
    /// Directories that were listed themselves, and that other entries come before the contents of (`a-b` stands before
    /// `a/b`): the last one is the first to be entered.
    waiting: Vec<Vec<u8>>,
}

impl Opened {
    fn new(entries: Range<usize>) -> Opened {
        Opened { entries, waiting: Vec::new() }
    }

    /// The directory whose contents come next, where that is not the `next` entry of this one.
    fn entered(&mut self, next: Option<&[u8]>) -> Option<Vec<u8>> {
        self.waiting.pop_if(|directory| match next.and_then(|next| next.strip_prefix(directory.as_slice())) {
            Some(rest) => rest.first() > Some(&b'/'),
            None => true,
        })
    }
}

impl Sorted {
    fn new(mut found: Listed, root: &[u8]) -> Sorted {
        let open = found.directories.remove(root).map(Opened::new).into_iter().collect();
        Sorted { found, open }
    }
}

impl Iterator for Sorted {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let opened = self.open.last_mut()?;
            let next = Some(opened.entries.start).filter(|at| *at < opened.entries.end);
            if let Some(directory) = opened.entered(next.and_then(|at| self.found.path(at))) {
                self.open.extend(self.found.directories.remove(&directory).map(Opened::new));
            } else if let Some(at) = opened.entries.next() {
                let entry = self.found.entries[at].take()?;
                if entry.node.is_directory() && self.found.directories.contains_key(&entry.path) {
                    opened.waiting.push(entry.path.clone());
                }
                return Some(entry);
            } else {
                self.open.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::Time;

    fn found(path: &[u8], kind: Kind) -> Found {
        let node = Node { kind, ..Node::directory(Time::default()) };
        Found { path: path.to_vec(), node, excluded: false }
    }

    proptest! {
        /// Names with bytes on both sides of the slash, of which several are the beginnings of others.
        #[test]
        fn directories_are_put_in_the_order_of_whole_paths(
            paths in prop::collection::btree_set("([ab][ !.0-]{0,2}/){0,3}[ab][ !.0-]{0,2}", 0..60),
            unread in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let mut contents: HashMap<Vec<u8>, Vec<Found>> = HashMap::from([(Vec::new(), Vec::new())]);
            let mut all: Vec<Vec<u8>> = Vec::new();
            for path in paths.iter().map(String::as_bytes) {
                let ends = (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]);
                all.extend(ends.map(|end| path[..end].to_vec()));
            }
            all.sort_unstable();
            all.dedup();
            let is_directory = |path: &[u8]| all.iter().any(|other| parent(other) == path);
            let directories: Vec<&Vec<u8>> = all.iter().filter(|path| is_directory(path)).collect();
            // Directories that were not entered.
            let unread: Vec<&Vec<u8>> = match directories.is_empty() {
                true => Vec::new(),
                false => unread.iter().map(|index| *index.get(&directories)).collect(),
            };
            let is_hidden = |path: &[u8]| unread.iter().any(|closed| path.starts_with(&[closed, &b"/"[..]].concat()));
            all.iter().filter(|path| !is_hidden(path)).for_each(|path| {
                let kind = if is_directory(path) { Kind::Directory } else { Kind::Fifo };
                if is_directory(path) && !unread.contains(&path) {
                    contents.entry(path.clone()).or_default();
                }
                contents.entry(parent(path).to_vec()).or_default().push(found(path, kind));
            });
            let mut listed = Listed::default();
            contents.into_iter().for_each(|(directory, entries)| listed.add(directory, entries));
            let expected: Vec<&Vec<u8>> = all.iter().filter(|path| !is_hidden(path)).collect();
            let sorted: Vec<Vec<u8>> = Sorted::new(listed, b"").map(|entry| entry.path).collect();
            prop_assert_eq!(sorted.iter().collect::<Vec<_>>(), expected);
        }
    }
}
