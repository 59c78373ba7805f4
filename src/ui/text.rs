//! Turns a command's bytes into lines that are safe to print, and numbers into words.

use std::time::{Duration, Instant};

/// The longest line that is held to be joined; what is longer is cut into several.
const LONGEST: usize = 64 << 10;

/// Whether a line stays on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    /// It ended with a line feed (or with the command).
    Whole,
    /// A carriage return came after it: a terminal would have overwritten it.
    Overwritten,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// When its first byte came.
    pub(super) at: Instant,
    /// Its text without control characters.
    pub(super) text: String,
    /// Whether it was overwritten.
    pub(super) kind: LineKind,
}

/// Joins pieces of output into lines.
#[derive(Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    began: Option<Instant>,
    returned: bool,
    /// Whether this line is written over another one.
    overwrites: bool,
}

impl Lines {
    /// Adds a piece that came at a time; gives the lines that it ended.
    pub(super) fn push(&mut self, bytes: &[u8], at: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.push(self.take(LineKind::Whole, at)),
                b'\r' => self.returned = true,
                _ => {
                    if self.returned {
                        let line = self.take(LineKind::Overwritten, at);
                        lines.extend((!line.text.trim().is_empty()).then_some(line));
                    } else if self.line.len() >= LONGEST {
                        lines.push(self.take(LineKind::Whole, at));
                    }
                    self.began.get_or_insert(at);
                    self.line.push(*byte);
                }
            }
        }
        lines
    }

    /// The unfinished line's beginning, if it can be printed already: not that of a line that may be overwritten.
    pub(super) fn open(&self) -> Option<Line> {
        self.current().filter(|_| !self.returned && !self.overwrites)
    }

    /// The unfinished line as a terminal shows it now.
    pub(super) fn current(&self) -> Option<Line> {
        let at = self.began?;
        let text = sanitize(&self.line, Ending::Open);
        (!text.is_empty()).then_some(Line { at, text, kind: LineKind::Whole })
    }

    /// The unfinished line, now that nothing follows.
    pub(super) fn rest(&mut self) -> Option<Line> {
        let at = self.began?;
        Some(self.take(LineKind::Whole, at))
    }

    fn take(&mut self, kind: LineKind, at: Instant) -> Line {
        self.returned = false;
        self.overwrites = kind == LineKind::Overwritten;
        let at = self.began.take().unwrap_or(at);
        let bytes = std::mem::take(&mut self.line);
        Line { at, text: sanitize(&bytes, Ending::Complete), kind }
    }
}

/// Whether more bytes of a text may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    Complete,
}

/// Text in one line that cannot move the cursor: for titles, notes and messages.
pub(super) fn one_line(text: &str) -> String {
    sanitize(text.replace(['\n', '\r'], " ").as_bytes(), Ending::Complete)
}

/// Leaves tabs, drops terminal sequences whole (an escaped colour is noise), and escapes all other control characters.
fn sanitize(bytes: &[u8], ending: Ending) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let plain = rest.iter().position(|byte| *byte == 0x1b).unwrap_or(rest.len());
        let (before, after) = rest.split_at(plain);
        let incomplete_is_last = after.is_empty() && ending == Ending::Open;
        push_decoded(&mut text, before, if incomplete_is_last { Ending::Open } else { Ending::Complete });
        if after.is_empty() {
            break;
        }
        match sequence_length(after) {
            Some(length) => rest = &after[length..],
            None => break,
        }
    }
    text
}

/// The bytes of the terminal sequence at the start of a text (ECMA-48 §5.4, and OSC up to BEL or ST); none if it
/// has no end.
fn sequence_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'[' => {
            let last = bytes[2..].iter().position(|byte| !(0x20..=0x3f).contains(byte))?;
            // A byte that cannot be part of a sequence ends it and is text again.
            Some(2 + last + usize::from((0x40..=0x7e).contains(&bytes[2 + last])))
        }
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let end = bytes.iter().skip(2).position(|byte| matches!(byte, 0x07 | 0x1b))? + 2;
            Some(if bytes[end] == 0x1b && bytes.get(end + 1) == Some(&b'\\') { end + 2 } else { end + 1 })
        }
        0x20..=0x2f => {
            let last = bytes[2..].iter().position(|byte| !(0x20..=0x2f).contains(byte))?;
            Some(3 + last)
        }
        0x30..=0x7e => Some(2),
        _ => Some(1),
    }
}

