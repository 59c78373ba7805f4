use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// The scope of the directory that holds a path, entered directory by directory as a walk does.
fn walked(rules: &IgnoreRules, path: &[u8]) -> bool {
    let mut scope = rules.scope(b"");
    for at in (0..path.len()).filter(|at| path[*at] == b'/') {
        scope = scope.enter(&path[..at]);
        assert_eq!(scope.directory(), &path[..at]);
    }
    scope.excludes(path)
}

fn decoded(text: &str) -> String {
    let mut text = text.to_owned();
    for (sign, meaning) in [('␤', "\n"), ('␠', " "), ('␉', "\t"), ('␍', "\r"), ('␡', "\u{feff}")] {
        text = text.replace(sign, meaning);
    }
    text
}

#[test]
fn the_corpus_of_verdicts_holds() {
    let corpus = include_str!("../../../testdata/ignore/cases.txt");
    let mut failures = Vec::new();
    let mut count = 0;
    for line in corpus.lines().filter(|line| !line.is_empty() && !line.starts_with("# ") && *line != "#") {
        let (rest, verdict) = line.rsplit_once(" | ").unwrap();
        let (rules, path) = rest.split_once(" | ").unwrap();
        let path = decoded(path);
        let found = match IgnoreRules::parse(decoded(rules).as_bytes()) {
            Err(_) => "error",
            Ok(rules) => {
                let excluded = rules.excludes(path.as_bytes());
                if !path.is_empty() {
                    assert_eq!(excluded, walked(&rules, path.as_bytes()), "{line}: the walk has another verdict");
                }
                if excluded { "drop" } else { "keep" }
            }
        };
        count += 1;
        if found != verdict {
            failures.push(format!("{line}: found {found}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count >= 150, "only {count} cases were read");
}

#[test]
fn errors_name_the_line_and_the_pattern() {
    let error = IgnoreRules::parse(b"ok\n\n# [\n  a[ \n").unwrap_err();
    assert_eq!((error.line, error.pattern.as_str()), (4, "a["));
    assert_eq!(error.to_string(), "read ignore pattern \"a[\" (line 4): syntax error in pattern: [ without its ]");
}

#[test]
fn hostile_lines_are_refused_or_read_but_never_a_panic() {
    let long = [vec![b'a'; 1 << 20], b"\nfoo".to_vec()].concat();
    assert_eq!(IgnoreRules::parse(&long).unwrap_err().line, 1);
    let fits = [vec![b'a'; MAX_LINE], b"\nfoo".to_vec()].concat();
    assert!(IgnoreRules::parse(&fits).unwrap().excludes(b"foo"));
    assert!(IgnoreRules::parse(b"a\0b").unwrap().excludes(b"a\0b"));
    assert!(IgnoreRules::parse(b"\xff\xfe").unwrap().excludes(b"\xff\xfe"));
    assert!(IgnoreRules::parse(b"a?c").unwrap().excludes(b"a\xffc"));
    // Every way to divide the path between the stars is wrong; trying them all would take for ever.
    let stars = "a*".repeat(200) + "b";
    let rules = IgnoreRules::parse(stars.as_bytes()).unwrap();
    let start = Instant::now();
    assert!(!rules.excludes("a".repeat(4000).as_bytes()));
    let deep = "**/a/".repeat(200) + "b*c";
    let rules = IgnoreRules::parse(deep.as_bytes()).unwrap();
    assert!(!rules.excludes("a/".repeat(1000).as_bytes()));
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn directories_are_pruned_only_when_nothing_below_can_come_back() {
    let may_descend = |rules: &str, directory: &str| {
        let rules = IgnoreRules::parse(rules.as_bytes()).unwrap();
        let verdict = rules.may_descend(directory.as_bytes());
        let parent = crate::tree::parent(directory.as_bytes());
        assert!(
            directory.is_empty() || rules.scope(parent).may_descend(directory.as_bytes()) == verdict,
            "{directory}"
        );
        verdict
    };
    assert!(!may_descend("node_modules", "node_modules"));
    assert!(!may_descend("node_modules", "node_modules/a"));
    assert!(may_descend("node_modules", "src"));
    assert!(may_descend("build\n!build/keep", "build"));
    assert!(!may_descend("build\n!build/keep", "build/other"));
    assert!(may_descend("build\n!build/a/b", "build/a"));
    assert!(!may_descend("!build/keep\nbuild", "build"), "an exception before the rule does not undo it");
    assert!(!may_descend("*\n!*.md", "docs"), "an exception for the root's files reaches no directory");
    assert!(!may_descend("*\n!docs/*.md", "src"));
    assert!(may_descend("*\n!docs/*.md", "docs"));
    assert!(!may_descend("*\n!docs/*.md", "docs/deep"));
    assert!(may_descend("*\n!**/*.md", "docs/deep"));
    assert!(may_descend("*\n!a[^b]c", "a"), "a negated class matches a slash");
    assert!(may_descend("**", ""), "the root is always walked");
}

#[test]
fn the_ignore_file_beside_the_dockerfile_wins() {
    let root = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let dockerfile = other.path().join("app.Dockerfile");
    assert_eq!(locate(&dockerfile, root.path()), None);
    std::fs::write(root.path().join(".dockerignore"), "").unwrap();
    assert_eq!(locate(&dockerfile, root.path()), Some(root.path().join(".dockerignore")));
    let own = other.path().join("app.Dockerfile.dockerignore");
    std::fs::write(&own, "").unwrap();
    assert_eq!(locate(&dockerfile, root.path()), Some(own));
}

/// Patternmatcher once more, read from its source as directly as can be: slow, recursive, and without a thought for
/// anything but the characters `* ? ! / .` and letters.
mod naive {
    pub(super) fn excludes(lines: &[String], path: &str) -> bool {
        let mut matched = false;
        for line in lines {
            let (exception, pattern) = line.strip_prefix('!').map_or((false, &line[..]), |rest| (true, rest));
            if exception != matched {
                continue;
            }
            let ends = path.char_indices().filter(|(_, found)| *found == '/').map(|(at, _)| at).chain([path.len()]);
            if ends.into_iter().any(|end| matches(pattern, &path[..end])) {
                matched = !exception;
            }
        }
        matched
    }

    fn matches(pattern: &str, path: &str) -> bool {
        if let Some(rest) = pattern.strip_prefix("**")
            && !rest.contains(['*', '?'])
        {
            return path.ends_with(rest) || rest.strip_prefix('/') == Some(path);
        }
        expression(pattern.as_bytes(), path.as_bytes())
    }

    fn expression(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*', rest @ ..] => {
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                rest.is_empty()
                    || expression(rest, path)
                    || (0..path.len()).any(|at| path[at] == b'/' && expression(rest, &path[at + 1..]))
            }
            [b'*', rest @ ..] => {
                let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
                (0..=end).any(|at| expression(rest, &path[at..]))
            }
            [b'?', rest @ ..] => path.first().is_some_and(|byte| *byte != b'/') && expression(rest, &path[1..]),
            [byte, rest @ ..] => path.first() == Some(byte) && expression(rest, &path[1..]),
        }
    }
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab.]{1,3}", 3 => "[ab*?.]{1,4}", 2 => Just("**".to_owned()), 1 => "[ab]?\\*\\*[ab]?"]
        .prop_filter("cleaning is not what is tested", |part| part != "." && part != "..")
}

fn pattern() -> impl Strategy<Value = String> {
    (any::<bool>(), prop::collection::vec(component(), 1..4))
        .prop_map(|(exception, parts)| format!("{}{}", if exception { "!" } else { "" }, parts.join("/")))
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab.]{1,3}".prop_filter("a name", |name| name != "." && name != ".."), 1..5)
        .prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn verdicts_equal_those_of_a_second_implementation(lines in prop::collection::vec(pattern(), 1..6), path in path()) {
        let rules = IgnoreRules::parse(lines.join("\n").as_bytes()).unwrap();
        let expected = naive::excludes(&lines, &path);
        prop_assert_eq!(rules.excludes(path.as_bytes()), expected);
        prop_assert_eq!(walked(&rules, path.as_bytes()), expected);
        if !expected {
            // Nothing that is kept is lost to a pruned directory.
            for at in (0..path.len()).filter(|at| path.as_bytes()[*at] == b'/') {
                prop_assert!(rules.may_descend(&path.as_bytes()[..at]), "{} was pruned", &path[..at]);
            }
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..200), path in "[a-c/*\\[\\]é\n]{0,20}") {
        if let Ok(rules) = IgnoreRules::parse(&text) {
            rules.excludes(path.as_bytes());
            rules.may_descend(path.as_bytes());
        }
    }
}

#[test]
fn nothing_is_left_of_a_path_that_no_exception_reaches() {
    for (rules, path, nothing) in [
        ("*", "", true),
        ("**", "", true),
        ("**/*", "", true),
        ("a", "", false),
        (".*", "", false),
        ("*\n!a", "", false),
        ("!a\n*", "", true),
        ("", "", false),
        ("a", "a", true),
        ("a", "a/b", true),
        ("a\n!a/b", "a", false),
        ("a\n!a/b", "a/c", true),
        ("*.txt", "x.txt", true),
        ("*\n!a/b", "a", false),
        ("a", "b", false),
    ] {
        let rules_read = IgnoreRules::parse(rules.as_bytes()).unwrap();
        assert_eq!(rules_read.leave_nothing_of(path.as_bytes()), nothing, "{rules:?} {path:?}");
    }
}
