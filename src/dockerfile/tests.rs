//! The corpora under `testdata/dockerfile`, and what holds for every input.
//!
//! A corpus file holds cases: `=== name`, the source, `---`, what it is parsed to. `UPDATE=1` writes what is found into
//! the files; read the difference before you commit it. Marks in brackets after a name change the source first: `[crlf]`
//! ends its lines as Windows does, `[bom]` puts a byte order mark in front, `[no newline]` drops the last line end,
//! `[trigger]` parses it as one instruction.

use super::ast::{Command, Instruction, Operation, TransferSource, Word};
use super::{Parsed, dump, parse, parse_instruction};
use crate::diagnostic::{Color, Diagnostic, Severity, Source, Span};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

struct Case {
    name: String,
    source: String,
    expected: String,
}

fn cases(text: &str) -> Vec<Case> {
    let sections = text.split_inclusive('\n').fold(Vec::<Case>::new(), |mut cases, line| {
        match (line.strip_prefix("=== "), cases.last_mut()) {
            (Some(name), _) => {
                cases.push(Case { name: name.trim_end().to_owned(), source: String::new(), expected: String::new() });
            }
            (None, Some(case)) => case.source.push_str(line),
            (None, None) => panic!("a corpus starts with a case, not with {line:?}"),
        }
        cases
    });
    let split = |mut case: Case| {
        let (source, expected) = case.source.split_once("---\n").unwrap_or((case.source.as_str(), ""));
        let expected = expected.trim_end().to_owned();
        case.source = source.to_owned();
        Case { expected, ..case }
    };
    sections.into_iter().map(split).collect()
}

fn prepared(case: &Case) -> String {
    let mut source = case.source.clone();
    if case.name.contains("[no newline]") {
        source.pop();
    }
    if case.name.contains("[crlf]") {
        source = source.replace('\n', "\r\n");
    }
    if case.name.contains("[bom]") {
        source.insert(0, '\u{feff}');
    }
    source
}

fn outcome(case: &Case) -> String {
    let mut source = Source::new("Dockerfile", prepared(case));
    if case.name.contains("[latin1]") {
        let bytes: Vec<u8> =
            source.text.chars().map(|letter| u8::try_from(letter).expect("a letter of Latin-1")).collect();
        source = Source::from_bytes("Dockerfile", &bytes);
    }
    if !case.name.contains("[trigger]") {
        let parsed = parse(&source);
        check_spans(&parsed, &source.text);
        return dump::dump(&parsed, &source);
    }
    let (instruction, diagnostics) = parse_instruction(&source.text, '\\');
    let shown = instruction.iter().map(|instruction| dump::instruction(instruction, &source));
    let lines = shown.chain(diagnostics.iter().map(|found| dump::diagnostic(found, &source)));
    lines.map(|line| line + "\n").collect()
}

/// Compares a corpus file with what its sources are parsed to.
fn check(path: &Path) {
    let text = std::fs::read_to_string(path).expect("the corpus can be read");
    let cases = cases(&text);
    let mut updated = String::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let found = outcome(case);
        if found.trim_end() != case.expected {
            wrong.push(format!("{}\n--- expected\n{}\n--- found\n{found}", case.name, case.expected));
        }
        updated.push_str(&format!("=== {}\n{}---\n{}\n", case.name, case.source, found));
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, updated.trim_end().to_owned() + "\n").expect("the corpus can be written");
        return;
    }
    assert!(wrong.is_empty(), "{}: {} of {} cases\n{}", path.display(), wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_corpora_are_parsed_as_they_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfile");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the corpora are there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 6, "corpora are missing: {files:?}");
    files.iter().for_each(|path| check(path));
}

fn operation_words(operation: &Operation) -> Vec<&Word> {
    match operation {
        Operation::Workdir(word) | Operation::User(word) | Operation::Stopsignal(word) => vec![word],
        Operation::Maintainer(word) => vec![word],
        Operation::Env(pairs) | Operation::Label(pairs) => {
            pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).collect()
        }
        Operation::Arg(declarations) => {
            declarations.iter().flat_map(|found| std::iter::once(&found.name).chain(&found.default)).collect()
        }
        Operation::Expose(words) => words.iter().collect(),
        Operation::Run(run) => match &run.command {
            Command::Shell(word) => vec![word],
            Command::Exec(_) => Vec::new(),
        },
        Operation::Onbuild(inner) => operation_words(&inner.operation),
        Operation::Copy(transfer) | Operation::Add(transfer) => {
            let paths = transfer.sources.iter().filter_map(|source| match source {
                TransferSource::Path(word) => Some(word),
                TransferSource::Heredoc(_) => None,
            });
            paths.chain([&transfer.destination]).filter(|word| !word.value.contains(['[', '"'])).collect()
        }
        _ => Vec::new(),
    }
}

