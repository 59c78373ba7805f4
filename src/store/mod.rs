//! The local store: content-addressed plain files, shared by any number of processes and safe against `kill -9`.
//!
//! ```text
//! ROOT/version            format of the store
//! ROOT/blobs/sha256/HEX   compressed layers, configs, manifests (an OCI layout's blobs)
//! ROOT/layers/HEX         what is known of a layer: diffID, blobs, where it can be fetched
//! ROOT/index/HEX          what is in a layer, without content
//! ROOT/trees/NAMES/HEX    a layer as a directory, for overlay; NAMES tells whose ids own it
//! ROOT/trees/NAMES/HEX-HEX the same, where it took something over from layers below it
//! ROOT/trees/NAMES/caches cache mounts
//! ROOT/trees/NAMES/SESSION.NUMBER.draft
//!                         a tree that is being made; removed in the namespace when its session is gone
//! ROOT/steps/HEX          results of steps by cache key
//! ROOT/slots/HEX          the last step at a place in a Dockerfile: what a miss is explained with; copies that were made
//!                         before, whatever their files: what a first build is told by
//! ROOT/fetched/HEX        what was downloaded from an address
//! ROOT/mounts/HEX         names of cache mounts, and by their times when they were used
//! ROOT/logs/HEX           what the command of a step wrote when it ran last
//! ROOT/refs/…             names of images
//! ROOT/stat/HEX           stat caches of contexts
//! ROOT/unflushed/BOOT/SESSION/…
//!                         which trees a process has made and not flushed
//! ROOT/locks/…            flock files: one for the store, one for each entry being made
//! ROOT/tmp/SESSION        unfinished work of one process; swept when its lock is free
//! ```
//!
//! Contract: an entry appears by `rename` after its bytes were written and checked, so a reader sees the whole entry or
//! none; a crash leaves files in `tmp` only. What was acknowledged ([`Store::settle`], [`Store::acknowledge`]) survives a power
//! cut: a blob is flushed before it has its name; trees, layer records and step records together, before any name is
//! given to an image that needs them; then the name. After a power cut nothing is believed that was not flushed
//! (`store/flush.rs` says how that is known). It knows nothing of Dockerfiles, registries or namespaces.

mod alone;
mod blobs;
mod check;
mod flush;
mod format;
mod gc;
mod growing;
mod lock;
mod naming;
mod records;
mod trees;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use alone::Alone;
pub use blobs::{BlobWriter, Interest, Watch};
pub use check::{Checked, Damage, DamageKind, Depth, StoredTree};
pub use gc::{Collected, Entry, EntryKind, Kinds, Policy, Sizes, Usage};
pub use growing::Growing;
pub use lock::{Holder, Lock};
pub use records::{
    BlobRecord, Evidence, FetchedRecord, ImageRecord, LayerRecord, MountEvidence, MountRecord, PatchRecord, RecordKind,
    RemoteBlob, RemoteOrigin, SlotRecord, StepRecord, Tagged,
};
pub use trees::{TreeDraft, TreeName};

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store belongs to somebody else.
    #[error("the store {path} belongs to user {owner}, rbuild runs as user {user}; give another one with --root")]
    ForeignOwner {
        /// The store.
        path: String,
        /// Its owner.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others may write to the store.
    #[error(
        "the store {path} can be written by other users (mode {mode:o}); run chmod 0700 on it or give another one with --root"
    )]
    OpenToOthers {
        /// The store.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// There are other files in the directory, and no store.
    #[error(
        "{path} is no store of rbuild and holds other files ({found}); give an empty or a new directory with --root"
    )]
    NoStore {
        /// The directory.
        path: String,
        /// One of the files.
        found: String,
    },
    /// The file that says the format says none.
    #[error(
        "{path}/version says {found:?}, which no rbuild writes; give another directory with --root, or remove this one if it is a store"
    )]
    UnknownFormat {
        /// The directory.
        path: String,
        /// What stands there.
        found: String,
    },
    /// A newer rbuild made the store.
    #[error(
        "the store {path} has format {found}, this rbuild reads formats up to {known}; use a newer rbuild or another --root"
    )]
    Newer {
        /// The store.
        path: String,
        /// Its format.
        found: String,
        /// Ours.
        known: u32,
    },
    /// The store is on a file system that several machines share.
    #[error(
        "the store {path} is on a network file system, where locks cannot be trusted; give a local one with --root"
    )]
    Network {
        /// The store.
        path: String,
    },
    /// What was written is not what was promised.
    #[error("content has digest {found}, expected {expected}")]
    Digest {
        /// What came.
        found: crate::digest::Digest,
        /// What should have come.
        expected: crate::digest::Digest,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io { action, path: path.display().to_string(), source }
    }
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    session: PathBuf,
    /// Keeps the session's folder from being swept; given up when the process ends, however it ends.
    _session_lock: Lock,
    /// Shared while we may be using entries; a collection takes it exclusively.
    _use_lock: Lock,
    unflushed: flush::Unflushed,
    /// Records that could not be read and count as missing.
    damaged: Mutex<BTreeSet<PathBuf>>,
    counter: AtomicU64,
}

