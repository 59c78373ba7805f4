//! Cases of testdata/build: a Dockerfile and a context, and the files, config and history of the image that must come out.
//!
//! A case is a text: first what it shows, then sections that begin with `=== name`:
//! * `before`: a Dockerfile whose image is built first, from the same context; its name is the build argument `BEFORE`;
//! * `Dockerfile`; the build argument `BASE` names an image of busybox;
//! * `context` (one entry per line, see [`write_entry`]; a line that begins with `|` belongs to the entry above it);
//! * `files`, written likewise, for what the flags name: `{files}` in a flag is the directory that they are in;
//! * `flags` (one argument of `rbuild build` per line);
//! * `times`: paths in the image of which the expectation holds the time of the last change;
//! * `says`: words that stderr must hold although the build works;
//! * `expect`: what [`describe`] prints, written by `UPDATE=1`; or `fails`: the exit code, then words that stderr must hold;
//! * `single-id`: lines that stand in the place of those of `expect` for the same file where rbuild has one id only, and what
//!   users of the image may do is emulated (see README.md);
//! * `buildkit`, where BuildKit does something else on purpose of ours: what, and why we do not.
//!
//! With `RBUILD_TEST_PEER` set, the program under test is BuildKit (see tests/buildkit-for-rbuild): it must make the same
//! images and fail where we fail, in words of its own, but for the cases that say `buildkit`.
//!
//! All cases of one user share a store and run at once, so what they build must not depend on another case; the ids of
//! their cache mounts are their own.

mod entries;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use self::entries::{entries, write_entry};
use crate::bases::Base;
use crate::harness::{Files, Rbuild, Run, User, finish, source_directory};
use crate::image::{Image, describe_changes};

/// The name under which the cases find their base.
const BASE: &str = "localhost/base:1";

/// What a case may consist of.
const SECTIONS: [&str; 12] = [
    "title",
    "before",
    "Dockerfile",
    "context",
    "files",
    "flags",
    "times",
    "says",
    "single-id",
    "buildkit",
    "expect",
    "fails",
];

/// One text.
struct Case {
    path: PathBuf,
    sections: BTreeMap<String, String>,
}

