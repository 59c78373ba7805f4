//! Finds a registry's credentials where docker and podman keep them.
//!
//! Contract: the environment and the files are read once, by [`Credentials::load`]; helpers are asked when a registry
//! wants credentials, never before. Secrets are never shown: [`Secret`] has no readable `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;

use super::error::escaped;
use super::helper;
use crate::image::reference::DEFAULT_REGISTRY;

/// A password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Gives the secret away.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What convinces a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// A user name and a password (or an access token in its place).
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that the token server changes for access tokens.
    IdentityToken(Secret),
    /// A token that is shown to the registry as it is.
    RegistryToken(Secret),
}

/// Credentials, and where they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The credentials.
    pub stored: Stored,
    /// The file, variable or helper that had them, for messages.
    pub source: String,
}

/// Says why credentials could not be looked up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialsError {
    /// A configuration that exists cannot be used.
    #[error("read credentials from {origin}: {reason}")]
    Source {
        /// The file or variable.
        origin: String,
        /// Why.
        reason: String,
    },
    /// A helper failed.
    #[error("ask credential helper {name:?}: {reason}")]
    Helper {
        /// Its name, without `docker-credential-`.
        name: String,
        /// Why.
        reason: String,
    },
}

/// All places that may have credentials, in order of preference.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    sources: Arc<Vec<Source>>,
    helper_directory: Option<PathBuf>,
}

#[derive(Debug)]
struct Source {
    origin: String,
    content: Result<Config, CredentialsError>,
}

/// The parts of `config.json` and `auth.json` that concern credentials.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("auths", &self.auths.keys())
            .field("cred_helpers", &self.cred_helpers)
            .field("creds_store", &self.creds_store)
            .finish()
    }
}

/// The largest configuration that is read.
const CONFIG_LIMIT: u64 = 4 << 20;

impl Credentials {
    /// None at all.
    pub fn none() -> Credentials {
        Credentials::default()
    }

