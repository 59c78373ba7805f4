//! What dates a build: the value of `SOURCE_DATE_EPOCH`.
//!
//! It is a number of seconds, or it names something that has a time of its own: the build `context`, a context by name, or
//! a stage that does nothing but ADD one thing from elsewhere. Pure: [`source`] says what is meant; who looks its time up
//! puts it into [`super::Options::epoch`].

use super::args::{self, BuildArgs, EPOCH, Environment, Globals};
use super::expand;
use super::{GitReference, NamedContext, Options};
use crate::diagnostic::{Diagnostic, Span};
use crate::digest::Digest;
use crate::dockerfile::ast::{ArgDeclaration, Dockerfile, Operation, Stage, Transfer, TransferSource, Word};
use crate::image::time::DATES;

/// The variable that dates a build.
pub const VARIABLE: &str = EPOCH;

/// What is known of the moment that dates a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Epoch {
    /// What is written counts, if it is a number.
    #[default]
    AsWritten,
    /// What is written was looked up: seconds since 1970, or none where what it names has no time.
    Resolved(Option<i64>),
}

/// What the value of `SOURCE_DATE_EPOCH` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochSource {
    /// A number, or nothing.
    Number(Option<i64>),
    /// The build context.
    Context,
    /// The context by this name.
    NamedContext(String),
    /// What a stage adds from a URL.
    Url {
        /// The URL.
        url: String,
        /// The digest that it has to have.
        checksum: Option<Digest>,
        /// The place of the ADD.
        span: Span,
    },
    /// What a stage adds from a repository.
    Git {
        /// The repository.
        reference: Box<GitReference>,
        /// The place of the ADD.
        span: Span,
    },
}

/// Says what dates a build.
///
/// # Errors
/// The value is no number and names nothing, or a stage that does more than to add one thing.
pub fn source(dockerfile: &Dockerfile, options: &Options) -> Result<EpochSource, Diagnostic> {
    let build_args = BuildArgs::new(options);
    let globals = Globals::evaluate(dockerfile, options, &build_args, &mut Vec::new());
    named(dockerfile, options, &build_args, &globals)
}

/// The text that dates the build: the build argument, else a global ARG of the file.
pub(super) fn written<'a>(build_args: &'a BuildArgs, globals: &'a Globals) -> Option<&'a str> {
    let text = build_args.value(EPOCH).or_else(|| globals.value(EPOCH));
    text.filter(|text| !text.is_empty())
}

/// The moment that dates the build, as far as it is known.
pub(super) fn moment(
    dockerfile: &Dockerfile,
    options: &Options,
    build_args: &BuildArgs,
    globals: &Globals,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<i64> {
    match options.epoch {
        Epoch::Resolved(epoch) => epoch,
        Epoch::AsWritten => match named(dockerfile, options, build_args, globals) {
            Ok(EpochSource::Number(epoch)) => epoch,
            Ok(_) => None,
            Err(error) => {
                diagnostics.push(error);
                None
            }
        },
    }
}

/// As [`source`], with what is known of the variables.
pub(super) fn named(
    dockerfile: &Dockerfile,
    options: &Options,
    build_args: &BuildArgs,
    globals: &Globals,
) -> Result<EpochSource, Diagnostic> {
    let Some(text) = written(build_args, globals) else { return Ok(EpochSource::Number(None)) };
    if let Some(number) = text.parse().ok().filter(|seconds| DATES.contains(seconds)) {
        return Ok(EpochSource::Number(Some(number)));
    }
    if is_number(text) {
        return Err(invalid(text, dockerfile).help(
            "give seconds since 1970, not milliseconds: an image can be dated from the year 1 (-62135596800) to 9999 \
             (253402300799)",
        ));
    }
    if text == "context" {
        return Ok(EpochSource::Context);
    }
    if let Some((name, context)) = options.named_context(text, options.target_platform()) {
        return Ok(match context {
            NamedContext::Git(_) | NamedContext::Url(_) => EpochSource::NamedContext(name.to_owned()),
            // As in BuildKit, these have no time.
            NamedContext::Image(_)
            | NamedContext::OciLayout { .. }
            | NamedContext::Directory(_)
            | NamedContext::Target(_) => EpochSource::Number(None),
        });
    }
    let has_name =
        |stage: &&Stage| stage.name.as_ref().is_some_and(|name| name.value.to_lowercase() == text.to_lowercase());
    match dockerfile.stages.iter().find(has_name) {
        Some(stage) => added(stage, dockerfile.directives.escape, build_args, globals),
        None => {
            let help = "give a whole number of seconds since 1970, `context`, or the name of a stage or of a context";
            Err(invalid(text, dockerfile).help(help))
        }
    }
}

/// Whether a text is a whole number, however large.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn invalid(text: &str, dockerfile: &Dockerfile) -> Diagnostic {
    let declaration = args::declarations(&dockerfile.global_args).find(|declaration| declaration.name.value == EPOCH);
    let span = declaration.map_or(Span::default(), |declaration| declaration.name.span);
    Diagnostic::error(span, format!("invalid {EPOCH}: {text:?}"))
}