/// Runs every case as one user; the message of the panic holds all that differ.
pub fn run(rbuild: &Rbuild) -> Result<(), String> {
    let rootfs = Base::Busybox.rootfs()?;
    let context = rbuild.example("base");
    fs::copy(rootfs, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
    let base_archive = rbuild.path("out/base.tar");
    let output = format!("type=oci,dest={}", base_archive.display());
    rbuild.build(&context, &["-t", BASE, "-o", &output]).succeeded();
    rbuild.build(&context, &["-t", BASE]).succeeded();
    let base = Image::read(&base_archive);
    let only = std::env::var("CASE").unwrap_or_default();
    let mut cases = read_cases(&source_directory().join("testdata/build"));
    cases.retain(|case| case.path.to_string_lossy().contains(&only));
    assert!(!cases.is_empty(), "there are no cases");
    let wrong = run_at_once(&cases, rbuild, &base);
    assert!(wrong.is_empty(), "cases that went wrong:\n{}", wrong.into_values().collect::<String>());
    Ok(())
}

/// Runs cases, as many at a time as there are processors, and gives what is wrong with each that went wrong.
fn run_at_once(cases: &[Case], rbuild: &Rbuild, base: &Image) -> BTreeMap<usize, String> {
    let written: Vec<Written> = cases.iter().map(|case| case.write(rbuild)).collect();
    rbuild.own_everything();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((case, written)) = cases.get(at).zip(written.get(at)) else { return };
            if let Err(message) = case.judge(written, rbuild, base) {
                let message = format!("=== {}\n{message}\n", case.path.display());
                wrong.lock().expect("no case panics with the lock").insert(at, message);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    wrong.into_inner().expect("no case panics with the lock")
}

fn read_cases(directory: &Path) -> Vec<Case> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("read {}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("read an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths.into_iter().map(Case::read).collect()
}

impl Case {
    fn read(path: PathBuf) -> Case {
        let text = fs::read_to_string(&path).expect("read a case");
        let mut sections = BTreeMap::new();
        let mut name = String::from("title");
        for line in text.lines() {
            if let Some(next) = line.strip_prefix("=== ") {
                name = next.to_owned();
                let double = sections.insert(name.clone(), String::new());
                assert!(double.is_none(), "{} has two sections {name}", path.display());
            } else {
                let section = sections.entry(name.clone()).or_default();
                section.push_str(line);
                section.push('\n');
            }
        }
        for name in sections.keys() {
            assert!(SECTIONS.contains(&name.as_str()), "{}: unknown section {name}", path.display());
        }
        Case { path, sections }
    }

    fn section(&self, name: &str) -> &str {
        self.sections.get(name).map_or("", String::as_str)
    }

    fn name(&self) -> &str {
        self.path.file_stem().and_then(|name| name.to_str()).expect("a case has a name in UTF-8")
    }

    /// Writes what the case is made of. Before the first case runs: the harness changes the owners of all that is there.
    fn write(&self, rbuild: &Rbuild) -> Written {
        let fill = |kind: &str, section: &str| {
            let files = rbuild.context(&format!("{}{kind}", self.name()));
            entries(self.section(section)).iter().fold(files, write_entry)
        };
        let dockerfiles = rbuild.context(&format!("{}.dockerfile", self.name()));
        let dockerfiles = dockerfiles.file("Dockerfile", self.section("Dockerfile"));
        Written {
            context: fill("", "context"),
            files: fill(".files", "files"),
            dockerfiles: dockerfiles.file("before", self.section("before")),
        }
    }

    /// Runs the case; for BuildKit, right is what differs where the case says so.
    fn judge(&self, written: &Written, rbuild: &Rbuild, base: &Image) -> Result<(), String> {
        let result = self.run(written, rbuild, base);
        match (is_peer() && self.sections.contains_key("buildkit"), result) {
            (true, Ok(())) => Err("BuildKit does the same, but the case says that it differs".to_owned()),
            (true, Err(_)) => Ok(()),
            (false, result) => result,
        }
    }

    fn run(&self, written: &Written, rbuild: &Rbuild, base: &Image) -> Result<(), String> {
        let archive = rbuild.path(format!("out/{}.tar", self.name()));
        let mut arguments = vec!["-o".to_owned(), format!("type=oci,dest={}", archive.display())];
        if self.sections.contains_key("before") {
            let before = format!("localhost/before-{}:1", self.name());
            arguments.extend(["--build-arg".to_owned(), format!("BEFORE={before}")]);
            let run = self.build(written, rbuild, "before", &["-t".to_owned(), before]);
            if run.code != Some(0) {
                return Err(format!("the build of what is before failed ({:?}):\n{}", run.code, run.stderr));
            }
        }
        let files = written.files.directory.to_str().expect("paths are UTF-8");
        arguments.extend(self.section("flags").lines().map(|flag| flag.replace("{files}", files)));
        let run = self.build(written, rbuild, "Dockerfile", &arguments);
        if let Some(wanted) = self.sections.get("fails") {
            return check_failure(wanted, run.code, &run.stderr);
        }
        if run.code != Some(0) {
            return Err(format!("the build failed ({:?}):\n{}", run.code, run.stderr));
        }
        let mut says = self.section("says").lines().filter(|_| !is_peer());
        if let Some(words) = says.find(|words| !run.stderr.contains(words)) {
            return Err(format!("missing {words:?} in:\n{}", run.stderr));
        }
        let image = Image::read(&archive);
        if image.id != run.image_id() {
            return Err(format!("stdout says {} but the image is {}", run.image_id(), image.id));
        }
        let on_base = image.diff_ids().starts_with(&base.diff_ids());
        let found = describe(&image, on_base.then_some(base), self.section("times"));
        if is_peer() {
            return compare(&without_mount_points(&found), self.section("expect"));
        }
        if rbuild.user == User::NoSubuid {
            return compare(&found, &self.with_a_single_id());
        }
        if std::env::var_os("UPDATE").is_some() && found != self.section("expect") {
            self.update(&found);
            return Ok(());
        }
        compare(&found, self.section("expect"))
    }

    /// The expectation of a user who has no other id.
    fn with_a_single_id(&self) -> String {
        let subject = |line: &str| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        let others: BTreeMap<String, &str> =
            self.section("single-id").lines().map(|line| (subject(line), line)).collect();
        let lines = self.section("expect").lines().map(|line| *others.get(&subject(line)).unwrap_or(&line));
        lines.map(|line| format!("{line}\n")).collect()
    }

    fn build(&self, written: &Written, rbuild: &Rbuild, dockerfile: &str, arguments: &[String]) -> Run {
        let file = written.dockerfiles.directory.join(dockerfile);
        let mut all = vec!["build".to_owned(), "--progress=plain".to_owned(), "-f".to_owned()];
        all.push(file.to_str().expect("paths are UTF-8").to_owned());
        for argument in [format!("BASE={BASE}"), format!("BUILDKIT_CACHE_MOUNT_NS={}", self.name())] {
            all.extend(["--build-arg".to_owned(), argument]);
        }
        all.extend_from_slice(arguments);
        all.push(written.context.directory.to_str().expect("paths are UTF-8").to_owned());
        finish(rbuild.start_as_owned(all))
    }

    fn update(&self, found: &str) {
        let text = fs::read_to_string(&self.path).expect("read a case");
        let head = text.split("=== expect\n").next().expect("a split has a first part");
        fs::write(&self.path, format!("{head}=== expect\n{found}")).expect("write a case");
    }
}

fn compare(found: &str, expected: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let mut message = String::new();
    let (expected_lines, found_lines): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    for line in expected_lines.iter().filter(|line| !found_lines.contains(line)) {
        writeln!(message, "- {line}").expect("write to a string");
    }
    for line in found_lines.iter().filter(|line| !expected_lines.contains(line)) {
        writeln!(message, "+ {line}").expect("write to a string");
    }
    if message.is_empty() {
        message = format!("the order differs:\n{found}");
    }
    Err(message)
}

/// Where a case lies.
struct Written {
    context: Files,
    files: Files,
    dockerfiles: Files,
}

/// Whether BuildKit stands in the place of rbuild.
fn is_peer() -> bool {
    std::env::var_os("RBUILD_TEST_PEER").is_some()
}

fn check_failure(wanted: &str, code: Option<i32>, stderr: &str) -> Result<(), String> {
    let mut lines = wanted.lines();
    let exit: i32 =
        lines.next().and_then(|line| line.parse().ok()).expect("the first line of `fails` is the exit code");
    if is_peer() && code != Some(0) {
        return Ok(());
    }
    if code != Some(exit) {
        return Err(format!("exit code {code:?} instead of {exit}:\n{stderr}"));
    }
    match lines.find(|words| !stderr.contains(words)) {
        Some(words) => Err(format!("missing {words:?} in:\n{stderr}")),
        None => Ok(()),
    }
}

/// A listing without the mount points that BuildKit makes where a base has none; a real base has them.
fn without_mount_points(listing: &str) -> String {
    let made = ["dir /dev 0755 0:0", "dir /proc 0755 0:0", "dir /sys 0755 0:0"];
    listing.split_inclusive('\n').filter(|line| !made.contains(&line.trim_end())).collect()
}

/// What an image adds to its base (or to nothing): files, the times that are asked for, the config that differs, history.
fn describe(image: &Image, base: Option<&Image>, times: &str) -> String {
    let mut text = describe_changes(&base.map(Image::files).unwrap_or_default(), &image.files());
    let files = image.files();
    for path in times.lines() {
        let entry = files.get(path).unwrap_or_else(|| panic!("the image has no {path}"));
        writeln!(text, "time {path} {}", entry.modified).expect("write to a string");
    }
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let nothing = json!({ "Env": [path], "WorkingDir": "/" });
    let before = base.map_or(&nothing, |base| &base.config["config"]);
    let after = &image.config["config"];
    let (before, after) = (object(before), object(after));
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        writeln!(text, "config {key} is gone").expect("write to a string");
    }
    for (key, value) in &after {
        if before.get(key) != Some(value) {
            writeln!(text, "config {key} = {value}").expect("write to a string");
        }
    }
    if let Some(author) = image.config.get("author") {
        writeln!(text, "author {author}").expect("write to a string");
    }
    for line in image.history().iter().skip(base.map_or(0, |base| base.history().len())) {
        writeln!(text, "history {}", line.replace('\n', "\\n")).expect("write to a string");
    }
    text
}

/// The set values of an object; a key with null means the same as no key.
fn object(value: &Value) -> BTreeMap<String, Value> {
    let entries = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}
