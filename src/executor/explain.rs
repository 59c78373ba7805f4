//! What a build would do, step by step, without doing it: the same keys, looked up in the same cache.
//!
//! Contract: no command runs, no layer is made, and nothing in the store says afterwards that a build took place. Keys
//! need what they are made of, so contexts are read, and so are remote sources and the list of files of a stage that is
//! copied from. Where that stage is not built yet, nothing can be said of its readers before it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::layers::Wanted;
use super::step::{Inputs, run_step};
use super::{ExecuteError, Services, StepOutput};
use crate::cache::{Key, MissReason};
use crate::digest::Digest;
use crate::plan::{Op, Plan, StepId};
use crate::progress::Progress;

/// What is known of a step beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The step.
    pub step: StepId,
    /// Its key, where it can be known.
    pub key: Option<Key>,
    /// What will become of it.
    pub verdict: Verdict,
}

/// What will become of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A base image: there is nothing to do.
    Base {
        /// What is other than in the last build, where it is another image.
        moved: Option<MissReason>,
    },
    /// Its result is in the cache.
    Cached {
        /// The layer.
        layer: Digest,
        /// When that was made (RFC 3339).
        created: String,
        /// The cache elsewhere that has it; none where the store has.
        from: Option<String>,
        /// What is other than before although the files are the same: why steps after it may not be in the cache.
        other: Option<MissReason>,
    },
    /// It has to run.
    Runs {
        /// Why.
        reason: MissReason,
        /// The record that it was compared with.
        nearest: Option<Nearest>,
    },
    /// Its key depends on the files that a step makes which has to run first.
    Depends(StepId),
}

/// An earlier state of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// Its key.
    pub key: Digest,
    /// When its result was made (RFC 3339), where that is still in the store.
    pub created: Option<String>,
}

/// Collects what steps find out about themselves.
#[derive(Debug, Default)]
pub struct Foresight(Mutex<BTreeMap<StepId, (Key, Verdict)>>);

impl Foresight {
    pub(super) fn note(&self, step: StepId, key: &Key, verdict: Verdict) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(step, (key.clone(), verdict));
    }

    fn take(&self, step: StepId) -> Option<(Key, Verdict)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&step)
    }
}

/// Says of every step, in the plan's order, what a build would do.
///
/// `services` must have the purpose [`super::Purpose::Explain`].
///
/// # Errors
/// What a build would fail with before it runs anything: a path that is not there, a store that cannot be read.
pub fn explain(plan: &Plan, services: &Services<'_>, foresight: &Foresight) -> Result<Vec<Explained>, ExecuteError> {
    let mut outputs: Vec<Option<Arc<StepOutput>>> = vec![None; plan.steps.len()];
    let mut explained = Vec::with_capacity(plan.steps.len());
    let task = Progress::silent().task("");
    for step in &plan.steps {
        let inputs = Inputs::new(plan, step.id, &outputs, Wanted { blob: None, tree: false });
        let unknown = match run_step(plan, step.id, &inputs, services, &task) {
            Ok(output) => {
                outputs[step.id.index()] = Some(Arc::new(output));
                None
            }
            Err(ExecuteError::NotMade(missing)) => Some(missing),
            Err(error) => return Err(error),
        };
        let (key, verdict) = match (foresight.take(step.id), unknown, &step.op) {
            (Some((key, verdict)), _, _) => (Some(key), verdict),
            (None, Some(missing), _) => (None, Verdict::Depends(first_unmade(&explained, missing))),
            (None, None, Op::Scratch(_)) => (None, Verdict::Base { moved: None }),
            (None, None, _) => return Err(ExecuteError::internal("a step was not explained")),
        };
        explained.push(Explained { step: step.id, key, verdict });
    }
    Ok(explained)
}

/// The step that has to run first, where one that is not known itself is waited for.
fn first_unmade(explained: &[Explained], missing: StepId) -> StepId {
    match explained.iter().find(|explained| explained.step == missing).map(|explained| &explained.verdict) {
        Some(Verdict::Depends(first)) => *first,
        _ => missing,
    }
}
