//! Puts found things at their destination, over what is there already.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::sync::Arc;

use super::chmod::Executable;
use super::recipe::{Content, Recipe, RecipeEntry};
use super::source::{Found, not_found};
use super::{CopyError, CopyRequest, Target, shown};
use crate::context::ignore::IgnoreRules;
use crate::digest::Digest;
use crate::tree::{Kind, Last, Node, PathMap, Resolved, Time, View, base_name, join, parent, resolve};

/// A copy that is being planned.
pub(super) struct Placing<'a> {
    request: &'a CopyRequest<'a>,
    target: Target,
    image: Overlay<'a>,
    /// Paths that a source of one file was put on, each with the path of the source where it has one, to tell when another
    /// one replaces it.
    named: HashMap<Vec<u8>, Vec<u8>>,
    /// How many copies there were.
    copies: usize,
    /// Directories that no source has.
    made: BTreeSet<Vec<u8>>,
    /// What later copies took the place of.
    replaced: Vec<RecipeEntry>,
    pub(super) warnings: Vec<String>,
}

/// The image as it will be: what is planned, over what is there.
struct Overlay<'a> {
    below: Option<&'a dyn View>,
    planned: PathMap<Planned>,
}

/// An entry of the recipe; until the end it keeps its link group, which is that of its source.
struct Planned {
    node: Node,
    content: Content,
    /// Of which copy it is: the names of one file are links to each other within what one source or one match of its
    /// wildcard brings, as in BuildKit.
    copy: usize,
}

impl View for Overlay<'_> {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        if let Some(planned) = self.planned.get(path) {
            return Ok(Some(planned.node.clone()));
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

