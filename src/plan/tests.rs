//! The corpus under `testdata/plan` (`UPDATE=1` rewrites it), and what holds for every plan.
//!
//! A file holds cases: `=== name`, then sections. `--- options` and `--- base REFERENCE` say what goes in beside
//! `--- Dockerfile`; the sections from `--- needs` on are what comes out. A base that no section describes has a small
//! config of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use super::{BaseKey, CopyFrom, MountSource, NamedContext, Network, Op, Options, Plan, Scope, needs, plan};
use crate::diagnostic::{Color, Diagnostic, Severity, Source};
use crate::dockerfile;
use crate::dockerfile::ast::Dockerfile;
use crate::image::config::ImageConfig;

/// One case of a corpus file.
struct Case {
    name: String,
    options: String,
    bases: Vec<(String, String)>,
    dockerfile: String,
}

fn cases(text: &str) -> Vec<Case> {
    text.split("=== ").skip(1).map(case).collect()
}

fn case(text: &str) -> Case {
    let (name, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut case = Case { name: name.to_owned(), options: String::new(), bases: Vec::new(), dockerfile: String::new() };
    let mut section = String::new();
    let mut body = String::new();
    let mut close = |section: &str, body: &mut String| {
        let body = std::mem::take(body);
        match section.split_once(' ') {
            Some(("base", reference)) => case.bases.push((reference.to_owned(), body)),
            _ if section == "options" => case.options = body,
            _ if section == "Dockerfile" => case.dockerfile = body,
            _ => {}
        }
    };
    for line in rest.lines() {
        match line.strip_prefix("--- ") {
            Some(next) => {
                close(&section, &mut body);
                next.clone_into(&mut section);
            }
            None => writeln!(body, "{line}").unwrap(),
        }
    }
    close(&section, &mut body);
    case
}

fn options(text: &str) -> Options {
    let mut options = Options { build_platform: "linux/amd64".parse().unwrap(), ..Options::default() };
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let pair = || value.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
        match key {
            "arg" => drop(options.build_args.insert(pair().0, pair().1)),
            "label" => drop(options.labels.insert(pair().0, pair().1)),
            "target" => options.target = Some(value.to_owned()),
            "platform" => options.platform = Some(value.parse().unwrap()),
            "build-platform" => options.build_platform = value.parse().unwrap(),
            "epoch" => options.epoch = Some(value.parse().unwrap()),
            "hostname" => options.hostname = value.to_owned(),
            "network" if value == "host" => options.network = Network::Host,
            "network" if value == "none" => options.network = Network::None,
            "every-stage" => options.scope = Scope::EveryStage,
            "context" => drop(options.named_contexts.insert(pair().0, context(&pair().1))),
            other => panic!("unknown option {other:?}"),
        }
    }
    options
}

fn context(text: &str) -> NamedContext {
    match text.split_once("://") {
        Some(("docker-image", reference)) => NamedContext::Image(reference.parse().unwrap()),
        Some(("oci-layout", path)) => {
            NamedContext::OciLayout { path: path.into(), tag: Some("latest".to_owned()), digest: None }
        }
        Some(("https", _)) if text.ends_with(".git") => NamedContext::Git(text.to_owned()),
        Some(("https", _)) => NamedContext::Url(text.to_owned()),
        Some((scheme, _)) => panic!("unknown scheme {scheme}"),
        None => match text.strip_prefix("target:") {
            Some(target) => NamedContext::Target(target.to_owned()),
            None => NamedContext::Directory(text.into()),
        },
    }
}

/// The config that a case gives for a base, else a small one for the platform that was asked for.
fn base_config(case: &Case, key: &BaseKey) -> ImageConfig {
    let name = key.source.to_string();
    let written = case.bases.iter().find(|(reference, _)| *reference == name);
    match written {
        Some((_, json)) => ImageConfig::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", case.name)),
        None => {
            let (os, architecture) = (&key.platform.os, &key.platform.architecture);
            let json = serde_json::json!({
                "architecture": architecture, "os": os, "variant": key.platform.variant,
                "created": "2020-01-01T00:00:00Z",
                "config": {"Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": []},
                "history": [{"created": "2020-01-01T00:00:00Z", "created_by": format!("base {name}")}],
            });
            ImageConfig::parse(json.to_string().as_bytes()).unwrap()
        }
    }
}

/// Resolves until nothing is missing, as a build does, then plans.
fn resolve_and_plan(
    case: &Case,
    dockerfile: &Dockerfile,
    options: &Options,
    log: &mut String,
) -> Result<Plan, Vec<Diagnostic>> {
    let mut known: BTreeMap<BaseKey, ImageConfig> = BTreeMap::new();
    loop {
        let missing = needs::needs(dockerfile, options, &known)?;
        if missing.is_empty() {
            return plan(dockerfile, options, &known);
        }
        let names: Vec<String> = missing.iter().map(BaseKey::to_string).collect();
        writeln!(log, "{}", names.join(", ")).unwrap();
        for key in missing {
            let config = base_config(case, &key);
            assert!(known.insert(key, config).is_none(), "{}: a base was asked for twice", case.name);
        }
    }
}

