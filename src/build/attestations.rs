//! What is said about the images of a build: how they came to be, and what software is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::assemble::Assembled;
use super::outputs::observed;
use super::provenance::Circumstances;
use super::{Build, BuildError, Prepared, contents};
use crate::attest::provenance::{Facts, Materials, Mode, Options, attestation, for_metadata};
use crate::attest::{Attestation, Attested, Reach, SPDX};
use crate::digest::Digest;
use crate::executor::{Context, Packing, StepOutput};
use crate::image::time::seconds;
use crate::plan::{Plan, SbomScan, StageResult, StepId};
use crate::progress::Task;
use crate::sbom::{Document, Subject, SubjectKind, TreeFiles};

/// What is to be said about the images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attestations {
    /// How they came to be.
    pub provenance: Option<Options>,
    /// What software is in them.
    pub software: Software,
    /// How much of the provenance is given to whoever called, for a metadata file.
    pub metadata: Option<Mode>,
}

/// Whether the software in the images is listed. They are always looked through; other stages and the context are where
/// the Dockerfile or a build argument says so (`BUILDKIT_SBOM_SCAN_STAGE`, `BUILDKIT_SBOM_SCAN_CONTEXT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Software {
    /// It is not.
    #[default]
    Untold,
    /// It is.
    Listed,
}

/// Whether a provenance tells steps.
pub(super) fn tells_steps(options: &Options) -> bool {
    options.mode == Mode::Max
}

impl Attestations {
    /// Whether anything is to be said that lies beside the images.
    pub fn are_wanted(&self) -> bool {
        self.provenance.is_some() || self.software == Software::Listed
    }

    /// Whether anything of how the images came to be is asked for.
    pub fn asks_for_provenance(&self) -> bool {
        self.provenance.is_some() || self.metadata.is_some()
    }
}

impl Build<'_> {
    /// Says about each image what is to be said of it. What a metadata file is to have of it is given back, by platform.
    pub(super) fn attest(
        &self,
        prepared: &Prepared<'_>,
        steps: &[Arc<StepOutput>],
        images: &mut [Assembled],
    ) -> Result<BTreeMap<String, Value>, BuildError> {
        let wanted = &self.attestations;
        let mut metadata = BTreeMap::new();
        if wanted.software == Software::Listed {
            let task = self.progress.task("generating sbom");
            observed(&task, || {
                for (result, image) in prepared.plan.results().zip(images.iter_mut()) {
                    let all = self.software(prepared, steps, result, image, &task)?;
                    image.attested = Attested::Now(all);
                }
                Ok(())
            })?;
        }
        if !wanted.asks_for_provenance() {
            return Ok(metadata);
        }
        let task = self.progress.task("generating provenance");
        observed(&task, || {
            let about = Circumstances::new(prepared, steps)?;
            for (result, image) in prepared.plan.results().zip(images.iter_mut()) {
                let facts = self.facts(&about, result, image, &task)?;
                if let Some(mode) = wanted.metadata {
                    let options = Options { mode, ..wanted.provenance.clone().unwrap_or_default() };
                    metadata.insert(image.config.platform().to_string(), for_metadata(&options, &facts));
                }
                let Some(options) = &wanted.provenance else { continue };
                check_materials(options, &facts)?;
                let mut all = match std::mem::take(&mut image.attested) {
                    Attested::Now(all) => all,
                    Attested::Nothing | Attested::Before(_) => Vec::new(),
                };
                all.push(attestation(options, &facts));
                image.attested = Attested::Now(all);
            }
            Ok(())
        })?;
        Ok(metadata)
    }

    /// The software in an image, and in what else the Dockerfile says.
    fn software(
        &self,
        prepared: &Prepared<'_>,
        steps: &[Arc<StepOutput>],
        result: &StageResult,
        image: &Assembled,
        task: &Task,
    ) -> Result<Vec<Attestation>, BuildError> {
        let id = Digest::of(&image.config.to_bytes());
        let created = image.config.created.as_deref().and_then(seconds).unwrap_or(0);
        let name = self.tags.first().map_or_else(|| id.to_string(), |name| name.with_default_tag().to_string());
        let kind = SubjectKind::Image { id, manifest: None, platform: image.config.platform() };
        let layers = &prepared.layers;
        let document = contents::scan_layers(layers, &image.layers, &Subject { name, kind, created }, task)?;
        let mut all = vec![self.spdx(&document, "sbom")];
        let others = scanned(&prepared.plan, result.step);
        for (name, step) in &others.stages {
            let subject = Subject { name: format!("sbom-{name}"), kind: SubjectKind::Directory, created };
            let names = steps[step.index()].layers.as_deref().unwrap_or_default();
            // A command's layer that no image has was not packed for one.
            layers.pack_all(&layers.not_packed(names)?, Packing::Kept, task)?;
            all.push(self.spdx(&contents::scan_layers(layers, names, &subject, task)?, &subject.name));
        }
        if others.context && !matches!(self.contexts.main, Context::Empty) {
            let subject = Subject { name: "sbom-context".to_owned(), kind: SubjectKind::Directory, created };
            let document = crate::sbom::scan(&TreeFiles::new(self.contexts.main.view()), &subject)?;
            all.push(self.spdx(&document, &subject.name));
        }
        Ok(all)
    }

    /// A document as an attestation. What it could not read it says itself, and the user is told.
    fn spdx(&self, document: &Document, name: &str) -> Attestation {
        for notice in document.notices() {
            self.progress.notice(format!("{name}: {}: {}", notice.path, notice.text));
        }
        Attestation {
            predicate_type: SPDX.to_owned(),
            predicate: self.redaction().apply(document.to_value()),
            file: format!("{name}.spdx.json"),
            reach: Reach::Everywhere,
        }
    }
}

/// What is looked through besides an image.
struct Scanned {
    /// Stages, by name, with the step that makes their files.
    stages: BTreeMap<String, StepId>,
    context: bool,
}

fn scanned(plan: &Plan, last: StepId) -> Scanned {
    let reached = super::provenance::reached(plan, last);
    let of_image: BTreeSet<usize> = BTreeSet::from([plan.step(last).stage]);
    let mut scanned = Scanned { stages: BTreeMap::new(), context: false };
    for (number, stage) in plan.stages.iter().enumerate() {
        // The last of its steps that the image is made of.
        let Some(step) = reached.iter().rev().find(|id| plan.step(**id).stage == number) else { continue };
        scanned.context |= of_image.contains(&number) && stage.scan.contains(&SbomScan::Context);
        if !of_image.contains(&number) && stage.scan.contains(&SbomScan::Stage) {
            scanned.stages.insert(stage.name.clone(), *step);
        }
    }
    scanned
}

/// Where all materials have to be known, what is not is an error.
fn check_materials(options: &Options, facts: &Facts) -> Result<(), BuildError> {
    if options.materials == Materials::Complete && !facts.is_complete() {
        return Err(BuildError::IncompleteMaterials { locals: facts.locals.clone() });
    }
    Ok(())
}
