//! What a command line means: argv and environment, resolved once into plain data.
//!
//! Contract: a [`Request`] holds no text that somebody has to parse again, paths are absolute, defaults are filled in, and
//! flags that cannot be obeyed have become an error or a sentence in `notices`. It looks at the file system only to refuse
//! a context or a secret that is not there. It knows nothing of how a build is done.

mod accepted;
mod caches;
pub mod commands;
pub mod container;
mod context;
mod fields;
mod limits;
mod output;
mod run;
pub mod storage;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::args::{BuildArguments, ExplainArguments, GlobalArguments, RegistryArguments, Switch};
use super::environment::Environment;
use crate::cache::remote::{CacheTarget, Place};
use crate::diagnostic::did_you_mean;
use crate::executor::Resolver;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::sandbox::{Isolation, Limits, StorageDriver};
use crate::ui::ProgressMode;
use caches::Caches;
pub use context::{ContextSource, DockerfileSource, LayoutImage, NamedContext};
use fields::Given;
pub use output::{
    Annotation, AnnotationTarget, Compression, CompressionAlgorithm, Destination, OutputKind, OutputRequest, Recompress,
};
pub use run::{Entitlement, ExtraHost, HostAddress, NetworkMode, Secret, SecretError, SecretSource, SshAgent};

/// A build, fully said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do with the Dockerfile.
    pub action: Action,
    /// Names of the result, each with a tag.
    pub tags: Vec<Reference>,
    /// Where COPY reads.
    pub context: ContextSource,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// The stage to build; the last where none.
    pub target: Option<String>,
    /// Values of ARGs. One that was named without a value and is not in the environment is left out.
    pub build_arguments: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the image.
    pub annotations: Vec<Annotation>,
    /// Platforms to build for, without repetition; this machine's where none was asked for.
    pub platforms: Vec<Platform>,
    /// Other contexts by name.
    pub build_contexts: BTreeMap<String, NamedContext>,
    /// Which steps may come from the cache.
    pub cache: CacheUse,
    /// Caches elsewhere to read.
    pub cache_from: Vec<Place>,
    /// Caches elsewhere to write.
    pub cache_to: Vec<CacheTarget>,
    /// When base images are looked for in their registry.
    pub pull: PullPolicy,
    /// What to write besides the store.
    pub outputs: Vec<OutputRequest>,
    /// Where to write the image's id.
    pub image_id_file: Option<PathBuf>,
    /// Where to write digests as JSON.
    pub metadata_file: Option<PathBuf>,
    /// Secrets for RUN.
    pub secrets: Vec<Secret>,
    /// SSH agents for RUN.
    pub ssh: Vec<SshAgent>,
    /// The network of RUN.
    pub network: NetworkMode,
    /// More lines of `/etc/hosts`.
    pub hosts: Vec<ExtraHost>,
    /// What `/etc/resolv.conf` says.
    pub resolver: Resolver,
    /// What the Dockerfile may ask for.
    pub entitlements: Vec<Entitlement>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// What each RUN may use at most.
    pub limits: Limits,
    /// Where devices are described, where that is not the usual place.
    pub cdi_directories: Vec<PathBuf>,
    /// The least isolation of RUN that will do.
    pub isolation: Isolation,
    /// How layers become a root for RUN.
    pub storage: StorageDriver,
    /// Steps that run at once.
    pub jobs: NonZeroUsize,
    /// What happens when a RUN fails.
    pub on_error: OnError,
    /// How to show progress.
    pub progress: ProgressMode,
    /// Whether standard output gets the image's id alone.
    pub verbosity: Verbosity,
    /// How to reach registries.
    pub registries: RegistryOptions,
    /// Where images and cache live.
    pub store_root: PathBuf,
    /// How many bytes the store may take after the build.
    pub store_limit: Option<u64>,
    /// Sentences about flags that do not do what they do elsewhere.
    pub notices: Vec<String>,
}

/// What to do with the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Build it.
    Build,
    /// Say what is wrong with it.
    Check(ReportFormat),
    /// Say what can be set: targets, arguments, secrets.
    Outline(ReportFormat),
    /// List its stages.
    Targets(ReportFormat),
    /// Say which steps a build would run, and why.
    Explain(ReportFormat),
    /// Show the plan.
    Plan,
}

