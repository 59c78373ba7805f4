//! The exec form: a JSON array of strings, decoded as Go's `encoding/json` does, with the place of each string.

use super::ast::Word;
use super::lines::Text;
use crate::diagnostic::Spanned;

/// What arguments are.
#[derive(Debug)]
pub(super) enum Array {
    /// An array of strings.
    Strings(Vec<Word>),
    /// A valid array that holds something else.
    Mixed,
    /// No valid JSON array: the arguments are in shell form.
    Not,
}

/// BuildKit's words for [`Array::Mixed`].
pub(super) const NOT_STRINGS: &str = "when using JSON array syntax, arrays must be comprised of strings only";

/// Reads arguments as an array.
pub(super) fn array(text: Text<'_>) -> Array {
    let text = text.trim_start();
    if !text.as_str().starts_with('[') {
        return Array::Not;
    }
    let mut reader = Reader { bytes: text.as_str().as_bytes(), letters: text.as_str(), at: 0 };
    reader.array(text).unwrap_or(Array::Not)
}

/// How deep Go's decoder lets values nest.
const DEEPEST: usize = 10_000;

struct Reader<'t> {
    bytes: &'t [u8],
    letters: &'t str,
    at: usize,
}

impl Reader<'_> {
    /// The outermost array and nothing after it; `None` where the text is not valid.
    fn array(&mut self, text: Text<'_>) -> Option<Array> {
        self.at += 1;
        let mut words = Vec::new();
        let mut mixed = false;
        if self.peek()? != b']' {
            loop {
                if self.peek()? == b'"' {
                    let start = self.at;
                    let value = self.string()?;
                    words.push(Spanned::new(value, text.slice(start..self.at).span()));
                } else {
                    self.other_value()?;
                    mixed = true;
                }
                match self.peek()? {
                    b',' => self.at += 1,
                    b']' => break,
                    _ => return None,
                }
            }
        }
        self.at += 1;
        if self.peek().is_some() {
            return None;
        }
        Some(if mixed { Array::Mixed } else { Array::Strings(words) })
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<String> {
        self.eat(b'"')?;
        let mut value = String::new();
        loop {
            let plain = self.bytes[self.at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
            value.push_str(&self.letters[self.at..self.at + plain]);
            self.at += plain + 1;
            match self.bytes[self.at - 1] {
                b'"' => return Some(value),
                b'\\' => value.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        self.at += 1;
        Some(match *self.bytes.get(self.at - 1)? {
            letter @ (b'"' | b'\\' | b'/') => char::from(letter),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    /// The four digits after `\u`, or both halves of a surrogate pair; a lone half becomes U+FFFD, as in Go.
    fn unicode(&mut self) -> Option<char> {
        let first = self.digits()?;
        if !(0xd800..0xdc00).contains(&first) || !self.bytes[self.at..].starts_with(b"\\u") {
            return Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        self.at += 2;
        let second = self.digits()?;
        if (0xdc00..0xe000).contains(&second) {
            return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
        }
        self.at = before;
        Some(char::REPLACEMENT_CHARACTER)
    }

    fn digits(&mut self) -> Option<u32> {
        let digits = self.letters.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    }

    /// Passes over a value that is not a string. Iterative, so that no depth of nesting overflows the stack.
    fn other_value(&mut self) -> Option<()> {
        let mut closers = Vec::new();
        loop {
            let opened = self.open_or_scalar(&mut closers)?;
            if opened {
                continue;
            }
            loop {
                let Some(closer) = closers.last().copied() else { return Some(()) };
                let next = self.peek()?;
                self.at += 1;
                if next == closer {
                    closers.pop();
                } else if next == b',' {
                    if closer == b'}' {
                        self.key()?;
                    }
                    break;
                } else {
                    return None;
                }
            }
        }
    }

    /// Reads a scalar, an empty container, or the opening of a container (then `true`).
    fn open_or_scalar(&mut self, closers: &mut Vec<u8>) -> Option<bool> {
        let closer = match self.peek()? {
            b'[' => b']',
            b'{' => b'}',
            b'"' => return self.string().map(|_| false),
            _ => return self.scalar().map(|()| false),
        };
        self.at += 1;
        if self.peek()? == closer {
            self.at += 1;
            return Some(false);
        }
        if closers.len() + 2 > DEEPEST {
            return None;
        }
        closers.push(closer);
        if closer == b'}' {
            self.key()?;
        }
        Some(true)
    }

    fn key(&mut self) -> Option<()> {
        self.peek()?;
        self.string()?;
        self.eat(b':')
    }

    fn scalar(&mut self) -> Option<()> {
        let rest = &self.letters[self.at..];
        let length = rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.')));
        let token = &rest[..length.unwrap_or(rest.len())];
        self.at += token.len();
        (matches!(token, "true" | "false" | "null") || is_number(token)).then_some(())
    }
}

/// JSON's number grammar: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
fn is_number(token: &str) -> bool {
    let token = token.strip_prefix('-').unwrap_or(token);
    let (mantissa, exponent) = match token.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (token, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::super::lines::{Lines, Logical};
    use super::*;

    fn read(source: &str) -> Result<Vec<String>, &'static str> {
        let mut lines = Lines::new(source, 0);
        let Some(first) = lines.next() else { return Err("not") };
        let line = Logical::read(first, &mut lines, '`');
        match array(line.whole()) {
            Array::Strings(words) => Ok(words.into_iter().map(|word| word.value).collect()),
            Array::Mixed => Err("mixed"),
            Array::Not => Err("not"),
        }
    }

    #[test]
    fn strings_are_decoded_as_go_decodes_them() {
        let cases: [(&str, &[&str]); 6] = [
            ("[]", &[]),
            (" [ \"a\" , \"b c\" ] ", &["a", "b c"]),
            (r#"["\"\\\/\b\f\n\r\t"]"#, &["\"\\/\u{8}\u{c}\n\r\t"]),
            (r#"["\u00e9\ud83d\ude00"]"#, &["é😀"]),
            (r#"["\ud83dx\udc00\ud800\u0041"]"#, &["\u{fffd}x\u{fffd}\u{fffd}A"]),
            ("[\"déjà\"]", &["déjà"]),
        ];
        for (source, words) in cases {
            assert_eq!(
                read(source).as_deref(),
                Ok(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>().as_slice())
            );
        }
    }

    #[test]
    fn what_is_not_valid_json_is_shell_form() {
        for source in [
            "",
            "a",
            "['a']",
            "[\"a\"",
            "[\"a\",]",
            "[\"a\"] b",
            "[\"a\" \"b\"]",
            "[\"a]",
            r#"["\x"]"#,
            r#"["\u12"]"#,
            "[\"a\tb\"]",
            "[a]",
            "[01]",
            "[1.]",
            "[{\"a\"}]",
            "[{a:1}]",
            "[[}]",
            "[,]",
            "[-]",
            "{\"a\":[]}",
        ] {
            assert_eq!(read(source), Err("not"), "{source}");
        }
    }

    #[test]
    fn valid_arrays_of_other_things_are_told_apart() {
        for source in ["[1]", "[null]", "[\"a\", [\"b\"]]", "[{\"a\":{\"b\":[1,-2.5e+3]}}, true]", "[{}]", "[[],{}]"] {
            assert_eq!(read(source), Err("mixed"), "{source}");
        }
    }

    #[test]
    fn deep_nesting_overflows_nothing() {
        let deep = format!("[{}{}]", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(read(&deep), Err("not"));
    }
}
