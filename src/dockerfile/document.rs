//! The file as a whole: lines become instructions, instructions gather in stages.

use super::ast::{Dockerfile, Instruction, Operation};
use super::heredoc::{self, RawHeredoc};
use super::instruction::{self, Statement};
use super::keyword::Keyword;
use super::lines::{LONGEST_LINE, Lines, Logical, Physical};
use super::{Parsed, directive, lint, stage};
use crate::diagnostic::{Diagnostic, InvalidByte, Severity, Source, Span};
use std::ops::Range;

/// Parses a file.
pub(super) fn parse(source: &Source) -> Parsed {
    let head = directive::parse(&source.text);
    let mut document = Document {
        source: &source.text,
        invalid: &source.invalid,
        said: Vec::new(),
        escape: head.directives.escape,
        dockerfile: Dockerfile { directives: head.directives, ..Dockerfile::default() },
        diagnostics: head.diagnostics,
        started: Started::Nothing,
    };
    document.read(head.end);
    document.finish()
}

/// Parses a text that holds one instruction.
pub(super) fn parse_trigger(source: &str, escape: char) -> (Option<Instruction>, Vec<Diagnostic>) {
    let mut lines = Lines::new(source, 0);
    let mut diagnostics = Vec::new();
    let mut found = None;
    while let Some(first) = lines.by_ref().find(|line| !is_comment_or_empty(*line)) {
        let logical = Logical::read(first, &mut lines, escape);
        if found.is_some() {
            let message = "onbuild trigger should be a single expression";
            diagnostics.push(Diagnostic::error(logical.whole().span(), message));
            return (None, diagnostics);
        }
        found = Some(trigger(source, &logical, &mut lines, escape, &mut diagnostics));
    }
    if found.is_none() {
        diagnostics.push(Diagnostic::error(Span::default(), "file with no instructions"));
    }
    (found.flatten(), diagnostics)
}

fn trigger<'a>(
    source: &'a str,
    logical: &Logical<'a>,
    lines: &mut Lines<'a>,
    escape: char,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Instruction> {
    diagnostics.extend(logical.too_long.iter().copied().map(line_too_long));
    let statement = Statement::split(logical.whole(), escape);
    let heredocs = heredoc::read_bodies(instruction::announced(&statement), source, lines, diagnostics)?;
    let checked = statement.kind().and_then(|kind| instruction::check_trigger(&statement, kind).map(|()| kind));
    match checked.map_err(Into::into).and_then(|kind| instruction::parse(&statement, kind, &[], &heredocs)) {
        Ok(instruction) => Some(instruction),
        Err(problems) => {
            diagnostics.extend(problems.0);
            None
        }
    }
}

fn is_comment_or_empty(line: Physical<'_>) -> bool {
    let text = line.raw.trim_start();
    text.is_empty() || text.starts_with('#')
}

/// The error about a line that BuildKit does not read.
pub(super) fn line_too_long(span: Span) -> Diagnostic {
    // Underlining all of it would print all of it.
    let span = Span::new(span.start, span.start);
    Diagnostic::error(span, format!("dockerfile line greater than max allowed size of {LONGEST_LINE}"))
}

/// The error about bytes that are no UTF-8: protobuf, in which BuildKit sends a build, has no strings of others. It is
/// said once, since a file that was saved otherwise has many.
fn not_utf8(places: &[InvalidByte]) -> Option<Diagnostic> {
    let (first, others) = places.split_first()?;
    let others = match others.len() {
        0 => String::new(),
        1 => " (and one more)".to_owned(),
        count => format!(" (and {count} more)"),
    };
    let message = format!("invalid UTF-8: byte 0x{:02x}{others}", first.byte);
    Some(Diagnostic::error(first.span, message).help("save the file as UTF-8; other bytes may stand in comments alone"))
}

/// How far a file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    /// No instruction at all.
    Nothing,
    /// Instructions, but no stage.
    Instructions,
    /// As before, and there is an error that explains why.
    Explained,
    /// A stage.
    Stage,
}

struct Document<'s> {
    source: &'s str,
    /// What stands for bytes that were no UTF-8.
    invalid: &'s [InvalidByte],
    /// Those of them that an instruction has.
    said: Vec<InvalidByte>,
    escape: char,
    dockerfile: Dockerfile,
    diagnostics: Vec<Diagnostic>,
    started: Started,
}

