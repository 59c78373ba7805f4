//! The errors of one instruction: parsers return them all rather than the first.

use crate::diagnostic::Diagnostic;

/// One or more diagnostics that made parsing fail.
#[derive(Debug)]
pub(super) struct Problems(pub(super) Vec<Diagnostic>);

impl From<Diagnostic> for Problems {
    fn from(diagnostic: Diagnostic) -> Problems {
        Problems(vec![diagnostic])
    }
}
