//! Images that pass from one place to another as they are: `rbuild copy`, without the store.

use std::io::{self, Read};
use std::sync::Arc;

use super::BuildError;
use super::outputs::observed;
use super::pull::{only_for, other_platform};
use crate::archive::Layout;
use crate::digest::Digest;
use crate::export::{Assembled, Blob, Bundle, LayoutForm, LayoutTarget, NamedBundle, Open, write_layout};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Document, InvalidDocument};
use crate::image::media_type::{DOCKER_CONFIG, OCI_CONFIG};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::progress::{Progress, Task};
use crate::registry::Client;
use crate::registry::copy::{CopyError, Existing, Listed, Origin, RegistryOrigin, closure, copy as copy_to_registry};
use crate::registry::push::{OpenLayer, PushReport};

/// The largest config of an image.
const CONFIG_LIMIT: u64 = 8 << 20;

/// What is copied.
pub enum CopySource {
    /// What a name in a registry stands for.
    Registry(Reference),
    /// What a layout has under a name, or its only image.
    Layout(Layout, Option<String>),
}

/// Where a copy goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyTarget {
    /// A name in a registry.
    Registry(Reference),
    /// A layout.
    Layout(LayoutPlace),
}

/// A layout, and what a copy is called in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutPlace {
    /// Plain OCI, or what `docker load` reads.
    pub form: LayoutForm,
    /// Where.
    pub target: LayoutTarget,
    /// The name of an image, in full in a Docker archive.
    pub name: Option<Reference>,
    /// The name as it is written into an OCI layout.
    pub label: Option<String>,
}

/// How something is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    /// Only these platforms; all where there are none.
    pub platforms: Vec<Platform>,
    /// What becomes of a tag in a registry that stands for something else.
    pub existing: Existing,
}

/// A layout as an origin.
struct LayoutOrigin(Arc<Layout>);

