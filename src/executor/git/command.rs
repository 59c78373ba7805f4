//! git(1), run for one repository in a directory of its own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::refs::Found;
use super::{GitAccess, GitError, is_inner_directory};
use crate::executor::SecretSource;
use crate::plan::git::{GitReference, Submodules};

const FETCH: [&str; 5] = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--update-head-ok"];

/// How often a cancelled build is noticed while git runs.
const POLL: Duration = Duration::from_millis(20);

/// Variables of ours that git may see: how to reach the network, and nothing that changes what it does.
const PASSED: [&str; 14] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "TMPDIR",
];

/// Git, for one repository.
pub(super) struct Git<'a> {
    reference: &'a GitReference,
    access: &'a GitAccess<'a>,
    work_tree: &'a Path,
    configuration: Vec<(String, String)>,
}

impl<'a> Git<'a> {
    pub(super) fn new(
        reference: &'a GitReference,
        access: &'a GitAccess<'a>,
        work_tree: &'a Path,
    ) -> Result<Git<'a>, GitError> {
        let fixed = [
            // The address may hold a password: the environment is ours alone, arguments are everybody's.
            ("remote.origin.url", reference.remote.as_str()),
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.autocrlf", "false"),
            ("core.symlinks", "true"),
            ("core.fileMode", "true"),
            ("core.longpaths", "true"),
            ("advice.detachedHead", "false"),
            ("credential.helper", ""),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            // A submodule must not read this machine's files.
            ("protocol.allow", "never"),
            ("protocol.http.allow", "always"),
            ("protocol.https.allow", "always"),
            ("protocol.git.allow", "always"),
            ("protocol.ssh.allow", "always"),
            // A server that falls silent is given up.
            ("http.lowSpeedLimit", "100"),
            ("http.lowSpeedTime", "60"),
        ];
        let mut configuration: Vec<(String, String)> =
            fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        configuration.extend(authorization(reference, access)?);
        Ok(Git { reference, access, work_tree, configuration })
    }

    /// What the repository has: a line for each name, `OBJECT<tab>NAME`.
    pub(super) fn list(&self) -> Result<String, GitError> {
        self.run("ls-remote", &["ls-remote", "--quiet", "origin"])
    }

    pub(super) fn init(&self, commit: &str) -> Result<(), GitError> {
        let mut arguments = vec!["init", "--quiet", "--template=", "--initial-branch=main"];
        if commit.len() == 64 {
            arguments.push("--object-format=sha256");
        }
        self.run("init", &arguments).map(drop)
    }

    /// The commit that begins with these digits, if there is one only. Servers know whole ones alone, so the history of
    /// all branches and tags is fetched to find it; `digits` is how many each object of the repository has.
    pub(super) fn resolve(&self, commit: &str, digits: usize) -> Result<Option<String>, GitError> {
        self.init(&"0".repeat(digits))?;
        self.fetch_all()?;
        match self.run(
            "rev-parse",
            &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{commit}^{{commit}}")],
        ) {
            Ok(found) => Ok(Some(found.trim().to_owned())),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn fetch_all(&self) -> Result<String, GitError> {
        let all = ["origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        self.run("fetch", &[&FETCH[..], &all].concat())
    }

    /// Fetches as little as the server allows.
    pub(super) fn fetch(&self, found: &Found) -> Result<(), GitError> {
        if found.name.is_none() && self.has(&found.commit) {
            return Ok(());
        }
        let name = found.name.as_deref().unwrap_or(&found.commit);
        let local = found.name.as_deref().filter(|name| name.starts_with("refs/"));
        let specification = local.map_or_else(|| name.to_owned(), |local| format!("+{name}:{local}"));
        let shallow = [&FETCH[..], &["--depth=1", "origin", &specification]].concat();
        let Err(first) = self.run("fetch", &shallow) else {
            return if self.has(&found.commit) { Ok(()) } else { Err(self.moved(found)) };
        };
        if matches!(first, GitError::Cancelled | GitError::NoGit { .. }) {
            return Err(first);
        }
        // An old server gives no bare commit, and a dumb one nothing shallow: all names then, and the commit among them.
        match self.fetch_all() {
            Ok(_) if self.has(&found.commit) => Ok(()),
            Err(GitError::Cancelled) => Err(GitError::Cancelled),
            Ok(_) | Err(_) => Err(first),
        }
    }

    fn has(&self, commit: &str) -> bool {
        self.run("cat-file", &["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_ok()
    }

    fn moved(&self, found: &Found) -> GitError {
        let message = format!("{} is not there any more; build again", found.commit);
        GitError::Failed { action: "fetch".to_owned(), remote: self.reference.shown(), message }
    }

    pub(super) fn check_out(&self, commit: &str, submodules: Submodules) -> Result<(), GitError> {
        self.run("checkout", &["checkout", "--quiet", "--force", "--detach", commit])?;
        if submodules == Submodules::Fetch && self.work_tree.join(".gitmodules").exists() {
            let arguments = ["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"];
            self.run("submodule update", &arguments)?;
        }
        Ok(())
    }

    /// When a commit was made, in seconds since 1970.
    pub(super) fn committed(&self, commit: &str) -> Result<i64, GitError> {
        let text = self.run("show", &["show", "--no-patch", "--format=%ct", commit])?;
        text.trim().parse().map_err(|_| GitError::Failed {
            action: "show".to_owned(),
            remote: self.reference.shown(),
            message: format!("{:?} is no time", text.trim()),
        })
    }

    /// Leaves nothing in `.git` that is another one the next time, or a secret.
    pub(super) fn tidy(&self, remote: &str) -> Result<(), GitError> {
        self.run("config", &["config", "set", "remote.origin.url", remote])
            .or_else(|_| self.run("config", &["config", "remote.origin.url", remote]))?;
        let directory = self.work_tree.join(".git");
        for name in ["FETCH_HEAD", "ORIG_HEAD", "logs", "index"] {
            let path = directory.join(name);
            drop(std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)));
        }
        // An index without the times and inodes of the files that are here now.
        self.run("read-tree", &["read-tree", "HEAD"]).map(drop)
    }

    pub(super) fn wanted_directory(&self, directory: &str, commit: &str) -> Result<PathBuf, GitError> {
        match is_inner_directory(self.work_tree, directory) {
            true => Ok(self.work_tree.join(directory)),
            false => Err(GitError::NoDirectory {
                directory: directory.to_owned(),
                remote: self.reference.shown(),
                commit: commit.to_owned(),
            }),
        }
    }

    fn run(&self, action: &str, arguments: &[&str]) -> Result<String, GitError> {
        let failed = |message: String| GitError::Failed {
            action: action.to_owned(),
            remote: self.reference.shown(),
            message: self.without_secrets(&message),
        };
        let mut child = self.command(arguments).spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => GitError::NoGit { remote: self.reference.shown() },
            _ => failed(error.to_string()),
        })?;
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let read = |stream: &mut Option<_>| stream.take().map(|stream| std::thread::spawn(move || read_all(stream)));
        let err = err.take().map(|stream| std::thread::spawn(move || read_all(stream)));
        let out = read(&mut out);
        let status = self.wait(&mut child)?;
        let text = |reader: Option<std::thread::JoinHandle<String>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        let (out, err) = (text(out), text(err));
        match status {
            Ok(status) if status.success() => Ok(out),
            Ok(status) if err.trim().is_empty() => Err(failed(status.to_string())),
            Ok(_) => Err(failed(err.trim().to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn wait(&self, child: &mut Child) -> Result<std::io::Result<std::process::ExitStatus>, GitError> {
        loop {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => return Ok(Ok(status)),
                Err(error) => return Ok(Err(error)),
            }
            if self.access.cancel.is_some_and(crate::sandbox::Cancel::is_cancelled) {
                // Its helpers end with it, for they talk to it through pipes.
                drop(child.kill());
                drop(child.wait());
                return Err(GitError::Cancelled);
            }
            std::thread::sleep(POLL);
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.work_tree).env_clear();
        command.envs(PASSED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        command.envs([
            ("LC_ALL", "C"),
            ("HOME", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            // Nothing of an outer repository that the store may lie in.
            ("GIT_CEILING_DIRECTORIES", "/"),
        ]);
        // Only the keys that `--ssh` gives are used, never those that happen to lie in the user's home.
        command.env("GIT_SSH_COMMAND", "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none");
        if let Some(socket) = self.access.agents.get("default") {
            command.env("SSH_AUTH_SOCK", socket);
        }
        command.env("GIT_CONFIG_COUNT", self.configuration.len().to_string());
        for (number, (name, value)) in self.configuration.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What git says may hold the address as it was given.
    fn without_secrets(&self, message: &str) -> String {
        message.replace(&self.reference.remote, &self.reference.shown())
    }
}

fn read_all(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    // Half of what git said is better than nothing.
    drop(stream.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The header that secrets make, for this host alone: `GIT_AUTH_HEADER.HOST`, `GIT_AUTH_TOKEN.HOST`, then without host.
fn authorization(reference: &GitReference, access: &GitAccess<'_>) -> Result<Option<(String, String)>, GitError> {
    let Some((scheme, _)) = reference.remote.split_once("://").filter(|(scheme, _)| scheme.starts_with("http")) else {
        return Ok(None);
    };
    let host = reference.host().unwrap_or_default();
    let names = [
        format!("GIT_AUTH_HEADER.{host}"),
        format!("GIT_AUTH_TOKEN.{host}"),
        "GIT_AUTH_HEADER".to_owned(),
        "GIT_AUTH_TOKEN".to_owned(),
    ];
    let Some((id, source)) = names.iter().find_map(|name| Some((name, access.secrets.get(name)?))) else {
        return Ok(None);
    };
    let refuse = |message: String| GitError::Secret { id: id.clone(), remote: reference.shown(), message };
    let value = match source {
        SecretSource::Value(value) => value.clone(),
        SecretSource::File(path) => std::fs::read(path).map_err(|error| refuse(error.to_string()))?,
    };
    let value = String::from_utf8(value).map_err(|_| refuse("it is no UTF-8 text".to_owned()))?;
    let value = value.trim_end_matches(['\r', '\n']);
    if value.contains(char::is_control) {
        return Err(refuse("it has several lines".to_owned()));
    }
    let header = match id.starts_with("GIT_AUTH_TOKEN") {
        true => format!("basic {}", STANDARD.encode(format!("x-access-token:{value}"))),
        false => value.to_owned(),
    };
    let scope = format!("http.{scheme}://{host}/.extraheader");
    Ok(Some((scope, format!("Authorization: {header}"))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn header_for(address: &str, secrets: &[(&str, &str)]) -> Option<(String, String)> {
        let secrets: BTreeMap<String, SecretSource> = secrets
            .iter()
            .map(|(id, value)| ((*id).to_owned(), SecretSource::Value(value.as_bytes().to_vec())))
            .collect();
        let agents = BTreeMap::new();
        let access = GitAccess { secrets: &secrets, agents: &agents, cancel: None, epoch: 0 };
        authorization(&GitReference::parse(address).unwrap().unwrap(), &access).unwrap()
    }

    #[test]
    fn secrets_become_a_header_for_one_host() {
        let scope = "http.https://h:8443/.extraheader".to_owned();
        let address = "https://h:8443/a.git";
        let token = Some((scope.clone(), "Authorization: basic eC1hY2Nlc3MtdG9rZW46dA==".to_owned()));
        assert_eq!(header_for(address, &[("GIT_AUTH_TOKEN", "t\n")]), token);
        assert_eq!(header_for(address, &[("GIT_AUTH_TOKEN", "no"), ("GIT_AUTH_TOKEN.h:8443", "t")]), token);
        let header = Some((scope, "Authorization: bearer x".to_owned()));
        assert_eq!(header_for(address, &[("GIT_AUTH_TOKEN", "t"), ("GIT_AUTH_HEADER", "bearer x")]), header);
        assert_eq!(header_for(address, &[("GIT_AUTH_TOKEN.other", "t")]), None);
        assert_eq!(header_for("ssh://git@h/a", &[("GIT_AUTH_TOKEN", "t")]), None);
    }
}
