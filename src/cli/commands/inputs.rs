//! What a build reads: the Dockerfile, `.dockerignore`, the contexts.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::failed;
use super::remote::{GitDefaults, PLAIN, Remote, opened};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::{ContextSource, DockerfileSource, NamedContext, Request, Sameness};
use crate::context::archive::TarContext;
use crate::context::dir::DirContext;
use crate::context::ignore::{IgnoreRules, locate};
use crate::diagnostic::Source;
use crate::digest::{Digest, Frame};
use crate::executor::git::{last_commit, repository};
use crate::executor::{Context, Contexts, Dates, Origin, Origins, Revision};
use crate::layer::decompress::decompress;
use crate::plan::GitReference;
use crate::plan::git::GitTimes;
use crate::registry::without_credentials;
use crate::store::Store;

/// The Dockerfile and the contexts.
pub(super) struct Inputs {
    /// The Dockerfile.
    pub(super) source: Source,
    /// Where COPY reads.
    pub(super) contexts: Contexts,
    /// What makes this build another than others.
    pub(super) scope: String,
}

impl Inputs {
    /// Reads the Dockerfile and opens the contexts.
    pub(super) fn load(remote: &Remote<'_>) -> Result<Inputs, Failure> {
        let Remote { request, store, .. } = *remote;
        let (mut dates, mut origins) = (Dates::default(), Origins::default());
        let (main, archive_dockerfile) = Inputs::context(request, remote, &mut dates, &mut origins)?;
        let source = Inputs::dockerfile(request, archive_dockerfile)?;
        let mut named = BTreeMap::new();
        for (name, context) in &request.build_contexts {
            let context = match context {
                NamedContext::Directory(path) => directory(path, locate_in(path), store)?,
                NamedContext::Git(address) => {
                    let tree = remote.git(address, PLAIN)?;
                    origins.named.insert(name.clone(), cloned(address, &tree.commit));
                    dates.named.extend(tree.committed.map(|date| (name.clone(), date)));
                    Context::Archive(tree.context)
                }
                NamedContext::Http(address) => {
                    let (tree, date, digest) = remote.archive(address)?;
                    origins.named.insert(name.clone(), downloaded(address, digest));
                    dates.named.extend(date.map(|date| (name.clone(), date)));
                    Context::Archive(tree)
                }
                NamedContext::Image(_) | NamedContext::OciLayout { .. } | NamedContext::Target(_) => continue,
            };
            named.insert(name.clone(), context);
        }
        let place = match &request.context {
            ContextSource::Directory(path) | ContextSource::Archive(path) => path.display().to_string(),
            ContextSource::Stdin => "-".to_owned(),
            ContextSource::Git(address) | ContextSource::Http(address) => without_credentials(address),
        };
        let scope = format!("{place}\n{}\n{}", source.name, request.target.as_deref().unwrap_or_default());
        let (main, named) = match request.sameness {
            Sameness::Files => (main, named),
            Sameness::WholeImage => {
                (main.steady(), named.into_iter().map(|(name, tree)| (name, tree.steady())).collect())
            }
        };
        Ok(Inputs { source, contexts: Contexts { main, named, dates, origins }, scope })
    }

    /// The main context; and the Dockerfile, where what was sent was one or held one.
    fn context(
        request: &Request,
        remote: &Remote<'_>,
        dates: &mut Dates,
        origins: &mut Origins,
    ) -> Result<(Context, Option<Vec<u8>>), Failure> {
        match &request.context {
            ContextSource::Directory(path) => {
                let dockerfile = dockerfile_path(request, path);
                let ignore =
                    dockerfile.as_deref().map_or_else(|| locate_in(path), |dockerfile| locate(dockerfile, path));
                if needs_commit(request) {
                    dates.commit = last_commit(path).map_err(|error| {
                        failed(&error).hint("SOURCE_DATE_EPOCH=SECONDS dates the build without git")
                    })?;
                }
                if request.attestations.asks_for_provenance() {
                    origins.repository = repository(path);
                }
                Ok((directory(path, ignore, remote.store)?, None))
            }
            ContextSource::Archive(path) => {
                let from = path.display().to_string();
                let file = std::fs::File::open(path)
                    .map_err(|error| Failure::new(FailureKind::Other, format!("open the context {from}: {error}")))?;
                match sent(file, &from, remote.store)? {
                    Sent::Dockerfile(_) => {
                        Err(Failure::new(FailureKind::Other, format!("the context {from} is no archive")))
                    }
                    archive => archive.with_dockerfile(request),
                }
            }
            ContextSource::Stdin => {
                let sent = sent(std::io::stdin(), "standard input", remote.store)?;
                sent.with_dockerfile(request)
            }
            ContextSource::Git(address) => {
                let tree = remote.git(address, main_repository(request))?;
                (dates.main, dates.commit) = (tree.committed, tree.committed);
                origins.main = Some(cloned(address, &tree.commit));
                let context = Context::Archive(tree.context);
                let dockerfile = dockerfile_in(&context, request)?;
                Ok((context, dockerfile))
            }
            ContextSource::Http(address) => {
                let fetched = remote.download(address)?;
                let sent = sent(opened(&fetched)?, &without_credentials(address), remote.store)?;
                dates.main = fetched.modified().or_else(|| sent.newest_file());
                origins.main = Some(downloaded(address, fetched.digest()));
                sent.with_dockerfile(request)
            }
        }
    }

