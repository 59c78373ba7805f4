//! Cache mounts that travel: packed for a cache elsewhere, and begun with what one has.
//!
//! A cache mount is a convenience: where it cannot be packed or restored, nobody is worse off than without it. So nothing
//! here makes a build fail that would do without.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::layers::{Layers, open_directory};
use super::{ExecuteError, workers};
use crate::cache::remote::FoundMount;
use crate::digest::{Digest, Hasher, VerifyReader};
use crate::image::manifest::Descriptor;
use crate::image::media_type::{Compression, OCI_LAYER_ZSTD};
use crate::layer::compress::Compressor;
use crate::layer::decompress::decompress;
use crate::owners::Table;
use crate::sandbox::Ownership;

/// A cache mount as a compressed tar.
pub struct PackedMount {
    /// Its blob.
    pub descriptor: Descriptor,
    /// The file that has the blob, as long as this process lives.
    pub path: PathBuf,
}

/// Why a cache mount is not packed.
#[derive(Debug, thiserror::Error)]
pub enum NotPacked {
    /// It is not on this machine, or with other owners only.
    #[error("it is not here")]
    Missing,
    /// Another build uses it alone.
    #[error("another build uses it now")]
    InUse,
    /// It is too large.
    #[error("it has more than {limit} bytes; mounts-max-size allows more")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// It could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No worker could be had.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

impl Layers<'_> {
    /// Packs a cache mount that this build has used; `limit` is for the bytes of its tar.
    ///
    /// # Errors
    /// See [`NotPacked`]; the mount is as it was.
    pub fn pack_mount(&self, name: &Digest, limit: u64) -> Result<PackedMount, NotPacked> {
        // Nothing was used where no command was run.
        let mapping = self.namespace.mapping_if_started().ok_or(NotPacked::Missing)?;
        let store = self.store;
        let directory = store.cache_folder(&mapping.name, mapping.owner, name).map_err(ExecuteError::from)?;
        if !directory.is_dir() {
            return Err(NotPacked::Missing);
        }
        let _lock = store.try_lock("cache", name).map_err(ExecuteError::from)?.ok_or(NotPacked::InUse)?;
        let mut table = Vec::new();
        Table::default().write_to(&mut table)?;
        let tar = self.namespace.reader(workers::PACK, &table, vec![open_directory(&directory)?])?;
        let path = store.temporary();
        let out = Digesting { file: BufWriter::new(File::create_new(&path)?), hasher: Hasher::new(), size: 0 };
        let mut compressor = Compressor::new(Compression::Zstd, None, out)?;
        let copied = io::copy(&mut tar.take(limit.saturating_add(1)), &mut compressor)?;
        if copied > limit {
            return Err(NotPacked::TooLarge { limit });
        }
        let mut out = compressor.finish()?;
        out.flush()?;
        Ok(PackedMount { descriptor: Descriptor::new(OCI_LAYER_ZSTD, out.hasher.finish(), out.size), path })
    }

    /// Fills a new cache mount with what a cache elsewhere has; `limit` is for the bytes of its tar, whatever the few that
    /// it is compressed to say.
    ///
    /// # Errors
    /// It cannot be had, is not what it was said to be, or is too large; the directory may have some of it.
    pub(super) fn restore_mount(&self, directory: &Path, found: &FoundMount, limit: u64) -> Result<(), ExecuteError> {
        let Descriptor { digest, size, .. } = found.blob;
        let failed = |error| ExecuteError::layer(&digest, error);
        let blob = VerifyReader::new(found.storage.open(&found.blob).map_err(failed)?, digest, Some(size));
        let tar = decompress(BufReader::with_capacity(256 << 10, blob)).map_err(failed)?;
        let (reader, mut writer) = io::pipe().map_err(failed)?;
        let records = self.namespace.ownership()? == Ownership::Recorded;
        let args = serde_json::to_vec(&records).map_err(ExecuteError::internal)?;
        let fds = vec![open_directory(directory).map_err(failed)?, reader.into()];
        let worker = self.namespace.worker(workers::FILL, &args, fds)?;
        let copied = io::copy(&mut tar.take(limit.saturating_add(1)), &mut writer);
        drop(writer);
        let filled = worker.wait();
        match copied {
            Ok(copied) if copied > limit => {
                let reason = format!("it has more than {limit} bytes; mounts-max-size of --cache-from allows more");
                Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)))
            }
            Ok(_) => Ok(filled?),
            // A worker that failed closes its pipe; its message says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(filled?),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Writes a file, and knows its digest at the end.
struct Digesting {
    file: BufWriter<File>,
    hasher: Hasher,
    size: u64,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
