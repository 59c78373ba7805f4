//! The files of an archive: their blobs are taken into the store as they pass by, for a tar cannot be searched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};

use super::{ArchiveError, DOCUMENT_LIMIT, Origin};
use crate::digest::Digest;
use crate::layer::decompress::decompress;
use crate::layer::read::TarReader;
use crate::rootfs::RootDir;
use crate::store::{Store, StoreError};
use crate::tree::{self, Kind};

/// Files that are kept in memory: they say what all others are.
const DOCUMENTS: [&str; 2] = ["index.json", "manifest.json"];

/// Links that are followed to find a file: `docker save` once wrote a layer that two images share as a link.
const MOST_LINKS: usize = 8;

/// The files of an archive.
pub(super) struct Files<'a> {
    store: &'a Store,
    /// What people call it.
    pub(super) archive: String,
    place: Place,
}

enum Place {
    Directory(RootDir),
    Tar(BTreeMap<String, Entry>),
}

enum Entry {
    Document(Vec<u8>),
    Blob(Digest, u64),
    Link(String),
}

impl<'a> Files<'a> {
    /// Opens a directory; reads a tar from its beginning to its end.
    pub(super) fn open(store: &'a Store, origin: Origin) -> Result<Files<'a>, ArchiveError> {
        match origin {
            Origin::Directory(path) => {
                let archive = path.display().to_string();
                let root =
                    RootDir::open(&path).map_err(|source| ArchiveError::Read { archive: archive.clone(), source })?;
                Ok(Files { store, archive, place: Place::Directory(root) })
            }
            Origin::Stream { name, reader } => {
                let entries = read_tar(store, &name, reader)?;
                Ok(Files { store, archive: name, place: Place::Tar(entries) })
            }
        }
    }

    pub(super) fn refused(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Refused { archive: self.archive.clone(), reason: reason.into() }
    }

    pub(super) fn missing(&self, name: &str) -> ArchiveError {
        ArchiveError::Missing { archive: self.archive.clone(), name: name.to_owned() }
    }

    fn unreadable(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Read { archive: self.archive.clone(), source }
    }

    /// One of the files that say what the others are; `None` where it is not there.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        match &self.place {
            Place::Tar(entries) => Ok(match entries.get(name) {
                Some(Entry::Document(bytes)) => Some(bytes.clone()),
                _ => None,
            }),
            // Docker's archives are tars; only a layout is also a directory.
            Place::Directory(_) if name != "index.json" => Ok(None),
            Place::Directory(root) => {
                let Some(file) = open(root, name).map_err(|error| self.unreadable(error))? else { return Ok(None) };
                read_document(file).map(Some).map_err(|error| self.unreadable(error))
            }
        }
    }

    /// A file as a blob of the store: its digest and size; `None` where it is not there.
    pub(super) fn blob(&self, name: &str) -> Result<Option<(Digest, u64)>, ArchiveError> {
        match &self.place {
            Place::Tar(entries) => {
                let mut name = name.to_owned();
                for _ in 0..MOST_LINKS {
                    match entries.get(&name) {
                        Some(Entry::Blob(digest, size)) => return Ok(Some((*digest, *size))),
                        Some(Entry::Link(target)) => name.clone_from(target),
                        Some(Entry::Document(_)) | None => return Ok(None),
                    }
                }
                Err(self.refused(format!("{name} is a link to a link to a link")))
            }
            Place::Directory(root) => {
                let Some(file) = open(root, name).map_err(|error| self.unreadable(error))? else { return Ok(None) };
                store_blob(self.store, &self.archive, name, file).map(Some)
            }
        }
    }

    /// A blob by its digest, as both kinds of archives keep it.
    pub(super) fn blob_of(&self, digest: &Digest) -> Result<Option<u64>, ArchiveError> {
        Ok(self.blob(&format!("blobs/sha256/{}", digest.hex()))?.map(|(_, size)| size))
    }

    /// A blob that is a document.
    pub(super) fn small(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > DOCUMENT_LIMIT {
            return Err(self.refused(format!("{digest} is a document of {size} bytes")));
        }
        self.store.read_blob(digest)?.ok_or_else(|| self.missing(&digest.to_string()))
    }
}

