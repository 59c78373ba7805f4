//! AST + base image configs → the graph of steps to execute and the config of the image that results.
//!
//! Contract: pure and deterministic. The same Dockerfile, [`Options`] and base configs give the same [`Plan`], steps in
//! an order in which each comes after everything it waits for. Everything that is wrong is reported at once, at its
//! place. What runs, what is read and what is cached is decided by others from the [`Op`]s alone; this module must not
//! know of files, registries, caches or clocks.
//!
//! How it goes: [`needs::needs`] is called until it asks for no more base configs, then [`plan`] is called once. Both
//! walk the target's stage and, on demand, each stage that it reaches (`planner`, `stage`); a stage that nothing
//! reaches costs nothing.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::dockerfile::ast::Dockerfile;
pub use crate::dockerfile::mount::{Mount, MountKind, Sharing};
use crate::image::config::{History, ImageConfig};
use crate::image::platform::Platform;

mod args;
mod config;
mod copy;
mod display;
pub mod epoch;
pub mod expand;
mod expose;
mod frontend;
pub mod git;
mod graph;
mod history;
mod join;
pub mod needs;
pub mod options;
mod path;
mod planner;
mod run;
mod signal;
mod stage;
mod stages;
#[cfg(test)]
mod tests;
mod title;

pub use epoch::{Epoch, EpochSource};
pub use frontend::refused_frontend;
pub use git::GitReference;
pub use join::join;
pub use options::{BaseKey, BaseSource, NamedContext, Options, Scope, Titles};

/// What has to be done, and what comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The steps that the result needs, each after everything it waits for; a step's id is its index.
    pub steps: Vec<Step>,
    /// The target's root file system and config.
    pub result: StageResult,
    /// The same for further platforms, where several plans were joined.
    pub others: Vec<StageResult>,
    /// What a user should look at, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// The file's stages, in order.
    pub stages: Vec<StageSummary>,
    /// The ARGs that count for the stages that were planned, those before the first FROM first.
    pub arguments: Vec<Argument>,
    /// What COPY and ADD of the stages that were planned name in the build context.
    pub context_paths: Vec<ContextPath>,
    /// Seconds since 1970 that `SOURCE_DATE_EPOCH` (build argument or global ARG) asks for.
    pub epoch: Option<i64>,
}

/// An ARG, as it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its value, where it has one.
    pub value: Option<String>,
    /// What the comment above it says about it.
    pub description: Option<String>,
    /// Where its name is.
    pub span: Span,
}

/// A path in the build context that an instruction reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextPath {
    /// Which instruction.
    pub instruction: CopyInstruction,
    /// The path or pattern.
    pub path: String,
    /// The instruction's place.
    pub span: Span,
}

/// The number of a step in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(usize);

impl StepId {
    /// Names the step at an index of [`Plan::steps`].
    pub fn new(index: usize) -> StepId {
        StepId(index)
    }

    /// The index in [`Plan::steps`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// A stage of the file, as far as the plan needed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSummary {
    /// The name after AS in lower case, else `stage-N`.
    pub name: String,
    /// Where its FROM is.
    pub span: Span,
    /// The step that makes its root file system; none where the result does not need the stage.
    pub step: Option<StepId>,
    /// What a list of software shall look through because of it.
    pub scan: Vec<SbomScan>,
}

/// What a list of software looks through besides an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SbomScan {
    /// The stage, where it is not the image itself.
    Stage,
    /// The build context.
    Context,
}

/// One node of the graph: an operation on a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its own index.
    pub id: StepId,
    /// What people are shown: `[builder 2/5] RUN make`.
    pub title: String,
    /// The instruction's place; for a trigger of a base image, the place of the FROM that fired it.
    pub span: Span,
    /// The index of the stage that it was planned for.
    pub stage: usize,
    /// What is done.
    pub op: Op,
    /// The root file system that it continues.
    pub parent: Option<StepId>,
    /// All that it waits for, `parent` included, in ascending order.
    pub inputs: Vec<StepId>,
    /// The stage's name in lower case, which `--no-cache-filter` may name.
    pub ignore_cache_name: Option<String>,
    /// Of joined plans, the platforms whose images need the step.
    pub platforms: Vec<Platform>,
}

impl Step {
    /// The title without stage and numbers: what it does.
    pub fn text(&self) -> &str {
        self.title.split_once("] ").map_or(self.title.as_str(), |(_, text)| text)
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Starts from nothing, for a platform.
    Scratch(Platform),
    /// Starts from an image.
    Base(BaseKey),
    /// Runs a command.
    Run(RunOp),
    /// Copies files.
    Copy(CopyOp),
    /// Makes a working directory.
    Workdir(WorkdirOp),
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOp {
    /// The command, with its shell.
    pub args: Vec<String>,
    /// The script that `args` names, to be shown at [`HeredocFile::path`].
    pub heredoc_file: Option<HeredocFile>,
    /// The image's variables and the ARGs, in order.
    pub env: Vec<(String, String)>,
    /// Proxy variables that neither ENV nor ARG sets; seen by the command, but part of no key and no history.
    pub proxy_env: Vec<(String, String)>,
    /// The working directory, absolute.
    pub cwd: String,
    /// USER as written; empty = root.
    pub user: String,
    /// The host name that the command sees.
    pub hostname: String,
    /// The mounts, in order.
    pub mounts: Vec<ResolvedMount>,
    /// `--network=`, else the build's default.
    pub network: Network,
    /// `--security=`.
    pub security: Security,
    /// `--device=`, in order.
    pub devices: Vec<Device>,
    /// Who interprets the command.
    pub form: CommandForm,
    /// The command as messages show it (`process "…" did not complete successfully`).
    pub command_text: String,
}

/// A device that a command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name, as written.
    pub name: String,
    /// Whether the command cannot do without it.
    pub required: bool,
}

/// A here-document that starts with `#!`, which is run as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeredocFile {
    /// The delimiter, which is the file's name.
    pub name: String,
    /// The file's bytes; its mode is 0755.
    pub content: String,
}

