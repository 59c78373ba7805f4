//! Convinces one registry: answers its challenge with a password, or with a token from its token server.
//!
//! Contract: credentials are looked up when a registry asks for some, never before; they go to the registry and to the
//! token server that it names, over https (or where the registry itself is on plain http by the user's wish); tokens are
//! kept in memory until they expire.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use ureq::http::Method;

use super::answer::Answer;
use super::challenge::Challenge;
use super::credentials::{Credential, Credentials, Stored};
use super::error::RegistryError;
use super::http::{Body, Request, Transport};
use super::tls::Trust;
use super::url::{Scheme, Url, encode, is_loopback, is_private_literal};
use crate::progress::Task;

/// The largest answer of a token server.
const TOKEN_LIMIT: u64 = 1 << 20;

/// How long a token is good for that does not say (distribution's token specification).
const DEFAULT_LIFE: u64 = 60;

/// A token is not used in its last seconds: the request takes time, too.
const MARGIN: Duration = Duration::from_secs(10);

/// Sent with token requests.
const CLIENT_ID: &str = "rbuild";

/// What a request needs to be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub repository: String,
    scopes: Vec<String>,
}

impl Access {
    pub fn pull(repository: &str) -> Access {
        Access { repository: repository.to_owned(), scopes: vec![format!("repository:{repository}:pull")] }
    }

    /// Nothing but being let in.
    pub fn entry() -> Access {
        Access { repository: String::new(), scopes: Vec::new() }
    }

    pub fn push(repository: &str) -> Access {
        Access { repository: repository.to_owned(), scopes: vec![format!("repository:{repository}:pull,push")] }
    }

    /// Mounting reads one repository and writes another.
    pub fn mount(repository: &str, from: &str) -> Access {
        let mut access = Access::push(repository);
        access.scopes.push(format!("repository:{from}:pull"));
        access
    }
}

/// A value of the `Authorization` header.
pub(super) struct Authorization {
    pub header: String,
    /// Whether a refusal means that another try with the same credentials would be refused, too.
    pub is_final: bool,
}

#[derive(Clone)]
struct Token {
    header: String,
    good_until: Instant,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    tokens: HashMap<Vec<String>, Token>,
    credentials: BTreeMap<String, Option<Credential>>,
}

/// What is known about convincing one registry.
#[derive(Default)]
pub(super) struct Authority(Mutex<State>);

impl Authority {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Remembers what the registry asked for when it refused, and forgets the token that it refused.
    pub fn refused(&self, challenge: Challenge, used: Option<&Authorization>) {
        let mut state = self.state();
        if let Some(used) = used {
            state.tokens.retain(|_, token| token.header != used.header);
        }
        state.challenge = Some(challenge);
    }

    /// The header for a request; `None` before the registry asked for any, or where there is nothing to show.
    ///
    /// The lock is held while a token is fetched, so that four uploads that start at once fetch one.
    pub fn authorization(&self, asker: &Asker<'_>, access: &Access) -> Result<Option<Authorization>, RegistryError> {
        let mut state = self.state();
        let Some(challenge) = state.challenge.clone() else { return Ok(None) };
        let credential = match state.credentials.get(&access.repository) {
            Some(credential) => credential.clone(),
            None => {
                let found = asker.credentials.for_repository(asker.registry, &access.repository)?;
                state.credentials.insert(access.repository.clone(), found.clone());
                found
            }
        };
        let source = credential.as_ref().map(|credential| credential.source.clone());
        let stored = credential.map(|credential| credential.stored);
        if let Some(Stored::RegistryToken(token)) = &stored {
            let header = format!("Bearer {}", token.reveal());
            return Ok(Some(Authorization { header, is_final: true }));
        }
        let Challenge::Bearer { realm, service, scope } = challenge else {
            let header = stored.as_ref().and_then(basic);
            return Ok(header.map(|header| Authorization { header, is_final: true }));
        };
        if let Some(token) = state.tokens.get(&access.scopes).filter(|token| token.good_until > Instant::now()) {
            let header = token.header.clone();
            return Ok(Some(Authorization { header, is_final: false }));
        }
        let wanted = Wanted { realm: &realm, service: service.as_deref(), extra: scope.as_deref(), access };
        let token = asker.fetch(&wanted, stored.as_ref(), source)?;
        state.tokens.insert(access.scopes.clone(), token.clone());
        Ok(Some(Authorization { header: token.header, is_final: true }))
    }

