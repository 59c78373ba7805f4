//! Compresses layers. The bytes depend on the content, the format and the level alone: not on threads, not on how the
//! content was cut into writes, not on the machine.

use std::io::{self, Write};

use super::gzip::{self, GzipWriter};
use super::members::ReadyMembers;
use crate::image::media_type::Compression;

/// BuildKit's level for zstd.
const ZSTD_LEVEL: i32 = 3;
/// Threads of one zstd stream; more would cost memory (4 MiB each) and find no work at layer sizes.
const ZSTD_THREADS: usize = 4;
/// The same at the fastest levels: two threads compress more than is read and digested in the time.
const FAST_ZSTD_THREADS: usize = 2;
/// Bytes that one thread compresses at a time. zstd's own choice is four windows, 8 MiB at level 3, of which it keeps a dozen
/// buffers: 95 MiB with two threads.
const ZSTD_JOB: u32 = 2 << 20;

/// Which generation of an encoder makes a compression here: it goes up by one when the bytes change, with another version of a
/// library, say. What is not compressed has none.
pub fn generation(compression: Compression) -> Option<u32> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some(3),
        Compression::Zstd => Some(2),
    }
}

/// The highest level that a compression has; 0 is the lowest. What is not compressed has none.
pub fn highest_level(compression: Compression) -> Option<i32> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some(9),
        Compression::Zstd => Some(22),
    }
}

/// Compresses what is written to it.
pub struct Compressor<W: Write>(Encoder<W>);

enum Encoder<W: Write> {
    None(W),
    Gzip(Box<GzipWriter<W>>),
    Zstd(Box<zstd::Encoder<'static, W>>),
}

impl<W: Write> Compressor<W> {
    /// Starts a stream; without a level, gzip 4 (which compresses as BuildKit's 6 does) and zstd 3. Levels go from 0 to 9 for gzip, to 22 for zstd.
    ///
    /// # Errors
    /// A level that the format has not, or what writing reports.
    pub fn new(compression: Compression, level: Option<i32>, out: W) -> io::Result<Compressor<W>> {
        if let (Some(level), Some(most)) = (level, highest_level(compression))
            && !(0..=most).contains(&level)
        {
            let text = format!("invalid compression level {level}: expected 0 to {most}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Compressor(match compression {
            Compression::None => Encoder::None(out),
            Compression::Gzip => Encoder::Gzip(Box::new(GzipWriter::new(level.unwrap_or(gzip::DEFAULT_LEVEL), out))),
            Compression::Zstd => {
                let level = level.unwrap_or(ZSTD_LEVEL);
                let mut encoder = zstd::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                // One thread gives the same bytes as many, but none at all gives others (zstd.h, ZSTD_c_nbWorkers).
                let most = if level <= 1 { FAST_ZSTD_THREADS } else { ZSTD_THREADS };
                let threads = std::thread::available_parallelism().map_or(1, usize::from).min(most);
                encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
                encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB))?;
                Encoder::Zstd(Box::new(encoder))
            }
        }))
    }

    /// The same with gzip members that need not be made. They have to be those that would be.
    pub fn with_ready(self, ready: ReadyMembers) -> Compressor<W> {
        Compressor(match self.0 {
            Encoder::Gzip(encoder) => Encoder::Gzip(Box::new(encoder.with_ready(ready))),
            other => other,
        })
    }

    /// Ends the stream and gives back what it wrote to.
    ///
    /// # Errors
    /// What writing reports.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Encoder::None(mut out) => {
                out.flush()?;
                Ok(out)
            }
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Encoder::None(out) => out.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Does nothing: a flush would cut blocks where the caller happened to flush, and change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
