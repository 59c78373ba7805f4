//! The walk over one stage: what its base gives, its triggers, then its instructions, one by one.
//!
//! [`Walk`] carries the state from instruction to instruction; `run`, `copy` and `config` add the instructions
//! themselves as methods.

use std::rc::Rc;

use super::args::{self, DEFAULT_PATH, DeclaredArg, Environment};
use super::expand::{self, ExpandError, Expansion};
use super::planner::{Planner, Reported};
use super::stages::Origin;
use super::{Argument, CopyFrom, CopyInstruction, CopyOp, HistoryEntry, Link, Op, Parents, Source, Step, StepId};
use super::{Titles, history, title};
use crate::diagnostic::{Diagnostic, Span};
use crate::dockerfile::ast::{ArgDeclaration, Instruction, Operation, Stage, Word};
use crate::dockerfile::{self, lint};
use crate::image::config::{ContainerConfig, ImageConfig};
use crate::image::platform::Platform;

/// What a stage has come to so far; what another stage that is built on it starts with.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    /// The root file system.
    pub(super) step: StepId,
    /// The config; its history is the base image's.
    pub(super) config: ImageConfig,
    /// The variables that ENV and ARG set, and the base's.
    pub(super) environment: Environment,
    /// The ARGs, each once, in order of first declaration, those of a base stage included.
    pub(super) args: Vec<DeclaredArg>,
    /// What the file adds to the history.
    pub(super) history: Vec<Rc<HistoryEntry>>,
    /// The triggers of the stage's own ONBUILDs.
    pub(super) triggers: Vec<Instruction>,
    /// Whether the file has set a working directory.
    pub(super) has_workdir: bool,
    /// Whether everything below is known; if not, nothing that depends on it is reported.
    pub(super) is_known: bool,
}

impl StageState {
    /// FROM scratch.
    pub(super) fn of_nothing(step: StepId, platform: &Platform) -> StageState {
        let config = ContainerConfig {
            env: vec![format!("PATH={DEFAULT_PATH}")],
            working_dir: "/".to_owned(),
            ..ContainerConfig::default()
        };
        let config = ImageConfig {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            config,
            ..ImageConfig::default()
        };
        StageState::new(step, config)
    }

    /// FROM an image. Keys that neither the OCI nor Docker's specification knows describe the base alone (its build
    /// cache, the container that made it), so they are not inherited.
    pub(super) fn of_image(step: StepId, config: &ImageConfig) -> StageState {
        let mut config = config.clone();
        config.created = None;
        config.rootfs = Default::default();
        config.extra.retain(|key, _| key == "os.features");
        config.config.extra.clear();
        StageState::new(step, config)
    }

    fn new(step: StepId, config: ImageConfig) -> StageState {
        StageState {
            step,
            environment: Environment::from_config(&config.config.env),
            config,
            args: Vec::new(),
            history: Vec::new(),
            triggers: Vec::new(),
            has_workdir: false,
            is_known: true,
        }
    }

    /// Makes sure that commands find their programs.
    fn set_default_path(&mut self) {
        if self.environment.value("PATH").is_none() && self.config.os != "windows" {
            self.environment.set("PATH", DEFAULT_PATH);
            self.config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
    }
}

/// A step that titles number.
struct Counted {
    step: StepId,
    text: String,
    /// What it compiles for, as far as its environment says so.
    target: Option<Platform>,
}

/// A stage on the way.
pub(super) struct Walk<'p, 'a> {
    pub(super) planner: &'p mut Planner<'a>,
    pub(super) index: usize,
    stage: &'a Stage,
    pub(super) state: StageState,
    counted: Vec<Counted>,
    origin: Firing,
    /// The rules that a comment above the current instruction switches off.
    skipped_rules: Vec<String>,
    /// Whether the stage itself has a CMD, which its ENTRYPOINT then leaves alone.
    pub(super) has_cmd: bool,
}

/// Where the current instruction comes from.
enum Firing {
    /// The stage itself.
    Written,
    /// ONBUILD of a stage of this file: its words have their place.
    OfStage,
    /// ONBUILD of an image: everything is reported at the FROM.
    OfImage,
}

impl<'p, 'a> Walk<'p, 'a> {
    /// Starts from what FROM names.
    pub(super) fn start(planner: &'p mut Planner<'a>, index: usize) -> Walk<'p, 'a> {
        let stage = &planner.dockerfile.stages[index];
        let state = planner.placeholder(stage.span, index);
        Walk {
            planner,
            index,
            stage,
            state,
            counted: Vec::new(),
            origin: Firing::Written,
            skipped_rules: Vec::new(),
            has_cmd: false,
        }
    }

