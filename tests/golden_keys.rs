//! The cache keys of testdata/cache/keys.txt: a build after an upgrade of rbuild finds what an earlier one made.
//!
//! `UPDATE=1` writes the keys anew; every line that changes costs all users the steps of its kind once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rbuild::cache::key;
use rbuild::diagnostic::Source;
use rbuild::digest::Digest;
use rbuild::dockerfile;
use rbuild::image::platform::Platform;
use rbuild::plan::{self, Op, Plan, StepId};

fn planned(text: &str) -> Plan {
    let parsed = dockerfile::parse(&Source::new("Dockerfile", text));
    assert!(parsed.diagnostics.is_empty(), "the Dockerfile of the keys is wrong: {:?}", parsed.diagnostics);
    let platform = Platform::new("linux", "amd64", "");
    let options = plan::Options { platform: Some(platform), ..plan::Options::default() };
    plan::plan(&parsed.dockerfile, &options, &BTreeMap::new()).expect("the Dockerfile of the keys can be planned")
}

/// Every step's key and title.
fn keys(plan: &Plan) -> String {
    let content = Digest::of(b"content");
    let mut chains: BTreeMap<StepId, Digest> = BTreeMap::new();
    let mut text = String::new();
    for step in &plan.steps {
        let parent = step.parent.map(|parent| chains[&parent]).unwrap_or(content);
        let (key, chain) = match &step.op {
            Op::Scratch(platform) => (key::scratch(platform).digest, None),
            Op::Base(base) => (key::base("base", &base.platform, &[content], None).digest, None),
            Op::Workdir(op) => (key::workdir(op, &parent).digest, None),
            Op::Copy(op) => {
                let key = key::copy(op, &parent, &content).digest;
                (key, (op.link == plan::Link::Independent).then(|| key::chain(&parent, &key)))
            }
            Op::Run(op) => {
                let contents: Vec<Option<Digest>> = op
                    .mounts
                    .iter()
                    .map(|mount| (mount.source != plan::MountSource::Empty).then_some(content))
                    .collect();
                (key::run(op, &parent, &contents).digest, None)
            }
        };
        chains.insert(step.id, chain.unwrap_or(key));
        writeln!(text, "{} {}", key.hex(), step.title).expect("a string can be written to");
    }
    text
}

#[test]
fn keys_are_those_of_earlier_versions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cache/keys.txt");
    let text = fs::read_to_string(&path).expect("read the keys");
    let (head, rest) = text.split_once("=== Dockerfile\n").expect("the file has a Dockerfile");
    let (dockerfile, expected) = rest.split_once("=== keys\n").unwrap_or((rest, ""));
    let found = keys(&planned(dockerfile));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{head}=== Dockerfile\n{dockerfile}=== keys\n{found}")).expect("write the keys");
        return;
    }
    assert_eq!(found, expected, "the keys of steps changed");
}

#[test]
fn whose_cache_and_which_secret_a_command_sees_is_part_of_its_key() {
    let last = |mount: &str| {
        let keys = keys(&planned(&format!("FROM scratch\nRUN --mount={mount} make\n")));
        keys.lines().last().and_then(|line| line.split_once(' ')).map(|(key, _)| key.to_owned())
    };
    for (one, other) in [
        ("type=secret,id=dev,env=T", "type=secret,id=prod,env=T"),
        ("type=secret,id=dev,target=/t", "type=secret,id=prod,target=/t"),
        ("type=secret,id=dev", "type=secret,id=dev,required=true"),
        ("type=cache,id=v1,target=/c", "type=cache,id=v2,target=/c"),
        ("type=cache,id=v1,target=/c", "type=cache,target=/c"),
        ("type=ssh,id=a", "type=ssh"),
    ] {
        assert_ne!(last(one), last(other), "{one} {other}");
    }
    for (one, same) in [
        ("type=cache,target=/c", "type=cache,id=/c,target=/c"),
        ("type=secret,target=/run/secrets/x", "type=secret,id=x"),
        ("type=ssh", "type=ssh,id=default"),
        ("type=cache,target=/c", "type=cache,target=/c,sharing=locked"),
    ] {
        assert_eq!(last(one), last(same), "{one} {same}");
    }
}

#[test]
fn mounts_of_one_name_are_told_apart() {
    let plan = planned(
        "FROM scratch AS a\nFROM scratch\nRUN --mount=from=a,target=/t --mount=from=a,source=b,target=/t --mount=type=tmpfs,target=/o true\n",
    );
    let runs = plan.steps.iter().filter_map(|step| match &step.op {
        Op::Run(op) => Some(key::mount_names(op)),
        _ => None,
    });
    let expected = ["bind mount at /t", "bind mount at /t (2)", "tmpfs mount at /o"].map(str::to_owned);
    assert_eq!(runs.collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_linked_copy_depends_on_what_is_below_where_that_says_who_its_owner_is() {
    for (owner, depends) in [("1:2", false), ("root", true), ("1_2", true), ("1:_", true), ("\u{e4}:0", true)] {
        let plan = planned(&format!("FROM scratch\nCOPY --link --chown={owner} a /a\n"));
        let ops = plan.steps.iter().filter_map(|step| match &step.op {
            Op::Copy(op) => Some(op),
            _ => None,
        });
        for op in ops {
            let on = |below: &[u8]| key::copy(op, &Digest::of(below), &Digest::of(b"content")).digest;
            assert_eq!(on(b"one") != on(b"other"), depends, "{owner}");
        }
    }
}
