//! What holds for every input: one function for each thing that reads text from outside. Each panics if it does not hold.
//!
//! `targets/` hands them to libFuzzer, and `tests/properties` runs them over generated input and over the seeds.

mod naive;
mod print;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use rbuild::context::ignore::IgnoreRules;
use rbuild::diagnostic::{Color, Source, Span};
use rbuild::dockerfile::ast::{Dockerfile, Instruction, Operation};
use rbuild::dockerfile::{self, lint, mount};
use rbuild::image::config::ImageConfig;
use rbuild::image::reference::Reference;
use rbuild::plan::{BaseKey, Options, needs, plan};
use rbuild::sbom::{self, Files, Subject, SubjectKind};
use rbuild::tree::{Kind, Node, Time};

/// The config of every base image; its triggers and variables are part of what is planned.
const BASE: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","V=1"],"OnBuild":["RUN $V"]},
    "rootfs":{"type":"layers","diff_ids":[]}}"#;

/// Every message points into the file; what was parsed can be printed and parsed to the same; a plan is in order.
pub fn dockerfile(data: &[u8]) {
    let source = Source::new("Dockerfile", String::from_utf8_lossy(data));
    let parsed = dockerfile::parse(&source);
    let is_inside = |span: Span| source.text.get(span.start..span.end).is_some();
    assert!(parsed.diagnostics.iter().all(|found| is_inside(found.span)), "{:?}", parsed.diagnostics);
    parsed.diagnostics.iter().take(3).for_each(|found| drop(source.render(found, Color::Never)));
    lint::filter(parsed.diagnostics, &lint::CheckOptions::default());
    is_kept_by_printing(&source.text, &parsed.dockerfile);
    is_planned(&parsed.dockerfile);
}

fn is_kept_by_printing(text: &str, dockerfile: &Dockerfile) {
    // What quotes in a flag do to the here-documents of the same line is in no tree.
    if text.contains("<<") && text.contains("--") && text.contains(['\'', '"', '$']) {
        return;
    }
    let Some(printed) = print::print(dockerfile) else { return };
    // Continuations are joined, and BuildKit reads no line of 64 KiB.
    if printed.lines().any(|line| line.len() > 65_000) {
        return;
    }
    let again = dockerfile::parse(&Source::new("Dockerfile", printed.as_str())).dockerfile;
    assert_eq!(content(dockerfile), content(&again), "printed as:\n{printed}");
}

/// All that is in a tree but places and the text of lines, which printing changes.
fn content(dockerfile: &Dockerfile) -> String {
    let mut dockerfile = dockerfile.clone();
    dockerfile.global_args.iter_mut().for_each(forget_line);
    dockerfile.stages.iter_mut().flat_map(|stage| &mut stage.instructions).for_each(forget_line);
    // The derived form, so that no field can be forgotten here.
    let shown = format!("{dockerfile:?}");
    let mut parts = shown.split("Span { start: ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |content, part| content + part.split_once('}').map_or(part, |(_, rest)| rest))
}

fn forget_line(instruction: &mut Instruction) {
    instruction.original.clear();
    if let Operation::Onbuild(inner) = &mut instruction.operation {
        forget_line(inner);
    }
}

/// A plan holds the config of every step, and working directories that grow with each: no more steps than a person writes.
const MOST_PLANNED: usize = 300;

/// Plans as a build does, round by round, where every image that is asked for is there.
fn is_planned(dockerfile: &Dockerfile) {
    if dockerfile.stages.iter().map(|stage| stage.instructions.len()).sum::<usize>() > MOST_PLANNED {
        return;
    }
    let Ok(build_platform) = "linux/amd64".parse() else { return };
    let options = Options { build_platform, ..Options::default() };
    let mut bases: BTreeMap<BaseKey, ImageConfig> = BTreeMap::new();
    for _ in 0..10 {
        match needs::needs(dockerfile, &options, &bases) {
            Ok(missing) if !missing.is_empty() => {
                let config = ImageConfig::parse(BASE.as_bytes()).expect("the config is valid");
                bases.extend(missing.into_iter().map(|(key, _)| (key, config.clone())));
            }
            _ => break,
        }
    }
    let Ok(plan) = plan(dockerfile, &options, &bases) else { return };
    for (at, step) in plan.steps.iter().enumerate() {
        assert_eq!(step.id.index(), at);
        assert!(step.inputs.iter().all(|input| input.index() < at), "step {at} comes before what it waits for");
    }
}

/// What is asked of each directory above a path looks at all directories above that one.
const LONGEST_PATH: usize = 250;

/// The verdict on a path is that of a walk, of a second implementation, and never lost by passing over a directory. The
/// paths follow the rules behind a zero byte, one a line.
pub fn ignore_file(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, paths) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(rules) = IgnoreRules::parse(text) else { return };
    let lines = std::str::from_utf8(text).ok().map(str::lines);
    let simple: Option<Vec<&str>> = lines.and_then(|lines| lines.map(|line| is_simple(line).then_some(line)).collect());
    for path in paths.split(|byte| *byte == b'\n').filter(|path| is_path(path) && path.len() <= LONGEST_PATH).take(100)
    {
        let excluded = rules.excludes(path);
        assert_eq!(excluded, walked(&rules, path), "a walk has another verdict on {:?}", path.escape_ascii());
        if !excluded {
            let mut above = (0..path.len()).filter(|at| path[*at] == b'/').map(|at| &path[..at]);
            assert!(above.all(|directory| rules.may_descend(directory)), "{:?} is lost", path.escape_ascii());
        }
        // The second implementation tries every way, so it is for short ones.
        if let (Some(lines), Ok(path)) = (&simple, std::str::from_utf8(path))
            && text.len() <= 120
            && path.is_ascii()
            && path.len() <= 30
        {
            assert_eq!(excluded, naive::excludes(lines, path), "{lines:?} {path:?}");
        }
    }
}

