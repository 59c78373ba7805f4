//! Caches elsewhere: read before the build, written after it.
//!
//! No cache makes a build fail that would do without it: one that cannot be read, or does not keep what it promises, is a
//! sentence and its steps are carried out; one that cannot be written is a sentence unless `ignore-error=false` was given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use super::outputs::{Exporter, Output, OutputKind, observed};
use super::{Build, BuildError, Commands, Prepared, PushBy};
use crate::cache::remote::document::{Layer, MEDIA_TYPE, Mount};
use crate::cache::remote::{
    Belief, CacheTarget, Content, Document, Form, FoundMount, INLINE_KEY, Imported, Keeping, Mode, Mounts, OnFailure,
    Open, Others, Piece, Remote, RemoteError, Storage, import,
};
use crate::digest::Digest;
use crate::executor::{BlobForm, ExecuteError, Layers, PackedMount, Packing, Reuse, abreast};
use crate::export::{ExportLayer, Shape};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Manifest, canonical};
use crate::image::media_type::Compression;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::progress::{Outcome, Task};

/// Why a cache could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CacheFailure {
    /// Its place refused.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A layer could not be had.
    #[error(transparent)]
    Layer(#[from] Box<BuildError>),
}

impl Build<'_> {
    /// Prepares the build; the caches are read meanwhile.
    pub(super) fn prepare_with_caches(&self, commands: Commands) -> Result<(Prepared<'_>, Remote), BuildError> {
        std::thread::scope(|scope| {
            let readers = self.cache_from.iter().flat_map(|place| place.readers(self.registry));
            let imported: Vec<_> = readers.map(|storage| scope.spawn(move || self.import_cache(storage))).collect();
            let prepared = self.prepare(commands);
            let imported = imported.into_iter().filter_map(|thread| thread.join().expect("reading does not panic"));
            Ok((prepared?, Remote::new(imported.collect(), self.mounts_limit)))
        })
    }

    fn target_platforms(&self) -> Vec<Platform> {
        match self.platforms.as_slice() {
            [] | [_] => vec![self.options.target_platform().clone()],
            several => several.to_vec(),
        }
    }

    fn import_cache(&self, storage: Arc<dyn Storage>) -> Option<Imported> {
        let name = storage.name();
        let task = self.progress.task(format!("importing cache manifest from {name}"));
        task.start();
        let imported = match import(storage, &self.target_platforms()) {
            Ok(Some(imported)) => {
                task.note(format!("it has {} steps", imported.document.steps.len()));
                Some(imported)
            }
            Ok(None) => {
                task.note("there is no cache yet");
                None
            }
            Err(error) => {
                self.progress.notice(format!("the cache {name} is not used: {}", error.in_full()));
                None
            }
        };
        task.end(Outcome::Done);
        imported
    }

    /// After a failure: whether layers that caches promised could not be had, and are done without from now on.
    pub(super) fn give_up_broken(
        &self,
        error: &BuildError,
        layers: &Layers<'_>,
        remote: &Remote,
    ) -> Result<bool, BuildError> {
        if self.cancel.is_cancelled() || matches!(error, BuildError::Execute(ExecuteError::Run(_))) {
            return Ok(false);
        }
        let broken = layers.forget_broken()?;
        match broken.first() {
            None => return Ok(false),
            Some(first) => self.progress.notice(format!(
                "the cache does not have what a step needs of {} ({error}); its steps are carried out",
                match broken.len() {
                    1 => format!("layer {}", first.short()),
                    count => format!("{count} layers"),
                }
            )),
        }
        remote.forget(broken);
        Ok(true)
    }

    /// Has the layers of the result fetched that are in a place which the store does not know.
    pub(super) fn fetch_promised<'d>(
        &self,
        names: impl Iterator<Item = &'d Digest>,
        layers: &Layers<'_>,
    ) -> Result<(), BuildError> {
        let mut missing = Vec::new();
        for layer in names.collect::<BTreeSet<_>>() {
            if layers.is_only_promised(layer)? && !layers.is_here(&layers.record(layer)?) {
                missing.push(*layer);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let task = self.progress.task("fetching layers from the cache");
        observed(&task, || Ok(abreast(&missing, |_, layer| layers.fetch_blob(layer, &task)).map(drop)?))
    }

    /// Puts the cache into the image's own config, where that is asked for. One that came with the base is not this image's.
    pub(super) fn inline_cache(
        &self,
        plan: &Plan,
        layers: &Layers<'_>,
        remote: &Remote,
        config: &mut ImageConfig,
    ) -> Result<(), BuildError> {
        config.extra.remove(INLINE_KEY);
        config.extra.remove("moby.buildkit.cache.v0");
        if !self.cache_to.contains(&CacheTarget::Inline) {
            return Ok(());
        }
        let image: BTreeSet<Digest> = config.rootfs.diff_ids.iter().copied().collect();
        let document = document(plan, layers, remote, |diff_id| image.contains(diff_id).then(Layer::default))?;
        config.extra.insert(INLINE_KEY.to_owned(), document.to_value());
        Ok(())
    }

    /// Writes the caches that are asked for.
    pub(super) fn export_caches(&self, plan: &Plan, layers: &Layers<'_>, remote: &Remote) -> Result<(), BuildError> {
        for target in &self.cache_to {
            let CacheTarget::Place { place, mode, form, mounts, on_failure } = target else { continue };
            let storage = place.open(self.registry);
            let left_out = BTreeSet::new();
            let mut export = CacheExport { build: self, plan, layers, remote, mode: *mode, mounts: *mounts, left_out };
            let name = storage.name();
            let task = self.progress.task(format!("exporting cache to {name}"));
            task.start();
            let mut written = export.write(storage.as_ref(), form, &task);
            if written.is_err() {
                export.left_out = layers.forget_broken()?;
                if !export.left_out.is_empty() {
                    // Who needs them next makes them anew, and writes them.
                    task.note(match export.left_out.len() {
                        1 => "a layer is in no cache any more and is left out".to_owned(),
                        count => format!("{count} layers are in no cache any more and are left out"),
                    });
                    written = export.write(storage.as_ref(), form, &task);
                }
            }
            task.end(match &written {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(error.to_string()),
            });
            match (written, on_failure) {
                (Ok(()), _) => {}
                (Err(source), OnFailure::Fail) => return Err(BuildError::Cache { name, source: Box::new(source) }),
                (Err(error), OnFailure::Warn) => {
                    let why = in_full(&error);
                    self.progress.notice(format!("the cache {name} was not written: {why}"));
                }
            }
        }
        Ok(())
    }
}

fn in_full(error: &CacheFailure) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// One cache that is written.
struct CacheExport<'a> {
    build: &'a Build<'a>,
    plan: &'a Plan,
    layers: &'a Layers<'a>,
    remote: &'a Remote,
    mode: Mode,
    mounts: Mounts,
    /// Layers that turned out not to be had.
    left_out: BTreeSet<Digest>,
}

