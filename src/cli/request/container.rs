//! What `rbuild run` was asked to do.

use std::path::{Path, PathBuf};

use super::commands::{ImageSelector, quiet_or};
use super::fields::Given;
use super::run::{ExtraHost, NetworkMode, hosts, network};
use super::variables::variables;
use super::{
    InvalidRequest, PullPolicy, RegistryOptions, byte_size, platform, pull_policy, references, registries, store_root,
};
use crate::cli::args::{GlobalArguments, RunArguments, Switch};
use crate::cli::environment::{Environment, Stdio};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::ui::ProgressMode;

/// `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunImage {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub image: ImageSelector,
    /// For which platform it is pulled, where it is.
    pub platform: Platform,
    /// When it is pulled.
    pub pull: PullPolicy,
    /// Instead of the image's; empty for none.
    pub entrypoint: Option<String>,
    /// Instead of the image's, if there is any.
    pub command: Vec<String>,
    /// Variables besides the image's.
    pub env: Vec<(String, String)>,
    /// Instead of the image's.
    pub working_directory: Option<String>,
    /// Instead of the image's.
    pub user: Option<String>,
    /// What of this machine it sees.
    pub mounts: Vec<HostMount>,
    /// The network.
    pub network: NetworkMode,
    /// More lines of `/etc/hosts`.
    pub hosts: Vec<ExtraHost>,
    /// The host name.
    pub hostname: String,
    /// Bytes of `/dev/shm`.
    pub shm_size: u64,
    /// What becomes of what the command writes.
    pub commit: Option<Commit>,
    /// Whether the command can read what `rbuild` can.
    pub input: Input,
    /// What its standard streams are.
    pub screen: Screen,
    /// How to reach registries.
    pub registries: RegistryOptions,
    /// How to show a pull.
    pub progress: ProgressMode,
    /// Sentences about flags that do not do what they do elsewhere.
    pub notices: Vec<String>,
}

/// An image that is made of what a command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its names.
    pub names: Vec<Reference>,
    /// Instructions that change the config.
    pub changes: Vec<String>,
    /// What its history says about it.
    pub message: String,
}

/// What a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    Empty,
    /// Standard input.
    Passed,
}

/// What a command writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// Pipes to standard output and standard error.
    Pipes,
    /// A terminal of its own.
    Terminal,
}

/// Something that is mounted into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// Where.
    pub target: String,
    /// What.
    pub source: HostSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSource {
    /// A file or directory of this machine that exists, without links in its path.
    Bind {
        /// Its path.
        path: PathBuf,
        /// Whether it may be changed.
        access: BindAccess,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Bytes that it may hold.
        size: Option<u64>,
    },
}

/// Whether a file or directory of this machine may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindAccess {
    /// It may not.
    ReadOnly,
    /// It may.
    ReadWrite,
}

impl RunImage {
    pub(in crate::cli) fn resolve(
        arguments: RunArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<RunImage, InvalidRequest> {
        let (input, screen) = streams(&arguments, environment)?;
        let mut words = arguments.image_and_command.into_iter();
        let image = ImageSelector::parse_with_archives(&words.next().unwrap_or_default(), environment)?;
        let platform = match (&arguments.platform, environment.variable("DOCKER_DEFAULT_PLATFORM")) {
            (Some(text), _) => platform("--platform", text)?,
            (None, Some(text)) => platform("DOCKER_DEFAULT_PLATFORM", text)?,
            (None, None) => Platform::host(),
        };
        let volumes = arguments.volumes.iter().map(|text| volume(text, environment));
        let mounts = arguments.mounts.iter().map(|text| mount(text, environment));
        let published = arguments.published.iter().map(|text| {
            format!(
                "-p {text} does nothing: a container here has this machine's network, so its ports are this machine's"
            )
        });
        let network = network(&arguments.network)?;
        let names = references("--commit", &arguments.commit)?;
        let message = arguments.message.unwrap_or_default();
        let commit = (!names.is_empty()).then_some(Commit { names, changes: arguments.changes, message });
        Ok(RunImage {
            commit,
            store_root: store_root(global, environment)?,
            image,
            platform,
            pull: pull_policy(arguments.pull.as_deref())?,
            entrypoint: arguments.entrypoint,
            command: words.collect(),
            env: variables(&arguments.env_files, &arguments.env, environment)?,
            working_directory: arguments.working_directory.map(|path| absolute("--workdir", path)).transpose()?,
            user: arguments.user,
            mounts: volumes.chain(mounts).collect::<Result<_, _>>()?,
            network,
            hosts: hosts(&arguments.hosts, network)?,
            hostname: arguments.hostname.unwrap_or_else(|| "rbuild".to_owned()),
            shm_size: match &arguments.shm_size {
                Some(text) => byte_size("--shm-size", text)?,
                None => 64 << 20,
            },
            input,
            screen,
            registries: registries(&arguments.registry, environment)?,
            progress: quiet_or(
                arguments.quiet.is_on().then_some(ProgressMode::Quiet),
                &arguments.progress,
                environment,
            )?,
            notices: published.collect(),
        })
    }
}

/// Where neither is asked for, a terminal is passed on if there is one at both ends.
fn streams(arguments: &RunArguments, environment: &Environment) -> Result<(Input, Screen), InvalidRequest> {
    let all = [environment.stdin, environment.stdout, environment.stderr];
    let is_terminal = environment.stdin == Stdio::Terminal;
    match (arguments.interactive, arguments.tty) {
        (None, None) if all.iter().all(|stream| *stream == Stdio::Terminal) => Ok((Input::Passed, Screen::Terminal)),
        (Some(Switch::On), Some(Switch::On)) if !is_terminal => Err(InvalidRequest::Contradiction {
            problem: "--interactive --tty needs a terminal as standard input, and there is none".to_owned(),
            hint: "-i alone passes standard input on".to_owned(),
        }),
        (interactive, tty) => Ok((
            if interactive == Some(Switch::On) { Input::Passed } else { Input::Empty },
            if tty == Some(Switch::On) { Screen::Terminal } else { Screen::Pipes },
        )),
    }
}

fn absolute(flag: &'static str, path: String) -> Result<String, InvalidRequest> {
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(Given { flag, value: &path, expected: "an absolute path" }.invalid())
}

/// `--volume SOURCE:TARGET[:OPTIONS]`, as docker has it.
fn volume(text: &str, environment: &Environment) -> Result<HostMount, InvalidRequest> {
    let given = Given { flag: "--volume", value: text, expected: "SOURCE:TARGET or SOURCE:TARGET:ro" };
    let fields: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match fields.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(given.invalid()),
    };
    if !source.contains('/') && source != "." && source != ".." {
        return Err(given.because("there are no named volumes: give a path, such as ./data"));
    }
    let mut access = BindAccess::ReadWrite;
    for option in options.split(',') {
        match option {
            "ro" | "readonly" => access = BindAccess::ReadOnly,
            "rw" => access = BindAccess::ReadWrite,
            // Labels of SELinux, and how other systems share files: nothing that a mount of a user namespace has.
            "" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            _ => return Err(given.because("options are ro and rw")),
        }
    }
    bind(&given, source, target, access, environment)
}

