//! Base images: their configs before the plan, their layers only when something needs them.

use std::collections::BTreeMap;

use super::{Build, BuildError};
use crate::cache::remote::is_cache;
use crate::diagnostic::{Span, did_you_mean};
use crate::digest::Digest;
use crate::dockerfile::ast::Dockerfile;
use crate::executor::{Layers, ResolvedBase};
use crate::image::config::ImageConfig;
use crate::image::manifest::Manifest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::plan::needs::{needs, runs_commands};
use crate::plan::{BaseKey, BaseSource, Options};
use crate::progress::{Outcome, Task};
use crate::registry::pull::PulledImage;
use crate::registry::{RegistryError, pull};
use crate::store::{ImageRecord, RemoteBlob, RemoteOrigin, Store, StoreError, Tagged};

/// When registries are asked for base images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Only for those that the store does not have.
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Why a base image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not in the store and no registry may be asked.
    #[error("it is not in the local store, and --pull=never forbids to ask its registry")]
    NotHere,
    /// Its config cannot be read.
    #[error("read its config")]
    Config(#[from] serde_json::Error),
    /// Its name is that of a cache.
    #[error("it is a build cache and no image: --cache-from reads it")]
    Cache,
    /// Manifest and config do not fit together.
    #[error("it has {layers} layers, but its config names {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// An OCI layout cannot be used.
    #[error("read OCI layout {path}: {reason}")]
    Layout {
        /// Its directory.
        path: String,
        /// Why.
        reason: String,
    },
}

