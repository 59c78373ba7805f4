//! The stubs layer: every mount point of a command, in a directory below the image.
//!
//! Mount points that the image has not are seen there, so nothing is ever created in the upper directory for them and
//! the times of their parents stay as they were.

use std::path::{Path, PathBuf};

use super::child::{Reason, SetUp, While};
use super::layers::Layers;
use super::mounts::Shape;
use super::order::Bytes;
use super::overlay::{as_path, make_directory, within};
use crate::tree::{Last, resolve};

/// Mount points that every command has.
const STANDARD: &[(&str, Shape)] = &[("proc", Shape::Directory), ("sys", Shape::Directory), ("dev", Shape::Directory)];

pub(super) fn lay(setup: &mut SetUp) -> Result<(), Reason> {
    let order = &setup.order;
    let stubs = within(&order.work, "stubs");
    make_directory(&stubs)?;
    let layers = Layers(order.lowers.iter().map(|lower: &Bytes| lower.path().to_owned()).collect());
    let standard = STANDARD.iter().map(|(target, shape)| (*target, *shape));
    let asked = setup.sources.iter().map(|source| (source.target.as_str(), source.shape));
    for (target, shape) in standard.chain(asked) {
        lay_one(&stubs, &layers, target, shape).doing(format!("{target:?}"))?;
    }
    Ok(())
}

fn lay_one(stubs: &Path, layers: &Layers, target: &str, shape: Shape) -> Result<(), Reason> {
    let resolved = resolve(layers, target.as_bytes(), Last::Follow)?;
    if resolved.node.is_some() || resolved.path.is_empty() {
        return Ok(());
    }
    let stub: PathBuf = stubs.join(as_path(&resolved.path));
    match shape {
        Shape::Directory => make_directory(&stub),
        Shape::File => {
            make_directory(stub.parent().unwrap_or(stubs))?;
            match std::fs::File::create_new(&stub) {
                // Two mounts on one target: the later one lies on the earlier.
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
                _ => Ok(()),
            }
        }
    }
}
