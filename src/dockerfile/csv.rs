//! One line of comma separated fields, as Go's `encoding/csv` reads it: the value of `--mount` and `--device`.

use std::ops::Range;

/// A field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Its text, quotes removed.
    pub(super) text: String,
    /// Its bytes in the line, quotes included.
    pub(super) range: Range<usize>,
    /// Whether it stands in quotes.
    pub(super) quoted: bool,
}

/// Why a line is refused: Go's words, and the byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CsvError {
    /// What is wrong.
    pub(super) message: String,
    /// Where.
    pub(super) at: usize,
}

/// Splits a line.
pub(super) fn fields(line: &str) -> Result<Vec<Field>, CsvError> {
    if line.is_empty() {
        return Err(CsvError { message: "EOF".to_owned(), at: 0 });
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let field = if line[at..].starts_with('"') { quoted(line, at)? } else { plain(line, at)? };
        at = field.range.end;
        fields.push(field);
        if at == line.len() {
            return Ok(fields);
        }
        // The field ended at a comma; what follows is a field even if it is empty.
        at += 1;
    }
}

fn plain(line: &str, start: usize) -> Result<Field, CsvError> {
    let end = line[start..].find(',').map_or(line.len(), |comma| start + comma);
    match line[start..end].find('"') {
        Some(quote) => Err(fault(start + quote, "bare \" in non-quoted field")),
        None => Ok(Field { text: line[start..end].to_owned(), range: start..end, quoted: false }),
    }
}

fn quoted(line: &str, start: usize) -> Result<Field, CsvError> {
    let unclosed = || fault(line.len(), "extraneous or missing \" in quoted-field");
    let mut text = String::new();
    let mut at = start + 1;
    loop {
        let quote = at + line[at..].find('"').ok_or_else(unclosed)?;
        text.push_str(&line[at..quote]);
        at = quote + 1;
        match line.as_bytes().get(at) {
            Some(b'"') => {
                text.push('"');
                at += 1;
            }
            None | Some(b',') => return Ok(Field { text, range: start..at, quoted: true }),
            Some(_) => return Err(fault(quote, "extraneous or missing \" in quoted-field")),
        }
    }
}

fn fault(at: usize, what: &str) -> CsvError {
    CsvError { message: format!("parse error on line 1, column {}: {what}", at + 1), at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Result<Vec<String>, String> {
        let fields = fields(line).map_err(|error| error.message)?;
        Ok(fields.into_iter().map(|field| field.text).collect())
    }

    #[test]
    fn quotes_hold_commas_and_doubled_quotes() {
        assert_eq!(texts("a,b=c"), Ok(vec!["a".into(), "b=c".into()]));
        assert_eq!(texts("\"a,b\",c"), Ok(vec!["a,b".into(), "c".into()]));
        assert_eq!(texts("\"a\"\"b\""), Ok(vec!["a\"b".into()]));
        assert_eq!(texts("a,,"), Ok(vec!["a".into(), String::new(), String::new()]));
    }

    #[test]
    fn misplaced_quotes_are_refused_in_gos_words() {
        assert_eq!(texts("a\"b"), Err("parse error on line 1, column 2: bare \" in non-quoted field".into()));
        assert_eq!(
            texts("\"a\"b"),
            Err("parse error on line 1, column 3: extraneous or missing \" in quoted-field".into())
        );
        assert_eq!(
            texts("\"a"),
            Err("parse error on line 1, column 3: extraneous or missing \" in quoted-field".into())
        );
        assert_eq!(texts(""), Err("EOF".into()));
    }
}