impl<'s> Document<'s> {
    fn read(&mut self, start: usize) {
        let mut lines = Lines::new(self.source, start);
        let mut comments: Vec<&str> = Vec::new();
        while let Some(line) = lines.next() {
            let text = line.raw.trim();
            if let Some(comment) = text.strip_prefix('#') {
                match comment.trim() {
                    // An empty comment cuts what is above it off from the instruction.
                    "" => comments.clear(),
                    comment => comments.push(comment),
                }
                if line.is_too_long() {
                    self.diagnostics.push(line_too_long(line.span()));
                }
            } else if !text.is_empty() {
                self.logical_line(line, &mut lines, &comments);
                comments.clear();
            }
        }
    }

    fn logical_line(&mut self, first: Physical<'s>, lines: &mut Lines<'s>, comments: &[&str]) {
        let logical = Logical::read(first, lines, self.escape);
        if let Some(span) = logical.empty_line {
            self.diagnostics.push(lint::no_empty_continuation(span));
        }
        let statement = Statement::split(logical.whole(), self.escape);
        let markers = instruction::announced(&statement);
        let heredocs = heredoc::read_bodies(markers, self.source, lines, &mut self.diagnostics);
        self.note_invalid(first.start..lines.next_start(), &logical);
        if !logical.too_long.is_empty() {
            self.diagnostics.extend(logical.too_long.iter().copied().map(line_too_long));
            self.explain();
            return;
        }
        match statement.kind() {
            Ok(Keyword::From) => self.stage(&statement, comments),
            Ok(kind) => match heredocs {
                Some(heredocs) => self.instruction(&statement, kind, comments, &heredocs),
                None => self.explain(),
            },
            Err(problem) => {
                self.diagnostics.push(problem);
                self.explain();
            }
        }
    }

    /// Notes bytes that BuildKit would find in an instruction; those of comments go nowhere.
    fn note_invalid(&mut self, range: Range<usize>, logical: &Logical<'_>) {
        let is_comment = |at: usize| logical.comments.iter().any(|span| (span.start..span.end).contains(&at));
        let meant = |place: &&InvalidByte| range.contains(&place.span.start) && !is_comment(place.span.start);
        self.said.extend(self.invalid.iter().filter(meant));
    }

    fn explain(&mut self) {
        if self.started != Started::Stage {
            self.started = Started::Explained;
        }
    }

    fn stage(&mut self, statement: &Statement<'_>, comments: &[&str]) {
        let (stage, problems) = stage::parse(statement, comments);
        self.diagnostics.extend(problems);
        if let Some(name) = &stage.name {
            let named = [name.value.to_lowercase()];
            self.diagnostics.extend(lint::definition_description(stage.span, "FROM", &named, comments));
        }
        self.dockerfile.stages.push(stage);
        self.started = Started::Stage;
    }

    fn instruction(
        &mut self,
        statement: &Statement<'_>,
        kind: Keyword,
        comments: &[&str],
        heredocs: &[RawHeredoc<'_>],
    ) {
        if self.started == Started::Nothing {
            self.started = Started::Instructions;
        }
        let instruction = match instruction::parse(statement, kind, comments, heredocs) {
            Ok(instruction) => instruction,
            Err(problems) => return self.diagnostics.extend(problems.0),
        };
        if let Operation::Arg(declarations) = &instruction.operation {
            let names: Vec<_> = declarations.iter().map(|declaration| declaration.name.value.clone()).collect();
            self.diagnostics.extend(lint::definition_description(instruction.span, "ARG", &names, comments));
        }
        match self.dockerfile.stages.last_mut() {
            Some(stage) => stage.instructions.push(instruction),
            None if kind == Keyword::Arg => self.dockerfile.global_args.push(instruction),
            // Said once: every instruction up to the first FROM has the same fault.
            None if self.started == Started::Explained => {}
            None => {
                let error = Diagnostic::error(instruction.span, "no build stage in current context");
                self.diagnostics.push(error.help("only ARG may stand before the first FROM"));
                self.started = Started::Explained;
            }
        }
    }

    fn finish(mut self) -> Parsed {
        self.diagnostics.extend(not_utf8(&self.said));
        let missing = match self.started {
            Started::Nothing if self.source.is_empty() => Some("the Dockerfile cannot be empty"),
            Started::Nothing => Some("file with no instructions"),
            Started::Instructions => Some("dockerfile contains no stages to build"),
            Started::Explained | Started::Stage => None,
        };
        let silent = !self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        if let Some(message) = missing.filter(|_| silent) {
            self.diagnostics.push(Diagnostic::error(Span::default(), message));
        }
        self.diagnostics.extend(lint::check(&self.dockerfile));
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        Parsed { dockerfile: self.dockerfile, diagnostics: self.diagnostics }
    }
}
