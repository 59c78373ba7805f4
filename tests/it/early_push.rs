//! Large layers go to the registry while they are compressed, once no command is left that could fail.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::Rbuild;
use crate::image::Image;
use crate::leftovers::on_busybox;
use crate::registry_server::{Access, PASSWORD, Registry, USER_NAME, missing_programs};

/// Text that compresses to three quarters, which are more than a layer has to have to be sent early.
fn noise(seed: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = seed;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes().map(|byte| char::from(LETTERS[usize::from(byte) % 64]))
    };
    std::iter::repeat_with(next).take(13 << 18).flatten().collect()
}

/// Blobs that came as ones of an unknown size.
fn early(registry: &Registry) -> usize {
    registry.log().lines().filter(|line| line.contains("\"PATCH ")).count()
}

/// An image as somebody with an empty store gets it.
fn pulled(rbuild: &Rbuild, name: &str) -> Image {
    let context = rbuild.context("upon").file("Dockerfile", format!("FROM {name}\n"));
    let archive = rbuild.path("out/upon.tar");
    rbuild.build(&context, &["--pull", "-o", &format!("type=oci,dest={}", archive.display())]).succeeded();
    Image::read(&archive)
}

for_each_user! {
    fn what_steps_and_commands_made_arrives_whole(rbuild) {
        if let Some(program) = missing_programs(Access::Plain) {
            skip!("{program} is not installed");
        }
        let rest = "COPY noise /copied\nRUN cat /copied > /written && echo 1 >> /written\nCOPY other /other\n";
        let context = match on_busybox(&rbuild, "early", rest) {
            Ok(context) => context.file("noise", noise(1)).file("other", noise(2)),
            Err(reason) => skip!("{reason}"),
        };
        let registry = Registry::start(Access::Plain);
        let name = registry.name("early/app:1");
        rbuild.build(&context, &["-t", &name, "--push"]).succeeded();
        // The command's layer is compressed after the command; what was copied before it may have been done by then.
        assert!((2..=3).contains(&early(&registry)), "{}", registry.log());
        let puller = Rbuild::new(rbuild.user);
        let image = pulled(&puller, &name);
        assert!(image.content("/copied") == noise(1) && image.content("/other") == noise(2));
        assert!(image.content("/written") == noise(1) + "1\n");

        // What the registry has is not sent again, neither from this store nor from a new one with the same layers.
        let uploads = registry.uploads();
        rbuild.build(&context, &["-t", &name, "--push"]).succeeded().all_cached();
        assert_eq!(registry.uploads(), uploads, "{}", registry.log());
    }
}

fn rbuild() -> Rbuild {
    Rbuild::new(crate::harness::suite_user())
}

#[test]
fn a_registry_with_a_password_gets_it_too() {
    if let Some(program) = missing_programs(Access::Password) {
        skip!("{program} is not installed");
    }
    use base64::Engine as _;
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Password));
    let name = registry.name("early/app:1");
    let context =
        rbuild.context("early").file("Dockerfile", "FROM scratch\nCOPY noise /noise\n").file("noise", noise(3));
    // Who may not push is told so as ever.
    rbuild.build(&context, &["-t", &name, "--push"]).failed(1).says(&registry.host());
    let token = base64::engine::general_purpose::STANDARD.encode(format!("{USER_NAME}:{PASSWORD}"));
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "{token}"}}}}}}"#, registry.host());
    fs::write(rbuild.path("home/.docker/config.json"), config).expect("write the credentials");
    fs::write(context.directory.join("noise"), noise(4)).expect("write other noise");
    rbuild.build(&context, &["-t", &name, "--push"]).succeeded().does_not_say(PASSWORD);
    assert_eq!(early(&registry), 1, "{}", registry.log());
    assert!(pulled(&rbuild, &name).content("/noise") == noise(4));
}

#[test]
fn what_the_registry_has_already_is_taken_back() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let registry = Registry::start(Access::Plain);
    let uploads = registry.directory().join("data/docker/registry/v2/repositories/early/app/_uploads");
    for number in 0..4 {
        // Of one and the same context, whose copy has the same bytes from each store.
        let rbuild = rbuild();
        let context =
            rbuild.context("same").file("Dockerfile", "FROM scratch\nCOPY noise /noise\n").file("noise", noise(7));
        let context = context.modified("noise", 1_700_000_000);
        rbuild.build(&context, &["-t", &registry.name(&format!("early/app:{number}")), "--push"]).succeeded();
        // This registry keeps a few bytes of its own about an upload that was taken back, but not what was sent.
        let is_left = || {
            let mut entries = fs::read_dir(&uploads).into_iter().flatten().flatten();
            entries.any(|entry| entry.path().join("data").exists())
        };
        let until = Instant::now() + Duration::from_secs(20);
        while is_left() {
            assert!(Instant::now() < until, "{}", registry.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let done = |line: &&str| line.contains("\"PUT ") && line.contains("/blobs/uploads/");
    // One layer once, and a config that says when each image was made.
    assert_eq!(registry.log().lines().filter(done).count(), 5, "{}", registry.log());
}

#[test]
fn a_build_whose_command_fails_sends_nothing() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (rbuild(), Registry::start(Access::Plain));
    let rest = "COPY noise /noise\nRUN sleep 1 && false\n";
    let context = match on_busybox(&rbuild, "failing", rest) {
        Ok(context) => context.file("noise", noise(5)),
        Err(reason) => skip!("{reason}"),
    };
    rbuild.build(&context, &["-t", &registry.name("early/app:1"), "--push"]).failed(1);
    assert_eq!(registry.log().matches("/early/app/").count(), 0, "{}", registry.log());
}

#[test]
fn layers_that_change_until_they_are_pushed_wait_for_that() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let rbuild = rbuild();
    let dockerfile = "FROM scratch\nCOPY noise /noise\nCOPY other /other\n";
    let context = rbuild.context("changed").file("Dockerfile", dockerfile).file("other", "1\n");
    for (number, flags) in [&["--reproducible"][..], &["--squash"]].into_iter().enumerate() {
        let registry = Registry::start(Access::Plain);
        fs::write(context.directory.join("noise"), noise(10 + number as u64)).expect("write noise");
        let name = registry.name("early/app:1");
        rbuild.build(&context, &[&["-t", &name, "--push"], flags].concat()).succeeded();
        assert_eq!(early(&registry), 0, "{flags:?}\n{}", registry.log());
        assert!(pulled(&rbuild, &name).content("/noise") == noise(10 + number as u64), "{flags:?}");
    }
}
