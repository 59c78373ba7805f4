//! Trees: layers as directories that overlay can use.
//!
//! A tree's files belong to the ids of the user namespace that made it, so trees are kept apart by the name of that id
//! mapping: with another mapping they are unpacked again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Result, Store, StoreError, StoredTree};
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

/// The name of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeName {
    layer: Digest,
    variant: Option<Digest>,
}

impl TreeName {
    /// The tree of a layer that is the same whatever is below it.
    pub fn of(layer: &Digest) -> TreeName {
        TreeName { layer: *layer, variant: None }
    }

    /// A tree of a layer that took something over from what is below it, which the digest stands for.
    pub fn variant(layer: &Digest, taken_over: &Digest) -> TreeName {
        TreeName { layer: *layer, variant: Some(*taken_over) }
    }

    fn file_name(&self) -> String {
        match &self.variant {
            None => self.layer.hex(),
            Some(variant) => format!("{}-{}", self.layer.hex(), variant.hex()),
        }
    }

    /// The layer of a tree by the name of its directory.
    fn layer_of(file_name: &str) -> Option<Digest> {
        let layer = file_name.split_once('-').map_or(file_name, |(layer, _)| layer);
        Digest::from_hex(layer).ok()
    }
}

impl Store {
    /// The folder of all trees of an id mapping, made if missing and given to `owner` (the host ids of the mapping's
    /// root) when we are root and may do so.
    pub fn tree_folder(&self, mapping: &str, owner: (u32, u32)) -> Result<PathBuf> {
        let folder = self.root.join("trees").join(mapping);
        for path in [folder.clone(), folder.join("caches")] {
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

    /// Where a tree is, if it is there.
    pub fn tree(&self, mapping: &str, name: &TreeName) -> Option<PathBuf> {
        let path = self.root.join("trees").join(mapping).join(name.file_name());
        path.is_dir().then_some(path)
    }

    /// A new directory for a tree, or an overlay's upper or work directory, of this mapping.
    ///
    /// It lies beside the trees, not in a folder of its own: a rename to another parent needs the right to write to the
    /// directory itself, which the caller has not when root of the image is owned by another id or is read-only.
    pub fn tree_draft(&self, mapping: &str, owner: (u32, u32)) -> Result<TreeDraft> {
        self.draft_in(&self.tree_folder(mapping, owner)?, owner)
    }

    /// A new directory for a cache mount.
    pub fn cache_draft(&self, mapping: &str, owner: (u32, u32)) -> Result<TreeDraft> {
        self.draft_in(&self.tree_folder(mapping, owner)?.join("caches"), owner)
    }

    /// A name for a draft that somebody else makes.
    pub fn draft_name(&self, mapping: &str, owner: (u32, u32)) -> Result<PathBuf> {
        Ok(self.name_in(&self.tree_folder(mapping, owner)?))
    }

    fn name_in(&self, folder: &Path) -> PathBuf {
        let number = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        folder.join(format!("{}.{number}{DRAFT}", self.session_name()))
    }

    fn draft_in(&self, folder: &Path, owner: (u32, u32)) -> Result<TreeDraft> {
        let path = self.name_in(folder);
        fs::create_dir(&path).map_err(|error| StoreError::io("create directory", &path, error))?;
        give_away(&path, owner)?;
        Ok(TreeDraft { path })
    }

    /// Gives a draft a tree's name. Somebody else's equal tree wins. The table of owners beside it, if there is one, goes
    /// with it, and first: a tree is never there without its table.
    ///
    /// Returns the tree's place.
    pub fn seal_tree(&self, mapping: &str, name: &TreeName, path: &Path) -> Result<PathBuf> {
        let target = self.root.join("trees").join(mapping).join(name.file_name());
        let table = table_path(path);
        // Two that make the same tree must not end with one's tree and the other's table.
        let _lock = if table.exists() { Some(self.lock("seal", &name.layer)?) } else { None };
        if target.is_dir() {
            return Ok(target);
        }
        let _writing = self.unflushed.begin_tree(mapping, &name.file_name())?;
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
        self.drafts(mapping, |session| !self.root.join("tmp").join(session).exists())
    }

    /// Drafts that this process has made and neither sealed nor removed.
    pub fn own_drafts(&self, mapping: &str) -> Result<Vec<PathBuf>> {
        self.drafts(mapping, |session| session == self.session_name())
    }

    fn drafts(&self, mapping: &str, is_meant: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("trees").join(mapping);
        let mut drafts = Vec::new();
        for folder in [folder.join("caches"), folder] {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("list", &folder, error)),
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                // The table of owners of a draft lies beside it.
                let draft = name.to_str().map(without_table).and_then(|name| name.strip_suffix(DRAFT));
                if draft.and_then(|draft| draft.rsplit_once('.')).is_some_and(|(session, _)| is_meant(session)) {
                    drafts.push(entry.path());
                }
            }
        }
        Ok(drafts)
    }

