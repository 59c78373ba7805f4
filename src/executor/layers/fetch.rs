//! Blobs of layers that somebody else has: a registry, a cache elsewhere, a file.

use std::fs::File;
use std::io::{self, Read, Write};

use super::{Layers, Result, add_pulled};
use crate::digest::Digest;
use crate::executor::ExecuteError;
use crate::executor::ingest::compression_name;
use crate::executor::waiting::Shared;
use crate::image::manifest::Descriptor;
use crate::image::media_type::Compression;
use crate::image::reference::Reference;
use crate::progress::{Part, Task};
use crate::store::{BlobRecord, LayerRecord, RemoteBlob};

impl Layers<'_> {
    /// Whether somebody else has a layer's blob.
    pub(super) fn can_be_pulled(&self, layer: &Digest, record: &LayerRecord) -> bool {
        !record.remotes.is_empty() || self.promised.blob(layer).is_some()
    }

    /// Fetches a layer's blob; its digest is verified while it arrives.
    pub(super) fn pull(&self, layer: &Digest, record: &LayerRecord, task: &Task) -> Result<BlobRecord> {
        let of_registries = record.remotes.iter().map(|remote| self.fetch(remote, task));
        let of_caches = self
            .promised
            .blob(layer)
            .into_iter()
            .map(|(descriptor, storage)| self.take(&descriptor, || storage.open(&descriptor), task));
        self.first_of(layer, of_registries.chain(of_caches))
    }

    /// As [`Layers::pull`], of this blob alone.
    pub(super) fn pull_named(
        &self,
        layer: &Digest,
        record: &LayerRecord,
        blob: &Digest,
        task: &Task,
    ) -> Result<BlobRecord> {
        let remotes = record.remotes.iter().filter(|remote| remote.digest == *blob);
        self.first_of(layer, remotes.map(|remote| self.fetch(remote, task)))
    }

    /// Notes the first blob that comes.
    fn first_of(&self, layer: &Digest, blobs: impl Iterator<Item = Result<BlobRecord>>) -> Result<BlobRecord> {
        let mut failure = None;
        for fetched in blobs {
            match fetched {
                Ok(blob) => {
                    self.store.update_layer(layer, |record| add_pulled(record, blob.clone()))?;
                    return Ok(blob);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| ExecuteError::layer(layer, io::ErrorKind::NotFound.into())))
    }

    fn fetch(&self, remote: &RemoteBlob, task: &Task) -> Result<BlobRecord> {
        let repository: Reference = remote.repository.parse().map_err(ExecuteError::internal)?;
        let descriptor = Descriptor::new(&remote.media_type, remote.digest, remote.size);
        self.take(&descriptor, || Ok(Box::new(self.registry.blob(&repository, &descriptor))), task)
    }

    /// Takes a blob that somebody else has into the store.
    fn take(
        &self,
        descriptor: &Descriptor,
        open: impl FnOnce() -> io::Result<Box<dyn Read + Send>>,
        task: &Task,
    ) -> Result<BlobRecord> {
        let Descriptor { digest, size, media_type, .. } = descriptor;
        let compression = Compression::of_media_type(media_type)
            .ok_or_else(|| ExecuteError::internal(format!("unsupported layer type {media_type:?}")))?;
        let compression = compression_name(compression).to_owned();
        let blob = BlobRecord { digest: *digest, size: *size, compression };
        let _lock = Shared::Blob.lock(digest, self.store, task, None)?;
        if self.store.has_blob(digest) {
            return Ok(blob);
        }
        let failed = |error| ExecuteError::layer(digest, error);
        let mut part = task.part(digest.to_string(), *size);
        // The store verifies the digest; no source may go on for ever.
        let mut reader = open().map_err(failed)?.take(size.saturating_add(1));
        let mut writer = self.store.blob_writer()?;
        copy(&mut reader, &mut writer, &mut part).map_err(failed)?;
        writer.commit(Some(*digest))?;
        part.finish();
        Ok(blob)
    }

    /// Takes a layer's blob from a file, which stays as it is.
    pub fn import(&self, layer: &Digest, descriptor: &Descriptor, path: &std::path::Path) -> Result<()> {
        let failed = |error| ExecuteError::layer(layer, error);
        let compression = Compression::of_media_type(&descriptor.media_type)
            .ok_or_else(|| ExecuteError::internal(format!("unsupported layer type {:?}", descriptor.media_type)))?;
        if !self.store.has_blob(&descriptor.digest) {
            let mut writer = self.store.blob_writer()?;
            io::copy(&mut File::open(path).map_err(failed)?, &mut writer).map_err(failed)?;
            writer.commit(Some(descriptor.digest))?;
        }
        let compression = compression_name(compression).to_owned();
        let blob = BlobRecord { digest: descriptor.digest, size: descriptor.size, compression };
        self.store.update_layer(layer, |record| {
            record.diff_id = Some(*layer);
            add_pulled(record, blob);
        })?;
        Ok(())
    }
}

/// Copies bytes and tells how many.
pub(super) fn copy(reader: &mut dyn Read, out: &mut dyn Write, part: &mut Part) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..count])?;
        part.advance(count as u64);
    }
}