impl Origin for LayoutOrigin {
    fn name(&self) -> String {
        self.0.name().to_owned()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, CopyError> {
        self.0.document(descriptor).map_err(|error| self.unreadable(error))
    }

    fn blob(&self, descriptor: &Descriptor) -> OpenLayer {
        let (layout, digest) = (self.0.clone(), descriptor.digest);
        Box::new(move || layout.open(&digest))
    }

    fn repository(&self) -> Option<&Reference> {
        None
    }
}

impl LayoutOrigin {
    fn unreadable(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CopyError {
        CopyError::Origin { place: self.name(), source: error.into() }
    }
}

/// Copies an image, or an index with all that it leads to; gives the digest of the copy.
///
/// # Errors
/// Something of it cannot be read or written; what was written until then has no name.
pub fn copy(
    client: &Client,
    source: &CopySource,
    target: &CopyTarget,
    options: &CopyOptions,
    progress: &Progress,
) -> Result<Digest, BuildError> {
    let task = progress.task(format!("copying {}", source.shown()));
    observed(&task, || {
        let (origin, top): (Box<dyn Origin>, Listed) = match source {
            CopySource::Registry(name) => {
                let top = Listed::resolve(client, name, Some(&task))?;
                (Box::new(RegistryOrigin::new(client, name)), top)
            }
            CopySource::Layout(layout, label) => {
                let origin = LayoutOrigin(Arc::new(layout.clone()));
                let chosen = layout.choose(label.as_deref()).map_err(|error| origin.unreadable(error))?;
                // What it is called there is not part of it.
                let plain = Descriptor::new(&chosen.media_type, chosen.digest, chosen.size);
                let top = Listed::read(&origin, &plain)?;
                (Box::new(origin), top)
            }
        };
        note_other_platform(&*origin, &top, source, &options.platforms, progress);
        let top = top.for_platforms(&*origin, &options.platforms)?;
        match target {
            CopyTarget::Registry(name) => {
                let report = copy_to_registry(client, &*origin, top, name, options.existing, Some(&task))?;
                task.note(told(&report));
                Ok(report.digest)
            }
            CopyTarget::Layout(place) => write(&*origin, top, place, &task),
        }
    })
}

/// Says of one image, which serves every platform that is asked for, that it is for another.
fn note_other_platform(
    origin: &dyn Origin,
    top: &Listed,
    source: &CopySource,
    wanted: &[Platform],
    progress: &Progress,
) {
    let Document::Manifest(manifest) = &top.document else { return };
    if wanted.is_empty() || !matches!(manifest.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        return;
    }
    // A config that cannot be read stops the copy, and is told then.
    let Some(config) = read_config(origin, &manifest.config).ok().and_then(|bytes| ImageConfig::parse(&bytes).ok())
    else {
        return;
    };
    for wanted in wanted {
        if let Some(platform) = other_platform(&config, wanted) {
            progress.notice(only_for(&source.shown(), &platform, wanted));
        }
    }
}

fn told(report: &PushReport) -> String {
    format!(
        "{} blobs sent ({} bytes), {} mounted, {} were there",
        report.uploaded, report.uploaded_bytes, report.mounted, report.existed
    )
}

impl CopySource {
    fn shown(&self) -> String {
        match self {
            CopySource::Registry(name) => name.familiar(),
            CopySource::Layout(layout, Some(label)) => format!("{}:{label}", layout.name()),
            CopySource::Layout(layout, None) => layout.name().to_owned(),
        }
    }
}

/// Writes a layout; for `docker load`, which knows no indexes, of several platforms this machine's.
fn write(origin: &dyn Origin, top: Listed, place: &LayoutPlace, task: &Task) -> Result<Digest, BuildError> {
    let top = match place.form {
        LayoutForm::Docker => top.for_platforms(origin, &[Platform::host()])?,
        LayoutForm::Oci => top,
    };
    let digest = top.descriptor.digest;
    let bundle = bundle(origin, top)?;
    let names = match place.form {
        LayoutForm::Docker => place.name.clone().into_iter().collect(),
        LayoutForm::Oci => Vec::new(),
    };
    let label = place.label.clone().filter(|_| place.form == LayoutForm::Oci);
    write_layout(&[NamedBundle { bundle, names, label }], place.form, &place.target, task)?;
    Ok(digest)
}

/// All that a document leads to, as an output has it.
fn bundle(origin: &dyn Origin, top: Listed) -> Result<Bundle, BuildError> {
    let mut documents = closure(origin, top, &|_| Ok(true))?;
    let index = documents.pop_if(|last| matches!(last.document, Document::Index(_)));
    let images = documents.iter().map(|listed| assembled(origin, listed)).collect::<Result<_, CopyError>>()?;
    let index = index.map(|index| (index.descriptor, index.bytes));
    Ok(Bundle { images, index, created: None })
}

fn assembled(origin: &dyn Origin, listed: &Listed) -> Result<Assembled, CopyError> {
    let mut blobs = listed.blobs();
    let Some(config) = blobs.next() else {
        let reason = "it is an index within an index, which tools cannot read from a layout".to_owned();
        let reference = format!("{}@{}", origin.name(), listed.descriptor.digest);
        return Err(CopyError::Document { reference, source: InvalidDocument::Unsupported { reason } });
    };
    let bytes = read_config(origin, config)
        .map_err(|error| CopyError::Origin { place: origin.name(), source: error.into() })?;
    let layers = blobs.map(|descriptor| {
        let open: Open = Arc::from(origin.blob(descriptor));
        Blob { descriptor: descriptor.clone(), open, repositories: Vec::new() }
    });
    let manifest = (listed.descriptor.clone(), listed.bytes.clone());
    Ok(Assembled { config: (config.clone(), bytes), manifest, layers: layers.collect(), attestations: None })
}

fn read_config(origin: &dyn Origin, config: &Descriptor) -> io::Result<Vec<u8>> {
    if config.size > CONFIG_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is no config: too large", config.digest)));
    }
    let mut bytes = Vec::new();
    let inner = origin.blob(config)()?;
    crate::digest::VerifyReader::new(inner, config.digest, Some(config.size)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
