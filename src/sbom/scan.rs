//! The plot: one pass over the names of all files, one over the content of those that may say what is installed, and one over the
//! few programs of which a part is known only when they were read to their end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::ops::Range;

use super::distribution::{self, Distribution};
use super::files::Files;
use super::package::Package;
use super::{Document, Error, Notice, Subject, apk, cargo, dpkg, elf, go, npm, pip, rpm};
use crate::tree::{self, Kind, Node};

/// Finds the packages of some files.
///
/// # Errors
/// The files cannot be listed or read. What is wrong with one of them is a notice in the document instead.
pub fn scan(files: &dyn Files, subject: &Subject) -> Result<Document, Error> {
    let mut wanted = Wanted::default();
    let list = |source| Error::List { subject: subject.name.clone(), source };
    files.list(&mut |path, node| wanted.look(path, node)).map_err(list)?;
    let mut found = Found::default();
    let read = |source| Error::Read { subject: subject.name.clone(), source };
    let roles = wanted.roles(&mut found);
    let paths: BTreeSet<Vec<u8>> = roles.keys().cloned().collect();
    files.read(&paths, &mut |path, content| found.take(path, roles[path], content)).map_err(read)?;
    let audits = std::mem::take(&mut found.audits);
    let paths: BTreeSet<Vec<u8>> = audits.keys().cloned().collect();
    if !paths.is_empty() {
        files.read(&paths, &mut |path, content| found.take_audit(path, &audits[path], content)).map_err(read)?;
    }
    Ok(found.into_document(subject))
}

/// A role, and whether a path is that of a file that has it.
type Rule = (Role, fn(&[u8]) -> bool);

/// What a file is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    OsRelease,
    Dpkg,
    Apk,
    Rpm,
    NpmManifest,
    NpmLock,
    PipMetadata,
    CargoLock,
    Program,
}

impl Role {
    fn of(path: &[u8], node: &Node) -> Option<Role> {
        let rules: [Rule; 8] = [
            (Role::OsRelease, |path| distribution::PATHS.contains(&path)),
            (Role::Dpkg, dpkg::is_database),
            (Role::Apk, apk::is_database),
            (Role::Rpm, rpm::is_database),
            (Role::NpmManifest, npm::is_manifest),
            (Role::NpmLock, npm::is_lock),
            (Role::PipMetadata, pip::is_metadata),
            (Role::CargoLock, cargo::is_lock),
        ];
        let found = rules.iter().find(|(_, is)| is(path)).map(|(role, _)| *role);
        found.or_else(|| may_be_program(path, node).then_some(Role::Program))
    }

    /// Bytes that a file may have; of a larger one nothing is read.
    fn limit(self) -> u64 {
        match self {
            Role::OsRelease => 64 << 10,
            Role::NpmManifest => 4 << 20,
            // A desktop with thousands of packages has a status of 5 MB; a lock file of the largest projects 3 MB.
            Role::Dpkg | Role::Apk | Role::NpmLock | Role::CargoLock => 32 << 20,
            // That of a desktop.
            Role::Rpm => 128 << 20,
            // Read as a stream: only the time is spent, and a file of zeros costs nobody else anything.
            Role::PipMetadata | Role::Program => 4 << 30,
        }
    }
}

/// Bytes of a Python package's metadata that are looked at: the fields come first, its description after them.
const PIP_FIELDS: u64 = 1 << 20;

/// Whether a file is run, or loaded by what is run. Which of them are in ELF only their content says.
fn may_be_program(path: &[u8], node: &Node) -> bool {
    let name = tree::base_name(path);
    node.mode & 0o111 != 0 || name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.")
}

/// The files that are read, and what only the list of all files says about them.
#[derive(Default)]
struct Wanted {
    roles: BTreeMap<Vec<u8>, Role>,
    unreadable: BTreeMap<Vec<u8>, &'static str>,
    too_large: BTreeMap<Vec<u8>, Role>,
    /// Directories in which npm installed something.
    installed: BTreeSet<Vec<u8>>,
}

impl Wanted {
    fn look(&mut self, path: &[u8], node: &Node) {
        match node.kind {
            Kind::File { size, .. } if size > 0 => {
                if let Some(kind) = rpm::unreadable(path) {
                    self.unreadable.insert(path.to_vec(), kind);
                } else if let Some(role) = Role::of(path, node) {
                    let roles = if size > role.limit() { &mut self.too_large } else { &mut self.roles };
                    roles.insert(path.to_vec(), role);
                }
            }
            Kind::Directory if tree::base_name(path) == b"node_modules" => {
                self.installed.insert(path.to_vec());
            }
            _ => {}
        }
    }

    fn roles(mut self, found: &mut Found) -> BTreeMap<Vec<u8>, Role> {
        for (path, kind) in self.unreadable {
            found.note(&path, format!("not read: {kind} is not supported, its packages are missing here"));
        }
        for (path, role) in self.too_large {
            found.note_size(&path, role);
        }
        let installed = self.installed;
        let is_known_better =
            |path: &[u8], role: Role| role == Role::NpmLock && installed.contains(&npm::installed_beside(path));
        self.roles.retain(|path, role| !is_known_better(path, *role));
        self.roles
    }
}

/// Packages of one image that are listed at most: a hundred times what a large one has.
const MOST_PACKAGES: usize = 200_000;

/// What was found so far. By path, so that the order of reading does not show.
#[derive(Default)]
struct Found {
    distributions: BTreeMap<Vec<u8>, Distribution>,
    packages: BTreeMap<Vec<u8>, Vec<Package>>,
    count: usize,
    /// Where in a program a list lies that has to be read yet.
    audits: BTreeMap<Vec<u8>, Range<u64>>,
    notices: BTreeSet<Notice>,
}

