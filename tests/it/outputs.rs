//! What a build can leave: archives, layouts, plain files, ids and metadata; and what is done with local images.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Files, Rbuild, has_program, skopeo, succeed};
use crate::image::{Image, Kind, describe_changes, read_layer};
use crate::leftovers::on_busybox;

/// Files of several kinds, one of which the second layer takes away the first's content of.
fn context(rbuild: &Rbuild) -> Files {
    rbuild
        .context("outputs")
        .file("Dockerfile", "FROM scratch\nCOPY one /dir/\nCOPY tree /tree/\nCOPY two /dir/one\nCMD [\"/dir/one\"]\n")
        .file("one", "1\n")
        .file("two", "2\n")
        .mode("two", 0o755)
        .file("tree/a", "a\n")
        .link("tree/b", "a")
}

for_each_user! {
    fn an_oci_archive_and_an_oci_directory_hold_the_same_image(rbuild) {
        let context = context(&rbuild);
        let (archive, directory) = (rbuild.path("out/image.tar"), rbuild.path("out/image"));
        let run = rbuild.build(&context, &["-o", &format!("type=oci,dest={}", archive.display())]).succeeded();
        rbuild.build(&context, &["-o", &format!("type=oci,tar=false,dest={}", directory.display())]).succeeded();
        let (first, second) = (Image::read(&archive), Image::read(&directory));
        assert_eq!(first.digest, second.digest);
        assert_eq!(first.id, run.image_id());
        assert_eq!(first.content("/dir/one"), "2\n");
        assert_eq!(first.files()["/tree/b"].kind, Kind::Link("a".into()));
    }

    fn plain_files_in_a_directory(rbuild) {
        let directory = rbuild.path("out/files");
        let output = format!("type=local,dest={}", directory.display());
        rbuild.build(&context(&rbuild), &["-o", &output]).succeeded();
        let file = directory.join("dir/one");
        assert_eq!(fs::read_to_string(&file).expect("read a file of the result"), "2\n");
        let metadata = fs::metadata(&file).expect("look at a file of the result");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o755);
        let own = fs::metadata(rbuild.path("out")).expect("look at a directory").uid();
        assert_eq!(metadata.uid(), own, "the files do not belong to who built");
        assert_eq!(fs::read_link(directory.join("tree/b")).expect("read a link of the result").to_str(), Some("a"));
    }

    fn plain_files_in_a_tar_and_on_stdout(rbuild) {
        let context = context(&rbuild);
        let archive = rbuild.path("out/files.tar");
        rbuild.build(&context, &["-o", &format!("type=tar,dest={}", archive.display())]).succeeded();
        let bytes = fs::read(&archive).expect("read the archive");
        let names: Vec<String> = read_layer(&bytes).into_iter().map(|entry| entry.path).collect();
        for name in ["/dir", "/dir/one", "/tree", "/tree/a", "/tree/b"] {
            assert!(names.iter().any(|found| found == name), "{name} is missing in {names:?}");
        }
        let directory = context.directory.to_str().expect("paths are UTF-8");
        let child = rbuild.start(["build", "-o", "type=tar,dest=-", directory]);
        let output = child.wait_with_output().expect("wait for rbuild");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, bytes, "stdout and the file differ");
    }

    fn an_archive_for_docker_load(rbuild) {
        if !has_program("skopeo") {
            skip!("skopeo is not installed");
        }
        let archive = rbuild.path("out/docker.tar");
        let output = format!("type=docker,dest={}", archive.display());
        let run = rbuild.build(&context(&rbuild), &["-t", "example.test/app:1", "-o", &output]).succeeded();
        let layout = rbuild.path("out/copied");
        let (from, to) = (format!("docker-archive:{}", archive.display()), format!("oci:{}:x", layout.display()));
        succeed(&mut skopeo(&["copy", "--quiet", &from, &to]));
        assert_eq!(Image::read(&layout).content("/dir/one"), "2\n");
        let raw = succeed(Command::new("tar").args(["-xOf", archive.to_str().expect("UTF-8"), "manifest.json"])).stdout;
        let manifest: Value = serde_json::from_slice(&raw).expect("manifest.json is JSON");
        assert_eq!(manifest[0]["RepoTags"][0], "example.test/app:1");
        let config = manifest[0]["Config"].as_str().expect("a config is named");
        assert!(config.contains(run.image_id().trim_start_matches("sha256:")), "{config} is not {}", run.image_id());
    }

    fn the_id_and_the_metadata_in_files(rbuild) {
        let (id_file, metadata_file) = (rbuild.path("out/id"), rbuild.path("out/metadata.json"));
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let arguments = [
            "--iidfile", id_file.to_str().expect("UTF-8"), "--metadata-file", metadata_file.to_str().expect("UTF-8"),
            "-t", "example.test/app:1", "-o", &output,
        ];
        let run = rbuild.build(&context(&rbuild), &arguments).succeeded();
        assert_eq!(fs::read_to_string(id_file).expect("read the id").trim_end(), run.image_id());
        let text = fs::read_to_string(metadata_file).expect("read the metadata");
        let metadata: Value = serde_json::from_str(&text).expect("metadata is JSON");
        let image = Image::read(&archive);
        assert_eq!(metadata["containerimage.config.digest"], Value::String(image.id));
        assert_eq!(metadata["containerimage.digest"], Value::String(image.digest.clone()));
        assert_eq!(metadata["containerimage.descriptor"]["digest"], Value::String(image.digest));
        assert!(metadata["image.name"].as_str().is_some_and(|name| name.contains("example.test/app:1")), "{metadata}");
    }

    fn local_images_are_listed_inspected_and_removed(rbuild) {
        let name = "example.test/app:1";
        let id = rbuild.build(&context(&rbuild), &["-t", name]).succeeded().image_id();
        let short = &id["sha256:".len()..][..12];
        let images = rbuild.run(["images"]).succeeded().stdout;
        assert!(images.contains("example.test/app") && images.contains(short), "{images}");
        let inspected = rbuild.run(["inspect", name]).succeeded().stdout;
        let inspected: Value = serde_json::from_str(&inspected).expect("inspect prints JSON");
        assert!(inspected.to_string().contains("/dir/one"), "the command is missing: {inspected}");
        let history = rbuild.run(["history", name]).succeeded().stdout;
        assert!(history.contains("COPY one /dir/"), "{history}");
        rbuild.run(["rmi", name]).succeeded();
        assert!(!rbuild.run(["images"]).succeeded().stdout.contains("example.test/app"));
        rbuild.run(["inspect", name]).failed(1).says(name);
        rbuild.run(["rmi", name]).failed(1).says(name);
    }
}

