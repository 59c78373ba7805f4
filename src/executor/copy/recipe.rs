//! What a copy comes to: a list of entries, and the key of their contents.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::{CopyError, CopyRequest, shown};
use crate::digest::{Digest, Frame};
use crate::tree::{Kind, Last, Node, View, clean, join, resolve};

/// What a copy writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The entries, sorted by path, so that parents come first.
    pub entries: Vec<RecipeEntry>,
    /// What is no directory and another source takes the place of, in the order of copying. It is not written; but where the
    /// destination is a directory that is there already, or one of the two is an archive to be unpacked, both of them count.
    pub replaced: Vec<RecipeEntry>,
    /// Which of them are directories that were made on the way, rather than copied.
    pub made: BTreeSet<Vec<u8>>,
    /// What is allowed but seldom meant.
    pub warnings: Vec<String>,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeEntry {
    /// Its path in the image.
    pub path: Vec<u8>,
    /// What it is, with its final mode, owner and time.
    pub node: Node,
    /// Where its content comes from.
    pub content: Content,
    /// Of which copy it is, counted from 1 through all sources and what their wildcards match; 0 where it is copied by none.
    pub copy: usize,
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// There is none: everything but files.
    None,
    /// A file of a source, to be opened by [`super::CopySource::open`].
    View {
        /// Which source, by its place in the request.
        source: usize,
        /// The path in it.
        path: Vec<u8>,
    },
    /// These bytes.
    Inline(Arc<[u8]>),
    /// Another name of this entry, which comes before it.
    HardLink(Vec<u8>),
}

