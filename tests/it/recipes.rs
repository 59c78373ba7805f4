//! The recipes for CI in the README, as far as a machine without those services can try them.

use std::fs;
use std::process::Command;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::harness::{Rbuild, source_directory, suite_user};
use crate::image::{Image, Kind};

/// The YAML documents of the README.
fn recipes() -> Vec<Yaml> {
    let text = fs::read_to_string(source_directory().join("README.md")).expect("read the README");
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks
        .map(|block| match YamlLoader::load_from_str(block) {
            Ok(mut documents) if documents.len() == 1 => documents.remove(0),
            other => panic!("{other:?}:\n{block}"),
        })
        .collect()
}

/// Every text in a document.
fn texts(yaml: &Yaml, found: &mut Vec<String>) {
    match yaml {
        Yaml::String(text) => found.push(text.clone()),
        Yaml::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Yaml::Hash(items) => items.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

#[test]
fn the_recipes_are_yaml_and_kubernetes_gets_the_restricted_profile() {
    let recipes = recipes();
    assert_eq!(recipes.len(), 6);
    for recipe in &recipes {
        let mut found = Vec::new();
        texts(recipe, &mut found);
        assert!(found.iter().any(|text| text.contains("rbuild")), "{recipe:?}");
    }
    let job = recipes.iter().find(|recipe| recipe["kind"].as_str() == Some("Job")).expect("a Job");
    let pod = &job["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    // Pod Security Standards, restricted.
    assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"].as_str(), Some("RuntimeDefault"));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(container["securityContext"]["capabilities"]["drop"][0].as_str(), Some("ALL"));
    // With a root that cannot be written, everything that is written has to be in a volume.
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"].as_bool(), Some(true));
    let variables = container["env"].as_vec().expect("variables");
    let place =
        |name: &str| variables.iter().find(|variable| variable["name"].as_str() == Some(name))?["value"].as_str();
    assert!(place("RBUILD_ROOT").is_some_and(|path| path.starts_with("/builds/")));
    assert_eq!(container["volumeMounts"][0]["mountPath"].as_str(), Some("/builds"));
}

#[test]
fn what_the_recipes_say_to_rbuild_is_understood() {
    let rbuild = Rbuild::new(suite_user());
    let mut lines = Vec::new();
    for recipe in recipes() {
        let mut found = Vec::new();
        texts(&recipe, &mut found);
        let joined = found.iter().map(|text| text.replace("\\\n", " "));
        lines.extend(joined.filter(|text| text.trim_start().starts_with("rbuild -t")));
        for container in [&recipe["spec"]["template"]["spec"]["containers"][0], &recipe["spec"]["steps"][0]] {
            let words = container["args"].as_vec().into_iter().flatten().filter_map(Yaml::as_str);
            let line: Vec<&str> = words.collect();
            lines.extend((!line.is_empty()).then(|| format!("rbuild {}", line.join(" "))));
        }
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let context = rbuild.context("app").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    for line in lines {
        // What the services put in the place of their variables; nothing is built, and nobody is asked.
        let mut line = line;
        for variable in ["${{ github.repository }}", "$CI_REGISTRY_IMAGE"] {
            line = line.replace(variable, "registry.example/app");
        }
        line = line
            .replace("ghcr.io/registry.example", "ghcr.io")
            .replace("${{ github.sha }}", "1")
            .replace("$CI_COMMIT_SHORT_SHA", "1");
        line = line.replace("$(params.image)", "registry.example/app").replace("$(results.IMAGE_ID.path)", "id");
        line = line.replace("$(params.context)", ".").replace("https://git.example/app.git#main", ".").replace('"', "");
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let mut command =
            rbuild.command([&["build"], words.strip_prefix(&["build"]).unwrap_or(&words), &["--dry-run"]].concat());
        let output = command.current_dir(&context.directory).output().expect("start rbuild");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn rbuilds_own_image_is_one_program() {
    let rbuild = Rbuild::new(suite_user());
    let dockerfile = source_directory().join("Dockerfile.examples/rbuild/Dockerfile");
    let context = rbuild.context("own");
    fs::copy(rbuild.program(), context.directory.join("rbuild")).expect("copy rbuild");
    let archive = rbuild.path("out/own.tar");
    let output = format!("type=oci,compression=zstd,dest={}", archive.display());
    let file = dockerfile.to_str().expect("paths of tests are UTF-8");
    rbuild.build(&context, &["-t", "rbuild:own", "-f", file, "-o", &output]).succeeded();
    let image = Image::read(&archive);
    let files = image.files();
    let programs: Vec<&String> =
        files.iter().filter(|(_, entry)| !matches!(entry.kind, Kind::Directory)).map(|(path, _)| path).collect();
    assert_eq!(programs, ["/usr/bin/rbuild"]);
    assert_eq!(image.config["config"]["Entrypoint"], Value::from(vec!["/usr/bin/rbuild"]));
    // A program that needs no libraries runs there, and builds there.
    let libraries = Command::new("ldd").arg(rbuild.program()).output().expect("run ldd");
    if String::from_utf8_lossy(&libraries.stdout).contains("=>") {
        eprintln!("not applicable: this rbuild is linked to libraries, which an image from scratch has not");
        return;
    }
    assert!(rbuild.run(["run", "-q", "rbuild:own", "--version"]).succeeded().stdout.starts_with("rbuild "));
}
