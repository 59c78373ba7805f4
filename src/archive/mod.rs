//! Images in files: OCI layouts (a directory or a tar) and Docker archives of every age → documents, and blobs in the store.
//!
//! Contract: nothing of an archive is believed. Every blob goes through the store's writer, which names it by what it is;
//! a document is used only after its digest was checked; names in an archive are looked up in its own list and never
//! opened as paths. What an archive that is refused leaves in the store are blobs that nothing names, which a collection
//! removes. It knows nothing of layers' content: who adopts a blob as a layer checks what it unpacks to.

mod docker;
mod files;
mod layout;

use std::io::{self, Read};
use std::path::PathBuf;

use crate::digest::Digest;
use crate::image::reference::Reference;
use crate::store::{Store, StoreError};
use files::Files;

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
    /// The manifest byte for byte, where the archive has one.
    pub manifest: Option<Vec<u8>>,
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
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
