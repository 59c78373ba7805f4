//! `rbuild run`: an image becomes a process, and its exit code is ours.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::archive::changed;
use super::archived::adopt;
use super::image::choose_for;
use super::inspect::config_of;
use super::{client, failed, open_store, storage, store_failed};
use crate::build::{self, BlobForm, NewLayer};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::archive::created;
use crate::cli::request::container::{BindAccess, Commit, HostMount, HostSource, Input, RunImage, Screen};
use crate::cli::request::{HostAddress, NetworkMode, PullPolicy};
use crate::cli::signals::OnSignal;
use crate::cli::terminal::Terminal;
use crate::executor::container::{Container, ContainerError, Prepared, command, variables};
use crate::executor::private_network;
use crate::executor::{Layers, Namespace};
use crate::image::config::ContainerConfig;
use crate::image::media_type::Compression;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::{Outcome, Progress};
use crate::registry::Client;
use crate::sandbox::{
    Access, Cancel, Foreground, Mount, MountKind, Network, Options, SandboxError, Status, Stream, StreamKind, Streams,
};
use crate::store::{RecordKind, Store, Tagged};
use crate::ui::Ui;

/// Docker's: the command did not run for a reason that is not its own.
pub(in crate::cli) const NOT_RUN: u8 = 125;
/// The shell's: it cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The shell's: it is not there.
const NOT_FOUND: u8 = 127;

/// Runs an image; gives the exit code of its command.
pub(super) fn run(request: &RunImage, environment: &Environment) -> Result<u8, Failure> {
    run_here(request, environment).map_err(|failure| match failure.kind {
        FailureKind::Container { .. } | FailureKind::Interrupted => failure,
        _ => Failure { kind: FailureKind::Container { status: NOT_RUN }, ..failure },
    })
}

fn run_here(request: &RunImage, environment: &Environment) -> Result<u8, Failure> {
    for notice in &request.notices {
        eprintln!("note: {notice}");
    }
    let limit = storage::limit(environment)?;
    storage::within(limit, open_store(&request.store_root)?, |store| run_in(store, request, environment))
}

fn run_in(store: &Store, request: &RunImage, environment: &Environment) -> Result<u8, Failure> {
    let (cancel, foreground) = (Cancel::new(), Foreground::default());
    OnSignal::new(vec![cancel.clone()], &foreground, store.session()).forward();
    let registry = client(&request.registries);
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    let layers = Layers::new(store, &registry, &namespace);
    let tagged = find(request, environment, &layers, &registry)?;
    // What is wrong with a change is told before the command runs.
    let change = |commit: &Commit| changed(&config_of(store, &tagged)?, &commit.changes);
    let config = request.commit.as_ref().map(change).transpose()?;
    let container = container(request, store, &tagged)?;
    let prepared = prepare(container, &layers, request, environment)?;
    let exit = attach(&prepared, request, &foreground, &cancel)?;
    match (&request.commit, config, exit.shell_code()) {
        (Some(commit), Some(config), 0) => {
            let created = created(environment).map_err(|error| failed(&error))?;
            let created_by = prepared.args().join(" ");
            let entry = NewLayer { created_by, comment: commit.message.clone(), created };
            keep(prepared, &layers, &tagged, config, &entry, &commit.names)?;
        }
        (Some(_), _, code) => eprintln!("note: nothing was committed, for the command ended with {code}"),
        (None, ..) => {}
    }
    Ok(u8::try_from(exit.shell_code().clamp(0, 255)).unwrap_or(NOT_RUN))
}

/// Makes an image of what the command wrote.
fn keep(
    prepared: Prepared<'_>,
    layers: &Layers<'_>,
    tagged: &Tagged,
    config: ContainerConfig,
    entry: &NewLayer,
    names: &[Reference],
) -> Result<(), Failure> {
    let blob = BlobForm { compression: Compression::Gzip, level: None };
    let layer = prepared.commit(blob, &Progress::silent().task("")).map_err(|error| failed(&error))?;
    let made =
        build::add_to_image(layers, &tagged.image, config, layer, entry, names).map_err(|error| failed(&error))?;
    layers.store().settle().map_err(store_failed)?;
    let names: Vec<String> = names.iter().map(Reference::familiar).collect();
    eprintln!("committed {} as {}", made.image.config, names.join(", "));
    Ok(())
}

