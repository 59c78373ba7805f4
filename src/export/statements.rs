//! Attestations beside plain files: each is a file of its own, about every regular file of the output (BuildKit,
//! `exporter/local/fs.go`).

use std::collections::BTreeSet;
use std::io;

use super::ExportError;
use super::files::ImageFiles;
use crate::attest::{Attestation, Reach, Subject, statement};
use crate::layer::flatten::for_each_node;
use crate::tree::{Kind, Node, Time, View};

/// What plain files are accompanied by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statements {
    /// What is said about them.
    pub attestations: Vec<Attestation>,
    /// What the names of the files begin with that say it (`attestation-prefix`).
    pub prefix: String,
    /// When they were made, in seconds since 1970.
    pub time: i64,
}

/// Whose files lie in an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// Those of one image.
    Alone,
    /// Those of several.
    Several,
}

impl Company {
    pub(super) fn of(images: &[ImageFiles]) -> Company {
        if images.len() > 1 { Company::Several } else { Company::Alone }
    }
}

/// A file that says something about others.
pub(super) struct StatementFile {
    /// Its name in the directory of the files that it is about.
    pub(super) name: Vec<u8>,
    /// Its header.
    pub(super) node: Node,
    /// Its content.
    pub(super) content: Vec<u8>,
}

impl ImageFiles {
    /// The names of the files that say something about these: those of several platforms that lie together have the
    /// platform in them.
    fn statement_names(&self, company: Company) -> Vec<String> {
        let name = |attestation: &Attestation| {
            let name = format!("{}{}", self.statements.prefix, attestation.file);
            match name.rsplit_once('.') {
                _ if company == Company::Alone || self.directory.is_some() => name,
                Some((stem, extension)) => format!("{stem}.{}.{extension}", self.platform.replace('/', "_")),
                None => format!("{name}.{}", self.platform.replace('/', "_")),
            }
        };
        self.said().map(name).collect()
    }

    fn said(&self) -> impl Iterator<Item = &Attestation> {
        self.statements.attestations.iter().filter(|attestation| attestation.reach == Reach::Everywhere)
    }

    /// The files that say something about these.
    pub(super) fn statement_files(&self, company: Company) -> io::Result<Vec<StatementFile>> {
        let names = self.statement_names(company);
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut subjects = Vec::new();
        for_each_node(&self.view(), &mut |path, node| {
            if let Kind::File { digest: Some(digest), .. } = node.kind {
                subjects.push(Subject { name: String::from_utf8_lossy(path).into_owned(), digest });
            }
            Ok(true)
        })?;
        subjects.sort_by(|left, right| left.name.cmp(&right.name));
        let file = |(name, attestation): (String, &Attestation)| {
            let content = serde_json::to_vec_pretty(&statement(attestation, &subjects))?;
            let kind = Kind::File { size: content.len() as u64, digest: None };
            let time = Time { seconds: self.statements.time, nanoseconds: 0 };
            Ok(StatementFile {
                name: name.into_bytes(),
                node: Node { kind, mode: 0o600, ..Node::directory(time) },
                content,
            })
        };
        names.into_iter().zip(self.said()).map(file).collect()
    }

    /// A file of the image must not be lost to one that says something about it, nor one of these to another.
    pub(super) fn check_statements(&self, company: Company) -> Result<(), ExportError> {
        let view = self.view();
        let mut seen = BTreeSet::new();
        for name in self.statement_names(company) {
            let path = std::path::Path::new(&name);
            if view.node(name.as_bytes()).map_err(ExportError::write(path))?.is_some() || !seen.insert(name.clone()) {
                return Err(ExportError::StatementName { name });
            }
        }
        Ok(())
    }
}
