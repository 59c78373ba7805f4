//! Git repositories, as ADD and contexts take them: git(1) of this machine fetches, what it gives is kept by commit.
//!
//! Contract: git gets nothing but what [`GitReference`] checked, no configuration of the user and no terminal, and no
//! protocol but those of the network; secrets go to it by its environment, never by its arguments, and to no other host
//! than the one that they are for. What comes out depends on the commit alone: modes are 0644 or 0755, owners are root,
//! times are one. It knows nothing of steps.

mod command;
mod local;
mod pack;
mod refs;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use self::command::Git;
pub use self::local::{last_commit, repository};
use super::SecretSource;
use crate::context::archive::TarContext;
use crate::digest::Frame;
use crate::plan::git::{FetchBy, GitReference, GitTimes, Submodules, is_full_commit};
use crate::sandbox::Cancel;
use crate::store::{FetchedRecord, RecordKind, Store, StoreError};
use crate::tree::{Time, View};

/// What fetching may use.
pub struct GitAccess<'a> {
    /// Secrets by id: `GIT_AUTH_TOKEN`, `GIT_AUTH_HEADER`, each also with `.HOST`.
    pub secrets: &'a BTreeMap<String, SecretSource>,
    /// Agent sockets by id: `default` is for repositories behind ssh.
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// Stops git.
    pub cancel: Option<&'a Cancel>,
    /// The time of files, in seconds since 1970, where the commit's is not asked for.
    pub epoch: i64,
}

/// What a repository has at a commit.
pub struct GitTree {
    /// The files.
    pub context: TarContext,
    /// When it was committed, in seconds since 1970; unknown of a commit without files.
    pub committed: Option<i64>,
    /// The commit.
    pub commit: String,
}

/// Says why a repository cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git.
    #[error("git is not installed here, and is needed to fetch {remote}; install it, or give a directory instead")]
    NoGit {
        /// The repository.
        remote: String,
    },
    /// There is no git, and a directory of this machine is a repository.
    #[error("git is not installed here, and is needed to date the build by the last commit of {directory}")]
    NoGitHere {
        /// The directory.
        directory: String,
    },
    /// Git failed.
    #[error("git {action} of {remote} failed: {message}")]
    Failed {
        /// What git was to do.
        action: String,
        /// The repository.
        remote: String,
        /// The last that it said.
        message: String,
    },
    /// A name that the repository does not have.
    #[error("repository {remote} does not contain ref {name}{}", hint.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    NoName {
        /// The repository.
        remote: String,
        /// The name.
        name: String,
        /// A name that it has.
        hint: Option<String>,
    },
    /// The name is of another commit than expected.
    #[error("expected checksum to match {expected}, got {found}")]
    Checksum {
        /// The first digits that are expected.
        expected: String,
        /// The commit.
        found: String,
    },
    /// The directory that is wanted is no directory of the commit.
    #[error("{directory:?} is not a directory of {remote} at {commit}")]
    NoDirectory {
        /// The directory.
        directory: String,
        /// The repository.
        remote: String,
        /// The commit.
        commit: String,
    },
    /// A secret cannot be used.
    #[error("secret {id} cannot be used for {remote}: {message}")]
    Secret {
        /// The secret's id.
        id: String,
        /// The repository.
        remote: String,
        /// Why.
        message: String,
    },
    /// What was fetched cannot be read or kept.
    #[error("keep what was fetched from {remote}: {source}")]
    Io {
        /// The repository.
        remote: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The user stopped the build.
    #[error("canceled")]
    Cancelled,
}

/// Gives the files of a repository; where they were fetched before, only the commit is asked for.
///
/// # Errors
/// See [`GitError`].
pub fn fetch_tree(reference: &GitReference, store: &Store, access: &GitAccess<'_>) -> Result<GitTree, GitError> {
    let known = wanted_commit(reference).and_then(|commit| Some((keep_key(reference, &commit).kept(store)?, commit)));
    let (blob, commit) = match known {
        Some(known) => known,
        None => fetch_blob(reference, store, access)?,
    };
    let failed = |source| GitError::Io { remote: reference.shown(), source };
    let tar = File::open(&blob).map_err(failed)?;
    let mut context = TarContext::read(std::io::BufReader::new(tar), store.session()).map_err(failed)?;
    let committed = committed(&context).map_err(failed)?;
    if reference.times.unwrap_or_default() == GitTimes::Checkout {
        context.set_times(Time { seconds: access.epoch, nanoseconds: 0 });
    }
    Ok(GitTree { context, committed, commit })
}

