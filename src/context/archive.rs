//! A tar as a build context, and the recognition of archives by their first bytes.
//!
//! Contract: a [`TarContext`] is what unpacking the tar in an empty root would make, owners kept, without a tree on
//! disk; names never leave its root. Decompression is the caller's business. It knows nothing of what ADD does with an
//! archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::steady::steady;
use crate::digest::Hasher;
use crate::tree::{Kind, Last, Node, Time, View, base_name, clean, join, parent, resolve};

/// Enough of a file's beginning for [`detect`].
pub const PREFIX: usize = 512;

/// What a file that ADD unpacks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A tar as it is.
    Tar,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

/// What a file may be by its first [`PREFIX`] bytes (fewer where it is shorter). For a compressed one it is not known yet
/// whether there is a tar in it: the caller has to look at the first bytes behind the compression once more.
pub fn detect(prefix: &[u8]) -> Option<Format> {
    match prefix {
        [0x1f, 0x8b, 0x08, ..] => Some(Format::Gzip),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Format::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Format::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Format::Zstd),
        // A skippable frame before the first real one (RFC 8878, 3.1.2), as pzstd writes.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Format::Zstd),
        _ => is_tar(prefix).then_some(Format::Tar),
    }
}

/// Whether a file may be an archive that ADD unpacks, by its first [`PREFIX`] bytes.
pub fn is_archive(prefix: &[u8]) -> bool {
    detect(prefix).is_some()
}

/// Whether a block is a tar header: its checksum says so, whatever dialect it is (v7 has no magic).
fn is_tar(block: &[u8]) -> bool {
    let Some(block) = block.first_chunk::<PREFIX>() else { return false };
    let digits =
        block[148..156].trim_ascii_start().split(|byte| *byte == 0 || *byte == b' ').next().unwrap_or_default();
    let stored = std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 8).ok());
    let filled = |at: usize| if (148..156).contains(&at) { b' ' } else { block[at] };
    let unsigned: u32 = (0..PREFIX).map(|at| u32::from(filled(at))).sum();
    let signed: i32 = (0..PREFIX).map(|at| i32::from(filled(at).cast_signed())).sum();
    block[0] != 0 && stored.is_some_and(|stored| stored == unsigned || i64::from(stored) == i64::from(signed))
}

/// A context that came as a tar.
#[derive(Debug)]
pub struct TarContext {
    entries: BTreeMap<Vec<u8>, Held>,
    spool: Spool,
}

/// An entry and where its content begins in the spool.
#[derive(Debug, Clone)]
struct Held {
    node: Node,
    at: u64,
}

/// Contents, one after the other: in memory while they are few, else in a file without a name.
#[derive(Debug)]
struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    length: u64,
}

/// More than this goes to a file.
const MEMORY: usize = 16 << 20;

