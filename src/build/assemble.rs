//! From steps to an image: layers in order, history with its times, the finished config.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::outputs::observed;
use super::{Build, BuildError, FileTimes, Output};
use crate::cache::remote::Remote;
use crate::digest::Digest;
use crate::executor::{ExecuteError, Layers, StepOutput};
use crate::image::config::{History, ImageConfig};
use crate::plan::Plan;
use crate::store::{ImageRecord, Tagged};

/// An image whose config is complete and whose layers can be had.
pub(super) struct Assembled {
    pub(super) config: ImageConfig,
    /// The layers as the store names them, lowest first.
    pub(super) layers: Vec<Digest>,
}

impl Build<'_> {
    /// Completes the config, and names the image in the store.
    pub(super) fn assemble(
        &self,
        plan: &Plan,
        steps: &[Arc<StepOutput>],
        layers: &Layers<'_>,
        remote: &Remote,
    ) -> Result<Assembled, BuildError> {
        let mut config = plan.result.config.clone();
        let mut size = 0;
        let names = self.retimed(plan, steps, layers)?;
        // A RUN's layer gets its diffID when it is packed: into the blob that an output wants, where one does.
        let not_packed = layers.not_packed(&names)?;
        if !not_packed.is_empty() {
            let task = self.progress.task("packing layers");
            let blob = self.outputs.iter().find_map(Output::blob_form);
            observed(&task, || Ok(layers.pack_all(&not_packed, blob, &task)?))?;
        }
        self.fetch_adopted(&names, layers)?;
        for layer in &names {
            let record = layers.record(layer)?;
            let missing = || ExecuteError::Internal(format!("layer {layer} has no diffID"));
            config.rootfs.diff_ids.push(record.diff_id.ok_or_else(missing)?);
            size += record.size;
        }
        let mut added: Vec<History> = plan
            .result
            .history
            .iter()
            .map(|entry| {
                let created = entry.layer.and_then(|step| steps[step.index()].added.as_ref());
                History { created: created.map(|(_, created)| created.clone()), ..entry.entry.clone() }
            })
            .collect();
        fill_times(&mut added, plan.epoch);
        config.history.extend(added);
        config.created = config.history.iter().rev().find_map(|entry| entry.created.clone());
        self.inline_cache(plan, layers, remote, &mut config)?;
        let image = Assembled { config, layers: names };
        self.name(&image, size)?;
        Ok(image)
    }

    /// The layers of the result, new ones with no file later than `SOURCE_DATE_EPOCH` where that is asked for; a base's
    /// layers stay as they were pulled.
    fn retimed(&self, plan: &Plan, steps: &[Arc<StepOutput>], layers: &Layers<'_>) -> Result<Vec<Digest>, BuildError> {
        let result = steps[plan.result.step.index()].layers.as_ref();
        let result = result.ok_or(ExecuteError::NotMade(plan.result.step))?;
        let (FileTimes::Rewrite, Some(epoch)) = (self.times, plan.epoch) else { return Ok(result.clone()) };
        let new: BTreeSet<Digest> = steps.iter().filter_map(|step| Some(step.added.as_ref()?.0)).collect();
        let blob = self.outputs.iter().find_map(Output::blob_form);
        let retimed = |layer: &Digest| match new.contains(layer) {
            true => Ok(layers.retimed(layer, epoch, blob)?),
            false => Ok(*layer),
        };
        result.iter().map(retimed).collect()
    }

    fn name(&self, image: &Assembled, size: u64) -> Result<(), BuildError> {
        let config = self.store.put_blob(&image.config.to_bytes())?;
        // Before the outputs: what they write elsewhere on the same disk need not be waited for.
        self.store.settle()?;
        for tag in &self.tags {
            let record = ImageRecord {
                config,
                layers: image.layers.clone(),
                manifest: None,
                source: None,
                created: image.config.created.clone().unwrap_or_default(),
                size,
            };
            let name = tag.with_default_tag().to_string();
            let platform = image.config.platform().to_string();
            self.store.tag(&Tagged { name, platform, built: true, image: record })?;
        }
        Ok(())
    }
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
