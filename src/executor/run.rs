//! RUN: a command in the sandbox, on the trees of what came before; what it writes is the layer.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::aftermath::FailedRun;
use super::agent::Relay;
use super::contexts::Context;
use super::error::RunFailure;
use super::log::{Log, Written};
use super::mask::Secrets;
use super::passwd::lookup_user;
use super::step::{Made, Work};
use super::waiting::Shared;
use super::{DefaultNetwork, ExecuteError, StepOutput};
use crate::cache::key;
use crate::digest::{Digest, Frame};
use crate::plan::{Mount, MountKind, MountSource, Network, ResolvedMount, RunOp, Security, Sharing};
use crate::progress::Stream;
use crate::sandbox;
use crate::snapshot::{Draft, StackView};
use crate::store::{LayerRecord, Lock, RecordKind, TreeDraft, TreeName};
use crate::tree::View;

/// Bytes in which no command does what it was to do.
const NO_ROOM: u64 = 1 << 20;

/// Mounts of one command, with what has to be held while it runs.
#[derive(Default)]
struct Mounted {
    mounts: Vec<sandbox::Mount>,
    env: Vec<(String, String)>,
    /// Where the first ssh agent is, or would be if one were given.
    agent: Option<String>,
    relays: Vec<Relay>,
    locks: Vec<Lock>,
    /// What must not be seen in what the command writes.
    secrets: Secrets,
}

