//! Images for several platforms, built in one run: one index in archives, directories and registries, the files of each in
//! a directory of its own, and a name in the store that stands for all of them.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::bases::Base;
use crate::harness::{Files, Rbuild, has_program, skopeo, succeed};
use crate::image::Image;
use crate::registry_server::{Access, Registry, missing_programs};

/// A stage that is the same for all platforms, and a file for each.
fn context(rbuild: &Rbuild) -> Files {
    let dockerfile = "FROM --platform=$BUILDPLATFORM scratch AS shared\nCOPY same /same\nFROM scratch AS last\nARG \
                      TARGETARCH\nCOPY --from=shared /same /dir/same\nCOPY for-$TARGETARCH /own\nENV ARCH=$TARGETARCH\n";
    rbuild
        .context("platforms")
        .file("Dockerfile", dockerfile)
        .file("same", "same\n")
        .file("for-amd64", "amd64\n")
        .file("for-arm64", "arm64\n")
        .file("for-arm", "arm\n")
}

const TWO: &str = "linux/amd64,linux/arm64";

fn raw(name: &str) -> Value {
    let name = format!("docker://{name}");
    let output = succeed(&mut skopeo(&["inspect", "--raw", "--tls-verify=false", &name]));
    serde_json::from_slice(&output.stdout).expect("what skopeo read is JSON")
}

