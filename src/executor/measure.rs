//! How much room trees and cache mounts take, whoever's ids their files have.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::{ExecuteError, Namespace};
use crate::store::{Sizes, Store};

/// Directories that a worker gets at a time.
const AT_ONCE: usize = 64;

/// The sizes on disk of all trees and cache mounts of a store. Trees are measured once, cache mounts each time.
///
/// # Errors
/// The store's; what cannot be read at all counts as nothing.
pub fn measure(store: &Store, namespace: &Namespace) -> Result<Sizes, ExecuteError> {
    let mut measured = Sizes::new();
    let mut closed = Vec::new();
    for path in store.unmeasured()? {
        match size(&path) {
            Ok(bytes) => drop(measured.insert(path, bytes)),
            Err(_) => closed.push(path),
        }
    }
    for paths in closed.chunks(AT_ONCE) {
        // Without a sandbox there is nobody who could read them.
        if let Ok(sizes) = measured_inside(paths, namespace) {
            measured.extend(paths.iter().cloned().zip(sizes));
        }
    }
    Ok(store.sizes(measured)?)
}

fn measured_inside(paths: &[PathBuf], namespace: &Namespace) -> Result<Vec<u64>, ExecuteError> {
    let open = |path: &PathBuf| super::layers::open_directory(path).map_err(ExecuteError::internal);
    let fds = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut text = String::new();
    let mut reader = namespace.reader(super::workers::MEASURE, &[], fds)?;
    reader.read_to_string(&mut text).map_err(ExecuteError::internal)?;
    Ok(text.lines().map(|line| line.parse().unwrap_or(0)).collect())
}

/// Measures directories (descriptors) and writes their sizes to a pipe (last).
pub(super) fn run_measure(_: &[u8], mut fds: Vec<OwnedFd>) -> Result<(), String> {
    let out = fds.pop().ok_or("measure needs a descriptor to write to")?;
    let mut text = String::new();
    for fd in &fds {
        let path = format!("/proc/self/fd/{}/.", fd.as_raw_fd());
        let bytes = size(Path::new(&path)).unwrap_or(0);
        text.push_str(&format!("{bytes}\n"));
    }
    std::fs::File::from(out).write_all(text.as_bytes()).map_err(|error| error.to_string())
}

/// What a directory takes on the disk; a file with several names counts once.
fn size(directory: &Path) -> io::Result<u64> {
    let mut linked = BTreeSet::new();
    let mut bytes = 0;
    let mut counts = |metadata: &Metadata| {
        metadata.is_dir() || metadata.nlink() < 2 || linked.insert((metadata.dev(), metadata.ino()))
    };
    for entry in WalkDir::new(directory) {
        match entry.and_then(|entry| entry.metadata()) {
            Ok(metadata) => bytes += if counts(&metadata) { metadata.blocks() * 512 } else { 0 },
            // A command may be writing to a cache mount now.
            Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_with_their_blocks_and_once_however_many_names_they_have() {
        let folder = tempfile::tempdir().unwrap();
        let empty = size(folder.path()).unwrap();
        std::fs::write(folder.path().join("a"), vec![1; 100_000]).unwrap();
        let one = size(folder.path()).unwrap();
        assert!((100_000..140_000).contains(&(one - empty)), "{one} - {empty}");
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_eq!(size(folder.path()).unwrap(), one);
    }
}
