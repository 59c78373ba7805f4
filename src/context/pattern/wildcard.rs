//! Go's `filepath.Match` for one name: `*`, `?`, `[a-z]`, `[^a]`, `\`.

use super::{InvalidPattern, first_char};

/// A compiled wildcard for one component of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard {
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Byte(u8),
    Any,
    Star,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Whether a source names more than one path: an unescaped `*`, `?` or `[`.
pub fn has_wildcards(text: &[u8]) -> bool {
    let mut escaped = false;
    text.iter().any(|byte| {
        let special = !escaped && matches!(byte, b'*' | b'?' | b'[');
        escaped = !escaped && *byte == b'\\';
        special
    })
}

impl Wildcard {
    /// Compiles a pattern; the whole of it is checked, as `filepath.Match` does.
    ///
    /// # Errors
    /// An open or empty `[…]`, or a `\` at the end.
    pub fn parse(pattern: &[u8]) -> Result<Wildcard, InvalidPattern> {
        let mut items = Vec::new();
        let mut rest = pattern;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            items.push(match byte {
                b'*' => Item::Star,
                b'?' => Item::Any,
                b'[' => class(&mut rest)?,
                b'\\' => {
                    let (byte, after) = rest.split_first().ok_or(InvalidPattern("nothing after the last \\"))?;
                    rest = after;
                    Item::Byte(*byte)
                }
                byte => Item::Byte(*byte),
            });
        }
        Ok(Wildcard { items })
    }

    /// Whether a name (one component, no slash) matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut item, mut at) = (0, 0);
        // Where to go on after a mismatch: the item behind the last star, and where that star ends when it takes one more.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let step = match self.items.get(item) {
                None if at == name.len() => return true,
                None => None,
                Some(Item::Star) => {
                    retry = Some((item + 1, at));
                    item += 1;
                    continue;
                }
                Some(single) => single.length(&name[at..]),
            };
            match (step, retry) {
                (Some(length), _) => (item, at) = (item + 1, at + length),
                (None, Some((after, end))) if end < name.len() && name[end] != b'/' => {
                    retry = Some((after, end + 1));
                    (item, at) = (after, end + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Item {
    /// How many bytes it takes, where it matches.
    fn length(&self, rest: &[u8]) -> Option<usize> {
        match self {
            Item::Byte(byte) => (rest.first() == Some(byte)).then_some(1),
            Item::Any => first_char(rest).filter(|(character, _)| *character != '/').map(|(_, length)| length),
            Item::Class { negated, ranges } => first_char(rest)
                .filter(|(found, _)| ranges.iter().any(|(low, high)| low <= found && found <= high) != *negated)
                .map(|(_, length)| length),
            Item::Star => Some(0),
        }
    }
}

/// The rest of `[…]`, its first byte being read.
fn class(rest: &mut &[u8]) -> Result<Item, InvalidPattern> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            *rest = &rest[1..];
            return Ok(Item::Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            *rest = &rest[1..];
            high = class_char(rest)?;
        }
        ranges.push((low, high));
    }
}

/// One character of a class; something has to follow it.
fn class_char(rest: &mut &[u8]) -> Result<char, InvalidPattern> {
    let open = InvalidPattern("[ without its ]");
    match rest.first() {
        None => return Err(open),
        Some(b'-' | b']') => return Err(InvalidPattern("- or ] where a character was expected in [...]")),
        Some(b'\\') => *rest = &rest[1..],
        Some(_) => {}
    }
    let (character, length) = first_char(rest).ok_or(open.clone())?;
    if character == char::REPLACEMENT_CHARACTER && length == 1 {
        return Err(InvalidPattern("[...] holds bytes that are not UTF-8"));
    }
    *rest = &rest[length..];
    if rest.is_empty() { Err(open) } else { Ok(character) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of Go's `path/filepath/match_test.go` in our own selection: pattern, name, verdict.
    const CASES: &[(&str, &str, Option<bool>)] = &[
        ("abc", "abc", Some(true)),
        ("*", "abc", Some(true)),
        ("*c", "abc", Some(true)),
        ("a*", "a", Some(true)),
        ("a*", "abc", Some(true)),
        ("a*", "ab/c", Some(false)),
        ("a*b*c*d*e*", "axbxcxdxe", Some(true)),
        ("a*b*c*d*e*", "axbxcxdxexxx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
        ("ab[c]", "abc", Some(true)),
        ("ab[b-d]", "abc", Some(true)),
        ("ab[e-g]", "abc", Some(false)),
        ("ab[^c]", "abc", Some(false)),
        ("ab[^e-g]", "abc", Some(true)),
        ("a\\*b", "a*b", Some(true)),
        ("a\\*b", "ab", Some(false)),
        ("a?b", "a☺b", Some(true)),
        ("a[^a]b", "a☺b", Some(true)),
        ("a???b", "a☺b", Some(false)),
        ("[a-ζ]*", "α", Some(true)),
        ("*[a-ζ]", "A", Some(false)),
        ("a?b", "a/b", Some(false)),
        ("a*b", "a/b", Some(false)),
        ("[\\]a]", "]", Some(true)),
        ("[\\-]", "-", Some(true)),
        ("[x\\-]", "z", Some(false)),
        ("arr[[]0].txt", "arr[0].txt", Some(true)),
        ("[]a]", "]", None),
        ("[-]", "-", None),
        ("[x-]", "x", None),
        ("[-x]", "x", None),
        ("[a-b-c]", "a", None),
        ("[", "a", None),
        ("[^", "a", None),
        ("[^bc", "a", None),
        ("a[", "ab", None),
        ("*x", "xxx", Some(true)),
        ("", "", Some(true)),
        ("", "a", Some(false)),
        ("**", "ab", Some(true)),
        ("a\\", "a", None),
    ];

    #[test]
    fn wildcards_match_as_go_does() {
        for (pattern, name, verdict) in CASES {
            let found = Wildcard::parse(pattern.as_bytes()).ok().map(|pattern| pattern.matches(name.as_bytes()));
            assert_eq!(found, *verdict, "{pattern} {name}");
        }
    }

    #[test]
    fn escaped_wildcards_are_no_wildcards() {
        for (text, verdict) in
            [("a", false), ("a\\*", false), ("a\\\\*", true), ("[", true), ("a?", true), ("\\", false)]
        {
            assert_eq!(has_wildcards(text.as_bytes()), verdict, "{text}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_match_byte_by_byte() {
        assert!(Wildcard::parse(b"a?c").unwrap().matches(b"a\xffc"));
        assert!(Wildcard::parse(b"a\xff*").unwrap().matches(b"a\xffzz"));
        assert!(!Wildcard::parse(b"a?c").unwrap().matches(b"a\xff\xfec"));
    }
}
