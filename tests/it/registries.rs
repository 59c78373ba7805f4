//! `registries.conf`, `--registry-mirror` and `certs.d` against real registries.

use std::fs;

use crate::harness::{Rbuild, Run};
use crate::registry_server::{Access, Registry, missing_programs};

fn rbuild() -> Rbuild {
    Rbuild::new(crate::harness::suite_user())
}

/// Pushes an image of one file.
fn push(rbuild: &Rbuild, name: &str, arguments: &[&str]) -> Run {
    let context = rbuild.context("pushed").file("Dockerfile", "FROM scratch\nCOPY one /one\n").file("one", name);
    rbuild.build(&context, &[&["-t", name, "--push"], arguments].concat())
}

/// Builds on an image, and reads the file in it.
fn build_upon(rbuild: &Rbuild, name: &str, arguments: &[&str]) -> Run {
    let context = rbuild.context("pulled").file("Dockerfile", format!("FROM {name}\n"));
    rbuild.build(&context, &[&["-o", "result"], arguments].concat())
}

fn result(rbuild: &Rbuild) -> String {
    fs::read_to_string(rbuild.path("out/result/one")).expect("the file of the result")
}

/// Writes the user's `registries.conf`.
fn configure(rbuild: &Rbuild, text: &str) {
    let directory = rbuild.path("home/.config/containers");
    fs::create_dir_all(&directory).expect("create the directory");
    fs::write(directory.join("registries.conf"), text).expect("write registries.conf");
}

#[test]
fn a_mirror_serves_what_its_registry_is_not_asked_for() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let registry = Registry::start(Access::Plain);
    let copy = registry.name("hub/library/tool:1");
    push(&rbuild(), &copy, &[]).succeeded();
    // No machine that runs tests reaches a registry of this name.
    let flagged = rbuild();
    let mirror = format!("registry.invalid={}", registry.name("hub"));
    build_upon(&flagged, "registry.invalid/library/tool:1", &["--registry-mirror", &mirror]).succeeded();
    assert_eq!(result(&flagged), copy);
    let configured = rbuild();
    let location = registry.name("hub");
    configure(
        &configured,
        &format!("[[registry]]\nlocation='docker.io'\n[[registry.mirror]]\nlocation='{location}'\n"),
    );
    build_upon(&configured, "tool:1", &[]).succeeded();
    assert_eq!(result(&configured), copy);
    let without = rbuild();
    build_upon(&without, "registry.invalid/library/tool:1", &[]).failed(1).says("registry.invalid");
}

#[test]
fn a_short_name_is_what_the_user_says_it_is() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let name = registry.name("team/tool:1");
    push(&rbuild, &name, &[]).succeeded();
    configure(&rbuild, &format!("[aliases]\n'tool'='{}'\n", registry.name("team/tool")));
    build_upon(&rbuild, "tool:1", &["--pull"]).succeeded().says(&registry.host());
    assert_eq!(result(&rbuild), name);
    rbuild.run(["pull", "tool:1"]).succeeded();
    // What was pulled by its short name is found by it.
    let found = rbuild.run(["inspect", "-f", "{{index .RepoTags 0}}", "tool:1"]).succeeded().stdout;
    assert_eq!(found, format!("{name}\n"));
    rbuild.run(["history", "tool:1"]).succeeded();
    rbuild.run(["tag", "tool:1", "mine:1"]).succeeded();
    assert!(rbuild.run(["rmi", "tool:1"]).succeeded().stdout.contains(&name));
    rbuild.run(["inspect", "tool:1"]).failed(1).says("there is no image \"tool:1\"");
    rbuild.run(["inspect", "mine:1"]).succeeded();
    configure(&rbuild, "unqualified-search-registries=['one.invalid', 'two.invalid']\n");
    build_upon(&rbuild, "tool:2", &[]).failed(1).says("one.invalid/tool or two.invalid/tool");
    let context = rbuild.context("local").file("Dockerfile", "FROM scratch\nCOPY one /one\n").file("one", "local");
    rbuild.build(&context, &["-t", "tool:2"]).succeeded();
    build_upon(&rbuild, "tool:2", &[]).succeeded();
    assert_eq!(result(&rbuild), "local", "what was built here comes first");
}

#[test]
fn a_blocked_registry_and_a_broken_file_stop_a_build() {
    let rbuild = rbuild();
    configure(&rbuild, "[[registry]]\nlocation='registry.invalid'\nblocked=true\n");
    build_upon(&rbuild, "registry.invalid/x", &[]).failed(1).says("blocks registry.invalid").says("registries.conf");
    configure(&rbuild, "[[registry]\n");
    build_upon(&rbuild, "registry.invalid/x", &[]).failed(1).says("registries.conf");
    // Who asks no registry does not care.
    build_upon(&rbuild, "scratch", &[]).succeeded();
}

#[test]
fn certificates_are_trusted_by_flag_or_directory_or_not_at_all() {
    if let Some(program) = missing_programs(Access::Tls) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Tls));
    let authority = registry.authority();
    let authority = authority.to_str().expect("paths of tests are UTF-8");
    push(&rbuild, &registry.name("a:1"), &[]).failed(1).says("certificate").says("--ca-cert");
    push(&rbuild, &registry.name("a:1"), &["--ca-cert", authority]).succeeded();
    push(&rbuild, &registry.name("a:2"), &["--insecure-registry", &registry.host()]).succeeded();
    configure(&rbuild, &format!("[[registry]]\nlocation='{}'\ninsecure=true\n", registry.host()));
    push(&rbuild, &registry.name("a:3"), &[]).succeeded();
    configure(&rbuild, "");
    push(&rbuild, &registry.name("a:4"), &[]).failed(1);
}

#[test]
fn a_client_certificate_of_certs_d_is_shown() {
    if let Some(program) = missing_programs(Access::ClientCertificate) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::ClientCertificate));
    let directory = rbuild.path("home/.config/containers/certs.d").join(registry.host());
    fs::create_dir_all(&directory).expect("create certs.d");
    fs::copy(registry.authority(), directory.join("ca.crt")).expect("copy the authority");
    push(&rbuild, &registry.name("a:1"), &[]).failed(1).says(&registry.host());
    let [certificate, key] = registry.client();
    fs::copy(key, directory.join("me.key")).expect("copy the key");
    push(&rbuild, &registry.name("a:1"), &[]).failed(1).says("me.key").says("no .cert");
    fs::copy(registry.authority(), directory.join("me.cert")).expect("copy another certificate");
    push(&rbuild, &registry.name("a:1"), &[]).failed(1).says("me.cert").says("of another certificate");
    fs::copy(certificate, directory.join("me.cert")).expect("copy the certificate");
    push(&rbuild, &registry.name("a:1"), &[]).succeeded();
}
