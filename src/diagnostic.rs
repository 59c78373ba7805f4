//! Messages about a place in a text: what is wrong, where, and what to do.
//!
//! Contract: a [`Diagnostic`] always points at bytes of one source; rendering never fails and never prints control
//! characters of the source. It knows nothing of Dockerfiles.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// A range of bytes in a source text, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// Makes a span.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// The smallest span that holds both.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A value and the place where it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands in the source.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Joins a value with its place.
    pub fn new(value: T, span: Span) -> Spanned<T> {
        Spanned { value, span }
    }
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// The build cannot start.
    Error,
}

/// One message about one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The rule's name as `--check` prints it (`StageNameCasing`), where there is one.
    pub rule: Option<&'static str>,
    /// What is wrong, in the words a BuildKit user knows.
    pub message: String,
    /// The words that are underlined.
    pub span: Span,
    /// What stands beside the underline.
    pub label: Option<String>,
    /// What to do ("did you mean …").
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, rule: None, message: message.into(), span, label: None, help: None }
    }

    /// A warning of a named rule at a place.
    pub fn warning(rule: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        let severity = Severity::Warning;
        Diagnostic { severity, rule: Some(rule), message: message.into(), span, label: None, help: None }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Adds what stands beside the underline.
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }
}

/// A byte that no UTF-8 text has, and where the text has U+FFFD in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidByte {
    /// The first byte of what is invalid.
    pub byte: u8,
    /// The place of its stand-in.
    pub span: Span,
}

/// A text that diagnostics point into, with the name it is shown under.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name as people typed it (`Dockerfile`, `-`).
    pub name: String,
    /// The whole text.
    pub text: String,
    /// What in it stands for bytes that were no UTF-8, in order.
    pub invalid: Vec<InvalidByte>,
    /// The text without passwords, each byte where it was.
    shown: String,
    line_starts: Vec<usize>,
}

impl Source {
    /// Keeps a text and finds its lines.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        let text = text.into();
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { name: name.into(), shown: without_passwords(&text), text, invalid: Vec::new(), line_starts }
    }

    /// Keeps what should be UTF-8, and notes what is not.
    pub fn from_bytes(name: impl Into<String>, bytes: &[u8]) -> Source {
        let (mut text, mut invalid) = (String::with_capacity(bytes.len()), Vec::new());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            if let Some(byte) = chunk.invalid().first() {
                let start = text.len();
                text.push(char::REPLACEMENT_CHARACTER);
                invalid.push(InvalidByte { byte: *byte, span: Span::new(start, text.len()) });
            }
        }
        Source { invalid, ..Source::new(name, text) }
    }

    /// The text as people may see it, with stars in the place of passwords in addresses; places in it are the same.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The line that holds a byte, counted from 1.
    pub fn line(&self, byte: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= byte).max(1)
    }

    /// The text of a line (counted from 1) without its end, as people may see it.
    pub fn line_text(&self, line: usize) -> &str {
        let start = self.line_starts.get(line - 1).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).copied().unwrap_or(self.text.len());
        self.shown[start..end].trim_end_matches(['\n', '\r'])
    }

    /// Draws a diagnostic with its line, its underline and its help.
    pub fn render(&self, diagnostic: &Diagnostic, color: Color) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let span = self.clamp(diagnostic.span);
        let mut annotation = AnnotationKind::Primary.span(span);
        if let Some(label) = &diagnostic.label {
            annotation = annotation.label(label.as_str());
        }
        let snippet = Snippet::source(self.shown.as_str()).path(self.name.as_str()).annotation(annotation);
        let mut title = level.primary_title(diagnostic.message.as_str());
        if let Some(rule) = diagnostic.rule {
            title = title.id(rule);
        }
        let mut report: Vec<Group<'_>> = vec![title.element(snippet)];
        if let Some(help) = &diagnostic.help {
            let group = report.remove(0).element(Level::HELP.message(help.as_str()));
            report.push(group);
        }
        let renderer = match color {
            Color::Always => Renderer::styled(),
            Color::Never => Renderer::plain(),
        };
        renderer.render(&report)
    }

    /// A span that lies within the text, on character boundaries, and is not empty where the text is not.
    fn clamp(&self, span: Span) -> std::ops::Range<usize> {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = span.end.clamp(start, self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }
}