/// Whether a line is what the second implementation knows.
fn is_simple(line: &str) -> bool {
    let pattern = line.strip_prefix('!').unwrap_or(line);
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"*?./".contains(&byte);
    pattern.bytes().all(is_known)
        && pattern.matches('*').count() <= 8
        && pattern.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether bytes are a path as a walk gives it: relative and clean.
fn is_path(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// The verdict of the scopes, entered directory by directory.
fn walked(rules: &IgnoreRules, path: &[u8]) -> bool {
    let mut scope = rules.scope(b"");
    for at in (0..path.len()).filter(|at| path[*at] == b'/') {
        scope = scope.enter(&path[..at]);
    }
    scope.excludes(path)
}

/// A reference means the same in each of the forms that it is shown in.
pub fn reference(data: &[u8]) {
    let Ok(reference) = String::from_utf8_lossy(data).parse::<Reference>() else { return };
    let full = |text: &str| text.parse::<Reference>().map(|reference| reference.to_string());
    for shown in [reference.to_string(), reference.familiar()] {
        assert_eq!(full(&shown), Ok(reference.to_string()), "{shown}");
    }
    let tagged = reference.with_default_tag();
    assert_eq!(tagged.version(), reference.version());
    // What has a registry is nothing that registries.conf has to complete.
    let parsed: Reference = tagged.to_string().parse().expect("the full form is a reference");
    assert_eq!((parsed.to_string(), parsed.short_name()), (tagged.to_string(), None));
}

/// `--mount=` reads the same from either end, as long as no option is given twice; and nothing in it harms a RUN.
pub fn mount(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    dockerfile(format!("FROM scratch\nRUN --mount={text} x").as_bytes());
    let split = |field: &str| match field.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (field.to_owned(), None),
    };
    let mut fields: Vec<(String, Option<String>)> = text.split(',').map(split).collect();
    let forwards = mount::parse(&fields);
    let mut names: Vec<String> = fields.iter().map(|(key, _)| option_name(key)).collect();
    names.sort();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return;
    }
    fields.reverse();
    let backwards = mount::parse(&fields);
    assert_eq!(forwards.is_ok(), backwards.is_ok(), "{forwards:?} {backwards:?}");
    if let (Ok(forwards), Ok(backwards)) = (forwards, backwards) {
        assert_eq!(forwards, backwards);
    }
}

/// Where the readers of packages look, by the letter that the input begins with.
const PLACES: [&str; 10] = [
    "etc/os-release",
    "var/lib/dpkg/status",
    "lib/apk/db/installed",
    "var/lib/rpm/rpmdb.sqlite",
    "app/node_modules/a/package.json",
    "app/package-lock.json",
    "usr/lib/python3/dist-packages/a.dist-info/METADATA",
    "app/Cargo.lock",
    "usr/bin/program",
    "usr/lib/liba.so.1",
];

/// Whatever a file says is installed, what is listed has sound names, is all in the document, and is the
/// same each time.
pub fn sbom(data: &[u8]) {
    let Some((letter, content)) = data.split_first() else { return };
    let file = Single { path: PLACES[usize::from(letter.wrapping_sub(b'a')) % PLACES.len()].as_bytes(), content };
    let subject = Subject { name: "fuzzed".to_owned(), kind: SubjectKind::Directory, created: 0 };
    let document = sbom::scan(&file, &subject).expect("a file in memory can be read");
    let packages = document.packages();
    let is_sound = |text: &str| text.len() <= 1024 && !text.contains(|character: char| character.is_control());
    assert!(packages.iter().all(|package| !package.name.is_empty() && is_sound(&package.name)), "{packages:?}");
    assert!(packages.iter().all(|package| is_sound(&package.version)), "{packages:?}");
    assert!(document.notices().iter().all(|notice| !notice.text.contains('\n')), "{:?}", document.notices());
    let bytes = document.to_bytes();
    assert!(document.to_value()["packages"].as_array().is_some_and(|listed| listed.len() >= packages.len()));
    let again = sbom::scan(&file, &subject).expect("a file in memory can be read");
    assert!(document == again && bytes == again.to_bytes(), "the same file gives another document");
}

/// A tree of one file.
struct Single<'a> {
    path: &'a [u8],
    content: &'a [u8],
}

impl Files for Single<'_> {
    fn list(&self, visit: &mut dyn FnMut(&[u8], &Node)) -> io::Result<()> {
        let kind = Kind::File { size: self.content.len() as u64, digest: None };
        visit(self.path, &Node { kind, ..Node::directory(Time::default()) });
        Ok(())
    }

    fn read(
        &self,
        paths: &BTreeSet<Vec<u8>>,
        visit: &mut (dyn FnMut(&[u8], &mut dyn Read) -> io::Result<()> + '_),
    ) -> io::Result<()> {
        match paths.contains(self.path) {
            true => visit(self.path, &mut &*self.content),
            false => Ok(()),
        }
    }
}

/// One name for each option that has several.
fn option_name(key: &str) -> String {
    let name = key.to_lowercase();
    match name.as_str() {
        "src" => "source",
        "dst" | "destination" => "target",
        "ro" | "rw" | "readwrite" => "readonly",
        name => name,
    }
    .to_owned()
}
