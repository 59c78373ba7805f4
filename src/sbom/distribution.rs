//! Which Linux distribution the files are: `os-release`.

/// What `os-release` says (<https://www.freedesktop.org/software/systemd/man/os-release.html>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Distribution {
    /// `debian`, `alpine`.
    pub(super) id: String,
    /// `13`, `3.22.1`; empty where it has none.
    pub(super) version: String,
}

/// The files in which it is looked for; the first one that says something counts.
pub(super) const PATHS: [&[u8]; 2] = [b"etc/os-release", b"usr/lib/os-release"];

impl Distribution {
    /// Reads an `os-release`; `None` where it has no `ID`.
    pub(super) fn parse(text: &str) -> Option<Distribution> {
        let value = |name: &str| {
            let line = |line: &str| line.trim().strip_prefix(name)?.strip_prefix('=').map(unquoted);
            text.lines().filter_map(line).next_back().filter(|value| !value.is_empty())
        };
        Some(Distribution { id: value("ID")?.to_lowercase(), version: value("VERSION_ID").unwrap_or_default() })
    }

    /// As package URLs name it: `debian-13`.
    pub(super) fn qualifier(&self) -> String {
        if self.version.is_empty() { self.id.clone() } else { format!("{}-{}", self.id, self.version) }
    }
}

/// A value as a shell would read it.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let inner = inner('"').or_else(|| inner('\'')).unwrap_or(value);
    inner.replace('\\', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nID=debian\n";
        let found = Distribution::parse(debian).unwrap();
        assert_eq!(
            (found.id.as_str(), found.version.as_str(), found.qualifier().as_str()),
            ("debian", "13", "debian-13")
        );
        assert_eq!(Distribution::parse("ID='Arch'\nBUILD_ID=rolling\n").unwrap().qualifier(), "arch");
        assert_eq!(Distribution::parse("NAME=x\nID=\n"), None);
    }
}
