//! The work of a COPY or ADD whose key is known.

use std::cell::{Cell, OnceCell};

use super::Copying;
use super::changes::{self, Names, Then};
use super::reuse::Earlier;
use crate::cache::key::FILES;
use crate::cache::miss::FilesByIngredient;
use crate::digest::Digest;
use crate::executor::add::Archive;
use crate::executor::copy::Recipe;
use crate::executor::step::{Make, Work};
use crate::executor::{ExecuteError, Purpose};
use crate::plan::Link;
use crate::store::{SlotRecord, StepRecord};

/// Entries beyond which what was planned is freed beside the next step.
const LARGE: usize = 10_000;

/// A copy that is known by content; what has to be looked at is looked at once.
pub(super) struct Copied<'a> {
    work: &'a Work<'a>,
    copying: &'a Copying<'a>,
    /// What was warned of already.
    told: Vec<String>,
    /// As it was planned for the key, until it is placed.
    by_source: Cell<Option<Recipe>>,
    /// In the root file system that it is for.
    placed: OnceCell<Recipe>,
    archives: OnceCell<Vec<Archive>>,
    /// Explaining a miss places the recipe first; what goes wrong there is the step's own failure.
    failed: Cell<Option<ExecuteError>>,
    /// What was compared with is what an edit is made from.
    earlier: Cell<Option<Earlier>>,
}

impl<'a> Copied<'a> {
    pub(super) fn new(work: &'a Work<'a>, copying: &'a Copying<'a>, by_source: Recipe) -> Copied<'a> {
        Copied {
            work,
            copying,
            told: by_source.warnings.clone(),
            by_source: Cell::new(Some(by_source)),
            placed: OnceCell::new(),
            archives: OnceCell::new(),
            failed: Cell::new(None),
            earlier: Cell::new(None),
        }
    }

    fn place(&self) -> Result<&Recipe, ExecuteError> {
        if let Some(recipe) = self.placed.get() {
            return Ok(recipe);
        }
        // Its own failure is told first; see `failed`.
        let missing = || ExecuteError::internal("a copy was placed twice");
        let by_source = self.by_source.take().ok_or_else(missing)?;
        let recipe = self.work.place_recipe(self.copying, &|path| self.copying.origin.is_ignored(path), by_source)?;
        self.work.warn(recipe.warnings.iter().filter(|warning| !self.told.contains(warning)));
        Ok(self.placed.get_or_init(|| recipe))
    }

    fn archives(&self) -> Result<&[Archive], ExecuteError> {
        if let Some(archives) = self.archives.get() {
            return Ok(archives);
        }
        let archives = self.work.archives(self.copying)?;
        Ok(self.archives.get_or_init(|| archives))
    }

    /// Whether it cannot be placed without work that is only to be explained: steps before it would have to be made, or
    /// layers of a base fetched.
    fn lacks_parent(&self) -> Result<bool, ExecuteError> {
        let op = self.copying.op;
        let looks_up = op.link == Link::Follow || op.names_owner();
        let Purpose::Explain(_) = self.work.services.purpose else { return Ok(false) };
        Ok(looks_up
            && match self.work.below() {
                Err(ExecuteError::NotMade(_)) => true,
                below => !self.work.services.layers.has_indexes(below?)?,
            })
    }

    fn compare(&self, before: &SlotRecord) -> Result<FilesByIngredient, ExecuteError> {
        let op = self.copying.op;
        let by_name = |changes| FilesByIngredient::from([(FILES.to_owned(), changes)]);
        let Some(layer) = before.layer else { return Ok(FilesByIngredient::new()) };
        if !self.archives()?.is_empty() {
            // The layer has what was in the archives.
            let by_source = self.by_source.take();
            let now = by_source.as_ref().map(|recipe| changes::few_files(recipe, op)).unwrap_or_default();
            self.by_source.set(by_source);
            let then = &before.evidence.files;
            let is_known = !(then.is_empty() || now.is_empty());
            return Ok(match is_known {
                true => by_name(changes::between_few(then, &now)),
                false => FilesByIngredient::new(),
            });
        }
        let is_left_out = |path: &[u8]| self.copying.origin.hides(path);
        let names = Names::of_copy(op, &before.ingredients, &is_left_out);
        // Not kept in memory, and not made anew where it is gone: it is for a message only.
        let layers = self.work.services.layers;
        if self.lacks_parent()? {
            let Some(index) = layers.read_index(&layer) else { return Ok(FilesByIngredient::new()) };
            // Without what is below only the files that need no look-up there can be compared.
            let by_source = self.by_source.take().filter(|_| op.chown.is_none());
            let changes = by_source.map(|recipe| by_name(changes::between(&Then::Layer(&index), &recipe, &names)));
            return Ok(changes.unwrap_or_default());
        }
        // Of a large context either takes a while.
        let mut index = None;
        let placed = rayon::in_place_scope(|scope| {
            scope.spawn(|_| index = layers.read_index(&layer));
            self.place()
        })?;
        let Some(index) = index else { return Ok(FilesByIngredient::new()) };
        let changes = changes::between(&Then::Layer(&index), placed, &names);
        self.earlier.set(Some(Earlier { layer, index }));
        Ok(by_name(changes))
    }
}

impl Drop for Copied<'_> {
    /// What was planned for a large context takes milliseconds to free, which the next step need not wait for.
    fn drop(&mut self) {
        let planned = self.by_source.take().or_else(|| self.placed.take());
        if let Some(planned) = planned.filter(|planned| planned.entries.len() > LARGE) {
            rayon::spawn(move || drop(planned));
        }
    }
}

impl Make for Copied<'_> {
    fn changes(&self, before: &SlotRecord) -> FilesByIngredient {
        self.compare(before).unwrap_or_else(|error| {
            self.failed.set(Some(error));
            FilesByIngredient::new()
        })
    }

    fn found(&self) -> Result<Option<StepRecord>, ExecuteError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.lacks_parent()? || !self.archives()?.is_empty() {
            return Ok(None);
        }
        self.work.find(&self.work.key_by_content(self.place()?)?)
    }

    fn make(self) -> Result<Digest, ExecuteError> {
        let earlier = self.earlier.take();
        let (archives, recipe) = (self.archives()?, self.place()?);
        if !archives.is_empty() {
            return self.work.add_archives(self.copying, recipe, archives);
        }
        let layer = self.work.make_copy(self.copying, recipe, earlier)?;
        self.work.keep_copy(&self.work.key_by_content(recipe)?, layer)?;
        Ok(layer)
    }
}
