//! What Amazon's own files say: `~/.aws/credentials` and `~/.aws/config`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::secret::{Secret, Variables};
use super::super::storage::RemoteError;
use super::signature::Keys;

/// A profile of the files.
pub(super) struct Profile {
    name: String,
    /// The one who names a profile that is nowhere has to be told.
    is_asked_for: bool,
    settings: BTreeMap<String, String>,
}

/// Settings that lead to keys in ways that are not taken here.
const ELSEWHERE: &[&str] = &["credential_process", "sso_session", "sso_start_url", "role_arn", "login_session"];

impl Profile {
    /// Reads the profile that the environment names.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub(super) fn read(variables: &Variables) -> Result<Profile, RemoteError> {
        let asked = variables.value("AWS_PROFILE").or(variables.value("AWS_DEFAULT_PROFILE"));
        let name = asked.unwrap_or("default");
        let path = |variable: &str, file: &str| {
            let home = || Some(Path::new(variables.value("HOME")?).join(".aws").join(file));
            let named = variables.value(variable).map(PathBuf::from);
            let is_named = named.is_some() || asked.is_some();
            Some((named.or_else(home)?, is_named))
        };
        let mut settings = BTreeMap::new();
        // The credentials' file wins, as it does for Amazon's tools.
        let files = [path("AWS_CONFIG_FILE", "config"), path("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
        for (path, is_named) in files.into_iter().flatten() {
            match std::fs::read_to_string(&path) {
                Ok(text) => settings.extend(section(&text, name)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // Another's home, as in a container with a user of its own: nobody asked for what is in there.
                Err(error)
                    if !is_named && matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotADirectory) => {}
                Err(source) => {
                    return Err(RemoteError::Io { action: "read", path: path.display().to_string(), source });
                }
            }
        }
        Ok(Profile { name: name.to_owned(), is_asked_for: asked.is_some(), settings })
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The region that it names.
    pub(super) fn region(&self) -> Option<&str> {
        self.value("region")
    }

    /// The address of the service that it names.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.value("endpoint_url")
    }

    /// The keys that are in it.
    ///
    /// # Errors
    /// It was asked for by name and has none, or leads to them in a way that is not taken.
    pub(super) fn keys(&self) -> Result<Option<Keys>, RemoteError> {
        if let (Some(id), Some(secret)) = (self.value("aws_access_key_id"), self.value("aws_secret_access_key")) {
            let session = self.value("aws_session_token").map(Secret::new);
            return Ok(Some(Keys { id: id.to_owned(), secret: Secret::new(secret), session }));
        }
        let name = &self.name;
        if let Some(setting) = ELSEWHERE.iter().find(|setting| self.value(setting).is_some()) {
            return Err(RemoteError::Credentials {
                reason: format!(
                    "the profile {name} has {setting}, which rbuild does not follow; put keys into the environment: \
                     eval \"$(aws configure export-credentials --profile {name} --format env)\""
                ),
            });
        }
        match self.is_asked_for {
            true => Err(RemoteError::Credentials {
                reason: format!("the profile {name}, which AWS_PROFILE names, has no keys in ~/.aws/credentials"),
            }),
            false => Ok(None),
        }
    }
}

/// The settings of a profile: `[name]`, or `[profile name]` as the config's file has it.
fn section(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut is_meant = false;
    for line in text.lines() {
        if let Some(title) = line.trim_end().strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let title = title.trim();
            is_meant = title.strip_prefix("profile").map_or(title, str::trim) == name || title == name;
            continue;
        }
        // What is set further in belongs to a setting (`s3 =`), and is not ours.
        let is_plain = !line.starts_with([' ', '\t', '#', ';']);
        if is_meant
            && is_plain
            && let Some((key, value)) = line.split_once('=')
        {
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(variables: &[(&str, &str)], config: &str, credentials: &str) -> Profile {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/config"), config).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
        let home = home.path().to_str().unwrap();
        Profile::read(&Variables::new(variables.iter().copied().chain([("HOME", home)]))).unwrap()
    }

    #[test]
    fn a_profile_is_read_from_both_files() {
        let config =
            "[default]\nregion = eu-west-1\ns3 =\n  region = no\n# region = no\n[profile ci]\nregion=us-west-2\n";
        let credentials =
            "[ci]\naws_access_key_id = ID\naws_secret_access_key=se=cret\naws_session_token = T\n[default]\n";
        let found = profile(&[("AWS_PROFILE", "ci")], config, credentials);
        assert_eq!(found.region(), Some("us-west-2"));
        let keys = Keys { id: "ID".into(), secret: Secret::new("se=cret"), session: Some(Secret::new("T")) };
        assert_eq!(found.keys().unwrap(), Some(keys));
        let found = profile(&[], config, credentials);
        assert_eq!(found.region(), Some("eu-west-1"));
        assert_eq!(found.keys().unwrap(), None);
    }

    #[test]
    fn what_is_not_followed_is_said() {
        let says = |variables: &[(&str, &str)], config: &str| {
            profile(variables, config, "").keys().map(drop).unwrap_err().to_string()
        };
        let text = says(&[], "[default]\nrole_arn = arn:x\nsource_profile = other\n");
        assert!(text.contains("role_arn") && text.contains("aws configure export-credentials"), "{text}");
        assert!(says(&[("AWS_PROFILE", "none")], "").contains("the profile none"));
    }
}
