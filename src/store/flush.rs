//! What a power cut may take: nothing that was acknowledged, and never the truth of what stays.
//!
//! Trees and records are not flushed one by one: a tree has thousands of files, and twenty records cost 25–140 ms with an
//! `fsync` each and 1–10 ms with one `syncfs` (ext4, a busy disk); even a single record is no cheaper alone. So everything
//! is flushed once, by [`Store::settle`], before a build is acknowledged and before a name is given. What others write to
//! the same file system at that time is flushed with it, which is the price.
//!
//! Between the writing and that flush, a process that dies with the machine leaves trees whose files may be empty. It says
//! so beforehand, by a folder of empty files, each named by a tree:
//!
//! ```text
//! ROOT/unflushed/BOOT/SESSION/MAPPING@TREE
//! ```
//!
//! Journaling file systems (ext4, xfs, btrfs, f2fs) keep changes of names in order, so a tree that is there after a power
//! cut has its mark. Marks of another boot mean that the machine went down before the flush: the first process to open the
//! store takes those trees out of use, and removes records that were cut short. Marks of this boot mean at worst that a
//! process was killed; the kernel still has all that it wrote, and whoever settles next flushes it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{DamageKind, Depth, Lock, Result, Store, StoreError, trees};

/// What this process has written and not flushed.
#[derive(Debug)]
pub(super) struct Unflushed {
    /// This process's folder of marks; there while there is something to flush.
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Writes that have begun and not ended.
    writing: usize,
    /// Writes that have ended, ever.
    written: u64,
    /// How many of them are on the disk.
    flushed: u64,
    /// Whether the folder was made.
    announced: bool,
}

/// A write that has begun; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writing<'a>(&'a Unflushed);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writing -= 1;
        state.written += 1;
    }
}

impl Unflushed {
    pub(super) fn new(root: &Path, session: &str) -> Unflushed {
        let folder = root.join("unflushed").join(boot()).join(session);
        Unflushed { folder, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a write of records.
    pub(super) fn begin(&self) -> Result<Writing<'_>> {
        let mut state = self.state();
        if !state.announced {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.folder)
                .map_err(|error| StoreError::io("create directory", &self.folder, error))?;
            state.announced = true;
        }
        state.writing += 1;
        drop(state);
        Ok(Writing(self))
    }

    /// Announces that a tree will get its name.
    pub(super) fn begin_tree(&self, mapping: &str, name: &str) -> Result<Writing<'_>> {
        let writing = self.begin()?;
        let mark = self.folder.join(format!("{mapping}@{name}"));
        File::create(&mark).map_err(|error| StoreError::io("create", &mark, error))?;
        Ok(writing)
    }

    /// How many writes have ended.
    pub(super) fn written(&self) -> u64 {
        self.state().written
    }

    /// Notes that so many writes are on the disk, and forgets their marks where there were no others.
    pub(super) fn forget(&self, written: u64) {
        let mut state = self.state();
        state.flushed = state.flushed.max(written);
        if state.announced && state.writing == 0 && state.written == written && fs::remove_dir_all(&self.folder).is_ok()
        {
            state.announced = false;
        }
    }
}

impl Store {
    /// Whether this process has put anything into the store.
    pub fn has_grown(&self) -> bool {
        self.unflushed.state().written > 0
    }

    /// Has everything on the disk that this process put into the store or may have found there: what is acknowledged
    /// after this survives a power cut. Costs nothing where nothing was written.
    pub fn settle(&self) -> Result<()> {
        let (written, own) = {
            let state = self.unflushed.state();
            (state.written, state.flushed < state.written)
        };
        let own_folder = &self.unflushed.folder;
        let others: Vec<PathBuf> = own_folder.parent().map(list).unwrap_or_default();
        let others: Vec<PathBuf> = others.into_iter().filter(|folder| folder != own_folder).collect();
        if !own && others.is_empty() {
            return Ok(());
        }
        // Who is dead now writes nothing any more; of who lives, nobody knows what comes after the flush.
        let dead: Vec<PathBuf> = others.into_iter().filter(|folder| !is_alive(&self.root, folder)).collect();
        flush(&self.root)?;
        for folder in dead {
            // A mark that stays costs another flush.
            drop(fs::remove_dir_all(folder));
        }
        self.unflushed.forget(written);
        Ok(())
    }
}

