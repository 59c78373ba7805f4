//! Images between the store and files: `load`, `save`, `import`, `export`.

use std::io::{self, Read};

use super::assemble::Assembled;
use super::outputs::{FilesForm, Output, OutputKind, Split, observed};
use super::stored::{alone, stored, stored_all};
use super::{BlobForm, BuildError, Reuse};
use crate::archive::ArchivedImage;
use crate::attest::Attested;
use crate::digest::Digest;
use crate::executor::{ExecuteError, Layers, Wanted, abreast};
use crate::export::{FileTarget, FilesTarget, LayoutForm, LayoutTarget, NamedBundle, write_files, write_layout};
use crate::image::config::{ContainerConfig, History, ImageConfig};
use crate::image::media_type::Compression;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::Progress;
use crate::store::{ImageRecord, StoreError, Tagged};

/// Why an image of an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its config cannot be read.
    #[error("read the config of {image}")]
    Config {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its layers are not those of its config.
    #[error("{image} is refused: its layers are not those that its config names")]
    Layers {
        /// The image.
        image: String,
    },
    /// Nobody says what it is called.
    #[error("the image {id} has no name in the archive")]
    NoName {
        /// The image.
        id: Digest,
    },
    /// It has no image for the platform.
    #[error("the archive has no image for {platform}, but for {offered}")]
    Platform {
        /// The platform.
        platform: Platform,
        /// Those that it has.
        offered: String,
    },
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] ExecuteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is taken of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Names besides those that the archive has.
    pub names: Vec<Reference>,
    /// Only the images for this platform.
    pub platform: Option<Platform>,
}

/// Puts the images of an archive under their names into the store. Each layer is read once, and checked.
///
/// # Errors
/// An image is not what it says it is, or has no name; images before it in the archive are there.
pub fn load(layers: &Layers<'_>, images: &[ArchivedImage], options: &LoadOptions) -> Result<Vec<Tagged>, LoadError> {
    let mut parsed = Vec::new();
    for image in images {
        parsed.push((image, parse(image)?));
    }
    let all: Vec<_> = parsed.iter().map(|(image, _)| *image).collect();
    if let Some(platform) = &options.platform {
        let offered: Vec<String> = parsed.iter().map(|(_, config)| config.platform().to_string()).collect();
        parsed.retain(|(_, config)| platform.match_rank(&config.platform()).is_some());
        if parsed.is_empty() {
            return Err(LoadError::Platform { platform: platform.clone(), offered: offered.join(", ") });
        }
    }
    let mut loaded = Vec::new();
    for (image, config) in &parsed {
        // Where others of an index are left out the name stands for the one image that was asked for.
        let under = |index: &Vec<u8>| {
            let is_under = |other: &ArchivedImage| other.index.as_ref() == Some(index);
            let taken = parsed.iter().filter(|(other, _)| is_under(other)).count();
            taken == all.iter().filter(|other| is_under(other)).count()
        };
        let index = image.index.as_ref().filter(|index| under(index));
        loaded.extend(take(layers, image, config, index, &options.names)?);
    }
    Ok(loaded)
}

fn called(image: &ArchivedImage, id: &Digest) -> String {
    image.names.first().map_or_else(|| id.to_string(), Reference::familiar)
}

