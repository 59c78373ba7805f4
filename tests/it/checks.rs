//! `--check` and `--call`: what is said about a Dockerfile without building it, in the form that people know.

use serde_json::Value;

use crate::harness::{Files, Rbuild};

/// A Dockerfile with arguments, secrets and descriptions.
const DESCRIBED: &str = "\
# VERSION is what is built
ARG VERSION=1.2
# base holds the tools
FROM scratch AS base
# LEVEL of optimisation
ARG LEVEL
ARG VERSION
RUN --mount=type=secret,id=token,required --mount=type=ssh --mount=type=cache,target=/c true

FROM scratch AS unused
ARG NEVER=seen
RUN --mount=type=secret,id=other true

# Final is not its description
FROM base AS final
RUN --mount=type=secret,id=late true
";

/// Standard output of a build with arguments.
fn output(rbuild: &Rbuild, context: &Files, arguments: &[&str], code: i32) -> String {
    let run = rbuild.build(context, arguments);
    assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
    run.stdout
}

for_each_user! {
    fn check_prints_rule_page_message_and_lines(rbuild) {
        let dockerfile = "FROM scratch AS base\n\n\n# a comment\nMAINTAINER me\nCOPY secret.txt /\nENV \\\n  a b\n";
        let context = rbuild
            .context("check")
            .file("Dockerfile", dockerfile)
            .file(".dockerignore", "*.txt\n")
            .file("secret.txt", "x");
        let expected = "\
Check complete, 3 warnings have been found!

WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
Maintainer instruction is deprecated in favor of using label
Dockerfile:5
--------------------
   3 |     
   4 |     # a comment
   5 | >>> MAINTAINER me
   6 |     COPY secret.txt /
   7 |     ENV \\
--------------------

WARNING: CopyIgnoredFile - https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/
Attempting to Copy file \"secret.txt\" that is excluded by .dockerignore
Dockerfile:6
--------------------
   4 |     # a comment
   5 |     MAINTAINER me
   6 | >>> COPY secret.txt /
   7 |     ENV \\
   8 |       a b
--------------------

WARNING: LegacyKeyValueFormat - https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/
\"ENV key=value\" should be used instead of legacy \"ENV key value\" format
Dockerfile:7
--------------------
   6 |     COPY secret.txt /
   7 | >>> ENV \\
   8 | >>>   a b
   9 |     
--------------------
";
        assert_eq!(output(&rbuild, &context, &["--check"], 1), expected);
        let json = output(&rbuild, &context, &["--call=check,format=json"], 1);
        let json: Value = serde_json::from_str(&json).expect("it is JSON");
        let warning = &json["warnings"][2];
        assert_eq!(json["sources"][0]["filename"], "Dockerfile");
        assert_eq!(json["sources"][0]["language"], "Dockerfile");
        assert_eq!(json.get("buildError"), None);
        assert_eq!(warning["ruleName"], "LegacyKeyValueFormat");
        assert_eq!(warning["location"]["ranges"][0]["start"]["line"], 7);
        assert_eq!(warning["location"]["ranges"][0]["end"]["line"], 8);
        let clean = rbuild.context("clean").file("Dockerfile", "FROM scratch\nLABEL a=b\n");
        assert_eq!(output(&rbuild, &clean, &["--check"], 0), "Check complete, no warnings found.\n");
    }

    fn a_dockerfile_that_wants_its_rules_kept_is_not_built_without(rbuild) {
        let dockerfile = "# check=error=true\nFROM scratch\nMAINTAINER me\nENV a b\n";
        let context = rbuild.context("strict").file("Dockerfile", dockerfile);
        let words = "lint violation found for rules: LegacyKeyValueFormat, MaintainerDeprecated";
        let run = rbuild.build(&context, &[]).failed(1).says(words);
        assert_eq!(run.stdout, "", "an image was made");
        rbuild.build(&context, &["--check"]).failed(1).says(words);
        // The argument stands in place of the directive.
        let argument = "BUILDKIT_DOCKERFILE_CHECK=skip=all;error=true";
        rbuild.build(&context, &["--build-arg", argument]).succeeded();
        let context = rbuild.context("lax").file("Dockerfile", "FROM scratch\nMAINTAINER me\n");
        rbuild.build(&context, &[]).succeeded().says("MaintainerDeprecated");
        rbuild.build(&context, &["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true"]).failed(1);
        rbuild.build(&context, &["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=x=y"]).failed(1).says("invalid check option");
    }

    fn check_shows_what_it_found_before_an_error(rbuild) {
        let broken = rbuild.context("broken").file("Dockerfile", "FROM scratch AS Base\nMAINTAINER me\nBADCMD\n");
        let run = rbuild.build(&broken, &["--check"]).failed(1).says("unknown instruction: BADCMD");
        assert!(run.stdout.starts_with("Check complete, 2 warnings have been found!\n"), "{}", run.stdout);
        assert!(run.stdout.contains("StageNameCasing") && run.stdout.contains("MaintainerDeprecated"), "{}", run.stdout);
        let json = output(&rbuild, &broken, &["--call=check,format=json"], 1);
        let json: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(json["warnings"].as_array().expect("a list").len(), 2);
        assert_eq!(json["buildError"]["message"], "unknown instruction: BADCMD");
        assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 3);
        // A build says the same.
        rbuild.build(&broken, &[]).failed(1).says("StageNameCasing").says("MaintainerDeprecated").says("BADCMD");
        let planned = rbuild.context("planned").file("Dockerfile", "FROM scratch\nMAINTAINER me\nCOPY --from=$no / /\n");
        let run = rbuild.build(&planned, &["--check"]).failed(1).says("should not be blank");
        assert!(run.stdout.contains("MaintainerDeprecated") && run.stdout.contains("UndefinedVar"), "{}", run.stdout);
        let alone = rbuild.context("alone").file("Dockerfile", "FROM scratch\nBADCMD\n");
        let run = rbuild.build(&alone, &["--check"]).failed(1).says("unknown instruction: BADCMD");
        assert_eq!(run.stdout, "");
        let missing = rbuild.context("missing").file("Dockerfile", "FROM localhost:1/none\nMAINTAINER me\n");
        let run = rbuild.build(&missing, &["--check"]).failed(1).says("localhost:1/none");
        assert!(run.stdout.contains("MaintainerDeprecated"), "{}", run.stdout);
    }

    fn directives_that_are_wrong_are_refused_and_unknown_rules_are_spoken_of(rbuild) {
        for (directive, message, mark) in [
            ("skp=all", "failed to parse check options: invalid check option \"skp\"", "         ^^^^^^^"),
            ("error=maybe", "failed to parse check options: failed to parse check option \"error=maybe\"", "^^^^^^^^^^^"),
        ] {
            let context = rbuild.context("wrong").file("Dockerfile", format!("# check={directive}\nFROM scratch\nLABEL a=b\n"));
            for arguments in [&[][..], &["--check"]] {
                rbuild.build(&context, arguments).failed(1).says(message).says(mark).says("it takes skip=RULE");
            }
            rbuild.build(&context, &["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"]).succeeded();
        }
        let dockerfile = "# check=skip=StageNameCasng,all2\nFROM scratch AS Base\nLABEL a=b\n";
        let context = rbuild.context("unknown").file("Dockerfile", dockerfile);
        let run = rbuild.build(&context, &["--check"]).failed(1);
        run.says("there is no check \"StageNameCasng\"; did you mean StageNameCasing?").says("there is no check \"all2\"");
    }

    fn check_of_a_target_speaks_of_what_it_needs(rbuild) {
        let dockerfile = "FROM scratch AS base\nMAINTAINER me\nFROM scratch AS other\nENV a b\nFROM base\nLABEL a=b\n";
        let context = rbuild.context("target").file("Dockerfile", dockerfile);
        let of_base = output(&rbuild, &context, &["--check", "--target=base"], 1);
        assert!(of_base.contains("MaintainerDeprecated") && !of_base.contains("LegacyKeyValueFormat"), "{of_base}");
        let of_all = output(&rbuild, &context, &["--check"], 1);
        assert!(of_all.contains("MaintainerDeprecated") && of_all.contains("LegacyKeyValueFormat"), "{of_all}");
    }

    fn a_file_for_another_frontend_is_refused_in_one_sentence(rbuild) {
        for text in ["// syntax=example/other:1\npackage main\n", "{\n  \"syntax\": \"example/other:1\"\n}\n"] {
            let context = rbuild.context("foreign").file("Dockerfile", text);
            for arguments in [&[][..], &["--check"], &["--call=targets"], &["--call=outline"]] {
                let run = rbuild.build(&context, arguments).failed(1);
                run.says("the frontend example/other:1 cannot be run: only docker/dockerfile is built in")
                    .says("remove the syntax line")
                    .does_not_say("unknown instruction");
            }
        }
    }

    fn stages_that_are_not_built_are_only_spoken_of_by_check(rbuild) {
        let dockerfile = "FROM scratch AS other\nMAINTAINER me\nFROM scratch\nLABEL a=b\n";
        let context = rbuild.context("stages").file("Dockerfile", dockerfile);
        rbuild.build(&context, &[]).succeeded().does_not_say("MaintainerDeprecated");
        assert!(output(&rbuild, &context, &["--check"], 1).contains("MaintainerDeprecated"));
        rbuild.build(&context, &["--target=other"]).succeeded().says("MaintainerDeprecated");
    }

    fn copying_what_is_ignored_warns_unless_an_exception_lets_it_in(rbuild) {
        let dockerfile = "FROM scratch\nCOPY . /all/\nCOPY kept /\n# check=skip=CopyIgnoredFile\nADD no* /skipped/\n";
        let context = rbuild
            .context("ignored")
            .file("Dockerfile", dockerfile)
            .file(".dockerignore", "*\n!kept\n")
            .file("kept", "x")
            .file("not", "y");
        assert_eq!(output(&rbuild, &context, &["--check"], 0), "Check complete, no warnings found.\n");
        let context = rbuild
            .context("nothing")
            .file("Dockerfile", "FROM scratch\nCOPY . /\n")
            .file(".dockerignore", "**\n");
        let text = output(&rbuild, &context, &["--check"], 1);
        assert!(text.contains("Attempting to Copy file \".\" that is excluded by .dockerignore"), "{text}");
    }

    fn errors_are_told_to_programs_too(rbuild) {
        let dockerfile = "FROM scratch AS Base\nCOPY --chwon=1 a b\nRUM x\n";
        let context = rbuild.context("refused").file("Dockerfile", dockerfile);
        let json = output(&rbuild, &context, &["--call=check,format=json"], 1);
        let json: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(json["buildError"]["message"], "unknown flag: --chwon (did you mean --chown?)");
        assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
        assert_eq!(json["buildErrors"][1]["location"]["ranges"][0]["start"]["line"], 3);
        assert_eq!(json["warnings"][0]["ruleName"], "StageNameCasing");
        assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    }

    fn outline_leaves_out_what_the_target_does_not_use(rbuild) {
        let dockerfile = "ARG UNUSED=1\nARG DEEP=2\nARG USED=$DEEP\nARG IMAGE=scratch\nFROM $IMAGE AS a\nARG OTHER\n\
                          FROM $IMAGE\nARG USED TARGETOS TARGETARCH=mine OWN=3\n";
        let context = rbuild.context("used").file("Dockerfile", dockerfile);
        let json = output(&rbuild, &context, &["--call=outline,format=json"], 0);
        let json: Value = serde_json::from_str(&json).expect("it is JSON");
        let names: Vec<&Value> = json["args"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["DEEP", "USED", "IMAGE", "TARGETARCH", "OWN"]);
    }

    fn outline_tells_arguments_secrets_and_agents_of_a_target(rbuild) {
        let context = rbuild.context("outline").file("Dockerfile", DESCRIBED);
        let expected = "\
TARGET:   final

BUILD ARG   VALUE   DESCRIPTION
VERSION     2       is what is built
LEVEL               of optimisation

SECRET   REQUIRED
token    true
late

SSH       REQUIRED
default

";
        assert_eq!(output(&rbuild, &context, &["--call=outline", "--build-arg=VERSION=2"], 0), expected);
        let base = output(&rbuild, &context, &["--call=outline", "--target=base"], 0);
        assert!(base.starts_with("TARGET:        base\nDESCRIPTION:   holds the tools\n"), "{base}");
        let json = output(&rbuild, &context, &["--call=outline,format=json"], 0);
        let json: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(json["args"][0]["name"], "VERSION");
        assert_eq!(json["args"][0]["value"], "1.2");
        assert_eq!(json["secrets"][0]["required"], true);
        assert_eq!(json["ssh"][0]["name"], "default");
        assert_eq!(json["cache"][0]["ID"], "/c");
    }

    fn targets_are_listed_with_their_descriptions(rbuild) {
        let context = rbuild.context("targets").file("Dockerfile", DESCRIBED);
        let expected = "\
TARGET            DESCRIPTION
base              holds the tools
unused
final (default)
";
        assert_eq!(output(&rbuild, &context, &["--call=targets"], 0), expected);
        let json = output(&rbuild, &context, &["--call", "targets,format=json"], 0);
        let json: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(json["targets"][0]["description"], "holds the tools");
        assert_eq!(json["targets"][2]["base"], "base");
        assert_eq!(json["targets"][2]["default"], true);
    }
}