pub(super) fn open(root: &RootDir, name: &str) -> io::Result<Option<File>> {
    // A pipe in the place of a file would keep its reader waiting.
    let opened = root.open_without_links(name.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => File::from(opened?),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is no regular file")));
    }
    Ok(Some(file))
}

pub(super) fn read_document(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a document is larger than 8 MiB"));
    }
    Ok(bytes)
}

fn read_tar(
    store: &Store,
    archive: &str,
    reader: Box<dyn Read + Send>,
) -> Result<BTreeMap<String, Entry>, ArchiveError> {
    let unreadable = |source| ArchiveError::Read { archive: archive.to_owned(), source };
    let refused = |reason: String| ArchiveError::Refused { archive: archive.to_owned(), reason };
    let mut tar = TarReader::new(decompress(reader).map_err(unreadable)?).literal();
    let mut entries = BTreeMap::new();
    while let Some(entry) = tar.next_entry().map_err(unreadable)? {
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let found = match (&entry.node.kind, &entry.link) {
            (_, Some(target)) => Entry::Link(String::from_utf8_lossy(target).into_owned()),
            (Kind::Symlink(target), None) => Entry::Link(
                resolve(&entry.path, target)
                    .ok_or_else(|| refused(format!("{name} is a link that leads out of it")))?,
            ),
            (Kind::File { .. }, None) if DOCUMENTS.contains(&name.as_str()) => {
                Entry::Document(read_document(tar.content()).map_err(unreadable)?)
            }
            (Kind::File { .. }, None) if is_content(&name) => {
                let (digest, size) = store_blob(store, archive, &name, tar.content())?;
                Entry::Blob(digest, size)
            }
            // Directories, and files that nothing names (oci-layout, repositories, VERSION).
            _ => continue,
        };
        // Of a name that is there twice one reader takes the first and another the last: none of them is to be believed.
        if entries.insert(name.clone(), found).is_some() {
            return Err(refused(format!("{name} is in it twice")));
        }
    }
    Ok(entries)
}

/// Whether a file can be a layer, a config or a manifest: of old archives `ID/layer.tar` and `ID.json`.
fn is_content(name: &str) -> bool {
    name.starts_with("blobs/sha256/") || name.ends_with(".tar") || (name.ends_with(".json") && !name.contains('/'))
}

/// Where a link leads, by names alone; `None` where that is outside.
fn resolve(from: &[u8], target: &[u8]) -> Option<String> {
    if target.first() == Some(&b'/') {
        return None;
    }
    let mut parts: Vec<&[u8]> =
        tree::parent(from).split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    for part in target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        match part {
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(String::from_utf8_lossy(&parts.join(&b'/')).into_owned())
}

/// Takes content into the store. What is called by a digest must have it.
fn store_blob(store: &Store, archive: &str, name: &str, mut content: impl Read) -> Result<(Digest, u64), ArchiveError> {
    let expected = match name.strip_prefix("blobs/sha256/") {
        None => None,
        Some(hex) => Some(Digest::from_hex(hex).map_err(|_| ArchiveError::Refused {
            archive: archive.to_owned(),
            reason: format!("{name} has no digest for a name"),
        })?),
    };
    let mut writer = store.blob_writer()?;
    io::copy(&mut content, &mut writer).map_err(|source| ArchiveError::Read { archive: archive.to_owned(), source })?;
    writer.commit(expected).map_err(|error| match error {
        StoreError::Digest { found, .. } => ArchiveError::Refused {
            archive: archive.to_owned(),
            reason: format!("{name} is not what its name promises: its digest is {found}"),
        },
        other => other.into(),
    })
}
