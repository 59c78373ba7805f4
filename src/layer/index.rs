//! A layer's table of contents: every entry with its header and the digest of its content, so that COPY, look-ups of
//! users and cache keys need neither the blob nor a tree.
//!
//! Contract: it says what the layer's tree would be after [`unpack`](super::unpack), by the same rules: later entries
//! replace earlier ones, names go through links of the same layer, directories that nothing names are implied, removals
//! apply to layers below only, whatever their position.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;

use super::read::{Entry, Limits, Marker, TarReader};
use super::{invalid, shown};
use crate::digest::{Digest, Hasher};
use crate::tree::{self, Kind, Node, PathMap, Time};

pub use super::indexer::Indexer;

/// Files whose content is kept in the index: user and group names are looked up there.
const KEPT: [&[u8]; 2] = [b"etc/passwd", b"etc/group"];
/// More than this of them is not kept.
const MAX_KEPT: u64 = 10 << 20;
/// Links followed on one path before it counts as a loop (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// One name in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Path, as in [`tree::View`].
    pub path: Vec<u8>,
    /// What the layer does there.
    pub item: Item,
}

/// What a layer does at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Removes what layers below have.
    Whiteout,
    /// Puts something there.
    Present(Present),
}

/// Something that a layer puts at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its header; a regular file's digest is known.
    pub node: Node,
    /// Layers below do not show through this directory.
    pub opaque: bool,
    /// The archive has no entry for this directory: one below has its metadata.
    pub implied: bool,
    /// Where in this layer the content is, for further names of a file (hard links).
    pub source: Option<Vec<u8>>,
}

/// The table of contents of one layer, sorted by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    pub(super) entries: Vec<IndexEntry>,
    pub(super) kept: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) root_opaque: bool,
    /// See [`Index::is_straight`].
    pub(super) straight: bool,
}

impl Index {
    /// All entries, sorted by path bytes.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// What the layer does at exactly this path.
    pub fn find(&self, path: &[u8]) -> Option<&Item> {
        let at = self.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path)).ok()?;
        Some(&self.entries[at].item)
    }

    /// Whether nothing of the layers below shows through.
    pub fn root_opaque(&self) -> bool {
        self.root_opaque
    }

    /// Whether each entry of the tar lies at the path that it is called, and none takes the place of another: then names
    /// alone tell which entry has what is at a path. Not known of indexes that earlier versions wrote.
    pub(super) fn is_straight(&self) -> bool {
        self.straight
    }

    /// The content of a file that is kept inside: `etc/passwd` and `etc/group` up to 10 MiB.
    pub fn kept(&self, path: &[u8]) -> Option<&[u8]> {
        self.kept.get(path).map(Vec::as_slice)
    }

    /// The entries directly in a directory, sorted by name.
    pub fn children<'a>(&'a self, directory: &[u8]) -> impl Iterator<Item = (&'a [u8], &'a Item)> {
        let mut prefix = directory.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let start = self.entries.partition_point(|entry| entry.path.as_slice() < prefix.as_slice());
        Children { index: self, prefix, at: start }
    }

    /// The index of a layer that has these entries of this one (by their places, in order) and what another names itself.
    pub fn recombined(mut self, kept: &[Range<usize>], other: Index) -> Index {
        let mut ranges = kept.iter().peekable();
        let mut place = 0;
        self.entries.retain(|_| {
            let at = place;
            place += 1;
            while ranges.next_if(|range| range.end <= at).is_some() {}
            ranges.peek().is_some_and(|range| range.contains(&at))
        });
        let is_named = |item: &Item| !matches!(item, Item::Present(present) if present.implied);
        self.kept.retain(|path, _| self.entries.binary_search_by(|entry| entry.path.cmp(path)).is_ok());
        self.kept.extend(other.kept);
        self.straight &= other.straight;
        self.entries.extend(other.entries.into_iter().filter(|entry| is_named(&entry.item)));
        // Two sorted runs: merged in one pass.
        self.entries.sort_by(|one, other| one.path.cmp(&other.path));
        self
    }

    /// Directories that the layer needs but has no entry for, sorted: their metadata come from the layers below, so
    /// whoever unpacks the layer by itself has to be told (`Options::implied`).
    pub fn implied_directories(&self) -> impl Iterator<Item = &[u8]> {
        let implied = |item: &Item| matches!(item, Item::Present(present) if present.implied);
        self.entries.iter().filter(move |entry| implied(&entry.item)).map(|entry| entry.path.as_slice())
    }
}

struct Children<'a> {
    index: &'a Index,
    prefix: Vec<u8>,
    at: usize,
}

impl<'a> Iterator for Children<'a> {
    type Item = (&'a [u8], &'a Item);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = self.index.entries.get(self.at)?;
            let rest = entry.path.strip_prefix(self.prefix.as_slice())?;
            let Some(slash) = rest.iter().position(|byte| *byte == b'/') else {
                self.at += 1;
                return Some((rest, &entry.item));
            };
            // Inside a child: its subtree ends before the child's name with the byte behind '/'.
            let mut end = entry.path[..self.prefix.len() + slash].to_vec();
            end.push(b'/' + 1);
            let rest = &self.index.entries[self.at..];
            self.at += rest.partition_point(|entry| entry.path.as_slice() < end.as_slice());
        }
    }
}

