//! What the trees below an upper directory show, by overlayfs's rules.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};

use super::inode::{Inode, Inspector};
use crate::rootfs::RootDir;
use crate::tree::{Kind, Node};

/// The trees below, topmost first.
pub(super) struct Lowers<'a> {
    roots: Vec<&'a RootDir>,
}

/// What shows at one path: what is there, and for a directory which trees have a part in it.
pub(super) struct Below {
    pub(super) root: usize,
    pub(super) inode: Inode,
    pub(super) showing: Vec<usize>,
}

impl<'a> Lowers<'a> {
    pub(super) fn new(roots: Vec<&'a RootDir>) -> Lowers<'a> {
        Lowers { roots }
    }

    /// All trees: those that show in the root.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.roots.len()).collect()
    }

    /// What the trees that show in its directory have at a path. The directory is one in each of them, so the path leads
    /// through no link.
    pub(super) fn find(&self, inspector: &mut Inspector, showing: &[usize], path: &[u8]) -> io::Result<Option<Below>> {
        let mut below: Option<Below> = None;
        for root in showing {
            let Some(inode) = inspector.look(self.roots[*root], path)? else { continue };
            if inode.whiteout {
                break;
            }
            let (directory, opaque) = (inode.node.is_directory(), inode.opaque);
            match &mut below {
                None => below = Some(Below { root: *root, inode, showing: Vec::new() }),
                Some(_) if !directory => break,
                Some(_) => {}
            }
            if !directory {
                break;
            }
            if let Some(below) = &mut below {
                below.showing.push(*root);
            }
            if opaque {
                break;
            }
        }
        Ok(below)
    }

    /// Whether a name of the upper directory is what shows below it: a copy that overlayfs made and nobody changed.
    pub(super) fn same(
        &self,
        upper: &Node,
        below: &Below,
        path: &[u8],
        open: &dyn Fn() -> io::Result<File>,
    ) -> io::Result<bool> {
        if *upper != below.inode.node {
            return Ok(false);
        }
        let Kind::File { .. } = upper.kind else { return Ok(true) };
        let flags = OFlags::RDONLY;
        let lower = File::from(self.roots[below.root].open_without_links(path, flags, Mode::empty())?);
        same_content(open()?, lower)
    }
}

fn same_content(mut one: impl Read, mut other: impl Read) -> io::Result<bool> {
    let (mut first, mut second) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let (count, same) = (fill(&mut one, &mut first)?, fill(&mut other, &mut second)?);
        if first[..count] != second[..same] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
