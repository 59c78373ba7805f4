//! An image that is tried: one command on its layers, in the sandbox that RUN has; what it writes is thrown away.

use std::collections::BTreeMap;

use super::Resolver;
use super::passwd::{UserError, lookup_user};
use super::run::{hosts_file, name_server};
use super::{BlobForm, ExecuteError, Layers};
use crate::digest::{Digest, Frame};
use crate::image::config::ContainerConfig;
use crate::progress::Task;
use crate::sandbox::{self, Cancel, Exit, SandboxError, Streams};
use crate::snapshot::{Draft, StackView};

/// What is run, and how.
#[derive(Debug, Clone)]
pub struct Container {
    /// Layers of the image, lowest first.
    pub layers: Vec<Digest>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Variables; `HOME` and `PATH` are added where they are missing.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: String,
    /// Who it runs as, as `USER` says it.
    pub user: String,
    /// The host name.
    pub hostname: String,
    /// What it can reach.
    pub network: sandbox::Network,
    /// Lines of `/etc/hosts` besides the usual ones: name, address.
    pub hosts: Vec<(String, String)>,
    /// What of this machine it sees.
    pub mounts: Vec<sandbox::Mount>,
    /// Bytes of `/dev/shm`.
    pub shm_size: u64,
}

/// Why an image cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Its user is nobody.
    #[error(transparent)]
    User(#[from] UserError),
    /// Its files cannot be had.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// Its files cannot be read.
    #[error("read the root file system")]
    Root(#[source] std::io::Error),
    /// The sandbox failed, or the command cannot be started in it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Docker's, for images that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image runs: its entry point and the command, either of them the image's where nothing else is given; another
/// entry point leaves no sense in the image's command. As `docker run`.
pub fn command(config: &ContainerConfig, entrypoint: Option<&str>, command: &[String]) -> Vec<String> {
    let of_image = |part: &Option<Vec<String>>| part.clone().unwrap_or_default();
    let (mut args, own) = match entrypoint {
        Some("") => (Vec::new(), Vec::new()),
        Some(program) => (vec![program.to_owned()], Vec::new()),
        None => (of_image(&config.entrypoint), of_image(&config.cmd)),
    };
    args.extend(if command.is_empty() { own } else { command.to_vec() });
    args
}

/// The image's variables and others, which win; in order.
pub fn variables(config: &ContainerConfig, others: &[(String, String)]) -> Vec<(String, String)> {
    let of_image = config.env.iter().map(|entry| entry.split_once('=').unwrap_or((entry, "")));
    let mut all: Vec<(String, String)> = of_image.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let last: BTreeMap<&str, &str> = others.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    all.retain(|(name, _)| !last.contains_key(name.as_str()));
    all.extend(last.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}

/// A container whose files are there.
pub struct Prepared<'a> {
    layers: &'a Layers<'a>,
    /// Layers of the image, lowest first.
    below: Vec<Digest>,
    /// Where what it writes goes.
    draft: Draft,
    spec: sandbox::RunSpec,
}

impl Container {
    /// Has the image's files unpacked, where they are not.
    ///
    /// # Errors
    /// They cannot be had, or the user is nobody.
    pub fn prepare<'a>(self, layers: &'a Layers<'a>, task: &Task) -> Result<Prepared<'a>, ContainerError> {
        let lowers = layers.trees(&self.layers, task)?;
        // What stays of it is removed with the layers' other drafts.
        let draft = Draft::new(layers.store, layers.mapping()?).map_err(ExecuteError::from)?;
        let view = StackView::open(&lowers).map_err(ContainerError::Root)?;
        let user = lookup_user(&view, &self.user)?;
        let mut env = self.env;
        for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", user.home.as_str())] {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.to_owned(), value.to_owned()));
            }
        }
        let resolv_conf = Resolver::default().resolv_conf(name_server(&self.network));
        let spec = sandbox::RunSpec {
            lowers,
            upper: draft.upper().to_owned(),
            work: draft.work().to_owned(),
            args: self.args,
            env,
            cwd: self.cwd,
            user: sandbox::UserSpec { uid: user.uid, gid: user.gid, groups: user.groups },
            hosts: hosts_file(&self.hostname, &self.hosts),
            hostname: self.hostname,
            network: self.network,
            mounts: self.mounts,
            resolv_conf,
            security: sandbox::Security::Sandbox,
            shm_size: self.shm_size,
        };
        Ok(Prepared { layers, below: self.layers, draft, spec })
    }
}

impl Prepared<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// Whatever kept the command from running, or that it was cancelled.
    pub fn run(&self, streams: &Streams<'_>, cancel: &Cancel) -> Result<Exit, ContainerError> {
        Ok(self.layers.namespace.sandbox()?.run(&self.spec, streams, cancel)?)
    }

    /// Makes what the command wrote a layer, packed and in the store.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn commit(self, blob: BlobForm, task: &Task) -> Result<Digest, ContainerError> {
        let Prepared { layers, below, draft, .. } = self;
        // Drafts are named by their session, and no two sessions have the same name.
        let at = draft.upper().to_string_lossy();
        let layer = Frame::new("rbuild.committed.1").text("at", &at).finish();
        layers.store.update_layer(&layer, |record| record.below = below).map_err(ExecuteError::from)?;
        draft.seal(layers.store, layers.mapping()?, &layer).map_err(ExecuteError::from)?;
        layers.pack_all(&[layer], super::Packing::Blob(blob), task)?;
        Ok(layer)
    }

    /// The command, with its arguments.
    pub fn args(&self) -> &[String] {
        &self.spec.args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn entry_point_and_command_are_put_together_as_docker_does() {
        let config = |entrypoint: &[&str], cmd: &[&str]| ContainerConfig {
            entrypoint: Some(texts(entrypoint)),
            cmd: Some(texts(cmd)),
            ..ContainerConfig::default()
        };
        let both = config(&["/start", "-x"], &["serve"]);
        for (entrypoint, given, expected) in [
            (None, &[][..], &["/start", "-x", "serve"][..]),
            (None, &["sh", "-c"][..], &["/start", "-x", "sh", "-c"][..]),
            (Some("/bin/sh"), &[][..], &["/bin/sh"][..]),
            (Some("/bin/sh"), &["-l"][..], &["/bin/sh", "-l"][..]),
            (Some(""), &["ls"][..], &["ls"][..]),
            (Some(""), &[][..], &[][..]),
        ] {
            assert_eq!(command(&both, entrypoint, &texts(given)), texts(expected), "{entrypoint:?} {given:?}");
        }
        assert_eq!(command(&ContainerConfig::default(), None, &[]), texts(&[]));
    }

    #[test]
    fn variables_of_the_command_line_win_and_none_is_there_twice() {
        let config = ContainerConfig { env: texts(&["A=1", "B=2=3", "C"]), ..ContainerConfig::default() };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let others = [pair("A", "x"), pair("D", ""), pair("A", "y")];
        let expected = [pair("B", "2=3"), pair("C", ""), pair("A", "y"), pair("D", "")];
        assert_eq!(variables(&config, &others), expected);
    }
}
