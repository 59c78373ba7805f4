//! A pattern of an ignore file, matched as moby/patternmatcher does.
//!
//! Patternmatcher writes a pattern as a Go regular expression, character by character, without looking whether it is
//! inside `[…]`; or, where it sees that it can, as an exact, prefix or suffix comparison. Both are done here the same
//! way, so both give the same verdicts. The expressions that can come out are few, so a small matcher is enough.

use super::class::{Class, escape};
use super::wildcard::Wildcard;
use super::{InvalidPattern, first_char};

/// A compiled pattern for whole paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    form: Form,
    /// What every match starts with.
    prefix: Vec<u8>,
    /// What every match ends with.
    suffix: Vec<u8>,
    /// How many components every match has, where that is fixed.
    depth: Option<usize>,
    /// What every match holds.
    required: Letters,
}

/// The ASCII characters that bytes hold, one bit each: a test that passes over most patterns without comparing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letters(u128);

impl Letters {
    fn of<'b>(bytes: impl IntoIterator<Item = &'b u8>) -> Letters {
        Letters(bytes.into_iter().filter(|byte| byte.is_ascii()).fold(0, |set, byte| set | 1 << byte))
    }

    fn are_in(self, others: Letters) -> bool {
        self.0 & !others.0 == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Exact,
    Prefix,
    Suffix,
    Regexp(Vec<Item>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// Exactly these bytes.
    Literal(Vec<u8>),
    /// `[^/]`.
    One,
    /// `[^/]*`.
    Star,
    /// `(.*/)?`.
    Directories,
    /// `.*`.
    Everything,
    /// `[…]`.
    Class(Class),
    /// `[…]*`: what `[a*]` turns into.
    Classes(Class),
    /// `^` or `\A`.
    Start,
    /// `\z`.
    End,
    /// `\b`, or `\B` when false.
    WordBoundary(bool),
}

impl PathPattern {
    /// Compiles a cleaned pattern without its `!`.
    ///
    /// # Errors
    /// What Go's `filepath.Match` or `regexp.Compile` refuse, and `\Q`, `\p`, `\C`, which nobody means in a path.
    pub fn parse(pattern: &[u8]) -> Result<PathPattern, InvalidPattern> {
        Wildcard::parse(pattern)?;
        let (kind, expression) = translate(pattern);
        let (form, prefix, suffix) = match kind {
            Kind::Exact => (Form::Exact, pattern.to_vec(), pattern.to_vec()),
            Kind::Prefix => (Form::Prefix, pattern[..pattern.len() - 2].to_vec(), Vec::new()),
            Kind::Suffix => (Form::Suffix, Vec::new(), pattern[2..].to_vec()),
            Kind::Regexp => {
                let items = items(&expression)?;
                let literal = |item: Option<&Item>| match item {
                    Some(Item::Literal(bytes)) => bytes.clone(),
                    _ => Vec::new(),
                };
                let (prefix, suffix) = (literal(items.first()), literal(items.last()));
                (Form::Regexp(items), prefix, suffix)
            }
        };
        let (depth, required) = (depth(&form, pattern), required(&form, pattern));
        Ok(PathPattern { form, prefix, suffix, depth, required })
    }

    /// Whether a path matches; its parents are the caller's business.
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.form {
            Form::Exact => path == self.prefix,
            Form::Prefix => path.starts_with(&self.prefix),
            // `**/foo` matches foo itself too.
            Form::Suffix => ends_with(path, &self.suffix) || self.suffix.strip_prefix(b"/") == Some(path),
            Form::Regexp(items) => {
                starts_with(path, &self.prefix) && ends_with(path, &self.suffix) && Search::new(items, path).run()
            }
        }
    }

    /// The byte that every match ends with, where there is one: a first test that costs next to nothing.
    pub fn last_byte(&self) -> Option<u8> {
        self.suffix.last().copied()
    }

    /// Whether a path or a directory above it matches.
    pub fn matches_any(&self, lineage: &Lineage<'_>) -> bool {
        let path = lineage.path;
        // The most common answers first. What the path has not, and how it does not start, holds for the directories too.
        if !self.required.are_in(lineage.letters) || !starts_with(path, &self.prefix) {
            return false;
        }
        match (&self.form, self.depth) {
            (Form::Exact, _) => matches!(path.get(self.prefix.len()), None | Some(b'/')),
            (Form::Prefix, _) => true,
            (_, Some(depth)) => lineage.ends.get(depth - 1).is_some_and(|end| self.matches(&path[..*end])),
            (_, None) => lineage.ends.iter().any(|end| self.matches(&path[..*end])),
        }
    }

    /// Whether some path directly in a directory (the empty path is the root) may match; never a wrong no.
    pub fn may_match_in(&self, directory: &[u8]) -> bool {
        self.may_match_below(directory) && self.depth.is_none_or(|depth| depth == components(directory) + 1)
    }

    /// Whether some path below a directory may match; never a wrong no.
    pub fn may_match_below(&self, directory: &[u8]) -> bool {
        if directory.is_empty() {
            return true;
        }
        if self.depth.is_some_and(|depth| depth <= components(directory)) {
            return false;
        }
        // Compares `directory/` with the prefix over what both have.
        let length = self.prefix.len().min(directory.len());
        self.prefix[..length] == directory[..length]
            && self.prefix.get(directory.len()).is_none_or(|byte| *byte == b'/')
    }
}

