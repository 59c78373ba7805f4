//! Plain files: the image's root file system as a directory or as one tar, without layers.
//!
//! Layers are read from the highest to the lowest and each path is taken where it is seen first, so nothing is written
//! that a higher layer hides, and a directory that a user gives as `local` output never loses a file of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
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
use crate::tree::{self, Node, Time, View};

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

/// The files of one image of an output.
#[derive(Clone)]
pub struct ImageFiles {
    /// The image's platform, for messages.
    pub platform: String,
    /// The directory of the output that they are put into; none where they are the output themselves.
    pub directory: Option<String>,
    /// The image's layers, lowest first.
    pub layers: Vec<LayerFiles>,
}

impl ImageFiles {
    fn view(&self) -> MergedView {
        let indexes: Vec<Arc<Index>> = self.layers.iter().map(|layer| Arc::clone(&layer.index)).collect();
        MergedView::new(indexes, |_, _| Err(io::ErrorKind::Unsupported.into()))
    }
}

/// Where plain files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesTarget {
    /// Into a directory, made if missing.
    Directory(PathBuf),
    /// As a tar.
    Tar(FileTarget),
}

/// Writes the files of images.
///
/// As an unprivileged user the files in a directory belong to that user, as with `docker build -o`.
///
/// # Errors
/// The target cannot be written, a layer cannot be read, or two images have a file of the same name.
pub fn write_files(images: &[ImageFiles], target: &FilesTarget) -> Result<(), ExportError> {
    check_collisions(images)?;
    match target {
        FilesTarget::Tar(FileTarget::Stdout) => {
            let out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
            flatten(images, out).and_then(|mut out| out.flush()).map_err(ExportError::write(Path::new("-")))
        }
        FilesTarget::Tar(FileTarget::Path(path)) => {
            write_file(path, |out| flatten(images, out).map(drop)).map_err(ExportError::write(path))
        }
        FilesTarget::Directory(path) => write_directory(images, path),
    }
}

/// Images that are not put into directories of their own must not overwrite each other's files.
fn check_collisions(images: &[ImageFiles]) -> Result<(), ExportError> {
    let mut known: BTreeMap<Vec<u8>, &str> = BTreeMap::new();
    let together = images.iter().filter(|image| image.directory.is_none());
    if together.clone().count() < 2 {
        return Ok(());
    }
    for image in together {
        let (view, mut files) = (image.view(), Vec::new());
        let mut walk = |path: &[u8], node: &Node| {
            if !node.is_directory() {
                files.push(path.to_owned());
            }
            Ok(())
        };
        for_each_node(&view, &mut walk).map_err(ExportError::write(Path::new("-")))?;
        for path in files {
            if let Some(first) = known.insert(path.clone(), &image.platform) {
                let (path, first) = (String::from_utf8_lossy(&path).into_owned(), first.to_owned());
                return Err(ExportError::Collision { path, first, second: image.platform.clone() });
            }
        }
    }
    Ok(())
}

fn write_directory(images: &[ImageFiles], path: &Path) -> Result<(), ExportError> {
    fs::create_dir_all(path).map_err(ExportError::write(path))?;
    let root = RootDir::open(path).map_err(ExportError::write(path))?;
    let ownership = if rustix::process::geteuid().is_root() { Ownership::Keep } else { Ownership::Ignore };
    let (reader, writer) = io::pipe().map_err(ExportError::write(path))?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || flatten(images, BufWriter::with_capacity(1 << 16, writer))?.flush());
        let unpacked = unpack(reader, &root, ownership, Style::Plain);
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("a thread that read layers panicked")));
        // When unpacking failed the writer sees a closed pipe: the first cause is the one to show.
        unpacked.map_err(|error| ExportError::write(path)(io::Error::other(error)))?;
        written.map_err(ExportError::write(path))
    })
}

/// Streams what is visible of each image as one tar.
fn flatten<W: Write>(images: &[ImageFiles], out: W) -> io::Result<W> {
    let mut tar = PlacedWriter { tar: TarWriter::new(out), directory: Vec::new() };
    for image in images {
        tar.directory = image.directory.clone().unwrap_or_default().into_bytes();
        if image.directory.is_some() {
            tar.tar.append(&tar.directory, &Node::directory(Time::default()), None, &mut io::empty())?;
        }
        flatten_image(image, &mut tar)?;
    }
    tar.tar.finish()
}

/// A tar in which everything is put into a directory, where one is given.
struct PlacedWriter<W: Write> {
    tar: TarWriter<W>,
    directory: Vec<u8>,
}

impl<W: Write> PlacedWriter<W> {
    fn append(&mut self, path: &[u8], node: &Node, link: Option<&[u8]>, content: &mut dyn Read) -> io::Result<()> {
        if self.directory.is_empty() {
            return self.tar.append(path, node, link, content);
        }
        let link = link.map(|link| tree::join(&self.directory, link));
        self.tar.append(&tree::join(&self.directory, path), node, link.as_deref(), content)
    }
}

/// Streams what is visible of the layers: directories first, so that a file's parents precede it.
fn flatten_image<W: Write>(image: &ImageFiles, tar: &mut PlacedWriter<W>) -> io::Result<()> {
    let view = image.view();
    for_each_node(&view, &mut |path, node| match node.is_directory() {
        true => tar.append(path, node, None, &mut io::empty()),
        false => Ok(()),
    })?;
    for (number, layer) in image.layers.iter().enumerate() {
        let orphans = orphaned_links(&view, number, &layer.index);
        let mut reader = TarReader::new((layer.open)()?);
        while let Some(entry) = reader.next_entry()? {
            if entry.node.is_directory() || entry.marker != Marker::Plain {
                continue;
            }
            if let Some(names) = orphans.get(&entry.path) {
                write_names(tar, names, &entry, &mut reader)?;
            } else if view.shows(number, &entry.path) {
                match &entry.link {
                    Some(target) if orphans.contains_key(target) => {}
                    Some(target) => tar.append(&entry.path, &entry.node, Some(target), &mut io::empty())?,
                    None => tar.append(&entry.path, &entry.node, None, &mut reader.content())?,
                }
            }
        }
    }
    Ok(())
}

/// Calls a function for everything that is visible below the root, a directory before what is in it.
fn for_each_node(view: &MergedView, visit: &mut dyn FnMut(&[u8], &Node) -> io::Result<()>) -> io::Result<()> {
    let mut todo = vec![Vec::new()];
    while let Some(directory) = todo.pop() {
        for name in view.names(&directory)? {
            let path = tree::join(&directory, &name);
            let Some(node) = view.node(&path)? else { continue };
            visit(&path, &node)?;
            if node.is_directory() {
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

fn write_names<W: Write, R: Read>(
    tar: &mut PlacedWriter<W>,
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
