//! Here-documents: finding `<<NAME` words in a logical line, and reading the bodies after it.
//!
//! Finding is done as BuildKit does it, by splitting the whole line like a shell with the backslash as the escape character
//! whatever the file says. A line that such a shell could not read (an open quote, a bad `${`) has no here-documents.

use super::ast::Heredoc;
use super::lines::{Lines, Text};
use crate::diagnostic::{Diagnostic, Span};

/// A `<<NAME` word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// The delimiter without quotes.
    pub(super) name: String,
    descriptor: u32,
    expand: bool,
    strip_tabs: bool,
}

/// A here-document as it stands in the source.
#[derive(Debug)]
pub(super) struct RawHeredoc<'a> {
    /// The word that announced it.
    pub(super) marker: Marker,
    /// The body as written.
    pub(super) raw: &'a str,
    /// The body's place.
    span: Span,
    /// Where the terminator line ends, its line end not counted.
    pub(super) end: usize,
}

impl RawHeredoc<'_> {
    /// The tree's form.
    pub(super) fn to_ast(&self) -> Heredoc {
        let marker = &self.marker;
        Heredoc {
            name: marker.name.clone(),
            descriptor: marker.descriptor,
            expand: marker.expand,
            strip_tabs: marker.strip_tabs,
            body: self.raw.to_owned(),
            span: self.span,
        }
    }
}

/// The `<<NAME` words of a line, in order, each with its place.
pub(super) fn markers(line: Text<'_>) -> Vec<(Marker, Span)> {
    let letters = line.as_str();
    if !letters.contains("<<") {
        return Vec::new();
    }
    let words = shell_words(letters).unwrap_or_default();
    let marked = words.into_iter().filter_map(|(start, end)| Some((marker(&letters[start..end])?, start, end)));
    marked.map(|(marker, start, end)| (marker, line.slice(start..end).span())).collect()
}

/// Reads the bodies that follow a line. One that is not ended is an error and takes the rest of the file with it.
pub(super) fn read_bodies<'a>(
    markers: Vec<(Marker, Span)>,
    source: &'a str,
    lines: &mut Lines<'a>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Vec<RawHeredoc<'a>>> {
    let mut bodies = Vec::with_capacity(markers.len());
    for (marker, span) in markers {
        match read_body(marker, source, lines, diagnostics) {
            Ok(body) => bodies.push(body),
            Err(name) => {
                let help = format!("end it with a line that holds {name} and nothing else");
                diagnostics.push(Diagnostic::error(span, "unterminated heredoc").help(help));
                return None;
            }
        }
    }
    Some(bodies)
}

fn read_body<'a>(
    marker: Marker,
    source: &'a str,
    lines: &mut Lines<'a>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<RawHeredoc<'a>, String> {
    let mut start = None;
    for line in lines {
        let start = *start.get_or_insert(line.start);
        if line.is_too_long() {
            diagnostics.push(super::document::line_too_long(line.span()));
        }
        let content = line.content();
        let candidate = if marker.strip_tabs { content.trim_start_matches('\t') } else { content };
        if candidate == marker.name {
            let span = Span::new(start, line.start);
            return Ok(RawHeredoc { marker, raw: &source[start..line.start], span, end: line.span().end });
        }
    }
    Err(marker.name)
}

/// Reads a word as `[descriptor]<<[-]name`, where it is one.
pub(super) fn marker(word: &str) -> Option<Marker> {
    let (digits, rest) = word.split_once("<<")?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(|letter: char| letter.is_ascii_whitespace());
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let (name, quoted) = unquote(rest)?;
    // A number too large for a descriptor is a descriptor that no command has.
    let descriptor = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u32::MAX) };
    Some(Marker { name, descriptor, expand: !quoted, strip_tabs })
}

/// A single word without its quotes and escapes, and whether it had quotes; `None` for several words or an open quote.
fn unquote(word: &str) -> Option<(String, bool)> {
    let mut name = String::new();
    let mut quoted = false;
    let mut quote = None;
    let mut letters = word.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, '\'' | '"') => {
                quote = Some(letter);
                quoted = true;
            }
            (Some(open), _) if letter == open => quote = None,
            (None, '\\') => name.extend(letters.next()),
            (Some('"'), '\\') => match letters.next_if(|next| matches!(next, '"' | '$' | '\\')) {
                Some(escaped) => name.push(escaped),
                None => name.push('\\'),
            },
            (None, _) if letter.is_whitespace() => return letters.all(char::is_whitespace).then_some((name, quoted)),
            _ => name.push(letter),
        }
    }
    (quote.is_none() && !name.is_empty()).then_some((name, quoted))
}