/// The characters that no match is without.
fn required(form: &Form, pattern: &[u8]) -> Letters {
    match form {
        Form::Exact => Letters::of(pattern),
        Form::Prefix => Letters::of(&pattern[..pattern.len() - 2]),
        // `**/foo` matches foo itself too.
        Form::Suffix => Letters::of(pattern[2..].strip_prefix(b"/").unwrap_or(&pattern[2..])),
        Form::Regexp(items) => Letters::of(items.iter().flat_map(|item| match item {
            Item::Literal(bytes) => bytes.as_slice(),
            _ => &[],
        })),
    }
}

/// A path with the directories above it, found once for all patterns.
#[derive(Debug, Clone)]
pub struct Lineage<'p> {
    path: &'p [u8],
    /// Where the name of each ends, the topmost directory first.
    ends: Vec<usize>,
    letters: Letters,
}

impl<'p> Lineage<'p> {
    /// Finds the directories above a path.
    pub fn of(path: &'p [u8]) -> Lineage<'p> {
        let mut ends = Vec::with_capacity(16);
        ends.extend((0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]));
        Lineage { path, ends, letters: Letters::of(path) }
    }
}

/// Looks at one byte first: most paths differ there, and comparing the rest is a call.
fn starts_with(path: &[u8], prefix: &[u8]) -> bool {
    prefix.first().is_none_or(|first| path.first() == Some(first) && path.starts_with(prefix))
}

/// As [`starts_with`], from the end.
fn ends_with(path: &[u8], suffix: &[u8]) -> bool {
    suffix.last().is_none_or(|last| path.last() == Some(last) && path.ends_with(suffix))
}

/// The number of components of a path.
fn components(path: &[u8]) -> usize {
    if path.is_empty() { 0 } else { path.iter().filter(|byte| **byte == b'/').count() + 1 }
}

fn depth(form: &Form, pattern: &[u8]) -> Option<usize> {
    let slashes = match form {
        Form::Exact => pattern.iter().filter(|byte| **byte == b'/').count(),
        Form::Prefix | Form::Suffix => return None,
        Form::Regexp(items) => items.iter().try_fold(0, |sum, item| match item {
            Item::Literal(bytes) => Some(sum + bytes.iter().filter(|byte| **byte == b'/').count()),
            Item::Class(class) if !class.contains('/') => Some(sum),
            Item::One | Item::Star | Item::Start | Item::End | Item::WordBoundary(_) => Some(sum),
            Item::Class(_) | Item::Classes(_) | Item::Directories | Item::Everything => None,
        })?,
    };
    Some(slashes + 1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Regexp,
}

/// Patternmatcher's `compile`: the kind of comparison, and the expression between `^` and `$`.
fn translate(pattern: &[u8]) -> (Kind, Vec<u8>) {
    let mut kind = Kind::Exact;
    let mut out = Vec::new();
    let mut rest = pattern;
    let mut first = true;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'*' if rest.first() == Some(&b'*') => {
                rest = &rest[1..];
                rest = rest.strip_prefix(b"/").unwrap_or(rest);
                if !rest.is_empty() {
                    out.extend_from_slice(b"(.*/)?");
                    kind = Kind::Regexp;
                } else if kind == Kind::Exact {
                    kind = Kind::Prefix;
                } else {
                    out.extend_from_slice(b".*");
                    kind = Kind::Regexp;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            b'*' => {
                out.extend_from_slice(b"[^/]*");
                kind = Kind::Regexp;
            }
            b'?' => {
                out.extend_from_slice(b"[^/]");
                kind = Kind::Regexp;
            }
            b'.' | b'+' | b'(' | b')' | b'|' | b'{' | b'}' | b'$' => out.extend_from_slice(&[b'\\', *byte]),
            b'\\' => {
                out.push(b'\\');
                if let Some((next, after)) = rest.split_first() {
                    out.push(*next);
                    rest = after;
                    kind = Kind::Regexp;
                }
            }
            b'[' | b']' => {
                out.push(*byte);
                kind = Kind::Regexp;
            }
            byte => out.push(*byte),
        }
        first = false;
    }
    (kind, out)
}

/// Reads an expression that [`translate`] wrote.
fn items(expression: &[u8]) -> Result<Vec<Item>, InvalidPattern> {
    let mut items: Vec<Item> = Vec::new();
    let mut rest = expression;
    while let Some((byte, after)) = rest.split_first() {
        let (item, length) = match byte {
            b'(' => (Item::Directories, b"(.*/)?".len()),
            b'.' => (Item::Everything, b".*".len()),
            b'^' => (Item::Start, 1),
            b'[' if rest.starts_with(b"[^/]*") => (Item::Star, 5),
            b'[' if rest.starts_with(b"[^/]") => (Item::One, 4),
            b'[' => {
                let mut tail = after;
                let class = Class::parse(&mut tail)?;
                let repeated = tail.first() == Some(&b'*');
                let length = rest.len() - tail.len() + usize::from(repeated);
                (if repeated { Item::Classes(class) } else { Item::Class(class) }, length)
            }
            b'\\' => {
                let mut tail = after;
                let item = escaped(&mut tail)?;
                (item, rest.len() - tail.len())
            }
            byte => (Item::Literal(vec![*byte]), 1),
        };
        rest = &rest[length..];
        match (items.last_mut(), item) {
            (Some(Item::Literal(bytes)), Item::Literal(more)) => bytes.extend(more),
            (_, item) => items.push(item),
        }
    }
    Ok(items)
}

fn escaped(rest: &mut &[u8]) -> Result<Item, InvalidPattern> {
    let letter = rest.first().copied().unwrap_or(b'\\');
    let item = match letter {
        b'A' => Item::Start,
        b'z' => Item::End,
        b'b' => Item::WordBoundary(true),
        b'B' => Item::WordBoundary(false),
        letter => match Class::perl(letter) {
            Some(class) => Item::Class(class),
            None => {
                let character = escape(rest)?;
                return Ok(Item::Literal(character.to_string().into_bytes()));
            }
        },
    };
    *rest = &rest[1..];
    Ok(item)
}

/// One attempt to match: backtracking that goes on from each place once, so that the time is linear in the path.
struct Search<'a> {
    items: &'a [Item],
    path: &'a [u8],
    /// Where a repeating item was gone on from, one bit per (item, position): a second way there leads nowhere, or the first
    /// would have ended the search. Empty while there is but one repeating item, which cannot come to a place twice.
    tried: Vec<u64>,
}

