//! Who may write which cache: domains, and pull requests.
//!
//! Whoever may write a cache can choose what its readers build. A pull request runs what anybody has sent, so what it makes
//! must not get into the cache that the main branch reads.

use super::{CacheTarget, Given, InvalidRequest, Place};
use crate::cache::remote::gha::ActionsPlace;
use crate::cache::remote::s3::BucketPlace;
use crate::cli::environment::Environment;

/// A part of a cache that one kind of builds writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain(String);

/// Longest tag (distribution-spec).
const LONGEST_TAG: usize = 128;

impl Domain {
    pub(super) fn parse(text: &str) -> Result<Domain, InvalidRequest> {
        let given = Given { flag: "--cache-domain", value: text, expected: "letters, digits, `.`, `_` and `-`" };
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
        match !text.is_empty() && text.chars().all(is_allowed) {
            true => Ok(Domain(text.to_owned())),
            false => Err(given.invalid()),
        }
    }

    /// The domain's own part of a cache.
    pub(super) fn part(&self, place: &Place) -> Result<Place, InvalidRequest> {
        let given = Given { flag: "--cache-domain", value: &self.0, expected: "a shorter name" };
        let tag = |tag: &str| {
            let tag = format!("{tag}-{}", self.0);
            if tag.len() > LONGEST_TAG { Err(given.invalid()) } else { Ok(tag) }
        };
        Ok(match place {
            Place::Registry(name) => {
                let tag = tag(name.tag().unwrap_or("latest"))?;
                let text = format!("{}/{}:{tag}", name.registry(), name.repository());
                Place::Registry(super::reference("--cache-domain", &text)?)
            }
            Place::Directory { path, tag: plain, .. } => {
                Place::Directory { path: path.clone(), tag: tag(plain)?, digest: None }
            }
            Place::Bucket(place) => {
                let own = |name: &String| format!("{name}-{}", self.0);
                let (name, more_names) = (own(&place.name), place.more_names.iter().map(own).collect());
                Place::Bucket(Box::new(BucketPlace { name, more_names, ..BucketPlace::clone(place) }))
            }
            Place::Actions(place) => {
                let scope = format!("{}-{}", place.scope, self.0);
                Place::Actions(Box::new(ActionsPlace { scope, ..ActionsPlace::clone(place) }))
            }
        })
    }

    /// The caches to read: of each the domain's own part, then the whole. What is named by its digest is only itself.
    pub(super) fn reads(&self, places: &[Place]) -> Result<Vec<Place>, InvalidRequest> {
        let mut all = Vec::new();
        for place in places {
            let is_fixed = match place {
                Place::Registry(name) => name.digest().is_some(),
                Place::Directory { digest, .. } => digest.is_some(),
                Place::Bucket(_) | Place::Actions(_) => false,
            };
            if !is_fixed {
                all.push(self.part(place)?);
            }
            all.push(place.clone());
        }
        Ok(all)
    }

    /// The caches to write: the domain's own part of each.
    pub(super) fn writes(&self, targets: &mut [CacheTarget]) -> Result<(), InvalidRequest> {
        for target in targets {
            if let CacheTarget::Place { place, .. } = target {
                *place = self.part(place)?;
            }
        }
        Ok(())
    }
}

/// Whether caches are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    Auto,
    Always,
    Never,
}

impl Writing {
    pub(super) fn parse(text: &str) -> Result<Writing, InvalidRequest> {
        match text {
            "auto" | "" => Ok(Writing::Auto),
            "always" => Ok(Writing::Always),
            "never" => Ok(Writing::Never),
            value => Err(Given { flag: "--cache-write", value, expected: "auto, always or never" }.invalid()),
        }
    }
}

/// How a CI tells that what it runs was sent as a pull request: a variable, and what it has then.
const PULL_REQUESTS: &[(&str, Told)] = &[
    // GitHub, Gitea, Forgejo. `pull_request_target` runs the workflow of the main branch, but often on what was sent.
    ("GITHUB_EVENT_NAME", Told::Begins("pull_request")),
    // GitLab.
    ("CI_MERGE_REQUEST_ID", Told::Anything),
    ("CI_EXTERNAL_PULL_REQUEST_IID", Told::Anything),
    // Jenkins (multibranch), Azure Pipelines, Bitbucket, CircleCI, Drone, Woodpecker, Cirrus, Prow.
    ("CHANGE_ID", Told::Anything),
    ("SYSTEM_PULLREQUEST_PULLREQUESTID", Told::Anything),
    ("BITBUCKET_PR_ID", Told::Anything),
    ("CIRCLE_PULL_REQUEST", Told::Anything),
    ("DRONE_PULL_REQUEST", Told::Anything),
    ("CI_COMMIT_PULL_REQUEST", Told::Anything),
    ("CIRRUS_PR", Told::Anything),
    ("PULL_NUMBER", Told::Anything),
    // Travis, Buildkite.
    ("TRAVIS_PULL_REQUEST", Told::Anything),
    ("BUILDKITE_PULL_REQUEST", Told::Anything),
];

#[derive(Clone, Copy)]
enum Told {
    /// Any value but `false`.
    Anything,
    Begins(&'static str),
}

/// The variable that says that this is a pull request's build.
pub(super) fn pull_request(environment: &Environment) -> Option<String> {
    PULL_REQUESTS.iter().find_map(|(name, told)| {
        let value = environment.variable(name)?;
        let is_told = match told {
            Told::Anything => value != "false",
            Told::Begins(start) => value.starts_with(start),
        };
        is_told.then(|| format!("{name}={value}"))
    })
}
