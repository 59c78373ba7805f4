//! The story of one build: read → parse → resolve bases → plan → execute → assemble → export.

mod archived;
mod assemble;
mod attestations;
mod bases;
mod caches;
mod changes;
mod checks;
mod contents;
mod copy;
mod differences;
mod epoch;
mod foresight;
mod layout;
mod outline;
mod outputs;
mod provenance;
mod pull;
mod steps;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

pub use crate::dockerfile::lint::Rule;
pub use crate::executor::{BlobForm, Explained, Nearest, Reuse, Verdict};
pub use archived::{
    LoadError, LoadOptions, NewLayer, SaveForm, add_to_image, adopt, export_files, import_files, load, save,
};
pub use attestations::{Attestations, Software};
pub use bases::Pull;
pub use caches::CacheFailure;
pub use changes::change_config;
pub use checks::{Checked, check};
pub use contents::{scan_image, scan_layers};
pub use copy::{CopyOptions, CopySource, CopyTarget, LayoutPlace, copy};
pub use differences::{ChangeKind, Differences, Field, FileChange, Strictness, differences};
pub use foresight::{Foreseen, foresee, planned};
pub use outline::{Outline, Target, Wanted, outline, targets};
pub use outputs::{FilesForm, Output, OutputKind, PushBy, Split};
pub use pull::pull_image;
pub use stored::{PushForm, push_stored};

use crate::cache::Cache;
use crate::cache::remote::{CacheTarget, Place, Remote};
use crate::diagnostic::{Color, Diagnostic, Severity, Source, Span};
use crate::digest::{Digest, Frame};
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::{self, Parsed};
use crate::executor::{
    Aftermath, Contexts, DefaultNetwork, ExecuteError, ExecuteOptions, FailedRun, Layers, Materials, Namespace,
    PLACEHOLDER, Purpose, ResolvedBase, Services, Times, execute, private_network,
};
use crate::export::ExportError;
use crate::image::config::ImageConfig;
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::plan::{self, BaseKey, Plan};
use crate::progress::{Outcome, Progress};
use crate::registry::copy::CopyError;
use crate::registry::{Client, RegistryError};
use crate::sandbox::Cancel;
use crate::sandbox::check_architecture;
use crate::sbom;
use crate::sign::SigningKey;
use crate::store::{Store, StoreError};

/// What one build is about.
pub struct Build<'a> {
    /// The Dockerfile.
    pub source: &'a Source,
    /// What makes this build another one than others when misses are explained: context and Dockerfile by path.
    pub scope: String,
    /// What the command line says about the plan.
    pub options: plan::Options,
    /// The platforms to build for; of several, images under one index come out.
    pub platforms: Vec<Platform>,
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
    /// Caches elsewhere that steps may come from, in the order in which they are asked.
    pub cache_from: Vec<Place>,
    /// A cache mount whose tar has more bytes is not taken from these.
    pub mounts_limit: u64,
    /// Caches that get what this build has.
    pub cache_to: Vec<CacheTarget>,
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
    /// Whether files of new layers may be later than the build's own time.
    pub times: FileTimes,
    /// Whether steps keep their layers.
    pub layering: Layering,
    /// What is done when a RUN has failed, while all that it had is still there.
    pub on_failure: Option<&'a OnFailure<'a>>,
    /// What is to be said about the images.
    pub attestations: Attestations,
    /// Keys that sign what is pushed.
    pub signing_keys: Vec<SigningKey>,
    /// How warnings are drawn.
    pub color: Color,
}

/// Looks at a RUN that failed.
pub type OnFailure<'a> = dyn Fn(&FailedRun, &Namespace) + Sync + 'a;

/// What becomes of the times of files in new layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileTimes {
    /// They stay.
    #[default]
    Keep,
    /// `rewrite-timestamp=true`: those later than `SOURCE_DATE_EPOCH` become that.
    Rewrite,
    /// `--reproducible`: those of all that the build made become the moment that dates it, and there always is one.
    Reproducible,
}

/// How the layers of an image come from its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layering {
    /// One for each step that changes files.
    #[default]
    PerStep,
    /// One above those of the base image (`--squash`).
    Squashed,
}

