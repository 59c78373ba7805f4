//! Layers whose files are no later than a given time, made once each.

use super::layers::{Layers, Wanted};
use super::{BlobForm, ExecuteError};
use crate::digest::{Digest, Frame};
use crate::layer::retime::retime;
use crate::progress::Progress;
use crate::store::{RecordKind, StepRecord};

impl Layers<'_> {
    /// The layer with every time later than `latest` (seconds since 1970) replaced by that.
    ///
    /// # Errors
    /// The layer cannot be read or written.
    pub fn retimed(&self, layer: &Digest, latest: i64, blob: Option<BlobForm>) -> Result<Digest, ExecuteError> {
        let mut frame = Frame::new("rbuild.retimed.1");
        let key = frame.digest("layer", layer).text("latest", &latest.to_string()).finish();
        let known: Option<StepRecord> = self.store.read_record(RecordKind::Step, &key)?;
        if let Some(known) = known
            && self.is_available(&known.layer, &self.record(&known.layer)?)
        {
            return Ok(known.layer);
        }
        let mut tar = self.open_tar(layer, &Progress::silent().task(""))?;
        let (made, _) = self.create(Wanted { blob, tree: false }.with_blob(), |out| retime(&mut tar, latest, out))?;
        let created = crate::image::time::rfc3339(latest, None);
        let record = StepRecord { layer: made, title: "rewrite-timestamp".to_owned(), created };
        self.store.write_record(RecordKind::Step, &key, &record)?;
        Ok(made)
    }
}
