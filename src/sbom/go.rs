//! Go: the modules that a program was built from, as its linker writes them down (`debug/buildinfo`).

use super::package::{Ecosystem, Package};

/// The section of a program that has the list, as the table of their names has it.
pub(super) const SECTION: &[u8] = b".go.buildinfo\0";
/// What the list begins with.
pub(super) const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The list lies at multiples of this, in memory and in the file.
pub(super) const ALIGNMENT: u64 = 16;
/// Bytes that a list has at most: one that is larger is none. A program with a thousand modules has 100 kB.
pub(super) const LIMIT: usize = 1 << 20;

/// Says why a program's modules are not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoList {
    /// The bytes are no list: the magic stands in a program that reads lists.
    Other,
    /// Before Go 1.18 there were pointers to the list.
    Old,
}

/// The modules of a program, from the bytes that begin with the magic.
pub(super) fn packages(bytes: &[u8]) -> Result<Vec<Package>, NoList> {
    // Behind the magic: the size of a pointer, flags (2: the texts are here), zeros up to byte 32; then the two texts.
    let flags = *bytes.get(15).ok_or(NoList::Other)?;
    let is_zero = bytes.get(16..32).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
    if flags & 2 == 0 {
        // A pointer follows, which is not zero, to memory that no section names.
        return Err(if matches!(bytes[14], 4 | 8) && flags <= 1 { NoList::Old } else { NoList::Other });
    }
    if !is_zero {
        return Err(NoList::Other);
    }
    let (version, rest) = text(&bytes[32..]).ok_or(NoList::Other)?;
    let version = String::from_utf8_lossy(version);
    if !version.starts_with("go1") && !version.starts_with("devel ") {
        return Err(NoList::Other);
    }
    let (modules, _) = text(rest).ok_or(NoList::Other)?;
    // Between two marks of 16 bytes; a program that was built outside of a module has none.
    let modules = match modules.len() {
        0..32 => "".into(),
        length => String::from_utf8_lossy(&modules[16..length - 16]),
    };
    let mut found = vec![standard_library(&version)];
    found.extend(listed(&modules));
    Ok(found)
}

/// A text with its length before it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0usize;
    for (number, byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * number);
        if byte & 0x80 == 0 {
            return bytes[number + 1..].split_at_checked(length);
        }
    }
    None
}

/// `go1.24.4` is `stdlib` 1.24.4, as advisories name it; experiments stand behind a space, and a fork's name behind a dash.
fn standard_library(version: &str) -> Package {
    let number = version.strip_prefix("go").unwrap_or_default();
    let number = number.split([' ', '-']).next().unwrap_or_default();
    Package::new(Ecosystem::Go, "stdlib", number)
}

/// The main module and those that it depends on. Only modules are looked at: in `build` lines are flags, which may hold anything.
fn listed(text: &str) -> Vec<Package> {
    let mut found: Vec<Package> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        match (fields.next(), fields.next(), fields.next()) {
            (Some("mod" | "dep"), Some(path), version) if !path.is_empty() => {
                found.push(Package::new(Ecosystem::Go, path, known(version)));
            }
            // What was built in place of the module above it; a directory has no name that anybody else knows.
            (Some("=>"), Some(path), version) if !path.starts_with(['.', '/']) => {
                if let Some(replaced) = found.last_mut() {
                    *replaced = Package::new(Ecosystem::Go, path, known(version));
                }
            }
            _ => {}
        }
    }
    found
}

/// A module that was built from a directory has no version.
fn known(version: Option<&str>) -> &str {
    version.filter(|version| *version != "(devel)").unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MODULES: &str = "path\texample.org/app\nmod\texample.org/app\t(devel)\t\n\
        dep\tgithub.com/Azure/sdk/v2\tv2.1.0\th1:xyz=\n\
        dep\tgolang.org/x/sys\tv0.30.0\th1:abc=\n\
        dep\texample.org/forked\tv1.0.0\n=>\texample.org/fork\tv1.0.1\th1:q=\n\
        dep\texample.org/local\tv1.0.0\n=>\t/home/me/local\t(devel)\t\n\
        build\t-ldflags=\"-X main.token=secret\"\nbuild\tGOOS=linux\n";

    fn varint(length: usize) -> Vec<u8> {
        vec![length as u8 & 0x7f | 0x80, (length >> 7) as u8]
    }

    /// As the linker of Go 1.18 and later writes it.
    pub(in crate::sbom) fn blob(version: &str, modules: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, 2], &[0; 16]].concat();
        let framed = ["0123456789abcdef", modules, "0123456789abcdef"].concat();
        for text in [version, &framed] {
            bytes.extend(varint(text.len()));
            bytes.extend(text.bytes());
        }
        bytes
    }

    #[test]
    fn modules_are_listed_with_what_was_built_in_their_place() {
        let found = packages(&blob("go1.24.4 X:nocoverageredesign", MODULES)).unwrap();
        let shown: Vec<String> = found.iter().map(|package| package.url(None)).collect();
        assert_eq!(
            shown,
            [
                "pkg:golang/stdlib@1.24.4",
                "pkg:golang/example.org/app",
                "pkg:golang/github.com/Azure/sdk/v2@v2.1.0",
                "pkg:golang/golang.org/x/sys@v0.30.0",
                "pkg:golang/example.org/fork@v1.0.1",
                "pkg:golang/example.org/local@v1.0.0",
            ]
        );
    }

    #[test]
    fn what_is_no_list_is_told_from_one_that_is_old() {
        assert_eq!(packages(&[MAGIC, &[8, 0], &[1; 16]].concat()), Err(NoList::Old));
        assert_eq!(packages(&[MAGIC, b"missing in binary"].concat()), Err(NoList::Other));
        assert_eq!(packages(MAGIC), Err(NoList::Other));
        let whole = blob("go1.20", MODULES);
        for end in 0..whole.len() {
            assert!(packages(&whole[..end]).is_err(), "cut at {end}");
        }
    }
}
