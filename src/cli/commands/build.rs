//! `rbuild build`: the request becomes a build, its result the answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::agents::Agents;
use super::inputs::Inputs;
use super::remote::Remote;
use super::shell::Shell;
use super::{client, failed, open_store, print, storage, warn_of_damage};
use super::{explain, report};
use crate::attest::Form;
use crate::build::{
    Build, BuildError, Built, Checked, FileTimes, FilesForm, Foreseen, Outline, Output, OutputKind, Pull, PushBy,
    Reuse, Split, Target, build, check, foresee, outline, planned, targets,
};
use crate::cli::environment::Environment;
use crate::cli::failure::{FULL, Failure, FailureKind};
use crate::cli::request::executor::{pinned, pinned_with_tag};
use crate::cli::request::{
    self, Action, CacheUse, CompressionAlgorithm, Destination, Entitlement, HostAddress, LayoutImage, NamedContext,
    NetworkMode, OnError, OutputRequest, PullPolicy, Recompress, ReportFormat, Request, Sameness,
};
use crate::cli::signals::{OnSignal, was_signalled};
use crate::diagnostic::{Color, Diagnostic, Severity, Source};
use crate::executor::{
    Allow, AllowedDevices, BlobForm, CDI_DIRECTORIES, DefaultNetwork, ExecuteError, ExecuteOptions, FailedRun,
    Namespace, NoCache, SecretSource, Times,
};
use crate::export::{FileTarget, FilesTarget, LayoutForm, LayoutTarget, Others};
use crate::image::media_type::{Compression, Format};
use crate::image::reference::Reference;
use crate::plan;
use crate::progress::Progress;
use crate::sandbox::{Cancel, Options as SandboxOptions};
use crate::sign::SigningKey;
use crate::store::Store;
use crate::ui::Ui;

/// Builds, and prints the image's id where `--quiet` asks for it.
pub(super) fn run(request: &Request, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    storage::within(request.store_limit, store, |store| {
        let ended = build_in(store, request, environment);
        warn_of_damage(store);
        ended
    })
}

fn build_in(store: &Store, request: &Request, environment: &Environment) -> Result<(), Failure> {
    // Before anything is built: who cannot sign in the end should know now.
    let keys = request.signing_keys.iter().map(|key| key.read(environment).map_err(|error| failed(&error)));
    let signing_keys = keys.collect::<Result<Vec<_>, Failure>>()?;
    let color = color(environment);
    let client = client(&request.registries);
    let cancel = Cancel::new();
    let ui = Ui::start(request.progress, &environment.ui());
    let shell = Shell::new(&ui);
    let progress = Progress::new(ui.sink());
    OnSignal::new(vec![cancel.clone(), shell.cancel.clone()], &shell.foreground, store.session()).stop();
    let result = Agents::start(&request.ssh, environment).map_err(|error| failed(&error)).and_then(|agents| {
        let remote = Remote {
            request,
            environment,
            agents: agents.sockets(),
            store,
            client: &client,
            cancel: &cancel,
            progress: &progress,
        };
        let inputs = Inputs::load(&remote)?;
        let done = build_with(&remote, &inputs, signing_keys, &shell, color);
        let done = done.map_err(|error| shell.explain(shown(*error, &inputs.source, &cancel, color)))?;
        Ok((inputs, done))
    });
    ui.finish();
    let (inputs, done) = result?;
    let built = match done {
        Done::Built(built) => built,
        Done::Checked(checked, format) => {
            report::checked(&inputs.source, &checked, format)?;
            let failure =
                checked.failure.map(|error| shown(BuildFailure::Build(error), &inputs.source, &cancel, color));
            return failure.map_or(Ok(()), Err);
        }
        Done::Outlined(outline, format) => return report::outline(&inputs.source, &outline, format),
        Done::Listed(targets, format) => return report::targets(&inputs.source, &targets, format),
        Done::Foreseen(foreseen, format) => return explain::print_foreseen(&foreseen, format),
        Done::Planned(plan) => return print(&plan.to_string()),
    };
    write_results(request, &built)?;
    // Only the result goes to standard output: the image's id, unless an output is written there.
    if request.outputs.iter().any(|output| output.destination == Some(Destination::Stdout)) {
        return Ok(());
    }
    print(&format!("{}\n", built.id))
}

