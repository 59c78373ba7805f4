//! The ways in which BuildKit splits arguments into words.

use super::lines::Text;

/// The white space that separates words of FROM, COPY, EXPOSE and others: Go's `[\t\v\f\r ]`.
fn is_blank(letter: char) -> bool {
    matches!(letter, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// The first word, and what follows the blanks after it.
pub(super) fn split_first(text: Text<'_>) -> (Text<'_>, Option<Text<'_>>) {
    let letters = text.as_str();
    match letters.find(is_blank) {
        None => (text, None),
        Some(at) => {
            let rest = letters[at..].trim_start_matches(is_blank);
            (text.slice(0..at), Some(text.tail(letters.len() - rest.len())))
        }
    }
}

/// Words between blanks; quotes mean nothing.
pub(super) fn split_blanks(text: Text<'_>) -> Vec<Text<'_>> {
    let mut words = Vec::new();
    let mut rest = Some(text).filter(|text| !text.is_empty());
    while let Some(text) = rest {
        let (word, after) = split_first(text);
        words.push(word);
        rest = after;
    }
    words
}

/// Words between white space, where quotes and escapes keep white space within a word. Quotes and escapes stay, except for
/// an escape character that ends the text.
pub(super) fn split_quoted(text: Text<'_>, escape: char) -> Vec<Text<'_>> {
    let letters = text.as_str();
    let mut words = Vec::new();
    let mut start = None;
    let mut end = letters.len();
    let mut quote = None;
    let mut chars = letters.char_indices();
    while let Some((at, letter)) = chars.next() {
        match (start, quote) {
            (None, _) if letter.is_whitespace() => continue,
            (Some(begin), None) if letter.is_whitespace() => {
                words.push(text.slice(begin..at));
                start = None;
                continue;
            }
            _ => {}
        }
        start.get_or_insert(at);
        match quote {
            None if matches!(letter, '\'' | '"') => quote = Some(letter),
            Some(open) if letter == open => quote = None,
            // Nothing escapes within single quotes.
            _ if letter == escape && quote != Some('\'') && chars.next().is_none() => end = at,
            _ => {}
        }
    }
    if let Some(begin) = start.filter(|begin| *begin < end) {
        words.push(text.slice(begin..end));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::lines::{Lines, Logical};
    use super::*;

    fn quoted(source: &str) -> Vec<String> {
        let mut lines = Lines::new(source, 0);
        let Some(first) = lines.next() else { return Vec::new() };
        let line = Logical::read(first, &mut lines, '`');
        split_quoted(line.whole(), '\\').into_iter().map(|word| word.as_str().to_owned()).collect()
    }

    #[test]
    fn quotes_and_escapes_keep_spaces_in_a_word() {
        assert_eq!(quoted("a='b c' d\\ e \"f\\\" g\""), ["a='b c'", "d\\ e", "\"f\\\" g\""]);
        assert_eq!(quoted("it\\'s 'a\\' b"), ["it\\'s", "'a\\'", "b"]);
        assert_eq!(quoted("\"\" ''"), ["\"\"", "''"]);
        assert_eq!(quoted("\"open ended"), ["\"open ended"]);
    }

    #[test]
    fn an_escape_that_ends_the_text_is_dropped() {
        assert_eq!(quoted("a b\\"), ["a", "b"]);
        assert_eq!(quoted("a \\"), ["a"]);
        assert_eq!(quoted("\"a\\"), ["\"a"]);
    }
}
