//! `rbuild copy`, and images of archives where images of the store are expected.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Files, Rbuild, has_program, skopeo, succeed};
use crate::image::Image;
use crate::leftovers::on_busybox;
use crate::registry_server::{Access, Registry, missing_programs};

const TWO: &str = "linux/amd64,linux/arm64";

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn context(rbuild: &Rbuild) -> Files {
    rbuild
        .context("copied")
        .file("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY shared /\nLABEL for=$TARGETARCH\nCMD [\"/shared\"]\n")
        .file("shared", "1\n")
}

/// What a name in a registry stands for, byte for byte.
fn raw(name: &str) -> String {
    let name = format!("docker://{name}");
    let run = succeed(&mut skopeo(&["inspect", "--tls-verify=false", "--raw", &name]));
    String::from_utf8(run.stdout).expect("a manifest is UTF-8")
}

fn missing() -> Option<&'static str> {
    missing_programs(Access::Plain).or_else(|| (!has_program("skopeo")).then_some("skopeo"))
}

for_each_user! {
    fn an_index_goes_from_registry_to_registry_to_archives_and_back(rbuild) {
        if let Some(program) = missing() {
            skip!("{program} is not installed");
        }
        let (here, there) = (Registry::start(Access::Plain), Registry::start(Access::Plain));
        let source = here.name("a/app:1");
        let id = rbuild.build(&context(&rbuild), &["--platform", TWO, "-t", &source, "--push"]).succeeded().image_id();
        let copy = |from: &str, to: &str| rbuild.run(["copy", from, to]).succeeded().stdout;
        let store = rbuild.run(["du"]).succeeded().stdout;
        assert_eq!(copy(&source, &there.name("b/app:1")), format!("{id}\n"));
        let uploads = there.uploads();
        copy(&source, &there.name("b/app:1"));
        copy(&format!("docker://{}", there.name("b/app:1")), &there.name("c/app:2"));
        assert_eq!(there.uploads(), uploads, "bytes were moved again:\n{}", there.log());
        let layout = format!("oci:{}", rbuild.path("out/layout").display());
        copy(&there.name("c/app:2"), &format!("{layout}:one"));
        copy(&source, &format!("{layout}:two"));
        let archive = format!("oci-archive:{}", rbuild.path("out/app.tar").display());
        copy(&format!("{layout}:two"), &archive);
        assert_eq!(copy(&archive, &there.name("d/app:3")), format!("{id}\n"));
        assert_eq!(raw(&there.name("d/app:3")), raw(&source));
        rbuild.run(["copy", &layout, &there.name("x")]).succeeded();
        rbuild.run(["copy", &format!("{layout}:three"), &there.name("x")]).failed(1).says("one, two");
        assert_eq!(rbuild.run(["du"]).succeeded().stdout, store, "the store was used");
        // skopeo finds both names, and reads what they stand for.
        for label in ["one", "two"] {
            let again = format!("dir:{}", rbuild.path(format!("out/{label}")).display());
            let from = format!("{layout}:{label}");
            succeed(&mut skopeo(&["--insecure-policy", "copy", "--quiet", "--all", &from, &again]));
        }
        let one = copy(&archive, &format!("docker-archive:{}:app:1", rbuild.path("out/docker.tar").display()));
        assert_ne!(one, format!("{id}\n"), "docker load knows no indexes");
        assert_eq!(Image::read(&rbuild.path("out/docker.tar")).content("/shared"), "1\n");
    }

    fn an_archive_goes_to_standard_output_and_nothing_else_does(rbuild) {
        let context = rbuild.context("copied").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        rbuild.build(&context, &["-o", "type=oci,tar=false,dest=layout"]).succeeded();
        rbuild.run(["copy", "oci:layout", "oci-archive:whole.tar"]).succeeded();
        let copied = succeed(&mut rbuild.command(["copy", "oci:layout", "oci-archive:-"]));
        let whole = fs::read(rbuild.path("out/whole.tar")).expect("read an archive");
        assert!(copied.stdout == whole, "{} bytes came, not {}", copied.stdout.len(), whole.len());
        assert!(!rbuild.path("out/-").exists());
    }

    fn images_of_archives_are_run_and_looked_at(rbuild) {
        let context = match on_busybox(&rbuild, "archived", "RUN echo 1 > /kept\nENTRYPOINT [\"cat\"]\nCMD [\"/kept\"]\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let (layout, tar) = (rbuild.path("out/layout"), rbuild.path("out/image.tar"));
        let (to_layout, to_tar) = (format!("type=oci,tar=false,dest={}", layout.display()), format!("type=docker,dest={}", tar.display()));
        let id = rbuild.build(&context, &["-t", "app:1", "-o", &to_layout, "-o", &to_tar]).succeeded().image_id();
        let places = [
            format!("oci:{}", layout.display()),
            format!("oci:{}:1", layout.display()),
            format!("oci-archive:{}", tar.display()),
            format!("docker-archive:{}:app:1", tar.display()),
        ];
        let fresh = |arguments: &[&str]| rbuild.run([&["--root", "fresh"], arguments].concat());
        for place in &places {
            assert_eq!(fresh(&["run", place]).succeeded().stdout, "1\n", "{place}");
            assert_eq!(fresh(&["inspect", "-f", "{{.Id}}", place]).succeeded().stdout, format!("{id}\n"));
        }
        assert_eq!(fresh(&["images", "-q"]).succeeded().stdout, "", "an archive was given a name");
        assert_eq!(rbuild.run(["diff", "--exit-code", "app:1", &places[0]]).succeeded().stdout, "");
        assert!(fresh(&["history", &places[3]]).succeeded().stdout.contains("echo 1 > /kept"));
        fresh(&["export", "-o", text(&rbuild.path("out/files.tar")), &places[2]]).succeeded();
        fresh(&["run", &format!("oci:{}:2", layout.display())]).failed(125).says("has no image \"2\"");
        fresh(&["run", "oci-archive:nowhere.tar"]).failed(125).says("nowhere.tar").says("No such file");
        fresh(&["run", "--platform", "linux/s390x", &places[0]]).failed(125).says("no image for linux/s390x");
    }
}

fn rbuild() -> Rbuild {
    Rbuild::new(crate::harness::suite_user())
}

#[test]
fn all_tags_of_a_repository_are_copied() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let context = context(&rbuild);
    for tag in ["1", "2"] {
        let label = format!("--label=tag={tag}");
        let name = registry.name(&format!("a:{tag}"));
        rbuild.build(&context, &[&label, "-t", &name, "--push"]).succeeded();
    }
    let run = rbuild.run(["copy", "--all-tags", &registry.name("a"), &registry.name("b")]).succeeded();
    for tag in ["1", "2"] {
        let copy = registry.name(&format!("b:{tag}"));
        assert!(run.stdout.lines().any(|line| line.ends_with(&copy)), "{}", run.stdout);
        assert_eq!(raw(&copy), raw(&registry.name(&format!("a:{tag}"))));
    }
    rbuild.run(["copy", "--all-tags", &registry.name("a:1"), &registry.name("b")]).failed(2).says("leave the tag out");
    rbuild.run(["copy", "--all-tags", &registry.name("none"), &registry.name("b")]).failed(1).says("not found");
    let kept = rbuild.run(["copy", "--no-clobber", &registry.name("a:1"), &registry.name("b:2")]);
    kept.failed(1).says("exists already").says("--no-clobber");
}

