//! Generators of input that is mostly valid.

use proptest::prelude::*;
use proptest::sample::select;

fn joined(
    parts: impl Strategy<Value = String> + 'static,
    count: std::ops::Range<usize>,
    between: &'static str,
) -> BoxedStrategy<String> {
    prop::collection::vec(parts, count).prop_map(move |parts| parts.join(between)).boxed()
}

fn one_of(words: &[&'static str]) -> BoxedStrategy<String> {
    select(words.to_vec()).prop_map(str::to_owned).boxed()
}

/// A word as people write it, and now and then one that is all quotes, escapes and variables.
fn word() -> BoxedStrategy<String> {
    let piece = one_of(&[
        "a", "/b", "$V", "${V:-x}", "${V#*a}", "'", "\"", "\\ ", "\\\\", "`", "é", "\u{a0}", "=", ",", "[", ":80", ".",
    ]);
    prop_oneof![6 => "[a-z/.$]{1,6}", 1 => joined(piece, 1..5, "")].boxed()
}

fn json() -> BoxedStrategy<String> {
    let string = prop_oneof![4 => "\"[a-z -]{0,5}\"", 1 => one_of(&[r#""\n""#, r#""\u00e9""#, r#""\"""#, "1", "\"<<E\"", "'a'"])];
    joined(string, 0..4, ", ").prop_map(|words| format!("[{words}]")).boxed()
}

fn pairs() -> BoxedStrategy<String> {
    prop_oneof![4 => joined((word(), word()).prop_map(|(key, value)| format!("{key}={value}")), 1..4, " "), 1 => joined(word(), 1..4, " ")].boxed()
}

fn arguments() -> BoxedStrategy<String> {
    prop_oneof![3 => joined(word(), 0..5, " "), 1 => json()].boxed()
}

fn copy_flags() -> BoxedStrategy<String> {
    let flag = prop_oneof![
        one_of(&["--link", "--link=false", "--parents", "--keep-git-dir=true", "--unpack=false", "--", "--bad"]),
        (one_of(&["from", "chown", "chmod", "exclude", "checksum"]), word())
            .prop_map(|(name, value)| format!("--{name}={value}")),
    ];
    joined(flag, 0..3, " ")
}

fn run_flags() -> BoxedStrategy<String> {
    let flag = prop_oneof![
        3 => mount().prop_map(|mount| format!("--mount={mount}")),
        1 => one_of(&["--network=none", "--security=insecure", "--network=$V", "--device=a", "--device=vendor.com/class=a,required=true", "--"]),
    ];
    joined(flag, 0..3, " ")
}

/// The line of an instruction with its here-documents.
fn instruction() -> BoxedStrategy<String> {
    let simple = (
        one_of(&[
            "CMD",
            "Entrypoint",
            "EXPOSE",
            "SHELL",
            "VOLUME",
            "USER",
            "WORKDIR",
            "STOPSIGNAL",
            "MAINTAINER",
            "RUN",
            "xyz",
        ]),
        arguments(),
    );
    let health =
        one_of(&["NONE", "CMD", "--interval=2s CMD", "--retries=3 --timeout=1m0.5s CMD", "--start-period=1ms CMD"]);
    let marker = one_of(&["<<E", "<<-E", "<<'E'", "3<<E", "<<\"E\"", "<< E"]);
    let body = joined(one_of(&["a $V", "\tb", "#!/bin/sh", "\\$V", "${", ""]), 0..3, "\n");
    prop_oneof![
        4 => simple.prop_map(|(name, arguments)| format!("{name} {arguments}")),
        3 => (one_of(&["ENV", "LABEL", "ARG", "env"]), pairs()).prop_map(|(name, pairs)| format!("{name} {pairs}")),
        3 => (one_of(&["COPY", "ADD"]), copy_flags(), arguments()).prop_map(|(name, flags, rest)| format!("{name} {flags} {rest}")),
        2 => (run_flags(), arguments()).prop_map(|(flags, rest)| format!("RUN {flags} {rest}")),
        1 => (health, arguments()).prop_map(|(start, rest)| format!("HEALTHCHECK {start} {rest}")),
        2 => (one_of(&["RUN cat", "COPY", "ADD --chmod=1", "ONBUILD COPY", "ONBUILD RUN"]), marker, word(), body)
            .prop_map(|(start, marker, word, body)| format!("{start} {marker} {word}\n{body}\nE")),
    ]
    .boxed()
}

fn from() -> BoxedStrategy<String> {
    let base = prop_oneof![one_of(&["scratch", "debian:12", "s", "$V", "${V:-alpine}"]), word()];
    let rest = one_of(&["", "", " AS s", " as S2", " as 3", " b"]);
    let flags = one_of(&["", "", "--platform=linux/arm64 ", "--platform=$BUILDPLATFORM "]);
    (flags, base, rest).prop_map(|(flags, base, rest)| format!("FROM {flags}{base}{rest}")).boxed()
}

/// A Dockerfile.
pub fn dockerfile() -> BoxedStrategy<String> {
    let head = one_of(&[
        "",
        "# syntax=docker/dockerfile:1",
        "# escape=`",
        "# check=skip=all;error=true",
        "#!/bin/x",
        "\u{feff}",
        "ARG V=1",
    ]);
    let line = prop_oneof![
        10 => instruction(),
        3 => from(),
        1 => instruction().prop_map(|trigger| format!("ONBUILD {trigger}")),
        2 => one_of(&["# a note", "# V what it is for", "# check=skip=StageNameCasing", "#", "", "  "]),
        1 => instruction().prop_map(|text| text.replacen(' ', " \\\n  # note\n", 2)),
        1 => any::<String>(),
    ];
    let end = one_of(&["\n", "\n", "\r\n"]);
    (head, from(), prop::collection::vec(line, 0..12), end)
        .prop_map(|(head, from, lines, end)| format!("{head}\n{from}\n{}\n", lines.join("\n")).replace('\n', &end))
        .boxed()
}

/// Options of `--mount=`.
pub fn mount() -> BoxedStrategy<String> {
    let option = prop_oneof![
        3 => one_of(&["type=bind", "type=cache", "type=tmpfs", "type=secret", "type=ssh", "Type=Cache", "type=x"]),
        4 => one_of(&["target=/a", "dst=b", "destination=$V", "source=/c", "src=d", "id=e", "from=s", "env=F", "env="]),
        3 => one_of(&["ro", "rw=false", "readonly=1", "required", "required=true", "sharing=locked", "size=1.5g", "mode=0755", "uid=1", "gid=x"]),
        1 => one_of(&["", "=", "a", "\"a,b\"", "\"target=/x\"", "\"", "size=99999999999999999999", "é=é"]),
    ];
    joined(option, 1..6, ",")
}

/// An image reference.
pub fn reference() -> BoxedStrategy<String> {
    let registry = one_of(&[
        "",
        "",
        "docker.io/",
        "index.docker.io/",
        "localhost:5000/",
        "[::1]:5000/",
        "Host/",
        "a.b:0/",
        "x:y/",
    ]);
    let path = joined(
        prop_oneof![4 => "[a-z0-9]{1,4}", 1 => one_of(&["library", "a__b", "a.b", "a--b", "a..b", "A", ""])],
        1..4,
        "/",
    );
    let tag = prop_oneof![2 => Just(String::new()), 2 => ":[a-z0-9._-]{1,4}", 1 => Just(":".to_owned())];
    let digest = prop_oneof![3 => Just(String::new()), 1 => "@sha256:[0-9a-f]{64}", 1 => Just("@sha256:0".to_owned())];
    (registry, path, tag, digest)
        .prop_map(|(registry, path, tag, digest)| format!("{registry}{path}{tag}{digest}"))
        .boxed()
}

fn name() -> BoxedStrategy<String> {
    "[ab.]{1,3}".prop_filter("a name", |name| name != "." && name != "..").boxed()
}

fn rules_and_paths(component: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let pattern = (any::<bool>(), joined(component, 1..4, "/"))
        .prop_map(|(exception, pattern)| if exception { format!("!{pattern}") } else { pattern });
    let paths = joined(joined(name(), 1..5, "/"), 1..8, "\n");
    (joined(pattern, 1..6, "\n"), paths).prop_map(|(rules, paths)| format!("{rules}\0{paths}")).boxed()
}

/// An ignore file of plain names, `*`, `?`, `**` and exceptions, with paths to judge.
pub fn ignore_file() -> BoxedStrategy<String> {
    let wild = prop_oneof![3 => "[ab*?.]{1,4}", 2 => Just("**".to_owned()), 1 => "[ab]?\\*\\*[ab]?"];
    rules_and_paths(prop_oneof![4 => name(), 6 => wild.prop_filter("cleaning is another test's", |part| part != "." && part != "..")].boxed())
}

/// The same with classes, escapes, and what has to be cleaned.
pub fn unusual_ignore_file() -> BoxedStrategy<String> {
    let unusual = one_of(&[
        "[a-b]", "[^a]", "[a*]", "[.]", "\\a", "\\*", "a**b", "..", ".", "", " a ", "#a", "!a", "+(a)", "^a$", "{a}",
        "\\d", "[[]",
    ]);
    rules_and_paths(prop_oneof![2 => name(), 1 => Just("**".to_owned()), 3 => unusual].boxed())
}

/// A letter that says which kind of list it is, and a list of packages in one of the kinds, or a piece of one.
pub fn packages() -> BoxedStrategy<Vec<u8>> {
    let field = one_of(&[
        "Package: a",
        "Version: 1:2.0-3",
        "Status: install ok installed",
        "Architecture: amd64",
        "Source: b (1)",
        "",
        "P:a",
        "V:1.0-r0",
        "A:x86_64",
        "L:MIT",
        "o:b",
        "Name: a",
        "License: MIT",
        "ID=debian",
        "VERSION_ID=\"12\"",
        "[[package]]",
        "name = \"a\"",
        "version = \"1\"",
        "source = \"registry+https://x\"",
        " more",
        "é: \u{1b}",
    ]);
    let json = one_of(&[
        "{",
        "}",
        "\"name\":\"a\"",
        "\"version\":\"1\"",
        ",",
        "\"packages\":{\"node_modules/a\":{\"version\":\"1\"}}",
        "\"dependencies\":{\"a\":{\"version\":\"1\"}}",
        "\"lockfileVersion\":3",
        "\"license\":[]",
    ]);
    let bytes = prop::collection::vec(any::<u8>(), 0..100);
    let head = one_of(&["", "SQLite format 3\0", "\u{7f}ELF\u{2}\u{1}\u{1}"]);
    let content = prop_oneof![
        4 => joined(field, 0..12, "\n").prop_map(String::into_bytes),
        3 => joined(json, 0..8, "").prop_map(String::into_bytes),
        2 => (head, bytes).prop_map(|(head, bytes)| [head.into_bytes(), bytes].concat()),
    ];
    (b'a'..=b'j', content).prop_map(|(letter, content)| [vec![letter], content].concat()).boxed()
}
