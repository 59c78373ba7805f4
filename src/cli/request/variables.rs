//! Variables of a command: `--env` and `--env-file`, by docker's rules (its `kvfile` package).

use std::collections::BTreeMap;

use super::InvalidRequest;
use super::fields::Given;
use crate::cli::environment::Environment;

/// What docker takes for white space in such a file.
const BLANKS: [char; 2] = [' ', '\t'];

/// The files' variables, then the flags', which win by being later.
pub(super) fn variables(
    files: &[String],
    texts: &[String],
    environment: &Environment,
) -> Result<Vec<(String, String)>, InvalidRequest> {
    let mut variables = Vec::new();
    for file in files {
        let given = Given { flag: "--env-file", value: file, expected: "a file of NAME=VALUE lines" };
        let content = std::fs::read(environment.absolute(file)).map_err(|error| given.because(&error.to_string()))?;
        let of_file = lines(&content, &environment.variables).map_err(|reason| given.because(&reason))?;
        variables.extend(of_file);
    }
    for text in texts {
        let (name, value) = named(text, &environment.variables);
        if name.is_empty() {
            return Err(Given { flag: "--env", value: text, expected: "NAME=VALUE or NAME" }.invalid());
        }
        variables.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(variables)
}

/// `NAME=VALUE`; a name alone has the environment's value, and none where that has none.
fn named<'a>(text: &'a str, known: &BTreeMap<String, String>) -> (&'a str, Option<String>) {
    match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, known.get(text).cloned()),
    }
}

/// The lines of a file: values are taken as they are, with quotes, blanks and `#` in them; empty lines and those that begin
/// with `#` say nothing. Gives what is wrong with which line.
fn lines(content: &[u8], known: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, String> {
    let mut variables = Vec::new();
    // What editors of Windows put in front.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let number = number + 1;
        let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line))
            .map_err(|_| format!("line {number} is not UTF-8"))?
            .trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = named(line, known);
        if name.is_empty() {
            return Err(format!("line {number} has no name before its `=`"));
        }
        if name.contains(BLANKS) {
            return Err(format!("line {number}: the name {name:?} has blanks in it"));
        }
        variables.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Vec<(String, String)>, String> {
        lines(content.as_bytes(), &BTreeMap::from([("OUTER".to_owned(), "from outside".to_owned())]))
    }

    #[test]
    fn lines_mean_what_they_mean_to_docker() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let cases = [
            ("A=1\nB=2", vec![pair("A", "1"), pair("B", "2")]),
            ("\u{feff}A=1\r\nB=2\r\n", vec![pair("A", "1"), pair("B", "2")]),
            ("# A=1\n\n  \t\n  # B=2\n  C=3 # kept", vec![pair("C", "3 # kept")]),
            (
                "A=\"quoted\"\nB= blank \nC=a=b\nD=",
                vec![pair("A", "\"quoted\""), pair("B", " blank "), pair("C", "a=b"), pair("D", "")],
            ),
            ("OUTER\nNOWHERE", vec![pair("OUTER", "from outside")]),
            ("A=1\nA=2", vec![pair("A", "1"), pair("A", "2")]),
        ];
        for (content, expected) in cases {
            assert_eq!(read(content), Ok(expected), "{content:?}");
        }
    }

    #[test]
    fn what_is_no_variable_is_told_with_its_line() {
        assert_eq!(read("A=1\n=2").unwrap_err(), "line 2 has no name before its `=`");
        assert_eq!(read("A B=1").unwrap_err(), "line 1: the name \"A B\" has blanks in it");
        assert_eq!(read("A =1").unwrap_err(), "line 1: the name \"A \" has blanks in it");
        assert_eq!(lines(b"A=1\nB=\xff", &BTreeMap::new()).unwrap_err(), "line 2 is not UTF-8");
    }
}