/// The one thing that a stage adds.
fn added(stage: &Stage, escape: char, build_args: &BuildArgs, globals: &Globals) -> Result<EpochSource, Diagnostic> {
    let mut variables = globals.variables().clone();
    variables.unset(EPOCH);
    if expanded(&stage.base, escape, &variables)? != "scratch" {
        return Err(Diagnostic::error(stage.base.span, format!("{EPOCH} stage must use FROM scratch")));
    }
    let one = format!("{EPOCH} stage must contain exactly one remote ADD");
    let mut found = None;
    for instruction in &stage.instructions {
        match &instruction.operation {
            Operation::Arg(declarations) => declare(declarations, escape, build_args, &mut variables)?,
            Operation::Add(_) if found.is_some() => return Err(Diagnostic::error(instruction.span, one)),
            Operation::Add(transfer) => found = Some(remote(transfer, instruction.span, escape, &variables)?),
            _ => {
                let keyword = instruction.keyword.value.to_uppercase();
                let message =
                    format!("{EPOCH} stage does not meet source-only requirements: unsupported {keyword} instruction");
                return Err(Diagnostic::error(instruction.span, message).help("only ARG and one ADD may stand in it"));
            }
        }
    }
    found.ok_or_else(|| Diagnostic::error(stage.span, one))
}

fn declare(
    declarations: &[ArgDeclaration],
    escape: char,
    build_args: &BuildArgs,
    variables: &mut Environment,
) -> Result<(), Diagnostic> {
    for declaration in declarations {
        let name = &declaration.name.value;
        match (build_args.value(name), &declaration.default) {
            (Some(given), _) => variables.set(name, given),
            (None, Some(default)) => {
                let value = expanded(default, escape, variables)?;
                variables.set(name, &value);
            }
            (None, None) => {}
        }
    }
    Ok(())
}

fn remote(transfer: &Transfer, span: Span, escape: char, variables: &Environment) -> Result<EpochSource, Diagnostic> {
    let [TransferSource::Path(word)] = transfer.sources.as_slice() else {
        return Err(Diagnostic::error(span, format!("{EPOCH} stage must contain exactly one remote ADD source")));
    };
    let text = expanded(word, escape, variables)?;
    let checksum = transfer.checksum.as_ref().map(|word| Ok((expanded(word, escape, variables)?, word.span)));
    let checksum = checksum.transpose()?.filter(|(text, _)| !text.is_empty());
    if let Some(reference) = GitReference::parse(&text) {
        let mut reference = reference.map_err(|error| Diagnostic::error(word.span, error.to_string()))?;
        if let Some((checksum, place)) = checksum {
            reference.set_commit(&checksum).map_err(|error| Diagnostic::error(place, error.to_string()))?;
        }
        return Ok(EpochSource::Git { reference: Box::new(reference), span });
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        let message = format!("{EPOCH} stage source must be a single HTTP(S) or Git ADD");
        return Err(Diagnostic::error(word.span, message));
    }
    let checksum = checksum.map(|(text, place)| {
        text.parse::<Digest>().map_err(|_| Diagnostic::error(place, format!("invalid checksum {text:?}")))
    });
    Ok(EpochSource::Url { url: text, checksum: checksum.transpose()?, span })
}

fn expanded(word: &Word, escape: char, variables: &Environment) -> Result<String, Diagnostic> {
    let expansion = expand::expand(&word.value, escape, variables);
    expansion
        .map(|expansion| expansion.text)
        .map_err(|error| Diagnostic::error(args::place(word, &error.at), error.message))
}
