//! COPY and ADD as a plan: which entries a layer gets, with their final owners, modes and contents.
//!
//! Contract: the answer depends on the request and on what the views say, never on a tree on disk; what BuildKit would
//! write is what the recipe holds (`fsutil/copy`, `dockerfile2llb/convert_copy.go`). It reads no file content. It knows
//! nothing of tar, layers, caches or the network.

mod chmod;
mod place;
mod recipe;
mod source;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

pub use chmod::{Chmod, InvalidChmod};
pub use recipe::{Content, Placed, Recipe, RecipeEntry, rebase};

use crate::context::ignore::{IgnoreError, IgnoreRules};
use crate::context::pattern::InvalidPattern;
use crate::digest::Digest;
use crate::tree::{Time, View, clean};

/// One COPY or ADD, everything expanded.
pub struct CopyRequest<'a> {
    /// What to copy, in order.
    pub sources: Vec<CopySource<'a>>,
    /// Where to, as written; a slash at its end has a meaning.
    pub destination: String,
    /// What a relative destination is relative to.
    pub workdir: String,
    /// `--chown`: every entry gets this user and group.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--link`: the copy is made without looking at the destination. BuildKit ignores it beside `--chmod`
    /// (`convert_copy.go`: `cfg.link && cfg.chmod == ""`); here it is kept, as its reference says.
    pub link: bool,
    /// Where the sources are the build context: whether its ignore rules exclude a path.
    pub ignored: Option<Ignored<'a>>,
    /// The time of what has no time of its own: here-documents and directories that are made on the way.
    pub mtime_now: Time,
}

/// Says whether the ignore rules of a context exclude a path.
pub type Ignored<'a> = &'a dyn Fn(&[u8]) -> bool;

/// One source.
pub enum CopySource<'a> {
    /// Paths of a tree: the build context or another stage.
    View {
        /// The tree.
        view: &'a dyn View,
        /// A path or pattern, as written.
        pattern: String,
    },
    /// A here-document.
    Inline {
        /// The file's name.
        name: String,
        /// Its content.
        content: Arc<[u8]>,
        /// Its mode.
        mode: u32,
    },
    /// A file that was downloaded.
    Remote {
        /// The file's name in the image.
        name: String,
        /// Where its content is now.
        file: &'a Path,
        /// Bytes.
        size: u64,
        /// sha256 of the content.
        digest: Digest,
        /// Its mode (0600 unless said otherwise).
        mode: u32,
        /// The server's Last-Modified.
        mtime: Time,
    },
}

/// Says why a COPY or ADD cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source that is named in full is not there.
    #[error("{path:?}: not found{}", hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
    NotFound {
        /// The path from the root of the source tree.
        path: String,
        /// Why that may be so, or what may be meant.
        hint: Option<String>,
    },
    /// A directory would have to replace something else.
    #[error("cannot copy to non-directory: {path}")]
    NotDirectory {
        /// The path in the image.
        path: String,
    },
    /// A file would have to replace a directory.
    #[error("cannot replace to directory {path} with file")]
    IsDirectory {
        /// The path in the image.
        path: String,
    },
    /// The destination leads through something that is no directory.
    #[error("cannot create directory {path}: {reason}")]
    Destination {
        /// The path in the image.
        path: String,
        /// What is in the way.
        reason: String,
    },
    /// A source pattern means nothing.
    #[error("invalid source {pattern:?}: {source}")]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// What is wrong with it.
        source: InvalidPattern,
    },
    /// An `--exclude` pattern, or the pattern of a `--parents` source, means nothing.
    #[error("invalid pattern {:?}: {}", .0.pattern, .0.reason)]
    Rules(IgnoreError),
    /// A tree could not be looked at.
    #[error("read {path:?}: {source}")]
    View {
        /// The path in the tree.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// A key was asked for before the digests were filled in.
    #[error("compute the key of a copy: the digest of {path:?} is not known")]
    DigestMissing {
        /// The path in the image.
        path: String,
    },
}

impl CopyRequest<'_> {
    /// The destination from the image's root, cleaned, and whether it was written as a directory.
    fn target(&self) -> Target {
        let text = self.destination.as_str();
        let directory = text.is_empty() || text == "." || text.ends_with('/') || text.ends_with("/.");
        let path = if text.starts_with('/') { clean(text.as_bytes()) } else { self.below_workdir(text) };
        Target { path, directory }
    }

    fn below_workdir(&self, text: &str) -> Vec<u8> {
        clean(format!("{}/{text}", self.workdir).as_bytes())
    }
}

/// Where a copy goes.
struct Target {
    path: Vec<u8>,
    /// It ends in a slash: it is a directory, whatever is there now.
    directory: bool,
}

impl CopySource<'_> {
    /// The content of one of this source's files (the path is ignored where the source is one file).
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        match self {
            CopySource::View { view, .. } => view.open(path),
            CopySource::Inline { content, .. } => Ok(Box::new(&content[..])),
            CopySource::Remote { file, .. } => Ok(Box::new(File::open(file)?)),
        }
    }
}

/// Plans a copy. The destination is the root file system so far; `None` is an empty one.
///
/// # Errors
/// See [`CopyError`].
pub fn plan_copy(request: &CopyRequest, destination: Option<&dyn View>) -> Result<Recipe, CopyError> {
    let exclude = IgnoreRules::from_patterns(&request.exclude).map_err(CopyError::Rules)?;
    let mut placing = place::Placing::new(request, destination);
    for (index, source) in request.sources.iter().enumerate() {
        match source {
            CopySource::View { view, pattern } => {
                for found in source::find(request, *view, pattern, &exclude, &mut placing.warnings)? {
                    placing.tree(index, *view, &found, &exclude)?;
                }
            }
            CopySource::Inline { name, content, mode } => placing.inline(name, content, *mode)?,
            CopySource::Remote { name, size, digest, mode, mtime, .. } => {
                placing.remote(index, name, (*size, *digest), *mode, *mtime)?;
            }
        }
    }
    Ok(placing.finish())
}

/// The regular files that sources name themselves, rather than by a directory they are in: those that ADD looks into.
///
/// # Errors
/// See [`CopyError`].
pub fn named_files(request: &CopyRequest) -> Result<Vec<(usize, Vec<u8>)>, CopyError> {
    let exclude = IgnoreRules::from_patterns(&request.exclude).map_err(CopyError::Rules)?;
    let mut named = Vec::new();
    for (index, source) in request.sources.iter().enumerate() {
        match source {
            CopySource::View { view, pattern } => {
                let found = source::find(request, *view, pattern, &exclude, &mut Vec::new())?;
                let files = found.into_iter().filter(|found| matches!(found.node.kind, crate::tree::Kind::File { .. }));
                named.extend(files.map(|found| (index, found.path)));
            }
            CopySource::Inline { .. } => {}
            CopySource::Remote { name, .. } => named.push((index, name.clone().into_bytes())),
        }
    }
    Ok(named)
}

/// Plans the directory that an archive is unpacked into: its path without any link, and what has to be made for it.
///
/// # Errors
/// Something on the way is no directory.
pub fn plan_directory(
    request: &CopyRequest,
    destination: Option<&dyn View>,
) -> Result<(Vec<u8>, Vec<RecipeEntry>), CopyError> {
    let mut placing = place::Placing::new(request, destination);
    let path = placing.unpack_directory()?;
    Ok((path, placing.finish().entries))
}

/// A path of an image as people write it.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
