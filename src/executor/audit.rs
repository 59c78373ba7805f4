//! Compares what is in trees and indexes with what the store says of their layers, for `rbuild check`.
//!
//! Contract: nothing is made, fetched or changed. What a layer is kept as that is a patch of another must give the layer's
//! digest. A tree that a RUN wrote is packed again, where what it was written on is
//! there, and must give the layer's digest; any other tree must have every file, link and directory of the layer's index
//! with the same content. Devices and owners are not compared: a user without privileges has neither in a tree.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::layers::is_damage;
use super::{ExecuteError, Layers};
use crate::digest::{Digest, Hasher};
use crate::layer::index::{Index, Item, Present, index_tar};
use crate::progress::Progress;
use crate::store::{Damage, DamageKind, Depth, LayerRecord, StoredTree, TreeName};
use crate::tree::Kind;

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audited {
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Trees that could not be looked into: their files have ids that this user has not now.
    pub foreign: Vec<PathBuf>,
    /// Entries that were looked at.
    pub entries: u64,
}

impl Layers<'_> {
    /// Looks into indexes, and into patches and trees where content counts. Of what is known to be damaged already (`known`)
    /// nothing is made.
    pub fn audit(&self, depth: Depth, known: &[Damage]) -> Result<Audited, ExecuteError> {
        let mut audited = Audited::default();
        self.audit_indexes(&mut audited);
        if depth == Depth::Content {
            self.audit_patches(&mut audited, known)?;
            self.audit_trees(&mut audited)?;
        }
        Ok(audited)
    }

    fn audit_indexes(&self, audited: &mut Audited) {
        let entries = std::fs::read_dir(self.store.root().join("index")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let Ok(bytes) = std::fs::read(&path) else { continue };
            audited.entries += 1;
            if let Err(error) = Index::read_from(&bytes) {
                audited.damage.push(Damage { kind: DamageKind::UnreadableIndex, path, detail: error.to_string() });
            }
        }
    }

    /// Each patch with the blob of its base that a build would take. Where a blob is damaged, that is the damage: without it
    /// the layer may be whole.
    fn audit_patches(&self, audited: &mut Audited, known: &[Damage]) -> Result<(), ExecuteError> {
        let damaged: BTreeSet<&Path> = known.iter().map(|one| one.path.as_path()).collect();
        let is_damaged =
            |record: &LayerRecord| record.files().any(|(blob, _)| damaged.contains(&*self.store.blob_path(&blob)));
        let entries = std::fs::read_dir(self.store.root().join("layers")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let layer = path.file_name().and_then(|name| Digest::from_hex(name.to_str()?).ok());
            let Some(layer) = layer else { continue };
            let record = self.record(&layer)?;
            let Some(patch) = record.patch.as_ref().filter(|_| !self.store.has_some_blob(&record)) else { continue };
            if !self.is_here(&record) || is_damaged(&record) || is_damaged(&self.record(&patch.base)?) {
                continue;
            }
            audited.entries += 1;
            let mut hasher = Hasher::new();
            let made = self.patched(patch).and_then(|mut tar| io::copy(&mut tar, &mut hasher));
            let detail = match (made, hasher.finish()) {
                (Err(error), _) if is_damage(&error) => format!("it cannot be put together: {error}"),
                // What may go well the next time is no reason to give up a layer.
                (Err(error), _) => return Err(ExecuteError::layer(&layer, error)),
                (Ok(size), found) if record.diff_id != Some(found) || record.size != size => {
                    format!("it makes a layer of digest {found}, {size} bytes, of layer {}", patch.base)
                }
                _ => continue,
            };
            audited.damage.push(Damage { kind: DamageKind::WrongPatch, path, detail });
        }
        Ok(())
    }

    fn audit_trees(&self, audited: &mut Audited) -> Result<(), ExecuteError> {
        let trees = self.store.stored_trees()?;
        if trees.is_empty() {
            return Ok(());
        }
        let mapping = self.mapping()?.name.clone();
        for tree in trees {
            if tree.mapping != mapping {
                audited.foreign.push(tree.path);
                continue;
            }
            audited.entries += 1;
            if let Some(detail) = self.difference(&tree)? {
                audited.damage.push(Damage { kind: DamageKind::WrongTree, path: tree.path, detail });
            }
        }
        Ok(())
    }

    /// In what a tree differs from its layer; `None` where it does not, or nothing is known of the layer yet.
    fn difference(&self, tree: &StoredTree) -> Result<Option<String>, ExecuteError> {
        let record = self.record(&tree.layer)?;
        let Some(diff_id) = record.diff_id else { return Ok(None) };
        let has_tree = |below: &Digest| self.store.tree(&tree.mapping, &TreeName::of(below)).is_some();
        let silent = Progress::silent().task("");
        let was_written = record.blobs.keys().all(|form| !form.starts_with("pulled:")) && record.remotes.is_empty();
        if was_written && !record.below.is_empty() && record.below.iter().all(has_tree) {
            let mut tar = self.pack(&tree.layer, &record, &silent)?;
            return Ok(match index_tar(&mut tar) {
                Ok((_, found, _)) if found == diff_id => None,
                Ok((_, found, _)) => Some(format!("it makes a layer of digest {found}, not {diff_id}")),
                Err(error) => Some(error.to_string()),
            });
        }
        let Some(expected) = self.read_index(&tree.layer) else { return Ok(None) };
        let found = self.pack_alone(&tree.path).and_then(|mut tar| {
            index_tar(&mut tar).map(|(index, _, _)| index).map_err(|error| ExecuteError::layer(&tree.layer, error))
        });
        Ok(match found {
            Ok(found) => first_difference(&expected, &found),
            Err(error) => Some(error.to_string()),
        })
    }

    /// The tar of a tree by itself, whatever is below it.
    fn pack_alone(&self, tree: &Path) -> Result<Box<dyn io::Read + Send>, ExecuteError> {
        let directory = super::layers::open_directory(tree).map_err(ExecuteError::internal)?;
        self.namespace.reader(super::workers::PACK, &[], vec![directory])
    }
}

/// The first entry of an index that a tree has not, or has otherwise.
fn first_difference(expected: &Index, found: &Index) -> Option<String> {
    let differs = |path: &[u8], present: &Present| {
        let other = match found.find(path) {
            Some(Item::Present(other)) => other,
            Some(Item::Whiteout) | None => return Some("is not there"),
        };
        match (&present.node.kind, &other.node.kind) {
            (Kind::File { digest, size }, Kind::File { digest: found_digest, size: found_size }) => {
                (size != found_size || digest != found_digest).then_some("has other content")
            }
            (Kind::Symlink(target), Kind::Symlink(found_target)) => {
                (target != found_target).then_some("leads elsewhere")
            }
            (Kind::Directory, Kind::Directory) => None,
            _ => Some("is of another kind"),
        }
    };
    expected.entries().iter().find_map(|entry| {
        let Item::Present(present) = &entry.item else { return None };
        let is_compared = matches!(present.node.kind, Kind::File { .. } | Kind::Symlink(_) | Kind::Directory);
        if present.implied || !is_compared {
            return None;
        }
        let what = differs(&entry.path, present)?;
        Some(format!("/{} {what}", String::from_utf8_lossy(&entry.path)))
    })
}
