//! What must be in no attestation: user and password of an address, the value of a secret, where a proxy is.
//!
//! Contract: [`Redaction::apply`] goes over everything that is said, whatever its place: the one gate that a predicate
//! passes last. A value that a build argument or a Dockerfile spells out is found as it is; what somebody encoded first is
//! not.

use serde_json::Value;

/// What takes the place of user and password, as in BuildKit (`util/urlutil/redact.go`).
const MASK: &str = "xxxxx";

/// Bytes that a secret has at least to be looked for: every `no` and `1` would go with shorter ones.
const SHORTEST: usize = 4;

/// Build arguments that say where a proxy is, and often its password.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Whether a variable is about a proxy: what it says is no part of how a build came to be.
pub fn is_proxy(name: &str) -> bool {
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// What is taken out.
#[derive(Clone, Default)]
pub struct Redaction {
    /// Longest first, so that of two that begin alike the whole one is found.
    secrets: Vec<String>,
}

impl Redaction {
    /// Takes out these values, and each line of them, besides passwords in addresses.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Redaction {
        let texts = secrets.into_iter().filter_map(|value| std::str::from_utf8(value).ok());
        let lines = texts.flat_map(|text| std::iter::once(text.trim()).chain(text.lines().map(str::trim)));
        let mut secrets: Vec<String> = lines.filter(|line| line.len() >= SHORTEST).map(str::to_owned).collect();
        secrets.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
        secrets.dedup();
        Redaction { secrets }
    }

    /// A text without them.
    pub fn text(&self, text: &str) -> String {
        let mut text = without_passwords(text);
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), MASK);
            }
        }
        text
    }

    /// All texts of a value without them. Names of fields stay: they are the form, not what is said.
    pub fn apply(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(all) => all.into_iter().map(|one| self.apply(one)).collect(),
            Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, self.apply(value))).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}

/// A text in which user and password of each address are masked.
fn without_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.find("://") {
        let (before, after) = rest.split_at(found + "://".len());
        let ends = |character: char| {
            character.is_whitespace() || character.is_control() || "/?#\"'`<>|\\,;()".contains(character)
        };
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        out.push_str(before);
        rest = after;
        if let Some((user, _)) = authority.rsplit_once('@') {
            // The user of ssh is no secret, and an address without him names another place.
            let scheme = before[..found].to_ascii_lowercase();
            if user.contains(':') || scheme.ends_with("http") || scheme.ends_with("https") {
                out.push_str(if user.contains(':') { "xxxxx:xxxxx" } else { MASK });
                rest = &after[user.len()..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn user_and_password_of_an_address_are_masked_wherever_it_stands() {
        for (text, expected) in [
            ("https://me:pw@host/x", "https://xxxxx:xxxxx@host/x"),
            ("https://token@host:8080/x.git#main", "https://xxxxx@host:8080/x.git#main"),
            ("ADD https://a:b@c/d https://e:f@g /", "ADD https://xxxxx:xxxxx@c/d https://xxxxx:xxxxx@g /"),
            ("ssh://git@host/x", "ssh://git@host/x"),
            ("ssh://git:pw@host/x", "ssh://xxxxx:xxxxx@host/x"),
            ("git@host:x", "git@host:x"),
            ("https://host/a@b", "https://host/a@b"),
            ("X=\"http://u:p@h\"", "X=\"http://xxxxx:xxxxx@h\""),
            ("http://a:p@ss@host", "http://xxxxx:xxxxx@host"),
            ("://", "://"),
            ("docker-image://name@sha256:1", "docker-image://name@sha256:1"),
        ] {
            assert_eq!(Redaction::default().text(text), expected);
        }
    }

    #[test]
    fn secrets_are_masked_whole_and_line_by_line() {
        let redaction =
            Redaction::of([b"hunter22\n".as_slice(), b"first line\nsecond line", b"no", &[0xff, 0xfe, 0, 1, 2]]);
        let value = json!({ "a": ["is hunter22", "second line!", { "x": "no" }], "n": 1, "t": true, "z": null });
        let expected = json!({ "a": ["is xxxxx", "xxxxx!", { "x": "no" }], "n": 1, "t": true, "z": null });
        assert_eq!(redaction.apply(value), expected);
    }

    #[test]
    fn proxies_are_known_in_either_case() {
        assert!(is_proxy("https_proxy") && is_proxy("NO_PROXY"));
        assert!(!is_proxy("PROXY") && !is_proxy("MY_HTTP_PROXY"));
    }
}
