//! Contexts that have to be fetched: git repositories and archives behind a URL.

use std::collections::BTreeMap;
use std::io::Read;

use super::inputs::{is_archive, read_up_to, unpack};
use super::{client, failed};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::Request;
use crate::context::archive::TarContext;
use crate::executor::git::{GitAccess, fetch_tree};
use crate::executor::{Context, SecretSource, http_authorization};
use crate::plan::GitReference;
use crate::registry::{DownloadRequest, Downloaded, without_credentials};
use crate::store::Store;

/// Whether `.git` is part of a context where the address itself does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GitDir {
    /// `BUILDKIT_CONTEXT_KEEP_GIT_DIR=1`.
    Keep,
    /// As usual.
    Drop,
}

/// What fetching needs.
pub(super) struct Remote<'a> {
    /// The request, for its secrets, agents and registry options.
    pub(super) request: &'a Request,
    /// Where variables of secrets are.
    pub(super) environment: &'a Environment,
    /// Where what is fetched is kept.
    pub(super) store: &'a Store,
}

impl Remote<'_> {
    /// The files of a repository.
    pub(super) fn git(&self, address: &str, git_dir: GitDir) -> Result<TarContext, Failure> {
        let invalid = |message: &str| {
            Failure::new(FailureKind::Usage, format!("invalid context {}: {message}", without_credentials(address)))
        };
        let parsed = GitReference::parse_context(address).ok_or_else(|| invalid("it is no git repository"))?;
        let mut reference = parsed.map_err(|error| invalid(&error.to_string()))?;
        if git_dir == GitDir::Keep && reference.keep_git_dir.is_none() {
            reference.keep_git_dir = Some(true);
        }
        let secrets = self.secrets()?;
        let mut agents: BTreeMap<_, _> = self
            .request
            .ssh
            .iter()
            .filter_map(|agent| Some((agent.id.clone(), agent.sources.first()?.clone())))
            .collect();
        // Who names a repository behind ssh on the command line means his own agent, as with buildx.
        if let (true, Some(socket)) = (agents.is_empty(), self.environment.variable("SSH_AUTH_SOCK")) {
            agents.insert("default".to_owned(), socket.into());
        }
        let epoch = self.request.source_date_epoch.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(0);
        let access = GitAccess { secrets: &secrets, agents: &agents, cancel: None, epoch };
        Ok(fetch_tree(&reference, self.store, &access).map_err(|error| failed(&error))?.context)
    }

    /// What a URL gives.
    pub(super) fn download(&self, address: &str) -> Result<Box<dyn Read + Send>, Failure> {
        let secrets = self.secrets()?;
        let authorization =
            http_authorization(address, &secrets).map_err(|error| Failure::new(FailureKind::Other, error))?;
        let client = client(&self.request.registries);
        let asked = DownloadRequest { address, authorization: authorization.as_deref(), known: None };
        match client.download(&asked).map_err(|error| failed(&error))? {
            Downloaded::New(download) => Ok(download.body),
            // Nothing was said to be here, so a server that says this says nothing.
            Downloaded::Unchanged => Ok(Box::new(std::io::empty())),
        }
    }

    /// A context by name, which has to be an archive.
    pub(super) fn archive(&self, address: &str) -> Result<Context, Failure> {
        let mut body = self.download(address)?;
        let from = without_credentials(address);
        let mut head = vec![0; 1024];
        let count = read_up_to(&mut body, &mut head).map_err(|error| failed(&error))?;
        head.truncate(count);
        if !is_archive(&head) {
            let message = format!("{from} is no archive; a context by name is a directory, a repository or a tar");
            return Err(Failure::new(FailureKind::Other, message));
        }
        unpack(head.as_slice().chain(body), &from, self.store)
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