impl TarContext {
    /// Reads a plain tar to its end. What does not fit in memory goes to a file in `temporary`, which has no name and is
    /// gone with the process.
    ///
    /// # Errors
    /// The bytes are no tar, an entry contradicts another (a file as a directory, a hard link to nothing), or the disk
    /// is full.
    pub fn read(tar: impl Read, temporary: &Path) -> io::Result<TarContext> {
        let spool = Spool { memory: Vec::new(), file: None, length: 0 };
        let root = Held { node: Node::directory(Time::default()), at: 0 };
        let mut context = TarContext { entries: BTreeMap::from([(Vec::new(), root)]), spool };
        let mut archive = tar::Archive::new(tar);
        let mut links = 0;
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = clean(&entry.path_bytes());
            context.add(&mut entry, &path, temporary, &mut links).map_err(|error| {
                let path = String::from_utf8_lossy(&path);
                io::Error::new(error.kind(), format!("read {path:?} of the context archive: {error}"))
            })?;
        }
        Ok(context)
    }

    /// Gives every entry the same time.
    pub fn set_times(&mut self, time: Time) {
        for held in self.entries.values_mut() {
            held.node.mtime = time;
        }
    }

    /// The same without what depends on where and how it was packed: times, and permissions that follow a umask.
    pub fn steady(mut self) -> TarContext {
        self.entries.values_mut().for_each(|held| steady(&mut held.node));
        self
    }

    /// The time of the newest file, in seconds since 1970.
    pub fn newest_file(&self) -> Option<i64> {
        let is_file = |node: &&Node| matches!(node.kind, Kind::File { .. });
        self.entries.values().map(|held| &held.node).filter(is_file).map(|node| node.mtime.seconds).max()
    }

    fn add<R: Read>(&mut self, entry: &mut Entry<R>, path: &[u8], temporary: &Path, links: &mut u64) -> io::Result<()> {
        let entry_type = entry.header().entry_type();
        if entry_type == EntryType::XGlobalHeader {
            return Ok(());
        }
        let place = self.place(path)?;
        if entry_type == EntryType::Link {
            return self.link(entry, place, links);
        }
        let mut node = metadata(entry)?;
        let at = self.spool.length;
        let device = |number: io::Result<Option<u32>>| number.map(|number| number.unwrap_or_default());
        let (major, minor) = (entry.header().device_major(), entry.header().device_minor());
        node.kind = match entry_type {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.store(entry, temporary)?,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(target(entry)?),
            EntryType::Char => Kind::CharDevice { major: device(major)?, minor: device(minor)? },
            EntryType::Block => Kind::BlockDevice { major: device(major)?, minor: device(minor)? },
            EntryType::Fifo => Kind::Fifo,
            other => return Err(invalid(&format!("unknown type {:?}", char::from(other.as_byte())))),
        };
        self.insert(place, Held { node, at })
    }

    /// Where an entry lands: links in the tar are followed as they would be in an unpacked tree.
    fn place(&mut self, path: &[u8]) -> io::Result<Vec<u8>> {
        if path.is_empty() {
            return Ok(Vec::new());
        }
        let directory = resolve(self, parent(path), Last::Follow)?;
        let mut missing = directory.path.as_slice();
        while !self.entries.contains_key(missing) {
            self.entries.insert(missing.to_vec(), Held { node: Node::directory(Time::default()), at: 0 });
            missing = parent(missing);
        }
        if !self.entries.get(&directory.path).is_some_and(|held| held.node.is_directory()) {
            return Err(invalid("what stands above it is not a directory"));
        }
        Ok(join(&directory.path, base_name(path)))
    }

    fn insert(&mut self, path: Vec<u8>, held: Held) -> io::Result<()> {
        if path.is_empty() && !held.node.is_directory() {
            return Err(invalid("the root is not a directory"));
        }
        if !held.node.is_directory() {
            let below = [&path[..], b"/"].concat();
            let above = [&path[..], b"0"].concat();
            let gone: Vec<Vec<u8>> = self.entries.range(below..above).map(|(path, _)| path.clone()).collect();
            gone.iter().for_each(|path| drop(self.entries.remove(path)));
        }
        self.entries.insert(path, held);
        Ok(())
    }

    fn link<R: Read>(&mut self, entry: &Entry<R>, place: Vec<u8>, links: &mut u64) -> io::Result<()> {
        let target = target(entry)?;
        let found = resolve(self, &clean(&target), Last::Keep)?;
        let target = self.entries.get_mut(&found.path).filter(|held| matches!(held.node.kind, Kind::File { .. }));
        let target = target.ok_or_else(|| invalid("hard link to something that is not a file before it"))?;
        if target.node.link_group == 0 {
            *links += 1;
            target.node.link_group = *links;
        }
        let held = target.clone();
        self.insert(place, held)
    }

    fn store<R: Read>(&mut self, entry: &mut Entry<R>, temporary: &Path) -> io::Result<Kind> {
        let mut hasher = Hasher::new();
        let mut size = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = entry.read(&mut buffer)?;
            if length == 0 {
                return Ok(Kind::File { size, digest: Some(hasher.finish()) });
            }
            hasher.update(&buffer[..length]);
            self.spool.append(&buffer[..length], temporary)?;
            size += length as u64;
        }
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn target<R: Read>(entry: &Entry<R>) -> io::Result<Vec<u8>> {
    entry.link_name_bytes().map(|target| target.into_owned()).ok_or_else(|| invalid("a link without a target"))
}

