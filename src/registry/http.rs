//! One HTTP exchange at a time, on ureq: agents, time limits, redirects, retries.
//!
//! Contract: an `Authorization` goes to the registry's own origin only, and never again once a redirect has left it; a
//! redirect never leads from https to http; each wait has a limit, the whole of a transfer has none. It knows nothing of
//! tokens (`auth`) or of what the addresses mean.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, SystemTime};

use ureq::http;
use ureq::{Agent, SendBody};

use super::answer::Answer;
use super::error::{RegistryError, escaped};
use super::proxy::{Proxies, Setting};
use super::retry::RetryPolicy;
use super::tls::{Certificates, Trust};
use super::url::{Scheme, Url};
use crate::digest::Digest;
use crate::progress::Task;

/// Redirects that are followed for one request.
const REDIRECTS: usize = 10;

/// Headers of one answer.
const HEADER_LIMIT: usize = 64 << 10;

/// Time limits of the one request that finds out whether a registry speaks TLS.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Time limit of a request to a service that is next door, if it is at all.
const GLANCE_LIMIT: Duration = Duration::from_secs(1);

/// Makes a fresh reader of what is sent: a request may be sent more than once.
pub(super) type Open<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>;

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    Stream {
        digest: Digest,
        size: u64,
        open: Open<'a>,
    },
    /// Of a size that nobody knows yet: in pieces, each with its size (RFC 9112, 7.1).
    Pieces {
        open: Open<'a>,
    },
}

/// Whether a request may be sent again after it may have had an effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It has the same effect twice as once.
    Idempotent,
    /// Its sender has to start further back.
    Never,
    /// Whatever it was: its sender has another way.
    Not,
}

/// How long an answer may take to begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as any other byte.
    Stall,
    /// While the registry stores what it was sent.
    Commit,
    /// For finding out about TLS.
    Probe,
    /// For a service that may not be there.
    Glance,
}

/// A request, without what is added to convince the registry.
#[derive(Clone)]
pub(super) struct Request<'a> {
    pub method: http::Method,
    pub url: Url,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body<'a>,
    pub retry: Retry,
    pub patience: Patience,
    /// Counts at the registry itself, not where it redirects to.
    pub trust: Trust,
    /// Told about retries.
    pub task: Option<&'a Task>,
}

impl<'a> Request<'a> {
    pub fn new(method: http::Method, url: Url) -> Request<'a> {
        let (retry, patience) = (Retry::Idempotent, Patience::Stall);
        let (trust, task) = (Trust::Verified, None);
        Request { method, url, headers: Vec::new(), body: Body::None, retry, patience, trust, task }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Request<'a> {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(self, body: Body<'a>) -> Request<'a> {
        Request { body, ..self }
    }

    /// Carries content that the registry stores before it answers.
    pub fn commits(self) -> Request<'a> {
        Request { patience: Patience::Commit, ..self }
    }

    pub fn once(self) -> Request<'a> {
        Request { retry: Retry::Never, ..self }
    }

    /// Not even where it had no effect for sure.
    pub fn without_retries(self) -> Request<'a> {
        Request { retry: Retry::Not, ..self }
    }

    pub fn trust(self, trust: Trust) -> Request<'a> {
        Request { trust, ..self }
    }

    pub fn task(self, task: Option<&'a Task>) -> Request<'a> {
        Request { task, ..self }
    }

    /// An error about its answer.
    pub fn invalid(&self, message: impl Into<String>) -> RegistryError {
        let (method, url) = (self.method.to_string(), self.url.to_string());
        RegistryError::Protocol { method, url, status: 0, message: message.into() }
    }
}

/// What an agent's connections share: an agent per kind, made when it is first needed.
#[derive(PartialEq, Eq, Hash)]
struct AgentKind {
    scheme: Scheme,
    trust: Trust,
    proxy: Option<Setting>,
    /// For a registry with certificates of its own.
    authority: Option<String>,
}

pub(super) struct Transport {
    pub policy: RetryPolicy,
    user_agent: String,
    certificates: Certificates,
    proxies: Proxies,
    agents: Mutex<HashMap<AgentKind, Agent>>,
}

