//! What a build reads: the Dockerfile, `.dockerignore`, the contexts.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::failed;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::{ContextSource, DockerfileSource, NamedContext, Request};
use crate::context::archive::TarContext;
use crate::context::dir::DirContext;
use crate::context::ignore::{IgnoreRules, locate};
use crate::diagnostic::Source;
use crate::digest::Frame;
use crate::executor::{Context, Contexts};
use crate::layer::decompress::decompress;
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
    pub(super) fn load(request: &Request, store: &Store) -> Result<Inputs, Failure> {
        let (main, archive_dockerfile) = Inputs::context(request, store)?;
        let source = Inputs::dockerfile(request, archive_dockerfile)?;
        let mut named = BTreeMap::new();
        for (name, context) in &request.build_contexts {
            if let NamedContext::Directory(path) = context {
                named.insert(name.clone(), directory(path, locate_in(path), store)?);
            }
        }
        let place = match &request.context {
            ContextSource::Directory(path) => path.display().to_string(),
            ContextSource::Stdin => "-".to_owned(),
            ContextSource::Git(url) | ContextSource::Http(url) => url.clone(),
        };
        let scope = format!("{place}\n{}\n{}", source.name, request.target.as_deref().unwrap_or_default());
        Ok(Inputs { source, contexts: Contexts { main, named }, scope })
    }

    /// The main context; and the Dockerfile, where standard input was one or held one.
    fn context(request: &Request, store: &Store) -> Result<(Context, Option<Vec<u8>>), Failure> {
        match &request.context {
            ContextSource::Directory(path) => {
                let dockerfile = dockerfile_path(request, path);
                let ignore =
                    dockerfile.as_deref().map_or_else(|| locate_in(path), |dockerfile| locate(dockerfile, path));
                Ok((directory(path, ignore, store)?, None))
            }
            ContextSource::Stdin => from_stdin(request, store),
            ContextSource::Git(url) => Err(unsupported("a git repository", url)),
            ContextSource::Http(url) => Err(unsupported("a URL", url)),
        }
    }

    fn dockerfile(request: &Request, given: Option<Vec<u8>>) -> Result<Source, Failure> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if let Some(bytes) = given {
            return Ok(Source::new("Dockerfile", text(bytes)));
        }
        if request.dockerfile == DockerfileSource::Stdin {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| failed(&error))?;
            return Ok(Source::new("-", text(bytes)));
        }
        let ContextSource::Directory(context) = &request.context else {
            return Err(Failure::new(FailureKind::Other, "there is no Dockerfile in the context on standard input"));
        };
        let path = dockerfile_path(request, context).ok_or_else(|| no_dockerfile(context))?;
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(FailureKind::Other, format!("there is no Dockerfile at {}", path.display()))
            }
            _ => Failure::new(FailureKind::Other, format!("read {}: {error}", path.display())),
        })?;
        let name = path.strip_prefix(context).unwrap_or(&path).display().to_string();
        Ok(Source::new(name, text(bytes)))
    }
}

fn unsupported(what: &str, url: &str) -> Failure {
    Failure::new(FailureKind::Other, format!("{what} as build context is not supported by this version: {url}"))
        .hint("fetch it first and give the directory, or pipe a tar of it: `… | rbuild build -`")
}

fn no_dockerfile(context: &Path) -> Failure {
    Failure::new(FailureKind::Other, format!("there is no Dockerfile in {}", context.display()))
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

fn locate_in(context: &Path) -> Option<PathBuf> {
    let path = context.join(".dockerignore");
    path.is_file().then_some(path)
}

fn directory(path: &Path, ignore: Option<PathBuf>, store: &Store) -> Result<Context, Failure> {
    let rules = match &ignore {
        Some(file) => {
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

/// Standard input is a tar, compressed or not, or a Dockerfile alone.
fn from_stdin(request: &Request, store: &Store) -> Result<(Context, Option<Vec<u8>>), Failure> {
    let mut bytes = Vec::new();
    let mut input = std::io::stdin();
    let mut head = vec![0; 1024];
    let count = read_up_to(&mut input, &mut head).map_err(|error| failed(&error))?;
    head.truncate(count);
    let is_tar = {
        let mut block = [0; 512];
        let plain = decompress(head.as_slice()).and_then(|mut reader| reader.read_exact(&mut block));
        plain.is_ok() && crate::layer::read::is_tar(&block) || crate::layer::decompress::detect(&head).is_some()
    };
    if !is_tar {
        bytes.extend_from_slice(&head);
        input.read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        return Ok((Context::Empty, Some(bytes)));
    }
    let tar = decompress(head.as_slice().chain(input)).map_err(|error| failed(&error))?;
    let context = TarContext::read(tar, store.session())
        .map_err(|error| Failure::new(FailureKind::Other, format!("read the context on standard input: {error}")))?;
    let context = Context::Archive(context);
    let names = match &request.dockerfile {
        DockerfileSource::Path(path) => {
            vec![path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()]
        }
        _ => vec!["Dockerfile".to_owned(), "dockerfile".to_owned()],
    };
    let mut found = false;
    for name in names {
        if let Ok(mut file) = context.view().open(name.as_bytes()) {
            file.read_to_end(&mut bytes).map_err(|error| failed(&error))?;
            found = true;
            break;
        }
    }
    Ok((context, found.then_some(bytes)))
}

fn read_up_to(input: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match input.read(&mut buffer[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}