impl Found {
    /// Reads a file; only what reading it reports is an error.
    fn take(&mut self, path: &[u8], role: Role, content: &mut dyn Read) -> io::Result<()> {
        if role == Role::Program {
            return self.take_program(path, content);
        }
        let limit = if role == Role::PipMetadata { PIP_FIELDS } else { role.limit().saturating_add(1) };
        let mut bytes = Vec::new();
        content.take(limit).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > role.limit() {
            // A context's files may grow while they are read.
            self.note_size(path, role);
            return Ok(());
        }
        let text = || String::from_utf8_lossy(&bytes);
        let parsed = match role {
            Role::OsRelease => {
                self.distributions.extend(Distribution::parse(&text()).map(|found| (path.to_vec(), found)));
                return Ok(());
            }
            Role::Dpkg => Ok(dpkg::packages(&text())),
            Role::Apk => Ok(apk::packages(&text())),
            Role::Rpm => rpm::installed(&bytes).map_err(str::to_owned).map(|installed| {
                self.note_damaged(path, installed.damaged);
                installed.packages
            }),
            Role::NpmManifest => {
                npm::package(&text()).map(|found| found.into_iter().collect()).map_err(|error| error.to_string())
            }
            Role::NpmLock => npm::locked(&text()).map_err(|error| error.to_string()),
            Role::PipMetadata => Ok(pip::package(&text()).into_iter().collect()),
            Role::CargoLock => cargo::locked(&text()),
            Role::Program => return Ok(()),
        };
        match parsed {
            Ok(packages) => self.add(path, packages),
            Err(reason) => self.note(path, format!("not read: {}", in_one_line(&reason))),
        }
        Ok(())
    }

    fn take_program(&mut self, path: &[u8], content: &mut dyn Read) -> io::Result<()> {
        let Some(survey) = elf::survey(content)? else { return Ok(()) };
        if let Some(audit) = survey.audit {
            self.audits.insert(path.to_vec(), audit);
        }
        let lists: Vec<_> = survey.go.iter().map(|list| go::packages(list)).collect();
        if let Some(modules) = lists.iter().find_map(|list| list.as_ref().ok()) {
            self.add(path, modules.clone());
        } else if lists.contains(&Err(go::NoList::Old)) {
            self.note(
                path,
                "not read: a program that was built before Go 1.18, whose modules are missing here".to_owned(),
            );
        }
        Ok(())
    }

    fn take_audit(&mut self, path: &[u8], range: &Range<u64>, content: &mut dyn Read) -> io::Result<()> {
        let Some(section) = elf::section(content, range, cargo::LIMIT)? else {
            self.note(path, "not read: its list of crates is too large or cut off".to_owned());
            return Ok(());
        };
        match cargo::audited(&section) {
            Ok(packages) => self.add(path, packages),
            Err(reason) => self.note(path, format!("its list of crates is not read: {}", in_one_line(&reason))),
        }
        Ok(())
    }

    fn add(&mut self, path: &[u8], packages: Vec<Package>) {
        let before = packages.len();
        let mut sound: Vec<Package> = packages.into_iter().filter_map(sound).collect();
        if sound.len() < before {
            self.note(path, format!("{} packages in it have no sound name or version", before - sound.len()));
        }
        let room = MOST_PACKAGES - self.count;
        if sound.len() > room {
            self.note(path, format!("not all of its packages are listed: there are more than {MOST_PACKAGES}"));
            sound.truncate(room);
        }
        self.count += sound.len();
        // A program can have modules and crates.
        self.packages.entry(path.to_vec()).or_default().extend(sound);
    }

    fn note_size(&mut self, path: &[u8], role: Role) {
        self.note(path, format!("not read: it is larger than {} KiB", role.limit() >> 10));
    }

    fn note_damaged(&mut self, path: &[u8], damaged: usize) {
        match damaged {
            0 => {}
            1 => self.note(path, "a package in it is damaged and missing here".to_owned()),
            _ => self.note(path, format!("{damaged} packages in it are damaged and missing here")),
        }
    }

    fn note(&mut self, path: &[u8], text: String) {
        self.notices.insert(Notice { path: shown(path), text });
    }

    /// Puts together what several files say of one package.
    fn into_document(self, subject: &Subject) -> Document {
        let distribution = distribution::PATHS.iter().find_map(|path| self.distributions.get(*path)).cloned();
        let mut packages: BTreeMap<_, Package> = BTreeMap::new();
        for (path, found) in self.packages {
            for package in found {
                let url = package.url(distribution.as_ref());
                let key = (package.ecosystem, package.name.clone(), package.version.clone(), url);
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

/// Longer than any name of a package, a version, a license or a person's name is.
const LONGEST: usize = 1024;

/// The package, if its name and version can be some; of the rest only what can be what it should be.
fn sound(mut package: Package) -> Option<Package> {
    let is_sound = |text: &str| text.len() <= LONGEST && !text.contains(|character: char| character.is_control());
    if package.name.is_empty() || !is_sound(&package.name) || !is_sound(&package.version) {
        return None;
    }
    for text in [&mut package.architecture, &mut package.upstream, &mut package.license, &mut package.maintainer] {
        if !is_sound(text) {
            text.clear();
        }
    }
    Some(package)
}

/// The beginning of a text in one line: parsers' messages quote what they read.
fn in_one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// A path as people write it.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
