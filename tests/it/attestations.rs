//! What is said about an image beside it (provenance, lists of software), and signatures of what is pushed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{Files, Rbuild, has_program, skopeo, source_directory, succeed};
use crate::image::sha256;
use crate::registry_server::{Access, Registry, missing_programs};

const SLSA: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";

/// A package database without any package, and a file.
fn context(rbuild: &Rbuild) -> Files {
    let package =
        "Package: hello\nStatus: install ok installed\nVersion: 2.10-3\nArchitecture: amd64\nMaintainer: me\n\n";
    rbuild
        .context("attested")
        .file("Dockerfile", "FROM scratch AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY file /tool\nFROM scratch\nARG GREETING\nCOPY status /var/lib/dpkg/status\nCOPY --from=tools /tool /file\nLABEL greeting=$GREETING\n")
        .file("file", "content\n")
        .file("status", package)
}

fn hex(bytes: &[u8]) -> String {
    sha256(bytes).trim_start_matches("sha256:").to_owned()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// What a registry has under a name or digest.
fn manifest(registry: &Registry, repository: &str, version: &str) -> Value {
    let name = format!("docker://{}", registry.name(&format!("{repository}{version}")));
    let output = succeed(skopeo(&["inspect", "--raw", "--tls-verify=false"]).arg(name));
    serde_json::from_slice(&output.stdout).expect("a manifest is JSON")
}

/// What a registry answers, without its headers.
fn body(registry: &Registry, path: &str) -> String {
    let answer = registry.fetch(path);
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}")).1.to_owned()
}

/// A blob of an OCI layout.
fn blob(layout: &Path, digest: &Value) -> Value {
    let name = digest.as_str().expect("a digest is a text").trim_start_matches("sha256:");
    let bytes = fs::read(layout.join("blobs/sha256").join(name)).expect("read a blob");
    assert_eq!(hex(&bytes), name, "a blob has another digest than its name");
    serde_json::from_slice(&bytes).expect("a document is JSON")
}

/// The index of a layout's only name.
fn index_of(layout: &Path) -> Value {
    let top = parsed(&fs::read_to_string(layout.join("index.json")).expect("read the index"));
    blob(layout, &top["manifests"][0]["digest"])
}

/// The attestation manifests of an index, each with the digest that it is about.
fn attestations(index: &Value) -> Vec<(String, String)> {
    let entries = index["manifests"].as_array().expect("an index has manifests");
    let is_attestation = |entry: &&Value| entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest";
    let text = |value: &Value| value.as_str().expect("a digest is a text").to_owned();
    let found = entries.iter().filter(is_attestation).map(|entry| {
        assert_eq!(entry["platform"], json!({ "architecture": "unknown", "os": "unknown" }));
        (text(&entry["digest"]), text(&entry["annotations"]["vnd.docker.reference.digest"]))
    });
    found.collect()
}

/// Whether a store has a blob.
fn has_blob(root: &Path, digest: &str) -> bool {
    root.join("blobs/sha256").join(digest.trim_start_matches("sha256:")).exists()
}

fn output_of(rbuild: &Rbuild, name: &str) -> (PathBuf, String) {
    let path = rbuild.path("out").join(name);
    let flag = format!("type=oci,tar=false,dest={}", path.display());
    (path, flag)
}

