//! `flock` on files of the store: who makes an entry, who uses the store, whose session lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{Result, StoreError};

/// A held lock; given up when it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds it.
    pub(super) fn exclusive(path: &Path) -> Result<Lock> {
        Lock::take(path, File::lock)
    }

    /// Waits until nobody holds it exclusively.
    pub(super) fn shared(path: &Path) -> Result<Lock> {
        Lock::take(path, File::lock_shared)
    }

    /// Takes it if nobody holds it now.
    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Lock>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(is_current(&file, path).then_some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path, error)),
        }
    }

    /// As [`Lock::try_exclusive`], but makes no lock file where none is.
    pub(super) fn try_existing(path: &Path) -> Result<Option<Lock>> {
        if path.exists() { Lock::try_exclusive(path) } else { Ok(None) }
    }

    fn take(path: &Path, lock: fn(&File) -> std::io::Result<()>) -> Result<Lock> {
        loop {
            let file = open(path)?;
            lock(&file).map_err(|error| StoreError::io("lock", path, error))?;
            // Its holder may have removed the file before giving the lock up; then it is no longer the one others see.
            if is_current(&file, path) {
                return Ok(Lock { _file: file });
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::io("open lock", path, error))
}

fn is_current(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), path.metadata()) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}
