//! Images between the store and files: `save`, `load`, `import`, `export`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Files, Rbuild, finish, has_program, skopeo, succeed};
use crate::image::{Image, read_layer};

fn context(rbuild: &Rbuild) -> Files {
    rbuild
        .context("archives")
        .file("Dockerfile", "FROM scratch\nCOPY one /dir/\nCOPY two /dir/one\nCMD [\"/dir/one\"]\n")
        .file("Other", "FROM scratch\nCOPY one /other\n")
        .file("one", "1\n")
        .file("two", "2\n")
}

/// Builds two images and gives their ids.
fn build(rbuild: &Rbuild) -> (String, String) {
    let context = context(rbuild);
    let other = context.directory.join("Other");
    let first = rbuild.build(&context, &["-t", "example.test/app:1"]).succeeded().image_id();
    let second = rbuild.build(&context, &["-t", "other", "-f", other.to_str().expect("UTF-8")]).succeeded().image_id();
    (first, second)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// The id that a store has under a name.
fn id(rbuild: &Rbuild, root: &Path, name: &str) -> String {
    let inspected = rbuild.run(["--root", text(root), "inspect", name]).succeeded().stdout;
    let inspected: Value = serde_json::from_str(&inspected).expect("inspect prints JSON");
    inspected[0]["Id"].as_str().expect("an image has an id").to_owned()
}

for_each_user! {
    fn images_that_are_saved_are_the_same_when_they_are_loaded(rbuild) {
        let (first, second) = build(&rbuild);
        let archive = rbuild.path("out/both.tar");
        for format in ["docker-archive", "oci-archive"] {
            rbuild.run(["save", "--format", format, "-o", text(&archive), "example.test/app:1", "other"]).succeeded();
            let root = rbuild.path(format!("out/{format}"));
            let run = rbuild.run(["--root", text(&root), "load", "-i", text(&archive)]).succeeded();
            assert_eq!(run.stdout, "Loaded image: example.test/app:1\nLoaded image: other:latest\n");
            assert_eq!(id(&rbuild, &root, "example.test/app:1"), first);
            assert_eq!(id(&rbuild, &root, "other"), second);
            // What passes through keeps its bytes, manifest and all.
            let again = rbuild.path("out/again.tar");
            rbuild.run(["--root", text(&root), "save", "--format", format, "-o", text(&again), "example.test/app:1", "other"]).succeeded();
            assert_eq!(fs::read(&archive).expect("read"), fs::read(&again).expect("read"), "{format}");
        }
    }

    fn an_archive_passes_through_pipes_and_a_layout_is_loaded_from_its_directory(rbuild) {
        let (first, _) = build(&rbuild);
        let mut save = rbuild.start(["save", "--compression", "zstd", "example.test/app:1"]);
        let mut load = rbuild.command(["--root", "piped", "load", "--format", "json"]);
        let load = load.stdin(Stdio::from(save.stdout.take().expect("it has a standard output"))).spawn().expect("start rbuild");
        let loaded = finish(load).succeeded();
        finish(save).succeeded();
        let loaded: Value = serde_json::from_str(&loaded.stdout).expect("load prints JSON");
        assert_eq!((&loaded[0]["id"], &loaded[0]["name"]), (&Value::from(first.clone()), &Value::from("example.test/app:1")));
        let layout = rbuild.path("out/layout");
        rbuild.build(&context(&rbuild), &["-o", &format!("type=oci,tar=false,dest={}", layout.display())]).succeeded();
        let root = rbuild.path("out/from-layout");
        let load = |arguments: &[&str]| rbuild.run([&["--root", text(&root), "load", "-i", text(&layout)], arguments].concat());
        load(&[]).failed(1).says("has no name in the archive").says("rbuild load --tag NAME");
        load(&["--platform", "linux/s390x", "-t", "x"]).failed(1).says("the archive has no image for linux/s390x");
        load(&["-t", "named:2"]).succeeded();
        assert_eq!(id(&rbuild, &root, "named:2"), first);
    }

    fn images_whose_layers_differ_as_blobs_alone_each_keep_theirs(rbuild) {
        let context = context(&rbuild).file("long", "0123456789abcdef".repeat(1000)).file("Dockerfile", "FROM scratch\nCOPY long /\n");
        let archive = |level: &str| rbuild.path(format!("out/{level}.tar"));
        let (root, saved) = (rbuild.path("out/both"), rbuild.path("out/saved.tar"));
        let run = |arguments: &[&str]| rbuild.run([&["--root", text(&root)], arguments].concat()).succeeded();
        for level in ["1", "9"] {
            let form = "compression=gzip,force-compression=true";
            let output = format!("type=oci,{form},compression-level={level},name=level:{level},dest={}", text(&archive(level)));
            rbuild.build(&context, &["-o", &output]).succeeded();
            run(&["load", "-i", text(&archive(level))]);
        }
        run(&["prune", "--force"]);
        for level in ["1", "9"] {
            run(&["save", "--format", "oci-archive", "-o", text(&saved), &format!("level:{level}")]);
            let manifest = |path: &Path| Image::read(path).manifest;
            assert_eq!(manifest(&saved), manifest(&archive(level)), "{level}");
        }
        assert_ne!(Image::read(&archive("1")).manifest, Image::read(&archive("9")).manifest);
    }

    fn of_one_platform_an_archive_gives_each_image_the_index_that_is_whole(rbuild) {
        let context = context(&rbuild);
        let two = ["--platform", "linux/amd64,linux/arm64", "-t", "two:1"];
        rbuild.build(&context, &two).succeeded();
        rbuild.build(&context, &["--platform", "linux/amd64", "--provenance=mode=min", "-t", "one:1"]).succeeded();
        let (archive, root) = (rbuild.path("out/all.tar"), rbuild.path("out/loaded"));
        rbuild.run(["save", "--format", "oci-archive", "-o", text(&archive), "two:1", "one:1"]).succeeded();
        let run = |arguments: &[&str]| rbuild.run([&["--root", text(&root)], arguments].concat());
        run(&["load", "-i", text(&archive), "--platform", "linux/amd64"]).succeeded();
        run(&["inspect", "--platform", "linux/amd64", "--show", "index", "one:1"]).succeeded();
        run(&["inspect", "--platform", "linux/amd64", "--show", "index", "two:1"]).failed(1).says("stands for one image");
        // A name is said once, for however many platforms it stands.
        let loaded = rbuild.run(["--root", "whole", "load", "-i", text(&archive)]).succeeded();
        assert_eq!(loaded.stdout, "Loaded image: two:1\nLoaded image: one:1\n");
    }

    fn an_archive_that_lies_changes_nothing(rbuild) {
        build(&rbuild);
        let archive = rbuild.path("out/app.tar");
        rbuild.run(["save", "--compression", "uncompressed", "-o", text(&archive), "example.test/app:1"]).succeeded();
        let mut bytes = fs::read(&archive).expect("read the archive");
        let place = bytes.windows(7).position(|window| window == b"dir/one").expect("the layer names its file");
        bytes[place + 4..place + 7].copy_from_slice(b"two");
        fs::write(&archive, bytes).expect("write the archive");
        let load = rbuild.run(["--root", "victim", "load", "-i", text(&archive)]);
        load.failed(1).says("is not what its name promises");
        assert_eq!(rbuild.run(["--root", "victim", "images", "-q"]).succeeded().stdout, "");
        fs::write(&archive, "no archive").expect("write");
        rbuild.run(["load", "-i", text(&archive)]).failed(1).says("app.tar");
        rbuild.run(["load", "-i", "nowhere.tar"]).failed(1).says("nowhere.tar: No such file");
    }

    fn files_become_an_image_and_are_files_again(rbuild) {
        build(&rbuild);
        let (files, again) = (rbuild.path("out/files.tar"), rbuild.path("out/again.tar"));
        rbuild.run(["export", "-o", text(&files), "example.test/app:1"]).succeeded();
        let names: Vec<String> = read_layer(&fs::read(&files).expect("read")).into_iter().map(|entry| entry.path).collect();
        assert_eq!(names, ["/dir", "/dir/one"]);
        let changes = ["-c", "CMD [\"/dir/one\"]", "--change", "ENV A=1", "-m", "from files"];
        let imported = rbuild.run([&["import"], &changes[..], &[text(&files), "files:1", "files:2"]].concat()).succeeded();
        let inspected = rbuild.run(["inspect", "files:2"]).succeeded().stdout;
        let inspected: Value = serde_json::from_str(&inspected).expect("inspect prints JSON");
        assert_eq!(inspected[0]["Id"], imported.stdout.trim());
        assert_eq!(inspected[0]["Config"]["Cmd"][0], "/dir/one");
        assert_eq!(inspected[0]["Config"]["Env"], serde_json::json!(["A=1"]));
        assert!(rbuild.run(["history", "--format", "json", "files:1"]).succeeded().stdout.contains("from files"));
        rbuild.run(["export", "-o", text(&again), "files:1"]).succeeded();
        assert_eq!(fs::read(&files).expect("read"), fs::read(&again).expect("read"));
        rbuild.run(["import", "-c", "RUN true", text(&files), "x"]).failed(2).says("expected one instruction of");
        rbuild.run(["import", text(&rbuild.path("rbuild")), "x"]).failed(1).says("is no tar");
    }
}

#[test]
fn skopeo_and_podman_read_what_is_saved_and_what_they_save_is_loaded() {
    let rbuild = Rbuild::new(crate::harness::suite_user());
    for program in ["skopeo", "podman"] {
        if !has_program(program) {
            skip!("{program} is not installed");
        }
    }
    let (first, second) = build(&rbuild);
    let archive = rbuild.path("out/both.tar");
    rbuild.run(["save", "-o", text(&archive), "example.test/app:1", "other"]).succeeded();
    let copied = rbuild.path("out/copied.tar");
    let from = format!("docker-archive:{}:other:latest", archive.display());
    let to = format!("docker-archive:{}:again:1", copied.display());
    succeed(&mut skopeo(&["--insecure-policy", "copy", "--quiet", &from, &to]));
    let layout = rbuild.path("out/skopeo");
    let from = format!("docker-archive:{}:example.test/app:1", archive.display());
    let to = format!("oci:{}:x", layout.display());
    succeed(&mut skopeo(&["--insecure-policy", "copy", "--quiet", &from, &to]));
    assert_eq!(Image::read(&layout).content("/dir/one"), "2\n");
    let root = rbuild.path("out/loaded");
    rbuild.run(["--root", text(&root), "load", "-i", text(&copied)]).succeeded();
    assert_eq!(id(&rbuild, &root, "again:1"), second);
    if rbuild.user == crate::harness::User::NoSubuid {
        eprintln!("not applicable: podman needs subordinate ids");
        return;
    }
    let storage = tempfile::tempdir().expect("create a directory");
    let (root, run_root) = (storage.path().join("root"), storage.path().join("run"));
    let podman = |arguments: &[&str]| {
        let places = ["--root", text(&root), "--runroot", text(&run_root), "--storage-driver", "vfs"];
        succeed(Command::new("podman").args(places).args(arguments))
    };
    podman(&["load", "-q", "-i", text(&archive)]);
    for format in ["docker-archive", "oci-archive"] {
        let saved = rbuild.path(format!("out/podman-{format}.tar"));
        podman(&["save", "-q", "--format", format, "-o", text(&saved), "example.test/app:1"]);
        rbuild.own_everything();
        let root = rbuild.path(format!("out/podman-{format}"));
        rbuild.run(["--root", text(&root), "load", "-i", text(&saved)]).succeeded();
        // Into OCI's form podman writes the config anew, less what that does not know: another id, the same files.
        if format == "docker-archive" {
            assert_eq!(id(&rbuild, &root, "example.test/app:1"), first);
        }
        let files = rbuild.path(format!("out/files-{format}.tar"));
        rbuild.run(["--root", text(&root), "export", "-o", text(&files), "example.test/app:1"]).succeeded();
        assert_eq!(read_layer(&fs::read(&files).expect("read")).len(), 2, "{format}");
    }
}
