//! `rbuild explain`: what a build would do, for people and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{failed, print};
use crate::build::{Explained, Foreseen, Verdict};
use crate::cache::key::{OFF, VARIABLE};
use crate::cli::failure::Failure;
use crate::cli::request::ReportFormat;

/// Prints each step with its verdict and what its key is made of.
pub(super) fn print_foreseen(foreseen: &Foreseen, format: ReportFormat) -> Result<(), Failure> {
    match format {
        ReportFormat::Text => print(&text(foreseen)),
        ReportFormat::Json => {
            let steps: Vec<Value> = foreseen.steps.iter().map(|explained| step_json(foreseen, explained)).collect();
            let text = serde_json::to_string_pretty(&json!({ "steps": steps })).map_err(|error| failed(&error))?;
            print(&format!("{text}\n"))
        }
    }
}

fn text(foreseen: &Foreseen) -> String {
    let mut text = String::new();
    let (mut hits, mut all) = (0, 0);
    for explained in &foreseen.steps {
        let title = title(foreseen, explained);
        let said = match &explained.verdict {
            Verdict::Base { moved } => {
                let moved = moved.as_ref().map(|moved| format!("    {moved}\n")).unwrap_or_default();
                text.push_str(&format!("{title}\n{moved}"));
                continue;
            }
            Verdict::Cached { created, from, other, .. } => {
                hits += 1;
                let place = from.as_ref().map(|cache| format!(" in {cache}")).unwrap_or_default();
                match other {
                    None => format!("HIT{place}, made {created}"),
                    Some(other) => format!("HIT: the same files were copied {created}; other than then: {other}"),
                }
            }
            Verdict::Runs { reason, .. } => format!("MISS: {reason}"),
            Verdict::Depends(first) => {
                let first = &foreseen.plan.steps[first.index()].title;
                format!("UNKNOWN: it reads the files of a stage that has to run first: {first}")
            }
        };
        all += 1;
        text.push_str(&format!("{title}\n    {said}\n"));
        if let Verdict::Runs { nearest: Some(nearest), .. } = &explained.verdict {
            let made = nearest.created.as_deref().map(|created| format!(", made {created}")).unwrap_or_default();
            text.push_str(&format!("    compared with {}{made}\n", nearest.key.short()));
        }
        if let Some(key) = &explained.key {
            text.push_str(&format!("    key {}\n", key.digest.short()));
            let is_set = |name: &str, value: &str| !value.is_empty() && (value != OFF || name.starts_with(VARIABLE));
            for (name, value) in key.ingredients.iter().filter(|(name, value)| is_set(name, value)) {
                writeln!(text, "        {name}: {}", one_line(value)).expect("a string can be written to");
            }
        }
    }
    writeln!(text, "{hits} of {all} steps come from the cache").expect("a string can be written to");
    text
}

/// A value on one line; nothing in it can move the cursor of a terminal.
fn one_line(value: &str) -> String {
    match value.chars().any(char::is_control) {
        true => format!("{value:?}"),
        false => value.to_owned(),
    }
}

fn title<'a>(foreseen: &'a Foreseen, explained: &Explained) -> &'a str {
    &foreseen.plan.steps[explained.step.index()].title
}

fn step_json(foreseen: &Foreseen, explained: &Explained) -> Value {
    let mut fields = Map::new();
    fields.insert("title".to_owned(), json!(title(foreseen, explained)));
    let verdict = match &explained.verdict {
        Verdict::Base { moved } => {
            if let Some(moved) = moved {
                fields.insert("reason".to_owned(), json!(moved.to_string()));
            }
            "base"
        }
        Verdict::Cached { layer, created, from, other } => {
            fields.insert("layer".to_owned(), json!(layer));
            fields.insert("created".to_owned(), json!(created));
            if let Some(cache) = from {
                fields.insert("cache".to_owned(), json!(cache));
            }
            if let Some(other) = other {
                fields.insert("reason".to_owned(), json!(other.to_string()));
            }
            "hit"
        }
        Verdict::Runs { reason, nearest } => {
            fields.insert("reason".to_owned(), json!(reason.to_string()));
            if let Some(nearest) = nearest {
                fields.insert("nearest".to_owned(), json!({ "key": nearest.key, "created": nearest.created }));
            }
            "miss"
        }
        Verdict::Depends(first) => {
            fields.insert("waitsFor".to_owned(), json!(foreseen.plan.steps[first.index()].title));
            "unknown"
        }
    };
    fields.insert("verdict".to_owned(), json!(verdict));
    if let Some(key) = &explained.key {
        fields.insert("key".to_owned(), json!(key.digest));
        let ingredients: Vec<Value> =
            key.ingredients.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        fields.insert("ingredients".to_owned(), json!(ingredients));
    }
    Value::Object(fields)
}
