//! A gzip encoder that compresses blocks in parallel, as pigz does: one member, blocks of 512 KiB that each end on a byte
//! boundary (sync flush) and start with the 32 KiB before them as their dictionary. A block of noise is stored.
//!
//! Blocks are compressed on rayon's pool and written in order; a bounded number is in flight.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

const BLOCK: usize = 512 * 1024;
const DICTIONARY: usize = 32 * 1024;
/// How many samples of a block are tried, and the size of each.
const SAMPLES: usize = 4;
const SAMPLE: usize = 16 * 1024;
/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system: nothing of the machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty last block with fixed codes (RFC 1951, 3.2.6).
const LAST_BLOCK: [u8; 2] = [3, 0];

/// Writes one gzip member.
pub(super) struct GzipWriter<W: Write> {
    out: W,
    level: u32,
    block: Vec<u8>,
    dictionary: Vec<u8>,
    in_flight: VecDeque<Receiver<io::Result<Block>>>,
    most_in_flight: usize,
    crc: Crc,
}

struct Block {
    bytes: Vec<u8>,
    crc: Crc,
}

impl<W: Write> GzipWriter<W> {
    pub(super) fn new(level: u32, mut out: W) -> io::Result<GzipWriter<W>> {
        out.write_all(&HEADER)?;
        Ok(GzipWriter {
            out,
            level,
            block: Vec::with_capacity(BLOCK),
            dictionary: Vec::new(),
            in_flight: VecDeque::new(),
            most_in_flight: 2 * rayon::current_num_threads() + 2,
            crc: Crc::new(),
        })
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.dispatch()?;
        }
        while !self.in_flight.is_empty() {
            self.collect()?;
        }
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        // The size modulo 2^32, as the format has it.
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn dispatch(&mut self) -> io::Result<()> {
        if self.in_flight.len() == self.most_in_flight {
            self.collect()?;
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let dictionary = block[block.len().saturating_sub(DICTIONARY)..].to_vec();
        let dictionary = std::mem::replace(&mut self.dictionary, dictionary);
        let level = self.level;
        let (sender, receiver) = channel();
        rayon::spawn(move || {
            // The receiver is gone when the writer was dropped early: nobody wants the block then.
            let _ = sender.send(compress(level, &dictionary, &block));
        });
        self.in_flight.push_back(receiver);
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(receiver) = self.in_flight.pop_front() else { return Ok(()) };
        let block = wait(&receiver)?;
        self.crc.combine(&block.crc);
        self.out.write_all(&block.bytes)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        if self.block.len() == BLOCK {
            self.dispatch()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for a block. On a thread of the pool it works meanwhile: in a pool of one, nobody else would.
fn wait(receiver: &Receiver<io::Result<Block>>) -> io::Result<Block> {
    let gone = || io::Error::other("compression was given up");
    loop {
        match receiver.try_recv() {
            Ok(block) => return block,
            Err(TryRecvError::Disconnected) => return Err(gone()),
            Err(TryRecvError::Empty) => {}
        }
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            return receiver.recv().map_err(|_| gone())?;
        }
    }
}

fn compress(level: u32, dictionary: &[u8], block: &[u8]) -> io::Result<Block> {
    let level = if is_noise(block)? { 0 } else { level };
    let bytes = deflate(level, dictionary, block)?;
    let mut crc = Crc::new();
    crc.update(block);
    Ok(Block { bytes, crc })
}

/// Whether samples of a block say that it cannot be compressed, as most of what is compressed or encrypted already: to
/// search it for repetitions takes as long as for text, and finds none.
fn is_noise(block: &[u8]) -> io::Result<bool> {
    let distance = block.len() / SAMPLES;
    if distance < SAMPLE {
        return Ok(false);
    }
    for sample in block.chunks(distance).take(SAMPLES) {
        let sample = &sample[..SAMPLE];
        if deflate(1, &[], sample)?.len() < SAMPLE - SAMPLE / 64 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The deflate blocks of some bytes, up to a byte boundary.
fn deflate(level: u32, dictionary: &[u8], block: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Compress::new(Compression::new(level), false);
    if !dictionary.is_empty() {
        encoder.set_dictionary(dictionary)?;
    }
    // Deflate's stored blocks bound the growth to five bytes in 16 KiB.
    let mut bytes = Vec::with_capacity(block.len() + block.len() / 1000 + 64);
    loop {
        let read = usize::try_from(encoder.total_in()).unwrap_or(block.len());
        let room = bytes.capacity() - bytes.len();
        let status = encoder.compress_vec(&block[read..], &mut bytes, FlushCompress::Sync)?;
        // A flush is complete when it left room in the buffer (zlib.h, deflate).
        if bytes.len() < bytes.capacity() && status != Status::StreamEnd && encoder.total_in() == block.len() as u64 {
            break;
        }
        bytes.reserve(room.max(4096));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    /// Text that compresses, noise that does not, and zeros, across several blocks.
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

    fn encode(level: u32, content: &[u8], cut: usize) -> Vec<u8> {
        let mut writer = GzipWriter::new(level, Vec::new()).unwrap();
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
        for size in [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12_345] {
            let content = sample(size);
            for level in [0, 1, 6, 9] {
                let mut back = Vec::new();
                GzDecoder::new(encode(level, &content, 100_000).as_slice()).read_to_end(&mut back).unwrap();
                assert!(back == content, "size {size} level {level}");
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_write_sizes() {
        let content = sample(5 * BLOCK + 77);
        let reference = encode(6, &content, content.len());
        for threads in [1, 2, 5] {
            for cut in [1013, 65_536, BLOCK, BLOCK + 1] {
                assert!(
                    pool(threads).install(|| encode(6, &content, cut)) == reference,
                    "{threads} threads, {cut} bytes"
                );
            }
        }
    }

    #[test]
    fn noise_is_stored_and_everything_else_is_compressed() {
        let mut state = 7u64;
        let mut noise: Vec<u8> = Vec::new();
        while noise.len() < BLOCK {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.push((state >> 56) as u8);
        }
        let stored = compress(6, &[], &noise).unwrap().bytes;
        assert_eq!(stored, deflate(0, &[], &noise).unwrap(), "noise was searched");
        for place in 0..SAMPLES {
            let mut mixed = noise.clone();
            mixed[place * BLOCK / SAMPLES..][..SAMPLE].fill(b'x');
            let bytes = compress(6, &[], &mixed).unwrap().bytes;
            assert!(bytes.len() < BLOCK - SAMPLE / 2, "text in quarter {place} was stored");
        }
        assert!(!is_noise(&noise[..SAMPLES * SAMPLE - 1]).unwrap(), "too short to be sampled");
    }

    #[test]
    fn the_header_names_no_machine_and_no_time() {
        assert_eq!(encode(6, b"", 1), [&HEADER[..], &LAST_BLOCK, &[0; 8]].concat());
    }
}