impl<'a> Placing<'a> {
    pub(super) fn new(request: &'a CopyRequest<'a>, destination: Option<&'a dyn View>) -> Placing<'a> {
        let below = destination.filter(|_| !request.link);
        Placing {
            request,
            target: request.target(),
            image: Overlay { below, planned: PathMap::default() },
            named: HashMap::new(),
            copies: 0,
            made: BTreeSet::new(),
            replaced: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Copies a file, or what is in a directory.
    pub(super) fn tree(
        &mut self,
        source: usize,
        view: &dyn View,
        found: &Found,
        exclude: &IgnoreRules,
    ) -> Result<(), CopyError> {
        self.copies += 1;
        let target = self.prepare()?;
        if !found.node.is_directory() {
            let content = Content::View { source, path: found.path.clone() };
            return self.file(&target, &found.name, found.node.clone(), content);
        }
        match &target.node {
            None => self.make_directories(&target.path)?,
            Some(node) if !node.is_directory() => return Err(CopyError::NotDirectory { path: shown(&target.path) }),
            Some(_) => {}
        }
        // The directory itself is not copied, but where it is made here, it takes the source's time.
        if let Some(made) = self.image.planned.get_mut(&target.path) {
            made.node.mtime = found.node.mtime;
        }
        self.contents(source, view, found, exclude, &target.path)
    }

    /// Copies what is below a directory.
    fn contents(
        &mut self,
        source: usize,
        view: &dyn View,
        found: &Found,
        exclude: &IgnoreRules,
        target: &[u8],
    ) -> Result<(), CopyError> {
        let skip = if found.path.is_empty() { 0 } else { found.path.len() + 1 };
        let include = found.include.as_ref().map(|include| &include.rules).filter(|rules| !rules.is_empty());
        let enter = |path: &[u8]| {
            let path = &path[skip..];
            include.is_none_or(|rules| rules.excludes(path) || rules.may_match_below(path)) && exclude.may_descend(path)
        };
        let entries = view
            .descendants(&found.path, &enter)
            .map_err(|source| CopyError::View { path: shown(&found.path), source })?;
        let mut directories: HashMap<Vec<u8>, Node> = HashMap::new();
        let mut copied = false;
        for (path, node) in entries {
            let relative = &path[skip..];
            if exclude.excludes(relative) || include.is_some_and(|rules| !rules.excludes(relative)) {
                // It may still be needed, when something below it is copied.
                if node.is_directory() {
                    directories.insert(relative.to_vec(), node);
                }
                continue;
            }
            copied = true;
            self.parents_of(relative, target, &mut directories)?;
            let place = join(target, relative);
            if node.is_directory() {
                self.directory(place, node)?;
            } else {
                self.leaf(place, node, Content::View { source, path })?;
            }
        }
        match found.include.as_ref().and_then(|include| include.required.as_ref()) {
            Some(required) if !copied && include.is_some() => Err(not_found(self.request, view, required)),
            _ => Ok(()),
        }
    }

    /// Makes the directories above a copied path that are not copied themselves.
    fn parents_of(
        &mut self,
        relative: &[u8],
        target: &[u8],
        directories: &mut HashMap<Vec<u8>, Node>,
    ) -> Result<(), CopyError> {
        if directories.is_empty() {
            return Ok(());
        }
        let ends: Vec<usize> = (0..relative.len()).filter(|at| relative[*at] == b'/').collect();
        for end in ends {
            let Some(node) = directories.remove(&relative[..end]) else { continue };
            let place = join(target, &relative[..end]);
            if self.image.planned.get(&place).is_some() {
                continue;
            }
            match self.existing(&place)? {
                None => self.directory(place, node)?,
                // BuildKit changes the mode of such a directory, and nothing else (fsutil, `copyDirectoryOnly`).
                Some(existing) if existing.is_directory() && existing.mode != node.mode => {
                    self.insert(place, Node { mode: node.mode, ..existing }, Content::None);
                }
                Some(existing) if existing.is_directory() => {}
                Some(_) => return Err(CopyError::NotDirectory { path: shown(&place) }),
            }
        }
        Ok(())
    }

    /// Writes a here-document.
    pub(super) fn inline(&mut self, name: &str, content: &Arc<[u8]>, mode: u32) -> Result<(), CopyError> {
        self.copies += 1;
        let size = content.len() as u64;
        let node = self.made_file(size, Some(Digest::of(content)), mode, self.request.mtime_now);
        let target = self.prepare()?;
        self.file(&target, base_name(name.as_bytes()), node, Content::Inline(content.clone()))
    }

    /// Writes a downloaded file.
    pub(super) fn remote(
        &mut self,
        source: usize,
        name: &str,
        (size, digest): (u64, Digest),
        mode: u32,
        mtime: Time,
    ) -> Result<(), CopyError> {
        self.copies += 1;
        let node = self.made_file(size, Some(digest), mode, mtime);
        let target = self.prepare()?;
        let content = Content::View { source, path: Vec::new() };
        self.file(&target, base_name(name.as_bytes()), node, content)
    }

    fn made_file(&self, size: u64, digest: Option<Digest>, mode: u32, mtime: Time) -> Node {
        let kind = Kind::File { size, digest };
        Node { kind, mode, uid: 0, gid: 0, mtime, xattrs: BTreeMap::new(), link_group: 0 }
    }

    /// The directory that an archive is unpacked into.
    pub(super) fn unpack_directory(&mut self) -> Result<Vec<u8>, CopyError> {
        let path = self.target.path.clone();
        self.make_directories(&path)?;
        Ok(self.resolve(&path)?.path)
    }

    /// Makes what has to be there before anything is copied, and says what the destination is then.
    fn prepare(&mut self) -> Result<Resolved, CopyError> {
        let path = self.target.path.clone();
        let needed = if self.target.directory { &path } else { parent(&path) };
        self.make_directories(needed)?;
        self.resolve(&path)
    }

    /// One file: at the destination, or in it where that is a directory.
    fn file(&mut self, target: &Resolved, name: &[u8], node: Node, content: Content) -> Result<(), CopyError> {
        if target.node.as_ref().is_some_and(Node::is_directory) {
            let path = join(&target.path, name);
            self.note_replaced(&path, &content, "give each a destination of its own");
            return self.leaf(path, node, content);
        }
        self.note_replaced(&target.path, &content, "end the destination with / to copy them into a directory");
        // A link to nothing may have led to where there is no directory yet.
        self.make_directories(parent(&target.path))?;
        self.leaf(target.path.clone(), node, content)
    }

    /// Warns where a source takes the place of another of the same copy. The same one again (`COPY a a* /d/`) loses nothing.
    fn note_replaced(&mut self, path: &[u8], content: &Content, help: &str) {
        let source = match content {
            Content::View { path, .. } => path.clone(),
            Content::None | Content::Inline(_) | Content::HardLink(_) => Vec::new(),
        };
        let Some(before) = self.named.insert(path.to_vec(), source.clone()) else { return };
        if before.is_empty() || before != source {
            let path = shown(path);
            self.warnings.push(format!("several files are copied to {path:?}, each over the one before; {help}"));
        }
    }

    fn leaf(&mut self, path: Vec<u8>, node: Node, content: Content) -> Result<(), CopyError> {
        if self.existing(&path)?.is_some_and(|existing| existing.is_directory()) {
            return Err(CopyError::IsDirectory { path: shown(&path) });
        }
        let (node, content) = match node.kind {
            Kind::File { .. } => (node, content),
            // A layer cannot hold a socket; Docker's client sends it as an empty file.
            Kind::Socket => {
                let kind = Kind::File { size: 0, digest: Some(Digest::of(b"")) };
                (Node { kind, ..node }, Content::Inline(Arc::from(&b""[..])))
            }
            _ => (node, Content::None),
        };
        let node = self.finished(node);
        self.insert(path, node, content);
        Ok(())
    }

    /// A directory that is copied itself: one that exists takes the source's mode, owner and time.
    fn directory(&mut self, path: Vec<u8>, node: Node) -> Result<(), CopyError> {
        if self.existing(&path)?.is_some_and(|existing| !existing.is_directory()) {
            return Err(CopyError::NotDirectory { path: shown(&path) });
        }
        let node = self.finished(node);
        self.insert(path, node, Content::None);
        Ok(())
    }

    /// A node with the owner and mode that the request asks for.
    fn finished(&self, mut node: Node) -> Node {
        if let Some((uid, gid)) = self.request.owner {
            (node.uid, node.gid) = (uid, gid);
        }
        if let Some(chmod) = self.request.chmod.as_ref().filter(|_| !matches!(node.kind, Kind::Symlink(_))) {
            let kind = if node.is_directory() { Executable::Directory } else { Executable::File };
            node.mode = chmod.apply(node.mode, kind);
        }
        node
    }

    /// Makes a directory and those above it that are missing, links being followed.
    fn make_directories(&mut self, path: &[u8]) -> Result<(), CopyError> {
        let found = self.resolve(path)?;
        match found.node {
            Some(node) if node.is_directory() => return Ok(()),
            Some(_) => {
                return Err(CopyError::Destination { path: shown(path), reason: "it is not a directory".to_owned() });
            }
            None => {}
        }
        // A linked layer lies over directories that it does not look at: with the mode of the files that are copied,
        // `COPY --link --chmod=0600 key /etc/app/` would close /etc.
        let chmod = self.request.chmod.as_ref().filter(|_| !self.request.link);
        let mode = chmod.and_then(super::Chmod::implicit_directory).unwrap_or(0o755);
        let (uid, gid) = self.request.owner.unwrap_or((0, 0));
        let mut missing = found.path.as_slice();
        while !missing.is_empty() && self.existing(missing)?.is_none() {
            let node = Node { mode, uid, gid, ..Node::directory(self.request.mtime_now) };
            self.insert(missing.to_vec(), node, Content::None);
            self.made.insert(missing.to_vec());
            missing = parent(missing);
        }
        Ok(())
    }

    fn resolve(&self, path: &[u8]) -> Result<Resolved, CopyError> {
        let reason = |error: io::Error| CopyError::Destination { path: shown(path), reason: error.to_string() };
        resolve(&self.image, path, Last::Follow).map_err(reason)
    }

    fn existing(&self, path: &[u8]) -> Result<Option<Node>, CopyError> {
        self.image.node(path).map_err(|source| CopyError::View { path: shown(path), source })
    }

    fn insert(&mut self, path: Vec<u8>, node: Node, content: Content) {
        self.made.remove(&path);
        let before = self.image.planned.get(&path).filter(|before| !before.node.is_directory());
        self.replaced.extend(before.map(|before| RecipeEntry {
            path: path.clone(),
            node: Node { link_group: 0, ..before.node.clone() },
            content: before.content.clone(),
            copy: before.copy,
        }));
        self.image.planned.insert(path, Planned { node, content, copy: self.copies });
    }

    /// The recipe: of the names of one file, the first has the content and the others are links to it.
    pub(super) fn finish(self) -> Recipe {
        let mut first: HashMap<(usize, u64), Vec<u8>> = HashMap::new();
        let made = self.made;
        let entries = self.image.planned.into_sorted(|path, Planned { mut node, mut content, copy }| {
            let group = std::mem::take(&mut node.link_group);
            if let (Content::View { .. }, true) = (&content, group != 0) {
                match first.entry((copy, group)) {
                    Entry::Occupied(target) => content = Content::HardLink(target.get().clone()),
                    Entry::Vacant(place) => drop(place.insert(path.clone())),
                }
            }
            let copy = if made.contains(&path) { 0 } else { copy };
            RecipeEntry { path, node, content, copy }
        });
        Recipe { entries, replaced: self.replaced, made, warnings: self.warnings }
    }
}
