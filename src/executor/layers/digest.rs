//! The diffIDs of what RUN wrote, where nothing wants the bytes: trees are packed and digested where they can be read,
//! many in one worker, and only the digests come back. No index is made: whoever looks into such a layer later has it made.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Layers, Result, open_directory};
use crate::digest::Digest;
use crate::executor::abreast::{ABREAST, abreast};
use crate::executor::{ExecuteError, workers};
use crate::layer::digesting::Digesting;
use crate::layer::pack::pack_with_owners;
use crate::owners::Table;
use crate::progress::Task;
use crate::rootfs::RootDir;
use crate::store::TreeName;

/// Digests what packing overlay's upper directories would give (descriptors, each once) and writes a line for each to a
/// pipe (last); the argument is a [`Request`].
pub(in crate::executor) const DIGEST: &str = "digest";

/// Trees that one worker is given at most, unless a single layer has more below it: each is a descriptor, of which a process
/// may have 1024 as a rule, and so may those that are on their way.
const MOST_TREES: usize = 200;

/// What to digest.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Request {
    /// For each descriptor the table of owners beside it, as it is written to a file.
    tables: Vec<String>,
    /// For each layer its trees by number, highest first: what a RUN wrote, and what it was written on.
    layers: Vec<Vec<usize>>,
}

/// A layer with its trees, highest first.
type Written = (Digest, Vec<PathBuf>);

impl Layers<'_> {
    /// Makes the diffIDs of layers that nothing wants a blob of.
    pub(super) fn digest_all(&self, layers: &[Digest], task: &Task) -> Result<()> {
        let (written, others) = self.written(layers, task)?;
        abreast(&others, |_, layer| self.index(layer, task).map(drop))?;
        // A worker costs more than a small layer, so there is one for each core, not for each layer.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shares = shares(&written, cores.min(ABREAST));
        abreast(&shares, |_, share| self.digest(share)).map(drop)
    }

    /// Those of some layers whose trees are here, with these; and the others.
    fn written(&self, layers: &[Digest], task: &Task) -> Result<(Vec<Written>, Vec<Digest>)> {
        let mapping = self.mapping()?;
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for layer in layers {
            let record = self.record(layer)?;
            match self.store.tree(&mapping.name, &TreeName::of(layer)) {
                Some(tree) if !self.is_here(&record) && record.remotes.is_empty() => {
                    found.push((record.below, *layer, tree));
                }
                _ => others.push(*layer),
            }
        }
        // What is written on another comes after that, so the trees below are looked for once.
        found.sort();
        let (mut below, mut trees) = (Vec::new(), Vec::new());
        let mut written = Vec::new();
        for (wanted, layer, upper) in found {
            let shared = below.iter().zip(&wanted).take_while(|(one, other)| one == other).count();
            trees.truncate(shared);
            for number in shared..wanted.len() {
                trees.push(self.tree(&wanted[number], &wanted[..number], task)?);
            }
            below = wanted;
            written.push((layer, std::iter::once(upper).chain(trees.iter().rev().cloned()).collect()));
        }
        Ok((written, others))
    }

    /// Has one worker digest layers.
    fn digest(&self, share: &[Written]) -> Result<()> {
        let mut request = Request::default();
        let (mut numbers, mut fds) = (std::collections::HashMap::<&Path, usize>::new(), Vec::new());
        for (layer, trees) in share {
            let failed = |error| ExecuteError::layer(layer, error);
            for tree in trees {
                if !numbers.contains_key(tree.as_path()) {
                    numbers.insert(tree, fds.len());
                    fds.push(open_directory(tree).map_err(failed)?);
                    let mut table = Vec::new();
                    Table::beside(tree).and_then(|owners| owners.write_to(&mut table)).map_err(failed)?;
                    request.tables.push(String::from_utf8(table).map_err(ExecuteError::internal)?);
                }
            }
            request.layers.push(trees.iter().map(|tree| numbers[tree.as_path()]).collect());
        }
        let args = serde_json::to_vec(&request).map_err(ExecuteError::internal)?;
        let mut lines = BufReader::new(self.namespace.reader(DIGEST, &args, fds)?);
        for (layer, _) in share {
            let (diff_id, size) = read_line(&mut lines).map_err(|error| ExecuteError::layer(layer, error))?;
            self.expect_digest(layer, &diff_id)?;
            self.store.update_layer(layer, |record| {
                record.diff_id = Some(diff_id);
                record.size = size;
            })?;
        }
        // The worker's own failure is known only at its end.
        io::copy(&mut lines, &mut io::sink()).map(drop).map_err(ExecuteError::internal)
    }
}

