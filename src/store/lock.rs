//! `flock` on files of the store: who makes an entry, who uses the store, whose session lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{Result, StoreError};

/// Who holds a lock that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process itself.
    Own,
    /// Another one.
    Process(u32),
    /// One that cannot be seen from here: in another container, say.
    Unseen,
}

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

/// Who holds the lock of a file, by the kernel's list of them (`proc_locks(5)`): `1: FLOCK ADVISORY WRITE PID DEVICE:INODE …`.
pub(super) fn holder(path: &Path) -> Holder {
    let (Ok(file), Ok(locks)) = (path.metadata(), std::fs::read_to_string("/proc/locks")) else {
        return Holder::Unseen;
    };
    match holders_in(&locks, file.ino()).first() {
        Some(pid) if *pid == std::process::id() => Holder::Own,
        Some(pid) => Holder::Process(*pid),
        None => Holder::Unseen,
    }
}

/// The other processes that hold the lock of a file, as far as they can be seen; a shared one has several.
pub(super) fn others(path: &Path) -> Vec<u32> {
    let (Ok(file), Ok(locks)) = (path.metadata(), std::fs::read_to_string("/proc/locks")) else { return Vec::new() };
    let mut pids = holders_in(&locks, file.ino());
    pids.retain(|pid| *pid != std::process::id());
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Of a file by its inode alone: the device there is not always the one that files tell (btrfs).
fn holders_in(locks: &str, inode: u64) -> Vec<u32> {
    let held = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Who waits is listed below who holds, with an arrow in the second place.
    let holders = held.filter(|words| words.get(1) == Some(&"FLOCK"));
    let of_file =
        |words: &Vec<&str>| words.get(5).and_then(|place| place.rsplit(':').next()) == Some(&inode.to_string());
    let pids = holders.filter(of_file).filter_map(|words| words.get(4)?.parse::<u32>().ok());
    // 0 or less is somebody in another namespace of processes.
    pids.filter(|pid| *pid > 0).collect()
}

fn is_current(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), path.metadata()) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_tells_who_holds_a_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:123 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 fe:00:123 0 EOF\n\
             2: -> FLOCK  ADVISORY  WRITE 99 fe:00:123 0 EOF\n3: FLOCK  ADVISORY  READ 12 00:1c:55 0 EOF\n\
             4: FLOCK  ADVISORY  READ 13 00:1c:55 0 EOF\n5: FLOCK  ADVISORY  READ 0 00:1c:55 0 EOF\n";
        assert_eq!(holders_in(locks, 123), [4711]);
        assert_eq!(holders_in(locks, 55), [12, 13]);
        assert_eq!(holders_in(locks, 5), Vec::<u32>::new());
    }

    #[test]
    fn who_holds_a_lock_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::exclusive(&path).unwrap();
        assert_eq!(holder(&path), Holder::Own);
        assert_eq!(others(&path), Vec::<u32>::new());
        drop(lock);
        assert_eq!(holder(&path), Holder::Unseen);
    }
}