    /// Goes through the stage to its end.
    pub(super) fn finish(mut self) -> StageState {
        if let Some(stand_in) = self.planner.headers[self.index].stand_in.clone() {
            self.enter(&stand_in);
            self.state.config.config.on_build.clear();
            self.number_titles();
            return self.state;
        }
        let base = self.planner.headers[self.index].base.clone();
        if let Some(base) = &base {
            self.enter(base);
        }
        self.state.set_default_path();
        self.normalize_workdir();
        self.fire_triggers();
        self.origin = Firing::Written;
        for instruction in &self.stage.instructions {
            self.instruction(instruction);
        }
        self.number_titles();
        self.state
    }

    fn enter(&mut self, base: &Origin) {
        let span = self.stage.base.span;
        match base {
            Origin::Stage(index) => self.state = StageState::clone(&self.planner.stage(*index, span)),
            Origin::Scratch => {
                let step = self.planner.root(self.scratch(), self.stage.span, self.index);
                self.planner.claim(step, self.index);
                self.state = StageState::of_nothing(step, self.planner.options.target_platform());
            }
            Origin::Image(key) => {
                self.state = self.planner.image(key, self.stage.span, self.index);
                self.planner.claim(self.state.step, self.index);
                let text = format!("FROM {}", key.source);
                self.counted.push(Counted { step: self.state.step, text, target: None });
                self.check_platform(key);
            }
            Origin::Context(key) => self.enter_context(key),
        }
    }

    /// Nothing, for the platform that FROM names: what is put on it is the same for all images of a build.
    fn scratch(&self) -> Op {
        Op::Scratch(self.planner.headers[self.index].platform.clone())
    }

    /// A directory as a base: its files are the one layer.
    fn enter_context(&mut self, key: &str) {
        let root = self.planner.root(self.scratch(), self.stage.span, self.index);
        let platform = self.planner.headers[self.index].platform.clone();
        self.state = StageState::of_nothing(root, &platform);
        let copy = CopyOp {
            instruction: CopyInstruction::Copy,
            from: CopyFrom::NamedContext(key.to_owned()),
            sources: vec![Source::Path("/".to_owned())],
            destination: "/".to_owned(),
            workdir: "/".to_owned(),
            chown: None,
            chmod: None,
            link: Link::Follow,
            parents: Parents::Drop,
            exclude: Vec::new(),
            checksum: None,
            keep_git_dir: None,
            unpack: None,
        };
        let span = self.stage.span;
        let step = self.push(Op::Copy(copy), Vec::new(), span, format!("FROM {}", self.stage.base.value));
        self.state.history.push(history::base_layer(step));
    }

    fn check_platform(&mut self, key: &super::BaseKey) {
        let (wanted, found) = (&key.platform, self.state.config.platform());
        if wanted.os != found.os || wanted.architecture != found.architecture {
            let (name, wanted, found) = (&self.stage.base.value, wanted.to_string(), found.to_string());
            let warning = lint::invalid_base_image_platform(self.stage.base.span, name, &wanted, &found);
            self.report(warning);
        }
    }