    fn dockerfile(request: &Request, given: Option<Vec<u8>>) -> Result<Source, Failure> {
        if let Some(bytes) = given {
            return Ok(Source::from_bytes("Dockerfile", &bytes));
        }
        if request.dockerfile == DockerfileSource::Stdin {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| failed(&error))?;
            return Ok(Source::from_bytes("-", &bytes));
        }
        let path = match (&request.context, &request.dockerfile) {
            (ContextSource::Directory(context), _) => {
                dockerfile_path(request, context).ok_or_else(|| no_dockerfile(&context.display().to_string()))?
            }
            // A path that is whole is of this machine, wherever the context is.
            (_, DockerfileSource::Path(path)) if path.is_absolute() => path.clone(),
            (ContextSource::Archive(path), _) => return Err(no_dockerfile(&path.display().to_string())),
            (ContextSource::Stdin, _) => return Err(no_dockerfile("the context on standard input")),
            (ContextSource::Git(address) | ContextSource::Http(address), _) => {
                return Err(no_dockerfile(&without_credentials(address)));
            }
        };
        if let ContextSource::Directory(context) = &request.context {
            refuse_link_outside(&path, context)?;
        }
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(FailureKind::Other, format!("there is no Dockerfile at {}", path.display()))
            }
            _ => Failure::new(FailureKind::Other, format!("read {}: {error}", path.display())),
        })?;
        let context = match &request.context {
            ContextSource::Directory(context) => context.as_path(),
            ContextSource::Archive(_) | ContextSource::Stdin | ContextSource::Git(_) | ContextSource::Http(_) => {
                Path::new("")
            }
        };
        let name = path.strip_prefix(context).unwrap_or(&path).display().to_string();
        Ok(Source::from_bytes(name, &bytes))
    }
}

/// Where a repository was.
fn cloned(address: &str, commit: &str) -> Origin {
    let parsed = GitReference::parse_context(address).and_then(Result::ok);
    let address = parsed.map_or_else(|| without_credentials(address), |reference| reference.to_string());
    Origin { address, revision: Revision::Commit(commit.to_owned()) }
}

/// Where a file was.
fn downloaded(address: &str, digest: Digest) -> Origin {
    Origin { address: without_credentials(address), revision: Revision::File(digest) }
}

fn no_dockerfile(context: &str) -> Failure {
    Failure::new(FailureKind::Other, format!("there is no Dockerfile in {context}"))
        .hint("name one with --file, or give another directory as the context")
}

/// The Dockerfile of a directory: the named one, else `Dockerfile`, else `dockerfile`.
fn dockerfile_path(request: &Request, context: &Path) -> Option<PathBuf> {
    match &request.dockerfile {
        DockerfileSource::Path(path) => Some(path.clone()),
        DockerfileSource::Stdin => None,
        DockerfileSource::Default => {
            ["Dockerfile", "dockerfile"].into_iter().map(|name| context.join(name)).find(|path| path.is_file())
        }
    }
}

/// A context is not trusted: a file in it that is a link to elsewhere would be shown in messages, a private key for one.
fn refuse_link_outside(file: &Path, context: &Path) -> Result<(), Failure> {
    // Who names a file that is elsewhere means it.
    if !is_named_inside(file, context) {
        return Ok(());
    }
    let (Ok(real), Ok(root)) = (file.canonicalize(), context.canonicalize()) else { return Ok(()) };
    if real.starts_with(root) {
        return Ok(());
    }
    let problem = format!("{} leads to {}, which is outside the context", file.display(), real.display());
    Err(Failure::new(FailureKind::Other, problem).hint(
        "what a context has is not followed out of it; name a Dockerfile elsewhere with --file, copy an ignore file",
    ))
}

/// Whether a path begins with the context and never leaves it by `..` on its way.
fn is_named_inside(file: &Path, context: &Path) -> bool {
    let Ok(inside) = file.strip_prefix(context) else { return false };
    let mut depth = 0usize;
    inside.components().all(|part| match part {
        Component::ParentDir => depth.checked_sub(1).is_some_and(|above| {
            depth = above;
            true
        }),
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::Prefix(_) | Component::RootDir | Component::CurDir => true,
    })
}

fn locate_in(context: &Path) -> Option<PathBuf> {
    let path = context.join(".dockerignore");
    path.is_file().then_some(path)
}

