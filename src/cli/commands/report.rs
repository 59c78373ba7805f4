//! `--check`, `--call=outline` and `--call=targets`: what there is to say about a Dockerfile, without building it.
//!
//! Texts and JSON have BuildKit's form (`frontend/subrequests`), so that editors and scripts that read it go on working.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{failed, print};
use crate::build::{BuildError, Checked, Outline, Rule, Target, Wanted};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::ReportFormat;
use crate::diagnostic::{Diagnostic, Source, Span};

/// Prints the warnings; having some is a failure, so that CI can insist on none. What ended the check is left to the caller.
pub(super) fn checked(source: &Source, checked: &Checked, format: ReportFormat) -> Result<(), Failure> {
    match format {
        ReportFormat::Json => {
            let warnings: Vec<Value> = checked.warnings.iter().map(|warning| warning_json(source, warning)).collect();
            let mut answer = json!({ "warnings": warnings, "sources": [file_json(source)] });
            if let Some(failure) = &checked.failure {
                let errors = failures_json(source, failure);
                answer["buildError"] = errors[0].clone();
                answer["buildErrors"] = errors.into();
            }
            print_json(&answer)?;
        }
        ReportFormat::Text => {
            let mut text = match checked.warnings.len() {
                0 if checked.failure.is_some() => String::new(),
                0 => "Check complete, no warnings found.\n".to_owned(),
                1 => "Check complete, 1 warning has been found!\n".to_owned(),
                count => format!("Check complete, {count} warnings have been found!\n"),
            };
            checked.warnings.iter().for_each(|warning| text.push_str(&warning_text(source, warning)));
            print(&text)?;
        }
    }
    if checked.failure.is_some() {
        return Ok(());
    }
    if !checked.violated.is_empty() {
        let message = format!("lint violation found for rules: {}", checked.violated.join(", "));
        return Err(Failure::new(FailureKind::Other, message));
    }
    match checked.warnings.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(FailureKind::Other, "the Dockerfile has warnings")),
    }
}

/// Prints what a target takes.
pub(super) fn outline(source: &Source, outline: &Outline, format: ReportFormat) -> Result<(), Failure> {
    if format == ReportFormat::Json {
        return print_json(&outline_json(source, outline));
    }
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let mut rows = vec![vec!["TARGET:".to_owned(), outline.name.clone().unwrap_or_else(|| "(default)".to_owned())]];
        rows.extend(outline.description.clone().map(|description| vec!["DESCRIPTION:".to_owned(), description]));
        text.push_str(&table(&rows));
        text.push('\n');
    }
    let mut section = |head: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            let head = head.iter().map(|word| (*word).to_owned()).collect();
            text.push_str(&table(&[vec![head], rows].concat()));
            text.push('\n');
        }
    };
    let argument = |argument: &crate::plan::Argument| {
        vec![
            argument.name.clone(),
            argument.value.clone().unwrap_or_default(),
            argument.description.clone().unwrap_or_default(),
        ]
    };
    let wanted =
        |wanted: &Wanted| vec![wanted.id.clone(), if wanted.required { "true".to_owned() } else { String::new() }];
    section(&["BUILD ARG", "VALUE", "DESCRIPTION"], outline.arguments.iter().map(argument).collect());
    section(&["SECRET", "REQUIRED"], outline.secrets.iter().map(wanted).collect());
    section(&["SSH", "REQUIRED"], outline.agents.iter().map(wanted).collect());
    print(&text)
}

/// Prints what can be built.
pub(super) fn targets(source: &Source, targets: &[Target], format: ReportFormat) -> Result<(), Failure> {
    if format == ReportFormat::Json {
        let list: Vec<Value> = targets.iter().map(|target| target_json(source, target)).collect();
        return print_json(&json!({ "targets": list, "sources": [STANDARD.encode(source.shown())] }));
    }
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    // A stage without a name cannot be asked for, unless it is the one that is built anyway.
    for target in targets.iter().filter(|target| target.name.is_some() || target.is_default) {
        let name = match (&target.name, target.is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, _) => "(default)".to_owned(),
        };
        rows.push(vec![name, target.description.clone().unwrap_or_default()]);
    }
    print(&table(&rows))
}

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| failed(&error))?;
    print(&format!("{text}\n"))
}

