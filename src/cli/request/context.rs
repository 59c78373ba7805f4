//! Where a build reads: the context, the Dockerfile, and contexts by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fields::Given;
use super::{InvalidRequest, reference};
use crate::cli::environment::Environment;
use crate::cli::subcommand_names;
use crate::diagnostic::did_you_mean;
use crate::digest::Digest;
use crate::image::reference::Reference;

/// Where COPY reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory that exists.
    Directory(PathBuf),
    /// An archive on this machine.
    Archive(PathBuf),
    /// Standard input: an archive; or, where it is none, the Dockerfile of a build without context.
    Stdin,
    /// A Git repository, as Docker writes it: `URL[#REF[:DIR]]`.
    Git(String),
    /// An archive to download.
    Http(String),
}

/// Where the Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` in the context.
    Default,
    /// A file. Absolute: of this machine. Relative: in a context that is no directory of this machine.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

/// What a `--build-context` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory that exists.
    Directory(PathBuf),
    /// A Git repository.
    Git(String),
    /// An archive to download.
    Http(String),
    /// An image (`docker-image://`).
    Image(Reference),
    /// Another stage of the same Dockerfile (`target:`).
    Target(String),
    /// An image in an OCI layout (`oci-layout://`).
    OciLayout {
        /// The layout's directory.
        directory: PathBuf,
        /// Which image in it, where there are several.
        image: LayoutImage,
    },
}

/// An image in an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutImage {
    /// The only one, or `latest`.
    Default,
    /// By its `org.opencontainers.image.ref.name`.
    Tag(String),
    /// By its digest.
    Digest(Digest),
}

/// Understands CONTEXT.
pub(super) fn context(text: &str, environment: &Environment) -> Result<ContextSource, InvalidRequest> {
    if text == "-" {
        return Ok(ContextSource::Stdin);
    }
    // A directory wins over a URL of the same spelling, as in buildx.
    let path = environment.absolute(text);
    if path.is_dir() && !text.is_empty() {
        return Ok(ContextSource::Directory(path));
    }
    if let Some(path) = text.strip_prefix("tar://") {
        return Ok(ContextSource::Archive(environment.absolute(path)));
    }
    match remote(text) {
        Some(Remote::Git) => Ok(ContextSource::Git(text.to_owned())),
        Some(Remote::Http) => Ok(ContextSource::Http(text.to_owned())),
        None => Err(no_context(text, environment)),
    }
}

fn no_context(text: &str, environment: &Environment) -> InvalidRequest {
    let path = environment.absolute(text);
    if path.exists() && !text.is_empty() {
        let problem = format!("{text} is no directory");
        let hint = format!("a Dockerfile is given with --file: rbuild -f {text} .");
        return InvalidRequest::NoContext { problem, hints: vec![hint] };
    }
    let hints = meant_command(text).map(|name| format!("did you mean the command `rbuild {name}`?"));
    InvalidRequest::NoContext { problem: format!("path {text:?} not found"), hints: hints.into_iter().collect() }
}

/// The command that a word is nearly the name of; rather one that was not typed to its end.
fn meant_command(word: &str) -> Option<String> {
    let names = subcommand_names();
    let near = |word: &str| did_you_mean(word, names.iter().map(String::as_str)).map(str::to_owned);
    let longer: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.starts_with(word)).collect();
    did_you_mean(word, longer).map(str::to_owned).or_else(|| near(word))
}

/// Why a word that stands where a command does can be no context, if it is nearly the name of a command: the flags and
/// words behind it are that command's, and what is wrong with them for a build is of no help.
pub(in crate::cli) fn misspelt_command(word: &str, environment: &Environment) -> Option<InvalidRequest> {
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !is_word || environment.absolute(word).exists() {
        return None;
    }
    meant_command(word).map(|_| no_context(word, environment))
}

enum Remote {
    Git,
    Http,
}

