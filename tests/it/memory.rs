//! Memory does not grow with files and images, and of a file in a large context only what its lists need is held.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bases::Base;
use crate::harness::{Files, Rbuild, finish};

/// What all processes of a build may have together, in bytes.
const MOST: u64 = 100_000_000;
/// More than that, so a file or blob that is held as a whole is noticed.
const LARGE: usize = 112 << 20;
/// Enough to fill every buffer.
const SMALL: usize = 16 << 20;
/// What buffers may differ by that are filled or not as threads happen to run.
const SLACK: u64 = 16 << 20;
/// Small files of 8 kB: together much more than [`SLACK`], and their lists much less.
const MANY: usize = 5_000;

/// The memory that a process and all that it started have had at most while they ran beside each other, as far as a look
/// every few milliseconds tells: the system keeps the peak of each process, so nothing is missed but what one reaches
/// after the last look. The program itself, of which all have the same pages, counts once.
fn memory_of(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children: Vec<String> = children.collect();
    let children = children.iter().flat_map(|list| list.split_whitespace()).flat_map(str::parse);
    let own = |child| memory_of(child).saturating_sub(bytes(child, "RssFile:"));
    bytes(process, "VmHWM:") + children.map(own).sum::<u64>()
}

/// A line of what the system says of a process; 0 where there is none any more.
fn bytes(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let found = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    found.map_or(0, |kib: u64| kib * 1024)
}

/// Builds and measures.
fn peak(rbuild: &Rbuild, context: &Files, arguments: &[&str]) -> u64 {
    let directory = context.directory.to_str().expect("paths of tests are UTF-8");
    // To give thousands of files away costs more than the build.
    let child = rbuild.start_as_owned([&["build", "--progress", "plain"], arguments, &[directory]].concat());
    let (process, has_ended) = (child.id(), AtomicBool::new(false));
    let peak = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !has_ended.load(Ordering::Relaxed) {
                peak = memory_of(process).max(peak);
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        finish(child).succeeded();
        has_ended.store(true, Ordering::Relaxed);
        watch.join().expect("measure")
    });
    let shown = format!("{} MB: {:?} {arguments:?}", peak / 1_000_000, context.directory.file_name());
    eprintln!("{shown}");
    assert!(peak > 4 << 20, "nothing was measured: {shown}");
    assert!(peak <= MOST, "{shown}");
    peak
}

/// Writes a file that no compression makes smaller and none has to search for long.
fn write_noise(path: &Path, size: usize) {
    let mut state = 11u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.rotate_left(23).to_le_bytes()
    };
    // Further apart than any compression looks back.
    let block: Vec<u8> = std::iter::repeat_with(&mut next).take(1 << 20).flatten().collect();
    let mut file = fs::File::create(path).expect("create a large file");
    for part in 0..size / block.len() {
        file.write_all(&[part as u8]).and_then(|()| file.write_all(&block[1..])).expect("write a large file");
    }
}

fn one_file(rbuild: &Rbuild, name: &str, dockerfile: &str, size: usize) -> Files {
    let context = rbuild.context(name).file("Dockerfile", dockerfile);
    write_noise(&context.directory.join("data"), size);
    rbuild.own_everything();
    context
}

fn many_files(rbuild: &Rbuild) -> Files {
    let context = rbuild.context("many").file("Dockerfile", "FROM scratch\nCOPY tree /tree\n");
    for number in 0..MANY {
        let directory = context.directory.join(format!("tree/directory{:03}", number / 500));
        if number % 500 == 0 {
            fs::create_dir_all(&directory).expect("create a directory");
        }
        let content = format!("{number:07}\n").repeat(1000);
        fs::write(directory.join(format!("file{number:05}.txt")), content).expect("write a file");
    }
    rbuild.own_everything();
    context
}

fn archive(rbuild: &Rbuild, compression: &str) -> String {
    format!("type=oci,compression={compression},dest={}", rbuild.path("out/image.tar").display())
}

for_each_user! {
    fn a_large_file_needs_no_more_memory_than_a_small_one(rbuild) {
        let dockerfile = "FROM scratch\nCOPY data /data\n";
        let [small, large] = [("small", SMALL), ("large", LARGE)].map(|(name, size)| one_file(&rbuild, name, dockerfile, size));
        for compression in ["gzip", "zstd"] {
            let output = archive(&rbuild, compression);
            let [few, much] = [&small, &large].map(|context| peak(&rbuild, context, &["-o", &output]));
            assert!(much <= few + SLACK, "{compression}: {much} bytes where a small file needs {few}");
        }
    }

    fn of_many_files_only_lists_are_held(rbuild) {
        let few = one_file(&rbuild, "few", "FROM scratch\nCOPY data /data\n", SMALL);
        let mut many = many_files(&rbuild);
        let output = archive(&rbuild, "gzip");
        let (output, store) = (["-o", &output], ["-t", "many:1"]);
        let most = peak(&rbuild, &few, &output) + SLACK;
        let cold = peak(&rbuild, &many, &output);
        assert!(cold <= most, "{cold} bytes of {most} that it may have");
        for to in [output, store] {
            many = many.file("tree/directory007/file03777.txt", format!("edited for {}\n", to[1]));
            let edited = peak(&rbuild, &many, &to);
            assert!(edited <= most, "{to:?}: {edited} bytes of {most} that it may have");
        }
    }

    fn a_large_layer_is_fetched_and_unpacked_in_the_memory_of_a_small_one(rbuild) {
        let (registry, base) = match Base::Busybox.in_registry() {
            Ok(made) => made,
            Err(reason) => skip!("{reason}"),
        };
        let root = rbuild.path("out/other");
        let peaks = [("small", SMALL), ("large", LARGE)].map(|(name, size)| {
            let image = registry.name(&format!("memory/{name}:1"));
            let context = one_file(&rbuild, name, &format!("FROM {base}\nCOPY data /data\n"), size);
            rbuild.build(&context, &["-t", &image, "--push"]).succeeded();
            let user = rbuild.context("user").file("Dockerfile", format!("FROM {image}\nRUN test -s /data\n"));
            rbuild.own_everything();
            peak(&rbuild, &user, &["--root", root.to_str().expect("UTF-8"), "-t", "user:1"])
        });
        let [few, much] = peaks;
        assert!(much <= few + SLACK, "{much} bytes where a small layer needs {few}");
    }
}
