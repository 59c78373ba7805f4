//! The walk over the stages: which stage starts from what, each stage planned when something first asks for it.
//!
//! A stage whose base config is not known yet is walked all the same, on a placeholder: what it names plainly can be
//! resolved in the same round. Nothing that hangs on the missing config is reported then.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::args::{self, BuildArgs, Globals};
use super::epoch;
use super::frontend::refused_frontend;
use super::graph;
use super::stage::{StageState, Walk};
use super::stages::{Header, Origin, headers};
use super::{
    Argument, BaseKey, ContextPath, HistoryEntry, Op, Options, Plan, Scope, StageResult, StageSummary, Step, StepId,
};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};
use crate::dockerfile::ast::Dockerfile;
use crate::image::config::{ImageConfig, RootFs};

/// A token: the error is recorded already, the rest of the instruction is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported;

/// What a walk found out.
pub(super) struct Outcome {
    /// The plan without its warnings; none where no target could be planned.
    pub(super) plan: Option<Plan>,
    /// Errors and warnings, in the order of the file.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The base configs that were not given, in the order of first use, each with the place that needs it.
    pub(super) missing: Vec<(BaseKey, Span)>,
    /// The stages that the target reaches, as far as is known.
    pub(super) reached: Vec<usize>,
}

enum Progress {
    NotStarted,
    Running,
    Done(Rc<StageState>),
}

/// A step that continues nothing.
struct Root {
    op: Op,
    step: StepId,
    /// The first stage of the file that starts from it; none where it is only copied from.
    stage: Option<usize>,
}