impl Build<'_> {
    /// Resolves all base images that the target reaches on any of the platforms; those that triggers of other bases bring, too.
    pub(super) fn resolve_bases(
        &self,
        dockerfile: &Dockerfile,
        variants: &[Options],
        layers: &Layers<'_>,
    ) -> Result<BTreeMap<BaseKey, ResolvedBase>, BuildError> {
        let mut resolved: BTreeMap<BaseKey, ResolvedBase> = BTreeMap::new();
        loop {
            let configs: BTreeMap<BaseKey, ImageConfig> =
                resolved.iter().map(|(key, base)| (key.clone(), base.config.clone())).collect();
            let mut missing: Vec<(BaseKey, Span)> = Vec::new();
            for options in variants {
                let needed = needs(dockerfile, options, &configs).map_err(BuildError::Dockerfile)?;
                let new = needed.into_iter().filter(|(key, _)| !missing.iter().any(|(known, _)| known == key));
                missing.extend(new.collect::<Vec<_>>());
            }
            if missing.is_empty() {
                return Ok(resolved);
            }
            let found = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    missing.iter().map(|(key, _)| scope.spawn(move || self.resolve(key, layers))).collect();
                threads.into_iter().map(|thread| thread.join().expect("resolving does not panic")).collect::<Vec<_>>()
            });
            for ((key, span), base) in missing.into_iter().zip(found) {
                let base = base.map_err(|source| BuildError::BaseOf {
                    name: key.source.to_string(),
                    span,
                    stage: meant(&key, dockerfile),
                    source: Box::new(source),
                })?;
                resolved.insert(key, base);
            }
        }
    }

    /// Where a base has to be asked for, makes sure that commands can run first, if there are any: nothing is pulled that
    /// nothing can be run on. A build whose bases are here may have all of its commands in the cache.
    pub(super) fn check_commands_before_pulling(
        &self,
        dockerfile: &Dockerfile,
        options: &Options,
        layers: &Layers<'_>,
    ) -> Result<(), BuildError> {
        // Where caches are asked, too, all of the commands may be in them.
        if !runs_commands(dockerfile, options) || !self.cache_from.is_empty() {
            return Ok(());
        }
        let bases = needs(dockerfile, options, &BTreeMap::new()).map_err(BuildError::Dockerfile)?;
        if bases.iter().any(|(key, _)| self.asks_registry(key, layers)) {
            self.namespace.sandbox()?;
        }
        Ok(())
    }

    /// Whether a base has to be looked for in its registry.
    fn asks_registry(&self, key: &BaseKey, layers: &Layers<'_>) -> bool {
        let BaseSource::Image(reference) = &key.source else { return false };
        match self.pull {
            Pull::Never => false,
            Pull::Always => true,
            Pull::Missing => !matches!(self.stored_base(reference, key, layers), Ok(Some(_))),
        }
    }

    fn resolve(&self, key: &BaseKey, layers: &Layers<'_>) -> Result<ResolvedBase, BaseError> {
        let platform = if self.platforms.len() > 1 { format!("{} ", key.platform) } else { String::new() };
        let task = self.progress.task(format!("[{platform}internal] load metadata for {}", key.source));
        task.start();
        let found = match &key.source {
            BaseSource::Image(reference) => self.resolve_image(reference, key, layers, &task),
            BaseSource::OciLayout { path, tag, digest } => {
                self.resolve_layout(path, tag.as_deref(), *digest, key, layers)
            }
        };
        match found {
            Ok(base) => {
                task.end(Outcome::Done);
                Ok(base)
            }
            Err(source) => {
                task.end(Outcome::Failed(source.to_string()));
                Err(source)
            }
        }
    }

    fn resolve_image(
        &self,
        reference: &Reference,
        key: &BaseKey,
        layers: &Layers<'_>,
        task: &Task,
    ) -> Result<ResolvedBase, BaseError> {
        // What was built under the name comes before what a short name stands for elsewhere.
        if self.pull != Pull::Always
            && self.is_built(reference, key)?
            && let Some(base) = self.stored_base(reference, key, layers)?
        {
            return Ok(base);
        }
        let full = &self.registry.full_name(reference)?;
        if full.name() != reference.name() {
            task.note(format!("{} is {full}, by registries.conf", reference.familiar()));
        }
        let reference = full;
        if self.pull != Pull::Always
            && let Some(base) = self.stored_base(reference, key, layers)?
        {
            return Ok(base);
        }
        if self.pull == Pull::Never {
            return Err(BaseError::NotHere);
        }
        let pulled = pull::resolve_platform(self.registry, reference, &key.platform, Some(task))?;
        record_pulled(self.store, reference, &key.platform, &pulled, None)?;
        Ok(ResolvedBase {
            name: reference.to_string(),
            layers: pulled.config.rootfs.diff_ids.clone(),
            digest: Some(pulled.index_digest.unwrap_or(pulled.manifest_digest)),
            config: pulled.config,
        })
    }

    /// Whether the store has an image under a name that was built here, not pulled.
    fn is_built(&self, reference: &Reference, key: &BaseKey) -> Result<bool, BaseError> {
        let tagged = self.store.tagged(&reference.with_default_tag().to_string(), &key.platform.to_string())?;
        Ok(tagged.is_some_and(|tagged| tagged.built))
    }

    /// A base that the store has under its name, with all that a build can need of it.
    fn stored_base(
        &self,
        reference: &Reference,
        key: &BaseKey,
        layers: &Layers<'_>,
    ) -> Result<Option<ResolvedBase>, BaseError> {
        let Some(tagged) = self.store.tagged(&reference.with_default_tag().to_string(), &key.platform.to_string())?
        else {
            return Ok(None);
        };
        let Some(bytes) = self.store.read_blob(&tagged.image.config)? else { return Ok(None) };
        for layer in &tagged.image.layers {
            let record = self.store.read_record(crate::store::RecordKind::Layer, layer)?;
            if !record.is_some_and(|record| layers.is_available(layer, &record)) {
                return Ok(None);
            }
        }
        let config = ImageConfig::parse(&bytes)?;
        Ok(Some(ResolvedBase {
            name: reference.to_string(),
            config,
            digest: tagged.image.source,
            layers: tagged.image.layers,
        }))
    }

    /// An image in an OCI layout on disk: its blobs are copied into the store, which is then asked as usual.
    fn resolve_layout(
        &self,
        path: &std::path::Path,
        tag: Option<&str>,
        digest: Option<Digest>,
        key: &BaseKey,
        layers: &Layers<'_>,
    ) -> Result<ResolvedBase, BaseError> {
        let layout = super::layout::read_layout(path, tag, digest, &key.platform)
            .map_err(|reason| BaseError::Layout { path: path.display().to_string(), reason })?;
        check_layers(&layout.manifest, &layout.config)?;
        for (descriptor, diff_id) in layout.manifest.layers.iter().zip(&layout.config.rootfs.diff_ids) {
            layers
                .import(diff_id, descriptor, &layout.blob(&descriptor.digest))
                .map_err(|error| BaseError::Layout { path: path.display().to_string(), reason: error.to_string() })?;
        }
        let layers = layout.config.rootfs.diff_ids.clone();
        Ok(ResolvedBase { name: key.source.to_string(), layers, digest, config: layout.config })
    }
}

