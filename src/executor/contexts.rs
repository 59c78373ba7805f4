//! The contexts of a build: where COPY and ADD look paths up when they name no stage.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::Revision;
use crate::context::archive::TarContext;
use crate::context::dir::DirContext;
use crate::digest::Hasher;
use crate::tree::{self, Kind, Node, View};

/// One context.
pub enum Context {
    /// A directory of this machine.
    Directory(Box<DirContext>),
    /// A tar that was sent.
    Archive(TarContext),
    /// Nothing, as with a Dockerfile that came alone.
    Empty,
}

/// All contexts of a build.
pub struct Contexts {
    /// The one that the command line names.
    pub main: Context,
    /// Those of `--build-context`, by name.
    pub named: BTreeMap<String, Context>,
    /// When what was fetched for them was last changed, in seconds since 1970, where that is known.
    pub dates: Dates,
    /// Where they were fetched from.
    pub origins: Origins,
}

/// Where contexts come from.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// The main one; none where it is a directory or an archive of this machine.
    pub main: Option<Origin>,
    /// Others that were fetched, by name.
    pub named: BTreeMap<String, Origin>,
    /// What the repository says about itself that the main one is a directory of, where that is asked for.
    pub repository: BTreeMap<String, String>,
}

/// Where a context was fetched from, and what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its address, without user and password.
    pub address: String,
    /// What it stood for.
    pub revision: Revision,
}

/// When contexts were last changed, in seconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct Dates {
    /// The main one.
    pub main: Option<i64>,
    /// Others, by name.
    pub named: BTreeMap<String, i64>,
    /// The last commit of the main one's repository, where it is in one and a reproducible build asks for it.
    pub commit: Option<i64>,
}

struct Nothing;

impl View for Nothing {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        Ok(path.is_empty().then(|| Node::directory(crate::tree::Time::default())))
    }

    fn names(&self, _path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn open(&self, _path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Context {
    /// Its tree.
    pub fn view(&self) -> &dyn View {
        match self {
            Context::Directory(directory) => directory.as_ref(),
            Context::Archive(archive) => archive,
            Context::Empty => &Nothing,
        }
    }

    /// The same without what depends on where and how it was checked out.
    pub fn steady(self) -> Context {
        match self {
            Context::Directory(directory) => Context::Directory(Box::new(directory.steady())),
            Context::Archive(archive) => Context::Archive(archive.steady()),
            Context::Empty => Context::Empty,
        }
    }

    /// Fills in the digests of files.
    pub fn digests(&self, files: &mut [(&[u8], &mut Node)]) -> io::Result<()> {
        match self {
            Context::Directory(directory) => directory.digests(files),
            Context::Archive(_) | Context::Empty => digest_all(self.view(), files),
        }
    }

    /// The content of a file, links being followed inside the context; none where there is no such file.
    pub fn read(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let found = tree::resolve(self.view(), &tree::clean(path), tree::Last::Follow)?;
        if !found.node.is_some_and(|node| matches!(node.kind, Kind::File { .. })) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.view().open(&found.path)?.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Whether ignore rules leave nothing of a path as an instruction writes it.
    pub fn leaves_out(&self, path: &str) -> bool {
        let path = tree::clean(path.as_bytes());
        match self {
            Context::Directory(directory) => directory.leaves_nothing_of(&path),
            Context::Archive(_) | Context::Empty => false,
        }
    }

    /// Whether something is at a path, and only ignore rules hide it.
    pub fn hides(&self, path: &[u8]) -> bool {
        match self {
            Context::Directory(directory) => directory.hides(path),
            Context::Archive(_) | Context::Empty => false,
        }
    }

    /// Whether ignore rules exclude a path.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        match self {
            Context::Directory(directory) => directory.is_ignored(path),
            Context::Archive(_) | Context::Empty => false,
        }
    }
}

impl Contexts {
    /// Keeps what was learnt of files for the next build; without it that one only reads more.
    pub fn save(&self) {
        for context in std::iter::once(&self.main).chain(self.named.values()) {
            if let Context::Directory(directory) = context {
                drop(directory.save());
            }
        }
    }
}

/// Reads files to fill in their digests.
pub(super) fn digest_all(view: &dyn View, files: &mut [(&[u8], &mut Node)]) -> io::Result<()> {
    for (path, node) in files {
        if let Kind::File { digest: digest @ None, .. } = &mut node.kind {
            let mut hasher = Hasher::new();
            io::copy(&mut view.open(path)?, &mut hasher)?;
            *digest = Some(hasher.finish());
        }
    }
    Ok(())
}
