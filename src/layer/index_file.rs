//! An [`Index`] as bytes: `magic, version, crc32, length`, then the entries with shared path prefixes left out.
//!
//! Contract: reading gives back what was written or an error; a file that was cut, flipped or made by another version is
//! an error, never another index. The check is against damage, not against an attacker.

use std::collections::BTreeMap;
use std::io;

use flate2::Crc;

use super::index::{Index, IndexEntry, Item, Present};
use super::invalid;
use crate::digest::Digest;
use crate::tree::{Kind, Node, Time};

const MAGIC: &[u8; 8] = b"rbindex\n";
const VERSION: u32 = 2;
/// The same, but that nothing says whether the tar is straight.
const FIRST_VERSION: u32 = 1;
const HEADER: usize = 24;

const ROOT_OPAQUE: u64 = 1;
const STRAIGHT: u64 = 2;

const WHITEOUT: u8 = 0;
const FILE: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const CHAR: u8 = 4;
const BLOCK: u8 = 5;
const FIFO: u8 = 6;
const SOCKET: u8 = 7;

const OPAQUE: u8 = 1;
const IMPLIED: u8 = 2;
const LINKED: u8 = 4;
const SOURCE: u8 = 8;
const XATTRS: u8 = 16;
const DIGEST: u8 = 32;

