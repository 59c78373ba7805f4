//! Layers whose files are no later than a given time, made once each.

use super::layers::{Layers, Wanted};
use super::{BlobForm, ExecuteError};
use crate::digest::{Digest, Frame};
use crate::layer::retime::{Retime, retime};
use crate::progress::Progress;
use crate::store::{RecordKind, StepRecord};

impl Layers<'_> {
    /// The layer with its times replaced.
    ///
    /// # Errors
    /// The layer cannot be read or written.
    pub fn retimed(&self, layer: &Digest, rule: Retime, blob: Option<BlobForm>) -> Result<Digest, ExecuteError> {
        let mut frame = Frame::new("rbuild.retimed.2");
        frame.digest("layer", layer).text("latest", &rule.latest.to_string());
        let key = frame.optional("placeholder", rule.placeholder.map(|time| time.to_string()).as_deref()).finish();
        let known: Option<StepRecord> = self.store.read_record(RecordKind::Step, &key)?;
        if let Some(known) = known
            && self.is_available(&known.layer, &self.record(&known.layer)?)
        {
            return Ok(known.layer);
        }
        let mut tar = self.open_tar(layer, &Progress::silent().task(""))?;
        let (made, _) = self.create(Wanted { blob, tree: false }.with_blob(), |out| retime(&mut tar, rule, out))?;
        let created = crate::image::time::rfc3339(rule.latest, None);
        let record = StepRecord { layer: made, title: "rewrite-timestamp".to_owned(), created };
        self.store.write_record(RecordKind::Step, &key, &record)?;
        Ok(made)
    }
}
