//! `rbuild build`: the request becomes a build, its result the answer.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{client, failed, open_store, print};
use crate::build::{Build, BuildError, Built, Output, OutputKind, Pull, build};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::{
    self, Action, AnnotationTarget, CacheUse, CompressionAlgorithm, ContextSource, Destination, DockerfileSource,
    Entitlement, HostAddress, LayoutImage, NamedContext, NetworkMode, OutputRequest, PullPolicy, Request, Verbosity,
};
use crate::context::archive::TarContext;
use crate::context::dir::DirContext;
use crate::context::ignore::{IgnoreRules, locate};
use crate::diagnostic::{Color, Severity, Source};
use crate::digest::Frame;
use crate::executor::{
    Allow, BlobForm, Context, Contexts, ExecuteError, ExecuteOptions, Namespace, NoCache, SecretSource,
};
use crate::export::{FileTarget, FilesTarget, LayoutForm, LayoutTarget};
use crate::image::media_type::{Compression, Format};
use crate::layer::decompress::decompress;
use crate::plan;
use crate::progress::Progress;
use crate::sandbox::{Cancel, Options as SandboxOptions};
use crate::store::Store;
use crate::ui::Ui;

/// Builds, and prints the image's id where `--quiet` asks for it.
pub(super) fn run(request: &Request, environment: &Environment) -> Result<(), Failure> {
    if request.action != Action::Build {
        return super::super::report::run(request, environment);
    }
    let store = open_store(&request.store_root)?;
    let color = color(environment);
    let inputs = Inputs::load(request, &store)?;
    let cancel = Cancel::new();
    let ui = Ui::start(request.progress, &environment.ui());
    super::super::signals::stop_on_signal(&cancel, store.session());
    let result = build_with(request, environment, &store, &inputs, &cancel, &ui, color);
    let result = match result {
        Err(error) => Err(explain(error, &inputs.source, &cancel, color)),
        Ok(built) => Ok(built),
    };
    ui.finish();
    let built = result?;
    write_results(request, &built)?;
    if request.verbosity == Verbosity::Quiet {
        print(&format!("{}\n", built.config))?;
    }
    Ok(())
}

fn color(environment: &Environment) -> Color {
    let ui = environment.ui();
    if ui.stderr_is_terminal && !ui.no_color { Color::Always } else { Color::Never }
}

fn build_with(
    request: &Request,
    environment: &Environment,
    store: &Store,
    inputs: &Inputs,
    cancel: &Cancel,
    ui: &Ui,
    color: Color,
) -> Result<Built, BuildFailure> {
    let progress = Progress::new(ui.sink());
    for notice in &request.notices {
        progress.notice(notice.clone());
    }
    let registry = client(&request.registries);
    let namespace = Namespace::new(SandboxOptions::new(store.root().join("trees")));
    let execute = execute_options(request, environment)?;
    let outputs = request.outputs.iter().filter_map(output).collect();
    let built = build(&Build {
        source: &inputs.source,
        scope: inputs.scope.clone(),
        options: plan_options(request),
        contexts: &inputs.contexts,
        pull: match request.pull {
            PullPolicy::Missing => Pull::Missing,
            PullPolicy::Always => Pull::Always,
            PullPolicy::Never => Pull::Never,
        },
        execute,
        tags: request.tags.clone(),
        outputs,
        annotations: annotations(request),
        store,
        registry: &registry,
        namespace: &namespace,
        progress: &progress,
        cancel,
        color,
    });
    Ok(built?)
}

/// What stops a build before or while it runs.
enum BuildFailure {
    Build(BuildError),
    Input(Failure),
}

impl From<BuildError> for BuildFailure {
    fn from(error: BuildError) -> BuildFailure {
        BuildFailure::Build(error)
    }
}

impl From<Failure> for BuildFailure {
    fn from(failure: Failure) -> BuildFailure {
        BuildFailure::Input(failure)
    }
}

/// The Dockerfile and the contexts.
struct Inputs {
    source: Source,
    contexts: Contexts,
    scope: String,
}

