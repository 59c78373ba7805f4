//! Reads layers and archives: ustar, PAX and GNU headers as entries whose names are clean.
//!
//! Contract: nothing is skipped that another reader would see (except what Docker skips too: AUFS's own files and
//! harmless global records); names never hold `..`; memory is bounded by [`Limits`]. The `tar` crate gives the header's
//! layout; its iterator is not used because it reads extended headers of any size into memory, lets a PAX size and a
//! header size disagree, and knows no PAX times or sparse files.

mod header;

use std::io::{self, Read};

use tar::{EntryType, Header};

pub use self::header::is_tar;
use self::header::{check_sum, device, fill, node};
use super::pax::{Extended, check_global, malformed};
use super::sparse::{self, Extent, Map};
use super::{AUFS_PREFIX, OPAQUE_NAME, WHITEOUT_PREFIX, invalid, shown};
use crate::tree::{self, Kind, Node};

const BLOCK: usize = 512;

/// What one archive may cost its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of content in all, holes of sparse files included.
    pub bytes: u64,
    /// Bytes of one entry's extended headers.
    pub metadata: u64,
    /// Bytes of a name or a link target.
    pub path: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 1_000_000, bytes: 256 << 30, metadata: 1 << 20, path: 4096 }
    }
}

/// Says what is wrong with an archive; it is the inner error of an [`io::Error`] of kind `InvalidData`.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not what the formats allow.
    #[error("malformed tar archive: {reason}")]
    Malformed {
        /// What was found.
        reason: String,
    },
    /// A name that leads out of the root, or that the format gives no meaning.
    #[error("refused tar entry {name}: {reason}")]
    Refused {
        /// The name as it is in the archive.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More than [`Limits`] allow.
    #[error("tar archive exceeds its limit of {limit} {unit}")]
    Limit {
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> io::Error {
        invalid(error)
    }
}

/// What an entry means in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// Itself.
    Plain,
    /// Removes its path from the layers below; this is the path's last component.
    Whiteout(Vec<u8>),
    /// Hides what layers below have in the directory that its path names.
    Opaque,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The clean relative path; of a whiteout the path that it removes, of an opaque mark the directory; empty is the root.
    pub path: Vec<u8>,
    /// The header. A hard link's has kind `File` of size 0; its metadata are those of its target.
    pub node: Node,
    /// The clean relative path whose other name this entry is.
    pub link: Option<Vec<u8>>,
    /// What it means in a layer. In an archive that is no layer (ADD), every entry is what it is called: see
    /// [`TarReader::literal`].
    pub marker: Marker,
}

/// How names that begin with `.wh.` are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Layer,
    Literal,
}

/// Reads entries one after another.
pub struct TarReader<R: Read> {
    inner: R,
    limits: Limits,
    names: Names,
    entries: u64,
    bytes: u64,
    content: Data,
    ended: bool,
}

/// What is left of the current entry's content.
#[derive(Default)]
struct Data {
    name: Vec<u8>,
    map: Vec<Extent>,
    next: usize,
    position: u64,
    size: u64,
    stored: u64,
    padding: u64,
}

#[derive(Default)]
struct Pending {
    extended: Option<Extended>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// Reads a layer with the usual limits.
    pub fn new(inner: R) -> TarReader<R> {
        TarReader::with_limits(inner, Limits::default())
    }

    /// Reads a layer with limits of the caller's.
    pub fn with_limits(inner: R, limits: Limits) -> TarReader<R> {
        let content = Data::default();
        TarReader { inner, limits, names: Names::Layer, entries: 0, bytes: 0, content, ended: false }
    }

    /// Takes names that begin with `.wh.` literally: for archives that are no layers.
    pub fn literal(self) -> TarReader<R> {
        TarReader { names: Names::Literal, ..self }
    }

