//! Writes layers: one tar dialect (ustar, PAX where ustar has no room), so equal entries are equal bytes.
//!
//! Contract: names are relative, directories end with `/`, user and group names stay empty, times are whole seconds. It
//! does not sort and does not look at file systems: order is the caller's.

use std::io::{self, BufWriter, Read, Write};

use tar::{EntryType, Header};

use super::{OPAQUE_NAME, WHITEOUT_PREFIX, shown};
use crate::tree::{self, Kind, Node};

/// Says why an entry cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The path is not one that a tree can have.
    #[error("cannot store {path}: not a clean relative path")]
    Path {
        /// The path.
        path: String,
    },
    /// The name would remove something instead of being something.
    #[error("cannot store {path}: names that begin with .wh. mean a removal in an image layer")]
    Reserved {
        /// The path.
        path: String,
    },
    /// A kind that no layer has.
    #[error("cannot store {path}: a socket cannot be in an image layer")]
    Socket {
        /// The path.
        path: String,
    },
    /// A device number that overlayfs or ustar has another use for or no room for.
    #[error("cannot store {path}: device number {major}:{minor} cannot be in an image layer")]
    Device {
        /// The path.
        path: String,
        /// Device numbers.
        major: u32,
        /// Device numbers.
        minor: u32,
    },
    /// The content was not as long as the entry said.
    #[error("{path} changed while it was read: expected {expected} bytes")]
    Changed {
        /// The path.
        path: String,
        /// The size that the header carries.
        expected: u64,
    },
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Names the rules by which entries become bytes. Whoever changes them counts it up: from a list of entries it is reckoned
/// where each lies in a tar that was written earlier.
pub const DIALECT: u32 = 1;

/// Bytes of an archive's end.
pub const END: usize = 2 * BLOCK;

const BLOCK: usize = 512;
/// Largest number in an 8-byte octal field (7 digits).
const MAX_SMALL: u64 = 0o777_7777;
/// Largest number in a 12-byte octal field (11 digits): 8 GiB - 1.
const MAX_LARGE: u64 = 0o777_7777_7777;
const NAME_FIELD: usize = 100;
const PREFIX_FIELD: usize = 155;
const COPY_BUFFER: usize = 256 * 1024;

/// Writes the entries of one layer.
pub struct TarWriter<W: Write> {
    out: BufWriter<W>,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// Starts an archive.
    pub fn new(out: W) -> TarWriter<W> {
        TarWriter { out: BufWriter::with_capacity(128 * 1024, out), buffer: vec![0; COPY_BUFFER] }
    }

    /// Adds an entry. With `link`, it is another name of that entry, and `content` is not read.
    ///
    /// # Errors
    /// A [`WriteError`] (as the inner error), or what reading or writing reports.
    pub fn append(&mut self, path: &[u8], node: &Node, link: Option<&[u8]>, content: &mut dyn Read) -> io::Result<()> {
        check_path(path)?;
        if tree::base_name(path).starts_with(WHITEOUT_PREFIX) {
            return Err(WriteError::Reserved { path: shown(path) }.into());
        }
        let mut draft = Draft::of(path, node)?;
        if let Some(target) = link {
            check_path(target)?;
            draft.entry_type = EntryType::Link;
            draft.size = 0;
            draft.target = Some(target.to_vec());
        } else {
            draft.attributes(node);
        }
        draft.write_to(&mut self.out)?;
        match node.kind {
            Kind::File { size, .. } if link.is_none() => self.copy(path, size, content),
            _ => Ok(()),
        }
    }

    /// Adds the removal of a path that a layer below has.
    ///
    /// # Errors
    /// As [`TarWriter::append`].
    pub fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        check_path(path)?;
        let name = [WHITEOUT_PREFIX, tree::base_name(path)].concat();
        self.marker(&tree::join(tree::parent(path), &name))
    }

    /// Adds the mark that a directory hides what layers below have in it. It follows the directory's own entry.
    ///
    /// # Errors
    /// As [`TarWriter::append`].
    pub fn opaque(&mut self, directory: &[u8]) -> io::Result<()> {
        if !directory.is_empty() {
            check_path(directory)?;
        }
        self.marker(&tree::join(directory, OPAQUE_NAME))
    }

    fn marker(&mut self, path: &[u8]) -> io::Result<()> {
        Draft::marker(path).write_to(&mut self.out)
    }

    /// Gives back what was written so far, without an end: a part of an archive.
    ///
    /// # Errors
    /// What writing reports.
    pub fn interrupt(self) -> io::Result<W> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// Ends the archive with its two zero blocks.
    ///
    /// # Errors
    /// What writing reports.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; END])?;
        self.interrupt()
    }

    fn copy(&mut self, path: &[u8], size: u64, content: &mut dyn Read) -> io::Result<()> {
        let changed = || io::Error::from(WriteError::Changed { path: shown(path), expected: size });
        let mut rest = size;
        while rest > 0 {
            let wanted = self.buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let count = read_some(content, &mut self.buffer[..wanted])?;
            if count == 0 {
                return Err(changed());
            }
            self.out.write_all(&self.buffer[..count])?;
            rest -= count as u64;
        }
        if read_some(content, &mut self.buffer[..1])? != 0 {
            return Err(changed());
        }
        self.out.write_all(&[0; BLOCK][..padding(size)])
    }
}

