//! Reading a text once, from left to right, replacing as it goes.

use super::pattern::{Length, Pattern};
use super::{DEEPEST, ExpandError, Variables};

/// What quotes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    /// They keep what is within together, and go.
    Grouping,
    /// They are letters.
    Plain,
}

/// Whether an escape character stays with what it escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Removed,
    Kept,
}

/// Takes the parts of a text as they are read.
trait Sink {
    /// A letter or a value that may hold word ends.
    fn splittable(&mut self, text: &str);
    /// What is quoted or escaped.
    fn whole(&mut self, text: &str);
}

impl Sink for String {
    fn splittable(&mut self, text: &str) {
        self.push_str(text);
    }

    fn whole(&mut self, text: &str) {
        self.push_str(text);
    }
}

/// Words between white space. An empty word is none, even in quotes, as in BuildKit.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Sink for Words {
    fn splittable(&mut self, text: &str) {
        let mut parts = text.split(char::is_whitespace);
        self.word.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.end();
            self.word.push_str(part);
        }
    }

    fn whole(&mut self, text: &str) {
        self.word.push_str(text);
    }
}

impl Words {
    fn end(&mut self) {
        if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }
}

/// The reader.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    escape: char,
    quotes: Quotes,
    variables: &'t dyn Variables,
    depth: usize,
    /// Names that were not set, in order, repeated.
    pub(super) unset: Vec<String>,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str, escape: char, quotes: Quotes, variables: &'t dyn Variables) -> Lexer<'t> {
        Lexer { text, at: 0, escape, quotes, variables, depth: 0, unset: Vec::new() }
    }

    /// All of it as one text.
    pub(super) fn text(&mut self) -> Result<String, ExpandError> {
        let mut text = String::with_capacity(self.text.len());
        self.read(None, Escapes::Removed, &mut text)?;
        Ok(text)
    }

    /// All of it as words.
    pub(super) fn words(&mut self) -> Result<Vec<String>, ExpandError> {
        let mut words = Words::default();
        self.read(None, Escapes::Removed, &mut words)?;
        words.end();
        Ok(words.done)
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += letter.len_utf8();
        Some(letter)
    }

    /// Takes a letter if it comes next.
    fn eat(&mut self, letter: char) -> bool {
        let comes = self.rest().starts_with(letter);
        if comes {
            self.at += letter.len_utf8();
        }
        comes
    }

    /// An error about everything from `start` up to here.
    fn error(&self, start: usize, message: impl Into<String>) -> ExpandError {
        ExpandError { message: message.into(), at: start..self.at.max(start) }
    }

    /// Reads up to a letter, which is taken too, or to the end. Says whether the letter came.
    fn read(&mut self, stop: Option<char>, escapes: Escapes, sink: &mut dyn Sink) -> Result<bool, ExpandError> {
        let escape = self.escape;
        let special =
            |letter: char| matches!(letter, '$' | '\'' | '"' | '<') || letter == escape || Some(letter) == stop;
        loop {
            let plain = self.rest().find(special).unwrap_or(self.rest().len());
            sink.splittable(&self.rest()[..plain]);
            self.at += plain;
            let start = self.at;
            let Some(letter) = self.next() else { return Ok(stop.is_none()) };
            if Some(letter) == stop {
                return Ok(true);
            }
            match letter {
                '$' => sink.splittable(&self.dollar(start)?),
                '\'' if self.quotes == Quotes::Grouping => sink.whole(self.single_quoted(start)?),
                '"' if self.quotes == Quotes::Grouping => sink.whole(&self.double_quoted(start, escapes)?),
                '<' if self.eat('<') => {
                    // White space between `<<` and a name does not end a word.
                    self.at = self.text.len() - self.rest().trim_start_matches(['\t', '\r', ' ']).len();
                    sink.whole(&self.text[start..self.at]);
                }
                _ if letter == self.escape => {
                    if self.next().is_none() && escapes == Escapes::Removed {
                        continue;
                    }
                    let kept = if escapes == Escapes::Kept { start } else { start + letter.len_utf8() };
                    sink.whole(&self.text[kept..self.at]);
                }
                _ => sink.splittable(&self.text[start..self.at]),
            }
        }
    }

    fn single_quoted(&mut self, start: usize) -> Result<&'t str, ExpandError> {
        let rest = self.rest();
        let Some(length) = rest.find('\'') else {
            self.at = self.text.len();
            let message = "unexpected end of statement while looking for matching single-quote";
            return Err(self.error(start, message));
        };
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn double_quoted(&mut self, start: usize, escapes: Escapes) -> Result<String, ExpandError> {
        let mut text = String::new();
        loop {
            let before = self.at;
            match self.next() {
                None => {
                    let message = "unexpected end of statement while looking for matching double-quote";
                    return Err(self.error(start, message));
                }
                Some('"') => return Ok(text),
                Some('$') => text.push_str(&self.dollar(before)?),
                Some(letter) if letter == self.escape => {
                    let escaped = self.peek().filter(|next| matches!(next, '"' | '$') || *next == self.escape);
                    if escapes == Escapes::Kept || escaped.is_none() {
                        text.push(letter);
                    }
                    text.extend(escaped.and_then(|_| self.next()));
                }
                Some(letter) => text.push(letter),
            }
        }
    }

    /// What stands for a dollar sign, taken already, and what follows it.
    fn dollar(&mut self, start: usize) -> Result<String, ExpandError> {
        if !self.eat('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.value(name).unwrap_or_default().to_owned() });
        }
        if self.depth == DEEPEST {
            return Err(self.error(start, format!("substitutions are nested more than {DEEPEST} deep")));
        }
        self.depth += 1;
        let value = self.braces(start);
        self.depth -= 1;
        value
    }

    /// What stands for `${…}`, from after the brace.
    fn braces(&mut self, start: usize) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(self.unclosed(start)),
            Some('{' | '}' | ':') => {
                self.next();
                return Err(self.error(start, "syntax error: bad substitution"));
            }
            Some(_) => {}
        }
        let name = self.name();
        let Some(operator) = self.next() else { return Err(self.unclosed(start)) };
        match operator {
            '}' => Ok(self.value(name).unwrap_or_default().to_owned()),
            ':' => {
                let Some(operator) = self.next() else { return Err(self.unclosed(start)) };
                let word = self.operand(start, Escapes::Removed)?;
                if !matches!(operator, '-' | '+' | '?') {
                    return Err(self.unsupported(start, &format!(":{operator}")));
                }
                self.by_presence(start, name, operator, word, Empty::IsUnset)
            }
            '-' | '+' | '?' => {
                let word = self.operand(start, Escapes::Removed)?;
                self.by_presence(start, name, operator, word, Empty::IsSet)
            }
            '#' | '%' => {
                let pattern = self.operand(start, Escapes::Kept)?;
                self.stripped(start, name, operator, &pattern)
            }
            '/' => self.replaced(start, name),
            _ => Err(self.unsupported(start, &operator.to_string())),
        }
    }

    fn unclosed(&mut self, start: usize) -> ExpandError {
        self.at = self.text.len();
        self.error(start, "syntax error: missing '}'")
    }

    fn unsupported(&self, start: usize, modifier: &str) -> ExpandError {
        self.error(start, format!("unsupported modifier ({modifier}) in substitution"))
    }

    /// The word of an operator, up to the closing brace.
    fn operand(&mut self, start: usize, escapes: Escapes) -> Result<String, ExpandError> {
        let mut word = String::new();
        match self.read(Some('}'), escapes, &mut word) {
            Ok(true) => Ok(word),
            Err(error) if self.at < self.text.len() => Err(error),
            // An error that ran into the end is an error about this brace.
            Ok(false) | Err(_) => Err(self.unclosed(start)),
        }
    }

    fn by_presence(
        &mut self,
        start: usize,
        name: &str,
        operator: char,
        word: String,
        empty: Empty,
    ) -> Result<String, ExpandError> {
        let value = self.value(name);
        let present = value.filter(|value| empty == Empty::IsSet || !value.is_empty());
        match (operator, present) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('-' | '?', Some(value)) => Ok(value.to_owned()),
            _ => {
                let state = if value.is_some() { "empty" } else { "unset" };
                let reason = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                Err(self.error(start, format!("{name}: {reason}")))
            }
        }
    }

    /// `${name#pattern}` and its like; a doubled operator strips as much as possible.
    fn stripped(&mut self, start: usize, name: &str, operator: char, word: &str) -> Result<String, ExpandError> {
        let value = self.value(name).unwrap_or_default();
        let (length, word) = match word.strip_prefix(operator) {
            Some(word) => (Length::Longest, word),
            None => (Length::Shortest, word),
        };
        let pattern = self.pattern(start, word)?;
        let stripped =
            if operator == '#' { pattern.strip_prefix(value, length) } else { pattern.strip_suffix(value, length) };
        Ok(stripped)
    }

    /// `${name/pattern/replacement}`, from after the first slash; a second one there replaces all.
    fn replaced(&mut self, start: usize, name: &str) -> Result<String, ExpandError> {
        let all = self.eat('/');
        let mut word = String::new();
        match self.read(Some('/'), Escapes::Kept, &mut word) {
            Ok(true) => {}
            Err(error) if self.at < self.text.len() => return Err(error),
            Ok(false) | Err(_) => return Err(self.error(start, "syntax error: missing '/' in ${}")),
        }
        let replacement = self.operand(start, Escapes::Kept)?;
        let value = self.value(name).unwrap_or_default();
        let pattern = self.pattern(start, &word)?;
        Ok(if all { pattern.replace_all(value, &replacement) } else { pattern.replace_first(value, &replacement) })
    }

    fn pattern(&self, start: usize, word: &str) -> Result<Pattern, ExpandError> {
        Pattern::parse(word).map_err(|escaped| {
            self.error(start, format!("invalid pattern ({word}) in substitution: invalid escape '\\{escaped}'"))
        })
    }

    /// Takes a name: a number, one special letter, or letters, digits and underscores. Perhaps empty.
    fn name(&mut self) -> &'t str {
        let rest = self.rest();
        let length = match rest.chars().next() {
            Some(digit) if digit.is_numeric() => rest.find(|letter: char| !letter.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len()),
        };
        self.at += length;
        &rest[..length]
    }

    /// Looks a variable up and keeps note of one that is not set.
    fn value(&mut self, name: &str) -> Option<&'t str> {
        let value = self.variables.value(name);
        if value.is_none() {
            self.unset.push(name.to_owned());
        }
        value
    }
}

/// What an empty value counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Empty {
    IsSet,
    IsUnset,
}
