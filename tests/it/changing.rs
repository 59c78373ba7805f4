//! A context that changes while it is read.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use crate::harness::{Rbuild, finish, succeed};

fn write_archive(directory: &std::path::Path, content: &str) {
    fs::write(directory.join("file"), content).expect("write a file");
    let mut tar = Command::new("tar");
    succeed(tar.current_dir(directory).args(["--create", "--file", "archive.tar", "file"]));
}

/// Stops a build between the look at the files that gives the key and the reading that gives the layer, changes the files
/// there, and demands that it is noticed.
fn changes_are_noticed(rbuild: &Rbuild, instruction: &str) {
    let context = rbuild.context("changing").file("Dockerfile", format!("FROM scratch\n{instruction}\n"));
    write_archive(&context.directory, "first");
    rbuild.build(&context, &[]).succeeded();
    // The key is known now: its step is forgotten, and its lock held.
    for entry in fs::read_dir(rbuild.store().join("steps")).expect("list the steps").flatten() {
        fs::remove_file(entry.path()).expect("forget a step");
    }
    let locks: Vec<File> = fs::read_dir(rbuild.store().join("locks"))
        .expect("list the locks")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("step-"))
        .map(|entry| File::open(entry.path()).expect("open a lock"))
        .collect();
    locks.iter().for_each(|lock| lock.lock().expect("take a lock"));
    rbuild.own_everything();
    let directory = context.directory.to_str().expect("paths are UTF-8");
    let child = rbuild.start(["build", "--progress", "plain", directory]);
    std::thread::sleep(Duration::from_millis(700));
    write_archive(&context.directory, "other");
    rbuild.own_everything();
    drop(locks);
    finish(child).failed(1).says("changed while it was copied");
    rbuild.build(&context, &[]).succeeded();
}

for_each_user! {
    fn a_file_that_changes_before_it_is_copied_is_noticed(rbuild) {
        changes_are_noticed(&rbuild, "COPY file /");
    }

    fn an_archive_that_changes_before_it_is_unpacked_is_noticed(rbuild) {
        changes_are_noticed(&rbuild, "ADD archive.tar /");
    }
}
