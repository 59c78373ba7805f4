//! Licenses as packages state them → SPDX license expressions.
//!
//! What is no expression of SPDX's list of licenses is kept word for word, under a name of the document's own (`LicenseRef-…`).

use spdx::{Expression, ParseMode};

use super::identifier;
use crate::digest::Digest;

/// Packages state licenses that the list has under newer names today.
const MODE: ParseMode = ParseMode { allow_deprecated: true, ..ParseMode::STRICT };

/// What a package states.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum License {
    /// Nothing.
    Unknown,
    /// An expression of licenses of the list.
    Listed(String),
    /// Something else.
    Other {
        /// What the document calls it.
        id: String,
        /// The statement.
        text: String,
    },
}

impl License {
    pub(super) fn of(statement: &str) -> License {
        if statement.is_empty() {
            return License::Unknown;
        }
        let expression = with_operators(statement);
        // A `LicenseRef-` of somebody else's document means nothing in this one.
        if !expression.contains("Ref-") && Expression::parse_mode(&expression, MODE).is_ok() {
            return License::Listed(expression);
        }
        // Names that differ only in what an id cannot have would be one.
        let hash = Digest::of(statement.as_bytes()).hex();
        let start: String = identifier(statement).chars().take(40).collect();
        License::Other { id: format!("LicenseRef-{start}-{}", &hash[..8]), text: statement.to_owned() }
    }
}

/// The operators as SPDX writes them: in capitals.
fn with_operators(statement: &str) -> String {
    let word = |word: &str| match word {
        "and" | "or" | "with" => word.to_uppercase(),
        other => other.to_owned(),
    };
    statement.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_stay_and_other_statements_get_a_name() {
        let listed = |text: &str| License::Listed(text.to_owned());
        for text in
            ["MIT", "GPL-2.0", "GPL-2.0-or-later WITH GCC-exception-3.1", "(MIT OR Apache-2.0) AND BSD-3-Clause"]
        {
            assert_eq!(License::of(text), listed(text));
        }
        assert_eq!(License::of("MIT and  GPL-2.0-only"), listed("MIT AND GPL-2.0-only"));
        assert_eq!(License::of(""), License::Unknown);
        let License::Other { id, text } = License::of("MIT and GPLv2+") else { panic!("GPLv2+ is not of the list") };
        assert_eq!((id.as_str(), text.as_str()), ("LicenseRef-MIT-and-GPLv2--cea3f193", "MIT and GPLv2+"));
        for text in ["SEE LICENSE IN x", "LicenseRef-mine", "MIT OR", "(", "DocumentRef-x:LicenseRef-y"] {
            assert!(matches!(License::of(text), License::Other { .. }), "{text}");
        }
        assert!(matches!(License::of(&"(".repeat(10_000)), License::Other { .. }));
    }
}
