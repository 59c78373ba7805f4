//! `type=s3`: the attributes of BuildKit's cache in S3, and what the environment says of Amazon.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::super::storage::duration;
use super::{Asked, InvalidRequest};
use crate::cache::remote::s3::{BucketPlace, Keys, Style};
use crate::cache::remote::{Secret, Variables};
use crate::cli::environment::Environment;
use crate::registry::Url;

/// What a bucket is told with.
pub(super) const KEYS: &[&str] = &[
    "bucket",
    "region",
    "endpoint_url",
    "use_path_style",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "upload_parallelism",
    "touch_refresh",
    // What they change in Amazon's library is as it should be here.
    "disable_accept_encoding",
    "retry_mode",
    "retry_max_attempts",
];

/// The name of a cache that got none.
const NAME: &str = "rbuild";

/// How old an object becomes before it is touched.
const TOUCH_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// How many blobs are sent at a time.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// The most of them: each may have a part in memory.
const MOST: usize = 64;

impl Asked<'_> {
    pub(super) fn bucket(&self, environment: &Environment) -> Result<BucketPlace, InvalidRequest> {
        let given = self.given;
        let asked = |key: &str, variables: &[&str]| {
            let of_environment = || variables.iter().find_map(|name| environment.variable(name));
            self.value(key).or_else(of_environment).map(str::to_owned)
        };
        let is_named = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
        let bucket =
            asked("bucket", &["AWS_BUCKET"]).ok_or_else(|| given.because("type=s3 needs bucket=… (or AWS_BUCKET)"))?;
        if !bucket.chars().all(is_named) {
            return Err(given.because("bucket is a bucket's name: letters, digits, `.`, `_` and `-`"));
        }
        let endpoint = asked("endpoint_url", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let endpoint = endpoint.map(|text| {
            Url::parse(&text)
                .ok_or_else(|| given.because("endpoint_url (or AWS_ENDPOINT_URL) is no http or https address"))
        });
        let plain = |key: &str, default: &str| match self.fields.iter().rev().find(|(name, _)| name == key) {
            Some((_, value)) => value.clone(),
            None => default.to_owned(),
        };
        let names: Vec<String> = match self.value("name") {
            Some(names) => names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let mut names = names.into_iter();
        Ok(BucketPlace {
            bucket,
            region: asked("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
            endpoint: endpoint.transpose()?,
            style: if self.switch("use_path_style")? == Some(true) { Style::Path } else { Style::Host },
            prefix: plain("prefix", ""),
            blobs_prefix: plain("blobs_prefix", "blobs/"),
            manifests_prefix: plain("manifests_prefix", "manifests/"),
            name: names.next().unwrap_or_else(|| NAME.to_owned()),
            more_names: names.collect(),
            keys: self.keys_of_bucket()?,
            upload_parallelism: self.parallelism()?,
            touch_refresh: match self.value("touch_refresh") {
                Some(text) => duration(given.flag, text)
                    .map_err(|_| given.because("touch_refresh is a time such as 12h or 7d"))?,
                None => TOUCH_REFRESH,
            },
            variables: Variables::new(
                environment
                    .variables
                    .iter()
                    .filter(|(name, _)| name.starts_with("AWS_") || *name == "HOME")
                    .map(|(name, value)| (name.as_str(), value.as_str())),
            ),
        })
    }

    fn keys_of_bucket(&self) -> Result<Option<Keys>, InvalidRequest> {
        let session = self.value("session_token").map(Secret::new);
        match (self.value("access_key_id"), self.value("secret_access_key")) {
            (Some(id), Some(secret)) => Ok(Some(Keys { id: id.to_owned(), secret: Secret::new(secret), session })),
            (None, None) => Ok(None),
            _ => Err(self.given.because("access_key_id and secret_access_key belong together")),
        }
    }

    fn parallelism(&self) -> Result<NonZeroUsize, InvalidRequest> {
        let Some(text) = self.value("upload_parallelism") else { return Ok(PARALLELISM) };
        let number: Option<NonZeroUsize> = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MOST);
        number.ok_or_else(|| self.given.because(&format!("upload_parallelism is a number from 1 to {MOST}")))
    }
}
