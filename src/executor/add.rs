//! What ADD can do and COPY cannot: unpack archives, and fetch from URLs and git repositories.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};

use super::copy::{
    Content, CopyError, CopyRequest, CopySource, Recipe, RecipeEntry, named_files, plan_directory, rebase,
};
use super::download::FetchedFile;
use super::git::{GitAccess, GitError, fetch_tree};
use super::step::Work;
use super::transfer::{Copying, Origin, existing_parents, write_entries};
use super::{ExecuteError, Revision, Times};
use crate::context::archive::TarContext;
use crate::digest::{Digest, VerifyReader};
use crate::layer::decompress::decompress;
use crate::layer::read::{TarReader, is_tar};
use crate::layer::view::MergedView;
use crate::layer::write::TarWriter;
use crate::plan::{CopyInstruction, CopyOp, GitReference, Source};
use crate::tree::{self, Kind, Last, Node, Time, View, resolve};

/// A remote source that is here now.
pub(super) enum Fetched {
    /// A file.
    File(FetchedFile),
    /// The files of a repository.
    Tree(TarContext),
}

impl Fetched {
    /// The same without the date at which it was served or checked out: another server has another one.
    fn steady(self) -> Fetched {
        match self {
            Fetched::File(file) => Fetched::File(file.steady()),
            Fetched::Tree(tree) => Fetched::Tree(tree.steady()),
        }
    }

    /// The source that it is of a copy. Downloads are private (0600) unless `--chmod` says otherwise, as in BuildKit.
    pub(super) fn source(&self) -> CopySource<'_> {
        match self {
            Fetched::File(file) => file.source(),
            Fetched::Tree(tree) => CopySource::View { view: tree, pattern: "/".to_owned() },
        }
    }
}

/// An archive among the sources of an ADD: its source's number and its path there.
pub(super) struct Archive {
    source: usize,
    path: Vec<u8>,
}

