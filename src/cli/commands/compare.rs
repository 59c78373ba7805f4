//! `rbuild diff`: two images, point by point.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::archive::Workshop;
use super::image::choose;
use super::list::pretty;
use super::{failed, open_store, print};
use crate::build::{ChangeKind, Differences, Field, FileChange, differences};
use crate::cli::failure::Failure;
use crate::cli::request::ReportFormat;
use crate::cli::request::compare::{Compare, Difference};
use crate::store::Tagged;

/// `rbuild diff`; gives the exit code.
pub(super) fn diff(request: &Compare) -> Result<u8, Failure> {
    let store = open_store(&request.store_root)?;
    let (before, after) = (choose(&store, &request.before)?, choose(&store, &request.after)?);
    let workshop = Workshop::new(&store);
    let layers = workshop.layers(&store);
    let Differences { config, files } =
        differences(&layers, &before.image, &after.image, request.strictness).map_err(|error| failed(&error))?;
    match request.format {
        ReportFormat::Json => print(&pretty(&report(&before, &after, &config, &files))?)?,
        ReportFormat::Text => print(&text(&config, &files))?,
    }
    let is_equal = config.is_empty() && files.is_empty();
    Ok(u8::from(!is_equal && request.difference == Difference::Failure))
}

fn report(before: &Tagged, after: &Tagged, config: &[Field], files: &[FileChange]) -> Value {
    let field = |field: &Field| json!({ "path": field.path, "before": field.before, "after": field.after });
    let file = |change: &FileChange| {
        let kind = match change.kind {
            ChangeKind::Added => "added",
            ChangeKind::Deleted => "deleted",
            ChangeKind::Changed => "changed",
        };
        let what: Vec<Value> = change.what.iter().map(field).collect();
        json!({ "path": change.path, "change": kind, "what": what })
    };
    json!({
        "before": before.image.config, "after": after.image.config,
        "config": config.iter().map(field).collect::<Vec<_>>(),
        "files": files.iter().map(file).collect::<Vec<_>>(),
    })
}

fn text(config: &[Field], files: &[FileChange]) -> String {
    let mut text = String::new();
    for field in config {
        writeln!(text, "{}", field.path).expect("text can be written to");
        for (mark, value) in [('-', &field.before), ('+', &field.after)] {
            if !value.is_null() {
                writeln!(text, "  {mark} {value}").expect("text can be written to");
            }
        }
    }
    if !config.is_empty() && !files.is_empty() {
        text.push('\n');
    }
    for change in files {
        let (mark, path) = (mark(change.kind), &change.path);
        let what: Vec<String> = change.what.iter().map(short).collect();
        writeln!(text, "{}", format!("{mark} {path}   {}", what.join(", ")).trim_end())
            .expect("text can be written to");
    }
    text
}

/// Docker's letters.
fn mark(kind: ChangeKind) -> char {
    match kind {
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
        ChangeKind::Changed => 'C',
    }
}

/// What of a file changed, in a word or two; digests say nothing to people.
fn short(field: &Field) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match field.path.as_str() {
        "content" | "xattrs" => field.path.clone(),
        path => format!("{path} {} → {}", plain(&field.before), plain(&field.after)),
    }
}
