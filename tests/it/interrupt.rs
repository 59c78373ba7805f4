//! A build that is interrupted or killed leaves nothing behind, and the next one goes on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bases::Base;
use crate::harness::{Files, Rbuild, Run, finish, succeed};
use crate::leftovers::on_busybox;

/// A build whose second RUN sleeps for a number of seconds that no other process on this machine sleeps.
struct Sleeping {
    context: Files,
    marker: String,
}

impl Sleeping {
    fn new(rbuild: &Rbuild) -> Result<Sleeping, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let marker = format!("9{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed) + 1000);
        let dockerfile = format!(
            "FROM scratch\nADD rootfs.tar.xz /\nRUN echo first > /first\n\
             RUN trap '' INT TERM HUP; setsid sleep {marker} & sleep {marker}\n"
        );
        let context = rbuild.context("sleeping").file("Dockerfile", dockerfile);
        fs::copy(Base::Busybox.rootfs()?, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
        Ok(Sleeping { context, marker })
    }

    fn start(&self, rbuild: &Rbuild) -> Child {
        let context = self.context.directory.to_str().expect("paths are UTF-8");
        let mut child = rbuild.start(["build", "--progress", "plain", "-t", "localhost/x:1", context]);
        let begun = wait_for(Duration::from_secs(60), || {
            let over = child.try_wait().expect("look after rbuild").is_some();
            over || processes_with(&self.marker).len() >= 2
        });
        if !begun || child.try_wait().expect("look after rbuild").is_some() {
            panic!("the sleeping RUN did not begin: {:#?}", finish(child));
        }
        child
    }

    /// Everything that must not be there after the end.
    fn leftovers(&self, rbuild: &Rbuild) -> Vec<String> {
        let place = rbuild.path("").display().to_string();
        let mut left: Vec<String> = [self.marker.as_str(), &place]
            .into_iter()
            .flat_map(processes_with)
            .map(|(process, line)| format!("process {process}: {line}"))
            .collect();
        left.extend(processes_of(&rbuild.path("rbuild")));
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        left.extend(mounts.lines().filter(|line| line.contains(place.trim_end_matches('/'))).map(str::to_owned));
        left.extend(files_below(&rbuild.path("tmp")));
        left.extend(files_below(&rbuild.path("run")));
        left
    }

    /// Waits for the end of a build that got a signal, which comes soon and takes everything along.
    fn end(&self, rbuild: &Rbuild, mut child: Child) -> Run {
        let ended = wait_for(Duration::from_secs(5), || child.try_wait().expect("look after rbuild").is_some());
        wait_for(Duration::from_secs(3), || self.leftovers(rbuild).is_empty());
        let left = self.leftovers(rbuild);
        if !ended {
            signal("KILL", i64::from(child.id()));
        }
        // What survived holds the pipes that are read next, and must not outlive the test either.
        for (process, _) in processes_with(&self.marker) {
            Command::new("kill").args(["-s", "KILL", &process.to_string()]).status().expect("run kill");
        }
        let run = finish(child);
        assert!(ended, "the build did not end within 5 seconds:\n{}", run.stderr);
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", run.stderr);
        run
    }

    fn leaves_nothing(&self, rbuild: &Rbuild) {
        wait_for(Duration::from_secs(3), || self.leftovers(rbuild).is_empty());
        let left = self.leftovers(rbuild);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// The next build takes the finished step from the cache.
    fn goes_on(&self, rbuild: &Rbuild) {
        let dockerfile = "FROM scratch\nADD rootfs.tar.xz /\nRUN echo first > /first\nRUN echo second > /second\n";
        fs::write(self.context.directory.join("Dockerfile"), dockerfile).expect("write a Dockerfile");
        let run = rbuild.build(&self.context, &[]).succeeded();
        assert_eq!(run.step("RUN echo first"), "CACHED", "a finished step was lost:\n{}", run.stderr);
        let temporary = temporary_files(&rbuild.store());
        assert!(temporary.is_empty(), "temporary files in the store: {temporary:#?}");
        self.leaves_nothing(rbuild);
    }
}

fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn process_directories() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    let is_process =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_digit()) && name != std::process::id().to_string();
    entries.filter(move |entry| is_process(&entry.file_name().to_string_lossy())).map(|entry| entry.path())
}

/// Processes whose command lines hold words, with these; one that is gone by now does not count, nor does a zombie, which
/// has none.
fn processes_with(words: &str) -> Vec<(u32, String)> {
    let line = |process: PathBuf| {
        let bytes = fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        let number = process.file_name()?.to_str()?.parse().ok()?;
        line.contains(words).then_some((number, line))
    };
    process_directories().filter_map(line).collect()
}

/// Processes of a program.
fn processes_of(program: &Path) -> Vec<String> {
    let runs = |process: &PathBuf| fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program);
    process_directories().filter(runs).map(|process| process.display().to_string()).collect()
}

