//! What `diff` was asked to do.

use std::path::PathBuf;

use super::commands::ImageSelector;
use super::fields::Given;
use super::{InvalidRequest, ReportFormat, store_root};
use crate::build::Strictness;
use crate::cli::args::{DiffArguments, GlobalArguments};
use crate::cli::environment::Environment;

/// `diff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Where images live.
    pub store_root: PathBuf,
    /// One.
    pub before: ImageSelector,
    /// The other.
    pub after: ImageSelector,
    /// What counts as a difference.
    pub strictness: Strictness,
    /// What a difference does to the exit code.
    pub difference: Difference,
    /// Who reads it.
    pub format: ReportFormat,
}

/// What a difference does to the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Nothing: it is the answer.
    Answer,
    /// It is 1.
    Failure,
}

impl Compare {
    pub(in crate::cli) fn resolve(
        arguments: DiffArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Compare, InvalidRequest> {
        let format = match arguments.format.as_str() {
            "text" | "table" => ReportFormat::Text,
            "json" => ReportFormat::Json,
            value => return Err(Given { flag: "--format", value, expected: "text or json" }.invalid()),
        };
        Ok(Compare {
            store_root: store_root(global, environment)?,
            before: ImageSelector::parse_with_archives(&arguments.before, environment)?,
            after: ImageSelector::parse_with_archives(&arguments.after, environment)?,
            strictness: if arguments.semantic { Strictness::Semantic } else { Strictness::Everything },
            difference: if arguments.exit_code { Difference::Failure } else { Difference::Answer },
            format,
        })
    }
}