const FOLDERS: &[&str] = &[
    "blobs/sha256",
    "layers",
    "index",
    "trees",
    "steps",
    "slots",
    "fetched",
    "mounts",
    "logs",
    "refs",
    "stat",
    "locks",
    "tmp",
    "unflushed",
];

/// The folders of records: small files that are replaced whole.
const RECORD_FOLDERS: &[&str] = &["layers", "index", "steps", "slots", "fetched", "mounts", "refs"];

impl Store {
    /// Opens the store in a directory, making it where it is not there, and sweeps what dead processes left.
    ///
    /// # Errors
    /// The directory belongs to somebody else, is open to others, is on a network file system, or is of a newer format.
    pub fn open(root: &Path) -> Result<Store> {
        Store::prepare(root)?;
        Store::open_under(root, Lock::shared(&root.join("locks/store"))?)
    }

    /// Makes sure that there is a store that may be used.
    fn prepare(root: &Path) -> Result<()> {
        make_private(root)?;
        check_owner(root)?;
        check_local(root)?;
        format::check(root)?;
        for folder in FOLDERS {
            let path = root.join(folder);
            if !path.is_dir() {
                make_private(&path)?;
            }
        }
        Ok(())
    }

    /// Opens a store that is there, under a lock that is held.
    fn open_under(root: &Path, use_lock: Lock) -> Result<Store> {
        sweep(root);
        let (session, session_lock) = new_session(root)?;
        let unflushed = flush::Unflushed::new(root, &session.file_name().unwrap_or_default().to_string_lossy());
        let store = Store {
            root: root.to_owned(),
            session,
            _session_lock: session_lock,
            _use_lock: use_lock,
            unflushed,
            damaged: Mutex::default(),
            counter: AtomicU64::new(0),
        };
        flush::recover(&store)?;
        Ok(store)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// This process's own folder.
    pub fn session(&self) -> &Path {
        &self.session
    }

    /// A name for a new file or directory in this process's own folder, on the store's file system.
    pub fn temporary(&self) -> PathBuf {
        self.session.join(self.counter.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// The records that this process found damaged. They count as missing, so a build goes on; somebody should be told.
    pub fn damaged_records(&self) -> Vec<PathBuf> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The file that keeps what a step's command writes.
    pub fn log_path(&self, key: &crate::digest::Digest) -> PathBuf {
        self.root.join("logs").join(key.hex())
    }

    /// The file of a context's stat cache.
    pub fn stat_cache(&self, name: &crate::digest::Digest) -> PathBuf {
        self.root.join("stat").join(name.hex())
    }

    /// How many bytes may still be written to the disk; none where it has no room for another file.
    pub fn room(&self) -> Result<u64> {
        let found =
            rustix::fs::statvfs(&self.root).map_err(|error| StoreError::io("look at", &self.root, error.into()))?;
        // File systems without a fixed number of files say 0 of 0.
        let has_files = found.f_files == 0 || found.f_favail > 0;
        Ok(if has_files { found.f_bavail.saturating_mul(found.f_frsize) } else { 0 })
    }

    /// Takes the lock of an entry that is being made, waiting for whoever makes it now.
    pub fn lock(&self, kind: &str, name: &crate::digest::Digest) -> Result<Lock> {
        Lock::exclusive(&self.root.join("locks").join(format!("{kind}-{}", name.hex())))
    }

    /// As [`Store::lock`], but does not wait: `None` where somebody holds it.
    pub fn try_lock(&self, kind: &str, name: &crate::digest::Digest) -> Result<Option<Lock>> {
        Lock::try_exclusive(&self.root.join("locks").join(format!("{kind}-{}", name.hex())))
    }

    /// Who holds a lock now.
    pub fn holder(&self, kind: &str, name: &crate::digest::Digest) -> Holder {
        lock::holder(&self.root.join("locks").join(format!("{kind}-{}", name.hex())))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.session).is_ok() {
            drop(fs::remove_file(self.session.with_extension("lock")));
        }
    }
}

/// Removes sessions whose process is gone, and locks of sessions that are gone themselves. Nothing here is ever needed
/// again, so a failure only leaves garbage for the next run; trees with foreign owners are removed by the executor, which
/// can.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root.join("tmp")) else { return };
    for entry in entries.flatten().filter(|entry| is_session(&entry.file_name())) {
        let lock_path = entry.path().with_extension("lock");
        let session = lock_path.with_extension("");
        // Who makes a session takes its lock first and then makes the folder, so a lock that can be had belongs to nobody
        // who lives; it is removed while it is held, so nobody can have taken the name anew.
        if let Ok(Some(_lock)) = Lock::try_existing(&lock_path) {
            let removed = fs::remove_dir_all(&session);
            if removed.is_ok() || !session.exists() {
                drop(fs::remove_file(&lock_path));
            }
        } else if !lock_path.exists() {
            // A process that was killed between removing the two.
            drop(fs::remove_dir_all(&session));
        }
    }
}

/// Whether a name is one that [`new_session`] gives, or of its lock.
fn is_session(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let mut parts = name.strip_suffix(".lock").unwrap_or(name).split('-');
    let mut number = |radix| parts.next().is_some_and(|part| u64::from_str_radix(part, radix).is_ok());
    number(10) && number(16) && number(10) && parts.next().is_none()
}

fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| StoreError::io("create directory", path, error))
}