#[test]
fn all_tags_are_pushed_and_pulled() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let names = ["a:1", "a:2", "b:1"].map(|name| registry.name(name));
    let tags: Vec<&str> = names.iter().flat_map(|name| ["-t", name.as_str()]).collect();
    let id = rbuild.build(&context(&rbuild), &tags).succeeded().image_id();
    let (a, elsewhere) = (registry.name("a"), registry.name("elsewhere"));
    let pushed = rbuild.run(["push", "-q", "-a", &a]).succeeded().stdout;
    let places: Vec<&str> = pushed.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(places, &names[..2]);
    rbuild.run(["push", "--all-tags", &a, &elsewhere]).succeeded();
    assert!(registry.fetch("/v2/b/tags/list").contains(" 404 "), "another repository was pushed");
    rbuild.run(["push", "-a", &names[0]]).failed(2).says("leave the tag out");
    rbuild.run(["push", "-a", &registry.name("none")]).failed(1).says("there is no image of");
    let fresh = |arguments: &[&str]| rbuild.run([&["--root", "fresh"], arguments].concat());
    fresh(&["pull", "--all-tags", &elsewhere]).succeeded();
    let template = "{{.ID}}";
    let ids = fresh(&["images", "--no-trunc", "--format", template]).succeeded().stdout;
    assert_eq!(ids.lines().collect::<Vec<_>>(), [&id, &id]);
}

