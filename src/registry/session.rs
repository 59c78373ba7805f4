//! All requests to one registry: its address, its scheme, and how it wants to be convinced.

use std::sync::{Arc, Mutex};

use ureq::http::Method;

use super::Client;
use super::answer::Answer;
use super::auth::{Access, Asker, Authority, Authorization};
use super::challenge;
use super::error::RegistryError;
use super::http::{Patience, Request};
use super::tls::Trust;
use super::url::{Scheme, Url, host_of, is_loopback};
use crate::image::reference::{DEFAULT_REGISTRY, Reference};
use crate::progress::Task;

/// The host that serves `docker.io`.
const DOCKER_HOST: &str = "registry-1.docker.io";

pub(super) struct Session {
    registry: String,
    trust: Trust,
    origin: Mutex<Option<Url>>,
    authority: Authority,
}

/// How a registry let somebody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It wanted credentials, and took these.
    Convinced,
    /// It wanted none.
    Unasked,
}

impl Session {
    pub fn new(registry: &str, trust: Trust) -> Session {
        Session { registry: registry.to_owned(), trust, origin: Mutex::default(), authority: Authority::default() }
    }
}

impl Client {
    /// The address of something in a repository (`blobs/sha256:…`).
    pub(super) fn address(&self, reference: &Reference, rest: &str) -> Result<Url, RegistryError> {
        let origin = self.origin(self.session(reference)?.as_ref())?;
        Ok(origin.with_target(&format!("/v2/{}/{rest}", reference.repository())))
    }

    /// Tries whether the registry that a name is in takes the client's credentials.
    pub fn enter(&self, reference: &Reference) -> Result<Entered, RegistryError> {
        let session = self.session(reference)?;
        let origin = self.origin(&session)?;
        let request = Request::new(Method::GET, origin.with_target("/v2/"));
        let answer = self.send(reference, &Access::entry(), &request)?;
        if answer.status != 200 {
            return Err(refusal(answer, reference, reference.registry()));
        }
        answer.discard();
        Ok(if session.authority.was_asked() { Entered::Convinced } else { Entered::Unasked })
    }

    /// What is known about the registry of a name.
    fn session(&self, reference: &Reference) -> Result<Arc<Session>, RegistryError> {
        let registry = reference.registry();
        let named = |entry: &String| entry == registry || entry == host_of(registry) || entry == "*";
        let registries = self.shared.places.registries()?;
        registries.allow(reference)?;
        let is_insecure = self.shared.insecure.iter().any(named) || registries.is_insecure(reference);
        let trust = if is_insecure { Trust::Insecure } else { Trust::Verified };
        let mut sessions = self.shared.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = (registry.to_owned(), trust);
        Ok(sessions.entry(key).or_insert_with(|| Arc::new(Session::new(registry, trust))).clone())
    }

    /// Scheme and host of a registry. On this machine, and where it may be insecure, it is found out by trying, as Docker
    /// does: TLS first, and plain http where there is none. A certificate that is not trusted is an error, not a reason to
    /// go without, unless the user said that it does not matter.
    pub(super) fn origin(&self, session: &Session) -> Result<Url, RegistryError> {
        let mut known = session.origin.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(origin) = known.as_ref() {
            return Ok(origin.clone());
        }
        let registry = session.registry.as_str();
        let authority = if registry == DEFAULT_REGISTRY { DOCKER_HOST } else { registry };
        let origin = Url::new(Scheme::Https, &authority.to_ascii_lowercase(), "/v2/");
        if session.trust == Trust::Verified && !is_loopback(host_of(registry)) {
            return Ok(known.insert(origin).clone());
        }
        Ok(match self.probe(&origin, session.trust)? {
            Some(scheme) => known.insert(origin.with_scheme(scheme)).clone(),
            None => origin.with_scheme(Scheme::Http),
        })
    }

