//! What there is to say about a Dockerfile: warnings of the parser, of the plan, and of what the context leaves out.

use super::{Build, BuildError};
use crate::diagnostic::{Diagnostic, Severity, Span, did_you_mean};
use crate::dockerfile::Parsed;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::lint::{self, CheckOptions};
use crate::executor::{Layers, NoCache};
use crate::plan::{self, CopyInstruction, Plan};

/// What checking found.
#[derive(Debug)]
pub struct Checked {
    /// The warnings, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// Rules that the Dockerfile wants to be kept, and that are not.
    pub violated: Vec<String>,
    /// Why nothing more can be said.
    pub failure: Option<BuildError>,
}

/// Says what there is to say about the target, or about all stages where none is given, without running anything.
///
/// # Errors
/// `BUILDKIT_DOCKERFILE_CHECK` cannot be read. Whatever else goes wrong is part of the answer.
pub fn check(build: &Build<'_>) -> Result<Checked, BuildError> {
    let Parsed { dockerfile, diagnostics } = build.parsed();
    let options = build.check_options(&dockerfile)?;
    let (errors, mut warnings) = split(diagnostics);
    let failure = match errors.is_empty() {
        true => build.check_plan(&dockerfile, &mut warnings).err(),
        false => Some(BuildError::Dockerfile(errors)),
    };
    // Without a rule it is about the command line.
    warnings.retain(|warning| warning.rule.is_some());
    Ok(Checked { failure, ..filtered(warnings, &options) })
}

/// The errors, and the rest.
pub(super) fn split(diagnostics: Vec<Diagnostic>) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
    diagnostics.into_iter().partition(|diagnostic| diagnostic.severity == Severity::Error)
}

fn filtered(mut warnings: Vec<Diagnostic>, options: &CheckOptions) -> Checked {
    warnings.sort_by_key(|warning| warning.span);
    let warnings = lint::filter(warnings, options);
    let mut violated: Vec<String> = Vec::new();
    if options.error {
        violated.extend(warnings.iter().filter_map(|warning| warning.rule).map(str::to_owned));
        violated.sort();
        violated.dedup();
    }
    Checked { warnings, violated, failure: None }
}

