//! WORKDIR: the directories that are missing, owned by USER.

use std::collections::BTreeMap;
use std::io;

use super::passwd::lookup_owner;
use super::step::Work;
use super::transfer::existing_parents;
use super::{ExecuteError, StepOutput};
use crate::cache::key;
use crate::digest::Digest;
use crate::layer::write::TarWriter;
use crate::plan::WorkdirOp;
use crate::tree::{self, Kind, Last, Node, Time, View};

impl Work<'_> {
    pub(super) fn workdir(&self, op: &WorkdirOp) -> Result<StepOutput, ExecuteError> {
        let parent = self.parent()?;
        let key = self.in_words(key::workdir(op, &parent.key));
        self.settle(&key, key.digest, || self.make_workdir(op))
    }

    fn make_workdir(&self, op: &WorkdirOp) -> Result<Digest, ExecuteError> {
        let layers = self.services.layers;
        let view = layers.view(self.below()?, self.task)?;
        let missing = self.missing_directories(op, &view)?;
        let (layer, _) = layers.create(self.wanted(), |out| {
            let mut tar = TarWriter::new(out);
            for (path, node) in &missing {
                tar.append(path, node, None, &mut io::empty())?;
            }
            tar.finish().map(drop)
        })?;
        Ok(layer)
    }

    /// The directories to make, parents first: all of them belong to USER, as in BuildKit.
    fn missing_directories(&self, op: &WorkdirOp, view: &dyn View) -> Result<BTreeMap<Vec<u8>, Node>, ExecuteError> {
        let failed = |error: io::Error| self.refuse(format!("cannot make working directory {}: {error}", op.path));
        let resolved = tree::resolve(view, op.path.as_bytes(), Last::Follow).map_err(failed)?;
        match &resolved.node {
            Some(node) if node.is_directory() => return Ok(BTreeMap::new()),
            Some(node) => {
                let what = if matches!(node.kind, Kind::File { .. }) { "a file" } else { "no directory" };
                return Err(self.refuse(format!("cannot make working directory {}: it is {what}", op.path)));
            }
            None => {}
        }
        let (uid, gid) = self.workdir_owner(op, view)?;
        let mtime = Time { seconds: self.services.options.epoch, nanoseconds: 0 };
        let node = Node { uid, gid, ..Node::directory(mtime) };
        let mut missing = BTreeMap::new();
        let mut path = resolved.path.as_slice();
        while !path.is_empty() && view.node(path).map_err(failed)?.is_none() {
            missing.insert(path.to_vec(), node.clone());
            path = tree::parent(path);
        }
        let made: Vec<Vec<u8>> = missing.keys().cloned().collect();
        missing.extend(
            existing_parents(made.iter().map(Vec::as_slice), |path| made.iter().any(|made| made == path), view)
                .map_err(failed)?,
        );
        Ok(missing)
    }

    /// USER as an owner: a number without a group is the group too, other than where it runs a command.
    fn workdir_owner(&self, op: &WorkdirOp, view: &dyn View) -> Result<(u32, u32), ExecuteError> {
        if op.user.is_empty() {
            return Ok((0, 0));
        }
        lookup_owner(view, &op.user).map_err(|source| ExecuteError::User {
            title: self.step.title.clone(),
            source,
            span: self.step.span,
        })
    }

    /// An error at the step's place in the Dockerfile.
    pub(super) fn refuse(&self, message: String) -> ExecuteError {
        ExecuteError::Step { message, span: self.step.span }
    }
}