fn color(environment: &Environment) -> Color {
    let ui = environment.ui();
    if ui.stderr_is_terminal && !ui.no_color { Color::Always } else { Color::Never }
}

fn build_with(
    remote: &Remote<'_>,
    inputs: &Inputs,
    signing_keys: Vec<SigningKey>,
    shell: &Shell<'_>,
    color: Color,
) -> Result<Done, Box<BuildFailure>> {
    let Remote { request, environment, agents, store, client: registry, cancel, progress } = *remote;
    for notice in &request.notices {
        progress.notice(notice.clone());
    }
    let namespace = Namespace::new(sandbox_options(request, store));
    let execute =
        execute_options(request, agents, environment).map_err(|failure| Box::new(BuildFailure::Input(failure)))?;
    let outputs = request.outputs.iter().filter_map(|one| output(request, one)).collect();
    let open_shell = |failed: &FailedRun, namespace: &Namespace| shell.open(failed, namespace);
    let whole = Build {
        source: &inputs.source,
        scope: inputs.scope.clone(),
        options: plan_options(request),
        platforms: request.platforms.clone(),
        contexts: &inputs.contexts,
        pull: pull(request.pull),
        execute,
        tags: request.tags.clone(),
        outputs,
        cache_from: request.cache_from.clone(),
        mounts_limit: request.mounts_limit,
        cache_to: request.cache_to.clone(),
        times: file_times(request),
        layering: request.layering,
        store,
        registry,
        namespace: &namespace,
        progress,
        cancel,
        on_failure: match request.on_error {
            OnError::Stop => None,
            OnError::Shell => Some(&open_shell),
        },
        attestations: request.attestations.clone(),
        signing_keys,
        color,
    };
    let done = match request.action {
        Action::Build => build(&whole).map(|built| Done::Built(Box::new(built))),
        Action::Check(format) => check(&whole).map(|checked| Done::Checked(checked, format)),
        Action::Outline(format) => outline(&whole).map(|outline| Done::Outlined(outline, format)),
        Action::Targets(format) => targets(&whole).map(|targets| Done::Listed(targets, format)),
        Action::Explain(format) => foresee(&whole).map(|foreseen| Done::Foreseen(Box::new(foreseen), format)),
        Action::Plan => planned(&whole).map(|plan| Done::Planned(Box::new(plan))),
    };
    done.map_err(|error| Box::new(BuildFailure::Build(error)))
}

fn sandbox_options(request: &Request, store: &Store) -> SandboxOptions {
    SandboxOptions {
        base: store.root().join("trees"),
        isolation: request.isolation,
        storage: request.storage,
        limits: request.limits.clone(),
    }
}

fn pull(policy: PullPolicy) -> Pull {
    match policy {
        PullPolicy::Missing => Pull::Missing,
        PullPolicy::Always => Pull::Always,
        PullPolicy::Never => Pull::Never,
    }
}

/// What was done.
enum Done {
    /// An image was built.
    Built(Box<Built>),
    /// The Dockerfile was checked: what there is to say about it.
    Checked(Checked, ReportFormat),
    /// What the target takes.
    Outlined(Outline, ReportFormat),
    /// What can be built.
    Listed(Vec<Target>, ReportFormat),
    /// What a build would do.
    Foreseen(Box<Foreseen>, ReportFormat),
    /// The plan.
    Planned(Box<plan::Plan>),
}

/// What stops a build before or while it runs.
enum BuildFailure {
    Build(BuildError),
    Input(Failure),
}