/// What a build made.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image's id: the digest of its config; of several images, that of their index.
    pub id: Digest,
    /// The config, where there is one image.
    pub config: Option<Digest>,
    /// The manifest, where an output wrote one; the index, where there are several images.
    pub manifest: Option<Descriptor>,
    /// How each image came to be, by platform, as far as a metadata file shall say it.
    pub provenance: BTreeMap<String, serde_json::Value>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong; at least one of the diagnostics is an error.
    #[error("the Dockerfile has errors")]
    Dockerfile(Vec<Diagnostic>),
    /// The Dockerfile wants rules to be kept (`# check=error=true`) that are not.
    #[error("lint violation found for rules: {}", rules.join(", "))]
    Lint {
        /// The rules.
        rules: Vec<String>,
    },
    /// `BUILDKIT_DOCKERFILE_CHECK` cannot be read.
    #[error("read BUILDKIT_DOCKERFILE_CHECK: {0}")]
    CheckOptions(#[source] dockerfile::lint::CheckError),
    /// A base image of the Dockerfile cannot be had.
    #[error("resolve base image {name}")]
    BaseOf {
        /// The image.
        name: String,
        /// The place that asks for it.
        span: Span,
        /// A stage that may be meant.
        stage: Option<String>,
        /// Why.
        #[source]
        source: Box<bases::BaseError>,
    },
    /// An image cannot be had.
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
    /// A cache that had to be written could not be.
    #[error("write cache {name}")]
    Cache {
        /// The cache.
        name: String,
        /// Why.
        #[source]
        source: Box<CacheFailure>,
    },
    /// Not all is known of what was built from, and it has to be (`complete-materials=true`).
    #[error(
        "provenance materials are incomplete: the build reads {} of this machine, whose content nobody else can look up",
        locals.join(", ")
    )]
    IncompleteMaterials {
        /// What was read, by name.
        locals: Vec<String>,
    },
    /// The software in an image could not be listed.
    #[error(transparent)]
    Sbom(#[from] sbom::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

/// Builds an image.
///
/// # Errors
/// The first thing that went wrong; of a Dockerfile's mistakes all are told at once, before anything runs.
pub fn build(build: &Build<'_>) -> Result<Built, BuildError> {
    let (prepared, remote) = build.prepare_with_caches(Commands::Run)?;
    let Prepared { plan, layers, .. } = &prepared;
    if !plan.steps.iter().any(|step| matches!(step.op, plan::Op::Run(_))) {
        build.namespace.expect_no_commands();
    }
    prepared.check_network()?;
    prepared.check_architectures()?;
    loop {
        let error = match build.attempt(&prepared, &remote) {
            Ok(built) => return Ok(built),
            Err(error) => error,
        };
        // What a cache promised and does not have is made here instead.
        if !build.give_up_broken(&error, layers, &remote)? {
            return Err(error);
        }
    }
}

/// Whether a RUN that is not in the cache will be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commands {
    Run,
    Leave,
}

/// A build of which all is known that can be known before a step is looked at.
struct Prepared<'a> {
    plan: Plan,
    bases: BTreeMap<BaseKey, ResolvedBase>,
    layers: Layers<'a>,
    options: ExecuteOptions,
    aftermath: Aftermath,
    materials: Materials,
    started: SystemTime,
}

impl Prepared<'_> {
    /// A network that cannot be had is told before anything runs.
    fn check_network(&self) -> Result<(), BuildError> {
        let needs = |op: &plan::Op| matches!(op, plan::Op::Run(run) if run.network == plan::Network::Default);
        match self.options.network {
            DefaultNetwork::Private(tool) if self.plan.steps.iter().any(|step| needs(&step.op)) => {
                private_network(tool).map(drop).map_err(BuildError::Execute)
            }
            DefaultNetwork::Private(_) | DefaultNetwork::Host => Ok(()),
        }
    }

    /// An image whose programs do not run here is told before anything runs.
    fn check_architectures(&self) -> Result<(), BuildError> {
        let runs = self.plan.steps.iter().filter(|step| matches!(step.op, plan::Op::Run(_)));
        let mut names: BTreeSet<String> = runs.map(|step| self.architecture(step)).collect();
        // Programs of this one's own processor run, as it does; trying one takes a tenth of a build that changes nothing.
        names.remove(&Platform::host().architecture);
        for name in names {
            check_architecture(&name).map_err(|error| BuildError::Execute(ExecuteError::NoSandbox(Arc::new(error))))?;
        }
        Ok(())
    }

    /// Whose programs a step's root file system holds.
    fn architecture(&self, step: &plan::Step) -> String {
        let mut step = step;
        while let Some(parent) = step.parent {
            step = &self.plan.steps[parent.index()];
        }
        match &step.op {
            plan::Op::Base(key) => {
                self.bases.get(key).map_or_else(String::new, |base| base.config.architecture.clone())
            }
            plan::Op::Scratch(platform) => platform.architecture.clone(),
            // Nothing else continues nothing.
            plan::Op::Run(_) | plan::Op::Copy(_) | plan::Op::Workdir(_) => String::new(),
        }
    }

    fn services<'b>(
        &'b self,
        build: &'b Build<'_>,
        remote: &'b Remote,
        cancel: &'b Cancel,
        purpose: Purpose<'b>,
    ) -> Services<'b> {
        Services {
            remote,
            layers: &self.layers,
            cache: Cache::new(build.store, Frame::new("rbuild.scope.1").text("scope", &build.scope).finish()),
            contexts: build.contexts,
            bases: &self.bases,
            materials: &self.materials,
            progress: build.progress,
            cancel,
            options: &self.options,
            purpose,
            aftermath: build.on_failure.map(|_| &self.aftermath),
        }
    }
}

