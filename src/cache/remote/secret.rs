//! What must not be shown.

use std::collections::BTreeMap;
use std::fmt;

/// A key, a password or a token; its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being shown.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the request that needs it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Variables of the environment that a service's clients look at; `Debug` shows their names alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Variables(BTreeMap<String, Secret>);

impl Variables {
    /// With those that have a value.
    pub fn new<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Variables {
        let kept = all.into_iter().filter(|(_, value)| !value.is_empty());
        Variables(kept.map(|(name, value)| (name.to_owned(), Secret::new(value))).collect())
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Secret::reveal)
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_in_debug_output() {
        let variables = Variables::new([("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_REGION", "")]);
        assert_eq!(format!("{variables:?} {:?}", Secret::new("hunter2")), "{\"AWS_SECRET_ACCESS_KEY\"} …");
        assert_eq!(variables.value("AWS_SECRET_ACCESS_KEY"), Some("hunter2"));
        assert_eq!(variables.value("AWS_REGION"), None);
    }
}
