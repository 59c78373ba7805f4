//! From steps to an image: layers in order, history with its times, the finished config.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::outputs::{Exporter, observed, shape};
use super::{Build, BuildError, FileTimes, Layering, Output, OutputKind, PushBy, Software};
use crate::attest::{AttestationDocuments, Attested};
use crate::cache::remote::Remote;
use crate::digest::Digest;
use crate::executor::{ExecuteError, Layers, PLACEHOLDER, Packing, Retime, StepOutput};
use crate::export::{Bundle, Documents, Shape};
use crate::image::config::{History, ImageConfig};
use crate::image::manifest::Descriptor;
use crate::plan::{HistoryEntry, Plan, StageResult, StepId};
use crate::store::{ImageRecord, Tagged};

/// An image whose config is complete and whose layers can be had.
pub(super) struct Assembled {
    pub(super) config: ImageConfig,
    /// The layers as the store names them, lowest first.
    pub(super) layers: Vec<Digest>,
    /// Bytes of all layers, not compressed.
    pub(super) size: u64,
    /// The documents of an image that was not built here and now.
    pub(super) original: Option<Documents>,
    /// What is said about it.
    pub(super) attested: Attested,
    /// When all of its files were made as plain files, in seconds since 1970, where a build is to say so.
    pub(super) dated: Option<i64>,
}

