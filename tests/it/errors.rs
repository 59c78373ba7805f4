//! What people see when something is wrong: the line, the words, what to do, and the right exit code.

use crate::bases::Base;
use crate::harness::{Files, Rbuild, Run};

/// A Dockerfile whose seventh line is given, before and after lines that are right.
fn seventh_line(rbuild: &Rbuild, line: &str) -> Files {
    let head = "# syntax=docker/dockerfile:1\nFROM scratch\nENV A=1\nLABEL b=2\n\n# the next line is wrong\n";
    rbuild.context("seventh").file("Dockerfile", format!("{head}{line}\nENV C=3\n")).file("app.js", "1")
}

fn failing(rbuild: &Rbuild, line: &str) -> Run {
    let run = rbuild.build(&seventh_line(rbuild, line), &[]).failed(1).says("Dockerfile:7").says(line).says("^");
    assert_eq!(run.stdout, "", "an error printed a result");
    run
}

/// A context with busybox, and a Dockerfile whose lines after the base are given.
fn with_shell(rbuild: &Rbuild, lines: &str) -> Result<Files, String> {
    let rootfs = Base::Busybox.rootfs()?;
    let context = rbuild.context("shell").file("Dockerfile", format!("FROM scratch\nADD rootfs.tar.xz /\n{lines}\n"));
    std::fs::copy(rootfs, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
    Ok(context)
}

for_each_user! {
    fn a_failing_run_shows_command_code_output_and_line_and_passes_the_code_on(rbuild) {
        let command = "echo first words; echo the reason >&2; exit 42";
        let context = match with_shell(&rbuild, &format!("ENV A=1\nRUN {command}\nRUN echo never")) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let run = rbuild.build(&context, &[]).failed(42);
        assert_eq!(run.stdout, "", "a failed build printed a result");
        let run = run.says(command).says("exit code: 42").says("the reason").says("Dockerfile:4");
        let last = &run.stderr[run.stderr.rfind("the reason").expect("just seen")..];
        assert!(!last.contains("echo never"), "a step after the failed one was begun:\n{}", run.stderr);
    }

    fn a_base_that_cannot_be_had_is_shown_at_its_place_with_the_stage_that_may_be_meant(rbuild) {
        let dockerfile = "FROM scratch AS builder\nFROM scratch\nCOPY --from=buidler /x /y\n";
        let context = rbuild.context("mistyped").file("Dockerfile", dockerfile);
        let run = rbuild.build(&context, &["--pull=never"]).failed(1).says("resolve base image docker.io/library/buidler:latest");
        run.says("3 | COPY --from=buidler /x /y").says("did you mean the stage builder?").says("caused by: it is not in the local store");
        let dockerfile = "# the base\nFROM localhost:1/none:1\n";
        let context = rbuild.context("nobody").file("Dockerfile", dockerfile);
        let run = rbuild.build(&context, &[]).failed(1).says("resolve base image localhost:1/none:1");
        run.says("2 | FROM localhost:1/none:1").says("caused by: ").does_not_say("did you mean").does_not_say("------");
    }

    fn an_add_that_cannot_be_fetched_is_shown_at_its_place(rbuild) {
        let dockerfile = "FROM scratch\n# from the net\nADD http://127.0.0.1:1/a /x/\n";
        let context = rbuild.context("unfetched").file("Dockerfile", dockerfile);
        let run = rbuild.build(&context, &[]).failed(1).says("ADD http://127.0.0.1:1/a /x/: connect to 127.0.0.1:1: ");
        run.says("Dockerfile:3:1").says("3 | ADD http://127.0.0.1:1/a /x/");
    }

    fn all_that_a_failing_command_wrote_is_kept(rbuild) {
        let command = "for i in $(seq 1 500); do echo line $i; done; exit 5";
        let rest = format!("RUN {command}\nRUN true");
        let context = match with_shell(&rbuild, &rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let run = rbuild.build(&context, &["--progress", "quiet"]).failed(5).says("all that the command wrote is in ");
        let (_, path) = run.stderr.rsplit_once("wrote is in ").expect("just seen");
        let log = std::fs::read_to_string(path.lines().next().expect("a path")).expect("read the log");
        assert_eq!(log.lines().count(), 500);
    }

    fn a_missing_command_passes_127_on(rbuild) {
        let context = match with_shell(&rbuild, "RUN no-such-command") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &[]).failed(127).says("no-such-command").says("exit code: 127");
    }

    fn a_failed_build_keeps_what_was_done(rbuild) {
        let context = match with_shell(&rbuild, "RUN echo one > /one\nRUN exit 3") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &[]).failed(3);
        context.edit("Dockerfile", "RUN exit 3", "RUN true");
        let run = rbuild.build(&context, &[]).succeeded();
        assert_eq!(run.step("RUN echo one"), "CACHED", "{}", run.stderr);
        assert_eq!(run.step("RUN true"), "DONE", "{}", run.stderr);
    }
}

