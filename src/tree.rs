//! A file-system tree as data: what a name in it is, and how a path is resolved within it.
//!
//! A context directory, the merged layers of an image and an unpacked archive are all a [`View`], so COPY, ADD, WORKDIR
//! and user look-ups have one implementation each, and none of them needs a tree on disk. It does no I/O.

mod path_map;

use std::collections::BTreeMap;
use std::io::{self, Read};

pub use path_map::PathMap;

use crate::digest::Digest;

/// What an entry is. A hard link is not a kind: views present each name of a file as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; the digest is of its content, where the view knows it without reading.
    File {
        /// Bytes.
        size: u64,
        /// sha256 of the content.
        digest: Option<Digest>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and its target, as stored.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Device numbers.
        major: u32,
        /// Device numbers.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Device numbers.
        major: u32,
        /// Device numbers.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket (never part of a layer; a COPY from the context turns it into an empty file).
    Socket,
}

/// A time as files have it: seconds since 1970 (may be negative) and nanoseconds (0..1_000_000_000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The rest.
    pub nanoseconds: u32,
}

/// The time of what a reproducible build makes, until the build's own moment takes its place in the image: the moment of
/// a build may be another one for each commit, and what a step is made from must not be. Programs that keep times of
/// files cope with it (zip knows none before 1980); nothing else has it by chance.
pub const STEADY: Time = Time { seconds: 315_705_600, nanoseconds: 0 };

/// Everything that a name in a tree carries besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner inside the image.
    pub uid: u32,
    /// Group inside the image.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes, sorted; names in full (`security.capability`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names of one file that are hard links share this number (unique within a view); 0 = not linked.
    pub link_group: u64,
}

impl Node {
    /// A directory made by rbuild itself: 0755, root, the given time.
    pub fn directory(mtime: Time) -> Node {
        Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: BTreeMap::new(), link_group: 0 }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }
}

/// Paths and what is at them, in order.
pub type Descendants<'a> = Box<dyn Iterator<Item = (Vec<u8>, Node)> + 'a>;

/// A tree that can be asked. Paths are bytes, relative to the root, without leading, trailing or double slashes and
/// without `.` or `..`; the root is the empty path.
pub trait View: Send + Sync {
    /// The node of exactly this name, no link followed; `None` where there is none.
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>>;

    /// The names in a directory, sorted by bytes. Empty where the path is no directory.
    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>>;

    /// The content of a regular file.
    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>>;

    /// Everything below a path, whole paths, sorted by bytes, no link followed. A directory for which `enter` says no
    /// is listed itself, but not what is below it. A view that can read many directories at once has its own.
    fn descendants(&self, path: &[u8], enter: &(dyn Fn(&[u8]) -> bool + Sync)) -> io::Result<Descendants<'_>> {
        let mut found = Vec::new();
        let mut todo = vec![path.to_vec()];
        while let Some(directory) = todo.pop() {
            for name in self.names(&directory)? {
                let path = join(&directory, &name);
                let Some(node) = self.node(&path)? else { continue };
                if node.is_directory() && enter(&path) {
                    todo.push(path.clone());
                }
                found.push((path, node));
            }
        }
        found.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        Ok(Box::new(found.into_iter()))
    }
}

/// What became of the last component of a resolved path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path without any link in it (its last component may be one when links were not to be followed there).
    pub path: Vec<u8>,
    /// What is there; `None` where nothing is: the existing part was resolved, the rest was appended as written.
    pub node: Option<Node>,
}

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// As `stat`.
    Follow,
    /// As `lstat`.
    Keep,
}

/// Links followed on one path before it counts as a loop (the kernel's limit, `path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Resolves a path within a view as a process whose root is the view would: absolute links start at the view's root,
/// `..` never leaves it.
///
/// # Errors
/// More than 40 links (`ELOOP`), a component that is no directory but has something behind it (`ENOTDIR`), or what the
/// view itself reports.
pub fn resolve(view: &dyn View, path: &[u8], last: Last) -> io::Result<Resolved> {
    let mut done: Vec<u8> = Vec::new();
    let mut todo: Vec<Vec<u8>> = components(path);
    todo.reverse();
    let mut links = 0;
    let mut node = view.node(b"")?;
    while let Some(component) = todo.pop() {
        if component == b".." {
            done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            node = view.node(&done)?;
            continue;
        }
        if node.as_ref().is_some_and(|node| !node.is_directory()) {
            let text = format!("{:?} is not a directory", String::from_utf8_lossy(&done));
            return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
        }
        let next = join(&done, &component);
        let found = if node.is_some() { view.node(&next)? } else { None };
        match found {
            Some(Node { kind: Kind::Symlink(target), .. }) if !todo.is_empty() || last == Last::Follow => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if target.first() == Some(&b'/') {
                    done.clear();
                }
                node = view.node(&done)?;
                todo.extend(components(&target).into_iter().rev());
            }
            found => {
                done = next;
                node = found;
            }
        }
    }
    Ok(Resolved { path: done, node })
}

/// The components of a path, without empty ones and `.`; `..` is kept.
pub fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec).collect()
}

/// The path cleaned as Go's `path.Clean("/" + path)` does, without the leading slash: `..` cannot leave the root.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for part in components(path) {
        if part == b".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join(&b'/')
}

/// A directory's path and a name in it.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, name].join(&b'/')
}

/// The directory that holds a path; the empty path's parent is itself.
pub fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}

/// The last component.
pub fn base_name(path: &[u8]) -> &[u8] {
    &path[path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Links(Vec<(&'static str, Option<&'static str>)>);

    impl View for Links {
        fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
            let mut node = Node::directory(Time::default());
            if path.is_empty() {
                return Ok(Some(node));
            }
            Ok(self.0.iter().find(|(name, _)| name.as_bytes() == path).map(|(_, target)| {
                if let Some(target) = target {
                    node.kind = Kind::Symlink(target.as_bytes().to_vec());
                }
                node
            }))
        }

        fn names(&self, _path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
            Ok(Vec::new())
        }

        fn open(&self, _path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn resolution_stays_inside_the_view() {
        let view = Links(vec![
            ("bin", Some("usr/bin")),
            ("usr", None),
            ("usr/bin", None),
            ("x", Some("/../../bin")),
            ("l", Some("l")),
        ]);
        let path = |text: &str, last| {
            resolve(&view, text.as_bytes(), last).map(|found| String::from_utf8(found.path).unwrap())
        };
        assert_eq!(path("/bin/sh", Last::Follow).unwrap(), "usr/bin/sh");
        assert_eq!(path("x/y", Last::Follow).unwrap(), "usr/bin/y");
        assert_eq!(path("../../x", Last::Keep).unwrap(), "x");
        assert_eq!(path("bin/../new/dir", Last::Follow).unwrap(), "usr/new/dir");
        assert_eq!(path("l", Last::Follow).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn cleaning_clamps_at_the_root() {
        assert_eq!(clean(b"/a/./b/../../../c//d/"), b"c/d");
        assert_eq!(clean(b"../.."), b"");
        assert_eq!(parent(b"a/b"), b"a");
        assert_eq!(parent(b"a"), b"");
        assert_eq!(base_name(b"a/b"), b"b");
    }
}