impl Index {
    /// The index as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Body(Vec::with_capacity(HEADER + self.entries.len() * 72));
        body.0.extend_from_slice(&[0; HEADER]);
        let flags = [(self.root_opaque, ROOT_OPAQUE), (self.straight, STRAIGHT)];
        body.number(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        body.number(self.kept.len() as u64);
        for (path, content) in &self.kept {
            body.bytes(path);
            body.bytes(content);
        }
        body.number(self.entries.len() as u64);
        let mut last: &[u8] = b"";
        for entry in &self.entries {
            let shared = last.iter().zip(&entry.path).take_while(|(one, other)| one == other).count();
            body.number(shared as u64);
            body.bytes(&entry.path[shared..]);
            body.item(&entry.item);
            last = &entry.path;
        }
        let mut bytes = body.0;
        // What precedes the body is known once the body is.
        let (checksum, length) = (checksum(&bytes[HEADER..]), (bytes.len() - HEADER) as u64);
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes[16..HEADER].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Reads what [`Index::to_bytes`] gave.
    ///
    /// # Errors
    /// `InvalidData` for anything else.
    pub fn read_from(bytes: &[u8]) -> io::Result<Index> {
        let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(|| bad("it is cut"))?;
        let versions = [FIRST_VERSION, VERSION].map(u32::to_le_bytes);
        if &header[..8] != MAGIC || !versions.iter().any(|version| *version == header[8..12]) {
            return Err(bad("it is of another version"));
        }
        if header[16..24] != (body.len() as u64).to_le_bytes() || header[12..16] != checksum(body).to_le_bytes() {
            return Err(bad("its checksum is wrong"));
        }
        let mut cursor = Cursor(body);
        let flags = cursor.number()?;
        if flags & !(ROOT_OPAQUE | STRAIGHT) != 0 {
            return Err(bad("it says what nobody knows"));
        }
        let (root_opaque, straight) = (flags & ROOT_OPAQUE != 0, flags & STRAIGHT != 0);
        let mut kept = BTreeMap::new();
        for _ in 0..cursor.number()? {
            kept.insert(cursor.bytes()?.to_vec(), cursor.bytes()?.to_vec());
        }
        let entries = cursor.entries()?;
        match cursor.0 {
            [] => Ok(Index { entries, kept, root_opaque, straight }),
            _ => Err(bad("it has too many bytes")),
        }
    }
}

fn bad(reason: &str) -> io::Error {
    invalid(format!("cannot use layer index: {reason}"))
}

fn checksum(body: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(body);
    crc.sum()
}

struct Body(Vec<u8>);

impl Body {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn item(&mut self, item: &Item) {
        let Item::Present(Present { node, opaque, implied, source }) = item else {
            self.0.push(WHITEOUT);
            return;
        };
        self.0.push(match &node.kind {
            Kind::File { .. } => FILE,
            Kind::Directory => DIRECTORY,
            Kind::Symlink(_) => SYMLINK,
            Kind::CharDevice { .. } => CHAR,
            Kind::BlockDevice { .. } => BLOCK,
            Kind::Fifo => FIFO,
            Kind::Socket => SOCKET,
        });
        let digest = matches!(node.kind, Kind::File { digest: Some(_), .. });
        let flags = [
            (*opaque, OPAQUE),
            (*implied, IMPLIED),
            (node.link_group != 0, LINKED),
            (source.is_some(), SOURCE),
            (!node.xattrs.is_empty(), XATTRS),
            (digest, DIGEST),
        ];
        self.0.push(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        for number in [node.mode, node.uid, node.gid, node.mtime.nanoseconds] {
            self.number(number.into());
        }
        let seconds = node.mtime.seconds;
        self.number(((seconds << 1) ^ (seconds >> 63)).cast_unsigned());
        match &node.kind {
            Kind::File { size, digest } => {
                self.number(*size);
                self.0.extend(digest.iter().flat_map(|digest| *digest.as_bytes()));
            }
            Kind::Symlink(target) => self.bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.number((*major).into());
                self.number((*minor).into());
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        if node.link_group != 0 {
            self.number(node.link_group);
        }
        if let Some(source) = source {
            self.bytes(source);
        }
        if !node.xattrs.is_empty() {
            self.number(node.xattrs.len() as u64);
            for (name, value) in &node.xattrs {
                self.bytes(name);
                self.bytes(value);
            }
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> io::Result<u8> {
        let (first, rest) = self.0.split_first().ok_or_else(|| bad("it is cut"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(bad("a number is too long"))
    }

    fn small(&mut self) -> io::Result<u32> {
        u32::try_from(self.number()?).map_err(|_| bad("a number is too large"))
    }

    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| bad("it is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = usize::try_from(self.number()?).map_err(|_| bad("a length is too large"))?;
        self.take(length)
    }

    fn entries(&mut self) -> io::Result<Vec<IndexEntry>> {
        let count = self.number()?;
        // An entry has three bytes at least, which bounds what a wrong count can make us reserve.
        let bound = self.0.len() / 3 + 1;
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(bound.min(usize::try_from(count).unwrap_or(bound)));
        for _ in 0..count {
            let shared = usize::try_from(self.number()?).map_err(|_| bad("a length is too large"))?;
            let rest = self.bytes()?;
            let last = entries.last().map_or(&b""[..], |entry| &entry.path);
            let prefix = last.get(..shared).ok_or_else(|| bad("a path is wrong"))?;
            let mut path = Vec::with_capacity(shared + rest.len());
            path.extend_from_slice(prefix);
            path.extend_from_slice(rest);
            if path.as_slice() <= last {
                return Err(bad("its paths are not sorted"));
            }
            let item = self.item()?;
            entries.push(IndexEntry { path, item });
        }
        Ok(entries)
    }

    fn item(&mut self) -> io::Result<Item> {
        let kind = self.byte()?;
        if kind == WHITEOUT {
            return Ok(Item::Whiteout);
        }
        let flags = self.byte()?;
        let has = |flag: u8| flags & flag != 0;
        let (mode, uid, gid, nanoseconds) = (self.small()?, self.small()?, self.small()?, self.small()?);
        let seconds = self.number()?;
        let seconds = (seconds >> 1).cast_signed() ^ -(seconds & 1).cast_signed();
        let kind = self.kind(kind, flags)?;
        let link_group = if has(LINKED) { self.number()? } else { 0 };
        let source = if has(SOURCE) { Some(self.bytes()?.to_vec()) } else { None };
        let mut xattrs = BTreeMap::new();
        if has(XATTRS) {
            for _ in 0..self.number()? {
                xattrs.insert(self.bytes()?.to_vec(), self.bytes()?.to_vec());
            }
        }
        let node = Node { kind, mode, uid, gid, mtime: Time { seconds, nanoseconds }, xattrs, link_group };
        Ok(Item::Present(Present { node, opaque: has(OPAQUE), implied: has(IMPLIED), source }))
    }

    fn kind(&mut self, kind: u8, flags: u8) -> io::Result<Kind> {
        Ok(match kind {
            FILE => {
                let size = self.number()?;
                let digest = if flags & DIGEST == 0 { None } else { Some(self.digest()?) };
                Kind::File { size, digest }
            }
            DIRECTORY => Kind::Directory,
            SYMLINK => Kind::Symlink(self.bytes()?.to_vec()),
            CHAR => Kind::CharDevice { major: self.small()?, minor: self.small()? },
            BLOCK => Kind::BlockDevice { major: self.small()?, minor: self.small()? },
            FIFO => Kind::Fifo,
            SOCKET => Kind::Socket,
            _ => return Err(bad("it has an unknown kind of entry")),
        })
    }

    fn digest(&mut self) -> io::Result<Digest> {
        let bytes = self.take(32)?.try_into().map_err(|_| bad("it is cut"))?;
        Ok(Digest::from_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn present(kind: Kind, seconds: i64) -> Item {
        let mut node = Node { kind, ..Node::directory(Time { seconds, nanoseconds: 7 }) };
        node.uid = u32::MAX - 1;
        node.xattrs.insert(b"user.a".to_vec(), vec![0, 255]);
        node.link_group = 3;
        Item::Present(Present { node, opaque: seconds < 0, implied: seconds > 0, source: Some(b"b".to_vec()) })
    }

    fn sample() -> Index {
        let file = Kind::File { size: u64::MAX, digest: Some(Digest::of(b"x")) };
        let items = [
            (&b"a"[..], present(Kind::Directory, i64::MIN)),
            (b"a/\xff", present(file, i64::MAX)),
            (b"a/b", Item::Whiteout),
            (b"c", present(Kind::Symlink(b"/x\xfe".to_vec()), -1)),
            (b"d", present(Kind::BlockDevice { major: 8, minor: 70_000 }, 0)),
            (b"e", present(Kind::Fifo, 5)),
        ];
        let mut entries: Vec<IndexEntry> =
            items.map(|(path, item)| IndexEntry { path: path.to_vec(), item }).into_iter().collect();
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        let kept = BTreeMap::from([(b"etc/passwd".to_vec(), b"root".to_vec())]);
        Index { entries, kept, root_opaque: true, straight: true }
    }

    #[test]
    fn an_index_of_an_earlier_version_does_not_say_that_its_tar_is_straight() {
        let mut bytes = Index { straight: false, ..sample() }.to_bytes();
        bytes[8..12].copy_from_slice(&FIRST_VERSION.to_le_bytes());
        assert_eq!(Index::read_from(&bytes).unwrap(), Index { straight: false, ..sample() });
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        assert_eq!(Index::read_from(&sample().to_bytes()).unwrap(), sample());
        assert_eq!(Index::read_from(&Index::default().to_bytes()).unwrap(), Index::default());
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = sample().to_bytes();
        for at in 0..bytes.len() {
            assert!(Index::read_from(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(Index::read_from(&flipped).is_err(), "flipped at {at}");
        }
        assert!(Index::read_from(&[bytes, vec![0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn bodies_with_a_right_checksum_but_any_content_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &checksum(&body).to_le_bytes()].concat();
            bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&body);
            if let Ok(index) = Index::read_from(&bytes) {
                prop_assert!(index.entries().is_sorted_by(|one, other| one.path < other.path));
            }
        }
    }
}
