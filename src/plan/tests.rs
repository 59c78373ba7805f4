//! The corpus under `testdata/plan` (`UPDATE=1` rewrites it), and what holds for every plan.
//!
//! A file holds cases: `=== name`, then sections. `--- options` and `--- base REFERENCE` say what goes in beside
//! `--- Dockerfile`; the sections from `--- needs` on are what comes out. A base that no section describes has a small
//! config of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use proptest::prelude::*;

use super::{
    BaseKey, CopyFrom, Epoch, EpochSource, MountSource, NamedContext, Network, Op, Options, Plan, Scope, epoch, needs,
    plan,
};
use crate::diagnostic::{Color, Diagnostic, Severity, Source};
use crate::dockerfile;
use crate::dockerfile::ast::{Dockerfile, Operation};
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
            "resolved-epoch" => options.epoch = Epoch::Resolved(value.parse().ok()),
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
        let missing: Vec<BaseKey> =
            needs::needs(dockerfile, options, &known)?.into_iter().map(|(key, _)| key).collect();
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
    let options = options(&case.options);
    if let Ok(source) = epoch::source(&parsed.dockerfile, &options) {
        section("dated by", &epoch_text(&source));
    }
    let mut log = String::new();
    let result = resolve_and_plan(case, &parsed.dockerfile, &options, &mut log);
    section("needs", &log);
    match result {
        Err(diagnostics) => section("errors", &render(&source, &diagnostics)),
        Ok(plan) => {
            check_graph(&plan, &case.name);
            section("plan", &plan.to_string());
            section("config", &config_lines(&plan.result.config));
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

/// What dates a build, where it is no number.
fn epoch_text(source: &EpochSource) -> String {
    match source {
        EpochSource::Number(_) => String::new(),
        EpochSource::Context => "the build context".to_owned(),
        EpochSource::NamedContext(name) => format!("context {name}"),
        EpochSource::Url { url, checksum: Some(checksum), .. } => format!("{url} of {checksum}"),
        EpochSource::Url { url, checksum: None, .. } => url.clone(),
        EpochSource::Git { reference, .. } => {
            format!("{} at {}", reference.remote, reference.name.as_deref().unwrap_or("HEAD"))
        }
    }
}

/// The JSON that is stored, a line for each key: of the config object as well.
fn config_lines(config: &ImageConfig) -> String {
    let mut value = serde_json::to_value(config).unwrap();
    let inner = value["config"].take();
    let line = |(key, value): (&String, &serde_json::Value)| format!("{key}: {value}\n");
    let outer = value.as_object().unwrap().iter().filter(|(key, _)| *key != "config");
    outer.map(line).chain(inner.as_object().unwrap().iter().map(line).map(|line| format!("  {line}"))).collect()
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

/// Plans a text that has no parse errors, every base with its small config.
fn planned(text: &str, options: &Options) -> Result<Plan, Vec<Diagnostic>> {
    let parsed = dockerfile::parse(&Source::new("Dockerfile", text));
    let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
    assert_eq!(parsed.diagnostics.iter().find(is_error), None, "{text}");
    let case = case("generated");
    resolve_and_plan(&case, &parsed.dockerfile, options, &mut String::new())
}

/// The last step of a stage on scratch that ends in an instruction.
fn last_op(instruction: &str) -> Op {
    let text = format!("FROM scratch AS a\nWORKDIR /x\nFROM scratch\nARG V=1\n{instruction}\n");
    let plan = planned(&text, &options("")).unwrap();
    plan.step(plan.result.step).op.clone()
}

#[test]
fn different_instructions_are_different_operations_and_print_differently() {
    let instructions = [
        "RUN x",
        "RUN [\"x\"]",
        "RUN [\"/bin/sh\", \"-c\", \"x\"]",
        "RUN --network=none x",
        "RUN --network=host x",
        "RUN --security=insecure x",
        "USER u\nRUN x",
        "ENV A=1\nRUN x",
        "ENV A=2\nRUN x",
        "ARG A=3\nRUN x",
        "WORKDIR /w\nRUN x",
        "SHELL [\"/bin/sh\", \"-ec\"]\nRUN x",
        "RUN <<E\n#!x\nE",
        "RUN --mount=target=/a x",
        "RUN --mount=target=/a,rw x",
        "RUN --mount=target=/a,source=/b x",
        "RUN --mount=target=/a,from=a x",
        "RUN --mount=type=cache,target=/a x",
        "RUN --mount=type=cache,target=/a,id=b x",
        "RUN --mount=type=cache,target=/a,sharing=locked x",
        "RUN --mount=type=cache,target=/a,mode=0700 x",
        "RUN --mount=type=cache,target=/a,uid=1 x",
        "RUN --mount=type=cache,target=/a,gid=1 x",
        "RUN --mount=type=tmpfs,target=/a x",
        "RUN --mount=type=tmpfs,target=/a,size=1 x",
        "RUN --mount=type=secret,id=a x",
        "RUN --mount=type=secret,id=a,required x",
        "RUN --mount=type=secret,id=a,env=A x",
        "RUN --mount=type=ssh x",
        "COPY a /b",
        "COPY a /b/",
        "COPY b /b",
        "COPY a b /b",
        "COPY --from=a a /b",
        "COPY --link a /b",
        "COPY --parents a /b",
        "COPY --chown=1 a /b",
        "COPY --chmod=1 a /b",
        "COPY --exclude=1 a /b",
        "COPY <<a /b\nx\na",
        "COPY <<a /b\ny\na",
        "ADD a /b",
        "ADD --unpack=true a /b",
        "ADD --unpack=false a /b",
        "ADD --keep-git-dir=true a /b",
        "ADD https://a/b /b",
        "ADD https://a/b.git /b",
        "WORKDIR /w",
        "WORKDIR /v",
        "USER u\nWORKDIR /w",
    ];
    let operations: Vec<Op> = instructions.iter().map(|instruction| last_op(instruction)).collect();
    for (at, operation) in operations.iter().enumerate() {
        for (other_at, other) in operations.iter().enumerate().skip(at + 1) {
            assert_ne!(operation, other, "{} and {}", instructions[at], instructions[other_at]);
            let texts = [operation, other].map(printed);
            assert_ne!(texts[0], texts[1], "{} and {} print alike", instructions[at], instructions[other_at]);
        }
    }
}

fn printed(operation: &Op) -> String {
    match operation {
        Op::Run(run) => run.to_string(),
        Op::Copy(copy) => copy.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_mount_from_a_variable_is_the_stage_that_it_names() {
    let text = "FROM debian AS v1\nRUN 1\nFROM debian AS v2\nRUN 2\nFROM scratch\nARG W=v2\n\
                RUN --mount=from=v1,target=/x x\n";
    let mut dockerfile = dockerfile::parse(&Source::new("Dockerfile", text)).dockerfile;
    let Operation::Run(run) = &mut dockerfile.stages[2].instructions[1].operation else { panic!("no RUN") };
    run.mounts[0].fields[0].1.as_mut().unwrap().value = "$W".to_owned();
    let plan = resolve_and_plan(&case("generated"), &dockerfile, &options(""), &mut String::new()).unwrap();
    let Op::Run(run) = &plan.step(plan.result.step).op else { panic!("the result is no RUN") };
    let MountSource::Step(source) = run.mounts[0].source else { panic!("{:?}", run.mounts[0].source) };
    assert_eq!(plan.step(source).title, "[v2 2/2] RUN 2");
    assert_eq!(plan.stages[0].step, None, "the stage that is not named was planned");
}

#[test]
fn a_base_that_was_not_resolved_is_an_error_of_its_own() {
    let parsed = dockerfile::parse(&Source::new("Dockerfile", "FROM debian\nRUN x\n"));
    let errors = plan(&parsed.dockerfile, &options(""), &BTreeMap::new()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].message, "the config of docker.io/library/debian:latest (linux/amd64) is not known");
}

#[test]
fn an_empty_file_has_no_target() {
    let errors = plan(&Dockerfile::default(), &options(""), &BTreeMap::new()).unwrap_err();
    assert_eq!(errors[0].message, "dockerfile contains no stages to build");
}

#[test]
fn the_longest_way_goes_first() {
    let text = "FROM scratch AS long\nRUN 1\nRUN 2\nFROM scratch AS short\nCOPY a a\nFROM scratch\n\
                COPY --from=long a a\nCOPY --from=short b b\n";
    let plan = planned(text, &options("")).unwrap();
    let weights = plan.critical_path_weights();
    let weight = |title: &str| weights[plan.steps.iter().position(|step| step.title == title).unwrap()];
    assert!(weight("[long 1/2] RUN 1") > weight("[long 2/2] RUN 2"));
    assert!(weight("[long 2/2] RUN 2") > weight("[short 1/1] COPY a a"));
    for step in &plan.steps {
        assert!(step.inputs.iter().all(|input| weights[input.index()] >= weights[step.id.index()]));
    }
}

#[test]
fn a_long_chain_of_stages_does_not_overflow_the_stack() {
    let stages: String = (1..3000).map(|at| format!("FROM s{} AS s{at}\nCOPY a a\n", at - 1)).collect();
    let plan = planned(&format!("FROM scratch AS s0\n{stages}"), &options("")).unwrap();
    assert_eq!(plan.steps.len(), 3000);
    assert_eq!(plan.lineage(plan.result.step).len(), 3000);
}

#[test]
fn a_small_file_cannot_make_an_enormous_config() {
    let exposed = planned(&format!("FROM scratch\n{}", "EXPOSE 1-65535\n".repeat(100)), &options("")).unwrap_err();
    assert_eq!(exposed.len(), 1, "said once");
    assert_eq!(exposed[0].message, "the file exposes more than 200000 ports in all");
    let all = "EXPOSE 1-65535/tcp 1-65535/udp 1-65535/sctp\n";
    assert!(planned(&format!("FROM scratch\n{all}"), &options("")).is_ok());

    let deep =
        |depth: usize| planned(&format!("FROM scratch\nWORKDIR /a\n{}", "WORKDIR a\n".repeat(depth)), &options(""));
    assert!(deep(2_046).is_ok());
    assert!(deep(2_047).is_err());
    let refused = deep(2_100).unwrap_err();
    assert_eq!(refused.len(), 1, "said once");
    assert_eq!(refused[0].message, "the working directory has a path of more than 4095 bytes");
}

/// Instructions that are valid in a stage `at`; names of earlier stages among them.
fn instruction(at: usize) -> impl Strategy<Value = String> {
    let earlier = 0..at.max(1);
    prop_oneof![
        (0..4u8).prop_map(|n| format!("RUN x{n}")),
        (0..4u8).prop_map(|n| format!("COPY a{n} /b")),
        (0..3u8).prop_map(|n| format!("WORKDIR /w{n}")),
        Just("WORKDIR /".to_owned()),
        (0..3u8, 0..3u8).prop_map(|(name, value)| format!("ENV V{name}={value}$V0")),
        (0..3u8).prop_map(|name| format!("ARG V{name}=d")),
        Just("CMD x".to_owned()),
        Just("ONBUILD RUN triggered".to_owned()),
        earlier.clone().prop_map(move |from| match at {
            0 => "COPY --from=alpine a a".to_owned(),
            _ => format!("COPY --from=s{from} /a /a"),
        }),
        earlier.prop_map(move |from| match at {
            0 => "RUN --mount=from=alpine,target=/a a".to_owned(),
            _ => format!("RUN --mount=from={from},target=/a a"),
        }),
    ]
}

fn stage(at: usize) -> impl Strategy<Value = String> {
    let base = prop_oneof![
        Just("scratch".to_owned()),
        (0..3u8).prop_map(|n| format!("image{n}")),
        (0..at.max(1)).prop_map(move |base| if at == 0 { "image".to_owned() } else { format!("s{base}") }),
    ];
    (base, prop::collection::vec(instruction(at), 0..5))
        .prop_map(move |(base, instructions)| format!("FROM {base} AS s{at}\n{}\n", instructions.join("\n")))
}

proptest! {
    #[test]
    fn every_plan_is_in_order_whole_and_the_same_twice(
        stages in (stage(0), stage(1), stage(2), stage(3), stage(4)),
        target in prop::option::of(0..5u8),
    ) {
        let text = [stages.0, stages.1, stages.2, stages.3, stages.4].concat();
        let mut options = options("");
        options.target = target.map(|target| format!("s{target}"));
        let plan = planned(&text, &options).unwrap();
        check_graph(&plan, &text);
        prop_assert_eq!(&plan, &planned(&text, &options).unwrap());
    }
}