impl Build<'_> {
    /// Completes the configs of the plan's results.
    pub(super) fn assemble(
        &self,
        plan: &Plan,
        steps: &[Arc<StepOutput>],
        layers: &Layers<'_>,
        remote: &Remote,
    ) -> Result<Vec<Assembled>, BuildError> {
        let retimed = |result: &StageResult| self.retimed(result, plan.epoch, steps, layers);
        let names: Vec<Vec<Digest>> = plan.results().map(retimed).collect::<Result<_, _>>()?;
        // A RUN's layer gets its diffID when it is packed: into the blob that an output wants, where one does.
        let all: BTreeSet<Digest> = names.iter().flatten().copied().collect();
        let not_packed = layers.not_packed(&all.into_iter().collect::<Vec<_>>())?;
        if !not_packed.is_empty() {
            let task = self.progress.task("packing layers");
            let blob = self.outputs.iter().find_map(Output::blob_form);
            let packing = match self.layering {
                Layering::PerStep => blob.map_or_else(|| self.packing_without_blobs(), Packing::Blob),
                Layering::Squashed => Packing::Kept,
            };
            let _flushing = layers.store().flush_ahead();
            observed(&task, || Ok(layers.pack_all(&not_packed, packing, &task)?))?;
        }
        if !self.only_pushes() {
            self.fetch_promised(names.iter().flatten(), layers)?;
        }
        let image = |(result, names): (&StageResult, Vec<Digest>)| {
            let base = plan.lineage(result.step)[0];
            let below = steps[base.index()].layers.as_ref().map_or(0, Vec::len);
            let mut image = completed(result, plan.epoch, names, steps, layers)?;
            // BuildKit gives plain files no other time (exporter/local/fs.go). A reproducible build has none of a clock in
            // its files, and those that were put there on purpose stay.
            image.dated = plan.epoch.filter(|_| self.times != FileTimes::Reproducible);
            match self.layering {
                Layering::PerStep => {
                    self.inline_cache(plan, layers, remote, &mut image.config)?;
                    Ok(image)
                }
                Layering::Squashed => self.squashed(image, below, result.config.history.len(), layers),
            }
        };
        plan.results().zip(names).map(image).collect()
    }

    /// The image with one layer above the base's, whose history entry comes after those of the steps, as in Docker
    /// (`daemon/images/image_squash.go`). Where a base has but one layer above it, there is nothing to do.
    fn squashed(
        &self,
        mut image: Assembled,
        below: usize,
        history: usize,
        layers: &Layers<'_>,
    ) -> Result<Assembled, BuildError> {
        let id = Digest::of(&image.config.to_bytes());
        let (base, new) = image.layers.split_at(below);
        if new.len() < 2 {
            return Ok(image);
        }
        let task = self.progress.task("squashing layers");
        let blob = self.outputs.iter().find_map(Output::blob_form);
        let layer = observed(&task, || Ok(layers.squashed(base, new, blob, &task)?))?;
        let record = layers.record(&layer)?;
        let missing = || ExecuteError::Internal(format!("layer {layer} has no diffID"));
        let gone: u64 = new.iter().map(|layer| layers.record(layer).map(|record| record.size)).sum::<Result<_, _>>()?;
        image.size = image.size.saturating_sub(gone) + record.size;
        image.config.rootfs.diff_ids.truncate(below);
        image.config.rootfs.diff_ids.push(record.diff_id.ok_or_else(missing)?);
        image.layers.truncate(below);
        image.layers.push(layer);
        for entry in image.config.history.iter_mut().skip(history) {
            entry.empty_layer = true;
        }
        let created = image.config.created.clone();
        let comment = format!("squashed from {id}");
        image.config.history.push(History { created, created_by: "squash".to_owned(), comment, ..History::default() });
        Ok(image)
    }

    /// What becomes of layers that RUN wrote where no output wants them as blobs.
    fn packing_without_blobs(&self) -> Packing {
        let is_read = self.outputs.iter().any(|output| matches!(output.kind, OutputKind::Files(..)))
            || self.attestations.software == Software::Listed;
        if is_read { Packing::Kept } else { Packing::Digest }
    }

    /// The layers of a result, new ones with no file later than `SOURCE_DATE_EPOCH` where that is asked for; a base's
    /// layers stay as they were pulled.
    fn retimed(
        &self,
        result: &StageResult,
        epoch: Option<i64>,
        steps: &[Arc<StepOutput>],
        layers: &Layers<'_>,
    ) -> Result<Vec<Digest>, BuildError> {
        let made = steps[result.step.index()].layers.as_ref();
        let made = made.ok_or(ExecuteError::NotMade(result.step))?;
        let rule = match (self.times, epoch) {
            (FileTimes::Rewrite, Some(latest)) => Retime { latest, placeholder: None },
            (FileTimes::Reproducible, Some(latest)) => Retime { latest, placeholder: Some(PLACEHOLDER) },
            (FileTimes::Rewrite | FileTimes::Reproducible, None) | (FileTimes::Keep, _) => return Ok(made.clone()),
        };
        let new: BTreeSet<Digest> = steps.iter().filter_map(|step| Some(step.added.as_ref()?.0)).collect();
        let blob = self.outputs.iter().find_map(Output::blob_form);
        let retimed = |layer: &Digest| match new.contains(layer) {
            true => Ok(layers.retimed(layer, rule, blob)?),
            false => Ok(*layer),
        };
        made.iter().map(retimed).collect()
    }

    /// Names the images in the store: one by itself, several with their index, whose descriptor is returned.
    pub(super) fn name(&self, images: &[Assembled], layers: &Layers<'_>) -> Result<Option<Descriptor>, BuildError> {
        let bundle = match shape(images) {
            Shape::Image => None,
            Shape::Index => Some(self.indexed(images, layers)?),
        };
        let mut documents: Vec<Vec<u8>> = images.iter().map(|image| image.config.to_bytes()).collect();
        let configs: Vec<Digest> = documents.iter().map(|config| Digest::of(config)).collect();
        documents.extend(bundle.iter().flat_map(Bundle::documents).map(|(_, bytes)| bytes.to_vec()));
        let index = bundle.as_ref().map(|bundle| bundle.top().0.clone());
        let (mut tagged, mut of_index) = (Vec::new(), Vec::new());
        for name in &self.tags {
            let name = name.with_default_tag().to_string();
            // Reading all names is for the builds alone that may find some to take away.
            let mut was_index = index.is_some();
            for (number, (image, config)) in images.iter().zip(&configs).enumerate() {
                let record = ImageRecord {
                    config: *config,
                    layers: image.layers.clone(),
                    manifest: bundle.as_ref().map(|bundle| bundle.images[number].manifest.0.digest),
                    source: None,
                    index: index.as_ref().map(|index| index.digest),
                    attestations: bundle.as_ref().map(|bundle| attestations(bundle, number)).unwrap_or_default(),
                    created: image.config.created.clone().unwrap_or_default(),
                    size: image.size,
                };
                let platform = image.config.platform().to_string();
                was_index |= self.store.tagged(&name, &platform)?.is_some_and(|before| before.image.index.is_some());
                tagged.push(Tagged { name: name.clone(), platform, built: true, image: record });
            }
            of_index.extend(was_index.then_some(name));
        }
        // Before the outputs: what they write elsewhere on the same disk need not be waited for.
        self.store.acknowledge(&documents, &tagged)?;
        for name in of_index {
            self.forget_other_members(&name, index.as_ref().map(|index| index.digest))?;
        }
        Ok(index)
    }

    /// The form in which the store has the documents of images under an index: that of the first output, so that nothing
    /// is compressed twice.
    pub(super) fn stored_output(&self) -> Output {
        let first = self.outputs.iter().find(|output| output.blob_form().is_some());
        // What a push need not fetch need not be fetched to be named either.
        let kind = OutputKind::Registry(PushBy::Tag);
        // What is said is said of the names in the store.
        let names = self.tags.clone();
        match first {
            Some(first) => Output { kind, names, ..first.clone() },
            None => Output { names, ..Output::plain(kind) },
        }
    }

    /// The documents of images under an index.
    fn indexed(&self, images: &[Assembled], layers: &Layers<'_>) -> Result<Bundle, BuildError> {
        let task = self.progress.task("exporting to image");
        let output = self.stored_output();
        let exporter = Exporter::of_index(layers);
        observed(&task, || {
            let bundle = exporter.bundle(&output, images, &task)?;
            task.note(format!("exporting manifest list {}", bundle.top().0.digest));
            Ok(bundle)
        })
    }

    /// What else was under the index that a name stood for goes with it.
    fn forget_other_members(&self, name: &str, index: Option<Digest>) -> Result<(), BuildError> {
        for tagged in self.store.all_tagged()? {
            if tagged.name == name && tagged.image.index.is_some() && tagged.image.index != index {
                self.store.untag(&tagged.name, &tagged.platform)?;
            }
        }
        Ok(())
    }
}