/// Work that goes on while what was written before it goes to the disk; it ends when this is dropped.
#[derive(Debug)]
pub struct Ahead {
    /// Nothing is sent: its end is what the other side waits for.
    _going_on: mpsc::Sender<()>,
}

/// Work of less than this is not worth a flush of its own.
const MOMENT: Duration = Duration::from_millis(100);

impl Store {
    /// Begins to flush what is written, beside work that only reads it, so that [`Store::settle`] has less to wait for
    /// later. What fails here fails there again, and is said there.
    pub fn flush_ahead(&self) -> Ahead {
        let (going_on, over) = mpsc::channel();
        let root = self.root.clone();
        let flush_unless_over = move || {
            if over.recv_timeout(MOMENT) == Err(mpsc::RecvTimeoutError::Timeout) {
                drop(flush(&root));
            }
        };
        // Without a thread all of it is done by `settle`.
        drop(std::thread::Builder::new().name("flush".to_owned()).spawn(flush_unless_over));
        Ahead { _going_on: going_on }
    }
}

/// Flushes the file system that the store is on.
pub(super) fn flush(root: &Path) -> Result<()> {
    let failed = |error: io::Error| StoreError::io("flush to the disk", root, error);
    let folder = File::open(root).map_err(failed)?;
    rustix::fs::syncfs(&folder).map_err(|error| failed(error.into()))
}

fn is_alive(root: &Path, folder: &Path) -> bool {
    folder.file_name().is_some_and(|session| root.join("tmp").join(session).exists())
}

fn list(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What names this run of the kernel; where it cannot be told, processes that died count as if the machine had.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    if id.is_empty() { UNKNOWN.to_owned() } else { id }
}

const UNKNOWN: &str = "unknown";

/// Takes out of use what was not flushed before the machine went down, and the results of steps that are gone with it.
/// Called before anything of the store is used, and after the sessions of the dead were swept.
pub(super) fn recover(store: &Store) -> Result<()> {
    let root = &store.root;
    if lost_sessions(root).is_empty() {
        return Ok(());
    }
    let _lock = Lock::exclusive(&root.join("locks/recovery"))?;
    let sessions = lost_sessions(root);
    for mark in sessions.iter().flat_map(|session| list(session)) {
        let name = mark.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('@'));
        if let Some((mapping, tree)) = name {
            trees::distrust(&root.join("trees").join(mapping), tree)?;
        }
    }
    remove_empty(root)?;
    let mut damage = store.check(Depth::Names)?.damage;
    // Names were given after a flush: if an image is damaged, the power is not why, and somebody should look at it.
    let is_of_image = |kind| {
        matches!(
            kind,
            DamageKind::ImageWithoutConfig
                | DamageKind::ImageWithoutLayer
                | DamageKind::ImageWithoutManifest
                | DamageKind::ImageWithoutAttestation
        )
    };
    damage.retain(|one| !is_of_image(one.kind));
    store.repair(&damage)?;
    for session in sessions {
        fs::remove_dir_all(&session).map_err(|error| StoreError::io("remove", &session, error))?;
    }
    for boot in list(&root.join("unflushed")) {
        // Fails where somebody is in it.
        drop(fs::remove_dir(boot));
    }
    Ok(())
}

/// The marks of processes that did not flush what they wrote before the machine went down.
fn lost_sessions(root: &Path) -> Vec<PathBuf> {
    let current = boot();
    let mut lost = Vec::new();
    for boot in list(&root.join("unflushed")) {
        let is_other = boot.file_name().and_then(|name| name.to_str()) != Some(&current);
        let is_lost = |session: &PathBuf| is_other || (current == UNKNOWN && !is_alive(root, session));
        lost.extend(list(&boot).into_iter().filter(is_lost));
    }
    lost
}

