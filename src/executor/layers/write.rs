//! Layers are written: one stream of tar, and what becomes of it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::{Layers, Result, Wanted, implied_directories, open_directory};
use crate::digest::Digest;
use crate::executor::ExecuteError;
use crate::executor::ingest::{BlobForm, Ingest, Ingested, Known, compression_name};
use crate::executor::workers::{self, ImpliedDirectory};
use crate::layer::index::Index;
use crate::owners::table_path;
use crate::sandbox::Ownership;
use crate::store::{BlobRecord, PatchRecord, TreeName};

/// What is known of a layer before it is written.
#[derive(Debug, Default)]
pub(in crate::executor) struct Origin {
    /// What will be in it.
    pub(in crate::executor) known: Known,
    /// By which rules its tar is written, from a list sorted by path.
    pub(in crate::executor) dialect: Option<u32>,
    /// How it is made of another layer.
    pub(in crate::executor) patch: Option<PatchRecord>,
}

impl Layers<'_> {
    /// Writes a layer: `write` streams its tar. Its name is its diffID.
    /// The index is not kept in memory: who made a layer seldom looks into it.
    pub fn create(
        &self,
        wanted: Wanted,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(Digest, Index)> {
        self.create_from(wanted, Origin::default(), write)
    }

    /// As [`Layers::create`], of a layer of which something is known beforehand.
    pub(in crate::executor) fn create_from(
        &self,
        wanted: Wanted,
        mut origin: Origin,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(Digest, Index)> {
        let known = std::mem::take(&mut origin.known);
        if !wanted.tree {
            // What differs from another layer is all that has to be kept.
            let blob = if origin.patch.is_some() { wanted.blob } else { wanted.with_blob().blob };
            let ingested = self.ingest(None, known, blob, None, write)?;
            let layer = ingested.diff_id;
            let index = self.keep(&layer, ingested, blob, origin)?;
            return Ok((layer, index));
        }
        let blob = wanted.blob;
        let (ingested, tree) = self.unpack(None, known, blob, &[], write)?;
        let layer = ingested.diff_id;
        let index = self.keep(&layer, ingested, blob, origin)?;
        if blob.is_some() && !implied_directories(&index).is_empty() {
            // Its tree depends on what it is put on: it is made from the blob where it is needed.
            self.namespace.remove(&[tree.path])?;
            return Ok((layer, index));
        }
        tree.seal(self, &TreeName::of(&layer))?;
        Ok((layer, index))
    }

    pub(super) fn ingest(
        &self,
        layer: Option<&Digest>,
        known: Known,
        blob: Option<BlobForm>,
        pipe: Option<OwnedFd>,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Ingested> {
        let failed = |error| ExecuteError::writing(layer, error);
        let watch = blob.and_then(|form| self.early.watch(form));
        let mut ingest = Ingest::start(self.store, known, blob, watch, pipe).map_err(failed)?;
        let written = write(&mut ingest);
        let ingested = ingest.finish();
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match written {
            // However the writer wraps the pipe that broke: a full disk is the cause.
            Err(_) if ingested.as_ref().is_err_and(is_full) => ingested.map_err(failed),
            // The consumers' error is the cause where writing failed only because they had hung up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ingested.and(Err(error)).map_err(failed),
            Err(error) => Err(failed(error)),
            Ok(()) => ingested.map_err(failed),
        }
    }

    /// As [`Layers::ingest`], and unpacks the tar into a new directory.
    pub(super) fn unpack(
        &self,
        layer: Option<&Digest>,
        known: Known,
        blob: Option<BlobForm>,
        implied: &[ImpliedDirectory],
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(Ingested, UnpackedTree)> {
        let mapping = self.mapping()?;
        let draft = self.store.tree_draft(&mapping.name, mapping.owner)?;
        let path = draft.path().to_owned();
        let directory = open_directory(&path).map_err(|error| ExecuteError::writing(layer, error))?;
        let (reader, writer) = io::pipe().map_err(|error| ExecuteError::writing(layer, error))?;
        let args = serde_json::to_vec(implied).map_err(ExecuteError::internal)?;
        let mut fds = vec![directory, reader.into()];
        if self.namespace.ownership()? == Ownership::Recorded {
            let table = File::create(table_path(&path)).map_err(|error| ExecuteError::writing(layer, error))?;
            fds.push(table.into());
        }
        let worker = self.namespace.worker(workers::UNPACK, &args, fds)?;
        let ingested = self.ingest(layer, known, blob, Some(writer.into()), write);
        let unpacked = worker.wait();
        match (ingested, unpacked) {
            (Ok(ingested), Ok(())) => Ok((ingested, UnpackedTree { path })),
            (Err(error), Ok(())) => Err(error),
            // A worker that failed closes its pipe; its message says why.
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// Records what was learnt of a layer.
    pub(super) fn keep(
        &self,
        layer: &Digest,
        ingested: Ingested,
        form: Option<BlobForm>,
        origin: Origin,
    ) -> Result<Index> {
        self.expect_digest(layer, &ingested.diff_id)?;
        self.store.update_layer(layer, |record| {
            record.diff_id = Some(ingested.diff_id);
            record.size = ingested.size;
            record.dialect = origin.dialect.or(record.dialect);
            let patch = origin.patch.or(record.patch.take());
            // What is whole needs no other layer, and what is made of itself could not be made.
            record.patch = patch.filter(|patch| patch.base != *layer && !self.store.has_some_blob(record));
            if let (Some(form), Some((digest, size))) = (form, ingested.blob) {
                let compression = compression_name(form.compression).to_owned();
                record.add_blob(form.name(), BlobRecord { digest, size, compression });
            }
        })?;
        // After the record: who finds the index may ask the record for the diffID.
        self.store.write_index(layer, &ingested.index.to_bytes())?;
        Ok(ingested.index)
    }

    /// A layer that was packed before must have given the same tar.
    pub(super) fn expect_digest(&self, layer: &Digest, found: &Digest) -> Result<()> {
        match self.record(layer)?.diff_id {
            Some(expected) if expected != *found => {
                let text = format!("its tar has digest {found}, expected {expected}");
                Err(ExecuteError::layer(layer, io::Error::new(io::ErrorKind::InvalidData, text)))
            }
            _ => Ok(()),
        }
    }
}

/// A tree that was written and has no name yet.
pub(super) struct UnpackedTree {
    pub(super) path: PathBuf,
}

impl UnpackedTree {
    pub(super) fn seal(self, layers: &Layers<'_>, name: &TreeName) -> Result<PathBuf> {
        let mapping = layers.mapping()?;
        let sealed = layers.store.seal_tree(&mapping.name, name, &self.path)?;
        if self.path.exists() {
            // Somebody else's equal tree was there first.
            layers.namespace.remove(&[table_path(&self.path), self.path])?;
        }
        Ok(sealed)
    }
}
