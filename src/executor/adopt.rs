//! A blob that the store has becomes a layer.

use std::io::{self, BufRead, BufReader};

use super::ingest::{Ingest, Known, compression_name};
use super::layers::add_pulled;
use super::{ExecuteError, Layers};
use crate::digest::Digest;
use crate::image::media_type::Compression;
use crate::layer::decompress::{Kind, decompress, detect};
use crate::store::BlobRecord;

impl Layers<'_> {
    /// Reads a blob of the store once, and makes it the layer that it unpacks to: whatever its archive says it is, no
    /// other layer can be harmed by it.
    ///
    /// # Errors
    /// It is no layer: no tar, or compressed in a way that layers are not.
    pub fn adopt(&self, blob: &Digest, size: u64) -> Result<Digest, ExecuteError> {
        let failed = |error| ExecuteError::layer(blob, error);
        let mut reader = BufReader::with_capacity(256 << 10, self.store.open_blob(blob)?);
        let compression = match detect(reader.fill_buf().map_err(failed)?) {
            None => Compression::None,
            Some(Kind::Gzip) => Compression::Gzip,
            Some(Kind::Zstd) => Compression::Zstd,
            Some(Kind::Bzip2 | Kind::Xz) => {
                let text = "it is compressed as no layer of an image is: expected gzip, zstd or nothing";
                return Err(failed(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
        };
        let mut ingest = Ingest::start(self.store, Known::default(), None, None, None).map_err(failed)?;
        let copied = io::copy(&mut decompress(reader).map_err(failed)?, &mut ingest);
        let ingested = ingest.finish();
        match copied {
            // Who reads the tar has hung up, and says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            copied => drop(copied.map_err(failed)?),
        }
        let ingested = ingested.map_err(failed)?;
        let compression = compression_name(compression).to_owned();
        self.store.update_layer(&ingested.diff_id, |record| {
            record.diff_id = Some(ingested.diff_id);
            record.size = ingested.size;
            add_pulled(record, BlobRecord { digest: *blob, size, compression });
        })?;
        self.store.write_index(&ingested.diff_id, &ingested.index.to_bytes())?;
        Ok(ingested.diff_id)
    }
}
