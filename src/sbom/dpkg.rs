//! dpkg's database (`dpkg-query(1)`, `deb-control(5)`): `status`, and a file for each package where there is no dpkg (distroless).

use super::lies_at;
use super::package::{Ecosystem, Package};
use super::paragraphs::paragraphs;
use crate::tree;

/// Whether a file is one of dpkg's.
pub(super) fn is_database(path: &[u8]) -> bool {
    // Beside each package's file in status.d lies one with its checksums.
    lies_at(path, b"var/lib/dpkg/status")
        || lies_at(tree::parent(path), b"var/lib/dpkg/status.d") && !path.ends_with(b".md5sums")
}

/// The packages that are installed.
pub(super) fn packages(text: &str) -> Vec<Package> {
    let mut found = Vec::new();
    for paragraph in paragraphs(text) {
        let (Some(name), Some(version)) = (paragraph.field("Package"), paragraph.field("Version")) else { continue };
        // Of a package that was removed its configuration may be left ("deinstall ok config-files"). In status.d nothing says so.
        let state = paragraph.field("Status").and_then(|status| status.split_whitespace().nth(2));
        if state.is_some_and(|state| matches!(state, "not-installed" | "config-files")) {
            continue;
        }
        found.push(Package {
            architecture: paragraph.field("Architecture").unwrap_or_default().to_owned(),
            upstream: paragraph.field("Source").map(upstream).unwrap_or_default(),
            maintainer: paragraph.field("Maintainer").unwrap_or_default().to_owned(),
            ..Package::new(Ecosystem::Dpkg, name, version)
        });
    }
    found
}

/// `gcc-14 (14.2.0-19)` as `gcc-14@14.2.0-19`: the source's version is said where it is not the package's own.
fn upstream(source: &str) -> String {
    match source.split_once('(') {
        Some((name, version)) => format!("{}@{}", name.trim(), version.trim_end_matches(')').trim()),
        None => source.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_found_and_others_not() {
        let text = "\
Package: gcc-14-base
Status: install ok installed
Priority: required
Maintainer: Debian GCC Maintainers <debian-gcc@lists.debian.org>
Architecture: amd64
Multi-Arch: same
Source: gcc-14
Version: 14.2.0-19
Description: GCC, the GNU Compiler Collection (base package)
 This package contains files common to all languages and libraries
 Version: 1 of a text

Package: removed
Status: deinstall ok config-files
Version: 1
Conffiles:
 /etc/removed.conf 0123

Package: libacl1
Status: hold ok installed
Source: acl (2.3.2-2)
Architecture: amd64
Version: 2.3.2-2+b1
";
        let found = packages(text);
        let shown: Vec<String> = found.iter().map(|package| package.url(None)).collect();
        assert_eq!(
            shown,
            [
                "pkg:deb/debian/gcc-14-base@14.2.0-19?arch=amd64&upstream=gcc-14",
                "pkg:deb/debian/libacl1@2.3.2-2%2Bb1?arch=amd64&upstream=acl%402.3.2-2",
            ]
        );
        assert_eq!(found[0].maintainer, "Debian GCC Maintainers <debian-gcc@lists.debian.org>");
    }

    #[test]
    fn the_database_is_known_by_its_path() {
        for path in ["var/lib/dpkg/status", "var/lib/dpkg/status.d/base", "chroot/var/lib/dpkg/status"] {
            assert!(is_database(path.as_bytes()), "{path}");
        }
        for path in ["var/lib/dpkg/status-old", "var/lib/dpkg/status.d/base.md5sums", "var/lib/dpkg/info/x.list"] {
            assert!(!is_database(path.as_bytes()), "{path}");
        }
    }
}
