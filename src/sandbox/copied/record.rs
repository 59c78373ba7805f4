//! What a copy was like before its command ran, kept in a file beside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::time::{ClockId, clock_gettime};

use crate::rootfs::RootDir;

/// What the kernel says of a file, in which every change of it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) number: u64,
    /// Zero where the file system does not tell the time of birth.
    pub(super) born: (i64, u32),
    /// Set by the kernel at every change, and by nobody else.
    pub(super) changed: (i64, u32),
    pub(super) modified: (i64, u32),
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) device: (u32, u32),
}

impl Fingerprint {
    /// Of a name in an open directory.
    pub(super) fn of(directory: impl AsFd, path: &[u8]) -> io::Result<Fingerprint> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = rustix::fs::statx(directory, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let has_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        Ok(Fingerprint {
            number: found.stx_ino,
            born: if has_birth { (found.stx_btime.tv_sec, found.stx_btime.tv_nsec) } else { (0, 0) },
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            size: found.stx_size,
            mode: found.stx_mode.into(),
            uid: found.stx_uid,
            gid: found.stx_gid,
            links: found.stx_nlink,
            device: (found.stx_rdev_major, found.stx_rdev_minor),
        })
    }

    /// Which inode it is. Numbers are used again at once by some file systems, hence the time of birth.
    pub(super) fn inode(&self) -> (u64, (i64, u32)) {
        (self.number, self.born)
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub(super) fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let times = [self.born, self.changed, self.modified];
        out.write_all(&self.number.to_le_bytes())?;
        for (seconds, nanoseconds) in times {
            out.write_all(&seconds.to_le_bytes())?;
            out.write_all(&nanoseconds.to_le_bytes())?;
        }
        out.write_all(&self.size.to_le_bytes())?;
        let numbers = [self.mode, self.uid, self.gid, self.links, self.device.0, self.device.1];
        numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
    }

    fn read(from: &mut impl Read) -> io::Result<Fingerprint> {
        let number = u64::from_le_bytes(array(from)?);
        let mut times = [(0, 0); 3];
        for time in &mut times {
            *time = (i64::from_le_bytes(array(from)?), u32::from_le_bytes(array(from)?));
        }
        let size = u64::from_le_bytes(array(from)?);
        let mut numbers = [0; 6];
        for number in &mut numbers {
            *number = u32::from_le_bytes(array(from)?);
        }
        let [born, changed, modified] = times;
        let [mode, uid, gid, links, major, minor] = numbers;
        Ok(Fingerprint { number, born, changed, modified, size, mode, uid, gid, links, device: (major, minor) })
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// One path of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The tree that it came from.
    pub(super) tree: usize,
    pub(super) print: Fingerprint,
}

/// Writes down what a finished copy is like. Returns once a change can no longer have a time of the copy's own: the
/// kernel's clock for these times moves every few milliseconds only.
pub(super) fn write(root: &Path, entries: &BTreeMap<Vec<u8>, usize>, file: &Path) -> io::Result<()> {
    let root = RootDir::open(root)?;
    let mut out = BufWriter::new(File::create(file)?);
    let mut newest = (0, 0);
    for (path, tree) in entries {
        let print = Fingerprint::of(&root, path)?;
        newest = newest.max(print.changed);
        out.write_all(&u32::try_from(path.len()).map_err(io::Error::other)?.to_le_bytes())?;
        out.write_all(path)?;
        out.write_all(&u32::try_from(*tree).map_err(io::Error::other)?.to_le_bytes())?;
        print.write(&mut out)?;
    }
    out.flush()?;
    wait_until_after(newest);
    Ok(())
}

/// A clock of another machine (a network's file system) may be ahead: then what is waited for is one tick of the slowest.
fn wait_until_after((seconds, nanoseconds): (i64, u32)) {
    for _ in 0..20 {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if (now.tv_sec, now.tv_nsec) > (seconds, i64::from(nanoseconds)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads what was written.
pub(super) fn read(file: &Path) -> io::Result<BTreeMap<Vec<u8>, Entry>> {
    let mut from = BufReader::new(File::open(file)?);
    let mut entries = BTreeMap::new();
    loop {
        let length = match array(&mut from) {
            Ok(length) => u32::from_le_bytes(length) as usize,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(entries),
            Err(error) => return Err(error),
        };
        let mut path = vec![0; length];
        from.read_exact(&mut path)?;
        let tree = u32::from_le_bytes(array(&mut from)?) as usize;
        entries.insert(path, Entry { tree, print: Fingerprint::read(&mut from)? });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written_and_a_change_right_after_it_shows() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "one").unwrap();
        let file = folder.path().join("record");
        let entries = BTreeMap::from([(b"file".to_vec(), 7)]);
        write(&root, &entries, &file).unwrap();
        // As fast as can be: of the same size, and with the old time put back.
        let modified = std::fs::metadata(root.join("file")).unwrap().modified().unwrap();
        std::fs::write(root.join("file"), "two").unwrap();
        std::fs::File::options().write(true).open(root.join("file")).unwrap().set_modified(modified).unwrap();
        let before = read(&file).unwrap();
        assert_eq!((before.len(), before[b"file".as_slice()].tree), (1, 7));
        let after = Fingerprint::of(RootDir::open(&root).unwrap(), b"file").unwrap();
        let before = before[b"file".as_slice()].print;
        assert_eq!(Fingerprint { changed: after.changed, ..before }, after);
        assert_ne!(before.changed, after.changed);
    }
}
