//! Cases of testdata/build: a Dockerfile and a context, and the files, config and history of the image that must come out.
//!
//! A case is a text: first what it shows, then sections that begin with `=== name`:
//! * `Dockerfile`; `BASE` is given as a build argument and names an image of busybox;
//! * `context` (one entry per line, see [`write_entry`]; a line that begins with `|` belongs to the entry above it);
//! * `flags` (one argument of `rbuild build` per line);
//! * `expect`: what [`describe`] prints, written by `UPDATE=1`; or `fails`: the exit code, then words that stderr must hold;
//! * `buildkit`, where BuildKit does something else on purpose of ours: what, and why we do not.
//!
//! With `RBUILD_TEST_PEER` set, the program under test is BuildKit (see tests/buildkit-for-rbuild): it must make the same
//! images and fail where we fail, in words of its own, but for the cases that say `buildkit`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bases::Base;
use crate::harness::{Files, Rbuild, source_directory};
use crate::image::{Image, describe_changes};

/// The name under which the cases find their base.
const BASE: &str = "localhost/base:1";

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
    let mut wrong = String::new();
    let cases = read_cases(&source_directory().join("testdata/build"));
    assert!(!cases.is_empty(), "there are no cases");
    for case in cases.iter().filter(|case| case.path.to_string_lossy().contains(&only)) {
        if let Err(message) = case.judge(rbuild, &base) {
            writeln!(wrong, "=== {}\n{message}", case.path.display()).expect("write to a string");
        }
    }
    assert!(wrong.is_empty(), "cases that went wrong:\n{wrong}");
    Ok(())
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
            let known = ["title", "Dockerfile", "context", "flags", "expect", "fails", "buildkit"];
            assert!(known.contains(&name.as_str()), "{}: unknown section {name}", path.display());
        }
        Case { path, sections }
    }

    fn section(&self, name: &str) -> &str {
        self.sections.get(name).map_or("", String::as_str)
    }

    /// Runs the case; for BuildKit, right is what differs where the case says so.
    fn judge(&self, rbuild: &Rbuild, base: &Image) -> Result<(), String> {
        let result = self.run(rbuild, base);
        match (is_peer() && self.sections.contains_key("buildkit"), result) {
            (true, Ok(())) => Err("BuildKit does the same, but the case says that it differs".to_owned()),
            (true, Err(_)) => Ok(()),
            (false, result) => result,
        }
    }

    fn run(&self, rbuild: &Rbuild, base: &Image) -> Result<(), String> {
        let name = self.path.file_stem().expect("a case has a name").to_str().expect("names are UTF-8");
        let mut context = rbuild.context(name);
        for entry in entries(self.section("context")) {
            context = write_entry(context, &entry);
        }
        let files = rbuild.context(&format!("{name}.dockerfile")).file("Dockerfile", self.section("Dockerfile"));
        let file = files.directory.join("Dockerfile");
        let archive = rbuild.path(format!("out/{name}.tar"));
        let output = format!("type=oci,dest={}", archive.display());
        let base_argument = format!("BASE={BASE}");
        let mut arguments =
            vec!["-f", file.to_str().expect("paths are UTF-8"), "-o", &output, "--build-arg", &base_argument];
        arguments.extend(self.section("flags").lines());
        let run = rbuild.build(&context, &arguments);
        if let Some(wanted) = self.sections.get("fails") {
            return check_failure(wanted, run.code, &run.stderr);
        }
        if run.code != Some(0) {
            return Err(format!("the build failed ({:?}):\n{}", run.code, run.stderr));
        }
        let image = Image::read(&archive);
        if image.id != run.image_id() {
            return Err(format!("stdout says {} but the image is {}", run.image_id(), image.id));
        }
        let above = if self.section("Dockerfile").contains("${BASE}\n") { Some(base) } else { None };
        let found = describe(&image, above);
        if is_peer() {
            return self.compare(&without_mount_points(&found));
        }
        self.compare(&found)
    }

    fn compare(&self, found: &str) -> Result<(), String> {
        let expected = self.section("expect");
        if found == expected {
            return Ok(());
        }
        if std::env::var_os("UPDATE").is_some() && !is_peer() {
            let text = fs::read_to_string(&self.path).expect("read a case");
            let head = text.split("=== expect\n").next().expect("a split has a first part");
            fs::write(&self.path, format!("{head}=== expect\n{found}")).expect("write a case");
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

/// What an image adds to its base (or to nothing): files, the config that differs, history.
fn describe(image: &Image, base: Option<&Image>) -> String {
    let mut text = describe_changes(&base.map(Image::files).unwrap_or_default(), &image.files());
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

/// An entry of a context: its line, and the text of the lines with `|` under it.
struct Written {
    line: String,
    text: String,
}

fn entries(section: &str) -> Vec<Written> {
    let mut entries: Vec<Written> = Vec::new();
    for line in section.lines().filter(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix('|') {
            let entry = entries.last_mut().expect("a text belongs to an entry");
            entry.text.push_str(text.strip_prefix(' ').unwrap_or(text));
            entry.text.push('\n');
        } else {
            entries.push(Written { line: line.to_owned(), text: String::new() });
        }
    }
    entries
}

/// Writes an entry: `file PATH MODE`, `dir PATH MODE`, `link PATH TARGET`, `hard PATH EXISTING`, or
/// `tar PATH COMPRESSION` whose text is again entries, each with `UID:GID` after the mode. `\s` is a space in a name.
fn write_entry(files: Files, entry: &Written) -> Files {
    let words: Vec<String> = entry.line.split(' ').map(|word| word.replace("\\s", " ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mode = || u32::from_str_radix(words[2], 8).unwrap_or_else(|_| panic!("not a mode: {}", entry.line));
    match words[0] {
        "file" => files.file(words[1], &entry.text).mode(words[1], mode()),
        "dir" => files.directory(words[1]).mode(words[1], mode()),
        "link" => files.link(words[1], words[2]),
        "hard" => files.hard_link(words[1], words[2]),
        "tar" => files.file(words[1], compress(&archive(&entry.text), words[2])),
        _ => panic!("not an entry: {}", entry.line),
    }
}

fn archive(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let mut header = tar::Header::new_gnu();
        let (uid, gid) = words[3].split_once(':').expect("an owner is UID:GID");
        header.set_mode(u32::from_str_radix(words[2], 8).expect("a mode is octal"));
        header.set_uid(uid.parse().expect("a uid is a number"));
        header.set_gid(gid.parse().expect("a gid is a number"));
        header.set_mtime(1_000_000_000);
        let rest = words[4..].join(" ");
        match words[0] {
            "file" => {
                header.set_size(rest.len() as u64);
                builder.append_data(&mut header, words[1], rest.as_bytes())
            }
            "dir" => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, words[1], &b""[..])
            }
            "link" => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, words[1], &rest)
            }
            "hard" => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                builder.append_link(&mut header, words[1], &rest)
            }
            _ => panic!("not an entry of an archive: {line}"),
        }
        .expect("write an archive");
    }
    builder.into_inner().expect("finish an archive")
}

fn compress(bytes: &[u8], compression: &str) -> Vec<u8> {
    match compression {
        "none" => bytes.to_vec(),
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("compress");
            encoder.finish().expect("compress")
        }
        "bzip2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).expect("compress");
            encoder.finish().expect("compress")
        }
        "xz" => {
            let mut encoder =
                lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).expect("compress");
            encoder.write_all(bytes).expect("compress");
            encoder.finish().expect("compress")
        }
        "zstd" => zstd::encode_all(bytes, 1).expect("compress"),
        _ => panic!("unknown compression {compression}"),
    }
}
