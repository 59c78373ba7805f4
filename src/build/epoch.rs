//! The moment that dates a build, where `SOURCE_DATE_EPOCH` names something that has to be looked up.

use super::{Build, BuildError, FileTimes};
use crate::diagnostic::{Diagnostic, Span};
use crate::digest::Digest;
use crate::dockerfile::ast::Dockerfile;
use crate::executor::git::{GitAccess, GitError, fetch_tree};
use crate::executor::{DownloadError, Downloads, ExecuteError};
use crate::image::time::DATES;
use crate::plan::epoch::source;
use crate::plan::{self, Epoch, EpochSource, GitReference};
use crate::progress::{Outcome, Task};

impl Build<'_> {
    /// The options with the moment that dates the build.
    ///
    /// # Errors
    /// What `SOURCE_DATE_EPOCH` names does not exist or cannot be had.
    pub(super) fn dated(&self, dockerfile: &Dockerfile) -> Result<plan::Options, BuildError> {
        let wrong = |error| BuildError::Dockerfile(vec![error]);
        let found = match source(dockerfile, &self.options).map_err(wrong)? {
            EpochSource::Number(None) if self.times == FileTimes::Reproducible => None,
            EpochSource::Number(_) => return Ok(self.options.clone()),
            EpochSource::Context => self.contexts.dates.main,
            EpochSource::NamedContext(name) => self.contexts.dates.named.get(&name).copied(),
            EpochSource::Url { url, checksum, span } => {
                self.looked_up(span, |task| self.date_of_url(&url, checksum, task))?
            }
            EpochSource::Git { reference, span } => self.looked_up(span, |_| self.date_of_commit(&reference))?,
        };
        let moment = match self.times {
            FileTimes::Reproducible => Some(found.or(self.contexts.dates.commit).unwrap_or(0)),
            _ => found,
        };
        if let Some(seconds) = moment.filter(|seconds| !DATES.contains(seconds)) {
            return Err(wrong(undatable(seconds)));
        }
        let mut options = self.options.clone();
        if self.times == FileTimes::Reproducible {
            // A stage that declares it is told, so that its commands can obey it.
            let text = moment.map(|moment| moment.to_string());
            options.build_args.extend(text.map(|text| (plan::epoch::VARIABLE.to_owned(), text)));
        }
        options.epoch = Epoch::Resolved(moment);
        Ok(options)
    }

    fn looked_up(
        &self,
        span: Span,
        look: impl FnOnce(&Task) -> Result<Option<i64>, Stopped>,
    ) -> Result<Option<i64>, BuildError> {
        let task = self.progress.task("[internal] resolve SOURCE_DATE_EPOCH");
        task.start();
        match look(&task) {
            Ok(found) => {
                task.end(Outcome::Done);
                Ok(found)
            }
            Err(Stopped::Cancelled) => {
                task.end(Outcome::Canceled);
                Err(ExecuteError::Cancelled.into())
            }
            Err(Stopped::Failed(message)) => {
                task.end(Outcome::Failed(message.clone()));
                let message = format!("cannot look SOURCE_DATE_EPOCH up: {message}");
                Err(BuildError::Dockerfile(vec![Diagnostic::error(span, message)]))
            }
        }
    }

    /// Last-Modified; of an archive without, the time of its newest file.
    fn date_of_url(&self, url: &str, checksum: Option<Digest>, task: &Task) -> Result<Option<i64>, Stopped> {
        let secrets = &self.execute.secrets;
        let downloads = Downloads { store: self.store, client: self.registry, secrets, cancel: self.cancel, task };
        match downloads.fetch(url, checksum) {
            Ok(file) => Ok(file.modified().or_else(|| file.newest_in_archive())),
            Err(DownloadError::Cancelled) => Err(Stopped::Cancelled),
            Err(error) => Err(Stopped::Failed(error.to_string())),
        }
    }

    fn date_of_commit(&self, reference: &GitReference) -> Result<Option<i64>, Stopped> {
        let (secrets, agents) = (&self.execute.secrets, &self.execute.agents);
        let access = GitAccess { secrets, agents, cancel: Some(self.cancel), epoch: 0 };
        match fetch_tree(reference, self.store, &access) {
            Ok(tree) => Ok(tree.committed),
            Err(GitError::Cancelled) => Err(Stopped::Cancelled),
            Err(error) => Err(Stopped::Failed(error.to_string())),
        }
    }
}

/// The error about a time, of a commit or a file, that no image can have.
fn undatable(seconds: i64) -> Diagnostic {
    let message = format!(
        "what dates the build has a time that no image can have: {seconds} seconds since 1970 are not within the years 1 to \
         9999"
    );
    Diagnostic::error(Span::default(), message).help("give a number of seconds as SOURCE_DATE_EPOCH")
}

/// Why nothing was found.
enum Stopped {
    Cancelled,
    Failed(String),
}
