//! What RUN gets: secrets, agents, network, hosts.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::InvalidRequest;
use super::fields::Given;
use crate::cli::args::BuildArguments;
use crate::cli::environment::Environment;
use crate::executor::Resolver;
use crate::sandbox::{Isolation, StorageDriver, Tool};

/// The largest secret, as in BuildKit (`session/secrets`).
const LARGEST_SECRET: u64 = 500 << 10;

/// A secret for `RUN --mount=type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name in the Dockerfile.
    pub id: String,
    /// Where its value is.
    pub source: SecretSource,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that exists.
    File(PathBuf),
    /// An environment variable, set or not.
    Env(String),
}

/// Says why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file cannot be read.
    #[error("read secret {id} from {}", path.display())]
    Read {
        /// The secret.
        id: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is too large.
    #[error("read secret {id}: it is larger than 500 KiB")]
    TooLarge {
        /// The secret.
        id: String,
    },
}

impl Secret {
    /// Reads its value; none where it comes from a variable that is not set.
    pub fn read(&self, environment: &Environment) -> Result<Option<Vec<u8>>, SecretError> {
        let path = match &self.source {
            SecretSource::Env(name) => {
                return Ok(environment.variables.get(name).map(|value| value.clone().into_bytes()));
            }
            SecretSource::File(path) => path,
        };
        let failed = |source| SecretError::Read { id: self.id.clone(), path: path.clone(), source };
        let mut value = Vec::new();
        File::open(path).map_err(failed)?.take(LARGEST_SECRET + 1).read_to_end(&mut value).map_err(failed)?;
        if value.len() as u64 > LARGEST_SECRET {
            return Err(SecretError::TooLarge { id: self.id.clone() });
        }
        Ok(Some(value))
    }
}

/// Understands `--secret`. A later one of the same name wins.
pub(super) fn secrets(texts: &[String], environment: &Environment) -> Result<Vec<Secret>, InvalidRequest> {
    let mut secrets: Vec<Secret> = Vec::new();
    for text in texts {
        let secret = secret(text, environment)?;
        secrets.retain(|other| other.id != secret.id);
        secrets.push(secret);
    }
    Ok(secrets)
}

fn secret(text: &str, environment: &Environment) -> Result<Secret, InvalidRequest> {
    let given = Given { flag: "--secret", value: text, expected: "id=NAME,src=FILE or id=NAME,env=VARIABLE" };
    let (mut id, mut file, mut variable, mut is_env) = (None, None, None, false);
    for (key, value) in given.pairs()? {
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            "type" if value == "env" => is_env = true,
            "type" if value == "file" => {}
            "type" => return Err(given.because("type is file or env")),
            key => return Err(given.unknown_key(key, &["id", "src", "source", "env", "type"])),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| given.invalid())?;
    if is_env && variable.is_none() {
        variable = file.take();
    }
    let source = match (variable, file) {
        (Some(_), Some(_)) => return Err(given.because("src and env exclude each other")),
        (Some(name), None) => SecretSource::Env(name),
        (None, Some(path)) => SecretSource::File(environment.absolute(path)),
        // As in BuildKit: the name is that of a variable, or else of a file.
        (None, None) if is_env || environment.variables.contains_key(&id) => SecretSource::Env(id.clone()),
        (None, None) => SecretSource::File(environment.absolute(&id)),
    };
    match &source {
        SecretSource::File(path) if !path.is_file() && !is_pipe(path) => {
            Err(given.because(&format!("there is no file {}", path.display())))
        }
        _ => Ok(Secret { id, source }),
    }
}

/// `src=<(command)` in a shell gives a pipe.
fn is_pipe(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// An SSH agent for `RUN --mount=type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAgent {
    /// Its name in the Dockerfile (`default`).
    pub id: String,
    /// One agent's socket, or private keys.
    pub sources: Vec<PathBuf>,
}