impl Build<'_> {
    /// What only the plan knows, of the stages that are asked for.
    fn check_plan(&self, dockerfile: &Dockerfile, warnings: &mut Vec<Diagnostic>) -> Result<(), BuildError> {
        let layers = Layers::new(self.store, self.registry, self.namespace);
        let scope = if self.options.target.is_some() { plan::Scope::Target } else { plan::Scope::EveryStage };
        let options = plan::Options { scope, ..self.options.clone() };
        let planned = self.resolve_bases(dockerfile, std::slice::from_ref(&options), &layers).and_then(|bases| {
            let configs = bases.iter().map(|(key, base)| (key.clone(), base.config.clone())).collect();
            plan::plan(dockerfile, &options, &configs).map_err(BuildError::Dockerfile)
        });
        let plan = planned.map_err(|error| match error {
            BuildError::Dockerfile(diagnostics) => {
                let (errors, more) = split(diagnostics);
                warnings.extend(more);
                BuildError::Dockerfile(errors)
            }
            error => error,
        })?;
        if scope == plan::Scope::Target {
            warnings.retain(|warning| is_needed(warning.span, &plan));
        }
        warnings.extend(self.ignored_files(&plan));
        warnings.extend(plan.warnings);
        Ok(())
    }

    /// `BUILDKIT_DOCKERFILE_CHECK` where it is given, else what the file says.
    fn check_options(&self, dockerfile: &Dockerfile) -> Result<CheckOptions, BuildError> {
        const NAME: &str = "BUILDKIT_DOCKERFILE_CHECK";
        let options = match self.options.build_args.get(NAME).filter(|text| !text.is_empty()) {
            Some(text) => CheckOptions::parse(text).map_err(BuildError::CheckOptions)?,
            None => match &dockerfile.directives.check {
                Some(check) => CheckOptions::parse(&check.value).map_err(|error| {
                    let error = Diagnostic::error(check.span, format!("failed to parse check options: {error}"));
                    let help = "it takes skip=RULE,…, error=true and experimental=RULE,… with ; between them";
                    BuildError::Dockerfile(vec![error.help(help)])
                })?,
                None => CheckOptions::default(),
            },
        };
        for (name, meant) in options.unknown_rules() {
            let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            self.progress.notice(format!("there is no check {name:?}{meant}"));
        }
        Ok(options)
    }

    /// Shows the warnings of a build, those of the parser about stages that the result does not need left out.
    pub(super) fn warn(
        &self,
        dockerfile: &Dockerfile,
        parsed: Vec<Diagnostic>,
        plan: &mut Plan,
    ) -> Result<(), BuildError> {
        let options = self.check_options(dockerfile)?;
        self.tell_of_unknown_stages(dockerfile);
        let mut warnings: Vec<Diagnostic> =
            parsed.into_iter().filter(|warning| is_needed(warning.span, plan)).collect();
        warnings.extend(self.ignored_files(plan));
        warnings.append(&mut plan.warnings);
        let checked = filtered(warnings, &options);
        self.show(checked.warnings);
        match checked.violated.is_empty() {
            true => Ok(()),
            false => Err(BuildError::Lint { rules: checked.violated }),
        }
    }

    /// A name of `--no-cache-filter` that no stage has does nothing, as in BuildKit; whoever wrote it meant another.
    fn tell_of_unknown_stages(&self, dockerfile: &Dockerfile) {
        let NoCache::Stages(wanted) = &self.execute.no_cache else { return };
        let named = dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
        let stages: Vec<&str> = named.map(|name| name.value.as_str()).collect();
        for name in wanted.iter().filter(|name| !stages.iter().any(|stage| stage.eq_ignore_ascii_case(name))) {
            self.progress.notice(unknown_stage(name, &stages));
        }
    }

    /// Shows what the parser said, where the plan failed.
    pub(super) fn warn_parsed(&self, dockerfile: &Dockerfile, parsed: Vec<Diagnostic>) {
        let options = self.check_options(dockerfile).unwrap_or_default();
        self.show(lint::filter(parsed, &options));
    }

    fn show(&self, warnings: Vec<Diagnostic>) {
        for warning in warnings {
            let rendered = self.source.render(&warning, self.color);
            self.progress.warning(warning, rendered);
        }
    }

    /// COPY and ADD of what the ignore rules leave out.
    fn ignored_files(&self, plan: &Plan) -> Vec<Diagnostic> {
        let ignored = plan.context_paths.iter().filter(|read| self.contexts.main.leaves_out(&read.path));
        let warning = |read: &plan::ContextPath| {
            let keyword = match read.instruction {
                CopyInstruction::Copy => "Copy",
                CopyInstruction::Add => "Add",
            };
            lint::copy_ignored_file(read.span, keyword, &read.path)
        };
        ignored.map(warning).collect()
    }
}

fn unknown_stage(name: &str, stages: &[&str]) -> String {
    let there_are = match stages {
        [] => "; no stage of this Dockerfile has a name".to_owned(),
        stages => match did_you_mean(name, stages.iter().copied()) {
            Some(meant) => format!("; did you mean {meant}? The named stages: {}", stages.join(", ")),
            None => format!("; the named stages: {}", stages.join(", ")),
        },
    };
    format!("--no-cache-filter: there is no stage {name:?}, so nothing is built anew for it{there_are}")
}

/// Whether a place is in no stage, or in one that the result needs.
fn is_needed(place: Span, plan: &Plan) -> bool {
    let stage = plan.stages.iter().rev().find(|stage| stage.span.start <= place.start);
    stage.is_none_or(|stage| stage.step.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_is_not_there_is_answered_with_those_that_are() {
        let start = "--no-cache-filter: there is no stage \"biuld\", so nothing is built anew for it";
        for (stages, rest) in [
            (&["build", "test"][..], "; did you mean build? The named stages: build, test"),
            (&["one"], "; the named stages: one"),
            (&[], "; no stage of this Dockerfile has a name"),
        ] {
            assert_eq!(unknown_stage("biuld", stages), format!("{start}{rest}"));
        }
    }
}