/// What happens when a RUN fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The build ends.
    Stop,
    /// A shell is opened where it failed, then the build ends.
    Shell,
}

fn on_error(word: Option<&str>) -> Result<OnError, InvalidRequest> {
    match word {
        None | Some("stop") => Ok(OnError::Stop),
        Some("shell") => Ok(OnError::Shell),
        Some(value) => Err(Given { flag: "--on-error", value, expected: "stop or shell" }.invalid()),
    }
}

/// Who reads a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFormat {
    /// People.
    Text,
    /// Programs.
    Json,
}

/// Which steps may come from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheUse {
    /// All.
    All,
    /// None (`--no-cache`).
    Nothing,
    /// All but those of some stages (`--no-cache-filter`).
    AllBut(Vec<String>),
}

/// When base images are looked for in their registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only those that are not in the store.
    Missing,
    /// Always, for a newer one.
    Always,
    /// Never: what is not in the store is an error.
    Never,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// The image's id and nothing else (`--quiet`).
    Quiet,
    /// Progress.
    Normal,
    /// Everything (`--debug`).
    Debug,
}

/// How to reach registries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryOptions {
    /// Registries (`host[:port]`) that may speak plain HTTP or have bad certificates.
    pub insecure: Vec<String>,
    /// PEM files of certificates to trust.
    pub ca_certificates: Vec<PathBuf>,
}

/// Says what is wrong with a value on the command line or in the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// A value does not look as it should.
    #[error("invalid {flag} {value:?}: {reason}")]
    InvalidValue {
        /// The flag or variable.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A `key=value` has a key that nobody knows.
    #[error("invalid {flag} {value:?}: unknown key {key:?}")]
    UnknownKey {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// The key.
        key: String,
        /// The keys that are known.
        known: Vec<&'static str>,
    },
    /// Flags contradict each other, or one lacks another.
    #[error("{problem}")]
    Contradiction {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// Something is not supported.
    #[error("{flag} is not supported")]
    NotSupported {
        /// The flag and its value.
        flag: String,
        /// What to do.
        hint: String,
    },
    /// The context is not there.
    #[error("unable to prepare context: {problem}")]
    NoContext {
        /// What is wrong, with the path.
        problem: String,
        /// What may have been meant.
        hints: Vec<String>,
    },
    /// There is no place for the store.
    #[error("find a directory for the store: neither HOME nor XDG_DATA_HOME is set")]
    NoStoreRoot,
}

impl InvalidRequest {
    /// What to do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            InvalidRequest::InvalidValue { .. } => Vec::new(),
            InvalidRequest::UnknownKey { key, known, .. } => match did_you_mean(key, known.iter().copied()) {
                Some(meant) => vec![format!("did you mean {meant}?")],
                None => vec![format!("known keys: {}", known.join(", "))],
            },
            InvalidRequest::Contradiction { hint, .. } | InvalidRequest::NotSupported { hint, .. } => {
                vec![hint.clone()]
            }
            InvalidRequest::NoContext { hints, .. } => hints.clone(),
            InvalidRequest::NoStoreRoot => vec!["say where with --root DIR or RBUILD_ROOT".to_owned()],
        }
    }
}

