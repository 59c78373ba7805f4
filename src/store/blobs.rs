//! Blobs: bytes named by their digest.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{LayerRecord, RecordKind, Result, Store, StoreError};
use crate::digest::{Digest, Hasher};
use crate::sys::descriptors;

/// Bytes of a blob after which the disk begins with them: the flush at the end then waits for the last ones only.
const BATCH: u64 = 16 << 20;

/// Writes a blob; nothing is visible in the store before [`BlobWriter::commit`].
pub struct BlobWriter {
    file: BufWriter<File>,
    temporary: PathBuf,
    folder: PathBuf,
    hasher: Hasher,
    size: u64,
    /// Up to where the disk has begun to write.
    begun: u64,
}

impl Store {
    /// Where a blob is, whether or not it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is there.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Whether a layer's tar can be had from blobs here: its own, or a patch and one of what it is a patch of.
    pub fn has_layer(&self, record: &LayerRecord) -> Result<bool> {
        if self.has_some_blob(record) {
            return Ok(true);
        }
        let Some(patch) = record.patch.as_ref().filter(|patch| self.has_blob(&patch.blob)) else { return Ok(false) };
        let base: Option<LayerRecord> = self.read_record(RecordKind::Layer, &patch.base)?;
        Ok(base.is_some_and(|base| self.has_some_blob(&base)))
    }

    /// Whether a blob of a layer is here.
    pub fn has_some_blob(&self, record: &LayerRecord) -> bool {
        record.blobs.values().any(|blob| self.has_blob(&blob.digest))
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|error| StoreError::io("open blob", &path, error))
    }

    /// Reads a whole blob that is known to be small (a manifest, a config) and checks it.
    pub fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.blob_path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            // A damaged blob is as good as none: it is fetched or made again.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read blob", &path, error)),
        }
    }

    /// Starts a blob whose digest is not known yet.
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        let temporary = self.temporary();
        let file = File::create_new(&temporary).map_err(|error| StoreError::io("create", &temporary, error))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        let folder = self.root.join("blobs/sha256");
        Ok(BlobWriter { file, temporary, folder, hasher: Hasher::new(), size: 0, begun: 0 })
    }

    /// Stores bytes that are in memory.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.has_blob(&digest) {
            return Ok(digest);
        }
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).map_err(|error| StoreError::io("write", &self.blob_path(&digest), error))?;
        writer.commit(Some(digest)).map(|(digest, _)| digest)
    }
}

impl BlobWriter {
    /// Puts the blob into the store: flushed to the disk, then renamed, then the rename flushed
    /// (containerd's order; without it 40 of 40 blobs were empty after a power cut).
    ///
    /// # Errors
    /// The digest is not the expected one, or the disk is full; the store is as it was before.
    pub fn commit(mut self, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| StoreError::io("write", &path, error)
        };
        self.file.flush().map_err(failed(&self.temporary))?;
        let found = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(StoreError::Digest { found, expected });
        }
        let path = self.folder.join(found.hex());
        if !path.exists() {
            self.file.get_ref().sync_data().map_err(failed(&self.temporary))?;
            fs::rename(&self.temporary, &path).map_err(failed(&path))?;
            File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed(&self.folder))?;
        }
        Ok((found, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        let in_file = self.size - self.file.buffer().len() as u64;
        if in_file - self.begun >= BATCH {
            // Where there is no such thing, the flush does it all.
            drop(descriptors::begin_writing_back(self.file.get_ref(), self.begun, in_file - self.begun));
            self.begun = in_file;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After a commit the name is gone already; a file that stays is swept with the session.
        drop(fs::remove_file(&self.temporary));
    }
}