fn committed(context: &TarContext) -> std::io::Result<Option<i64>> {
    let Some(name) = context.names(b"")?.into_iter().next() else { return Ok(None) };
    Ok(context.node(&name)?.map(|node| node.mtime.seconds))
}

/// The commit, where nobody has to be asked for it.
fn wanted_commit(reference: &GitReference) -> Option<String> {
    let by_itself = reference.fetch_by == FetchBy::Commit || reference.name == reference.commit;
    let commit = reference.commit.as_ref().filter(|_| by_itself).or(reference.name.as_ref())?;
    is_full_commit(commit).then(|| commit.clone())
}

/// Where the files of a commit are kept.
struct Kept(crate::digest::Digest);

fn keep_key(reference: &GitReference, commit: &str) -> Kept {
    let mut frame = Frame::new("rbuild.git.1");
    frame.text("remote", &reference.shown()).text("commit", commit).text("directory", &reference.directory);
    frame.text("git directory", if reference.keep_git_dir == Some(true) { "kept" } else { "dropped" });
    frame.text("submodules", if reference.submodules == Submodules::Fetch { "fetched" } else { "left" });
    Kept(frame.finish())
}

impl Kept {
    fn kept(&self, store: &Store) -> Option<PathBuf> {
        let record: FetchedRecord = store.read_record(RecordKind::Fetched, &self.0).ok()??;
        if !store.has_blob(&record.blob) {
            return None;
        }
        // Written again, so that what is used is not what is collected first; if that fails, no harm is done.
        drop(store.write_record(RecordKind::Fetched, &self.0, &record));
        Some(store.blob_path(&record.blob))
    }
}

fn fetch_blob(reference: &GitReference, store: &Store, access: &GitAccess<'_>) -> Result<(PathBuf, String), GitError> {
    let directory = Scratch::new(store).map_err(|source| GitError::Io { remote: reference.shown(), source })?;
    let git = Git::new(reference, access, &directory.0)?;
    let found = match wanted_commit(reference) {
        Some(commit) => refs::Found { commit, name: None, tag: None },
        None => refs::find(&git, reference)?,
    };
    let agrees = |expected: &String| {
        found.commit.starts_with(expected) || found.tag.as_ref().is_some_and(|tag| tag.starts_with(expected))
    };
    if let Some(expected) = reference.commit.as_ref().filter(|expected| !agrees(expected)) {
        return Err(GitError::Checksum { expected: expected.clone(), found: found.commit });
    }
    let key = keep_key(reference, &found.commit);
    let _lock = store.lock("git", &key.0)?;
    if let Some(blob) = key.kept(store) {
        return Ok((blob, found.commit));
    }
    git.init(&found.commit)?;
    git.fetch(&found)?;
    git.check_out(&found.commit, reference.submodules)?;
    let committed = git.committed(&found.commit)?;
    if reference.keep_git_dir == Some(true) {
        git.tidy(&reference.shown())?;
    }
    let root = git.wanted_directory(&reference.directory, &found.commit)?;
    let mut writer = store.blob_writer()?;
    let git_dirs = match reference.keep_git_dir {
        Some(true) => pack::GitDirs::Keep,
        Some(false) | None => pack::GitDirs::Drop,
    };
    pack::pack(&root, committed, git_dirs, &mut writer)
        .map_err(|source| GitError::Io { remote: reference.shown(), source })?;
    let (blob, size) = writer.commit(None)?;
    let record = FetchedRecord { blob, size, source: reference.to_string(), tag: None, modified: Some(committed) };
    store.write_record(RecordKind::Fetched, &key.0, &record)?;
    Ok((store.blob_path(&blob), found.commit))
}

/// A directory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(store: &Store) -> std::io::Result<Scratch> {
        let path = store.temporary();
        std::fs::create_dir(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now goes with the session.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Whether a path has only directories in it, below a root: a link could lead anywhere.
fn is_inner_directory(root: &Path, directory: &str) -> bool {
    let mut path = root.to_owned();
    directory.split('/').filter(|part| !part.is_empty()).all(|part| {
        path.push(part);
        path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
    })
}
