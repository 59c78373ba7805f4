//! That nothing outlives what it belongs to, and how long things take.

use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use rbuild::sandbox::{
    Cancel, Network, Options, RunSpec, Rung, Sandbox, SandboxError, Status, StorageDriver, Streams, probe,
};

use crate::Case;
use crate::world::World;

pub const CASES: &[Case] = &[
    ("S15: background processes end with the command", background),
    ("cancel ends a command and all it started", cancel),
    ("cancel before the start, and of several at once", cancel_several),
    ("dropping the sandbox ends everything in it", dropping),
    ("a process is kept ready for the next command, and one that ends is not missed", kept_ready),
    ("S15: kill -9 of the main process leaves no process and no mount", kill_main),
    ("the sandbox outlives the thread that started it", starting_thread),
    ("probe finds a full range and changes nothing", probe_reports),
];

/// A command that does what it can to stay: other sessions, ignored signals.
fn stubborn(tag: &str) -> String {
    format!(
        "trap '' HUP INT TERM; setsid sh -c \"trap '' HUP INT TERM; sleep 987.{tag} & sleep 986.{tag}\" & \
         sleep 985.{tag} & (sleep 984.{tag} &); echo up; "
    )
}

/// Processes of the host with this word in their command line.
fn processes(word: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let command_lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let texts = command_lines.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    texts.filter(|text| text.contains(word)).collect()
}

fn gone_within(word: &str, limit: Duration) -> Duration {
    let started = Instant::now();
    loop {
        let left = processes(word);
        let elapsed = started.elapsed();
        if left.is_empty() {
            return elapsed;
        }
        assert!(elapsed < limit, "left after {limit:?}: {left:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn tag(name: &str) -> String {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    format!("{}{nanos}{}", std::process::id(), name.len())
}

fn background(world: &World) {
    let tag = tag("background");
    let started = Instant::now();
    assert_eq!(world.say(&stubborn(&tag)), "up\n");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(processes(&tag), Vec::<String>::new());
}

fn cancel(world: &World) {
    let tag = tag("cancel");
    let cancel = Cancel::new();
    let spec = world.shell(&(stubborn(&tag) + "sleep 1000"));
    let handle = cancel.clone();
    let killed = std::sync::OnceLock::new();
    let output = |_, _: &[u8]| {
        killed.get_or_init(Instant::now);
        handle.cancel();
    };
    let error = world.sandbox.run(&spec, &Streams::captured(&output), &cancel).unwrap_err();
    assert!(matches!(error, SandboxError::Cancelled), "{error:?}");
    assert!(killed.get().unwrap().elapsed() < Duration::from_secs(1));
    assert_eq!(processes(&tag), Vec::<String>::new());
}

fn cancel_several(world: &World) {
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| world.sandbox.run(&world.shell("sleep 1000"), &Streams::captured(&|_, _| {}), &cancel))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(7));
        cancel.cancel();
        for run in runs {
            let outcome = run.join().unwrap();
            assert!(matches!(outcome, Err(SandboxError::Cancelled)), "{outcome:?}");
        }
    });
    let error = world.sandbox.run(&world.shell("true"), &Streams::captured(&|_, _| {}), &cancel).unwrap_err();
    assert!(matches!(error, SandboxError::Cancelled));
}

fn dropping(_: &World) {
    let world = World::new(StorageDriver::Auto);
    let (reader, writer) = std::io::pipe().unwrap();
    let worker = world.sandbox.worker("stay", b"", vec![writer.into()]).unwrap();
    let mut pid = String::new();
    BufReader::new(reader).read_line(&mut pid).unwrap();
    let process = PathBuf::from("/proc").join(pid.trim());
    assert!(process.exists());
    let started = Instant::now();
    drop(world);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!process.exists());
    assert!(matches!(worker.wait().unwrap_err(), SandboxError::Died { .. } | SandboxError::HolderGone));
}