fn plan_options(request: &Request) -> plan::Options {
    let named_contexts = request.build_contexts.iter().map(|(name, context)| {
        let context = match context {
            NamedContext::Directory(path) => plan::NamedContext::Directory(path.clone()),
            NamedContext::Git(url) => plan::NamedContext::Git(url.clone()),
            NamedContext::Http(url) => plan::NamedContext::Url(url.clone()),
            NamedContext::Image(reference) => plan::NamedContext::Image(reference.clone()),
            NamedContext::Target(stage) => plan::NamedContext::Target(stage.clone()),
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
            NetworkMode::Default | NetworkMode::Private(_) => plan::Network::Default,
            NetworkMode::None => plan::Network::None,
            NetworkMode::Host => plan::Network::Host,
        },
        named_contexts: named_contexts.collect(),
        ..plan::Options::default()
    }
}

fn execute_options(
    request: &Request,
    agents: &BTreeMap<String, PathBuf>,
    environment: &Environment,
) -> Result<ExecuteOptions, Failure> {
    let mut secrets = BTreeMap::new();
    for secret in &request.secrets {
        if let Some(value) = secret.read(environment).map_err(|error| failed(&error))? {
            secrets.insert(secret.id.clone(), SecretSource::Value(value));
        }
    }
    let hosts = request.hosts.iter().map(|host| {
        let address = match host.address {
            HostAddress::Ip(address) => address.to_string(),
            HostAddress::Gateway => "127.0.0.1".to_owned(),
        };
        (host.name.clone(), address)
    });
    Ok(ExecuteOptions {
        jobs: request.jobs.get(),
        no_cache: match &request.cache {
            CacheUse::All => NoCache::UseCache,
            CacheUse::Nothing => NoCache::All,
            CacheUse::AllBut(stages) => NoCache::Stages(stages.clone()),
        },
        blob: None,
        secrets,
        agents: agents.clone(),
        hosts: hosts.collect(),
        network: match request.network {
            NetworkMode::Private(tool) => DefaultNetwork::Private(tool),
            NetworkMode::Default | NetworkMode::None | NetworkMode::Host => DefaultNetwork::Host,
        },
        resolver: request.resolver.clone(),
        shm_size: request.shm_size.unwrap_or(64 << 20),
        epoch: 0,
        times: Times::Real,
        created: None,
        allow: Allow {
            // What the user asks for on the command line, he allows.
            network_host: request.network == NetworkMode::Host
                || request.entitlements.contains(&Entitlement::NetworkHost),
            security_insecure: request.entitlements.contains(&Entitlement::SecurityInsecure),
            devices: allowed_devices(request),
        },
        cdi_directories: match request.cdi_directories.as_slice() {
            [] => CDI_DIRECTORIES.map(PathBuf::from).to_vec(),
            given => given.to_vec(),
        },
    })
}

fn allowed_devices(request: &Request) -> AllowedDevices {
    if request.entitlements.contains(&Entitlement::AnyDevice) {
        return AllowedDevices::All;
    }
    let device = |entitlement: &Entitlement| match entitlement {
        Entitlement::Device { name, real } => Some((name.clone(), real.clone())),
        _ => None,
    };
    let named: BTreeMap<String, String> = request.entitlements.iter().filter_map(device).collect();
    if named.is_empty() { AllowedDevices::None } else { AllowedDevices::Named(named) }
}

/// One image comes out for all outputs, so what one of them asks for counts for each.
fn file_times(request: &Request) -> FileTimes {
    if request.sameness == Sameness::WholeImage {
        return FileTimes::Reproducible;
    }
    let rewrites = |output: &OutputRequest| output.switch("rewrite-timestamp") == Some(true);
    if request.outputs.iter().any(rewrites) { FileTimes::Rewrite } else { FileTimes::Keep }
}

/// An output as the build makes it; `None` for `type=image` without push, which is what the store keeps anyway.
fn output(build: &Request, request: &OutputRequest) -> Option<Output> {
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
        request::OutputKind::Local => {
            OutputKind::Files(FilesTarget::Directory(directory(destination), others(request)), files_form(request))
        }
        request::OutputKind::Tar => OutputKind::Files(FilesTarget::Tar(file(destination)), files_form(request)),
        request::OutputKind::Registry => OutputKind::Registry(match request.switch("push-by-digest") {
            Some(true) => PushBy::Digest,
            Some(false) | None => PushBy::Tag,
        }),
    };
    let wants_docker = request.kind == request::OutputKind::Docker || request.switch("oci-mediatypes") == Some(false);
    let compression = request.compression.algorithm.map_or(Compression::Gzip, CompressionAlgorithm::encoding);
    Some(Output {
        kind,
        format: if wants_docker { Format::Docker } else { Format::Oci },
        blob: BlobForm { compression, level: request.compression.level },
        reuse: match request.compression.recompress {
            Recompress::Keep => Reuse::AsPulled,
            Recompress::Always => Reuse::Recompressed,
        },
        names: request.names.clone(),
        annotations: build.annotations.iter().chain(&request.annotations).cloned().collect(),
        attestations: match request.switch("oci-artifact") {
            Some(false) => Form::Image,
            Some(true) | None => Form::Artifact,
        },
    })
}