/// How Docker tells remote contexts apart (moby/builder/remotecontext/urlutil; BuildKit `util/gitutil`).
fn remote(text: &str) -> Option<Remote> {
    let before_fragment = text.split('#').next().unwrap_or(text);
    let path = before_fragment.split('?').next().unwrap_or(before_fragment);
    if text.starts_with("http://") || text.starts_with("https://") {
        return Some(if path.ends_with(".git") { Remote::Git } else { Remote::Http });
    }
    let is_scp_like =
        text.split_once('@').is_some_and(|(user, rest)| !user.is_empty() && !user.contains('/') && rest.contains(':'));
    let is_git = text.starts_with("git://")
        || text.starts_with("ssh://")
        || text.starts_with("git@")
        || text.starts_with("github.com/")
        || (is_scp_like && !text.contains("://"));
    is_git.then_some(Remote::Git)
}

/// Understands `--file`.
pub(super) fn dockerfile(
    file: Option<&str>,
    context: &ContextSource,
    environment: &Environment,
) -> Result<DockerfileSource, InvalidRequest> {
    match (file, context) {
        (None | Some(""), _) => Ok(DockerfileSource::Default),
        (Some("-"), ContextSource::Stdin) => Err(InvalidRequest::Contradiction {
            problem: "both the context and the Dockerfile are to be read from standard input".to_owned(),
            hint: "give one of them as a file or directory".to_owned(),
        }),
        (Some("-"), _) => Ok(DockerfileSource::Stdin),
        (Some(path), ContextSource::Directory(_)) => Ok(DockerfileSource::Path(environment.absolute(path))),
        (Some(path), _) => Ok(DockerfileSource::Path(PathBuf::from(path))),
    }
}

/// Understands `--build-context`.
pub(super) fn build_contexts(
    texts: &[String],
    environment: &Environment,
) -> Result<BTreeMap<String, NamedContext>, InvalidRequest> {
    let mut contexts = BTreeMap::new();
    for text in texts {
        let given = Given { flag: "--build-context", value: text, expected: "NAME=SOURCE" };
        let (name, source) = text.split_once('=').ok_or_else(|| given.invalid())?;
        if name.is_empty() || source.is_empty() {
            return Err(given.invalid());
        }
        // A name is compared with what FROM says, where `latest` is not written.
        let name = name.strip_suffix(":latest").unwrap_or(name);
        contexts.insert(name.to_owned(), named_context(given, source, environment)?);
    }
    Ok(contexts)
}

fn named_context(given: Given<'_>, source: &str, environment: &Environment) -> Result<NamedContext, InvalidRequest> {
    if let Some(name) = source.strip_prefix("docker-image://") {
        return Ok(NamedContext::Image(reference("--build-context", name)?));
    }
    if let Some(layout) = source.strip_prefix("oci-layout://") {
        return oci_layout(given, layout, environment);
    }
    if let Some(target) = source.strip_prefix("target:") {
        return if target.is_empty() { Err(given.invalid()) } else { Ok(NamedContext::Target(target.to_owned())) };
    }
    let path = environment.absolute(source);
    match remote(source) {
        _ if path.is_dir() => Ok(NamedContext::Directory(path)),
        Some(Remote::Git) => Ok(NamedContext::Git(source.to_owned())),
        Some(Remote::Http) => Ok(NamedContext::Http(source.to_owned())),
        None if path.exists() => Err(given.because(&format!("{source} is no directory"))),
        None => Err(given.because(&format!("there is no directory {source}"))),
    }
}

fn oci_layout(given: Given<'_>, layout: &str, environment: &Environment) -> Result<NamedContext, InvalidRequest> {
    let (path, image) = match layout.split_once('@') {
        Some((path, digest)) => {
            let digest =
                digest.parse().map_err(|_| given.because("a digest is sha256: and 64 hexadecimal characters"))?;
            (path, LayoutImage::Digest(digest))
        }
        None => match layout.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, LayoutImage::Tag(tag.to_owned())),
            _ => (layout, LayoutImage::Default),
        },
    };
    let directory = environment.absolute(path);
    if !directory.is_dir() {
        return Err(given.because(&format!("there is no directory {path}")));
    }
    Ok(NamedContext::OciLayout { directory, image })
}
