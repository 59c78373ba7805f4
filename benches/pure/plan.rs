//! Tree and base configs → graph of steps. The goal is 5 ms for 1,000 steps.

use std::collections::BTreeMap;
use std::fmt::Write;

use divan::Bencher;
use rbuild::diagnostic::Source;
use rbuild::dockerfile;
use rbuild::dockerfile::ast::Dockerfile;
use rbuild::image::config::ImageConfig;
use rbuild::plan::{BaseKey, Options, needs, plan};

const STEPS: usize = 1_000;

/// One stage of RUN, COPY and the instructions that go with them.
fn one_stage() -> String {
    let mut text = "FROM debian:12\n".to_owned();
    for at in 0..STEPS / 2 {
        let _ = writeln!(text, "ARG VERSION_{}=1.{at}\nENV NAME_{}=$VERSION_{}", at % 20, at % 20, at % 20);
        let _ =
            writeln!(text, "COPY --chown=1000 src/part{at} /srv/part{at}/\nRUN make -C /srv/part{at} ${{NAME_3:-all}}");
    }
    text
}

/// As many steps in stages of ten, each built on the one before and read by the last.
fn many_stages() -> String {
    let mut text = "FROM debian:12 AS s0\n".to_owned();
    for at in 1..=STEPS / 10 {
        let _ = writeln!(text, "FROM s{} AS s{at}", at - 1);
        for step in 0..9 {
            let _ = writeln!(text, "RUN --mount=type=cache,target=/cache make part{step}");
        }
        let _ = writeln!(text, "COPY part{at} /part{at}");
    }
    let _ = writeln!(text, "FROM debian:12");
    for at in 1..=STEPS / 10 {
        let _ = writeln!(text, "COPY --from=s{at} /part{at} /part{at}");
    }
    text
}

struct World {
    dockerfile: Dockerfile,
    options: Options,
    bases: BTreeMap<BaseKey, ImageConfig>,
}

/// A file with what its plan needs, resolved as a build does it.
fn world(text: &str) -> World {
    let dockerfile = dockerfile::parse(&Source::new("Dockerfile", text)).dockerfile;
    let build_platform = "linux/amd64".parse().expect("a platform");
    let options = Options { build_platform, ..Options::default() };
    let config = br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config = ImageConfig::parse(config).expect("a config");
    let missing = needs::needs(&dockerfile, &options, &BTreeMap::new()).expect("a file without errors");
    World { bases: missing.into_iter().map(|(key, _)| (key, config.clone())).collect(), dockerfile, options }
}

fn bench(bencher: Bencher<'_, '_>, text: &str) {
    let World { dockerfile, options, bases } = world(text);
    let steps = plan(&dockerfile, &options, &bases).expect("a plan").steps.len();
    assert!((STEPS..STEPS * 5 / 4).contains(&steps), "{steps} steps");
    bencher.bench(|| plan(&dockerfile, &options, &bases));
}

#[divan::bench]
fn a_thousand_steps_in_one_stage(bencher: Bencher<'_, '_>) {
    bench(bencher, &one_stage());
}

#[divan::bench]
fn a_thousand_steps_in_a_hundred_stages(bencher: Bencher<'_, '_>) {
    bench(bencher, &many_stages());
}

/// The round before, in which the base images are asked for.
#[divan::bench]
fn needs_of_a_thousand_steps(bencher: Bencher<'_, '_>) {
    let World { dockerfile, options, .. } = world(&one_stage());
    bencher.bench(|| needs::needs(&dockerfile, &options, &BTreeMap::new()));
}
