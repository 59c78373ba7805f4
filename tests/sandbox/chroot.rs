//! The same cases on the lowest rung: as root in a place that forbids namespaces, where commands run in a chroot.
//!
//! What that rung cannot do is listed here with the reason, case by case, and in the README's threat model. Every other
//! case, new ones above all, has to hold there as it does elsewhere.

use std::process::{Command, ExitCode};

use rbuild::sandbox::{Isolation, StorageDriver};

/// The first argument of a run that is in such a place already.
pub const ARGUMENT: &str = "--in-chroot";

/// Set in the environment of that run and of what it starts.
const THERE: &str = "RBUILD_SANDBOX_TEST_IN_CHROOT";

/// There is nothing in it that could be masked, shown, read or set.
const NO_PROC: &str = "/proc and /sys are empty directories";
const NO_NETWORK: &str = "there is the place's own network only";
const NO_UTS: &str = "the host name is the place's";
const NO_IPC: &str = "shared memory and message queues are the place's";
const NO_IDS: &str = "ids are the place's";
const NO_BIND: &str = "nothing can be bound: the builder gives copies instead, which the integration tests attack";
const COPIES: &str = "mounts are copies: writing works and is forgotten";
const ON_DISK: &str = "a tmpfs and a secret's file are part of the copied root";
const NO_TERMINALS: &str = "/dev/pts is empty: a terminal has no name";

/// Cases that hold where there are namespaces, and why not here.
const IMPOSSIBLE: &[(&str, &str)] = &[
    ("identity: user, groups, capabilities, host name, umask, limits", NO_UTS),
    (
        "environment, working directory and PATH are the given ones",
        "a missing working directory is told as one of the root",
    ),
    ("a network of its own has loopback only", NO_NETWORK),
    ("workers have every id of an image", NO_IDS),
    ("S1 CVE-2024-21626: descriptors are 0, 1 and 2 only", NO_PROC),
    ("S4: masks are empty whatever the image ships as /dev/null", NO_PROC),
    ("S10: without a network the host's loopback and the metadata address are out of reach", NO_NETWORK),
    ("S11: no path of the host in the mount table", NO_PROC),
    ("S16: shared memory does not outlive the command", NO_IPC),
    ("S18: host name and kernel settings stay", NO_PROC),
    ("D1 CVE-2024-23652: a link in place of a mount point deletes nothing", NO_BIND),
    ("S5 CVE-2021-30465: a mount point that is exchanged for a link meanwhile", NO_BIND),
    ("S4 CVE-2025-52565: a device's place that is exchanged for a link meanwhile", NO_BIND),
    ("D2 CVE-2024-23651: a source that is exchanged for a link meanwhile", NO_BIND),
    ("hosts and resolv.conf are the given ones and read-only", COPIES),
    ("bind: read-only, read-write, a file, a path within", NO_BIND),
    ("D2 D3: a bind source cannot leave its root", NO_BIND),
    ("a stage is seen merged, changes to it are thrown away", COPIES),
    ("a cache keeps its content", COPIES),
    ("tmpfs has its size and mode", ON_DISK),
    ("K1: a secret is in memory only, with its mode and owner", ON_DISK),
    ("a socket of the host can be connected to", NO_BIND),
    ("mounts within mounts, in any order", NO_BIND),
    ("nothing of the mounts leaks into the layer", NO_BIND),
    ("a terminal is the command's own, with a name and a size", NO_TERMINALS),
    ("a terminal belongs to the command's user", NO_TERMINALS),
    ("outputs can be opened again by their names", NO_PROC),
    ("signals reach the command, whoever its user is", "nobody passes signals on: the first one ends the command"),
];

/// What isolation the cases are for.
pub fn isolation() -> Isolation {
    if std::env::var_os(THERE).is_some() { Isolation::Chroot } else { Isolation::Full }
}

/// Runs this program in such a place; gives how many runs failed.
pub fn run_without_namespaces(arguments: &[String]) -> usize {
    let program = std::env::current_exe().expect("the program has a path");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", include_str!("../support/without_namespaces.py")]).arg(program).arg(ARGUMENT).args(arguments);
    match command.env(THERE, "1").status() {
        Ok(status) => usize::from(!status.success()),
        Err(error) => {
            println!("without namespaces: SKIPPED: run python3: {error}");
            usize::from(std::env::var_os("CI").is_some())
        }
    }
}

/// The cases, there.
pub fn run(arguments: &[String]) -> ExitCode {
    let wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    for (name, _) in IMPOSSIBLE {
        assert!(crate::all_cases().iter().any(|(case, _)| case == name), "there is no case {name:?}");
    }
    println!("without namespaces, in a chroot:");
    let failed = crate::run_cases_with(StorageDriver::Auto, &wanted, IMPOSSIBLE);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