/// All that is said about an image of a bundle.
fn attestations(bundle: &Bundle, number: usize) -> Vec<Digest> {
    let documents = bundle.images[number].attestations.iter().flat_map(AttestationDocuments::all);
    documents.map(|(descriptor, _)| descriptor.digest).collect()
}

/// The config of a result, with its layers and their history.
fn completed(
    result: &StageResult,
    epoch: Option<i64>,
    names: Vec<Digest>,
    steps: &[Arc<StepOutput>],
    layers: &Layers<'_>,
) -> Result<Assembled, BuildError> {
    let mut config = result.config.clone();
    let mut size = 0;
    for layer in &names {
        let record = layers.record(layer)?;
        let missing = || ExecuteError::Internal(format!("layer {layer} has no diffID"));
        config.rootfs.diff_ids.push(record.diff_id.ok_or_else(missing)?);
        size += record.size;
    }
    let created = |step: StepId| steps[step.index()].added.as_ref().map(|(_, created)| created.clone());
    let entry = |entry: &HistoryEntry| History { created: entry.layer.and_then(created), ..entry.entry.clone() };
    let mut added: Vec<History> = result.history.iter().map(entry).collect();
    fill_times(&mut added, epoch);
    config.history.extend(added);
    config.created = config.history.iter().rev().find_map(|entry| entry.created.clone());
    Ok(Assembled { config, layers: names, size, original: None, attested: Attested::Nothing, dated: None })
}

/// Entries without a layer take the time of the next layer after them, the last ones that of the last layer: so a build
/// that is all cache hits gives the very same image (BuildKit, `exporter/containerimage/writer.go`).
fn fill_times(history: &mut [History], epoch: Option<i64>) {
    if let Some(epoch) = epoch {
        let created = crate::image::time::rfc3339(epoch, None);
        for entry in history {
            entry.created = Some(created.clone());
        }
        return;
    }
    let mut next = history.iter().rev().find_map(|entry| entry.created.clone());
    for entry in history.iter_mut().rev() {
        match &entry.created {
            Some(created) => next = Some(created.clone()),
            None => entry.created.clone_from(&next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_a_layer_take_the_time_of_the_next_one() {
        let entry = |created: Option<&str>| History { created: created.map(str::to_owned), ..History::default() };
        let mut history = vec![entry(None), entry(Some("1")), entry(None), entry(Some("2")), entry(None)];
        fill_times(&mut history, None);
        let times: Vec<_> = history.iter().map(|entry| entry.created.clone().unwrap()).collect();
        assert_eq!(times, ["1", "1", "2", "2", "2"]);
        fill_times(&mut history, Some(0));
        assert!(history.iter().all(|entry| entry.created.as_deref() == Some("1970-01-01T00:00:00Z")));
    }
}