impl Request {
    /// Resolves the flags of `explain`, which are those of `build`.
    pub(super) fn resolve_explain(
        arguments: ExplainArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Request, InvalidRequest> {
        let format = match arguments.format.as_str() {
            "text" => ReportFormat::Text,
            "json" => ReportFormat::Json,
            value => return Err(Given { flag: "--format", value, expected: "text or json" }.invalid()),
        };
        let request = Request::resolve(arguments.build, global, environment)?;
        Ok(Request { action: Action::Explain(format), ..request })
    }

    /// Resolves the flags of `build`.
    pub(super) fn resolve(
        arguments: BuildArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Request, InvalidRequest> {
        let mut notices = accepted::notices(&arguments)?;
        let context = context::context(&arguments.context, environment)?;
        let dockerfile = context::dockerfile(arguments.file.as_deref(), &context, environment)?;
        let mut tags = references("--tag", &arguments.tags)?;
        let outputs = output::outputs(&arguments, &mut tags, environment, &mut notices)?;
        let mut build_arguments = build_arguments(&arguments.build_args, environment)?;
        pass_source_date_epoch(&mut build_arguments, environment);
        let mut registries = registries(&arguments.registry, environment)?;
        registries.insecure.extend(output::insecure_registries(&outputs));
        let caches = Caches::resolve(&arguments.caches, environment)?;
        registries.insecure.extend(caches.insecure);
        notices.extend(caches.notices);
        let (progress, verbosity) = progress(&arguments, global, environment)?;
        let network = run::network(&arguments.network)?;
        let resolver = run::resolver(&arguments)?;
        Ok(Request {
            action: action(&arguments)?,
            tags,
            context,
            dockerfile,
            target: arguments.target.filter(|target| !target.is_empty()),
            build_arguments,
            labels: key_values("--label", &arguments.labels)?,
            annotations: output::annotations(&arguments.annotations)?,
            platforms: platforms(&arguments.platforms, environment)?,
            build_contexts: context::build_contexts(&arguments.build_contexts, environment)?,
            cache: cache_use(arguments.no_cache, arguments.no_cache_filter),
            cache_from: caches.from,
            cache_to: caches.to,
            pull: pull_policy(arguments.pull.as_deref())?,
            outputs,
            image_id_file: arguments.image_id_file.map(|path| environment.absolute(path)),
            metadata_file: arguments.metadata_file.map(|path| environment.absolute(path)),
            secrets: run::secrets(&arguments.secrets, environment)?,
            ssh: run::ssh(&arguments.ssh, environment)?,
            network,
            hosts: run::hosts(&arguments.hosts, network)?,
            resolver,
            entitlements: run::entitlements(&arguments.entitlements)?,
            cdi_directories: arguments.cdi_directories.iter().map(|path| environment.absolute(path)).collect(),
            shm_size: arguments.shm_size.as_deref().map(|text| byte_size("--shm-size", text)).transpose()?,
            isolation: run::isolation(arguments.isolation.as_deref(), environment)?,
            storage: run::storage_driver(arguments.storage_driver.as_deref(), environment)?,
            limits: limits::limits(&arguments.limits)?,
            jobs: jobs(arguments.jobs.as_deref(), environment)?,
            on_error: on_error(arguments.on_error.as_deref())?,
            progress,
            verbosity,
            registries,
            store_root: store_root(global, environment)?,
            store_limit: storage::store_limit(environment)?,
            notices,
        })
    }
}

fn action(arguments: &BuildArguments) -> Result<Action, InvalidRequest> {
    let value = match (&arguments.call, arguments.check, arguments.dry_run) {
        (Some(call), _, _) => call.as_str(),
        (None, Switch::On, _) => "check",
        (None, Switch::Off, Switch::On) => "plan",
        (None, Switch::Off, Switch::Off) => "build",
    };
    let expected = "build, plan, check, outline or targets, and perhaps ,format=json";
    let given = Given { flag: "--call", value, expected };
    let mut format = ReportFormat::Text;
    let mut method = None;
    for field in given.fields()? {
        match field.split_once('=') {
            None if method.is_none() => method = Some(field),
            Some(("format", "json")) => format = ReportFormat::Json,
            Some(("format", "text" | "default" | "")) => format = ReportFormat::Text,
            _ => return Err(given.invalid()),
        }
    }
    match method.as_deref() {
        Some("build") | None => Ok(Action::Build),
        Some("check" | "lint") => Ok(Action::Check(format)),
        Some("outline") => Ok(Action::Outline(format)),
        Some("targets") => Ok(Action::Targets(format)),
        Some("plan") if format == ReportFormat::Text => Ok(Action::Plan),
        Some(_) => Err(given.invalid()),
    }
}

/// Names of images, each with `latest` where no tag was given, without repetition.
fn references(flag: &'static str, texts: &[String]) -> Result<Vec<Reference>, InvalidRequest> {
    let mut references: Vec<Reference> = Vec::new();
    for text in texts {
        let reference = reference(flag, text)?.with_default_tag();
        if reference.digest().is_some() {
            let reason = "a name for a new image cannot have a digest".to_owned();
            return Err(InvalidRequest::InvalidValue { flag, value: text.clone(), reason });
        }
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    Ok(references)
}

fn reference(flag: &'static str, text: &str) -> Result<Reference, InvalidRequest> {
    text.parse::<Reference>().map_err(|invalid| InvalidRequest::InvalidValue {
        flag,
        value: invalid.text,
        reason: invalid.reason.to_owned(),
    })
}

fn key_values(flag: &'static str, texts: &[String]) -> Result<BTreeMap<String, String>, InvalidRequest> {
    let pair = |text: &String| {
        let given = Given { flag, value: text, expected: "KEY=VALUE" };
        match text.split_once('=') {
            Some(("", _)) => Err(given.invalid()),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            // As docker: a key alone has an empty value.
            None if !text.is_empty() => Ok((text.clone(), String::new())),
            None => Err(given.invalid()),
        }
    };
    texts.iter().map(pair).collect()
}

fn build_arguments(texts: &[String], environment: &Environment) -> Result<BTreeMap<String, String>, InvalidRequest> {
    let mut values = BTreeMap::new();
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), environment.variables.get(text).cloned()),
        };
        if name.is_empty() {
            return Err(Given { flag: "--build-arg", value: text, expected: "NAME=VALUE or NAME" }.invalid());
        }
        match value {
            Some(value) => values.insert(name.to_owned(), value),
            None => values.remove(name),
        };
    }
    Ok(values)
}