fn kept_ready(_: &World) {
    let world = World::new(StorageDriver::Auto);
    // Where there are no namespaces, there is nothing to get ready.
    let number = usize::from(!world.in_chroot());
    let say_alone = |script: &str| {
        let said = world.say(&format!("{script}; echo $$ > /dev/shm/it; echo /dev/shm/*; cat /dev/shm/it"));
        assert!(world.in_chroot() || said == "/dev/shm/it\n2\n", "{said}");
    };
    say_alone("true");
    assert_eq!(ready(&world.base, 0..=0), []);
    say_alone("true");
    for pid in ready(&world.base, number..=number) {
        let namespace = std::fs::read_link(of(pid, "ns/pid")).unwrap();
        let said = world.say("readlink /proc/self/ns/pid");
        assert_eq!(said.trim_end(), namespace.to_str().unwrap(), "{pid:?} did not become the command");
    }
    for pid in ready(&world.base, number..=number) {
        kill_process(pid, Signal::KILL).unwrap();
        // Until the holder is told, it is one that ends while it begins.
        let started = Instant::now();
        while !std::fs::read_to_string(of(pid, "stat")).unwrap().contains(") Z ") {
            assert!(started.elapsed() < Duration::from_secs(5), "{pid:?} stays");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    say_alone("true");
    for pid in ready(&world.base, number..=number) {
        kill_process(pid, Signal::STOP).unwrap();
        std::thread::scope(|scope| {
            let ends = scope.spawn(|| world.try_run(&world.shell("true")));
            // It has been handed over once there is another; and perhaps one that records.
            ready(&world.base, 2..=3);
            kill_process(pid, Signal::KILL).unwrap();
            let error = ends.join().unwrap().unwrap_err();
            assert!(matches!(error, SandboxError::Died { status: Status::Signal(9), .. }), "{error:?}");
        });
    }
    say_alone("true");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| say_alone("sleep 0.1"));
        }
    });
    // Only ever one.
    ready(&world.base, number..=number);
    let base = world.base.clone();
    drop(world);
    assert_eq!(working_in(&base), Vec::<PathBuf>::new());
}

fn of(pid: Pid, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero())).join(what)
}

/// Waits until there are so many children of the holder that works in this directory, and gives their ids. A process for
/// the next command is started when the command before is on its way.
fn ready(base: &Path, number: RangeInclusive<usize>) -> Vec<Pid> {
    let started = Instant::now();
    loop {
        let ids = |path: PathBuf| path.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
        let found: Vec<Pid> =
            working_in(base).into_iter().filter(|process| !is_child(process)).filter_map(ids).collect();
        if number.contains(&found.len()) {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{found:?} instead of {number:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process, by its directory in `/proc`, was started by this one.
fn is_child(process: &Path) -> bool {
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    status.lines().any(|line| line == format!("PPid:\t{}", std::process::id()))
}

/// The processes that work beneath this directory, by their directories in `/proc`.
fn working_in(place: &Path) -> Vec<PathBuf> {
    // As text, as what was deleted has a word more at its end.
    let place = place.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let works_there = |process: &PathBuf| {
        std::fs::read_link(process.join("cwd")).is_ok_and(|directory| directory.to_str().unwrap().starts_with(place))
    };
    processes.filter(works_there).collect()
}

/// Environment of a victim: the word by which its processes are known.
const TAG: &str = "RBUILD_SANDBOX_TEST_TAG";

/// A main process to be killed.
pub fn victim() -> ExitCode {
    let tag = std::env::var(TAG).unwrap();
    println!("started");
    let world = World::new(StorageDriver::Auto);
    // Now one is kept ready for the next command.
    assert_eq!([world.say("echo one"), world.say("echo two")].concat(), "one\ntwo\n");
    println!("ready");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let spec = world.shell(&(stubborn(&tag) + "sleep 1000"));
            let world = &world;
            scope.spawn(move || {
                world.sandbox.run(&spec, &Streams::captured(&|_, _| println!("running")), &Cancel::new())
            });
        }
    });
    ExitCode::SUCCESS
}

fn kill_main(world: &World) {
    let place = world.base.join("victims");
    std::fs::create_dir_all(&place).unwrap();
    // Any numbers that spread will do.
    let mut random = 12345_u64;
    let (mut worst, mut reached) = (Duration::ZERO, 0);
    for round in 0..50 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let tag = tag("kill");
        let mut child = Command::new("/proc/self/exe")
            .arg("--victim")
            .env("TMPDIR", &place)
            .env(TAG, &tag)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        // While the sandbox starts, while commands start, while they run.
        let wanted = ["started", "ready", "running"][round % 3];
        while said.next().is_some_and(|line| line.unwrap() != wanted) {}
        std::thread::sleep(Duration::from_micros((random >> 33) % 25_000));
        reached += usize::from(!processes(&tag).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        worst = worst.max(gone_within(&tag, Duration::from_secs(2)));
        holders_gone(&place);
    }
    assert!(reached > 10, "only {reached} were killed while commands ran");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(place.to_str().unwrap()), "{mounts}");
    println!("  50 kills, {reached} while commands ran, slowest disappearance {} ms", worst.as_millis());
}