    /// Which scheme a registry speaks; `None` where nobody listens for TLS (yet).
    fn probe(&self, origin: &Url, trust: Trust) -> Result<Option<Scheme>, RegistryError> {
        let request = Request::new(Method::GET, origin.clone()).trust(trust);
        let request = Request { patience: Patience::Probe, ..request };
        match self.shared.transport.exchange(&request, origin, None) {
            Ok(answer) => {
                answer.discard();
                Ok(Some(Scheme::Https))
            }
            Err(error @ RegistryError::Certificate { .. }) => Err(error),
            // rustls's words for "there was TLS, but not with the right certificate".
            Err(RegistryError::Tls { host, reason }) if reason.contains("peer certificate") => {
                Err(RegistryError::Tls { host, reason })
            }
            Err(RegistryError::Connect { .. }) => Ok(None),
            Err(_) => Ok(Some(Scheme::Http)),
        }
    }

    /// Sends a request to a registry with what convinces it, again where that may help.
    pub(super) fn send(
        &self,
        reference: &Reference,
        access: &Access,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        let session = self.session(reference)?;
        let origin = self.origin(&session)?;
        let request = &request.clone().trust(session.trust);
        self.shared.transport.retrying(request, || self.attempt(&session, &origin, access, request))
    }

    /// Sends a request; where the registry wants to be convinced (again), convinces it and sends it once more.
    fn attempt(
        &self,
        session: &Session,
        origin: &Url,
        access: &Access,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        let asker = self.asker(session, origin, request.task);
        let mut used = session.authority.authorization(&asker, access)?;
        for _ in 0..3 {
            let header = used.as_ref().map(|authorization| authorization.header.as_str());
            let answer = self.shared.transport.follow(request, origin, header)?;
            // A 401 of a host that a redirect led to concerns us not: it shall not get our credentials.
            if answer.status != 401 || !answer.url.same_origin(origin) {
                return Ok(answer);
            }
            let Some(challenge) = challenge::choose(answer.headers("www-authenticate")) else {
                return Err(unauthorized(session, access, answer));
            };
            session.authority.refused(challenge, used.as_ref());
            if used.as_ref().is_some_and(|authorization| authorization.is_final) {
                return Err(unauthorized(session, access, answer));
            }
            let next: Option<Authorization> = session.authority.authorization(&asker, access)?;
            if next.is_none() {
                return Err(unauthorized(session, access, answer));
            }
            answer.discard();
            used = next;
        }
        Err(RegistryError::Unauthorized {
            registry: session.registry.clone(),
            repository: access.repository.clone(),
            credentials: session.authority.source(&access.repository),
            message: "a new token was refused, too".to_owned(),
        })
    }

    fn asker<'a>(&'a self, session: &'a Session, origin: &'a Url, task: Option<&'a Task>) -> Asker<'a> {
        let (transport, credentials) = (&self.shared.transport, &self.shared.credentials);
        Asker { transport, credentials, registry: &session.registry, origin, trust: session.trust, task }
    }
}

fn unauthorized(session: &Session, access: &Access, mut answer: Answer) -> RegistryError {
    RegistryError::Unauthorized {
        registry: session.registry.clone(),
        repository: access.repository.clone(),
        credentials: session.authority.source(&access.repository),
        message: answer.message(),
    }
}

/// Of a success where the distribution-spec has none, or another.
pub(super) const NO_REGISTRY: &str = "this does not look like a registry";

/// The error for an answer that is none of those that were hoped for; `what` names what was asked for.
pub(super) fn refusal(mut answer: Answer, reference: &Reference, what: &str) -> RegistryError {
    let message = answer.message();
    let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
    match answer.status {
        // Of the registry itself it was dealt with before: this is one of a host that it redirects to.
        401 | 403 => RegistryError::Denied { registry, repository, message },
        404 => RegistryError::NotFound { reference: what.to_owned() },
        200..=299 => answer.invalid(NO_REGISTRY),
        _ => answer.invalid(message),
    }
}
