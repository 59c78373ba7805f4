//! Decompresses layers and archives by what their first bytes say.

use std::io::{self, BufRead, BufReader, Read};

/// A compression that is recognised. Layers are gzip or zstd; archives that ADD unpacks may be any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// gzip (RFC 1952), one member or many.
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

const BUFFER: usize = 128 * 1024;
/// Memory that an xz stream may ask for (KiB): `xz -9` needs 65 MiB.
const XZ_MEMORY: u32 = 96 * 1024;
/// Largest zstd window, as a power of two. Level 19 needs 8 MiB; 128 MiB is zstd's own limit for strangers' data.
const ZSTD_WINDOW: u32 = 27;

/// The compression that these first bytes (six at least) begin; `None` where they begin none.
pub fn detect(prefix: &[u8]) -> Option<Kind> {
    // A zstd skippable frame: 0x184D2A5? in little endian (RFC 8878, 3.1.2).
    let skippable = prefix.len() >= 4 && prefix[0] & 0xf0 == 0x50 && prefix[1..4] == [0x2a, 0x4d, 0x18];
    let table: [(&[u8], Kind); 4] = [
        (b"\x1f\x8b\x08", Kind::Gzip),
        (b"\x28\xb5\x2f\xfd", Kind::Zstd),
        (b"BZh", Kind::Bzip2),
        (b"\xfd7zXZ\0", Kind::Xz),
    ];
    let found = table.iter().find(|(magic, _)| prefix.starts_with(magic)).map(|(_, kind)| *kind);
    found.or(skippable.then_some(Kind::Zstd))
}

/// Decompresses what begins as one of [`Kind`]; anything else passes through.
///
/// # Errors
/// What reading the first bytes reports; later errors come from the reader.
pub fn decompress<'a>(reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let (prefix, rest) = peek(reader)?;
    let kind = detect(&prefix);
    let reader = BufReader::with_capacity(BUFFER, io::Cursor::new(prefix).chain(rest));
    open(kind, reader)
}

fn open<'a>(kind: Option<Kind>, reader: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match kind {
        None => Box::new(reader),
        Some(Kind::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Some(Kind::Zstd) => {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        Some(Kind::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
        Some(Kind::Xz) => Box::new(lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY)),
    })
}

fn peek<R: Read>(mut reader: R) -> io::Result<(Vec<u8>, R)> {
    let mut prefix = Vec::with_capacity(6);
    reader.by_ref().take(6).read_to_end(&mut prefix)?;
    Ok((prefix, reader))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::image::media_type::Compression;
    use crate::layer::compress::Compressor;

    fn compressed(compression: Compression, content: &[u8]) -> Vec<u8> {
        let mut out = Compressor::new(compression, None, Vec::new()).unwrap();
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    fn decompressed(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn with_tool(tool: &str, content: &[u8]) -> Option<Vec<u8>> {
        let mut command = std::process::Command::new(tool);
        command.arg("-c").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().ok()?;
        child.stdin.take()?.write_all(content).ok()?;
        Some(child.wait_with_output().ok()?.stdout)
    }

    #[test]
    fn every_format_is_recognised_and_read() {
        let content = b"some text, some text, some text".repeat(9999);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            assert!(decompressed(&compressed(compression, &content)).unwrap() == content, "{compression:?}");
        }
        for tool in ["gzip", "bzip2", "xz", "zstd"] {
            match with_tool(tool, &content) {
                Some(bytes) => assert!(decompressed(&bytes).unwrap() == content, "{tool}"),
                None => eprintln!("skipped: no {tool} here"),
            }
        }
        assert_eq!(decompressed(b"").unwrap(), b"");
        assert_eq!(decompressed(b"BZ").unwrap(), b"BZ");
    }

    #[test]
    fn several_members_are_one_content() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let twice = [compressed(compression, b"one"), compressed(compression, b"two")].concat();
            assert_eq!(decompressed(&twice).unwrap(), b"onetwo", "{compression:?}");
        }
        let skippable = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..], &compressed(Compression::Zstd, b"x")].concat();
        assert_eq!(decompressed(&skippable).unwrap(), b"x");
    }

    #[test]
    fn a_cut_or_changed_stream_is_an_error() {
        let content = b"0123456789".repeat(2000);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let bytes = compressed(compression, &content);
            for at in [8, bytes.len() / 2, bytes.len() - 1] {
                assert!(decompressed(&bytes[..at]).is_err(), "{compression:?} cut at {at}");
            }
            let mut flipped = bytes.clone();
            let at = bytes.len() - 3;
            flipped[at] ^= 1;
            assert!(decompressed(&flipped).is_err(), "{compression:?} flipped");
        }
    }

    #[test]
    fn a_zstd_window_of_2_gib_is_refused() {
        // Frame header with a window descriptor of 2^31 bytes and no content size (RFC 8878, 3.1.1.1.2).
        let bytes = [&b"\x28\xb5\x2f\xfd"[..], &[0x00, 0xa8, 0x01, 0, 0]].concat();
        assert!(decompressed(&bytes).is_err());
    }

    #[test]
    fn zstd_bytes_do_not_depend_on_write_sizes() {
        let content = b"some other text. ".repeat(400_000);
        let whole = compressed(Compression::Zstd, &content);
        let mut out = Compressor::new(Compression::Zstd, None, Vec::new()).unwrap();
        for piece in content.chunks(7001) {
            out.write_all(piece).unwrap();
            out.flush().unwrap();
        }
        assert!(out.finish().unwrap() == whole);
    }

    #[test]
    fn levels_that_no_format_has_are_refused() {
        for (compression, level) in [(Compression::Gzip, 10), (Compression::Gzip, -1), (Compression::Zstd, 23)] {
            assert!(Compressor::new(compression, Some(level), Vec::new()).is_err(), "{compression:?} {level}");
        }
    }
}
