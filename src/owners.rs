//! What is written down about owners where the file system cannot be told: where only one id exists.
//!
//! A regular file or a directory carries its owner in an attribute ([`ATTRIBUTE`]), which follows it through renames,
//! hard links and overlayfs's copies. Links, pipes and sockets cannot have such attributes (xattr(7), "User extended
//! attributes"), so a *table* beside the tree holds theirs ([`table_path`]): owners by inode number and time of birth,
//! which together are never given twice, and which an overlay of trees on one file system shows as they are. Files that
//! belong to 0:0 have no record.
//!
//! Contract: a table belongs to the tree beside it and moves with it; a missing table is an empty one. A link that
//! overlayfs copied up has another inode than the one below: who makes it copied records it anew (`sandbox`), or finds
//! it again by its place (`layer::pack`). It knows nothing of layers, mounts or processes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

/// The attribute of a file whose owner it names: `uid:gid`, decimal.
pub const ATTRIBUTE: &str = "user.rbuild.own";

/// User and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// Root, whose files have no record.
    pub const ROOT: Owner = Owner { uid: 0, gid: 0 };

    /// The attribute's value.
    pub fn text(self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }

    /// Reads an attribute's value; `None` for what no rbuild wrote.
    pub fn parse(value: &[u8]) -> Option<Owner> {
        let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
        Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }
}

/// Which inode is meant: an inode's number is used again, but not for one that was born at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode {
    number: u64,
    born: (i64, u32),
    /// Only where the file system does not tell the time of birth.
    device: (u32, u32),
}

impl Inode {
    /// The inode of a name in an open directory (of the directory itself, if the name is empty); a link is not followed.
    pub fn of(directory: impl AsFd, name: &[u8]) -> io::Result<Inode> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let found = rustix::fs::statx(directory, name, flags, StatxFlags::INO | StatxFlags::BTIME)?;
        if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME) {
            let born = (found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
            return Ok(Inode { number: found.stx_ino, born, device: (0, 0) });
        }
        let device = (found.stx_dev_major, found.stx_dev_minor);
        Ok(Inode { number: found.stx_ino, born: (0, 0), device })
    }

    /// Whether both were born at the same moment, as a copy has another number but its own time in every view.
    pub fn born_with(&self, other: &Inode) -> bool {
        self.born == other.born
    }
}

/// Owners of what cannot carry them itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<Inode, Owner>);

impl Table {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The owner of an inode, if it has one on record.
    pub fn find(&self, inode: &Inode) -> Option<Owner> {
        self.0.get(inode).copied()
    }

    /// Writes an owner down; root is what everything belongs to that is not in the table.
    pub fn record(&mut self, inode: Inode, owner: Owner) {
        match owner {
            Owner::ROOT => self.0.remove(&inode),
            owner => self.0.insert(inode, owner),
        };
    }

    /// Adds what another table says.
    pub fn extend(&mut self, other: Table) {
        self.0.extend(other.0);
    }

    /// Reads a table: one line for each inode.
    ///
    /// # Errors
    /// What reading reports, and a line that is none of ours.
    pub fn read_from(mut reader: impl Read) -> io::Result<Table> {
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        let wrong = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("table of owners: {line:?}"));
        text.lines().map(|line| row(line).ok_or_else(|| wrong(line))).collect::<io::Result<_>>().map(Table)
    }

    /// Reads the table beside a tree.
    ///
    /// # Errors
    /// As [`Table::read_from`]; that there is none is no error.
    pub fn beside(tree: &Path) -> io::Result<Table> {
        match std::fs::File::open(table_path(tree)) {
            Ok(file) => Table::read_from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Table::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the table.
    ///
    /// # Errors
    /// What writing reports.
    pub fn write_to(&self, mut writer: impl Write) -> io::Result<()> {
        let mut text = String::new();
        for (Inode { number, born, device }, Owner { uid, gid }) in &self.0 {
            let (seconds, nanoseconds) = born;
            let (major, minor) = device;
            // Writing to a String does not fail.
            let _ = writeln!(text, "{number} {seconds} {nanoseconds} {major} {minor} {uid} {gid}");
        }
        writer.write_all(text.as_bytes())
    }
}

fn row(line: &str) -> Option<(Inode, Owner)> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let born = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let mut id = || words.next()?.parse().ok();
    let (major, minor, uid, gid) = (id()?, id()?, id()?, id()?);
    Some((Inode { number, born, device: (major, minor) }, Owner { uid, gid }))
}

/// Where the table of a tree is: beside it, so that an overlay does not show it.
pub fn table_path(tree: &Path) -> PathBuf {
    let mut path = OsString::from(tree);
    path.push(".owners");
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_written_reads_as_it_was() {
        let mut table = Table::default();
        let inode = |number| Inode { number, born: (-5, 7), device: (0, 3) };
        table.record(inode(1), Owner { uid: 1000, gid: 5 });
        table.record(inode(2), Owner { uid: 0, gid: u32::MAX - 1 });
        table.record(inode(3), Owner { uid: 9, gid: 9 });
        table.record(inode(3), Owner::ROOT);
        let mut bytes = Vec::new();
        table.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert_eq!(Table::read_from(bytes.as_slice()).unwrap(), table);
        assert!(Table::read_from(b"1 2 3\n".as_slice()).is_err());
    }

    #[test]
    fn an_inode_that_is_used_again_is_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(directory.path()).unwrap();
        let make = || {
            std::os::unix::fs::symlink("x", directory.path().join("link")).unwrap();
            Inode::of(&open, b"link").unwrap()
        };
        let first = make();
        assert_eq!(Inode::of(&open, b"link").unwrap(), first);
        std::fs::remove_file(directory.path().join("link")).unwrap();
        // The kernel's clock for such times moves every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_ne!(make(), first);
    }

    #[test]
    fn what_is_no_owner_is_not_taken_for_one() {
        assert_eq!(Owner::parse(b"5:6"), Some(Owner { uid: 5, gid: 6 }));
        for wrong in [&b""[..], b"5", b"5:", b"-1:0", b"4294967296:0", b"5:6\0"] {
            assert_eq!(Owner::parse(wrong), None, "{wrong:?}");
        }
    }
}