fn push_decoded(text: &mut String, bytes: &[u8], ending: Ending) {
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        for character in chunk.valid().chars() {
            if character != '\t' && character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        let cut_by_the_end = chunks.peek().is_none() && ending == Ending::Open;
        if !chunk.invalid().is_empty() && !cut_by_the_end {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Bytes as BuildKit writes them: decimal units, two digits (`1.05MB`), whole bytes without.
pub(super) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// Done and all bytes as BuildKit writes them, empty where nothing is known.
pub(super) fn amount_text(current: u64, total: u64) -> String {
    match (current, total) {
        (0, 0) => String::new(),
        (current, 0) => bytes_text(current),
        (current, total) => format!("{} / {}", bytes_text(current), bytes_text(total)),
    }
}

/// Seconds since a step's start as they stand before its output: three digits that matter.
pub(super) fn stamp_text(since_start: Duration) -> String {
    let seconds = since_start.as_secs_f64();
    let digits = match seconds {
        _ if seconds < 10.0 => 3,
        _ if seconds < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.digits$}")
}

/// The columns that a text takes on a terminal.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(character_columns).sum()
}

/// A text cut to fit into some columns.
pub(super) fn cut(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += character_columns(character);
        if used > width {
            return &text[..at];
        }
    }
    text
}

/// Columns of one character: 0 for marks that combine, 2 for the wide East Asian and emoji blocks (UAX #11), else 1.
fn character_columns(character: char) -> usize {
    match u32::from(character) {
        0x300..=0x36f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f | 0x2e80..=0x303e | 0x3041..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
        0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1f64f | 0x1f680..=0x1f6ff => 2,
        0x1f900..=0x1f9ff | 0x1fa70..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<(String, LineKind)> {
        let mut lines = Lines::default();
        let at = Instant::now();
        let mut all: Vec<Line> = pieces.iter().flat_map(|piece| lines.push(piece, at)).collect();
        all.extend(lines.rest());
        all.into_iter().map(|line| (line.text, line.kind)).collect()
    }

    #[test]
    fn pieces_are_joined_and_carriage_returns_overwrite() {
        use LineKind::{Overwritten, Whole};
        type Pieces = &'static [&'static [u8]];
        let cases: [(Pieces, &[(&str, LineKind)]); 7] = [
            (&[b"a", b"b\nc"], &[("ab", Whole), ("c", Whole)]),
            (&[b"a\r", b"\nb\r\n"], &[("a", Whole), ("b", Whole)]),
            (&[b"1%\r2%", b"\r3%\n"], &[("1%", Overwritten), ("2%", Overwritten), ("3%", Whole)]),
            (&[b"50%\r   \rdone\n"], &[("50%", Overwritten), ("done", Whole)]),
            (&[b"\n\n"], &[("", Whole), ("", Whole)]),
            (&[b"99%\r"], &[("99%", Whole)]),
            (&[], &[]),
        ];
        for (pieces, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(text, kind)| ((*text).to_owned(), *kind)).collect();
            assert_eq!(split(pieces), expected, "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_instead_of_kept() {
        let lines = split(&[&vec![b'x'; 3 * LONGEST]]);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|(text, _)| text.len() == LONGEST));
    }

    #[test]
    fn output_cannot_move_the_cursor() {
        for (bytes, text) in [
            (b"a\tb".as_slice(), "a\tb"),
            (b"\x1b[1;31mred\x1b[0m", "red"),
            (b"\x1b[2J\x1b[Hgone", "gone"),
            (b"\x1b]0;title\x07x\x1b]8;;http://y\x1b\\link", "xlink"),
            (b"bell\x07 back\x08", "bell\\u{7} back\\u{8}"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            ("\u{9b}2J é".as_bytes(), "\\u{9b}2J é"),
            (b"cut\x1b[3", "cut"),
            (b"\x1b(Bascii", "ascii"),
            (b"\x1b[\xc3\xa9", "é"),
        ] {
            assert_eq!(sanitize(bytes, Ending::Complete), text, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_printed_of_an_open_line_stays_its_beginning() {
        let bytes = "né\u{1b}[1mß\u{1b}]0;t\u{7}漢 ok".as_bytes();
        let whole = sanitize(bytes, Ending::Complete);
        for end in 0..bytes.len() {
            let open = sanitize(&bytes[..end], Ending::Open);
            assert!(whole.starts_with(&open), "{open:?} is no beginning of {whole:?}");
        }
    }

    #[test]
    fn numbers_read_as_in_buildkit() {
        assert_eq!(bytes_text(0), "0B");
        assert_eq!(bytes_text(999), "999B");
        assert_eq!(bytes_text(1234), "1.23kB");
        assert_eq!(bytes_text(3_200_000), "3.20MB");
        assert_eq!(bytes_text(u64::MAX), "18.45EB");
        assert_eq!(amount_text(0, 0), "");
        assert_eq!(amount_text(5, 0), "5B");
        assert_eq!(amount_text(0, 5), "0B / 5B");
        assert_eq!(stamp_text(Duration::from_millis(1234)), "1.234");
        assert_eq!(stamp_text(Duration::from_millis(12_345)), "12.35");
        assert_eq!(stamp_text(Duration::from_millis(123_456)), "123.5");
    }

    #[test]
    fn wide_characters_are_counted_when_a_line_is_cut() {
        assert_eq!(columns("漢字ab"), 6);
        assert_eq!(cut("漢字ab", 3), "漢");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("e\u{301}e", 1), "e\u{301}");
    }
}
