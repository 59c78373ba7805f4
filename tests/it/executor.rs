//! `rbuild` in the place of kaniko's executor, by its name.

use std::fs;
use std::process::Command;

use crate::harness::{Rbuild, Run, finish, succeed};
use crate::image::Image;
use crate::registry_server::{Access, Registry, missing_programs};

/// Runs the program under the name `executor`.
fn executor(rbuild: &Rbuild, arguments: &[&str]) -> Run {
    let program = rbuild.path("executor");
    if !program.exists() {
        fs::hard_link(rbuild.program(), &program).expect("give rbuild another name");
    }
    finish(rbuild.command_of(program, arguments).spawn().expect("start the executor"))
}

fn path(rbuild: &Rbuild, relative: &str) -> String {
    rbuild.path(relative).to_str().expect("paths of tests are UTF-8").to_owned()
}

for_each_user! {
    fn a_build_of_kaniko_pushes_and_writes_its_digests(rbuild) {
        if let Some(program) = missing_programs(Access::Plain) {
            skip!("{program} is not installed");
        }
        let registry = Registry::start(Access::Plain);
        let context = rbuild
            .context("kaniko")
            .file("sub/Dockerfile.ci", "FROM scratch AS base\nARG WORD\nLABEL word=$WORD\nCOPY one /\nFROM base\nCOPY none /\n")
            .file("sub/one", "1\n");
        let (first, second) = (registry.name("team/app:1"), registry.name("team/app:2"));
        let directory = format!("dir://{}", context.directory.display());
        let (cache, other) = (registry.name("cache"), format!("--destination={second}"));
        let arguments = [
            "--context", &directory, "--context-sub-path=sub", "--dockerfile=Dockerfile.ci", "--target", "base",
            "--destination", &first, &other, "--build-arg=WORD=said", "--label", "more=yes",
            "--digest-file", "new/digest", "--image-name-with-digest-file=names", "--image-name-tag-with-digest-file", "tagged",
            "--cache=true", "--cache-repo", &cache, "--snapshotMode=redo", "--use-new-run", "--cleanup",
        ];
        executor(&rbuild, &arguments).succeeded();
        let digest = fs::read_to_string(rbuild.path("out/new/digest")).expect("the digest");
        for version in ["1", "2"] {
            let answer = registry.fetch(&format!("/v2/team/app/manifests/{version}"));
            assert!(answer.contains(" 200 ") && answer.contains(&digest), "{version}: {answer}");
        }
        let name = registry.name("team/app");
        let read = |file: &str| fs::read_to_string(rbuild.path("out").join(file)).expect("a file of names");
        assert_eq!(read("names"), format!("{name}@{digest}\n{name}@{digest}\n"));
        assert_eq!(read("tagged"), format!("{first}@{digest}\n{second}@{digest}\n"));
        // Another machine takes the step from the cache in the registry.
        let elsewhere = Rbuild::new(rbuild.user);
        let run = executor(&elsewhere, &arguments).succeeded();
        assert_eq!(run.step("COPY one /"), "CACHED", "{}", run.stderr);
    }
}

#[test]
fn an_archive_is_built_into_a_tar_and_not_pushed() {
    let rbuild = Rbuild::new(crate::harness::suite_user());
    let context = rbuild.context("kaniko").file("Dockerfile", "FROM scratch\nCOPY one /\n").file("one", "1\n");
    let archive = rbuild.path("out/context.tar.gz");
    succeed(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&context.directory).arg("."));
    let place = format!("tar://{}", archive.display());
    executor(&rbuild, &["-c", &place, "-d", "registry.invalid/app:1", "--no-push", "--oci-layout-path", "layout"])
        .succeeded();
    executor(&rbuild, &["-c", &place, "-d", "registry.invalid/app:1", "--no-push", "--tarPath=app.tar"]).succeeded();
    assert!(rbuild.path("out/layout/index.json").exists());
    assert_eq!(Image::read(&rbuild.path("out/app.tar")).content("/one"), "1\n");
    executor(&rbuild, &["-c", &path(&rbuild, "out/none"), "--no-push"]).failed(2).says("none");
    executor(&rbuild, &["-c", "tar://none.tar", "--no-push"]).failed(1).says("none.tar");
    executor(&rbuild, &["-c", &place, "--no-push", "--sanpshot-mode=full"]).failed(2).says("--sanpshot-mode");
    executor(&rbuild, &["-c", "gs://bucket/context.tar.gz", "--no-push"]).failed(2).says("Google");
}
