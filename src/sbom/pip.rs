//! What pip and setuptools leave beside a Python package (<https://packaging.python.org/en/latest/specifications/core-metadata/>).

use super::package::{Ecosystem, Package};
use super::paragraphs::{Paragraph, paragraphs};
use crate::tree;

/// Whether a file describes an installed package: `x.dist-info/METADATA`, `x.egg-info/PKG-INFO`, or `x.egg-info` itself.
pub(super) fn is_metadata(path: &[u8]) -> bool {
    let directory = tree::parent(path);
    match tree::base_name(path) {
        b"METADATA" => directory.ends_with(b".dist-info"),
        b"PKG-INFO" => directory.ends_with(b".egg-info") || directory.ends_with(b".egg/EGG-INFO"),
        name => name.ends_with(b".egg-info"),
    }
}

/// The package. What follows the first empty line is its description.
pub(super) fn package(text: &str) -> Option<Package> {
    let fields = paragraphs(text).next()?;
    let person = fields.field("Author-email").or(fields.field("Author")).or(fields.field("Maintainer-email"));
    Some(Package {
        license: license(&fields).unwrap_or_default(),
        maintainer: person.unwrap_or_default().to_owned(),
        ..Package::new(Ecosystem::Pip, fields.field("Name")?, fields.field("Version")?)
    })
}

/// Longer than a license's name can be: the field has its whole text.
const LONGEST_NAME: usize = 100;

/// The expression, where it has one; before that (PEP 639) there was a field of free text, and there were classifiers.
fn license(fields: &Paragraph<'_>) -> Option<String> {
    let is_name = |text: &&str| text.len() <= LONGEST_NAME && !text.eq_ignore_ascii_case("unknown");
    if let Some(name) = fields.field("License-Expression").or(fields.field("License")).filter(is_name) {
        return Some(name.to_owned());
    }
    let of_classifier = |text: &'_ str| {
        let name = text.strip_prefix("License ::")?.rsplit("::").next()?.trim();
        (name != "OSI Approved").then(|| name.to_owned())
    };
    fields.all("Classifier").find_map(of_classifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_metadata_say_name_version_and_license() {
        let old = "Metadata-Version: 2.1\nName: Flask_Login\nVersion: 0.6.3\nAuthor: Matthew Frazier\nAuthor-email: leafstormrush@gmail.com\n\
            License: MIT\nClassifier: License :: OSI Approved :: MIT License\nRequires-Dist: Flask >=1.0.4\n\n# Name: not me\n";
        let found = package(old).unwrap();
        assert_eq!((found.url(None).as_str(), found.license.as_str()), ("pkg:pypi/flask-login@0.6.3", "MIT"));
        let new =
            "Metadata-Version: 2.4\nName: attrs\nVersion: 25.3.0\nLicense-Expression: MIT\nLicense-File: LICENSE\n";
        assert_eq!(package(new).unwrap().license, "MIT");
        let text = "x".repeat(200);
        let whole =
            format!("Name: a\nVersion: 1\nLicense: {text}\nClassifier: License :: OSI Approved :: BSD License\n");
        assert_eq!(package(&whole).unwrap().license, "BSD License");
        assert_eq!(package("Name: a\nVersion: 1\nLicense: UNKNOWN\n").unwrap().license, "");
        assert_eq!(package("Name: a\n\nVersion: 1\n"), None);
    }

    #[test]
    fn metadata_is_known_by_its_path() {
        let python = "usr/lib/python3/dist-packages";
        for path in ["a-1.dist-info/METADATA", "a.egg-info/PKG-INFO", "a-1-py3.egg/EGG-INFO/PKG-INFO", "a-1.egg-info"] {
            assert!(is_metadata(format!("{python}/{path}").as_bytes()), "{path}");
        }
        for path in ["a-1.dist-info/RECORD", "METADATA", "a/PKG-INFO", "a.egg-info/requires.txt"] {
            assert!(!is_metadata(format!("{python}/{path}").as_bytes()), "{path}");
        }
    }
}