    /// Reads what the environment names: `DOCKER_AUTH_CONFIG`, `REGISTRY_AUTH_FILE`, `DOCKER_CONFIG` or
    /// `~/.docker`, and podman's `containers/auth.json`, in this order; the first that knows a registry wins.
    pub fn load() -> Credentials {
        Credentials::from_environment(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_environment(variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Credentials {
        let mut sources = Vec::new();
        if let Some(text) = variable("DOCKER_AUTH_CONFIG") {
            sources.push(Source::parse("DOCKER_AUTH_CONFIG", text.to_string_lossy().as_bytes()));
        }
        if let Some(path) = variable("REGISTRY_AUTH_FILE") {
            sources.push(Source::named_file(Path::new(&path)));
        }
        let home = variable("HOME").map(PathBuf::from);
        let docker = variable("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".docker")))
            .map(|directory| directory.join("config.json"));
        let runtime = variable("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join("containers/auth.json"));
        let config = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".config")))
            .map(|directory| directory.join("containers/auth.json"));
        let candidates = [docker, runtime, config];
        sources.extend(candidates.into_iter().flatten().filter_map(|path| Source::file_if_there(&path)));
        Credentials { sources: Arc::new(sources), helper_directory: None }
    }

    /// Reads one file, which must exist.
    pub fn from_file(path: &Path) -> Credentials {
        Credentials { sources: Arc::new(vec![Source::named_file(path)]), helper_directory: None }
    }

    /// Reads the text of a `config.json`.
    pub fn from_json(origin: &str, text: &str) -> Credentials {
        Credentials { sources: Arc::new(vec![Source::parse(origin, text.as_bytes())]), helper_directory: None }
    }

    /// A user's password for a registry.
    pub fn password(registry: &str, username: &str, password: &Secret) -> Credentials {
        let entry = Entry { username: username.to_owned(), password: password.reveal().to_owned(), ..Entry::default() };
        let config = Config { auths: [(registry.to_owned(), entry)].into(), ..Config::default() };
        let source = Source { origin: "the command line".to_owned(), content: Ok(config) };
        Credentials { sources: Arc::new(vec![source]), helper_directory: None }
    }

    /// Looks for helpers in this directory instead of `PATH`.
    pub fn with_helper_directory(self, directory: impl Into<PathBuf>) -> Credentials {
        Credentials { helper_directory: Some(directory.into()), ..self }
    }

    /// The credentials for a repository; `None` where no place has any. May run a helper.
    pub fn for_repository(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialsError> {
        for source in self.sources.iter() {
            let config = source.content.as_ref().map_err(Clone::clone)?;
            if let Some(credential) =
                config.find(&source.origin, registry, repository, self.helper_directory.as_deref())?
            {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

impl Source {
    fn parse(origin: &str, bytes: &[u8]) -> Source {
        let content = serde_json::from_slice(bytes).map_err(|error| CredentialsError::Source {
            origin: origin.to_owned(),
            // serde_json's own text may quote the value that it did not like: a password, perhaps.
            reason: format!("it is no valid JSON configuration (line {}, column {})", error.line(), error.column()),
        });
        Source { origin: origin.to_owned(), content }
    }

    fn named_file(path: &Path) -> Source {
        let origin = path.display().to_string();
        let bytes = std::fs::metadata(path).and_then(|metadata| {
            if metadata.len() > CONFIG_LIMIT {
                return Err(std::io::Error::other("it is too large"));
            }
            std::fs::read(path)
        });
        match bytes {
            Ok(bytes) => Source::parse(&origin, &bytes),
            Err(error) => {
                let content = Err(CredentialsError::Source { origin: origin.clone(), reason: error.to_string() });
                Source { origin, content }
            }
        }
    }

    fn file_if_there(path: &Path) -> Option<Source> {
        // One that is there but cannot be read is an error for whoever needs it.
        path.try_exists().unwrap_or(true).then(|| Source::named_file(path))
    }
}

impl Config {
    fn find(
        &self,
        origin: &str,
        registry: &str,
        repository: &str,
        helper_directory: Option<&Path>,
    ) -> Result<Option<Credential>, CredentialsError> {
        let own_helper = self.cred_helpers.iter().find(|(key, _)| Key::parse(key).host == registry);
        let helper = own_helper.map(|(_, name)| name).or(Some(&self.creds_store)).filter(|name| !name.is_empty());
        if let Some(name) = helper
            && let Some(stored) = helper::ask(name, server_name(registry), helper_directory)?
        {
            let source = format!("credential helper {}, named by {origin}", escaped(name));
            return Ok(Some(Credential { stored, source }));
        }
        let matching = self.auths.iter().filter_map(|(key, entry)| {
            let key = Key::parse(key);
            (key.host == registry && key.covers(repository)).then_some((key.path.len(), entry))
        });
        let mut entries: Vec<(usize, &Entry)> = matching.collect();
        entries.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        for (_, entry) in entries {
            if let Some(stored) = entry.stored(origin, registry)? {
                return Ok(Some(Credential { stored, source: origin.to_owned() }));
            }
        }
        Ok(None)
    }
}

/// The name under which helpers and docker's own files know a registry.
fn server_name(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { "https://index.docker.io/v1/" } else { registry }
}

/// A key of `auths`: a registry, or with containers/image a part of one (`host/namespace/repository`).
struct Key<'a> {
    host: &'a str,
    path: &'a str,
}

impl Key<'_> {
    fn parse(text: &str) -> Key<'_> {
        let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let (host, path) = match address.unwrap_or(text).split_once('/') {
            // Docker's keys are addresses, whose path says nothing (`/v1/`, `/v2/`).
            Some((host, path)) if address.is_none() => (host, path.trim_end_matches('/')),
            Some((host, _)) => (host, ""),
            None => (address.unwrap_or(text), ""),
        };
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        Key { host, path: if matches!(path, "v1" | "v2") { "" } else { path } }
    }

    fn covers(&self, repository: &str) -> bool {
        self.path.is_empty()
            || repository.strip_prefix(self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Entry {
    /// Docker leaves an empty entry for each registry that a helper knows.
    fn stored(&self, origin: &str, registry: &str) -> Result<Option<Stored>, CredentialsError> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Stored::RegistryToken(Secret::new(&self.registrytoken))));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Stored::IdentityToken(Secret::new(&self.identitytoken))));
        }
        if self.auth.is_empty() {
            let found = !self.username.is_empty() || !self.password.is_empty();
            let (username, password) = (self.username.clone(), Secret::new(&self.password));
            return Ok(found.then_some(Stored::Password { username, password }));
        }
        let invalid = || CredentialsError::Source {
            origin: origin.to_owned(),
            reason: format!("\"auth\" of {} is not user:password in base64", escaped(registry)),
        };
        let text = self.auth.trim().trim_end_matches('=');
        let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (username, password) = text.split_once(':').ok_or_else(invalid)?;
        // Docker has written passwords with a trailing NUL; it cuts them off when it reads them, too.
        let password = Secret::new(password.trim_end_matches('\0'));
        if username == "<token>" {
            return Ok(Some(Stored::IdentityToken(password)));
        }
        Ok(Some(Stored::Password { username: username.to_owned(), password }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn found(json: &str, registry: &str, repository: &str) -> Option<String> {
        let credential = Credentials::from_json("test", json).for_repository(registry, repository).unwrap()?;
        Some(match credential.stored {
            Stored::Password { username, password } => format!("{username}:{}", password.reveal()),
            Stored::IdentityToken(token) => format!("identity {}", token.reveal()),
            Stored::RegistryToken(token) => format!("registry {}", token.reveal()),
        })
    }

    #[test]
    fn keys_are_matched_as_docker_and_podman_do() {
        let json = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnA="},
            "r.example":{"auth":"d2hvbGU6cA=="},
            "r.example/team":{"auth":"dGVhbTpw"},
            "r.example/team/app":{"username":"app","password":"p"},
            "https://other.example:5000/v2/":{"identitytoken":"i"},
            "token.example":{"registrytoken":"t"},
            "empty.example":{}}}"#;
        let find = |registry, repository| found(json, registry, repository);
        assert_eq!(find("docker.io", "library/debian").as_deref(), Some("hub:p"));
        assert_eq!(find("r.example", "x").as_deref(), Some("whole:p"));
        assert_eq!(find("r.example", "team/x").as_deref(), Some("team:p"));
        assert_eq!(find("r.example", "teamwork").as_deref(), Some("whole:p"));
        assert_eq!(find("r.example", "team/app/sub").as_deref(), Some("app:p"));
        assert_eq!(find("other.example:5000", "x").as_deref(), Some("identity i"));
        assert_eq!(find("token.example", "x").as_deref(), Some("registry t"));
        for registry in ["empty.example", "other.example", "example", "xr.example"] {
            assert_eq!(find(registry, "x"), None, "{registry}");
        }
    }

    #[test]
    fn a_broken_file_is_an_error_that_does_not_quote_it() {
        for json in [r#"{"auths":{"r":{"auth":{"hunter2":1}}}}"#, r#"{"auths":"hunter2"}"#, "hunter2", ""] {
            let error = Credentials::from_json("config.json", json).for_repository("r", "x").unwrap_err().to_string();
            assert!(error.contains("config.json") && !error.contains("hunter2"), "{error}");
        }
        let error = Credentials::from_json("c", r#"{"auths":{"r":{"auth":"aHVudGVyMg=="}}}"#);
        let error = error.for_repository("r", "x").unwrap_err().to_string();
        assert!(error.contains("base64") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_places_are_asked_in_order_and_may_be_missing() {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str, user: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!(r#"{{"auths":{{"r":{{"username":"{user}"}}}}}}"#)).unwrap();
        };
        let user = |extra: &[(&str, &str)]| {
            let variable = |name: &str| match name {
                "HOME" => Some(home.path().into()),
                "XDG_RUNTIME_DIR" => Some(home.path().join("run").into()),
                _ => extra.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()),
            };
            let found = Credentials::from_environment(&variable).for_repository("r", "x").unwrap();
            found.map(|credential| match credential.stored {
                Stored::Password { username, .. } => username,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(user(&[]), None);
        write("run/containers/auth.json", "podman");
        assert_eq!(user(&[]).as_deref(), Some("podman"));
        write(".docker/config.json", "docker");
        assert_eq!(user(&[]).as_deref(), Some("docker"));
        write("named.json", "named");
        let named = home.path().join("named.json");
        assert_eq!(user(&[("REGISTRY_AUTH_FILE", named.to_str().unwrap())]).as_deref(), Some("named"));
        let json = r#"{"auths":{"r":{"username":"variable"}}}"#;
        assert_eq!(user(&[("DOCKER_AUTH_CONFIG", json)]).as_deref(), Some("variable"));
        let missing = Credentials::from_file(&home.path().join("none.json")).for_repository("r", "x");
        assert!(missing.unwrap_err().to_string().contains("none.json"));
    }

    #[test]
    fn a_helper_comes_before_the_file_and_the_file_after_a_helper_without_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, script: &str| {
            let path = directory.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        write("one", r#"printf '{"Username":"one","Secret":"%s"}' "$(cat)""#);
        write("none", "echo credentials not found in native keychain; exit 1");
        let json = r#"{"credsStore":"none","credHelpers":{"docker.io":"one","evil":"../evil"},
            "auths":{"r":{"username":"file"}}}"#;
        let credentials = Credentials::from_json("c", json).with_helper_directory(directory.path());
        let hub = credentials.for_repository("docker.io", "x").unwrap().unwrap();
        let password = Secret::new("https://index.docker.io/v1/");
        assert_eq!(hub.stored, Stored::Password { username: "one".into(), password });
        assert!(hub.source.contains("credential helper one"));
        let file = credentials.for_repository("r", "x").unwrap().unwrap();
        assert!(matches!(file.stored, Stored::Password { username, .. } if username == "file"));
        assert!(credentials.for_repository("evil", "x").is_err());
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let credentials = Credentials::from_json("c", r#"{"auths":{"r":{"username":"u","password":"hunter2"}}}"#);
        let credential = credentials.for_repository("r", "x").unwrap().unwrap();
        assert!(!format!("{credentials:?} {credential:?}").contains("hunter2"));
    }
}
