//! Keys that sign what is pushed: `--sign`.

use std::path::PathBuf;

use super::fields::Given;
use super::{InvalidRequest, OutputKind, OutputRequest};
use crate::cli::environment::Environment;
use crate::sign::SigningKey;

/// Where a key that signs is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
}

/// Says why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("read the signing key {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The variable is not set.
    #[error("read the signing key: the variable {name} is not set")]
    Unset {
        /// The variable.
        name: String,
    },
    /// What is there is no key, or one that cannot be opened.
    #[error("use the signing key {place}")]
    Invalid {
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        source: crate::sign::InvalidKey,
    },
}

impl KeySource {
    /// Reads the key; an encrypted one is opened with `COSIGN_PASSWORD`.
    pub fn read(&self, environment: &Environment) -> Result<SigningKey, KeyError> {
        let (place, text) = match self {
            KeySource::File(path) => {
                let place = path.display().to_string();
                match std::fs::read_to_string(path) {
                    Ok(text) => (place, text),
                    Err(source) => return Err(KeyError::Read { path: place, source }),
                }
            }
            KeySource::Variable(name) => {
                let value = environment.variable(name);
                (name.clone(), value.ok_or_else(|| KeyError::Unset { name: name.clone() })?.to_owned())
            }
        };
        let password = environment.variable("COSIGN_PASSWORD");
        SigningKey::read(&text, password).map_err(|source| KeyError::Invalid { place, source })
    }
}

/// Understands `--sign` of a build: what is pushed is signed, and nothing else can be.
pub(super) fn signing_keys(
    texts: &[String],
    outputs: &[OutputRequest],
    environment: &Environment,
) -> Result<Vec<KeySource>, InvalidRequest> {
    if !texts.is_empty() && outputs.iter().all(|output| output.kind != OutputKind::Registry) {
        return Err(InvalidRequest::Contradiction {
            problem: "--sign needs a push: a signature lies beside an image in its registry".to_owned(),
            hint: "push with --push, or sign later with cosign".to_owned(),
        });
    }
    keys(texts, environment)
}

/// Understands `--sign` of a command that pushes in any case.
pub(super) fn keys(texts: &[String], environment: &Environment) -> Result<Vec<KeySource>, InvalidRequest> {
    let key = |text: &String| {
        let given = Given { flag: "--sign", value: text, expected: "key=FILE or key=env://VARIABLE" };
        match given.pairs()?.as_slice() {
            [(key, value)] if key == "key" && !value.is_empty() => Ok(match value.strip_prefix("env://") {
                Some(name) => KeySource::Variable(name.to_owned()),
                None => KeySource::File(environment.absolute(value)),
            }),
            _ => Err(given.invalid()),
        }
    };
    texts.iter().map(key).collect()
}