impl Archive {
    fn is_of(&self, entry: &RecipeEntry, sources: &[CopySource<'_>]) -> bool {
        match &entry.content {
            // The path of what was fetched is no path in a tree, so the source alone tells.
            Content::View { source, path } => {
                let is_remote = matches!(sources[*source], CopySource::Remote { .. });
                self.source == *source && (is_remote || self.path == *path)
            }
            Content::None | Content::Inline(_) | Content::HardLink(_) => false,
        }
    }

    /// Of which copy it is, and the digest that entered the key.
    fn found_in(&self, recipe: &Recipe, sources: &[CopySource<'_>]) -> io::Result<(usize, Digest)> {
        let found = recipe.all().find(|entry| self.is_of(entry, sources)).and_then(|entry| match &entry.node.kind {
            Kind::File { digest, .. } => digest.map(|digest| (entry.copy, digest)),
            _ => None,
        });
        found.ok_or_else(|| io::Error::other("an archive is not among the files that are copied"))
    }
}

impl Work<'_> {
    /// Fetches the remote sources, in order.
    pub(super) fn fetch_all(&self, op: &CopyOp) -> Result<Vec<Fetched>, ExecuteError> {
        let mut fetched = Vec::new();
        for source in &op.sources {
            fetched.push(match source {
                Source::Url(url) => Fetched::File(self.fetch_url(url, op)?),
                Source::Git(reference) => self.fetch_git(reference)?,
                Source::Path(_) | Source::Inline { .. } => continue,
            });
        }
        Ok(match self.services.options.times {
            Times::Real => fetched,
            Times::Steady => fetched.into_iter().map(Fetched::steady).collect(),
        })
    }

    /// ADD of a repository.
    fn fetch_git(&self, reference: &GitReference) -> Result<Fetched, ExecuteError> {
        let part = self.task.part(format!("fetching {}", reference.shown()), 0);
        let options = self.services.options;
        let access = GitAccess {
            secrets: &options.secrets,
            agents: &options.agents,
            cancel: Some(self.services.cancel),
            epoch: options.epoch,
        };
        let tree = fetch_tree(reference, self.services.layers.store, &access).map_err(|error| match error {
            GitError::Store(error) => ExecuteError::Store(error),
            GitError::Cancelled => ExecuteError::Cancelled,
            error => self.refuse(error.to_string()),
        })?;
        part.finish();
        self.services.materials.note(reference.to_string(), Revision::Commit(tree.commit));
        Ok(Fetched::Tree(tree.context))
    }

    /// The sources that are archives to be unpacked: decided by content, never by name.
    pub(super) fn archives(&self, copying: &Copying<'_>) -> Result<Vec<Archive>, ExecuteError> {
        let op = copying.op;
        let is_local = matches!(copying.origin, Origin::Context(_));
        if op.instruction != CopyInstruction::Add || op.unpack == Some(false) || !is_local {
            return Ok(Vec::new());
        }
        let request = copying.request(None, None, self.services.options.epoch);
        let named = named_files(&request).map_err(|error| self.copy_error(error))?;
        let mut archives = Vec::new();
        for (source, path) in named {
            let is_remote = matches!(request.sources[source], CopySource::Remote { .. });
            if is_remote && op.unpack != Some(true) {
                continue;
            }
            let content =
                request.sources[source].open(&path).map_err(|error| self.copy_error(view_error(&path, error)))?;
            if is_archive(content) {
                archives.push(Archive { source, path });
            }
        }
        Ok(archives)
    }

    /// What is unpacked makes a directory of the destination, into which what is beside it would have to go; without a
    /// slash the plan took it for a file's name.
    fn check_directory(&self, op: &CopyOp, below: Option<&dyn View>) -> Result<(), ExecuteError> {
        if op.sources.len() == 1 || op.destination.ends_with('/') {
            return Ok(());
        }
        let found = below.map(|below| resolve(below, op.destination.as_bytes(), Last::Follow)).transpose();
        let found = found.map_err(|error| self.copy_error(view_error(op.destination.as_bytes(), error)))?;
        if found.and_then(|found| found.node).is_some_and(|node| node.is_directory()) {
            return Ok(());
        }
        let name = &op.destination;
        Err(self.refuse(format!("an archive beside other sources needs a directory to go to: write {name}/")))
    }

    /// Writes a layer of copied files and unpacked archives.
    pub(super) fn add_archives(
        &self,
        copying: &Copying<'_>,
        recipe: &Recipe,
        archives: &[Archive],
    ) -> Result<Digest, ExecuteError> {
        let view = self.destination(copying)?;
        let owner = self.owner(copying.op)?;
        // --chmod is for what is copied: neither what is unpacked nor the directories on the way take it, as in BuildKit.
        let request = CopyRequest { chmod: None, ..copying.request(owner, None, self.services.options.epoch) };
        let below = view.as_ref().map(|view| view as &dyn View);
        self.check_directory(copying.op, below)?;
        let (directory, made) = plan_directory(&request, below).map_err(|error| self.copy_error(error))?;
        let is_archive = |entry: &RecipeEntry| archives.iter().any(|archive| archive.is_of(entry, &request.sources));
        // What an archive seemed to replace is there beside what is in it.
        let plain = recipe.all().filter(|entry| !is_archive(entry)).map(|entry| (entry.path.as_slice(), entry));
        let mut entries: Vec<RecipeEntry> = plain.collect::<BTreeMap<_, _>>().into_values().cloned().collect();
        // Of the first source and an archive after it, the first makes the directories.
        let archive_is_first = archives.iter().any(|archive| archive.source == 0);
        for parent in made {
            match entries.iter_mut().find(|entry| entry.path == parent.path) {
                Some(entry) if archive_is_first => *entry = parent,
                Some(_) => {}
                None => entries.push(parent),
            }
        }
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        let mut replaced = Replaced::default();
        loop {
            let mut landing = Landing::new(view.as_ref(), owner, &entries, &replaced);
            let layer = self.unpack_all(&request, recipe, (&entries, archives), &directory, &mut landing);
            if !landing.is_again() {
                return layer;
            }
            // Rare, so it is seen only when it is there: all is done again without what is replaced later.
            replaced = landing.again;
            entries.retain(|entry| !replaced.copied.contains(&entry.path));
        }
    }

    /// The layer, unless landing has found that it must be written another time.
    fn unpack_all(
        &self,
        request: &CopyRequest<'_>,
        recipe: &Recipe,
        (entries, archives): (&[RecipeEntry], &[Archive]),
        directory: &[u8],
        landing: &mut Landing<'_>,
    ) -> Result<Digest, ExecuteError> {
        // An archive's entries come in any order, with any directory left out: no tree can be packed into the same tar again.
        let wanted = self.wanted().with_blob();
        let mut broken = None;
        let layer = self.services.layers.create(wanted, |out| {
            let mut tar = TarWriter::new(out);
            write_entries(entries, &request.sources, &mut tar)?;
            for archive in archives {
                let content = request.sources[archive.source].open(&archive.path)?;
                let (copy, digest) = archive.found_in(recipe, &request.sources)?;
                landing.copy = copy;
                // A pipe that broke is no fault of the archive: who hung up (a full disk) says why.
                unpack(landing, content, digest, &archive.path, directory, &mut tar).inspect_err(|error| {
                    broken = (error.kind() != io::ErrorKind::BrokenPipe).then(|| error.to_string());
                })?;
            }
            if landing.is_again() {
                return Err(io::Error::other("an archive names a file again"));
            }
            tar.finish().map(drop)
        });
        match (layer, broken) {
            (Err(_), Some(reason)) => Err(self.refuse(reason)),
            (layer, _) => Ok(layer?.0),
        }
    }
}

/// Unpacks one archive.
fn unpack<W: Write>(
    landing: &mut Landing<'_>,
    content: impl Read + Send,
    digest: Digest,
    path: &[u8],
    directory: &[u8],
    tar: &mut TarWriter<W>,
) -> io::Result<()> {
    let name = String::from_utf8_lossy(path);
    // The digest that made the key must be that of what is unpacked, or the cache would lie.
    let mut content = VerifyReader::new(content, digest, None);
    landing
        .unpack(&mut content, directory, tar)
        .map_err(|error| io::Error::new(error.kind(), format!("unpack {name}: {error}")))?;
    io::copy(&mut content, &mut io::sink()).map(drop).map_err(|error| {
        let advice = "it changed while it was copied; build again when nothing writes to the context";
        io::Error::new(error.kind(), format!("unpack {name}: {error}: {advice}"))
    })
}

/// What later entries take the place of: a layer names nothing twice.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Replaced {
    /// Entries of archives, counted through all of them.
    unpacked: HashSet<usize>,
    /// Paths of copied files.
    copied: HashSet<Vec<u8>>,
}

