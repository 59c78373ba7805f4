//! FROM.

use super::ast::{Stage, Word};
use super::flags::Takes;
use super::instruction::{self, Comments, Statement};
use super::lines::Text;
use super::{lint, words};
use crate::diagnostic::{Diagnostic, Spanned};

const FLAGS: [(&str, Takes); 1] = [("platform", Takes::Value)];

/// Parses FROM. A faulty one still begins a stage, so that the instructions after it have a place.
pub(super) fn parse(statement: &Statement<'_>, comments: &Comments<'_>) -> (Stage, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    let platform = match statement.check_flags(&FLAGS) {
        Ok(flags) => flags.word("platform"),
        Err(found) => {
            problems.extend(found.0);
            None
        }
    };
    let words = words::split_blanks(statement.arguments);
    let (as_keyword, name) = match words.as_slice() {
        [_, keyword, name] if keyword.as_str().eq_ignore_ascii_case("as") => {
            problems.extend(check_name(*name));
            (Some(keyword.word()), Some(name.word()))
        }
        [_] => (None, None),
        _ => {
            problems.push(wrong_count(statement, &words));
            (None, None)
        }
    };
    let base = words.first().map_or(Spanned::new(String::new(), statement.keyword.span()), Text::word);
    let doc = name.as_ref().and_then(|name: &Word| instruction::doc_comment(comments, &name.value.to_lowercase()));
    let stage = Stage {
        span: statement.whole.span(),
        keyword: statement.keyword.word(),
        platform,
        base,
        as_keyword,
        name,
        doc,
        skipped_rules: lint::skipped_by_comments(comments),
        instructions: Vec::new(),
    };
    (stage, problems)
}

/// Checks `^[a-z][a-z0-9-_.]*$` of the name in lower case.
fn check_name(name: Text<'_>) -> Option<Diagnostic> {
    let lower = name.as_str().to_lowercase();
    let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_.".contains(letter);
    if lower.starts_with(|letter: char| letter.is_ascii_lowercase()) && lower.chars().all(allowed) {
        return None;
    }
    let message =
        format!("invalid name for build stage: {:?}, name can't start with a number or contain symbols", name.as_str());
    Some(Diagnostic::error(name.span(), message))
}

fn wrong_count(statement: &Statement<'_>, words: &[Text<'_>]) -> Diagnostic {
    let error = statement.error("FROM requires either one or three arguments");
    match words {
        [base, name] if !name.as_str().eq_ignore_ascii_case("as") => {
            error.help(format!("did you mean {} {} AS {}?", statement.keyword.as_str(), base.as_str(), name.as_str()))
        }
        [_, keyword, _] => error.help(format!("write AS instead of {}", keyword.as_str())),
        _ => error,
    }
}