fn rbuild() -> Rbuild {
    Rbuild::new(crate::harness::suite_user())
}

#[test]
fn a_mistyped_instruction_is_shown_and_the_right_one_is_offered() {
    failing(&rbuild(), "COYP app.js /").says("unknown instruction: COYP").says("did you mean COPY?");
}

#[test]
fn a_mistyped_flag_is_shown_and_the_right_one_is_offered() {
    failing(&rbuild(), "COPY --chwon=1 app.js /").says("unknown flag: --chwon").says("did you mean --chown?");
}

#[test]
fn a_mistyped_mount_option_is_shown_and_the_right_one_is_offered() {
    failing(&rbuild(), "RUN --mount=type=bind,targte=/x true").says("targte").says("did you mean target?");
}

#[test]
fn an_instruction_without_its_arguments_is_shown() {
    failing(&rbuild(), "ENV name").says("ENV must have two arguments");
}

#[test]
fn a_bad_substitution_is_shown() {
    failing(&rbuild(), "ENV B=${A").says("missing");
}

#[test]
fn a_stage_that_does_not_exist_is_shown() {
    let run = rbuild().build(&seventh_line(&rbuild(), "ENV B=1"), &["--target", "biuld"]);
    run.failed(1).says("biuld");
}

#[test]
fn a_file_that_is_not_in_the_context_is_shown_with_its_line() {
    failing(&rbuild(), "COPY missing.js /").says("missing.js").says("not found");
}

#[test]
fn a_file_that_is_ignored_is_named_as_such() {
    let rbuild = rbuild();
    let context = seventh_line(&rbuild, "COPY app.js /").file(".dockerignore", "*.js\n");
    rbuild.build(&context, &[]).failed(1).says("Dockerfile:7").says(".dockerignore");
}

#[test]
fn a_missing_dockerfile_is_named() {
    let rbuild = rbuild();
    let context = rbuild.context("empty");
    rbuild.build(&context, &[]).failed(1).says("Dockerfile");
    rbuild.build(&context, &["-f", "Other"]).failed(1).says("Other");
}

#[test]
fn an_empty_dockerfile_is_an_error() {
    let rbuild = rbuild();
    let context = rbuild.context("empty").file("Dockerfile", "# nothing\n");
    rbuild.build(&context, &[]).failed(1).says("no instructions");
}

#[test]
fn wrong_usage_ends_with_2_and_prints_no_result() {
    let rbuild = rbuild();
    for arguments in [
        &["build", "--no-such-flag", "."][..],
        &["build", "--progress", "loud", "."],
        &["build", "-t", "Not A Name", "."],
    ] {
        let run = rbuild.run(arguments).failed(2);
        assert_eq!(run.stdout, "", "{arguments:?} printed a result");
        assert_ne!(run.stderr, "", "{arguments:?} said nothing");
    }
}

#[test]
fn help_is_a_result_and_names_the_flags() {
    let run = rbuild().run(["build", "--help"]).succeeded();
    for flag in
        ["--tag", "--file", "--target", "--build-arg", "--push", "--output", "--secret", "--no-cache", "--iidfile"]
    {
        assert!(run.stdout.contains(flag), "help does not name {flag}:\n{}", run.stdout);
    }
}

#[test]
fn a_message_with_control_characters_does_not_reach_the_terminal_as_such() {
    let run = rbuild().build(&seventh_line(&rbuild(), "FR\u{1b}[31mOM x"), &[]).failed(1);
    assert!(!run.stderr.contains('\u{1b}'), "an escape sequence of the Dockerfile was printed: {:?}", run.stderr);
}
