//! The store: what damage does, what is found of it, what goes when, and what faults leave (rows F1, F2, F3, F10, F11 and
//! P5 of the catalogue of faults).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::harness::{Files, Rbuild, Run, User, amount, finish, has_program, source_directory, succeed, suite_user};
use crate::leftovers::{mapping, on_busybox};

/// A build with each kind of step, whose image says which build it is.
const STEPS: &str = "RUN --mount=type=cache,target=/c echo one > /one; echo x >> /c/log\nARG N\nCOPY file /file\n\
                     RUN echo $N > /n; cat /file >> /n\n";

fn context(rbuild: &Rbuild, name: &str) -> Result<Files, String> {
    Ok(on_busybox(rbuild, name, STEPS)?.file("file", "content\n"))
}

/// Checks the store as closely as can be: a damaged one fails the test.
fn is_whole(rbuild: &Rbuild) {
    let run = rbuild.run(["check", "--deep"]);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
}

/// The files of a folder of the store.
fn files(rbuild: &Rbuild, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(rbuild.store().join(folder)).expect("list a folder of the store").flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn bytes(rbuild: &Rbuild) -> u64 {
    let run = rbuild.run(["du", "--json"]).succeeded();
    let usage: serde_json::Value = serde_json::from_str(&run.stdout).expect("du prints JSON");
    usage["total"].as_u64().expect("the total is a number")
}

/// A file of the image that a build makes.
fn built(rbuild: &Rbuild, context: &Files, number: u32, file: &str) -> String {
    let output = rbuild.path("out/files");
    drop(fs::remove_dir_all(&output));
    let argument = format!("N={number}");
    rbuild.build(context, &["--build-arg", &argument, "-o", output.to_str().expect("UTF-8")]).succeeded();
    fs::read_to_string(output.join(file)).expect("read a file of the image")
}

for_each_user! {
    fn a_damaged_record_is_a_miss_and_is_told(rbuild) {
        let context = match context(&rbuild, "records") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &["-t", "x"]).succeeded();
        for folder in ["steps", "layers", "slots", "refs", "mounts"] {
            for file in files(&rbuild, folder) {
                fs::write(file, "{\"layer\": 7").expect("damage a record");
            }
        }
        rbuild.build(&context, &["-t", "x"]).succeeded().says("rbuild check");
        rbuild.build(&context, &["-t", "x"]).succeeded().all_cached();
    }

    fn every_damage_is_found_and_repaired_and_what_is_whole_stays(rbuild) {
        let context = match context(&rbuild, "damage") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &["-t", "x", "-o", "type=oci,dest=image.tar"]).succeeded();
        is_whole(&rbuild);
        // A file of each kind that is not what it was.
        let blob = files(&rbuild, "blobs/sha256").into_iter().max_by_key(|path| path.metadata().map_or(0, |file| file.len()));
        let blob = blob.expect("a blob");
        let mut content = fs::read(&blob).expect("read a blob");
        content[100] ^= 1;
        fs::write(&blob, content).expect("damage a blob");
        let export = rbuild.run(["save", "-o", "damaged.tar", "x"]).failed(1);
        export.says("is damaged: content has digest").says("rbuild check --deep --repair");
        assert!(!rbuild.path("out/damaged.tar").exists());
        fs::write(&files(&rbuild, "index")[0], "no index").expect("damage an index");
        fs::write(&files(&rbuild, "steps")[0], "no record").expect("damage a record");
        let trees = fs::read_dir(mapping(&rbuild)).expect("list the trees").flatten();
        let one = trees.map(|entry| entry.path().join("one")).find(|path| path.exists()).expect("the tree of the first RUN");
        let mut permissions = one.metadata().expect("look at a file").permissions();
        permissions.set_mode(0o644);
        if fs::set_permissions(&one, permissions).and_then(|()| fs::write(&one, "two\n")).is_err() {
            skip!("files of trees can be damaged only by root and by who owns them");
        }
        let shallow = rbuild.run(["check"]).failed(1);
        assert!(shallow.stdout.contains("unreadable-record") && shallow.stdout.contains("unreadable-index"));
        let run = rbuild.run(["check", "--deep", "--format", "json"]).failed(1);
        let found: serde_json::Value = serde_json::from_str(&run.stdout).expect("check prints JSON");
        let mut kinds: Vec<&str> =
            found["damage"].as_array().expect("a list").iter().filter_map(|one| one["kind"].as_str()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["unreadable-index", "unreadable-record", "wrong-digest", "wrong-tree"]);
        rbuild.run(["check", "--deep", "--repair"]).succeeded();
        is_whole(&rbuild);
        assert_eq!(built(&rbuild, &context, 1, "one"), "one\n");
        is_whole(&rbuild);
    }

    fn a_limit_holds_after_every_build_and_images_with_a_name_stay(rbuild) {
        let rest = "ARG N\nRUN dd if=/dev/urandom of=/big bs=64k count=32 2>/dev/null\n\
                    RUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/big bs=64k count=32 2>/dev/null\n";
        let context = match on_busybox(&rbuild, "limit", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let mut rbuild = rbuild;
        rbuild.build(&context, &["-t", "kept", "--build-arg", "N=0"]).succeeded();
        let config = rbuild.path("home/.config/rbuild");
        fs::create_dir_all(&config).expect("create the configuration's directory");
        fs::write(config.join("config.json"), r#"{"storage": {"max": "14MB"}}"#).expect("write the configuration");
        for number in 1..5 {
            let argument = format!("N={number}");
            rbuild.build(&context, &["--build-arg", &argument]).succeeded();
            assert!(bytes(&rbuild) <= 14 << 20, "{} after build {number}", bytes(&rbuild));
        }
        // The last one is kept before older ones.
        rbuild.build(&context, &["--build-arg", "N=4"]).succeeded().all_cached();
        rbuild.set_variable("RBUILD_STORE_MAX", "1m");
        rbuild.build(&context, &["--build-arg", "N=9"]).succeeded().says("more than the limit");
        rbuild.run(["history", "kept"]).succeeded();
        is_whole(&rbuild);
        // An archive may be gone, so what was loaded stays as well; loading and running look at the limit, too.
        let archive = rbuild.path("out/kept.tar");
        let archive = archive.to_str().expect("UTF-8");
        rbuild.run(["save", "-o", archive, "kept"]).succeeded();
        rbuild.run(["rmi", "kept"]).succeeded();
        rbuild.run(["load", "-i", archive]).succeeded().says("more than the limit");
        rbuild.build(&context, &["--build-arg", "N=8"]).succeeded();
        rbuild.run(["run", "--pull=never", "kept", "true"]).succeeded().says("more than the limit");
        is_whole(&rbuild);
        fs::write(config.join("config.json"), r#"{"storage": {"maximum": "14MB"}}"#).expect("write the configuration");
        rbuild.set_variable("RBUILD_STORE_MAX", "");
        rbuild.build(&context, &[]).failed(2).says("unknown field `maximum`");
        rbuild.run(["load", "-i", archive]).failed(2).says("unknown field `maximum`");
    }

    fn prune_removes_what_its_filters_say(rbuild) {
        let context = match context(&rbuild, "filters") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &[]).succeeded();
        let foreseen = rbuild.run(["prune", "--all", "--dry-run"]).succeeded();
        assert!(foreseen.stdout.contains("cache mount /c") && foreseen.stdout.contains("nothing was removed"));
        rbuild.run(["prune", "--all", "--filter", "type=exec.cachemount"]).succeeded();
        assert_eq!(fs::read_dir(mapping(&rbuild).join("caches")).expect("list").count(), 0, "the cache mount stays");
        rbuild.build(&context, &[]).succeeded().all_cached();
        rbuild.run(["prune", "--filter", "until=1h"]).succeeded();
        rbuild.build(&context, &[]).succeeded().all_cached();
        rbuild.run(["prune", "--all"]).succeeded();
        assert!(files(&rbuild, "trees/stubs").is_empty() && files(&rbuild, "blobs/sha256").is_empty());
        rbuild.run(["prune", "--filter", "until=soon"]).failed(2).says("7d");
    }

    fn a_build_killed_at_any_moment_leaves_a_whole_store(rbuild) {
        let context = match context(&rbuild, "killed") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.own_everything();
        let directory = context.directory.to_str().expect("UTF-8").to_owned();
        let begun = Instant::now();
        let mut kills = 0u32;
        while begun.elapsed() < Duration::from_secs(12) {
            let argument = format!("N={kills}");
            let (mut child, most): (Child, u64) = match kills % 4 {
                0..3 => (rbuild.start(["build", "-q", "--build-arg", &argument, "-o", "type=oci,dest=x.tar", &directory]), 400),
                _ => (rbuild.start(["prune", "--all"]), 60),
            };
            // Spread over the whole time that it takes, without a generator of random numbers.
            std::thread::sleep(Duration::from_millis(u64::from(kills) * 37 % most));
            child.kill().expect("kill rbuild");
            child.wait().expect("wait for rbuild");
            kills += 1;
            if kills.is_multiple_of(8) {
                is_whole(&rbuild);
            }
        }
        assert!(kills > 8, "{kills} kills in all show nothing");
        assert_eq!(built(&rbuild, &context, 7, "n"), "7\ncontent\n");
        is_whole(&rbuild);
    }

    fn what_is_killed_at_any_moment_leaves_a_whole_store_and_all_that_was_finished(rbuild) {
        let rootfs = match crate::bases::Base::Busybox.rootfs() {
            Ok(rootfs) => rootfs,
            Err(reason) => skip!("{reason}"),
        };
        if amount(true, false) {
            eprintln!("not applicable: pulls, pushes and exports are killed before a release only (RBUILD_TEST_THOROUGH)");
            return;
        }
        let (script, copy) = (rbuild.path("out/kill.py"), rbuild.path("out/rootfs.tar.xz"));
        fs::copy(source_directory().join("tests/it/kill.py"), &script).expect("copy the script");
        fs::copy(rootfs, &copy).expect("copy the root file system");
        let mut command = rbuild.command_of("python3", [&script]);
        command.arg("2000").args([rbuild.program(), copy, rbuild.path("out")]);
        // Its registry and what it starts end with it.
        let run = finish(command.spawn().expect("start python3")).succeeded();
        let found = run.stdout.lines().last().unwrap_or_default();
        assert!(found.contains("damaged 0 wrong 0 run again 0 drafts 0;"), "{}{}", run.stdout, run.stderr);
    }

    fn processes_with_mixed_work_share_a_store(rbuild) {
        let context = match context(&rbuild, "mixed") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.own_everything();
        let directory = context.directory.to_str().expect("UTF-8").to_owned();
        let begun = Instant::now();
        let mut number = 0;
        let mut start = || {
            number += 1;
            let (name, argument) = (format!("t{}", number % 5), format!("N={}", number % 3));
            match number % 8 {
                0 => rbuild.start(["prune", "--all"]),
                1 => rbuild.start(["check", "--deep"]),
                2 => rbuild.start(["rmi", "--force", &name]),
                3 => rbuild.start(["prune", "--max-used-space", "3m"]),
                _ => rbuild.start(["build", "-q", "-t", &name, "--build-arg", &argument, &directory]),
            }
        };
        let mut running: Vec<Child> = (0..amount(8, 32)).map(|_| start()).collect();
        while begun.elapsed() < Duration::from_secs(amount(10, 300)) {
            finish(running.remove(0)).succeeded();
            running.push(start());
        }
        running.into_iter().for_each(|child| drop(finish(child).succeeded()));
        assert_eq!(built(&rbuild, &context, 2, "n"), "2\ncontent\n");
        is_whole(&rbuild);
    }

    fn one_command_runs_once_however_many_builds_want_it(rbuild) {
        let rest = "RUN --mount=type=cache,target=/c echo run >> /c/log; sleep 0.2\n";
        let context = match on_busybox(&rbuild, "once", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.own_everything();
        let directory = context.directory.to_str().expect("UTF-8").to_owned();
        let all: Vec<Child> = (0..amount(12, 200)).map(|_| rbuild.start(["build", "-q", &directory])).collect();
        let ids: std::collections::BTreeSet<String> =
            all.into_iter().map(|child| finish(child).succeeded().stdout).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
        let counting = context.file("Dockerfile", on_cache("wc -l < /c/log | sed 's/^/runs /'"));
        rbuild.build(&counting, &[]).succeeded().says("runs 1\n");
    }
}

/// A Dockerfile that looks into the cache mount of the other tests.
fn on_cache(command: &str) -> String {
    format!("FROM scratch AS busybox\nADD rootfs.tar.xz /\nRUN --mount=type=cache,target=/c {command}\n")
}

/// Calls that fail, and how.
struct Fault {
    call: &'static str,
    error: &'static str,
    /// Which of them are tried where not all are.
    every: usize,
}

const FAULTS: [Fault; 7] = [
    Fault { call: "rename", error: "ENOSPC", every: 13 },
    Fault { call: "fdatasync", error: "EIO", every: 7 },
    Fault { call: "syncfs", error: "EIO", every: 7 },
    Fault { call: "mkdir", error: "ENOSPC", every: 19 },
    Fault { call: "openat", error: "EMFILE", every: 67 },
    Fault { call: "openat2", error: "EIO", every: 41 },
    Fault { call: "write", error: "ENOSPC", every: 43 },
];

/// Calls of a build that fail one after the other, each in a build of its own: that is an error, never a crash, and never
/// the store's harm. The n-th call is that of each thread.
fn fails_well(rbuild: &Rbuild, context: &Files, fault: &Fault, first: usize) {
    let Fault { call, error, every } = fault;
    let directory = context.directory.to_str().expect("UTF-8");
    let mut when = first;
    loop {
        let inject = format!("--inject={call}:error={error}:when={when}");
        let trace = rbuild.path("trace");
        let mut command = rbuild.command_of("strace", ["-f", "-qq", "-o", trace.to_str().expect("UTF-8")]);
        command.args([format!("--trace={call}"), inject]).arg(rbuild.program());
        let output = rbuild.path("out/image.tar");
        drop(fs::remove_file(&output));
        let to = format!("type=oci,dest={}", output.display());
        command.args(["build", "--no-cache", "--reproducible", "--progress", "plain", "-t", "x", "-o", &to, directory]);
        let run = finish(command.spawn().expect("start strace"));
        let trace = fs::read(&trace).expect("read the trace");
        let hits: Vec<String> = String::from_utf8_lossy(&trace)
            .lines()
            .filter(|line| line.contains("(INJECTED)"))
            .map(str::to_owned)
            .collect();
        let place = format!("{call} {error} {when}: {hits:#?}\n{}", run.stderr);
        assert!(!run.stderr.contains("panicked") && run.signal.is_none(), "{place}");
        // What could not be written may have been the message itself.
        let is_mute = hits.iter().any(|hit| hit.contains(&format!("{call}(2, ")));
        assert!(run.code == Some(0) || is_mute || run.stderr.contains("error"), "{place}");
        assert!(run.code == Some(0) || !output.exists(), "half an archive is left: {place}");
        is_whole(rbuild);
        if hits.is_empty() {
            return;
        }
        when += amount(*every, 1);
    }
}

fn has_strace() -> bool {
    has_program("strace")
        && Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
}

for_each_user! {
    fn a_call_that_fails_is_an_error_and_the_store_stays_whole(rbuild) {
        let context = match context(&rbuild, "faults") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        if !has_strace() {
            skip!("strace is not installed or may not trace");
        }
        // Every one of them takes an hour; the whole set is run before a release. Each user tries others.
        let first = match rbuild.user {
            User::Root => 1,
            User::Subuid => 3,
            User::NoSubuid => 5,
        };
        for fault in &FAULTS {
            fails_well(&rbuild, &context, fault, amount(first, 1));
        }
        assert_eq!(built(&rbuild, &context, 3, "n"), "3\ncontent\n");
    }
}

/// Power cuts need a file system of their own and the right to mount it.
mod power {
    use super::*;

    #[test]
    fn a_full_disk_is_said_and_leaves_a_whole_store() {
        if suite_user() != User::Root {
            eprintln!("not applicable: only root can mount a small file system");
            return;
        }
        let rbuild = Rbuild::new(User::Root);
        let context = match on_busybox(&rbuild, "full", "COPY big /big\nRUN echo > /file\n") {
            Ok(context) => context.file("big", "0123456789abcdef".repeat(100_000)),
            Err(reason) => skip!("{reason}"),
        };
        fs::create_dir(rbuild.store()).expect("create the store's directory");
        // Too small for the archive's tree, for a blob, and for the file.
        for kilobytes in [200, 900, 2500, 4000] {
            let script = "mount -t tmpfs -o mode=700,size=$1k tmpfs \"$2\" || exit 99\n\
                          \"$3\" build --progress plain -o type=oci,dest=x.tar \"$4\" && exit 98\n\
                          mount -o remount,size=90m \"$2\" && \"$3\" check --deep && \"$3\" build -q \"$4\"";
            let mut command =
                rbuild.command_of("unshare", ["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
            command.arg(kilobytes.to_string()).args([rbuild.store(), rbuild.program(), context.directory.clone()]);
            let run = finish(command.spawn().expect("start unshare")).succeeded();
            assert!(run.stderr.contains("No space left on device"), "{kilobytes}: {}", run.stderr);
            assert!(run.stderr.contains("rbuild prune"), "{kilobytes}: {}", run.stderr);
        }
    }

    #[test]
    fn a_command_that_finds_the_disk_of_the_store_full_is_explained() {
        if suite_user() != User::Root {
            eprintln!("not applicable: only root can mount a small file system");
            return;
        }
        let rbuild = Rbuild::new(User::Root);
        let context = match on_busybox(&rbuild, "full", "RUN cat /dev/zero > /big || exit 7\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        fs::create_dir(rbuild.store()).expect("create the store's directory");
        let script = "mount -t tmpfs -o mode=700,size=20m tmpfs \"$1\" && shift && exec \"$@\"";
        let mut command =
            rbuild.command_of("unshare", ["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.args([rbuild.store(), rbuild.program()]).args(["build", "--progress", "plain"]).arg(&context.directory);
        let run = finish(command.spawn().expect("start unshare")).failed(7);
        let full = format!("exit code: 7 (the disk of the store, {}, is full)", rbuild.store().display());
        run.says(&full).says("hint: `rbuild du` says what the store takes");
    }

    #[test]
    fn what_is_acknowledged_survives_a_power_cut() {
        if suite_user() != User::Root {
            eprintln!("not applicable: only root can mount a file system and shut it down");
            return;
        }
        for program in ["python3", "unshare", "mkfs.ext4", "losetup"] {
            if !has_program(program) {
                skip!("{program} is not installed");
            }
        }
        if !Path::new("/dev/loop-control").exists() {
            skip!("there are no loop devices");
        }
        let rbuild = Rbuild::new(User::Root);
        let rootfs = match crate::bases::Base::Busybox.rootfs() {
            Ok(rootfs) => rootfs,
            Err(reason) => skip!("{reason}"),
        };
        let script = source_directory().join("tests/it/power_cut.py");
        // In mount namespaces of others, which may begin at any time, the file system would live on.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "python3"]).arg(script);
        command.arg(amount("10", "300")).arg(rbuild.program()).arg(rootfs).arg(rbuild.path("out"));
        let output = succeed(&mut command);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with("cuts ") && said.contains(" lost 0 damaged 0 wrong 0"), "{said}");
    }
}

#[test]
fn a_newer_store_is_refused_with_what_to_do() {
    let rbuild = Rbuild::new(suite_user());
    rbuild.run(["images"]).succeeded();
    fs::write(rbuild.store().join("version"), "99\n").expect("write the version");
    let run: Run = rbuild.run(["images"]).failed(1);
    assert!(run.stderr.contains("use a newer rbuild or another --root"), "{}", run.stderr);
}
