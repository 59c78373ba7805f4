//! `rbuild --check`: what there is to say about a Dockerfile, without building it.

use super::build::Done;
use super::{failed, print};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::{Action, ReportFormat, Request};
use crate::diagnostic::{Color, Diagnostic, Source};

/// Prints the warnings; having some is a failure, so that CI can insist on none.
pub(super) fn report(request: &Request, source: &Source, done: &Done, color: Color) -> Result<(), Failure> {
    let Done::Checked(warnings) = done else { return Ok(()) };
    match request.action {
        Action::Check(ReportFormat::Json) => print(&format!("{}\n", json(source, warnings)?))?,
        _ => {
            let drawn: Vec<String> = warnings.iter().map(|warning| source.render(warning, color)).collect();
            let summary = match warnings.len() {
                0 => "Check complete, no warnings found.".to_owned(),
                1 => "Check complete, 1 warning has been found!".to_owned(),
                count => format!("Check complete, {count} warnings have been found!"),
            };
            print(&format!(
                "{summary}\n{}{}",
                if drawn.is_empty() { "" } else { "\n" },
                drawn.iter().map(|text| format!("{text}\n")).collect::<String>()
            ))?;
        }
    }
    if warnings.is_empty() { Ok(()) } else { Err(Failure::new(FailureKind::Other, "the Dockerfile has warnings")) }
}

fn json(source: &Source, warnings: &[Diagnostic]) -> Result<String, Failure> {
    let list: Vec<serde_json::Value> = warnings
        .iter()
        .map(|warning| {
            serde_json::json!({
                "ruleName": warning.rule,
                "detail": warning.message,
                "file": source.name,
                "startLine": source.line(warning.span.start),
                "endLine": source.line(warning.span.end.max(warning.span.start + 1) - 1),
            })
        })
        .collect();
    serde_json::to_string_pretty(&serde_json::json!({ "warnings": list })).map_err(|error| failed(&error))
}