    /// Gives back what it reads from, just behind the archive's end if that was reached.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; content of the one before that was not read is passed over.
    ///
    /// # Errors
    /// A [`ReadError`] (as the inner error), or what reading reports.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut pending = Pending::default();
        let mut metadata = self.limits.metadata;
        loop {
            self.skip_content()?;
            let Some(header) = self.next_header()? else {
                if pending.extended.is_some() || pending.name.is_some() || pending.link.is_some() {
                    return Err(malformed("an extended header without an entry").into());
                }
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::XHeader => {
                    let body = self.metadata(&header, &mut metadata)?;
                    fill(&mut pending.extended, Extended::parse(&body)?)?;
                }
                EntryType::XGlobalHeader => check_global(&self.metadata(&header, &mut metadata)?)?,
                EntryType::GNULongName => fill(&mut pending.name, self.long_text(&header, &mut metadata)?)?,
                EntryType::GNULongLink => fill(&mut pending.link, self.long_text(&header, &mut metadata)?)?,
                _ => {
                    if let Some(entry) = self.entry(&header, std::mem::take(&mut pending))? {
                        return Ok(Some(entry));
                    }
                    metadata = self.limits.metadata;
                }
            }
        }
    }

    /// The content of the entry that [`TarReader::next_entry`] gave last, holes as zeros.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { reader: self }
    }

    fn next_header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            self.ended = true;
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut second = [0; BLOCK];
            if self.block(&mut second)? && second.iter().any(|byte| *byte != 0) {
                return Err(malformed("a single zero block").into());
            }
            self.ended = true;
            return Ok(None);
        }
        check_sum(&header)?;
        // The others cannot repeat without an entry.
        let extends =
            matches!(header.entry_type(), EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink);
        self.entries += u64::from(!extends);
        if self.entries > self.limits.entries {
            return Err(ReadError::Limit { limit: self.limits.entries, unit: "entries" }.into());
        }
        Ok(Some(header))
    }

    /// Reads a whole block; false at the end of the input.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tar archive ends inside a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn metadata(&mut self, header: &Header, left: &mut u64) -> io::Result<Vec<u8>> {
        let size = sparse::size(&header.as_old().size)?;
        if size > *left {
            let unit = "bytes of extended headers for one entry";
            return Err(ReadError::Limit { limit: self.limits.metadata, unit }.into());
        }
        *left -= size;
        self.content = Data::plain(b"an extended header", size);
        let mut body = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        self.content().read_to_end(&mut body)?;
        Ok(body)
    }

    fn long_text(&mut self, header: &Header, left: &mut u64) -> io::Result<Vec<u8>> {
        let mut text = self.metadata(header, left)?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        text.truncate(end);
        Ok(text)
    }

    /// Makes an entry of a header and what stood before it; `None` where Docker has none either.
    fn entry(&mut self, header: &Header, pending: Pending) -> io::Result<Option<Entry>> {
        let mut extended = pending.extended.unwrap_or_default();
        let sparse_name = extended.sparse.name.take();
        let name = pending.name.or(sparse_name).or_else(|| extended.path.take());
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        let target = pending.link.or_else(|| extended.link.take());
        let target = target.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let path = self.clean_name(&name)?;
        let declared = match extended.size {
            Some(size) => size,
            None => sparse::size(&header.as_old().size)?,
        };
        let (kind, link) = self.kind(header, &name, target, declared)?;
        if let Kind::File { .. } = kind
            && link.is_none()
        {
            self.start_content(header, &name, &extended, declared)?;
        }
        let kind = if let (Kind::File { .. }, None) = (&kind, &link) {
            Kind::File { size: self.content.size, digest: None }
        } else {
            kind
        };
        let node = node(header, kind, extended, &name)?;
        Ok(self.marker(&name, path)?.map(|(path, marker)| Entry { path, node, link, marker }))
    }

    fn clean_name(&self, name: &[u8]) -> Result<Vec<u8>, ReadError> {
        let refused = |reason| Err(ReadError::Refused { name: shown(name), reason });
        if name.len() > self.limits.path {
            return Err(ReadError::Limit { limit: self.limits.path as u64, unit: "bytes in a name" });
        }
        if name.split(|byte| *byte == b'/').any(|part| part == b"..") {
            return refused("its name leads upwards");
        }
        if name.contains(&0) {
            return refused("its name has a NUL byte");
        }
        Ok(tree::clean(name))
    }

    fn kind(&self, header: &Header, name: &[u8], target: Vec<u8>, size: u64) -> io::Result<(Kind, Option<Vec<u8>>)> {
        let refused = |reason| Err(ReadError::Refused { name: shown(name), reason }.into());
        let file = Kind::File { size, digest: None };
        if target.len() > self.limits.path {
            return Err(ReadError::Limit { limit: self.limits.path as u64, unit: "bytes in a link" }.into());
        }
        let kind = match header.as_old().linkflag[0] {
            // Before POSIX, a directory was a file whose name ends with a slash.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => file,
            b'1' => {
                let clean = tree::clean(&target);
                if clean.is_empty() || target.contains(&0) {
                    return refused("it is a hard link to nothing");
                }
                return Ok((Kind::File { size: 0, digest: None }, Some(clean)));
            }
            b'2' if target.is_empty() || target.contains(&0) => return refused("it is a link to nothing"),
            b'2' => Kind::Symlink(target),
            b'3' => match device(header)? {
                (0, 0) => return refused("device 0:0 means a removal to overlayfs"),
                (major, minor) => Kind::CharDevice { major, minor },
            },
            b'4' => {
                let (major, minor) = device(header)?;
                Kind::BlockDevice { major, minor }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return refused("its type is not supported"),
        };
        Ok((kind, None))
    }

    fn start_content(&mut self, header: &Header, name: &[u8], extended: &Extended, stored: u64) -> io::Result<()> {
        self.content = Data::plain(name, stored);
        let map = if header.as_old().linkflag[0] == b'S' {
            let map = self.old_sparse_map(header)?;
            Some((map, sparse::size(&header.as_bytes()[483..495])?))
        } else {
            let real_size = extended.sparse.real_size.unwrap_or(stored);
            match extended.sparse.map()? {
                Map::None => None,
                Map::Known(map) => Some((map, real_size)),
                Map::InContent => Some((self.text_map()?, real_size)),
            }
        };
        if let Some((map, real_size)) = map {
            sparse::check(&map, real_size, self.content.stored)?;
            self.content = Data { map, size: real_size, position: 0, next: 0, ..std::mem::take(&mut self.content) };
        }
        let total = self.bytes.checked_add(self.content.size).filter(|total| *total <= self.limits.bytes);
        self.bytes = total.ok_or(ReadError::Limit { limit: self.limits.bytes, unit: "bytes of content" })?;
        Ok(())
    }

    fn old_sparse_map(&mut self, header: &Header) -> io::Result<Vec<Extent>> {
        let bytes = header.as_bytes();
        let mut map = sparse::old_extents(&bytes[386..482])?;
        let mut more = bytes[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Err(malformed("a sparse map without an end").into());
            }
            map.extend(sparse::old_extents(&block[..504])?);
            more = block[504] != 0;
            if map.len() as u64 * 24 > self.limits.metadata {
                return Err(ReadError::Limit { limit: self.limits.metadata, unit: "bytes of a sparse map" }.into());
            }
        }
        Ok(map)
    }

    fn text_map(&mut self) -> io::Result<Vec<Extent>> {
        let mut text = Vec::new();
        loop {
            if let Some(map) = sparse::parse_text_map(&text)? {
                return Ok(map);
            }
            if self.content.stored < BLOCK as u64 || text.len() as u64 >= self.limits.metadata {
                return Err(malformed("a sparse map without an end").into());
            }
            let mut block = [0; BLOCK];
            self.content().read_exact(&mut block)?;
            text.extend_from_slice(&block);
        }
    }

    fn marker(&self, name: &[u8], path: Vec<u8>) -> Result<Option<(Vec<u8>, Marker)>, ReadError> {
        let base = tree::base_name(&path);
        if self.names == Names::Literal || !path.windows(4).any(|part| part == WHITEOUT_PREFIX) {
            return Ok(Some((path, Marker::Plain)));
        }
        if base == OPAQUE_NAME {
            return Ok(Some((tree::parent(&path).to_vec(), Marker::Opaque)));
        }
        if base.starts_with(AUFS_PREFIX) || path.starts_with(AUFS_PREFIX) {
            return Ok(None);
        }
        let Some(removed) = base.strip_prefix(WHITEOUT_PREFIX) else { return Ok(Some((path, Marker::Plain))) };
        if matches!(removed, b"" | b"." | b"..") {
            return Err(ReadError::Refused { name: shown(name), reason: "it would remove a whole directory" });
        }
        let whole = tree::join(tree::parent(&path), removed);
        Ok(Some((whole, Marker::Whiteout(removed.to_vec()))))
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let content = std::mem::take(&mut self.content);
        let rest = content.stored + content.padding;
        let passed = io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink())?;
        if passed < content.stored { Err(content.cut()) } else { Ok(()) }
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let content = &mut self.content;
        if content.position == content.size || buffer.is_empty() {
            return Ok(0);
        }
        while content.map.get(content.next).is_some_and(|at| content.position >= at.offset + at.length) {
            content.next += 1;
        }
        let room = |until: u64| buffer.len().min(usize::try_from(until - content.position).unwrap_or(usize::MAX));
        let extent = content.map.get(content.next);
        let count = match extent {
            Some(extent) if content.position >= extent.offset => {
                let wanted = room(extent.offset + extent.length);
                let count = self.inner.read(&mut buffer[..wanted])?;
                if count == 0 {
                    return Err(content.cut());
                }
                content.stored -= count as u64;
                count
            }
            hole_before => {
                let count = room(hole_before.map_or(content.size, |extent| extent.offset));
                buffer[..count].fill(0);
                count
            }
        };
        content.position += count as u64;
        Ok(count)
    }
}

impl Data {
    fn plain(name: &[u8], size: u64) -> Data {
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        let map = vec![Extent { offset: 0, length: size }];
        Data { name: name.to_vec(), map, next: 0, position: 0, size, stored: size, padding }
    }

    fn cut(&self) -> io::Error {
        let text = format!("tar archive ends inside {}", shown(&self.name));
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }
}

/// Reads the content of the current entry.
pub struct Content<'a, R: Read> {
    reader: &'a mut TarReader<R>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read_content(buffer)
    }
}
