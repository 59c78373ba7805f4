//! `rbuild explain` and `--dry-run`: what a build would do, said before it does it.

use std::fs;

use serde_json::Value;

use crate::bases::Base;
use crate::harness::{Files, Rbuild, Run};
use crate::registry_server::{Access, Registry, missing_programs};

/// Each step's title, verdict and reason.
fn verdicts(rbuild: &Rbuild, context: &Files, flags: &[&str]) -> Vec<(String, String, String)> {
    let directory = context.directory.to_str().expect("paths are UTF-8");
    let arguments = [&["explain", "--format", "json"], flags, &[directory]].concat();
    rbuild.own_everything();
    let run = rbuild.run(arguments).succeeded();
    let value: Value = serde_json::from_str(&run.stdout).expect("explain prints JSON");
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let steps = value["steps"].as_array().expect("there are steps");
    steps.iter().map(|step| (text(step, "title"), text(step, "verdict"), text(step, "reason"))).collect()
}

fn words(verdicts: &[(String, String, String)]) -> Vec<&str> {
    verdicts.iter().map(|(_, verdict, _)| verdict.as_str()).collect()
}

fn explain_text(rbuild: &Rbuild, context: &Files, flags: &[&str]) -> Run {
    let directory = context.directory.to_str().expect("paths are UTF-8");
    rbuild.own_everything();
    rbuild.run([&["explain"], flags, &[directory]].concat()).succeeded()
}

