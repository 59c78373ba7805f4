//! Which base images have to be resolved before a plan can be made.

use std::collections::BTreeMap;

use super::{BaseKey, Options, planner};
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::dockerfile::ast::Dockerfile;
use crate::image::config::ImageConfig;

/// Lists the base images reachable from the target whose configs are not in `known`, in the order of first use, each with
/// the place that asks for it.
///
/// Called again with what was resolved until it lists none: the config of a base can bring triggers and variables that
/// name further images. Errors that are certain already are reported before anything is resolved.
pub fn needs(
    dockerfile: &Dockerfile,
    options: &Options,
    known: &BTreeMap<BaseKey, ImageConfig>,
) -> Result<Vec<(BaseKey, Span)>, Vec<Diagnostic>> {
    let outcome = planner::Planner::new(dockerfile, options, known).run();
    if outcome.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(outcome.diagnostics);
    }
    Ok(outcome.missing)
}