/// The variable is passed on as an argument (as buildx does) unless that was given, and means the same.
fn pass_source_date_epoch(build_arguments: &mut BTreeMap<String, String>, environment: &Environment) {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    if let Some(value) = environment.variable(NAME).filter(|value| !value.is_empty()) {
        build_arguments.entry(NAME.to_owned()).or_insert_with(|| value.to_owned());
    }
}

fn platforms(texts: &[String], environment: &Environment) -> Result<Vec<Platform>, InvalidRequest> {
    const VARIABLE: &str = "DOCKER_DEFAULT_PLATFORM";
    let (flag, texts) = match environment.variable(VARIABLE) {
        Some(value) if texts.is_empty() => (VARIABLE, vec![value.to_owned()]),
        _ => ("--platform", texts.to_vec()),
    };
    let mut platforms = Vec::new();
    for text in &texts {
        let platform = platform(flag, text)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    Ok(platforms)
}

fn platform(flag: &'static str, text: &str) -> Result<Platform, InvalidRequest> {
    let expected = "os/architecture[/variant], for example linux/amd64 or linux/arm/v7";
    text.trim().parse().map_err(|_| Given { flag, value: text, expected }.invalid())
}

fn cache_use(no_cache: Switch, stages: Vec<String>) -> CacheUse {
    match no_cache {
        Switch::On => CacheUse::Nothing,
        Switch::Off if stages.is_empty() => CacheUse::All,
        Switch::Off => CacheUse::AllBut(stages),
    }
}

/// Docker's words (`--pull`, `--pull=false`) and Podman's (`newer` is what `always` does here: only a changed
/// image is fetched).
fn pull_policy(word: Option<&str>) -> Result<PullPolicy, InvalidRequest> {
    match word {
        None => Ok(PullPolicy::Missing),
        Some("always" | "newer" | "ifnewer") => Ok(PullPolicy::Always),
        Some("missing" | "ifmissing") => Ok(PullPolicy::Missing),
        Some("never") => Ok(PullPolicy::Never),
        Some(value) => match value.parse() {
            Ok(Switch::On) => Ok(PullPolicy::Always),
            Ok(Switch::Off) => Ok(PullPolicy::Missing),
            Err(_) => Err(Given { flag: "--pull", value, expected: "always, missing or never" }.invalid()),
        },
    }
}

fn jobs(text: Option<&str>, environment: &Environment) -> Result<NonZeroUsize, InvalidRequest> {
    match text {
        // Podman's 0 means no limit; more steps than processors gain nothing here.
        None | Some("0") => Ok(environment.processors),
        Some(value) => {
            value.parse().map_err(|_| Given { flag: "--jobs", value, expected: "a number of steps" }.invalid())
        }
    }
}

fn progress(
    arguments: &BuildArguments,
    global: &GlobalArguments,
    environment: &Environment,
) -> Result<(ProgressMode, Verbosity), InvalidRequest> {
    let word = progress_word(arguments.progress.as_deref(), environment).map(|(_, word)| word);
    let mode = progress_mode(arguments.progress.as_deref(), environment)?;
    let is_shown = arguments.progress.is_some() && !matches!(mode, ProgressMode::Auto | ProgressMode::Quiet);
    match (arguments.quiet, word) {
        (Switch::On, _) if is_shown => Err(InvalidRequest::Contradiction {
            problem: "--quiet and --progress contradict each other".to_owned(),
            hint: "leave one of them out".to_owned(),
        }),
        // As in buildx: `quiet` prints the id, `none` does not.
        (Switch::On, _) | (Switch::Off, Some("quiet")) => Ok((ProgressMode::Quiet, Verbosity::Quiet)),
        (Switch::Off, _) if global.debug.is_on() => Ok((mode, Verbosity::Debug)),
        (Switch::Off, _) => Ok((mode, Verbosity::Normal)),
    }
}

/// The flag, else `BUILDKIT_PROGRESS`: which it was, and its word.
fn progress_word<'a>(flag: Option<&'a str>, environment: &'a Environment) -> Option<(&'static str, &'a str)> {
    const VARIABLE: &str = "BUILDKIT_PROGRESS";
    match flag {
        Some(word) => Some(("--progress", word)),
        None => environment.variable(VARIABLE).map(|word| (VARIABLE, word)),
    }
}