impl Recipe {
    /// Has the digests of all files filled in that are not known yet. The function gets the number of a source and its
    /// files, all at once, so that it can read them in parallel.
    ///
    /// # Errors
    /// What the function reports.
    pub fn fill_digests(
        &mut self,
        mut digests: impl FnMut(usize, &mut [(&[u8], &mut Node)]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut wanted: BTreeMap<usize, Vec<(&[u8], &mut Node)>> = BTreeMap::new();
        for RecipeEntry { node, content, .. } in self.entries.iter_mut().chain(&mut self.replaced) {
            if let (Content::View { source, path }, Kind::File { digest: None, .. }) = (content, &node.kind) {
                wanted.entry(*source).or_default().push((path, node));
            }
        }
        wanted.into_iter().try_for_each(|(source, mut files)| digests(source, &mut files))
    }

    /// Puts a copy that was planned without a destination onto one; gives it back where it has to be planned anew:
    /// something that is there changes more than which directories have to be made, or is in the way.
    ///
    /// Planning costs a walk over the sources, and a context is walked for its key already.
    pub fn onto(mut self, request: &CopyRequest, destination: Option<&dyn View>) -> Result<Placed, Recipe> {
        let mut left_out = Vec::new();
        if let Some(below) = destination.filter(|_| !request.link) {
            let Some(existing) = self.directories_that_exist(request, below) else { return Err(self) };
            // Nothing is made where it exists.
            left_out.extend(self.entries.extract_if(.., |entry| existing.binary_search(&entry.path).is_ok()));
        }
        if let Some(owner) = request.owner {
            self.give_to(owner);
        }
        Ok(Placed { recipe: self, left_out })
    }

    fn give_to(&mut self, (uid, gid): (u32, u32)) {
        for entry in &mut self.entries {
            (entry.node.uid, entry.node.gid) = (uid, gid);
        }
    }

    /// Whether everything belongs to root, as all that comes from a context.
    pub fn is_all_of_root(&self) -> bool {
        self.entries.iter().all(|entry| (entry.node.uid, entry.node.gid) == (0, 0))
    }

    /// Whether the digest of every file is filled in.
    pub fn is_digested(&self) -> bool {
        let is_missing = |entry: &RecipeEntry| {
            matches!((&entry.content, &entry.node.kind), (Content::View { .. }, Kind::File { digest: None, .. }))
        };
        !self.entries.iter().any(is_missing)
    }

    /// Bytes of the files whose digests are known, and of those whose digests are not.
    pub fn known_and_unknown(&self) -> (u64, u64) {
        let (mut known, mut unknown) = (0, 0);
        for entry in &self.entries {
            match (&entry.content, &entry.node.kind) {
                (Content::View { .. }, Kind::File { size, digest: None }) => unknown += size,
                (_, Kind::File { size, .. }) => known += size,
                _ => {}
            }
        }
        (known, unknown)
    }

    /// The directories that would be made and exist, sorted; `None` where more than that is in the way.
    fn directories_that_exist(&self, request: &CopyRequest, below: &dyn View) -> Option<Vec<Vec<u8>>> {
        // Directories on the way to what is copied take their mode onto existing ones in these cases.
        if request.parents || !request.exclude.is_empty() {
            return None;
        }
        let target = request.target().path;
        let found = resolve(below, &target, Last::Follow).ok().filter(|found| found.path == target)?;
        // A file is put into a directory that is there.
        let is_directory = found.node.as_ref().is_some_and(Node::is_directory);
        if is_directory && self.entries.iter().any(|entry| entry.path == target && !entry.node.is_directory()) {
            return None;
        }
        let mut existing = Vec::new();
        for entry in &self.entries {
            let Some(node) = below.node(&entry.path).ok()? else { continue };
            if node.is_directory() != entry.node.is_directory() {
                return None;
            }
            if node.is_directory() && self.made.contains(&entry.path) {
                existing.push(entry.path.clone());
            }
        }
        existing.sort_unstable();
        Some(existing)
    }

    /// Takes over the digests of an earlier look at the same sources: the one that made the key. Nothing is read again, so
    /// what is written under the key can be nothing else than what the key was made of.
    ///
    /// Returns the files (source and path) that the earlier look saw and this one does not write: they are gone, or
    /// something else is copied over them.
    ///
    /// # Errors
    /// A file (by its path in its source) or link that the earlier look saw otherwise, or not at all.
    pub fn take_digests(&mut self, earlier: &Recipe) -> Result<Vec<(usize, Vec<u8>)>, Vec<u8>> {
        let links = earlier.links();
        if let Some(link) = self.links().into_iter().find(|link| links.binary_search(link).is_err()) {
            return Err(link.to_vec());
        }
        let read = earlier.all().filter_map(RecipeEntry::read);
        let mut known: BTreeMap<(usize, &[u8]), (&Node, Seen)> =
            read.map(|(file, node)| (file, (node, Seen::Once))).collect();
        for entry in self.entries.iter_mut().chain(&mut self.replaced) {
            let Content::View { source, path } = &entry.content else { continue };
            let changed = || path.clone();
            // A source that is named twice is read twice.
            let (before, seen) = known.get_mut(&(*source, path.as_slice())).ok_or_else(changed)?;
            *seen = Seen::Twice;
            if (before.mode, &before.xattrs) != (entry.node.mode, &entry.node.xattrs) {
                return Err(changed());
            }
            match (&before.kind, &mut entry.node.kind) {
                (Kind::File { size: before, digest }, Kind::File { size, digest: taken }) if before == size => {
                    *taken = *digest;
                }
                _ => return Err(changed()),
            }
        }
        let unseen = known.into_iter().filter(|(_, (_, seen))| *seen == Seen::Once);
        Ok(unseen.map(|((source, path), _)| (source, path.to_vec())).collect())
    }

    /// All that is copied, be it replaced or not.
    pub fn all(&self) -> impl Iterator<Item = &RecipeEntry> {
        self.replaced.iter().chain(&self.entries)
    }

    /// The targets of all symbolic links, sorted.
    fn links(&self) -> Vec<&[u8]> {
        let mut links: Vec<&[u8]> = Vec::new();
        for entry in self.all() {
            if let Kind::Symlink(target) = &entry.node.kind {
                links.push(target);
            }
        }
        links.sort_unstable();
        links
    }

    /// The digest of everything that the copy writes, but times: what a cache is asked for before anything is written.
    ///
    /// # Errors
    /// A file's digest is not filled in.
    pub fn content_key(&self) -> Result<Digest, CopyError> {
        let mut frame = Frame::new("copy.content.v1");
        frame.number("entries", self.entries.len() as u64);
        for entry in &self.entries {
            entry.frame(&mut frame)?;
        }
        if !self.replaced.is_empty() {
            frame.number("replaced", self.replaced.len() as u64);
            for entry in &self.replaced {
                entry.frame(&mut frame)?;
            }
        }
        Ok(frame.finish())
    }
}

/// A copy on its destination.
#[derive(Debug)]
pub struct Placed {
    /// What is written.
    pub recipe: Recipe,
    /// What would have been made and is there already.
    left_out: Vec<RecipeEntry>,
}

impl Placed {
    /// The copy as it was planned without a destination, where everything belonged to root
    /// ([`Recipe::is_all_of_root`]), with the digests that became known since; `added` are the paths that were put into the
    /// recipe besides.
    pub fn taken_back(self, added: &BTreeSet<Vec<u8>>) -> Recipe {
        let Placed { mut recipe, left_out } = self;
        recipe.entries.retain(|entry| !added.contains(&entry.path));
        recipe.entries.extend(left_out);
        recipe.entries.sort_by(|one, other| one.path.cmp(&other.path));
        recipe.give_to((0, 0));
        recipe
    }
}

/// How often a file was met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// By the earlier look alone.
    Once,
    /// By both.
    Twice,
}

