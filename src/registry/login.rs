//! Keeps credentials where docker and podman look for them: in `config.json`, or with the helper that it names.
//!
//! Contract: the file is replaced at once, by one that its owner alone can read; all that it says beside is kept. A file
//! that is no JSON is never replaced. Links are followed: a `config.json` that is one stays one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::credentials::{CredentialsError, Secret};
use super::helper;
use crate::image::reference::{DEFAULT_REGISTRY, Reference};

/// A registry, or with podman a part of one, that credentials are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    registry: String,
    path: String,
}

/// Says that a text names no registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no registry: HOST, HOST:PORT, or with a path HOST/NAMESPACE")]
pub struct InvalidServer(pub String);

impl std::str::FromStr for Server {
    type Err = InvalidServer;

    /// Takes what people have in their scripts: `docker.io`, `https://index.docker.io/v1/`, `host:port`, `host/namespace`.
    fn from_str(text: &str) -> Result<Server, InvalidServer> {
        let invalid = || InvalidServer(text.to_owned());
        let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let (host, path) = bare.unwrap_or(text).split_once('/').unwrap_or((bare.unwrap_or(text), ""));
        let path = path.trim_end_matches('/');
        // The path of an address says nothing, as in docker's own files.
        let path = if bare.is_some() || matches!(path, "v1" | "v2") { "" } else { path };
        let any: Reference = "x/x".parse().map_err(|_| invalid())?;
        let probe = any.relocated(&format!("{host}/{}", if path.is_empty() { "x/x" } else { path }));
        let registry = probe.map_err(|_| invalid())?.registry().to_owned();
        Ok(Server { registry, path: path.to_owned() })
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.registry)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl Server {
    /// Host and port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// A repository that the credentials are for.
    pub fn repository(&self) -> &str {
        &self.path
    }

    /// How docker's file and helpers call it.
    fn key(&self) -> String {
        match (self.registry.as_str(), self.path.as_str()) {
            (DEFAULT_REGISTRY, "") => "https://index.docker.io/v1/".to_owned(),
            _ => self.to_string(),
        }
    }
}

/// Where credentials went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the file, where whoever reads the file reads them.
    File,
    /// With a helper of this name.
    Helper(String),
}

/// Whether there was something to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// It is gone.
    Removed,
    /// There was nothing.
    Unknown,
}

/// Says why credentials could not be kept or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No variable says where the file is.
    #[error("find out where to keep credentials: neither HOME nor DOCKER_CONFIG is set")]
    NoPlace,
    /// The file or its directory cannot be read or written.
    #[error("write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no JSON object, or has something else where credentials should be.
    #[error("change {}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The helper failed.
    #[error(transparent)]
    Helper(#[from] CredentialsError),
}

/// A `config.json`, there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    path: PathBuf,
    helper_directory: Option<PathBuf>,
}

