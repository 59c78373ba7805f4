//! `rbuild index create` and `rbuild index inspect`: indexes in registries, without the store.

use std::fmt::Write as _;

use serde_json::json;

use super::{client, failed, print};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::request::ReportFormat;
use crate::cli::request::commands::Execution;
use crate::cli::request::index::{CreateIndex, IndexForm, InspectIndex};
use crate::image::manifest::{Descriptor, Document};
use crate::image::reference::Reference;
use crate::progress::{Outcome, Progress};
use crate::registry::Resolved;
use crate::registry::compose::{ComposeError, Composed, compose};
use crate::ui::Ui;

/// Composes an index and pushes it to each of its names; its digest goes to standard output.
pub(super) fn create(request: &CreateIndex, environment: &Environment) -> Result<(), Failure> {
    let client = client(&request.registries);
    let composed = compose(&client, &request.sources, &request.names, &request.annotations, request.single);
    let composed = composed.map_err(|error| failed(&error))?;
    // All of them, before the first is pushed.
    composed.check_names(&request.names).map_err(|error| failed(&error))?;
    if request.execution == Execution::DryRun {
        return print(&pretty(&composed.bytes));
    }
    let ui = Ui::start(request.progress, &environment.ui());
    let progress = Progress::new(ui.sink());
    let pushed = push(&composed, request, &client, &progress);
    ui.finish();
    pushed.map_err(|error| failed(&error))?;
    print(&format!("{}\n", composed.descriptor.digest))
}

/// Pushes to each repository by itself, with all of its tags.
fn push(
    composed: &Composed,
    request: &CreateIndex,
    client: &crate::registry::Client,
    progress: &Progress,
) -> Result<(), ComposeError> {
    let mut names = request.names.clone();
    while let Some(first) = names.first().cloned() {
        let is_same = |name: &Reference| (name.registry(), name.repository()) == (first.registry(), first.repository());
        let (now, later): (Vec<Reference>, Vec<Reference>) = names.into_iter().partition(is_same);
        names = later;
        let shown: Vec<String> = now.iter().map(Reference::familiar).collect();
        let task = progress.task(format!("pushing {}", shown.join(", ")));
        task.start();
        let pushed = composed.push(client, &now, &task);
        task.end(match &pushed {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        });
        pushed?;
    }
    Ok(())
}

/// Shows what a name stands for.
pub(super) fn inspect(request: &InspectIndex) -> Result<(), Failure> {
    let found = client(&request.registries).resolve(&request.name, None).map_err(|error| failed(&error))?;
    match request.form {
        IndexForm::Raw => print(&String::from_utf8_lossy(&found.bytes)),
        IndexForm::Report(ReportFormat::Text) => print(&text(&request.name, &found)),
        IndexForm::Report(ReportFormat::Json) => {
            let mut document: serde_json::Value =
                serde_json::from_slice(&found.bytes).map_err(|error| failed(&error))?;
            document["mediaType"] = found.media_type.clone().into();
            document["digest"] = found.digest.to_string().into();
            document["size"] = found.bytes.len().into();
            let all = json!({ "name": request.name.to_string(), "manifest": document });
            print(&pretty(all.to_string().as_bytes()))
        }
    }
}

/// As `docker buildx imagetools inspect` shows it.
fn text(name: &Reference, found: &Resolved) -> String {
    let mut text = format!("Name:      {name}\nMediaType: {}\nDigest:    {}\n", found.media_type, found.digest);
    if let Document::Index(index) = &found.document {
        annotations(&mut text, "", &index.annotations);
        text.push_str("\nManifests:\n");
        let entries: Vec<String> = index.manifests.iter().map(|entry| entry_text(name, entry)).collect();
        text.push_str(&entries.join("\n"));
    }
    text
}

fn entry_text(name: &Reference, entry: &Descriptor) -> String {
    let (registry, repository) = (name.registry(), name.repository());
    let mut text =
        format!("  Name:      {registry}/{repository}@{}\n  MediaType: {}\n", entry.digest, entry.media_type);
    if let Some(platform) = &entry.platform {
        writeln!(text, "  Platform:  {platform}").expect("write to a string");
    }
    annotations(&mut text, "  ", &entry.annotations);
    text
}

fn annotations(text: &mut String, indent: &str, annotations: &std::collections::BTreeMap<String, String>) {
    if annotations.is_empty() {
        return;
    }
    writeln!(text, "{indent}Annotations:").expect("write to a string");
    for (key, value) in annotations {
        writeln!(text, "{indent}  {key}: {value}").expect("write to a string");
    }
}

fn pretty(bytes: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let text = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    text.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned()) + "\n"
}
