//! What a copy comes to: a list of entries, and the key of their contents.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::{CopyError, shown};
use crate::digest::{Digest, Frame};
use crate::tree::{Kind, Node, clean, join};

/// What a copy writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The entries, sorted by path, so that parents come first.
    pub entries: Vec<RecipeEntry>,
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

/// The files of one source that have no digest yet.
#[derive(Default)]
struct Wanted {
    /// Their places among the entries.
    places: Vec<usize>,
    files: Vec<(Vec<u8>, Node)>,
}

impl Recipe {
    /// Has the digests of all files filled in that are not known yet. The function gets the number of a source and its
    /// files, all at once, so that it can read them in parallel.
    ///
    /// # Errors
    /// What the function reports.
    pub fn fill_digests(
        &mut self,
        mut digests: impl FnMut(usize, &mut [(Vec<u8>, Node)]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut wanted: BTreeMap<usize, Wanted> = BTreeMap::new();
        for (at, entry) in self.entries.iter().enumerate() {
            if let (Content::View { source, path }, Kind::File { digest: None, .. }) =
                (&entry.content, &entry.node.kind)
            {
                let wanted = wanted.entry(*source).or_default();
                wanted.places.push(at);
                wanted.files.push((path.clone(), entry.node.clone()));
            }
        }
        for (source, Wanted { places, mut files }) in wanted {
            digests(source, &mut files)?;
            for (at, (_, node)) in places.into_iter().zip(files) {
                self.entries[at].node.kind = node.kind;
            }
        }
        Ok(())
    }

    /// Takes over the digests of an earlier look at the same sources: the one that made the key. Nothing is read again, so
    /// what is written under the key can be nothing else than what the key was made of.
    ///
    /// Returns the files (source and path) that the earlier look saw and this one does not write: they are gone, or something else is copied
    /// over them.
    ///
    /// # Errors
    /// A file (by its path in its source) or link that the earlier look saw otherwise, or not at all.
    pub fn take_digests(&mut self, earlier: &Recipe) -> Result<Vec<(usize, Vec<u8>)>, Vec<u8>> {
        let links = earlier.links();
        if let Some(link) = self.links().into_iter().find(|link| links.binary_search(link).is_err()) {
            return Err(link.to_vec());
        }
        let mut known: BTreeMap<(usize, &[u8]), &Node> = earlier.entries.iter().filter_map(RecipeEntry::read).collect();
        for entry in &mut self.entries {
            let Content::View { source, path } = &entry.content else { continue };
            let changed = || path.clone();
            let before = known.remove(&(*source, path)).ok_or_else(changed)?;
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
        Ok(known.into_keys().map(|(source, path)| (source, path.to_vec())).collect())
    }

    /// The targets of all symbolic links, sorted.
    fn links(&self) -> Vec<&[u8]> {
        let mut links: Vec<&[u8]> = Vec::new();
        for entry in &self.entries {
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
        Ok(frame.finish())
    }
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
        }
    }

    fn link(target: &str) -> RecipeEntry {
        let node = Node { kind: Kind::Symlink(target.into()), ..Node::directory(Time::default()) };
        RecipeEntry { path: b"to/link".to_vec(), node, content: Content::None }
    }

    fn recipe(entries: &[RecipeEntry]) -> Recipe {
        Recipe { entries: entries.to_vec(), warnings: Vec::new() }
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