/// The image, pulled where it is not here.
fn find(
    request: &RunImage,
    environment: &Environment,
    layers: &Layers<'_>,
    registry: &Client,
) -> Result<Tagged, Failure> {
    // Where no other platform is asked for, an only image is run whatever it is for.
    let platform = Some(&request.platform).filter(|platform| **platform != Platform::host());
    if let Some(place) = &request.image.archive {
        return adopt(layers.store(), place, platform);
    }
    let mut image = request.image.clone();
    if choose_for(layers.store(), &image, platform).is_err()
        && let Some(name) = &mut image.name
    {
        *name = registry.full_name(name).map_err(|error| failed(&error))?;
    }
    let here = match choose_for(layers.store(), &image, platform) {
        Ok(tagged) if is_whole(layers, &tagged)? => Ok(tagged),
        Ok(tagged) => Err(Failure::new(FailureKind::Other, format!("some layers of {} are not here", tagged.name))),
        Err(failure) => Err(failure),
    };
    let name = match (&image.name, request.pull) {
        (Some(name), PullPolicy::Always) => name,
        (Some(name), PullPolicy::Missing) if here.is_err() => name,
        _ => return here,
    };
    let ui = Ui::start(request.progress, &environment.ui());
    let pulled = build::pull_image(layers, name, std::slice::from_ref(&request.platform), &Progress::new(ui.sink()));
    ui.finish();
    pulled.map_err(|error| {
        let failure = failed(&error);
        match here {
            Ok(_) => failure,
            Err(_) => failure.hint(format!(
                "there is no image {:?} in the store either; `rbuild images` lists them",
                request.image.text
            )),
        }
    })?;
    choose_for(layers.store(), &image, platform)
}