/// Puts stars in the place of who comes to an address, and with which password or token. The name alone, of `ssh://git@host`,
/// is no secret, nor is a variable.
fn without_passwords(text: &str) -> String {
    const MARK: &str = "://";
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find(MARK) {
        let (before, after) = rest.split_at(place + MARK.len());
        shown.push_str(before);
        let ends = |character: char| character.is_whitespace() || "/?#\"'`<>[]".contains(character);
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        let who = authority.rfind('@').map_or("", |at| &authority[..at]);
        let password = who.rsplit(':').next().unwrap_or_default();
        let is_secret = !password.starts_with('$')
            && (who.contains(':') || ["http://", "https://"].iter().any(|scheme| before.ends_with(scheme)));
        shown.push_str(&if is_secret { "*".repeat(who.len()) } else { who.to_owned() });
        rest = &after[who.len()..];
    }
    shown + rest
}

/// Whether rendered text carries terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// ANSI colours.
    Always,
    /// Plain text.
    Never,
}

/// The candidate nearest to a mistyped word, if one is near enough to be meant.
///
/// At most a third of the word's letters (and at least one) may differ, so short words do not match everything.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let length = word.chars().count();
    let limit = (length / 3).max(1);
    candidates
        .into_iter()
        // Each letter too many or too few is a difference already.
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= limit)
        .map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance > 0 && *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let width = right.len() + 1;
    let mut table = vec![0usize; (left.len() + 1) * width];
    for row in 0..=left.len() {
        for column in 0..=right.len() {
            let value = if row == 0 || column == 0 {
                row + column
            } else {
                let at = |r: usize, c: usize| table[r * width + c];
                let replaced = at(row - 1, column - 1) + usize::from(left[row - 1] != right[column - 1]);
                let mut best = replaced.min(at(row - 1, column) + 1).min(at(row, column - 1) + 1);
                let swapped =
                    row > 1 && column > 1 && left[row - 1] == right[column - 2] && left[row - 2] == right[column - 1];
                if swapped {
                    best = best.min(at(row - 2, column - 2) + 1);
                }
                best
            };
            table[row * width + column] = value;
        }
    }
    table[left.len() * width + right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendering_underlines_the_words_on_their_line_and_adds_help() {
        let source = Source::new("Dockerfile", "FROM a\nRUM b\n");
        let diagnostic = Diagnostic::error(Span::new(7, 10), "unknown instruction: RUM").help("did you mean RUN?");
        let text = source.render(&diagnostic, Color::Never);
        assert!(text.contains("error: unknown instruction: RUM"), "{text}");
        assert!(text.contains("Dockerfile:2:1"), "{text}");
        assert!(text.contains("^^^"), "{text}");
        assert!(text.contains("help: did you mean RUN?"), "{text}");
    }

    #[test]
    fn a_password_in_an_address_is_shown_nowhere() {
        for (text, shown) in [
            ("ADD http://me:secret@host/a b", "ADD http://*********@host/a b"),
            ("ADD \"https://token@host/a.git\"", "ADD \"https://*****@host/a.git\""),
            ("http://a:é@b ftp://x:y@z", "http://****@b ftp://***@z"),
            ("ssh://git@host/a http://host/a@b x@y", "ssh://git@host/a http://host/a@b x@y"),
            ("http://me:${PASSWORD}@host", "http://me:${PASSWORD}@host"),
            ("://", "://"),
        ] {
            let source = Source::new("Dockerfile", text);
            assert_eq!((source.shown(), source.line_text(1)), (shown, shown));
            assert_eq!(source.text, text);
            assert!(!source.render(&Diagnostic::error(Span::new(0, 3), "x"), Color::Never).contains("secret"));
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_known_by_their_place() {
        let source = Source::from_bytes("Dockerfile", b"\xefa\xe9\xc3\xa9\xe2\x82");
        assert_eq!(source.text, "\u{fffd}a\u{fffd}\u{e9}\u{fffd}");
        let found: Vec<_> = source.invalid.iter().map(|invalid| (invalid.byte, invalid.span.start)).collect();
        assert_eq!(found, [(0xef, 0), (0xe9, 4), (0xe2, 9)]);
        assert_eq!(Source::from_bytes("Dockerfile", "\u{fffd}".as_bytes()).invalid, []);
    }

    #[test]
    fn rendering_survives_spans_outside_the_text() {
        let source = Source::new("-", "é");
        for span in [Span::new(1, 1), Span::new(0, 1), Span::new(5, 9), Span::new(2, 0)] {
            source.render(&Diagnostic::error(span, "x"), Color::Never);
        }
    }

    #[test]
    fn suggestions_are_near_words_only() {
        assert_eq!(did_you_mean("RUM", ["RUN", "COPY"]), Some("RUN"));
        assert_eq!(did_you_mean("COYP", ["RUN", "COPY"]), Some("COPY"));
        assert_eq!(did_you_mean("ENTRYPONIT", ["ENTRYPOINT"]), Some("ENTRYPOINT"));
        assert_eq!(did_you_mean("FOO", ["RUN", "COPY"]), None);
    }
}
