//! Push and pull against a real registry: plain HTTP on loopback, TLS with a private authority, a password.

use std::fs;

use crate::harness::{Rbuild, Run};
use crate::image::Image;
use crate::registry_server::{Access, PASSWORD, Registry, USER_NAME, missing_programs};

/// Pushes an image of two files.
fn push(rbuild: &Rbuild, name: &str) -> Run {
    let context = rbuild
        .context("pushed")
        .file("Dockerfile", "FROM scratch\nCOPY one /one\nCOPY two /two\nENV FROM_REGISTRY=1\n")
        .file("one", "1\n")
        .file("two", "2\n".repeat(100_000));
    rbuild.build(&context, &["-t", name, "--push"])
}

/// Builds on a pushed image in another store, and reads the result.
fn build_upon(rbuild: &Rbuild, name: &str) -> Image {
    let context =
        rbuild.context("pulled").file("Dockerfile", format!("FROM {name}\nCOPY three /three\n")).file("three", "3\n");
    let archive = rbuild.path("out/image.tar");
    rbuild.build(&context, &["-o", &format!("type=oci,dest={}", archive.display())]).succeeded();
    Image::read(&archive)
}

/// Pushes with one environment and builds upon it with another.
fn there_and_back(pusher: &Rbuild, puller: &Rbuild, registry: &Registry) {
    let name = registry.name("team/app:v1");
    push(pusher, &name).succeeded();
    let image = build_upon(puller, &name);
    assert_eq!(image.content("/one"), "1\n");
    assert_eq!(image.content("/two").len(), 200_000);
    assert_eq!(image.content("/three"), "3\n");
    assert!(image.config["config"]["Env"].to_string().contains("FROM_REGISTRY=1"), "the base's environment is lost");
}

fn write_credentials(rbuild: &Rbuild, registry: &Registry, password: &str) {
    use base64::Engine as _;
    let token = base64::engine::general_purpose::STANDARD.encode(format!("{USER_NAME}:{password}"));
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "{token}"}}}}}}"#, registry.host());
    fs::write(rbuild.path("home/.docker/config.json"), config).expect("write the credentials");
}

for_each_user! {
    fn plain_http_on_loopback(rbuild) {
        if let Some(program) = missing_programs(Access::Plain) {
            skip!("{program} is not installed");
        }
        let registry = Registry::start(Access::Plain);
        there_and_back(&rbuild, &Rbuild::new(rbuild.user), &registry);
    }

    fn tls_with_a_private_authority(rbuild) {
        if let Some(program) = missing_programs(Access::Tls) {
            skip!("{program} is not installed");
        }
        let registry = Registry::start(Access::Tls);
        // Nothing is pushed to somebody whom no known authority vouches for, and nothing falls back to plain HTTP.
        push(&rbuild, &registry.name("team/app:v1")).failed(1).says(&registry.host()).says("certificate");
        let (mut rbuild, mut puller) = (rbuild, Rbuild::new(crate::harness::suite_user()));
        rbuild.set_variable("SSL_CERT_FILE", registry.authority());
        puller.set_variable("SSL_CERT_FILE", registry.authority());
        there_and_back(&rbuild, &puller, &registry);
    }

    fn a_password_from_the_docker_configuration(rbuild) {
        if let Some(program) = missing_programs(Access::Password) {
            skip!("{program} is not installed");
        }
        let registry = Registry::start(Access::Password);
        let name = registry.name("team/app:v1");
        push(&rbuild, &name).failed(1).says(&registry.host());
        write_credentials(&rbuild, &registry, "wrong password");
        push(&rbuild, &name).failed(1).says(&registry.host()).does_not_say("wrong password");
        write_credentials(&rbuild, &registry, PASSWORD);
        let puller = Rbuild::new(rbuild.user);
        write_credentials(&puller, &registry, PASSWORD);
        there_and_back(&rbuild, &puller, &registry);
        push(&rbuild, &name).succeeded().does_not_say(PASSWORD);
    }
}

fn rbuild() -> Rbuild {
    Rbuild::new(crate::harness::suite_user())
}

#[test]
fn a_second_push_and_a_push_under_another_tag_upload_no_blob() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    push(&rbuild, &registry.name("team/app:v1")).succeeded();
    let uploads = registry.uploads();
    assert!(uploads > 0, "the log of the registry shows no upload:\n{}", registry.log());
    push(&rbuild, &registry.name("team/app:v1")).succeeded().all_cached();
    push(&rbuild, &registry.name("team/app:v2")).succeeded().all_cached();
    assert_eq!(registry.uploads(), uploads, "bytes were moved again:\n{}", registry.log());
}

#[test]
fn several_tags_are_pushed_at_once() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let context = rbuild.context("tags").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let names = [registry.name("a:1"), registry.name("a:latest"), registry.name("b/c:1")];
    rbuild.build(&context, &["-t", &names[0], "-t", &names[1], "-t", &names[2], "--push"]).succeeded();
    for path in ["a/manifests/1", "a/manifests/latest", "b/c/manifests/1"] {
        let answer = registry.fetch(&format!("/v2/{path}"));
        assert!(answer.contains(" 200 "), "{path} was not pushed: {answer}");
    }
}

#[test]
fn a_base_that_the_registry_does_not_have_is_named() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let name = registry.name("no/such:image");
    let context = rbuild.context("absent").file("Dockerfile", format!("FROM {name}\n"));
    rbuild.build(&context, &[]).failed(1).says(&name).says("not found");
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let rbuild = rbuild();
    // Port 1 on loopback has no server.
    let context = rbuild.context("absent").file("Dockerfile", "FROM 127.0.0.1:1/a:1\n");
    rbuild.build(&context, &[]).failed(1).says("127.0.0.1:1");
}

#[test]
fn a_local_image_is_pushed_later_by_name() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let name = registry.name("later/app:1");
    let context = rbuild.context("later").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    rbuild.build(&context, &["-t", &name]).succeeded();
    assert_eq!(registry.requests(), 0, "a build without push asked the registry:\n{}", registry.log());
    rbuild.run(["push", &name]).succeeded();
    let answer = registry.fetch("/v2/later/app/manifests/1");
    assert!(answer.contains(" 200 "), "nothing was pushed: {answer}");
}
