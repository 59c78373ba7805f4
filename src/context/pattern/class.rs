//! Character classes of Go's regular expressions, as far as a pattern can hold them.

use super::{InvalidPattern, first_char};

/// A set of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

const DIGITS: &[(char, char)] = &[('0', '9')];
const SPACES: &[(char, char)] = &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
const WORDS: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// The names in `[[:name:]]` (RE2 syntax, "ASCII character classes").
const NAMED: &[(&[u8], &[(char, char)])] = &[
    (b"alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    (b"alpha", &[('A', 'Z'), ('a', 'z')]),
    (b"ascii", &[('\0', '\u{7f}')]),
    (b"blank", &[('\t', '\t'), (' ', ' ')]),
    (b"cntrl", &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')]),
    (b"digit", DIGITS),
    (b"graph", &[('!', '~')]),
    (b"lower", &[('a', 'z')]),
    (b"print", &[(' ', '~')]),
    (b"punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    (b"space", &[('\t', '\r'), (' ', ' ')]),
    (b"upper", &[('A', 'Z')]),
    (b"word", WORDS),
    (b"xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

impl Class {
    /// Whether a character is in the set.
    pub(super) fn contains(&self, character: char) -> bool {
        self.ranges.iter().any(|(low, high)| *low <= character && character <= *high) != self.negated
    }

    /// The class of a Perl letter (`\d`), where there is one.
    pub(super) fn perl(letter: u8) -> Option<Class> {
        let ranges = match letter.to_ascii_lowercase() {
            b'd' => DIGITS,
            b's' => SPACES,
            b'w' => WORDS,
            _ => return None,
        };
        Some(Class { negated: letter.is_ascii_uppercase(), ranges: ranges.to_vec() })
    }

    /// Reads the rest of `[…]`, its first byte being read.
    pub(super) fn parse(rest: &mut &[u8]) -> Result<Class, InvalidPattern> {
        let negated = rest.first() == Some(&b'^');
        if negated {
            *rest = &rest[1..];
        }
        let mut class = Class { negated, ranges: Vec::new() };
        let mut first = true;
        loop {
            let bytes = *rest;
            match bytes {
                [] => return Err(InvalidPattern("[ without its ]")),
                [b']', after @ ..] if !first => {
                    *rest = after;
                    return Ok(class);
                }
                [b'\\', letter, after @ ..] if let Some(perl) = Class::perl(*letter) => {
                    class.ranges.extend(perl.positive());
                    *rest = after;
                }
                [b'[', b':', ..] if named_end(bytes).is_some() => class.add_named(rest)?,
                _ => class.add_range(rest)?,
            }
            first = false;
        }
    }

    fn add_range(&mut self, rest: &mut &[u8]) -> Result<(), InvalidPattern> {
        let low = class_char(rest)?;
        let mut high = low;
        if let [b'-', after, ..] = rest
            && *after != b']'
        {
            *rest = &rest[1..];
            high = class_char(rest)?;
        }
        if high < low {
            return Err(InvalidPattern("a range in [...] ends before it starts"));
        }
        self.ranges.push((low, high));
        Ok(())
    }

    /// Reads `[:name:]`.
    fn add_named(&mut self, rest: &mut &[u8]) -> Result<(), InvalidPattern> {
        let end = named_end(rest).unwrap_or(rest.len());
        let name = &rest[2..end];
        let (negated, name) = name.strip_prefix(b"^").map_or((false, name), |name| (true, name));
        let (_, ranges) =
            NAMED.iter().find(|(known, _)| *known == name).ok_or(InvalidPattern("unknown name in [[:name:]]"))?;
        self.ranges.extend(Class { negated, ranges: ranges.to_vec() }.positive());
        *rest = &rest[end + 2..];
        Ok(())
    }

    /// The same set without negation.
    fn positive(self) -> Vec<(char, char)> {
        if !self.negated {
            return self.ranges;
        }
        let mut ranges = self.ranges;
        ranges.sort_unstable();
        let mut next = '\0';
        let mut gaps = Vec::new();
        for (low, high) in ranges {
            if next < low {
                gaps.push((next, char::from_u32(low as u32 - 1).unwrap_or(low)));
            }
            next = next.max(char::from_u32(high as u32 + 1).unwrap_or(char::MAX));
        }
        gaps.push((next, char::MAX));
        gaps
    }
}

/// Where the `:]` of a `[:name:]` starts; without one, it is none.
fn named_end(bytes: &[u8]) -> Option<usize> {
    bytes[2..].windows(2).position(|pair| pair == b":]").map(|at| at + 2)
}

fn class_char(rest: &mut &[u8]) -> Result<char, InvalidPattern> {
    if rest.first() == Some(&b'\\') {
        *rest = &rest[1..];
        return escape(rest);
    }
    let (character, length) = first_char(rest).ok_or(InvalidPattern("[ without its ]"))?;
    *rest = &rest[length..];
    Ok(character)
}

/// The character that `\…` means, its backslash being read (Go `regexp/syntax`, `parseEscape`).
pub(super) fn escape(rest: &mut &[u8]) -> Result<char, InvalidPattern> {
    let invalid = InvalidPattern("unknown \\ escape");
    let (byte, after) = rest.split_first().ok_or(invalid.clone())?;
    *rest = after;
    let octal = |byte: Option<&u8>| byte.is_some_and(|byte| (b'0'..=b'7').contains(byte));
    match byte {
        b'0' => Ok(digits(rest, 0, 8, 2)),
        b'1'..=b'7' if octal(rest.first()) => Ok(digits(rest, u32::from(byte - b'0'), 8, 2)),
        b'x' if rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit) => Ok(digits(rest, 0, 16, 2)),
        b'a' => Ok('\u{7}'),
        b'f' => Ok('\u{c}'),
        b'n' => Ok('\n'),
        b'r' => Ok('\r'),
        b't' => Ok('\t'),
        b'v' => Ok('\u{b}'),
        byte if byte.is_ascii() && !byte.is_ascii_alphanumeric() => Ok(char::from(*byte)),
        _ => Err(invalid),
    }
}

fn digits(rest: &mut &[u8], start: u32, radix: u32, most: usize) -> char {
    let mut value = start;
    for _ in 0..most {
        let Some(digit) = rest.first().and_then(|byte| char::from(*byte).to_digit(radix)) else { break };
        value = value * radix + digit;
        *rest = &rest[1..];
    }
    char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)
}
