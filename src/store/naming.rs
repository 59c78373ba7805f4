//! Images get their names.
//!
//! Contract: a name survives a power cut with all that it stands for, or is not there; an older image of the name does not
//! give way to one that is not whole. Documents and names are written beside their places, flushed in one go with
//! everything that they stand for, and only then renamed, documents first: file systems keep changes of names in order
//! (`flush`). A flush for each of them would cost as much as several short RUN steps.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Result, Store, StoreError, Tagged};
use crate::digest::Digest;

/// A file that gets its name once it is on the disk; without it, it is removed.
struct Pending {
    temporary: PathBuf,
    path: PathBuf,
}

impl Pending {
    fn write(store: &Store, path: PathBuf, bytes: &[u8]) -> Result<Pending> {
        let pending = Pending { temporary: store.temporary(), path };
        File::create_new(&pending.temporary)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|error| StoreError::io("write", &pending.path, error))?;
        Ok(pending)
    }

    /// Gives it its name; the folder in which that is to be flushed.
    fn name(self) -> Result<PathBuf> {
        fs::rename(&self.temporary, &self.path).map_err(|error| StoreError::io("rename to", &self.path, error))?;
        Ok(self.path.parent().unwrap_or(&self.path).to_owned())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After the rename the name is gone already; a file that stays is swept with the session.
        drop(fs::remove_file(&self.temporary));
    }
}

impl Store {
    /// Gives an image a name for a platform, as [`Store::acknowledge`] does.
    pub fn tag(&self, tagged: &Tagged) -> Result<()> {
        self.acknowledge(&[], std::slice::from_ref(tagged))
    }

    /// Stores documents (blobs that are in memory), gives images that they describe names, and has everything on the disk
    /// that this process put into the store. Costs nothing where all of it was there.
    pub fn acknowledge(&self, documents: &[Vec<u8>], names: &[Tagged]) -> Result<()> {
        let mut pending: Vec<Pending> = Vec::new();
        for bytes in documents {
            let digest = Digest::of(bytes);
            let path = self.blob_path(&digest);
            if !self.has_blob(&digest) && !pending.iter().any(|other| other.path == path) {
                pending.push(Pending::write(self, path, bytes)?);
            }
        }
        for tagged in names {
            let path = self.tag_path(&tagged.name, &tagged.platform);
            let bytes = serde_json::to_vec(tagged).expect("records have string keys only");
            if fs::read(&path).is_ok_and(|before| before == bytes) {
                // A collection goes by when a name was used last; failing to note it costs a download at worst.
                let now = FileTimes::new().set_modified(SystemTime::now());
                drop(File::open(&path).and_then(|file| file.set_times(now)));
                continue;
            }
            pending.push(Pending::write(self, path, &bytes)?);
        }
        if pending.is_empty() {
            return self.settle();
        }
        // So that there is something to flush, whatever else was written.
        drop(self.unflushed.begin()?);
        let before = self.unflushed.written();
        self.settle()?;
        // Until the new names are on the disk: who finds them earlier has to flush them before an image is acknowledged. Not
        // before the marks of trees are gone, for a name must not outlive a power cut that a tree does not.
        let naming = self.unflushed.begin()?;
        let mut folders = pending.into_iter().map(Pending::name).collect::<Result<Vec<_>>>()?;
        folders.dedup();
        folders.iter().try_for_each(|folder| flush_folder(folder))?;
        drop(naming);
        self.unflushed.forget(before + 1);
        Ok(())
    }
}

/// Flushes which names there are in a folder.
pub(super) fn flush_folder(folder: &Path) -> Result<()> {
    let flushed = File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(|error| StoreError::io("flush to the disk", folder, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ImageRecord;

    fn tagged(config: &[u8]) -> Tagged {
        let image = ImageRecord::sample(Digest::of(config), Vec::new());
        Tagged { name: "x".to_owned(), platform: "linux/amd64".to_owned(), built: true, image }
    }

    #[test]
    fn documents_and_names_are_there_and_nothing_stays_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let documents = [b"config".to_vec(), b"manifest".to_vec(), b"config".to_vec()];
        store.acknowledge(&documents, &[tagged(b"config")]).unwrap();
        for bytes in &documents {
            assert_eq!(store.read_blob(&Digest::of(bytes)).unwrap().unwrap(), *bytes);
        }
        assert_eq!(store.tagged("x", "linux/amd64").unwrap().unwrap(), tagged(b"config"));
        assert_eq!(fs::read_dir(store.session()).unwrap().count(), 0);
        store.acknowledge(&documents, &[tagged(b"config")]).unwrap();
        store.tag(&tagged(b"manifest")).unwrap();
        assert_eq!(store.tagged("x", "linux/amd64").unwrap().unwrap(), tagged(b"manifest"));
    }

    #[test]
    fn a_name_that_cannot_be_given_leaves_what_it_would_stand_for_and_no_file_beside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        fs::create_dir_all(store.tag_path("x", "linux/amd64").join("no file can take its place")).unwrap();
        let error = store.acknowledge(&[b"config".to_vec()], &[tagged(b"config")]).unwrap_err();
        assert!(error.to_string().contains("rename to"), "{error}");
        assert_eq!(fs::read_dir(store.session()).unwrap().count(), 0);
        assert!(store.read_blob(&Digest::of(b"config")).unwrap().is_some());
    }
}