    /// Whether the registry wanted to be convinced.
    pub fn was_asked(&self) -> bool {
        self.state().challenge.is_some()
    }

    /// Where the credentials for a repository came from, if they were looked up and found.
    pub fn source(&self, repository: &str) -> Option<String> {
        self.state().credentials.get(repository)?.as_ref().map(|credential| credential.source.clone())
    }
}

fn basic(stored: &Stored) -> Option<String> {
    match stored {
        Stored::Password { username, password } => {
            let text = format!("{username}:{}", password.reveal());
            Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)))
        }
        Stored::IdentityToken(_) | Stored::RegistryToken(_) => None,
    }
}

/// Asks the token server on behalf of a registry.
pub(super) struct Asker<'a> {
    pub transport: &'a Transport,
    pub credentials: &'a Credentials,
    pub registry: &'a str,
    /// How the registry itself is spoken to.
    pub origin: &'a Url,
    pub trust: Trust,
    pub task: Option<&'a Task>,
}

struct Wanted<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    /// The scope that the registry named.
    extra: Option<&'a str>,
    access: &'a Access,
}

impl Wanted<'_> {
    /// Ours, and what the registry asks for beside repositories (`aws`, `registry:catalog:*`). Its wish for the
    /// repository at hand is not added: it names what the refused request needed, which ours covers.
    fn scopes(&self) -> Vec<&str> {
        let own = self.access.scopes.iter().map(String::as_str);
        let extra = self.extra.unwrap_or_default().split_ascii_whitespace();
        own.chain(extra.filter(|scope| !scope.starts_with("repository:"))).collect()
    }
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Asker<'_> {
    fn fetch(
        &self,
        wanted: &Wanted<'_>,
        stored: Option<&Stored>,
        source: Option<String>,
    ) -> Result<Token, RegistryError> {
        let realm = self.realm(wanted.realm)?;
        let asked_at = Instant::now();
        let answer = match stored {
            Some(Stored::IdentityToken(token)) => self.exchange_identity(&realm, wanted, token.reveal())?,
            stored => self.ask(&realm, wanted, stored)?,
        };
        let answer = self.accepted(answer, wanted, source)?;
        let told = answer.token.or(answer.access_token).unwrap_or_default();
        let sendable = |byte: u8| byte.is_ascii_graphic();
        if told.is_empty() || !told.bytes().all(sendable) {
            return Err(Request::new(Method::GET, realm).invalid("the token server gave no token"));
        }
        // From the time of asking, by our own clock: the server's clock may be wrong.
        let life = Duration::from_secs(answer.expires_in.filter(|life| *life > 0).unwrap_or(DEFAULT_LIFE).min(86_400));
        let good_until = asked_at + life.saturating_sub(MARGIN).max(life / 2);
        Ok(Token { header: format!("Bearer {told}"), good_until })
    }

    fn ask(&self, realm: &Url, wanted: &Wanted<'_>, stored: Option<&Stored>) -> Result<Answer, RegistryError> {
        let mut url = realm.clone();
        if let Some(service) = wanted.service {
            url = url.with_parameter("service", service);
        }
        for scope in wanted.scopes() {
            url = url.with_parameter("scope", scope);
        }
        if let Some(Stored::Password { username, .. }) = stored {
            url = url.with_parameter("account", username);
        }
        let url = url.with_parameter("client_id", CLIENT_ID);
        let header = stored.and_then(basic);
        let trust = self.trust_of(&url);
        let request = Request::new(Method::GET, url).task(self.task).trust(trust);
        // `exchange`, not `follow`: a redirect could send the password anywhere.
        self.transport.retrying(&request, || self.transport.exchange(&request, &request.url, header.as_deref()))
    }

    fn exchange_identity(&self, realm: &Url, wanted: &Wanted<'_>, token: &str) -> Result<Answer, RegistryError> {
        let form = format!(
            "grant_type=refresh_token&service={}&client_id={CLIENT_ID}&scope={}&refresh_token={}",
            encode(wanted.service.unwrap_or(self.origin.host())),
            encode(&wanted.scopes().join(" ")),
            encode(token)
        );
        let request = Request::new(Method::POST, realm.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::Bytes(form.as_bytes()))
            .trust(self.trust_of(realm))
            .task(self.task);
        self.transport.retrying(&request, || self.transport.exchange(&request, &request.url, None))
    }

    /// A token server on the registry's own host is as good or bad as the registry.
    fn trust_of(&self, url: &Url) -> Trust {
        if url.host() == self.origin.host() { self.trust } else { Trust::Verified }
    }

    fn accepted(
        &self,
        mut answer: Answer,
        wanted: &Wanted<'_>,
        credentials: Option<String>,
    ) -> Result<TokenAnswer, RegistryError> {
        match answer.status {
            200 | 201 => {}
            400 | 401 | 403 => {
                return Err(RegistryError::Unauthorized {
                    registry: self.registry.to_owned(),
                    repository: wanted.access.repository.clone(),
                    credentials,
                    message: answer.message(),
                });
            }
            300..=399 => return Err(answer.invalid("refused to follow a redirect of the token server")),
            _ => {
                let message = answer.message();
                return Err(answer.invalid(message));
            }
        }
        let shown = answer.url.to_string();
        let invalid = answer.invalid("the token server's answer is no token");
        let bytes = answer.bytes(&shown, TOKEN_LIMIT)?;
        // The parser's own message could quote a part of the token.
        serde_json::from_slice(&bytes).map_err(|_| invalid)
    }

    /// Decides whether a token server may be asked (and may be given the password).
    fn realm(&self, realm: &str) -> Result<Url, RegistryError> {
        let refused = |reason: &str| {
            let shown = super::error::escaped(realm.split('?').next().unwrap_or_default());
            Request::new(Method::GET, self.origin.clone())
                .invalid(format!("refused to ask the token server that the registry names, {shown:?}: {reason}"))
        };
        let url = Url::parse(realm).ok_or_else(|| refused("it is no valid address"))?;
        let own_is_local = is_loopback(self.origin.host());
        if url.scheme() == Scheme::Http && self.origin.scheme() == Scheme::Https && !own_is_local {
            return Err(refused("it is not on https"));
        }
        let same_host = url.host() == self.origin.host() || own_is_local && is_loopback(url.host());
        if is_private_literal(url.host()) && !same_host {
            return Err(refused("it is on a private address that is not the registry's"));
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proxy::Proxies;
    use super::super::retry::RetryPolicy;
    use super::super::tls::Certificates;
    use super::*;

    fn realm_is_refused(origin: &str, realm: &str) -> Option<String> {
        let certificates = Certificates::new(Vec::new(), Vec::new());
        let transport = Transport::new(RetryPolicy::default(), String::new(), certificates, Proxies::none());
        let credentials = Credentials::none();
        let origin = Url::parse(origin).unwrap();
        let (transport, credentials, origin) = (&transport, &credentials, &origin);
        let asker = Asker { transport, credentials, registry: "r", origin, trust: Trust::Verified, task: None };
        asker.realm(realm).err().map(|error| error.to_string())
    }

    #[test]
    fn a_realm_that_would_take_the_password_elsewhere_is_refused() {
        for (origin, realm, reason) in [
            ("https://r.example", "http://r.example/token", "not on https"),
            ("https://r.example", "https://169.254.169.254/latest", "private address"),
            ("https://r.example", "https://[::1]/token", "private address"),
            ("https://r.example", "https://localhost/token", "private address"),
            ("http://r.example", "http://10.0.0.1/token", "private address"),
            ("http://127.0.0.1:5000", "http://10.0.0.1/token", "private address"),
            ("https://r.example", "https://u:p@r.example/token", "no valid address"),
            ("https://r.example", "file:///etc/passwd", "no valid address"),
        ] {
            let refusal = realm_is_refused(origin, realm).unwrap_or_default();
            assert!(refusal.contains(reason), "{origin} {realm}: {refusal:?}");
        }
        for (origin, realm) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token"),
            ("https://10.0.0.1:5000", "https://10.0.0.1/token"),
            ("http://localhost:5000", "http://127.0.0.1:5001/token"),
            ("http://r.example", "http://r.example/token"),
        ] {
            assert_eq!(realm_is_refused(origin, realm), None, "{origin} {realm}");
        }
    }

    #[test]
    fn a_scope_for_repositories_is_ours_and_others_are_added() {
        let access = Access::mount("a", "b");
        let wanted = Wanted {
            realm: "",
            service: None,
            extra: Some("repository:other:push aws registry:catalog:*"),
            access: &access,
        };
        assert_eq!(wanted.scopes(), ["repository:a:pull,push", "repository:b:pull", "aws", "registry:catalog:*"]);
    }
}