impl HeredocFile {
    /// Where the command sees the file, on a read-only mount.
    pub fn path(&self) -> String {
        format!("/dev/pipes/{}", self.name)
    }
}

/// Whether a command goes through the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandForm {
    /// SHELL and the text as its last argument.
    Shell,
    /// The words of a JSON list.
    Exec,
}

/// A mount of RUN, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    /// What was asked for: variables expanded, target absolute, a cache's id filled in.
    pub mount: Mount,
    /// What is mounted.
    pub source: MountSource,
}

/// Where the files of a mount come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// The build context.
    Context,
    /// The root file system of a step (a stage, or an image).
    Step(StepId),
    /// The directory, archive or repository that a `--build-context` names: a key of [`Options::named_contexts`].
    NamedContext(String),
    /// Nothing: a fresh cache, tmpfs, a secret, an agent's socket.
    Empty,
}

/// The network that a command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// What the build gives by default.
    #[default]
    Default,
    /// A loopback device alone.
    None,
    /// The host's.
    Host,
}

/// How far a command is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// The ordinary sandbox.
    #[default]
    Sandbox,
    /// With every privilege that there is.
    Insecure,
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOp {
    /// Which of the two: ADD unpacks archives and fetches.
    pub instruction: CopyInstruction,
    /// Where path sources are looked up.
    pub from: CopyFrom,
    /// What is copied, here-documents last; not empty.
    pub sources: Vec<Source>,
    /// Absolute and clean; ends in `/` where a directory is asked for.
    pub destination: String,
    /// The working directory, absolute.
    pub workdir: String,
    /// `--chown=`, names not looked up.
    pub chown: Option<String>,
    /// `--chmod=`, checked: octal or symbolic.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: Link,
    /// `--parents`.
    pub parents: Parents,
    /// `--exclude=` patterns, as written.
    pub exclude: Vec<String>,
    /// `--checksum=`, for the one URL or git source.
    pub checksum: Option<String>,
    /// `--keep-git-dir`, where given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, where given.
    pub unpack: Option<bool>,
}

/// COPY and ADD differ in what they do with archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyInstruction {
    /// COPY.
    Copy,
    /// ADD.
    Add,
}

/// Whether a copy depends on what lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The destination is looked up in the root file system that it continues.
    Follow,
    /// `--link`: as if copied onto scratch.
    Independent,
}

/// What a copied path is called below the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// Its last component.
    Drop,
    /// `--parents`: all of it, from the `/./` on where there is one.
    Keep,
}

/// Where COPY and ADD look their paths up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFrom {
    /// The build context.
    Context,
    /// The root file system of a step (a stage, or an image).
    Step(StepId),
    /// The directory, archive or repository that a `--build-context` names: a key of [`Options::named_contexts`].
    NamedContext(String),
}

/// One thing to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern as written, variables expanded; relative and absolute mean the same.
    Path(String),
    /// An `http(s)` URL.
    Url(String),
    /// A git repository, with what `--checksum` and `--keep-git-dir` say.
    Git(GitReference),
    /// A here-document, variables expanded.
    Inline {
        /// The delimiter, which is the file's name.
        name: String,
        /// The file's bytes; its mode is 0644.
        content: String,
    },
}

/// WORKDIR, other than to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkdirOp {
    /// Absolute and clean.
    pub path: String,
    /// USER, who owns each directory that is made; empty = root.
    pub user: String,
}

/// What a stage comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct StageResult {
    /// The step that makes the root file system.
    pub step: StepId,
    /// The image's config but for `created` and `rootfs.diff_ids`, which are left out; its history is the base's.
    pub config: ImageConfig,
    /// What the Dockerfile adds to the history, oldest first.
    pub history: Vec<HistoryEntry>,
}

/// A history entry that the Dockerfile adds; its `created` is left to the exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The texts, and `empty_layer`, which is true exactly where `layer` is none.
    pub entry: History,
    /// The step that made the layer.
    pub layer: Option<StepId>,
}

impl Plan {
    /// The step with an id of this plan.
    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0]
    }

    /// What comes out: one result for each platform.
    pub fn results(&self) -> impl Iterator<Item = &StageResult> {
        std::iter::once(&self.result).chain(&self.others)
    }
}

/// Plans the build of the target.
///
/// Fails with every error (and the warnings beside them, in the order of the file), among them one for each base image
/// whose config is not in `bases`.
pub fn plan(
    dockerfile: &Dockerfile,
    options: &Options,
    bases: &BTreeMap<BaseKey, ImageConfig>,
) -> Result<Plan, Vec<Diagnostic>> {
    let outcome = planner::Planner::new(dockerfile, options, bases).run();
    let mut diagnostics = outcome.diagnostics;
    diagnostics.extend(outcome.missing.iter().map(|(key, span)| {
        Diagnostic::error(*span, format!("the config of {key} is not known")).label("not resolved yet")
    }));
    match outcome.plan {
        Some(plan) if !diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) => {
            Ok(Plan { warnings: diagnostics, ..plan })
        }
        _ => Err(diagnostics),
    }
}
