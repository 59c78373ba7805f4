//! Content digests: the name of everything that rbuild stores, sends or compares.
//!
//! Contract: a [`Digest`] is always a well-formed `sha256:<64 hex>`; a [`Frame`] never gives the same digest for two
//! different lists of fields; a [`VerifyReader`] never lets its caller see the end of bytes that are not the expected
//! ones. It knows nothing of images, files or the network.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Names content by its SHA-256 (OCI image-spec, descriptor.md, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Says why a text is not a digest that rbuild can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {text:?}: expected sha256: and 64 lower-case hexadecimal characters")]
pub struct InvalidDigest {
    /// The text as it was given.
    pub text: String,
}

impl Digest {
    /// Digests bytes that are in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// Makes a digest from its 32 raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal characters, without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(DIGITS[usize::from(byte >> 4)] as char);
            text.push(DIGITS[usize::from(byte & 15)] as char);
        }
        text
    }

    /// The first 12 hexadecimal characters, as people see them in listings.
    pub fn short(&self) -> String {
        let mut text = self.hex();
        text.truncate(12);
        text
    }

    /// Reads the 64 hexadecimal characters that [`Digest::hex`] writes.
    pub fn from_hex(hex: &str) -> Result<Digest, InvalidDigest> {
        let invalid = || InvalidDigest { text: hex.to_owned() };
        let bytes = hex.as_bytes();
        if bytes.len() != 64 {
            return Err(invalid());
        }
        let mut out = [0u8; 32];
        for (byte, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| high << 4 | low).ok_or_else(invalid)?;
        }
        Ok(Digest(out))
    }
}

fn nibble(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Digest, InvalidDigest> {
        let invalid = || InvalidDigest { text: text.to_owned() };
        Digest::from_hex(text.strip_prefix("sha256:").ok_or_else(invalid)?).map_err(|_| invalid())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Digests bytes as they are written to it.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes that were added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Digests a list of typed, named fields so that no two different lists share their bytes.
///
/// Every field is written as kind, name length, name, value length, value (lengths as 64-bit little endian), so moving a
/// byte over a boundary, leaving a field out, or giving an empty one changes the digest. Joining with a separator is
/// how kaniko's cache came to give wrong layers.
#[derive(Clone)]
pub struct Frame {
    hasher: Hasher,
    /// What is not hashed yet: a field is six short pieces, each of which would cost more than its bytes.
    pending: Vec<u8>,
}

/// Bytes of fields that are hashed together.
const FIELDS: usize = 8 * 1024;

impl Frame {
    /// Starts a frame of this kind; kinds carry their version (`rbuild.run.1`).
    pub fn new(kind: &str) -> Frame {
        let mut frame = Frame { hasher: Hasher::new(), pending: Vec::new() };
        frame.put(b'K', "", kind.as_bytes());
        frame
    }

    fn put(&mut self, kind: u8, name: &str, value: &[u8]) {
        self.pending.push(kind);
        self.pending.extend_from_slice(&(name.len() as u64).to_le_bytes());
        self.pending.extend_from_slice(name.as_bytes());
        self.pending.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.pending.extend_from_slice(value);
        if self.pending.len() >= FIELDS {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
    }

    /// Adds bytes.
    pub fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Frame {
        self.put(b'B', name, value);
        self
    }

    /// Adds text.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Frame {
        self.put(b'T', name, value.as_bytes());
        self
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Frame {
        self.put(b'N', name, &value.to_le_bytes());
        self
    }

    /// Adds a digest.
    pub fn digest(&mut self, name: &str, value: &Digest) -> &mut Frame {
        self.put(b'D', name, value.as_bytes());
        self
    }

    /// Adds a text that may be absent; absent and empty differ.
    pub fn optional(&mut self, name: &str, value: Option<&str>) -> &mut Frame {
        match value {
            Some(value) => self.text(name, value),
            None => {
                self.put(b'0', name, b"");
                self
            }
        }
    }

    /// Adds a list; its length is part of the frame.
    pub fn list<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> &mut Frame {
        let values: Vec<&str> = values.into_iter().collect();
        self.put(b'L', name, &(values.len() as u64).to_le_bytes());
        for value in values {
            self.put(b'T', "", value.as_bytes());
        }
        self
    }

    /// The digest of all fields.
    pub fn finish(&self) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pending);
        hasher.finish()
    }
}

/// Passes bytes through and fails at their end unless they are the expected ones.
///
/// A reader that is not read to its end was not verified: callers read until `Ok(0)`.
pub struct VerifyReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: Option<u64>,
    seen: u64,
}