fn progress_mode(flag: Option<&str>, environment: &Environment) -> Result<ProgressMode, InvalidRequest> {
    let Some((flag, word)) = progress_word(flag, environment) else { return Ok(ProgressMode::Auto) };
    word.parse().map_err(|_| {
        let given = Given { flag, value: word, expected: "auto, plain, tty, quiet, none or rawjson" };
        match did_you_mean(word, crate::ui::PROGRESS_WORDS) {
            Some(meant) => given.because(&format!("did you mean {meant}?")),
            None => given.invalid(),
        }
    })
}

fn registries(arguments: &RegistryArguments, environment: &Environment) -> Result<RegistryOptions, InvalidRequest> {
    let is_host = |host: &&String| !host.is_empty() && !host.contains('/') && !host.contains(char::is_whitespace);
    if let Some(value) = arguments.insecure_registries.iter().find(|host| !is_host(host)) {
        return Err(Given { flag: "--insecure-registry", value, expected: "HOST or HOST:PORT" }.invalid());
    }
    let ca_certificates = arguments.ca_certificates.iter().map(|path| environment.absolute(path)).collect();
    Ok(RegistryOptions { insecure: arguments.insecure_registries.clone(), ca_certificates })
}

fn store_root(global: &GlobalArguments, environment: &Environment) -> Result<PathBuf, InvalidRequest> {
    match global.root.as_deref() {
        Some("") => Err(Given { flag: "--root", value: "", expected: "a directory" }.invalid()),
        Some(root) => Ok(environment.absolute(root)),
        None => environment.default_store_root().ok_or(InvalidRequest::NoStoreRoot),
    }
}

/// A size as Docker's flags take it: a number with b, k, m, g, t or p (each with b or ib besides), always powers of 1024.
fn byte_size(flag: &'static str, text: &str) -> Result<u64, InvalidRequest> {
    let given = Given { flag, value: text, expected: "a size such as 64m or 1g" };
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let power = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(given.invalid()),
    };
    let number: f64 = number.parse().map_err(|_| given.invalid())?;
    let bytes = number * 1024f64.powi(power);
    if bytes >= u64::MAX as f64 {
        return Err(given.because("it is too large"));
    }
    Ok(bytes as u64)
}