impl CacheExport<'_> {
    fn write(&self, storage: &dyn Storage, form: &Form, task: &Task) -> Result<(), CacheFailure> {
        let exported = self.exported(form, task).map_err(Box::new)?;
        let media = |layer: &ExportLayer| form.format.layer(layer.compression);
        let layer = |diff_id: &Digest| {
            let layer = exported.get(diff_id)?;
            let blob = Descriptor::new(media(layer), layer.digest, layer.size);
            Some(Layer { size: 0, blob: Some(blob) })
        };
        let mut document = document(self.plan, self.layers, self.remote, layer).map_err(Box::new)?;
        let mounts = self.carried_mounts(task);
        document.mounts = mounts.iter().map(|(name, mount)| (*name, mount.described.clone())).collect();
        if document.blobs().is_empty() {
            // A manifest without layers is one that some registries refuse.
            task.note("no layer was made that could be kept");
            return Ok(());
        }
        let config_bytes = document.to_bytes();
        let config = Descriptor::of(MEDIA_TYPE, &config_bytes);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(form.format.manifest().to_owned()),
            artifact_type: None,
            config: config.clone(),
            layers: document.blobs().into_iter().cloned().collect(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        let bytes = canonical(&manifest);
        let belief = if self.left_out.is_empty() { self.remote.belief() } else { Belief::Shaken };
        let is_believed = storage.keeping() == Keeping::Lasting && belief == Belief::Usual;
        if is_believed && self.is_there(storage, &Digest::of(&bytes)) {
            task.note("it has all of this already");
            return Ok(());
        }
        let by_blob: BTreeMap<Digest, &ExportLayer> = exported.values().map(|layer| (layer.digest, layer)).collect();
        let of_mount: BTreeMap<Digest, &CarriedMount> =
            mounts.values().map(|mount| (mount.described.blob.digest, mount)).collect();
        let piece = |descriptor: &Descriptor| {
            let Some(layer) = by_blob.get(&descriptor.digest) else {
                let CarriedMount { open, mount_from, .. } = of_mount[&descriptor.digest];
                return Piece {
                    descriptor: descriptor.clone(),
                    open: open.clone(),
                    mount_from: mount_from.clone(),
                    belief: Belief::Usual,
                };
            };
            Piece {
                descriptor: descriptor.clone(),
                open: layer.open.clone(),
                mount_from: layer.repositories.iter().chain(&self.pushed_to()).cloned().collect(),
                belief: match self.left_out.contains(&layer.diff_id) {
                    true => Belief::Shaken,
                    false => self.remote.belief_in(&layer.diff_id),
                },
            }
        };
        let content = Content {
            layers: manifest.layers.iter().map(piece).collect(),
            config: (config, config_bytes),
            manifest: (Descriptor::of(form.format.manifest(), &bytes), bytes),
            belief,
        };
        let written = storage.write(content, task)?;
        task.note(format!("{} steps, {} new blobs, {} bytes", document.steps.len(), written.sent, written.bytes));
        Ok(())
    }

    /// The cache mounts that the cache gets: those that this build has used, and those that the caches have which it read.
    fn carried_mounts(&self, task: &Task) -> BTreeMap<Digest, CarriedMount> {
        let mut carried = BTreeMap::new();
        let Mounts::Carry { limit } = self.mounts else { return carried };
        for (name, title) in self.remote.notes().mounts {
            match self.layers.pack_mount(&name, limit) {
                Ok(PackedMount { descriptor, path }) => {
                    let open: Open = Arc::new(move || Ok(Box::new(File::open(&path)?)));
                    let described = Mount { title, blob: descriptor };
                    carried.insert(name, CarriedMount { described, open, mount_from: Vec::new() });
                }
                Err(error) => task.note(format!("{title} is left out: {error}")),
            }
        }
        for name in self.remote.mounts() {
            let Some(FoundMount { title, blob, storage }) = self.remote.mount(&name) else { continue };
            let mount_from = storage.repository().into_iter().cloned().collect();
            let descriptor = blob.clone();
            let open: Open = Arc::new(move || storage.open(&descriptor));
            let described = Mount { title, blob };
            carried.entry(name).or_insert(CarriedMount { described, open, mount_from });
        }
        carried
    }

    /// Whether the very same was read there.
    fn is_there(&self, storage: &dyn Storage, manifest: &Digest) -> bool {
        let is_same = |imported: &Imported| imported.manifest == *manifest && imported.storage.name() == storage.name();
        self.remote.imported().iter().any(is_same)
    }

    /// Where the image was pushed to: its layers are there and need not be sent again.
    fn pushed_to(&self) -> Vec<Reference> {
        let pushed = self.build.outputs.iter().filter(|output| matches!(output.kind, OutputKind::Registry(_)));
        pushed.flat_map(|output| output.names.clone()).collect()
    }

    /// The layers whose blobs the cache gets, by diffID.
    fn exported(&self, form: &Form, task: &Task) -> Result<BTreeMap<Digest, ExportLayer>, BuildError> {
        let result = result_steps(self.plan);
        let mut wanted: Vec<Digest> = Vec::new();
        for (step, (_, record)) in &self.remote.notes().steps {
            let is_wanted =
                (self.mode == Mode::Maximal || result.contains(step)) && !self.left_out.contains(&record.layer);
            if is_wanted && !wanted.contains(&record.layer) && !self.layers.is_nowhere(&record.layer) {
                wanted.push(record.layer);
            }
        }
        let made = self.build.outputs.iter().find_map(Output::blob_form);
        let blob = match (form.compression, made) {
            (Some(compression), _) => BlobForm { compression, level: form.level },
            (None, Some(made)) => made,
            (None, None) => BlobForm { compression: Compression::Gzip, level: form.level },
        };
        let not_packed = self.layers.not_packed(&wanted)?;
        self.layers.pack_all(&not_packed, Packing::Blob(blob), task)?;
        let reuse = match form.others {
            Others::Keep => Reuse::AsPulled,
            Others::Recompress => Reuse::Recompressed,
        };
        let output = Output { format: form.format, blob, reuse, ..Output::plain(OutputKind::Registry(PushBy::Tag)) };
        let exporter = Exporter { layers: self.layers, shape: Shape::Image, index: None };
        let layers = abreast(&wanted, |_, layer| exporter.layer(&output, layer, task))?;
        Ok(layers.into_iter().map(|layer| (layer.diff_id, layer)).collect())
    }
}

