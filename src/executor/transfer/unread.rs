//! A copy of files that nobody has read yet: they are read once, digested while they are written.
//!
//! A copy is found in the cache by the digests of its files, so they are read for its key, and if it is not found, once
//! more when they are written. Where it is certain that it will not be found, as in every first build on a new machine,
//! the second reading is all: its digests make the key.
//!
//! Contract: layer, keys, records and words are those of the long way. Whatever is out of the ordinary (an archive to
//! unpack, a file that cannot be read or changes meanwhile) is left to that.

use std::collections::BTreeSet;
use std::io::Write;

use super::changes::remembered;
use super::{Copying, Origin, write_recipe};
use crate::cache::miss::FilesByIngredient;
use crate::cache::{Key, key};
use crate::context::dir::{DirContext, ReadOnce};
use crate::digest::{Digest, Frame};
use crate::executor::contexts::Context;
use crate::executor::copy::{Content, CopySource, Ignored, Placed, Recipe, RecipeEntry};
use crate::executor::layers;
use crate::executor::step::{Make, Work};
use crate::executor::waiting::Shared;
use crate::executor::{ExecuteError, Purpose, StepOutput};
use crate::layer::index::{Index, Item};
use crate::layer::write::DIALECT;
use crate::plan::{CopyFrom, CopyOp};
use crate::store::{SlotRecord, StepRecord};
use crate::tree::{Kind, View};

/// What became of a copy.
pub(super) enum Attempt {
    /// It is made.
    Done(StepOutput),
    /// Nothing was done. Some digests may be known now that were not.
    LeftAlone(Recipe),
}

/// All that makes a copy what it is but its files and what it is copied onto.
pub(super) fn instruction(op: &CopyOp) -> Digest {
    let nothing = Digest::of(b"");
    key::copy(op, &nothing, &nothing).digest
}

/// Tells copies of other files apart as far as that is known before they are read.
fn outline(op: &CopyOp, recipe: &Recipe) -> Digest {
    let mut frame = Frame::new("rbuild.unread.1");
    frame.digest("instruction", &instruction(op));
    for entry in &recipe.entries {
        let size = if let Kind::File { size, .. } = entry.node.kind { size } else { 0 };
        frame.bytes("path", &entry.path).number("size", size);
    }
    frame.finish()
}

