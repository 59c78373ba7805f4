//! Remembers the digests of files by what `stat` says of them, so that an unchanged file is not read again.
//!
//! Contract: a digest is given only for a file that cannot have changed since it was read. What cannot be told (the
//! file's times lie within two seconds of the reading: the "racy git" rule; a damaged cache file) counts as unknown.
//! Losing the cache costs time and nothing else. It knows nothing of paths or contexts.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Statx;

use crate::digest::Digest;
use crate::tree::Time;

/// What tells one state of one file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
}

impl Identity {
    pub(super) fn of(stat: &Statx) -> Identity {
        Identity {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: Time { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec },
            ctime: Time { seconds: stat.stx_ctime.tv_sec, nanoseconds: stat.stx_ctime.tv_nsec },
        }
    }

    /// Whether a reading that began at `now` may be followed by a change that leaves the times as they are: clocks of
    /// file systems tick as slowly as every two seconds (FAT), and a network server's clock may differ from ours.
    fn is_racy(&self, now: Time) -> bool {
        let newest = self.mtime.max(self.ctime);
        (newest.seconds.saturating_add(RACY_SECONDS), newest.nanoseconds) >= (now.seconds, now.nanoseconds)
    }

    fn key(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

const RACY_SECONDS: i64 = 2;
const MAGIC: &[u8; 8] = b"rbstat\x00\x01";
const ENTRY: usize = 3 * 8 + 2 * 12 + 32;
const CHECKSUM: usize = 32;
/// Above this many entries, only those that the last build used are kept: 80 bytes each, so 40 MB.
const MAX_ENTRIES: usize = 500_000;

type Entries = HashMap<(u64, u64), (Identity, Digest)>;

/// The cache and the file that it is kept in.
#[derive(Debug)]
pub(super) struct StatCache {
    file: Option<PathBuf>,
    loaded: OnceLock<Entries>,
    /// What this process used or added.
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    entries: Entries,
    changed: bool,
}

/// The time as the system clock has it.
pub(super) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { seconds: since.as_secs().try_into().unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}

impl StatCache {
    /// A cache kept in a file, read when it is first asked; without a file it lasts as long as the process.
    pub(super) fn new(file: Option<&Path>) -> StatCache {
        let file = file.map(Path::to_owned);
        StatCache { file, loaded: OnceLock::new(), current: Mutex::default() }
    }

    /// The digest of a file in exactly this state.
    pub(super) fn find(&self, identity: &Identity) -> Option<Digest> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(known, digest): &(Identity, Digest)| (known == identity).then_some(*digest);
        if let Some(digest) = current.entries.get(&identity.key()).and_then(same) {
            return Some(digest);
        }
        let digest = self.loaded().get(&identity.key()).and_then(same)?;
        current.entries.insert(identity.key(), (*identity, digest));
        Some(digest)
    }

    /// Remembers a digest; `read_at` is when the reading began.
    pub(super) fn record(&self, identity: Identity, digest: Digest, read_at: Time) {
        if identity.is_racy(read_at) {
            return;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.entries.insert(identity.key(), (identity, digest));
        current.changed = true;
    }

    /// Writes the cache to its file, if there is something new.
    pub(super) fn save(&self) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = self.file.as_deref().filter(|_| current.changed) else { return Ok(()) };
        let loaded = self.loaded();
        let mut entries = current.entries.clone();
        if entries.len() + loaded.len() <= MAX_ENTRIES {
            for (key, entry) in loaded {
                entries.entry(*key).or_insert(*entry);
            }
        }
        replace(file, &encode(&entries))?;
        current.changed = false;
        Ok(())
    }

    fn loaded(&self) -> &Entries {
        self.loaded.get_or_init(|| {
            // A cache that cannot be read is as good as an empty one; it is written anew at the end of the build.
            self.file
                .as_deref()
                .and_then(|file| fs::read(file).ok())
                .and_then(|bytes| decode(&bytes))
                .unwrap_or_default()
        })
    }
}

/// Writes a file so that a reader sees the old or the new bytes, whole.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = fs::File::create(&temporary).and_then(|mut out| out.write_all(bytes));
    let result = written.and_then(|()| fs::rename(&temporary, file));
    if result.is_err() {
        // The first error is the one to report; a left-over temporary file is garbage, not damage.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Magic, entries sorted by key (so the same cache has the same bytes), sha256 of all before it.
fn encode(entries: &Entries) -> Vec<u8> {
    let mut sorted: Vec<&(Identity, Digest)> = entries.values().collect();
    sorted.sort_unstable_by_key(|(identity, _)| identity.key());
    let mut bytes = Vec::with_capacity(MAGIC.len() + sorted.len() * ENTRY + CHECKSUM);
    bytes.extend_from_slice(MAGIC);
    for (identity, digest) in sorted {
        for number in [identity.device, identity.inode, identity.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in [identity.mtime, identity.ctime] {
            bytes.extend_from_slice(&time.seconds.to_le_bytes());
            bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(digest.as_bytes());
    }
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// What [`encode`] wrote; `None` where a single bit is different.
fn decode(bytes: &[u8]) -> Option<Entries> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if Digest::of(body).as_bytes() != checksum {
        return None;
    }
    let (entries, rest) = body.strip_prefix(MAGIC)?.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return None;
    }
    entries.iter().map(|entry| entry_of(entry).map(|(identity, digest)| (identity.key(), (identity, digest)))).collect()
}

fn entry_of(bytes: &[u8; ENTRY]) -> Option<(Identity, Digest)> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let time = |at: usize| {
        let seconds = i64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
        Some(Time { seconds, nanoseconds: u32::from_le_bytes(bytes.get(at + 8..at + 12)?.try_into().ok()?) })
    };
    let identity =
        Identity { device: number(0)?, inode: number(8)?, size: number(16)?, mtime: time(24)?, ctime: time(36)? };
    Some((identity, Digest::from_bytes(bytes.get(48..80)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64, seconds: i64) -> Identity {
        let time = Time { seconds, nanoseconds: 5 };
        Identity { device: 1, inode, size: 3, mtime: time, ctime: time }
    }

    #[test]
    fn digests_survive_saving_and_loading() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sub/cache");
        let cache = StatCache::new(Some(&file));
        cache.record(identity(1, 10), Digest::of(b"one"), now());
        cache.save().unwrap();
        let cache = StatCache::new(Some(&file));
        assert_eq!(cache.find(&identity(1, 10)), Some(Digest::of(b"one")));
        assert_eq!(cache.find(&identity(1, 11)), None, "another mtime is another state");
        assert_eq!(cache.find(&Identity { size: 4, ..identity(1, 10) }), None);
        cache.record(identity(2, 10), Digest::of(b"two"), now());
        cache.save().unwrap();
        let cache = StatCache::new(Some(&file));
        assert_eq!(cache.find(&identity(1, 10)), Some(Digest::of(b"one")), "what was known is kept");
        assert_eq!(cache.find(&identity(2, 10)), Some(Digest::of(b"two")));
    }

    #[test]
    fn a_file_changed_within_two_seconds_of_its_reading_is_not_trusted() {
        let cache = StatCache::new(None);
        let read_at = Time { seconds: 100, nanoseconds: 5 };
        for (seconds, trusted) in [(90, true), (97, true), (98, false), (100, false), (500, false)] {
            cache.record(identity(seconds as u64, seconds), Digest::of(b"x"), read_at);
            assert_eq!(cache.find(&identity(seconds as u64, seconds)).is_some(), trusted, "changed at {seconds}");
        }
        let touched = Identity { ctime: Time { seconds: 99, nanoseconds: 0 }, ..identity(7, 10) };
        cache.record(touched, Digest::of(b"x"), read_at);
        assert_eq!(cache.find(&touched), None, "an old mtime set by hand does not hide a new ctime");
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cache");
        let cache = StatCache::new(Some(&file));
        cache.record(identity(1, 10), Digest::of(b"one"), now());
        cache.save().unwrap();
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad).map(|entries| entries.len()), None, "bit flipped at {at}");
            assert!(decode(&good[..at]).is_none(), "cut at {at}");
        }
        fs::write(&file, b"junk").unwrap();
        let cache = StatCache::new(Some(&file));
        assert_eq!(cache.find(&identity(1, 10)), None);
        cache.record(identity(1, 10), Digest::of(b"one"), now());
        cache.save().unwrap();
        assert_eq!(fs::read(&file).unwrap(), good, "a damaged cache is replaced");
    }
}
