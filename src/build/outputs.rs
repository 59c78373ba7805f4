//! What becomes of the image: each output gets the layers in the form that it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use super::assemble::Assembled;
use super::{Build, BuildError, Built, FileTimes, Layering};
use crate::attest::{Attestation, Attested, Form, Reach};
use crate::digest::{Digest, VerifyReader};
use crate::executor::{BlobForm, ExecuteError, Layers, Reuse, abreast};
use crate::export::{
    Annotation, Bundle, Documents, ExportImage, ExportLayer, FilesTarget, ImageFiles, LayerFiles, LayoutForm,
    LayoutTarget, NamedBundle, Open, Shape, Statements, Style, push, sign, write_files, write_layout,
};
use crate::image::manifest::Descriptor;
use crate::image::media_type::{Compression, Format};
use crate::image::reference::Reference;
use crate::progress::{Outcome, Progress, Task};
use crate::sign::SigningKey;
use crate::store::{BlobRecord, LayerRecord, RemoteBlob};

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
    /// Annotations of its documents.
    pub annotations: Vec<Annotation>,
    /// How what is said about the image is stored.
    pub attestations: Form,
}

/// The kinds of outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// An OCI layout or a Docker archive.
    Layout(LayoutForm, LayoutTarget),
    /// Plain files.
    Files(FilesTarget, FilesForm),
    /// A registry.
    Registry(PushBy),
}

/// How plain files are arranged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilesForm {
    /// What is in a directory of its own.
    pub split: Split,
    /// What the names of files begin with that say something about the others.
    pub attestation_prefix: String,
}

/// Whether the files of each platform have a directory of their own (`linux_amd64`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Split {
    /// Where there are several.
    #[default]
    WhereSeveral,
    /// Always.
    Always,
    /// Never: they must not have files of the same name.
    Never,
}

/// What a pushed image can be found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PushBy {
    /// The tags of its names.
    #[default]
    Tag,
    /// Its digest alone.
    Digest,
}

impl Output {
    /// An output of OCI documents over layers in gzip, without names and annotations.
    pub(super) fn plain(kind: OutputKind) -> Output {
        let blob = BlobForm { compression: Compression::Gzip, level: None };
        let (names, annotations) = (Vec::new(), Vec::new());
        let attestations = Form::default();
        Output { kind, format: Format::Oci, blob, reuse: Reuse::AsPulled, names, annotations, attestations }
    }

    /// The blob that this output wants of each new layer.
    pub(super) fn blob_form(&self) -> Option<BlobForm> {
        match self.kind {
            OutputKind::Layout(..) | OutputKind::Registry(_) => Some(self.blob),
            OutputKind::Files(..) => None,
        }
    }

    fn title(&self) -> &'static str {
        match &self.kind {
            OutputKind::Layout(LayoutForm::Oci, _) => "exporting to oci image format",
            OutputKind::Layout(LayoutForm::Docker, _) => "exporting to docker image format",
            OutputKind::Files(FilesTarget::Directory(..), _) => "exporting to client directory",
            OutputKind::Files(FilesTarget::Tar(_), _) => "exporting to client tarball",
            OutputKind::Registry(_) => "exporting to registry",
        }
    }

    /// Whether what it pushes is read by one repository at most.
    fn is_in_one_place(&self) -> bool {
        self.names.iter().map(|name| (name.registry(), name.repository())).collect::<BTreeSet<_>>().len() <= 1
    }

    /// How many repositories of other registries a layer that lies in this one would have to be sent to.
    fn repositories_beside(&self, registry: &str) -> usize {
        let others = self.names.iter().filter(|name| name.registry() != registry);
        others.map(|name| (name.registry(), name.repository())).collect::<BTreeSet<_>>().len()
    }
}

