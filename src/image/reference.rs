//! Image references: `[registry/]repository[:tag][@digest]`, with Docker's rules for what is left out.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::digest::Digest;

/// The registry that a name without one means, as people and `config.json` write it.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// The most characters of a repository in full (`RepositoryNameTotalLengthMax`).
const LONGEST_REPOSITORY: usize = 255;

/// A reference, resolved to registry and repository (distribution/reference grammar).
///
/// Two are equal that name the same: `app` and `docker.io/library/app`.
#[derive(Clone)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    form: Form,
}

/// How a reference was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Without a registry: what it stands for is, in the end, for `registries.conf` to say.
    Short,
    Full,
}

impl Reference {
    /// All but how it was written.
    fn parts(&self) -> (&str, &str, Option<&str>, Option<Digest>) {
        (&self.registry, &self.repository, self.tag.as_deref(), self.digest)
    }
}

impl PartialEq for Reference {
    fn eq(&self, other: &Reference) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Reference {}

impl PartialOrd for Reference {
    fn partial_cmp(&self, other: &Reference) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reference {
    fn cmp(&self, other: &Reference) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl Hash for Reference {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// Says why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct InvalidReference {
    /// The text as it was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// Host and port (`docker.io`, `localhost:5000`, `[::1]:5000`).
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in full (`library/debian`).
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository: `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The repository as it was written without a registry; `None` where one was given.
    pub fn short_name(&self) -> Option<&str> {
        let short = self.repository.strip_prefix("library/").unwrap_or(&self.repository);
        (self.form == Form::Short).then_some(short)
    }

    /// The same tag and digest of another repository: host and path in full.
    pub fn relocated(&self, name: &str) -> Result<Reference, InvalidReference> {
        let invalid = |reason| InvalidReference { text: name.to_owned(), reason };
        let (registry, path) = name.split_once('/').ok_or(invalid("it has no registry"))?;
        Reference::checked(registry, path).map_err(invalid).map(|found| Reference {
            tag: self.tag.clone(),
            digest: self.digest,
            ..found
        })
    }

    /// The tag as written; none where only a digest or nothing was.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest as written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The tag or digest to ask a registry for: the digest wins, `latest` where neither was given.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The same repository at a digest.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), ..self.clone() }
    }

    /// The same with `latest` where there is neither tag nor digest.
    pub fn with_default_tag(&self) -> Reference {
        let mut reference = self.clone();
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".to_owned());
        }
        reference
    }

    /// The short form that people type: `debian:12` for `docker.io/library/debian:12`. Unlike Docker's it always means the
    /// same image: `docker.io/a.b/c` stays in full, as `a.b/c` is in the registry `a.b`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else { return full };
        match rest.split_once('/') {
            // Alone, what looks like an id would be read as one.
            Some(("library", name))
                if !name.contains('/') && !self.repository().strip_prefix("library/").is_some_and(is_id) =>
            {
                name.to_owned()
            }
            Some((first, _)) if is_host(first) => full,
            _ => rest.to_owned(),
        }
    }
}

/// Whether a name is one that Docker takes for the id of an image.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Reference {
    /// A registry and a repository in it, if they are such.
    fn checked(registry: &str, path: &str) -> Result<Reference, &'static str> {
        let registry =
            if matches!(registry, "index.docker.io" | "registry-1.docker.io") { DEFAULT_REGISTRY } else { registry };
        if !registry_is_valid(registry) {
            return Err("the registry is no host[:port]");
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("the repository must be lower-case");
        }
        if !path.split('/').all(is_path_component) {
            return Err(
                "a repository is made of lower-case letters and digits, separated by '/', '.', '_', '__' or '-'",
            );
        }
        if is_id(path) {
            return Err("64 hexadecimal characters are an image id, not a name");
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if repository.len() > LONGEST_REPOSITORY {
            return Err("a repository is at most 255 characters long, library/ included");
        }
        Ok(Reference { registry: registry.to_owned(), repository, tag: None, digest: None, form: Form::Full })
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference")
            .field("registry", &self.registry)
            .field("repository", &self.repository)
            .field("tag", &self.tag)
            .field("digest", &self.digest)
            .finish()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Reference, InvalidReference> {
        let invalid = |reason| InvalidReference { text: text.to_owned(), reason };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (
                name,
                Some(digest.parse().map_err(|_| invalid("the digest must be sha256: and 64 hexadecimal characters"))?),
            ),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') && !tag.contains(']') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("a tag is up to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'"));
        }
        let (registry, path, form) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path, Form::Full),
            _ => (DEFAULT_REGISTRY, name, Form::Short),
        };
        let found = Reference::checked(registry, path).map_err(invalid)?;
        Ok(Reference { tag: tag.map(str::to_owned), digest, form, ..found })
    }
}

/// The first component is a host when it could not be a path: it has a dot, a port, capitals, or is `localhost`.
fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn registry_is_valid(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => match registry.find(':') {
            Some(at) => registry.split_at(at),
            None => (registry, ""),
        },
    };
    let port_is_valid = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    let label_is_valid = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    port_is_valid && host.split('.').all(label_is_valid)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_are_valid =
        component.bytes().next().is_some_and(alphanumeric) && component.bytes().last().is_some_and(alphanumeric);
    let separators_are_valid = component
        .split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'));
    ends_are_valid && separators_are_valid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_as_docker_does() {
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("me/app", "docker.io/me/app", "me/app"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("[::1]:5000/a:t", "[::1]:5000/a:t", "[::1]:5000/a:t"),
            ("ghcr.io/x/y_z/a--b", "ghcr.io/x/y_z/a--b", "ghcr.io/x/y_z/a--b"),
            ("index.docker.io/library/x", "docker.io/library/x", "x"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("docker.io/a.b/c", "docker.io/a.b/c", "docker.io/a.b/c"),
            ("docker.io/localhost/c", "docker.io/localhost/c", "docker.io/localhost/c"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar), "{text}");
        }
        let digest = format!("debian:12@sha256:{}", "a".repeat(64));
        assert_eq!(digest.parse::<Reference>().unwrap().version(), format!("sha256:{}", "a".repeat(64)));
    }

    #[test]
    fn what_names_the_same_is_equal_however_it_is_written() {
        let [short, full]: [Reference; 2] = ["app", "docker.io/library/app"].map(|text| text.parse().unwrap());
        assert_eq!(short, full);
        assert_eq!(std::collections::HashSet::from([short.clone(), full.clone()]).len(), 1);
        assert_eq!(std::collections::BTreeSet::from([short.clone(), full]).len(), 1);
        assert_ne!(short, "localhost/app".parse().unwrap());
        assert_ne!(short, short.with_default_tag());
    }

    #[test]
    fn a_reference_moves_to_another_place_with_its_tag() {
        let reference: Reference = "debian:12".parse().unwrap();
        assert_eq!((reference.name().as_str(), reference.short_name()), ("docker.io/library/debian", Some("debian")));
        assert_eq!("docker.io/library/debian".parse::<Reference>().unwrap().short_name(), None);
        let moved = reference.relocated("mirror/hub/library/debian").unwrap();
        assert_eq!((moved.to_string().as_str(), moved.short_name()), ("mirror/hub/library/debian:12", None));
        for name in ["mirror", "", "mirror/", "a b/c", "mirror/Debian"] {
            assert!(reference.relocated(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_longest_name_is_counted_with_its_library() {
        let fits: Reference = "a".repeat(255 - "library/".len()).parse().unwrap();
        assert_eq!(fits.to_string().parse::<Reference>().unwrap().to_string(), fits.to_string());
        assert!("a".repeat(256 - "library/".len()).parse::<Reference>().is_err());
        assert!(format!("localhost/{}", "a".repeat(255)).parse::<Reference>().is_ok());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "Debian",
            ":12",
            "a:",
            "a:-x",
            "a//b",
            "a/_b",
            "a___b",
            "a@sha256:12",
            "bad_host.io-/x",
            "x:99999/y",
            "../x",
            &"a".repeat(64),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
