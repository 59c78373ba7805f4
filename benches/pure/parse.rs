//! Text → tree, with all rules that need only the tree. The goal is 100 MB/s, whatever the file is like.

use divan::Bencher;
use divan::counter::BytesCount;
use rbuild::diagnostic::{Severity, Source};
use rbuild::dockerfile;

/// What people write: long RUN instructions, comments, several stages.
const ORDINARY: &str = include_str!("ordinary.Dockerfile");

/// The shortest instruction of each kind, again and again: much tree from little text.
const DENSE: &str =
    "ENV A=1\nRUN a b\nCOPY a b\nARG X=y\nUSER u\nLABEL a=b c=d\nWORKDIR /w\nVOLUME [\"a\", \"b\"]\nEXPOSE 80\n";

/// A file of about a megabyte that repeats a text.
fn large(text: &str) -> String {
    let count = 1_000_000 / text.len();
    format!("FROM scratch\n{}", text.repeat(count))
}

fn parse(bencher: Bencher<'_, '_>, text: String) {
    let source = Source::new("Dockerfile", text);
    let parsed = dockerfile::parse(&source);
    assert!(parsed.diagnostics.iter().all(|found| found.severity == Severity::Warning), "the file has errors");
    bencher.counter(BytesCount::of_str(&source.text)).bench(|| dockerfile::parse(&source));
}

#[divan::bench]
fn ordinary_file(bencher: Bencher<'_, '_>) {
    parse(bencher, ORDINARY.to_owned());
}

#[divan::bench]
fn ordinary_text_of_one_megabyte(bencher: Bencher<'_, '_>) {
    parse(bencher, large(ORDINARY));
}

#[divan::bench]
fn shortest_instructions_of_one_megabyte(bencher: Bencher<'_, '_>) {
    parse(bencher, large(DENSE));
}
