//! Where a sparse file's data lies: GNU's old format and its PAX formats 0.0, 0.1 and 1.0 (GNU tar manual, "Sparse
//! Formats"). Every map is checked: ordered, without overlap, inside the file.

use super::pax::{decimal, malformed, number};
use super::read::ReadError;

/// A piece of a file that the archive holds; the rest is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The `GNU.sparse.*` records of one extended header.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    major: Option<u64>,
    minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    numbers: Vec<u64>,
    map: bool,
}

/// How the map of a sparse entry is found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// Not sparse.
    None,
    /// The records had it.
    Known(Vec<Extent>),
    /// It stands before the data, as lines of decimal numbers padded to a block.
    InContent,
}

impl SparseRecords {
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), ReadError> {
        match name {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" if value.contains(&0) => return Err(malformed("a name with a NUL byte")),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"offset" | b"numbytes" => {
                self.numbers.push(decimal(value)?);
                self.map = true;
            }
            b"map" => {
                self.numbers = value.split(|byte| *byte == b',').map(decimal).collect::<Result<_, _>>()?;
                self.map = true;
            }
            b"numblocks" => {}
            _ => return Err(malformed("an unknown GNU.sparse record")),
        }
        Ok(())
    }

    pub(super) fn map(&self) -> Result<Map, ReadError> {
        match (self.major, self.minor) {
            (Some(1), Some(0)) => Ok(Map::InContent),
            (None | Some(0), _) if self.map => Ok(Map::Known(pairs(&self.numbers)?)),
            (None, None) if self.real_size.is_none() => Ok(Map::None),
            _ => Err(malformed("a sparse file of an unknown version")),
        }
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Extent>, ReadError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(malformed("a sparse map with an odd number of numbers"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], length: pair[1] }).collect())
}

/// Reads the extents of a block of old GNU format: 24 bytes each, an unused one ends them.
pub(super) fn old_extents(field: &[u8]) -> Result<Vec<Extent>, ReadError> {
    let used = field.chunks_exact(24).take_while(|entry| entry[0] != 0);
    used.map(|entry| Ok(Extent { offset: size(&entry[..12])?, length: size(&entry[12..])? })).collect()
}

/// A size field: not negative.
pub(super) fn size(field: &[u8]) -> Result<u64, ReadError> {
    u64::try_from(number(field)?).map_err(|_| malformed("a negative size"))
}

/// Reads a map in format 1.0 from the text that was collected so far; `None` where more blocks are needed.
pub(super) fn parse_text_map(text: &[u8]) -> Result<Option<Vec<Extent>>, ReadError> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let Some(count) = lines.next() else {
        return if text.len() > 20 { Err(malformed("a sparse map without a count")) } else { Ok(None) };
    };
    let count = usize::try_from(decimal(count)?).ok().and_then(|count| count.checked_mul(2));
    let count = count.ok_or_else(|| malformed("a sparse map that is too large"))?;
    let numbers = lines.take(count).map(decimal).collect::<Result<Vec<u64>, _>>()?;
    if numbers.len() < count { Ok(None) } else { pairs(&numbers).map(Some) }
}

/// Refuses a map that is not ordered, reaches beyond the file, or has not the data that the archive holds.
pub(super) fn check(map: &[Extent], real_size: u64, stored: u64) -> Result<(), ReadError> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for extent in map {
        let next = extent.offset.checked_add(extent.length);
        if extent.offset < end || next.is_none_or(|next| next > real_size) {
            return Err(malformed("a sparse map that overlaps or reaches beyond its file"));
        }
        end = next.unwrap_or(end);
        sum += extent.length;
    }
    if sum == stored { Ok(()) } else { Err(malformed("a sparse map that does not fit its data")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn text_maps_wait_for_their_last_line() {
        assert_eq!(parse_text_map(b"").unwrap(), None);
        assert_eq!(parse_text_map(b"1\n0\n51").unwrap(), None);
        assert_eq!(parse_text_map(b"1\n0\n512\n\0\0").unwrap(), Some(vec![extent(0, 512)]));
        assert!(parse_text_map(b"x\n").is_err());
        assert!(parse_text_map(b"18446744073709551615\n").is_err());
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(check(&[extent(0, 5), extent(10, 5)], 20, 10).is_ok());
        assert!(check(&[extent(10, 5), extent(0, 5)], 20, 10).is_err());
        assert!(check(&[extent(0, 5)], 4, 5).is_err());
        assert!(check(&[extent(u64::MAX, 5)], u64::MAX, 5).is_err());
        assert!(check(&[extent(0, 5)], 20, 4).is_err());
    }
}
