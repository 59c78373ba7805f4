//! npm: what lies in `node_modules`, and lock files where nothing is installed beside them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::package::{Ecosystem, Package};
use crate::tree;

const INSTALLED: &[u8] = b"node_modules";

/// Whether a file describes an installed package: `node_modules/x/package.json`, `node_modules/@scope/x/package.json`. Those
/// further down are parts of packages.
pub(super) fn is_manifest(path: &[u8]) -> bool {
    let directory = tree::parent(tree::parent(path));
    let is_scope = tree::base_name(directory).starts_with(b"@");
    let above = if is_scope { tree::parent(directory) } else { directory };
    tree::base_name(path) == b"package.json" && tree::base_name(above) == INSTALLED
}

/// Whether a file is a lock file of a project. `npm-shrinkwrap.json` is none: packages are published with it, and say there what they
/// were made with.
pub(super) fn is_lock(path: &[u8]) -> bool {
    tree::base_name(path) == b"package-lock.json" && tree::components(path).iter().all(|part| part != INSTALLED)
}

/// What would lie beside a lock file if its packages were installed: it then says better than the lock what is there, which
/// lists what only the build needed, too.
pub(super) fn installed_beside(lock: &[u8]) -> Vec<u8> {
    tree::join(tree::parent(lock), INSTALLED)
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    name: Value,
    #[serde(default)]
    version: Value,
    #[serde(default)]
    license: Value,
    #[serde(default)]
    licenses: Value,
    #[serde(default)]
    author: Value,
}

/// The package of a `package.json`; none where it has no name and version.
pub(super) fn package(text: &str) -> Result<Option<Package>, serde_json::Error> {
    // Some are written with a byte order mark.
    let manifest: Manifest = serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    let (Some(name), Some(version)) = (manifest.name.as_str(), manifest.version.as_str()) else { return Ok(None) };
    if name.is_empty() {
        return Ok(None);
    }
    let license = license(&manifest.license).or_else(|| license(&manifest.licenses));
    let maintainer = match &manifest.author {
        Value::Object(author) => author.get("name").and_then(Value::as_str).unwrap_or_default(),
        // "Name <address> (page)"
        author => author.as_str().unwrap_or_default().split('(').next().unwrap_or_default().trim(),
    };
    Ok(Some(Package {
        license: license.unwrap_or_default(),
        maintainer: maintainer.to_owned(),
        ..Package::new(Ecosystem::Npm, name, version)
    }))
}

