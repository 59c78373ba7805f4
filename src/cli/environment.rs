//! What surrounds the process: variables, directory, user, clock, terminals. Captured once, passed explicitly.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::ui::UiEnvironment;

/// Whether one of the standard streams is a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Somebody looks at it.
    Terminal,
    /// A file, a pipe, nothing.
    Other,
}

/// The surroundings of the process.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Environment variables; a name or value that is no UTF-8 is kept with replacement characters.
    pub variables: BTreeMap<String, String>,
    /// The working directory.
    pub current_directory: PathBuf,
    /// The effective user.
    pub user_id: u32,
    /// When rbuild started.
    pub now: SystemTime,
    /// Processors that may be used.
    pub processors: NonZeroUsize,
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

/// Says that the working directory is gone.
#[derive(Debug, thiserror::Error)]
#[error("read the working directory")]
pub struct NoCurrentDirectory(#[from] std::io::Error);

impl Environment {
    /// Captures the real surroundings.
    pub fn capture() -> Result<Environment, NoCurrentDirectory> {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        let stdio = |is_terminal| if is_terminal { Stdio::Terminal } else { Stdio::Other };
        Ok(Environment {
            variables: std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect(),
            current_directory: std::env::current_dir()?,
            user_id: rustix::process::geteuid().as_raw(),
            now: SystemTime::now(),
            processors: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            stdin: stdio(std::io::stdin().is_terminal()),
            stdout: stdio(std::io::stdout().is_terminal()),
            stderr: stdio(std::io::stderr().is_terminal()),
        })
    }

    /// A variable's value; an empty one counts as not set, as in the programs whose variables these are.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A path as typed, made absolute.
    pub fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        let joined = self.current_directory.join(path);
        // Removes `.` and doubled slashes, keeps `..`: what it means depends on links.
        joined.components().collect()
    }

    /// Where images and cache live: `/var/lib/rbuild` for root, the user's data directory for others.
    pub fn default_store_root(&self) -> Option<PathBuf> {
        if let Some(root) = self.variable("RBUILD_ROOT") {
            return Some(self.absolute(root));
        }
        if self.user_id == 0 {
            return Some(PathBuf::from("/var/lib/rbuild"));
        }
        // The XDG base directory specification wants relative paths ignored.
        let data = self.variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || Some(Path::new(self.variable("HOME")?).join(".local/share"));
        Some(data.or_else(home)?.join("rbuild"))
    }

    /// What drawing has to know.
    pub fn ui(&self) -> UiEnvironment {
        let number = |name| self.variable(name).and_then(|value| value.parse().ok()).filter(|value: &u16| *value > 0);
        UiEnvironment {
            stderr_is_terminal: self.stderr == Stdio::Terminal && self.variable("TERM") != Some("dumb"),
            no_color: self.variable("NO_COLOR").is_some(),
            columns: number("COLUMNS"),
            lines: number("LINES"),
            log_lines: number("BUILDKIT_TTY_LOG_LINES").unwrap_or(6),
        }
    }
}
