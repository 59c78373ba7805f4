//! Layers that are kept as what differs from another one.

use std::fs::File;
use std::io::{self, Read};

use super::write::Origin;
use super::{Layers, PULLED, Result, Wanted};
use crate::digest::{Digest, VerifyReader};
use crate::executor::ingest::{Known, compression_name};
use crate::image::media_type::Compression;
use crate::layer::decompress::decompress;
use crate::layer::index::Index;
use crate::layer::members::{MemberReader, ReadyMembers};
use crate::layer::splice::Splice;
use crate::layer::write::DIALECT;
use crate::store::{BlobRecord, LayerRecord, PatchRecord};

impl Layers<'_> {
    /// The layer that a new one would be a patch of, where it is to have much in common with this one: itself, or what it
    /// is a patch of. `None` where it is not known where each entry lies in its tar.
    pub(in crate::executor) fn patch_base(&self, layer: &Digest) -> Result<Option<(Digest, LayerRecord)>> {
        let record = self.record(layer)?;
        let (base, record) = match &record.patch {
            Some(patch) if !self.store.has_some_blob(&record) => (patch.base, self.record(&patch.base)?),
            _ => (*layer, record),
        };
        let is_usable = record.dialect == Some(DIALECT) && self.store.has_some_blob(&record);
        Ok(is_usable.then_some((base, record)))
    }

    /// Writes a layer that is made of another; where it is that one, nothing is written. `None` where that
    /// one turns out to be damaged: it is not used again.
    pub(in crate::executor) fn create_spliced(
        &self,
        wanted: Wanted,
        base: Digest,
        splice: Splice,
        index: Index,
    ) -> Result<Option<(Digest, Index)>> {
        let record = self.record(&base)?;
        if splice.is_whole(record.size) {
            return Ok(Some((base, index)));
        }
        if record.patch.is_some() {
            // It has a blob: without the patch that earlier versions left there, no layer can be made of itself.
            self.store.update_layer(&base, |record| record.patch = None)?;
        }
        // Where the blob is wanted anyway, or a tree is there to be packed, nothing is gained by keeping the patch.
        let is_enough = wanted.blob.is_none() && !wanted.tree;
        let patch = if is_enough { self.keep_patch(base, &record, &splice)? } else { None };
        // What of an earlier blob of the same form can be taken over need not be compressed again.
        let same = wanted.blob.filter(|form| form.compression == Compression::Gzip);
        let same = same.and_then(|form| self.stored(&record, &form.name()));
        let members = ReadyMembers::default();
        let known = Known { index: Some(index), members: members.clone() };
        let origin = Origin { known, dialect: Some(DIALECT), patch };
        // Asked of the reader: others that fail with it (a worker whose tar is cut) have errors of their own.
        let mut is_damaged = false;
        let made = self.create_from(wanted, origin, |out| {
            let tar = match &same {
                Some(blob) => self.member_tar(blob, &splice, members),
                None => self.base_tar(&base),
            };
            let tar = tar.inspect_err(|error| is_damaged = is_damage(error))?;
            io::copy(&mut Noticed { tar: splice.read(tar), is_damaged: &mut is_damaged }, out).map(drop)
        });
        match made {
            Err(_) if is_damaged => self.distrust(&base).map(|()| None),
            made => made.map(Some),
        }
    }

    /// Takes a layer out of use that turned out to be damaged, so that what is made of it is made anew.
    fn distrust(&self, layer: &Digest) -> Result<()> {
        if !self.store.drop_damaged_blobs(layer)? {
            // Its blobs are what they were when they were written: they are not the tar that its index says.
            self.store.update_layer(layer, |record| record.dialect = None)?;
        }
        self.available.lock().expect("no holder panics").clear();
        Ok(())
    }

    /// Looks for damage after a layer could not be had: what is made of damaged blobs cannot be had by a later build either.
    pub(super) fn distrust_patch(&self, layer: &Digest) -> Result<()> {
        let record = self.record(layer)?;
        if let Some(patch) = record.patch.as_ref().filter(|_| !self.store.has_some_blob(&record)) {
            self.store.drop_damaged_blobs(layer)?;
            self.store.drop_damaged_blobs(&patch.base)?;
            self.available.lock().expect("no holder panics").clear();
        }
        Ok(())
    }

    /// Keeps a patch where it is less than half of what it is a patch of; else the layer is kept whole, compressed, for a
    /// patch is not, and holds its base besides.
    fn keep_patch(&self, base: Digest, record: &LayerRecord, splice: &Splice) -> Result<Option<PatchRecord>> {
        let bytes = splice.to_bytes();
        let size = bytes.len() as u64;
        let whole = record.blobs.values().filter(|blob| self.store.has_blob(&blob.digest)).map(|blob| blob.size).min();
        if whole.is_none_or(|whole| size >= whole / 2) {
            return Ok(None);
        }
        Ok(Some(PatchRecord { base, blob: self.store.put_blob(&bytes)?, size }))
    }

    /// The tar of a layer that is kept as a patch; not verified.
    pub(in crate::executor) fn patched(&self, patch: &PatchRecord) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.store.read_blob(&patch.blob).map_err(io::Error::other)?;
        let splice = Splice::read_from(&bytes.ok_or(io::ErrorKind::NotFound)?)?;
        Ok(Box::new(splice.read(self.base_tar(&patch.base)?)))
    }

    /// The tar of a layer from this blob, which we compressed; members that the new tar has, too, are kept.
    fn member_tar(
        &self,
        blob: &BlobRecord,
        splice: &Splice,
        members: ReadyMembers,
    ) -> io::Result<Box<dyn Read + Send>> {
        let file = io::BufReader::with_capacity(256 << 10, File::open(self.store.blob_path(&blob.digest))?);
        Ok(Box::new(Decoded(MemberReader::new(file, splice.places(), members))))
    }

    /// The tar of a layer that has a blob here. Damage to the blob is noticed by the time its end is read.
    fn base_tar(&self, layer: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let record = self.record(layer).map_err(io::Error::other)?;
        let blobs = record.blobs.iter().filter(|(_, blob)| self.store.has_blob(&blob.digest));
        // Gzip takes three times as long to read as anything else.
        let is_slow = |blob: &BlobRecord| blob.compression == compression_name(Compression::Gzip);
        let (form, blob) = blobs.min_by_key(|(_, blob)| is_slow(blob)).ok_or(io::ErrorKind::NotFound)?;
        let file = File::open(self.store.blob_path(&blob.digest))?;
        let tar = Decoded(decompress(io::BufReader::with_capacity(256 << 10, file))?);
        // What we compress has checksums inside, at a fraction of the price of the digest.
        let is_checked = !form.starts_with(PULLED) && blob.compression != compression_name(Compression::None);
        match record.diff_id.filter(|_| !is_checked) {
            Some(diff_id) => Ok(Box::new(VerifyReader::new(tar, diff_id, None))),
            None => Ok(Box::new(tar)),
        }
    }
}

/// Whether an error says that what was read is not what was written.
pub(in crate::executor) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
}

/// What comes out of a decoder: each has an error kind of its own for what it cannot decode.
struct Decoded<R>(R);

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            // The system's own errors are not of the decoder.
            _ if error.raw_os_error().is_some() => error,
            _ => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}

/// Notes whether what is read is damaged.
struct Noticed<'a, R> {
    tar: R,
    is_damaged: &'a mut bool,
}

impl<R: Read> Read for Noticed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tar.read(buffer).inspect_err(|error| *self.is_damaged |= is_damage(error))
    }
}
