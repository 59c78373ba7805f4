//! rpm's database: that in SQLite (Fedora, RHEL 9 and later). Those in ndb and in Berkeley DB are told of and not read.

use super::package::{Ecosystem, Package};
use super::{lies_at, sqlite};

const DIRECTORIES: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];

/// Whether a file is a database that can be read.
pub(super) fn is_database(path: &[u8]) -> bool {
    lies_in(path, "rpmdb.sqlite")
}

/// Why a file, which is a database, cannot be read; `None` where it is none of these.
pub(super) fn unreadable(path: &[u8]) -> Option<&'static str> {
    let kinds = [
        ("Packages", "rpm's database in Berkeley DB"),
        ("Packages.db", "rpm's database in ndb"),
        ("rpmdb.sqlite-wal", "the journal of rpm's database"),
    ];
    kinds.iter().find(|(name, _)| lies_in(path, name)).map(|(_, kind)| *kind)
}

fn lies_in(path: &[u8], name: &str) -> bool {
    DIRECTORIES.iter().any(|directory| lies_at(path, format!("{directory}/{name}").as_bytes()))
}

/// What a database has.
#[derive(Debug, Default)]
pub(super) struct Installed {
    /// The packages.
    pub(super) packages: Vec<Package>,
    /// How many more it has, which cannot be read.
    pub(super) damaged: usize,
}

/// The packages that are installed.
pub(super) fn installed(file: &[u8]) -> Result<Installed, &'static str> {
    let Installed { packages: mut found, mut damaged } = Installed::default();
    sqlite::blobs(file, "Packages", &mut |blob| match Header::parse(blob).and_then(|header| header.package()) {
        // A key that signatures are checked with is kept as if it were a package.
        Some(package) if package.name == "gpg-pubkey" => {}
        Some(package) => found.push(package),
        None => damaged += 1,
    })?;
    match damaged > 0 && found.is_empty() {
        true => Err("none of its packages can be read"),
        false => Ok(Installed { packages: found, damaged }),
    }
}

/// Tags of a header (`rpmtag.h`).
mod tag {
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const EPOCH: u32 = 1003;
    pub(super) const VENDOR: u32 = 1011;
    pub(super) const LICENSE: u32 = 1014;
    pub(super) const ARCHITECTURE: u32 = 1022;
    pub(super) const SOURCE_PACKAGE: u32 = 1044;
}

/// A package as the database has it: numbers of entries and of bytes, the entries (tag, type, offset, count), the bytes.
struct Header<'a> {
    entries: &'a [u8],
    data: &'a [u8],
}

const STRING: u32 = 6;
const NUMBER: u32 = 4;

impl<'a> Header<'a> {
    fn parse(blob: &'a [u8]) -> Option<Header<'a>> {
        let (count, size) = (number(blob, 0)? as usize, number(blob, 4)? as usize);
        let end = count.checked_mul(16)?.checked_add(8)?;
        Some(Header { entries: blob.get(8..end)?, data: blob.get(end..end.checked_add(size)?)? })
    }

    /// The bytes from where a tag's value begins.
    fn value(&self, tag: u32, kind: u32) -> Option<&'a [u8]> {
        let is_tag = |entry: &&[u8]| number(entry, 0) == Some(tag) && number(entry, 4) == Some(kind);
        let entry = self.entries.chunks_exact(16).find(is_tag)?;
        self.data.get(number(entry, 8)? as usize..)
    }

    fn text(&self, tag: u32) -> Option<String> {
        let bytes = self.value(tag, STRING)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        (!text.is_empty() && text != "(none)").then_some(text)
    }

    fn package(&self) -> Option<Package> {
        let (version, release) = (self.text(tag::VERSION)?, self.text(tag::RELEASE)?);
        let epoch = self.value(tag::EPOCH, NUMBER).and_then(|value| number(value, 0));
        let version = match epoch {
            None | Some(0) => format!("{version}-{release}"),
            Some(epoch) => format!("{epoch}:{version}-{release}"),
        };
        Some(Package {
            architecture: self.text(tag::ARCHITECTURE).unwrap_or_default(),
            upstream: self.text(tag::SOURCE_PACKAGE).unwrap_or_default(),
            license: self.text(tag::LICENSE).unwrap_or_default(),
            maintainer: self.text(tag::VENDOR).unwrap_or_default(),
            ..Package::new(Ecosystem::Rpm, &self.text(tag::NAME)?, &version)
        })
    }
}

fn number(bytes: &[u8], place: usize) -> Option<u32> {
    let bytes = bytes.get(place..place.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::distribution::Distribution;

    /// Written by rpm 4.18; its table of packages was put into pages of 512 bytes by `sqlite3`.
    const DATABASE: &[u8] = include_bytes!("../../testdata/sbom/rpmdb.sqlite");

    #[test]
    fn a_database_that_rpm_wrote_is_read() {
        let Installed { packages: found, damaged } = installed(DATABASE).unwrap();
        assert_eq!((found.len(), damaged), (26, 0));
        let fedora = Distribution { id: "fedora".to_owned(), version: "42".to_owned() };
        let tool = found.iter().find(|package| package.name == "demo-tool").unwrap();
        assert_eq!(
            tool.url(Some(&fedora)),
            "pkg:rpm/fedora/demo-tool@1.2.3-4.fc42?arch=noarch&distro=fedora-42&epoch=2&upstream=demo-tool-1.2.3-4.fc42.src.rpm"
        );
        assert_eq!((tool.version.as_str(), tool.license.as_str()), ("2:1.2.3-4.fc42", "MIT and GPLv2+"));
        assert_eq!(tool.maintainer, "Demo Project");
        let libs = found.iter().find(|package| package.name == "demo-libs").unwrap();
        assert_eq!(libs.license, "Apache-2.0 OR MIT");
    }

    #[test]
    fn databases_of_all_kinds_are_known_by_their_path() {
        assert!(is_database(b"usr/lib/sysimage/rpm/rpmdb.sqlite") && !is_database(b"rpmdb.sqlite"));
        assert!(unreadable(b"var/lib/rpm/Packages").is_some() && unreadable(b"var/lib/rpm/Packages.db").is_some());
        assert_eq!(unreadable(b"var/lib/rpm/Name"), None);
    }

    #[test]
    fn damaged_headers_are_no_packages() {
        let mut blob = None;
        sqlite::blobs(DATABASE, "Packages", &mut |row| blob = Some(row.to_vec())).unwrap();
        let blob = blob.unwrap();
        assert!(Header::parse(&blob).and_then(|header| header.package()).is_some());
        for end in 0..blob.len() {
            assert!(Header::parse(&blob[..end]).is_none(), "cut at {end}");
        }
        for place in 0..blob.len() {
            let mut damaged = blob.clone();
            damaged[place] ^= 0xff;
            drop(Header::parse(&damaged).and_then(|header| header.package()));
        }
        // The others are listed, and it is said that there are more.
        // Its end lies in pages of its own.
        let place = memchr::memmem::find(DATABASE, &blob[..24]).unwrap();
        let mut database = DATABASE.to_vec();
        database[place..place + 4].fill(0xff);
        let Installed { packages, damaged } = installed(&database).unwrap();
        assert_eq!((packages.len(), damaged), (25, 1));
    }
}
