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
}

impl Ecosystem {
    /// The type in package URLs.
    pub fn url_type(self) -> &'static str {
        match self {
            Ecosystem::Dpkg => "deb",
        }
    }
}

/// As tables and document ids name it.
impl fmt::Display for Ecosystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Ecosystem::Dpkg => "deb",
        })
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
        let (namespace, name) = match self.ecosystem {
            Ecosystem::Dpkg => {
                (distribution.map_or("debian", |distribution| distribution.id.as_str()), self.name.as_str())
            }
        };
        let mut qualifiers = BTreeMap::new();
        qualifiers.insert("arch", self.architecture.clone());
        qualifiers.insert("distro", distribution.map(Distribution::qualifier).unwrap_or_default());
        qualifiers.insert("upstream", self.upstream.clone());
        let kind = self.ecosystem.url_type();
        PackageUrl { kind, namespace, name, version: &self.version, qualifiers }.to_string()
    }
}
