//! What a command line means: argv and environment, resolved once into plain data.
//!
//! Contract: a [`Request`] holds no text that somebody has to parse again, paths are absolute, defaults are filled in, and
//! flags that cannot be obeyed have become an error or a sentence in `notices`. It looks at the file system only to refuse
//! a context or a secret that is not there. It knows nothing of how a build is done.

mod accepted;
pub mod archive;
mod attest;
mod caches;
pub mod commands;
pub mod compare;
pub mod container;
mod context;
pub mod copy;
pub mod executor;
mod fields;
pub mod index;
mod invalid;
mod limits;
pub mod login;
mod output;
pub mod place;
mod registries;
mod run;
pub mod sbom;
mod several;
mod sign;
pub mod storage;
pub mod transfer;
mod values;
mod variables;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::args::{BuildArguments, ExplainArguments, GlobalArguments, Switch};
use super::environment::Environment;
use crate::build::{Attestations, Layering};
use crate::cache::remote::{CacheTarget, Place};
use crate::executor::Resolver;
use crate::export::Annotation;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::sandbox::{Isolation, Limits, StorageDriver};
use crate::ui::ProgressMode;
use caches::Caches;
pub(super) use context::misspelt_command;
pub use context::{ContextSource, DockerfileSource, LayoutImage, NamedContext};
use executor::DigestFiles;
use fields::Given;
pub use invalid::InvalidRequest;
pub(super) use output::image_names;
pub use output::{Compression, CompressionAlgorithm, Destination, OutputKind, OutputRequest, Recompress};
pub use registries::RegistryOptions;
use registries::registries;
pub use run::{Entitlement, ExtraHost, HostAddress, NetworkMode, Secret, SecretError, SecretSource, SshAgent};
pub use sign::KeySource;
use values::{
    build_arguments, byte_size, jobs, key_values, pass_source_date_epoch, platform, platforms, progress, progress_mode,
    reference, references, store_root,
};

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
    /// A cache mount whose tar has more bytes is not taken from these.
    pub mounts_limit: u64,
    /// Caches elsewhere to write.
    pub cache_to: Vec<CacheTarget>,
    /// When base images are looked for in their registry.
    pub pull: PullPolicy,
    /// What to write besides the store.
    pub outputs: Vec<OutputRequest>,
    /// What two builds of the same thing have in common.
    pub sameness: Sameness,
    /// How layers come from steps.
    pub layering: Layering,
    /// What is to be said about the images.
    pub attestations: Attestations,
    /// Keys that sign what is pushed.
    pub signing_keys: Vec<KeySource>,
    /// Where to write the image's id.
    pub image_id_file: Option<PathBuf>,
    /// Where to write digests as JSON.
    pub metadata_file: Option<PathBuf>,
    /// Where kaniko's results are written.
    pub digest_files: DigestFiles,
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

/// What two builds of the same thing have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// Their files; times tell when they were made.
    Files,
    /// Everything, down to the image's digest (`--reproducible`).
    WholeImage,
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
        let layering = layering(arguments.layering.squash, &caches.to)?;
        let (progress, verbosity) = progress(&arguments, global, environment)?;
        let network = run::network(&arguments.network)?;
        let platforms = platforms(&arguments.platforms, environment)?;
        let annotations = output::annotations(&arguments.annotations)?;
        let attestations = attest::attestations(&arguments.attest, &build_arguments, environment, &mut notices)?;
        let signing_keys = sign::signing_keys(&arguments.attest.signing.signing_keys, &outputs, environment)?;
        several::check(&outputs, &annotations, &platforms, &attestations)?;
        several::check_removal(&outputs, &context)?;
        let resolver = run::resolver(&arguments)?;
        Ok(Request {
            action: action(&arguments)?,
            tags,
            context,
            dockerfile,
            target: arguments.target.filter(|target| !target.is_empty()),
            build_arguments,
            labels: key_values("--label", &arguments.labels)?,
            annotations,
            platforms,
            build_contexts: context::build_contexts(&arguments.build_contexts, environment)?,
            cache: cache_use(arguments.no_cache, arguments.no_cache_filter),
            cache_from: caches.from,
            mounts_limit: caches.mounts_limit,
            cache_to: caches.to,
            pull: pull_policy(arguments.pull.as_deref())?,
            outputs,
            layering,
            attestations,
            signing_keys,
            sameness: match arguments.reproducible.reproducible {
                Switch::On => Sameness::WholeImage,
                Switch::Off => Sameness::Files,
            },
            image_id_file: arguments.image_id_file.map(|path| environment.absolute(path)),
            metadata_file: arguments.metadata_file.map(|path| environment.absolute(path)),
            digest_files: DigestFiles::default(),
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

/// A cache within an image names the layers that the image has.
fn layering(squash: Switch, caches: &[CacheTarget]) -> Result<Layering, InvalidRequest> {
    match squash {
        Switch::Off => Ok(Layering::PerStep),
        Switch::On if caches.contains(&CacheTarget::Inline) => Err(InvalidRequest::Contradiction {
            problem: "--cache-to type=inline cannot be used with --squash: the image has no layers of single steps"
                .to_owned(),
            hint: "give the cache a place of its own: --cache-to type=registry,ref=NAME".to_owned(),
        }),
        Switch::On => Ok(Layering::Squashed),
    }
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
