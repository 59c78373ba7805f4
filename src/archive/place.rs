//! An OCI layout that is read where it is, a directory or a plain tar, without the store: for who passes its content on.
//!
//! What is read is checked by who reads it: documents here, blobs against the digest that they are asked for by.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::files::{open, read_document};
use super::{ArchiveError, DOCUMENT_LIMIT};
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index};
use crate::image::reference::Reference;
use crate::rootfs::RootDir;

/// An OCI layout; a copy of the value reads the same one.
#[derive(Clone)]
pub struct Layout {
    /// What people call it.
    archive: String,
    files: Files,
    index: Index,
}

#[derive(Clone)]
enum Files {
    Directory(Arc<RootDir>),
    /// By name, where each file begins and how long it is.
    Tar(Arc<File>, Arc<BTreeMap<String, (u64, u64)>>),
}

impl Layout {
    /// Opens the layout in a directory.
    ///
    /// # Errors
    /// There is none.
    pub fn of_directory(path: &Path) -> Result<Layout, ArchiveError> {
        let archive = path.display().to_string();
        let root = RootDir::open(path).map_err(|source| ArchiveError::Read { archive: archive.clone(), source })?;
        Layout::new(archive, Files::Directory(Arc::new(root)))
    }

    /// Opens the layout in a tar that is not compressed; `None` where it is, or no file whose parts can be read.
    ///
    /// # Errors
    /// There is no layout in it, or a file of it is there twice.
    pub fn of_tar(path: &Path) -> Result<Option<Layout>, ArchiveError> {
        let archive = path.display().to_string();
        let unreadable = |source| ArchiveError::Read { archive: archive.clone(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Ok(None);
        }
        let mut head = Vec::new();
        file.by_ref().take(512).read_to_end(&mut head).map_err(unreadable)?;
        if !crate::layer::read::is_tar(&head) {
            return Ok(None);
        }
        file.rewind().map_err(unreadable)?;
        let mut places = BTreeMap::new();
        let mut tar = tar::Archive::new(&file);
        for entry in tar.entries_with_seek().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            if places.insert(name.clone(), (entry.raw_file_position(), entry.size())).is_some() {
                return Err(ArchiveError::Refused { archive, reason: format!("{name} is in it twice") });
            }
        }
        Layout::new(archive, Files::Tar(Arc::new(file), Arc::new(places))).map(Some)
    }

    fn new(archive: String, files: Files) -> Result<Layout, ArchiveError> {
        let unreadable = |source| ArchiveError::Read { archive: archive.clone(), source };
        let Some(reader) = files.open("index.json").map_err(unreadable)? else {
            return Err(ArchiveError::NoImage { archive });
        };
        let bytes = read_document(reader).map_err(unreadable)?;
        let refused = |reason: String| ArchiveError::Refused { archive: archive.clone(), reason };
        match Document::parse(&bytes, None).map_err(|error| refused(format!("index.json: {error}")))? {
            Document::Index(index) => Ok(Layout { archive, files, index }),
            Document::Manifest(_) => Err(refused("index.json is no index".to_owned())),
        }
    }

    /// With another name for people: it was unpacked from there.
    pub fn called(mut self, name: &str) -> Layout {
        name.clone_into(&mut self.archive);
        self
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.archive
    }

    /// What `index.json` calls by a name, whole or as the standard's annotation has it; without one the only image.
    ///
    /// # Errors
    /// There is none, or it is not the only one.
    pub fn choose(&self, label: Option<&str>) -> Result<&Descriptor, ArchiveError> {
        let entries: Vec<&Descriptor> = match label {
            None => self.index.manifests.iter().collect(),
            Some(label) => self.index.manifests.iter().filter(|entry| is_called(&labels(entry), label)).collect(),
        };
        // Names of the same image are entries of their own.
        match entries.as_slice() {
            [first, others @ ..] if others.iter().all(|other| other.digest == first.digest) => Ok(first),
            _ => {
                let names = self.index.manifests.iter().flat_map(labels).collect();
                Err(ArchiveError::not_chosen(&self.archive, label, names))
            }
        }
    }

    /// A document; its bytes are those of its digest.
    ///
    /// # Errors
    /// It is not there, or something else is in its place.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
        let unreadable = |source| ArchiveError::Read { archive: self.archive.clone(), source };
        let missing = || ArchiveError::Missing { archive: self.archive.clone(), name: descriptor.digest.to_string() };
        let refused = |reason: String| ArchiveError::Refused { archive: self.archive.clone(), reason };
        if descriptor.size > DOCUMENT_LIMIT {
            return Err(refused(format!("{} is a document of {} bytes", descriptor.digest, descriptor.size)));
        }
        let reader = self.files.open(&blob_name(&descriptor.digest)).map_err(unreadable)?.ok_or_else(missing)?;
        let bytes = read_document(reader).map_err(unreadable)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest || bytes.len() as u64 != descriptor.size {
            let text = format!("{} is not what its name promises: its digest is {found}", descriptor.digest);
            return Err(refused(text));
        }
        Ok(bytes)
    }

    /// Opens a blob, whose digest is for the reader to check.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{digest} is missing in {}", self.archive));
        self.files.open(&blob_name(digest))?.ok_or_else(missing)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// What an entry of `index.json` is called.
pub(super) fn labels(entry: &Descriptor) -> Vec<String> {
    let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    keys.into_iter().filter_map(|key| entry.annotations.get(key)).cloned().collect()
}

/// Whether one of the names is meant: as it is written, or with what Docker leaves out (`app` is `docker.io/library/app:latest`).
pub(super) fn is_called(labels: &[String], wanted: &str) -> bool {
    let full = |text: &str| text.parse::<Reference>().ok().map(|name| name.with_default_tag().to_string());
    labels.iter().any(|label| label == wanted)
        || full(wanted).is_some_and(|wanted| {
            // A word alone is a tag in a layout, and no name of a repository.
            labels.iter().filter(|label| label.contains(['/', ':'])).any(|label| full(label).as_ref() == Some(&wanted))
        })
}

impl Files {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + Send>>> {
        match self {
            Files::Directory(root) => Ok(open(root, name)?.map(|file| Box::new(file) as Box<dyn Read + Send>)),
            Files::Tar(file, places) => Ok(places.get(name).map(|(offset, size)| {
                let part = PartOfFile { file: file.clone(), offset: *offset, end: offset + size };
                Box::new(part) as Box<dyn Read + Send>
            })),
        }
    }
}

/// A part of a file; several can be read at once.
struct PartOfFile {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Read for PartOfFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