/// Cuts a list of layers, in which those with much in common are neighbours, into parts for workers.
fn shares(written: &[Written], workers: usize) -> Vec<&[Written]> {
    let most_layers = written.len().div_ceil(workers.max(1));
    let mut shares = Vec::new();
    let (mut begin, mut trees) = (0, BTreeSet::<&Path>::new());
    for (number, (_, of_layer)) in written.iter().enumerate() {
        let new = of_layer.iter().filter(|tree| !trees.contains(tree.as_path())).count();
        if number > begin && (number - begin == most_layers || trees.len() + new > MOST_TREES) {
            shares.push(&written[begin..number]);
            begin = number;
            trees.clear();
        }
        trees.extend(of_layer.iter().map(PathBuf::as_path));
    }
    if begin < written.len() {
        shares.push(&written[begin..]);
    }
    shares
}

/// Reads one layer's digest and size.
fn read_line(lines: &mut impl BufRead) -> io::Result<(Digest, u64)> {
    let mut line = String::new();
    // More than a digest and a number have is not read, whoever wrote it.
    lines.by_ref().take(256).read_line(&mut line)?;
    let parsed = line.trim_end().split_once(' ').and_then(|(digest, size)| {
        let digest = Digest::from_hex(digest).ok()?;
        Some((digest, size.parse().ok()?))
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the worker gave no digest for it"))
}

/// The worker [`DIGEST`].
pub(in crate::executor) fn run_digest(args: &[u8], mut fds: Vec<OwnedFd>) -> std::result::Result<(), String> {
    let mut out = File::from(fds.pop().ok_or("digest needs a descriptor to write to")?);
    let roots: Vec<RootDir> = fds.into_iter().map(RootDir::from_fd).collect();
    let request: Request = serde_json::from_slice(args).map_err(|error| error.to_string())?;
    let tables = request.tables.iter().map(|table| Table::read_from(table.as_bytes())).collect::<io::Result<Vec<_>>>();
    let tables = tables.map_err(|error| error.to_string())?;
    for layer in &request.layers {
        let line = digest_one(layer, &roots, &tables).map_err(|error| workers::chain(&error))?;
        out.write_all(line.as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn digest_one(layer: &[usize], roots: &[RootDir], tables: &[Table]) -> io::Result<String> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "its tree was not given");
    let trees = layer.iter().map(|number| roots.get(*number)).collect::<Option<Vec<_>>>().ok_or_else(missing)?;
    let (upper, lowers) = trees.split_first().ok_or_else(missing)?;
    let mut owners = Table::default();
    layer.iter().filter_map(|number| tables.get(*number)).for_each(|table| owners.extend(table.clone()));
    let mut digesting = Digesting::default();
    pack_with_owners(upper, lowers.to_vec(), owners, &mut digesting)?;
    let (diff_id, size) = digesting.finish()?;
    Ok(format!("{} {size}\n", diff_id.hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_neighbours_and_no_more_trees_than_they_may_open() {
        let chain = |length: usize| -> Vec<Written> {
            let tree = |number| PathBuf::from(format!("{number}"));
            let layer = |number: usize| (Digest::of(&[]), (0..=number).rev().map(tree).collect());
            (0..length).map(layer).collect()
        };
        let sizes =
            |length, workers| shares(&chain(length), workers).iter().map(|share| share.len()).collect::<Vec<_>>();
        assert!(sizes(0, 4).is_empty());
        assert_eq!(sizes(1, 4), [1]);
        assert_eq!(sizes(20, 2), [10, 10]);
        assert_eq!(sizes(5, 4), [2, 2, 1]);
        // A layer that has more below it than that is alone.
        assert_eq!(sizes(MOST_TREES + 2, 1), [MOST_TREES, 1, 1]);
    }
}