impl Inputs {
    fn load(request: &Request, store: &Store) -> Result<Inputs, Failure> {
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
    Ok(Context::Directory(context))
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

fn plan_options(request: &Request) -> plan::Options {
    let named_contexts = request.build_contexts.iter().map(|(name, context)| {
        let context = match context {
            NamedContext::Directory(path) => plan::NamedContext::Directory(path.clone()),
            NamedContext::Git(url) => plan::NamedContext::Git(url.clone()),
            NamedContext::Http(url) => plan::NamedContext::Url(url.clone()),
            NamedContext::Image(reference) => plan::NamedContext::Image(reference.clone()),
            NamedContext::OciLayout { directory, image } => plan::NamedContext::OciLayout {
                path: directory.clone(),
                tag: match image {
                    LayoutImage::Tag(tag) => Some(tag.clone()),
                    LayoutImage::Default | LayoutImage::Digest(_) => None,
                },
                digest: match image {
                    LayoutImage::Digest(digest) => Some(*digest),
                    LayoutImage::Default | LayoutImage::Tag(_) => None,
                },
            },
        };
        (name.clone(), context)
    });
    plan::Options {
        build_args: request.build_arguments.clone(),
        target: request.target.clone(),
        platform: request.platforms.first().cloned(),
        labels: request.labels.clone(),
        network: match request.network {
            NetworkMode::Default => plan::Network::Default,
            NetworkMode::None => plan::Network::None,
            NetworkMode::Host => plan::Network::Host,
        },
        named_contexts: named_contexts.collect(),
        epoch: request.source_date_epoch.and_then(|epoch| i64::try_from(epoch).ok()),
        ..plan::Options::default()
    }
}

fn execute_options(request: &Request, environment: &Environment) -> Result<ExecuteOptions, Failure> {
    let mut secrets = BTreeMap::new();
    for secret in &request.secrets {
        if let Some(value) = secret.read(environment).map_err(|error| failed(&error))? {
            secrets.insert(secret.id.clone(), SecretSource::Value(value));
        }
    }
    let agents = request.ssh.iter().filter_map(|agent| Some((agent.id.clone(), agent.sources.first()?.clone())));
    let hosts = request.hosts.iter().map(|host| {
        let address = match host.address {
            HostAddress::Ip(address) => address.to_string(),
            HostAddress::Gateway => "127.0.0.1".to_owned(),
        };
        (host.name.clone(), address)
    });
    let epoch = request.source_date_epoch.and_then(|epoch| i64::try_from(epoch).ok());
    Ok(ExecuteOptions {
        jobs: request.jobs.get(),
        no_cache: match &request.cache {
            CacheUse::All => NoCache::UseCache,
            CacheUse::Nothing => NoCache::All,
            CacheUse::AllBut(stages) => NoCache::Stages(stages.clone()),
        },
        blob: None,
        secrets,
        agents: agents.collect(),
        hosts: hosts.collect(),
        shm_size: request.shm_size.unwrap_or(64 << 20),
        epoch: epoch.unwrap_or(0),
        created: epoch,
        allow: Allow {
            // What the user asks for on the command line, he allows.
            network_host: request.network == NetworkMode::Host
                || request.entitlements.contains(&Entitlement::NetworkHost),
            security_insecure: request.entitlements.contains(&Entitlement::SecurityInsecure),
        },
    })
}

fn annotations(request: &Request) -> BTreeMap<String, String> {
    let of_outputs = request.outputs.iter().flat_map(|output| &output.annotations);
    let on_manifest =
        request.annotations.iter().chain(of_outputs).filter(|one| one.target == AnnotationTarget::Manifest);
    on_manifest.map(|one| (one.key.clone(), one.value.clone())).collect()
}

/// An output as the build makes it; `None` for `type=image` without push, which is what the store keeps anyway.
fn output(request: &OutputRequest) -> Option<Output> {
    let file = |destination: &Option<Destination>| match destination {
        Some(Destination::Path(path)) => FileTarget::Path(path.clone()),
        Some(Destination::Stdout) | None => FileTarget::Stdout,
    };
    let directory = |destination: &Option<Destination>| match destination {
        Some(Destination::Path(path)) => path.clone(),
        Some(Destination::Stdout) | None => PathBuf::from("."),
    };
    let destination = &request.destination;
    let kind = match request.kind {
        request::OutputKind::Image => return None,
        request::OutputKind::Oci => OutputKind::Layout(LayoutForm::Oci, LayoutTarget::Tar(file(destination))),
        request::OutputKind::OciDirectory => {
            OutputKind::Layout(LayoutForm::Oci, LayoutTarget::Directory(directory(destination)))
        }
        request::OutputKind::Docker => OutputKind::Layout(LayoutForm::Docker, LayoutTarget::Tar(file(destination))),
        request::OutputKind::Local => OutputKind::Files(FilesTarget::Directory(directory(destination))),
        request::OutputKind::Tar => OutputKind::Files(FilesTarget::Tar(file(destination))),
        request::OutputKind::Registry => OutputKind::Registry,
    };
    let wants_docker = request.kind == request::OutputKind::Docker
        || request.attributes.get("oci-mediatypes").is_some_and(|value| value == "false");
    let compression = match request.compression.algorithm {
        Some(CompressionAlgorithm::Uncompressed) => Compression::None,
        Some(CompressionAlgorithm::Zstd) => Compression::Zstd,
        Some(CompressionAlgorithm::Gzip) | None => Compression::Gzip,
    };
    Some(Output {
        kind,
        format: if wants_docker { Format::Docker } else { Format::Oci },
        blob: BlobForm { compression, level: request.compression.level },
        names: request.names.clone(),
    })
}

/// `--iidfile` and `--metadata-file`.
fn write_results(request: &Request, built: &Built) -> Result<(), Failure> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text)
            .map_err(|error| Failure::new(FailureKind::Other, format!("write {}: {error}", path.display())))
    };
    if let Some(path) = &request.image_id_file {
        write(path, built.config.to_string())?;
    }
    let Some(path) = &request.metadata_file else { return Ok(()) };
    let mut metadata = serde_json::Map::new();
    let mut add = |name: &str, value: serde_json::Value| metadata.insert(name.to_owned(), value);
    add("containerimage.config.digest", built.config.to_string().into());
    if let Some(manifest) = &built.manifest {
        add("containerimage.digest", manifest.digest.to_string().into());
        add("containerimage.descriptor", serde_json::to_value(manifest).map_err(|error| failed(&error))?);
    }
    if !request.tags.is_empty() {
        let names: Vec<String> = request.tags.iter().map(ToString::to_string).collect();
        add("image.name", names.join(",").into());
    }
    let text = serde_json::to_string_pretty(&metadata).map_err(|error| failed(&error))?;
    write(path, format!("{text}\n"))
}

