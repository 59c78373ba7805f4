//! What software is in an image: an SBOM (software bill of materials) in SPDX 2.3, from the image's files alone.
//!
//! Contract: the same files and the same [`Subject`] give the same bytes; nothing of an image makes it fail or use more than a
//! bounded amount of memory: what is malformed or too large becomes a [`Notice`], which the document carries, so that it never
//! looks more complete than it is. Only what names a package gets into a document (name, version, licence, who made it, where it
//! lies in the image): no URL that an image's files hold, for it may have a password in it, no environment, no linker flags.
//!
//! No link is followed: a path is read under its own name or not at all, so no link can lead anywhere.
//!
//! It must not know what a build is, where layers come from, or what becomes of a document: that is what `build` and the command
//! line say. In reading order: [`scan`] is the plot (one pass over names, one over the content of those that are wanted),
//! [`files`] is where content comes from, then one file per ecosystem, each of which is a rule for names and a parser, and
//! `spdx_document` for what is written.

mod apk;
mod cargo;
mod distribution;
mod dpkg;
mod elf;
pub mod files;
mod go;
mod license;
mod npm;
mod package;
mod paragraphs;
mod pip;
mod purl;
mod rpm;
mod scan;
mod spdx_document;
mod sqlite;
#[cfg(test)]
mod tests;

use std::io;

pub use files::{Files, LayerFiles, TreeFiles};
pub use package::{Ecosystem, Package};
pub use scan::scan;

use crate::digest::Digest;
use crate::image::platform::Platform;
use distribution::Distribution;

/// What a document is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What people call it: an image's name without registry credentials, a stage's name, `context`.
    pub name: String,
    /// What it is.
    pub kind: SubjectKind,
    /// The moment that dates the document, in seconds since 1970: `SOURCE_DATE_EPOCH`, or when the image was created.
    pub created: i64,
}

/// Kinds of what documents are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectKind {
    /// An image for one platform.
    Image {
        /// Its config's digest: the image's id.
        id: Digest,
        /// Its manifest's digest, where it is known; only then has the image a package URL.
        manifest: Option<Digest>,
        /// Its platform.
        platform: Platform,
    },
    /// Files that are no image: a stage of a build, or a build context.
    Directory,
}

/// Something about the files that a reader of the document has to know: what could not be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// Where, from `/`.
    pub path: String,
    /// What is the matter.
    pub text: String,
}

/// What was found. [`Document::to_bytes`] writes it as SPDX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    subject: Subject,
    distribution: Option<Distribution>,
    packages: Vec<Package>,
    notices: Vec<Notice>,
}

impl Document {
    /// The type of an in-toto statement's predicate that is such a document.
    pub const PREDICATE_TYPE: &'static str = "https://spdx.dev/Document";

    /// The packages, sorted by ecosystem, name and version.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// What could not be read, sorted by path.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// A package's URL (<https://github.com/package-url/purl-spec>): that of a distribution's package names the distribution.
    pub fn url_of(&self, package: &Package) -> String {
        package.url(self.distribution.as_ref())
    }
}

/// A text as it may stand in an id of SPDX: letters, digits, `.` and `-`.
fn identifier(text: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-');
    text.chars().map(|character| if allowed(character) { character } else { '-' }).collect()
}

/// Whether a path is this one, or this one below another root (a chroot, a tree that was unpacked).
fn lies_at(path: &[u8], place: &[u8]) -> bool {
    path.strip_suffix(place).is_some_and(|above| above.is_empty() || above.ends_with(b"/"))
}

/// Says why there is no document: the files themselves cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is there.
    #[error("list the files of {subject}")]
    List {
        /// What was asked about.
        subject: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in them.
    #[error("read the files of {subject}")]
    Read {
        /// What was asked about.
        subject: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}
