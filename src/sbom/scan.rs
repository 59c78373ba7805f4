//! The plot: one pass over the names of all files, then one over the content of those that say what is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use super::distribution::{self, Distribution};
use super::files::Files;
use super::package::Package;
use super::{Document, Error, Notice, Subject, dpkg};
use crate::tree::{Kind, Node};

/// Finds the packages of some files.
///
/// # Errors
/// The files cannot be listed or read. What is wrong with one of them is a notice in the document instead.
pub fn scan(files: &dyn Files, subject: &Subject) -> Result<Document, Error> {
    let mut wanted = BTreeMap::new();
    let list = |source| Error::List { subject: subject.name.clone(), source };
    files.list(&mut |path, node| want(path, node, &mut wanted)).map_err(list)?;
    let mut found = Found::default();
    let paths: BTreeSet<Vec<u8>> = wanted.keys().cloned().collect();
    let read = |source| Error::Read { subject: subject.name.clone(), source };
    files.read(&paths, &mut |path, content| found.take(path, wanted[path], content)).map_err(read)?;
    Ok(found.into_document(subject))
}

/// What a file is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    OsRelease,
    Dpkg,
}

impl Role {
    fn of(path: &[u8]) -> Option<Role> {
        if distribution::PATHS.contains(&path) {
            return Some(Role::OsRelease);
        }
        dpkg::is_database(path).then_some(Role::Dpkg)
    }

    /// Bytes of a file that are read at most.
    fn limit(self) -> u64 {
        match self {
            Role::OsRelease => 64 << 10,
            // A desktop with thousands of packages has one of 5 MB.
            Role::Dpkg => 64 << 20,
        }
    }
}

fn want(path: &[u8], node: &Node, wanted: &mut BTreeMap<Vec<u8>, Role>) {
    let Kind::File { .. } = node.kind else { return };
    if let Some(role) = Role::of(path) {
        wanted.insert(path.to_vec(), role);
    }
}

/// What was found so far. By path, so that the order of reading does not show.
#[derive(Default)]
struct Found {
    distributions: BTreeMap<Vec<u8>, Distribution>,
    packages: BTreeMap<Vec<u8>, Vec<Package>>,
    notices: BTreeSet<Notice>,
}

impl Found {
    fn take(&mut self, path: &[u8], role: Role, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.take(role.limit() + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > role.limit() {
            self.note(path, format!("not read: it is larger than {} MiB", role.limit() >> 20));
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes);
        match role {
            Role::OsRelease => {
                self.distributions.extend(Distribution::parse(&text).map(|found| (path.to_vec(), found)))
            }
            Role::Dpkg => drop(self.packages.insert(path.to_vec(), dpkg::packages(&text))),
        }
        Ok(())
    }

    fn note(&mut self, path: &[u8], text: String) {
        self.notices.insert(Notice { path: shown(path), text });
    }

    fn into_document(self, subject: &Subject) -> Document {
        let distribution = distribution::PATHS.iter().find_map(|path| self.distributions.get(*path)).cloned();
        let mut packages: BTreeMap<_, Package> = BTreeMap::new();
        for (path, found) in self.packages {
            for mut package in found {
                let url = package.url(distribution.as_ref());
                let key = (package.ecosystem, package.name.clone(), package.version.clone(), url);
                package.locations.insert(shown(&path));
                packages.entry(key).or_insert(package).locations.insert(shown(&path));
            }
        }
        Document {
            subject: subject.clone(),
            distribution,
            packages: packages.into_values().collect(),
            notices: self.notices.into_iter().collect(),
        }
    }
}

/// A path as people write it.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
