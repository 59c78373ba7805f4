//! `type=gha`: the attributes of BuildKit's cache in GitHub's cache service, and what a workflow's environment says of it.

use std::time::Duration;

use super::super::storage::duration;
use super::{Asked, InvalidRequest};
use crate::cache::remote::Secret;
use crate::cache::remote::gha::{ActionsPlace, Version};
use crate::cli::args::Switch;
use crate::cli::environment::Environment;
use crate::registry::Url;

/// What GitHub's cache service is told with.
pub(super) const KEYS: &[&str] = &[
    "scope",
    "url",
    "url_v2",
    "token",
    "version",
    "timeout",
    // BuildKit lists keys with them; here each is asked for, which also keeps it.
    "repository",
    "ghtoken",
];

/// The name of a cache that got none.
const SCOPE: &str = "rbuild";

/// The longest name: a key has up to 512 letters, and a name's may take three each.
const LONGEST_SCOPE: usize = 128;

/// How long it is tried.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);

impl Asked<'_> {
    pub(super) fn actions(&self, environment: &Environment) -> Result<ActionsPlace, InvalidRequest> {
        let given = self.given;
        let scope = self.value("scope").unwrap_or(SCOPE).to_owned();
        if scope.len() > LONGEST_SCOPE {
            return Err(given.because(&format!("scope has more than {LONGEST_SCOPE} letters")));
        }
        let token = self.value("token").or(environment.variable("ACTIONS_RUNTIME_TOKEN")).map(Secret::new);
        let timeout = match self.value("timeout") {
            Some(text) => {
                duration(given.flag, text).map_err(|_| given.because("timeout is a time such as 90s or 10m"))?
            }
            None => TIMEOUT,
        };
        Ok(ActionsPlace { scope, service: self.service(environment)?, token, timeout })
    }

    /// The service's version and address, as BuildKit's client finds them.
    fn service(&self, environment: &Environment) -> Result<Option<(Version, Url)>, InvalidRequest> {
        let given = self.given;
        let wanted = match self.value("version") {
            None => None,
            Some("1") => Some(Version::One),
            Some("2") => Some(Version::Two),
            Some(_) => return Err(given.because("version is 1 or 2")),
        };
        let says_two = environment
            .variable("ACTIONS_CACHE_SERVICE_V2")
            .is_some_and(|value| value.parse().is_ok_and(Switch::is_on));
        let results = environment.variable("ACTIONS_RESULTS_URL");
        let (first, second) = (self.value("url"), self.value("url_v2"));
        let second = second.or(if wanted == Some(Version::Two) { first } else { None });
        let of_environment = first.is_none() && (says_two || wanted == Some(Version::Two));
        let second = second.or(results.filter(|_| of_environment)).filter(|_| wanted != Some(Version::One));
        let found = match second {
            Some(url) => Some((Version::Two, url)),
            None if wanted == Some(Version::Two) => None,
            None => match first.or(environment.variable("ACTIONS_CACHE_URL")) {
                // GitHub's own speaks the second version alone.
                Some(url) if wanted.is_none() && url.contains("results-receiver.actions.githubusercontent.com") => {
                    Some((Version::Two, url))
                }
                Some(url) => Some((Version::One, url)),
                None => results.map(|url| (wanted.unwrap_or(Version::Two), url)),
            },
        };
        let parsed = |(version, url): (Version, &str)| match Url::parse(url) {
            Some(url) => Ok((version, url)),
            None => Err(given.because("the address of the cache service is no http or https address")),
        };
        found.map(parsed).transpose()
    }
}
