//! What a build would do: the plan alone, or with what the cache has of it.

use super::{Build, BuildError, Commands, Prepared};
use crate::executor::{Explained, Foresight, Purpose, explain};
use crate::plan::Plan;

/// A plan, and what would become of each of its steps.
#[derive(Debug, Clone)]
pub struct Foreseen {
    /// The plan.
    pub plan: Plan,
    /// Its steps, in its order.
    pub steps: Vec<Explained>,
}

/// Says which steps a build would run, and why, without running any.
///
/// # Errors
/// The Dockerfile is wrong, a base image's config cannot be had, or what is to be copied cannot be read.
pub fn foresee(build: &Build<'_>) -> Result<Foreseen, BuildError> {
    let (prepared, remote) = build.prepare_with_caches(Commands::Leave)?;
    let foresight = Foresight::default();
    let services = prepared.services(build, &remote, build.cancel, Purpose::Explain(&foresight));
    let steps = explain(&prepared.plan, &services, &foresight)?;
    build.contexts.save();
    Ok(Foreseen { steps, plan: prepared.plan })
}

/// The plan of a build. Contexts are not read.
///
/// # Errors
/// The Dockerfile is wrong, or a base image's config cannot be had.
pub fn planned(build: &Build<'_>) -> Result<Plan, BuildError> {
    let Prepared { plan, .. } = build.prepare(Commands::Leave)?;
    Ok(plan)
}
