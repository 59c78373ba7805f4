//! Where names lead: mirrors, other locations, blocked and insecure registries, short names, as `registries.conf` (version
//! 2, containers-registries.conf(5)) and `--registry-mirror` say.
//!
//! Contract: pure. A push goes to the registry that its name has; a pull asks the mirrors first, in their order, and the
//! registry itself last. The files are read by `configuration`.
//!
//! A short name (`debian`) means Docker Hub, as in BuildKit, unless an alias says otherwise, or the list of registries to
//! search has one entry. Podman tries a longer list one after the other, or asks. Here a list with `docker.io` means
//! docker.io, for that is what who wrote the Dockerfile meant, and a longer list without it is an error: whoever could
//! register the name in the first of them would decide what is built.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::image::reference::{DEFAULT_REGISTRY, InvalidReference, Reference};

/// All that is said about registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    pub(super) rules: Vec<Rule>,
    /// From the command line: registry and mirror. They come before the mirrors of any rule.
    pub(super) mirrors: Vec<(String, Mirror)>,
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) search: Vec<String>,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Host, or host and the start of a path, or `*.domain`.
    pub prefix: String,
    /// What stands in place of the prefix; itself where `None`.
    pub location: Option<String>,
    pub insecure: bool,
    pub blocked: bool,
    pub mirrors: Vec<Mirror>,
    pub file: PathBuf,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    pub location: String,
    pub insecure: bool,
    pub pulls: Pulls,
}

/// What a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulls {
    All,
    ByDigest,
    ByTag,
}

/// How something is named that is to be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    Tag,
    Digest,
}

/// Says why `registries.conf` leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistriesError {
    /// A file cannot be read, or says something that nobody understands.
    #[error("read {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry must not be used.
    #[error("access {name}: {} blocks {prefix}", path.display())]
    Blocked {
        /// The image.
        name: String,
        /// What is blocked.
        prefix: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// A short name could be several images.
    #[error("{name} could be {}; write the one that is meant, or give it an alias in registries.conf", candidates.join(" or "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What it could be.
        candidates: Vec<String>,
    },
    /// With the prefix replaced it is no name any more.
    #[error("follow registries.conf: {0}")]
    Name(#[from] InvalidReference),
}

impl Registries {
    /// Adds a mirror (host, or host and path) that is asked before all others for what `registry` has.
    pub fn add_mirror(&mut self, registry: &str, mirror: &str) {
        let mirror = Mirror { location: mirror.to_owned(), insecure: false, pulls: Pulls::All };
        self.mirrors.push((registry.to_owned(), mirror));
    }

    fn rule(&self, reference: &Reference) -> Option<(&Rule, usize)> {
        let name = reference.name();
        let matching = self.rules.iter().filter_map(|rule| Some((rule, matched(&name, &rule.prefix)?)));
        matching.max_by_key(|(rule, _)| rule.prefix.len())
    }