    fn fire_triggers(&mut self) {
        let of_stage = std::mem::take(&mut self.state.triggers);
        let of_image = std::mem::take(&mut self.state.config.config.on_build);
        if matches!(self.planner.headers[self.index].base, Some(Origin::Stage(_))) {
            self.origin = Firing::OfStage;
            of_stage.iter().for_each(|trigger| self.instruction(trigger));
            return;
        }
        self.origin = Firing::OfImage;
        for text in of_image {
            let (instruction, diagnostics) = dockerfile::parse_instruction(&text, '\\');
            for diagnostic in diagnostics {
                self.report(Diagnostic { label: Some(format!("the base image has ONBUILD {text}")), ..diagnostic });
            }
            if let Some(instruction) = instruction {
                if let Operation::Arg(declarations) = &instruction.operation {
                    self.planner
                        .fired_args
                        .extend(declarations.iter().map(|declaration| declaration.name.value.clone()));
                }
                self.instruction(&instruction);
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        self.skipped_rules.clone_from(&instruction.skipped_rules);
        // An error is recorded where it is found; the walk goes on to find the others.
        let _: Result<(), Reported> = match &instruction.operation {
            Operation::Add(transfer) => self.copy(instruction, transfer, CopyInstruction::Add),
            Operation::Arg(declarations) => self.arg(declarations),
            Operation::Cmd(command) => self.cmd(instruction, command),
            Operation::Copy(transfer) => self.copy(instruction, transfer, CopyInstruction::Copy),
            Operation::Entrypoint(command) => self.entrypoint(instruction, command),
            Operation::Env(pairs) => self.env(pairs),
            Operation::Expose(words) => self.expose(words),
            Operation::Healthcheck(check) => self.healthcheck(check),
            Operation::Label(pairs) => self.label(pairs),
            Operation::Maintainer(word) => self.maintainer(word),
            Operation::Onbuild(trigger) => self.onbuild(trigger),
            Operation::Run(run) => self.run(instruction, run),
            Operation::Shell(words) => self.shell(words),
            Operation::Stopsignal(word) => self.stopsignal(word),
            Operation::User(word) => self.user(word),
            Operation::Volume(words) => self.volume(words),
            Operation::Workdir(word) => self.workdir(instruction, word),
        };
    }

    fn arg(&mut self, declarations: &[ArgDeclaration]) -> Result<(), Reported> {
        let mut texts = vec!["ARG".to_owned()];
        for declaration in declarations {
            let name = self.expand(&declaration.name)?;
            let value = match (self.planner.build_args.value(&name), &declaration.default) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => self.planner.globals.value(&name).map(str::to_owned),
            };
            if let Some(value) = value.as_deref().filter(|_| args::reaches_commands(&name)) {
                self.state.environment.set(&name, value);
            }
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            // An automatic argument that is asked for is not one to give.
            let is_given = declaration.default.is_some() || self.planner.build_args.value(&name).is_some();
            let is_automatic = !is_given && self.planner.globals.value(&name).is_some();
            if !is_automatic || args::is_global(self.planner.dockerfile, &name) {
                let span = self.place(declaration.name.span);
                let description = declaration.doc.clone();
                self.planner.arguments.push(Argument { name: name.clone(), value: value.clone(), description, span });
            }
            args::declare(&mut self.state.args, DeclaredArg { name, value });
        }
        self.commit(texts.join(" "));
        Ok(())
    }

    fn onbuild(&mut self, trigger: &Instruction) -> Result<(), Reported> {
        self.state.config.config.on_build.push(trigger.original.clone());
        self.state.triggers.push(trigger.clone());
        Ok(())
    }

    /// Adds a step that continues the root file system.
    pub(super) fn push(&mut self, op: Op, mut inputs: Vec<StepId>, span: Span, text: String) -> StepId {
        let id = StepId::new(self.planner.steps.len());
        inputs.push(self.state.step);
        inputs.sort();
        inputs.dedup();
        let span = self.place(span);
        let step = Step {
            id,
            title: String::new(),
            span,
            stage: self.index,
            op,
            parent: Some(self.state.step),
            inputs,
            ignore_cache_name: self.planner.headers[self.index].name.clone(),
            platforms: Vec::new(),
        };
        self.planner.push(step);
        let text = match self.origin {
            Firing::Written => text,
            Firing::OfStage | Firing::OfImage => format!("ONBUILD {text}"),
        };
        let target = title::target(&self.state.environment);
        self.counted.push(Counted { step: id, text, target });
        self.state.step = id;
        id
    }

    /// Numbers what the stage adds; a base that an earlier stage uses too keeps the title that it has from there.
    fn number_titles(&mut self) {
        let has_names = self.planner.headers.len() > 1;
        let name = if has_names { self.planner.stage_title(self.index) } else { String::new() };
        let total = self.counted.len();
        let shown = self.planner.options.titles == Titles::WithPlatform;
        let platform = self.planner.headers[self.index].platform.clone();
        for (position, counted) in self.counted.iter().enumerate() {
            let name = if shown { title::on_platform(&platform, counted.target.as_ref(), &name) } else { name.clone() };
            let step = &mut self.planner.steps[counted.step.index()];
            if step.stage == self.index {
                step.title = title::numbered(&name, position + 1, total, &counted.text);
            }
        }
    }

    /// Adds a history entry without a layer.
    pub(super) fn commit(&mut self, text: String) {
        self.state.history.push(history::entry(text, None));
    }

    /// Expands a word as the environment is now.
    pub(super) fn expand(&mut self, word: &Word) -> Result<String, Reported> {
        let escape = self.escape();
        let result = expand::expand(&word.value, escape, &self.state.environment);
        self.expanded(word, result)
    }

    /// Expands a word that may be missing.
    pub(super) fn expand_optional(&mut self, word: Option<&Word>) -> Result<Option<String>, Reported> {
        word.map(|word| self.expand(word)).transpose()
    }

    /// Expands a word, then splits it again.
    pub(super) fn expand_words(&mut self, word: &Word) -> Result<Vec<String>, Reported> {
        match expand::expand_words(&word.value, self.escape(), &self.state.environment) {
            // BuildKit does not warn of what is not set here, and a check that is an error must be one for both.
            Ok((words, _)) => Ok(words),
            Err(error) => Err(self.expansion_error(word, &error)),
        }
    }

    /// Expands the body of a here-document.
    pub(super) fn expand_body(&mut self, body: &Word) -> Result<String, Reported> {
        let result = expand::expand_body(&body.value, &self.state.environment);
        self.expanded(body, result)
    }

    fn expanded(&mut self, word: &Word, result: Result<Expansion, ExpandError>) -> Result<String, Reported> {
        match result {
            Ok(expansion) => self.check_unset(word, &expansion.unset).map(|()| expansion.text),
            Err(error) => Err(self.expansion_error(word, &error)),
        }
    }

    fn expansion_error(&mut self, word: &Word, error: &ExpandError) -> Reported {
        // A base that is not known yet may set the variable that is missing.
        if self.state.is_known { self.error(args::place(word, &error.at), error.message.as_str()) } else { Reported }
    }

    /// Warns of variables that nothing sets. An ARG without a value is declared all the same.
    fn check_unset(&mut self, word: &Word, unset: &[String]) -> Result<(), Reported> {
        let declared = |name: &String| self.state.args.iter().any(|argument| argument.name == *name);
        let undefined: Vec<&String> = unset.iter().filter(|name| !declared(name)).collect();
        if !undefined.is_empty() && !self.state.is_known {
            return Err(Reported);
        }
        for name in undefined {
            self.warn_undefined(word.span, name);
        }
        Ok(())
    }

    fn warn_undefined(&mut self, span: Span, name: &str) {
        if args::reaches_commands(name) {
            let meant = crate::diagnostic::did_you_mean(name, self.state.environment.names());
            let warning = lint::undefined_var(span, name, meant);
            self.report(warning);
        }
    }

    /// The escape character of the text that the current instruction was written in.
    pub(super) fn escape(&self) -> char {
        match self.origin {
            Firing::Written | Firing::OfStage => self.planner.dockerfile.directives.escape,
            Firing::OfImage => '\\',
        }
    }

    /// Whether the parser could not judge a word by what is written: it holds a variable, or stands in no file.
    pub(super) fn is_unseen(&self, word: &Word) -> bool {
        matches!(self.origin, Firing::OfImage) || word.value.contains(['$', '"', '\'', '\\', '`'])
    }

    /// Where to report something about the current instruction.
    pub(super) fn place(&self, span: Span) -> Span {
        match self.origin {
            Firing::Written | Firing::OfStage => span,
            Firing::OfImage => self.stage.span,
        }
    }

    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) -> Reported {
        self.report(Diagnostic::error(span, message));
        Reported
    }

    pub(super) fn warn(&mut self, rule: &'static str, span: Span, message: impl Into<String>) {
        self.report(Diagnostic::warning(rule, span, message));
    }

    /// Records a diagnostic, unless a comment switches its rule off or it may come from a config that is not known.
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        let is_skipped = |rule| !self.state.is_known || is_skipped(&self.skipped_rules, rule);
        if diagnostic.rule.is_some_and(is_skipped) {
            return;
        }
        let span = self.place(diagnostic.span);
        self.planner.diagnostics.push(Diagnostic { span, ..diagnostic });
    }
}

/// Whether a `# check=skip=…` comment switches a rule off.
pub(super) fn is_skipped(skipped: &[String], rule: &str) -> bool {
    skipped.iter().any(|skipped| skipped == "all" || skipped.eq_ignore_ascii_case(rule))
}