impl RecipeEntry {
    /// What is read of a source for it.
    fn read(&self) -> Option<((usize, &[u8]), &Node)> {
        match &self.content {
            Content::View { source, path } => Some(((*source, path), &self.node)),
            Content::None | Content::Inline(_) | Content::HardLink(_) => None,
        }
    }

    fn frame(&self, frame: &mut Frame) -> Result<(), CopyError> {
        frame.bytes("path", &self.path);
        let node = &self.node;
        for (name, number) in [("mode", node.mode), ("uid", node.uid), ("gid", node.gid)] {
            frame.number(name, number.into());
        }
        frame.number("xattrs", node.xattrs.len() as u64);
        for (name, value) in &node.xattrs {
            frame.bytes("name", name).bytes("value", value);
        }
        match (&self.content, &node.kind) {
            (Content::HardLink(target), _) => frame.bytes("hard link", target),
            (Content::Inline(content), _) => frame.digest("file", &Digest::of(content)),
            (_, Kind::File { digest: Some(digest), .. }) => frame.digest("file", digest),
            (_, Kind::File { digest: None, .. }) => return Err(CopyError::DigestMissing { path: shown(&self.path) }),
            (_, Kind::Directory) => frame.text("kind", "directory"),
            (_, Kind::Symlink(target)) => frame.bytes("symlink", target),
            (_, Kind::CharDevice { major, minor }) => device(frame, "char device", *major, *minor),
            (_, Kind::BlockDevice { major, minor }) => device(frame, "block device", *major, *minor),
            (_, Kind::Fifo) => frame.text("kind", "fifo"),
            (_, Kind::Socket) => frame.text("kind", "socket"),
        };
        Ok(())
    }
}

fn device<'a>(frame: &'a mut Frame, kind: &str, major: u32, minor: u32) -> &'a mut Frame {
    frame.text("kind", kind).number("major", major.into()).number("minor", minor.into())
}

/// Where an entry of an archive lands below the directory that the archive is unpacked into. The archive's own root
/// (`.`, `./`) is `None`: it must not change that directory.
pub fn rebase(entry: &[u8], directory: &[u8]) -> Option<Vec<u8>> {
    let entry = clean(entry);
    if entry.is_empty() { None } else { Some(join(directory, &entry)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Time;

    fn file(path: &str, size: u64, digest: Option<&[u8]>) -> RecipeEntry {
        let kind = Kind::File { size, digest: digest.map(Digest::of) };
        let node = Node { kind, mode: 0o644, ..Node::directory(Time::default()) };
        RecipeEntry {
            path: [b"to/", path.as_bytes()].concat(),
            node,
            content: Content::View { source: 0, path: path.into() },
            copy: 1,
        }
    }

    fn link(target: &str) -> RecipeEntry {
        let node = Node { kind: Kind::Symlink(target.into()), ..Node::directory(Time::default()) };
        RecipeEntry { path: b"to/link".to_vec(), node, content: Content::None, copy: 1 }
    }

    fn recipe(entries: &[RecipeEntry]) -> Recipe {
        Recipe { entries: entries.to_vec(), ..Recipe::default() }
    }

    #[test]
    fn a_second_look_takes_the_digests_of_the_first_and_finds_every_difference() {
        let first = recipe(&[file("a", 1, Some(b"a")), file("b", 1, Some(b"b")), link("x")]);
        let mut same = recipe(&[file("b", 1, None), file("a", 1, None), link("x")]);
        assert_eq!(same.take_digests(&first), Ok(Vec::new()));
        assert_eq!(same.entries[0], first.entries[1]);
        let mut fewer = recipe(&[file("a", 1, None)]);
        assert_eq!(fewer.take_digests(&first), Ok(vec![(0, b"b".to_vec())]));
        let mut mode = file("a", 1, None);
        mode.node.mode = 0o755;
        let differing = [(file("c", 1, None), "c"), (file("a", 2, None), "a"), (mode, "a"), (link("y"), "y")];
        for (entry, named) in differing {
            assert_eq!(recipe(&[entry]).take_digests(&first), Err(named.as_bytes().to_vec()));
        }
    }
}