/// Takes one of the images of an archive, each for another platform, into the store without a name: that for a platform,
/// where one is asked for, else this machine's, else the only one.
///
/// # Errors
/// The image is not what it says it is, or there is none for the platform.
pub fn adopt(layers: &Layers<'_>, images: &[&ArchivedImage], platform: Option<&Platform>) -> Result<Tagged, LoadError> {
    let mut parsed = Vec::new();
    for image in images {
        parsed.push((*image, parse(image)?));
    }
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let ranked =
        parsed.iter().filter_map(|(image, config)| Some((wanted.match_rank(&config.platform())?, image, config)));
    let chosen = match (ranked.min_by_key(|(rank, ..)| *rank), parsed.as_slice(), platform) {
        (Some((_, image, config)), ..) => (image, config),
        (None, [(image, config)], None) => (image, config),
        (None, ..) => {
            let offered: Vec<String> = parsed.iter().map(|(_, config)| config.platform().to_string()).collect();
            return Err(LoadError::Platform { platform: wanted.clone(), offered: offered.join(", ") });
        }
    };
    let (image, config) = chosen;
    let (name, record) = (called(image, &Digest::of(&image.config)), record(layers, image, config)?);
    Ok(Tagged { name, platform: config.platform().to_string(), built: false, image: record })
}

fn parse(image: &ArchivedImage) -> Result<ImageConfig, LoadError> {
    let called = || called(image, &Digest::of(&image.config));
    ImageConfig::parse(&image.config).map_err(|source| LoadError::Config { image: called(), source })
}

fn take(
    layers: &Layers<'_>,
    image: &ArchivedImage,
    config: &ImageConfig,
    index: Option<&Vec<u8>>,
    more: &[Reference],
) -> Result<Vec<Tagged>, LoadError> {
    let mut names: Vec<&Reference> = Vec::new();
    for name in image.names.iter().chain(more) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(LoadError::NoName { id: Digest::of(&image.config) });
    }
    let attestations = if index.is_some() { image.attestations.clone() } else { Vec::new() };
    let index = index.map(|index| layers.store.put_blob(index)).transpose()?;
    let record = ImageRecord { index, attestations, ..record(layers, image, config)? };
    let platform = config.platform().to_string();
    let tagged = |name: &Reference| {
        // No registry can bring back what came in a file.
        let tagged = Tagged { name: name.to_string(), platform: platform.clone(), built: true, image: record.clone() };
        layers.store.tag(&tagged)?;
        Ok(tagged)
    };
    names.into_iter().map(tagged).collect()
}

/// Makes the blobs of an image its layers.
fn record(layers: &Layers<'_>, image: &ArchivedImage, config: &ImageConfig) -> Result<ImageRecord, LoadError> {
    let found = abreast(&image.layers, |_, (blob, size)| layers.adopt(blob, *size))?;
    if found != config.rootfs.diff_ids {
        return Err(LoadError::Layers { image: called(image, &Digest::of(&image.config)) });
    }
    let mut size = 0;
    for layer in &found {
        size += layers.record(layer)?.size;
    }
    Ok(ImageRecord {
        config: layers.store.put_blob(&image.config)?,
        layers: found,
        manifest: image.manifest.as_ref().map(|manifest| layers.store.put_blob(manifest)).transpose()?,
        source: None,
        index: None,
        attestations: Vec::new(),
        created: config.created.clone().unwrap_or_default(),
        size,
    })
}

/// How images are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveForm {
    /// Plain OCI, or what `docker load` reads.
    pub form: LayoutForm,
    /// How layers are compressed that are not yet, or all of them.
    pub compression: Option<Compression>,
}

/// Writes images of the store into one archive. A name that stands for an index stands for it there, too, but for
/// `docker load`, which knows one image alone.
pub fn save(
    layers: &Layers<'_>,
    images: &[(Tagged, Vec<Reference>)],
    form: SaveForm,
    target: &FileTarget,
    progress: &Progress,
) -> Result<(), BuildError> {
    let task = progress.task("saving images");
    let target = LayoutTarget::Tar(target.clone());
    let output = Output {
        blob: BlobForm { compression: form.compression.unwrap_or(Compression::Gzip), level: None },
        reuse: if form.compression.is_some() { Reuse::Recompressed } else { Reuse::AsPulled },
        ..Output::plain(OutputKind::Layout(form.form, target.clone()))
    };
    observed(&task, || {
        let mut named = Vec::new();
        for (tagged, names) in images {
            let (exporter, images) = match form.form {
                LayoutForm::Oci => stored_all(layers, tagged)?,
                LayoutForm::Docker => alone(layers, &tagged.image)?,
            };
            let bundle = exporter.bundle(&output, &images, &task)?;
            named.push(NamedBundle { bundle, names: names.clone(), label: None });
        }
        Ok(write_layout(&named, form.form, &target, &task)?)
    })
}