/// Understands `--ssh`.
pub(super) fn ssh(texts: &[String], environment: &Environment) -> Result<Vec<SshAgent>, InvalidRequest> {
    let mut agents: Vec<SshAgent> = Vec::new();
    for text in texts {
        let given = Given { flag: "--ssh", value: text, expected: "default or ID=SOCKET or ID=KEY" };
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        if id.is_empty() {
            return Err(given.invalid());
        }
        let mut sources: Vec<PathBuf> =
            paths.split(',').filter(|path| !path.is_empty()).map(|path| environment.absolute(path)).collect();
        if sources.is_empty() {
            let socket = environment.variable("SSH_AUTH_SOCK").ok_or_else(|| {
                given.because("there is no agent: SSH_AUTH_SOCK is not set; start ssh-agent, or name a socket or a key")
            })?;
            sources.push(PathBuf::from(socket));
        }
        agents.retain(|agent| agent.id != id);
        agents.push(SshAgent { id: id.to_owned(), sources });
    }
    Ok(agents)
}

/// The network of RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// What the machine offers: outgoing connections.
    Default,
    /// Loopback only.
    None,
    /// The machine's own.
    Host,
    /// One of its own that leads out, by this tool or by one that there is.
    Private(Option<Tool>),
}

/// Understands `--network`.
pub(super) fn network(word: &str) -> Result<NetworkMode, InvalidRequest> {
    let given = Given { flag: "--network", value: word, expected: "default, private, none or host" };
    match word {
        "default" | "" => Ok(NetworkMode::Default),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        "private" => Ok(NetworkMode::Private(None)),
        // As in Buildah.
        "pasta" => Ok(NetworkMode::Private(Some(Tool::Pasta))),
        "slirp4netns" => Ok(NetworkMode::Private(Some(Tool::Slirp4netns))),
        // Docker's name of its default.
        "bridge" => Ok(NetworkMode::Default),
        _ => Err(given.invalid()),
    }
}

pub(super) fn isolation(flag: Option<&str>, environment: &Environment) -> Result<Isolation, InvalidRequest> {
    let Some((flag, value)) = given(("--isolation", flag), "RBUILD_ISOLATION", environment) else {
        return Ok(Isolation::Best);
    };
    match value {
        "auto" | "default" => Ok(Isolation::Best),
        // Buildah's names for the same.
        "full" | "oci" | "rootless" => Ok(Isolation::Full),
        "chroot" => Ok(Isolation::Chroot),
        _ => Err(Given { flag, value, expected: "full or chroot" }.invalid()),
    }
}

pub(super) fn storage_driver(flag: Option<&str>, environment: &Environment) -> Result<StorageDriver, InvalidRequest> {
    let Some((flag, value)) = given(("--storage-driver", flag), "RBUILD_STORAGE_DRIVER", environment) else {
        return Ok(StorageDriver::Auto);
    };
    match value {
        "auto" => Ok(StorageDriver::Auto),
        "overlay" => Ok(StorageDriver::Overlay),
        // Buildah's and Docker's name for it.
        "copy" | "vfs" => Ok(StorageDriver::Copy),
        _ => Err(Given { flag, value, expected: "auto, overlay or copy" }.invalid()),
    }
}

/// A flag's value or a variable's, with its name: the flag wins, and nothing counts as not given.
fn given<'a>(
    (name, flag): (&'static str, Option<&'a str>),
    variable: &'static str,
    environment: &'a Environment,
) -> Option<(&'static str, &'a str)> {
    let of_variable = || environment.variable(variable).map(|value| (variable, value));
    flag.map(|value| (name, value)).or_else(of_variable).filter(|(_, value)| !value.is_empty())
}

