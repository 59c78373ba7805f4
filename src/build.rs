//! The story of one build: read → parse → resolve bases → plan → execute → assemble → export.

mod assemble;
mod bases;
mod layout;
mod outputs;
mod stored;

use std::collections::BTreeMap;

pub use crate::executor::{BlobForm, Reuse};
pub use bases::Pull;
pub use outputs::{Output, OutputKind};
pub use stored::{pull_image, push_stored};

use crate::cache::Cache;
use crate::diagnostic::{Color, Diagnostic, Severity, Source};
use crate::digest::{Digest, Frame};
use crate::dockerfile;
use crate::dockerfile::ast::Dockerfile;
use crate::executor::{Contexts, ExecuteError, ExecuteOptions, Layers, Namespace, ResolvedBase, Services, execute};
use crate::export::ExportError;
use crate::image::config::ImageConfig;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::plan::{self, BaseKey, Plan};
use crate::progress::{Outcome, Progress};
use crate::registry::{Client, RegistryError};
use crate::sandbox::Cancel;
use crate::store::{Store, StoreError};

/// What one build is about.
pub struct Build<'a> {
    /// The Dockerfile.
    pub source: &'a Source,
    /// What makes this build another one than others when misses are explained: context and Dockerfile by path.
    pub scope: String,
    /// What the command line says about the plan.
    pub options: plan::Options,
    /// What the user sent.
    pub contexts: &'a Contexts,
    /// When registries are asked for base images.
    pub pull: Pull,
    /// What the command line says about execution.
    pub execute: ExecuteOptions,
    /// Names for the result in the store.
    pub tags: Vec<Reference>,
    /// What to make of the result.
    pub outputs: Vec<Output>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Where layers and results are kept.
    pub store: &'a Store,
    /// Where images come from and go to.
    pub registry: &'a Client,
    /// Where commands run.
    pub namespace: &'a Namespace,
    /// Where news go.
    pub progress: &'a Progress,
    /// Stops everything.
    pub cancel: &'a Cancel,
    /// How warnings are drawn.
    pub color: Color,
}

/// What a build made.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image's id: the digest of its config.
    pub config: Digest,
    /// The manifest, where an output wrote one.
    pub manifest: Option<Descriptor>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong; at least one of the diagnostics is an error.
    #[error("the Dockerfile has errors")]
    Dockerfile(Vec<Diagnostic>),
    /// A base image cannot be had.
    #[error("resolve base image {name}")]
    Base {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: bases::BaseError,
    },
    /// A step failed.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// An output failed.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Builds an image.
///
/// # Errors
/// The first thing that went wrong; of a Dockerfile's mistakes all are told at once, before anything runs.
pub fn build(build: &Build<'_>) -> Result<Built, BuildError> {
    let dockerfile = build.load_dockerfile()?;
    let layers = Layers::new(build.store, build.registry, build.namespace);
    let bases = build.resolve_bases(&dockerfile, &layers)?;
    let plan = build.plan(&dockerfile, &bases)?;
    let mut options = build.execute.clone();
    if let Some(epoch) = plan.epoch {
        options.epoch = epoch;
        options.created = Some(epoch);
    }
    options.blob = options.blob.or_else(|| build.outputs.iter().find_map(Output::blob_form));
    let services = Services {
        layers: &layers,
        cache: Cache::new(build.store, Frame::new("rbuild.scope.1").text("scope", &build.scope).finish()),
        contexts: build.contexts,
        bases: &bases,
        progress: build.progress,
        cancel: build.cancel,
        options: &options,
    };
    let steps = execute(&plan, &services)?;
    build.contexts.save();
    let image = build.assemble(&plan, &steps, &layers)?;
    build.export(&image, &layers)
}

/// Says what there is to say about a Dockerfile and all its stages, without running anything.
///
/// # Errors
/// The Dockerfile is wrong, or a base image's config cannot be had.
pub fn check(build: &Build<'_>) -> Result<Vec<Diagnostic>, BuildError> {
    let parsed = dockerfile::parse(build.source);
    if parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(BuildError::Dockerfile(parsed.diagnostics));
    }
    let layers = Layers::new(build.store, build.registry, build.namespace);
    let bases = build.resolve_bases(&parsed.dockerfile, &layers)?;
    let configs = bases.iter().map(|(key, base)| (key.clone(), base.config.clone())).collect();
    let options = plan::Options { scope: plan::Scope::EveryStage, ..build.options.clone() };
    let plan = plan::plan(&parsed.dockerfile, &options, &configs).map_err(BuildError::Dockerfile)?;
    let mut warnings = parsed.diagnostics;
    warnings.extend(plan.warnings);
    warnings.sort_by_key(|warning| warning.span);
    Ok(filtered(warnings, &parsed.dockerfile))
}

/// The warnings that `# check=skip=…` does not switch off.
fn filtered(warnings: Vec<Diagnostic>, dockerfile: &Dockerfile) -> Vec<Diagnostic> {
    // A directive that cannot be read is an error of its own, which the parser reports.
    let given = dockerfile.directives.check.as_ref();
    let options = given.and_then(|check| dockerfile::lint::CheckOptions::parse(&check.value).ok()).unwrap_or_default();
    dockerfile::lint::filter(warnings, &options)
}

impl Build<'_> {
    fn load_dockerfile(&self) -> Result<Dockerfile, BuildError> {
        let task = self.progress.task(format!("[internal] load build definition from {}", self.source.name));
        task.start();
        let parsed = dockerfile::parse(self.source);
        let (errors, warnings): (Vec<Diagnostic>, Vec<Diagnostic>) =
            parsed.diagnostics.into_iter().partition(|diagnostic| diagnostic.severity == Severity::Error);
        task.end(if errors.is_empty() {
            Outcome::Done
        } else {
            Outcome::Failed("the Dockerfile has errors".to_owned())
        });
        if !errors.is_empty() {
            return Err(BuildError::Dockerfile(errors));
        }
        self.warn(warnings, &parsed.dockerfile);
        Ok(parsed.dockerfile)
    }

    fn plan(&self, dockerfile: &Dockerfile, bases: &BTreeMap<BaseKey, ResolvedBase>) -> Result<Plan, BuildError> {
        let configs: BTreeMap<BaseKey, ImageConfig> =
            bases.iter().map(|(key, base)| (key.clone(), base.config.clone())).collect();
        let mut plan = plan::plan(dockerfile, &self.options, &configs).map_err(BuildError::Dockerfile)?;
        self.warn(std::mem::take(&mut plan.warnings), dockerfile);
        Ok(plan)
    }

    /// Shows warnings, but for those that `# check=skip=…` switches off.
    fn warn(&self, warnings: Vec<Diagnostic>, dockerfile: &Dockerfile) {
        // A directive that cannot be read is an error of its own, which the parser reports.
        let given = dockerfile.directives.check.as_ref();
        let options =
            given.and_then(|check| dockerfile::lint::CheckOptions::parse(&check.value).ok()).unwrap_or_default();
        for warning in dockerfile::lint::filter(warnings, &options) {
            let rendered = self.source.render(&warning, self.color);
            self.progress.warning(warning, rendered);
        }
    }
}
