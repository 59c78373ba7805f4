//! Contexts that have to be fetched: git repositories and archives behind a URL.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use super::failed;
use super::inputs::{is_archive, read_up_to, unpack};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::Request;
use crate::context::archive::TarContext;
use crate::digest::Digest;
use crate::executor::git::{GitAccess, GitError, GitTree, fetch_tree};
use crate::executor::{DownloadError, Downloads, FetchedFile, SecretSource};
use crate::plan::GitReference;
use crate::plan::git::GitTimes;
use crate::progress::{Outcome, Progress, Task};
use crate::registry::{Client, without_credentials};
use crate::sandbox::Cancel;
use crate::store::Store;

/// What is particular to the repository that is the main context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GitDefaults {
    /// Whether `.git` is part of it (`BUILDKIT_CONTEXT_KEEP_GIT_DIR=1`).
    pub(super) keep_git_dir: Option<bool>,
    /// What times its files have.
    pub(super) times: GitTimes,
}

/// What a context by name has where its address says nothing else.
pub(super) const PLAIN: GitDefaults = GitDefaults { keep_git_dir: None, times: GitTimes::Checkout };

/// What fetching needs.
pub(super) struct Remote<'a> {
    /// The request, for its secrets.
    pub(super) request: &'a Request,
    /// Where variables of secrets are.
    pub(super) environment: &'a Environment,
    /// Sockets of the ssh agents, by name.
    pub(super) agents: &'a BTreeMap<String, PathBuf>,
    /// Where what is fetched is kept.
    pub(super) store: &'a Store,
    /// Who asks servers.
    pub(super) client: &'a Client,
    /// Stops fetching.
    pub(super) cancel: &'a Cancel,
    /// Where it is shown.
    pub(super) progress: &'a Progress,
}

/// Why something cannot be fetched.
enum Stopped {
    Cancelled,
    Failed(Failure),
}

impl Remote<'_> {
    /// The files of a repository, and when they were committed.
    pub(super) fn git(&self, address: &str, defaults: GitDefaults) -> Result<GitTree, Failure> {
        let invalid = |message: &str| {
            Failure::new(FailureKind::Usage, format!("invalid context {}: {message}", without_credentials(address)))
        };
        let parsed = GitReference::parse_context(address).ok_or_else(|| invalid("it is no git repository"))?;
        let mut reference = parsed.map_err(|error| invalid(&error.to_string()))?;
        reference.keep_git_dir = reference.keep_git_dir.or(defaults.keep_git_dir);
        reference.times.get_or_insert(defaults.times);
        let secrets = self.secrets()?;
        let mut agents = self.agents.clone();
        // Who names a repository behind ssh on the command line means his own agent, as with buildx.
        if let (true, Some(socket)) = (agents.is_empty(), self.environment.variable("SSH_AUTH_SOCK")) {
            agents.insert("default".to_owned(), socket.into());
        }
        let epoch = self.request.build_arguments.get("SOURCE_DATE_EPOCH").and_then(|epoch| epoch.parse().ok());
        let access =
            GitAccess { secrets: &secrets, agents: &agents, cancel: Some(self.cancel), epoch: epoch.unwrap_or(0) };
        self.shown(&format!("[internal] load git source {reference}"), |_| {
            fetch_tree(&reference, self.store, &access).map_err(|error| match error {
                GitError::Cancelled => Stopped::Cancelled,
                error => Stopped::Failed(failed(&error)),
            })
        })
    }

    /// What a URL gives.
    pub(super) fn download(&self, address: &str) -> Result<FetchedFile, Failure> {
        let secrets = self.secrets()?;
        let title = format!("[internal] load remote build context {}", without_credentials(address));
        self.shown(&title, |task| {
            let (store, client, cancel) = (self.store, self.client, self.cancel);
            let downloads = Downloads { store, client, secrets: &secrets, cancel, task };
            downloads.fetch(address, None).map_err(|error| match error {
                DownloadError::Cancelled => Stopped::Cancelled,
                error => Stopped::Failed(failed(&error)),
            })
        })
    }

    /// A context by name, which has to be an archive, when it was last changed, and its digest.
    pub(super) fn archive(&self, address: &str) -> Result<(TarContext, Option<i64>, Digest), Failure> {
        let fetched = self.download(address)?;
        let mut body = opened(&fetched)?;
        let from = without_credentials(address);
        let mut head = vec![0; 1024];
        let count = read_up_to(&mut body, &mut head).map_err(|error| failed(&error))?;
        head.truncate(count);
        if !is_archive(&head) {
            let message = format!("{from} is no archive; a context by name is a directory, a repository or a tar");
            return Err(Failure::new(FailureKind::Other, message));
        }
        let tree = unpack(head.as_slice().chain(body), &from, self.store)?;
        let changed = fetched.modified().or_else(|| tree.newest_file());
        Ok((tree, changed, fetched.digest()))
    }

    /// Does something under a title.
    fn shown<T>(&self, title: &str, work: impl FnOnce(&Task) -> Result<T, Stopped>) -> Result<T, Failure> {
        let task = self.progress.task(title);
        task.start();
        match work(&task) {
            Ok(done) => {
                task.end(Outcome::Done);
                Ok(done)
            }
            Err(Stopped::Cancelled) => {
                task.end(Outcome::Canceled);
                Err(Failure::interrupted())
            }
            Err(Stopped::Failed(failure)) => {
                task.end(Outcome::Failed(failure.message.clone()));
                Err(failure)
            }
        }
    }

    fn secrets(&self) -> Result<BTreeMap<String, SecretSource>, Failure> {
        let mut secrets = BTreeMap::new();
        for secret in &self.request.secrets {
            if let Some(value) = secret.read(self.environment).map_err(|error| failed(&error))? {
                secrets.insert(secret.id.clone(), SecretSource::Value(value));
            }
        }
        Ok(secrets)
    }
}

/// The content of what was fetched.
pub(super) fn opened(fetched: &FetchedFile) -> Result<BufReader<File>, Failure> {
    let path = fetched.path();
    let file = File::open(path)
        .map_err(|error| Failure::new(FailureKind::Other, format!("open {}: {error}", path.display())))?;
    Ok(BufReader::new(file))
}
