//! Package URLs (<https://github.com/package-url/purl-spec>).

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The parts of a package URL, as they are: they are encoded when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackageUrl<'a> {
    pub(super) kind: &'a str,
    /// May have slashes; empty where there is none.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Empty where it is not known.
    pub(super) version: &'a str,
    /// Those with an empty value are left out.
    pub(super) qualifiers: BTreeMap<&'a str, String>,
}

impl std::fmt::Display for PackageUrl<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "pkg:{}/", self.kind)?;
        for segment in self.namespace.split('/').filter(|segment| !segment.is_empty()) {
            write!(formatter, "{}/", encoded(segment))?;
        }
        formatter.write_str(&encoded(self.name))?;
        if !self.version.is_empty() {
            write!(formatter, "@{}", encoded(self.version))?;
        }
        let qualifiers = self.qualifiers.iter().filter(|(_, value)| !value.is_empty());
        for (number, (key, value)) in qualifiers.enumerate() {
            write!(formatter, "{}{key}={}", if number == 0 { '?' } else { '&' }, encoded(value))?;
        }
        Ok(())
    }
}

/// Percent-encodes everything but what the specification leaves as it is.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => encoded.push(byte as char),
            _ => write!(encoded, "%{byte:02X}").expect("text can be written to"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_encoded_as_the_specification_says() {
        let url = |kind, namespace, name, version, qualifiers: &[(&'static str, &str)]| {
            let qualifiers = qualifiers.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
            PackageUrl { kind, namespace, name, version, qualifiers }.to_string()
        };
        // From the specification's own test suite.
        assert_eq!(
            url("deb", "debian", "curl", "7.50.3-1", &[("arch", "i386"), ("distro", "jessie")]),
            "pkg:deb/debian/curl@7.50.3-1?arch=i386&distro=jessie"
        );
        assert_eq!(url("npm", "@angular", "animation", "12.3.1", &[]), "pkg:npm/%40angular/animation@12.3.1");
        assert_eq!(
            url("golang", "google.golang.org", "genproto", "abcdedf", &[]),
            "pkg:golang/google.golang.org/genproto@abcdedf"
        );
        assert_eq!(url("generic", "", "a b/c", "", &[("x", "")]), "pkg:generic/a%20b%2Fc");
        assert_eq!(url("deb", "debian", "libstdc++6", "1:2+b1", &[]), "pkg:deb/debian/libstdc%2B%2B6@1:2%2Bb1");
    }
}
