//! Image → outputs: OCI and Docker archives, directories, plain files, registries.
//!
//! Contract: an output is there whole or not at all (written beside its place, then renamed), and the same image gives
//! the same bytes on every machine. It knows nothing of steps, caches or Dockerfiles: what it needs of a layer is its
//! descriptor and a way to open it.

mod ahead;
mod annotations;
mod bundle;
mod files;
mod layout;
mod push;
mod sign;
mod statements;

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

pub use annotations::{Annotation, AnnotationTarget};
pub use bundle::{Assembled, Blob, Bundle, Documents, ExportImage, ExportLayer, Shape, Style};
pub use files::{FilesTarget, ImageFiles, LayerFiles, Others, write_files};
pub use layout::{LayoutForm, LayoutTarget, NamedBundle, write_layout};
pub use push::push;
pub use sign::sign;
pub use statements::Statements;

use crate::digest::Digest;
use crate::registry::RegistryError;
use crate::sign::InvalidKey;

/// Opens a blob anew each time it is called: a push that is retried reads it again.
pub type Open = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A layer's blob in the store is not what its name says; inside of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("the store's blob of layer {digest} is damaged: {reason}")]
pub struct DamagedBlob {
    /// The blob.
    pub digest: Digest,
    /// In what.
    pub reason: String,
}

/// What can go wrong while an output is written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file operation failed.
    #[error("write output {path}")]
    Write {
        /// Where to.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A layer could not be read.
    #[error("read layer {digest}")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Files of two platforms would have to have the same name.
    #[error("cannot overwrite {path} from {first} with {second} when split option is disabled")]
    Collision {
        /// The path in both.
        path: String,
        /// The platform whose file it is.
        first: String,
        /// The platform that has another.
        second: String,
    },
    /// The image has a file where one that says something about it has to go.
    #[error("write attestation {name}: there is a file of that name; attestation-prefix=PREFIX gives it another")]
    StatementName {
        /// Its name.
        name: String,
    },
    /// What was pushed could not be signed.
    #[error("sign {reference}")]
    Sign {
        /// The name.
        reference: String,
        /// Why.
        #[source]
        source: InvalidKey,
    },
    /// The registry did not take a signature.
    #[error("push the signature of {reference}")]
    PushSignature {
        /// The name.
        reference: String,
        /// Why it failed.
        #[source]
        source: Box<RegistryError>,
    },
    /// The registry refused.
    #[error("push {reference}")]
    Push {
        /// The name.
        reference: String,
        /// Why it failed.
        #[source]
        source: RegistryError,
    },
}

impl ExportError {
    fn write(path: &std::path::Path) -> impl Fn(io::Error) -> ExportError + '_ {
        move |source| ExportError::Write { path: path.display().to_string(), source }
    }
}

/// Where a single-file output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileTarget {
    /// A file, replaced when it is complete.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}
