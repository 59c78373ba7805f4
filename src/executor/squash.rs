//! Several layers read as one, and made one, once each.

use std::sync::Arc;

use super::layers::{Layers, Wanted};
use super::{BlobForm, ExecuteError};
use crate::digest::{Digest, Frame};
use crate::layer::flatten::{Source, remove, squash};
use crate::layer::index::Index;
use crate::progress::Task;
use crate::store::{RecordKind, StepRecord};

impl Layers<'_> {
    /// One layer in place of several (lowest first), which lie on those below.
    ///
    /// Of what lies below only the list of files is needed, and that only where something of it is removed.
    ///
    /// # Errors
    /// A layer cannot be read or written.
    pub fn squashed(
        &self,
        below: &[Digest],
        layers: &[Digest],
        blob: Option<BlobForm>,
        task: &Task,
    ) -> Result<Digest, ExecuteError> {
        let texts = |layers: &[Digest]| layers.iter().map(Digest::to_string).collect::<Vec<_>>();
        let mut frame = Frame::new("rbuild.squashed.2");
        frame.list("below", texts(below).iter().map(String::as_str));
        let key = frame.list("layers", texts(layers).iter().map(String::as_str)).finish();
        let known: Option<StepRecord> = self.store.read_record(RecordKind::Step, &key)?;
        if let Some(known) = known
            && self.is_available(&known.layer, &self.record(&known.layer)?)
        {
            return Ok(known.layer);
        }
        let sources = self.sources(layers, task)?;
        let indexes: Vec<Arc<Index>> = match remove(&sources) {
            true => below.iter().map(|layer| self.index(layer, task)).collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        let wanted = Wanted { blob, tree: false }.with_blob();
        let (made, _) = self.create(wanted, |out| squash(&indexes, &sources, out).map(drop))?;
        let record = StepRecord { layer: made, title: "squash".to_owned(), created: String::new() };
        self.store.write_record(RecordKind::Step, &key, &record)?;
        Ok(made)
    }

    /// Layers as they are read: what is in each, and its tar.
    ///
    /// # Errors
    /// A layer cannot be had.
    pub fn sources(&self, layers: &[Digest], task: &Task) -> Result<Vec<Source>, ExecuteError> {
        let source = |layer: &Digest| Ok(Source { index: self.index(layer, task)?, open: self.reopen(layer, task)? });
        layers.iter().map(source).collect()
    }
}
