//! Where keys for S3 come from: the order of Amazon's own tools, as far as it makes sense in a build.
//!
//! 1. `access_key_id` and `secret_access_key` of the cache itself;
//! 2. `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (`AWS_SESSION_TOKEN`);
//! 3. `AWS_WEB_IDENTITY_TOKEN_FILE` with `AWS_ROLE_ARN` (service accounts of Kubernetes, OIDC of a CI), traded at STS;
//! 4. a profile's keys (see `profile`);
//! 5. a container's (`AWS_CONTAINER_CREDENTIALS_*_URI`: ECS, Pod Identity of EKS);
//! 6. the machine's (version 2 of EC2's metadata service), unless `AWS_EC2_METADATA_DISABLED`.
//!
//! Not here: SSO, `credential_process`, roles that a profile assumes. `aws configure export-credentials` gives keys for each.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::super::secret::{Secret, Variables};
use super::super::storage::RemoteError;
use super::profile::Profile;
use super::signature::Keys;
use super::xml;
use crate::image::time;
use crate::registry::service::{Call, CallContent, Effort, Headers, Reply, Verb, presentable};
use crate::registry::{Client, Url, encode};

/// The largest answer of a service that gives keys, or file with a token.
const LIMIT: u64 = 64 << 10;

/// Keys that end sooner are asked for again.
const MARGIN: Duration = Duration::from_secs(300);

/// Hosts that a container's keys may come from in plain http: the addresses of ECS and EKS, and this machine.
const CONTAINER_HOSTS: &[&str] = &["169.254.170.2", "169.254.170.23", "fd00:ec2::23", "127.0.0.1", "::1", "localhost"];

/// Keys, and when they end.
#[derive(Clone)]
pub(super) struct Found {
    pub keys: Keys,
    end: Option<SystemTime>,
}

impl Found {
    pub(super) fn lasting(keys: Keys) -> Found {
        Found { keys, end: None }
    }

    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.end.is_none_or(|end| now + MARGIN < end)
    }

    /// Whether they have not ended.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.end.is_none_or(|end| now < end)
    }
}

fn refused(reason: impl Into<String>) -> RemoteError {
    RemoteError::Credentials { reason: reason.into() }
}

/// What is looked at for keys.
pub(super) struct Sources<'a> {
    pub client: &'a Client,
    pub variables: &'a Variables,
    pub region: &'a str,
}

