//! Patterns for paths: Go's `filepath.Match` for the sources of COPY, and moby/patternmatcher for ignore rules.
//!
//! Contract: the same verdicts as the Go code, over bytes, never a panic and never more than pattern length times path
//! length steps. The odd corners (`[*]`, `\d`, `a**b`) are kept: they follow from patternmatcher turning a pattern into
//! a regular expression, which is what [`PathPattern`] does too. It knows nothing of files or ignore files.

mod class;
mod regexp;
mod wildcard;

pub use regexp::{Lineage, PathPattern};
pub use wildcard::{Wildcard, has_wildcards};

/// Says why a pattern means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern: {0}")]
pub struct InvalidPattern(pub &'static str);

/// One character of a path or pattern and its length; a byte that is no UTF-8 counts as U+FFFD, as in Go.
fn first_char(bytes: &[u8]) -> Option<(char, usize)> {
    let lead = *bytes.first()?;
    if lead < 0x80 {
        return Some((char::from(lead), 1));
    }
    let most = bytes.len().min(4);
    let valid = match std::str::from_utf8(&bytes[..most]) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    Some(valid.chars().next().map_or((char::REPLACEMENT_CHARACTER, 1), |character| (character, character.len_utf8())))
}

/// Go's `filepath.Clean`: no empty or `.` components, `..` resolved where there is something before it.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part != b".." {
            parts.push(part);
        } else if parts.last().is_some_and(|last| *last != b"..") {
            parts.pop();
        } else if !rooted {
            parts.push(part);
        }
    }
    let mut cleaned = parts.join(&b'/');
    if rooted {
        cleaned.insert(0, b'/');
    } else if cleaned.is_empty() {
        cleaned.push(b'.');
    }
    cleaned
}
