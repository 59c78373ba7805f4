//! Gzip members that need not be compressed again: what an edit leaves of an earlier layer in the form that an output asks
//! for.
//!
//! The encoder (`gzip.rs`) compresses pieces of one size, each to a member of its own, by nothing but its content and the
//! level. So where a new tar has a whole piece of the earlier one at such a place again, the earlier blob has its member.
//! That is so before the edit always, and behind it where the edited file takes as many blocks as before.
//!
//! Contract: the new blob is, byte for byte, what compressing would make, as long as the earlier one is of the same encoder
//! and level, which the caller knows by the blob's name. Memory does not grow with the layer: a member is kept from when its
//! content is read until the piece at its place is compressed.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::GzDecoder;

use super::gzip::PIECE;
use super::invalid;
use super::splice::Place;

/// Members for an encoder, by where their content begins in the tar that it is given.
#[derive(Debug, Clone, Default)]
pub struct ReadyMembers(Arc<Mutex<VecDeque<Member>>>);

#[derive(Debug)]
struct Member {
    /// Where its content begins in the new tar.
    begin: u64,
    compressed: Vec<u8>,
}

impl ReadyMembers {
    fn put(&self, member: Member) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(member);
    }

    /// The member of the piece that begins here. Pieces are asked for in their order.
    pub(super) fn take(&self, begin: u64) -> Option<Vec<u8>> {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while members.pop_front_if(|member| member.begin < begin).is_some() {}
        members.pop_front_if(|member| member.begin == begin).map(|member| member.compressed)
    }
}

/// Decompresses an earlier blob and keeps those members that are of use.
pub struct MemberReader<R> {
    /// Gone once reading failed.
    source: Option<Noting<R>>,
    /// What the current member holds, and how much of it was read.
    content: Vec<u8>,
    at: usize,
    /// Where the next member's content begins in the earlier tar.
    offset: u64,
    /// Which parts of the earlier tar the new one has, in order.
    places: std::iter::Peekable<std::vec::IntoIter<Place>>,
    ready: ReadyMembers,
}

impl<R: BufRead> MemberReader<R> {
    /// Reads a blob whose tar is used at these places of a new one; members go where the encoder of the new tar looks for
    /// them.
    pub fn new(blob: R, places: Vec<Place>, ready: ReadyMembers) -> MemberReader<R> {
        MemberReader {
            source: Some(Noting { blob, read: Vec::new() }),
            content: Vec::with_capacity(PIECE + 1),
            at: 0,
            offset: 0,
            places: places.into_iter().peekable(),
            ready,
        }
    }

    /// Decompresses the next member; there is none where its content is empty.
    fn next_member(&mut self) -> io::Result<()> {
        self.at = 0;
        // What of a damaged one was read is not for anybody.
        let mut content = std::mem::take(&mut self.content);
        content.clear();
        let lost = || invalid("cannot read a layer on after an error".to_owned());
        let mut source = self.source.take().ok_or_else(lost)?;
        while content.is_empty() && !source.fill_buf()?.is_empty() {
            source.read.clear();
            let mut decoder = GzDecoder::new(source).take(PIECE as u64 + 1);
            decoder.read_to_end(&mut content)?;
            source = decoder.into_inner().into_inner();
            if content.len() > PIECE {
                return Err(invalid("a gzip member is longer than those that are made here".to_owned()));
            }
        }
        self.content = content;
        if let Some(begin) = self.new_place() {
            self.ready.put(Member { begin, compressed: std::mem::take(&mut source.read) });
        }
        self.offset += self.content.len() as u64;
        self.source = Some(source);
        Ok(())
    }

    /// Where the new tar has a piece that is this member's content, all of it.
    fn new_place(&mut self) -> Option<u64> {
        let (begin, end) = (self.offset, self.offset + PIECE as u64);
        while self.places.next_if(|place| place.old + place.length < end).is_some() {}
        let place = self.places.peek().filter(|place| place.old <= begin && self.content.len() == PIECE)?;
        Some(place.new + (begin - place.old)).filter(|new| new % PIECE as u64 == 0)
    }
}

