//! What `RUN --mount` asks for, prepared for the sandbox: trees of stages and contexts, caches, secrets, agents.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::file;
use crate::digest::{Digest, Frame};
use crate::executor::agent::Relay;
use crate::executor::contexts::Context;
use crate::executor::layers::open_directory;
use crate::executor::mask::Secrets;
use crate::executor::step::Work;
use crate::executor::transfer::mounted_path;
use crate::executor::waiting::Shared;
use crate::executor::{ExecuteError, SecretSource, workers};
use crate::plan::{Mount, MountKind, MountSource, ResolvedMount, RunOp, Sharing};
use crate::sandbox;
use crate::store::{Lock, TreeDraft};

/// Mounts of one command, with what has to be held while it runs.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mounts: Vec<sandbox::Mount>,
    pub(super) env: Vec<(String, String)>,
    /// Where the first ssh agent is, or would be if one were given.
    pub(super) agent: Option<String>,
    pub(super) relays: Vec<Relay>,
    pub(super) locks: Vec<Lock>,
    /// What must not be seen in what the command writes.
    pub(super) secrets: Secrets,
}

impl Work<'_> {
    pub(super) fn mounts(&self, op: &RunOp, contents: &[Option<Digest>]) -> Result<Mounted, ExecuteError> {
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
        let path = mounted_path(&resolved.mount);
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
        let seed = workers::Seed {
            source: crate::tree::clean(source.as_deref().unwrap_or_default().as_bytes()),
            mode,
            uid,
            gid,
            records: layers.namespace.ownership()? == sandbox::Ownership::Recorded,
        };
        let failed = |error: std::io::Error| self.not_prepared(resolved, error);
        let mut fds = vec![open_directory(draft.path()).map_err(failed)?];
        for lower in &lowers {
            fds.push(open_directory(lower).map_err(failed)?);
        }
        let args = serde_json::to_vec(&seed).map_err(ExecuteError::internal)?;
        layers.namespace.worker(workers::SEED, &args, fds)?.wait()?;
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
            SecretSource::Value(value) => value.clone(),
            SecretSource::File(path) => std::fs::read(path)
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

fn target(mount: &Mount) -> String {
    mount.target.clone().unwrap_or_default()
}
