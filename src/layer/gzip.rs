//! A gzip encoder that compresses pieces of 512 KiB in parallel. Each piece is a member of its own (RFC 1952, 2.2: members
//! follow each other, and a reader gives their contents as one), so no piece needs what came before it. A piece of noise is
//! stored.
//!
//! A layer above 512 KiB is thus several members, as those of eStargz and bgzip are; Go's, zlib's and Python's readers read
//! it. A reader that stops after the first member (flate2's `GzDecoder`) has to be used in its form for several.
//!
//! libdeflate compresses a piece as a whole: at [`DEFAULT_LEVEL`] twice as fast as zlib-rs at its level 6, and to as few
//! bytes as Go's compress/gzip at its default, which BuildKit uses. It knows no dictionary; what the first 32 KiB of a
//! piece lose for that is half a percent, which is counted in that comparison.
//!
//! Pieces are compressed on rayon's pool and written in order; a bounded number is in flight.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use libdeflater::{CompressionLvl, Compressor};

use super::members::ReadyMembers;

/// Content of each member but the last.
pub(super) const PIECE: usize = 512 * 1024;
/// Pieces that are compressed at a time, however many cores there are: each takes a MiB until the end of the stream.
const MOST_IN_FLIGHT: usize = 16;
/// How many samples of a piece are tried, and the size of each.
const SAMPLES: usize = 4;
const SAMPLE: usize = 16 * 1024;
/// The fastest level that makes no corpus more than a hundredth larger than Go's default does (`benches/README.md` has the
/// numbers).
pub(super) const DEFAULT_LEVEL: i32 = 4;

/// Writes gzip members.
pub(super) struct GzipWriter<W: Write> {
    out: W,
    level: i32,
    piece: Piece,
    /// Bytes of pieces that were handed out. `None`: gzip of nothing is one member of nothing.
    handed_out: Option<u64>,
    ready: ReadyMembers,
    in_flight: VecDeque<Receiver<io::Result<Piece>>>,
    most_in_flight: usize,
    /// Pieces that were written: fresh memory for each would be a page fault for every four KiB.
    spare: Vec<Piece>,
}

/// What is compressed at a time.
#[derive(Default)]
struct Piece {
    content: Vec<u8>,
    /// Room for the member; it begins with `length` bytes of it.
    member: Vec<u8>,
    length: usize,
}

impl<W: Write> GzipWriter<W> {
    /// Starts a stream of a level from 0 (stored) to 9.
    pub(super) fn new(level: i32, out: W) -> GzipWriter<W> {
        GzipWriter {
            out,
            level,
            piece: Piece::default(),
            handed_out: None,
            ready: ReadyMembers::default(),
            in_flight: VecDeque::new(),
            most_in_flight: (rayon::current_num_threads() + 2).min(MOST_IN_FLIGHT),
            spare: Vec::new(),
        }
    }