impl<R: BufRead> Read for MemberReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.content.len() {
            self.next_member()?;
        }
        let count = buffer.len().min(self.content.len() - self.at);
        buffer[..count].copy_from_slice(&self.content[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Notes what is read.
struct Noting<R> {
    blob: R,
    read: Vec<u8>,
}

impl<R: BufRead> Read for Noting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.read.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Noting<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.blob.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // Whoever consumes has seen at least so much of the buffer, so there is nothing to wait for.
        if let Ok(bytes) = self.blob.fill_buf() {
            self.read.extend_from_slice(&bytes[..count]);
        }
        self.blob.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::image::media_type::Compression;
    use crate::layer::compress::Compressor;
    use crate::layer::splice::{Piece, Splice};

    fn text(size: usize, seed: usize) -> Vec<u8> {
        let words = (seed..).map(|number| format!("{} of the text\n", number * number % 999_983));
        words.flat_map(String::into_bytes).take(size).collect()
    }

    fn compressed(content: &[u8], level: i32, ready: ReadyMembers) -> Vec<u8> {
        let mut out = Compressor::new(Compression::Gzip, Some(level), Vec::new()).unwrap().with_ready(ready);
        // As the chunks of a layer come.
        content.chunks(100_000).for_each(|chunk| out.write_all(chunk).unwrap());
        out.finish().unwrap()
    }

    /// What becomes of an earlier tar of 5½ pieces at these places: the new blob, made at `level` where it is made anew.
    fn edited(level: i32, pieces: Vec<Piece>) -> (Vec<u8>, Vec<u8>) {
        let earlier = text(5 * PIECE + PIECE / 2, 0);
        let blob = compressed(&earlier, 4, ReadyMembers::default());
        let splice = Splice::new(pieces).unwrap();
        let ready = ReadyMembers::default();
        let reader = MemberReader::new(&blob[..], splice.places(), ready.clone());
        let mut tar = splice.read(reader);
        let mut out = Compressor::new(Compression::Gzip, Some(level), Vec::new()).unwrap().with_ready(ready.clone());
        let (mut content, mut chunk) = (Vec::new(), vec![0; 100_000]);
        loop {
            let count = tar.read(&mut chunk).unwrap();
            if count == 0 {
                break;
            }
            out.write_all(&chunk[..count]).unwrap();
            content.extend_from_slice(&chunk[..count]);
            assert!(ready.0.lock().unwrap().len() < 3, "members pile up");
        }
        (out.finish().unwrap(), content)
    }

    fn old(begin: usize, end: usize) -> Piece {
        Piece::Old { offset: begin as u64, length: (end - begin) as u64 }
    }

    fn ways() -> [(Vec<Piece>, usize); 4] {
        let end = 5 * PIECE + PIECE / 2;
        let new = |size| Piece::New(text(size, 7));
        [
            // In the third piece, as long as before.
            (vec![old(0, 2 * PIECE + 512), new(1024), old(2 * PIECE + 1536, end)], 4),
            // Longer than before: nothing behind it is where it was.
            (vec![old(0, 2 * PIECE + 512), new(2048), old(2 * PIECE + 1536, end)], 2),
            // Longer by a piece.
            (vec![old(0, 512), new(PIECE + 1024), old(1536, end)], 4),
            // One piece less, and an edit that ends where a piece does.
            (vec![old(0, PIECE), old(2 * PIECE, 3 * PIECE - 512), new(512), old(3 * PIECE, end)], 3),
        ]
    }

    #[test]
    fn the_blob_is_what_compressing_would_make() {
        for (pieces, _) in ways() {
            let (blob, content) = edited(4, pieces.clone());
            assert!(blob == compressed(&content, 4, ReadyMembers::default()), "{pieces:?}");
        }
    }

    #[test]
    fn what_is_at_its_place_is_not_compressed_again() {
        for (pieces, kept) in ways() {
            // Told by the level: what is made anew here is not compressed at all.
            let (blob, content) = edited(0, pieces);
            let made_anew = content.len() - kept * PIECE;
            assert!((made_anew..made_anew + kept * PIECE / 2).contains(&blob.len()), "{} {kept}", blob.len());
        }
    }

    #[test]
    fn what_was_not_made_here_is_an_error() {
        let foreign = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&text(PIECE + 1, 0)).unwrap();
            encoder.finish().unwrap()
        };
        let blob = compressed(&text(2 * PIECE, 0), 4, ReadyMembers::default());
        let mut flipped = blob.clone();
        flipped[blob.len() / 2] ^= 4;
        for bad in [&foreign[..], &blob[..blob.len() - 1], &flipped, b"no gzip"] {
            let mut reader = MemberReader::new(bad, Vec::new(), ReadyMembers::default());
            assert!(reader.read_to_end(&mut Vec::new()).is_err());
            assert!(reader.read(&mut [0]).is_err(), "it does not go on behind an error");
        }
    }
}
