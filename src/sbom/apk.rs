//! apk's database (apk-tools, `apk-installed` format): paragraphs of fields with names of one letter, in which case counts.

use super::lies_at;
use super::package::{Ecosystem, Package};

/// Whether a file is one of apk's. Where `/lib` is a link to `/usr/lib` it lies there.
pub(super) fn is_database(path: &[u8]) -> bool {
    lies_at(path, b"lib/apk/db/installed")
}

/// The packages that are installed.
pub(super) fn packages(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(package).collect()
}

fn package(paragraph: &str) -> Option<Package> {
    let field = |letter: &str| {
        let value = |line: &'_ str| line.strip_prefix(letter)?.strip_prefix(':').map(|value| value.trim().to_owned());
        paragraph.lines().find_map(value).filter(|value| !value.is_empty())
    };
    let (name, version) = (field("P")?, field("V")?);
    Some(Package {
        architecture: field("A").unwrap_or_default(),
        // The origin of most packages is themselves.
        upstream: field("o").filter(|origin| *origin != name).unwrap_or_default(),
        license: field("L").unwrap_or_default(),
        maintainer: field("m").unwrap_or_default(),
        ..Package::new(Ecosystem::Apk, &name, &version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::distribution::Distribution;

    #[test]
    fn packages_are_found_with_their_origin_and_license() {
        // Of an Alpine 3.22 image, with its file lists cut.
        let text = "\
C:Q1eHcCEDpiYfX1FxkmSx1Lt0E9bKA=
P:musl
V:1.2.5-r10
A:x86_64
S:411238
I:667648
T:the musl c library (libc) implementation
U:https://musl.libc.org/
L:MIT
o:musl
m:Natanael Copa <ncopa@alpinelinux.org>
t:1740000000
p:so:libc.musl-x86_64.so.1=1
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q1

C:Q1
P:ssl_client
V:1.37.0-r18
A:x86_64
L:GPL-2.0-only
o:busybox
r:busybox-ssl

P:no-version
";
        let distribution = Distribution { id: "alpine".to_owned(), version: "3.22.1".to_owned() };
        let found = packages(text);
        let shown: Vec<String> = found.iter().map(|package| package.url(Some(&distribution))).collect();
        assert_eq!(
            shown,
            [
                "pkg:apk/alpine/musl@1.2.5-r10?arch=x86_64&distro=alpine-3.22.1",
                "pkg:apk/alpine/ssl_client@1.37.0-r18?arch=x86_64&distro=alpine-3.22.1&upstream=busybox",
            ]
        );
        assert_eq!((found[0].license.as_str(), found[1].license.as_str()), ("MIT", "GPL-2.0-only"));
        assert!(is_database(b"usr/lib/apk/db/installed") && !is_database(b"lib/apk/db/installed.new"));
    }
}
