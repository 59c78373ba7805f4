//! Where caches are, and how much is written there, as somebody asked for it.

use std::path::PathBuf;
use std::sync::Arc;

use super::gha::ActionsPlace;
use super::s3::{Bucket, BucketPlace};
use super::{Directory, Repository, Storage};
use crate::digest::Digest;
use crate::image::media_type::{Compression, Format};
use crate::image::reference::Reference;
use crate::registry::Client;

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A name in a registry: a cache, or an image that has one within it.
    Registry(Reference),
    /// An OCI layout in a directory.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The name within the layout.
        tag: String,
        /// The manifest, where it is given; the tag is not looked at then.
        digest: Option<Digest>,
    },
    /// A bucket of S3.
    Bucket(Box<BucketPlace>),
    /// The cache service of a CI.
    Actions(Box<ActionsPlace>),
}

impl Place {
    /// What reads there, in the order in which it is asked: a place may have several caches.
    pub fn readers(&self, client: &Client) -> Vec<Arc<dyn Storage>> {
        match self {
            Place::Actions(place) => {
                place.readers(client).into_iter().map(|reader| -> Arc<dyn Storage> { Arc::new(reader) }).collect()
            }
            _ => vec![self.open(client)],
        }
    }

    /// What writes there.
    pub fn open(&self, client: &Client) -> Arc<dyn Storage> {
        match self {
            Place::Registry(reference) => Arc::new(Repository::new(client.clone(), reference.clone())),
            Place::Directory { path, tag, digest } => Arc::new(Directory::new(path.clone(), tag.clone(), *digest)),
            Place::Bucket(place) => Arc::new(Bucket::new(client.clone(), BucketPlace::clone(place))),
            Place::Actions(place) => Arc::new(place.writer(client)),
        }
    }
}

/// A cache to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheTarget {
    /// In the image's own config.
    Inline,
    /// A cache of its own.
    Place {
        /// Where.
        place: Place,
        /// How much is written.
        mode: Mode,
        /// In which form.
        form: Form,
        /// Whether cache mounts go there, too.
        mounts: Mounts,
        /// What becomes of the build where it cannot be written.
        on_failure: OnFailure,
    },
}

/// How much of a build a cache gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Layers of the result alone.
    #[default]
    Minimal,
    /// Layers of all steps of all stages.
    Maximal,
}

/// Whether cache mounts travel with a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mounts {
    /// They stay on their machine.
    #[default]
    Leave,
    /// Those that a build has used go where the cache goes (`mounts=true`).
    Carry {
        /// A mount whose tar, not compressed, has more bytes than this stays.
        limit: u64,
    },
}

/// The form in which a cache is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Whose media types the manifest and the layers have.
    pub format: Format,
    /// The compression of layers that are not compressed yet; what an output has made, where none is given.
    pub compression: Option<Compression>,
    /// Its level; the compression's default, where none is given.
    pub level: Option<i32>,
    /// What becomes of layers that are compressed in another way.
    pub others: Others,
}

/// What becomes of layers that are compressed in another way than is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Others {
    /// They are written as they are.
    #[default]
    Keep,
    /// They are compressed anew (`force-compression=true`).
    Recompress,
}

impl Default for Form {
    fn default() -> Form {
        Form { format: Format::Oci, compression: None, level: None, others: Others::Keep }
    }
}

/// What becomes of a build whose cache cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It goes on, with a warning.
    #[default]
    Warn,
    /// It fails (`ignore-error=false`).
    Fail,
}
