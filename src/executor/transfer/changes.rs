//! How what a copy or a mount reads differs from what it read before.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::cache::key;
use crate::cache::miss::{Difference, FileChanges};
use crate::context::pattern::has_wildcards;
use crate::digest::Digest;
use crate::executor::copy::{Content, Recipe, RecipeEntry};
use crate::layer::index::{Index, Item};
use crate::plan::{CopyInstruction, CopyOp, Parents, Source};
use crate::tree::{self, Kind, Node};

/// What was read then.
pub(super) enum Then<'a> {
    /// The layer that was made of it.
    Layer(&'a Index),
    /// The list that it was made from.
    Recipe(&'a Recipe),
}

/// What a miss is explained with: everything that two states of a file can differ in but its time.
struct Listed<'a> {
    node: &'a Node,
    content: Option<Digest>,
}

impl<'a> Listed<'a> {
    fn new(node: &'a Node) -> Listed<'a> {
        let content = match &node.kind {
            Kind::File { digest, .. } => *digest,
            _ => None,
        };
        Listed { node, content }
    }

    /// An entry of a recipe; another name of a file has that one's content.
    fn of(entry: &'a RecipeEntry, recipe: &Recipe) -> Listed<'a> {
        let listed = Listed::new(&entry.node);
        match &entry.content {
            Content::HardLink(target) => {
                let target = found(recipe, target).map(|target| Listed::of(target, recipe));
                Listed { content: target.and_then(|target| target.content), ..listed }
            }
            Content::Inline(content) => Listed { content: Some(Digest::of(content)), ..listed },
            Content::None | Content::View { .. } => listed,
        }
    }

    /// What tells it from what it is now.
    fn differs(&self, now: &Listed<'_>) -> Option<Difference> {
        let (old, new) = (self.node, now.node);
        match (&old.kind, &new.kind) {
            (Kind::File { .. }, Kind::File { .. }) if self.content != now.content => return Some(Difference::Content),
            (Kind::Symlink(old), Kind::Symlink(new)) => {
                let text = |target: &[u8]| String::from_utf8_lossy(target).into_owned();
                // A link's permissions mean nothing.
                return (old != new).then(|| Difference::Target { old: text(old), new: text(new) });
            }
            (Kind::File { .. }, Kind::File { .. }) => {}
            (old, new) if old != new => return Some(Difference::Kind { now: kind_name(new) }),
            _ => {}
        }
        if old.mode != new.mode {
            return Some(Difference::Mode { old: old.mode, new: new.mode });
        }
        let (before, now) = ((old.uid, old.gid), (new.uid, new.gid));
        if before != now {
            return Some(Difference::Owner { old: before, new: now });
        }
        (old.xattrs != new.xattrs).then_some(Difference::Attributes)
    }
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::File { .. } => "a file",
        Kind::Directory => "a directory",
        Kind::Symlink(_) => "a symbolic link",
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } => "a device",
        Kind::Fifo => "a named pipe",
        Kind::Socket => "a socket",
    }
}

fn found<'r>(recipe: &'r Recipe, path: &[u8]) -> Option<&'r RecipeEntry> {
    let at = recipe.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path)).ok()?;
    recipe.entries.get(at)
}

/// How files are called: by the paths that they have where they are read, as far as these are known.
pub(super) struct Names<'a> {
    /// The copy; none where everything is read at the path that it is shown at.
    op: Option<&'a CopyOp>,
    /// Where the copy went before.
    destination: Vec<u8>,
    /// Whether what is gone was read from where the rest is read.
    same_sources: bool,
    /// Says of a path in the sources whether it is there and only left out by ignore rules.
    is_left_out: &'a dyn Fn(&[u8]) -> bool,
}

impl<'a> Names<'a> {
    /// The names of what is shown where it is.
    pub(super) fn of_source() -> Names<'a> {
        Names { op: None, destination: Vec::new(), same_sources: true, is_left_out: &|_| false }
    }

    /// The names of what a copy reads; `before` is what the earlier one's sources and destination were.
    pub(super) fn of_copy(
        op: &'a CopyOp,
        before: &[(String, String)],
        is_left_out: &'a dyn Fn(&[u8]) -> bool,
    ) -> Names<'a> {
        let value = |name: &str| before.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let sources: Vec<String> = op.sources.iter().map(Source::shown).collect();
        let destination = tree::clean(value(key::DESTINATION).unwrap_or(&op.destination).as_bytes());
        let same_sources = value(key::SOURCES) == Some(sources.join(" ").as_str());
        Names { op: Some(op), destination, same_sources, is_left_out }
    }
}

