//! A layer's tar, from whatever has it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::{KEPT, Layers, OpenTar, Result, Reuse, open_directory};
use crate::digest::{Digest, VerifyReader};
use crate::executor::{ExecuteError, workers};
use crate::layer::decompress::decompress;
use crate::owners::Table;
use crate::progress::Task;
use crate::store::{LayerRecord, TreeName};

impl Layers<'_> {
    /// A layer's tar: from a blob here, from its tree, from a registry; whichever is nearest.
    pub fn open_tar(&self, layer: &Digest, task: &Task) -> Result<Box<dyn Read + Send>> {
        let record = self.record(layer)?;
        let here = record.blobs.values().find(|blob| self.store.has_blob(&blob.digest)).cloned();
        let patch = record.patch.as_ref().filter(|patch| self.can_be_patched(patch));
        let blob = match (here, patch, record.diff_id) {
            (Some(blob), ..) => blob,
            (None, Some(patch), Some(diff_id)) => {
                let tar = self.patched(patch).map_err(|error| ExecuteError::layer(layer, error))?;
                return Ok(Box::new(VerifyReader::new(tar, diff_id, Some(record.size))));
            }
            _ if self.can_be_pulled(layer, &record) => self.pull(layer, &record, task)?,
            _ => return self.pack(layer, &record, task),
        };
        let file = self.store.open_blob(&blob.digest)?;
        let tar = decompress(io::BufReader::with_capacity(256 << 10, file))
            .map_err(|error| ExecuteError::layer(layer, error))?;
        // A blob may have been damaged since it was stored; what comes out of it must be the layer that is asked for.
        match record.diff_id {
            Some(diff_id) => Ok(Box::new(VerifyReader::new(tar, diff_id, None))),
            None => Ok(tar),
        }
    }

    /// Opens a layer's tar as often as it is asked to: what has no blob yet gets one first.
    pub fn reopen(&self, layer: &Digest, task: &Task) -> Result<OpenTar> {
        let here = |record: &LayerRecord| record.blobs.values().find(|blob| self.store.has_blob(&blob.digest)).cloned();
        let blob = match here(&self.record(layer)?) {
            Some(blob) => blob,
            None => self.blob(layer, KEPT, Reuse::AsPulled, task)?,
        };
        let path = self.store.blob_path(&blob.digest);
        Ok(Arc::new(move || decompress(io::BufReader::with_capacity(256 << 10, File::open(&path)?))))
    }

    /// The tar of what a RUN wrote.
    pub(in crate::executor) fn pack(
        &self,
        layer: &Digest,
        record: &LayerRecord,
        task: &Task,
    ) -> Result<Box<dyn Read + Send>> {
        let mapping = self.mapping()?;
        let Some(upper) = self.store.tree(&mapping.name, &TreeName::of(layer)) else {
            return Err(ExecuteError::layer(layer, io::ErrorKind::NotFound.into()));
        };
        let lowers = self.trees(&record.below, task)?;
        let mut fds = Vec::new();
        let mut owners = Table::default();
        for path in std::iter::once(&upper).chain(&lowers) {
            fds.push(open_directory(path).map_err(|error| ExecuteError::layer(layer, error))?);
            owners.extend(Table::beside(path).map_err(|error| ExecuteError::layer(layer, error))?);
        }
        let mut table = Vec::new();
        owners.write_to(&mut table).map_err(|error| ExecuteError::layer(layer, error))?;
        self.namespace.reader(workers::PACK, &table, fds)
    }
}
