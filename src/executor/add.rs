//! What ADD can do and COPY cannot: unpack archives, and fetch from URLs and git repositories.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::ExecuteError;
use super::copy::{Content, CopyError, CopySource, Recipe, RecipeEntry, named_files, plan_directory, rebase};
use super::step::{Made, Work};
use super::transfer::{Copying, Origin, existing_parents, write_entries};
use crate::digest::Digest;
use crate::layer::decompress::decompress;
use crate::layer::read::{TarReader, is_tar};
use crate::layer::view::MergedView;
use crate::layer::write::TarWriter;
use crate::plan::{CopyInstruction, CopyOp, Source};
use crate::tree::{self, Kind, Last, Node, Time, View};

/// A remote source that is here now.
pub(super) struct Fetched {
    name: String,
    path: PathBuf,
    size: u64,
    digest: Digest,
    mtime: Time,
}

impl Fetched {
    /// The source that it is of a copy. Downloads are private (0600) unless `--chmod` says otherwise, as in BuildKit.
    pub(super) fn source(&self) -> CopySource<'_> {
        CopySource::Remote {
            name: self.name.clone(),
            file: &self.path,
            size: self.size,
            digest: self.digest,
            mode: 0o600,
            mtime: self.mtime,
        }
    }
}

/// An archive among the sources of an ADD: its source's number and its path there.
pub(super) struct Archive {
    source: usize,
    path: Vec<u8>,
}

impl Work<'_> {
    /// Fetches the remote sources, in order.
    pub(super) fn fetch_all(&self, op: &CopyOp) -> Result<Vec<Fetched>, ExecuteError> {
        let mut fetched = Vec::new();
        for source in &op.sources {
            match source {
                Source::Url(url) => fetched.push(self.fetch_url(url, op)?),
                Source::Git(reference) => fetched.push(self.fetch_git(reference)?),
                Source::Path(_) | Source::Inline { .. } => {}
            }
        }
        Ok(fetched)
    }

    fn fetch_url(&self, url: &str, op: &CopyOp) -> Result<Fetched, ExecuteError> {
        let expected = op
            .checksum
            .as_deref()
            .map(str::parse::<Digest>)
            .transpose()
            .map_err(|error| self.refuse(error.to_string()))?;
        let store = self.services.layers.store;
        let mut part = self.task.part(format!("downloading {}", crate::registry::without_credentials(url)), 0);
        let download = self.services.layers.registry.download(url)?;
        let mut writer = store.blob_writer()?;
        let failed = |error: io::Error| {
            self.refuse(format!("cannot download {}: {error}", crate::registry::without_credentials(url)))
        };
        let mut reader = download.body;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = reader.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            writer.write_all(&buffer[..count]).map_err(failed)?;
            part.advance(count as u64);
        }
        part.finish();
        let (digest, size) = match writer.commit(expected) {
            Err(crate::store::StoreError::Digest { found, expected }) => {
                return Err(self.refuse(format!("digest mismatch {found}: {expected}")));
            }
            committed => committed?,
        };
        let mtime = Time { seconds: download.last_modified.unwrap_or(0), nanoseconds: 0 };
        Ok(Fetched { name: file_name(url), path: store.blob_path(&digest), size, digest, mtime })
    }

    /// ADD of a repository: git makes the archive, which is then unpacked like any other.
    fn fetch_git(&self, reference: &str) -> Result<Fetched, ExecuteError> {
        let message = format!(
            "ADD of the git repository {} is not supported by this version; clone it beside the Dockerfile and COPY it",
            crate::registry::without_credentials(reference)
        );
        Err(self.refuse(message))
    }

    /// The sources that are archives to be unpacked: decided by content, never by name.
    pub(super) fn archives(&self, copying: &Copying<'_>) -> Result<Vec<Archive>, ExecuteError> {
        let op = copying.op;
        let is_local = matches!(copying.origin, Origin::Context(_));
        if op.instruction != CopyInstruction::Add || op.unpack == Some(false) || !is_local {
            return Ok(Vec::new());
        }
        let request = copying.request(None, None, self.services.options.epoch);
        let named = named_files(&request).map_err(|error| self.copy_error(error))?;
        let mut archives = Vec::new();
        for (source, path) in named {
            let is_remote = matches!(request.sources[source], CopySource::Remote { .. });
            if is_remote && op.unpack != Some(true) {
                continue;
            }
            let content =
                request.sources[source].open(&path).map_err(|error| self.copy_error(view_error(&path, error)))?;
            if is_archive(content) {
                archives.push(Archive { source, path });
            }
        }
        Ok(archives)
    }

    /// Writes a layer of copied files and unpacked archives.
    pub(super) fn add_archives(
        &self,
        copying: &Copying<'_>,
        recipe: &Recipe,
        archives: &[Archive],
    ) -> Result<Made, ExecuteError> {
        let view = self.destination(copying)?;
        let owner = self.owner(copying.op)?;
        let request = copying.request(owner, None, self.services.options.epoch);
        let below = view.as_ref().map(|view| view as &dyn View);
        let (directory, made) = plan_directory(&request, below).map_err(|error| self.copy_error(error))?;
        let is_archive = |entry: &RecipeEntry| match &entry.content {
            Content::View { source, path } => {
                archives.iter().any(|archive| archive.source == *source && archive.path == *path)
            }
            Content::None | Content::Inline(_) | Content::HardLink(_) => false,
        };
        let mut entries: Vec<RecipeEntry> = recipe.entries.iter().filter(|entry| !is_archive(entry)).cloned().collect();
        for parent in made {
            if !entries.iter().any(|entry| entry.path == parent.path) {
                entries.push(parent);
            }
        }
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        let (layer, _) = self.services.layers.create(self.wanted(), |out| {
            let mut tar = TarWriter::new(out);
            write_entries(&entries, &request.sources, &mut tar)?;
            let mut landing = Landing::new(view.as_ref(), owner);
            for archive in archives {
                let content = request.sources[archive.source].open(&archive.path)?;
                let name = String::from_utf8_lossy(&archive.path).into_owned();
                landing
                    .unpack(content, &directory, &mut tar)
                    .map_err(|error| io::Error::new(error.kind(), format!("unpack {name}: {error}")))?;
            }
            tar.finish().map(drop)
        })?;
        Ok(Made::New(layer))
    }
}