/// The bytes that an entry takes in an archive, header and padding included.
///
/// # Errors
/// A [`WriteError`] (as the inner error).
pub fn entry_length(path: &[u8], node: &Node) -> io::Result<u64> {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut draft = Draft::of(path, node)?;
    draft.attributes(node);
    let mut count = Count(0);
    draft.write_to(&mut count)?;
    let content = if let Kind::File { size, .. } = node.kind { size + padding(size) as u64 } else { 0 };
    Ok(count.0 + content)
}

fn read_some(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match content.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn check_path(path: &[u8]) -> Result<(), WriteError> {
    let clean = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    if path.split(|byte| *byte == b'/').all(clean) { Ok(()) } else { Err(WriteError::Path { path: shown(path) }) }
}

/// What goes into one header, before it is known which parts need PAX.
struct Draft {
    name: Vec<u8>,
    target: Option<Vec<u8>>,
    entry_type: EntryType,
    size: u64,
    mode: u32,
    uid: u64,
    gid: u64,
    seconds: i64,
    device: Option<(u32, u32)>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Draft {
    fn of(path: &[u8], node: &Node) -> Result<Draft, WriteError> {
        let mut draft = Draft {
            name: path.to_vec(),
            target: None,
            entry_type: EntryType::Regular,
            size: 0,
            mode: node.mode & 0o7777,
            uid: node.uid.into(),
            gid: node.gid.into(),
            seconds: node.mtime.seconds,
            device: None,
            records: Vec::new(),
        };
        match &node.kind {
            Kind::File { size, .. } => draft.size = *size,
            Kind::Directory => {
                draft.entry_type = EntryType::Directory;
                draft.name.push(b'/');
            }
            Kind::Symlink(target) => {
                draft.entry_type = EntryType::Symlink;
                // Linux has no other mode for a link; a constant keeps layers equal whoever made them.
                draft.mode = 0o777;
                draft.target = Some(target.clone());
            }
            Kind::CharDevice { major, minor } => draft.device(EntryType::Char, path, *major, *minor)?,
            Kind::BlockDevice { major, minor } => draft.device(EntryType::Block, path, *major, *minor)?,
            Kind::Fifo => draft.entry_type = EntryType::Fifo,
            Kind::Socket => return Err(WriteError::Socket { path: shown(path) }),
        }
        Ok(draft)
    }

    fn marker(path: &[u8]) -> Draft {
        Draft {
            name: path.to_vec(),
            target: None,
            entry_type: EntryType::Regular,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            seconds: 0,
            device: None,
            records: Vec::new(),
        }
    }

    fn device(&mut self, entry_type: EntryType, path: &[u8], major: u32, minor: u32) -> Result<(), WriteError> {
        let whiteout = entry_type == EntryType::Char && (major, minor) == (0, 0);
        if whiteout || u64::from(major.max(minor)) > MAX_SMALL {
            return Err(WriteError::Device { path: shown(path), major, minor });
        }
        self.entry_type = entry_type;
        self.device = Some((major, minor));
        Ok(())
    }

    fn attributes(&mut self, node: &Node) {
        for (name, value) in &node.xattrs {
            self.records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
    }

    fn write_to(mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.entry_type);
        header.set_mode(self.mode);
        self.name_fields(&mut header);
        self.number_fields(&mut header)?;
        if !self.records.is_empty() {
            self.write_records(out)?;
        }
        header.set_cksum();
        out.write_all(header.as_bytes())
    }

    fn name_fields(&mut self, header: &mut Header) {
        if let Some((prefix, name)) = split_name(&self.name) {
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            if let Some(ustar) = header.as_ustar_mut() {
                ustar.prefix[..prefix.len()].copy_from_slice(prefix);
            }
        } else {
            put_ascii(&mut header.as_old_mut().name, &self.name);
            self.records.push((b"path".to_vec(), self.name.clone()));
        }
        let Some(target) = &self.target else { return };
        put_ascii(&mut header.as_old_mut().linkname, target);
        if !target.is_ascii() || target.len() > NAME_FIELD {
            self.records.push((b"linkpath".to_vec(), target.clone()));
        }
    }

    fn number_fields(&mut self, header: &mut Header) -> io::Result<()> {
        let (uid, gid, size) = (self.uid, self.gid, self.size);
        header.set_uid(self.field("uid", uid, MAX_SMALL));
        header.set_gid(self.field("gid", gid, MAX_SMALL));
        header.set_size(self.field("size", size, MAX_LARGE));
        match u64::try_from(self.seconds) {
            Ok(seconds) if seconds <= MAX_LARGE => header.set_mtime(seconds),
            _ => {
                header.set_mtime(0);
                self.records.push((b"mtime".to_vec(), self.seconds.to_string().into_bytes()));
            }
        }
        if let Some((major, minor)) = self.device {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        Ok(())
    }

    /// The number for the header's field; 0 where it has no room and a record carries it.
    fn field(&mut self, name: &str, value: u64, most: u64) -> u64 {
        if value <= most {
            return value;
        }
        self.records.push((name.as_bytes().to_vec(), value.to_string().into_bytes()));
        0
    }

    fn write_records(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.records.sort();
        let body: Vec<u8> = self.records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let name = self.name.strip_suffix(b"/").unwrap_or(&self.name);
        let name = tree::join(tree::parent(name), &[b"PaxHeaders.0/", tree::base_name(name)].concat());
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        put_ascii(&mut header.as_old_mut().name, &name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(body.len() as u64);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        out.write_all(&body)?;
        out.write_all(&[0; BLOCK][..padding(body.len() as u64)])
    }
}

/// The ustar prefix and name of a path, where it has room and is ASCII (POSIX pax, "ustar Interchange Format").
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= NAME_FIELD {
        return Some((b"", name));
    }
    let body = name.strip_suffix(b"/").unwrap_or(name);
    let first = name.len().checked_sub(NAME_FIELD + 1)?;
    let cut = (first..body.len().min(PREFIX_FIELD + 1)).find(|at| body[*at] == b'/' && *at > 0)?;
    Some((&name[..cut], &name[cut + 1..]))
}

/// Fills a field for readers that know no PAX: cut, and without what is not ASCII.
fn put_ascii(field: &mut [u8], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = if from.is_ascii() { *from } else { b'_' };
    }
}

/// One PAX record; its length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Time;

    fn file(size: u64) -> Node {
        Node { kind: Kind::File { size, digest: None }, ..Node::directory(Time::default()) }
    }

    fn error_of(path: &[u8], node: &Node, content: &[u8]) -> String {
        TarWriter::new(Vec::new()).append(path, node, None, &mut { content }).unwrap_err().to_string()
    }

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record(b"path", b"a"), b"9 path=a\n");
        assert_eq!(record(b"path", b"ab"), b"11 path=ab\n");
        assert_eq!(record(b"pat", b"a"), b"8 pat=a\n");
        for size in 80..110 {
            let text = record(b"k", &vec![b'v'; size]);
            let said: usize = std::str::from_utf8(&text).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, text.len());
        }
    }

    #[test]
    fn content_that_grew_or_shrank_names_its_path() {
        assert_eq!(error_of(b"a/b", &file(3), b"ab"), "\"a/b\" changed while it was read: expected 3 bytes");
        assert!(error_of(b"a/b", &file(3), b"abcd").contains("changed while it was read"));
    }

    #[test]
    fn the_length_of_an_entry_is_what_it_takes() {
        let long = vec![b'n'; 300];
        let mut attributes = file(7);
        attributes.xattrs.insert(b"user.a".to_vec(), vec![1; 700]);
        let far = Node { mtime: Time { seconds: -1, nanoseconds: 0 }, ..file(512) };
        let link = Node { kind: Kind::Symlink(vec![b't'; 150]), ..file(0) };
        let directory = Node::directory(Time::default());
        for path in [b"a".as_slice(), "\u{e4}".as_bytes(), &long] {
            for node in [&file(0), &file(1), &file(513), &attributes, &far, &link, &directory] {
                let size = if let Kind::File { size, .. } = node.kind { size } else { 0 };
                let mut tar = TarWriter::new(Vec::new());
                tar.append(path, node, None, &mut io::repeat(1).take(size)).unwrap();
                assert_eq!(tar.interrupt().unwrap().len() as u64, entry_length(path, node).unwrap(), "{node:?}");
            }
        }
    }

    #[test]
    fn names_that_would_remove_or_escape_are_refused() {
        assert!(error_of(b".wh.x", &file(0), b"").contains(".wh."));
        for path in [b"/a".as_slice(), b"a/", b"a//b", b"../a", b"a/./b", b"", b"a\0b"] {
            assert!(error_of(path, &file(0), b"").contains("not a clean relative path"), "{path:?}");
        }
        let socket = Node { kind: Kind::Socket, ..file(0) };
        assert!(error_of(b"s", &socket, b"").contains("socket"));
        let whiteout = Node { kind: Kind::CharDevice { major: 0, minor: 0 }, ..file(0) };
        assert!(error_of(b"c", &whiteout, b"").contains("0:0"));
    }

    #[test]
    fn long_ascii_names_use_the_prefix_and_no_record() {
        let name = [vec![b'a'; 120], vec![b'/'], vec![b'b'; 90]].concat();
        assert_eq!(split_name(&name), Some((&name[..120], &name[121..])));
        assert_eq!(split_name(&[b'a'; 101]), None);
        let slash = [vec![b'a'; 100], vec![b'/']].concat();
        assert_eq!(split_name(&slash), None);
    }
}