impl Work<'_> {
    /// Makes a copy of files that were not read before, where no build has made one that could be the same.
    pub(super) fn copy_unread(
        &self,
        copying: &Copying<'_>,
        ignored: Ignored<'_>,
        recipe: Recipe,
    ) -> Result<Attempt, ExecuteError> {
        let Some(context) = self.unread_context(copying, &recipe)? else { return Ok(Attempt::LeftAlone(recipe)) };
        // Who copies the same at this moment is waited for; what it makes can be found the long way.
        let outline = outline(copying.op, &recipe);
        let Some(_lock) = Shared::Step.try_lock(&outline, self.services.layers.store())? else {
            drop(self.wait_for(Shared::Step, &outline)?);
            return Ok(Attempt::LeftAlone(recipe));
        };
        if self.may_be_found(copying.op)? {
            return Ok(Attempt::LeftAlone(recipe));
        }
        let (mut placed, parents) = match self.place_unread(copying, ignored, recipe) {
            Ok(placed) => placed,
            Err(recipe) => return Ok(Attempt::LeftAlone(recipe)),
        };
        self.task.start();
        let once = ReadOnce::new(context, placed.recipe.entries.len());
        match self.write_unread(copying, &once, &mut placed.recipe) {
            Ok(Some(layer)) => {
                once.learn(placed.recipe.entries.iter().filter_map(digest_of_source));
                self.settle_unread(copying.op, layer, placed, &parents).map(Attempt::Done)
            }
            Err(ExecuteError::Cancelled) => Err(ExecuteError::Cancelled),
            // A file changed, or nothing can be made of it: the long way reads again, and tells what is wrong.
            Ok(None) | Err(_) => Ok(Attempt::LeftAlone(placed.taken_back(&parents))),
        }
    }

    /// The recipe on its destination, with the paths that had to be added for that; it comes back where that is not simple.
    fn place_unread(
        &self,
        copying: &Copying<'_>,
        ignored: Ignored<'_>,
        recipe: Recipe,
    ) -> Result<(Placed, BTreeSet<Vec<u8>>), Recipe> {
        if !self.archives(copying).is_ok_and(|archives| archives.is_empty()) {
            return Err(recipe);
        }
        let (Ok(view), Ok(owner)) = (self.destination(copying), self.owner(copying.op)) else { return Err(recipe) };
        let view = view.as_ref().map(|view| view as &dyn View);
        let request = copying.request(owner, Some(ignored), self.services.options.epoch);
        let mut placed = recipe.onto(&request, view)?;
        match self.add_parents(&mut placed.recipe, view) {
            Ok(parents) => Ok((placed, parents)),
            Err(_) => Err(placed.taken_back(&BTreeSet::new())),
        }
    }

    /// The context of a copy most of whose bytes are not known yet.
    fn unread_context<'c>(
        &self,
        copying: &'c Copying<'_>,
        recipe: &Recipe,
    ) -> Result<Option<&'c DirContext>, ExecuteError> {
        let Origin::Context(Context::Directory(context)) = copying.origin else { return Ok(None) };
        let (known, unknown) = recipe.known_and_unknown();
        let is_unread = unknown > known
            && matches!(self.services.purpose, Purpose::Build)
            && copying.fetched.is_empty()
            && recipe.replaced.is_empty()
            && recipe.is_all_of_root()
            && !self.may_be_found(copying.op)?;
        Ok(is_unread.then_some(context.as_ref()))
    }

    /// Whether a cache may have the copy.
    fn may_be_found(&self, op: &CopyOp) -> Result<bool, ExecuteError> {
        let cache = &self.services.cache;
        Ok(self.may_use_cache()
            && (!self.services.remote.imported().is_empty()
                || cache.knows_copy(&instruction(op))?
                || self.before()?.is_some()))
    }

    /// Notes that such a copy of a context is looked for: there may be one from now on.
    pub(super) fn note_copy(&self, op: &CopyOp, key: &Key) -> Result<(), ExecuteError> {
        match (&op.from, self.services.purpose) {
            (CopyFrom::Context | CopyFrom::NamedContext(_), Purpose::Build) => {
                Ok(self.services.cache.note_copy(&instruction(op), key)?)
            }
            (CopyFrom::Step(_), _) | (_, Purpose::Explain(_)) => Ok(()),
        }
    }

    /// Writes the files and fills their digests in; `None` where the layer does not tell all of them.
    fn write_unread(
        &self,
        copying: &Copying<'_>,
        once: &ReadOnce<'_>,
        recipe: &mut Recipe,
    ) -> Result<Option<Digest>, ExecuteError> {
        let mut sources = copying.request(None, None, self.services.options.epoch).sources;
        for source in &mut sources {
            if let CopySource::View { view, .. } = source {
                *view = once;
            }
        }
        let written = layers::Origin { dialect: Some(DIALECT), ..layers::Origin::default() };
        let write = |out: &mut dyn Write| write_recipe(&recipe.entries, &sources, out).map(drop);
        let (layer, index) = self.services.layers.create_from(self.wanted(), written, write)?;
        fill_digests(recipe, &index);
        Ok(recipe.is_digested().then_some(layer))
    }

    /// Keeps what was written under the key that it turns out to have.
    fn settle_unread(
        &self,
        op: &CopyOp,
        layer: Digest,
        placed: Placed,
        parents: &BTreeSet<Vec<u8>>,
    ) -> Result<StepOutput, ExecuteError> {
        let by_content = self.key_by_content(&placed.recipe)?;
        let by_source = placed.taken_back(parents);
        let content = self.content(&by_source)?;
        let (mut key, chain) = self.copy_key(op, &content)?;
        key.evidence.files = remembered(&by_source, op);
        self.note_copy(op, &key)?;
        self.settle(&key, chain, Written { work: self, by_content, layer })
    }
}

/// A copy that is written already.
struct Written<'a> {
    work: &'a Work<'a>,
    by_content: Digest,
    layer: Digest,
}

impl Make for Written<'_> {
    fn changes(&self, _before: &SlotRecord) -> FilesByIngredient {
        FilesByIngredient::new()
    }

    fn found(&self) -> Result<Option<StepRecord>, ExecuteError> {
        self.work.find(&self.by_content)
    }

    fn make(self) -> Result<Digest, ExecuteError> {
        self.work.keep_copy(&self.by_content, self.layer)?;
        Ok(self.layer)
    }
}

/// Takes the digests of files over from the index of the layer that they were written to.
fn fill_digests(recipe: &mut Recipe, index: &Index) {
    for entry in &mut recipe.entries {
        if let (Content::View { .. }, Kind::File { digest, .. }) = (&entry.content, &mut entry.node.kind)
            && let Some(Item::Present(present)) = index.find(&entry.path)
            && let Kind::File { digest: Some(found), .. } = present.node.kind
        {
            *digest = Some(found);
        }
    }
}

/// A file of the context and its digest.
fn digest_of_source(entry: &RecipeEntry) -> Option<(&[u8], Digest)> {
    match (&entry.content, &entry.node.kind) {
        (Content::View { path, .. }, Kind::File { digest: Some(digest), .. }) => Some((path, *digest)),
        _ => None,
    }
}