fn view_error(path: &[u8], source: io::Error) -> CopyError {
    CopyError::View { path: String::from_utf8_lossy(path).into_owned(), source }
}

/// Whether bytes are a tar, plain or compressed, with a first header that can be read: anything else is copied as it is.
fn is_archive(content: impl Read + Send) -> bool {
    let mut block = [0; 512];
    decompress(content).and_then(|mut tar| tar.read_exact(&mut block)).is_ok() && is_tar(&block)
}

/// The name that a download has: the last component of the URL's path.
fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    match path.split_once('/').map(|(_, path)| path.trim_end_matches('/')) {
        Some(path) if !path.is_empty() => path.rsplit('/').next().unwrap_or(path).to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

/// Where the entries of archives land: links that the image or an earlier entry has are followed inside the image.
struct Landing<'a> {
    below: Option<&'a MergedView>,
    owner: Option<(u32, u32)>,
    made: HashMap<Vec<u8>, Node>,
}

impl<'a> Landing<'a> {
    fn new(below: Option<&'a MergedView>, owner: Option<(u32, u32)>) -> Landing<'a> {
        Landing { below, owner, made: HashMap::new() }
    }

    fn unpack<W: Write>(
        &mut self,
        archive: impl Read + Send,
        directory: &[u8],
        tar: &mut TarWriter<W>,
    ) -> io::Result<()> {
        let mut reader = TarReader::new(decompress(io::BufReader::with_capacity(256 << 10, archive))?).literal();
        while let Some(entry) = reader.next_entry()? {
            let Some(named) = rebase(&entry.path, directory) else { continue };
            let path = self.land(&named)?;
            let link = match &entry.link {
                Some(target) => Some(self.land(&rebase(target, directory).unwrap_or_default())?),
                None => None,
            };
            let mut node = entry.node.clone();
            if let Some((uid, gid)) = self.owner {
                (node.uid, node.gid) = (uid, gid);
            }
            for (parent, node) in existing_parents(std::iter::once(path.as_slice()), |_| false, &*self)? {
                // An archive may leave directories out that the image has: the layer names them as they are.
                if let Entry::Vacant(place) = self.made.entry(parent) {
                    tar.append(place.key(), &node, None, &mut io::empty())?;
                    place.insert(node);
                }
            }
            if link.is_some() {
                tar.append(&path, &node, link.as_deref(), &mut io::empty())?;
            } else {
                tar.append(&path, &node, None, &mut reader.content())?;
            }
            if !matches!(node.kind, Kind::File { .. }) {
                self.made.insert(path, node);
            }
        }
        Ok(())
    }

    /// The place of an entry: its directory with every link resolved, its own name as it is.
    fn land(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let parent = tree::resolve(self, tree::parent(path), Last::Follow)?;
        Ok(tree::join(&parent.path, tree::base_name(path)))
    }
}

impl View for Landing<'_> {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        if let Some(node) = self.made.get(path) {
            return Ok(Some(node.clone()));
        }
        match self.below {
            Some(below) => below.node(path),
            None => Ok(path.is_empty().then(|| Node::directory(Time::default()))),
        }
    }

    fn names(&self, _path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, _path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_are_named_by_the_path_of_their_url() {
        for (url, name) in [
            ("https://example.com/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("http://example.com/", "__unnamed__"),
            ("http://example.com", "__unnamed__"),
            ("https://example.com/dir/", "dir"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn only_tars_are_archives() {
        let mut tar = TarWriter::new(Vec::new());
        tar.append(b"a", &Node::directory(Time::default()), None, &mut io::empty()).unwrap();
        let tar = tar.finish().unwrap();
        assert!(is_archive(tar.as_slice()));
        assert!(!is_archive(&b"#!/bin/sh\n"[..]));
        assert!(!is_archive(&b""[..]));
        assert!(!is_archive(&[0u8; 2048][..]));
    }
}
