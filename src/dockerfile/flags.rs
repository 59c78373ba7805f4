//! `--name=value` flags before an instruction's arguments.

use super::ast::Word;
use super::lines::Text;
use super::problems::Problems;
use crate::diagnostic::{Diagnostic, Span, Spanned, did_you_mean};

/// A flag as it was written, quotes and escapes removed.
#[derive(Debug)]
pub(super) struct RawFlag<'l> {
    /// `--name=value` without quotes.
    text: String,
    /// For every byte of `text` its byte in `source`, and one more for the end.
    places: Vec<usize>,
    /// The flag with its quotes.
    source: Text<'l>,
}

/// Takes the flags off the start of an instruction's arguments; a bare `--` ends them.
pub(super) fn extract<'l>(arguments: Text<'l>, escape: char) -> (Vec<RawFlag<'l>>, Text<'l>) {
    let mut flags = Vec::new();
    let mut rest = arguments.trim();
    while rest.as_str().starts_with("--") {
        let (flag, length) = unquote(rest, escape);
        rest = rest.tail(length);
        let last = flag.text == "--";
        if !last {
            flags.push(flag);
        }
        rest = rest.trim_start();
        if last {
            break;
        }
    }
    (flags, rest)
}

/// The first word without quotes, and its length with them.
fn unquote<'l>(rest: Text<'l>, escape: char) -> (RawFlag<'l>, usize) {
    let letters = rest.as_str();
    let mut text = String::new();
    let mut places = Vec::new();
    let mut quote = None;
    let mut end = letters.len();
    let mut chars = letters.char_indices();
    while let Some((at, letter)) = chars.next() {
        let mut kept = Some((at, letter));
        match quote {
            None if letter.is_whitespace() => {
                end = at;
                break;
            }
            None if matches!(letter, '\'' | '"') => {
                quote = Some(letter);
                continue;
            }
            Some(open) if letter == open => {
                quote = None;
                continue;
            }
            _ if letter == escape => kept = chars.next(),
            _ => {}
        }
        if let Some((at, letter)) = kept {
            text.push(letter);
            places.resize(text.len(), at);
        }
    }
    places.push(end);
    (RawFlag { text, places, source: rest.slice(0..end) }, end)
}

impl RawFlag<'_> {
    /// The whole flag's place.
    fn span(&self) -> Span {
        self.source.span()
    }

    /// The name with its dashes.
    fn name(&self) -> &str {
        self.text.split('=').next().unwrap_or(&self.text)
    }

    /// What follows the equals sign, where there is one.
    fn value(&self) -> Option<&str> {
        self.text.split_once('=').map(|(_, value)| value)
    }

    fn name_span(&self) -> Span {
        self.span_of(0, self.name().len())
    }

    /// The place of bytes `start..end` of the text.
    fn span_of(&self, start: usize, end: usize) -> Span {
        self.source.slice(self.places[start]..self.places[end].max(self.places[start])).span()
    }
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `true` or `false`.
    Switch,
    /// One value.
    Value,
    /// A value, and the flag may be given again.
    Values,
}

/// Flags that have been checked against those that an instruction knows.
#[derive(Debug)]
pub(super) struct Flags<'f, 'l> {
    given: Vec<(&'static str, &'f RawFlag<'l>)>,
}

/// One value of a flag, with the place of each of its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlagValue<'f, 'l> {
    flag: &'f RawFlag<'l>,
    value: &'f str,
}

impl<'f> FlagValue<'f, '_> {
    /// The value.
    pub(super) fn as_str(&self) -> &'f str {
        self.value
    }

    /// The whole flag's place.
    pub(super) fn flag_span(&self) -> Span {
        self.flag.span()
    }

    /// The place of some of the value's bytes.
    pub(super) fn span_of(&self, start: usize, end: usize) -> Span {
        let offset = self.flag.text.len() - self.value.len();
        self.flag.span_of(offset + start, offset + end)
    }

    /// The value with its place.
    pub(super) fn word(&self) -> Word {
        Spanned::new(self.value.to_owned(), self.span_of(0, self.value.len()))
    }
}

/// Checks flags; every faulty one is reported.
pub(super) fn check<'f, 'l>(
    raw: &'f [RawFlag<'l>],
    known: &[(&'static str, Takes)],
) -> Result<Flags<'f, 'l>, Problems> {
    let mut flags = Flags { given: Vec::with_capacity(raw.len()) };
    let mut problems = Vec::new();
    for flag in raw {
        match check_one(flag, known, &flags) {
            Ok(name) => flags.given.push((name, flag)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(flags) } else { Err(Problems(problems)) }
}

fn check_one(
    flag: &RawFlag<'_>,
    known: &[(&'static str, Takes)],
    before: &Flags<'_, '_>,
) -> Result<&'static str, Diagnostic> {
    let written = flag.name();
    let bare = &written[2..];
    let Some((name, takes)) = known.iter().find(|(name, _)| *name == bare).copied() else {
        let problem = Diagnostic::error(flag.name_span(), format!("unknown flag: {written}"));
        let near = if bare.len() > 32 { None } else { did_you_mean(bare, known.iter().map(|(name, _)| *name)) };
        return Err(match near {
            Some(name) => problem.help(format!("did you mean --{name}?")),
            None => problem,
        });
    };
    if takes != Takes::Values && before.given.iter().any(|(given, _)| *given == name) {
        return Err(Diagnostic::error(flag.name_span(), format!("duplicate flag specified: {written}")));
    }
    let missing = || Diagnostic::error(flag.span(), format!("missing a value on flag: {written}"));
    match (takes, flag.value()) {
        (Takes::Switch, Some("")) => Err(missing()),
        (Takes::Switch, Some(value)) if !is_boolean(value) => {
            Err(Diagnostic::error(flag.span(), format!("expecting boolean value for flag {written}, not: {value}")))
        }
        (Takes::Value | Takes::Values, None) => Err(missing()),
        _ => Ok(name),
    }
}

fn is_boolean(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
}

impl<'f, 'l> Flags<'f, 'l> {
    /// The values of a flag, in order.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = FlagValue<'f, 'l>> {
        let given = self.given.iter().filter(move |(given, _)| *given == name);
        given.filter_map(|(_, flag)| Some(FlagValue { flag, value: flag.value()? }))
    }

    /// The value of a flag that is given once. An empty value counts as none, as in BuildKit.
    pub(super) fn word(&self, name: &str) -> Option<Word> {
        self.values(name).next().map(|value| value.word()).filter(|word| !word.value.is_empty())
    }

    /// The values of a flag as words.
    pub(super) fn words(&self, name: &str) -> Vec<Word> {
        self.values(name).map(|value| value.word()).collect()
    }

    /// What a switch says, where it is given.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let (_, flag) = self.given.iter().find(|(given, _)| *given == name)?;
        Some(flag.value().is_none_or(|value| value.eq_ignore_ascii_case("true")))
    }
}
