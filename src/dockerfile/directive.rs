//! Parser directives: `# syntax=`, `# escape=` and `# check=` comments at the very head of a file.
//!
//! A file in another language than this one says so in comments of its own: `// syntax=…`, or as JSON `{"syntax": "…"}`.
//! Whether its frontend can be run is not known here.

use super::ast::{Directives, Word};
use super::lines::Lines;
use crate::diagnostic::{Diagnostic, Span, Spanned};

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The head of a file.
#[derive(Debug)]
pub(super) struct Head {
    /// What it says.
    pub(super) directives: Directives,
    /// Where the rest of the file starts.
    pub(super) end: usize,
    /// What is wrong with it.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Reads directives up to the first line that is none.
///
/// A `#!` line may come first. As in BuildKit it hides an `escape` directive, but not `syntax` and `check`.
pub(super) fn parse(source: &str) -> Head {
    let start = if source.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let mut head = Head { directives: Directives::default(), end: start, diagnostics: Vec::new() };
    let mut escape_seen = false;
    let mut shebang = false;
    for line in Lines::new(source, start) {
        if line.start == start && line.raw.starts_with("#!") {
            shebang = true;
            head.end = line.start + line.raw.len();
            continue;
        }
        let Some((name, value)) = directive(line.content()) else { break };
        let in_source = |part: &str| {
            let at = part.as_ptr().addr() - source.as_ptr().addr();
            Span::new(at, at + part.len())
        };
        let word = |text: &str| Spanned::new(text.to_owned(), in_source(text));
        let repeated = match name.to_ascii_lowercase().as_str() {
            "syntax" => {
                let first = value.split(' ').next().unwrap_or(value);
                head.directives.syntax.replace(word(first)).is_some()
            }
            "check" => head.directives.check.replace(word(value)).is_some(),
            "escape" if shebang => break,
            "escape" => {
                head.set_escape(value, in_source(value));
                std::mem::replace(&mut escape_seen, true)
            }
            _ => break,
        };
        if repeated {
            let message = format!("only one {} parser directive can be used", name.to_ascii_lowercase());
            head.diagnostics.push(Diagnostic::error(in_source(name), message));
        }
        head.end = line.start + line.raw.len();
    }
    if head.directives.syntax.is_none() {
        head.directives.syntax = foreign_syntax(source, start);
    }
    head
}

/// What BuildKit's `DetectSyntax` finds in files that are no Dockerfiles.
fn foreign_syntax(source: &str, start: usize) -> Option<Word> {
    let shebang = Lines::new(source, start).next().filter(|line| line.raw.starts_with("#!"));
    let start = shebang.map_or(start, |line| line.start + line.raw.len());
    let text = source.get(start..)?;
    let in_source = |part: &str| {
        let at = part.as_ptr().addr() - source.as_ptr().addr();
        Spanned::new(part.to_owned(), Span::new(at, at + part.len()))
    };
    if text.starts_with("//") {
        let comments = text.lines().map_while(|line| assignment(line.strip_prefix("//")?.trim_start()));
        let mut known =
            comments.take_while(|(name, _)| KNOWN.iter().any(|directive| name.eq_ignore_ascii_case(directive)));
        let (_, value) = known.find(|(name, _)| name.eq_ignore_ascii_case("syntax"))?;
        return Some(in_source(value.split(' ').next().unwrap_or(value)));
    }
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let name = object.get("syntax")?.as_str()?;
    // Escapes may hide where it is written.
    let place = text.find(name).map(|at| in_source(&text[at..at + name.len()]).span);
    Some(Spanned::new(name.to_owned(), place.unwrap_or_default()))
}

impl Head {
    fn set_escape(&mut self, value: &str, span: Span) {
        match value {
            "\\" => self.directives.escape = '\\',
            "`" => self.directives.escape = '`',
            _ => {
                let message = format!("invalid escape token '{value}' does not match ` or \\");
                self.diagnostics.push(Diagnostic::error(span, message));
            }
        }
    }
}

/// The name and the value of a line of the form `# name = value`, whatever the name.
fn directive(line: &str) -> Option<(&str, &str)> {
    assignment(line.trim_start().strip_prefix('#')?.trim_start())
}

/// Splits `name = value`: Go's `^([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$`.
pub(super) fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end_matches(|letter: char| letter.is_ascii_whitespace());
    let value = value.trim_matches(|letter: char| letter.is_ascii_whitespace());
    let valid = name.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    (valid && !value.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(source: &str) -> Head {
        parse(source)
    }

    #[test]
    fn directives_may_be_spaced_and_in_any_case() {
        let head =
            head("\u{feff}#  SynTax =  docker/dockerfile:1 extra \n  #escape=`\r\n# check=skip=A;error=true\nFROM a\n");
        assert_eq!(head.directives.syntax.map(|word| word.value).as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(head.directives.escape, '`');
        let check = head.directives.check.expect("check");
        assert_eq!((check.value.as_str(), check.span.end - check.span.start), ("skip=A;error=true", 17));
        assert!(head.diagnostics.is_empty());
    }

    #[test]
    fn the_first_line_that_is_no_directive_ends_them() {
        for first in ["# note", "", "# other=1", "# escape=", "FROM a", "# 1x=2"] {
            assert_eq!(head(&format!("{first}\n# escape=`\n")).directives.escape, '\\', "{first}");
        }
    }

    #[test]
    fn a_shebang_hides_escape_only() {
        let head = head("#!/bin/x\n# syntax=a\n# escape=`\n");
        assert!(head.directives.syntax.is_some());
        assert_eq!(head.directives.escape, '\\');
    }

    #[test]
    fn repeated_and_invalid_directives_are_errors_at_their_place() {
        let source = "# escape=\\\n# escape=x\n";
        let found = head(source).diagnostics;
        let shown: Vec<_> = found.iter().map(|d| (&source[d.span.start..d.span.end], d.message.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("x", "invalid escape token 'x' does not match ` or \\"),
                ("escape", "only one escape parser directive can be used")
            ]
        );
    }
}
