//! What a Dockerfile can be asked for: its targets, and the arguments, secrets and agents of one of them.

use std::collections::BTreeSet;

use super::checks::split;
use super::{Build, BuildError};
use crate::diagnostic::Span;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::mount::MountKind;
use crate::dockerfile::{self, Parsed};
use crate::executor::Layers;
use crate::plan::{self, Argument, Op, Plan};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, in lower case.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// What it starts from, as written.
    pub base: String,
    /// `--platform`, as written.
    pub platform: Option<String>,
    /// Whether it is built where no target is given.
    pub is_default: bool,
    /// Where its FROM is.
    pub span: Span,
}

/// What a target takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Its name.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// The arguments, in the order of the file.
    pub arguments: Vec<Argument>,
    /// Secrets.
    pub secrets: Vec<Wanted>,
    /// Agents.
    pub agents: Vec<Wanted>,
    /// Caches: their ids.
    pub caches: Vec<Wanted>,
}

/// Something that a RUN mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its id.
    pub id: String,
    /// Whether the command fails without it.
    pub required: bool,
    /// The place of the RUN.
    pub span: Span,
}

/// Lists the stages.
///
/// # Errors
/// The Dockerfile is wrong.
pub fn targets(build: &Build<'_>) -> Result<Vec<Target>, BuildError> {
    let dockerfile = parsed(build)?;
    let last = dockerfile.stages.len().saturating_sub(1);
    let target = |(index, stage): (usize, &dockerfile::ast::Stage)| Target {
        name: stage.name.as_ref().map(|name| name.value.to_lowercase()),
        description: stage.doc.clone(),
        base: stage.base.value.clone(),
        platform: stage.platform.as_ref().map(|platform| platform.value.clone()),
        is_default: index == last,
        span: stage.span,
    };
    Ok(dockerfile.stages.iter().enumerate().map(target).collect())
}

/// Says what the target takes.
///
/// # Errors
/// The Dockerfile is wrong, or a base image's config cannot be had.
pub fn outline(build: &Build<'_>) -> Result<Outline, BuildError> {
    let dockerfile = parsed(build)?;
    let layers = Layers::new(build.store, build.registry, build.namespace);
    let bases = build.resolve_bases(&dockerfile, std::slice::from_ref(&build.options), &layers)?;
    let configs = bases.iter().map(|(key, base)| (key.clone(), base.config.clone())).collect();
    let plan = plan::plan(&dockerfile, &build.options, &configs).map_err(BuildError::Dockerfile)?;
    let wanted = build.options.target.as_ref().map(|target| target.to_lowercase());
    let is_target = |stage: &&dockerfile::ast::Stage| {
        wanted.is_none() || stage.name.as_ref().map(|name| name.value.to_lowercase()) == wanted
    };
    let stage = dockerfile.stages.iter().rev().find(is_target);
    Ok(Outline {
        name: stage.and_then(|stage| Some(stage.name.as_ref()?.value.to_lowercase())),
        description: stage.and_then(|stage| stage.doc.clone()),
        arguments: arguments(&plan),
        secrets: mounted(&plan, MountKind::Secret),
        agents: mounted(&plan, MountKind::Ssh),
        caches: mounted(&plan, MountKind::Cache),
    })
}

fn parsed(build: &Build<'_>) -> Result<Dockerfile, BuildError> {
    let Parsed { dockerfile, diagnostics } = build.parsed();
    let (errors, _) = split(diagnostics);
    match errors.is_empty() {
        true => Ok(dockerfile),
        false => Err(BuildError::Dockerfile(errors)),
    }
}

/// Each name once: with what the last declaration gives it, and the description that any of them has.
fn arguments(plan: &Plan) -> Vec<Argument> {
    let mut found: Vec<Argument> = Vec::new();
    for argument in &plan.arguments {
        match found.iter_mut().find(|known| known.name == argument.name) {
            Some(known) => {
                known.value = argument.value.clone().or(known.value.take());
                known.description = known.description.take().or_else(|| argument.description.clone());
            }
            None => found.push(argument.clone()),
        }
    }
    found.sort_by_key(|argument| argument.span);
    found
}

fn mounted(plan: &Plan, kind: MountKind) -> Vec<Wanted> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for step in &plan.steps {
        let Op::Run(run) = &step.op else { continue };
        for mount in run.mounts.iter().map(|resolved| &resolved.mount).filter(|mount| mount.kind == kind) {
            let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
            if seen.insert(id.clone()) {
                found.push(Wanted { id, required: mount.required, span: step.span });
            }
        }
    }
    found.sort_by_key(|wanted| wanted.span);
    found
}