#[test]
fn of_all_tags_one_that_fails_holds_up_no_other_and_each_is_reported() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let context = context(&rbuild);
    let mut ids = Vec::new();
    for tag in ["1", "2", "3"] {
        let (label, name) = (format!("--label=tag={tag}"), registry.name(&format!("a:{tag}")));
        ids.push(rbuild.build(&context, &[&label, "-t", &name]).succeeded().image_id());
    }
    let (a, b) = (registry.name("a"), registry.name("b"));
    let reported = |run: crate::harness::Run, place: &str, lost: &str, done: &str| {
        let run = run.failed(1).says(&format!("1 of 3 tags was not {done}")).says(&format!("{place}:{lost}: "));
        let mut names: Vec<&str> = run.stdout.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        // Registries list tags in any order.
        names.sort_unstable();
        let others = ["1", "2", "3"].into_iter().filter(|tag| *tag != lost);
        assert_eq!(names, others.map(|tag| format!("{place}:{tag}")).collect::<Vec<_>>());
    };
    rbuild.run(["push", "-a", &a]).succeeded();
    let config = |id: &str| id.trim_start_matches("sha256:").to_owned();
    fs::remove_file(rbuild.store().join("blobs/sha256").join(config(&ids[0]))).expect("lose a config");
    reported(rbuild.run(["push", "-a", &a, &b]), &b, "1", "pushed");
    registry.lose_blob(&ids[1]);
    reported(rbuild.run(["--root", "fresh", "pull", "--all-tags", &a]), &a, "2", "pulled");
    let c = registry.name("c");
    reported(rbuild.run(["copy", "--all-tags", &a, &c]), &c, "2", "copied");
}

#[test]
fn an_index_is_pulled_and_loaded_as_one() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let name = registry.name("app:1");
    let archive = rbuild.path("out/index.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let arguments = ["--platform", TWO, "-t", &name, "--push", "-o", &output];
    let id = rbuild.build(&context(&rbuild), &arguments).succeeded().image_id();
    // Pulled by one store and loaded by another it is pushed, and saved, as it was.
    let run = |root: &str, arguments: &[&str]| rbuild.run([&["--root", root], arguments].concat());
    assert_eq!(run("pulled", &["pull", "--platform", TWO, &name]).succeeded().stdout, format!("{id}\n"));
    run("loaded", &["load", "-i", text(&archive)]).succeeded();
    let saved = rbuild.path("out/saved.tar");
    for root in ["pulled", "loaded"] {
        let to = registry.name(&format!("{root}:1"));
        assert_eq!(run(root, &["push", &name, &to]).succeeded().image_id(), id, "{root}");
        assert_eq!(raw(&to), raw(&name));
        run(root, &["save", "--format", "oci-archive", "-o", text(&saved), &name]).succeeded();
        assert_eq!(
            Image::read_index(&saved).0.to_string(),
            serde_json::from_str::<Value>(&raw(&name)).expect("JSON").to_string()
        );
        let platform = ["inspect", "-f", "{{.Architecture}}", "--platform", "linux/arm64", &name];
        assert_eq!(run(root, &platform).succeeded().stdout, "arm64\n");
    }
    // Where one of them is not under it any more the index is another, which is said.
    let alone = registry.name("alone:1");
    let foreign = if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" };
    run("pulled", &["pull", "--platform", foreign, &name]).succeeded();
    let pushed = run("pulled", &["push", &name, &alone]).succeeded();
    assert_ne!(pushed.says("written anew: 1 of its 2 entries is not here").stdout, format!("{id}\n"));
    // One platform of several is that image alone, also where the index was pulled before.
    let one = run("pulled", &["pull", &name]).succeeded().stdout;
    assert_ne!(one, format!("{id}\n"));
    assert_eq!(run("pulled", &["push", &name, &alone]).succeeded().stdout, one);
    run("one", &["load", "-i", text(&archive), "--platform", "linux/arm64"]).succeeded();
    run("one", &["inspect", "--show", "index", &name]).failed(1).says("stands for one image");
    run("one", &["pull", "--platform", "linux/arm64,linux/s390x", &name])
        .failed(1)
        .says("linux/s390x")
        .says("linux/amd64");
}