impl Transport {
    pub fn new(policy: RetryPolicy, user_agent: String, certificates: Certificates, proxies: Proxies) -> Transport {
        Transport { policy, user_agent, certificates, proxies, agents: Mutex::default() }
    }

    fn agent(&self, url: &Url, trust: Trust) -> Result<Agent, RegistryError> {
        let own = url.scheme() == Scheme::Https && self.certificates.has_own(url.authority());
        let kind = AgentKind {
            scheme: url.scheme(),
            trust,
            proxy: self.proxies.of(url).cloned(),
            authority: own.then(|| url.authority().to_owned()),
        };
        let mut agents = self.agents.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(agent) = agents.get(&kind) {
            return Ok(agent.clone());
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(HEADER_LIMIT)
            .user_agent(self.user_agent.as_str())
            .accept_encoding("identity")
            .max_idle_connections_per_host(8)
            .timeout_connect(Some(self.policy.connect))
            .timeout_resolve(Some(self.policy.connect))
            .timeout_per_read(Some(self.policy.stall))
            .timeout_per_write(Some(self.policy.stall));
        // Not ureq's own reading of the environment, which takes HTTP_PROXY for https, too.
        config = config.proxy(kind.proxy.as_ref().map(proxy_of).transpose()?);
        if kind.scheme == Scheme::Https {
            config = config.tls_config(self.certificates.configuration(url.authority(), trust)?);
        }
        let agent = config.build().new_agent();
        agents.insert(kind, agent.clone());
        Ok(agent)
    }

    /// Sends once and follows redirects; credentials stay with `origin`.
    pub fn follow(
        &self,
        request: &Request<'_>,
        origin: &Url,
        authorization: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        let mut url = request.url.clone();
        let mut authorization = authorization;
        for _ in 0..=REDIRECTS {
            authorization = authorization.filter(|_| url.same_origin(origin));
            let answer = self.exchange(request, &url, authorization)?;
            let Some(next) = redirect(request, &answer)? else { return Ok(answer) };
            answer.discard();
            url = next;
        }
        Err(request.invalid(format!("more than {REDIRECTS} redirects")))
    }

    /// Sends once, and takes the answer as it comes.
    pub fn exchange(
        &self,
        request: &Request<'_>,
        url: &Url,
        authorization: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        // Where a redirect leads, the user's word about the registry says nothing.
        let trust = if url.authority() == request.url.authority() { request.trust } else { Trust::Verified };
        let agent = self.agent(url, trust)?;
        let mut builder = http::Request::builder().method(request.method.clone()).uri(url.with_query());
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(value) = authorization {
            builder = builder.header("authorization", value);
        }
        let outcome = match request.body {
            Body::None => {
                let body = match request.method {
                    http::Method::GET | http::Method::HEAD => None,
                    _ => Some(&[][..]),
                };
                self.run(&agent, request, builder, body)
            }
            Body::Bytes(bytes) => self.run(&agent, request, builder, Some(bytes)),
            Body::Stream { digest, size, open } => {
                let failed = |source| RegistryError::Source { digest, source };
                let mut outgoing = Outgoing { inner: open().map_err(failed)?, left: size, failure: RefCell::default() };
                let builder = builder.header("content-length", size.to_string());
                let outcome = self.run(&agent, request, builder, SendBody::from_reader(&mut outgoing));
                if let Some(source) = outgoing.failure.take() {
                    return Err(failed(source));
                }
                outcome
            }
            Body::Pieces { open } => {
                let transfer = |source| {
                    let (method, url) = (request.method.to_string(), url.to_string());
                    RegistryError::Transfer { method, url, source }
                };
                let mut content = open().map_err(transfer)?;
                self.run(&agent, request, builder, SendBody::from_reader(&mut content))
            }
        };
        let response = outcome.map_err(|error| match self.proxies.of(url) {
            Some(proxy) => classified(error, request, url).through(proxy.variable),
            None => classified(error, request, url),
        })?;
        let (parts, body) = response.into_parts();
        let (status, headers) = (parts.status.as_u16(), parts.headers);
        Ok(Answer::new(request.method.clone(), url.clone(), status, headers, body))
    }

    fn run<'b>(
        &self,
        agent: &Agent,
        request: &Request<'_>,
        builder: http::request::Builder,
        body: impl Into<Payload<'b>>,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let limit = match request.patience {
            Patience::Stall => self.policy.stall,
            Patience::Commit => self.policy.commit,
            Patience::Probe => PROBE_LIMIT.min(self.policy.stall),
            Patience::Glance => GLANCE_LIMIT,
        };
        let connect = Some(match request.patience {
            Patience::Probe => PROBE_LIMIT.min(self.policy.connect),
            Patience::Glance => GLANCE_LIMIT,
            Patience::Stall | Patience::Commit => self.policy.connect,
        });
        match body.into() {
            Payload::None => {
                let request = builder.body(())?;
                agent.run(
                    agent.configure_request(request).timeout_per_read(Some(limit)).timeout_connect(connect).build(),
                )
            }
            Payload::Bytes(bytes) => {
                let request = builder.body(bytes)?;
                agent.run(
                    agent.configure_request(request).timeout_per_read(Some(limit)).timeout_connect(connect).build(),
                )
            }
            Payload::Reader(reader) => {
                let request = builder.body(reader)?;
                agent.run(
                    agent.configure_request(request).timeout_per_read(Some(limit)).timeout_connect(connect).build(),
                )
            }
        }
    }

    /// Tries until there is an answer that another try would not change, or patience is at its end.
    pub fn retrying(
        &self,
        request: &Request<'_>,
        mut attempt: impl FnMut() -> Result<Answer, RegistryError>,
    ) -> Result<Answer, RegistryError> {
        let mut retry = 0;
        loop {
            let outcome = attempt();
            let Some(reason) = transient(request, &outcome, retry) else { return outcome };
            if retry >= self.policy.retries {
                return match outcome {
                    Ok(mut answer) if answer.status == 429 => Err(RegistryError::TooManyRequests {
                        registry: answer.url.authority().to_owned(),
                        retries: retry,
                        message: answer.message(),
                    }),
                    outcome => outcome,
                };
            }
            let delay = match outcome {
                Ok(answer) => {
                    let delay = self.policy.delay_after(retry, answer.header("retry-after"), SystemTime::now());
                    answer.discard();
                    delay
                }
                Err(_) => self.policy.delay(retry),
            };
            retry += 1;
            if let Some(task) = request.task {
                let (all, wait) = (self.policy.retries, delay.as_secs_f32());
                task.note(format!("{reason}; retry {retry} of {all} in {wait:.1} s"));
            }
            thread::sleep(delay);
        }
    }
}

