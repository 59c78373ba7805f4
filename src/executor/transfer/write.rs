//! A recipe is written as a tar.

use std::io::{self, Read, Write};

use rayon::prelude::*;

use crate::executor::copy::{Content, CopySource, RecipeEntry};
use crate::layer::write::TarWriter;
use crate::tree::Kind;

/// Files up to this size are read ahead, several at a time.
const SMALL: u64 = 128 << 10;
/// Entries that are looked at together, and their bytes: enough to keep all cores opening files.
const AHEAD: usize = 256;
const AHEAD_BYTES: u64 = 4 << 20;

/// Writes a recipe as a tar. Small files are read in parallel: opening them is what takes the time.
pub(in crate::executor) fn write_recipe<W: Write>(
    entries: &[RecipeEntry],
    sources: &[CopySource<'_>],
    out: W,
) -> io::Result<W> {
    let mut tar = TarWriter::new(out);
    write_entries(entries, sources, &mut tar)?;
    tar.finish()
}

/// As [`write_recipe`], into a tar that goes on.
pub(in crate::executor) fn write_entries<W: Write>(
    entries: &[RecipeEntry],
    sources: &[CopySource<'_>],
    tar: &mut TarWriter<W>,
) -> io::Result<()> {
    let mut rest = entries;
    while let Some(chunk) = split_ahead(&mut rest) {
        let small: Vec<Option<io::Result<Vec<u8>>>> =
            chunk.par_iter().with_max_len(16).map(|entry| read_small(entry, sources)).collect();
        for (entry, small) in chunk.iter().zip(small) {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", String::from_utf8_lossy(&entry.path)))
            };
            match (&entry.content, small) {
                (_, Some(content)) => {
                    tar.append(&entry.path, &entry.node, None, &mut content.map_err(named)?.as_slice())?
                }
                (Content::View { source, path }, None) => {
                    let mut content = sources[*source].open(path).map_err(named)?;
                    tar.append(&entry.path, &entry.node, None, &mut content)?;
                }
                (Content::Inline(content), None) => tar.append(&entry.path, &entry.node, None, &mut &content[..])?,
                (Content::HardLink(target), None) => {
                    tar.append(&entry.path, &entry.node, Some(target), &mut io::empty())?
                }
                (Content::None, None) => tar.append(&entry.path, &entry.node, None, &mut io::empty())?,
            }
        }
    }
    Ok(())
}

/// Takes the entries off that are looked at together next; at least one.
fn split_ahead<'a>(rest: &mut &'a [RecipeEntry]) -> Option<&'a [RecipeEntry]> {
    let mut bytes = 0;
    let fits = |entry: &&RecipeEntry| {
        bytes += match entry.node.kind {
            Kind::File { size, .. } if size <= SMALL => size,
            _ => 0,
        };
        bytes <= AHEAD_BYTES
    };
    let count = rest.iter().take(AHEAD).take_while(fits).count();
    rest.split_off(..count.max(1).min(rest.len())).filter(|chunk| !chunk.is_empty())
}

fn read_small(entry: &RecipeEntry, sources: &[CopySource<'_>]) -> Option<io::Result<Vec<u8>>> {
    let (Content::View { source, path }, Kind::File { size, .. }) = (&entry.content, &entry.node.kind) else {
        return None;
    };
    if *size > SMALL {
        return None;
    }
    let read = || {
        let mut content = Vec::with_capacity(usize::try_from(*size).unwrap_or(0));
        // One byte more than there should be, so that the writer sees a file that grew.
        sources[*source].open(path)?.take(size + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    Some(read())
}
