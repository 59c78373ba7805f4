//! Blobs: bytes named by their digest.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Growing, LayerRecord, RecordKind, Result, Store, StoreError};
use crate::digest::{Digest, Hasher};
use crate::sys::descriptors;

/// Bytes of a blob after which the disk begins with them: the flush at the end then waits for the last ones only.
const BATCH: u64 = 16 << 20;

/// Bytes of a blob from which on it is worth being read before it is whole.
const LARGE: u64 = 16 << 20;

/// Is offered a blob that has become large, with each write until it is taken.
pub type Watch = Arc<dyn Fn(&Growing) -> Interest + Send + Sync>;

/// Whether who watches for large blobs wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// It was taken.
    Taken,
    /// It may be offered again.
    NotYet,
}

/// Writes a blob; nothing is visible in the store before [`BlobWriter::commit`].
pub struct BlobWriter {
    file: BufWriter<File>,
    temporary: PathBuf,
    folder: PathBuf,
    hasher: Hasher,
    size: u64,
    /// Up to where the disk has begun to write.
    begun: u64,
    watch: Option<Watch>,
    /// For whom it is read already.
    growing: Option<Growing>,
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
        let (hasher, watch, growing) = (Hasher::new(), None, None);
        Ok(BlobWriter { file, temporary, folder, hasher, size: 0, begun: 0, watch, growing })
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
    /// The same, offered to somebody once it is large.
    pub fn watched_by(mut self, watch: Option<Watch>) -> BlobWriter {
        self.watch = watch;
        self
    }

    /// Has those who read it know how much is there.
    fn tell(&mut self, in_file: u64) {
        if let Some(watch) = self.watch.as_ref().filter(|_| in_file >= LARGE) {
            // Without another descriptor it is read once it is whole.
            if self.growing.is_none() {
                self.growing = self.file.get_ref().try_clone().map(Growing::new).ok();
            }
            if self.growing.as_ref().is_none_or(|growing| watch(growing) == Interest::Taken) {
                self.watch = None;
            }
        }
        if let Some(growing) = &self.growing {
            growing.grow(in_file);
        }
    }

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
        self.tell(self.size);
        let found = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(StoreError::Digest { found, expected });
        }
        // The disk need not have it before it is sent to its end.
        self.growing.iter().for_each(|growing| growing.complete(found));
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
        self.tell(in_file);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        self.growing.iter().for_each(Growing::abandon);
        // After a commit the name is gone already; a file that stays is swept with the session.
        drop(fs::remove_file(&self.temporary));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Mutex;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    /// A watch that takes the blob when it is offered for the `nth` time, and where it is then.
    fn taking(nth: usize) -> (Watch, Arc<Mutex<Option<Growing>>>) {
        let (taken, offers) = (Arc::new(Mutex::new(None)), Mutex::new(0));
        let watch = {
            let taken = Arc::clone(&taken);
            move |growing: &Growing| {
                let mut offers = offers.lock().unwrap();
                *offers += 1;
                if *offers < nth {
                    return Interest::NotYet;
                }
                assert!(taken.lock().unwrap().replace(growing.clone()).is_none(), "taken once");
                Interest::Taken
            }
        };
        (Arc::new(watch), taken)
    }

    #[test]
    fn a_large_blob_is_read_while_it_is_written() {
        let (_folder, store) = store();
        let pieces: Vec<Vec<u8>> = (0..40).map(|number| vec![number; 1 << 20]).collect();
        let (watch, taken) = taking(3);
        let mut writer = store.blob_writer().unwrap().watched_by(Some(watch));
        let mut reading = None;
        for (number, piece) in pieces.iter().enumerate() {
            writer.write_all(piece).unwrap();
            assert_eq!(taken.lock().unwrap().is_some(), number >= 17, "{number}");
            if let (None, Some(growing)) = (&reading, &*taken.lock().unwrap()) {
                let mut reader = growing.open();
                let mut all = vec![0; 16 << 20];
                reader.read_exact(&mut all).unwrap();
                assert!(all == pieces[..16].concat());
                assert_eq!(growing.digest(), None);
                reading = Some(std::thread::spawn(move || reader.read_to_end(&mut all).map(|_| all)));
            }
        }
        let (digest, _) = writer.commit(None).unwrap();
        let all = pieces.concat();
        assert!(reading.unwrap().join().unwrap().unwrap() == all);
        let growing = taken.lock().unwrap().clone().unwrap();
        assert_eq!((growing.digest(), digest), (Some(digest), Digest::of(&all)));
        // What is whole can be read again, whoever abandons it.
        growing.abandon();
        let mut again = Vec::new();
        growing.open().read_to_end(&mut again).unwrap();
        assert!(again == all);
    }

    #[test]
    fn a_small_blob_is_offered_to_nobody() {
        let (_folder, store) = store();
        let (watch, taken) = taking(1);
        let mut writer = store.blob_writer().unwrap().watched_by(Some(watch));
        writer.write_all(&vec![1; 15 << 20]).unwrap();
        writer.commit(None).unwrap();
        assert!(taken.lock().unwrap().is_none());
    }

    #[test]
    fn who_reads_a_blob_that_is_not_finished_is_told_so() {
        let (_folder, store) = store();
        let (watch, taken) = taking(1);
        let mut writer = store.blob_writer().unwrap().watched_by(Some(watch));
        writer.write_all(&vec![1; 17 << 20]).unwrap();
        let growing = taken.lock().unwrap().clone().unwrap();
        let reading = std::thread::spawn({
            let mut reader = growing.open();
            move || reader.read_to_end(&mut Vec::new()).map(drop)
        });
        drop(writer);
        assert!(reading.join().unwrap().is_err());
        assert_eq!(growing.digest(), None);
    }
}