/// All that the walk knows.
pub(super) struct Planner<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) options: &'a Options,
    bases: &'a BTreeMap<BaseKey, ImageConfig>,
    pub(super) build_args: BuildArgs,
    pub(super) globals: Globals,
    pub(super) headers: Vec<Header>,
    pub(super) steps: Vec<Step>,
    /// Scratch and images, each one step however many use it.
    roots: Vec<Root>,
    progress: Vec<Progress>,
    missing: Vec<(BaseKey, Span)>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// ARGs of the stages that were planned, and those before the first FROM that they use.
    pub(super) arguments: Vec<Argument>,
    /// What was read from the build context.
    pub(super) context_paths: Vec<ContextPath>,
    /// ARGs that triggers of base images declared.
    pub(super) fired_args: BTreeSet<String>,
    /// How many ports EXPOSE named, each time counted.
    pub(super) exposed_ports: usize,
    /// The moment that dates the build.
    epoch: Option<i64>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a Options,
        bases: &'a BTreeMap<BaseKey, ImageConfig>,
    ) -> Planner<'a> {
        let mut build_args = BuildArgs::new(options);
        let mut diagnostics = Vec::new();
        let mut globals = Globals::evaluate(dockerfile, options, &build_args, &mut diagnostics);
        let epoch = epoch::moment(dockerfile, options, &build_args, &globals, &mut diagnostics);
        build_args.date(epoch);
        globals.date(epoch);
        let headers = headers(dockerfile, options, &globals, &mut diagnostics);
        Planner {
            dockerfile,
            options,
            bases,
            build_args,
            globals,
            headers,
            steps: Vec::new(),
            roots: Vec::new(),
            progress: dockerfile.stages.iter().map(|_| Progress::NotStarted).collect(),
            missing: Vec::new(),
            diagnostics,
            arguments: Vec::new(),
            context_paths: Vec::new(),
            fired_args: BTreeSet::new(),
            exposed_ports: 0,
            epoch,
        }
    }

    /// The ARGs before the first FROM that the stages that were planned use.
    fn used_globals(&self) -> Vec<Argument> {
        let mut used: BTreeSet<String> = self.arguments.iter().map(|argument| argument.name.clone()).collect();
        for (stage, progress) in self.dockerfile.stages.iter().zip(&self.progress) {
            if !matches!(progress, Progress::NotStarted) {
                let words = std::iter::once(&stage.base).chain(&stage.platform);
                used.extend(words.flat_map(|word| args::variables(word, self.dockerfile.directives.escape)));
            }
        }
        args::used_globals(self.dockerfile, &self.build_args, &self.globals, used)
    }

    pub(super) fn run(mut self) -> Outcome {
        self.diagnostics.extend(refused_frontend(&self.dockerfile.directives, self.options));
        let target = self.target().ok();
        let state = target.map(|target| self.reachable(target));
        self.arguments.splice(..0, self.used_globals());
        let summaries = self.summaries();
        if self.options.scope == Scope::EveryStage {
            for index in 0..self.dockerfile.stages.len() {
                self.stage(index, self.dockerfile.stages[index].span);
            }
        }
        if self.missing.is_empty() {
            let warning = self.build_args.unconsumed(self.options, self.dockerfile, &self.fired_args);
            self.diagnostics.extend(warning);
        }
        let result = state.map(|state| self.result(&state));
        let plan = result.map(|result| {
            graph::prune(Plan {
                steps: self.steps,
                result,
                others: Vec::new(),
                warnings: Vec::new(),
                stages: summaries,
                arguments: self.arguments,
                context_paths: self.context_paths,
                epoch: self.epoch,
            })
        });
        let is_reached = |progress: &Progress| !matches!(progress, Progress::NotStarted);
        let stages = self.progress.iter().enumerate();
        let reached = stages.filter(|(_, progress)| is_reached(progress)).map(|(stage, _)| stage).collect();
        Outcome { plan, diagnostics: in_order(self.diagnostics), missing: self.missing, reached }
    }

    /// Plans a stage, those that it plainly depends on first: in the order of the file, and without recursion however
    /// long the chain is. What only variables and triggers name is planned when it comes up.
    fn reachable(&mut self, target: usize) -> Rc<StageState> {
        let is_walked = |stage: usize| self.headers[stage].stand_in.is_none();
        let depends = |from: usize, to: usize| to < from && is_walked(from) && is_walked(to);
        for index in self.reached(target, depends) {
            self.stage(index, self.dockerfile.stages[index].span);
        }
        self.stage(target, self.dockerfile.stages[target].span)
    }

    /// The stage to build.
    fn target(&mut self) -> Result<usize, Reported> {
        let Some(wanted) = &self.options.target else {
            return self.dockerfile.stages.len().checked_sub(1).ok_or_else(|| {
                self.diagnostics.push(Diagnostic::error(Span::default(), "dockerfile contains no stages to build"));
                Reported
            });
        };
        if let Some(index) = self.stage_named(wanted) {
            return Ok(index);
        }
        let names: Vec<&str> = self.headers.iter().filter_map(|header| header.name.as_deref()).collect();
        let message = format!("target stage {wanted:?} could not be found");
        let diagnostic = match did_you_mean(wanted, names.iter().copied()) {
            Some(meant) => {
                let index = self.headers.iter().position(|header| header.name.as_deref() == Some(meant));
                let name = index.and_then(|index| self.dockerfile.stages[index].name.as_ref());
                Diagnostic::error(name.map_or(Span::default(), |name| name.span), message)
                    .help(format!("did you mean {meant}?"))
            }
            None if names.is_empty() => Diagnostic::error(Span::default(), message).help("no stage has a name"),
            None => Diagnostic::error(Span::default(), message).help(format!("the stages are: {}", names.join(", "))),
        };
        self.diagnostics.push(diagnostic);
        Err(Reported)
    }

    /// The last stage of a name, in any case.
    pub(super) fn stage_named(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.headers.iter().rposition(|header| header.name.as_deref() == Some(name.as_str()))
    }

    /// The stage's name as titles and messages show it.
    pub(super) fn stage_title(&self, index: usize) -> String {
        self.headers[index].name.clone().unwrap_or_else(|| format!("stage-{index}"))
    }

    /// Plans a stage, or finds it planned; `span` is what asked for it.
    pub(super) fn stage(&mut self, index: usize, span: Span) -> Rc<StageState> {
        match &self.progress[index] {
            Progress::Done(state) => return Rc::clone(state),
            Progress::Running => {
                let message = format!("circular dependency detected on stage: {}", self.stage_title(index));
                self.diagnostics.push(Diagnostic::error(span, message));
                let state = self.placeholder(span, index);
                return Rc::new(state);
            }
            Progress::NotStarted => self.progress[index] = Progress::Running,
        }
        let state = Rc::new(Walk::start(self, index).finish());
        self.progress[index] = Progress::Done(Rc::clone(&state));
        state
    }

    /// The state that an image gives; a placeholder where its config is not known.
    pub(super) fn image(&mut self, key: &BaseKey, span: Span, stage: usize) -> StageState {
        let step = self.root(Op::Base(key.clone()), span, stage);
        match self.bases.get(key) {
            Some(config) => StageState::of_image(step, config),
            None => {
                if !self.missing.iter().any(|(missing, _)| missing == key) {
                    self.missing.push((key.clone(), span));
                }
                StageState { step, ..self.placeholder(span, stage) }
            }
        }
    }

    /// What stands in for a stage that is not known: nothing that hangs on its config is reported.
    pub(super) fn placeholder(&mut self, span: Span, stage: usize) -> StageState {
        let step = self.root(Op::Scratch(self.options.target_platform().clone()), span, stage);
        StageState { is_known: false, ..StageState::of_nothing(step, self.options.target_platform()) }
    }

    /// The step that starts from nothing or from an image, planned once.
    pub(super) fn root(&mut self, op: Op, span: Span, stage: usize) -> StepId {
        if let Some(root) = self.roots.iter().find(|root| root.op == op) {
            return root.step;
        }
        let title = match &op {
            Op::Base(key) => format!("FROM {}", key.source),
            _ => "FROM scratch".to_owned(),
        };
        let id = self.push(Step {
            id: StepId::new(self.steps.len()),
            title,
            span,
            stage,
            op: op.clone(),
            parent: None,
            inputs: Vec::new(),
            ignore_cache_name: self.headers.get(stage).and_then(|header| header.name.clone()),
            platforms: Vec::new(),
        });
        self.roots.push(Root { op, step: id, stage: None });
        id
    }

    /// Gives a root to the first stage of the file that starts from it, whichever was planned first.
    pub(super) fn claim(&mut self, step: StepId, stage: usize) {
        let root = self.roots.iter_mut().find(|root| root.step == step);
        let Some(root) = root.filter(|root| root.stage.is_none_or(|owner| stage < owner)) else { return };
        root.stage = Some(stage);
        let step = &mut self.steps[step.index()];
        step.stage = stage;
        step.span = self.dockerfile.stages[stage].span;
        step.ignore_cache_name.clone_from(&self.headers[stage].name);
    }

    pub(super) fn push(&mut self, step: Step) -> StepId {
        let id = step.id;
        debug_assert_eq!(id.index(), self.steps.len(), "a step's id is its index");
        self.steps.push(step);
        id
    }

    /// The step of a root file system that is only read: a stage, an image, nothing.
    pub(super) fn read_only(&mut self, origin: &Origin, span: Span, stage: usize) -> StepId {
        match origin {
            Origin::Stage(index) => self.stage(*index, span).step,
            Origin::Image(key) => self.image(key, span, stage).step,
            Origin::Scratch | Origin::Context(_) => {
                self.root(Op::Scratch(self.options.target_platform().clone()), span, stage)
            }
        }
    }

    fn summaries(&self) -> Vec<StageSummary> {
        let summary = |(index, progress): (usize, &Progress)| StageSummary {
            name: self.stage_title(index),
            span: self.dockerfile.stages[index].span,
            step: match progress {
                Progress::Done(state) => Some(state.step),
                _ => None,
            },
            scan: match progress {
                Progress::Done(state) => args::scans(&self.stage_title(index), &state.args, &self.globals),
                _ => Vec::new(),
            },
        };
        self.progress.iter().enumerate().map(summary).collect()
    }

    /// The target's state as an image: platform forced where one is asked for, the command line's labels last.
    fn result(&self, state: &StageState) -> StageResult {
        let mut config = state.config.clone();
        config.created = None;
        config.rootfs = RootFs::default();
        config.config.labels.extend(self.options.labels.clone());
        if let Some(platform) = &self.options.platform {
            let is_same = platform.os == config.os && platform.architecture == config.architecture;
            config.os.clone_from(&platform.os);
            config.architecture.clone_from(&platform.architecture);
            if !platform.variant.is_empty() || !is_same {
                config.variant.clone_from(&platform.variant);
            }
            if !platform.os_version.is_empty() || !is_same {
                config.os_version.clone_from(&platform.os_version);
            }
        }
        let history = state.history.iter().map(|entry| HistoryEntry::clone(entry)).collect();
        StageResult { step: state.step, config, history }
    }
}

/// By place, each once: a trigger that fires twice says the same thing twice.
fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| diagnostic.span);
    let mut unique: Vec<Diagnostic> = Vec::new();
    for diagnostic in diagnostics {
        // They are sorted: what is the same stands at the same place.
        let mut at_place = unique.iter().rev().take_while(|known| known.span == diagnostic.span);
        if !at_place.any(|known| *known == diagnostic) {
            unique.push(diagnostic);
        }
    }
    unique
}