fn view_error(path: &[u8], source: io::Error) -> CopyError {
    CopyError::View { path: String::from_utf8_lossy(path).into_owned(), source }
}

/// Whether bytes are a tar, plain or compressed, with a first header that can be read: anything else is copied as it is.
fn is_archive(content: impl Read + Send) -> bool {
    let mut block = [0; 512];
    decompress(content).and_then(|mut tar| tar.read_exact(&mut block)).is_ok() && is_tar(&block)
}

/// Where the entries of archives land: links that the image or an earlier entry has are followed, and, as BuildKit unpacks
/// in a chroot, none of them leads out of the directory that the archive is unpacked into.
struct Landing<'a> {
    below: Option<&'a MergedView>,
    owner: Option<(u32, u32)>,
    made: HashMap<Vec<u8>, Node>,
    /// What is not to be written.
    replaced: &'a Replaced,
    /// The same, as far as this time has shown.
    again: Replaced,
    /// What is written, by path; the entry's number if it is an archive's.
    written: BTreeMap<Vec<u8>, Option<usize>>,
    /// How many entries of archives there were.
    count: usize,
    /// What is copied, with its copy's number: one that comes after an archive is not replaced by it.
    copied: HashMap<Vec<u8>, (Shape, usize)>,
    /// The number of the archive's copy.
    copy: usize,
}

/// What can take the place of what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Directory,
    Leaf,
}

impl Shape {
    fn of(node: &Node) -> Shape {
        if node.is_directory() { Shape::Directory } else { Shape::Leaf }
    }
}