fn render(source: &Source, diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| source.render(diagnostic, Color::Never) + "\n\n").collect()
}

/// The case again, with what it gives now.
fn rewritten(case: &Case) -> String {
    let mut out = format!("=== {}\n", case.name);
    let mut section = |title: &str, body: &str| {
        let body = body.trim_end();
        if !body.is_empty() {
            writeln!(out, "--- {title}\n{body}").unwrap();
        }
    };
    section("options", &case.options);
    for (reference, json) in &case.bases {
        section(&format!("base {reference}"), json);
    }
    section("Dockerfile", &case.dockerfile);
    let source = Source::new("Dockerfile", case.dockerfile.as_str());
    let parsed = dockerfile::parse(&source);
    let (errors, _): (Vec<Diagnostic>, Vec<Diagnostic>) =
        parsed.diagnostics.into_iter().partition(|diagnostic| diagnostic.severity == Severity::Error);
    section("parse errors", &render(&source, &errors));
    let mut log = String::new();
    let result = resolve_and_plan(case, &parsed.dockerfile, &options(&case.options), &mut log);
    section("needs", &log);
    match result {
        Err(diagnostics) => section("errors", &render(&source, &diagnostics)),
        Ok(plan) => {
            check_graph(&plan, &case.name);
            section("plan", &plan.to_string());
            let config = serde_json::to_value(&plan.result.config).unwrap();
            section("config", &serde_json::to_string_pretty(&config).unwrap());
            let mut history = String::new();
            for entry in &plan.result.history {
                let layer = entry.layer.map(|layer| layer.to_string()).unwrap_or_default();
                writeln!(history, "{layer:4}{:?}", entry.entry.created_by).unwrap();
            }
            section("history", &history);
            section("warnings", &render(&source, &plan.warnings));
        }
    }
    out + "\n"
}

/// What holds for every plan: each step after what it waits for, and nothing that nothing waits for.
fn check_graph(plan: &Plan, name: &str) {
    let mut waited_for = BTreeSet::from([plan.result.step]);
    for (index, step) in plan.steps.iter().enumerate() {
        assert_eq!(step.id.index(), index, "{name}: a step's id is not its index");
        assert!(step.inputs.iter().all(|input| input < &step.id), "{name}: {} comes before what it waits for", step.id);
        assert!(step.inputs.is_sorted(), "{name}: inputs are out of order");
        assert!(step.parent.is_none_or(|parent| step.inputs.contains(&parent)), "{name}: a parent is not waited for");
        let sources = match &step.op {
            Op::Copy(copy) => match copy.from {
                CopyFrom::Step(source) => vec![source],
                _ => Vec::new(),
            },
            Op::Run(run) => run
                .mounts
                .iter()
                .filter_map(|mount| match mount.source {
                    MountSource::Step(source) => Some(source),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        assert!(sources.iter().all(|source| step.inputs.contains(source)), "{name}: a source is not waited for");
        assert!(!step.title.is_empty(), "{name}: a step has no title");
        waited_for.extend(&step.inputs);
    }
    assert_eq!(waited_for.len(), plan.steps.len(), "{name}: nothing waits for a step");
    for entry in &plan.result.history {
        assert_eq!(entry.entry.empty_layer, entry.layer.is_none(), "{name}: {}", entry.entry.created_by);
    }
    let layers: Vec<_> = plan.result.history.iter().filter_map(|entry| entry.layer).collect();
    let made: Vec<_> = plan.lineage(plan.result.step).into_iter().skip(1).collect();
    assert_eq!(layers, made, "{name}: the history's layers are not the steps that make the result");
}

#[test]
fn the_corpus_is_planned_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan");
    let mut count = 0;
    let mut failures = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let cases = cases(&written);
        let now: String = cases.iter().map(rewritten).collect();
        count += cases.len();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &now).unwrap();
        } else if now != written {
            let (old, new) = first_difference(&written, &now);
            failures.push(format!("{}:\n- {old}\n+ {new}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}\nUPDATE=1 rewrites the corpus", failures.join("\n"));
    assert!(count >= 60, "only {count} cases were found");
}

fn first_difference<'t>(old: &'t str, new: &'t str) -> (&'t str, &'t str) {
    let mut lines = old.lines().zip(new.lines());
    lines.find(|(old, new)| old != new).unwrap_or(("(one text ends)", "(where the other goes on)"))
}
