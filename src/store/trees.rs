//! Trees: layers as directories that overlay can use.
//!
//! A tree's files belong to the ids of the user namespace that made it, so trees are kept apart by the name of that id
//! mapping: with another mapping they are unpacked again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Result, Store, StoreError};
use crate::digest::Digest;
use crate::owners::table_path;

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
        for path in [folder.clone(), folder.join("tmp"), folder.join("caches")] {
            if !path.is_dir() {
                fs::create_dir_all(&path).map_err(|error| StoreError::io("create directory", &path, error))?;
                give_away(&path, owner)?;
            }
        }
        Ok(folder)
    }

    /// Where a cache mount's directory is, whether or not it is there; the caller hashes all that names it.
    pub fn cache_folder(&self, mapping: &str, owner: (u32, u32), name: &Digest) -> Result<PathBuf> {
        Ok(self.tree_folder(mapping, owner)?.join("caches").join(name.hex()))
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
        give_away(&path, owner)?;
        Ok(TreeDraft { path })
    }

    /// Makes a directory within a draft the tree of a layer. Somebody else's equal tree wins. The table of owners beside
    /// it, if there is one, goes with it, and first: a tree is never there without its table.
    ///
    /// Returns the tree's place.
    pub fn seal_tree(&self, mapping: &str, layer: &Digest, path: &Path) -> Result<PathBuf> {
        let target = self.root.join("trees").join(mapping).join(layer.hex());
        let table = table_path(path);
        // Two that make the same layer must not end with one's tree and the other's table.
        let _lock = if table.exists() { Some(self.lock("seal", layer)?) } else { None };
        if target.is_dir() {
            return Ok(target);
        }
        match fs::rename(&table, table_path(&target)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("rename to", &table_path(&target), error));
            }
            _ => {}
        }
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
            let Some(name) = name.to_str() else { continue };
            // The table of a draft that will be a tree itself is beside it.
            let name = name.strip_suffix(".owners").unwrap_or(name);
            let Some((session, _)) = name.rsplit_once('.') else { continue };
            if !self.root.join("tmp").join(session).exists() {
                abandoned.push(entry.path());
            }
        }
        Ok(abandoned)
    }
}

/// Makes the namespace's root the owner of a directory; only the host's root can, and only it has to: for others the
/// namespace's root is they themselves.
fn give_away(path: &Path, owner: (u32, u32)) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(owner.0), Some(owner.1))
        .map_err(|error| StoreError::io("give away", path, error))
}