/// Waits until no holder works beneath this directory. One that is killed while it writes ends when the disk lets it.
fn holders_gone(place: &Path) {
    let started = Instant::now();
    loop {
        let Some(left) = working_in(place).pop() else { return };
        if started.elapsed() > Duration::from_secs(20) {
            let told = std::fs::read_to_string(left.join("status")).unwrap_or_default();
            panic!("a holder is left: {}\n{told}", left.display());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn starting_thread(_: &World) {
    let world = std::thread::spawn(|| World::new(StorageDriver::Auto)).join().unwrap();
    // The parent-death signal of a holder started by that thread would come now.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(world.say("echo here"), "here\n");
}

fn probe_reports(world: &World) {
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let report = probe(None);
    assert_eq!(mounts(), before);
    if world.in_chroot() {
        assert!(matches!(report.rung, Rung::Chroot { .. }), "{report:?}");
        return;
    }
    if world.records() {
        assert_eq!(report.rung, Rung::SingleId);
        return;
    }
    assert!(matches!(report.rung, Rung::FullRange { ids } if ids >= 65536), "{report:?}");
    // Others are of this machine: an emulator, a tun device, control groups.
    let needed = ["user namespace", "range of ids", "mounts", "overlay", "a new /proc", "seccomp notification"];
    for subject in needed {
        let found = report.findings.iter().find(|finding| finding.subject == subject);
        assert!(found.is_some_and(|finding| finding.obstacle.is_none()), "{subject}: {report:?}");
    }
}

/// Prints how long starting a holder and running `true` take.
pub fn time() -> ExitCode {
    let median = |mut times: Vec<Duration>| {
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_micros();
        format!("median {} us, quarter {} us, p95 {} us, min {} us", at(50), at(25), at(95), at(0))
    };
    let directory = tempfile::tempdir().unwrap();
    let start = |_| {
        let started = Instant::now();
        let options = Options::new(directory.path().join("base"));
        let sandbox = Sandbox::start(options).unwrap();
        (started.elapsed(), drop(sandbox)).0
    };
    println!("holder: {}", median((0..30).map(start).collect()));
    let world = World::new(StorageDriver::Auto);
    for network in [Network::Host, Network::None] {
        let run = |_| {
            let spec = RunSpec { network: network.clone(), args: vec!["/bin/true".to_owned()], ..world.shell("") };
            let started = Instant::now();
            world.sandbox.run(&spec, &Streams::captured(&|_, _| {}), &Cancel::new()).unwrap();
            started.elapsed()
        };
        println!("RUN true, network {network:?}: {}", median((0..300).map(run).collect()));
    }
    let started = Instant::now();
    world.sandbox.worker("length", b"", vec![]).unwrap().wait().unwrap_err();
    println!("worker: {} us", started.elapsed().as_micros());
    ExitCode::SUCCESS
}