impl Build<'_> {
    /// Carries the plan out, as far as caches keep what they promise.
    fn attempt(&self, prepared: &Prepared<'_>, remote: &Remote) -> Result<Built, BuildError> {
        let Prepared { plan, layers, .. } = prepared;
        // A step that fails stops the others of this attempt, not of the next.
        let cancel = self.cancel.nested();
        let services = prepared.services(self, remote, &cancel, Purpose::Build);
        let steps = execute(plan, &services).inspect_err(|error| {
            if let (Some(look), Some(failed)) = (self.on_failure, prepared.aftermath.take(error)) {
                look(&failed, self.namespace);
            }
        })?;
        self.contexts.save();
        let mut images = self.assemble(plan, &steps, layers, remote)?;
        let provenance = self.attest(prepared, &steps, &mut images)?;
        let index = self.name(&images, layers)?;
        let built = self.export(&images, index, layers).inspect_err(|_| {
            // The image has its name: what could not be pushed now can be later, if its layers can be had. Where not, the
            // first failure is the one to tell.
            if !self.cancel.is_cancelled() {
                self.fetch_promised(images.iter().flat_map(|image| &image.layers), layers).ok();
            }
        })?;
        self.export_caches(plan, layers, remote)?;
        Ok(Built { provenance, ..built })
    }

    /// Parses, resolves the bases and plans.
    fn prepare(&self, commands: Commands) -> Result<Prepared<'_>, BuildError> {
        let started = SystemTime::now();
        let (dockerfile, warnings) = self.load_dockerfile()?;
        let layers = self.with_early_uploads(Layers::new(self.store, self.registry, self.namespace));
        let dated = self.dated(&dockerfile)?;
        if commands == Commands::Run {
            self.check_commands_before_pulling(&dockerfile, &dated, &layers)?;
        }
        let variants = self.variants(&dated);
        let bases = self.resolve_bases(&dockerfile, &variants, &layers)?;
        let plan = self.plan(&dockerfile, &variants, warnings, &bases)?;
        let mut options = self.execute.clone();
        if let Some(epoch) = plan.epoch {
            options.epoch = epoch;
            options.created = Some(epoch);
        }
        if self.times == FileTimes::Reproducible {
            // The moment comes into the image at the end; a cached step was made with another.
            options.epoch = PLACEHOLDER;
            options.created = None;
            options.times = Times::Steady;
        }
        // What is written anew for its times is compressed then, and not before.
        if self.times == FileTimes::Keep || plan.epoch.is_none() {
            options.blob = options.blob.or_else(|| self.outputs.iter().find_map(Output::blob_form));
        }
        let (aftermath, materials) = (Aftermath::default(), Materials::default());
        Ok(Prepared { plan, bases, layers, options, aftermath, materials, started })
    }

    /// The options for each platform.
    fn variants(&self, options: &plan::Options) -> Vec<plan::Options> {
        if self.platforms.len() < 2 {
            return vec![options.clone()];
        }
        let variant = |platform: &Platform| plan::Options {
            platform: Some(platform.clone()),
            titles: plan::Titles::WithPlatform,
            ..options.clone()
        };
        self.platforms.iter().map(variant).collect()
    }

    /// The Dockerfile, and what the parser warns of.
    fn load_dockerfile(&self) -> Result<(Dockerfile, Vec<Diagnostic>), BuildError> {
        let task = self.progress.task(format!("[internal] load build definition from {}", self.source.name));
        task.start();
        let Parsed { dockerfile, diagnostics } = self.parsed();
        let (errors, warnings) = checks::split(diagnostics);
        if errors.is_empty() {
            task.end(Outcome::Done);
            return Ok((dockerfile, warnings));
        }
        task.end(Outcome::Failed("the Dockerfile has errors".to_owned()));
        self.warn_parsed(&dockerfile, warnings);
        Err(BuildError::Dockerfile(errors))
    }

    fn parsed(&self) -> Parsed {
        let mut parsed = dockerfile::parse(self.source);
        if parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
            && let Some(foreign) = plan::refused_frontend(&parsed.dockerfile.directives, &self.options)
        {
            // What is written in another language has no errors of this one.
            parsed.diagnostics = vec![foreign];
        }
        parsed
    }

    fn plan(
        &self,
        dockerfile: &Dockerfile,
        variants: &[plan::Options],
        warnings: Vec<Diagnostic>,
        bases: &BTreeMap<BaseKey, ResolvedBase>,
    ) -> Result<Plan, BuildError> {
        let configs: BTreeMap<BaseKey, ImageConfig> =
            bases.iter().map(|(key, base)| (key.clone(), base.config.clone())).collect();
        let mut plans = Vec::new();
        for options in variants {
            match plan::plan(dockerfile, options, &configs) {
                Ok(plan) => plans.push((options.target_platform().clone(), plan)),
                Err(diagnostics) => {
                    self.warn_parsed(dockerfile, warnings);
                    return Err(BuildError::Dockerfile(diagnostics));
                }
            }
        }
        let nothing = || ExecuteError::Internal("there is no platform to build for".to_owned());
        let mut plan = plan::join(plans).ok_or_else(nothing)?;
        self.warn(dockerfile, warnings, &mut plan)?;
        Ok(plan)
    }
}