/// Refuses a store that another user could have filled (catalogue row P5).
fn check_owner(root: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(root).map_err(|error| StoreError::io("look at", root, error))?;
    let metadata = if metadata.is_symlink() {
        fs::metadata(root).map_err(|error| StoreError::io("look at", root, error))?
    } else {
        metadata
    };
    let user = rustix::process::geteuid().as_raw();
    let path = root.display().to_string();
    if metadata.uid() != user {
        return Err(StoreError::ForeignOwner { path, owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StoreError::OpenToOthers { path, mode });
    }
    Ok(())
}

/// Refuses file systems on which `flock` does not hold between machines (catalogue row F12).
fn check_local(root: &Path) -> Result<()> {
    let found = rustix::fs::statfs(root).map_err(|error| StoreError::io("look at", root, error.into()))?;
    #[allow(clippy::unnecessary_cast, reason = "f_type has another width on other architectures")]
    let kind = found.f_type as i64 & 0xffff_ffff;
    refuse_network(root, kind)
}

/// `kind` is the file system's magic number (`statfs(2)`).
fn refuse_network(root: &Path, kind: i64) -> Result<()> {
    const NETWORK: &[i64] =
        &[0x6969 /* NFS */, 0xff53_4d42 /* CIFS */, 0xfe53_4d42 /* SMB2 */, 0x0102_1997 /* 9P */];
    match NETWORK.contains(&kind) {
        true => Err(StoreError::Network { path: root.display().to_string() }),
        false => Ok(()),
    }
}

fn new_session(root: &Path) -> Result<(PathBuf, Lock)> {
    let folder = root.join("tmp");
    // Process ids come again, in a container soon; what a dead process left must never pass for ours.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    for attempt in 0u32.. {
        let path = folder.join(format!("{}-{now:x}-{attempt}", std::process::id()));
        let lock_path = path.with_extension("lock");
        let Some(lock) = Lock::try_exclusive(&lock_path)? else { continue };
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok((path, lock)),
            // A dead process of the same number and time left it and it could not be swept.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io("create directory", &path, error)),
        }
    }
    unreachable!("there are more names than directories")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_store_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        drop(Store::open(&root).unwrap());
        fs::set_permissions(&root, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(Store::open(&root).unwrap_err().to_string().contains("other users"));
    }

    #[test]
    fn a_store_that_several_machines_share_is_refused() {
        let refused = refuse_network(Path::new("/mnt/nfs"), 0x6969).unwrap_err().to_string();
        assert!(refused.contains("/mnt/nfs is on a network file system") && refused.contains("--root"), "{refused}");
        refuse_network(Path::new("/var"), 0xef53).unwrap();
    }

    #[test]
    fn sessions_of_dead_processes_are_swept_and_live_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let first = Store::open(&root).unwrap();
        let kept = first.temporary();
        fs::write(&kept, "x").unwrap();
        fs::create_dir(root.join("tmp/999-0-0")).unwrap();
        fs::write(root.join("tmp/999-0-0.lock"), "").unwrap();
        fs::create_dir(root.join("tmp/of-somebody-else")).unwrap();
        let second = Store::open(&root).unwrap();
        assert!(kept.exists());
        assert!(!root.join("tmp/999-0-0").exists());
        drop((first, second));
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 1, "what no session has made stays");
    }

    #[test]
    fn a_blob_of_another_digest_is_never_stored() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let mut writer = store.blob_writer().unwrap();
        io::Write::write_all(&mut writer, b"abc").unwrap();
        assert!(writer.commit(Some(Digest::of(b"abd"))).is_err());
        assert!(!store.has_blob(&Digest::of(b"abc")) && !store.has_blob(&Digest::of(b"abd")));
        let digest = store.put_blob(b"abc").unwrap();
        assert_eq!(fs::read(store.blob_path(&digest)).unwrap(), b"abc");
    }
}