/// The stage that may be meant by the name of an image that cannot be had.
fn meant(key: &BaseKey, dockerfile: &Dockerfile) -> Option<String> {
    let BaseSource::Image(reference) = &key.source else { return None };
    let name = reference.familiar();
    let names: Vec<String> =
        dockerfile.stages.iter().filter_map(|stage| Some(stage.name.as_ref()?.value.to_lowercase())).collect();
    did_you_mean(name.trim_end_matches(":latest"), names.iter().map(String::as_str)).map(str::to_owned)
}

fn check_layers(manifest: &Manifest, config: &ImageConfig) -> Result<(), BaseError> {
    if is_cache(&manifest.config.media_type) {
        return Err(BaseError::Cache);
    }
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(BaseError::Layers { layers, diff_ids });
    }
    Ok(())
}

/// What of a pulled image's surroundings in its registry the store has, too.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// The index that the name stands for.
    pub(super) index: Option<Digest>,
    /// What is said about the image: the manifest first, then what that names.
    pub(super) attestations: Vec<Digest>,
}

/// Gives a pulled image its name in the store, and tells the store where its layers can be had. Who does not say what is
/// beside it takes nothing away from what was pulled of the same image earlier.
pub(super) fn record_pulled(
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    pulled: &PulledImage,
    beside: Option<Beside>,
) -> Result<(), BaseError> {
    let (manifest, config) = (&pulled.manifest, &pulled.config);
    check_layers(manifest, config)?;
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        let remote = RemoteBlob {
            repository: repository.clone(),
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            origin: RemoteOrigin::Image,
        };
        store.update_layer(diff_id, |record| {
            record.diff_id = Some(*diff_id);
            if !record.remotes.contains(&remote) {
                // Whoever may write a cache has no say in a base image: the image's own place is asked first.
                record.remotes.insert(0, remote);
            }
        })?;
    }
    let (name, source) =
        (reference.with_default_tag().to_string(), pulled.index_digest.unwrap_or(pulled.manifest_digest));
    let beside = match beside {
        Some(beside) => beside,
        None => {
            let before = pulled_before(store, &name, platform, pulled)?.filter(|before| before.source == Some(source));
            before.map(|before| Beside { index: before.index, attestations: before.attestations }).unwrap_or_default()
        }
    };
    let image = ImageRecord {
        config: store.put_blob(&pulled.config_bytes)?,
        layers: config.rootfs.diff_ids.clone(),
        manifest: Some(store.put_blob(&pulled.manifest_bytes)?),
        source: Some(source),
        index: beside.index,
        attestations: beside.attestations,
        created: config.created.clone().unwrap_or_default(),
        size: 0,
    };
    store.tag(&Tagged { name, platform: platform.to_string(), built: false, image })?;
    Ok(())
}

/// What the store has under a name, where that is this very image.
pub(super) fn pulled_before(
    store: &Store,
    name: &str,
    platform: &Platform,
    pulled: &PulledImage,
) -> Result<Option<ImageRecord>, StoreError> {
    let before = store.tagged(name, &platform.to_string())?.map(|tagged| tagged.image);
    Ok(before.filter(|image| image.manifest == Some(pulled.manifest_digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::Descriptor;
    use crate::image::media_type::{OCI_CONFIG, OCI_LAYER_GZIP};

    #[test]
    fn a_build_cache_is_no_image() {
        let check = |media_type: &str, layers: &[&[u8]]| {
            let manifest = Manifest {
                schema_version: 2,
                media_type: None,
                artifact_type: None,
                config: Descriptor::of(media_type, b"{}"),
                layers: layers.iter().map(|bytes| Descriptor::of(OCI_LAYER_GZIP, bytes)).collect(),
                subject: None,
                annotations: Default::default(),
            };
            check_layers(&manifest, &ImageConfig::parse(b"{}").unwrap())
        };
        let caches = [crate::cache::remote::document::MEDIA_TYPE, "application/vnd.buildkit.cacheconfig.v0"];
        for media_type in caches {
            for layers in [&[][..], &[b"one".as_slice()]] {
                assert!(matches!(check(media_type, layers), Err(BaseError::Cache)), "{media_type}");
            }
        }
        assert!(check(OCI_CONFIG, &[]).is_ok());
        let found = check(OCI_CONFIG, &[b"one"]);
        assert!(matches!(found, Err(BaseError::Layers { layers: 1, diff_ids: 0 })), "{found:?}");
    }
}