impl Work<'_> {
    pub(super) fn run(&self, op: &RunOp) -> Result<StepOutput, ExecuteError> {
        self.check_allowed(op)?;
        let contents = op.mounts.iter().map(|mount| self.mount_content(mount)).collect::<Result<Vec<_>, _>>()?;
        let key = key::run(op, &self.parent()?.key, &contents);
        self.settle(&key, key.digest, |_| None, || self.run_command(op, &key.digest, &contents))
    }

    fn check_allowed(&self, op: &RunOp) -> Result<(), ExecuteError> {
        let allow = &self.services.options.allow;
        if op.security == Security::Insecure && !allow.security_insecure {
            let text =
                "RUN --security=insecure is not allowed; give --allow security.insecure if you trust this Dockerfile";
            return Err(self.refuse(text.to_owned()));
        }
        if op.network == Network::Host && !allow.network_host {
            let text = "RUN --network=host is not allowed; give --allow network.host if you trust this Dockerfile";
            return Err(self.refuse(text.to_owned()));
        }
        self.check_devices(op)
    }

    /// The content that a mount reads, for the key; none for what a key must not depend on.
    fn mount_content(&self, resolved: &ResolvedMount) -> Result<Option<Digest>, ExecuteError> {
        let path = resolved.mount.source.as_deref().unwrap_or("/");
        Ok(match &resolved.source {
            MountSource::Empty => None,
            MountSource::Context => Some(self.context_content(&self.services.contexts.main, path)?),
            MountSource::NamedContext(name) => Some(self.context_content(self.named_context(name)?, path)?),
            MountSource::Step(id) => Some(self.mounted_content(*id, path)?),
        })
    }

    /// Once in a build.
    fn tell_of_chroot(&self, isolation: sandbox::Isolation) {
        if isolation == sandbox::Isolation::Chroot && self.services.layers.namespace.is_first_in_chroot() {
            self.services.progress.notice(
                "no namespaces here: RUN is confined by chroot, Landlock and a system-call filter only, and shares network \
                 and processes with this container; `rbuild doctor` says what to change, --isolation=full refuses it",
            );
        }
    }

    /// Runs the command and makes what it wrote a layer.
    fn run_command(&self, op: &RunOp, key: &Digest, contents: &[Option<Digest>]) -> Result<Made, ExecuteError> {
        let services = self.services;
        let sandbox = services.layers.namespace.sandbox()?;
        let mapping = services.layers.mapping()?;
        self.tell_of_chroot(sandbox.isolation());
        let lowers = services.layers.trees(self.below()?, self.task)?;
        let draft = Draft::new(services.layers.store, mapping)?;
        let user = self.find_user(op, &lowers)?;
        let mut mounted = self.mounts(op, contents)?;
        let devices = self.device_edits(op)?;
        mounted.mounts.extend(devices.mounts);
        mounted.env.extend(devices.env);
        let groups = user.groups.iter().copied().chain(devices.groups).collect();
        let spec = sandbox::RunSpec {
            lowers,
            upper: draft.upper().to_owned(),
            work: draft.work().to_owned(),
            mounts: std::mem::take(&mut mounted.mounts),
            env: environment(op, &mounted, &user.home),
            user: sandbox::UserSpec { uid: user.uid, gid: user.gid, groups },
            ..self.spec(op)?
        };
        let written = Written::new(self.task, Log::new(services.layers.store.log_path(key)), &mounted.secrets);
        let output = |stream: sandbox::Stream, bytes: &[u8]| {
            let stream = match stream {
                sandbox::Stream::Stdout => Stream::Stdout,
                sandbox::Stream::Stderr => Stream::Stderr,
            };
            written.write(stream, bytes);
        };
        for notice in sandbox.take_notices() {
            services.progress.notice(notice);
        }
        let begun = SystemTime::now();
        let ended = sandbox.run(&spec, &sandbox::Streams::captured(&output), services.cancel);
        let log = written.finish();
        if let Ok(sandbox::Exit { root: sandbox::Made::Copied { refused: Some(reason) }, .. }) = &ended {
            self.task.note(format!(
                "roots of RUN are copied here, which takes longer than mounting them: {reason}; `rbuild doctor` says more"
            ));
        }
        let (root, result) = match ended {
            Ok(exit) => {
                let root = exit.root.clone();
                (root, self.judge(op, exit, log).and_then(|()| self.keep_written(&draft, key, begun)))
            }
            Err(error) => (sandbox::Made::Mounted, Err(self.not_run(error))),
        };
        match result {
            Ok(layer) => {
                services.layers.namespace.discard([draft.upper().to_owned(), draft.work().to_owned()]);
                Ok(Made::New(layer))
            }
            Err(ExecuteError::Run(failure)) if let Some(aftermath) = services.aftermath => {
                aftermath.keep(FailedRun { failure: failure.clone(), spec, root, locks: mounted.locks });
                Err(ExecuteError::Run(failure))
            }
            Err(error) => {
                // Why the command failed is what is to be told; what stays is swept by a later run.
                drop(services.layers.namespace.remove(&[draft.upper().to_owned(), draft.work().to_owned()]));
                Err(error)
            }
        }
    }

    /// What the command is run with, as far as the Dockerfile and the command line say it.
    fn spec(&self, op: &RunOp) -> Result<sandbox::RunSpec, ExecuteError> {
        let options = self.services.options;
        let network = match (op.network, options.network) {
            (Network::None, _) => sandbox::Network::None,
            (Network::Default, DefaultNetwork::Private(tool)) => sandbox::Network::Private(private_network(tool)?),
            (Network::Default, DefaultNetwork::Host) | (Network::Host, _) => sandbox::Network::Host,
        };
        let resolv_conf = options.resolver.resolv_conf(name_server(&network));
        Ok(sandbox::RunSpec {
            lowers: Vec::new(),
            upper: PathBuf::new(),
            work: PathBuf::new(),
            args: op.args.clone(),
            env: Vec::new(),
            cwd: op.cwd.clone(),
            user: sandbox::UserSpec::default(),
            hostname: op.hostname.clone(),
            network,
            mounts: Vec::new(),
            hosts: hosts_file(&op.hostname, &options.hosts),
            resolv_conf,
            security: match op.security {
                Security::Sandbox => sandbox::Security::Sandbox,
                Security::Insecure => sandbox::Security::Insecure,
            },
            shm_size: options.shm_size,
        })
    }

    /// A program that cannot be started is the Dockerfile's fault, so its place is told.
    fn not_run(&self, error: sandbox::SandboxError) -> ExecuteError {
        let sandbox::SandboxError::Program { program, source } = error else { return error.into() };
        let advice = match source.kind() {
            std::io::ErrorKind::NotFound => "is it in the image, and its directory in PATH?",
            std::io::ErrorKind::PermissionDenied => "is it a program, and may this user run it?",
            _ => "is it a program for this machine?",
        };
        self.refuse(format!("cannot run {program:?} in the image: {source}; {advice}"))
    }

    fn judge(&self, op: &RunOp, exit: sandbox::Exit, log: Option<PathBuf>) -> Result<(), ExecuteError> {
        if self.services.cancel.is_cancelled() {
            return Err(ExecuteError::Cancelled);
        }
        match exit.status.shell_code() {
            0 => {
                if exit.out_of_memory {
                    self.task.note(
                        "a process of this command was killed for lack of memory, although the command ended well",
                    );
                }
                Ok(())
            }
            code => Err(ExecuteError::Run(RunFailure {
                title: self.step.title.clone(),
                command: op.command_text.clone(),
                code,
                log,
                out_of_memory: exit.out_of_memory,
                full_disk: self.full_disk(),
                span: self.step.span,
            })),
        }
    }

    /// The store, where its disk is full. What a command could not write is often gone again, so a little room is none.
    fn full_disk(&self) -> Option<PathBuf> {
        let root = self.services.layers.store.root();
        let is_full = self.services.layers.store.room().is_ok_and(|room| room < NO_ROOM);
        is_full.then(|| root.to_owned())
    }

    /// The layer of a RUN is named by its key: its diffID is known only once it is packed.
    ///
    /// A layer of that name may be there: its step was forgotten, or may not be used (`--no-cache`), or its tree belongs to
    /// another id mapping. What this command wrote is another layer, so it gets a name that nobody had.
    fn keep_written(&self, draft: &Draft, key: &Digest, begun: SystemTime) -> Result<Digest, ExecuteError> {
        self.make_steady(draft, begun)?;
        let store = self.services.layers.store;
        let mut name = Frame::new("rbuild.written.1");
        let layer = name.digest("key", key).finish();
        let known: Option<LayerRecord> = store.read_record(RecordKind::Layer, &layer)?;
        if known.is_none() && store.tree(&self.services.layers.mapping()?.name, &TreeName::of(&layer)).is_none() {
            return self.seal(draft, &layer);
        }
        // Drafts are named by their session, and no two sessions have the same name.
        self.seal(draft, &name.text("at", &draft.upper().to_string_lossy()).finish())
    }

    fn seal(&self, draft: &Draft, layer: &Digest) -> Result<Digest, ExecuteError> {
        let layers = self.services.layers;
        let below = self.below()?.to_vec();
        layers.store.update_layer(layer, |record| record.below = below)?;
        draft.seal(layers.store, layers.mapping()?, layer)?;
        Ok(*layer)
    }

    fn find_user(&self, op: &RunOp, lowers: &[PathBuf]) -> Result<super::passwd::User, ExecuteError> {
        let view = StackView::open(lowers)
            .map_err(|error| self.refuse(format!("cannot read the root file system: {error}")))?;
        lookup_user(&view as &dyn View, &op.user).map_err(|source| ExecuteError::User {
            title: self.step.title.clone(),
            source,
            span: self.step.span,
        })
    }

    fn mounts(&self, op: &RunOp, contents: &[Option<Digest>]) -> Result<Mounted, ExecuteError> {
        let mut mounted = Mounted { locks: self.lock_caches(op, contents)?, ..Mounted::default() };
        if let Some(script) = &op.heredoc_file {
            let kind = file(script.content.clone().into_bytes(), 0o755, 0, 0);
            mounted.mounts.push(sandbox::Mount { target: script.path(), kind });
        }
        for (resolved, content) in op.mounts.iter().zip(contents) {
            let content = content.as_ref();
            match resolved.mount.kind {
                MountKind::Bind => mounted.mounts.push(self.bind(resolved, content)?),
                MountKind::Cache => self.cache(resolved, content, &mut mounted)?,
                MountKind::Tmpfs => {
                    let kind = sandbox::MountKind::Tmpfs { size: resolved.mount.size, mode: 0o1777 };
                    mounted.mounts.push(sandbox::Mount { target: target(&resolved.mount), kind });
                }
                MountKind::Secret => self.secret(&resolved.mount, &mut mounted)?,
                MountKind::Ssh => self.agent(&resolved.mount, &mut mounted)?,
            }
        }
        Ok(mounted)
    }

    fn bind(&self, resolved: &ResolvedMount, content: Option<&Digest>) -> Result<sandbox::Mount, ExecuteError> {
        let access = if resolved.mount.read_only == Some(false) {
            sandbox::Access::ReadWrite
        } else {
            sandbox::Access::ReadOnly
        };
        let source = resolved.mount.source.clone().unwrap_or_default();
        let lowers = self.mount_trees(resolved, content)?;
        let source = crate::tree::clean(source.as_bytes());
        let kind = sandbox::MountKind::BindOverlay { lowers, source, access };
        Ok(sandbox::Mount { target: target(&resolved.mount), kind })
    }

    /// The trees that a mount shows, highest first. Files of a context become a tree of their own: so `.dockerignore` holds,
    /// owners are root's as in COPY, and nothing that a command does reaches the user's files.
    fn mount_trees(&self, resolved: &ResolvedMount, content: Option<&Digest>) -> Result<Vec<PathBuf>, ExecuteError> {
        let path = resolved.mount.source.as_deref().unwrap_or("/");
        match &resolved.source {
            MountSource::Step(id) => self.services.layers.trees(self.layers_of(*id)?, self.task),
            MountSource::Context => self.context_tree(&self.services.contexts.main, path, content),
            MountSource::NamedContext(name) => self.context_tree(self.named_context(name)?, path, content),
            MountSource::Empty => Ok(Vec::new()),
        }
    }

    /// The tree of a path of a context, which must still have the content that entered the key.
    fn context_tree(
        &self,
        context: &Context,
        path: &str,
        content: Option<&Digest>,
    ) -> Result<Vec<PathBuf>, ExecuteError> {
        let layer = self.context_layer(context, path, content)?;
        self.services.layers.trees(&[layer], self.task)
    }

    /// Waits for the locked caches of a command, each once and all commands in the same order: two commands that take the
    /// same two in their own orders would wait for each other for ever.
    fn lock_caches(&self, op: &RunOp, contents: &[Option<Digest>]) -> Result<Vec<Lock>, ExecuteError> {
        let locked = op.mounts.iter().zip(contents).filter(|(resolved, _)| {
            resolved.mount.kind == MountKind::Cache && resolved.mount.sharing == Sharing::Locked
        });
        let names: BTreeSet<Digest> =
            locked.map(|(resolved, content)| cache_name(resolved, content.as_ref()).finish()).collect();
        names.iter().map(|name| self.wait_for(Shared::Cache, name)).collect()
    }

    fn cache(
        &self,
        resolved: &ResolvedMount,
        content: Option<&Digest>,
        mounted: &mut Mounted,
    ) -> Result<(), ExecuteError> {
        let mut frame = cache_name(resolved, content);
        let store = self.services.layers.store;
        let name = match resolved.mount.sharing {
            Sharing::Shared | Sharing::Locked => frame.finish(),
            // The first directory that nobody uses now.
            Sharing::Private => loop {
                let name = frame.finish();
                if let Some(lock) = store.try_lock("cache", &name)? {
                    mounted.locks.push(lock);
                    break name;
                }
                frame.text("another", "");
            },
        };
        let dir = self.cache_directory(&name, resolved, content)?;
        let title = format!("cache mount {}", target(&resolved.mount));
        store.use_mount(&name, &title)?;
        self.services.remote.note_mount(name, title);
        let is_read_only = resolved.mount.read_only == Some(true);
        let access = if is_read_only { sandbox::Access::ReadOnly } else { sandbox::Access::ReadWrite };
        let kind = sandbox::MountKind::Cache { dir, access };
        mounted.mounts.push(sandbox::Mount { target: target(&resolved.mount), kind });
        Ok(())
    }

    fn cache_directory(
        &self,
        name: &Digest,
        resolved: &ResolvedMount,
        content: Option<&Digest>,
    ) -> Result<PathBuf, ExecuteError> {
        let layers = self.services.layers;
        let mapping = layers.mapping()?;
        let directory = layers.store.cache_folder(&mapping.name, mapping.owner, name)?;
        if directory.is_dir() {
            return Ok(directory);
        }
        let _lock = layers.store.lock("new-cache", name)?;
        if directory.is_dir() {
            return Ok(directory);
        }
        let mut draft = self.seeded(resolved, content)?;
        if let Some(found) = self.services.remote.mount(name) {
            let (target, cache) = (target(&resolved.mount), found.storage.name());
            match layers.restore_mount(draft.path(), &found, self.services.remote.mounts_limit()) {
                Ok(()) => self.task.note(format!("cache mount {target} taken from the cache {cache}")),
                Err(error) => {
                    self.task.note(format!("cache mount {target} is not taken from the cache {cache}: {error}"));
                    layers.namespace.remove(&[draft.path().to_owned()])?;
                    draft = self.seeded(resolved, content)?;
                }
            }
        }
        std::fs::rename(draft.path(), &directory).map_err(|error| self.not_prepared(resolved, error))?;
        Ok(directory)
    }

    fn not_prepared(&self, resolved: &ResolvedMount, error: std::io::Error) -> ExecuteError {
        self.refuse(format!("cannot prepare cache mount {}: {error}", target(&resolved.mount)))
    }

    /// A new cache mount without a name.
    fn seeded(&self, resolved: &ResolvedMount, content: Option<&Digest>) -> Result<TreeDraft, ExecuteError> {
        let layers = self.services.layers;
        let mapping = layers.mapping()?;
        let lowers = match (&resolved.source, begins(&resolved.mount)) {
            (MountSource::Empty, _) | (_, Begins::Empty(_)) => Vec::new(),
            (_, Begins::Directory) => self.mount_trees(resolved, content)?,
        };
        let draft = layers.store.cache_draft(&mapping.name, mapping.owner)?;
        let Attributes { mode, uid, gid } = begins(&resolved.mount).attributes();
        let source = &resolved.mount.source;
        let seed = super::workers::Seed {
            source: crate::tree::clean(source.as_deref().unwrap_or_default().as_bytes()),
            mode,
            uid,
            gid,
            records: layers.namespace.ownership()? == sandbox::Ownership::Recorded,
        };
        let failed = |error: std::io::Error| self.not_prepared(resolved, error);
        let mut fds = vec![super::layers::open_directory(draft.path()).map_err(failed)?];
        for lower in &lowers {
            fds.push(super::layers::open_directory(lower).map_err(failed)?);
        }
        let args = serde_json::to_vec(&seed).map_err(ExecuteError::internal)?;
        layers.namespace.worker(super::workers::SEED, &args, fds)?.wait()?;
        Ok(draft)
    }

    /// A secret as a file in memory, as a variable, or both.
    fn secret(&self, mount: &Mount, mounted: &mut Mounted) -> Result<(), ExecuteError> {
        let id = mount.id.as_deref().unwrap_or_default();
        let Some(source) = self.services.options.secrets.get(id) else {
            if mount.required {
                return Err(self.refuse(format!(
                    "secret {id} is required; give it with --secret id={id},src=FILE or --secret id={id},env=NAME"
                )));
            }
            // The variable is set and empty, as in BuildKit, so that a shell with `set -u` can ask for it.
            mounted.env.extend(mount.env.iter().map(|name| (name.clone(), String::new())));
            return Ok(());
        };
        let value = match source {
            super::SecretSource::Value(value) => value.clone(),
            super::SecretSource::File(path) => std::fs::read(path)
                .map_err(|error| self.refuse(format!("cannot read secret {id} from {}: {error}", path.display())))?,
        };
        mounted.secrets.add(&value);
        if let Some(name) = &mount.env {
            let text = String::from_utf8(value.clone())
                .map_err(|_| self.refuse(format!("secret {id} is no UTF-8 text and cannot be the variable {name}")))?;
            mounted.env.push((name.clone(), text));
        }
        if mount.env.is_none() || mount.target.is_some() {
            let path = mount.target.clone().unwrap_or_else(|| format!("/run/secrets/{id}"));
            let kind = file(value, mount.mode.unwrap_or(0o400), mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
            mounted.mounts.push(sandbox::Mount { target: path, kind });
        }
        Ok(())
    }

    fn agent(&self, mount: &Mount, mounted: &mut Mounted) -> Result<(), ExecuteError> {
        let id = mount.id.as_deref().unwrap_or("default");
        mounted.agent.get_or_insert_with(|| target(mount));
        let Some(path) = self.services.options.agents.get(id) else {
            if mount.required {
                return Err(self.refuse(format!("ssh agent {id} is required; give it with --ssh {id}")));
            }
            return Ok(());
        };
        let mapping = self.services.layers.mapping()?;
        let directory = self.services.layers.store.draft_name(&mapping.name, mapping.owner)?;
        let relay = Relay::start(directory, path, mapping.owner)
            .map_err(|error| self.refuse(format!("cannot offer ssh agent {id} at a socket: {error}")))?;
        let Mount { mode, uid, gid, .. } = mount;
        let (mode, uid, gid) = (mode.unwrap_or(0o600), uid.unwrap_or(0), gid.unwrap_or(0));
        let owner = Some(sandbox::SocketOwner { mode, uid, gid });
        let kind = sandbox::MountKind::Socket { path: relay.path(), owner };
        mounted.relays.push(relay);
        mounted.mounts.push(sandbox::Mount { target: target(mount), kind });
        Ok(())
    }
}