/// A license as npm takes it today (an expression) or took it once (an object, or a list of them).
fn license(value: &Value) -> Option<String> {
    let one = |value: &Value| {
        let name = value.as_str().or_else(|| value.get("type")?.as_str())?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    match value {
        Value::Array(all) => {
            let all: Vec<String> = all.iter().filter_map(one).collect();
            (!all.is_empty()).then(|| all.join(" OR "))
        }
        value => one(value),
    }
}

#[derive(Deserialize)]
struct Lock {
    /// Since version 2: by the path where it is installed.
    #[serde(default)]
    packages: BTreeMap<String, Locked>,
    /// Before: by name.
    #[serde(default)]
    dependencies: BTreeMap<String, Locked>,
}

#[derive(Deserialize)]
struct Locked {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    license: Value,
    #[serde(default)]
    dev: bool,
    #[serde(default)]
    link: bool,
    #[serde(default)]
    dependencies: Value,
}

/// The packages of a lock file, but for those that only development needs and those of the project itself.
pub(super) fn locked(text: &str) -> Result<Vec<Package>, serde_json::Error> {
    let lock: Lock = serde_json::from_str(text)?;
    let mut found = Vec::new();
    if lock.packages.is_empty() {
        by_name(lock.dependencies, &mut found)?;
        return Ok(found);
    }
    for (path, locked) in &lock.packages {
        let Some((_, name)) = path.rsplit_once("node_modules/") else { continue };
        found.extend(locked.package(name));
    }
    Ok(found)
}

/// Versions of packages that lie deeper are listed within those above them.
fn by_name(dependencies: BTreeMap<String, Locked>, found: &mut Vec<Package>) -> Result<(), serde_json::Error> {
    let mut todo = vec![dependencies];
    while let Some(dependencies) = todo.pop() {
        for (name, locked) in dependencies {
            found.extend(locked.package(&name));
            if locked.dependencies.is_object() {
                todo.push(serde_json::from_value(locked.dependencies)?);
            }
        }
    }
    Ok(())
}

impl Locked {
    fn package(&self, installed_as: &str) -> Option<Package> {
        let version = self.version.as_deref()?;
        // A version that is a place (`file:`, `git+ssh:`) says nothing, and may have a password in it.
        if self.dev || self.link || version.contains(':') {
            return None;
        }
        let name = self.name.as_deref().unwrap_or(installed_as);
        let license = license(&self.license).unwrap_or_default();
        Some(Package { license, ..Package::new(Ecosystem::Npm, name, version) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(packages: &[Package]) -> Vec<String> {
        packages.iter().map(|package| format!("{} {}", package.url(None), package.license)).collect()
    }

    #[test]
    fn manifests_are_read_with_every_way_to_state_a_license() {
        let of = |text: &str| package(text).unwrap().map(|found| shown(&[found]).remove(0));
        assert_eq!(
            of(
                r#"{"name":"@babel/core","version":"7.28.0","license":"MIT","author":"The Babel Team (https://babel.dev/team)"}"#
            ),
            Some("pkg:npm/%40babel/core@7.28.0 MIT".to_owned())
        );
        assert_eq!(
            of(r#"{"name":"old","version":"0.1.0","licenses":[{"type":"MIT","url":"x"},{"type":"GPL-2.0"}]}"#),
            Some("pkg:npm/old@0.1.0 MIT OR GPL-2.0".to_owned())
        );
        assert_eq!(
            of("\u{feff}{\"name\":\"x\",\"version\":\"1\",\"license\":{\"type\":\"ISC\"}}").unwrap(),
            "pkg:npm/x@1 ISC"
        );
        assert_eq!(of(r#"{"type":"module"}"#), None);
        assert_eq!(of(r#"{"name":["x"],"version":1}"#), None);
        assert!(package("{").is_err());
        assert!(package(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn lock_files_of_all_versions_give_what_is_needed_to_run() {
        let third = r#"{"name":"app","version":"1.0.0","lockfileVersion":3,"packages":{
            "":{"name":"app","version":"1.0.0","license":"UNLICENSED"},
            "node_modules/a":{"version":"1.0.0","resolved":"https://user:secret@registry.example/a.tgz","license":"MIT"},
            "node_modules/a/node_modules/@s/b":{"version":"2.0.0"},
            "node_modules/alias":{"name":"real","version":"3.0.0"},
            "node_modules/test":{"version":"4.0.0","dev":true},
            "node_modules/local":{"resolved":"packages/local","link":true},
            "packages/local":{"version":"5.0.0"}}}"#;
        assert_eq!(
            shown(&locked(third).unwrap()),
            ["pkg:npm/a@1.0.0 MIT", "pkg:npm/%40s/b@2.0.0 ", "pkg:npm/real@3.0.0 "]
        );
        let first = r#"{"lockfileVersion":1,"dependencies":{
            "a":{"version":"1.0.0","dependencies":{"b":{"version":"2.0.0"}}},
            "g":{"version":"git+ssh://git@example.org/g.git#0123"},
            "t":{"version":"3.0.0","dev":true}}}"#;
        assert_eq!(shown(&locked(first).unwrap()), ["pkg:npm/a@1.0.0 ", "pkg:npm/b@2.0.0 "]);
    }

    #[test]
    fn only_the_manifest_of_a_package_itself_counts() {
        for path in [
            "app/node_modules/a/package.json",
            "node_modules/@s/a/package.json",
            "node_modules/a/node_modules/b/package.json",
        ] {
            assert!(is_manifest(path.as_bytes()), "{path}");
        }
        for path in [
            "app/package.json",
            "node_modules/a/dist/package.json",
            "node_modules/package.json",
            "node_modules/a/@s/b/package.json",
        ] {
            assert!(!is_manifest(path.as_bytes()), "{path}");
        }
        assert!(is_lock(b"app/package-lock.json") && !is_lock(b"node_modules/a/package-lock.json"));
        assert!(!is_lock(b"usr/share/nodejs/lodash-cli/npm-shrinkwrap.json"));
        assert_eq!(installed_beside(b"app/package-lock.json"), b"app/node_modules");
    }
}
