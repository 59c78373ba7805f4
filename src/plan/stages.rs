//! FROM lines and the names of stages: what each stage starts from, and what a `--from` or `from=` means.

use std::collections::BTreeSet;

use super::args::{self, BuildArgs, Globals};
use super::expand::{self, Expansion};
use super::planner::{Planner, Reported};
use super::stage;
use super::{BaseKey, BaseSource, NamedContext, Options};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};
use crate::dockerfile::ast::{Dockerfile, Operation, Stage, Word};
use crate::dockerfile::lint;
use crate::image::platform::{InvalidPlatform, Platform};
use crate::image::reference::Reference;

/// Where a root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A stage of the file, by index.
    Stage(usize),
    /// Nothing.
    Scratch,
    /// An image.
    Image(BaseKey),
    /// Files that a `--build-context` names, by its key.
    Context(String),
}

/// A FROM line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The stage's name in lower case.
    pub(super) name: Option<String>,
    /// `--platform=`, else the target's.
    pub(super) platform: Platform,
    /// What it starts from; none where the line is in error.
    pub(super) base: Option<Origin>,
    /// The named context that takes the whole stage's place; its instructions are not looked at.
    pub(super) stand_in: Option<Origin>,
}

/// Understands every FROM line; errors and warnings go to `diagnostics`.
pub(super) fn headers(
    dockerfile: &Dockerfile,
    options: &Options,
    globals: &Globals,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Header> {
    let names: Vec<Option<String>> =
        dockerfile.stages.iter().map(|stage| stage.name.as_ref().map(|name| name.value.to_lowercase())).collect();
    check_defaults(dockerfile, options, diagnostics);
    let mut reader =
        HeaderReader { escape: dockerfile.directives.escape, options, globals, names: &names, diagnostics };
    dockerfile.stages.iter().enumerate().map(|(index, stage)| reader.header(index, stage)).collect()
}

/// Warns of FROM lines that name nothing when no build argument is given.
fn check_defaults(dockerfile: &Dockerfile, options: &Options, diagnostics: &mut Vec<Diagnostic>) {
    let mut ignored = Vec::new();
    let defaults = Globals::evaluate(dockerfile, options, &BuildArgs::default(), &mut ignored);
    for stage in dockerfile.stages.iter().filter(|stage| stage.base.value.contains('$')) {
        let expansion = expand::expand(&stage.base.value, dockerfile.directives.escape, defaults.variables());
        let names_nothing = expansion.is_ok_and(|expansion| expansion.text.parse::<Reference>().is_err());
        if names_nothing && !stage::is_skipped(&stage.skipped_rules, "InvalidDefaultArgInFrom") {
            diagnostics.push(lint::invalid_default_arg_in_from(stage.base.span, &stage.base.value));
        }
    }
}

struct HeaderReader<'a> {
    escape: char,
    options: &'a Options,
    globals: &'a Globals,
    names: &'a [Option<String>],
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl HeaderReader<'_> {
    fn header(&mut self, index: usize, stage: &Stage) -> Header {
        let name = self.names[index].clone();
        let platform = match &stage.platform {
            Some(word) => self.platform(word, stage),
            None => Ok(self.options.target_platform().clone()),
        };
        let known_platform = platform.clone().unwrap_or_else(|_| self.options.target_platform().clone());
        let found = name.as_deref().map(|name| stand_in(name, &known_platform, self.options, self.names));
        let stand_in =
            found.transpose().map_err(|message| self.error(stage.base.span, message)).ok().flatten().flatten();
        let base = self.base(index, stage, &known_platform).ok().filter(|_| platform.is_ok());
        Header { name, platform: known_platform, base, stand_in }
    }

    fn platform(&mut self, word: &Word, stage: &Stage) -> Result<Platform, Reported> {
        let expansion = self.expand(word, stage)?;
        let meant = expansion.unset.iter().find_map(|name| did_you_mean(name, self.globals.names()));
        let mut help = meant.map(|meant| format!("did you mean {meant}?"));
        let text = &expansion.text;
        let result = if text.is_empty() {
            Err(format!("empty platform value from expression {}", word.value))
        } else {
            text.parse().map_err(|error: InvalidPlatform| {
                help = help.take().or_else(|| known_platforms(&error));
                format!("failed to parse platform {}: {error}", word.value)
            })
        };
        result.map_err(|message| {
            let mut diagnostic = Diagnostic::error(word.span, message);
            diagnostic.help = help;
            self.diagnostics.push(diagnostic);
            Reported
        })
    }

    fn base(&mut self, index: usize, stage: &Stage, platform: &Platform) -> Result<Origin, Reported> {
        let word = &stage.base;
        let expansion = self.expand(word, stage)?;
        if expansion.text.is_empty() {
            let message = format!("base name ({}) should not be blank", word.value);
            return Err(self.error(word.span, message));
        }
        let lower = expansion.text.to_lowercase();
        if let Some(index) = self.names[..index].iter().rposition(|name| name.as_deref() == Some(lower.as_str())) {
            return Ok(Origin::Stage(index));
        }
        origin_of_image(&expansion.text, platform, self.options, self.names).map_err(|message| {
            let meant = did_you_mean(&lower, self.names[..index].iter().flatten().map(String::as_str));
            let mut diagnostic = Diagnostic::error(word.span, message);
            diagnostic.help = meant.map(|meant| format!("did you mean the stage {meant}?"));
            self.diagnostics.push(diagnostic);
            Reported
        })
    }

    fn expand(&mut self, word: &Word, stage: &Stage) -> Result<Expansion, Reported> {
        let expansion = expand::expand(&word.value, self.escape, self.globals.variables())
            .map_err(|error| self.error(args::place(word, &error.at), error.message))?;
        for name in &expansion.unset {
            if !self.globals.is_declared(name) && !stage::is_skipped(&stage.skipped_rules, "UndefinedArgInFrom") {
                let meant = did_you_mean(name, self.globals.names());
                self.diagnostics.push(lint::undefined_arg_in_from(word.span, name, meant));
            }
        }
        Ok(expansion)
    }

    fn error(&mut self, span: Span, message: String) -> Reported {
        self.diagnostics.push(Diagnostic::error(span, message));
        Reported
    }
}