impl Build<'_> {
    /// Whether the result goes into one repository and nowhere else: it need not be here for that.
    pub(super) fn only_pushes(&self) -> bool {
        let [output] = self.outputs.as_slice() else { return false };
        let is_push = matches!(output.kind, OutputKind::Registry(_)) && !output.names.is_empty();
        is_push && output.reuse == Reuse::AsPulled && output.is_in_one_place() && self.layering == Layering::PerStep
    }

    /// Layers of which the new ones are sent while they are made: where a push is the first to get them, as the steps made
    /// them, and in one repository.
    pub(super) fn with_early_uploads<'l>(&self, layers: Layers<'l>) -> Layers<'l> {
        let first = self.outputs.iter().find(|output| output.blob_form().is_some());
        let is_as_made = self.times == FileTimes::Keep && self.layering == Layering::PerStep;
        let is_push = |output: &&Output| matches!(output.kind, OutputKind::Registry(_)) && output.is_in_one_place();
        let pushed = first.filter(|output| is_as_made && is_push(output));
        match pushed.and_then(|output| Some((output.names.first()?, output.blob))) {
            Some((name, form)) => layers.sent_early(name, form),
            None => layers,
        }
    }

    /// Makes every output, one after the other: they share their layers' blobs. `index` is what several images are under
    /// in the store.
    pub(super) fn export(
        &self,
        images: &[Assembled],
        index: Option<Descriptor>,
        layers: &Layers<'_>,
    ) -> Result<Built, BuildError> {
        let exporter = Exporter { layers, shape: shape(images), index: None };
        let mut manifest = index;
        for output in &self.outputs {
            let task = self.progress.task(output.title());
            let made = observed(&task, || exporter.make(output, images, &task))?;
            if let (OutputKind::Registry(_), Some(pushed)) = (&output.kind, &made) {
                // What other outputs and caches have made is not for this registry.
                layers.early_uploads().iter().for_each(|early| early.close());
                exporter.sign(pushed, &output.names, &self.signing_keys, self.progress)?;
            }
            manifest = made.or(manifest);
        }
        let config = match (images, exporter.shape) {
            ([only], Shape::Image) => Some(Digest::of(&only.config.to_bytes())),
            _ => None,
        };
        let id = config.or(manifest.as_ref().map(|manifest| manifest.digest));
        let id = id.ok_or_else(|| internal("nothing was built"))?;
        Ok(Built { id, config, manifest, provenance: BTreeMap::new() })
    }
}

/// Several images lie under an index, and so does one with what is said about it.
pub(super) fn shape(images: &[Assembled]) -> Shape {
    match images {
        [only] if only.attested.is_nothing() => Shape::Image,
        _ => Shape::Index,
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
    pub(super) shape: Shape,
    /// The index of images that were not built here and now.
    pub(super) index: Option<Vec<u8>>,
}

impl<'a> Exporter<'a> {
    /// What makes an index of images that are built here and now.
    pub(super) fn of_index(layers: &'a Layers<'a>) -> Exporter<'a> {
        Exporter { layers, shape: Shape::Index, index: None }
    }
}