/// The name server that a network has of its own.
pub(super) fn name_server(network: &sandbox::Network) -> Option<&'static str> {
    matches!(network, sandbox::Network::Private(_)).then_some(sandbox::NAME_SERVER)
}

/// Who connects private networks here.
pub fn private_network(tool: Option<sandbox::Tool>) -> Result<sandbox::Connector, ExecuteError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    sandbox::Connector::find(tool, &path).map_err(|error| ExecuteError::NoSandbox(Arc::new(error)))
}

/// How a cache mount begins. BuildKit takes owner and mode for a new directory, or else the one that `from=` and `source=`
/// name with the owner and mode that it has (`convert_runmount.go`).
enum Begins {
    /// As a new directory.
    Empty(Attributes),
    /// As a directory that is there.
    Directory,
}

/// Mode and owner of a new cache mount, as far as they are asked for.
#[derive(Clone, Copy, Default)]
struct Attributes {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Begins {
    fn attributes(&self) -> Attributes {
        match self {
            Begins::Empty(attributes) => *attributes,
            Begins::Directory => Attributes::default(),
        }
    }
}

fn begins(mount: &Mount) -> Begins {
    let Mount { mode, uid, gid, source, .. } = mount;
    let names_directory = !crate::tree::clean(source.as_deref().unwrap_or_default().as_bytes()).is_empty();
    if names_directory || (mode, uid, gid) == (&None, &None, &None) {
        return Begins::Directory;
    }
    Begins::Empty(Attributes { mode: *mode, uid: *uid, gid: *gid })
}

/// A cache mount is named by id, owner, mode and what it starts from, as in BuildKit.
fn cache_name(resolved: &ResolvedMount, content: Option<&Digest>) -> Frame {
    let Mount { id, source, .. } = &resolved.mount;
    let Attributes { mode, uid, gid } = begins(&resolved.mount).attributes();
    let mut frame = Frame::new("rbuild.cache-mount.1");
    frame.text("id", id.as_deref().unwrap_or_default()).optional("source", source.as_deref());
    for (name, value) in [("mode", mode), ("uid", uid), ("gid", gid)] {
        frame.optional(name, value.map(|value| value.to_string()).as_deref());
    }
    frame.optional("content", content.map(|content| content.to_string()).as_deref());
    frame
}

/// The command's environment: the stage's, where proxies of the command line and then the secrets that are asked for by name
/// win over an ENV or ARG of that name; and what nobody has set: the agent's socket and HOME.
fn environment(op: &RunOp, mounted: &Mounted, home: &str) -> Vec<(String, String)> {
    let mut env = op.env.clone();
    for (name, value) in op.proxy_env.iter().chain(&mounted.env) {
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value.clone()));
    }
    let agent = mounted.agent.iter().map(|place| ("SSH_AUTH_SOCK", place.as_str()));
    for (name, value) in agent.chain([("HOME", home)]) {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    env
}

fn target(mount: &Mount) -> String {
    mount.target.clone().unwrap_or_default()
}

fn file(content: Vec<u8>, mode: u32, uid: u32, gid: u32) -> sandbox::MountKind {
    sandbox::MountKind::File { content: sandbox::Secret(content), mode, uid, gid }
}

/// `/etc/hosts` as BuildKit writes it, with `--add-host` after the usual lines.
pub(super) fn hosts_file(hostname: &str, extra: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        writeln!(text, "{address}\t{name}").expect("text can be written to");
    }
    text.into_bytes()
}
