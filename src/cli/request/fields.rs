//! Values of the form `key=value,key=value`, one line of CSV as Docker's flags take it.

use super::InvalidRequest;
use crate::image::media_type::Compression;
use crate::layer::compress::highest_level;

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
        let (flag, value) = (self.flag, self.shown());
        InvalidRequest::InvalidValue { flag, value, reason: reason.to_owned() }
    }

    /// A key is not known.
    pub(super) fn unknown_key(&self, key: &str, known: &[&'static str]) -> InvalidRequest {
        let (flag, value, key) = (self.flag, self.shown(), key.to_owned());
        InvalidRequest::UnknownKey { flag, value, key, known: known.to_vec() }
    }

    /// The value of its key `compression-level`.
    pub(super) fn compression_level(&self, text: &str, compression: Compression) -> Result<i32, InvalidRequest> {
        let most = highest_level(compression);
        let level = text.parse().ok().filter(|level| most.is_none_or(|most| (0..=most).contains(level)));
        let name = if compression == Compression::Zstd { "zstd" } else { "gzip" };
        level.ok_or_else(|| match most {
            Some(most) => self.because(&format!("compression-level is a number from 0 to {most} for {name}")),
            None => self.because("compression-level is a number"),
        })
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
        split(self.value).map_err(|reason| self.because(reason))
    }

    /// The value as it may be in a message: without what some keys keep secret.
    fn shown(&self) -> String {
        let Ok(fields) = split(self.value) else {
            return if is_secret(self.value) { "…".to_owned() } else { without_password(self.value) };
        };
        let mut after_secret = false;
        let shown = |field: &String| match field.split_once('=') {
            Some((key, _)) if is_secret(key) => {
                after_secret = true;
                format!("{key}=…")
            }
            // A secret with a comma in it was cut there.
            None if after_secret => "…".to_owned(),
            _ => without_password(field),
        };
        let shown: Vec<String> = fields.iter().map(shown).collect();
        if shown == fields { self.value.to_owned() } else { shown.join(",") }
    }
}

/// Whether a key's value is in no message. Keys that nobody knows count too: a known one that was mistyped is one.
fn is_secret(key: &str) -> bool {
    let plain: String = key.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    ["secret", "token", "accesskey", "password", "passwd", "credential"].iter().any(|word| plain.contains(word))
}

/// A field without the user and password of an address in it.
fn without_password(field: &str) -> String {
    let masked = || {
        let (scheme, rest) = field.split_once("://").filter(|(scheme, _)| scheme.contains("http"))?;
        let authority = rest.find('/').unwrap_or(rest.len());
        let at = rest[..authority].rfind('@')?;
        Some(format!("{scheme}://…{}", &rest[at..]))
    };
    masked().unwrap_or_else(|| field.to_owned())
}

fn split(value: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = value;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(inner) => quoted(inner)?,
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

fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err("a closing quote must be followed by a comma"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_about_a_value_has_no_secret_of_it() {
        for value in [
            "type=s3,secret_access_key=hunter2,x=1",
            "type=gha,\"token=hunter2,hunter2\",x=1",
            "type=gha, Token =hunter2",
            "type=gha,\"token=hunter2",
            "type=s3,secret-access-key=hunter2",
            "type=s3,aws_secret_access_key=hunter2",
            "type=s3,secret_acces_key=hunter2",
            "type=s3,password=hunter2",
            "type=s3,secret_access_key=a,hunter2,x=1",
            "type=s3,endpoint_url=https://me:hunter2@host/x",
        ] {
            let given = Given { flag: "--cache-to", value, expected: "" };
            for error in [given.because("no"), given.unknown_key("x", &[])] {
                let text = format!("{error} {error:?}");
                assert!(!text.contains("hunter2") && text.contains('…'), "{text}");
            }
        }
        let given = Given { flag: "--output", value: "type=\"x", expected: "" };
        let InvalidRequest::InvalidValue { value, .. } = given.because("no") else { panic!("another error") };
        assert_eq!(value, "type=\"x");
    }
}
