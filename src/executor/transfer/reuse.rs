//! An edit of one file in a hundred thousand costs one file: all others are taken from the layer that the copy made before.
//!
//! Contract: the layer is the one that would be written without any history, byte for byte. That holds because both are
//! written from equal entries (header and digest of the content) by the same rules ([`DIALECT`]), and because an entry is
//! as long as those rules say, so it is known where it lies in the earlier tar. Whatever is not plain (hard links, parents
//! without entries) is written anew, as is everything where much has changed.

use std::io;
use std::ops::Range;

use rayon::prelude::*;

use super::write::write_entries;
use crate::digest::Digest;
use crate::executor::ExecuteError;
use crate::executor::copy::{Content, CopySource, RecipeEntry};
use crate::executor::step::Work;
use crate::layer::index::{Index, IndexEntry, Item, Present, index_tar};
use crate::layer::splice::{Piece, Splice};
use crate::layer::write::{self, TarWriter, entry_length};
use crate::tree::{self, Kind, Node};

/// Bytes of new entries, headers and all, beyond which a layer is written whole: they are held in memory.
const MOST_NEW: u64 = 8 << 20;
/// Runs of entries beyond which a layer is written whole: each costs a place in the list of pieces.
const MOST_RUNS: usize = 10_000;

/// The layer that a copy made before.
pub(super) struct Earlier {
    pub(super) layer: Digest,
    pub(super) index: Index,
}

/// A layer that is put together.
pub(super) struct Reused {
    pub(super) base: Digest,
    pub(super) splice: Splice,
    pub(super) index: Index,
}

impl Work<'_> {
    /// Puts a recipe together from an earlier layer; `None` where it has to be written whole, which also tells best what
    /// is wrong with a file that cannot be read now.
    pub(super) fn reuse(
        &self,
        earlier: Earlier,
        entries: &[RecipeEntry],
        sources: &[CopySource<'_>],
    ) -> Result<Option<Reused>, ExecuteError> {
        let layers = self.services.layers;
        let Some((base, record)) = layers.patch_base(&earlier.layer)? else { return Ok(None) };
        let Earlier { layer, index } = earlier;
        let index = if base == layer {
            Some(index)
        } else {
            // One list of a hundred thousand entries at a time.
            drop(index);
            layers.read_index(&base)
        };
        Ok(index.and_then(|index| {
            let (splice, index) = put_together(index, record.size, entries, sources)?.ok()?;
            Some(Reused { base, splice, index })
        }))
    }
}

/// The new layer as pieces of the earlier one, and its index; `None` where it has to be written whole.
fn put_together(
    index: Index,
    size: u64,
    entries: &[RecipeEntry],
    sources: &[CopySource<'_>],
) -> Option<io::Result<(Splice, Index)>> {
    let starts = starts(&index, size)?;
    let runs = runs(&index, size, entries)?;
    let made = || {
        let mut pieces = Vec::with_capacity(runs.len() + 1);
        let mut kept = Vec::new();
        for run in runs {
            match run {
                Run::Kept(places) => {
                    let offset = starts[places.start];
                    pieces.push(Piece::Old { offset, length: starts[places.end] - offset });
                    kept.push(places);
                }
                Run::New(numbers) => {
                    let mut tar = TarWriter::new(Vec::new());
                    write_entries(&entries[numbers], sources, &mut tar)?;
                    pieces.push(Piece::New(tar.interrupt()?));
                }
            }
        }
        pieces.push(Piece::New(vec![0; write::END]));
        let splice = Splice::new(pieces)?;
        let (fresh, ..) = index_tar(splice.new_content())?;
        Ok((splice, index.recombined(&kept, fresh)))
    };
    Some(made())
}

/// Entries that follow each other.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    /// These of the earlier layer.
    Kept(Range<usize>),
    /// These of the recipe, which are other or new.
    New(Range<usize>),
}

/// Where each entry begins in a layer's tar, and at last where they end; `None` where that cannot be reckoned.
fn starts(index: &Index, size: u64) -> Option<Vec<u64>> {
    let length = |entry: &IndexEntry| match &entry.item {
        Item::Present(Present { node, opaque: false, implied: false, source: None }) if node.link_group == 0 => {
            entry_length(&entry.path, node).ok()
        }
        Item::Present(_) | Item::Whiteout => None,
    };
    let lengths: Option<Vec<u64>> = index.entries().par_iter().map(length).collect();
    let mut end = 0;
    let mut starts: Vec<u64> = lengths?
        .into_iter()
        .map(|length| {
            let start = end;
            end += length;
            start
        })
        .collect();
    starts.push(end);
    (end + write::END as u64 == size && !index.root_opaque()).then_some(starts)
}

/// What of a recipe the earlier layer has; `None` where that does not pay, or a part of the recipe is not plain.
fn runs(index: &Index, size: u64, entries: &[RecipeEntry]) -> Option<Vec<Run>> {
    if !are_plain(entries) {
        return None;
    }
    let old = index.entries();
    let (mut runs, mut place, mut fresh) = (Vec::new(), 0, 0);
    for (number, entry) in entries.iter().enumerate() {
        place += old[place..].iter().take_while(|old| old.path < entry.path).count();
        let is_kept = old.get(place).is_some_and(|old| is_same(old, entry));
        match (is_kept, runs.last_mut()) {
            (true, Some(Run::Kept(places))) if places.end == place => places.end += 1,
            (true, _) => runs.push(Run::Kept(place..place + 1)),
            (false, Some(Run::New(numbers))) => numbers.end += 1,
            (false, _) => runs.push(Run::New(number..number + 1)),
        }
        if !is_kept {
            fresh += entry_length(&entry.path, &entry.node).ok()?;
        }
        if fresh > MOST_NEW.min(size / 2) || runs.len() > MOST_RUNS {
            return None;
        }
    }
    // Where nothing changed at all, the step's result was lost or is not wanted: it is made from the files themselves.
    (runs != [Run::Kept(0..old.len())]).then_some(runs)
}

/// Whether every entry is written by itself: none is another name of one before it, and each is in a directory of the list.
fn are_plain(entries: &[RecipeEntry]) -> bool {
    let is_directory = |path: &[u8]| {
        let found = entries.binary_search_by(|entry| entry.path.as_slice().cmp(path));
        path.is_empty() || found.is_ok_and(|at| entries[at].node.is_directory())
    };
    let mut last: Option<&[u8]> = None;
    entries.iter().all(|entry| {
        let parent = tree::parent(&entry.path);
        // Most entries are in the directory of the one before.
        let is_known = last.replace(parent) == Some(parent);
        !matches!(entry.content, Content::HardLink(_)) && (is_known || is_directory(parent))
    })
}

/// Whether an entry was written as it would be now. Sub-second times are in no layer, and a link has no mode of its own.
fn is_same(old: &IndexEntry, new: &RecipeEntry) -> bool {
    let Item::Present(Present { node: old_node, .. }) = &old.item else { return false };
    let node = &new.node;
    let is_same_content = match (&old_node.kind, &node.kind) {
        (Kind::File { digest: None, .. }, _) => false,
        (Kind::Symlink(old), Kind::Symlink(new)) => old == new,
        (old, new) => old == new && old_node.mode == node.mode,
    };
    let header = |node: &Node| (node.uid, node.gid, node.mtime.seconds);
    is_same_content && old.path == new.path && header(old_node) == header(node) && old_node.xattrs == node.xattrs
}

#[cfg(test)]
mod tests;