/// Splits a line at white space outside quotes, into byte ranges; `None` where a shell would find it incomplete.
fn shell_words(line: &str) -> Option<Vec<(usize, usize)>> {
    let bytes = line.as_bytes();
    let mut words = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let letter = line[at..].chars().next()?;
        if letter.is_whitespace() {
            if start < at {
                words.push((start, at));
            }
            at += letter.len_utf8();
            start = at;
            continue;
        }
        at = match letter {
            '\'' => at + 2 + line[at + 1..].find('\'')?,
            '"' => after_double_quote(line, at + 1, 0)?,
            '$' => after_dollar(line, at + 1, 0)?,
            '\\' => at + 1 + line[at + 1..].chars().next().map_or(0, char::len_utf8),
            // White space may stand between the mark and the name.
            '<' if bytes.get(at + 1) == Some(&b'<') => {
                line.len() - line[at + 2..].trim_start_matches(['\t', '\r', ' ']).len()
            }
            _ => at + letter.len_utf8(),
        };
    }
    if start < at {
        words.push((start, at));
    }
    Some(words)
}

/// Substitutions nested deeper than this are taken as incomplete, so that no line overflows the stack.
const DEEPEST: usize = 100;

fn after_double_quote(line: &str, start: usize, depth: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let letter = line[at..].chars().next()?;
        at = match letter {
            '"' => return Some(at + 1),
            '$' => after_dollar(line, at + 1, depth)?,
            '\\' if line[at + 1..].starts_with(['"', '$', '\\']) => at + 2,
            _ => at + letter.len_utf8(),
        };
    }
}

/// The end of what follows a dollar sign: a name (passed over by the caller's loop) or `{…}`.
fn after_dollar(line: &str, start: usize, depth: usize) -> Option<usize> {
    if depth > DEEPEST {
        return None;
    }
    let Some(inside) = line[start..].strip_prefix('{') else {
        // `$'` and the like are a dollar sign and a quote; only special names take a letter.
        return Some(start + usize::from(line[start..].starts_with(['@', '*', '#', '?', '-', '$', '!'])));
    };
    if inside.starts_with(['{', '}', ':']) {
        return None;
    }
    let mut at = line.len() - after_name(inside).len();
    let operator = line[at..].chars().next()?;
    at += operator.len_utf8();
    match operator {
        '}' => Some(at),
        ':' if line[at..].starts_with(['+', '-', '?']) => after_word(line, at + 1, '}', depth),
        '+' | '-' | '?' | '#' | '%' => after_word(line, at, '}', depth),
        '/' => {
            at += usize::from(line[at..].starts_with('/'));
            let replacement = after_word(line, at, '/', depth)?;
            after_word(line, replacement, '}', depth)
        }
        _ => None,
    }
}

fn after_name(text: &str) -> &str {
    if text.starts_with(|letter: char| letter.is_numeric()) {
        return text.trim_start_matches(char::is_numeric);
    }
    if let Some(rest) = text.strip_prefix(['@', '*', '#', '?', '-', '$', '!']) {
        return rest;
    }
    text.trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_')
}

fn after_word(line: &str, start: usize, stop: char, depth: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let letter = line[at..].chars().next()?;
        if letter == stop {
            return Some(at + 1);
        }
        at = match letter {
            '\'' => at + 2 + line[at + 1..].find('\'')?,
            '"' => after_double_quote(line, at + 1, depth + 1)?,
            '$' => after_dollar(line, at + 1, depth + 1)?,
            '\\' => at + 1 + line[at + 1..].chars().next()?.len_utf8(),
            _ => at + letter.len_utf8(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<String> {
        let words = shell_words(line).unwrap_or_default();
        words.into_iter().filter_map(|(start, end)| marker(&line[start..end])).map(|found| found.name).collect()
    }

    #[test]
    fn markers_are_found_as_a_shell_would() {
        let cases: [(&str, &[&str]); 16] = [
            ("RUN <<EOF", &["EOF"]),
            ("RUN cat <<A >x 3<<-B", &["A", "B"]),
            ("RUN cat << A", &["A"]),
            ("RUN cat <<\"A B\"", &["A B"]),
            ("RUN cat <<'A'\"B\"C", &["ABC"]),
            ("RUN cat <<E\\OF", &["EOF"]),
            ("RUN cat '<<EOF'", &[]),
            ("RUN cat \"<<EOF\"", &[]),
            ("RUN cat \\<<EOF", &[]),
            ("RUN cat <<<EOF", &[]),
            ("RUN cat a<<EOF", &[]),
            ("RUN cat <<", &[]),
            ("RUN it's <<EOF", &[]),
            ("RUN ${a <<EOF", &[]),
            ("RUN ${a@Q} <<EOF", &[]),
            ("RUN ${a:-\"}\"} ${b/x/y} $'c' <<EOF", &["EOF"]),
        ];
        for (line, expected) in cases {
            assert_eq!(names(line), expected, "{line}");
        }
    }

    #[test]
    fn quoting_any_part_of_the_name_turns_expansion_off() {
        for (word, expand) in [("<<EOF", true), ("<<'EOF'", false), ("<<E\"O\"F", false), ("<<E\\OF", true)] {
            assert_eq!(marker(word).map(|found| found.expand), Some(expand), "{word}");
        }
    }

    #[test]
    fn deep_substitutions_overflow_nothing() {
        assert_eq!(names(&format!("RUN {} <<EOF", "${a:-".repeat(100_000))), [""; 0]);
        assert_eq!(names(&format!("RUN {} <<EOF", "\"${a:-".repeat(100_000))), [""; 0]);
    }
}
