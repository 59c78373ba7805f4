//! COPY and ADD: what to copy is known by content before anything is written, and written in one pass.

mod changes;
mod copied;
mod emit;
mod mounted;
mod reuse;
mod unread;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use changes::remembered;
use copied::Copied;
pub(super) use mounted::mounted_path;
use reuse::Earlier;
use unread::Attempt;
pub(super) use write::write_entries;
use write::write_recipe;

use super::add::Fetched;
use super::contexts::{Context, digest_all};
use super::copy::{Chmod, Content, CopyError, CopyRequest, CopySource, Ignored, Recipe, RecipeEntry, plan_copy};
use super::passwd::lookup_owner;
use super::step::Work;
use super::{ExecuteError, StepOutput, layers};
use crate::cache::{Key, key};
use crate::digest::{Digest, Frame};
use crate::layer::index::{Index, Item};
use crate::layer::view::MergedView;
use crate::layer::write::DIALECT;
use crate::plan::{CopyFrom, CopyOp, Link, Op, Parents, Source};
use crate::store::StepRecord;
use crate::tree::{self, Kind, Node, Time, View};

/// Where the paths of one COPY are looked up.
pub(super) enum Origin<'a> {
    Context(&'a Context),
    /// Layers, lowest first, and their merged view.
    Stage(&'a [Digest], Box<MergedView>),
}

impl Origin<'_> {
    fn view(&self) -> &dyn View {
        match self {
            Origin::Context(context) => context.view(),
            Origin::Stage(_, view) => view.as_ref(),
        }
    }

    /// Whether ignore rules exclude a path.
    fn is_ignored(&self, path: &[u8]) -> bool {
        match self {
            Origin::Context(context) => context.is_ignored(path),
            Origin::Stage(..) => false,
        }
    }

    /// Whether something is at a path, and only ignore rules hide it.
    fn hides(&self, path: &[u8]) -> bool {
        match self {
            Origin::Context(context) => context.hides(path),
            Origin::Stage(..) => false,
        }
    }

    fn digests(&self, files: &mut [(&[u8], &mut Node)]) -> io::Result<()> {
        match self {
            Origin::Context(context) => context.digests(files),
            // An index knows the digest of every file.
            Origin::Stage(_, view) => digest_all(view.as_ref(), files),
        }
    }
}

/// A copy whose sources are known.
pub(super) struct Copying<'a> {
    pub(super) op: &'a CopyOp,
    pub(super) origin: Origin<'a>,
    pub(super) fetched: Vec<Fetched>,
}

impl<'a> Copying<'a> {
    /// A file is missing for a reason where there is no context at all.
    fn explained(&self, error: CopyError) -> CopyError {
        match (error, &self.origin) {
            (CopyError::NotFound { path, hint: None }, Origin::Context(Context::Empty)) => {
                let hint = "the Dockerfile came without a context; `-f - DIRECTORY` gives it one".to_owned();
                CopyError::NotFound { path, hint: Some(hint) }
            }
            (error, _) => error,
        }
    }

    /// The request, with an owner where it is known already.
    pub(super) fn request<'b>(
        &'b self,
        owner: Option<(u32, u32)>,
        ignored: Option<Ignored<'b>>,
        epoch: i64,
    ) -> CopyRequest<'b> {
        let mut fetched = self.fetched.iter();
        let sources = self.op.sources.iter().map(|source| match source {
            Source::Path(pattern) => CopySource::View { view: self.origin.view(), pattern: pattern.clone() },
            Source::Inline { name, content } => {
                CopySource::Inline { name: name.clone(), content: content.as_bytes().into(), mode: 0o644 }
            }
            Source::Url(_) | Source::Git(_) => fetched.next().expect("every remote source was fetched").source(),
        });
        CopyRequest {
            sources: sources.collect(),
            destination: self.op.destination.clone(),
            workdir: self.op.workdir.clone(),
            owner,
            // The plan checked it already.
            chmod: self.op.chmod.as_deref().and_then(|text| Chmod::parse(text).ok()),
            exclude: self.op.exclude.clone(),
            parents: self.op.parents == Parents::Keep,
            link: self.op.link == Link::Independent,
            ignored,
            mtime_now: Time { seconds: epoch, nanoseconds: 0 },
        }
    }

    pub(super) fn fill_digests(&self, recipe: &mut Recipe) -> io::Result<()> {
        recipe.fill_digests(|_, files| self.origin.digests(files))
    }
}

