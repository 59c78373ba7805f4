//! The stubs layer: every mount point of a command that the image has not, in a directory below the image.
//!
//! Mount points are seen there, so nothing is ever created in the upper directory for them and the times of their
//! parents stay as they were. The directory is named by what it holds and kept: a set of mount points is made once, not
//! for every command (on ext4, new inodes are what a `RUN true` spends most of its time on). It lies on the disk, as
//! an overlay whose layers are on two file systems reports other device numbers for files than for directories.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::child::{Reason, SetUp, While};
use super::layers::Layers;
use super::mounts::{Below, Shape};
use super::overlay::{as_path, make_directory};
use crate::digest::Frame;
use crate::tree::{Last, resolve};

/// Where the sets are, beneath the base directory.
const DIRECTORY: &str = "stubs";

/// Mount points that every command has.
const STANDARD: &[(&str, Shape)] = &[("proc", Shape::Directory), ("sys", Shape::Directory), ("dev", Shape::Directory)];

pub(super) fn lay(setup: &mut SetUp) -> Result<(), Reason> {
    let layers = Layers::new(setup.order.lowers.iter().map(|lower| lower.path().to_owned()).collect());
    let mut missing = BTreeMap::new();
    let mut look = |target: &str, shape| -> Result<Below, Reason> {
        let resolved = resolve(&layers, target.as_bytes(), Last::Follow).doing(format!("{target:?}"))?;
        if resolved.node.is_some() {
            return Ok(Below::Image);
        }
        // Two mounts on one target: the first says what it is, the later one lies on it.
        missing.entry(resolved.path).or_insert(shape);
        Ok(Below::Nothing)
    };
    for (target, shape) in STANDARD {
        look(target, *shape)?;
    }
    for source in &mut setup.sources {
        source.below = look(&source.target, source.shape)?;
    }
    for (target, shape) in &setup.points {
        look(target, *shape)?;
    }
    if !missing.is_empty() {
        setup.stubs = Some(make(&missing)?);
    }
    Ok(())
}

/// The directory with these stubs. What is there already is the work of an earlier command, or of one that does the
/// same right now; what is missing is made.
fn make(stubs: &BTreeMap<Vec<u8>, Shape>) -> Result<PathBuf, Reason> {
    let directory = Path::new(DIRECTORY).join(name(stubs));
    for (path, shape) in stubs {
        let stub = directory.join(as_path(path));
        if std::fs::symlink_metadata(&stub).is_ok() {
            continue;
        }
        match shape {
            Shape::Directory => make_directory(&stub)?,
            Shape::File => {
                make_directory(stub.parent().unwrap_or(&directory))?;
                match std::fs::File::create_new(&stub) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error).doing(stub.display());
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(directory)
}

fn name(stubs: &BTreeMap<Vec<u8>, Shape>) -> String {
    let mut frame = Frame::new("rbuild.stubs.1");
    for (path, shape) in stubs {
        let kind = match shape {
            Shape::Directory => "directory",
            Shape::File => "file",
        };
        frame.bytes(kind, path);
    }
    frame.finish().hex()
}