#[test]
fn podman_loads_the_archive_for_docker() {
    let rbuild = Rbuild::new(crate::harness::suite_user());
    if !has_program("podman") {
        skip!("podman is not installed");
    }
    if rbuild.user == crate::harness::User::NoSubuid {
        eprintln!("not applicable: podman needs subordinate ids");
        return;
    }
    let archive = rbuild.path("out/docker.tar");
    let output = format!("type=docker,dest={}", archive.display());
    rbuild.build(&context(&rbuild), &["-t", "example.test/app:1", "-o", &output]).succeeded();
    let storage = tempfile::tempdir().expect("create a directory");
    let (root, run_root) = (storage.path().join("root"), storage.path().join("run"));
    let (root, run_root) = (root.to_str().expect("UTF-8"), run_root.to_str().expect("UTF-8"));
    let arguments = ["--root", root, "--runroot", run_root, "--storage-driver", "vfs"];
    succeed(Command::new("podman").args(arguments).args(["load", "-i"]).arg(&archive));
    let images = succeed(Command::new("podman").args(arguments).args(["images", "--no-trunc"])).stdout;
    assert!(String::from_utf8_lossy(&images).contains("example.test/app"), "{}", String::from_utf8_lossy(&images));
}

for_each_user! {
    fn steps_are_squashed_into_one_layer_above_the_base(rbuild) {
        let base = rbuild.context("base").file("Dockerfile", "FROM scratch\nCOPY d /d\n").file("d/a", "a").file("d/b", "b");
        let layout = rbuild.path("out/base");
        rbuild.build(&base, &["-o", &format!("type=oci,tar=false,dest={}", layout.display())]).succeeded();
        let dockerfile = "FROM base\nCOPY e /d/e\nCOPY f /d/e\nADD --chmod=600 f /g\nENV X=1\n";
        let context = rbuild.context("squash").file("Dockerfile", dockerfile).file("e", "e").file("f", "f");
        let build_context = format!("base=oci-layout://{}", layout.display());
        let build = |name: &str, more: &[&str]| {
            let archive = rbuild.path(format!("out/{name}.tar"));
            let output = format!("type=oci,dest={}", archive.display());
            let arguments = [&["--build-context", &build_context, "-o", &output], more].concat();
            let run = rbuild.build(&context, &arguments).succeeded();
            (run, Image::read(&archive))
        };
        let (_, plain) = build("plain", &[]);
        let (_, squashed) = build("squashed", &["--squash"]);
        assert_eq!((plain.layers.len(), squashed.layers.len()), (4, 2));
        assert_eq!(squashed.diff_ids()[0], plain.diff_ids()[0], "the base's layer is another one");
        assert_eq!(describe_changes(&plain.files(), &squashed.files()), "");
        assert_eq!(squashed.config["config"], plain.config["config"]);
        let history = squashed.history();
        let steps = plain.history();
        assert_eq!(history.len(), steps.len() + 1);
        assert!(history[1].ends_with("(empty)") && !history[0].ends_with("(empty)"), "{history:?}");
        let last = squashed.config["history"].as_array().and_then(|all| all.last()).expect("a history");
        assert_eq!(last["comment"], format!("squashed from {}", plain.id));
        // The steps stay in the cache, and so does what was made of them.
        let (again, same) = build("again", &["--squash"]);
        again.all_cached();
        assert_eq!(same.digest, squashed.digest);
    }

    fn other_files_go_from_a_directory_where_that_is_asked_for(rbuild) {
        let context = context(&rbuild);
        let directory = rbuild.path("out/files");
        fs::create_dir_all(directory.join("tree/old/deep")).expect("make directories");
        fs::write(directory.join("tree/old/deep/file"), "x").expect("write a file");
        fs::write(directory.join("stale"), "x").expect("write a file");
        let outside = rbuild.path("out/outside");
        fs::write(&outside, "kept").expect("write a file");
        std::os::unix::fs::symlink(&outside, directory.join("link")).expect("make a link");
        rbuild.own_everything();
        let output = format!("type=local,dest={}", directory.display());
        rbuild.build(&context, &["-o", &output]).succeeded();
        assert!(directory.join("stale").exists(), "a file went without being asked");
        rbuild.build(&context, &["-o", &format!("{output},mode=delete")]).succeeded();
        let mut names: Vec<_> =
            fs::read_dir(&directory).expect("list").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["dir", "tree"]);
        assert!(!directory.join("tree/old").exists() && directory.join("tree/b").is_symlink());
        assert_eq!(fs::read_to_string(&outside).expect("read what a link led to"), "kept");
        let over_context = format!("type=local,mode=delete,dest={}", context.directory.display());
        rbuild.build(&context, &["-o", &over_context]).failed(2).says("would remove all other files");
        rbuild.build(&context, &["-o", &format!("{output},mode=move")]).failed(2).says("mode is copy or delete");
    }

    fn layers_are_compressed_as_asked_for(rbuild) {
        let base = rbuild.context("base").file("Dockerfile", "FROM scratch\nCOPY a /a\n").file("a", "a");
        let layout = rbuild.path("out/base");
        rbuild.build(&base, &["-o", &format!("type=oci,tar=false,dest={}", layout.display())]).succeeded();
        let context = rbuild.context("compressed").file("Dockerfile", "FROM base\nCOPY b /b\n").file("b", "b\n".repeat(9000));
        let build_context = format!("base=oci-layout://{}", layout.display());
        for (attributes, types) in [
            ("compression=gzip,compression-level=9", ["tar+gzip", "tar+gzip"]),
            ("compression=zstd", ["tar+gzip", "tar+zstd"]),
            ("compression=zstd,force-compression=true", ["tar+zstd", "tar+zstd"]),
            ("compression=uncompressed,force-compression=true", ["tar", "tar"]),
            ("oci-mediatypes=false", ["tar.gzip", "tar.gzip"]),
        ] {
            let archive = rbuild.path("out/image.tar");
            let output = format!("type=oci,{attributes},dest={}", archive.display());
            rbuild.build(&context, &["--build-context", &build_context, "-o", &output]).succeeded();
            let image = Image::read(&archive);
            let layers = image.manifest["layers"].as_array().expect("layers").iter();
            let found: Vec<&str> = layers.filter_map(|layer| layer["mediaType"].as_str()).collect();
            for (found, wanted) in found.iter().zip(types) {
                assert!(found.ends_with(wanted), "{attributes}: {found}");
            }
            assert_eq!(image.content("/b").len(), 18_000);
        }
    }
}

