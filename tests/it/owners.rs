//! Packages that give files away are installed with the same owners by a user with one id as by root.

use crate::bases::Base;
use crate::harness::{Rbuild, User, suite_user};
use crate::image::Image;

/// Their scripts make users and groups, drop to them, and give files and directories with setgid to them.
const DOCKERFILE: &str = "FROM localhost/debian:1\n\
    RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\\n\
    cron ssl-cert openssh-client dbus\n";

/// Path, mode and owner of every file of the image.
fn installed(user: User, storage: &str) -> Result<Vec<String>, String> {
    let mut rbuild = Rbuild::new(user);
    rbuild.set_variable("RBUILD_STORAGE_DRIVER", storage);
    rbuild.reach_the_network();
    let base = rbuild.example("base");
    std::fs::copy(Base::Debian.rootfs()?, base.directory.join("rootfs.tar.xz")).expect("copy the root file system");
    rbuild.build(&base, &["-t", "localhost/debian:1"]).succeeded();
    let context = rbuild.context("packages").file("Dockerfile", DOCKERFILE);
    let archive = rbuild.path("out/packages.tar");
    rbuild.build(&context, &["-o", &format!("type=oci,dest={}", archive.display())]).succeeded();
    let files = Image::read(&archive).files();
    Ok(files.values().map(|file| format!("{} {:o} {}:{}", file.path, file.mode, file.uid, file.gid)).collect())
}

/// Compares what a user gets with what root gets from overlay.
fn compare(user: User, storage: &str) {
    if suite_user() != User::Root {
        eprintln!("not applicable: only a suite of root runs as others");
        return;
    }
    let (many, one) = match (installed(User::Root, "overlay"), installed(user, storage)) {
        (Ok(many), Ok(one)) => (many, one),
        (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
    };
    assert!(many.iter().any(|line| !line.ends_with(" 0:0")), "no package gave anything away");
    let differ = |these: &[String], others: &[String]| -> Vec<String> {
        these.iter().filter(|line| !others.contains(line)).cloned().collect()
    };
    assert_eq!(differ(&one, &many), differ(&many, &one), "other paths, modes or owners");
}

#[test]
fn packages_have_the_same_owners_with_one_id_as_with_many() {
    compare(User::NoSubuid, "overlay");
}

#[test]
fn packages_have_the_same_owners_without_overlay() {
    compare(User::Root, "copy");
}

#[test]
fn packages_have_the_same_owners_with_one_id_and_without_overlay() {
    compare(User::NoSubuid, "copy");
}