for_each_user! {
    fn what_is_said_of_a_pushed_image_stays_with_it(rbuild) {
        if let Some(program) = missing_programs(Access::Plain).or((!has_program("skopeo")).then_some("skopeo")) {
            skip!("{program} is not installed");
        }
        let (registry, context) = (Registry::start(Access::Plain), context(&rbuild));
        let name = registry.name("app:1");
        let run = rbuild.build(&context, &["--provenance=mode=max,builder-id=me", "--sbom", "--push", "-t", &name]);
        run.succeeded();

        let index = manifest(&registry, "app", ":1");
        let image = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
        let [(attestation, about)] = attestations(&index).try_into().expect("one attestation manifest");
        assert_eq!((about, index["manifests"].as_array().map(Vec::len)), (image.clone(), Some(2)));
        let document = manifest(&registry, "app", &format!("@{attestation}"));
        assert_eq!(document["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
        assert_eq!(document["subject"]["digest"], json!(image));
        let kinds: Vec<&Value> = document["layers"]
            .as_array()
            .expect("statements")
            .iter()
            .map(|layer| &layer["annotations"]["in-toto.io/predicate-type"])
            .collect();
        // The image's list of software, that of the stage that asks for it, provenance.
        assert_eq!(kinds, [SPDX, SPDX, SLSA]);
        let statements: Vec<Value> = document["layers"]
            .as_array()
            .expect("statements")
            .iter()
            .map(|layer| parsed(&body(&registry, &format!("/v2/app/blobs/{}", layer["digest"].as_str().expect("a digest")))))
            .collect();
        for statement in &statements {
            assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
            assert_eq!(statement["subject"][0]["digest"]["sha256"], image.trim_start_matches("sha256:"));
            let subject = statement["subject"][0]["name"].as_str().expect("a name");
            assert!(subject.starts_with("pkg:docker/127.0.0.1%3A") && subject.contains("/app@1?platform=linux%2F"), "{subject}");
        }
        let software = statements[0]["predicate"]["packages"].to_string();
        assert!(software.contains("hello"), "{software}");
        assert_eq!(statements[2]["predicate"]["runDetails"]["builder"]["id"], "me");

        // What is pushed again is the same, after a collection as well; no image of the store is lost by it.
        let digest = hex(body(&registry, "/v2/app/manifests/1").as_bytes());
        // So is what was pulled elsewhere.
        let root = rbuild.path("out/other");
        let other = |arguments: &[&str]| rbuild.run([arguments, &["--root", root.to_str().expect("UTF-8")]].concat()).succeeded();
        assert_eq!(other(&["pull", &name]).stdout.trim(), format!("sha256:{digest}"));
        let moved = registry.name("moved:2");
        assert_eq!(other(&["push", &name, &moved]).stdout.trim(), format!("sha256:{digest}"));
        assert_eq!(hex(body(&registry, "/v2/moved/manifests/2").as_bytes()), digest);
        assert_eq!(attestations(&manifest(&registry, "moved", ":2")), [(attestation.clone(), image.clone())]);
        // A build that asks for its base anew takes nothing away from it.
        let onward = rbuild.context("onward").file("Dockerfile", format!("FROM {name}\nLABEL a=b\n"));
        rbuild.build(&onward, &["--pull", "--root", root.to_str().expect("UTF-8")]).succeeded();
        assert_eq!(other(&["push", &name, &moved]).stdout.trim(), format!("sha256:{digest}"));
        other(&["check", "--deep"]);
        other(&["rmi", &name]);
        other(&["prune", "--all", "--force"]);
        assert!(!has_blob(&root, &attestation), "a collection does not free attestations");
        rbuild.run(["prune", "--all", "--force"]).succeeded();
        rbuild.run(["tag", &name, &registry.name("again:2")]).succeeded();
        rbuild.run(["push", &registry.name("again:2")]).succeeded();
        assert_eq!(hex(body(&registry, "/v2/again/manifests/2").as_bytes()), digest);
        rbuild.run(["index", "create", "-t", &registry.name("copied:3"), &name]).succeeded();
        assert_eq!(attestations(&manifest(&registry, "copied", ":3")), [(attestation, image)]);

        // What was pulled once is not taken away by a registry that has lost it.
        other(&["pull", &name]);
        registry.lose_blob(document["layers"][0]["digest"].as_str().expect("a digest"));
        other(&["pull", &name]).says("stay those of the last pull");
        let elsewhere = Registry::start(Access::Plain);
        assert_eq!(other(&["push", &name, &elsewhere.name("app:1")]).stdout.trim(), format!("sha256:{digest}"));
    }

    fn what_is_said_of_a_loaded_index_goes_where_its_images_go(rbuild) {
        let context = context(&rbuild);
        let (layout, output) = output_of(&rbuild, "source");
        let output = format!("{output},name=app:1");
        rbuild.build(&context, &["--platform=linux/amd64,linux/arm64", "--provenance", "--sbom", "-o", &output]).succeeded();
        // Others put what is said about an image beside it, not behind all images.
        let mut index = index_of(&layout);
        index["manifests"].as_array_mut().expect("manifests").swap(1, 2);
        let bytes = index.to_string();
        let digest = format!("sha256:{}", hex(bytes.as_bytes()));
        fs::write(layout.join("blobs/sha256").join(hex(bytes.as_bytes())), &bytes).expect("write the index");
        let top = layout.join("index.json");
        let mut entries = parsed(&fs::read_to_string(&top).expect("read the index"));
        entries["manifests"][0]["digest"] = json!(digest);
        entries["manifests"][0]["size"] = json!(bytes.len());
        fs::write(&top, entries.to_string()).expect("write the index");
        rbuild.own_everything();

        let root = rbuild.path("out/other");
        let other = |arguments: &[&str]| rbuild.run([arguments, &["--root", root.to_str().expect("UTF-8")]].concat()).succeeded();
        other(&["load", "-i", layout.to_str().expect("UTF-8")]);
        other(&["prune", "--force", "--older-than=0s"]);
        other(&["check", "--deep"]);
        let saved = rbuild.path("out/saved");
        let archive = rbuild.path("out/saved.tar");
        let names_index = |images: &[&str], is_whole: bool| {
            let save = ["save", "--format=oci", "-o", archive.to_str().expect("UTF-8")];
            other(&[&save[..], images].concat());
            fs::remove_dir_all(&saved).ok();
            fs::create_dir(&saved).expect("make a directory");
            succeed(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&saved));
            let top = parsed(&fs::read_to_string(saved.join("index.json")).expect("read the index"));
            assert_eq!(top["manifests"][0]["digest"] == json!(digest), is_whole, "{top}");
            let has = |(attestation, _): &(String, String)| saved.join("blobs/sha256").join(attestation.trim_start_matches("sha256:")).exists();
            let found = attestations(&index);
            assert_eq!((found.len(), found.iter().all(has)), (2, is_whole), "attestations in an archive");
        };
        names_index(&["app:1"], true);
        other(&["tag", "app:1", "app:2"]);
        names_index(&["app:2"], true);
        // One image of several is that image.
        names_index(&["--platform=linux/arm64", "app:1"], false);
        let lost = attestations(&index)[0].0.trim_start_matches("sha256:").to_owned();
        fs::write(root.join("blobs/sha256").join(lost), "something else").expect("damage a blob");
        let root = root.to_str().expect("UTF-8");
        rbuild.run(["check", "--deep", "--root", root]).failed(1);
        other(&["check", "--deep", "--repair"]);
        assert!(other(&["check", "--deep"]).stdout.contains("no damage"));
        names_index(&["app:1"], false);
    }

    fn each_platform_has_its_own_and_a_dated_build_says_the_same_again(rbuild) {
        let context = context(&rbuild);
        let build = |name: &str, more: &[&str]| {
            let (layout, output) = output_of(&rbuild, name);
            let flags = ["--platform=linux/amd64,linux/arm64", "--provenance=mode=min", "--build-arg=GREETING=hello there"];
            let dated = ["--build-arg=SOURCE_DATE_EPOCH=1700000000", "-o", &output];
            rbuild.build(&context, &[&flags[..], &dated, more].concat()).succeeded();
            layout
        };
        let [first, second] = [build("first", &[]), build("second", &["--no-cache"])];
        let index = index_of(&first);
        assert_eq!(index, index_of(&second));
        let found = attestations(&index);
        let images: Vec<&Value> = index["manifests"].as_array().expect("manifests")[..2].iter().map(|entry| &entry["digest"]).collect();
        assert_eq!(found.iter().map(|(_, about)| json!(about)).collect::<Vec<_>>(), images.into_iter().cloned().collect::<Vec<_>>());
        for (digest, _) in &found {
            let document = blob(&first, &json!(digest));
            let statement = blob(&first, &document["layers"][0]["digest"]);
            let predicate = &statement["predicate"];
            let metadata = &predicate["runDetails"]["metadata"];
            assert_eq!(metadata["startedOn"], "2023-11-14T22:13:20Z");
            assert_eq!((metadata.get("invocationId"), &metadata["finishedOn"]), (None, &metadata["startedOn"]));
            // What was given on the command line is not said where little is asked for.
            assert!(!statement.to_string().contains("hello there"), "{statement}");
            assert_eq!(metadata["buildkit_completeness"], json!({ "request": false, "resolvedDependencies": false }));
            let request = &predicate["buildDefinition"]["externalParameters"]["request"];
            assert_eq!(request["locals"], json!([{ "name": "context" }, { "name": "dockerfile" }]));
        }
    }

    fn beside_plain_files_it_is_in_files(rbuild) {
        let context = context(&rbuild);
        let out = rbuild.path("out/files");
        let flag = format!("type=local,dest={},attestation-prefix=about-", out.display());
        rbuild.build(&context, &["--attest=type=provenance,version=v0.2", "--attest=type=sbom", "-o", &flag]).succeeded();
        let read = |name: &str| parsed(&fs::read_to_string(out.join(name)).expect("read a statement"));
        let provenance = read("about-provenance.json");
        assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v0.2");
        let subjects = json!([
            { "name": "file", "digest": { "sha256": hex(b"content\n") } },
            { "name": "var/lib/dpkg/status", "digest": { "sha256": hex(&fs::read(out.join("var/lib/dpkg/status")).expect("read")) } },
        ]);
        assert_eq!(provenance["subject"], subjects);
        assert_eq!(read("about-sbom.spdx.json")["subject"], subjects);
        assert!(out.join("about-sbom-tools.spdx.json").is_file());

        let flag = format!("type=local,dest={}", rbuild.path("out/inline").display());
        rbuild.build(&context, &["--provenance=inline-only=true", "-o", &flag]).succeeded();
        assert!(!rbuild.path("out/inline/provenance.json").exists());
        // A file of the image is not lost to one about it.
        context.edit("Dockerfile", "/tool /file", "/tool /provenance.json");
        let flag = format!("type=tar,dest={}", rbuild.path("out/files.tar").display());
        rbuild.build(&context, &["--provenance", "-o", &flag]).failed(1).says("attestation-prefix=PREFIX");
    }

    fn without_a_wish_one_platform_is_one_plain_manifest(rbuild) {
        let context = context(&rbuild);
        let (layout, output) = output_of(&rbuild, "plain");
        rbuild.build(&context, &["--provenance=false", "--sbom=false", "-o", &output]).succeeded();
        assert!(index_of(&layout)["layers"].is_array(), "a manifest");
        let (layout, output) = output_of(&rbuild, "image");
        rbuild.build(&context, &["--provenance", "-o", &format!("{output},oci-artifact=false")]).succeeded();
        let index = index_of(&layout);
        let [(digest, _)] = attestations(&index).try_into().expect("one attestation manifest");
        // What a build prints names its image, too.
        let run = rbuild.build(&context, &["--provenance", "-t", "named"]).succeeded();
        assert!(rbuild.run(["inspect", &run.image_id()]).succeeded().stdout.contains("\"Architecture\""));
        let document = blob(&layout, &json!(digest));
        assert!(document.get("artifactType").is_none() && document.get("subject").is_none(), "{document}");
        assert_eq!(blob(&layout, &document["config"]["digest"])["os"], "unknown");
        let refused = rbuild.build(&context, &["--provenance", "-o", "type=docker,dest=docker.tar"]);
        refused.failed(2).says("docker exporter does not support attestations");
        let refused = rbuild.build(&context, &["--provenance=complete-materials=true", "-o", &output]);
        refused.failed(1).says("provenance materials are incomplete");
    }

    fn what_is_pushed_is_signed_once_by_each_key(rbuild) {
        let mut rbuild = rbuild;
        if let Some(program) = missing_programs(Access::Plain).or((!has_program("openssl")).then_some("openssl")) {
            skip!("{program} is not installed");
        }
        let (registry, context) = (Registry::start(Access::Plain), context(&rbuild));
        let keys = source_directory().join("testdata/sign");
        // Where the user may read them.
        let key = |name: &str| {
            let path = rbuild.path("out").join(name);
            fs::copy(keys.join(name), &path).expect("copy a key");
            format!("--sign=key={}", path.display())
        };
        let [encrypted, plain, edwards] = ["cosign.key", "p256.pem", "ed25519.pem"].map(key);
        let name = registry.name("signed:1");
        rbuild.build(&context, &[&plain]).failed(2).says("--sign needs a push");
        let unread = rbuild.build(&context, &["--sign=key=/missing.key", "--push", "-t", &name]);
        unread.failed(1).says("read the signing key /missing.key").does_not_say("COPY");
        rbuild.build(&context, &[&encrypted, "--push", "-t", &name]).failed(1).says("COSIGN_PASSWORD is not set").does_not_say("COPY");
        let built = registry.name("built:1");
        rbuild.build(&context, &["-t", &built]).succeeded();
        rbuild.run(["push", &encrypted, &built]).failed(1).says("COSIGN_PASSWORD is not set");
        rbuild.run(["push", "--sign=file", &built]).failed(2).says("--sign").says("key=env://VARIABLE");
        assert!(registry.fetch("/v2/built/tags/list").contains(" 404 "), "something was pushed that could not be signed");
        rbuild.set_variable("COSIGN_PASSWORD", "correct horse");
        rbuild.run(["push", &encrypted, &edwards, &built]).succeeded();
        let pushed = hex(body(&registry, "/v2/built/manifests/1").as_bytes());
        let signatures = manifest(&registry, "built", &format!(":sha256-{pushed}.sig"));
        assert_eq!(signatures["layers"].as_array().map(Vec::len), Some(2), "{signatures}");
        for flags in [[&encrypted, &plain], [&plain, &edwards]] {
            rbuild.build(&context, &[flags[0], flags[1], "--push", "-t", &name, "-t", &registry.name("signed:2")]).succeeded();
        }

        let digest = hex(body(&registry, "/v2/signed/manifests/1").as_bytes());
        let signatures = manifest(&registry, "signed", &format!(":sha256-{digest}.sig"));
        let layers = signatures["layers"].as_array().expect("layers");
        // The encrypted key is the plain one.
        assert_eq!(layers.len(), 2, "{signatures}");
        let payload = body(&registry, &format!("/v2/signed/blobs/{}", layers[0]["digest"].as_str().expect("a digest")));
        let said = parsed(&payload);
        assert_eq!(said["critical"]["image"]["docker-manifest-digest"], format!("sha256:{digest}"));
        assert_eq!(said["critical"]["identity"]["docker-reference"], registry.name("signed"));
        for (layer, public) in layers.iter().zip(["p256.pub", "ed25519.pub"]) {
            assert_eq!(layer["mediaType"], "application/vnd.dev.cosign.simplesigning.v1+json");
            let text = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().expect("a signature");
            verify(&rbuild.path("out"), payload.as_bytes(), &STANDARD.decode(text).expect("base64"), &keys.join(public));
        }
    }
}

/// Has openssl say whether a signature is of these bytes.
fn verify(directory: &Path, payload: &[u8], signature: &[u8], public: &Path) {
    let [payload_path, signature_path] = ["payload", "signature"].map(|name| directory.join(name));
    fs::write(&payload_path, payload).expect("write the payload");
    fs::write(&signature_path, signature).expect("write the signature");
    let mut openssl = Command::new("openssl");
    if public.ends_with("ed25519.pub") {
        openssl.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]).arg(public).arg("-sigfile");
        openssl.arg(&signature_path).arg("-in");
    } else {
        openssl.args(["dgst", "-sha256", "-verify"]).arg(public).arg("-signature").arg(&signature_path);
    }
    succeed(openssl.arg(&payload_path));
}
