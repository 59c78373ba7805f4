//! Layers that are kept as what differs from another one.

use std::io::{self, Read};

use super::write::Origin;
use super::{Layers, PULLED, Result, Wanted};
use crate::digest::{Digest, VerifyReader};
use crate::executor::ExecuteError;
use crate::executor::ingest::compression_name;
use crate::image::media_type::Compression;
use crate::layer::decompress::decompress;
use crate::layer::index::Index;
use crate::layer::splice::Splice;
use crate::layer::write::DIALECT;
use crate::store::{BlobRecord, LayerRecord, PatchRecord};

impl Layers<'_> {
    /// The layer that a new one would be a patch of, where it is to have much in common with this one: itself, or what it
    /// is a patch of. `None` where it is not known where each entry lies in its tar.
    pub(in crate::executor) fn patch_base(&self, layer: &Digest) -> Result<Option<(Digest, LayerRecord)>> {
        let record = self.record(layer)?;
        let (base, record) = match &record.patch {
            Some(patch) => (patch.base, self.record(&patch.base)?),
            None => (*layer, record),
        };
        let is_usable = record.dialect == Some(DIALECT) && self.has_some_blob(&record);
        Ok(is_usable.then_some((base, record)))
    }

    /// Writes a layer that is made of another.
    pub(in crate::executor) fn create_spliced(
        &self,
        wanted: Wanted,
        base: Digest,
        splice: Splice,
        index: Index,
    ) -> Result<(Digest, Index)> {
        let failed = |error| ExecuteError::layer(&base, error);
        // Where the blob is wanted anyway, or a tree is there to be packed, nothing is gained by keeping the patch.
        let patch = if wanted.blob.is_none() && !wanted.tree { Some(self.keep_patch(base, &splice)?) } else { None };
        let mut tar = splice.read(self.base_tar(&base).map_err(failed)?);
        let origin = Origin { index: Some(index), dialect: Some(DIALECT), patch };
        self.create_from(wanted, origin, |out| io::copy(&mut tar, out).map(drop))
    }

    fn keep_patch(&self, base: Digest, splice: &Splice) -> Result<PatchRecord> {
        let bytes = splice.to_bytes();
        Ok(PatchRecord { base, blob: self.store.put_blob(&bytes)?, size: bytes.len() as u64 })
    }

    /// Whether all that a patch needs is here.
    pub(super) fn can_be_patched(&self, patch: &PatchRecord) -> bool {
        self.store.has_blob(&patch.blob) && self.record(&patch.base).is_ok_and(|base| self.has_some_blob(&base))
    }

    fn has_some_blob(&self, record: &LayerRecord) -> bool {
        record.blobs.values().any(|blob| self.store.has_blob(&blob.digest))
    }

    /// The tar of a layer that is kept as a patch; not verified.
    pub(super) fn patched(&self, patch: &PatchRecord) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.store.read_blob(&patch.blob).map_err(io::Error::other)?;
        let splice = Splice::read_from(&bytes.ok_or(io::ErrorKind::NotFound)?)?;
        Ok(Box::new(splice.read(self.base_tar(&patch.base)?)))
    }

    /// The tar of a layer that has a blob here. Damage to the blob is noticed by the time its end is read.
    fn base_tar(&self, layer: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let record = self.record(layer).map_err(io::Error::other)?;
        let blobs = record.blobs.iter().filter(|(_, blob)| self.store.has_blob(&blob.digest));
        // Gzip takes three times as long to read as anything else.
        let is_slow = |blob: &BlobRecord| blob.compression == compression_name(Compression::Gzip);
        let (form, blob) = blobs.min_by_key(|(_, blob)| is_slow(blob)).ok_or(io::ErrorKind::NotFound)?;
        let file = self.store.open_blob(&blob.digest).map_err(io::Error::other)?;
        let tar = decompress(io::BufReader::with_capacity(256 << 10, file))?;
        // What we compress has checksums inside, at a fraction of the price of the digest.
        let is_checked = !form.starts_with(PULLED) && blob.compression != compression_name(Compression::None);
        match record.diff_id.filter(|_| !is_checked) {
            Some(diff_id) => Ok(Box::new(VerifyReader::new(tar, diff_id, None))),
            None => Ok(tar),
        }
    }
}
