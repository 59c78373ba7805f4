//! The ssh agents of a build: those whose sockets `--ssh` names, and one of rbuild's own for each set of keys that it names.
//!
//! Keys are given to OpenSSH's own programs: a second reader of private keys would be a second place for mistakes with them.
//! An agent started here ends with the build, however that ends: it waits for the end of a pipe that only this process
//! holds, and takes its socket with it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cli::environment::Environment;
use crate::cli::request::SshAgent;

/// The largest key, as in BuildKit (`session/sshforward/sshprovider`).
const LARGEST_KEY: u64 = 100 << 10;

/// What the agent runs: it says that the agent listens, and waits. ssh-agent alone would notice only after ten seconds that
/// the command that it belongs to has ended. That nobody hears it any more must not end it before it has tidied up.
const WAIT: &str = concat!(
    "trap '' PIPE; echo ready; cat >/dev/null; ",
    r#"kill "$SSH_AGENT_PID"; rm -f "$SSH_AUTH_SOCK"; rmdir "${SSH_AUTH_SOCK%/*}""#
);

/// Says why there is no agent for a build.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    /// What `--ssh` names cannot be read.
    #[error("cannot use {} for --ssh {id}", path.display())]
    Read {
        /// The agent's name in the Dockerfile.
        id: String,
        /// The socket or key.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `--ssh` names a socket and something else.
    #[error("--ssh {id} names a socket and something else; give it one socket, or keys alone")]
    Mixed {
        /// The agent's name in the Dockerfile.
        id: String,
    },
    /// Keys need an agent, and its program is not there.
    #[error(
        "--ssh {id} names a key, which needs {program}: install openssh-client, or give the key to an agent and name its socket"
    )]
    NotInstalled {
        /// The agent's name in the Dockerfile.
        id: String,
        /// The program.
        program: &'static str,
    },
    /// The agent does not start.
    #[error("cannot start ssh-agent for --ssh {id}: {message}")]
    Start {
        /// The agent's name in the Dockerfile.
        id: String,
        /// What it or the system said.
        message: String,
    },
    /// A key asks for a passphrase.
    #[error(
        "the key {} of --ssh {id} has a passphrase, and a build asks for none: \
         give it to an agent with ssh-add, then use --ssh {id} with the agent's socket",
        path.display()
    )]
    Passphrase {
        /// The agent's name in the Dockerfile.
        id: String,
        /// The key.
        path: PathBuf,
    },
    /// The agent does not take a key.
    #[error("{} of --ssh {id} is neither an agent's socket nor a private key: {message}", path.display())]
    NoKey {
        /// The agent's name in the Dockerfile.
        id: String,
        /// The file.
        path: PathBuf,
        /// What ssh-add said.
        message: String,
    },
}

/// The agents of a build, until they are dropped.
#[derive(Debug, Default)]
pub(super) struct Agents {
    sockets: BTreeMap<String, PathBuf>,
    /// Kept for their ends.
    _started: Vec<KeyAgent>,
}

impl Agents {
    /// Looks at what `--ssh` names, and starts agents for keys.
    pub(super) fn start(requested: &[SshAgent], environment: &Environment) -> Result<Agents, AgentError> {
        let (mut sockets, mut started) = (BTreeMap::new(), Vec::new());
        for SshAgent { id, sources } in requested {
            let mut named = None;
            for path in sources {
                if is_socket(path).map_err(|source| unreadable(id, path, source))? {
                    named = Some(path);
                }
            }
            let socket = match (named, sources.len()) {
                (Some(socket), 1) => socket.clone(),
                (Some(_), _) => return Err(AgentError::Mixed { id: id.clone() }),
                (None, _) => {
                    let agent = KeyAgent::start(id, sources, environment)?;
                    let socket = agent.socket.clone();
                    started.push(agent);
                    socket
                }
            };
            sockets.insert(id.clone(), socket);
        }
        Ok(Agents { sockets, _started: started })
    }

    /// Their sockets, by name.
    pub(super) fn sockets(&self) -> &BTreeMap<String, PathBuf> {
        &self.sockets
    }
}

