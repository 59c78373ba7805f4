//! What becomes of the image: each output gets the layers in the form that it asks for.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use super::assemble::Assembled;
use super::{Build, BuildError, Built};
use crate::digest::Digest;
use crate::executor::{BlobForm, ExecuteError, Layers, Reuse, abreast};
use crate::export::{
    ExportImage, ExportLayer, FilesTarget, LayerFiles, LayoutForm, LayoutTarget, Open, push, write_files, write_layout,
};
use crate::image::manifest::Descriptor;
use crate::image::media_type::{Compression, Format};
use crate::image::reference::Reference;
use crate::progress::{Outcome, Task};
use crate::store::{BlobRecord, LayerRecord};

/// One thing to make of an image.
#[derive(Debug, Clone)]
pub struct Output {
    /// What.
    pub kind: OutputKind,
    /// Whose media types.
    pub format: Format,
    /// How new layers are compressed.
    pub blob: BlobForm,
    /// Whether layers of the base keep their compression.
    pub reuse: Reuse,
    /// Names of the image in this output.
    pub names: Vec<Reference>,
}

/// The kinds of outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// An OCI layout or a Docker archive.
    Layout(LayoutForm, LayoutTarget),
    /// Plain files.
    Files(FilesTarget),
    /// A registry.
    Registry,
}

impl Output {
    /// The blob that this output wants of each new layer.
    pub(super) fn blob_form(&self) -> Option<BlobForm> {
        match self.kind {
            OutputKind::Layout(..) | OutputKind::Registry => Some(self.blob),
            OutputKind::Files(_) => None,
        }
    }

    fn title(&self) -> &'static str {
        match &self.kind {
            OutputKind::Layout(LayoutForm::Oci, _) => "exporting to oci image format",
            OutputKind::Layout(LayoutForm::Docker, _) => "exporting to docker image format",
            OutputKind::Files(FilesTarget::Directory(_)) => "exporting to client directory",
            OutputKind::Files(FilesTarget::Tar(_)) => "exporting to client tarball",
            OutputKind::Registry => "exporting to registry",
        }
    }
}

impl Build<'_> {
    /// Makes every output, one after the other: they share their layers' blobs.
    pub(super) fn export(&self, image: &Assembled, layers: &Layers<'_>) -> Result<Built, BuildError> {
        let mut built = Built { config: Digest::of(&image.config.to_bytes()), manifest: None };
        let exporter = Exporter { layers, annotations: &self.annotations };
        for output in &self.outputs {
            let task = self.progress.task(output.title());
            let manifest = observed(&task, || exporter.make(output, image, &task))?;
            built.manifest = manifest.or(built.manifest);
        }
        Ok(built)
    }
}

/// Shows a piece of work as a task from its start to its end.
pub(super) fn observed<T>(task: &Task, work: impl FnOnce() -> Result<T, BuildError>) -> Result<T, BuildError> {
    task.start();
    let result = work();
    task.end(match &result {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(error.to_string()),
    });
    result
}

/// Makes outputs of images whose layers the store knows.
pub(super) struct Exporter<'a> {
    pub(super) layers: &'a Layers<'a>,
    pub(super) annotations: &'a BTreeMap<String, String>,
}

impl Exporter<'_> {
    /// Makes one output; its manifest, where it has one.
    pub(super) fn make(
        &self,
        output: &Output,
        image: &Assembled,
        task: &Task,
    ) -> Result<Option<Descriptor>, BuildError> {
        let assembled = match &output.kind {
            OutputKind::Files(target) => {
                write_files(&self.plain_layers(image, task)?, target)?;
                return Ok(None);
            }
            OutputKind::Layout(form, target) => {
                let export = self.image(output, image, task)?;
                write_layout(&export, output.format, *form, &output.names, target, task)?
            }
            OutputKind::Registry => {
                let export = self.image(output, image, task)?;
                push(self.layers.registry, &export, output.format, &output.names, task)?
            }
        };
        let (descriptor, _) = &assembled.manifest;
        task.note(format!("exporting manifest {}", descriptor.digest));
        task.note(format!("exporting config {}", assembled.config.0.digest));
        Ok(Some(descriptor.clone()))
    }

    fn image(&self, output: &Output, image: &Assembled, task: &Task) -> Result<ExportImage, BuildError> {
        let exported = abreast(&image.layers, |_, layer| self.layer(output, layer, task))?;
        Ok(ExportImage { config: image.config.clone(), layers: exported, annotations: self.annotations.clone() })
    }

    pub(super) fn layer(&self, output: &Output, layer: &Digest, task: &Task) -> Result<ExportLayer, BuildError> {
        let record = self.layers.record(layer)?;
        // A base layer that nothing looked into stays in its registry: a push mounts it, or passes it through.
        if output.kind == OutputKind::Registry
            && output.reuse == Reuse::AsPulled
            && record.blobs.is_empty()
            && let Some(passed) = self.pass_through(layer, &record)?
        {
            return Ok(passed);
        }
        let blob = self.layers.blob(layer, output.blob, output.reuse, task)?;
        let record = self.layers.record(layer)?;
        let path = self.layers.store.blob_path(&blob.digest);
        let open: Open = Arc::new(move || Ok(Box::new(std::fs::File::open(&path)?) as Box<dyn Read + Send>));
        Ok(ExportLayer {
            diff_id: record.diff_id.unwrap_or(*layer),
            compression: compression(&blob)?,
            digest: blob.digest,
            size: blob.size,
            open,
            repositories: repositories(&record, &blob.digest),
        })
    }

    fn pass_through(&self, layer: &Digest, record: &LayerRecord) -> Result<Option<ExportLayer>, BuildError> {
        let (Some(diff_id), Some(remote)) = (record.diff_id, record.remotes.first()) else { return Ok(None) };
        let Some(compression) = Compression::of_media_type(&remote.media_type) else { return Ok(None) };
        let reference: Reference = remote.repository.parse().map_err(internal)?;
        let descriptor = Descriptor::new(&remote.media_type, remote.digest, remote.size);
        let client = self.layers.registry.clone();
        let watch = self.layers.watch(layer, record);
        let open: Open = Arc::new(move || Ok(watch(Box::new(client.blob(&reference, &descriptor)))));
        Ok(Some(ExportLayer {
            diff_id,
            compression,
            digest: remote.digest,
            size: remote.size,
            open,
            repositories: repositories(record, &remote.digest),
        }))
    }

    fn plain_layers(&self, image: &Assembled, task: &Task) -> Result<Vec<LayerFiles>, BuildError> {
        let plain = |layer: &Digest| {
            let index = self.layers.index(layer, task)?;
            let open = self.layers.reopen(layer, task)?;
            Ok(LayerFiles { digest: *layer, index, open })
        };
        image.layers.iter().map(plain).collect()
    }
}

/// The repositories that hold a blob.
fn repositories(record: &LayerRecord, blob: &Digest) -> Vec<Reference> {
    let holders = record.remotes.iter().filter(|remote| remote.digest == *blob);
    holders.filter_map(|remote| remote.repository.parse().ok()).collect()
}

fn compression(blob: &BlobRecord) -> Result<Compression, BuildError> {
    let known = [Compression::None, Compression::Gzip, Compression::Zstd];
    let named = |compression: &Compression| crate::executor::ingest::compression_name(*compression) == blob.compression;
    known.into_iter().find(named).ok_or_else(|| internal(format!("unknown compression {:?}", blob.compression)))
}

fn internal(error: impl ToString) -> BuildError {
    BuildError::Execute(ExecuteError::Internal(error.to_string()))
}
