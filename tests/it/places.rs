//! Poorer and changing places: no user namespaces, as in a container with Docker's default profile; other ids than last time.

use std::fs;
use std::process::Command;

use crate::harness::{Rbuild, finish, has_program};
use crate::leftovers::{mapping, on_busybox};

/// Starts a program under a system-call filter that forbids namespaces as Docker's default profile does: `unshare` and
/// `clone` with a namespace flag fail with EPERM, `clone3` with ENOSYS.
pub const WITHOUT_NAMESPACES: &str = include_str!("../support/without_namespaces.py");

fn without_namespaces(rbuild: &Rbuild, arguments: &[&str]) -> Command {
    let program = rbuild.program();
    let program = program.to_str().expect("the program's path is text");
    let python = ["-c", WITHOUT_NAMESPACES, program];
    rbuild.command_of("/usr/bin/python3", python.iter().chain(arguments))
}

for_each_user! {
    fn without_namespaces_what_needs_no_command_is_built_and_the_rest_says_what_to_change(rbuild) {
        if !has_program("python3") {
            skip!("python3 is missing");
        }
        let copied = "FROM scratch\nCOPY --from=busybox --chown=5:6 /etc/passwd /etc/group /etc/\nWORKDIR /made\n";
        let (plain, running) = match (on_busybox(&rbuild, "plain", copied), on_busybox(&rbuild, "running", "RUN true\n")) {
            (Ok(plain), Ok(running)) => (plain, running),
            (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
        };
        let archive = rbuild.path("out/plain.tar");
        let output = format!("type=tar,dest={}", archive.display());
        let directory = plain.directory.to_str().expect("the path is text");
        let started = without_namespaces(&rbuild, &["build", "-o", &output, directory]).spawn().expect("start python");
        finish(started).succeeded();
        let listed = Command::new("tar").arg("tvf").arg(&archive).output().expect("run tar");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.lines().any(|line| line.contains("5/6") && line.ends_with("etc/passwd")), "{listed}");
        let directory = running.directory.to_str().expect("the path is text");
        let started = without_namespaces(&rbuild, &["build", "--isolation=full", directory]).spawn().expect("start python");
        finish(started).failed(1).says("cannot run commands here").says("seccomp").says("rbuild doctor");
    }

    fn trees_that_were_made_with_other_ids_are_not_taken_for_ours(rbuild) {
        let context = match on_busybox(&rbuild, "ids", "RUN echo 1 > /one\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &[]).succeeded();
        let trees = mapping(&rbuild);
        fs::rename(&trees, trees.with_file_name("4242-4242-0123456789ab")).expect("rename the trees");
        context.edit("Dockerfile", "/one\n", "/one\nRUN cat /one\n");
        rbuild.build(&context, &[]).succeeded().says(" 1\n");
    }
}
