//! Plain files: the image's root file system as a directory or as one tar, without layers.
//!
//! Layers are read from the highest to the lowest and each path is taken where it is seen first, so nothing is written
//! that a higher layer hides, and a directory that a user gives as `local` output never loses a file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::statements::{Company, Statements};
use super::{ExportError, FileTarget};
pub use crate::layer::flatten::Source as LayerFiles;
use crate::layer::flatten::{for_each_node, view_of, write_contents};
use crate::layer::unpack::{Ownership, Style, unpack};
use crate::layer::view::MergedView;
use crate::layer::write::TarWriter;
use crate::rootfs::RootDir;
use crate::tree::{self, Node, Time};
use crate::unfinished::Unfinished;

/// The files of one image of an output.
#[derive(Clone)]
pub struct ImageFiles {
    /// The image's platform, for messages.
    pub platform: String,
    /// The directory of the output that they are put into; none where they are the output themselves.
    pub directory: Option<String>,
    /// The image's layers, lowest first.
    pub layers: Vec<LayerFiles>,
    /// What is said about the files.
    pub statements: Statements,
    /// The time that all of them get, in seconds since 1970; none where each keeps its own.
    pub dated: Option<i64>,
}

impl ImageFiles {
    pub(super) fn view(&self) -> MergedView {
        view_of(self.layers.iter().map(|layer| Arc::clone(&layer.index)).collect())
    }
}

/// Where plain files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesTarget {
    /// Into a directory, made if missing.
    Directory(PathBuf, Others),
    /// As a tar.
    Tar(FileTarget),
}

/// What becomes of other files in a directory that files are written into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Others {
    /// They stay.
    #[default]
    Keep,
    /// They go when all is written (`mode=delete`).
    Remove,
}

/// Writes the files of images.
///
/// As an unprivileged user the files in a directory belong to that user, as with `docker build -o`.
///
/// # Errors
/// The target cannot be written, a layer cannot be read, or two images have a file of the same name.
pub fn write_files(images: &[ImageFiles], target: &FilesTarget) -> Result<(), ExportError> {
    check_collisions(images)?;
    images.iter().try_for_each(|image| image.check_statements(Company::of(images)))?;
    match target {
        FilesTarget::Tar(FileTarget::Stdout) => {
            let out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
            flatten(images, out).and_then(|mut out| out.flush()).map_err(ExportError::write(Path::new("-")))
        }
        FilesTarget::Tar(FileTarget::Path(path)) => {
            write_file(path, |out| flatten(images, out).map(drop)).map_err(ExportError::write(path))
        }
        FilesTarget::Directory(path, others) => {
            write_directory(images, path)?;
            match others {
                Others::Keep => Ok(()),
                Others::Remove => {
                    let wanted = wanted_paths(images).map_err(ExportError::write(path))?;
                    remove_others(path, &[], &wanted).map_err(ExportError::write(path))
                }
            }
        }
    }
}

/// All that the images have, as paths in the output.
fn wanted_paths(images: &[ImageFiles]) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut wanted = BTreeSet::new();
    for image in images {
        let directory = image.directory.clone().unwrap_or_default().into_bytes();
        for_each_node(&image.view(), &mut |path, _| {
            let path = if directory.is_empty() { path.to_vec() } else { tree::join(&directory, path) };
            wanted.insert(path);
            Ok(true)
        })?;
        for file in image.statement_files(Company::of(images))? {
            wanted.insert(if directory.is_empty() { file.name } else { tree::join(&directory, &file.name) });
        }
        wanted.insert(directory);
    }
    Ok(wanted)
}

/// Removes what is below a directory and not among the paths; links are removed, never followed.
fn remove_others(root: &Path, below: &[u8], wanted: &BTreeSet<Vec<u8>>) -> io::Result<()> {
    let directory = root.join(OsStr::from_bytes(below));
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        let path = match below {
            [] => entry.file_name().as_bytes().to_vec(),
            below => tree::join(below, entry.file_name().as_bytes()),
        };
        match (entry.file_type()?.is_dir(), wanted.contains(&path)) {
            (true, true) => remove_others(root, &path, wanted)?,
            (true, false) => fs::remove_dir_all(entry.path())?,
            (false, true) => {}
            (false, false) => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
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
            Ok(true)
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
    let mut tar = PlacedWriter { tar: TarWriter::new(out), directory: Vec::new(), dated: None };
    for image in images {
        tar.directory = image.directory.clone().unwrap_or_default().into_bytes();
        tar.dated = image.dated.map(|seconds| Time { seconds, nanoseconds: 0 });
        if image.directory.is_some() {
            let node = Node::directory(tar.dated.unwrap_or_default());
            tar.tar.append(&tar.directory, &node, None, &mut io::empty())?;
        }
        flatten_image(image, &mut tar)?;
        for file in image.statement_files(Company::of(images))? {
            tar.append(&file.name, &file.node, None, &mut file.content.as_slice())?;
        }
    }
    tar.tar.finish()
}

/// A tar in which everything is put into a directory and has one time, where these are given.
struct PlacedWriter<W: Write> {
    tar: TarWriter<W>,
    directory: Vec<u8>,
    dated: Option<Time>,
}

impl<W: Write> PlacedWriter<W> {
    fn append(&mut self, path: &[u8], node: &Node, link: Option<&[u8]>, content: &mut dyn Read) -> io::Result<()> {
        let dated = self.dated.map(|mtime| Node { mtime, ..node.clone() });
        let node = dated.as_ref().unwrap_or(node);
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
    for_each_node(&view, &mut |path, node| {
        if node.is_directory() {
            tar.append(path, node, None, &mut io::empty())?;
        }
        Ok(true)
    })?;
    write_contents(&view, 0, &image.layers, &mut |path, node, link, content| tar.append(path, node, link, content))
}

/// Writes a file beside its place and renames it there when it is complete.
pub(super) fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        // A pipe or a device: there is nothing to replace.
        let mut out = BufWriter::with_capacity(1 << 18, fs::OpenOptions::new().write(true).open(path)?);
        write(&mut out)?;
        return out.flush();
    }
    let unfinished = Unfinished::beside(path, 0o644)?;
    let mut out = BufWriter::with_capacity(1 << 18, unfinished.file());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    unfinished.finish()
}
