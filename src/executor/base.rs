//! FROM: the layers of an image. Nothing is fetched here: a layer comes when a step or an output needs it.

use std::collections::BTreeMap;

use super::explain::Verdict;
use super::step::Work;
use super::{ExecuteError, Purpose, StepOutput};
use crate::cache::{Key, MissReason, Seen, key, miss};
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
    /// The digest that its name stands for, where that is known.
    pub digest: Option<Digest>,
}

impl Work<'_> {
    pub(super) fn base(&self, base: &BaseKey) -> Result<StepOutput, ExecuteError> {
        let unresolved = || ExecuteError::internal(format!("the base {base} was not resolved"));
        let resolved = self.services.bases.get(base).ok_or_else(unresolved)?;
        let key = key::base(&resolved.name, &base.platform, &resolved.layers, resolved.digest.as_ref());
        let moved = self.moved(&key)?;
        if let Purpose::Explain(foresight) = self.services.purpose {
            foresight.note(self.step.id, &key, Verdict::Base { moved });
            return Ok(StepOutput { key: self.begun(key.digest), layers: Some(resolved.layers.clone()), added: None });
        }
        self.task.start();
        if let Some(moved) = moved {
            self.task.note(moved.to_string());
        }
        let layers = self.services.layers;
        let mut is_here = true;
        for layer in &resolved.layers {
            is_here &= layers.is_here(&layers.record(layer)?);
        }
        self.services.cache.remember(self.place(), &key, None, Seen::Again)?;
        self.task.end(if is_here { Outcome::Cached } else { Outcome::Done });
        Ok(StepOutput { key: self.begun(key.digest), layers: Some(resolved.layers.clone()), added: None })
    }

    /// How a base differs from what it was in the last build, where that is another one.
    fn moved(&self, key: &Key) -> Result<Option<MissReason>, ExecuteError> {
        let before = self.before()?;
        let moved = before.as_ref().filter(|before| before.key != key.digest);
        Ok(moved.map(|before| miss::explain(Some(before), key, self.place(), |_| BTreeMap::new())))
    }
}
