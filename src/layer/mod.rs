//! File-system changes as OCI layers (image-spec, layer.md): tar in both directions, and what can be asked without unpacking.
//!
//! Contract: the same entries give the same bytes; nothing that a tar says can reach outside the root it is unpacked
//! into; whatever a layer cannot hold is an error with a path, or a note, never silence. Attributes that steer overlayfs
//! never cross between a tar and a tree ([`attributes`]).
//!
//! It must not know where layers are stored, which step made them, or what a registry is.
//!
//! In reading order: [`mod@write`] and [`read`] are the tar dialect; [`index`] is a layer's table of contents and [`view`] many
//! of them as one tree; [`pack`] and [`unpack`] go between tar and directories; [`emit`] copies files between layers; [`flatten`] reads many as one;
//! [`splice`] makes one of what an earlier one had, and [`members`] its blob;
//! [`compress`] and [`decompress`] are what surrounds the tar.

pub mod attributes;
pub mod compress;
pub mod decompress;
pub mod digesting;
pub mod emit;
pub mod flatten;
mod gzip;
pub mod index;
mod index_file;
mod indexer;
mod inode;
mod lower;
pub mod members;
pub mod pack;
mod pax;
mod place;
pub mod read;
pub mod retime;
mod sparse;
pub mod splice;
#[cfg(test)]
mod tests;
pub mod unpack;
pub mod view;
pub mod write;

/// What a name starts with that removes the rest of it from the layers below (image-spec, layer.md, "Whiteouts").
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name that hides everything that layers below have in its directory.
pub const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// AUFS's own files (`.wh..wh.plnk`, `.wh..wh.aufs`): in old images, never part of the tree.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Largest id that an owner can have; the one above means "unchanged" to chown(2).
const MAX_ID: u64 = u32::MAX as u64 - 1;

/// Bytes as a person reads them in a message.
fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// An error about the data itself.
fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error)
}