/// What could have stood in the place of a platform of one word.
fn known_platforms(error: &InvalidPlatform) -> Option<String> {
    let known: Vec<&str> = error.reason.known().collect();
    match did_you_mean(&error.text, known.iter().copied()) {
        Some(meant) => Some(format!("did you mean {meant}?")),
        None => (!known.is_empty()).then(|| format!("known are {}", known.join(", "))),
    }
}

/// What `--build-context` puts in the place of the stage of a name.
fn stand_in(
    name: &str,
    platform: &Platform,
    options: &Options,
    names: &[Option<String>],
) -> Result<Option<Origin>, String> {
    let named = options.named_context(name, platform);
    named.map(|(key, context)| origin_of_context(key, context, platform, names)).transpose()
}

/// What a name that is no stage means.
fn origin_of_image(
    text: &str,
    platform: &Platform,
    options: &Options,
    names: &[Option<String>],
) -> Result<Origin, String> {
    if text == "scratch" {
        return Ok(Origin::Scratch);
    }
    let reference: Reference = text.parse().map_err(|error| format!("failed to parse stage name {text:?}: {error}"))?;
    Ok(match options.named_context(text, platform) {
        Some((key, context)) => origin_of_context(key, context, platform, names)?,
        None => Origin::Image(image_key(&reference, platform)),
    })
}

fn image_key(reference: &Reference, platform: &Platform) -> BaseKey {
    BaseKey { source: BaseSource::Image(reference.with_default_tag()), platform: platform.clone() }
}

fn origin_of_context(
    key: &str,
    context: &NamedContext,
    platform: &Platform,
    names: &[Option<String>],
) -> Result<Origin, String> {
    Ok(match context {
        NamedContext::Image(reference) => Origin::Image(image_key(reference, platform)),
        NamedContext::OciLayout { path, tag, digest } => Origin::Image(BaseKey {
            source: BaseSource::OciLayout { path: path.clone(), tag: tag.clone(), digest: *digest },
            platform: platform.clone(),
        }),
        NamedContext::Target(target) => {
            let lower = target.to_lowercase();
            let found = names.iter().rposition(|name| name.as_deref() == Some(lower.as_str()));
            let missing = || format!("the build context {key} is target:{target}, but there is no stage {target}");
            Origin::Stage(found.ok_or_else(missing)?)
        }
        NamedContext::Directory(_) | NamedContext::Git(_) | NamedContext::Url(_) => Origin::Context(key.to_owned()),
    })
}