fn proxy_of(setting: &Setting) -> Result<ureq::Proxy, RegistryError> {
    ureq::Proxy::new(&setting.address).map_err(|_| RegistryError::Proxy { variable: setting.variable })
}

/// What ureq is given to send.
enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    Reader(SendBody<'a>),
}

impl<'a> From<Option<&'a [u8]>> for Payload<'a> {
    fn from(bytes: Option<&'a [u8]>) -> Payload<'a> {
        bytes.map_or(Payload::None, Payload::Bytes)
    }
}

impl<'a> From<SendBody<'a>> for Payload<'a> {
    fn from(body: SendBody<'a>) -> Payload<'a> {
        Payload::Reader(body)
    }
}

/// Gives ureq exactly the bytes that `Content-Length` promises. ureq would wait for ever at a source that ends early, and
/// would never come to the end, where a `VerifyReader` speaks: so the end is looked for before the last bytes are given.
struct Outgoing<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
    failure: RefCell<Option<io::Error>>,
}

impl Outgoing<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = loop {
            match self.inner.read(&mut buffer[..wanted]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        if count == 0 {
            return Err(io::Error::other(format!("it ends {} bytes early", self.left)));
        }
        self.left -= count as u64;
        if self.left == 0 && self.inner.read(&mut [0])? != 0 {
            return Err(io::Error::other("it is longer than its size"));
        }
        Ok(count)
    }
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(|error| {
            let kind = error.kind();
            self.failure.replace(Some(error));
            io::Error::new(kind, "the content to send could not be read")
        })
    }
}