impl Exporter<'_> {
    /// Makes one output; the descriptor of its manifest or index, where it has one.
    pub(super) fn make(
        &self,
        output: &Output,
        images: &[Assembled],
        task: &Task,
    ) -> Result<Option<Descriptor>, BuildError> {
        let bundle = match &output.kind {
            OutputKind::Files(target, form) => {
                write_files(&self.files(images, form, task)?, target)?;
                return Ok(None);
            }
            OutputKind::Layout(form, target) => {
                let (bundle, names) = (self.bundle(output, images, task)?, output.names.clone());
                let named = [NamedBundle { bundle, names, label: None }];
                write_layout(&named, *form, target, task)?;
                let [NamedBundle { bundle, .. }] = named;
                bundle
            }
            OutputKind::Registry(by) => {
                let bundle = self.bundle(output, images, task)?;
                let names = match by {
                    PushBy::Tag => output.names.clone(),
                    PushBy::Digest => at_digest(&output.names, &bundle.top().0.digest)?,
                };
                push(self.layers.registry, &bundle, &names, self.layers.early_uploads(), task)?;
                for (image, name) in images.iter().zip(output.names.iter().cycle()) {
                    self.layers.note_pushed(&image.layers, name)?;
                }
                bundle
            }
        };
        for image in &bundle.images {
            task.note(format!("exporting manifest {}", image.manifest.0.digest));
            task.note(format!("exporting config {}", image.config.0.digest));
        }
        for attestations in bundle.attestations() {
            task.note(format!("exporting attestation manifest {}", attestations.manifest.0.digest));
        }
        if let Some((index, _)) = &bundle.index {
            task.note(format!("exporting manifest list {}", index.digest));
        }
        Ok(Some(bundle.top().0.clone()))
    }

    /// Signs what was pushed under some names, where there is a key.
    pub(super) fn sign(
        &self,
        pushed: &Descriptor,
        names: &[Reference],
        keys: &[SigningKey],
        progress: &Progress,
    ) -> Result<(), BuildError> {
        if keys.is_empty() {
            return Ok(());
        }
        let task = progress.task("signing");
        observed(&task, || Ok(sign(self.layers.registry, &pushed.digest, names, keys, &task)?))
    }

    /// The documents of an output, and its layers' blobs in the form that it asks for.
    pub(super) fn bundle(&self, output: &Output, images: &[Assembled], task: &Task) -> Result<Bundle, BuildError> {
        let image = |image: &Assembled| {
            let named = image.original.as_ref().map(Documents::blobs).unwrap_or_default();
            let layers = abreast(&image.layers, |number, layer| {
                // What has a manifest keeps it, in whatever other forms its layers are known here.
                match named.get(number).map(|named| self.as_named(output, layer, named)).transpose()?.flatten() {
                    Some(layer) => Ok(layer),
                    None => self.layer(output, layer, task),
                }
            })?;
            let (original, attested) = (image.original.clone(), image.attested.clone());
            Ok(ExportImage { config: image.config.clone(), layers, original, attested })
        };
        let mut images: Vec<ExportImage> = images.iter().map(image).collect::<Result<_, BuildError>>()?;
        let shape = self.shape_of(output, &mut images);
        let Output { format, ref annotations, ref names, attestations, .. } = *output;
        let bundle = Bundle::new(&images, shape, Style { format, annotations, names, attestations });
        Ok(match &self.index {
            Some(index) => {
                if let Some((missing, all)) = bundle.missing_of(index) {
                    let are = if missing == 1 { "is" } else { "are" };
                    let text = format!("the index is written anew: {missing} of its {all} entries {are} not here");
                    task.notice(text);
                }
                bundle.keeping(index)
            }
            None => bundle,
        })
    }

    /// The shape of an output. An archive of one image holds no index for nothing but what needs to be said inline alone,
    /// as in BuildKit (`exporter/containerimage/writer.go`).
    fn shape_of(&self, output: &Output, images: &mut [ExportImage]) -> Shape {
        let ([only], OutputKind::Layout(..)) = (images, &output.kind) else { return self.shape };
        let is_inline_only = |one: &Attestation| one.reach == Reach::Images;
        match &only.attested {
            Attested::Now(all) if all.iter().all(is_inline_only) => {
                only.attested = Attested::Nothing;
                Shape::Image
            }
            Attested::Nothing | Attested::Now(_) | Attested::Before(_) => self.shape,
        }
    }

    /// A layer in the form of the blob that a manifest names, where that is here, or can be passed on.
    fn as_named(&self, output: &Output, layer: &Digest, named: &Digest) -> Result<Option<ExportLayer>, BuildError> {
        if output.reuse != Reuse::AsPulled {
            return Ok(None);
        }
        let record = self.layers.record(layer)?;
        let is_here = |blob: &&BlobRecord| blob.digest == *named && self.layers.store.has_blob(named);
        if let Some(blob) = record.blobs.values().find(is_here) {
            return self.of_blob(layer, &record, blob).map(Some);
        }
        let remote = record.remotes.iter().find(|remote| remote.digest == *named);
        match remote.filter(|_| matches!(output.kind, OutputKind::Registry(_))) {
            Some(remote) => self.pass_from(output, layer, &record, remote),
            None => Ok(None),
        }
    }

    fn of_blob(&self, layer: &Digest, record: &LayerRecord, blob: &BlobRecord) -> Result<ExportLayer, BuildError> {
        let path = self.layers.store.blob_path(&blob.digest);
        let open: Open = Arc::new(move || Ok(Box::new(std::fs::File::open(&path)?) as Box<dyn Read + Send>));
        Ok(ExportLayer {
            diff_id: record.diff_id.unwrap_or(*layer),
            compression: compression(blob)?,
            digest: blob.digest,
            size: blob.size,
            open,
            repositories: repositories(record, &blob.digest),
        })
    }

    pub(super) fn layer(&self, output: &Output, layer: &Digest, task: &Task) -> Result<ExportLayer, BuildError> {
        let record = self.layers.record(layer)?;
        // A base layer that nothing looked into stays in its registry: a push mounts it, or passes it through.
        if matches!(output.kind, OutputKind::Registry(_))
            && output.reuse == Reuse::AsPulled
            && !self.layers.is_here(&record)
            && let Some(passed) = self.pass_through(output, layer, &record)?
        {
            return Ok(passed);
        }
        let blob = self.layers.blob(layer, output.blob, output.reuse, task)?;
        self.of_blob(layer, &self.layers.record(layer)?, &blob)
    }

    fn pass_through(
        &self,
        output: &Output,
        layer: &Digest,
        record: &LayerRecord,
    ) -> Result<Option<ExportLayer>, BuildError> {
        match record.remotes.first().filter(|_| record.diff_id.is_some()) {
            Some(remote) => self.pass_from(output, layer, record, remote),
            None => Ok(self.pass_from_cache(output, layer, record)),
        }
    }

    fn pass_from(
        &self,
        output: &Output,
        layer: &Digest,
        record: &LayerRecord,
        remote: &RemoteBlob,
    ) -> Result<Option<ExportLayer>, BuildError> {
        let Some(diff_id) = record.diff_id else { return Ok(None) };
        let Some(compression) = Compression::of_media_type(&remote.media_type) else { return Ok(None) };
        let reference: Reference = remote.repository.parse().map_err(internal)?;
        if output.repositories_beside(reference.registry()) > 1 {
            // Fetched once into the store it is read from there by all, rather than from the registry for each.
            return Ok(None);
        }
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

    /// A layer that is in a cache alone goes from there to where it is pushed, if it is not there yet.
    fn pass_from_cache(&self, output: &Output, layer: &Digest, record: &LayerRecord) -> Option<ExportLayer> {
        let (descriptor, storage) = self.layers.promised_blob(layer)?;
        let (diff_id, compression) = (record.diff_id?, Compression::of_media_type(&descriptor.media_type)?);
        if !output.is_in_one_place() {
            return None;
        }
        let (digest, size) = (descriptor.digest, descriptor.size);
        let watch = self.layers.watch(layer, record);
        let open: Open = Arc::new(move || {
            let blob = storage.open(&descriptor)?;
            Ok(watch(Box::new(VerifyReader::new(blob, digest, Some(size)))))
        });
        Some(ExportLayer { diff_id, compression, digest, size, open, repositories: Vec::new() })
    }

    /// The files of images, not compressed.
    pub(super) fn files(
        &self,
        images: &[Assembled],
        form: &FilesForm,
        task: &Task,
    ) -> Result<Vec<ImageFiles>, BuildError> {
        let is_split = match form.split {
            Split::WhereSeveral => images.len() > 1,
            Split::Always => true,
            Split::Never => false,
        };
        let plain = |layer: &Digest| {
            let index = self.layers.index(layer, task)?;
            let open = self.layers.reopen(layer, task)?;
            Ok(LayerFiles { index, open })
        };
        let files = |image: &Assembled| {
            let platform = image.config.platform().to_string();
            let directory = is_split.then(|| platform.replace('/', "_"));
            let layers = image.layers.iter().map(plain).collect::<Result<_, BuildError>>()?;
            let created = image.config.created.as_deref().and_then(crate::image::time::seconds);
            let attestations = match &image.attested {
                Attested::Now(all) => all.clone(),
                Attested::Nothing | Attested::Before(_) => Vec::new(),
            };
            let (prefix, time) = (form.attestation_prefix.clone(), created.unwrap_or(0));
            let statements = Statements { attestations, prefix, time };
            Ok(ImageFiles { platform, directory, layers, statements, dated: image.dated })
        };
        images.iter().map(files).collect()
    }
}

/// The repositories of some names, at a digest.
fn at_digest(names: &[Reference], digest: &Digest) -> Result<Vec<Reference>, BuildError> {
    let at = |name: &Reference| format!("{}/{}@{digest}", name.registry(), name.repository()).parse();
    names.iter().map(|name| at(name).map_err(internal)).collect()
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