/// A cache mount on its way to a cache.
struct CarriedMount {
    described: Mount,
    open: Open,
    mount_from: Vec<Reference>,
}

/// The steps whose layers are those of results.
fn result_steps(plan: &Plan) -> BTreeSet<usize> {
    plan.results().flat_map(|result| plan.lineage(result.step)).map(|id| id.index()).collect()
}

/// What a cache says of a build; `layer` gives what it has of a layer by diffID. Steps of other stages are in it without
/// their layers, too: who finds all that reads them needs no more. Of the result all is needed.
fn document(
    plan: &Plan,
    layers: &Layers<'_>,
    remote: &Remote,
    layer: impl Fn(&Digest) -> Option<Layer>,
) -> Result<Document, BuildError> {
    let result = result_steps(plan);
    let notes = remote.notes();
    let mut document = Document { contents: notes.contents, ..Document::default() };
    for (step, (key, record)) in notes.steps {
        let known = layers.record(&record.layer)?;
        let Some(diff_id) = known.diff_id else { continue };
        let found = layer(&diff_id);
        if found.is_none() && result.contains(&step) {
            continue;
        }
        let described = Layer { size: known.size, ..found.unwrap_or_default() };
        document.layers.insert(diff_id, described);
        document.steps.insert(key, crate::store::StepRecord { layer: diff_id, ..record });
    }
    Ok(document)
}
