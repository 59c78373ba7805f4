//! The design as a test: which module may use which, and a few rules that no compiler checks.
//!
//! Changing the design means changing the table in the same commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every module of the crate with what it may use, lowest first: a row names only rows above itself, so there are no cycles.
const MODULES: &[(&str, &[&str])] = &[
    ("digest", &[]),
    ("diagnostic", &[]),
    ("progress", &["diagnostic"]),
    ("sys", &[]),
    // What is written outside the store, by outputs and caches; the command line removes it when a signal comes.
    ("unfinished", &[]),
    ("owners", &[]),
    ("tree", &["digest"]),
    ("rootfs", &["sys"]),
    ("image", &["digest"]),
    ("attest", &["digest", "image"]),
    ("sign", &["digest", "image"]),
    ("dockerfile", &["diagnostic"]),
    ("plan", &["diagnostic", "digest", "dockerfile", "image"]),
    ("store", &["digest", "owners", "sys"]),
    ("context", &["digest", "rootfs", "tree"]),
    ("layer", &["digest", "image", "owners", "rootfs", "tree"]),
    // What is in an image's files; it reads them from layers, or from any tree.
    ("sbom", &["digest", "image", "layer", "tree"]),
    // It reads tars, and what it finds goes into the store at once: an archive cannot be searched.
    // Of attestations it knows which entries of an index they are.
    ("archive", &["attest", "digest", "image", "layer", "rootfs", "store", "tree"]),
    ("registry", &["digest", "image", "progress"]),
    ("sandbox", &["digest", "owners", "rootfs", "sys", "tree"]),
    ("snapshot", &["digest", "owners", "rootfs", "store", "sys", "tree"]),
    ("cache", &["digest", "image", "plan", "progress", "registry", "store", "unfinished"]),
    (
        "executor",
        &[
            "cache",
            "context",
            "diagnostic",
            "digest",
            "image",
            "layer",
            "owners",
            "plan",
            "progress",
            "registry",
            "rootfs",
            "sandbox",
            "snapshot",
            "store",
            "tree",
        ],
    ),
    (
        "export",
        &[
            "attest",
            "digest",
            "image",
            "layer",
            "progress",
            "registry",
            "rootfs",
            "sign",
            "snapshot",
            "store",
            "tree",
            "unfinished",
        ],
    ),
    (
        "build",
        &[
            "archive",
            "attest",
            "cache",
            "context",
            "diagnostic",
            "digest",
            "dockerfile",
            "executor",
            "export",
            "image",
            "plan",
            "progress",
            "registry",
            "sandbox",
            "snapshot",
            "sbom",
            "sign",
            "store",
            // `diff` compares images file by file.
            "tree",
        ],
    ),
    ("ui", &["diagnostic", "progress"]),
    (
        "cli",
        &[
            "archive",
            "attest",
            "build",
            "cache",
            "context",
            "diagnostic",
            "digest",
            "executor",
            "export",
            "image",
            "layer",
            "plan",
            "progress",
            "registry",
            "sandbox",
            "sbom",
            "sign",
            "store",
            "sys",
            // `diff` compares two file systems as data.
            "tree",
            "ui",
            "unfinished",
        ],
    ),
];

/// Lines above which a file has surely grown a second subject; tests at its end do not count.
const LONGEST_FILE: usize = 700;

/// Files that are flat tables, which may be longer.
const TABLES: &[&str] = &["sandbox/seccomp.rs", "sys/syscalls.rs"];

/// A file of src/ without its tests.
struct SourceFile {
    /// Relative to src/.
    path: PathBuf,
    /// The code, without comments, string literals and `#[cfg(test)]` items.
    code: String,
    /// Lines before the tests, comments included.
    lines: usize,
}

impl SourceFile {
    /// The module of the crate that it belongs to: `main` and `lib` are their own.
    fn module(&self) -> String {
        let first = self.path.components().next().expect("a path has components").as_os_str();
        first.to_string_lossy().trim_end_matches(".rs").to_owned()
    }

    /// How many `super::` lead to the crate's root.
    fn depth(&self) -> usize {
        self.path.components().count() - usize::from(self.path.ends_with("mod.rs"))
    }
}