impl Work<'_> {
    pub(super) fn named_context(&self, name: &str) -> Result<&Context, ExecuteError> {
        let missing = || ExecuteError::internal(format!("there is no build context named {name:?}"));
        self.services.contexts.named.get(name).ok_or_else(missing)
    }

    pub(super) fn copy_error(&self, source: CopyError) -> ExecuteError {
        ExecuteError::Copy { title: self.step.title.clone(), source, span: self.step.span }
    }

    fn read_error(&self, error: io::Error) -> ExecuteError {
        self.refuse(format!("cannot read what is to be copied: {error}"))
    }

    fn changed(&self, path: &[u8]) -> ExecuteError {
        let path = String::from_utf8_lossy(path);
        self.refuse(format!("{path} changed while it was copied; build again when nothing writes to the context"))
    }

    pub(super) fn transfer(&self, op: &CopyOp) -> Result<StepOutput, ExecuteError> {
        if let Some(output) = self.known_copy(op)? {
            return Ok(output);
        }
        let origin = self.origin(&op.from)?;
        let copying = Copying { op, origin, fetched: self.fetch_all(op)? };
        let ignored = |path: &[u8]| copying.origin.is_ignored(path);
        let epoch = self.services.options.epoch;
        let request = copying.request(None, Some(&ignored), epoch);
        let mut by_source = plan_copy(&request, None).map_err(|error| self.copy_error(copying.explained(error)))?;
        // Told of a step from the cache, too: what is missing is missing there as well.
        self.warn(&by_source.warnings);
        by_source = match self.copy_unread(&copying, &ignored, by_source)? {
            Attempt::Done(output) => return Ok(output),
            Attempt::LeftAlone(recipe) => recipe,
        };
        copying.fill_digests(&mut by_source).map_err(|error| self.read_error(error))?;
        let content = self.content(&by_source)?;
        if by_source.warnings.is_empty() {
            self.note_copied(op, content)?;
        }
        let (mut key, chain) = self.copy_key(op, &content)?;
        key.evidence.files = remembered(&by_source, op);
        self.note_copy(op, &key)?;
        self.settle(&key, chain, Copied::new(self, &copying, by_source))
    }

    /// The key of a copy, and what stands for the root file system after it.
    pub(super) fn copy_key(&self, op: &CopyOp, content: &Digest) -> Result<(Key, Digest), ExecuteError> {
        let parent = self.parent()?;
        let key = self.in_words(key::copy(op, &parent.key, content).with_source(self.name_of_source(&op.from)));
        let chain = match op.link {
            Link::Follow => key.digest,
            Link::Independent => key::chain(&parent.key, &key.digest),
        };
        Ok((key, chain))
    }

    /// What people call the place that a copy is from; nothing where that is the context.
    fn name_of_source(&self, from: &CopyFrom) -> String {
        match from {
            CopyFrom::Context => String::new(),
            CopyFrom::NamedContext(name) => name.clone(),
            CopyFrom::Step(id) => {
                let step = self.plan.step(*id);
                match &step.op {
                    Op::Base(base) => base.source.to_string(),
                    Op::Scratch(_) | Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => {
                        self.plan.stages[step.stage].name.clone()
                    }
                }
            }
        }
    }

    fn warn<'t>(&self, warnings: impl IntoIterator<Item = &'t String>) {
        for warning in warnings {
            self.task.note(format!("warning: {warning}"));
        }
    }

    fn origin<'b>(&'b self, from: &CopyFrom) -> Result<Origin<'b>, ExecuteError> {
        Ok(match from {
            CopyFrom::Context => Origin::Context(&self.services.contexts.main),
            CopyFrom::NamedContext(name) => Origin::Context(self.named_context(name)?),
            CopyFrom::Step(id) => {
                let layers = self.layers_of(*id)?;
                Origin::Stage(layers, Box::new(self.services.layers.view(layers, self.task)?))
            }
        })
    }

    /// The recipe in the root file system that it is for: links of the destination followed, owners looked up.
    fn place_recipe(
        &self,
        copying: &Copying<'_>,
        ignored: &dyn Fn(&[u8]) -> bool,
        by_source: Recipe,
    ) -> Result<Recipe, ExecuteError> {
        let view = self.destination(copying)?;
        let owner = self.owner(copying.op)?;
        let request = copying.request(owner, Some(ignored), self.services.options.epoch);
        let view = view.as_ref().map(|view| view as &dyn View);
        let mut recipe = match by_source.onto(&request, view) {
            Ok(placed) => placed.recipe,
            Err(by_source) => {
                let mut recipe = plan_copy(&request, view).map_err(|error| self.copy_error(error))?;
                for (source, path) in recipe.take_digests(&by_source).map_err(|path| self.changed(&path))? {
                    // What was fetched is ours and does not change.
                    let CopySource::View { view, .. } = &request.sources[source] else { continue };
                    if view.node(&path).map_err(|error| self.read_error(error))?.is_none() {
                        return Err(self.changed(&path));
                    }
                }
                recipe
            }
        };
        self.add_parents(&mut recipe, view)?;
        Ok(recipe)
    }

    /// Has the directories named that what is copied is put into; the answer is their paths.
    fn add_parents(&self, recipe: &mut Recipe, view: Option<&dyn View>) -> Result<BTreeSet<Vec<u8>>, ExecuteError> {
        let Some(view) = view else { return Ok(BTreeSet::new()) };
        let listed = |path: &[u8]| recipe.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path)).is_ok();
        let paths = recipe.entries.iter().map(|entry| entry.path.as_slice());
        let parents = existing_parents(paths, listed, view).map_err(|error| self.read_error(error))?;
        let added = parents.keys().cloned().collect();
        let entry = |(path, node)| RecipeEntry { path, node, content: Content::None, copy: 0 };
        recipe.entries.extend(parents.into_iter().map(entry));
        recipe.entries.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(added)
    }

    /// What is below the copy; nothing where it is linked.
    pub(super) fn destination(&self, copying: &Copying<'_>) -> Result<Option<MergedView>, ExecuteError> {
        match copying.op.link {
            Link::Independent => Ok(None),
            Link::Follow => Ok(Some(self.services.layers.view(self.below()?, self.task)?)),
        }
    }

    /// Owner by `--chown`; names are looked up in the stage, for a linked copy too.
    pub(super) fn owner(&self, op: &CopyOp) -> Result<Option<(u32, u32)>, ExecuteError> {
        let Some(chown) = &op.chown else { return Ok(None) };
        let layers = if op.names_owner() { self.below()? } else { &[] };
        let view = self.services.layers.view(layers, self.task)?;
        let found = lookup_owner(&view, chown);
        found.map(Some).map_err(|source| ExecuteError::User {
            title: self.step.title.clone(),
            source,
            span: self.step.span,
        })
    }

    /// Writes the layer of a copy that unpacks nothing.
    fn make_copy(
        &self,
        copying: &Copying<'_>,
        recipe: &Recipe,
        earlier: Option<Earlier>,
    ) -> Result<Digest, ExecuteError> {
        let (layer, index) = match &copying.origin {
            Origin::Context(_) => self.write_context(copying, recipe, earlier)?,
            Origin::Stage(layers, view) => {
                let mut tar = self.emit(recipe, layers, view)?;
                let is_inline = |entry: &RecipeEntry| matches!(entry.content, Content::Inline(_));
                // Here-documents come first, not at their places: no tree can be packed into the same tar again.
                let is_sorted = !recipe.entries.iter().any(is_inline);
                let wanted = if is_sorted { self.wanted() } else { self.wanted().with_blob() };
                self.services.layers.create(wanted, |out| io::copy(&mut tar, out).map(drop))?
            }
        };
        self.check_unchanged(recipe, &index)?;
        Ok(layer)
    }

    /// The same files at the same places make the same layer, whatever they are copied onto.
    fn key_by_content(&self, recipe: &Recipe) -> Result<Digest, ExecuteError> {
        Ok(Frame::new("rbuild.recipe.1").digest("content", &self.content(recipe)?).finish())
    }

    /// Keeps a layer for whoever copies the same to the same places.
    fn keep_copy(&self, by_content: &Digest, layer: Digest) -> Result<(), ExecuteError> {
        let created = super::timestamp(self.services.options);
        let record = StepRecord { layer, title: self.step.title.clone(), created };
        Ok(self.services.cache.keep(by_content, &record)?)
    }

    /// Writes what is copied out of a context.
    fn write_context(
        &self,
        copying: &Copying<'_>,
        recipe: &Recipe,
        earlier: Option<Earlier>,
    ) -> Result<(Digest, Index), ExecuteError> {
        let layers = self.services.layers;
        let request = copying.request(None, None, self.services.options.epoch);
        let reused = earlier.map(|earlier| self.reuse(earlier, &recipe.entries, &request.sources));
        if let Some(reused) = reused.transpose()?.flatten() {
            if let Some(made) = layers.create_spliced(self.wanted(), reused.base, reused.splice, reused.index)? {
                return Ok(made);
            }
            // No reason to fail: all is there to write this one whole.
            let base = reused.base.short();
            self.task.note(format!("warning: layer {base} in the store is damaged and was taken out of use"));
        }
        let written = layers::Origin { dialect: Some(DIALECT), ..layers::Origin::default() };
        let write = |out: &mut dyn Write| write_recipe(&recipe.entries, &request.sources, out).map(drop);
        layers.create_from(self.wanted(), written, write)
    }

    /// The digests that made the key must be those of what was written, or the cache would lie.
    fn check_unchanged(&self, recipe: &Recipe, index: &Index) -> Result<(), ExecuteError> {
        for entry in &recipe.entries {
            let Kind::File { digest: Some(expected), .. } = &entry.node.kind else { continue };
            let Some(Item::Present(present)) = index.find(&entry.path) else { continue };
            if let Kind::File { digest: Some(found), .. } = &present.node.kind
                && found != expected
            {
                return Err(self.changed(&entry.path));
            }
        }
        Ok(())
    }
}

/// The directories on the way to some paths that are there already, with the metadata that they have: a layer names
/// the parents of what it changes, as a diff of the whole root file system would, so whoever unpacks it alone gets them
/// right.
pub(super) fn existing_parents<'a>(
    paths: impl Iterator<Item = &'a [u8]>,
    listed: impl Fn(&[u8]) -> bool,
    view: &dyn View,
) -> io::Result<BTreeMap<Vec<u8>, Node>> {
    let mut parents: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    let mut last: &[u8] = b"";
    for path in paths {
        let mut parent = tree::parent(path);
        // Most paths are in the directory of the one before.
        if parent == std::mem::replace(&mut last, parent) {
            continue;
        }
        while !parent.is_empty() && !listed(parent) && !parents.contains_key(parent) {
            if let Some(node) = view.node(parent)?.filter(Node::is_directory) {
                parents.insert(parent.to_vec(), node);
            }
            parent = tree::parent(parent);
        }
    }
    Ok(parents)
}