/// Which instruction names a source, for its messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reader<'a> {
    /// `COPY --from`.
    Copy,
    /// `RUN --mount=from=…,target=…`.
    Mount {
        /// The mount's target as written.
        target: &'a str,
    },
}

impl Planner<'_> {
    /// What a `--from` or a `from=` of a stage means: a stage by index or name, a named context, an image.
    pub(super) fn origin(
        &mut self,
        text: &str,
        span: Span,
        current: usize,
        reader: Reader<'_>,
    ) -> Result<Origin, Reported> {
        let index = match text.parse::<i64>() {
            Ok(number) => {
                let index = usize::try_from(number).ok().filter(|index| *index < self.headers.len());
                Some(index.ok_or_else(|| self.error(span, format!("invalid stage index {number}")))?)
            }
            Err(_) => self.stage_named(text),
        };
        let Some(index) = index else {
            let names = self.names();
            return origin_of_image(text, self.options.target_platform(), self.options, &names).map_err(|message| {
                let meant = did_you_mean(text, names.iter().flatten().map(String::as_str));
                let mut diagnostic = Diagnostic::error(span, message);
                diagnostic.help = meant.map(|meant| format!("did you mean the stage {meant}?"));
                self.diagnostics.push(diagnostic);
                Reported
            });
        };
        if let Some(stand_in) = &self.headers[index].stand_in {
            return Ok(stand_in.clone());
        }
        if index < current {
            return Ok(Origin::Stage(index));
        }
        let diagnostic = if index == current || self.reached(index, |_, _| true).contains(&current) {
            let message = format!("circular dependency detected on stage: {}", self.stage_title(current));
            Diagnostic::error(span, message)
        } else {
            let message = match reader {
                Reader::Copy => format!(
                    "cannot copy from stage {text:?}, it needs to be defined before current stage {:?}",
                    self.stage_title(current)
                ),
                Reader::Mount { target } => format!(
                    "cannot mount from stage {text:?} to {target:?}, stage needs to be defined before current command"
                ),
            };
            Diagnostic::error(span, message).help(format!("move the stage {} above this one", self.stage_title(index)))
        };
        self.diagnostics.push(diagnostic);
        Err(Reported)
    }

    /// The stages that one depends on, itself included, as far as the file says so without variables and `follow` goes
    /// along from stage to stage.
    pub(super) fn reached(&self, from: usize, follow: impl Fn(usize, usize) -> bool) -> BTreeSet<usize> {
        let mut reached = BTreeSet::from([from]);
        let mut waiting = vec![from];
        while let Some(stage) = waiting.pop() {
            for next in self.named_stages(stage) {
                if follow(stage, next) && reached.insert(next) {
                    waiting.push(next);
                }
            }
        }
        reached
    }

    fn named_stages(&self, index: usize) -> Vec<usize> {
        let base = match self.headers[index].base {
            Some(Origin::Stage(base)) => Some(base),
            _ => None,
        };
        let instructions = &self.dockerfile.stages[index].instructions;
        let names = instructions.iter().flat_map(|instruction| named_sources(&instruction.operation));
        let named = names.filter_map(|name| match name.parse::<usize>() {
            Ok(index) => Some(index).filter(|index| *index < self.headers.len()),
            Err(_) => self.stage_named(name),
        });
        base.into_iter().chain(named).collect()
    }

    fn names(&self) -> Vec<Option<String>> {
        self.headers.iter().map(|header| header.name.clone()).collect()
    }

    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) -> Reported {
        self.diagnostics.push(Diagnostic::error(span, message));
        Reported
    }
}

/// The words of `--from` and `from=`, not expanded.
fn named_sources(operation: &Operation) -> Vec<&str> {
    match operation {
        Operation::Copy(transfer) => transfer.from.iter().map(|word| word.value.as_str()).collect(),
        Operation::Run(run) => {
            let fields = run.mounts.iter().flat_map(|mount| &mount.fields);
            fields
                .filter(|(key, _)| key.value.eq_ignore_ascii_case("from"))
                .filter_map(|(_, value)| value.as_ref().map(|value| value.value.as_str()))
                .collect()
        }
        _ => Vec::new(),
    }
}
