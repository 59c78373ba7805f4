//! Writes chosen files of trees under other names and headers: what COPY from a stage needs, where only a process inside
//! the user namespace can read the files. The list is made where the plan is known and sent here as JSON.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::shown;
use super::write::TarWriter;
use crate::rootfs::RootDir;
use crate::tree::{Kind, Node};

/// One entry to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitEntry {
    /// Which of the trees has the content.
    pub root: usize,
    /// Where it is in that tree, without links on the way; not looked at unless the entry is a regular file.
    #[serde(with = "text")]
    pub source: Vec<u8>,
    /// The path in the layer.
    #[serde(with = "text")]
    pub destination: Vec<u8>,
    /// The header to write; its size is the content's.
    #[serde(with = "record")]
    pub node: Node,
    /// The path in the layer whose other name this is.
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    pub link: Option<Vec<u8>>,
}

/// Writes entries in the order of the list, as one layer.
///
/// # Errors
/// What reading or writing reports, with the source's path.
pub fn emit(roots: &[RootDir], list: &[EmitEntry], out: impl Write) -> io::Result<()> {
    let mut writer = TarWriter::new(out);
    for entry in list {
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot copy {}: {error}", shown(&entry.source)));
        let link = entry.link.as_deref();
        match entry.node.kind {
            Kind::File { .. } if link.is_none() => {
                let mut content = open(roots, entry).map_err(failed)?;
                writer.append(&entry.destination, &entry.node, None, &mut content)
            }
            _ => writer.append(&entry.destination, &entry.node, link, &mut io::empty()),
        }
        .map_err(failed)?;
    }
    writer.finish()?.flush()
}

fn open(roots: &[RootDir], entry: &EmitEntry) -> io::Result<File> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "its tree was not given");
    let root = roots.get(entry.root).ok_or_else(missing)?;
    // Without O_NONBLOCK, a pipe in the file's place would wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = File::from(root.open_without_links(&entry.source, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file any more")) }
}

/// Bytes as JSON text: as they are when they are UTF-8 and do not start with NUL, else NUL and hexadecimal.
mod text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn encode(bytes: &[u8]) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.starts_with('\0') => text.to_owned(),
            _ => std::iter::once("\0".to_owned()).chain(bytes.iter().map(|byte| format!("{byte:02x}"))).collect(),
        }
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        let Some(digits) = text.strip_prefix('\0') else { return Some(text.as_bytes().to_vec()) };
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).ok_or_else(|| D::Error::custom("bytes that are neither text nor hexadecimal"))
    }
}

/// As [`text`], where there may be none.
mod optional_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::text;

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(text::encode).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        text::decode(&text).map(Some).ok_or_else(|| D::Error::custom("bytes that are neither text nor hexadecimal"))
    }
}

/// A header as JSON: the tree's own types stay free of any encoding.
mod record {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::text;
    use crate::tree::{Kind, Node, Time};

    #[derive(Serialize, Deserialize)]
    struct Record {
        kind: char,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        #[serde(default)]
        numbers: (u64, u32),
        mode: u32,
        owner: (u32, u32),
        mtime: (i64, u32),
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        xattrs: BTreeMap<String, String>,
    }

    pub(super) fn serialize<S: Serializer>(node: &Node, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, target, numbers) = match &node.kind {
            Kind::File { size, .. } => ('f', None, (*size, 0)),
            Kind::Directory => ('d', None, (0, 0)),
            Kind::Symlink(target) => ('l', Some(text::encode(target)), (0, 0)),
            Kind::CharDevice { major, minor } => ('c', None, (u64::from(*major), *minor)),
            Kind::BlockDevice { major, minor } => ('b', None, (u64::from(*major), *minor)),
            Kind::Fifo => ('p', None, (0, 0)),
            Kind::Socket => ('s', None, (0, 0)),
        };
        Record {
            kind,
            target,
            numbers,
            mode: node.mode,
            owner: (node.uid, node.gid),
            mtime: (node.mtime.seconds, node.mtime.nanoseconds),
            xattrs: node.xattrs.iter().map(|(name, value)| (text::encode(name), text::encode(value))).collect(),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let record = Record::deserialize(deserializer)?;
        node(record).ok_or_else(|| D::Error::custom("not a file's header"))
    }

    fn node(record: Record) -> Option<Node> {
        let (first, minor) = record.numbers;
        let kind = match record.kind {
            'f' => Kind::File { size: first, digest: None },
            'd' => Kind::Directory,
            'l' => Kind::Symlink(text::decode(&record.target?)?),
            'c' => Kind::CharDevice { major: u32::try_from(first).ok()?, minor },
            'b' => Kind::BlockDevice { major: u32::try_from(first).ok()?, minor },
            'p' => Kind::Fifo,
            's' => Kind::Socket,
            _ => return None,
        };
        let xattrs = record.xattrs.iter().map(|(name, value)| Some((text::decode(name)?, text::decode(value)?)));
        Some(Node {
            kind,
            mode: record.mode,
            uid: record.owner.0,
            gid: record.owner.1,
            mtime: Time { seconds: record.mtime.0, nanoseconds: record.mtime.1 },
            xattrs: xattrs.collect::<Option<_>>()?,
            link_group: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Time;

    fn entry(destination: &[u8], kind: Kind) -> EmitEntry {
        let mut node = Node { kind, ..Node::directory(Time { seconds: -1, nanoseconds: 5 }) };
        node.xattrs.insert(b"user.x".to_vec(), vec![0, 255]);
        EmitEntry { root: 0, source: b"dir/\xff".to_vec(), destination: destination.to_vec(), node, link: None }
    }

    #[test]
    fn a_list_survives_json_whatever_its_bytes() {
        let list = vec![
            entry(b"plain", Kind::File { size: 1 << 40, digest: None }),
            entry(b"\xfe/x", Kind::Symlink(b"\0odd".to_vec())),
            entry("\u{e4}".as_bytes(), Kind::BlockDevice { major: 8, minor: 1 }),
            EmitEntry { link: Some(b"\xfd".to_vec()), ..entry(b"hard", Kind::File { size: 0, digest: None }) },
        ];
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<Vec<EmitEntry>>(&json).unwrap(), list);
    }

    #[test]
    fn a_file_is_written_under_its_new_name_and_header() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "content").unwrap();
        let root = RootDir::open(directory.path()).unwrap();
        let list = [EmitEntry { source: b"a".to_vec(), ..entry(b"new/b", Kind::File { size: 7, digest: None }) }];
        let mut out = Vec::new();
        emit(&[root], &list, &mut out).unwrap();
        let (index, ..) = crate::layer::index::index_tar(out.as_slice()).unwrap();
        let paths: Vec<&[u8]> = index.entries().iter().map(|entry| entry.path.as_slice()).collect();
        assert_eq!(paths, [b"new".as_slice(), b"new/b"]);
    }

    #[test]
    fn a_source_that_became_a_link_or_grew_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("a")).unwrap();
        std::fs::write(directory.path().join("b"), "longer").unwrap();
        let root = [RootDir::open(directory.path()).unwrap()];
        for source in ["a", "b", "none"] {
            let kind = Kind::File { size: 2, digest: None };
            let list = [EmitEntry { source: source.into(), ..entry(b"x", kind) }];
            let error = emit(&root, &list, Vec::new()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot copy {source:?}: ")), "{error}");
        }
    }
}
