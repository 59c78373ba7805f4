//! A context that changes while it is read.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use crate::bases::Base;
use crate::harness::{Rbuild, finish, succeed};

fn write_archive(directory: &std::path::Path, content: &str) {
    fs::write(directory.join("file"), content).expect("write a file");
    let mut tar = Command::new("tar");
    succeed(tar.current_dir(directory).args(["--create", "--file", "archive.tar", "file"]));
}

/// Stops a build between the look at the files that gives the key and the reading that gives the layer, changes the files
/// there, and demands that it is noticed.
fn changes_are_noticed(rbuild: &Rbuild, dockerfile: &str) {
    let context = rbuild.context("changing").file("Dockerfile", format!("{dockerfile}\n"));
    write_archive(&context.directory, "first");
    rbuild.build(&context, &[]).succeeded();
    // The last step's key is known now: it is forgotten, and its lock held.
    let instruction = dockerfile.lines().last().expect("there is an instruction");
    let mut locks: Vec<File> = Vec::new();
    for entry in fs::read_dir(rbuild.store().join("steps")).expect("list the steps").flatten() {
        let name = format!("step-{}", entry.file_name().to_string_lossy());
        if fs::read_to_string(entry.path()).expect("read a step").contains(instruction) {
            fs::remove_file(entry.path()).expect("forget a step");
            // A layer known by its content has no lock.
            locks.extend(File::open(rbuild.store().join("locks").join(name)).ok());
        }
    }
    assert!(!locks.is_empty(), "there is no step {instruction}");
    locks.iter().for_each(|lock| lock.lock().expect("take a lock"));
    rbuild.own_everything();
    let directory = context.directory.to_str().expect("paths are UTF-8");
    let child = rbuild.start(["build", "--progress", "plain", directory]);
    std::thread::sleep(Duration::from_millis(1000));
    write_archive(&context.directory, "other");
    rbuild.own_everything();
    drop(locks);
    finish(child).failed(1).says("changed while it was copied");
    rbuild.build(&context, &[]).succeeded();
}

for_each_user! {
    fn a_file_that_changes_before_it_is_copied_is_noticed(rbuild) {
        changes_are_noticed(&rbuild, "FROM scratch\nCOPY file /");
    }

    fn a_mounted_file_that_changes_before_the_command_sees_it_is_noticed(rbuild) {
        let busybox = match Base::Busybox.rootfs() {
            Ok(busybox) => busybox,
            Err(reason) => skip!("{reason}"),
        };
        let context = rbuild.context("changing");
        fs::copy(busybox, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
        changes_are_noticed(
            &rbuild,
            "FROM scratch\nADD rootfs.tar.xz /\nRUN --mount=type=bind,source=file,target=/file cat /file",
        );
    }

    fn an_archive_that_changes_before_it_is_unpacked_is_noticed(rbuild) {
        changes_are_noticed(&rbuild, "FROM scratch\nADD archive.tar /");
    }
}
