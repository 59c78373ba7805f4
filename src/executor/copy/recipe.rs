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
        for RecipeEntry { node, content, .. } in &mut self.entries {
            if let (Content::View { source, path }, Kind::File { digest: None, .. }) = (content, &node.kind) {
                wanted.entry(*source).or_default().push((path, node));
            }
        }
        wanted.into_iter().try_for_each(|(source, mut files)| digests(source, &mut files))
    }

    /// Puts a copy that was planned without a destination onto one. `None` where it has to be planned anew: something
    /// that is there changes more than which directories have to be made, or is in the way.
    ///
    /// Planning costs a walk over the sources, and a context is walked for its key already.
    pub fn onto(mut self, request: &CopyRequest, destination: Option<&dyn View>) -> Option<Recipe> {
        if let Some((uid, gid)) = request.owner {
            for entry in &mut self.entries {
                (entry.node.uid, entry.node.gid) = (uid, gid);
            }
        }
        let Some(below) = destination.filter(|_| !request.is_linked()) else { return Some(self) };
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
        let mut fits = true;
        let Recipe { entries, made, .. } = &mut self;
        entries.retain(|entry| {
            let existing = if fits { below.node(&entry.path) } else { Ok(None) };
            let existing = existing.map(|node| node.map(|node| node.is_directory()));
            fits &= match existing {
                Ok(None) => true,
                Ok(Some(is_directory)) => is_directory == entry.node.is_directory(),
                Err(_) => false,
            };
            // Nothing is made where it exists.
            !(matches!(existing, Ok(Some(true))) && made.contains(&entry.path))
        });
        fits.then_some(self)
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
