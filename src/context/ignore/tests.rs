use std::time::Instant;

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
fn a_long_path_takes_time_in_proportion() {
    // A search that goes back to each place once more for every start would take hours for this one.
    let rules = IgnoreRules::parse(b"**/a*/**/*a/**/*a*/b").unwrap();
    let path = "aaa/".repeat(50_000) + "a";
    assert!(!rules.rules[0].pattern.matches(path.as_bytes()));
    assert!(rules.rules[0].pattern.matches((path + "/b").as_bytes()));
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