impl Sources<'_> {
    /// Looks for keys.
    ///
    /// # Errors
    /// There are none, or a source that is named does not give them.
    pub(super) fn look(&self, profile: &Profile) -> Result<Found, RemoteError> {
        let value = |name| self.variables.value(name);
        if let (Some(id), Some(secret)) = (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY")) {
            let session = value("AWS_SESSION_TOKEN").map(Secret::new);
            return Ok(Found::lasting(Keys { id: id.to_owned(), secret: Secret::new(secret), session }));
        }
        if let (Some(file), Some(role)) = (value("AWS_WEB_IDENTITY_TOKEN_FILE"), value("AWS_ROLE_ARN")) {
            return self.of_identity(file, role);
        }
        if let Some(keys) = profile.keys()? {
            return Ok(Found::lasting(keys));
        }
        if let Some(found) = self.of_container()? {
            return Ok(found);
        }
        let none = || {
            refused(
                "no keys were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the machine",
            )
        };
        if value("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(none());
        }
        self.of_machine()?.ok_or_else(none)
    }

    /// Trades a token that somebody else has signed for keys of a role.
    fn of_identity(&self, file: &str, role: &str) -> Result<Found, RemoteError> {
        let token = read(file)?;
        let name = self.variables.value("AWS_ROLE_SESSION_NAME").unwrap_or("rbuild");
        let suffix = if self.region.starts_with("cn-") { ".cn" } else { "" };
        let default = format!("https://sts.{}.amazonaws.com{suffix}", self.region);
        let endpoint = self.variables.value("AWS_ENDPOINT_URL_STS").unwrap_or(&default);
        let address = Url::parse(endpoint).ok_or_else(|| refused("AWS_ENDPOINT_URL_STS is no address"))?;
        let body = format!(
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={}&RoleSessionName={}&WebIdentityToken={}",
            encode(role),
            encode(name),
            encode(&token)
        );
        let headers = || vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
        let call = Call { content: CallContent::Bytes(body.as_bytes()), ..asking(Verb::Post, &address, &headers) };
        let reply = self.client.call(&call)?;
        let status = reply.status();
        if !reply.is_success() {
            let text = reply.refusal();
            let said = xml::text(&text, "Message").unwrap_or_default();
            return Err(refused(format!("the role {role} is refused (status {status}): {}", presentable(&said))));
        }
        let text = String::from_utf8_lossy(&reply.bytes("keys of a role", LIMIT)?).into_owned();
        let field = |name| xml::text(&text, name).ok_or_else(|| refused(format!("the answer of STS has no {name}")));
        let keys = Keys {
            id: field("AccessKeyId")?,
            secret: Secret::new(field("SecretAccessKey")?),
            session: Some(Secret::new(field("SessionToken")?)),
        };
        Ok(Found { keys, end: moment(&field("Expiration")?) })
    }

    fn of_container(&self) -> Result<Option<Found>, RemoteError> {
        let value = |name| self.variables.value(name);
        let address =
            match (value("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), value("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
                (Some(path), _) => format!("http://169.254.170.2{path}"),
                (None, Some(address)) => address.to_owned(),
                (None, None) => return Ok(None),
            };
        let url = Url::parse(&address).ok_or_else(|| refused("AWS_CONTAINER_CREDENTIALS_FULL_URI is no address"))?;
        if address.starts_with("http:") && !CONTAINER_HOSTS.contains(&url.host()) {
            return Err(refused(format!("keys are not asked of {} over plain http", url.host())));
        }
        let token = match value("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => Some(read(file)?),
            None => value("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
        };
        let headers = || token.iter().map(|token| ("authorization", token.clone())).collect();
        let reply = self.client.call(&asking(Verb::Get, &url, &headers))?;
        given(reply, "the container's service").map(Some)
    }

    /// The role of the machine; `None` where there is nobody to ask, or no role.
    fn of_machine(&self) -> Result<Option<Found>, RemoteError> {
        let endpoint = self.variables.value("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or("http://169.254.169.254");
        let origin = Url::parse(endpoint).ok_or_else(|| refused("AWS_EC2_METADATA_SERVICE_ENDPOINT is no address"))?;
        let age = || vec![("x-aws-ec2-metadata-token-ttl-seconds", "300".to_owned())];
        let address = origin.with_target("/latest/api/token");
        let call = Call { effort: Effort::Glance, ..asking(Verb::Put, &address, &age) };
        let Some(token) = self.client.call(&call).ok().filter(Reply::is_success) else { return Ok(None) };
        let token = String::from_utf8_lossy(&token.bytes("a token", LIMIT)?).trim().to_owned();
        let headers = || vec![("x-aws-ec2-metadata-token", token.clone())];
        let roles = origin.with_target("/latest/meta-data/iam/security-credentials/");
        let reply = self.client.call(&asking(Verb::Get, &roles, &headers))?;
        if !reply.is_success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&reply.bytes("the machine's roles", LIMIT)?).into_owned();
        let Some(role) = text.lines().next().filter(|role| !role.is_empty()) else { return Ok(None) };
        let address = origin.with_target(&format!("{}{}", roles.path(), encode(role)));
        given(self.client.call(&asking(Verb::Get, &address, &headers))?, "the machine's service").map(Some)
    }
}

fn asking<'a>(verb: Verb, address: &'a Url, headers: &'a dyn Fn() -> Headers) -> Call<'a> {
    Call { verb, address, headers, content: CallContent::None, effort: Effort::Usual, passing: &[], task: None }
}

fn read(file: &str) -> Result<String, RemoteError> {
    let failed = |source| RemoteError::Io { action: "read", path: file.to_owned(), source };
    Ok(std::fs::read_to_string(file).map_err(failed)?.trim().to_owned())
}

/// A moment as Amazon writes it.
fn moment(text: &str) -> Option<SystemTime> {
    let seconds = u64::try_from(time::seconds(text)?).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The keys in the answer of a container's or a machine's service.
fn given(reply: Reply, whose: &str) -> Result<Found, RemoteError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Document {
        access_key_id: String,
        secret_access_key: String,
        token: Option<String>,
        expiration: Option<String>,
    }
    let status = reply.status();
    if !reply.is_success() {
        return Err(refused(format!("{whose} gives no keys (status {status})")));
    }
    let bytes = reply.bytes("keys", LIMIT)?;
    // The error of the parser is not shown: it may quote what it has read.
    let document: Document =
        serde_json::from_slice(&bytes).map_err(|_| refused(format!("{whose} gives something else than keys")))?;
    let (secret, session) = (Secret::new(document.secret_access_key), document.token.map(Secret::new));
    let keys = Keys { id: document.access_key_id, secret, session };
    Ok(Found { keys, end: document.expiration.as_deref().and_then(moment) })
}
