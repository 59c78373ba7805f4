//! Values of the form `key=value,key=value`, one line of CSV as Docker's flags take it.

use super::InvalidRequest;

/// A flag and the value that somebody gave it, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    /// The flag's name with its dashes.
    pub(super) flag: &'static str,
    /// The value as typed.
    pub(super) value: &'a str,
    /// What a good value looks like.
    pub(super) expected: &'static str,
}

impl Given<'_> {
    /// The value does not look as it should.
    pub(super) fn invalid(&self) -> InvalidRequest {
        self.because(&format!("expected {}", self.expected))
    }

    /// The value is wrong for a reason.
    pub(super) fn because(&self, reason: &str) -> InvalidRequest {
        let (flag, value) = (self.flag, self.value.to_owned());
        InvalidRequest::InvalidValue { flag, value, reason: reason.to_owned() }
    }

    /// A key is not known.
    pub(super) fn unknown_key(&self, key: &str, known: &[&'static str]) -> InvalidRequest {
        let (flag, value, key) = (self.flag, self.value.to_owned(), key.to_owned());
        InvalidRequest::UnknownKey { flag, value, key, known: known.to_vec() }
    }

    /// The value as `key=value` pairs; keys in lower case.
    pub(super) fn pairs(&self) -> Result<Vec<(String, String)>, InvalidRequest> {
        let pair = |field: String| match field.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_lowercase(), value.to_owned())),
            None => Err(self.invalid()),
        };
        self.fields()?.into_iter().map(pair).collect()
    }

    /// The value's fields: separated by commas, and where one starts with `"` it runs to the closing quote (RFC 4180).
    pub(super) fn fields(&self) -> Result<Vec<String>, InvalidRequest> {
        let mut fields = Vec::new();
        let mut rest = self.value;
        loop {
            let (field, after) = match rest.strip_prefix('"') {
                Some(quoted) => self.quoted(quoted)?,
                None => {
                    let end = rest.find(',').unwrap_or(rest.len());
                    (rest[..end].to_owned(), &rest[end..])
                }
            };
            fields.push(field);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }

    fn quoted<'t>(&self, text: &'t str) -> Result<(String, &'t str), InvalidRequest> {
        let mut field = String::new();
        let mut rest = text;
        loop {
            let (before, after) = rest.split_once('"').ok_or_else(|| self.because("a quote is not closed"))?;
            field.push_str(before);
            match after.strip_prefix('"') {
                Some(next) => {
                    field.push('"');
                    rest = next;
                }
                None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
                None => return Err(self.because("a closing quote must be followed by a comma")),
            }
        }
    }
}
