//! A gzip encoder that compresses pieces of 512 KiB in parallel. Each piece is a member of its own (RFC 1952, 2.2: members
//! follow each other, and a reader gives their contents as one), so no piece needs what came before it. A piece of noise is
//! stored.
//!
//! libdeflate compresses a piece as a whole: at [`DEFAULT_LEVEL`] twice as fast as zlib-rs at its level 6, and to fewer
//! bytes than Go's compress/gzip at its default, which BuildKit uses. It knows no dictionary; what the first 32 KiB of a
//! piece lose for that is half a percent, which is counted in that comparison.
//!
//! Pieces are compressed on rayon's pool and written in order; a bounded number is in flight.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use libdeflater::{CompressionLvl, Compressor};

const PIECE: usize = 512 * 1024;
/// How many samples of a piece are tried, and the size of each.
const SAMPLES: usize = 4;
const SAMPLE: usize = 16 * 1024;
/// The fastest level that makes no corpus larger than Go's default does (`benches/README.md` has the numbers).
pub(super) const DEFAULT_LEVEL: i32 = 5;

/// Writes gzip members.
pub(super) struct GzipWriter<W: Write> {
    out: W,
    level: i32,
    piece: Vec<u8>,
    /// Whether a piece was handed out: gzip of nothing is one member of nothing.
    has_begun: bool,
    in_flight: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    most_in_flight: usize,
}

impl<W: Write> GzipWriter<W> {
    /// Starts a stream of a level from 0 (stored) to 9.
    pub(super) fn new(level: i32, out: W) -> GzipWriter<W> {
        GzipWriter {
            out,
            level,
            piece: Vec::new(),
            has_begun: false,
            in_flight: VecDeque::new(),
            most_in_flight: 2 * rayon::current_num_threads() + 2,
        }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.piece.is_empty() || !self.has_begun {
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
        self.has_begun = true;
        let piece = std::mem::take(&mut self.piece);
        let level = self.level;
        let (sender, receiver) = channel();
        rayon::spawn(move || {
            // The receiver is gone when the writer was dropped early: nobody wants the piece then.
            let _ = sender.send(compress(level, &piece));
        });
        self.in_flight.push_back(receiver);
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(receiver) = self.in_flight.pop_front() else { return Ok(()) };
        self.out.write_all(&wait(&receiver)?)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(PIECE);
        }
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.dispatch()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for a piece. On a thread of the pool it works meanwhile: in a pool of one, nobody else would.
fn wait(receiver: &Receiver<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
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

fn compress(level: i32, piece: &[u8]) -> io::Result<Vec<u8>> {
    let level = if is_noise(piece)? { 0 } else { level };
    member(level, piece)
}

/// Whether samples of a piece say that it cannot be compressed, as most of what is compressed or encrypted already: to
/// search it for repetitions takes as long as for text, and finds none.
fn is_noise(piece: &[u8]) -> io::Result<bool> {
    let distance = piece.len() / SAMPLES;
    if distance < SAMPLE {
        return Ok(false);
    }
    for sample in piece.chunks(distance).take(SAMPLES) {
        if member(1, &sample[..SAMPLE])?.len() < SAMPLE - SAMPLE / 64 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One gzip member. Its header has no time, no name and no system (libdeflate, `gzip_compress.c`).
fn member(level: i32, content: &[u8]) -> io::Result<Vec<u8>> {
    let level = CompressionLvl::new(level).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut compressor = Compressor::new(level);
    let mut bytes = vec![0; compressor.gzip_compress_bound(content.len())];
    let length = compressor.gzip_compress(content, &mut bytes).map_err(|_| io::ErrorKind::StorageFull)?;
    bytes.truncate(length);
    Ok(bytes)
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
        assert_eq!([1, DEFAULT_LEVEL, 9].map(digest), ["5eb3c5e7c610", "75f8da6a905d", "27c134c641d8"]);
    }

    #[test]
    fn noise_is_stored_and_everything_else_is_compressed() {
        let mut state = 7u64;
        let mut noise: Vec<u8> = Vec::new();
        while noise.len() < PIECE {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.push((state >> 56) as u8);
        }
        assert_eq!(compress(6, &noise).unwrap(), member(0, &noise).unwrap(), "noise was searched");
        for place in 0..SAMPLES {
            let mut mixed = noise.clone();
            mixed[place * PIECE / SAMPLES..][..SAMPLE].fill(b'x');
            let bytes = compress(6, &mixed).unwrap();
            assert!(bytes.len() < PIECE - SAMPLE / 2, "text in quarter {place} was stored");
        }
        assert!(!is_noise(&noise[..SAMPLES * SAMPLE - 1]).unwrap(), "too short to be sampled");
    }

    #[test]
    fn the_header_names_no_machine_and_no_time() {
        let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        assert_eq!(encode(DEFAULT_LEVEL, b"", 1)[..10], header);
        assert_eq!(encode(DEFAULT_LEVEL, b"text", 1)[..10], header);
    }
}