impl<R: Read> VerifyReader<R> {
    /// Expects bytes of this digest and, where it is known, of exactly this size.
    pub fn new(inner: R, expected: Digest, size: Option<u64>) -> VerifyReader<R> {
        VerifyReader { inner, hasher: Some(Hasher::new()), expected, size, seen: 0 }
    }
}

impl<R: Read> Read for VerifyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        if count > 0 {
            self.seen += count as u64;
            if let Some(size) = self.size.filter(|size| self.seen > *size) {
                return invalid(format!("content of {} is longer than its {size} bytes", self.expected));
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
            return Ok(count);
        }
        if let Some(size) = self.size.filter(|size| self.seen != *size) {
            let seen = self.seen;
            return invalid(format!("content of {} ends after {seen} of {size} bytes", self.expected));
        }
        if let Some(found) = self.hasher.take().map(Hasher::finish).filter(|found| *found != self.expected) {
            return invalid(format!("content has digest {found}, expected {}", self.expected));
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_round_trips_through_text() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn digest_refuses_other_algorithms_upper_case_and_wrong_lengths() {
        for text in ["", "sha256:", "sha512:00", "sha256:BA78", &format!("sha256:{}", "A".repeat(64)), &"0".repeat(64)]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn frame_differs_when_bytes_move_over_a_boundary() {
        let one = Frame::new("k").text("a", "bc").text("d", "").finish();
        let two = Frame::new("k").text("a", "b").text("d", "c").finish();
        let three = Frame::new("k").list("a", ["b", "c"]).finish();
        let four = Frame::new("k").list("a", ["bc"]).finish();
        let five = Frame::new("k").optional("a", None).finish();
        let six = Frame::new("k").optional("a", Some("")).finish();
        let all = std::collections::BTreeSet::from([one, two, three, four, five, six]);
        assert_eq!(all.len(), 6);
    }

    /// One thing that is put into a frame; the letters and lengths are few, so that pieces meet in every way.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Piece {
        Text(String, String),
        Number(String, u64),
        Absent(String),
        List(String, Vec<String>),
    }

    fn piece() -> impl proptest::strategy::Strategy<Value = Piece> {
        use proptest::prelude::*;
        let text = || "[ab\0\u{1}]{0,3}";
        prop_oneof![
            (text(), text()).prop_map(|(name, value)| Piece::Text(name, value)),
            (text(), 0u64..300).prop_map(|(name, value)| Piece::Number(name, value)),
            text().prop_map(Piece::Absent),
            (text(), prop::collection::vec(text(), 0..3)).prop_map(|(name, value)| Piece::List(name, value)),
        ]
    }

    fn framed(pieces: &[Piece]) -> Digest {
        let mut frame = Frame::new("p4");
        for piece in pieces {
            match piece {
                Piece::Text(name, value) => frame.text(name, value),
                Piece::Number(name, value) => frame.number(name, *value),
                Piece::Absent(name) => frame.optional(name, None),
                Piece::List(name, values) => frame.list(name, values.iter().map(String::as_str)),
            };
        }
        frame.finish()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

        #[test]
        fn p4_other_fields_make_another_key(
            one in proptest::collection::vec(piece(), 0..4),
            other in proptest::collection::vec(piece(), 0..4),
        ) {
            proptest::prop_assert_eq!(one == other, framed(&one) == framed(&other), "{:?} {:?}", one, other);
        }
    }

    #[test]
    fn verify_reader_refuses_other_bytes_and_other_lengths() {
        let read = |bytes: &[u8], size| {
            let mut out = Vec::new();
            VerifyReader::new(bytes, Digest::of(b"abc"), size).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(b"abc", Some(3)).unwrap(), b"abc");
        assert_eq!(read(b"abc", None).unwrap(), b"abc");
        assert!(read(b"abd", None).is_err());
        assert!(read(b"ab", Some(3)).unwrap_err().to_string().contains("ends after 2 of 3"));
        assert!(read(b"abcd", Some(3)).unwrap_err().to_string().contains("longer"));
    }
}