/// Reads a layer to its end: its index, its diffID and its size in bytes.
///
/// # Errors
/// An archive that [`TarReader`] refuses, one that could not be unpacked (a hard link to nothing), or what reading reports.
pub fn index_tar(reader: impl Read) -> io::Result<(Index, Digest, u64)> {
    let mut hashing = Hashing { inner: reader, hasher: Hasher::new(), size: 0 };
    let index = index_entries(&mut hashing, Limits::default())?;
    io::copy(&mut hashing, &mut io::sink())?;
    Ok((index, hashing.hasher.finish(), hashing.size))
}

/// Reads entries up to the archive's end mark; bytes behind it stay unread.
pub(super) fn index_entries(reader: impl Read, limits: Limits) -> io::Result<Index> {
    let mut reader = TarReader::with_limits(reader, limits);
    let mut builder = Builder::default();
    let mut buffer = vec![0; 128 * 1024];
    while let Some(mut entry) = reader.next_entry()? {
        let mut kept = None;
        if let (Kind::File { size, digest }, None, Marker::Plain) = (&mut entry.node.kind, &entry.link, &entry.marker) {
            let keep = KEPT.contains(&entry.path.as_slice()) && *size <= MAX_KEPT;
            let mut hasher = Hasher::new();
            let mut content = reader.content();
            let mut copy = Vec::new();
            loop {
                let count = match content.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                hasher.update(&buffer[..count]);
                if keep {
                    copy.extend_from_slice(&buffer[..count]);
                }
            }
            *digest = Some(hasher.finish());
            kept = keep.then_some(copy);
        }
        builder.add(entry, kept)?;
    }
    Ok(builder.finish())
}

/// The names, sorted, that everything but directories has when a layer is unpacked, by the number (from 0) of the tar's
/// entry that has its content.
pub(super) fn names_by_entry(reader: impl Read) -> io::Result<BTreeMap<u64, Vec<Vec<u8>>>> {
    let mut reader = TarReader::new(reader);
    let mut builder = Builder::default();
    let mut number = 0;
    while let Some(mut entry) = reader.next_entry()? {
        // Nothing here looks at times, and a link takes over those of what it is a link to.
        entry.node.mtime = Time { seconds: number, nanoseconds: 0 };
        number += 1;
        builder.add(entry, None)?;
    }
    let mut names: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for entry in builder.finish().entries {
        if let Item::Present(Present { node, .. }) = entry.item
            && !node.is_directory()
        {
            names.entry(node.mtime.seconds.cast_unsigned()).or_default().push(entry.path);
        }
    }
    Ok(names)
}

struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