/// Where an answer leads; `None` where it is the last.
fn redirect(request: &Request<'_>, answer: &Answer) -> Result<Option<Url>, RegistryError> {
    // 301, 302 and 303 may change the method; a registry that means "send it there" has 307 and 308 for that.
    let reads = matches!(request.method, http::Method::GET | http::Method::HEAD);
    if !(matches!(answer.status, 307 | 308) || reads && matches!(answer.status, 301..=303)) {
        return Ok(None);
    }
    let Some(location) = answer.header("location") else { return Ok(None) };
    let next = answer.url.join(location).ok_or_else(|| answer.invalid("the redirect leads to no valid address"))?;
    let next = upgraded(&answer.url, next);
    if answer.url.scheme() == Scheme::Https && next.scheme() == Scheme::Http {
        return Err(answer.invalid(format!("refused to follow the redirect from https to {next}")));
    }
    Ok(Some(next))
}

/// Registries behind a proxy that ends TLS often believe they are spoken to in plain http, and say so in `Location`.
pub(super) fn upgraded(from: &Url, to: Url) -> Url {
    let same_place = from.authority() == to.authority();
    if same_place && from.scheme() == Scheme::Https { to.with_scheme(Scheme::Https) } else { to }
}

/// Why a request should be tried again; `None` where the answer stands.
fn transient(request: &Request<'_>, outcome: &Result<Answer, RegistryError>, retry: u32) -> Option<String> {
    if request.retry == Retry::Not {
        return None;
    }
    match outcome {
        // A request that was refused for its number had no effect, whatever it was.
        Ok(answer) if answer.status == 429 => Some("the registry says: too many requests".to_owned()),
        Ok(answer) if matches!(answer.status, 408 | 500 | 502 | 503 | 504) => {
            (request.retry == Retry::Idempotent).then(|| format!("the registry answers with status {}", answer.status))
        }
        Err(RegistryError::Transfer { source, .. }) => {
            (request.retry == Retry::Idempotent).then(|| escaped(&source.to_string()))
        }
        // A wrong name or a dead host shall not cost minutes; a restart or a lost DNS packet is forgiven.
        Err(RegistryError::Connect { reason, .. }) if retry < 2 => Some(reason.clone()),
        _ => None,
    }
}

/// Whether rustls says that what came is no record of TLS at all, as an answer in plain http is none.
fn is_no_tls(error: Option<&rustls::Error>) -> bool {
    matches!(error, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

fn classified(error: ureq::Error, request: &Request<'_>, url: &Url) -> RegistryError {
    use io::ErrorKind;
    let host = url.authority().to_owned();
    let (method, shown) = (request.method.to_string(), url.to_string());
    let transfer = |source| RegistryError::Transfer { method: method.clone(), url: shown.clone(), source };
    match error {
        ureq::Error::HostNotFound => RegistryError::Connect { host, reason: "host not found".to_owned() },
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            RegistryError::Connect { host, reason: "no answer in time".to_owned() }
        }
        ureq::Error::ConnectionFailed | ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => {
            RegistryError::Connect { host, reason: escaped(&error.to_string()) }
        }
        ureq::Error::Io(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable
            ) =>
        {
            RegistryError::Connect { host, reason: escaped(&error.to_string()) }
        }
        // The standard library has no kind for what its resolver says.
        ureq::Error::Io(error) if error.to_string().starts_with("failed to lookup address") => {
            let reason = error.to_string();
            let words = reason.rsplit(": ").next().unwrap_or_default();
            RegistryError::Connect { host, reason: format!("host not found ({})", escaped(words)) }
        }
        ureq::Error::Io(error) if is_no_tls(error.get_ref().and_then(|inner| inner.downcast_ref())) => {
            RegistryError::NoTls { host }
        }
        ureq::Error::Rustls(error) if is_no_tls(Some(&error)) => RegistryError::NoTls { host },
        // The kind that rustls gives its errors, seen before any byte of an answer.
        ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            RegistryError::Tls { host, reason: escaped(&error.to_string()) }
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
            RegistryError::Tls { host, reason: escaped(&error.to_string()) }
        }
        ureq::Error::Io(error) => transfer(error),
        ureq::Error::Timeout(_) => transfer(io::Error::new(ErrorKind::TimedOut, "the connection stands still")),
        other => RegistryError::Protocol { method, url: shown, status: 0, message: escaped(&other.to_string()) },
    }
}
