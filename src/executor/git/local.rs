//! The repository that a directory of this machine lies in.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::GitError;

/// Settings that win over the repository's own, so that looking at it runs nothing that it names.
const SAFE: [&str; 3] = ["core.hooksPath=/dev/null", "core.fsmonitor=false", "protocol.allow=never"];

/// When the last commit of the repository was made that a directory lies in, in seconds since 1970; none where it lies in
/// no repository, or in one without commits. Without a repository git is not needed.
///
/// # Errors
/// There is a repository, and git is missing or cannot read it: to go on without would give another image than elsewhere.
pub fn last_commit(directory: &Path) -> Result<Option<i64>, GitError> {
    let failed = |action: &str, message: String| GitError::Failed {
        action: action.to_owned(),
        remote: directory.display().to_string(),
        message,
    };
    let directory = directory.canonicalize().map_err(|error| failed("rev-parse", error.to_string()))?;
    let Some(repository) = directory.ancestors().map(|above| above.join(".git")).find(|git| git.exists()) else {
        return Ok(None);
    };
    let head = run(&repository, &["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
    match head.status.code() {
        Some(0) => {}
        // As documented of --quiet: there is no such object, so nothing was committed yet.
        Some(1) => return Ok(None),
        _ => return Err(failed("rev-parse", said(&head))),
    }
    let commit = String::from_utf8_lossy(&head.stdout).trim().to_owned();
    let text = run(&repository, &["cat-file", "commit", &commit])?;
    if !text.status.success() {
        return Err(failed("cat-file", said(&text)));
    }
    let time = committed(&String::from_utf8_lossy(&text.stdout));
    time.map(Some).ok_or_else(|| failed("cat-file", format!("commit {commit} has no date")))
}

/// What the repository says about itself that a directory lies in: where it was cloned from (`source`) and what is checked
/// out (`revision`). Hints for people: nothing where there is no repository, or no git to read it with.
pub fn repository(directory: &Path) -> BTreeMap<String, String> {
    let mut said = BTreeMap::new();
    let Ok(directory) = directory.canonicalize() else { return said };
    let Some(repository) = directory.ancestors().map(|above| above.join(".git")).find(|git| git.exists()) else {
        return said;
    };
    let asked = [
        ("revision", ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"].as_slice()),
        ("source", &["config", "--get", "remote.origin.url"]),
    ];
    for (name, arguments) in asked {
        let Ok(output) = run(&repository, arguments) else { continue };
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && !text.is_empty() {
            said.insert(name.to_owned(), text);
        }
    }
    said
}

/// Git looks at whose a repository is where it finds one itself, not where it is told of one. In a container a checkout is
/// often another user's, and as nothing of it is run, that does not matter. (`safe.directory` would not do: versions before
/// 2.38 do not take it from the command line.)
fn run(repository: &Path, arguments: &[&str]) -> Result<Output, GitError> {
    let mut command = Command::new("git");
    command.arg("--git-dir").arg(repository).env_clear().stdin(Stdio::null());
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let settings = [
        ("LC_ALL", "C"),
        ("HOME", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
    ];
    command.envs(settings).args(SAFE.iter().flat_map(|setting| ["-c", setting])).args(arguments);
    let remote = repository.display().to_string();
    command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => GitError::NoGitHere { directory: remote },
        _ => GitError::Failed { action: arguments[0].to_owned(), remote, message: error.to_string() },
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// The committer's time: `committer NAME <ADDRESS> SECONDS ZONE`, before the empty line that begins the message.
fn committed(commit: &str) -> Option<i64> {
    let line = commit.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix("committer "))?;
    line.rsplit(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committer_dates_a_commit_and_its_message_does_not() {
        let commit =
            "tree 1\nauthor A <a@x> 5 +0000\ncommitter B > C <b@x> 1700000000 -0330\n\ncommitter D <d@x> 7 +0000\n";
        assert_eq!(committed(commit), Some(1_700_000_000));
        assert_eq!(committed("tree 1\n\ncommitter D <d@x> 7 +0000\n"), None);
    }

    #[test]
    fn a_directory_in_no_repository_has_no_commit() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(last_commit(folder.path()), Ok(None)));
        assert!(repository(folder.path()).is_empty());
    }
}