/// How what is read differs from what was.
///
/// Directories on the way to what is copied are not looked at: their metadata are those of the layers below.
pub(super) fn between(then: &Then<'_>, now: &Recipe, names: &Names<'_>) -> FileChanges {
    let destination = names.op.map(|op| tree::clean(op.destination.as_bytes())).unwrap_or_default();
    if destination != names.destination {
        return between_places(then, now, names, &destination);
    }
    let counts = |path: &[u8], node: &Node| counts(path, node, &destination, &now.made);
    let old = listed_then(then).filter(|(path, listed)| counts(path, listed.node));
    let new = listed_now(now).filter(|(path, listed)| counts(path, listed.node));
    let found = Found { recipe: now, names, destination: &destination, directories: OnceCell::new() };
    let mut changes = FileChanges::between(old, new, Listed::differs, |path| found.shown(path));
    if names.op.is_some() && names.same_sources {
        let (ignored, removed) = changes.removed.into_iter().partition(|path| (names.is_left_out)(path.as_bytes()));
        (changes.ignored, changes.removed) = (ignored, removed);
    }
    changes
}

/// The same of a copy to another place: what is at the same path below both is compared.
fn between_places(then: &Then<'_>, now: &Recipe, names: &Names<'_>, destination: &[u8]) -> FileChanges {
    let old = listed_then(then).filter_map(|(path, listed)| copied_to(path, listed, &names.destination));
    let new = listed_now(now).filter_map(|(path, listed)| copied_to(path, listed, destination));
    let only = || names.op.and_then(|op| op.sources.first()).map(Source::shown).unwrap_or_default();
    let shown = |path: &[u8]| if path.is_empty() { only() } else { String::from_utf8_lossy(path).into_owned() };
    FileChanges::between(old, new, Listed::differs, shown)
}

/// An entry by its path below a destination; none where it is elsewhere, or the directory itself.
fn copied_to<'p, 'n>(path: &'p [u8], listed: Listed<'n>, destination: &[u8]) -> Option<(&'p [u8], Listed<'n>)> {
    let below = below(path, destination)?;
    (!below.is_empty() || !listed.node.is_directory()).then_some((below, listed))
}

/// Entry by entry: a context has a hundred thousand files and more.
fn listed_then<'a>(then: &Then<'a>) -> Box<dyn Iterator<Item = (&'a [u8], Listed<'a>)> + 'a> {
    match then {
        Then::Layer(index) => Box::new(index.entries().iter().filter_map(|entry| match &entry.item {
            Item::Present(present) if !present.implied => Some((entry.path.as_slice(), Listed::new(&present.node))),
            Item::Present(_) | Item::Whiteout => None,
        })),
        Then::Recipe(recipe) => Box::new(listed_now(recipe)),
    }
}

fn listed_now(recipe: &Recipe) -> impl Iterator<Item = (&[u8], Listed<'_>)> {
    recipe.entries.iter().map(|entry| (entry.path.as_slice(), Listed::of(entry, recipe)))
}

/// What is left of a path below a directory, or at it.
fn below<'p>(path: &'p [u8], directory: &[u8]) -> Option<&'p [u8]> {
    if directory.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(directory)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

fn counts(path: &[u8], node: &Node, destination: &[u8], made: &BTreeSet<Vec<u8>>) -> bool {
    !node.is_directory() || (below(path, destination).is_some_and(|rest| !rest.is_empty()) && !made.contains(path))
}

/// Names for what is found to differ.
struct Found<'a> {
    recipe: &'a Recipe,
    names: &'a Names<'a>,
    destination: &'a [u8],
    /// The directories that files are read from, by where they are copied to; none where there are several.
    directories: OnceCell<BTreeMap<&'a [u8], Option<&'a [u8]>>>,
}

