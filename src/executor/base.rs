//! FROM: the layers of an image. Nothing is fetched here: a layer comes when a step or an output needs it.

use super::step::Work;
use super::{ExecuteError, StepOutput};
use crate::cache::key;
use crate::digest::Digest;
use crate::image::config::ImageConfig;
use crate::plan::BaseKey;
use crate::progress::Outcome;

/// A base image whose config is known.
#[derive(Debug, Clone)]
pub struct ResolvedBase {
    /// What people call it.
    pub name: String,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers, lowest first, by diffID; the store knows where each can be had.
    pub layers: Vec<Digest>,
}

impl Work<'_> {
    pub(super) fn base(&self, base: &BaseKey) -> Result<StepOutput, ExecuteError> {
        let unresolved = || ExecuteError::internal(format!("the base {base} was not resolved"));
        let resolved = self.services.bases.get(base).ok_or_else(unresolved)?;
        let key = key::base(&resolved.name, &base.platform, &resolved.layers);
        self.task.start();
        let layers = self.services.layers;
        let mut is_here = true;
        for layer in &resolved.layers {
            let record = layers.record(layer)?;
            is_here &= record.blobs.values().any(|blob| layers.store.has_blob(&blob.digest));
        }
        self.task.end(if is_here { Outcome::Cached } else { Outcome::Done });
        Ok(StepOutput { key: key.digest, layers: resolved.layers.clone(), added: None })
    }
}
