//! Reads `registries.conf` and the files beside it, where podman looks for them.
//!
//! `CONTAINERS_REGISTRIES_CONF` names the one file to read. Otherwise it is `~/.config/containers/registries.conf` with
//! `registries.conf.d/*.conf` beside it, or where there is none `/etc/containers/registries.conf` with both directories; a
//! later file wins over an earlier one, entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::registries::{Mirror, Pulls, Registries, RegistriesError, Rule};

/// The files to read; nothing is read before a registry is needed.
#[derive(Debug, Clone, Default)]
pub struct RegistryFiles {
    /// One that has to be there.
    named: Option<PathBuf>,
    /// Those that may be there: all are read, in this order.
    files: Vec<PathBuf>,
    /// Whose `*.conf` are read after them.
    directories: Vec<PathBuf>,
    /// From the command line: registry and mirror.
    mirrors: Vec<(String, String)>,
}

const SYSTEM: &str = "/etc/containers";

/// The largest file that is read.
const LIMIT: u64 = 4 << 20;

impl RegistryFiles {
    /// None at all.
    pub fn none() -> RegistryFiles {
        RegistryFiles::default()
    }

    /// Those that the environment and the machine have.
    pub fn load() -> RegistryFiles {
        RegistryFiles::from_environment(
            &|name| std::env::var_os(name).filter(|value| !value.is_empty()),
            Path::new(SYSTEM),
        )
    }

    fn from_environment(variable: &dyn Fn(&str) -> Option<OsString>, system: &Path) -> RegistryFiles {
        if let Some(named) = variable("CONTAINERS_REGISTRIES_CONF") {
            return RegistryFiles { named: Some(named.into()), ..RegistryFiles::default() };
        }
        let user = variable("HOME").map(|home| Path::new(&home).join(".config/containers"));
        let conf = |place: &Path| place.join("registries.conf");
        let drop_ins = |place: &Path| place.join("registries.conf.d");
        match user.as_deref() {
            Some(user) if conf(user).exists() => {
                RegistryFiles { files: vec![conf(user)], directories: vec![drop_ins(user)], ..RegistryFiles::default() }
            }
            user => {
                let directories = [Some(system), user].into_iter().flatten().map(drop_ins).collect();
                RegistryFiles { files: vec![conf(system)], directories, ..RegistryFiles::default() }
            }
        }
    }

    /// One file, which has to be there.
    pub fn of(path: impl Into<PathBuf>) -> RegistryFiles {
        RegistryFiles { named: Some(path.into()), ..RegistryFiles::default() }
    }

    /// With mirrors that are asked first: pairs of a registry and a mirror of it.
    pub fn with_mirrors(self, mirrors: Vec<(String, String)>) -> RegistryFiles {
        RegistryFiles { mirrors, ..self }
    }

    /// Reads them.
    pub(super) fn read(&self) -> Result<Registries, RegistriesError> {
        let mut files: Vec<&Path> = self.files.iter().map(PathBuf::as_path).filter(|path| path.exists()).collect();
        let drop_ins = self.directories.iter().map(|directory| conf_files(directory)).collect::<Result<Vec<_>, _>>()?;
        files.extend(drop_ins.iter().flatten().map(PathBuf::as_path));
        let mut registries = Registries::default();
        for path in self.named.as_deref().into_iter().chain(files) {
            read_file(path)?.apply(path, &mut registries)?;
        }
        registries.aliases.retain(|_, full| !full.is_empty());
        for (registry, mirror) in &self.mirrors {
            registries.add_mirror(registry, mirror);
        }
        Ok(registries)
    }
}

/// The `*.conf` of a directory, by name.
fn conf_files(directory: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let failed =
        |error: std::io::Error| RegistriesError::File { path: directory.to_owned(), reason: error.to_string() };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut paths: Vec<PathBuf> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
    paths.sort();
    Ok(paths)
}

/// A file as it is written; keys that concern other programs are passed over, as podman does.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<FileRegistry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Version 1 of the format.
    registries: Option<toml::Table>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct FileRegistry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<FileMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileMirror {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<String>,
}

