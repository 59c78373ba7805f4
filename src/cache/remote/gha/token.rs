//! What the token of a CI's job says: whose caches it may read and write, and until when.
//!
//! The service checks it; what is read here decides on names and on messages alone.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::cache::remote::secret::Secret;

/// A branch or the like, whose caches a token may read or write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    pub name: String,
    pub rights: Rights,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    Write,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    /// In the order in which they are read.
    pub scopes: Vec<Scope>,
    end: Option<SystemTime>,
}

impl Claims {
    /// Reads a token. One that says nothing of scopes, as other services' may be, has a nameless one that may do all.
    pub(super) fn of(token: &Secret) -> Claims {
        #[derive(Deserialize)]
        struct Payload {
            ac: Option<String>,
            exp: Option<f64>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Granted {
            scope: String,
            permission: u32,
        }
        let payload = token.reveal().split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let payload = payload.and_then(|bytes| serde_json::from_slice::<Payload>(&bytes).ok());
        let (granted, end) = payload.map_or((None, None), |payload| (payload.ac, payload.exp));
        let granted = granted.and_then(|text| serde_json::from_str::<Vec<Granted>>(&text).ok());
        let scopes = granted.into_iter().flatten().filter(|granted| granted.permission & 3 != 0).map(|granted| Scope {
            name: granted.scope,
            rights: if granted.permission & 2 != 0 { Rights::Write } else { Rights::Read },
        });
        let mut scopes: Vec<Scope> = scopes.collect();
        if scopes.is_empty() {
            scopes.push(Scope { name: String::new(), rights: Rights::Write });
        }
        let end = end.filter(|end| (0.0..1e12).contains(end));
        Claims { scopes, end: end.map(|end| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(end)) }
    }

    /// The scope that is written: the last that may be, as BuildKit's client has it.
    pub(super) fn own(&self) -> Option<&Scope> {
        self.scopes.iter().rev().find(|scope| scope.rights == Rights::Write)
    }

    /// Whether the token has ended.
    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        self.end.is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(payload: &str) -> Claims {
        Claims::of(&Secret::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))))
    }

    #[test]
    fn scopes_are_read_and_the_one_that_may_be_written_is_found() {
        let token = r#"{"ac":"[{\"Scope\":\"refs/heads/topic\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]","exp":1000.5,"nbf":1}"#;
        let claims = claims(token);
        let names: Vec<&str> = claims.scopes.iter().map(|scope| scope.name.as_str()).collect();
        assert_eq!(names, ["refs/heads/topic", "refs/heads/main"]);
        assert_eq!(claims.own().map(|scope| scope.name.as_str()), Some("refs/heads/topic"));
        assert!(!claims.has_ended(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)));
        assert!(claims.has_ended(SystemTime::UNIX_EPOCH + Duration::from_secs(1001)));
    }

    #[test]
    fn a_token_of_another_kind_has_one_scope_without_a_name() {
        for text in ["", "opaque", "a.b.c", "e30.e30.e30"] {
            let claims = Claims::of(&Secret::new(text));
            assert_eq!(claims.scopes, [Scope { name: String::new(), rights: Rights::Write }], "{text}");
            assert!(!claims.has_ended(SystemTime::now()));
        }
        let readable = claims(r#"{"ac":"[{\"Scope\":\"a\",\"Permission\":1}]"}"#);
        assert_eq!(readable.own(), None);
    }
}
