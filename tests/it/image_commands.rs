//! What is told of images, and what is made of them without a Dockerfile: `diff`, templates, `run --commit`, completions.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Rbuild, has_program, succeed};
use crate::leftovers::on_busybox;

for_each_user! {
    fn two_images_are_compared_point_by_point(rbuild) {
        let context = rbuild
            .context("compared")
            .file("Dockerfile", "FROM scratch\nCOPY files /\nLABEL a=1\nCMD [\"x\"]\n")
            .file("Again", "FROM scratch\nCOPY others /\nLABEL a=2\nCMD [\"x\"]\n")
            .file("files/same", "1")
            .file("files/changed", "1")
            .file("files/gone", "1")
            .file("others/same", "1")
            .file("others/changed", "22")
            .file("others/new", "1");
        rbuild.build(&context, &["-t", "before"]).succeeded();
        let again = context.directory.join("Again");
        rbuild.build(&context, &["-t", "after", "-f", again.to_str().expect("UTF-8")]).succeeded();
        let shown = rbuild.run(["diff", "--semantic", "before", "after"]).succeeded().stdout;
        assert_eq!(
            shown,
            "config.Labels.a\n  - \"1\"\n  + \"2\"\n\nC /changed   size 1 → 2, content\nD /gone\nA /new\n"
        );
        let json = rbuild.run(["diff", "--format", "json", "--exit-code", "before", "after"]).failed(1).stdout;
        let json: Value = serde_json::from_str(&json).expect("diff prints JSON");
        assert_eq!(json["files"][1]["change"], "deleted");
        let same = rbuild.run(["diff", "--exit-code", "before", "before"]).succeeded();
        assert_eq!((same.stdout.as_str(), same.stderr.as_str()), ("", ""));
        rbuild.run(["diff", "before", "nowhere"]).failed(1).says("there is no image \"nowhere\"");
    }

    fn templates_show_what_scripts_ask_for(rbuild) {
        let text = "FROM scratch\nCOPY Dockerfile /\nENV A=1 B=2\nLABEL x=y\n";
        let id = rbuild.build(&rbuild.context("shown").file("Dockerfile", text), &["-t", "shown:1"]).succeeded().image_id();
        let shown = |arguments: &[&str]| rbuild.run(arguments).succeeded().stdout;
        assert_eq!(shown(&["inspect", "-f", "{{.Id}}", "shown:1"]), format!("{id}\n"));
        let template = "{{range .Config.Env}}{{println .}}{{end}}{{.Config.Labels.x}}{{.Config.User}}";
        let environment = shown(&["inspect", "--format", template, "shown:1"]);
        assert!(environment.ends_with("A=1\nB=2\ny\n"), "{environment}");
        assert_eq!(shown(&["images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"]), format!("{id} shown:1\n"));
        let table = shown(&["images", "--format", "table {{.Repository}}\\t{{.Tag}}"]);
        assert_eq!(table, "REPOSITORY   TAG\nshown        1\n");
        assert!(shown(&["history", "--format", "{{.CreatedBy}}", "shown:1"]).contains("COPY Dockerfile /"));
        rbuild.run(["inspect", "-f", "{{.ID}}", "shown:1"]).failed(2).says("there is no field \"ID\"").says("Id");
    }

    fn what_cannot_be_removed_holds_up_nothing_else(rbuild) {
        let context = rbuild.context("removed").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        let both = "--platform=linux/amd64,linux/arm64";
        rbuild.build(&context, &[both, "-t", "r.test/a:1", "-t", "r.test/b:1", "-t", "r.test/c:1"]).succeeded();
        let run = rbuild.run(["rmi", "r.test/a:1", "nope:1", "r.test/b:1"]).failed(1);
        assert_eq!(run.stdout, "Untagged: r.test/a:1\nUntagged: r.test/b:1\n");
        let run = run.says("error: there is no image \"nope:1\" in the store");
        assert_eq!(run.stderr.matches("hint:").count(), 1, "{}", run.stderr);
        let run = rbuild.run(["rmi", "nope:1", "r.test/c:1", "nope:2"]).failed(1);
        assert_eq!(run.stdout, "Untagged: r.test/c:1\n");
        let run = run.says("error: 2 of 3 images were not removed");
        for name in ["nope:1", "nope:2"] {
            assert!(run.stderr.contains(&format!("caused by: there is no image {name:?} in the store")), "{}", run.stderr);
        }
        assert_eq!(run.stderr.matches("hint:").count(), 1, "{}", run.stderr);
        assert_eq!(rbuild.run(["rmi", "--force", "nope:1"]).succeeded().stdout, "");
        assert_eq!(rbuild.run(["images", "-q"]).succeeded().stdout, "");
    }

    fn a_platform_that_an_image_lacks_is_not_a_missing_image(rbuild) {
        let context = rbuild.context("platforms").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        rbuild.build(&context, &["--platform=linux/amd64,linux/arm64", "-t", "both:1"]).succeeded();
        let id = rbuild.build(&context, &["--platform=linux/arm64", "-t", "one:1"]).succeeded().image_id();
        for (name, offered) in [("both:1", "linux/amd64, linux/arm64"), ("one:1", "linux/arm64"), (&id, "linux/arm64")] {
            for command in ["inspect", "save", "export", "sbom"] {
                let run = rbuild.run([command, "--platform", "linux/s390x", name]).failed(1);
                run.says(&format!("error: {name} has no image for linux/s390x, it has {offered}\n"));
            }
        }
        rbuild.run(["inspect", "--platform", "linux/s390x", "nope:1"]).failed(1).says("there is no image \"nope:1\"");
        rbuild.run(["inspect", "--platform", "linux/arm64", "both:1"]).succeeded();
    }

    fn what_a_command_writes_becomes_an_image(rbuild) {
        let context = match on_busybox(&rbuild, "committed", "RUN echo 1 > /kept\nENV A=1\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &["-t", "base:1"]).succeeded();
        let script = "echo 2 > /new; rm /kept; chmod 700 /tmp; echo $SECRET";
        let flags = ["--commit", "made:1", "--commit", "made:2", "-c", "CMD [\"cat\", \"/new\"]", "--message", "by hand", "-e", "SECRET=hidden"];
        let run = rbuild.run([&["run", "-q"], &flags[..], &["base:1", "sh", "-c", script]].concat()).succeeded();
        assert_eq!(run.stdout, "hidden\n");
        run.says("committed sha256:").says("as made:1, made:2");
        assert_eq!(rbuild.run(["run", "-q", "made:2"]).succeeded().stdout, "2\n");
        let listed = rbuild.run(["diff", "--semantic", "--format", "json", "base:1", "made:1"]).succeeded().stdout;
        let listed: Value = serde_json::from_str(&listed).expect("diff prints JSON");
        let files: Vec<String> = listed["files"].as_array().expect("a list").iter()
            .map(|file| format!("{} {}", file["change"].as_str().expect("a text"), file["path"].as_str().expect("a text")))
            .collect();
        assert_eq!(files, ["deleted /kept", "added /new", "changed /tmp"]);
        assert!(!listed.to_string().contains("hidden"), "{listed}");
        let history = rbuild.run(["history", "--no-trunc", "made:1"]).succeeded().stdout;
        assert!(history.contains("echo 2 > /new") && history.contains("by hand"), "{history}");
        let failed = rbuild.run(["run", "-q", "--commit", "failed", "base:1", "sh", "-c", "echo 1 > /x; exit 3"]).failed(3);
        failed.says("nothing was committed");
        rbuild.run(["inspect", "failed"]).failed(1);
        rbuild.run(["run", "-q", "--commit", "x", "-c", "RUN true", "base:1", "true"]).failed(125).says("expected one instruction");
    }
}

#[test]
fn shells_complete_commands_flags_and_images_and_man_has_a_page_for_each_command() {
    let rbuild = Rbuild::new(crate::harness::suite_user());
    if !has_program("bash") {
        skip!("bash is not installed");
    }
    let context = rbuild.context("completed").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    rbuild.build(&context, &["-t", "completed:1", "-t", "completed:2"]).succeeded();
    let script = rbuild.path("out/completion");
    fs::write(&script, rbuild.run(["completion", "bash"]).succeeded().stdout).expect("write the script");
    // As bash calls it: words, the number of the last one, then the name of the function that was registered.
    let ask = "source completion; PATH=$(dirname $PWD):$PATH; COMP_WORDS=(rbuild \"$@\"); COMP_CWORD=$#; \
               f=$(complete -p rbuild | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f rbuild \"${COMP_WORDS[-1]}\" x; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let completions = |words: &[&str]| {
        let output = succeed(&mut rbuild.command_of("bash", [&["-c", ask, "bash"], words].concat()));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completions(&["hist"]), ["history"]);
    assert!(completions(&["build", "--no-c"]).contains(&"--no-cache".to_owned()));
    assert!(completions(&["push", "comp"]).contains(&"completed:1".to_owned()));
    // With a colon in it bash hands over three words.
    assert!(completions(&["push", "completed", ":", ""]).contains(&"2".to_owned()));
    for shell in ["zsh", "fish"] {
        let script = rbuild.run(["completion", shell]).succeeded().stdout;
        assert!(script.contains("rbuild images --format"), "{shell}");
        if has_program(shell) {
            let path = rbuild.path(format!("out/{shell}"));
            fs::write(&path, script).expect("write the script");
            succeed(Command::new(shell).arg("-n").arg(path));
        }
    }
    let pages = rbuild.path("out/man");
    rbuild.run(["man", pages.to_str().expect("UTF-8")]).succeeded();
    let help = rbuild.run(["--help"]).succeeded().stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut count = 0;
    for command in commands.filter_map(|line| line.split_whitespace().next()).filter(|command| *command != "help") {
        let page = fs::read_to_string(pages.join(format!("rbuild-{command}.1"))).expect("a page for each command");
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
        count += 1;
    }
    assert!(count > 15, "{help}");
}