/// Commands whose layers have all that a layer can have, one of them more than is hashed in one piece.
const COMMANDS: &str = "RUN mkdir -p /d/e && echo 1 > /d/f && ln /d/f /d/hard && ln -s f /d/link && mkfifo /d/pipe && \\\n\
    chown -h 5:6 /d/link /d/f && head -c 3000001 /dev/zero > /d/e/large\n\
    RUN rm -r /d/e && mkdir /d/e && touch /d/e/new && rm /d/hard && chown -h 7:8 /d/link\n\
    RUN true\n";

for_each_user! {
    fn layers_that_only_the_store_needed_are_the_same_when_they_are_written(rbuild) {
        let context = match on_busybox(&rbuild, "digests", COMMANDS) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let id = rbuild.build(&context, &["-t", "x"]).succeeded().image_id();
        rbuild.run(["check", "--deep"]).succeeded();
        let archive = rbuild.path("out/image.tar");
        rbuild.build(&context, &["-o", &format!("type=oci,dest={}", archive.display())]).succeeded().all_cached();
        // Reading it compares each layer's tar with its digest in the config.
        let image = Image::read(&archive);
        assert_eq!((&image.id, image.layers.len()), (&id, 4));
        assert_eq!(image.files()["/d/link"].uid, 7);
    }
}
