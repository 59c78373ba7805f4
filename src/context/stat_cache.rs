//! Remembers the digests of files by what `stat` says of them, so that an unchanged file is not read again.
//!
//! Contract: a digest is given only for a file that cannot have changed since it was read. What cannot be told (the
//! file's times lie within two seconds of the reading: the "racy git" rule; a damaged cache file) counts as unknown.
//! Losing the cache costs time and nothing else. It knows nothing of paths or contexts.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Builder;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Statx;

use crate::digest::{Digest, Hasher};
use crate::tree::Time;

/// What tells one state of one file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub(super) fn is_racy(&self, now: Time) -> bool {
        let newest = self.mtime.max(self.ctime);
        (newest.seconds.saturating_add(RACY_SECONDS), newest.nanoseconds) >= (now.seconds, now.nanoseconds)
    }

    fn key(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

const RACY_SECONDS: i64 = 2;
const MAGIC: &[u8; 8] = b"rbstat\x00\x02";
const ENTRY: usize = 3 * 8 + 2 * 12 + 32 + 1;
const CHECKSUM: usize = 32;
/// Bytes that have a checksum of their own, so that several threads can read and check a file.
const PART: usize = 1 << 20;
/// Threads that read a file.
const READERS: usize = 4;
/// Above this many entries, only those that the last build used are kept: 81 bytes each, so 40 MB.
const MAX_ENTRIES: usize = 500_000;

/// What is remembered of a file in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// sha256 of its content.
    pub(super) digest: Digest,
    /// It has no extended attribute that a layer carries. (Setting one changes the ctime, so this is as certain as the
    /// digest, and to ask the kernel costs as much as `stat` and the directory together.)
    pub(super) plain: bool,
}

/// The cache and the file that it is kept in.
#[derive(Debug)]
pub(super) struct StatCache {
    file: Option<PathBuf>,
    loaded: OnceLock<Loaded>,
    /// What this process learnt.
    added: Mutex<Added>,
    /// Hashes of the states in which this process saw files without extended attributes. A context has a hundred thousand
    /// files and more, so the states themselves are not kept; that two of them share 64 bits is not to be expected.
    plain: Mutex<HashSet<u64>>,
    hashing: RandomState,
}

/// The file as it was written: the entries are found in its bytes, which costs nothing to build and a third of the
/// memory of a map.
#[derive(Debug, Default)]
struct Loaded {
    bytes: Vec<u8>,
    /// A bit for each entry that was asked for.
    used: Vec<AtomicU64>,
    /// The key of each [`STRIDE`]th entry: a search by halves in all of them would miss the processor's caches at each step.
    landmarks: Vec<(u64, u64)>,
}

/// Entries from one landmark to the next.
const STRIDE: usize = 64;

