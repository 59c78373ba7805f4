//! Quotes, escapes and `$variables` of a Dockerfile's words, with the results that BuildKit's lexer gives.
//!
//! Pure: text and variables in, text out. It knows no instruction; which words are expanded, and how, is its callers' to say:
//! [`expand`] for most, [`expand_words`] for EXPOSE, [`expand_body`] for here-documents.
//!
//! Known differences from BuildKit, all where its result hangs on how it is built: `*` and `?` in patterns match line ends
//! too (its regular expressions stop there); `${v//p/r}` inserts `r` as it is (there a `$` in `r` means a regexp group);
//! splitting into words loses nothing of a word that holds a nested `${…}`; substitutions nest up to [`DEEPEST`] deep.

mod lexer;
mod pattern;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// How deep substitutions may nest: enough for people, too little to overflow a stack.
pub const DEEPEST: usize = 100;

/// Values that variables have.
pub trait Variables {
    /// The value of a variable, where it is set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Variables for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Variables in the order in which they were set; of two with one name the last counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VariableList(pub Vec<(String, String)>);

impl Variables for VariableList {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A word with its variables replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expansion {
    /// The text.
    pub text: String,
    /// Names that were looked up and are not set, each once, in order. As in BuildKit `${v:-w}` counts as a use of `v`.
    pub unset: Vec<String>,
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// BuildKit's words.
    pub message: String,
    /// The part of the text that is at fault.
    pub at: Range<usize>,
}

/// Expands a text to one word: white space stays, quotes and escapes go.
pub fn expand(text: &str, escape: char, variables: &dyn Variables) -> Result<Expansion, ExpandError> {
    one_word(text, escape, lexer::Quotes::Grouping, variables)
}

/// Expands the body of a here-document: quotes are plain text, and the backslash escapes whatever the file says.
pub fn expand_body(text: &str, variables: &dyn Variables) -> Result<Expansion, ExpandError> {
    one_word(text, '\\', lexer::Quotes::Plain, variables)
}

fn one_word(
    text: &str,
    escape: char,
    quotes: lexer::Quotes,
    variables: &dyn Variables,
) -> Result<Expansion, ExpandError> {
    let mut lexer = lexer::Lexer::new(text, escape, quotes, variables);
    let text = lexer.text()?;
    Ok(Expansion { text, unset: each_once(lexer.unset) })
}

/// Expands a text and then splits it at white space outside quotes. Gives the words, and the names that are not set.
pub fn expand_words(
    text: &str,
    escape: char,
    variables: &dyn Variables,
) -> Result<(Vec<String>, Vec<String>), ExpandError> {
    let mut lexer = lexer::Lexer::new(text, escape, lexer::Quotes::Grouping, variables);
    let words = lexer.words()?;
    Ok((words, each_once(lexer.unset)))
}

fn each_once(names: Vec<String>) -> Vec<String> {
    if names.len() < 2 {
        return names;
    }
    let mut seen = HashSet::new();
    let first: Vec<bool> = names.iter().map(|name| seen.insert(name.as_str())).collect();
    names.into_iter().zip(first).filter_map(|(name, first)| first.then_some(name)).collect()
}