fn is_socket(path: &Path) -> io::Result<bool> {
    Ok(path.metadata()?.file_type().is_socket())
}

fn unreadable(id: &str, path: &Path, source: io::Error) -> AgentError {
    AgentError::Read { id: id.to_owned(), path: path.to_owned(), source }
}

/// An agent that was started for keys.
#[derive(Debug)]
struct KeyAgent {
    socket: PathBuf,
    /// The command that the agent belongs to.
    waiting: Child,
}

impl KeyAgent {
    fn start(id: &str, keys: &[PathBuf], environment: &Environment) -> Result<KeyAgent, AgentError> {
        let failed = |message: String| AgentError::Start { id: id.to_owned(), message };
        // Not in the store: the name of a socket may have 107 bytes only.
        let place = environment.variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|place| place.is_dir());
        let place = place.unwrap_or_else(std::env::temp_dir);
        let directory = private_directory(&place);
        let directory =
            directory.map_err(|error| failed(format!("make a directory in {}: {error}", place.display())))?;
        let socket = directory.join("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-a").arg(&socket).args(["sh", "-c", WAIT]);
        // Ctrl-C goes to all of a terminal's group; the build may still need its keys while it winds up.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let waiting = command.spawn().map_err(|error| {
            // From when it runs, it removes the directory.
            drop(std::fs::remove_dir(&directory));
            not_started(id, "ssh-agent", &error)
        })?;
        let mut agent = KeyAgent { socket, waiting };
        let mut ready = String::new();
        if let Some(stdout) = agent.waiting.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready).map_err(|error| failed(error.to_string()))?;
        }
        if ready.trim_end() != "ready" {
            drop(agent.waiting.stdin.take());
            let mut said = String::new();
            let read = agent.waiting.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
            // Half of what it said is better than nothing.
            drop(read);
            drop(std::fs::remove_dir_all(&directory));
            return Err(failed(said.trim().to_owned()));
        }
        for key in keys {
            agent.add(id, key)?;
        }
        Ok(agent)
    }

    /// Gives a key to the agent. It goes through a pipe, for ssh-add refuses files that others may read, and BuildKit does not.
    fn add(&self, id: &str, path: &Path) -> Result<(), AgentError> {
        let mut key = Vec::new();
        let opened = File::open(path).and_then(|file| file.take(LARGEST_KEY).read_to_end(&mut key));
        opened.map_err(|source| unreadable(id, path, source))?;
        let mut command = Command::new("ssh-add");
        command.args(["-q", "-"]).env("SSH_AUTH_SOCK", &self.socket);
        // Asked for a passphrase, it hears that there is none, wherever it would have asked.
        command.env("SSH_ASKPASS", "/bin/false").env("SSH_ASKPASS_REQUIRE", "force");
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| not_started(id, "ssh-add", &error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it to its end says why, and how it ended tells.
            drop(stdin.write_all(&key));
        }
        let ended = child.wait_with_output().map_err(|error| not_started(id, "ssh-add", &error))?;
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        let (id, path) = (id.to_owned(), path.to_owned());
        // It has a word for everything else that goes wrong.
        match said.trim() {
            "" => Err(AgentError::Passphrase { id, path }),
            said => Err(AgentError::NoKey { id, path, message: said.replace("\"(stdin)\"", "it") }),
        }
    }
}

/// Makes a directory that is nobody else's.
fn private_directory(place: &Path) -> io::Result<PathBuf> {
    for number in 0.. {
        let path = place.join(format!("rbuild-ssh-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn not_started(id: &str, program: &'static str, error: &io::Error) -> AgentError {
    match error.kind() {
        io::ErrorKind::NotFound => AgentError::NotInstalled { id: id.to_owned(), program },
        _ => AgentError::Start { id: id.to_owned(), message: error.to_string() },
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        // The end of its input ends the command, and that the agent; nothing can be done if it does not.
        drop(self.waiting.stdin.take());
        drop(self.waiting.wait());
    }
}