impl Loaded {
    /// What [`StatCache::save`] wrote; `None` where a single bit is different.
    fn read(path: &Path) -> Option<Loaded> {
        let file = fs::File::open(path).ok()?;
        let length = file.metadata().ok()?.len().try_into().ok()?;
        // A damaged one may be longer than there is memory.
        Vec::<u8>::new().try_reserve_exact(length).ok()?;
        let mut bytes = vec![0; length];
        let parts = bytes.len().div_ceil(PART + CHECKSUM);
        let body = bytes.len().checked_sub(parts * CHECKSUM).filter(|body| body.div_ceil(PART) == parts)?;
        let readers = std::thread::available_parallelism().map_or(1, usize::from).min(READERS);
        let (content, checksums) = bytes.split_at_mut(body);
        file.read_exact_at(checksums, body as u64).ok()?;
        let share = parts.div_ceil(readers).max(1);
        let shares = content.chunks_mut(share * PART).zip(checksums.chunks(share * CHECKSUM));
        let is_whole = std::thread::scope(|scope| {
            let file = &file;
            let read = |(number, (content, checksums)): (usize, (&mut [u8], &[u8]))| {
                file.read_exact_at(content, (number * share * PART) as u64).is_ok() && are_whole(content, checksums)
            };
            let mut shares = shares.enumerate();
            let own = shares.next();
            let start = |share| Builder::new().spawn_scoped(scope, move || read(share));
            let others: io::Result<Vec<_>> = shares.map(start).collect();
            let own = own.is_some_and(read);
            // Where no thread can be started, the cache counts as empty, too.
            others
                .is_ok_and(|others| others.into_iter().fold(own, |whole, other| other.join().unwrap_or(false) && whole))
        });
        bytes.truncate(body);
        let (entries, rest) = bytes.strip_prefix(MAGIC).filter(|_| is_whole)?.as_chunks::<ENTRY>();
        if !rest.is_empty() || !entries.is_sorted_by(|one, other| key_of(one) < key_of(other)) {
            return None;
        }
        let used = (0..entries.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let landmarks = entries.iter().step_by(STRIDE).map(key_of).collect();
        Some(Loaded { bytes, used, landmarks })
    }

    /// Where the entry of a key is.
    fn place_of(&self, key: (u64, u64)) -> Option<usize> {
        let behind = self.landmarks.partition_point(|landmark| *landmark <= key);
        let start = behind.checked_sub(1)? * STRIDE;
        let entries = &self.entries()[start..];
        let found = entries[..entries.len().min(STRIDE)].binary_search_by_key(&key, key_of).ok()?;
        Some(start + found)
    }

    fn entries(&self) -> &[[u8; ENTRY]] {
        self.bytes.get(MAGIC.len()..).unwrap_or_default().as_chunks().0
    }

    fn find(&self, identity: &Identity) -> Option<Known> {
        let entries = self.entries();
        let at = self.place_of(identity.key())?;
        let (state, known) = entry_of(&entries[at]);
        self.used[at / 64].fetch_or(1 << (at % 64), Ordering::Relaxed);
        (state == *identity).then_some(known)
    }

    fn is_used(&self, at: usize) -> bool {
        self.used[at / 64].load(Ordering::Relaxed) & (1 << (at % 64)) != 0
    }
}

/// What is new: of a hundred thousand files, as in the file, which is half the memory of a map of them.
#[derive(Debug, Default)]
struct Added {
    entries: Vec<[u8; ENTRY]>,
    /// Places of entries by hashes of their keys. That two of them share 64 bits is not to be expected; then one of them is
    /// not remembered.
    places: HashMap<u64, u32>,
}

impl Added {
    fn find(&self, hash: u64, identity: &Identity) -> Option<Known> {
        let place = usize::try_from(*self.places.get(&hash)?).ok()?;
        let (state, known) = entry_of(self.entries.get(place)?);
        (state == *identity).then_some(known)
    }

    fn insert(&mut self, hash: u64, entry: [u8; ENTRY]) {
        // Beyond so many the rest is not remembered.
        let Ok(next) = u32::try_from(self.entries.len()) else { return };
        match self.places.entry(hash) {
            Entry::Occupied(place) => self.entries[*place.get() as usize] = entry,
            Entry::Vacant(place) => {
                place.insert(next);
                self.entries.push(entry);
            }
        }
    }
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
        let (added, plain) = (Mutex::default(), Mutex::default());
        StatCache { file, loaded: OnceLock::new(), added, plain, hashing: RandomState::new() }
    }

    /// What is known of a file in exactly this state.
    pub(super) fn find(&self, identity: &Identity) -> Option<Known> {
        self.loaded().find(identity).or_else(|| {
            let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
            added.find(self.hashing.hash_one(identity.key()), identity)
        })
    }

    /// Notes that a file in this state has no extended attributes.
    pub(super) fn saw_plain(&self, identity: &Identity) {
        let hash = self.hashing.hash_one(identity);
        self.plain.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }

    /// Whether a file in exactly this state was seen to have no extended attributes.
    pub(super) fn is_plain(&self, identity: &Identity) -> bool {
        let hash = self.hashing.hash_one(identity);
        self.plain.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    /// Remembers a file; `read_at` is when the reading began.
    pub(super) fn record(&self, identity: Identity, known: Known, read_at: Time) {
        if identity.is_racy(read_at) {
            return;
        }
        let hash = self.hashing.hash_one(identity.key());
        self.added.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, encode(&identity, &known));
    }

