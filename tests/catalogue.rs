//! Every row of `testdata/catalogue.md` is there, and has tests that exist, or a reason for none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How many rows each chapter has.
const CHAPTERS: [(&str, usize); 7] = [("C", 6), ("T", 11), ("P", 5), ("F", 12), ("S", 18), ("D", 10), ("K", 6)];

/// Names of all functions below a directory, and of the sandbox's cases, which are listed with theirs.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("list a directory of the sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("read a source file");
            let definitions = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
            names.extend(definitions.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
            let cases = text.lines().filter_map(|line| line.trim_start().strip_prefix("(\""));
            names.extend(cases.filter_map(|rest| Some(rest.rsplit_once("\", ")?.0.to_owned())));
        }
    }
}

#[test]
fn every_row_has_tests_that_exist_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    ["src", "tests"].iter().for_each(|directory| functions(&root.join(directory), &mut names));
    let text = fs::read_to_string(root.join("testdata/catalogue.md")).expect("read the catalogue");
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("| ")).skip(1);
    for (chapter, count) in CHAPTERS {
        for number in 1..=count {
            let row = rows.next().unwrap_or_default();
            let mut fields = row.split(" | ");
            assert_eq!(fields.next(), Some(format!("{chapter}{number}").as_str()), "in the row {row:?}");
            let tests = fields.nth(1).unwrap_or_default();
            let named: Vec<&str> = tests.split('`').skip(1).step_by(2).filter(|name| !name.starts_with('-')).collect();
            let has_reason = tests.starts_with("none: ") && tests.len() > 40;
            assert!(has_reason || !named.is_empty(), "{chapter}{number} has neither a test nor a reason");
            for name in named {
                assert!(names.contains(name), "{chapter}{number}: there is no test {name}");
            }
        }
    }
    assert_eq!(rows.next(), None, "a row that no chapter has");
}
