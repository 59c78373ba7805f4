//! Physical lines, logical lines, and the way back from a logical line's bytes to the source's.
//!
//! A logical line is what BuildKit parses: continuations joined, comments and empty lines within them dropped. [`Text`] is
//! a part of one; every grammar works on `Text`s, so that no span is ever computed by hand.

use super::ast::Word;
use crate::diagnostic::{Span, Spanned};
use std::borrow::Cow;
use std::ops::Range;

/// The most bytes a physical line may have, its line end not counted (the buffer of Go's `bufio.Scanner`).
pub(super) const LONGEST_LINE: usize = 65_535;

/// One line of the source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Physical<'a> {
    /// Where it starts in the source.
    pub(super) start: usize,
    /// The line with its end.
    pub(super) raw: &'a str,
}

impl<'a> Physical<'a> {
    /// The line without its end.
    pub(super) fn content(&self) -> &'a str {
        self.raw.trim_end_matches(['\r', '\n'])
    }

    /// Its place, without its end.
    pub(super) fn span(&self) -> Span {
        Span::new(self.start, self.start + self.content().len())
    }

    /// Whether BuildKit refuses to read it.
    pub(super) fn is_too_long(&self) -> bool {
        self.raw.strip_suffix('\n').unwrap_or(self.raw).len() > LONGEST_LINE
    }
}

/// Reads a source line by line.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lines<'a> {
    /// Starts at a byte, which must be the start of a line.
    pub(super) fn new(source: &'a str, at: usize) -> Lines<'a> {
        Lines { source, at }
    }

    /// The start of the line that comes next.
    pub(super) fn next_start(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Physical<'a>;

    fn next(&mut self) -> Option<Physical<'a>> {
        let rest = &self.source[self.at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
        let line = Physical { start: self.at, raw: &rest[..length] };
        self.at += length;
        Some(line)
    }
}

/// A place in a logical line where the text of another physical line begins.
#[derive(Debug)]
struct Join {
    at: usize,
    source: usize,
}

/// Physical lines joined to one.
#[derive(Debug)]
pub(super) struct Logical<'a> {
    text: Cow<'a, str>,
    first: usize,
    joins: Vec<Join>,
    /// The first empty line within it.
    pub(super) empty_line: Option<Span>,
    /// Lines within it that are longer than [`LONGEST_LINE`].
    pub(super) too_long: Vec<Span>,
    /// Comments within it.
    pub(super) comments: Vec<Span>,
}

impl<'a> Logical<'a> {
    /// Joins a line with those that it is continued on.
    pub(super) fn read(first: Physical<'a>, lines: &mut Lines<'a>, escape: char) -> Logical<'a> {
        let content = first.content();
        let text = content.trim_start();
        let indent = content.len() - text.len();
        let too_long = if first.is_too_long() { vec![first.span()] } else { Vec::new() };
        let mut logical = Logical {
            text: Cow::Borrowed(text),
            first: first.start + indent,
            joins: Vec::new(),
            empty_line: None,
            too_long,
            comments: Vec::new(),
        };
        if let Some(text) = strip_continuation(text, escape) {
            logical.text = Cow::Owned(text.to_owned());
            logical.read_continuation(lines, escape);
        }
        logical
    }

    fn read_continuation(&mut self, lines: &mut Lines<'a>, escape: char) {
        for line in lines {
            if line.is_too_long() {
                self.too_long.push(line.span());
            }
            let content = line.content();
            let trimmed = content.trim_start();
            if trimmed.is_empty() {
                self.empty_line.get_or_insert(line.span());
                continue;
            }
            if trimmed.starts_with('#') {
                self.comments.push(line.span());
                continue;
            }
            let continued = strip_continuation(content, escape);
            self.joins.push(Join { at: self.text.len(), source: line.start });
            self.text.to_mut().push_str(continued.unwrap_or(content));
            if continued.is_none() {
                return;
            }
        }
    }

    /// All of it.
    pub(super) fn whole(&self) -> Text<'_> {
        Text { line: self, start: 0, end: self.text.len() }
    }

    /// The source's byte for a byte of the text.
    fn source_byte(&self, at: usize) -> usize {
        match self.joins.partition_point(|join| join.at <= at) {
            0 => self.first + at,
            after => self.joins[after - 1].source + at - self.joins[after - 1].at,
        }
    }
}

