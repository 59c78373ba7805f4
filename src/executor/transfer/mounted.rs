//! What a mount shows: its content for the key, its layer for the command, and how it differs from what it showed before.

use std::io;

use super::changes::{self, Names, Then};
use super::write::write_recipe;
use crate::cache::key;
use crate::cache::miss::{FileChanges, FilesByIngredient};
use crate::digest::{Digest, Frame};
use crate::executor::ExecuteError;
use crate::executor::contexts::{Context, digest_all};
use crate::executor::copy::{CopyRequest, CopySource, Ignored, Recipe, plan_copy};
use crate::executor::layers::Wanted;
use crate::executor::step::Work;
use crate::executor::waiting::Shared;
use crate::plan::{Mount, MountSource, ResolvedMount, RunOp};
use crate::store::{MountEvidence, SlotRecord, StepRecord};
use crate::tree::{self, Node, Time, View};

impl Work<'_> {
    /// What is at a path, copied to its own place.
    fn mirrored(
        &self,
        request: &CopyRequest<'_>,
        digests: impl Fn(&mut [(&[u8], &mut Node)]) -> io::Result<()>,
    ) -> Result<Recipe, ExecuteError> {
        let mut recipe = plan_copy(request, None).map_err(|error| self.copy_error(error))?;
        recipe.fill_digests(|_, files| digests(files)).map_err(|error| self.read_error(error))?;
        Ok(recipe)
    }

    fn view_recipe(&self, view: &dyn View, path: &str) -> Result<Recipe, ExecuteError> {
        self.mirrored(&mirror(view, path, None), |files| digest_all(view, files))
    }

    /// The content of a path of a view, for a key.
    pub(in crate::executor) fn view_content(&self, view: &dyn View, path: &str) -> Result<Digest, ExecuteError> {
        self.content(&self.view_recipe(view, path)?)
    }

    fn context_recipe(&self, context: &Context, path: &str) -> Result<Recipe, ExecuteError> {
        let ignored = |path: &[u8]| context.is_ignored(path);
        self.mirrored(&mirror(context.view(), path, Some(&ignored)), |files| context.digests(files))
    }

    /// The content of a path of a context, for a key.
    pub(in crate::executor) fn context_content(&self, context: &Context, path: &str) -> Result<Digest, ExecuteError> {
        self.content(&self.context_recipe(context, path)?)
    }

    /// A layer that holds a path of a context where it is in the context: what a bind mount shows.
    ///
    /// `expected` is the content that entered the command's key.
    pub(in crate::executor) fn context_layer(
        &self,
        context: &Context,
        path: &str,
        expected: Option<&Digest>,
    ) -> Result<Digest, ExecuteError> {
        let recipe = self.context_recipe(context, path)?;
        let content = self.content(&recipe)?;
        if expected.is_some_and(|expected| *expected != content) {
            return Err(self.changed(path.as_bytes()));
        }
        let key = shown_under(&content);
        let _lock = self.wait_for(Shared::Step, &key)?;
        if let Some(record) = self.find(&key)? {
            return Ok(record.layer);
        }
        let sources = [CopySource::View { view: context.view(), pattern: path.to_owned() }];
        let wanted = Wanted { blob: None, tree: true };
        let (layer, index) =
            self.services.layers.create(wanted, |out| write_recipe(&recipe.entries, &sources, out).map(drop))?;
        self.check_unchanged(&recipe, &index)?;
        let record = StepRecord {
            layer,
            title: format!("bind mount of {path}"),
            created: crate::executor::timestamp(self.services.options),
        };
        self.services.cache.keep(&key, &record)?;
        Ok(layer)
    }

    /// What is remembered of what the mounts of a command showed; `contents` is what entered its key.
    pub(in crate::executor) fn mount_evidence(
        &self,
        op: &RunOp,
        contents: &[Option<Digest>],
    ) -> Result<Vec<MountEvidence>, ExecuteError> {
        let mut evidence = Vec::new();
        for ((resolved, content), name) in op.mounts.iter().zip(contents).zip(key::mount_names(op)) {
            let Some(content) = *content else { continue };
            let layers = match resolved.source {
                MountSource::Step(id) => self.layers_of(id)?.to_vec(),
                MountSource::Context | MountSource::NamedContext(_) | MountSource::Empty => Vec::new(),
            };
            let (ingredient, path) = (key::files_of_mount(&name), mounted_path(&resolved.mount).to_owned());
            evidence.push(MountEvidence { ingredient, content, path, layers });
        }
        Ok(evidence)
    }

    /// How what the mounts of a command show differs from what they showed, as far as both are still known.
    pub(in crate::executor) fn mount_changes(
        &self,
        op: &RunOp,
        contents: &[Option<Digest>],
        before: &SlotRecord,
    ) -> FilesByIngredient {
        let mut changes = FilesByIngredient::new();
        for ((resolved, content), name) in op.mounts.iter().zip(contents).zip(key::mount_names(op)) {
            let name = key::files_of_mount(&name);
            let shown = before.evidence.mounts.iter().find(|shown| shown.ingredient == name);
            let Some(shown) = shown.filter(|shown| Some(shown.content) != *content) else { continue };
            // It is for a message only: what cannot be had is not told of.
            if let Some(Ok(changed)) = self.mount_change(resolved, shown).transpose() {
                changes.insert(name, changed);
            }
        }
        changes
    }

    fn mount_change(
        &self,
        resolved: &ResolvedMount,
        before: &MountEvidence,
    ) -> Result<Option<FileChanges>, ExecuteError> {
        let path = mounted_path(&resolved.mount);
        // Of another directory, everything is another file.
        if before.path != path {
            return Ok(None);
        }
        let layers = self.services.layers;
        let now = match &resolved.source {
            MountSource::Empty => return Ok(None),
            MountSource::Context => self.context_recipe(&self.services.contexts.main, path)?,
            MountSource::NamedContext(name) => self.context_recipe(self.named_context(name)?, path)?,
            MountSource::Step(id) => {
                // Nothing is fetched or packed for words alone.
                let Some(view) = layers.view_of_known(self.layers_of(*id)?) else { return Ok(None) };
                self.view_recipe(&view, path)?
            }
        };
        if before.layers.is_empty() {
            let record = self.find(&shown_under(&before.content))?;
            let index = record.and_then(|record| layers.read_index(&record.layer));
            return Ok(index.map(|index| changes::between(&Then::Layer(&index), &now, &Names::of_source())));
        }
        let Some(view) = layers.view_of_known(&before.layers) else { return Ok(None) };
        let then = self.view_recipe(&view, &before.path)?;
        Ok(Some(changes::between(&Then::Recipe(&then), &now, &Names::of_source())))
    }
}

/// The path that a mount shows of its source.
pub(in crate::executor) fn mounted_path(mount: &Mount) -> &str {
    mount.source.as_deref().unwrap_or("/")
}

/// What the layer of a context's files is kept under.
fn shown_under(content: &Digest) -> Digest {
    Frame::new("rbuild.bind.1").digest("content", content).finish()
}

/// A copy of a path to its own place.
fn mirror<'a>(view: &'a dyn View, path: &str, ignored: Option<Ignored<'a>>) -> CopyRequest<'a> {
    let cleaned = String::from_utf8_lossy(&tree::clean(path.as_bytes())).into_owned();
    CopyRequest {
        sources: vec![CopySource::View { view, pattern: cleaned.clone() }],
        destination: format!("/{cleaned}"),
        workdir: "/".to_owned(),
        owner: None,
        chmod: None,
        exclude: Vec::new(),
        parents: false,
        link: false,
        ignored,
        mtime_now: Time::default(),
    }
}