fn directory(path: &Path, ignore: Option<PathBuf>, store: &Store) -> Result<Context, Failure> {
    let rules = match &ignore {
        Some(file) => {
            refuse_link_outside(file, path)?;
            let text = std::fs::read(file)
                .map_err(|error| Failure::new(FailureKind::Other, format!("read {}: {error}", file.display())))?;
            IgnoreRules::parse(&text)
                .map_err(|error| Failure::new(FailureKind::Other, format!("{}: {error}", file.display())))?
        }
        None => IgnoreRules::parse(b"").map_err(|error| failed(&error))?,
    };
    let name = Frame::new("rbuild.stat.1").text("path", &path.display().to_string()).finish();
    let context = DirContext::open(path, rules, Some(&store.stat_cache(&name))).map_err(|error| failed(&error))?;
    Ok(Context::Directory(Box::new(context)))
}

/// Whether the context's last commit dates the build.
fn needs_commit(request: &Request) -> bool {
    let epoch = request.build_arguments.get("SOURCE_DATE_EPOCH").map_or("", String::as_str);
    request.sameness == Sameness::WholeImage && epoch.parse::<i64>().is_err()
}

/// What the repository that is the main context has where its address says nothing else.
fn main_repository(request: &Request) -> GitDefaults {
    let argument = |name: &str| request.build_arguments.get(name).map_or("", String::as_str);
    let keep = matches!(argument("BUILDKIT_CONTEXT_KEEP_GIT_DIR"), "1" | "t" | "T" | "true" | "True" | "TRUE");
    // As in BuildKit: who dates the build wants the dates of the repository.
    let times = if argument("SOURCE_DATE_EPOCH").is_empty() { GitTimes::Checkout } else { GitTimes::Commit };
    GitDefaults { keep_git_dir: keep.then_some(true), times }
}

/// What was sent.
enum Sent {
    /// A tar, compressed or not.
    Archive(TarContext),
    /// A Dockerfile alone.
    Dockerfile(Vec<u8>),
}

impl Sent {
    fn newest_file(&self) -> Option<i64> {
        match self {
            Sent::Archive(tree) => tree.newest_file(),
            Sent::Dockerfile(_) => None,
        }
    }

    /// The context that it is, and the Dockerfile that it is or holds.
    fn with_dockerfile(self, request: &Request) -> Result<(Context, Option<Vec<u8>>), Failure> {
        match self {
            Sent::Archive(tree) => {
                let context = Context::Archive(tree);
                let dockerfile = dockerfile_in(&context, request)?;
                Ok((context, dockerfile))
            }
            Sent::Dockerfile(text) => Ok((Context::Empty, Some(text))),
        }
    }
}

fn sent(mut input: impl Read + Send, from: &str, store: &Store) -> Result<Sent, Failure> {
    let read_failed =
        |error: std::io::Error| Failure::new(FailureKind::Other, format!("read the context from {from}: {error}"));
    let mut head = vec![0; 1024];
    let count = read_up_to(&mut input, &mut head).map_err(read_failed)?;
    head.truncate(count);
    if !is_archive(&head) {
        input.read_to_end(&mut head).map_err(read_failed)?;
        return Ok(Sent::Dockerfile(head));
    }
    unpack(head.as_slice().chain(input), from, store).map(Sent::Archive)
}

/// Whether the first bytes are of a tar, compressed or not.
pub(super) fn is_archive(head: &[u8]) -> bool {
    let mut block = [0; 512];
    let plain = decompress(head).and_then(|mut reader| reader.read_exact(&mut block));
    plain.is_ok() && crate::layer::read::is_tar(&block) || crate::layer::decompress::detect(head).is_some()
}

/// The context that a tar is.
pub(super) fn unpack(tar: impl Read + Send, from: &str, store: &Store) -> Result<TarContext, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(FailureKind::Other, format!("read the context from {from}: {error}"));
    let tar = decompress(tar).map_err(failed)?;
    TarContext::read(tar, store.session()).map_err(failed)
}

/// The Dockerfile in a context that is no directory of this machine.
fn dockerfile_in(context: &Context, request: &Request) -> Result<Option<Vec<u8>>, Failure> {
    let names = match &request.dockerfile {
        DockerfileSource::Stdin => return Ok(None),
        DockerfileSource::Path(path) if path.is_absolute() => return Ok(None),
        DockerfileSource::Path(path) => vec![path.as_os_str().as_encoded_bytes().to_vec()],
        DockerfileSource::Default => vec![b"Dockerfile".to_vec(), b"dockerfile".to_vec()],
    };
    for name in names {
        let found = context.read(&name).map_err(|error| failed(&error))?;
        let Some(bytes) = found else { continue };
        return Ok(Some(bytes));
    }
    Ok(None)
}

pub(super) fn read_up_to(input: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match input.read(&mut buffer[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}
