//! Files of a directory context that are read once, by whoever writes them somewhere and digests them on the way.
//!
//! Contract: what it shows is the context. A digest that [`ReadOnce::learn`] is told enters the stat cache only for the
//! state in which the file was read to its end.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use super::{Content, DirContext};
use crate::context::stat_cache::{Identity, Known, now};
use crate::digest::Digest;
use crate::tree::{Descendants, Node, View};

/// A context, and what was read of it.
#[derive(Debug)]
pub struct ReadOnce<'a> {
    context: &'a DirContext,
    /// The states in which files were read to their end, by a hash of their path; none where a later change might not be
    /// seen. A file of which anything is uncertain (it was read twice; its hash is another's, too) is only read again by the
    /// next build.
    seen: Mutex<Vec<(u64, Option<Identity>)>>,
    hashing: RandomState,
}

impl<'a> ReadOnce<'a> {
    /// A context of which nothing was read yet, and about how many files will be.
    pub fn new(context: &'a DirContext, files: usize) -> ReadOnce<'a> {
        ReadOnce { context, seen: Mutex::new(Vec::with_capacity(files)), hashing: RandomState::new() }
    }

    /// Has the context remember the digests of what was read.
    pub fn learn<'b>(self, files: impl Iterator<Item = (&'b [u8], Digest)>) {
        let cache = &self.context.reader.cache;
        let mut seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        seen.sort_unstable_by_key(|(hash, _)| *hash);
        for (path, digest) in files {
            let hash = self.hashing.hash_one(path);
            let first = seen.partition_point(|(other, _)| *other < hash);
            let mut states = seen[first..].iter().take_while(|(other, _)| *other == hash).map(|(_, state)| state);
            let Some(Some(state)) = states.next() else { continue };
            // Read twice, in two states: which of them has this digest is not known.
            if states.all(|other| other.as_ref() == Some(state)) {
                cache.record(*state, Known { digest, plain: cache.is_plain(state) }, now());
            }
        }
    }

    pub(super) fn saw(&self, path: &[u8], state: Option<Identity>) {
        let hash = self.hashing.hash_one(path);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((hash, state));
    }
}

impl View for ReadOnce<'_> {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        self.context.node(path)
    }

    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.context.names(path)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        let read_at = now();
        let content = self.context.visible_content(path)?;
        let is_certain = !content.opened.is_racy(read_at);
        Ok(Box::new(Noted { content, once: self, is_certain, is_noted: false }))
    }

    fn descendants(&self, path: &[u8], enter: &(dyn Fn(&[u8]) -> bool + Sync)) -> io::Result<Descendants<'_>> {
        self.context.descendants(path, enter)
    }
}

/// The content of a file, whose state is noted when all of it was read.
struct Noted<'a> {
    content: Content,
    once: &'a ReadOnce<'a>,
    /// A later change would be seen.
    is_certain: bool,
    is_noted: bool,
}

impl Read for Noted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        if count == 0 && !buffer.is_empty() && !std::mem::replace(&mut self.is_noted, true) {
            self.once.saw(&self.content.path, self.is_certain.then_some(self.content.opened));
        }
        Ok(count)
    }
}