    fn session_name(&self) -> &str {
        self.session.file_name().and_then(|name| name.to_str()).expect("sessions are named with digits")
    }
}

/// The name of a tree, by its own name or by that of its table of owners.
fn without_table(name: &str) -> &str {
    name.strip_suffix(".owners").unwrap_or(name)
}

/// The folders of trees, one for each id mapping. Beside them there are the sandbox's stubs, which have no caches.
pub(super) fn mappings(root: &Path) -> Result<Vec<PathBuf>> {
    let mut mappings = list(&root.join("trees"))?;
    mappings.retain(|mapping| mapping.join("caches").is_dir());
    Ok(mappings)
}

/// Every tree of a store.
pub(super) fn stored(root: &Path) -> Result<Vec<StoredTree>> {
    let mut trees = Vec::new();
    for folder in mappings(root)? {
        let mapping = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in list(&folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !name.ends_with(DRAFT)
                && without_table(name) == name
                && let Some(layer) = TreeName::layer_of(name)
            {
                trees.push(StoredTree { mapping: mapping.clone(), layer, path });
            }
        }
    }
    Ok(trees)
}

/// The directories of cache mounts, whoever's ids they have.
pub(super) fn cache_mounts(root: &Path) -> Result<Vec<PathBuf>> {
    let mut mounts = Vec::new();
    for mapping in mappings(root)? {
        mounts.extend(list(&mapping.join("caches"))?);
    }
    mounts.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.ends_with(DRAFT)));
    Ok(mounts)
}

/// Takes a directory out of use by giving it the name of an abandoned draft, which is returned.
pub(super) fn discard(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!("{name}.{}{DRAFT}", super::flush::moment()));
    fs::rename(path, &draft).map_err(|error| StoreError::io("rename", path, error))?;
    Ok(draft)
}

pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::io("list", folder, error)),
    }
}

/// Takes a tree out of use, with its table of owners; what it is then is found as a draft.
pub(super) fn distrust(mapping: &Path, name: &str) -> Result<()> {
    // The tree before its table: a tree is never there without its table.
    for path in [mapping.join(name), mapping.join(format!("{name}.owners"))] {
        if path.symlink_metadata().is_ok() {
            discard(&path)?;
        }
    }
    Ok(())
}

/// Takes the trees of a store whose layers are not wanted out of use, with mount points that were made long ago, and finds
/// drafts: nobody uses the store now, so all are abandoned. What is returned is nobody's, and is found again as a draft if
/// it is not removed now.
pub(super) fn take_out_of_use(
    root: &Path,
    is_wanted: impl Fn(&Digest) -> bool,
    unused_for: Duration,
) -> Result<Vec<PathBuf>> {
    let mut removable = Vec::new();
    for mapping in mappings(root)? {
        for path in list(&mapping)?.into_iter().chain(list(&mapping.join("caches"))?) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if without_table(name).ends_with(DRAFT) {
                removable.push(path);
            } else if path.parent() == Some(&mapping)
                && TreeName::layer_of(without_table(name)).is_some_and(|layer| !is_wanted(&layer))
            {
                removable.push(discard(&path)?);
            }
        }
    }
    for stubs in list(&root.join("trees/stubs"))? {
        let made = fs::metadata(&stubs).and_then(|metadata| metadata.modified());
        let is_draft = stubs.to_string_lossy().ends_with(DRAFT);
        if is_draft {
            removable.push(stubs);
        } else if made.is_ok_and(|made| made.elapsed().unwrap_or_default() >= unused_for) {
            removable.push(discard(&stubs)?);
        }
    }
    Ok(removable)
}

/// How the names of drafts end: those of trees and cache mounts are digests.
const DRAFT: &str = ".draft";

/// Makes the namespace's root the owner of a directory; only the host's root can, and only it has to: for others the
/// namespace's root is they themselves.
fn give_away(path: &Path, owner: (u32, u32)) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(owner.0), Some(owner.1))
        .map_err(|error| StoreError::io("give away", path, error))
}