fn source_files() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut directories) = (Vec::new(), vec![root.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("read a directory of src") {
            let path = entry.expect("read an entry of src").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                // A file of its own for tests is declared under `#[cfg(test)]` in its parent.
                if path.file_name().is_some_and(|name| name == "tests.rs") {
                    continue;
                }
                let text = fs::read_to_string(&path).expect("read a file of src");
                let blank = without_comments_and_literals(&text);
                let code = without_tests(&blank);
                let lines = code.trim_end().lines().count();
                let path = path.strip_prefix(&root).expect("the path is below src").to_owned();
                files.push(SourceFile { path, code, lines });
            }
        }
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files
}

/// The text with comments, strings and character literals made blank, so that braces and words in them do not count. Line
/// ends stay, so that line numbers do.
fn without_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_comment_or_literal(text, at);
        if end == at {
            out.push(char::from(if bytes[at].is_ascii() { bytes[at] } else { b' ' }));
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at a byte ends; the byte itself if none begins there.
fn end_of_comment_or_literal(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    let find = |needle: &str, from: usize| {
        let found = bytes[from..].windows(needle.len()).position(|window| window == needle.as_bytes());
        found.map_or(bytes.len(), |position| from + position + needle.len())
    };
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return find("\n", at).saturating_sub(1).max(at + 2);
    }
    if rest.starts_with(b"/*") {
        return find("*/", at + 2);
    }
    if !word_before && (rest.starts_with(b"r") || rest.starts_with(b"br")) {
        let prefix = if rest[0] == b'b' { 2 } else { 1 };
        let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(prefix + hashes) == Some(&b'"') {
            return find(&format!("\"{}", "#".repeat(hashes)), at + prefix + hashes + 1);
        }
    }
    if rest[0] == b'"' {
        return end_of_quoted(bytes, at, b'"');
    }
    // A character, not a lifetime: `'x'` or `'\…'`.
    if rest[0] == b'\'' {
        let character = text.get(at + 1..).and_then(|after| after.chars().next()).map_or(0, char::len_utf8);
        if rest.get(1) == Some(&b'\\') || rest.get(1 + character) == Some(&b'\'') {
            return end_of_quoted(bytes, at, b'\'');
        }
    }
    at
}

fn end_of_quoted(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Code without the items that stand under `#[cfg(test)]`: each ends at its brace or semicolon.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(found) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..found]);
        let item = &rest[found..];
        let (mut depth, mut end) = (0_usize, item.len());
        for (position, character) in item.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (character == '}' || character == ';') {
                end = position + 1;
                break;
            }
        }
        out.extend(item[..end].chars().filter(|character| *character == '\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// The modules of the crate that code names: after `crate::` (in a `use` or inline), also in groups, `use crate::{a, b::c};`.
fn used_modules(code: &str, root: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|character| character.is_alphanumeric() || "_:$".contains(character)) {
            continue;
        }
        let after = code[at + root.len()..].trim_start();
        match after.strip_prefix('{') {
            Some(group) => used.extend(first_words_of_group(group)),
            None => used.extend(first_word(after)),
        }
    }
    used
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    (!word.is_empty()).then_some(word)
}

/// The first word of each member of a group, whose opening brace is gone.
fn first_words_of_group(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut words) = (0, true, Vec::new());
    for (position, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !character.is_whitespace() => {
                words.extend(first_word(&group[position..]));
                begins = false;
            }
            _ => {}
        }
    }
    words
}

fn fail(violations: &[String]) {
    assert!(violations.is_empty(), "the design is not kept:\n{}", violations.join("\n"));
}

#[test]
fn the_table_goes_upward_only() {
    let mut above = BTreeSet::new();
    for (module, may_use) in MODULES {
        for used in *may_use {
            assert!(above.contains(used), "the row of {module} names {used}, which is not above it");
        }
        assert!(above.insert(*module), "{module} has two rows");
    }
}

#[test]
fn every_module_is_in_the_table_and_every_row_is_a_module() {
    let found: BTreeSet<String> = source_files().iter().map(SourceFile::module).collect();
    let listed: BTreeSet<String> =
        MODULES.iter().map(|(module, _)| (*module).to_owned()).chain(["main".into(), "lib".into()]).collect();
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "modules without a row in the table: {missing:?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "rows of the table without a module: {gone:?}");
}