impl LoginFile {
    /// The one that rbuild, and whoever else builds here, looks into: `REGISTRY_AUTH_FILE`, else docker's.
    pub fn of_environment(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<LoginFile, LoginError> {
        let docker = || {
            let directory = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")))?;
            Some(directory.join("config.json"))
        };
        variable("REGISTRY_AUTH_FILE").or_else(docker).map(LoginFile::at).ok_or(LoginError::NoPlace)
    }

    /// This one.
    pub fn at(path: impl Into<PathBuf>) -> LoginFile {
        LoginFile { path: path.into(), helper_directory: None }
    }

    /// Looks for helpers in this directory instead of `PATH`.
    pub fn with_helper_directory(self, directory: impl Into<PathBuf>) -> LoginFile {
        LoginFile { helper_directory: Some(directory.into()), ..self }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a user and a password for a server, in place of those that were kept.
    pub fn keep(&self, server: &Server, username: &str, password: &Secret) -> Result<Kept, LoginError> {
        let mut content = self.read()?;
        let helper = self.helper(&content, server)?;
        let entry = match &helper {
            Some(name) => {
                if !server.path.is_empty() {
                    let reason =
                        format!("its credential helper {name} cannot keep credentials for a part of a registry");
                    return Err(self.content(reason));
                }
                let told = json!({"ServerURL": server.key(), "Username": username, "Secret": password.reveal()});
                helper::tell(name, "store", told.to_string().as_bytes(), self.helper_directory.as_deref())?;
                // What docker leaves in the file, so that it lists the registry.
                json!({})
            }
            None => {
                let text = format!("{username}:{}", password.reveal());
                json!({"auth": base64::engine::general_purpose::STANDARD.encode(text)})
            }
        };
        let auths = self.auths(&mut content)?;
        // Another spelling of the same server would be found first.
        auths.retain(|key, _| !is_key_of(server, key));
        auths.insert(server.key(), entry);
        self.write(&content)?;
        Ok(helper.map_or(Kept::File, Kept::Helper))
    }

    /// Forgets what is kept for a server.
    pub fn forget(&self, server: &Server) -> Result<Forgotten, LoginError> {
        let mut content = self.read()?;
        let helper = self.helper(&content, server)?;
        if let Some(name) = &helper {
            helper::tell(name, "erase", server.key().as_bytes(), self.helper_directory.as_deref())?;
        }
        if !content.contains_key("auths") {
            return Ok(Forgotten::Unknown);
        }
        let auths = self.auths(&mut content)?;
        let before = auths.len();
        auths.retain(|key, _| !is_key_of(server, key));
        if auths.len() == before {
            return Ok(Forgotten::Unknown);
        }
        self.write(&content)?;
        Ok(Forgotten::Removed)
    }

    /// All servers that the file has something for.
    pub fn servers(&self) -> Result<Vec<Server>, LoginError> {
        let mut content = self.read()?;
        if !content.contains_key("auths") {
            return Ok(Vec::new());
        }
        Ok(self.auths(&mut content)?.keys().filter_map(|key| key.parse().ok()).collect())
    }

    fn content(&self, reason: impl Into<String>) -> LoginError {
        LoginError::Content { path: self.path.clone(), reason: reason.into() }
    }

    fn failed(&self, source: io::Error) -> LoginError {
        LoginError::File { path: self.path.clone(), source }
    }

    fn read(&self) -> Result<Map<String, Value>, LoginError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(error) => return Err(self.failed(error)),
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        // The parser's own message could quote a password.
        serde_json::from_slice(&bytes).map_err(|error| {
            self.content(format!("it is no JSON object (line {}, column {})", error.line(), error.column()))
        })
    }

    fn auths<'a>(&self, content: &'a mut Map<String, Value>) -> Result<&'a mut Map<String, Value>, LoginError> {
        let auths = content.entry("auths").or_insert_with(|| json!({}));
        auths.as_object_mut().ok_or_else(|| self.content("its \"auths\" is no object"))
    }

    /// The helper that keeps a server's credentials.
    fn helper(&self, content: &Map<String, Value>, server: &Server) -> Result<Option<String>, LoginError> {
        let same = |key: &str| key.parse::<Server>().is_ok_and(|known| known.registry == server.registry);
        let helpers = content.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| helpers.iter().find(|(key, _)| same(key)).map(|(_, name)| name));
        match own.or(content.get("credsStore")) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone()).filter(|name| !name.is_empty())),
            Some(_) => Err(self.content("the name of a credential helper is no text")),
        }
    }

    fn write(&self, content: &Map<String, Value>) -> Result<(), LoginError> {
        let failed = |error| self.failed(error);
        // The link stays and what it leads to is replaced; docker does the same.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let mut text = serde_json::to_string_pretty(content).map_err(|error| failed(error.into()))?;
        text.push('\n');
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory.join(format!(".{name}.{}", std::process::id()));
        let written = write_new(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            // It has a password; if it cannot be removed, its owner alone can read it.
            fs::remove_file(&temporary).ok();
        }
        written.map_err(failed)
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that a process of the same number left behind.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whether a key of `auths` is a spelling of a server.
fn is_key_of(server: &Server, key: &str) -> bool {
    key.parse::<Server>().is_ok_and(|known| known == *server)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::credentials::{Credentials, Stored};
    use super::*;

    fn server(text: &str) -> Server {
        text.parse().unwrap()
    }

    fn found(file: &LoginFile, registry: &str, repository: &str) -> Option<String> {
        let credential = Credentials::from_file(file.path()).for_repository(registry, repository).unwrap()?;
        match credential.stored {
            Stored::Password { username, password } => Some(format!("{username}:{}", password.reveal())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn servers_are_read_as_people_write_them() {
        for (text, shown, key) in [
            ("docker.io", "docker.io", "https://index.docker.io/v1/"),
            ("https://index.docker.io/v1/", "docker.io", "https://index.docker.io/v1/"),
            ("registry.example:5000", "registry.example:5000", "registry.example:5000"),
            ("https://registry.example/", "registry.example", "registry.example"),
            ("localhost", "localhost", "localhost"),
            ("[::1]:5000", "[::1]:5000", "[::1]:5000"),
            ("quay.io/team", "quay.io/team", "quay.io/team"),
        ] {
            assert_eq!((server(text).to_string().as_str(), server(text).key().as_str()), (shown, key), "{text}");
        }
        for text in ["", "a b", "x/UPPER", "http://", "user@host"] {
            assert!(text.parse::<Server>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_kept_is_found_and_forgotten_and_all_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/config.json");
        let file = LoginFile::at(&path);
        assert_eq!(file.forget(&server("r.example")).unwrap(), Forgotten::Unknown);
        assert!(!path.exists());
        assert_eq!(file.keep(&server("r.example"), "me", &Secret::new("p:w")).unwrap(), Kept::File);
        assert_eq!(found(&file, "r.example", "a").as_deref(), Some("me:p:w"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let text =
            r#"{"proxies":{"default":{}},"auths":{"https://r.example/v2/":{"auth":"eDp5"}},"HttpHeaders":{"a":"b"}}"#;
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        // Another spelling of the same server holds no longer.
        assert_eq!(found(&file, "r.example", "a").as_deref(), Some("x:y"));
        file.keep(&server("r.example"), "me", &Secret::new("new")).unwrap();
        assert_eq!(found(&file, "r.example", "a").as_deref(), Some("me:new"));
        file.keep(&server("r.example/team"), "team", &Secret::new("t")).unwrap();
        file.keep(&server("docker.io"), "hub", &Secret::new("h")).unwrap();
        assert_eq!(mode(&path), 0o600);
        let servers: Vec<String> = file.servers().unwrap().iter().map(Server::to_string).collect();
        assert_eq!(servers, ["docker.io", "r.example", "r.example/team"]);
        assert_eq!(found(&file, "r.example", "team/app").as_deref(), Some("team:t"));
        assert_eq!(found(&file, "docker.io", "library/debian").as_deref(), Some("hub:h"));
        assert_eq!(file.forget(&server("r.example")).unwrap(), Forgotten::Removed);
        assert_eq!(found(&file, "r.example", "other"), None);
        let content: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&content["proxies"], &content["HttpHeaders"]["a"]), (&json!({"default": {}}), &json!("b")));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_broken_is_left_alone_and_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        for text in ["{hunter2", "[]", r#"{"auths":"hunter2"}"#, r#"{"credsStore":{"hunter2":1}}"#] {
            fs::write(&path, text).unwrap();
            let error = LoginFile::at(&path).keep(&server("r"), "u", &Secret::new("p")).unwrap_err().to_string();
            assert!(error.contains("config.json") && !error.contains("hunter2"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real.json"), directory.path().join("config.json"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        LoginFile::at(&link).keep(&server("r.example"), "u", &Secret::new("p")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("r.example"));
    }

    #[test]
    fn a_helper_keeps_the_password_and_the_file_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let helper = directory.path().join("docker-credential-vault");
        let log = directory.path().join("log");
        let script = format!("#!/bin/sh\n(echo \"$1\"; cat; echo) >> {}\n", log.display());
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, r#"{"credHelpers":{"r.example":"vault"}}"#).unwrap();
        let file = LoginFile::at(&path).with_helper_directory(directory.path());
        let kept = file.keep(&server("r.example"), "me", &Secret::new("hunter2")).unwrap();
        assert_eq!(kept, Kept::Helper("vault".to_owned()));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"r.example\": {}") && !text.contains("auth\":"), "{text}");
        assert_eq!(file.forget(&server("r.example")).unwrap(), Forgotten::Removed);
        let told = fs::read_to_string(&log).unwrap();
        let expected =
            "store\n{\"Secret\":\"hunter2\",\"ServerURL\":\"r.example\",\"Username\":\"me\"}\nerase\nr.example\n";
        assert_eq!(told, expected);
        assert!(file.keep(&server("r.example/team"), "me", &Secret::new("x")).is_err());
        assert_eq!(file.keep(&server("other.example"), "me", &Secret::new("x")).unwrap(), Kept::File);
        fs::write(&helper, "#!/bin/sh\necho locked; exit 1\n").unwrap();
        let error = file.keep(&server("r.example"), "me", &Secret::new("hunter2")).unwrap_err().to_string();
        assert!(error.contains("locked") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_file_is_the_one_that_is_looked_into_first() {
        let place = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
            LoginFile::of_environment(variable).ok().map(|file| file.path)
        };
        let home = ("HOME", "/h");
        assert_eq!(place(&[home]), Some("/h/.docker/config.json".into()));
        assert_eq!(place(&[home, ("DOCKER_CONFIG", "/d")]), Some("/d/config.json".into()));
        assert_eq!(place(&[home, ("DOCKER_CONFIG", "/d"), ("REGISTRY_AUTH_FILE", "/a.json")]), Some("/a.json".into()));
        assert_eq!(place(&[]), None);
    }
}
