//! Trees: layers as directories that overlay can use.
//!
//! A tree's files belong to the ids of the user namespace that made it, so trees are kept apart by the name of that id
//! mapping: with another mapping they are unpacked again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Result, Store, StoreError};
use crate::digest::Digest;

/// A directory in which a tree is being made.
#[derive(Debug)]
pub struct TreeDraft {
    path: PathBuf,
}

impl TreeDraft {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// The folder of all trees of an id mapping, made if missing and given to `owner` (the host ids of the mapping's
    /// root) when we are root and may do so.
    pub fn tree_folder(&self, mapping: &str, owner: (u32, u32)) -> Result<PathBuf> {
        let folder = self.root.join("trees").join(mapping);
        let work = folder.join("tmp");
        if !work.is_dir() {
            fs::create_dir_all(&work).map_err(|error| StoreError::io("create directory", &work, error))?;
            if rustix::process::geteuid().is_root() {
                for path in [&folder, &work] {
                    std::os::unix::fs::chown(path, Some(owner.0), Some(owner.1))
                        .map_err(|error| StoreError::io("give away", path, error))?;
                }
            }
        }
        Ok(folder)
    }

    /// Where a layer's tree is, if it is there.
    pub fn tree(&self, mapping: &str, layer: &Digest) -> Option<PathBuf> {
        let path = self.root.join("trees").join(mapping).join(layer.hex());
        path.is_dir().then_some(path)
    }

    /// A new directory for a tree (or an overlay's upper and work directories) of this mapping.
    pub fn tree_draft(&self, mapping: &str, owner: (u32, u32)) -> Result<TreeDraft> {
        let folder = self.tree_folder(mapping, owner)?;
        let session = self.session.file_name().and_then(|name| name.to_str()).unwrap_or("session");
        let number = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = folder.join("tmp").join(format!("{session}.{number}"));
        fs::create_dir(&path).map_err(|error| StoreError::io("create directory", &path, error))?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1))
                .map_err(|error| StoreError::io("give away", &path, error))?;
        }
        Ok(TreeDraft { path })
    }

    /// Makes a directory within a draft the tree of a layer. Somebody else's equal tree wins.
    ///
    /// Returns the tree's place.
    pub fn seal_tree(&self, mapping: &str, layer: &Digest, path: &Path) -> Result<PathBuf> {
        let target = self.root.join("trees").join(mapping).join(layer.hex());
        match fs::rename(path, &target) {
            Ok(()) => Ok(target),
            Err(_) if target.is_dir() => Ok(target),
            Err(error) => Err(StoreError::io("rename to", &target, error)),
        }
    }

    /// Drafts of processes that are gone, for the executor to remove: their files may belong to other ids.
    pub fn abandoned_drafts(&self, mapping: &str) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("trees").join(mapping).join("tmp");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("list", &folder, error)),
        };
        let mut abandoned = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((session, _)) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
            if !self.root.join("tmp").join(session).exists() {
                abandoned.push(entry.path());
            }
        }
        Ok(abandoned)
    }
}