/// Everything of an entry but its kind; extended headers (POSIX pax) go before the plain one.
fn metadata<R: Read>(entry: &mut Entry<R>) -> io::Result<Node> {
    let header = entry.header();
    let id = |id: io::Result<u64>| id.and_then(|id| u32::try_from(id).map_err(|_| invalid("owner out of range")));
    let (uid, gid) = (id(header.uid()), id(header.gid()));
    let seconds = i64::try_from(header.mtime()?).map_err(|_| invalid("time out of range"))?;
    let mode = header.mode()? & 0o7777;
    let mut node = Node { mode, ..Node::directory(Time { seconds, nanoseconds: 0 }) };
    let (mut own_uid, mut own_gid) = (None, None);
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse::<u32>().ok());
        match extension.key_bytes() {
            b"uid" => own_uid = number(extension.value_bytes()),
            b"gid" => own_gid = number(extension.value_bytes()),
            b"mtime" => node.mtime = time(extension.value_bytes()).ok_or_else(|| invalid("time that is no number"))?,
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    node.xattrs.insert(name.to_vec(), extension.value_bytes().to_vec());
                }
            }
        }
    }
    node.uid = own_uid.map_or(uid, Ok)?;
    node.gid = own_gid.map_or(gid, Ok)?;
    Ok(node)
}

/// A decimal number of seconds, rounded down to whole nanoseconds.
fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanoseconds): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
    // -1.25 is a quarter before -1, so 0.75 after -2.
    Some(if whole.starts_with('-') && nanoseconds > 0 {
        Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds }
    } else {
        Time { seconds, nanoseconds }
    })
}

impl Spool {
    fn append(&mut self, bytes: &[u8], temporary: &Path) -> io::Result<()> {
        self.length += bytes.len() as u64;
        if let Some(file) = &mut self.file {
            return file.write_all(bytes);
        }
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > MEMORY {
            let mut file = unnamed_file(temporary)?;
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        Ok(())
    }
}

/// A file without a name in a directory.
fn unnamed_file(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Not every file system can (open(2), O_TMPFILE); old kernels take it for an open of the directory.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let path = directory.join(format!("rbuild-context-{}.tmp", std::process::id()));
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

/// One content in the spool.
struct Part<'a> {
    spool: &'a Spool,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = match &self.spool.file {
            Some(file) => file.read_at(&mut buffer[..most], self.at)?,
            None => {
                let start = usize::try_from(self.at).map_err(|_| io::ErrorKind::InvalidData)?;
                (&self.spool.memory[start..]).read(&mut buffer[..most])?
            }
        };
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

impl View for TarContext {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        Ok(self.entries.get(path).map(|held| held.node.clone()))
    }

    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let mut names = Vec::new();
        let mut from = Bound::Excluded(prefix.clone());
        while let Some((path, _)) = self.entries.range((from.clone(), Bound::Unbounded)).next() {
            let Some(rest) = path.strip_prefix(&prefix[..]) else { break };
            from = match rest.iter().position(|byte| *byte == b'/') {
                None => {
                    names.push(rest.to_vec());
                    Bound::Excluded(path.clone())
                }
                // Below a name that was seen already: `0` is the byte after `/`, so this is past all of it.
                Some(slash) => Bound::Included([&prefix[..], &rest[..slash], b"0"].concat()),
            };
        }
        Ok(names)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        match self.entries.get(path) {
            Some(Held { node: Node { kind: Kind::File { size, .. }, .. }, at }) => {
                Ok(Box::new(Part { spool: &self.spool, at: *at, left: *size }))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests;