fn files_below(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("read a directory").flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// Whatever in a store is named as temporary: the content of directories `tmp`, and files with such a name.
fn temporary_files(store: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![(store.to_owned(), false)];
    while let Some((directory, inside)) = directories.pop() {
        // What belongs to the user's subordinate ids cannot be looked into from outside; it is a tree, not a file of the store.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let temporary =
                name == "tmp" || name.starts_with("tmp-") || name.starts_with(".tmp") || name.ends_with(".tmp");
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let is_tree = directory.ends_with("trees");
            if is_directory && !is_tree {
                directories.push((entry.path(), inside || name == "tmp"));
            }
            if inside || (temporary && name != "tmp") {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

/// Sends a signal to a process, or with a minus to a group, by its id.
fn signal(name: &str, target: i64) {
    succeed(Command::new("kill").args(["-s", name, "--", &target.to_string()]));
}

for_each_user! {
    fn ctrl_c_ends_the_build_with_130_and_leaves_nothing(rbuild) {
        let sleeping = match Sleeping::new(&rbuild) {
            Ok(sleeping) => sleeping,
            Err(reason) => skip!("{reason}"),
        };
        let child = sleeping.start(&rbuild);
        // What a terminal does: to everybody in the foreground group.
        signal("INT", -i64::from(child.id()));
        sleeping.end(&rbuild, child).failed(130);
        sleeping.goes_on(&rbuild);
    }

    fn an_interrupt_of_rbuild_alone_ends_its_run_too(rbuild) {
        let sleeping = match Sleeping::new(&rbuild) {
            Ok(sleeping) => sleeping,
            Err(reason) => skip!("{reason}"),
        };
        let child = sleeping.start(&rbuild);
        signal("INT", i64::from(child.id()));
        sleeping.end(&rbuild, child).failed(130);
    }

    fn a_terminated_build_leaves_nothing(rbuild) {
        let sleeping = match Sleeping::new(&rbuild) {
            Ok(sleeping) => sleeping,
            Err(reason) => skip!("{reason}"),
        };
        let child = sleeping.start(&rbuild);
        signal("TERM", i64::from(child.id()));
        sleeping.end(&rbuild, child).failed(130);
    }

    fn a_killed_build_leaves_no_process_and_no_mount_and_the_next_one_goes_on(rbuild) {
        let sleeping = match Sleeping::new(&rbuild) {
            Ok(sleeping) => sleeping,
            Err(reason) => skip!("{reason}"),
        };
        let child = sleeping.start(&rbuild);
        signal("KILL", i64::from(child.id()));
        let run = sleeping.end(&rbuild, child);
        assert_eq!(run.signal, Some(9));
        sleeping.goes_on(&rbuild);
    }
}

for_each_user! {
    fn a_build_that_was_started_with_interrupts_ignored_goes_on(rbuild) {
        let context = match on_busybox(&rbuild, "background", "RUN echo begun; sleep 1; echo over\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        // What a shell does with `rbuild build . &`, and nohup with SIGHUP.
        let script = "trap '' INT HUP; exec \"$@\"";
        let (program, directory) = (rbuild.program(), &context.directory);
        let (program, directory) = (program.to_str().expect("UTF-8"), directory.to_str().expect("UTF-8"));
        let words = ["-c", script, "sh", program, "build", "--progress=plain", directory];
        let mut child = rbuild.command_of("sh", words).process_group(0).spawn().expect("start rbuild");
        let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        assert!(said.any(|line| line.is_ok_and(|line| line.ends_with(" begun"))), "the RUN did not begin");
        for name in ["INT", "HUP"] {
            signal(name, -i64::from(child.id()));
        }
        let rest: Vec<String> = said.map(|line| line.expect("text")).collect();
        let status = child.wait().expect("wait for rbuild");
        assert!(status.success(), "{status}: {rest:#?}");
        assert!(rest.iter().any(|line| line.ends_with(" over")), "{rest:#?}");
    }
}

/// How often a signal is sent at a random moment: `RBUILD_TEST_SIGNALS`, or few enough for every day.
fn rounds() -> u32 {
    let given = std::env::var("RBUILD_TEST_SIGNALS").ok();
    given.map_or(14, |text| text.parse().expect("RBUILD_TEST_SIGNALS is a number"))
}

/// Sends a signal at random moments of a build's RUN, its set-up included, and looks after each what is left. Gives how
/// many builds had their command running then, and the longest time until nothing was left.
fn at_random_moments(rbuild: &Rbuild, name: &str, sleeping: &Sleeping) -> (u32, Duration) {
    let context = sleeping.context.directory.to_str().expect("paths are UTF-8");
    let (program, own) = (rbuild.program(), ["build", "--progress", "plain", "-t", "localhost/x:1", context]);
    let program = program.to_str().expect("paths are UTF-8");
    let words = [&[program], &own[..]].concat();
    // What comes before the RUN is done once.
    let child = sleeping.start(rbuild);
    signal("KILL", i64::from(child.id()));
    sleeping.end(rbuild, child);
    // Any numbers that spread will do; other ones for each user.
    let mut random = u64::from(std::process::id());
    let (mut running, mut slowest) = (0, Duration::ZERO);
    // How late it may be: as a command starts sooner or later, by the machine and by what else it does.
    let mut latest = 120_000;
    for _ in 0..rounds() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let child = rbuild.command_of("env", &words).process_group(0).spawn().expect("start rbuild");
        std::thread::sleep(Duration::from_micros((random >> 33) % latest));
        let is_running = !processes_with(&sleeping.marker).is_empty();
        latest = if is_running { (latest * 3 / 4).max(60_000) } else { (latest * 3 / 2).min(8_000_000) };
        running += u32::from(is_running);
        let sent = Instant::now();
        signal(name, i64::from(child.id()));
        let run = sleeping.end(rbuild, child);
        slowest = slowest.max(sent.elapsed());
        // Before it catches the signal, it is the signal that ends it.
        assert!(run.signal.is_some() || run.code == Some(130), "{run:#?}");
    }
    (running, slowest)
}

for_each_user! {
    fn kills_at_random_moments_leave_nothing(rbuild) {
        let sleeping = match Sleeping::new(&rbuild) {
            Ok(sleeping) => sleeping,
            Err(reason) => skip!("{reason}"),
        };
        let (running, slowest) = at_random_moments(&rbuild, "KILL", &sleeping);
        assert!(running > 0, "no command ran when it was killed: the test shows nothing");
        println!("{} kills, {running} while the command ran, all gone after {slowest:?} at most", rounds());
        sleeping.goes_on(&rbuild);
        assert_eq!(crate::leftovers::drafts(&rbuild), Vec::<PathBuf>::new(), "trees that were begun");
    }

    fn interrupts_at_random_moments_leave_nothing(rbuild) {
        let sleeping = match Sleeping::new(&rbuild) {
            Ok(sleeping) => sleeping,
            Err(reason) => skip!("{reason}"),
        };
        let (running, slowest) = at_random_moments(&rbuild, "INT", &sleeping);
        assert!(running > 0, "no command ran when it was interrupted: the test shows nothing");
        println!("{} interrupts, {running} while the command ran, all gone after {slowest:?} at most", rounds());
        sleeping.goes_on(&rbuild);
        assert_eq!(crate::leftovers::drafts(&rbuild), Vec::<PathBuf>::new(), "trees that were begun");
    }
}

/// What is unfinished in a directory.
fn parts(directory: &Path) -> Vec<String> {
    files_below(directory).into_iter().filter(|name| name.ends_with(".part")).collect()
}

/// Interrupts a command while a file that it writes into a directory is unfinished; none if it was done before.
fn interrupted_while_it_writes(rbuild: &Rbuild, directory: &Path, arguments: &[&str]) -> Option<Run> {
    let mut child = rbuild.start(arguments);
    let process = Pid::from_child(&child);
    loop {
        if child.try_wait().expect("look after rbuild").is_some() {
            finish(child).succeeded();
            return None;
        }
        if directory.exists() && !parts(directory).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // It does not go on while the signal is on its way.
    for name in [Signal::STOP, Signal::INT, Signal::CONT] {
        // Whoever is done gets none.
        kill_process(process, name).ok();
    }
    let run = finish(child);
    (run.code != Some(0)).then_some(run)
}

for_each_user! {
    fn an_interrupt_leaves_no_unfinished_file_outside_the_store_and_is_said(rbuild) {
        let context = rbuild.context("large").file("Dockerfile", "FROM scratch\nCOPY large /\n");
        let large = fs::File::create(context.directory.join("large")).expect("create a file");
        let (place, blobs) = (rbuild.path("out"), rbuild.path("out/layout/blobs/sha256"));
        let mut open = vec![
            (&place, vec!["export", "localhost/x:1", "-o", "files.tar"]),
            (&place, vec!["save", "--compression=uncompressed", "localhost/x:1", "-o", "image.tar"]),
            (&blobs, vec!["copy", "oci-archive:whole.tar", "oci:layout"]),
        ];
        for megabytes in [64, 128, 256, 512, 1024] {
            large.set_len(megabytes << 20).expect("make a file larger");
            rbuild.build(&context, &["-t", "localhost/x:1"]).succeeded();
            rbuild.run(["save", "--compression=uncompressed", "localhost/x:1", "-o", "whole.tar"]).succeeded();
            open.retain(|(directory, arguments)| {
                let Some(run) = interrupted_while_it_writes(&rbuild, directory, arguments) else { return true };
                run.failed(130).says("error: interrupted");
                assert_eq!(parts(directory), Vec::<String>::new(), "{arguments:?}");
                false
            });
            if open.is_empty() {
                return;
            }
        }
        panic!("they were always done before the signal came: {open:#?}");
    }
}