/// The line without its continuation mark, if it is continued: an escape character, not itself escaped, before the end.
fn strip_continuation(content: &str, escape: char) -> Option<&str> {
    let text = content.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!text.ends_with(escape)).then_some(text)
}

/// A part of a logical line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'l> {
    line: &'l Logical<'l>,
    start: usize,
    end: usize,
}

impl<'l> Text<'l> {
    /// The characters.
    pub(super) fn as_str(&self) -> &'l str {
        &self.line.text[self.start..self.end]
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// A part of it, by bytes from its start.
    pub(super) fn slice(&self, range: Range<usize>) -> Text<'l> {
        Text { line: self.line, start: self.start + range.start, end: self.start + range.end }
    }

    /// What follows a byte.
    pub(super) fn tail(&self, at: usize) -> Text<'l> {
        Text { start: self.start + at, ..*self }
    }

    /// Its characters and all that follow in its line.
    pub(super) fn with_rest_of_line(&self) -> &'l str {
        &self.line.text[self.start..]
    }

    /// The part without white space at its start.
    pub(super) fn trim_start(&self) -> Text<'l> {
        let text = self.as_str();
        self.tail(text.len() - text.trim_start().len())
    }

    /// The part without white space at its ends.
    pub(super) fn trim(&self) -> Text<'l> {
        let text = self.trim_start();
        let length = text.as_str().trim_end().len();
        text.slice(0..length)
    }

    /// Its place in the source; a part that is continued spans the continuation marks.
    pub(super) fn span(&self) -> Span {
        let start = self.line.source_byte(self.start);
        let end = if self.is_empty() { start } else { self.line.source_byte(self.end - 1) + 1 };
        Span::new(start, end)
    }

    /// Its characters with their place.
    pub(super) fn word(&self) -> Word {
        Spanned::new(self.as_str().to_owned(), self.span())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(source: &str) -> Logical<'_> {
        let mut lines = Lines::new(source, 0);
        let first = lines.next().expect("a line");
        Logical::read(first, &mut lines, '\\')
    }

    #[test]
    fn a_span_after_a_continuation_points_at_its_own_line() {
        let source = "RUN a \\\n  # note\n\n  bee \\ \t\r\ncee";
        let line = logical(source);
        assert_eq!(line.whole().as_str(), "RUN a   bee cee");
        let at = line.whole().as_str().find("bee").expect("bee");
        let span = line.whole().slice(at..at + 3).span();
        assert_eq!(&source[span.start..span.end], "bee");
        let span = line.whole().tail(12).span();
        assert_eq!(&source[span.start..span.end], "cee");
        assert_eq!(line.empty_line, Some(Span::new(17, 17)));
    }

    #[test]
    fn a_word_split_by_a_continuation_spans_both_parts() {
        let source = "RUN on\\\ntwo";
        let line = logical(source);
        let span = line.whole().tail(4).span();
        assert_eq!(&source[span.start..span.end], "on\\\ntwo");
    }

    #[test]
    fn an_escaped_escape_character_does_not_continue_a_line() {
        assert_eq!(logical("RUN a\\\\\nRUN b").whole().as_str(), "RUN a\\\\");
        assert_eq!(logical("\\\nRUN b").whole().as_str(), "RUN b");
        assert_eq!(logical("RUN a \\").whole().as_str(), "RUN a ");
    }

    #[test]
    fn the_longest_line_allowed_is_allowed() {
        for (length, too_long) in [(LONGEST_LINE, false), (LONGEST_LINE + 1, true)] {
            for end in ["", "\n"] {
                let source = format!("{}{end}", "a".repeat(length));
                assert_eq!(Lines::new(&source, 0).next().expect("a line").is_too_long(), too_long, "{length} {end:?}");
            }
        }
    }
}