/// The tree that the entries so far make.
#[derive(Default)]
struct Builder {
    items: PathMap<Item>,
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    root_opaque: bool,
    /// An entry went elsewhere than it is called, or took another's place.
    crooked: bool,
    groups: u64,
    /// The last directory that was looked up, as written and as it is: archives list a directory's entries together.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl Builder {
    fn add(&mut self, entry: Entry, kept: Option<Vec<u8>>) -> io::Result<()> {
        let Entry { path, node, link, marker } = entry;
        match marker {
            Marker::Opaque if path.is_empty() => self.root_opaque = true,
            Marker::Opaque => {
                if let Some(directory) = self.directory(&path, Missing::Skip)?
                    && let Some(Item::Present(present)) = self.items.get_mut(&directory)
                {
                    present.opaque = true;
                }
            }
            // Docker ignores an archive's own root: its directory is made by whoever unpacks.
            _ if path.is_empty() => {}
            Marker::Whiteout(name) => {
                let Some(directory) = self.directory(tree::parent(&path), Missing::Skip)? else { return Ok(()) };
                self.whiteout(tree::join(&directory, &name));
            }
            Marker::Plain => {
                let directory = self.directory(tree::parent(&path), Missing::Fail)?.unwrap_or_default();
                self.crooked |= directory != tree::parent(&path);
                let path = tree::join(&directory, tree::base_name(&path));
                match link {
                    Some(target) => self.link(path, &target)?,
                    None => self.put(path, node, kept),
                }
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, path: Vec<u8>) {
        match self.items.get_mut(&path) {
            // The layer's own entry stays; what is below it goes, whichever came first.
            Some(Item::Present(present)) => present.opaque = present.node.is_directory(),
            _ => {
                self.items.insert(path, Item::Whiteout);
            }
        }
    }

    fn put(&mut self, path: Vec<u8>, node: Node, kept: Option<Vec<u8>>) {
        let directory = node.is_directory();
        match self.items.get_mut(&path) {
            Some(Item::Present(present)) if directory && present.node.is_directory() => {
                present.node = node;
                present.implied = false;
                return;
            }
            _ => {}
        }
        let opaque = directory && self.items.get(&path) == Some(&Item::Whiteout);
        self.replace(&path);
        if let Some(content) = kept {
            self.kept.insert(path.clone(), content);
        }
        self.items.insert(path, Item::Present(Present { node, opaque, implied: false, source: None }));
    }

    fn link(&mut self, path: Vec<u8>, target: &[u8]) -> io::Result<()> {
        let missing = || {
            let text = format!("hard link {} to {}: not in this layer", shown(&path), shown(target));
            invalid(text)
        };
        let directory = self.directory(tree::parent(target), Missing::Skip)?.ok_or_else(missing)?;
        self.crooked |= directory != tree::parent(target);
        let target = tree::join(&directory, tree::base_name(target));
        if target == path {
            return Err(missing());
        }
        let groups = self.groups + 1;
        let Some(Item::Present(present)) = self.items.get_mut(&target) else { return Err(missing()) };
        if present.node.is_directory() {
            return Err(missing());
        }
        if present.node.link_group == 0 {
            self.groups = groups;
            present.node.link_group = groups;
        }
        let mut present = present.clone();
        present.source.get_or_insert(target);
        self.replace(&path);
        self.items.insert(path, Item::Present(present));
        Ok(())
    }

    /// Takes away what is at a path and beneath it.
    fn replace(&mut self, path: &[u8]) {
        self.kept.remove(path);
        let Some(Item::Present(old)) = self.items.remove(path) else { return };
        self.crooked = true;
        self.last = None;
        if old.node.is_directory() {
            for name in self.items.beginning_with(&[path, b"/"].concat()) {
                self.forget(&name);
            }
        } else {
            self.reassign(path, &old);
        }
    }

    fn forget(&mut self, path: &[u8]) {
        self.kept.remove(path);
        if let Some(Item::Present(old)) = self.items.remove(path) {
            self.reassign(path, &old);
        }
    }

    /// Gives the content of a file whose first name went away to the next of its names.
    fn reassign(&mut self, path: &[u8], old: &Present) {
        if old.node.link_group == 0 || old.source.is_some() {
            return;
        }
        let mut first: Option<Vec<u8>> = None;
        for (name, item) in self.items.iter_mut() {
            if let Item::Present(present) = item
                && present.source.as_deref() == Some(path)
            {
                present.source.clone_from(&first);
                first.get_or_insert_with(|| name.to_vec());
            }
        }
    }

    /// Where a directory of this layer is once links are followed, made of implied directories where it is missing.
    /// `None`: it lies behind a link to nothing, and `missing` allows that.
    fn directory(&mut self, path: &[u8], missing: Missing) -> io::Result<Option<Vec<u8>>> {
        if let Some((_, found)) = self.last.as_ref().filter(|(written, _)| written == path) {
            return Ok(Some(found.clone()));
        }
        let found = self.walk(path, missing)?;
        self.last = found.clone().map(|found| (path.to_vec(), found));
        Ok(found)
    }

    fn walk(&mut self, path: &[u8], missing: Missing) -> io::Result<Option<Vec<u8>>> {
        let mut done = Vec::new();
        let mut links = 0;
        let mut todo: Vec<(Vec<u8>, Origin)> =
            tree::components(path).into_iter().rev().map(|part| (part, Origin::Name)).collect();
        while let Some((part, origin)) = todo.pop() {
            if part == b".." {
                done = tree::parent(&done).to_vec();
                continue;
            }
            let next = tree::join(&done, &part);
            match self.items.get(&next) {
                Some(Item::Present(Present { node: Node { kind: Kind::Symlink(target), .. }, .. })) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    if target.first() == Some(&b'/') {
                        done.clear();
                    }
                    let parts = tree::components(target).into_iter().rev();
                    todo.extend(parts.map(|part| (part, Origin::Link)));
                    continue;
                }
                Some(Item::Present(present)) if present.node.is_directory() => {}
                Some(Item::Present(_)) => return Err(invalid(format!("{} is not a directory", shown(&next)))),
                None | Some(Item::Whiteout) if origin == Origin::Link => {
                    return match missing {
                        Missing::Skip => Ok(None),
                        Missing::Fail => Err(invalid(format!("{} leads to nothing", shown(path)))),
                    };
                }
                found => {
                    let opaque = found.is_some();
                    let node = Node::directory(Time::default());
                    let present = Present { node, opaque, implied: true, source: None };
                    self.items.insert(next.clone(), Item::Present(present));
                }
            }
            done = next;
        }
        Ok(Some(done))
    }

    fn finish(self) -> Index {
        let entries = self.items.into_sorted(|path, item| IndexEntry { path, item });
        Index { entries, kept: self.kept, root_opaque: self.root_opaque, straight: !self.crooked }
    }
}

/// What to do about a path behind a link to nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Skip,
    Fail,
}

/// Where a component of a path comes from: only those of names are made when they are missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Name,
    Link,
}