/// Writes the files of an image, as a container of it would see them, into a tar.
pub fn export_files(
    layers: &Layers<'_>,
    image: &ImageRecord,
    target: &FileTarget,
    progress: &Progress,
) -> Result<(), BuildError> {
    let task = progress.task("exporting files");
    observed(&task, || {
        let (exporter, images) = alone(layers, image)?;
        let form = FilesForm { split: Split::Never, ..FilesForm::default() };
        Ok(write_files(&exporter.files(&images, &form, &task)?, &FilesTarget::Tar(target.clone()))?)
    })
}

/// A layer that is put on an image, or is all of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// What the history says made it.
    pub created_by: String,
    /// What the history says about it.
    pub comment: String,
    /// RFC 3339.
    pub created: String,
}

/// Makes the files of a tar the only layer of an image.
pub fn import_files(
    layers: &Layers<'_>,
    tar: &mut dyn Read,
    config: ImageConfig,
    entry: &NewLayer,
    names: &[Reference],
) -> Result<Tagged, BuildError> {
    let blob = BlobForm { compression: Compression::Gzip, level: None };
    let wanted = Wanted { blob: Some(blob), tree: false };
    let (layer, _) = layers.create(wanted, |out| io::copy(tar, out).map(drop))?;
    let attested = Attested::Nothing;
    let empty = Assembled { config, layers: Vec::new(), size: 0, original: None, attested, dated: None };
    add_layer(layers, empty, layer, entry, names)
}

/// Makes an image of one of the store, with another config and a layer that the store has on top.
pub fn add_to_image(
    layers: &Layers<'_>,
    image: &ImageRecord,
    config: ContainerConfig,
    layer: Digest,
    entry: &NewLayer,
    names: &[Reference],
) -> Result<Tagged, BuildError> {
    let mut below = stored(layers, image)?;
    below.config.config = config;
    add_layer(layers, below, layer, entry, names)
}

/// Puts a layer that the store has on an image, and gives the result names.
fn add_layer(
    layers: &Layers<'_>,
    below: Assembled,
    layer: Digest,
    entry: &NewLayer,
    names: &[Reference],
) -> Result<Tagged, BuildError> {
    // What was said about the image below is not said about this one.
    let Assembled { mut config, layers: mut all, .. } = below;
    let diff_id = layers.record(&layer)?.diff_id;
    config.rootfs.diff_ids.push(diff_id.ok_or_else(|| ExecuteError::Internal(format!("layer {layer} has no diffID")))?);
    config.created = Some(entry.created.clone());
    config.history.push(History {
        created: Some(entry.created.clone()),
        created_by: entry.created_by.clone(),
        comment: entry.comment.clone(),
        ..History::default()
    });
    all.push(layer);
    let mut size = 0;
    for layer in &all {
        size += layers.record(layer)?.size;
    }
    let platform = config.platform().to_string();
    let image = ImageRecord {
        config: layers.store.put_blob(&config.to_bytes())?,
        layers: all,
        manifest: None,
        source: None,
        index: None,
        attestations: Vec::new(),
        created: entry.created.clone(),
        size,
    };
    let tagged = |name: &Reference| Tagged {
        name: name.with_default_tag().to_string(),
        platform: platform.clone(),
        built: true,
        image: image.clone(),
    };
    for name in names {
        layers.store.tag(&tagged(name))?;
    }
    names
        .first()
        .map(tagged)
        .ok_or_else(|| BuildError::Execute(ExecuteError::Internal("an image without a name".to_owned())))
}
