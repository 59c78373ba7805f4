//! Images in files: OCI layouts (a directory or a tar) and Docker archives of every age → documents, and blobs in the store.
//!
//! Contract: nothing of an archive is believed. Every blob goes through the store's writer, which names it by what it is;
//! a document is used only after its digest was checked; names in an archive are looked up in its own list and never
//! opened as paths. What an archive that is refused leaves in the store are blobs that nothing names, which a collection
//! removes. It knows nothing of layers' content: who adopts a blob as a layer checks what it unpacks to.

mod docker;
mod files;
mod layout;
mod place;

use std::io::{self, Read};
use std::path::PathBuf;

use crate::digest::Digest;
use crate::image::reference::Reference;
use crate::store::{Store, StoreError};
use files::Files;
pub use place::Layout;

/// Where an archive is.
pub enum Origin {
    /// A directory with an OCI layout in it.
    Directory(PathBuf),
    /// A tar, compressed or not.
    Stream {
        /// What people call it.
        name: String,
        /// Its bytes.
        reader: Box<dyn Read + Send>,
    },
}

/// An image of an archive; its blobs are in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedImage {
    /// What the archive calls it; may be nothing.
    pub names: Vec<Reference>,
    /// The same as they are written there, and what is no name by itself (`latest`).
    pub labels: Vec<String>,
    /// The index that it lies under by these names, where it does.
    pub index: Option<Vec<u8>>,
    /// The manifest byte for byte, where the archive has one.
    pub manifest: Option<Vec<u8>>,
    /// What the index says about it (provenance, lists of software): blobs, the manifest first, then what that names.
    /// Nothing where the archive has not all of it.
    pub attestations: Vec<Digest>,
    /// The config byte for byte.
    pub config: Vec<u8>,
    /// The layers' blobs and their sizes, lowest first.
    pub layers: Vec<(Digest, u64)>,
}

/// Says why an archive is not read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read, or is no tar, or a tar that is refused.
    #[error("read {archive}")]
    Read {
        /// The archive.
        archive: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds no image.
    #[error("{archive} holds no image: it has neither an index.json nor a manifest.json")]
    NoImage {
        /// The archive.
        archive: String,
    },
    /// It names something that is not in it.
    #[error("{archive} is not complete: {name} is missing")]
    Missing {
        /// The archive.
        archive: String,
        /// What is missing.
        name: String,
    },
    /// It contradicts itself.
    #[error("{archive} is refused: {reason}")]
    Refused {
        /// The archive.
        archive: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing in it is called so.
    #[error("{archive} has no image {label:?}; it has {offered}")]
    NotNamed {
        /// The archive.
        archive: String,
        /// What was asked for.
        label: String,
        /// What it has.
        offered: String,
    },
    /// It has several images, and none of them was named.
    #[error("{archive} holds several images: {offered}")]
    Several {
        /// The archive.
        archive: String,
        /// What it has.
        offered: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ArchiveError {
    /// For who asked for an image that is not the only one of its name.
    fn not_chosen(archive: &str, label: Option<&str>, mut names: Vec<String>) -> ArchiveError {
        names.dedup();
        let offered = if names.is_empty() { "images without a name".to_owned() } else { names.join(", ") };
        let archive = archive.to_owned();
        match label {
            Some(label) => ArchiveError::NotNamed { archive, label: label.to_owned(), offered },
            None => ArchiveError::Several { archive, offered },
        }
    }
}

/// The images that an archive calls by a name; without one those of its only image, one for each platform.
///
/// # Errors
/// There is none, or there are several.
pub fn choose<'a>(
    archive: &str,
    images: &'a [ArchivedImage],
    label: Option<&str>,
) -> Result<Vec<&'a ArchivedImage>, ArchiveError> {
    let called: Vec<&ArchivedImage> = match label {
        Some(label) => images.iter().filter(|image| place::is_called(&image.labels, label)).collect(),
        None => images.iter().collect(),
    };
    // Under one index they are one image.
    let is_one = match called.as_slice() {
        [] => false,
        [first, others @ ..] => others.iter().all(|other| first.index.is_some() && first.index == other.index),
    };
    if is_one {
        return Ok(called);
    }
    let names = images.iter().flat_map(|image| image.labels.iter().cloned()).collect();
    Err(ArchiveError::not_chosen(archive, label, names))
}

/// The largest document (a manifest, a config, an index) that is read.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// Reads all images of an archive; their blobs are put into the store.
///
/// # Errors
/// The archive cannot be read, is none, or contradicts itself.
pub fn read(store: &Store, origin: Origin) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let files = Files::open(store, origin)?;
    let images = match (files.document("index.json")?, files.document("manifest.json")?) {
        // What has both (docker save since 25, rbuild, BuildKit) says more in the first.
        (Some(index), _) => layout::images(&files, &index)?,
        (None, Some(manifest)) => docker::images(&files, &manifest)?,
        (None, None) => return Err(ArchiveError::NoImage { archive: files.archive }),
    };
    if images.is_empty() {
        return Err(ArchiveError::NoImage { archive: files.archive });
    }
    Ok(images)
}

#[cfg(test)]
mod tests;