impl<'a> Landing<'a> {
    /// What is copied beside the archives is there before them: a link of an archive in a new directory would lead nowhere
    /// else, and what comes after it would be written below the link itself.
    fn new(
        below: Option<&'a MergedView>,
        owner: Option<(u32, u32)>,
        copied: &[RecipeEntry],
        replaced: &'a Replaced,
    ) -> Landing<'a> {
        let written = copied.iter().map(|entry| (entry.path.clone(), None)).collect();
        let numbers = copied.iter().map(|entry| (entry.path.clone(), (Shape::of(&entry.node), entry.copy))).collect();
        let copied = copied.iter().filter(|entry| !matches!(entry.node.kind, Kind::File { .. }));
        let made = copied.map(|entry| (entry.path.clone(), entry.node.clone())).collect();
        Landing { below, owner, made, replaced, again: replaced.clone(), written, count: 0, copied: numbers, copy: 0 }
    }

    /// Whether this time has shown more to be replaced than was known.
    fn is_again(&self) -> bool {
        self.again != *self.replaced
    }

    fn unpack<W: Write>(
        &mut self,
        archive: impl Read + Send,
        directory: &[u8],
        tar: &mut TarWriter<W>,
    ) -> io::Result<()> {
        let mut reader = TarReader::new(decompress(io::BufReader::with_capacity(256 << 10, archive))?).literal();
        while let Some(entry) = reader.next_entry()? {
            let Some(named) = rebase(&entry.path, b"") else { continue };
            let path = self.land(&named, directory)?;
            let link = match &entry.link {
                Some(target) => Some(self.land(&rebase(target, b"").unwrap_or_default(), directory)?),
                None => None,
            };
            let mut node = entry.node.clone();
            if let Some((uid, gid)) = self.owner {
                (node.uid, node.gid) = (uid, gid);
            }
            self.name_parents(&path, node.mtime, tar)?;
            if self.enter(&path, &node) {
                if link.is_some() {
                    tar.append(&path, &node, link.as_deref(), &mut io::empty())?;
                } else {
                    tar.append(&path, &node, None, &mut reader.content())?;
                }
            }
            // A file has nothing below it, so only one that takes another's place has to be known.
            if !matches!(node.kind, Kind::File { .. }) || self.made.contains_key(&path) {
                self.made.insert(path, node);
            }
        }
        Ok(())
    }

    /// An archive may leave directories out. Those that the image has are named as they are; new ones are root's, whatever
    /// `--chown` says, and as old as what is in them.
    fn name_parents<W: Write>(&mut self, path: &[u8], mtime: Time, tar: &mut TarWriter<W>) -> io::Result<()> {
        let mut parents = existing_parents(std::iter::once(path), |_| false, &*self)?;
        let mut missing = tree::parent(path);
        while !missing.is_empty() && self.node(missing)?.is_none() {
            parents.insert(missing.to_vec(), Node::directory(mtime));
            missing = tree::parent(missing);
        }
        for (parent, node) in parents {
            if let Entry::Vacant(place) = self.made.entry(parent) {
                tar.append(place.key(), &node, None, &mut io::empty())?;
                self.written.insert(place.key().clone(), None);
                place.insert(node);
            }
        }
        Ok(())
    }

    /// Notes an entry, and what it takes the place of; whether it is to be written.
    fn enter(&mut self, path: &[u8], node: &Node) -> bool {
        let number = self.count;
        self.count += 1;
        if self.replaced.unpacked.contains(&number) || self.is_copied_later(path, node) {
            return false;
        }
        if let Some(before) = self.written.insert(path.to_vec(), Some(number)) {
            self.replace(path.to_vec(), before);
        }
        if !node.is_directory() {
            let prefix = [path, b"/"].concat();
            let below = self.written.range(prefix.clone()..).take_while(|(below, _)| below.starts_with(&prefix));
            for (below, before) in below.map(|(below, before)| (below.clone(), *before)).collect::<Vec<_>>() {
                self.written.remove(&below);
                self.replace(below, before);
            }
        }
        true
    }

    /// Whether a source that stands behind the archive brings the same: sources are copied in their order.
    fn is_copied_later(&self, path: &[u8], node: &Node) -> bool {
        self.copied.get(path).is_some_and(|(shape, copy)| *shape == Shape::of(node) && *copy > self.copy)
    }

    fn replace(&mut self, path: Vec<u8>, before: Option<usize>) {
        match before {
            Some(number) => drop(self.again.unpacked.insert(number)),
            None => drop(self.again.copied.insert(path)),
        }
    }

    /// The place of an entry: its directory with every link resolved, its own name as it is.
    fn land(&self, path: &[u8], directory: &[u8]) -> io::Result<Vec<u8>> {
        let parent = tree::resolve(&Inside { landing: self, directory }, tree::parent(path), Last::Follow)?;
        let within = tree::join(&parent.path, tree::base_name(path));
        Ok(tree::join(directory, &within))
    }
}

/// A directory as if it were the root.
struct Inside<'l, 'a> {
    landing: &'l Landing<'a>,
    directory: &'l [u8],
}

impl View for Inside<'_, '_> {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        if path.is_empty() {
            return self.landing.node(self.directory);
        }
        self.landing.node(&tree::join(self.directory, path))
    }

    fn names(&self, _path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, _path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl View for Landing<'_> {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        if let Some(node) = self.made.get(path) {
            return Ok(Some(node.clone()));
        }
        match self.below {
            Some(below) => below.node(path),
            None => Ok(path.is_empty().then(|| Node::directory(Time::default()))),
        }
    }

    fn names(&self, _path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, _path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tars_are_archives() {
        let mut tar = TarWriter::new(Vec::new());
        tar.append(b"a", &Node::directory(Time::default()), None, &mut io::empty()).unwrap();
        let tar = tar.finish().unwrap();
        assert!(is_archive(tar.as_slice()));
        assert!(!is_archive(&b"#!/bin/sh\n"[..]));
        assert!(!is_archive(&b""[..]));
        assert!(!is_archive(&[0u8; 2048][..]));
    }
}