impl Found<'_> {
    fn shown(&self, path: &[u8]) -> String {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let Some(op) = self.names.op else { return text(path) };
        // Of other sources, other files are called as theirs were.
        if self.names.same_sources {
            if let Some(name) = found(self.recipe, path).and_then(|entry| read_from(entry, op)) {
                return name;
            }
            if let Some(source) = self.source_of(path, op) {
                return text(&source);
            }
        }
        text(below(path, self.destination).filter(|rest| !rest.is_empty()).unwrap_or(path))
    }

    /// Where something would be read that is not among the files: beside its neighbours.
    fn source_of(&self, path: &[u8], op: &CopyOp) -> Option<Vec<u8>> {
        // What a wildcard matches is copied beside what is in a directory that it matches.
        let is_pattern = |source: &Source| matches!(source, Source::Path(path) if has_wildcards(path.as_bytes()));
        if op.sources.iter().any(is_pattern) {
            return None;
        }
        let directories = self.directories.get_or_init(|| directories(self.recipe, op));
        let mut parent = tree::parent(path);
        loop {
            if let Some(source) = directories.get(parent) {
                return Some(tree::join((*source)?, below(path, parent)?));
            }
            if parent.is_empty() {
                break;
            }
            parent = tree::parent(parent);
        }
        let [Source::Path(only)] = op.sources.as_slice() else { return None };
        if op.parents == Parents::Keep {
            return None;
        }
        let rest = below(path, self.destination).filter(|rest| !rest.is_empty())?;
        let source = tree::clean(only.as_bytes());
        // A file that is copied into a directory is called there as it is here.
        if tree::base_name(&source) == rest { Some(source) } else { Some(tree::join(&source, rest)) }
    }
}

fn directories<'r>(recipe: &'r Recipe, op: &CopyOp) -> BTreeMap<&'r [u8], Option<&'r [u8]>> {
    let mut directories: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
    let mut last = None;
    for entry in &recipe.entries {
        let Content::View { source, path } = &entry.content else { continue };
        let is_in_tree = matches!(op.sources.get(*source), Some(Source::Path(_) | Source::Git(_)));
        let (directory, from) = (tree::parent(&entry.path), tree::parent(path));
        // Most files are in the directory of the one before.
        if last == Some((directory, from)) || !is_in_tree || tree::base_name(&entry.path) != tree::base_name(path) {
            continue;
        }
        last = Some((directory, from));
        let known = directories.entry(directory).or_insert(Some(from));
        if *known != Some(from) {
            *known = None;
        }
    }
    directories
}

/// Where an entry is read from, as people write it.
fn read_from(entry: &RecipeEntry, op: &CopyOp) -> Option<String> {
    match &entry.content {
        Content::View { source, path } => Some(match op.sources.get(*source)? {
            Source::Path(_) | Source::Git(_) => String::from_utf8_lossy(path).into_owned(),
            remote @ (Source::Url(_) | Source::Inline { .. }) => remote.shown(),
        }),
        Content::Inline(_) => {
            let names = op.sources.iter().filter(|source| match source {
                Source::Inline { name, .. } => op.sources.len() == 1 || entry.path.ends_with(name.as_bytes()),
                Source::Path(_) | Source::Url(_) | Source::Git(_) => false,
            });
            names.map(Source::shown).next()
        }
        Content::None | Content::HardLink(_) => None,
    }
}

/// More files than this are told apart by their layer alone.
const MOST_REMEMBERED: usize = 64;

/// What is remembered of the files that a copy reads: of ADD may be archives among them.
pub(super) fn remembered(recipe: &Recipe, op: &CopyOp) -> Vec<(String, Digest)> {
    match op.instruction {
        CopyInstruction::Add => few_files(recipe, op),
        CopyInstruction::Copy => Vec::new(),
    }
}

/// Names and contents of what a copy reads, where these are few.
pub(super) fn few_files(recipe: &Recipe, op: &CopyOp) -> Vec<(String, Digest)> {
    let files = recipe.all().filter_map(|entry| {
        let content = Listed::of(entry, recipe).content?;
        Some((read_from(entry, op)?, content))
    });
    let mut files: Vec<(String, Digest)> = files.take(MOST_REMEMBERED + 1).collect();
    if files.len() > MOST_REMEMBERED {
        files.clear();
    }
    files.sort();
    files.dedup();
    files
}

/// How a few files differ from a few others.
pub(super) fn between_few(old: &[(String, Digest)], new: &[(String, Digest)]) -> FileChanges {
    fn listed(files: &[(String, Digest)]) -> impl Iterator<Item = (&[u8], &Digest)> {
        files.iter().map(|(name, content)| (name.as_bytes(), content))
    }
    let differ = |old: &&Digest, new: &&Digest| (old != new).then_some(Difference::Content);
    FileChanges::between(listed(old), listed(new), differ, |name| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests;