/// The failure of a build, with its place in the Dockerfile.
fn explain(failure: BuildFailure, source: &Source, cancel: &Cancel, color: Color) -> Failure {
    let error = match failure {
        BuildFailure::Input(failure) => return failure,
        BuildFailure::Build(error) => error,
    };
    let excerpt = |span, text: &str| source.render(&crate::diagnostic::Diagnostic::error(span, text.to_owned()), color);
    match error {
        BuildError::Dockerfile(diagnostics) => {
            let mut drawn: Vec<String> = Vec::new();
            for diagnostic in diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error) {
                drawn.push(source.render(diagnostic, color));
            }
            Failure::new(FailureKind::Dockerfile, "the Dockerfile has errors").excerpt(drawn.join("\n\n"))
        }
        BuildError::Execute(ExecuteError::Run(failed)) => {
            let status = u8::try_from(failed.code.clamp(1, 255)).unwrap_or(1);
            let text = ExecuteError::Run(failed.clone()).to_string();
            let place = excerpt(failed.span, &text);
            Failure::new(FailureKind::Command { status }, format!("{} failed", failed.title)).excerpt(place)
        }
        BuildError::Execute(ExecuteError::Cancelled) => Failure::interrupted(),
        _ if cancel.is_cancelled() && super::super::signals::was_signalled() => Failure::interrupted(),
        BuildError::Execute(error) => {
            let failure = failed(&error);
            match error.span() {
                Some(span) => {
                    let place = excerpt(span, &error.to_string());
                    Failure { kind: FailureKind::Dockerfile, ..failure }.excerpt(place)
                }
                None => failure,
            }
        }
        error => failed(&error),
    }
}
