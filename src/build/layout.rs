//! Reads images from OCI layouts on disk (`--build-context name=oci-layout://…`).

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document, Index, Manifest};
use crate::image::platform::Platform;

/// An image of a layout.
pub(super) struct LayoutImage {
    root: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) config: ImageConfig,
}

impl LayoutImage {
    /// Where a blob is.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.root, digest)
    }
}

/// Indexes within indexes that are followed: layouts nest one deep where a tool copied a multi-platform image.
const DEPTH: usize = 5;

/// Finds the image of a tag (`latest` where none is given and there are several) or digest that serves a platform.
pub(super) fn read_layout(
    root: &Path,
    tag: Option<&str>,
    digest: Option<Digest>,
    platform: &Platform,
) -> Result<LayoutImage, String> {
    let path = root.join("index.json");
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let Document::Index(index) = Document::parse(&bytes, None).map_err(|error| error.to_string())? else {
        return Err("index.json is no index".to_owned());
    };
    let mut descriptor = choose(&index, tag, digest)?.clone();
    for _ in 0..DEPTH {
        match read(root, &descriptor)? {
            Document::Manifest(manifest) => {
                let config = checked(root, &manifest.config)?;
                let config = ImageConfig::parse(&config).map_err(|error| error.to_string())?;
                return Ok(LayoutImage { root: root.to_owned(), manifest: *manifest, config });
            }
            Document::Index(index) => {
                let found = index.select(platform).ok_or_else(|| format!("it has no image for {platform}"))?;
                descriptor = found.clone();
            }
        }
    }
    Err(format!("its indexes are nested more than {DEPTH} deep"))
}

fn choose<'a>(index: &'a Index, tag: Option<&str>, digest: Option<Digest>) -> Result<&'a Descriptor, String> {
    if let Some(digest) = digest {
        // A digest may name something that the index does not list; then it is looked up among the blobs.
        let listed = index.manifests.iter().find(|descriptor| descriptor.digest == digest);
        return listed.ok_or_else(|| format!("it has no image {digest}"));
    }
    let is_named = |descriptor: &&Descriptor, name: &str| {
        descriptor.annotations.get("org.opencontainers.image.ref.name").is_some_and(|found| found == name)
    };
    match (tag, index.manifests.as_slice()) {
        (None, [only]) => Ok(only),
        (tag, all) => {
            let name = tag.unwrap_or("latest");
            all.iter()
                .find(|descriptor| is_named(descriptor, name))
                .ok_or_else(|| format!("it has no image tagged {name:?}"))
        }
    }
}

fn read(root: &Path, descriptor: &Descriptor) -> Result<Document, String> {
    Document::parse(&checked(root, descriptor)?, Some(&descriptor.media_type)).map_err(|error| error.to_string())
}

fn checked(root: &Path, descriptor: &Descriptor) -> Result<Vec<u8>, String> {
    let path = blob_path(root, &descriptor.digest);
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if Digest::of(&bytes) != descriptor.digest {
        return Err(format!("{} is damaged: it has another digest than its name", path.display()));
    }
    Ok(bytes)
}

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}
