//! Archives and layouts of images as people name them: `oci:DIRECTORY`, `oci-archive:FILE`, `docker-archive:FILE`, each with
//! `:NAME` where it holds several, as containers-transports(5) has it.

use std::path::PathBuf;

use super::InvalidRequest;
use super::fields::Given;
use crate::cli::environment::Environment;

/// An archive or a layout of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePlace {
    /// What it is.
    pub kind: ArchiveKind,
    /// Where it is.
    pub path: PathBuf,
    /// Which image of it.
    pub label: Option<String>,
}

/// A kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI layout in a directory.
    Directory,
    /// An OCI layout in a tar.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

/// Transports of containers-transports(5) that mean stores of other tools; no image is called so.
const FOREIGN: [&str; 2] = ["containers-storage:", "docker-daemon:"];

impl ArchivePlace {
    /// Understands a text that names an archive; `None` where it names something else.
    pub(super) fn parse(
        flag: &'static str,
        text: &str,
        environment: &Environment,
    ) -> Result<Option<ArchivePlace>, InvalidRequest> {
        let kinds = [
            ("oci:", ArchiveKind::Directory),
            ("oci-archive:", ArchiveKind::OciArchive),
            ("docker-archive:", ArchiveKind::DockerArchive),
        ];
        let given = Given { flag, value: text, expected: "oci:DIRECTORY, oci-archive:FILE or docker-archive:FILE" };
        if let Some(foreign) = FOREIGN.iter().find(|foreign| text.starts_with(**foreign)) {
            return Err(given
                .because(&format!("{foreign} is another tool's store; it can write an archive, which is read here")));
        }
        let found = kinds.iter().find_map(|(prefix, kind)| Some((*kind, text.strip_prefix(prefix)?)));
        let Some((kind, rest)) = found else { return Ok(None) };
        let (path, label) = match rest.split_once(':') {
            Some((path, label)) => (path, Some(label.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() || label.as_ref().is_some_and(String::is_empty) {
            return Err(given.invalid());
        }
        Ok(Some(ArchivePlace { kind, path: environment.absolute(path), label }))
    }
}
