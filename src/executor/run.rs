//! RUN: a command in the sandbox, on the trees of what came before; what it writes is the layer.

mod mounts;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use mounts::Mounted;

use super::aftermath::FailedRun;
use super::error::RunFailure;
use super::log::{Log, Written};
use super::passwd::lookup_user;
use super::step::{Make, Work};
use super::transfer::mounted_path;
use super::{DefaultNetwork, ExecuteError, StepOutput};
use crate::cache::key;
use crate::cache::miss::FilesByIngredient;
use crate::digest::{Digest, Frame};
use crate::plan::{MountSource, Network, ResolvedMount, RunOp, Security};
use crate::progress::Stream;
use crate::sandbox;
use crate::snapshot::{Draft, StackView};
use crate::store::{LayerRecord, RecordKind, SlotRecord, StepRecord, TreeName};
use crate::tree::View;

/// Bytes in which no command does what it was to do.
const NO_ROOM: u64 = 1 << 20;

/// A command whose key is known.
struct Command<'a> {
    work: &'a Work<'a>,
    op: &'a RunOp,
    key: &'a Digest,
    contents: &'a [Option<Digest>],
}

impl Make for Command<'_> {
    fn changes(&self, before: &SlotRecord) -> FilesByIngredient {
        self.work.mount_changes(self.op, self.contents, before)
    }

    fn found(&self) -> Result<Option<StepRecord>, ExecuteError> {
        Ok(None)
    }

    fn make(self) -> Result<Digest, ExecuteError> {
        self.work.run_command(self.op, self.key, self.contents)
    }
}

/// The stream of progress that shows what a command writes to one of its own.
fn shown_as(stream: sandbox::Stream) -> Stream {
    match stream {
        sandbox::Stream::Stdout => Stream::Stdout,
        sandbox::Stream::Stderr => Stream::Stderr,
    }
}

impl Work<'_> {
    pub(super) fn run(&self, op: &RunOp) -> Result<StepOutput, ExecuteError> {
        self.check_allowed(op)?;
        let contents = op.mounts.iter().map(|mount| self.mount_content(mount)).collect::<Result<Vec<_>, _>>()?;
        let mut key = self.in_words(key::run(op, &self.parent()?.key, &contents));
        key.evidence.mounts = self.mount_evidence(op, &contents)?;
        self.settle(&key, key.digest, Command { work: self, op, key: &key.digest, contents: &contents })
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
        let path = mounted_path(&resolved.mount);
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

    fn tell_of_copy(&self, root: &sandbox::Made) {
        if let sandbox::Made::Copied { refused: Some(reason) } = root {
            self.task.note(format!(
                "roots of RUN are copied here, which takes longer than mounting them: {reason}; `rbuild doctor` says more"
            ));
        }
    }

    /// Runs the command and makes what it wrote a layer.
    fn run_command(&self, op: &RunOp, key: &Digest, contents: &[Option<Digest>]) -> Result<Digest, ExecuteError> {
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
        let output = |stream: sandbox::Stream, bytes: &[u8]| written.write(shown_as(stream), bytes);
        for notice in sandbox.take_notices() {
            services.progress.notice(notice);
        }
        let begun = SystemTime::now();
        let ended = sandbox.run(&spec, &sandbox::Streams::captured(&output), services.cancel);
        let log = written.finish();
        if let Ok(exit) = &ended {
            self.tell_of_copy(&exit.root);
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
                Ok(layer)
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