impl<'a> Search<'a> {
    fn new(items: &'a [Item], path: &'a [u8]) -> Search<'a> {
        let repeating =
            |item: &&Item| matches!(item, Item::Star | Item::Directories | Item::Everything | Item::Classes(_));
        let several = items.iter().filter(repeating).nth(1).is_some();
        let bits = if several { items.len() * (path.len() + 1) } else { 0 };
        Search { items, path, tried: vec![0; bits.div_ceil(64)] }
    }

    fn run(&mut self) -> bool {
        self.from(0, 0)
    }

    /// Whether the items from one on match the path from a position on to its end. Recursion is as deep as the pattern
    /// has repeating items.
    fn from(&mut self, mut item: usize, mut at: usize) -> bool {
        loop {
            let Some(current) = self.items.get(item) else { return at == self.path.len() };
            if matches!(current, Item::Star | Item::Directories | Item::Everything | Item::Classes(_)) {
                return self.repeated(item, at);
            }
            let Some(length) = self.single(current, at) else { return false };
            (item, at) = (item + 1, at + length);
        }
    }

    fn repeated(&mut self, item: usize, start: usize) -> bool {
        let mut at = start;
        loop {
            if at == start || self.items[item] != Item::Directories || self.path[at - 1] == b'/' {
                if self.is_tried(item, at) {
                    return false;
                }
                if self.from(item + 1, at) {
                    return true;
                }
            }
            let Some((character, length)) = first_char(&self.path[at..]) else { return false };
            let goes_on = match &self.items[item] {
                Item::Star => character != '/',
                Item::Classes(class) => class.contains(character),
                // Go's `.` stops at a newline.
                _ => character != '\n',
            };
            if !goes_on {
                return false;
            }
            at += length;
        }
    }

    /// Whether the search was here before; from now on it was.
    fn is_tried(&mut self, item: usize, at: usize) -> bool {
        let bit = item * (self.path.len() + 1) + at;
        let Some(word) = self.tried.get_mut(bit / 64) else { return false };
        let before = *word;
        *word |= 1 << (bit % 64);
        before == *word
    }

    /// How many bytes an item that does not repeat takes here.
    fn single(&self, item: &Item, at: usize) -> Option<usize> {
        let rest = &self.path[at..];
        let word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        match item {
            Item::Literal(bytes) => rest.starts_with(bytes).then_some(bytes.len()),
            Item::One => first_char(rest).filter(|(character, _)| *character != '/').map(|(_, length)| length),
            Item::Class(class) => {
                first_char(rest).filter(|(character, _)| class.contains(*character)).map(|(_, length)| length)
            }
            Item::Start => (at == 0).then_some(0),
            Item::End => rest.is_empty().then_some(0),
            Item::WordBoundary(wanted) => {
                let before = at.checked_sub(1).and_then(|at| self.path.get(at));
                ((word(before) != word(rest.first())) == *wanted).then_some(0)
            }
            Item::Star | Item::Directories | Item::Everything | Item::Classes(_) => None,
        }
    }
}