for_each_user! {
    fn one_index_in_an_archive_and_in_a_directory(rbuild) {
        let context = context(&rbuild);
        let (archive, directory) = (rbuild.path("out/image.tar"), rbuild.path("out/image"));
        let metadata = rbuild.path("out/metadata.json");
        let outputs = [
            format!("type=oci,dest={}", archive.display()),
            format!("type=oci,tar=false,annotation-index.about=all,dest={}", directory.display()),
        ];
        let run = rbuild.build(&context, &[
            "--platform", "linux/amd64", "--platform", "linux/arm/v7", "-o", &outputs[0], "-o", &outputs[1],
            "--annotation", "manifest[linux/arm/v7]:small=yes", "--metadata-file", metadata.to_str().expect("UTF-8"),
        ]).succeeded();
        let (index, images) = Image::read_index(&archive);
        assert_eq!(index["annotations"], Value::Null);
        let platforms: Vec<&str> = images.iter().map(|(platform, _)| platform.as_str()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm/v7"]);
        for ((_, image), (architecture, small)) in images.iter().zip([("amd64", Value::Null), ("arm", "yes".into())]) {
            assert_eq!(image.content("/own"), format!("{architecture}\n"));
            assert_eq!(image.content("/dir/same"), "same\n");
            assert_eq!(image.config["architecture"], architecture);
            assert!(image.config["config"]["Env"].to_string().contains(&format!("ARCH={architecture}")));
            assert_eq!(image.manifest["annotations"]["small"], small);
        }
        let (annotated, others) = Image::read_index(&directory);
        assert_eq!(annotated["annotations"]["about"], "all");
        assert_eq!(others.iter().map(|(_, image)| &image.digest).collect::<Vec<_>>(),
            images.iter().map(|(_, image)| &image.digest).collect::<Vec<_>>());
        // What is the same for both is done once, and its title says where.
        let shared: Vec<_> = run.steps().into_iter().filter(|(title, _)| title.contains("COPY same")).collect();
        assert_eq!(shared.len(), 1, "{}", run.stderr);
        assert_eq!(run.step("[linux/arm/v7 last 2/2] COPY for-arm /own"), "DONE");
        let written: Value = serde_json::from_slice(&fs::read(metadata).expect("read the metadata")).expect("JSON");
        assert_eq!(written["containerimage.digest"], run.image_id());
        assert_eq!(written["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
        assert_eq!(written["containerimage.config.digest"], Value::Null);
        // Built for one of them alone, everything is in the cache.
        rbuild.build(&context, &["--platform", "linux/arm/v7"]).succeeded().all_cached();
    }

    fn files_of_each_platform_have_a_directory_of_their_own(rbuild) {
        let context = context(&rbuild);
        let (split, archive) = (rbuild.path("out/split"), rbuild.path("out/files.tar"));
        let outputs = [format!("type=local,dest={}", split.display()), format!("type=tar,dest={}", archive.display())];
        rbuild.build(&context, &["--platform", TWO, "-o", &outputs[0], "-o", &outputs[1]]).succeeded();
        let read = |path: &str| fs::read_to_string(split.join(path)).expect("read a file of the result");
        assert_eq!((read("linux_amd64/own"), read("linux_arm64/own")), ("amd64\n".into(), "arm64\n".into()));
        let listed = succeed(Command::new("tar").args(["-tf", archive.to_str().expect("UTF-8")])).stdout;
        let listed = String::from_utf8_lossy(&listed);
        assert!(listed.lines().any(|line| line == "linux_arm64/dir/same"), "{listed}");
        // One platform in a directory of its own, where that is asked for.
        let one = rbuild.path("out/one");
        let output = format!("type=local,platform-split=true,dest={}", one.display());
        rbuild.build(&context, &["--platform", "linux/arm64", "-o", &output]).succeeded();
        assert!(one.join("linux_arm64/own").exists());
        // Together, they must not overwrite each other.
        let together = rbuild.path("out/together");
        let output = format!("type=local,platform-split=false,dest={}", together.display());
        let run = rbuild.build(&context, &["--platform", TWO, "-o", &output]).failed(1);
        run.says("from linux/amd64 with linux/arm64 when split option is disabled");
        context.edit("Dockerfile", "/own", "/own-$TARGETARCH");
        context.edit("Dockerfile", "/dir/same", "/dir-$TARGETARCH/same");
        rbuild.build(&context, &["--platform", TWO, "-o", &output]).succeeded();
        assert!(together.join("own-amd64").exists() && together.join("dir-arm64/same").exists());
    }

    fn a_command_on_the_building_machine_runs_once_for_all(rbuild) {
        let registry = match missing_programs(Access::Plain) {
            Some(program) => skip!("{program} is not installed"),
            None => Registry::start(Access::Plain),
        };
        let base = match Base::Busybox.push(&registry) {
            Ok(base) => base,
            Err(reason) => skip!("{reason}"),
        };
        let dockerfile = format!(
            "FROM --platform=$BUILDPLATFORM {base} AS build\nRUN head -c 16 /dev/urandom | base64 > /drawn\nFROM scratch AS \
             last\nCOPY --from=build /drawn /drawn\n"
        );
        let context = rbuild.context("once").file("Dockerfile", dockerfile);
        let directory = rbuild.path("out/image");
        let output = format!("type=oci,tar=false,dest={}", directory.display());
        let run = rbuild.build(&context, &["--platform", TWO, "-o", &output]).succeeded();
        assert_eq!(run.step("RUN head"), "DONE");
        let (_, images) = Image::read_index(&directory);
        assert_eq!(images[0].1.content("/drawn"), images[1].1.content("/drawn"));
        assert_eq!(images[0].1.diff_ids(), images[1].1.diff_ids());
    }
}

/// What a look into a registry needs.
fn missing() -> Option<&'static str> {
    missing_programs(Access::Plain).or_else(|| (!has_program("skopeo")).then_some("skopeo"))
}

fn rbuild() -> Rbuild {
    Rbuild::new(crate::harness::suite_user())
}

#[test]
fn an_index_is_pushed_named_and_pulled_by_platform() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let context = context(&rbuild);
    let names = ["a/app:1", "a/app:latest", "b/app:1"].map(|name| registry.name(name));
    let tags: Vec<&str> = names.iter().flat_map(|name| ["-t", name.as_str()]).collect();
    let arguments = [&["--platform", TWO, "--push"], tags.as_slice()].concat();
    let id = rbuild.build(&context, &arguments).succeeded().image_id();
    let index = raw(&names[0]);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let architectures: Vec<&Value> = index["manifests"]
        .as_array()
        .expect("manifests")
        .iter()
        .map(|entry| &entry["platform"]["architecture"])
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    assert_eq!((&raw(&names[1]), &raw(&names[2])), (&index, &index));
    // The store knows what the name stands for: another name for it, pushed later, is the same index.
    let later = registry.name("c/app:2");
    rbuild.run(["tag", &names[0], &later]).succeeded();
    assert_eq!(rbuild.run(["push", &later]).succeeded().image_id(), id);
    assert_eq!(raw(&later), index);
    for part in ["index", "manifest"] {
        let shown = rbuild.run(["inspect", "--show", part, "--platform", "linux/arm64", &later]).succeeded().stdout;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown == index, part == "index", "{shown}");
    }
    // Saved it is, too; loaded by another store, it has an image for each platform.
    let saved = rbuild.path("out/saved.tar");
    let saved = saved.to_str().expect("UTF-8");
    rbuild.run(["save", "--format", "oci-archive", "-o", saved, &later]).succeeded();
    assert_eq!(Image::read_index(saved.as_ref()).0, index);
    // Another store builds on what serves its platform.
    let puller = Rbuild::new(rbuild.user);
    let upon = puller.context("upon").file("Dockerfile", format!("FROM {}\n", names[0]));
    let archive = puller.path("out/image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    puller.build(&upon, &["--platform", "linux/arm64", "-o", &output]).succeeded();
    assert_eq!(Image::read(&archive).content("/own"), "arm64\n");
    puller.run(["pull", "--platform", "linux/amd64", &names[0]]).succeeded();
    // Built for one platform, the name stands for that image alone.
    rbuild.build(&context, &["--platform", "linux/amd64", "-t", &names[0]]).succeeded();
    let listed = rbuild.run(["images", "--format", "json", &names[0]]).succeeded().stdout;
    let listed: Value = serde_json::from_str(&listed).expect("a list in JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    rbuild.run(["inspect", "--show", "index", &names[0]]).failed(1).says("stands for one image");
}

#[test]
fn docker_media_types_give_a_manifest_list() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let name = registry.name("list:1");
    let output = format!("type=registry,oci-mediatypes=false,name={name}");
    rbuild.build(&context(&rbuild), &["--platform", TWO, "-o", &output]).succeeded();
    let list = raw(&name);
    assert_eq!(list["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    assert_eq!(list["manifests"][1]["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
}

#[test]
fn what_an_output_cannot_hold_is_said_before_anything_is_built() {
    let rbuild = rbuild();
    let context = context(&rbuild);
    let refused = |arguments: &[&str], words: &str| drop(rbuild.build(&context, arguments).failed(2).says(words));
    refused(
        &["--platform", TWO, "-o", "type=docker,dest=x.tar"],
        "docker exporter does not currently support exporting manifest lists",
    );
    refused(&["--annotation", "index:a=b"], "index annotations not supported for single platform export");
    refused(
        &["--platform", TWO, "--annotation", "manifest[linux/s390x]:a=b"],
        "invalid annotation: no platform linux/s390x found in source",
    );
    refused(
        &["--platform", TWO, "-o", "type=oci,dest=x.tar,oci-mediatypes=false,annotation-index.a=b"],
        "cannot export annotations with \"oci-mediatypes=false\"",
    );
}

#[test]
fn images_that_were_built_one_by_one_become_an_index_in_the_registry() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let context = context(&rbuild);
    let name = |tag: &str| registry.name(&format!("app:{tag}"));
    for architecture in ["amd64", "arm64", "arm"] {
        let platform = format!("linux/{architecture}");
        rbuild.build(&context, &["--platform", &platform, "-t", &name(architecture), "--push"]).succeeded();
    }
    let (all, elsewhere) = (name("all"), registry.name("other/app:all"));
    let printed = rbuild.run(["index", "create", "--dry-run", &name("amd64"), &name("arm64")]).succeeded().stdout;
    assert!(printed.contains("\"linux\"") && printed.contains("\"arm64\""), "{printed}");
    let made = rbuild.run(["index", "create", "-t", &all, &name("amd64"), &name("arm64")]).succeeded();
    let added = ["index", "create", "--append", "-t", &all, "--annotation", "index:about=all", &name("arm")];
    let digest = rbuild.run(added).succeeded().image_id();
    assert_ne!(made.image_id(), digest);
    rbuild.run(["index", "create", "-t", &elsewhere, &all]).succeeded();
    assert_eq!(raw(&elsewhere), raw(&all));
    assert_eq!(raw(&all)["annotations"]["about"], "all");
    let shown = rbuild.run(["index", "inspect", &all]).succeeded().stdout;
    for line in [format!("Digest:    {digest}"), "  Platform:  linux/arm/v7".to_owned(), "  about: all".to_owned()] {
        assert!(shown.lines().any(|found| found == line), "no {line:?} in:\n{shown}");
    }
    let json = rbuild.run(["index", "inspect", "--format", "json", &elsewhere]).succeeded().stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["manifest"]["digest"], digest);
    // It can be built upon.
    let upon = rbuild.context("upon").file("Dockerfile", format!("FROM {elsewhere}\n"));
    let archive = rbuild.path("out/image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    rbuild.build(&upon, &["--platform", "linux/arm/v7", "-o", &output]).succeeded();
    assert_eq!(Image::read(&archive).content("/own"), "arm\n");
    rbuild.run(["index", "create", &all]).failed(2).says("--tag");
    rbuild.run(["index", "create", "-t", &all, &name("nothing")]).failed(1).says("not found");
}

#[test]
fn an_image_is_pushed_by_its_digest_alone() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let metadata = rbuild.path("out/metadata.json");
    let name = registry.name("team/app");
    let output = format!("type=image,push=true,push-by-digest=true,name-canonical=true,name={name}");
    let metadata = metadata.to_str().expect("UTF-8");
    let arguments = ["--platform", "linux/arm64", "-t", "local:1", "-o", &output, "--metadata-file", metadata];
    rbuild.build(&context(&rbuild), &arguments).succeeded();
    let written: Value = serde_json::from_slice(&fs::read(metadata).expect("read the metadata")).expect("JSON");
    let digest = written["containerimage.digest"].as_str().expect("a digest");
    assert_eq!(written["image.name"], format!("docker.io/library/local:1,{name}"));
    assert_eq!(raw(&format!("{name}@{digest}"))["config"]["digest"], written["containerimage.config.digest"]);
    let tags = registry.fetch("/v2/team/app/tags/list");
    assert!(tags.contains("\"tags\":null") || tags.contains(" 404 "), "a tag was written: {tags}");
}