/// `--mount type=bind|tmpfs,…`, by the keys that RUN's has and those of docker.
fn mount(text: &str, environment: &Environment) -> Result<HostMount, InvalidRequest> {
    let expected = "type=bind,source=PATH,target=PATH[,readonly] or type=tmpfs,target=PATH[,size=SIZE]";
    let given = Given { flag: "--mount", value: text, expected };
    let (mut kind, mut source, mut target, mut size) = ("bind".to_owned(), None, None, None);
    let mut access = BindAccess::ReadWrite;
    let switch = |value: Option<&str>| match value {
        None => Ok(Switch::On),
        Some(word) => word.parse::<Switch>().map_err(|reason| given.because(reason)),
    };
    for field in given.fields()? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_lowercase(), Some(value)),
            None => (field.trim().to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("type", Some(value)) => kind = value.to_owned(),
            ("source" | "src" | "from", Some(value)) => source = Some(value.to_owned()),
            ("target" | "dst" | "destination", Some(value)) => target = Some(value.to_owned()),
            ("readonly" | "ro", value) => {
                access = if switch(value)?.is_on() { BindAccess::ReadOnly } else { BindAccess::ReadWrite };
            }
            ("readwrite" | "rw", value) => {
                access = if switch(value)?.is_on() { BindAccess::ReadWrite } else { BindAccess::ReadOnly };
            }
            ("size" | "tmpfs-size", Some(value)) => size = Some(byte_size("--mount", value)?),
            ("type" | "source" | "src" | "from" | "target" | "dst" | "destination" | "size" | "tmpfs-size", None) => {
                return Err(given.invalid());
            }
            (key, _) => {
                return Err(given.unknown_key(key, &["type", "source", "target", "readonly", "readwrite", "size"]));
            }
        }
    }
    let target = target.ok_or_else(|| given.because("target is missing"))?;
    match (kind.as_str(), source) {
        ("bind", Some(source)) => bind(&given, &source, &target, access, environment),
        ("bind", None) => Err(given.because("source is missing")),
        ("tmpfs", None) => Ok(HostMount { target: absolute("--mount", target)?, source: HostSource::Tmpfs { size } }),
        ("tmpfs", Some(_)) => Err(given.because("type=tmpfs has no source")),
        _ => Err(given.because("type is bind or tmpfs")),
    }
}

fn bind(
    given: &Given<'_>,
    source: &str,
    target: &str,
    access: BindAccess,
    environment: &Environment,
) -> Result<HostMount, InvalidRequest> {
    if !Path::new(target).is_absolute() {
        return Err(given.because("the target is no absolute path"));
    }
    let path = environment.absolute(source);
    // Links are the user's own here; inside the container they would lead elsewhere.
    let path = path.canonicalize().map_err(|error| given.because(&format!("{}: {error}", path.display())))?;
    Ok(HostMount { target: target.to_owned(), source: HostSource::Bind { path, access } })
}