/// Understands `--dns`, `--dns-search` and `--dns-option`.
pub(super) fn resolver(arguments: &BuildArguments) -> Result<Resolver, InvalidRequest> {
    let server =
        |value: &String| value.parse().map_err(|_| Given { flag: "--dns", value, expected: "an IP address" }.invalid());
    let word = |flag: &'static str, value: &String| {
        let is_word = !value.is_empty() && !value.contains(|letter: char| letter.is_whitespace() || letter == '#');
        if is_word { Ok(value.clone()) } else { Err(Given { flag, value, expected: "one word" }.invalid()) }
    };
    Ok(Resolver {
        servers: arguments.name_servers.iter().map(server).collect::<Result<_, _>>()?,
        search: arguments.search_domains.iter().map(|text| word("--dns-search", text)).collect::<Result<_, _>>()?,
        options: arguments.resolver_options.iter().map(|text| word("--dns-option", text)).collect::<Result<_, _>>()?,
    })
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub address: HostAddress,
}

/// What a name in `/etc/hosts` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAddress {
    /// An address.
    Ip(IpAddr),
    /// This machine as a RUN sees it (`host-gateway`).
    Gateway,
}

/// Understands `--add-host`.
pub(super) fn hosts(texts: &[String], network: NetworkMode) -> Result<Vec<ExtraHost>, InvalidRequest> {
    let host = |text: &String| {
        let given = Given { flag: "--add-host", value: text, expected: "HOST:IP or HOST=IP" };
        let separated = text.split_once('=').or_else(|| text.split_once(':'));
        let (name, address) = separated.ok_or_else(|| given.invalid())?;
        if name.is_empty() || name.contains(|character: char| character == ':' || character.is_whitespace()) {
            return Err(given.invalid());
        }
        let unbracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address = match unbracketed {
            "host-gateway" if matches!(network, NetworkMode::Private(_)) => {
                return Err(InvalidRequest::Contradiction {
                    problem: "--add-host host-gateway and --network=private contradict each other".to_owned(),
                    hint: "a private network leads to nothing of this machine's loopback; name another address of it"
                        .to_owned(),
                });
            }
            "host-gateway" => HostAddress::Gateway,
            ip => HostAddress::Ip(ip.parse().map_err(|_| given.because(&format!("{ip:?} is no IP address")))?),
        };
        Ok(ExtraHost { name: name.to_owned(), address })
    };
    texts.iter().map(host).collect()
}

/// What a Dockerfile may ask for with `RUN --network=host`, `--security=insecure`, `--device`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// The machine's network.
    NetworkHost,
    /// All privileges that rbuild itself has.
    SecurityInsecure,
    /// All devices.
    AnyDevice,
    /// A device.
    Device {
        /// What the Dockerfile calls it.
        name: String,
        /// What the machine calls it.
        real: String,
    },
    /// `mode=delete` of a local output outside the working directory.
    LocalDelete,
}

/// `NAME` or `NAME,alias=NAME`.
fn device(text: &str) -> Option<Entitlement> {
    let (real, rest) = text.split_once(',').unwrap_or((text, ""));
    let name = if rest.is_empty() { real } else { rest.strip_prefix("alias=")? };
    let is_name = |name: &str| !name.is_empty() && !name.contains(',');
    (is_name(real) && is_name(name)).then(|| Entitlement::Device { name: name.to_owned(), real: real.to_owned() })
}

/// Understands `--allow`.
pub(super) fn entitlements(texts: &[String]) -> Result<Vec<Entitlement>, InvalidRequest> {
    let entitlement = |text: &String| match text.as_str() {
        "network.host" => Ok(Entitlement::NetworkHost),
        "security.insecure" => Ok(Entitlement::SecurityInsecure),
        "device" => Ok(Entitlement::AnyDevice),
        "buildx.local.delete" => Ok(Entitlement::LocalDelete),
        value => value.strip_prefix("device=").and_then(device).ok_or_else(|| {
            let expected = "network.host, security.insecure, device or device=NAME[,alias=NAME]";
            Given { flag: "--allow", value, expected }.invalid()
        }),
    };
    let mut entitlements: Vec<Entitlement> = texts.iter().map(entitlement).collect::<Result<_, _>>()?;
    entitlements.sort();
    entitlements.dedup();
    Ok(entitlements)
}
