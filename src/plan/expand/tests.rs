//! The table `testdata/expand/cases.txt`, and what holds for every input.
//!
//! A row is `input | variables | result`, where variables are `A=x;B=` and a result is `= text`, `= word, word` or
//! `! message`, with ` ? A, B` behind it for names that were looked up and are not set. `[word]`, ``[word `]`` (with another
//! escape character), `[words]` and `[body]` say how the rows below are expanded. `␠` stands for a space, `␤` for a line
//! end, `␉` for a tab. `UPDATE=1` writes what is found into the table; read the difference before you commit it.

use super::{Expansion, VariableList, Variables, expand, expand_body, expand_words};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Word(char),
    Words,
    Body,
}

const MARKS: [(&str, &str); 3] = [("␠", " "), ("␤", "\n"), ("␉", "\t")];

fn unmarked(text: &str) -> String {
    MARKS.iter().fold(text.to_owned(), |text, (mark, meaning)| text.replace(mark, meaning))
}

/// Marks line ends and tabs everywhere, and spaces where they could be overlooked.
fn marked(text: &str) -> String {
    let text = text.replace('\n', "␤").replace('\t', "␉").replace("  ", "␠␠");
    let text = match text.strip_prefix(' ') {
        Some(rest) => format!("␠{rest}"),
        None => text,
    };
    match text.strip_suffix(' ') {
        Some(rest) => format!("{rest}␠"),
        None => text,
    }
}

fn variables(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (unmarked(name), unmarked(value))).collect()
}

fn outcome(input: &str, way: Way, variables: &dyn Variables) -> String {
    let input = unmarked(input);
    let one = |expansion: Expansion| (marked(&expansion.text), expansion.unset);
    let result = match way {
        Way::Word(escape) => expand(&input, escape, variables).map(one),
        Way::Body => expand_body(&input, variables).map(one),
        Way::Words => expand_words(&input, '\\', variables)
            .map(|(words, unset)| (words.iter().map(|word| marked(word)).collect::<Vec<_>>().join(", "), unset)),
    };
    match result {
        Ok((text, unset)) if unset.is_empty() => format!("= {text}"),
        Ok((text, unset)) => format!("= {text} ? {}", unset.join(", ")),
        Err(error) => format!("! {} @ {}", error.message, marked(&input[error.at])),
    }
}

fn way(header: &str) -> Way {
    match header {
        "[word]" => Way::Word('\\'),
        "[word `]" => Way::Word('`'),
        "[words]" => Way::Words,
        "[body]" => Way::Body,
        _ => panic!("no such way to expand: {header}"),
    }
}

#[test]
fn the_table_of_cases_holds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/expand/cases.txt");
    let table = std::fs::read_to_string(&path).expect("the table can be read");
    let mut current = Way::Word('\\');
    let mut updated = String::new();
    let mut wrong = Vec::new();
    let mut rows = 0;
    for line in table.lines() {
        let row = line.trim_end();
        if row.is_empty() || row.starts_with("# ") || row.starts_with('[') && row.ends_with(']') {
            if row.starts_with('[') {
                current = way(row);
            }
            updated.push_str(&format!("{row}\n"));
            continue;
        }
        rows += 1;
        let mut columns = row.splitn(3, " | ");
        let mut column = || columns.next().unwrap_or_default().trim();
        let (input, given, expected) = (column(), column(), column());
        let found = outcome(input, current, &variables(given)).trim_end().to_owned();
        if found != expected {
            wrong.push(format!("{current:?} {input} | {given}\n  expected {expected}\n  found    {found}"));
        }
        updated.push_str(&format!("{input} | {given} | {found}\n"));
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, updated).expect("the table can be written");
        return;
    }
    assert!(rows >= 230, "rows are missing: {rows}");
    assert!(wrong.is_empty(), "{} of {rows} rows\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn of_two_values_the_last_counts() {
    let list = VariableList(vec![("A".into(), "1".into()), ("B".into(), "2".into()), ("A".into(), "3".into())]);
    assert_eq!((list.value("A"), list.value("B"), list.value("C")), (Some("3"), Some("2"), None));
}

#[test]
fn nesting_too_deep_is_an_error_and_no_overflow() {
    let none = VariableList::default();
    let nested = |depth: usize| format!("{}x{}", "${a:-".repeat(depth), "}".repeat(depth));
    assert_eq!(expand(&nested(100), '\\', &none).expect("not too deep").text, "x");
    for text in [nested(101), "${a#".repeat(200_000), "\"${a/\"".repeat(200_000)] {
        assert!(expand(&text, '\\', &none).is_err());
    }
}

#[test]
fn long_texts_take_time_in_proportion() {
    let list = VariableList(vec![("A".into(), "ab".repeat(200_000))]);
    for (text, length) in [("${A//a/xy}", 600_000), ("${A//a*c/}", 400_000), ("${A%%a*b}", 0), ("${A#*c*c*c}", 400_000)]
    {
        assert_eq!(expand(text, '\\', &list).expect(text).text.len(), length, "{text}");
    }
    let names = "$x".repeat(100_000);
    assert_eq!(expand(&names, '\\', &VariableList::default()).expect("names").unset, ["x".repeat(1)]);
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            "$", "${", "}", "{", ":", "-", "+", "?", "#", "##", "%", "%%", "/", "//", "*", "\\", "`", "'", "\"", "<", "<<",
            " ", "\n", "A", "B", "UNSET", "0", "é", "\u{301}", "٣",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn nothing_makes_expansion_panic_or_point_outside(text in pieces(), value in pieces()) {
        let variables = VariableList(vec![("A".to_owned(), value), ("B".to_owned(), String::new())]);
        for escape in ['\\', '`'] {
            for error in [expand(&text, escape, &variables).err(), expand_words(&text, escape, &variables).err()] {
                prop_assert!(error.is_none_or(|error| text.get(error.at).is_some()));
            }
        }
        prop_assert!(expand_body(&text, &variables).err().is_none_or(|error| text.get(error.at).is_some()));
    }

    #[test]
    fn words_are_the_word_without_its_white_space(text in pieces()) {
        let variables = VariableList(vec![("A".to_owned(), "x y".to_owned())]);
        let word = expand(&text, '\\', &variables);
        let words = expand_words(&text, '\\', &variables);
        prop_assert_eq!(word.is_ok(), words.is_ok());
        if let (Ok(word), Ok((words, unset))) = (word, words) {
            let bare = |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>();
            prop_assert_eq!(bare(&word.text), bare(&words.concat()));
            prop_assert_eq!(word.unset, unset);
        }
    }

    #[test]
    fn text_without_special_letters_is_itself(text in "[^$'\"\\\\]*") {
        let expansion = expand(&text, '\\', &VariableList::default()).expect("nothing special");
        prop_assert_eq!(expansion.text, text);
    }
}