/// Rows with their columns under each other, three spaces between them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0) + 3).collect();
    let mut text = String::new();
    for row in rows {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

/// The first and last line of a place.
fn lines(source: &Source, span: Span) -> (usize, usize) {
    let first = source.line(span.start);
    (first, source.line(span.end.max(span.start + 1) - 1).max(first))
}

/// `WARNING: Rule - URL`, what is wrong, and the lines with those around them, as BuildKit prints it.
fn warning_text(source: &Source, warning: &Diagnostic) -> String {
    let rule = warning.rule.unwrap_or_default();
    let url = Rule::named(rule).and_then(Rule::url).map(|url| format!(" - {url}")).unwrap_or_default();
    let mut text = format!("\nWARNING: {rule}{url}\n{}\n", detail(warning));
    let (first, last) = lines(source, warning.span);
    let around = if first == last { 2 } else { 1 };
    let total = source.text.split('\n').count();
    let shown = first.saturating_sub(around).max(1)..=(last + around).min(total);
    writeln!(text, "{}:{first}\n--------------------", source.name).expect("write to a string");
    for line in shown {
        let mark = if (first..=last).contains(&line) { ">>>" } else { "   " };
        writeln!(text, " {line:3} | {mark} {}", source.line_text(line)).expect("write to a string");
    }
    text.push_str("--------------------\n");
    text
}

/// What is wrong, and what may be meant.
fn detail(warning: &Diagnostic) -> String {
    match &warning.help {
        Some(help) => format!("{} ({help})", warning.message),
        None => warning.message.clone(),
    }
}

fn file_json(source: &Source) -> Value {
    json!({ "filename": source.name, "language": "Dockerfile", "data": STANDARD.encode(source.shown()) })
}

fn location(source: &Source, span: Span) -> Value {
    let (first, last) = lines(source, span);
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last } }] })
}

/// What ended a check: BuildKit has one error at most; here are all of them, one at least.
fn failures_json(source: &Source, failure: &BuildError) -> Vec<Value> {
    match failure {
        BuildError::Dockerfile(errors) if !errors.is_empty() => {
            let error =
                |error: &Diagnostic| json!({ "message": detail(error), "location": location(source, error.span) });
            errors.iter().map(error).collect()
        }
        other => vec![json!({ "message": chain(other), "location": {} })],
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn warning_json(source: &Source, warning: &Diagnostic) -> Value {
    let rule = warning.rule.and_then(Rule::named);
    let mut object = object(&[
        ("ruleName", warning.rule),
        ("description", rule.map(|rule| rule.description)),
        ("url", rule.and_then(Rule::url).as_deref()),
        ("detail", Some(&detail(warning))),
    ]);
    object.insert("location".to_owned(), location(source, warning.span));
    object.into()
}

fn target_json(source: &Source, target: &Target) -> Value {
    let mut object = object(&[
        ("name", target.name.as_deref()),
        ("description", target.description.as_deref()),
        ("base", Some(&target.base)),
        ("platform", target.platform.as_deref()),
    ]);
    if target.is_default {
        object.insert("default".to_owned(), true.into());
    }
    object.insert("location".to_owned(), location(source, target.span));
    object.into()
}

fn outline_json(source: &Source, outline: &Outline) -> Value {
    let mut object = object(&[("name", outline.name.as_deref()), ("description", outline.description.as_deref())]);
    let argument = |argument: &crate::plan::Argument| {
        let mut object = self::object(&[
            ("name", Some(&argument.name)),
            ("description", argument.description.as_deref()),
            ("value", argument.value.as_deref()),
        ]);
        object.insert("location".to_owned(), location(source, argument.span));
        Value::from(object)
    };
    let wanted = |wanted: &Wanted, name: &str| {
        let mut object = self::object(&[(name, Some(&wanted.id))]);
        if wanted.required {
            object.insert("required".to_owned(), true.into());
        }
        object.insert("location".to_owned(), location(source, wanted.span));
        Value::from(object)
    };
    let list = |list: &[Wanted], name: &str| -> Vec<Value> { list.iter().map(|one| wanted(one, name)).collect() };
    for (key, values) in [
        ("args", outline.arguments.iter().map(argument).collect()),
        ("secrets", list(&outline.secrets, "name")),
        ("ssh", list(&outline.agents, "name")),
        ("cache", list(&outline.caches, "ID")),
    ] {
        if !values.is_empty() {
            object.insert(key.to_owned(), values.into());
        }
    }
    object.insert("sources".to_owned(), json!([STANDARD.encode(source.shown())]));
    object.into()
}

/// An object of texts, those that are not there left out.
fn object(fields: &[(&str, Option<&str>)]) -> Map<String, Value> {
    fields.iter().filter_map(|(key, value)| Some(((*key).to_owned(), (*value)?.into()))).collect()
}