fn is_whole(layers: &Layers<'_>, tagged: &Tagged) -> Result<bool, Failure> {
    for layer in &tagged.image.layers {
        let record = layers.store().read_record(RecordKind::Layer, layer).map_err(store_failed)?;
        if !record.is_some_and(|record| layers.is_available(layer, &record)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is run: the image's config with what the command line says instead.
fn container(request: &RunImage, store: &Store, tagged: &Tagged) -> Result<Container, Failure> {
    let config = config_of(store, tagged)?.config;
    let args = command(&config, request.entrypoint.as_deref(), &request.command);
    if args.is_empty() {
        return Err(Failure::new(FailureKind::Other, format!("{} has neither ENTRYPOINT nor CMD", request.image.text))
            .hint(format!("name a command: rbuild run {} sh", request.image.text)));
    }
    let mut env = variables(&config, &request.env);
    if request.screen == Screen::Terminal && !env.iter().any(|(name, _)| name == "TERM") {
        // As docker: every image that knows terminals at all knows this one.
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let hosts = request.hosts.iter().map(|host| {
        let address = match host.address {
            HostAddress::Ip(address) => address.to_string(),
            HostAddress::Gateway => "127.0.0.1".to_owned(),
        };
        (host.name.clone(), address)
    });
    let cwd = request.working_directory.clone().or(Some(config.working_dir).filter(|cwd| !cwd.is_empty()));
    Ok(Container {
        layers: tagged.image.layers.clone(),
        args,
        env,
        cwd: cwd.unwrap_or_else(|| "/".to_owned()),
        user: request.user.clone().unwrap_or(config.user),
        hostname: request.hostname.clone(),
        network: match request.network {
            NetworkMode::None => Network::None,
            NetworkMode::Private(tool) => Network::Private(private_network(tool).map_err(|error| failed(&error))?),
            NetworkMode::Default | NetworkMode::Host => Network::Host,
        },
        hosts: hosts.collect(),
        mounts: request.mounts.iter().map(mount).collect(),
        shm_size: request.shm_size,
    })
}

fn mount(mount: &HostMount) -> Mount {
    let kind = match &mount.source {
        HostSource::Tmpfs { size } => MountKind::Tmpfs { size: *size, mode: 0o1777 },
        HostSource::Bind { path, access } => MountKind::Bind {
            source_root: path.parent().unwrap_or(Path::new("/")).to_owned(),
            source: path.file_name().unwrap_or_default().as_bytes().to_vec(),
            access: match access {
                BindAccess::ReadOnly => Access::ReadOnly,
                BindAccess::ReadWrite => Access::ReadWrite,
            },
        },
    };
    Mount { target: mount.target.clone(), kind }
}

/// Has the image unpacked, and says so where there is something to do.
fn prepare<'a>(
    container: Container,
    layers: &'a Layers<'a>,
    request: &RunImage,
    environment: &Environment,
) -> Result<Prepared<'a>, Failure> {
    let is_ready = layers.are_unpacked(&container.layers).map_err(|error| failed(&error))?;
    if is_ready {
        return container.prepare(layers, &Progress::silent().task("")).map_err(|error| explain(&error));
    }
    let ui = Ui::start(request.progress, &environment.ui());
    let task = Progress::new(ui.sink()).task(format!("unpacking {}", request.image.text));
    task.start();
    let prepared = container.prepare(layers, &task);
    task.end(match &prepared {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(error.to_string()),
    });
    ui.finish();
    prepared.map_err(|error| explain(&error))
}

/// Runs it with our own standard streams at the other end of its.
fn attach(
    prepared: &Prepared<'_>,
    request: &RunImage,
    foreground: &Foreground,
    cancel: &Cancel,
) -> Result<Status, Failure> {
    let output = |stream: Stream, bytes: &[u8]| {
        let written = match stream {
            Stream::Stdout => write_all(&mut std::io::stdout().lock(), bytes),
            Stream::Stderr => write_all(&mut std::io::stderr().lock(), bytes),
        };
        // `rbuild run app yes | head` has an end.
        if written.is_err() {
            foreground.nobody_reads(stream);
        }
    };
    let stdin = std::io::stdin();
    let terminal = match request.screen {
        Screen::Pipes => None,
        Screen::Terminal => Terminal::of(stdin.as_fd()).ok(),
    };
    let size = terminal.as_ref().and_then(|terminal| terminal.size().ok());
    let streams = Streams {
        kind: match request.screen {
            Screen::Pipes => StreamKind::Pipes,
            Screen::Terminal => StreamKind::Terminal(size.unwrap_or_default()),
        },
        input: (request.input == Input::Passed).then_some(stdin.as_fd()),
        output: &output,
        foreground: foreground.clone(),
    };
    // Keys that nobody passes on stay with this terminal, Ctrl-C above all.
    let lent = match (&terminal, size, request.input) {
        (Some(terminal), Some(_), Input::Passed) => Some(terminal.lend().map_err(|error| failed(&error))?),
        _ => None,
    };
    let ended = prepared.run(&streams, cancel);
    drop(lent);
    match ended {
        Ok(exit) => {
            if exit.out_of_memory {
                eprintln!("note: a process was killed for lack of memory");
            }
            Ok(exit.status)
        }
        // Asked twice to end, and killed.
        Err(ContainerError::Sandbox(SandboxError::Cancelled)) => Ok(Status::Signal(9)),
        Err(error) => Err(explain(&error)),
    }
}

fn write_all(out: &mut dyn Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// The exit codes that docker has for commands that did not run.
fn explain(error: &ContainerError) -> Failure {
    let status = match error {
        ContainerError::Sandbox(SandboxError::Program { source, .. }) => match source.kind() {
            std::io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        },
        _ => NOT_RUN,
    };
    Failure::of(FailureKind::Container { status }, error)
}