for_each_user! {
    fn what_is_foretold_is_what_happens(rbuild) {
        let busybox = match Base::Busybox.rootfs() {
            Ok(busybox) => busybox,
            Err(reason) => skip!("{reason}"),
        };
        let dockerfile = "\
FROM scratch AS base
ADD rootfs.tar.xz /
FROM base AS build
ARG VERSION=1
COPY src /src
RUN cat /src/* > /out; echo $VERSION >> /out
FROM base
COPY --link src/one /linked
COPY --from=build /out /out
RUN --mount=from=build,target=/mnt cat /mnt/out
";
        let context = rbuild
            .context("explained")
            .file("Dockerfile", dockerfile)
            .file("src/one", "1\n")
            .file("src/two", "2\n");
        fs::copy(busybox, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");

        let first = verdicts(&rbuild, &context, &[]);
        assert_eq!(words(&first), ["base", "miss", "miss", "miss", "miss", "unknown", "unknown"], "{first:?}");
        assert!(first[1..5].iter().all(|(_, _, reason)| reason == "not built before"), "{first:?}");
        let steps = rbuild.store().join("steps");
        assert_eq!(fs::read_dir(&steps).expect("list the steps").count(), 0, "explaining left results");

        rbuild.build(&context, &[]).succeeded();
        let again = verdicts(&rbuild, &context, &[]);
        assert_eq!(words(&again), ["base", "hit", "hit", "hit", "hit", "hit", "hit"], "{again:?}");

        fs::write(context.directory.join("src/two"), "two\n").expect("change a file");
        fs::write(context.directory.join("src/three"), "3\n").expect("add a file");
        let changed = verdicts(&rbuild, &context, &[]);
        assert_eq!(words(&changed), ["base", "hit", "miss", "miss", "hit", "unknown", "unknown"], "{changed:?}");
        assert_eq!(changed[2].2, "src/two changed, src/three added");
        assert_eq!(changed[3].2, "the step before it changed");
        let text = explain_text(&rbuild, &context, &[]).stdout;
        assert!(text.contains("MISS: src/two changed, src/three added\n    compared with "), "{text}");
        assert!(text.ends_with("2 of 6 steps come from the cache\n"), "{text}");

        // The build does what was foretold, in the same words, and what it could not tell comes out by content.
        let built = rbuild.build(&context, &["--progress", "plain"]).succeeded().says("src/two changed, src/three added");
        assert_eq!(built.step("COPY src /src"), "DONE");
        assert_eq!(built.step("COPY --link"), "CACHED");

        let argument = verdicts(&rbuild, &context, &["--build-arg", "VERSION=2"]);
        assert_eq!(argument[3].2, "variable VERSION was \"1\", is \"2\"");
        let switched_off = verdicts(&rbuild, &context, &["--no-cache-filter", "build"]);
        assert_eq!(switched_off[2].2, "the cache is switched off for it");
        let unknown = explain_text(&rbuild, &context, &["--no-cache-filter", "biuld"]);
        assert!(unknown.stdout.ends_with("6 of 6 steps come from the cache\n"), "{}", unknown.stdout);
        unknown.says("there is no stage \"biuld\"").says("did you mean build? The named stages: base, build");
        assert_eq!(words(&verdicts(&rbuild, &context, &[]))[1..], ["hit"; 6], "explaining changed what is remembered");
    }

    fn a_miss_names_the_flag_the_order_and_the_file(rbuild) {
        let busybox = match Base::Busybox.rootfs() {
            Ok(busybox) => busybox,
            Err(reason) => skip!("{reason}"),
        };
        let dockerfile = "\
FROM scratch AS base
ADD rootfs.tar.xz /
FROM base AS tool
COPY tool/run tool/keep /bin/
FROM base
COPY app /app
RUN --mount=target=/in,source=app --mount=from=tool,source=/bin,target=/tools true
RUN true
";
        let context = rbuild.context("named").file("Dockerfile", dockerfile).file("app/one", "1\n");
        let context = context.file("app/two", "2\n").file("tool/run", "3\n").file("tool/keep", "4\n");
        fs::copy(busybox, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
        rbuild.build(&context, &[]).succeeded();
        let reason = |flags: &[&str], step: &str| -> String {
            let steps = verdicts(&rbuild, &context, flags);
            let found = steps.iter().find(|(title, _, _)| title.contains(step)).expect("the step is there");
            format!("{}: {}", found.1, found.2)
        };
        let edit = |from: &str, to: &str| {
            assert!(dockerfile.contains(from), "{from}");
            fs::write(context.directory.join("Dockerfile"), dockerfile.replace(from, to)).expect("edit the Dockerfile");
        };

        assert_eq!(reason(&["--reproducible"], "COPY app"), "miss: --reproducible was off, is on");
        let platform = reason(&["--platform", "linux/s390x"], "ADD");
        assert!(platform.ends_with(", is \"linux/s390x\""), "{platform}");
        edit("COPY app", "COPY --chown=7 app");
        assert_eq!(reason(&[], "COPY --chown"), "miss: --chown was unset, is \"7\"");
        // What the build will fail with is not what is asked here.
        edit("COPY app", "COPY --chown=nosuch app");
        assert_eq!(reason(&[], "COPY --chown"), "miss: --chown was unset, is \"nosuch\"");
        edit("RUN true\n", "RUN echo\nRUN true\n");
        assert_eq!(reason(&[], "RUN echo"), "miss: not built before");
        assert!(reason(&[], "RUN true").ends_with(", comes after \"RUN echo\""));

        // The same files are there already: that is not a miss first and then none.
        edit("COPY app", "COPY --link app");
        assert_eq!(reason(&[], "COPY --link"), "hit: --link was off, is on");
        let linked = rbuild.build(&context, &["--progress", "plain"]).succeeded();
        assert_eq!(linked.step("COPY --link app /app"), "CACHED");
        linked.says("other than then: --link was off, is on").does_not_say("cache miss: --link");

        // What mounts show is told of by name, be it of the context or of a stage.
        fs::write(context.directory.join("app/one"), "one\n").expect("change a file");
        fs::write(context.directory.join("tool/new"), "5\n").expect("add a file");
        edit("tool/keep /bin/", "tool/new /bin/");
        let run = rbuild.build(&context, &["--progress", "plain"]).succeeded();
        run.says("bind mount at /in: app/one changed; bind mount at /tools: bin/new added, bin/keep removed");
    }

    fn a_base_that_moved_is_named_with_both_digests(rbuild) {
        if let Some(program) = missing_programs(Access::Plain) {
            skip!("{program} is not installed");
        }
        let registry = Registry::start(Access::Plain);
        let name = registry.name("team/base:latest");
        let publish = |content: &str| {
            let other = Rbuild::new(rbuild.user);
            let base = other.context("base").file("Dockerfile", "FROM scratch\nCOPY version /version\n");
            let base = base.file("version", content);
            other.build(&base, &["-t", &name, "--push"]).succeeded();
        };
        publish("1\n");
        let context = rbuild.context("upon").file("Dockerfile", format!("FROM {name}\nCOPY Dockerfile /made/\n"));
        assert_eq!(verdicts(&rbuild, &context, &[])[1].2, "not built before");
        let fetched = fs::read_dir(rbuild.store().join("index")).expect("list the indexes").count();
        assert_eq!(fetched, 0, "a base was fetched to explain what is copied onto it");
        rbuild.build(&context, &[]).succeeded();
        publish("2\n");
        let steps = verdicts(&rbuild, &context, &["--pull"]);
        assert_eq!(words(&steps), ["base", "miss"], "{steps:?}");
        assert!(steps[0].2.starts_with("digest moved from "), "{steps:?}");
        assert_eq!(steps[1].2, "the step before it changed");
        rbuild.build(&context, &["--pull", "--progress", "plain"]).succeeded().says("digest moved from ");
    }

    fn the_plan_is_printed_and_nothing_is_built(rbuild) {
        let context = rbuild
            .context("planned")
            .file("Dockerfile", "FROM scratch\nARG NAME=one\nCOPY $NAME /there\nRUN [\"/there\"]\n")
            .file("one", "1\n");
        let run = rbuild.build(&context, &["--dry-run"]).succeeded();
        assert!(run.stdout.contains("COPY one /there") && run.stdout.contains("run [\"/there\"]"), "{}", run.stdout);
        let steps = rbuild.store().join("steps");
        assert_eq!(fs::read_dir(&steps).expect("list the steps").count(), 0, "a plan left results");
    }
}
