//! A package that was found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::distribution::Distribution;
use super::purl::PackageUrl;

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// Debian's packages, and those of what is made from Debian.
    Dpkg,
    /// Alpine's.
    Apk,
    /// Those of Fedora, RHEL, SUSE and their like.
    Rpm,
    /// JavaScript's.
    Npm,
    /// Python's.
    Pip,
    /// Rust's crates.
    Cargo,
    /// Go's modules.
    Go,
}

impl Ecosystem {
    /// The type in package URLs.
    pub fn url_type(self) -> &'static str {
        match self {
            Ecosystem::Dpkg => "deb",
            Ecosystem::Apk => "apk",
            Ecosystem::Rpm => "rpm",
            Ecosystem::Npm => "npm",
            Ecosystem::Pip => "pypi",
            Ecosystem::Cargo => "cargo",
            Ecosystem::Go => "golang",
        }
    }
}

/// As package URLs, and so tables and document ids, name it.
impl fmt::Display for Ecosystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.url_type())
    }
}

/// A package that was found. Those that differ in nothing but where they lie are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Whose rules its name and version follow.
    pub ecosystem: Ecosystem,
    /// Its whole name: with npm's scope, a Go module's path.
    pub name: String,
    /// Empty where nothing says it.
    pub version: String,
    /// As the ecosystem calls it (`amd64`, `x86_64`, `all`); empty where it has none.
    pub architecture: String,
    /// The source package that it was made of, where it is called differently: `glibc`, `gcc-14@14.2.0-19`.
    pub upstream: String,
    /// As the package states it, word for word; empty where it does not.
    pub license: String,
    /// Who made it, as the package states it; empty where it does not.
    pub maintainer: String,
    /// The files of the image that say so, from `/`.
    pub locations: BTreeSet<String>,
}

impl Package {
    /// A package of which no more is known.
    pub(super) fn new(ecosystem: Ecosystem, name: &str, version: &str) -> Package {
        let (name, version, nothing) = (name.to_owned(), version.to_owned(), String::new);
        Package {
            ecosystem,
            name,
            version,
            architecture: nothing(),
            upstream: nothing(),
            license: nothing(),
            maintainer: nothing(),
            locations: BTreeSet::new(),
        }
    }

    /// Its URL; that of a distribution's package names the distribution.
    pub(super) fn url(&self, distribution: Option<&Distribution>) -> String {
        let kind = self.ecosystem.url_type();
        let (namespace, name) = self.name.rsplit_once('/').unwrap_or(("", &self.name));
        let plain = |namespace: &str, name: &str| {
            PackageUrl { kind, namespace, name, version: &self.version, qualifiers: BTreeMap::new() }.to_string()
        };
        match self.ecosystem {
            Ecosystem::Dpkg => self.url_in(distribution, "debian"),
            Ecosystem::Apk => self.url_in(distribution, "alpine"),
            Ecosystem::Rpm => self.url_in(distribution, ""),
            Ecosystem::Npm | Ecosystem::Go => plain(namespace, name),
            // Python takes all of these for one name.
            Ecosystem::Pip => plain("", &self.name.to_lowercase().replace('_', "-")),
            Ecosystem::Cargo => plain("", &self.name),
        }
    }

    /// The URL of a distribution's package; where nothing says which one it is, it is the usual one.
    fn url_in(&self, distribution: Option<&Distribution>, usual: &str) -> String {
        // rpm's version has its epoch in front of it, in the URL it stands by itself.
        let epoch = self.version.split_once(':').filter(|_| self.ecosystem == Ecosystem::Rpm);
        let (epoch, version) = epoch.unwrap_or(("", &self.version));
        let qualifiers = [
            ("arch", self.architecture.clone()),
            ("distro", distribution.map(Distribution::qualifier).unwrap_or_default()),
            ("epoch", epoch.to_owned()),
            ("upstream", self.upstream.clone()),
        ];
        let kind = self.ecosystem.url_type();
        let namespace = match distribution.map_or(usual, |distribution| &distribution.id) {
            // As advisories name them.
            "rhel" => "redhat",
            id if id.starts_with("opensuse") => "opensuse",
            id => id,
        };
        PackageUrl { kind, namespace, name: &self.name, version, qualifiers: BTreeMap::from(qualifiers) }.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_named_as_advisories_name_them() {
        let package = Package::new(Ecosystem::Rpm, "bash", "1:5.2-1");
        let url = |id: &str| {
            let distribution = Distribution { id: id.to_owned(), version: "9.6".to_owned() };
            package.url(Some(&distribution))
        };
        assert_eq!(url("rhel"), "pkg:rpm/redhat/bash@5.2-1?distro=rhel-9.6&epoch=1");
        assert_eq!(url("opensuse-leap"), "pkg:rpm/opensuse/bash@5.2-1?distro=opensuse-leap-9.6&epoch=1");
        assert_eq!(package.url(None), "pkg:rpm/bash@5.2-1?epoch=1");
    }
}
