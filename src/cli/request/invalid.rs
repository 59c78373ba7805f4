//! What is wrong with a command line.

use crate::diagnostic::did_you_mean;

/// Says what is wrong with a value on the command line or in the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// A value does not look as it should.
    #[error("invalid {flag} {value:?}: {reason}")]
    InvalidValue {
        /// The flag or variable.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A `key=value` has a key that nobody knows.
    #[error("invalid {flag} {value:?}: unknown key {key:?}")]
    UnknownKey {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// The key.
        key: String,
        /// The keys that are known.
        known: Vec<&'static str>,
    },
    /// Flags contradict each other, or one lacks another.
    #[error("{problem}")]
    Contradiction {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// Something is not supported.
    #[error("{flag} is not supported")]
    NotSupported {
        /// The flag and its value.
        flag: String,
        /// What to do.
        hint: String,
    },
    /// The context is not there.
    #[error("unable to prepare context: {problem}")]
    NoContext {
        /// What is wrong, with the path.
        problem: String,
        /// What may have been meant.
        hints: Vec<String>,
    },
    /// There is no place for the store.
    #[error("find a directory for the store: neither HOME nor XDG_DATA_HOME is set")]
    NoStoreRoot,
}

impl InvalidRequest {
    /// What to do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            InvalidRequest::InvalidValue { .. } => Vec::new(),
            InvalidRequest::UnknownKey { key, known, .. } => match did_you_mean(key, known.iter().copied()) {
                Some(meant) => vec![format!("did you mean {meant}?")],
                None => vec![format!("known keys: {}", known.join(", "))],
            },
            InvalidRequest::Contradiction { hint, .. } | InvalidRequest::NotSupported { hint, .. } => {
                vec![hint.clone()]
            }
            InvalidRequest::NoContext { hints, .. } => hints.clone(),
            InvalidRequest::NoStoreRoot => vec!["say where with --root DIR or RBUILD_ROOT".to_owned()],
        }
    }
}