#[test]
fn a_pulled_image_keeps_its_manifest_whatever_other_forms_its_layers_have_here() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let context = context(&rbuild);
    let [zstd, gzip, moved] = ["zstd:1", "gzip:1", "moved:1"].map(|name| registry.name(name));
    let dated = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
    let push = |root: &str, name: &str, compression: &str| {
        let output = format!("type=image,name={name},push=true,compression={compression}");
        rbuild.build(&context, &["--root", root, dated, "-o", &output]).succeeded();
    };
    push("mine", &zstd, "zstd");
    push("other", &gzip, "gzip");
    // The store has the layer as it made it for the first; of the second it knows where it is.
    for name in [&zstd, &gzip] {
        let run = |arguments: &[&str]| rbuild.run([&["--root", "mine"], arguments].concat()).succeeded();
        run(&["pull", name]);
        run(&["push", name, &moved]);
        assert_eq!(raw(&moved), raw(name), "{name}");
        let archive = rbuild.path("out/kept.tar");
        run(&["save", "--format", "oci-archive", "-o", text(&archive), name]);
        run(&["copy", &format!("oci-archive:{}", archive.display()), &moved]);
        assert_eq!(raw(&moved), raw(name), "saved {name}");
    }
    assert_ne!(raw(&zstd), raw(&gzip));
}

#[test]
fn what_other_tools_archive_is_copied() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let name = registry.name("app:1");
    rbuild.build(&context(&rbuild), &["-t", &name, "--push"]).succeeded();
    let config = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["config"]["digest"].clone();
    let archives = [("docker", "docker-archive"), ("oci", "oci-archive")];
    for (word, transport) in archives {
        let path = rbuild.path(format!("out/{word}.tar"));
        let to = format!("{transport}:{}:{name}", path.display());
        let from = format!("docker://{name}");
        succeed(&mut skopeo(&["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &from, &to]));
        succeed(Command::new("gzip").arg("--keep").arg(&path));
        rbuild.own_everything();
        for ending in ["tar", "tar.gz"] {
            let from = format!("{transport}:{}", rbuild.path(format!("out/{word}.{ending}")).display());
            let to = registry.name(&format!("{word}:{ending}"));
            rbuild.run(["copy", &from, &to]).succeeded();
            assert_eq!(config(&raw(&to)), config(&raw(&name)), "{from}");
        }
    }
    fs::write(rbuild.path("out/none.tar"), "no archive").expect("write");
    let none = format!("oci-archive:{}", rbuild.path("out/none.tar").display());
    rbuild.run(["copy", &none, &registry.name("x")]).failed(1).says("none.tar");
    rbuild.run(["copy", "docker-daemon:app:1", &registry.name("x")]).failed(2).says("another tool's");
}