    /// Writes the cache to its file, if there is something new.
    pub(super) fn save(&self) -> io::Result<()> {
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = self.file.as_deref().filter(|_| !added.entries.is_empty()) else { return Ok(()) };
        let mut sorted: Vec<&[u8; ENTRY]> = added.entries.iter().collect();
        sorted.sort_unstable_by_key(|entry| key_of(entry));
        let loaded = self.loaded();
        let keep_unused = sorted.len() + loaded.entries().len() <= MAX_ENTRIES;
        let kept = loaded.entries().iter().enumerate().filter(|(at, _)| keep_unused || loaded.is_used(*at));
        replace(file, |out| write_merged(out, kept.map(|(_, entry)| entry), &sorted))
    }

    fn loaded(&self) -> &Loaded {
        self.loaded.get_or_init(|| {
            // A cache that cannot be read is as good as an empty one; it is written anew at the end of the build.
            self.file.as_deref().and_then(Loaded::read).unwrap_or_default()
        })
    }
}

/// Writes a file so that a reader sees the old or the new bytes, whole.
fn replace(file: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = fs::File::create(&temporary).map(BufWriter::new).and_then(|mut out| {
        write(&mut out)?;
        out.flush()
    });
    let result = written.and_then(|()| fs::rename(&temporary, file));
    if result.is_err() {
        // The first error is the one to report; a left-over temporary file is garbage, not damage.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Whether the parts of a file are those of these checksums.
fn are_whole(content: &[u8], checksums: &[u8]) -> bool {
    let parts = content.chunks(PART).map(Digest::of);
    parts.eq(checksums.as_chunks().0.iter().map(|checksum| Digest::from_bytes(*checksum)))
}

/// Magic, entries sorted by key (so the same cache has the same bytes; of two with one key the new one), and the sha256
/// of each [`PART`] of that.
fn write_merged<'a>(
    out: &mut dyn Write,
    old: impl Iterator<Item = &'a [u8; ENTRY]>,
    new: &[&[u8; ENTRY]],
) -> io::Result<()> {
    let mut parts = Parts::new(out);
    parts.put(MAGIC)?;
    let mut new = new.iter().peekable();
    for entry in old {
        while let Some(new) = new.next_if(|new| key_of(new) < key_of(entry)) {
            parts.put(&new[..])?;
        }
        if new.peek().is_none_or(|new| key_of(new) != key_of(entry)) {
            parts.put(entry)?;
        }
    }
    for entry in new {
        parts.put(&entry[..])?;
    }
    parts.finish()
}

/// Writes bytes, and then the checksum of each part of them.
struct Parts<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
    /// Bytes of the part that is begun; never all of them.
    filled: usize,
    checksums: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn new(out: &'a mut dyn Write) -> Parts<'a> {
        Parts { out, hasher: Hasher::new(), filled: 0, checksums: Vec::new() }
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        while self.filled + bytes.len() >= PART {
            let (last, rest) = bytes.split_at(PART - self.filled);
            self.hasher.update(last);
            self.end_part();
            bytes = rest;
        }
        self.hasher.update(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    fn end_part(&mut self) {
        self.checksums.extend_from_slice(std::mem::take(&mut self.hasher).finish().as_bytes());
        self.filled = 0;
    }

    fn finish(mut self) -> io::Result<()> {
        if self.filled > 0 {
            self.end_part();
        }
        self.out.write_all(&self.checksums)
    }
}

fn encode(identity: &Identity, known: &Known) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    let (mtime, ctime) = (identity.mtime, identity.ctime);
    let parts: [&[u8]; 9] = [
        &identity.device.to_le_bytes(),
        &identity.inode.to_le_bytes(),
        &identity.size.to_le_bytes(),
        &mtime.seconds.to_le_bytes(),
        &mtime.nanoseconds.to_le_bytes(),
        &ctime.seconds.to_le_bytes(),
        &ctime.nanoseconds.to_le_bytes(),
        known.digest.as_bytes(),
        &[u8::from(known.plain)],
    ];
    let mut at = 0;
    for part in parts {
        entry[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    entry
}

/// The bytes at a place of an entry that is inside it.
fn field<const N: usize>(entry: &[u8; ENTRY], at: usize) -> [u8; N] {
    std::array::from_fn(|index| entry[at + index])
}

fn key_of(entry: &[u8; ENTRY]) -> (u64, u64) {
    (u64::from_le_bytes(field(entry, 0)), u64::from_le_bytes(field(entry, 8)))
}

fn entry_of(entry: &[u8; ENTRY]) -> (Identity, Known) {
    let time = |at: usize| Time {
        seconds: i64::from_le_bytes(field(entry, at)),
        nanoseconds: u32::from_le_bytes(field(entry, at + 8)),
    };
    let (device, inode) = key_of(entry);
    let size = u64::from_le_bytes(field(entry, 16));
    let identity = Identity { device, inode, size, mtime: time(24), ctime: time(36) };
    let digest = Digest::from_bytes(field(entry, 48));
    (identity, Known { digest, plain: entry[80] == 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64, seconds: i64) -> Identity {
        let time = Time { seconds, nanoseconds: 5 };
        Identity { device: 1, inode, size: 3, mtime: time, ctime: time }
    }

    fn known(content: &[u8]) -> Known {
        Known { digest: Digest::of(content), plain: content != b"two" }
    }

    #[test]
    fn digests_survive_saving_and_loading() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sub/cache");
        let cache = StatCache::new(Some(&file));
        cache.record(identity(1, 10), known(b"one"), now());
        cache.save().unwrap();
        let cache = StatCache::new(Some(&file));
        assert_eq!(cache.find(&identity(1, 10)), Some(known(b"one")));
        assert_eq!(cache.find(&identity(1, 11)), None, "another mtime is another state");
        assert_eq!(cache.find(&Identity { size: 4, ..identity(1, 10) }), None);
        cache.record(identity(2, 10), known(b"two"), now());
        cache.save().unwrap();
        let cache = StatCache::new(Some(&file));
        assert_eq!(cache.find(&identity(1, 10)), Some(known(b"one")), "what was known is kept");
        assert_eq!(cache.find(&identity(2, 10)), Some(known(b"two")));
        cache.record(identity(1, 12), known(b"two"), now());
        cache.save().unwrap();
        let cache = StatCache::new(Some(&file));
        assert_eq!(
            cache.find(&identity(1, 12)),
            Some(known(b"two")),
            "a newer state of a file takes the old one's place"
        );
        assert_eq!(cache.find(&identity(1, 10)), None);
        assert_eq!(cache.find(&identity(2, 10)), Some(known(b"two")));
    }

    /// A file of a cache that was empty before.
    fn write(new: &[[u8; ENTRY]]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write_merged(&mut file, std::iter::empty(), &new.iter().collect::<Vec<_>>()).unwrap();
        file
    }

    #[test]
    fn an_entry_is_found_wherever_it_is() {
        let keys: Vec<(u64, u64)> = (0..3 * STRIDE as u64 + 1).map(|number| (number % 2, number / 2 * 3)).collect();
        for count in [0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE, keys.len()] {
            let mut sorted = keys[..count].to_vec();
            sorted.sort_unstable();
            let new: Vec<[u8; ENTRY]> = sorted
                .iter()
                .map(|(device, inode)| encode(&Identity { device: *device, ..identity(*inode, 10) }, &known(b"one")))
                .collect();
            let loaded = Loaded::read(write(&new).path()).unwrap();
            for device in 0..3 {
                for inode in (0..400).chain([u64::MAX]) {
                    let expected = sorted.iter().position(|key| *key == (device, inode));
                    assert_eq!(loaded.place_of((device, inode)), expected, "{device}:{inode} of {count}");
                }
            }
        }
    }

    #[test]
    fn a_file_is_plain_only_in_the_state_in_which_it_was_seen() {
        let cache = StatCache::new(None);
        cache.saw_plain(&identity(1, 10));
        assert!(cache.is_plain(&identity(1, 10)));
        assert!(!cache.is_plain(&identity(2, 10)) && !cache.is_plain(&identity(1, 11)));
    }

    #[test]
    fn a_file_changed_within_two_seconds_of_its_reading_is_not_trusted() {
        let cache = StatCache::new(None);
        let read_at = Time { seconds: 100, nanoseconds: 5 };
        for (seconds, trusted) in [(90, true), (97, true), (98, false), (100, false), (500, false)] {
            cache.record(identity(seconds as u64, seconds), known(b"x"), read_at);
            assert_eq!(cache.find(&identity(seconds as u64, seconds)).is_some(), trusted, "changed at {seconds}");
        }
        let touched = Identity { ctime: Time { seconds: 99, nanoseconds: 0 }, ..identity(7, 10) };
        cache.record(touched, known(b"x"), read_at);
        assert_eq!(cache.find(&touched), None, "an old mtime set by hand does not hide a new ctime");
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cache");
        let cache = StatCache::new(Some(&file));
        cache.record(identity(1, 10), known(b"one"), now());
        cache.save().unwrap();
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, bad).unwrap();
            assert!(Loaded::read(&file).is_none(), "bit flipped at {at}");
            fs::write(&file, &good[..at]).unwrap();
            assert!(Loaded::read(&file).is_none(), "cut at {at}");
        }
        fs::write(&file, b"junk").unwrap();
        let cache = StatCache::new(Some(&file));
        assert_eq!(cache.find(&identity(1, 10)), None);
        cache.record(identity(1, 10), known(b"one"), now());
        cache.save().unwrap();
        assert_eq!(fs::read(&file).unwrap(), good, "a damaged cache is replaced");
    }

    #[test]
    fn a_part_ends_where_it_is_full() {
        for (sizes, parts) in
            [(&[PART][..], 1), (&[PART - 1, 1], 1), (&[PART, 1], 2), (&[2 * PART], 2), (&[1, 3 * PART], 4)]
        {
            let mut out = Vec::new();
            let mut written = Parts::new(&mut out);
            sizes.iter().for_each(|size| written.put(&vec![7; *size]).unwrap());
            written.finish().unwrap();
            let body: usize = sizes.iter().sum();
            assert_eq!(out.len(), body + parts * CHECKSUM, "{sizes:?}");
            assert!(are_whole(&out[..body], &out[body..]), "{sizes:?}");
        }
    }

    #[test]
    fn a_file_of_many_parts_is_whole_or_counts_as_empty() {
        for parts in [1, 2, READERS + 1] {
            let count = (parts * PART) / ENTRY - 1;
            let new: Vec<_> = (0..count as u64).map(|inode| encode(&identity(inode, 10), &known(b"one"))).collect();
            let file = write(&new);
            let good = fs::read(file.path()).unwrap();
            assert_eq!(good.len(), MAGIC.len() + count * ENTRY + parts * CHECKSUM);
            assert_eq!(Loaded::read(file.path()).unwrap().entries(), new);
            let in_each = (0..parts).map(|part| part * PART + part);
            for at in in_each.chain([good.len() - 1, good.len() - parts * CHECKSUM]) {
                let mut bad = good.clone();
                bad[at] ^= 1;
                fs::write(file.path(), bad).unwrap();
                assert!(Loaded::read(file.path()).is_none(), "bit flipped at {at} of {parts} parts");
            }
            for size in [good.len() - 1, good.len() - CHECKSUM, good.len() - PART / 2, good.len() + CHECKSUM] {
                let mut cut = good.clone();
                cut.resize(size, 0);
                fs::write(file.path(), cut).unwrap();
                assert!(Loaded::read(file.path()).is_none(), "{parts} parts with {size} bytes");
            }
        }
    }
}
