//! What is at some paths of a stage, known without looking: somebody asked the same of the same layers before.
//!
//! The key of `COPY --from` and of a bind mount has the content that is read, so that a stage which was rebuilt to the same
//! bytes does not run its readers again. To find that content the layers are needed; a machine that has none of them would
//! have to fetch all to learn that it needs none. A cache therefore says it: the question names layers by their diffIDs, so
//! the answer never changes.

use super::step::Work;
use super::{ExecuteError, StepOutput};
use crate::cache::key;
use crate::digest::{Digest, Frame};
use crate::plan::{CopyFrom, CopyOp, Source, StepId};

impl Work<'_> {
    /// The diffIDs of a step's layers; `None` where one was not packed yet, or the step was only foreseen.
    fn diff_ids(&self, id: StepId) -> Result<Option<Vec<Digest>>, ExecuteError> {
        let layers = match self.layers_of(id) {
            Err(ExecuteError::NotMade(_)) => return Ok(None),
            layers => layers?,
        };
        let mut diff_ids = Vec::with_capacity(layers.len());
        for layer in layers {
            let known = self.services.layers.record(layer)?.diff_id;
            match known.or(self.services.remote.names(layer).then_some(*layer)) {
                Some(diff_id) => diff_ids.push(diff_id),
                None => return Ok(None),
            }
        }
        Ok(Some(diff_ids))
    }

    /// What is asked when a copy out of a stage looks for its sources; `None` for other copies.
    fn question_of_copy(&self, op: &CopyOp) -> Result<Option<Digest>, ExecuteError> {
        let CopyFrom::Step(id) = op.from else { return Ok(None) };
        let Some(diff_ids) = self.diff_ids(id)? else { return Ok(None) };
        let mut frame = framed("rbuild.question.copy.1", &diff_ids);
        for source in &op.sources {
            match source {
                Source::Path(pattern) => frame.text("path", pattern),
                Source::Inline { name, content } => frame.text("name", name).text("content", content),
                // What an address has is not the layers' content.
                Source::Url(_) | Source::Git(_) => return Ok(None),
            };
        }
        // All else that makes a copy what it is decides on the names under which its content is digested.
        let question = key::copy(op, &Digest::of(b""), &frame.finish()).digest;
        Ok(Some(self.marked("rbuild.steady.question.1", question)))
    }

    /// A copy out of a stage that is in the cache, found without looking into the stage.
    pub(super) fn known_copy(&self, op: &CopyOp) -> Result<Option<StepOutput>, ExecuteError> {
        let question = self.question_of_copy(op)?;
        let Some(content) = question.and_then(|question| self.services.remote.content(&question)) else {
            return Ok(None);
        };
        if let Some(question) = question {
            self.services.remote.note_content(question, content);
        }
        let (key, chain) = self.copy_key(op, &content)?;
        self.settle_known(&key, chain)
    }

    /// Notes what a copy out of a stage found.
    pub(super) fn note_copied(&self, op: &CopyOp, content: Digest) -> Result<(), ExecuteError> {
        if let Some(question) = self.question_of_copy(op)? {
            self.services.remote.note_content(question, content);
        }
        Ok(())
    }

    /// The content of a path of a stage, for the key of what mounts it.
    pub(super) fn mounted_content(&self, id: StepId, path: &str) -> Result<Digest, ExecuteError> {
        let question = |diff_ids: Vec<Digest>| {
            let asked = framed("rbuild.question.mount.1", &diff_ids).text("path", path).finish();
            self.marked("rbuild.steady.question.mount.1", asked)
        };
        if let Some(asked) = self.diff_ids(id)?.map(question)
            && let Some(content) = self.services.remote.content(&asked)
        {
            self.services.remote.note_content(asked, content);
            return Ok(content);
        }
        let view = self.services.layers.view(self.layers_of(id)?, self.task)?;
        let content = self.view_content(&view, path)?;
        // Whoever looks into layers has packed them.
        if let Some(asked) = self.diff_ids(id)?.map(question) {
            self.services.remote.note_content(asked, content);
        }
        Ok(content)
    }
}

fn framed(kind: &str, diff_ids: &[Digest]) -> Frame {
    let mut frame = Frame::new(kind);
    frame.number("layers", diff_ids.len() as u64);
    for diff_id in diff_ids {
        frame.digest("layer", diff_id);
    }
    frame
}
