//! A work tree as a tar that depends on nothing but the commit.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::layer::write::TarWriter;
use crate::tree::{Kind, Node, Time, join};

/// Whether `.git` is part of it, at the top and in submodules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GitDirs {
    Keep,
    Drop,
}

/// Writes what is below a directory. Git knows two modes of files, and the umask has no say.
pub(super) fn pack(root: &Path, time: i64, git_dirs: GitDirs, out: &mut dyn Write) -> io::Result<()> {
    let mut packing =
        Packing { root, time: Time { seconds: time, nanoseconds: 0 }, git_dirs, tar: TarWriter::new(out) };
    packing.directory(b"")?;
    packing.tar.finish().map(drop)
}

struct Packing<'a> {
    root: &'a Path,
    time: Time,
    git_dirs: GitDirs,
    tar: TarWriter<&'a mut dyn Write>,
}

impl Packing<'_> {
    fn directory(&mut self, path: &[u8]) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(OsStr::from_bytes(path)))? {
            names.push(entry?.file_name().into_vec());
        }
        names.sort_unstable();
        for name in names {
            if name != b".git" || self.git_dirs == GitDirs::Keep {
                self.entry(&join(path, &name))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &[u8]) -> io::Result<()> {
        let place = self.root.join(OsStr::from_bytes(path));
        let metadata = place.symlink_metadata()?;
        let executable = metadata.mode() & 0o100 != 0;
        let (kind, mode) = match metadata.file_type() {
            kind if kind.is_dir() => (Kind::Directory, 0o755),
            kind if kind.is_symlink() => (Kind::Symlink(fs::read_link(&place)?.into_os_string().into_vec()), 0o777),
            kind if kind.is_file() => {
                (Kind::File { size: metadata.len(), digest: None }, if executable { 0o755 } else { 0o644 })
            }
            _ => return Err(io::Error::other(format!("{} is of a kind that git does not have", place.display()))),
        };
        let node = Node { kind, mode, uid: 0, gid: 0, mtime: self.time, xattrs: BTreeMap::new(), link_group: 0 };
        match &node.kind {
            Kind::File { .. } => self.tar.append(path, &node, None, &mut fs::File::open(&place)?),
            _ => self.tar.append(path, &node, None, &mut io::empty()),
        }?;
        if node.is_directory() { self.directory(path) } else { Ok(()) }
    }
}
