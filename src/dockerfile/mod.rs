//! Text → AST with spans: what a Dockerfile says, where, and everything that is wrong with it.
//!
//! Contract: [`parse`] never fails and never panics. It reports every error at once, each at its own bytes of the source,
//! in the words of BuildKit; an instruction with an error is left out of the tree. Nothing is expanded and nothing is
//! looked up: this module knows no build arguments, no files, no images and no clock.
//!
//! The way of a text: `directive` (the head) → `lines` (physical to logical lines, with a map back to the source) →
//! `heredoc` (bodies) → `instruction`, `stage` (one grammar per keyword, made of `words`, `flags`, `json`, `csv`) → `lint`.

use crate::diagnostic::{Diagnostic, Source};

pub mod ast;
mod csv;
mod directive;
mod document;
#[cfg(test)]
mod dump;
mod flags;
mod healthcheck;
mod heredoc;
mod instruction;
mod json;
mod keyword;
mod lines;
pub mod lint;
pub mod mount;
mod problems;
mod run;
mod stage;
#[cfg(test)]
mod tests;
mod transfer;
mod words;

/// What [`parse`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The tree, without the instructions that have errors.
    pub dockerfile: ast::Dockerfile,
    /// Errors, and the warnings that need only the tree, in the order of the source. Pass them through [`lint::filter`]:
    /// the parser knows no check options except the comments right above an instruction.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses a whole Dockerfile.
pub fn parse(source: &Source) -> Parsed {
    document::parse(source)
}

/// Parses one instruction that stands outside a file, such as an ONBUILD trigger of a base image, with the bodies of its
/// here-documents after it.
///
/// Spans are bytes of `text`. FROM, MAINTAINER and ONBUILD are refused, as ONBUILD refuses them.
pub fn parse_instruction(text: &str, escape: char) -> (Option<ast::Instruction>, Vec<Diagnostic>) {
    document::parse_trigger(text, escape)
}