fn read_file(path: &Path) -> Result<File, RegistriesError> {
    let failed = |reason: String| RegistriesError::File { path: path.to_owned(), reason };
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > LIMIT {
        return Err(failed("it is too large".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    toml::from_str(&text).map_err(|error| failed(error.to_string().trim().to_owned()))
}

impl File {
    /// Adds what the file says; of what was said before, what it says again is replaced.
    fn apply(self, path: &Path, registries: &mut Registries) -> Result<(), RegistriesError> {
        let failed = |reason: String| RegistriesError::File { path: path.to_owned(), reason };
        if self.registries.is_some() {
            let reason = "it is in the old format ([registries.search] and the like); version 2 has [[registry]]";
            return Err(failed(reason.to_owned()));
        }
        if let Some(search) = self.unqualified_search_registries {
            registries.search = search.iter().map(|place| place_of(place)).collect::<Result<_, _>>().map_err(failed)?;
        }
        registries.aliases.extend(self.aliases);
        for registry in self.registry {
            let rule = registry.rule(path).map_err(failed)?;
            registries.rules.retain(|known| known.prefix != rule.prefix);
            registries.rules.push(rule);
        }
        Ok(())
    }
}

impl FileRegistry {
    fn rule(self, file: &Path) -> Result<Rule, String> {
        let is_pattern = self.prefix.starts_with("*.");
        if self.prefix.is_empty() && self.location.is_empty() {
            return Err("a [[registry]] has neither prefix nor location".to_owned());
        }
        let prefix = place_of(if self.prefix.is_empty() { &self.location } else { &self.prefix })?;
        if prefix.contains('*') && !is_pattern {
            return Err(format!("the prefix {prefix:?} has a `*` elsewhere than at its start, before a dot"));
        }
        let location = match self.location.as_str() {
            "" => None,
            location => Some(place_of(location)?).filter(|location| *location != prefix),
        };
        let by_digest = self.mirror_by_digest_only;
        let mirrors = self.mirror.into_iter().map(|mirror| mirror.read(by_digest)).collect::<Result<_, _>>()?;
        let (insecure, blocked) = (self.insecure, self.blocked);
        Ok(Rule { prefix, location, insecure, blocked, mirrors, file: file.to_owned() })
    }
}

impl FileMirror {
    fn read(self, by_digest: bool) -> Result<Mirror, String> {
        let pulls = match (self.pull_from_mirror.as_deref(), by_digest) {
            (None, true) => Pulls::ByDigest,
            (None | Some("all"), false) => Pulls::All,
            (Some("digest-only"), false) => Pulls::ByDigest,
            (Some("tag-only"), false) => Pulls::ByTag,
            (Some(_), true) => {
                return Err(
                    "mirror-by-digest-only of a registry and pull-from-mirror of its mirror exclude each other"
                        .to_owned(),
                );
            }
            (Some(other), false) => {
                return Err(format!("pull-from-mirror is {other:?}, not all, digest-only or tag-only"));
            }
        };
        Ok(Mirror { location: place_of(&self.location)?, insecure: self.insecure, pulls })
    }
}

/// A host, or host and path, as it stands in names.
fn place_of(text: &str) -> Result<String, String> {
    let place = text.trim_end_matches('/');
    match place {
        "" => Err("a location is empty".to_owned()),
        place if place.contains("://") => {
            Err(format!("{place:?} is an address; a location is a host and perhaps a path"))
        }
        place => Ok(place.to_owned()),
    }
}

/// What a file with this text says.
#[cfg(test)]
pub(super) fn parsed(text: &str) -> Result<Registries, RegistriesError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registries.conf");
    std::fs::write(&path, text).expect("write the file");
    RegistryFiles::of(path).read()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_understands_is_refused_with_the_file() {
        for (text, reason) in [
            ("[registries.search]\nregistries=['x']", "old format"),
            ("[[registry]]\nblocked=true", "neither prefix nor location"),
            ("[[registry]]\nlocation='https://x.example'", "is an address"),
            ("[[registry]]\nlocation='x.example'\n[[registry.mirror]]\ninsecure=true", "location is empty"),
            ("[[registry]]\nprefix='a.*.example'\nlocation='x'", "elsewhere than at its start"),
            ("[[registry]]\nlocation='x'\n[[registry.mirror]]\nlocation='y'\npull-from-mirror='never'", "not all"),
            (
                "[[registry]]\nlocation='x'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='y'\npull-from-mirror='all'",
                "exclude each other",
            ),
            ("[[registry]]\nlocation=1", "registries.conf"),
            ("unqualified-search-registries", "registries.conf"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains("registries.conf") && error.contains(reason), "{text}: {error}");
        }
        assert!(parsed("credential-helpers=['x']\nshort-name-mode='enforcing'").is_ok(), "for others");
    }

    #[test]
    fn files_are_read_where_podman_reads_them() {
        let root = tempfile::tempdir().unwrap();
        let (home, system) = (root.path().join("home"), root.path().join("etc"));
        let write = |path: &str, search: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(
                &path,
                format!("unqualified-search-registries=['{search}']\n[aliases]\n'{search}'='x.example/{search}'"),
            )
            .unwrap();
        };
        let read = |named: Option<&str>| {
            let variable = |name: &str| match name {
                "HOME" => Some(home.clone().into()),
                "CONTAINERS_REGISTRIES_CONF" => named.map(|named| root.path().join(named).into()),
                _ => None,
            };
            let found = RegistryFiles::from_environment(&variable, &system).read()?;
            Ok::<_, RegistriesError>((found.search.join(","), found.aliases.into_keys().collect::<Vec<_>>().join(",")))
        };
        let both = |search: &str, aliases: &str| Ok((search.to_owned(), aliases.to_owned()));
        assert_eq!(read(None), both("", ""));
        write("etc/registries.conf", "s");
        write("etc/registries.conf.d/10.conf", "t");
        write("etc/registries.conf.d/05.conf", "u");
        write("etc/registries.conf.d/ignored.txt", "v");
        assert_eq!(read(None), both("t", "s,t,u"));
        write("home/.config/containers/registries.conf.d/1.conf", "w");
        assert_eq!(read(None), both("w", "s,t,u,w"));
        write("home/.config/containers/registries.conf", "x");
        assert_eq!(read(None), both("w", "w,x"), "the user's file stands in for the system's");
        write("named", "y");
        assert_eq!(read(Some("named")), both("y", "y"));
        assert!(read(Some("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn a_later_file_replaces_an_entry_and_takes_an_alias_away() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("1.conf"),
            "[[registry]]\nlocation='a'\nblocked=true\n[aliases]\n'n'='a.example/n'",
        )
        .unwrap();
        std::fs::write(directory.path().join("2.conf"), "[[registry]]\nprefix='a'\nlocation='b'\n[aliases]\n'n'=''")
            .unwrap();
        let directories = vec![directory.path().to_owned()];
        let found = RegistryFiles { directories, ..RegistryFiles::default() }.read().unwrap();
        assert_eq!(
            (found.rules.len(), found.rules[0].blocked, found.rules[0].location.as_deref()),
            (1, false, Some("b"))
        );
        assert!(found.aliases.is_empty());
    }
}