fn others(request: &OutputRequest) -> Others {
    match request.attributes.get("mode").map(String::as_str) {
        Some("delete") => Others::Remove,
        _ => Others::Keep,
    }
}

fn files_form(request: &OutputRequest) -> FilesForm {
    let prefix = request.attributes.get("attestation-prefix").cloned();
    FilesForm { split: split(request), attestation_prefix: prefix.unwrap_or_default() }
}

fn split(request: &OutputRequest) -> Split {
    match request.switch("platform-split") {
        None => Split::WhereSeveral,
        Some(true) => Split::Always,
        Some(false) => Split::Never,
    }
}

/// `--iidfile` and `--metadata-file`.
fn write_results(request: &Request, built: &Built) -> Result<(), Failure> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text)
            .map_err(|error| Failure::new(FailureKind::Other, format!("write {}: {error}", path.display())))
    };
    if let Some(path) = &request.image_id_file {
        write(path, built.id.to_string())?;
    }
    if let Some(manifest) = &built.manifest {
        write_digests(request, &manifest.digest.to_string())?;
    }
    let Some(path) = &request.metadata_file else { return Ok(()) };
    let mut metadata = serde_json::Map::new();
    let mut add = |name: &str, value: serde_json::Value| metadata.insert(name.to_owned(), value);
    if let Some(config) = &built.config {
        add("containerimage.config.digest", config.to_string().into());
    }
    if let Some(manifest) = &built.manifest {
        add("containerimage.digest", manifest.digest.to_string().into());
        add("containerimage.descriptor", serde_json::to_value(manifest).map_err(|error| failed(&error))?);
    }
    for (platform, provenance) in &built.provenance {
        let several = if built.provenance.len() > 1 { format!("/{platform}") } else { String::new() };
        add(&format!("buildx.build.provenance{several}"), provenance.clone());
    }
    let names = request::image_names(&request.tags, &request.outputs);
    if !names.is_empty() {
        add("image.name", names.join(",").into());
    }
    let text = serde_json::to_string_pretty(&metadata).map_err(|error| failed(&error))?;
    write(path, format!("{text}\n"))
}

/// kaniko's result files, in directories that are made for them.
fn write_digests(request: &Request, digest: &str) -> Result<(), Failure> {
    let files = &request.digest_files;
    let each = |pinned: fn(&Reference, &str) -> String| request.tags.iter().map(|name| pinned(name, digest)).collect();
    for (path, text) in
        [(&files.digest, digest.to_owned()), (&files.names, each(pinned)), (&files.tagged, each(pinned_with_tag))]
    {
        let Some(path) = path else { continue };
        let directory = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        directory
            .and_then(|()| std::fs::write(path, text))
            .map_err(|error| Failure::new(FailureKind::Other, format!("write {}: {error}", path.display())))?;
    }
    Ok(())
}

/// Whether a log has more than the lines that are shown of it anyway.
fn is_long(log: &Path) -> bool {
    const SHOWN: usize = 10;
    let Ok(file) = std::fs::File::open(log) else { return false };
    BufReader::new(file).split(b'\n').take(SHOWN + 1).count() > SHOWN
}

/// The failure of a build, with its place in the Dockerfile.
fn shown(failure: BuildFailure, source: &Source, cancel: &Cancel, color: Color) -> Failure {
    let error = match failure {
        BuildFailure::Input(failure) => return failure,
        BuildFailure::Build(error) => error,
    };
    let excerpt = |span, text: &str| source.render(&Diagnostic::error(span, text.to_owned()), color);
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
            let failure =
                Failure::new(FailureKind::Command { status }, format!("{} failed", failed.title)).excerpt(place);
            let failure = if failed.full_disk.is_some() { failure.hint(FULL) } else { failure };
            match failed.log.filter(|path| is_long(path)) {
                Some(path) => failure.hint(format!("all that the command wrote is in {}", path.display())),
                None => failure,
            }
        }
        BuildError::Execute(ExecuteError::Cancelled) => Failure::interrupted(),
        _ if cancel.is_cancelled() && was_signalled() => Failure::interrupted(),
        BuildError::BaseOf { span, ref stage, .. } => {
            let place = Diagnostic::error(span, error.to_string());
            let place = match stage {
                Some(stage) => place.help(format!("did you mean the stage {stage}?")),
                None => place,
            };
            Failure { kind: FailureKind::Dockerfile, ..failed(&error) }.excerpt(source.render(&place, color))
        }
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
