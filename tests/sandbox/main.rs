//! The sandbox, driven for real: as whoever runs this, and, if that is root, as two unprivileged users too.
//!
//! A program of its own rather than a test harness's, because the sandbox re-executes the program that uses it.
//! Arguments: words that a case's name must contain; `--time` measures instead.

mod chroot;
mod commands;
mod escapes;
mod inside;
mod lifetime;
mod mounts;
mod owners;
mod races;
mod streams;
mod users;
mod world;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use rbuild::sandbox::StorageDriver;
use world::World;

/// A case: its name, which says what went wrong when it fails, and the check, which panics then.
type Case = (&'static str, fn(&World));

fn main() -> ExitCode {
    rbuild::sandbox::enter_if_child(world::WORKERS);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--inside") => return inside::main(&arguments[1..]),
        Some("--victim") => return lifetime::victim(),
        Some(chroot::ARGUMENT) => return chroot::run(&arguments[1..]),
        Some("--no-range") => return users::run_without_range(&arguments[1..]),
        Some("--time") => return lifetime::time(),
        _ => {}
    }
    let wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let mut failed = run_cases(&wanted);
    if rustix::process::geteuid().is_root() && std::env::var_os(users::NESTED).is_none() {
        failed += users::run_as_others(&arguments) + chroot::run_without_namespaces(&arguments);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all_cases() -> Vec<Case> {
    let groups =
        [commands::CASES, escapes::CASES, races::CASES, mounts::CASES, owners::CASES, streams::CASES, lifetime::CASES];
    groups.concat()
}

fn run_cases(wanted: &[&str]) -> usize {
    // With copies too: a command must not be able to tell.
    [StorageDriver::Auto, StorageDriver::Copy].into_iter().map(|storage| run_cases_with(storage, wanted, &[])).sum()
}

/// Runs the cases but for those that a place cannot hold, of which it says why.
fn run_cases_with(storage: StorageDriver, wanted: &[&str], impossible: &[(&str, &str)]) -> usize {
    let world = World::new(storage);
    let user = rustix::process::geteuid().as_raw();
    let mut failed = 0;
    for (name, case) in all_cases() {
        if !wanted.iter().all(|word| name.contains(word)) {
            continue;
        }
        if let Some((_, reason)) = impossible.iter().find(|(impossible, _)| *impossible == name) {
            println!("user {user}: {name} ... not here: {reason}");
            continue;
        }
        let started = std::time::Instant::now();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| case(&world)));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("user {user}, storage {storage:?}: {name} ... {word} ({} ms)", started.elapsed().as_millis());
        failed += usize::from(outcome.is_err());
    }
    failed
}