    /// The same with members that need not be made.
    pub(super) fn with_ready(self, ready: ReadyMembers) -> GzipWriter<W> {
        GzipWriter { ready, ..self }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.piece.content.is_empty() || self.handed_out.is_none() {
            self.dispatch()?;
        }
        while !self.in_flight.is_empty() {
            self.collect()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn dispatch(&mut self) -> io::Result<()> {
        if self.in_flight.len() == self.most_in_flight {
            self.collect()?;
        }
        let offset = self.handed_out.unwrap_or(0);
        self.handed_out = Some(offset + self.piece.content.len() as u64);
        let next = self.spare.pop().unwrap_or_default();
        let mut piece = std::mem::replace(&mut self.piece, next);
        let level = self.level;
        let (sender, receiver) = channel();
        let ready = self.ready.take(offset).filter(|_| piece.content.len() == PIECE);
        // The receiver is gone when the writer was dropped early: nobody wants the piece then.
        match ready {
            Some(member) => {
                (piece.length, piece.member) = (member.len(), member);
                let _ = sender.send(Ok(piece));
            }
            None => rayon::spawn(move || {
                let compressed = piece.compress(level);
                let _ = sender.send(compressed.map(|()| piece));
            }),
        }
        self.in_flight.push_back(receiver);
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(receiver) = self.in_flight.pop_front() else { return Ok(()) };
        let mut piece = wait(&receiver)?;
        self.out.write_all(&piece.member[..piece.length])?;
        piece.content.clear();
        self.spare.push(piece);
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let content = &mut self.piece.content;
        if content.capacity() == 0 {
            content.reserve_exact(PIECE);
        }
        let count = bytes.len().min(PIECE - content.len());
        content.extend_from_slice(&bytes[..count]);
        if content.len() == PIECE {
            self.dispatch()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for a piece. On a thread of the pool it works meanwhile: in a pool of one, nobody else would.
fn wait(receiver: &Receiver<io::Result<Piece>>) -> io::Result<Piece> {
    let gone = || io::Error::other("compression was given up");
    loop {
        match receiver.try_recv() {
            Ok(piece) => return piece,
            Err(TryRecvError::Disconnected) => return Err(gone()),
            Err(TryRecvError::Empty) => {}
        }
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            return receiver.recv().map_err(|_| gone())?;
        }
    }
}

impl Piece {
    fn compress(&mut self, level: i32) -> io::Result<()> {
        let level = if is_noise(&self.content, &mut self.member)? { 0 } else { level };
        self.length = member(level, &self.content, &mut self.member)?;
        Ok(())
    }
}

/// Whether samples of a piece say that it cannot be compressed, as most of what is compressed or encrypted already: to
/// search it for repetitions takes as long as for text, and finds none.
fn is_noise(piece: &[u8], room: &mut Vec<u8>) -> io::Result<bool> {
    let distance = piece.len() / SAMPLES;
    if distance < SAMPLE {
        return Ok(false);
    }
    for sample in piece.chunks(distance).take(SAMPLES) {
        if member(1, &sample[..SAMPLE], room)? < SAMPLE - SAMPLE / 64 {
            return Ok(false);
        }
    }
    Ok(true)
}

thread_local! {
    /// The compressors that this thread has used: to make one takes as long as to compress a sample.
    static COMPRESSORS: RefCell<Vec<(i32, Compressor)>> = const { RefCell::new(Vec::new()) };
}

/// Puts one gzip member at the start of `room` and gives its length. Its header has no time, no name and no system
/// (libdeflate, `gzip_compress.c`).
fn member(level: i32, content: &[u8], room: &mut Vec<u8>) -> io::Result<usize> {
    COMPRESSORS.with_borrow_mut(|compressors| {
        let known = compressors.iter().position(|(of, _)| *of == level);
        let at = match known {
            Some(at) => at,
            None => {
                let valid = CompressionLvl::new(level).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                compressors.push((level, Compressor::new(valid)));
                compressors.len() - 1
            }
        };
        let compressor = &mut compressors[at].1;
        let bound = compressor.gzip_compress_bound(content.len());
        if room.len() < bound {
            room.resize(bound, 0);
        }
        compressor.gzip_compress(content, room).map_err(|_| io::ErrorKind::StorageFull.into())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    /// Text that compresses, noise that does not, and zeros, across several pieces.
    fn sample(size: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (bytes.len() >> 16) % 3 {
                0 => bytes.extend_from_slice(format!("line {} of the text\n", state >> 50).as_bytes()),
                1 => bytes.extend_from_slice(&state.to_le_bytes()),
                _ => bytes.extend_from_slice(&[0; 64]),
            }
        }
        bytes.truncate(size);
        bytes
    }

    fn encode(level: i32, content: &[u8], cut: usize) -> Vec<u8> {
        let mut writer = GzipWriter::new(level, Vec::new());
        for piece in content.chunks(cut) {
            writer.write_all(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    fn compress(level: i32, content: &[u8]) -> Vec<u8> {
        let mut piece = Piece { content: content.to_vec(), ..Piece::default() };
        piece.compress(level).unwrap();
        piece.member[..piece.length].to_vec()
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for size in [0, 1, 511, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 12_345] {
            let content = sample(size);
            for level in [0, 1, DEFAULT_LEVEL, 9] {
                let mut back = Vec::new();
                MultiGzDecoder::new(encode(level, &content, 100_000).as_slice()).read_to_end(&mut back).unwrap();
                assert!(back == content, "size {size} level {level}");
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_write_sizes() {
        let content = sample(5 * PIECE + 77);
        let reference = encode(DEFAULT_LEVEL, &content, content.len());
        for threads in [1, 2, 5] {
            for cut in [1013, 65_536, PIECE, PIECE + 1] {
                assert!(
                    pool(threads).install(|| encode(DEFAULT_LEVEL, &content, cut)) == reference,
                    "{threads} threads, {cut} bytes"
                );
            }
        }
    }

    /// Another version of libdeflate may compress otherwise: every layer would have another digest than before, and users
    /// should be told.
    #[test]
    fn the_compressed_bytes_are_those_of_earlier_releases() {
        let digest = |level| crate::digest::Digest::of(&encode(level, &sample(PIECE + 1000), PIECE)).short();
        assert_eq!([1, DEFAULT_LEVEL, 9].map(digest), ["5eb3c5e7c610", "6f888ad8f19f", "27c134c641d8"]);
    }

    #[test]
    fn noise_is_stored_and_everything_else_is_compressed() {
        let mut state = 7u64;
        let mut noise: Vec<u8> = Vec::new();
        while noise.len() < PIECE {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.push((state >> 56) as u8);
        }
        assert_eq!(compress(6, &noise), compress(0, &noise), "noise was searched");
        for place in 0..SAMPLES {
            let mut mixed = noise.clone();
            mixed[place * PIECE / SAMPLES..][..SAMPLE].fill(b'x');
            assert!(compress(6, &mixed).len() < PIECE - SAMPLE / 2, "text in quarter {place} was stored");
        }
        let short = &noise[..SAMPLES * SAMPLE - 1];
        assert!(!is_noise(short, &mut Vec::new()).unwrap(), "too short to be sampled");
    }

    #[test]
    fn the_header_names_no_machine_and_no_time() {
        let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        assert_eq!(encode(DEFAULT_LEVEL, b"", 1)[..10], header);
        assert_eq!(encode(DEFAULT_LEVEL, b"text", 1)[..10], header);
    }
}
