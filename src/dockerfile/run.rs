//! RUN.

use super::ast::{Command, Device, MountFlag, Run, Word};
use super::csv;
use super::flags::{FlagValue, Flags, Takes};
use super::heredoc::RawHeredoc;
use super::instruction::{self, Statement};
use super::mount;
use super::problems::Problems;
use crate::diagnostic::{Diagnostic, Spanned, did_you_mean};

const FLAGS: [(&str, Takes); 4] =
    [("mount", Takes::Values), ("network", Takes::Value), ("security", Takes::Value), ("device", Takes::Values)];

/// Parses RUN.
pub(super) fn parse(statement: &Statement<'_>, heredocs: &[RawHeredoc<'_>]) -> Result<Run, Problems> {
    let flags = statement.check_flags(&FLAGS)?;
    let mut problems = Vec::new();
    let mounts =
        flags.values("mount").filter_map(|value| collect(mount_flag(value, statement), &mut problems)).collect();
    let network = collect(mode(&flags, "network", &["default", "none", "host"]), &mut problems).flatten();
    let security = collect(mode(&flags, "security", &["sandbox", "insecure"]), &mut problems).flatten();
    let devices = flags.values("device").filter_map(|value| collect(device(value), &mut problems)).collect();
    let command = collect(instruction::command(statement.arguments), &mut problems);
    let Some(command) = command.filter(|_| problems.is_empty()) else { return Err(Problems(problems)) };
    let heredocs = match &command {
        Command::Shell(_) => heredocs.iter().map(RawHeredoc::to_ast).collect(),
        Command::Exec(_) => Vec::new(),
    };
    Ok(Run { command, heredocs, mounts, network, security, devices })
}

fn collect<T>(result: Result<T, Diagnostic>, problems: &mut Vec<Diagnostic>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

/// A flag that takes one of a few words.
fn mode(flags: &Flags<'_, '_>, name: &str, allowed: &[&str]) -> Result<Option<Word>, Diagnostic> {
    let Some(value) = flags.values(name).next() else { return Ok(None) };
    if allowed.contains(&value.as_str()) {
        return Ok(Some(value.word()));
    }
    let message = match name {
        "network" => format!("invalid network mode {:?}", value.as_str()),
        _ => format!("{name} {:?} is not valid", value.as_str()),
    };
    Err(Diagnostic::error(value.word().span, message).help(format!("it takes {}", allowed.join(", "))))
}

/// What is no option is the name, whatever it looks like: names hold equals signs.
fn device(value: FlagValue<'_, '_>) -> Result<Device, Diagnostic> {
    let fields = csv::fields(value.as_str()).map_err(|error| {
        let message = format!("failed to parse csv devices: {}", error.message);
        Diagnostic::error(value.flag_span(), message)
    })?;
    let (mut name, mut required): (Option<Word>, bool) = (None, false);
    for field in fields {
        let span = value.span_of(field.range.start, field.range.end);
        let whole = || Spanned::new(field.text.clone(), span);
        let refused = |message: String| Diagnostic::error(span, message);
        let (key, given) = match field.text.split_once('=') {
            Some((key, given)) => (key.to_ascii_lowercase(), Some(given)),
            None => (field.text.to_ascii_lowercase(), None),
        };
        match (key.as_str(), given) {
            ("required", None) => required = true,
            ("required", Some(given)) => {
                required = boolean(given).ok_or_else(|| refused(format!("invalid value for {key}: {given}")))?;
            }
            ("name", Some(given)) => match &name {
                None => name = Some(Spanned::new(given.to_owned(), span)),
                Some(first) => return Err(refused(format!("device name already set to {}", first.value))),
            },
            _ if name.is_none() => name = Some(whole()),
            (_, None) => return Err(refused(format!("invalid field '{}' must be a key=value pair", field.text))),
            (_, Some(_)) => {
                let error = refused(format!("unexpected key '{key}' in '{}'", field.text));
                let meant = did_you_mean(&key, ["name", "required"]);
                return Err(match meant {
                    Some(meant) => error.help(format!("did you mean {meant}?")),
                    None => error.help("it takes name and required"),
                });
            }
        }
    }
    match name.filter(|name| !name.value.is_empty()) {
        Some(name) => Ok(Device { name, required }),
        None => Err(Diagnostic::error(value.flag_span(), "a device needs a name").help("as in vendor.com/class=name")),
    }
}

/// As Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Splits a mount's options. What holds no variable is checked here and now.
fn mount_flag(value: FlagValue<'_, '_>, statement: &Statement<'_>) -> Result<MountFlag, Diagnostic> {
    let fields = csv::fields(value.as_str()).map_err(|error| {
        let message = format!("failed to parse csv mounts: {}", error.message);
        Diagnostic::error(value.flag_span(), message)
    })?;
    let fields: Vec<_> = fields.into_iter().map(|field| split_field(field, value)).collect();
    let variable = |word: &Word| word.value.contains(['$', '\'', '"', statement.escape]);
    if !fields.iter().any(|(_, value)| value.as_ref().is_some_and(variable)) {
        check_constant(&fields, value)?;
    }
    Ok(MountFlag { span: value.flag_span(), fields })
}

fn split_field(field: csv::Field, flag: FlagValue<'_, '_>) -> (Word, Option<Word>) {
    let start = field.range.start;
    let whole = flag.span_of(start, field.range.end);
    match field.text.split_once('=') {
        None => (Spanned::new(field.text, whole), None),
        // Quotes within the field move its bytes; the field as a whole is near enough.
        Some((key, value)) if field.quoted => {
            (Spanned::new(key.to_owned(), whole), Some(Spanned::new(value.to_owned(), whole)))
        }
        Some((key, value)) => {
            let equals = start + key.len();
            let key = Spanned::new(key.to_owned(), flag.span_of(start, equals));
            (key, Some(Spanned::new(value.to_owned(), flag.span_of(equals + 1, field.range.end))))
        }
    }
}

fn check_constant(fields: &[(Word, Option<Word>)], flag: FlagValue<'_, '_>) -> Result<(), Diagnostic> {
    let texts =
        fields.iter().map(|(key, value)| (key.value.as_str(), value.as_ref().map(|value| value.value.as_str())));
    mount::parse_fields(texts).map(drop).map_err(|error| {
        let field = error.field.and_then(|at| fields.get(at));
        let span =
            field.map_or(flag.flag_span(), |(key, value)| value.as_ref().map_or(key.span, |v| key.span.to(v.span)));
        let problem = Diagnostic::error(span, error.message);
        match error.suggestion {
            Some(word) => problem.help(format!("did you mean {word}?")),
            None => problem,
        }
    })
}