/// Words that stand on one line must be, letter by letter, what their span shows; every span must lie in the source.
fn check_spans(parsed: &Parsed, source: &str) {
    let inside = |span: Span| assert!(source.get(span.start..span.end).is_some(), "{span:?} of {source:?}");
    parsed.diagnostics.iter().for_each(|found| inside(found.span));
    let stages = &parsed.dockerfile.stages;
    let instructions: Vec<&Instruction> =
        parsed.dockerfile.global_args.iter().chain(stages.iter().flat_map(|stage| &stage.instructions)).collect();
    for instruction in instructions {
        inside(instruction.span);
        for word in operation_words(&instruction.operation).into_iter().chain([&instruction.keyword]) {
            inside(word.span);
            let shown = &source[word.span.start..word.span.end];
            let json = shown.starts_with('"') && !word.value.starts_with('"');
            if !shown.contains('\n') && !json {
                assert_eq!(shown, word.value, "{source:?}");
            }
        }
    }
}

fn errors(source: &str) -> Vec<String> {
    let source = Source::new("Dockerfile", source);
    let is_error = |found: &&Diagnostic| found.severity == Severity::Error;
    parse(&source).diagnostics.iter().filter(is_error).map(|found| dump::diagnostic(found, &source)).collect()
}

#[test]
fn an_error_is_drawn_at_its_own_line() {
    let source = Source::new("Dockerfile", "FROM a\n\n\n# note\nRUN b \\\n c\nRUM d\n");
    let parsed = parse(&source);
    let drawn = source.render(&parsed.diagnostics[0], Color::Never);
    for part in ["error: unknown instruction: RUM", "Dockerfile:7:1", "help: did you mean RUN?"] {
        assert!(drawn.contains(part), "{drawn}");
    }
}

#[test]
fn lines_that_are_too_long_are_refused_wherever_they_stand() {
    let long = "a".repeat(65_536);
    let message = ": dockerfile line greater than max allowed size of 65535";
    for (source, line) in [
        (format!("FROM a\nRUN {long}\nRUN b\n"), 2),
        (format!("FROM a\nRUN b \\\n {long} \\\n c\n"), 3),
        (format!("FROM a\n# {long}\n"), 2),
        (format!("FROM a\nRUN <<E\n{long}\nE\n"), 3),
    ] {
        assert_eq!(errors(&source), [format!("error @{line} \"\"{message}")]);
    }
    assert_eq!(errors(&format!("FROM a\nRUN {}\n", "a".repeat(65_531))), [""; 0]);
}

#[test]
fn names_of_any_length_are_suggested_for_in_no_time() {
    let long = "x".repeat(60_000);
    assert_eq!(errors(&format!("FROM a\n{long}\nRUN --{long} b\n")).len(), 2);
}

/// Pieces that Dockerfiles are made of, and that have meaning somewhere.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "FROM ", "a AS b", "RUN ", "COPY ", "ADD ", "ENV ", "ARG ", "LABEL ", "EXPOSE ", "HEALTHCHECK ", "ONBUILD ",
            "SHELL ", "VOLUME ", "CMD ", "USER ", "--mount=", "--from=", "--", "type=secret", "--interval=1s ", "NONE",
            "<<EOF", "<<-'E'", "EOF", "E", "[\"a\"", "]", "\"", "'", "\\", "`", "${", "}", ":-", "##", "/", "$x", "=", ",",
            "#", "# escape=`\n", "# check=skip=all\n", "\\\n", " \\ \r\n", "\t", " ", "é", "\u{feff}", "\u{a0}", "80/TCP",
        ]).prop_map(str::to_owned),
        2 => Just("\n".to_owned()),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_makes_the_parser_panic_or_point_outside(text in pieces()) {
        let source = Source::new("Dockerfile", text.clone());
        check_spans(&parse(&source), &text);
        for escape in ['\\', '`'] {
            let (_, diagnostics) = parse_instruction(&text, escape);
            prop_assert!(diagnostics.iter().all(|found| text.get(found.span.start..found.span.end).is_some()));
        }
    }

    #[test]
    fn what_onbuild_keeps_is_parsed_to_the_same_instruction(text in pieces()) {
        let source = Source::new("Dockerfile", format!("FROM a\nONBUILD RUN {text}"));
        for instruction in parse(&source).dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
            let Operation::Onbuild(inner) = &instruction.operation else { continue };
            // A line may end in what was an escape in its middle, blanks after it or not; then it reads as continued.
            if inner.original.lines().next().is_some_and(|line| line.trim_end().ends_with('\\')) {
                continue;
            }
            let (again, diagnostics) = parse_instruction(&inner.original, '\\');
            let again = again.ok_or_else(|| TestCaseError::fail(format!("{:?}: {diagnostics:?}", inner.original)))?;
            let place = Source::new("", inner.original.clone());
            let shown = |instruction: &Instruction| {
                let text = dump::instruction(instruction, &place);
                text.split_once(" @").map(|(_, rest)| rest.split_once(' ').map(|(_, rest)| rest.to_owned()))
            };
            prop_assert_eq!(shown(&again), shown(inner));
        }
    }
}
