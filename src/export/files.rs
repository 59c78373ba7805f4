//! Plain files: the image's root file system as a directory or as one tar, without layers.
//!
//! Layers are read from the highest to the lowest and each path is taken where it is seen first, so nothing is written
//! that a higher layer hides, and a directory that a user gives as `local` output never loses a file of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ExportError, FileTarget, Open};
use crate::digest::Digest;
use crate::layer::index::{Index, Item};
use crate::layer::read::{Entry, Marker, TarReader};
use crate::layer::unpack::{Ownership, Style, unpack};
use crate::layer::view::MergedView;
use crate::layer::write::TarWriter;
use crate::rootfs::RootDir;
use crate::tree::{self, Node, View};

/// A layer as plain files need it.
#[derive(Clone)]
pub struct LayerFiles {
    /// Its name, for messages.
    pub digest: Digest,
    /// What is in it.
    pub index: Arc<Index>,
    /// Opens its tar, not compressed.
    pub open: Open,
}

/// Where plain files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesTarget {
    /// Into a directory, made if missing.
    Directory(PathBuf),
    /// As a tar.
    Tar(FileTarget),
}

/// Writes the files of an image whose layers are given lowest first.
///
/// As an unprivileged user the files in a directory belong to that user, as with `docker build -o`.
pub fn write_files(layers: &[LayerFiles], target: &FilesTarget) -> Result<(), ExportError> {
    match target {
        FilesTarget::Tar(FileTarget::Stdout) => {
            let out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
            flatten(layers, out).and_then(|mut out| out.flush()).map_err(ExportError::write(Path::new("-")))
        }
        FilesTarget::Tar(FileTarget::Path(path)) => {
            write_file(path, |out| flatten(layers, out).map(drop)).map_err(ExportError::write(path))
        }
        FilesTarget::Directory(path) => write_directory(layers, path),
    }
}

fn write_directory(layers: &[LayerFiles], path: &Path) -> Result<(), ExportError> {
    fs::create_dir_all(path).map_err(ExportError::write(path))?;
    let root = RootDir::open(path).map_err(ExportError::write(path))?;
    let ownership = if rustix::process::geteuid().is_root() { Ownership::Keep } else { Ownership::Ignore };
    let (reader, writer) = io::pipe().map_err(ExportError::write(path))?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || flatten(layers, BufWriter::with_capacity(1 << 16, writer))?.flush());
        let unpacked = unpack(reader, &root, ownership, Style::Plain);
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("a thread that read layers panicked")));
        // When unpacking failed the writer sees a closed pipe: the first cause is the one to show.
        unpacked.map_err(|error| ExportError::write(path)(io::Error::other(error)))?;
        written.map_err(ExportError::write(path))
    })
}

/// Streams what is visible of the layers as one tar: directories first, so that a file's parents precede it.
fn flatten<W: Write>(layers: &[LayerFiles], out: W) -> io::Result<W> {
    let indexes: Vec<Arc<Index>> = layers.iter().map(|layer| Arc::clone(&layer.index)).collect();
    let view = MergedView::new(indexes, |_, _| Err(io::ErrorKind::Unsupported.into()));
    let mut tar = TarWriter::new(out);
    write_directories(&view, &mut tar)?;
    for (number, layer) in layers.iter().enumerate() {
        let orphans = orphaned_links(&view, number, &layer.index);
        let mut reader = TarReader::new((layer.open)()?);
        while let Some(entry) = reader.next_entry()? {
            if entry.node.is_directory() || entry.marker != Marker::Plain {
                continue;
            }
            if let Some(names) = orphans.get(&entry.path) {
                write_names(&mut tar, names, &entry, &mut reader)?;
            } else if view.shows(number, &entry.path) {
                match &entry.link {
                    Some(target) if orphans.contains_key(target) => {}
                    Some(target) => tar.append(&entry.path, &entry.node, Some(target), &mut io::empty())?,
                    None => tar.append(&entry.path, &entry.node, None, &mut reader.content())?,
                }
            }
        }
    }
    tar.finish()
}

fn write_directories<W: Write>(view: &MergedView, tar: &mut TarWriter<W>) -> io::Result<()> {
    let mut todo = vec![Vec::new()];
    while let Some(directory) = todo.pop() {
        for name in view.names(&directory)? {
            let path = tree::join(&directory, &name);
            if let Some(node) = view.node(&path)?.filter(Node::is_directory) {
                tar.append(&path, &node, None, &mut io::empty())?;
                todo.push(path);
            }
        }
    }
    Ok(())
}

/// Visible hard links of a layer whose first name, which has the content in the tar, a higher layer hides.
fn orphaned_links(view: &MergedView, layer: usize, index: &Index) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut orphans: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for entry in index.entries() {
        let Item::Present(present) = &entry.item else { continue };
        if let Some(source) = &present.source
            && view.shows(layer, &entry.path)
            && !view.shows(layer, source)
        {
            orphans.entry(source.clone()).or_default().push(entry.path.clone());
        }
    }
    orphans
}

fn write_names<W: Write, R: io::Read>(
    tar: &mut TarWriter<W>,
    names: &[Vec<u8>],
    entry: &Entry,
    reader: &mut TarReader<R>,
) -> io::Result<()> {
    let Some((first, others)) = names.split_first() else { return Ok(()) };
    tar.append(first, &entry.node, None, &mut reader.content())?;
    for other in others {
        tar.append(other, &entry.node, Some(first), &mut io::empty())?;
    }
    Ok(())
}

/// Writes a file beside its place and renames it there when it is complete.
pub(super) fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        // A pipe or a device: there is nothing to replace.
        let mut out = BufWriter::with_capacity(1 << 18, fs::OpenOptions::new().write(true).open(path)?);
        write(&mut out)?;
        return out.flush();
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let file = File::options().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    let mut out = BufWriter::with_capacity(1 << 18, file);
    let result = write(&mut out).and_then(|()| out.flush()).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The cause is what counts; that the part file could not be removed either adds nothing.
        drop(fs::remove_file(&temporary));
    }
    result
}
