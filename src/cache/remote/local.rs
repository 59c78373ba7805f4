//! A cache in a directory: an OCI layout, so that every tool can copy it into a registry and back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::document;
use super::storage::{Content, RemoteError, Storage, Written};
use crate::digest::{Digest, VerifyReader};
use crate::image::manifest::{Descriptor, Document, Index, canonical};
use crate::image::media_type::OCI_INDEX;
use crate::progress::Task;
use crate::unfinished::{self, Unfinished};

/// The largest `index.json`.
const INDEX_LIMIT: u64 = 4 << 20;

/// The annotation that names an entry of a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

/// A directory with an OCI layout.
pub struct Directory {
    path: PathBuf,
    tag: String,
    digest: Option<Digest>,
}

type Result<T> = std::result::Result<T, RemoteError>;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RemoteError {
    let path = path.display().to_string();
    move |source| RemoteError::Io { action, path, source }
}

impl Directory {
    /// A cache of this name in a directory; a digest wins over the name.
    pub fn new(path: PathBuf, tag: String, digest: Option<Digest>) -> Directory {
        Directory { path, tag, digest }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn index_path(&self) -> PathBuf {
        self.path.join("index.json")
    }

    /// What the layout has; nothing where there is none.
    fn index(&self) -> Result<Option<Index>> {
        let path = self.index_path();
        let bytes = match File::open(&path) {
            Ok(file) => read_up_to(file, INDEX_LIMIT).map_err(failed("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        match Document::parse(&bytes, None)? {
            Document::Index(index) => Ok(Some(index)),
            Document::Manifest(_) => Err(RemoteError::Document { reason: format!("{} is no index", path.display()) }),
        }
    }

    fn is_named(&self, entry: &Descriptor) -> bool {
        entry.annotations.get(NAME) == Some(&self.tag)
    }

    /// Writes a blob, unless it is there; whether it was written.
    fn put(&self, descriptor: &Descriptor, open: impl FnOnce() -> io::Result<Box<dyn Read + Send>>) -> Result<bool> {
        let target = self.blob(&descriptor.digest);
        if is_whole(&target, descriptor) {
            return Ok(false);
        }
        let copied = replace(&target, |out| {
            io::copy(&mut VerifyReader::new(open()?, descriptor.digest, Some(descriptor.size)), out)
        });
        copied.map(|_| true).map_err(failed("write", &target))
    }

    /// Removes what no entry of the index leads to, or a directory that is kept from build to build grows for ever. A
    /// layout with entries that are no caches is somebody else's, too: nothing is removed there.
    fn sweep(&self, index: &Index) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for entry in &index.manifests {
            let Ok(bytes) = self.manifest(entry) else { return Ok(()) };
            let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else { return Ok(()) };
            if manifest.config.media_type != document::MEDIA_TYPE {
                return Ok(());
            }
            wanted.extend([entry.digest, manifest.config.digest]);
            wanted.extend(manifest.layers.iter().map(|layer| layer.digest));
        }
        let folder = self.path.join("blobs/sha256");
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))?.flatten() {
            let digest = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok());
            if digest.is_some_and(|digest| !wanted.contains(&digest)) {
                fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

impl Storage for Directory {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn top(&self) -> Result<Option<Vec<u8>>> {
        let Some(index) = self.index()? else { return Ok(None) };
        let is_meant = |entry: &&Descriptor| match self.digest {
            Some(digest) => entry.digest == digest,
            None => self.is_named(entry),
        };
        index.manifests.iter().find(is_meant).map(|entry| self.manifest(entry)).transpose()
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.small(descriptor, INDEX_LIMIT)
    }

    fn small(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let (expected, path) = (descriptor.digest, self.blob(&descriptor.digest));
        if descriptor.size > limit {
            return Err(RemoteError::TooLarge { digest: expected, limit });
        }
        let bytes = File::open(&path).and_then(|file| read_up_to(file, limit)).map_err(failed("read", &path))?;
        match Digest::of(&bytes) {
            found if found == expected => Ok(bytes),
            found => Err(RemoteError::Digest { expected, found }),
        }
    }

    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.blob(&descriptor.digest))?))
    }

    fn write(&self, content: Content, task: &Task) -> Result<Written> {
        let folder = self.path.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(failed("create directory", &folder))?;
        for directory in [&self.path, &folder] {
            unfinished::sweep(directory);
        }
        let mut written = Written::default();
        for piece in &content.layers {
            if self.put(&piece.descriptor, || (piece.open)())? {
                task.note(format!("{} written", piece.descriptor.digest));
                written.sent += 1;
                written.bytes += piece.descriptor.size;
            }
        }
        for (descriptor, bytes) in [&content.config, &content.manifest] {
            self.put(descriptor, || Ok(Box::new(io::Cursor::new(bytes.clone()))))?;
        }
        // Somebody else's layout that cannot be read is not written over.
        let mut manifests = self.index()?.map(|index| index.manifests).unwrap_or_default();
        manifests.retain(|entry| !self.is_named(entry));
        let mut entry = content.manifest.0.clone();
        entry.annotations.insert(NAME.to_owned(), self.tag.clone());
        manifests.push(entry);
        let media_type = Some(OCI_INDEX.to_owned());
        let index = Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() };
        let documents = [
            (self.path.join("oci-layout"), canonical(&json!({ "imageLayoutVersion": "1.0.0" }))),
            (self.index_path(), canonical(&index)),
        ];
        for (path, bytes) in documents {
            replace(&path, |out| out.write_all(&bytes)).map_err(failed("write", &path))?;
        }
        self.sweep(&index)?;
        Ok(written)
    }
}

/// Whether a blob is there, whole: a disk or a copy that was cut may have harmed it, and nobody else would write it
/// again.
fn is_whole(target: &Path, descriptor: &Descriptor) -> bool {
    let is_large_enough = target.metadata().is_ok_and(|metadata| metadata.len() == descriptor.size);
    let read = |file| io::copy(&mut VerifyReader::new(file, descriptor.digest, Some(descriptor.size)), &mut io::sink());
    is_large_enough && File::open(target).and_then(read).is_ok()
}

/// Reads all of a file that is no longer than this.
fn read_up_to(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Writes a file beside its place and renames it there when it is complete, and on the disk: after a power cut an index
/// leads to no blob that has a name and no bytes.
fn replace<T>(path: &Path, write: impl FnOnce(&mut &File) -> io::Result<T>) -> io::Result<T> {
    let unfinished = Unfinished::beside(path, 0o666)?;
    let written = write(&mut unfinished.file())?;
    unfinished.file().sync_all()?;
    unfinished.finish()?;
    Ok(written)
}
