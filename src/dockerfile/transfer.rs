//! COPY and ADD.

use super::ast::{Transfer, TransferSource, Word};
use super::flags::{Flags, Takes};
use super::heredoc::{self, RawHeredoc};
use super::instruction::{self, Statement};
use super::json::{self, Array};
use super::problems::Problems;
use crate::diagnostic::Diagnostic;

const COPY_FLAGS: [(&str, Takes); 6] = [
    ("chown", Takes::Value),
    ("from", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("exclude", Takes::Values),
    ("parents", Takes::Switch),
];

const ADD_FLAGS: [(&str, Takes); 7] = [
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("keep-git-dir", Takes::Switch),
    ("checksum", Takes::Value),
    ("unpack", Takes::Switch),
    ("exclude", Takes::Values),
];

/// Parses COPY.
pub(super) fn parse_copy(statement: &Statement<'_>, heredocs: &[RawHeredoc<'_>]) -> Result<Transfer, Problems> {
    parse(statement, "COPY", &COPY_FLAGS, heredocs)
}

/// Parses ADD.
pub(super) fn parse_add(statement: &Statement<'_>, heredocs: &[RawHeredoc<'_>]) -> Result<Transfer, Problems> {
    parse(statement, "ADD", &ADD_FLAGS, heredocs)
}

fn parse(
    statement: &Statement<'_>,
    name: &str,
    known: &[(&'static str, Takes)],
    heredocs: &[RawHeredoc<'_>],
) -> Result<Transfer, Problems> {
    // The flags' errors and the paths' are independent of each other: report both.
    let flags = statement.check_flags(known);
    let paths = parse_paths(statement, name, heredocs);
    match (flags, paths) {
        (Ok(flags), Ok((sources, destination))) => Ok(transfer(&flags, sources, destination)),
        (Err(Problems(mut problems)), Err(path_problem)) => {
            problems.push(path_problem);
            Err(Problems(problems))
        }
        (Err(problems), Ok(_)) => Err(problems),
        (Ok(_), Err(problem)) => Err(problem.into()),
    }
}

fn transfer(flags: &Flags<'_, '_>, sources: Vec<TransferSource>, destination: Word) -> Transfer {
    Transfer {
        sources,
        destination,
        from: flags.word("from"),
        chown: flags.word("chown"),
        chmod: flags.word("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.words("exclude"),
        checksum: flags.word("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    }
}

fn parse_paths(
    statement: &Statement<'_>,
    name: &str,
    heredocs: &[RawHeredoc<'_>],
) -> Result<(Vec<TransferSource>, Word), Diagnostic> {
    let is_json = matches!(json::array(statement.arguments), Array::Strings(_));
    let mut words = instruction::list(statement)?;
    let destination = words.pop().filter(|_| !words.is_empty()).ok_or_else(|| {
        let message = format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        );
        statement.error(message)
    })?;
    if is_json {
        return Ok((words.into_iter().map(TransferSource::Path).collect(), destination));
    }
    if heredoc::marker(&destination.value).is_some() {
        let message = format!("{name} cannot accept a heredoc as a destination");
        return Err(Diagnostic::error(destination.span, message));
    }
    let sources = words.into_iter().map(|word| source(word, heredocs)).collect();
    Ok((sources, destination))
}

/// A source word; where two here-documents have one name, both mean the last, as in BuildKit.
fn source(word: Word, heredocs: &[RawHeredoc<'_>]) -> TransferSource {
    let named = heredoc::marker(&word.value)
        .and_then(|marker| heredocs.iter().rev().find(|heredoc| heredoc.marker.name == marker.name));
    match named {
        Some(heredoc) => TransferSource::Heredoc(heredoc.to_ast()),
        None => TransferSource::Path(word),
    }
}
