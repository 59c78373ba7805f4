//! Makes a layer of what a step changed: overlayfs's upper directory, which *is* the difference, or a whole tree.
//!
//! Contract: names come in byte order, a directory before what is in it; a directory's own entry is there only if it is
//! new, opaque, changed or holds a change. What overlayfs copied up but nobody changed is left out, removals are written
//! only of what the trees below show, sockets are left out. Paths longer than the kernel takes (4096 bytes) are an error.
//! Nothing writes to the upper directory meanwhile: the step's processes are gone.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::inode::{Inode, Inspector};
use super::lower::{Below, Lowers};
use super::shown;
use super::write::TarWriter;
use crate::owners::Table;
use crate::rootfs::{self, RootDir};
use crate::tree::{self, Kind, Node};

/// Writes the changes that an upper directory holds, relative to the trees below it (topmost first).
///
/// # Errors
/// What reading the trees or writing reports, with the path.
pub fn pack(upper: &RootDir, lowers: &[RootDir], out: impl Write) -> io::Result<()> {
    pack_with_owners(upper, lowers.iter().collect(), Table::default(), out)
}

/// As [`pack`], of trees some of whose owners are in this table: those of the tables beside all of them.
///
/// # Errors
/// As [`pack`].
pub fn pack_with_owners(upper: &RootDir, lowers: Vec<&RootDir>, owners: Table, out: impl Write) -> io::Result<()> {
    let mut packer = Packer {
        upper,
        lowers: Lowers::new(lowers),
        writer: TarWriter::new(out),
        inspector: Inspector::new(owners),
        links: HashMap::new(),
        stack: Vec::new(),
    };
    packer.run()?;
    packer.writer.finish()?.flush()
}

/// Writes a whole tree.
///
/// # Errors
/// As [`pack`].
pub fn pack_tree(root: &RootDir, out: impl Write) -> io::Result<()> {
    pack(root, &[], out)
}

/// Directories kept open on the way down; those further up are opened again on the way back.
const MAX_OPEN: usize = 64;

struct Packer<'a, W: Write> {
    upper: &'a RootDir,
    lowers: Lowers<'a>,
    writer: TarWriter<W>,
    inspector: Inspector,
    /// Files with several names that were written, and under which.
    links: HashMap<(u64, u64), Vec<u8>>,
    stack: Vec<Directory>,
}

/// A directory on the way to the current name.
struct Directory {
    path: Vec<u8>,
    open: Option<OwnedFd>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// The trees below that show in it.
    showing: Vec<usize>,
    /// Its own header, until it was written. The root has none: Docker's and containerd's unpackers ignore it.
    header: Option<Node>,
}

impl<W: Write> Packer<'_, W> {
    fn run(&mut self) -> io::Result<()> {
        let showing = self.lowers.all();
        self.enter(Vec::new(), showing, None)?;
        while let Some(directory) = self.stack.last_mut() {
            let Some(name) = directory.names.next() else {
                self.stack.pop();
                continue;
            };
            let path = tree::join(&directory.path, &name);
            self.name(&name, &path).map_err(|error| at(&path, &error))?;
        }
        Ok(())
    }

    fn enter(&mut self, path: Vec<u8>, showing: Vec<usize>, header: Option<Node>) -> io::Result<()> {
        let open = open_directory(self.upper, &path)?;
        let names = rootfs::names(&open)?.into_iter();
        self.stack.push(Directory { path, open: Some(open), names, showing, header });
        if let Some(far) = self.stack.len().checked_sub(MAX_OPEN + 1) {
            self.stack[far].open = None;
        }
        Ok(())
    }

    fn name(&mut self, name: &[u8], path: &[u8]) -> io::Result<()> {
        let Some(top) = self.stack.last_mut() else { return Ok(()) };
        let open = match &top.open {
            Some(open) => open,
            None => top.open.insert(open_directory(self.upper, &top.path)?),
        };
        let vanished = || io::Error::new(io::ErrorKind::NotFound, "it vanished while the layer was made");
        let mut inode = self.inspector.look(open, name)?.ok_or_else(vanished)?;
        let below = self.lowers.find(&mut self.inspector, &top.showing, path)?;
        if self.inspector.has_table()
            && let Some(below) = &below
        {
            keep_owner(&mut inode, &below.inode);
        }
        if inode.whiteout {
            if below.is_some() {
                self.headers()?;
                self.writer.whiteout(path)?;
            }
            return Ok(());
        }
        match inode.node.kind {
            Kind::Directory => self.directory(path, inode, below),
            Kind::Socket => Ok(()),
            _ => self.other(name, path, &inode, below),
        }
    }

    fn directory(&mut self, path: &[u8], inode: Inode, below: Option<Below>) -> io::Result<()> {
        let below = below.filter(|below| below.inode.node.is_directory());
        let opaque = inode.opaque && below.is_some();
        let changed = opaque || below.as_ref().is_none_or(|below| below.inode.node != inode.node);
        let showing = below.filter(|_| !opaque).map(|below| below.showing).unwrap_or_default();
        self.enter(path.to_vec(), showing, Some(inode.node))?;
        if changed {
            self.headers()?;
        }
        if opaque {
            self.writer.opaque(path)?;
        }
        Ok(())
    }

    fn other(&mut self, name: &[u8], path: &[u8], inode: &Inode, below: Option<Below>) -> io::Result<()> {
        let Some(open) = self.stack.last().and_then(|top| top.open.as_ref()) else { return Ok(()) };
        let file = || -> io::Result<File> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(File::from(rustix::fs::openat(open, name, flags, Mode::empty())?))
        };
        // Overlayfs breaks links when it copies up: several names here were all made by the step.
        if !inode.linked
            && let Some(below) = &below
            && self.lowers.same(&inode.node, below, path, &file)?
        {
            return Ok(());
        }
        let link = if inode.linked { self.links.get(&inode.id).cloned() } else { None };
        if link.is_none() && matches!(inode.node.kind, Kind::File { .. }) {
            let mut content = file()?;
            self.headers()?;
            self.writer.append(path, &inode.node, None, &mut content)?;
        } else {
            self.headers()?;
            self.writer.append(path, &inode.node, link.as_deref(), &mut io::empty())?;
        }
        if inode.linked && link.is_none() {
            self.links.insert(inode.id, path.to_vec());
        }
        Ok(())
    }

    /// Writes the headers of the directories that lead to the current name, as far as they are not written.
    fn headers(&mut self) -> io::Result<()> {
        for directory in &mut self.stack {
            if let Some(node) = directory.header.take() {
                self.writer.append(&directory.path, &node, None, &mut io::empty())?;
            }
        }
        Ok(())
    }
}

/// A link whose time was set, or that got another name, was copied up by overlayfs: a new inode, of which no table knows.
/// It belongs to whom the same link below belongs to; whoever changes an owner is on record (`owners`).
fn keep_owner(inode: &mut Inode, below: &Inode) {
    let carries = matches!(inode.node.kind, Kind::File { .. } | Kind::Directory);
    if !carries && !inode.recorded && below.recorded && inode.node.kind == below.node.kind {
        (inode.node.uid, inode.node.gid) = (below.node.uid, below.node.gid);
    }
}

fn open_directory(root: &RootDir, path: &[u8]) -> io::Result<OwnedFd> {
    root.open_without_links(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

fn at(path: &[u8], error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot add {} to the layer: {error}", shown(path)))
}