/// Removes records of which a power cut left the name, or zeroes. What they said is made anew; what they name is found
/// again by its own name.
fn remove_empty(root: &Path) -> Result<()> {
    let folders: BTreeSet<&str> = super::RECORD_FOLDERS.iter().copied().collect();
    for path in folders.into_iter().flat_map(|folder| list(&root.join(folder))) {
        if fs::read(&path).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0)) {
            fs::remove_file(&path).map_err(|error| StoreError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

/// A number that no earlier call in this boot or another has given, for names.
pub(super) fn moment() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::{RecordKind, StepRecord, TreeName};

    fn owner() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    fn seal(store: &Store, name: &TreeName) -> PathBuf {
        let draft = store.tree_draft("1-1", owner()).unwrap();
        store.seal_tree("1-1", name, draft.path()).unwrap()
    }

    fn step() -> StepRecord {
        StepRecord { layer: Digest::of(b"layer"), title: String::new(), created: String::new() }
    }

    /// As if the machine had gone down: the marks are of another boot then.
    fn reboot(root: &Path) {
        for folder in list(&root.join("unflushed")) {
            fs::rename(&folder, folder.with_file_name("0123")).unwrap();
        }
    }

    #[test]
    fn a_tree_that_was_not_flushed_is_not_used_after_a_reboot_and_one_that_was_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = Store::open(&root).unwrap();
        let [flushed, lost] = [b"a", b"b"].map(|name| TreeName::of(&Digest::of(name)));
        seal(&store, &flushed);
        seal(&store, &TreeName::of(&step().layer));
        store.update_layer(&step().layer, |record| record.size = 1).unwrap();
        store.settle().unwrap();
        assert!(list(store.unflushed.folder.parent().unwrap()).is_empty(), "what is flushed keeps its marks");
        seal(&store, &lost);
        let [whole, cut] = [Digest::of(b"whole"), Digest::of(b"cut")];
        store.write_record(RecordKind::Step, &whole, &step()).unwrap();
        store.write_record(RecordKind::Step, &cut, &step()).unwrap();
        let gone = StepRecord { layer: Digest::of(b"b"), ..step() };
        store.write_record(RecordKind::Step, &gone.layer, &gone).unwrap();
        fs::write(root.join("steps").join(cut.hex()), "").unwrap();
        drop(store);
        reboot(&root);
        let store = Store::open(&root).unwrap();
        assert!(store.tree("1-1", &flushed).is_some() && store.tree("1-1", &lost).is_none());
        assert_eq!(store.abandoned_drafts("1-1").unwrap().len(), 1);
        assert!(root.join("steps").join(whole.hex()).exists() && !root.join("steps").join(cut.hex()).exists());
        assert!(!root.join("steps").join(gone.layer.hex()).exists(), "a step stays whose result is lost");
        assert!(list(&root.join("unflushed")).is_empty());
        // It can be made again.
        seal(&store, &lost);
        assert!(store.tree("1-1", &lost).is_some());
    }

    #[test]
    fn what_a_killed_process_wrote_is_kept_and_flushed_by_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = Store::open(&root).unwrap();
        let name = TreeName::of(&Digest::of(b"a"));
        seal(&store, &name);
        let mark = store.unflushed.folder.clone();
        drop(store);
        let store = Store::open(&root).unwrap();
        assert!(mark.exists() && store.tree("1-1", &name).is_some());
        store.settle().unwrap();
        assert!(!mark.exists());
    }

    #[test]
    fn marks_stay_while_others_still_write() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let writing = store.unflushed.begin().unwrap();
        store.write_record(RecordKind::Step, &Digest::of(b"a"), &step()).unwrap();
        store.settle().unwrap();
        assert!(store.unflushed.folder.exists(), "a write that goes on is not flushed");
        drop(writing);
        store.settle().unwrap();
        assert!(!store.unflushed.folder.exists());
    }
}
