//! Every manifest, index, config and layout that rbuild writes is as the schemas of OCI's image-spec say (`testdata/image-spec`).

use std::path::Path;
use std::process::Command;

use rbuild::digest::Digest;

use crate::harness::{Files, Rbuild, source_directory, succeed};
use crate::registry_server::{Access, Registry, missing_programs};

const TWO: &str = "linux/amd64,linux/arm/v7";

/// A Dockerfile that sets all that a config has.
fn context(rbuild: &Rbuild) -> Files {
    let dockerfile = "FROM scratch AS base\nARG TARGETARCH\nCOPY one /one\nLABEL for=$TARGETARCH empty=\nENV A=1 B=\n\
                      EXPOSE 80/tcp 53/udp\nVOLUME /data /other\nUSER 1000:1000\nWORKDIR /work\nSTOPSIGNAL SIGINT\n\
                      HEALTHCHECK --interval=30s --retries=3 CMD [\"/one\"]\nSHELL [\"/sh\", \"-c\"]\n\
                      ONBUILD COPY one /later\nMAINTAINER somebody\nENTRYPOINT [\"/one\"]\nCMD [\"x\"]\n\
                      FROM scratch\nCOPY --from=base /one /two\nCOPY one /three\n";
    rbuild.context("schemas").file("Dockerfile", dockerfile).file("one", "1\n")
}

/// A Python that has `jsonschema`: Debian's package is for Debian's own.
fn python() -> Option<&'static str> {
    let has_validator = |python: &&str| {
        Command::new(python).args(["-c", "import jsonschema"]).output().is_ok_and(|output| output.status.success())
    };
    ["/usr/bin/python3", "python3"].into_iter().find(has_validator)
}

fn has_validator() -> bool {
    python().is_some()
}

/// The call that holds documents against the schemas; places are to be added.
fn validator() -> Command {
    let mut command = Command::new(python().expect("a Python with jsonschema"));
    command.arg(source_directory().join("tests/it/schemas.py")).arg(source_directory().join("testdata/image-spec"));
    command
}

/// Holds all documents of some places against the schemas; how many manifests, indexes, configs and layouts there were.
fn validate(places: &[&Path]) -> [usize; 4] {
    let run = succeed(validator().args(places));
    let counts = String::from_utf8(run.stdout).expect("counts are UTF-8");
    let count = |word: &str| word.split_once('=').and_then(|(_, count)| count.trim().parse().ok()).expect("a count");
    let counts: Vec<usize> = counts.split_whitespace().map(count).collect();
    counts.try_into().expect("four counts")
}