    /// Refuses what must not be used.
    pub(super) fn allow(&self, reference: &Reference) -> Result<(), RegistriesError> {
        match self.rule(reference) {
            Some((rule, _)) if rule.blocked => Err(RegistriesError::Blocked {
                name: reference.to_string(),
                prefix: rule.prefix.clone(),
                path: rule.file.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Where to pull from, in this order; never empty.
    pub(super) fn sources(&self, reference: &Reference, naming: Naming) -> Result<Vec<Reference>, RegistriesError> {
        self.allow(reference)?;
        let name = reference.name();
        let is_asked = |mirror: &&Mirror| match mirror.pulls {
            Pulls::All => true,
            Pulls::ByDigest => naming == Naming::Digest,
            Pulls::ByTag => naming == Naming::Tag,
        };
        let flags = self.mirrors.iter().filter(|(registry, _)| registry == reference.registry());
        let mut found = Vec::new();
        for (registry, mirror) in flags {
            found.push(reference.relocated(&format!("{}{}", mirror.location, &name[registry.len()..]))?);
        }
        if let Some((rule, end)) = self.rule(reference) {
            for mirror in rule.mirrors.iter().filter(is_asked) {
                found.push(reference.relocated(&format!("{}{}", mirror.location, &name[end..]))?);
            }
            if let Some(location) = &rule.location {
                found.push(reference.relocated(&format!("{location}{}", &name[end..]))?);
                return Ok(found);
            }
        }
        found.push(reference.clone());
        Ok(found)
    }

    /// Whether a certificate does not matter there, or there need be none: what the longest location or prefix that the
    /// name begins with says.
    pub(super) fn is_insecure(&self, reference: &Reference) -> bool {
        let name = reference.name();
        let rules = self.rules.iter().flat_map(|rule| {
            let own = [Some(&rule.prefix), rule.location.as_ref()];
            let own = own.into_iter().flatten().map(|place| (place, rule.insecure));
            own.chain(rule.mirrors.iter().map(|mirror| (&mirror.location, mirror.insecure)))
        });
        let matching = rules.filter(|(place, _)| matched(&name, place).is_some());
        matching.max_by_key(|(place, insecure)| (place.len(), *insecure)).is_some_and(|(_, insecure)| insecure)
    }

    /// The name in full that a short one stands for; others are what they are.
    pub(super) fn full_name(&self, reference: &Reference) -> Result<Reference, RegistriesError> {
        let Some(short) = reference.short_name() else { return Ok(reference.clone()) };
        if let Some(full) = self.aliases.get(short) {
            return Ok(reference.relocated(full)?);
        }
        match self.search.as_slice() {
            [] => Ok(reference.clone()),
            search if search.iter().any(|registry| registry == DEFAULT_REGISTRY) => Ok(reference.clone()),
            [only] => Ok(reference.relocated(&format!("{only}/{short}"))?),
            several => Err(RegistriesError::Ambiguous {
                name: short.to_owned(),
                candidates: several.iter().map(|registry| format!("{registry}/{short}")).collect(),
            }),
        }
    }
}

/// Where in a name a prefix ends that it has; a prefix ends with a component.
fn matched(name: &str, prefix: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(domain) => {
            let start = name.find(domain).filter(|start| *start > 0 && !name[..*start].contains('/'))?;
            start + domain.len()
        }
        None => name.starts_with(prefix).then_some(prefix.len())?,
    };
    (end == name.len() || name[end..].starts_with('/')).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::super::configuration::parsed;
    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn sources(text: &str, name: &str, naming: Naming) -> Vec<String> {
        let found = parsed(text).unwrap().sources(&reference(name), naming).unwrap();
        found.iter().map(Reference::to_string).collect()
    }

    #[test]
    fn a_pull_asks_the_mirrors_in_order_and_the_registry_last() {
        let text = r#"
            [[registry]]
            prefix = "docker.io"
            location = "hub.example/proxied"
            [[registry.mirror]]
            location = "one.example:5000"
            [[registry.mirror]]
            location = "two.example/by/digest"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "three.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "docker.io/team"
        "#;
        assert_eq!(
            sources(text, "debian:12", Naming::Tag),
            [
                "one.example:5000/library/debian:12",
                "three.example/library/debian:12",
                "hub.example/proxied/library/debian:12"
            ]
        );
        assert_eq!(
            sources(text, "debian:12", Naming::Digest),
            [
                "one.example:5000/library/debian:12",
                "two.example/by/digest/library/debian:12",
                "hub.example/proxied/library/debian:12"
            ]
        );
        assert_eq!(sources(text, "team/app", Naming::Tag), ["docker.io/team/app"], "the longest prefix alone counts");
        assert_eq!(sources(text, "other.example/a", Naming::Tag), ["other.example/a"]);
    }

    #[test]
    fn mirrors_of_the_command_line_come_first() {
        let mut registries = parsed("[[registry]]\nlocation=\"docker.io/library\"\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation=\"m.example/l\"").unwrap();
        registries.add_mirror("docker.io", "flag.example/hub");
        let names = |naming| -> Vec<String> {
            let found = registries.sources(&reference("debian"), naming).unwrap();
            found.iter().map(Reference::to_string).collect()
        };
        assert_eq!(names(Naming::Tag), ["flag.example/hub/library/debian", "docker.io/library/debian"]);
        assert_eq!(
            names(Naming::Digest),
            ["flag.example/hub/library/debian", "m.example/l/debian", "docker.io/library/debian"]
        );
    }

    #[test]
    fn a_prefix_ends_with_a_component() {
        for (name, prefix, end) in [
            ("a.example/team/app", "a.example", Some(9)),
            ("a.example/team/app", "a.example/team", Some(14)),
            ("a.example/teamwork", "a.example/team", None),
            ("a.example:5000/x", "a.example", None),
            ("b.a.example/x", "*.a.example", Some(11)),
            ("c.b.a.example/x", "*.a.example/x", Some(15)),
            ("a.example/x", "*.a.example", None),
            ("other.example/b.a.example/x", "*.a.example", None),
        ] {
            assert_eq!(matched(name, prefix), end, "{name} {prefix}");
        }
    }

    #[test]
    fn what_is_blocked_or_insecure_is_so_as_far_as_its_prefix_reaches() {
        let text = r#"
            [[registry]]
            location = "bad.example"
            blocked = true
            [[registry]]
            location = "bad.example/good"
            [[registry]]
            location = "lab.example"
            insecure = true
            [[registry]]
            location = "lab.example/safe"
            [[registry.mirror]]
            location = "mirror.example"
            insecure = true
        "#;
        let registries = parsed(text).unwrap();
        let error = registries.sources(&reference("bad.example/x"), Naming::Tag).unwrap_err();
        assert!(error.to_string().contains("blocks bad.example"), "{error}");
        assert!(registries.sources(&reference("bad.example/good/x"), Naming::Tag).is_ok());
        for (name, insecure) in [
            ("lab.example/x", true),
            ("lab.example/safe/x", false),
            ("mirror.example/x", true),
            ("bad.example/x", false),
            ("x", false),
        ] {
            assert_eq!(registries.is_insecure(&reference(name)), insecure, "{name}");
        }
    }

    #[test]
    fn a_short_name_means_docker_hub_unless_the_file_leaves_no_doubt() {
        let full = |text: &str, name: &str| {
            parsed(text)
                .unwrap()
                .full_name(&reference(name))
                .map(|found| found.to_string())
                .map_err(|error| error.to_string())
        };
        let aliases = "[aliases]\n\"fedora\"=\"registry.example/fedora\"\n\"a/b\"=\"quay.io/a/b\"\n\"gone\"=\"\"";
        for (text, name, expected) in [
            ("", "debian:12", "docker.io/library/debian:12"),
            (aliases, "fedora:42", "registry.example/fedora:42"),
            (aliases, "docker.io/library/fedora:42", "docker.io/library/fedora:42"),
            (aliases, "a/b", "quay.io/a/b"),
            (aliases, "gone", "docker.io/library/gone"),
            ("unqualified-search-registries=[\"r.example\"]", "x/y:1", "r.example/x/y:1"),
            ("unqualified-search-registries=[\"r.example\", \"docker.io\"]", "x", "docker.io/library/x"),
            ("unqualified-search-registries=[]", "x", "docker.io/library/x"),
        ] {
            assert_eq!(full(text, name).as_deref(), Ok(expected), "{text} {name}");
        }
        let error = full("unqualified-search-registries=[\"a.example\", \"b.example\"]", "x").unwrap_err();
        assert_eq!(
            error,
            "x could be a.example/x or b.example/x; write the one that is meant, or give it an alias in registries.conf"
        );
    }
}