#[test]
fn modules_use_only_what_their_row_names() {
    let table: BTreeMap<&str, &[&str]> = MODULES.iter().copied().collect();
    let mut violations = Vec::new();
    for file in source_files() {
        let module = file.module();
        // The program sees the crate from outside and puts its ends together; the map only declares.
        let Some(may_use) = table.get(module.as_str()) else { continue };
        let mut names = used_modules(&file.code, "crate::");
        names.extend(used_modules(&file.code, &"super::".repeat(file.depth())));
        for used in names {
            if used != module && table.contains_key(used.as_str()) && !may_use.contains(&used.as_str()) {
                violations.push(format!("src/{}: {module} may not use {used}", file.path.display()));
            }
        }
    }
    fail(&violations);
}

#[test]
fn the_program_starts_the_sandbox_the_executor_and_the_command_line_only() {
    let file = source_files().into_iter().find(|file| file.module() == "main").expect("there is a main.rs");
    let used = used_modules(&file.code, "rbuild::");
    // sys: how memory is taken is said once for this program and its children, before anything is taken.
    let allowed = BTreeSet::from(["cli", "executor", "sandbox", "sys"].map(str::to_owned));
    assert!(used.is_subset(&allowed), "main.rs uses {used:?}");
}

#[test]
fn unsafe_code_is_in_sys_only() {
    let is_word = |code: &str, at: usize| {
        let neighbour = |character: Option<char>| character.is_some_and(|it| it.is_alphanumeric() || it == '_');
        !neighbour(code[..at].chars().next_back()) && !neighbour(code[at + "unsafe".len()..].chars().next())
    };
    let mut violations = Vec::new();
    for file in source_files().iter().filter(|file| file.module() != "sys") {
        if file.code.match_indices("unsafe").any(|(at, word)| is_word(&file.code, at) && !word.is_empty()) {
            violations.push(format!("src/{}: unsafe outside src/sys", file.path.display()));
        }
    }
    fail(&violations);
}

#[test]
fn files_have_one_subject_each() {
    let mut violations = Vec::new();
    for file in source_files() {
        let is_table = TABLES.iter().any(|table| Path::new(table) == file.path);
        if file.lines > LONGEST_FILE && !is_table {
            violations.push(format!("src/{}: {} lines, more than {LONGEST_FILE}", file.path.display(), file.lines));
        }
        let name = file.path.file_stem().expect("files have names").to_string_lossy().into_owned();
        // A credential helper is Docker's own noun; a file of helpers is not.
        if ["util", "utils", "common", "helpers", "manager", "misc"].contains(&name.as_str()) {
            violations.push(format!("src/{}: {name} is the name of no subject", file.path.display()));
        }
    }
    fail(&violations);
}

#[test]
fn a_cache_key_names_every_field() {
    let files = source_files();
    let Some(file) = files.iter().find(|file| file.path == Path::new("cache/key.rs")) else {
        // Nothing makes keys until the module has more than its own file.
        let has_parts = files.iter().filter(|file| file.module() == "cache").count() > 1;
        assert!(!has_parts, "src/cache has files, but the keys are not in cache/key.rs, where this test looks");
        return;
    };
    // A new field or a new kind of step must not fall out of a key unseen: no rest patterns, no default arms.
    let mut violations = Vec::new();
    for (number, line) in file.code.lines().enumerate() {
        let arm = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let rest = arm.contains(", .. }") || arm.contains("{ .. }") || arm.contains("(..)") || arm == "..";
        if rest || arm.starts_with("_ =>") || arm.contains(", _ =>") || arm.contains("{ _ =>") {
            violations.push(format!("src/cache/key.rs:{}: {}", number + 1, line.trim()));
        }
    }
    fail(&violations);
}

#[test]
fn nothing_is_left_for_later() {
    let mut violations = Vec::new();
    for file in source_files() {
        for word in ["todo!(", "unimplemented!("] {
            if file.code.contains(word) {
                violations.push(format!("src/{}: {word}…)", file.path.display()));
            }
        }
    }
    fail(&violations);
}

#[test]
fn the_checks_see_what_they_look_for() {
    let text = "use crate::{plan::{a, b}, ui};\n// crate::cli\nlet x = \"crate::store\"; crate::cache::f('\"', '{');\n\
                #[cfg(test)]\nmod tests { use crate::build; }\nfn after() { crate::layer::f() }";
    let code = without_tests(&without_comments_and_literals(text));
    let used: Vec<String> = used_modules(&code, "crate::").into_iter().collect();
    assert_eq!(used, ["cache", "layer", "plan", "ui"]);
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(without_comments_and_literals("r#\"a\" unsafe\"# b").trim() == "b");
}