#[test]
fn what_is_written_is_as_the_schemas_say() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    if !has_validator() {
        skip!("Python's jsonschema (python3-jsonschema) is not installed");
    }
    let rbuild = Rbuild::new(crate::harness::suite_user());
    let (registry, context) = (Registry::start(Access::Plain), context(&rbuild));
    let out = |name: &str| rbuild.path(format!("out/{name}"));
    let dest = |kind: &str, name: &str| format!("type={kind},dest={}", out(name).display());
    let annotated = |kind: &str, name: &str| {
        let attributes = "annotation.a=1,annotation-manifest-descriptor.b=2,annotation-index.c=3";
        format!("{},{attributes}", dest(kind, name))
    };
    let build = |target: &str, arguments: &[&str]| {
        rbuild.build(&context, &[&["--target", target], arguments].concat()).succeeded();
    };
    // Several platforms: a tar, a directory, a registry, and caches of all kinds.
    let name = registry.name("app:1");
    let cache = format!("type=registry,mode=max,ref={}", registry.name("cache:1"));
    let [local, tar, directory] =
        [dest("local", "cache"), annotated("oci", "index.tar"), dest("oci,tar=false", "layout")];
    let outputs = ["-o", &tar, "-o", &directory, "--cache-to", &cache, "--cache-to", &local];
    build("base", &[&["--platform", TWO, "-t", &name, "--push"], &outputs[..]].concat());
    let docker_types = format!("type=registry,oci-mediatypes=false,name={}", registry.name("docker:1"));
    build("base", &["--platform", TWO, "-o", &docker_types]);
    // One: for docker, squashed, with each compression, with its cache in it.
    let (single, docker) = (registry.name("single:1"), dest("docker", "docker.tar"));
    build("base", &["-t", &single, "-o", &docker, "--push", "--cache-to", "type=inline"]);
    build("base", &["-t", &registry.name("squashed:1"), "--push", "--squash"]);
    for compression in ["uncompressed", "gzip", "zstd"] {
        let attributes = format!("{},compression={compression},force-compression=true", dest("oci", compression));
        build("base", &["-o", &attributes, "--annotation", "manifest:k=v"]);
    }
    let output = dest("oci", "last.tar");
    rbuild.build(&context, &["-o", &output]).succeeded();
    // What other commands write.
    rbuild
        .run(["index", "create", "-t", &registry.name("made:1"), &single, &name, "--annotation", "index:a=b"])
        .succeeded();
    rbuild.run(["copy", &name, &format!("oci:{}:copied", out("copied").display())]).succeeded();
    for format in ["docker-archive", "oci-archive"] {
        let path = out(&format!("saved-{format}.tar"));
        rbuild.run(["save", "--format", format, "-o", path.to_str().expect("UTF-8"), &name, &single]).succeeded();
    }
    let archives = ["uncompressed", "gzip", "zstd", "docker.tar", "last.tar", "saved-docker-archive.tar"];
    for archive in archives.map(out) {
        let [manifests, indexes, configs, layouts] = validate(&[&archive]);
        assert!(manifests >= 1 && indexes >= 1 && configs >= 1 && layouts == 1, "{}", archive.display());
    }
    for place in ["index.tar", "layout", "copied", "saved-oci-archive.tar"].map(out) {
        let [manifests, indexes, configs, layouts] = validate(&[&place]);
        assert!(manifests >= 2 && indexes >= 2 && configs >= 2 && layouts == 1, "{}", place.display());
    }
    let [manifests, indexes, ..] = validate(&[&out("cache")]);
    assert!(manifests + indexes >= 2, "a cache is a layout");
    // All that a registry was given, whoever named it: it keeps every document as a file.
    let [manifests, indexes, configs, _] = validate(&[registry.directory()]);
    assert!(manifests >= 6 && indexes >= 3 && configs >= 3, "{manifests} {indexes} {configs}");
}

#[test]
fn a_document_that_is_wrong_is_noticed() {
    if !has_validator() {
        skip!("Python's jsonschema (python3-jsonschema) is not installed");
    }
    let folder = tempfile::tempdir().expect("create a directory");
    let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"files","diff_ids":[]}}"#;
    let [manifest_type, config_type] =
        ["manifest", "config"].map(|kind| format!("application/vnd.oci.image.{kind}.v1+json"));
    let digest = Digest::of(config.as_bytes());
    let points = format!(r#"{{"config":{{"mediaType":"{config_type}","digest":"{digest}","size":{}}}}}"#, config.len());
    let manifest = format!(r#"{{"mediaType":"{manifest_type}","schemaVersion":2,"layers":[]}}"#);
    for (name, documents, words) in [
        ("config", [config, &points], "rootfs/type"),
        (
            "index.json",
            [r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:0","size":1}]}"#, ""],
            "mediaType",
        ),
        ("manifest", [&manifest, ""], "'config' is a required property"),
        ("oci-layout", [r#"{"imageLayoutVersion":"2"}"#, ""], "imageLayoutVersion"),
    ] {
        let place = folder.path().join(name);
        std::fs::create_dir(&place).expect("create a directory");
        for (file, document) in [name, "other"].iter().zip(documents) {
            std::fs::write(place.join(file), document).expect("write a document");
        }
        let output = validator().arg(&place).output().expect("start python3");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(words), "{name}: {said}");
    }
}
