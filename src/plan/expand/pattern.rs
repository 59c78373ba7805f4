//! The patterns of `${v#…}` and `${v/…/…}`: `*`, `?`, escapes, and letters.
//!
//! A pattern is cut at its stars into pieces of fixed length. That a star matches anything makes the first place where a
//! piece fits as good as any later one, so matching needs no backtracking and takes time proportional to the text.

use std::ops::Range;

/// Which of several matches is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Shortest,
    Longest,
}

/// What matches one letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Any,
    Letter(char),
}

impl Element {
    fn matches(self, letter: char) -> bool {
        self == Element::Any || self == Element::Letter(letter)
    }
}

/// A pattern: what stands between its stars. Never without a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<Vec<Element>>,
}

impl Pattern {
    /// Reads a pattern; gives the letter (or nothing) that is escaped but may not be.
    pub(super) fn parse(text: &str) -> Result<Pattern, String> {
        let mut pieces = vec![Vec::new()];
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let element = match letter {
                '*' => {
                    pieces.push(Vec::new());
                    continue;
                }
                '?' => Element::Any,
                '\\' => match letters.next() {
                    // The brace and the slash are escaped for the substitution around the pattern.
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Element::Letter(escaped),
                    other => return Err(other.map(String::from).unwrap_or_default()),
                },
                letter => Element::Letter(letter),
            };
            if let Some(piece) = pieces.last_mut() {
                piece.push(element);
            }
        }
        Ok(Pattern { pieces })
    }

    /// The text without what the pattern matches at its start.
    pub(super) fn strip_prefix(&self, text: &str, length: Length) -> String {
        let letters: Vec<char> = text.chars().collect();
        let end = self.match_at(&letters, 0, length).unwrap_or(0);
        letters[end..].iter().collect()
    }

    /// The text without what the pattern matches at its end.
    pub(super) fn strip_suffix(&self, text: &str, length: Length) -> String {
        let mirrored: Vec<char> = text.chars().rev().collect();
        let mut pattern = self.clone();
        pattern.pieces.reverse();
        pattern.pieces.iter_mut().for_each(|piece| piece.reverse());
        let end = pattern.match_at(&mirrored, 0, length).unwrap_or(0);
        mirrored[end..].iter().rev().collect()
    }

    /// The text with the first and longest match replaced.
    pub(super) fn replace_first(&self, text: &str, replacement: &str) -> String {
        let letters: Vec<char> = text.chars().collect();
        let Some(found) = self.find(&letters, 0) else { return text.to_owned() };
        let mut result: String = letters[..found.start].iter().collect();
        result.push_str(replacement);
        result.extend(&letters[found.end..]);
        result
    }

    /// The text with all matches replaced that do not overlap, from the left. As with Go's regular expressions, an empty
    /// match right after another match does not count.
    pub(super) fn replace_all(&self, text: &str, replacement: &str) -> String {
        let letters: Vec<char> = text.chars().collect();
        let mut result = String::with_capacity(text.len());
        let mut copied = 0;
        let mut from = 0;
        while let Some(found) = self.find(&letters, from) {
            result.extend(&letters[copied..found.start]);
            if found.end > copied || found.start == 0 {
                result.push_str(replacement);
            }
            copied = found.end;
            from = found.end.max(from + 1);
            if from > letters.len() {
                break;
            }
        }
        result.extend(&letters[copied..]);
        result
    }

    /// The first match that starts at `from` or later, as long as it can be.
    fn find(&self, letters: &[char], from: usize) -> Option<Range<usize>> {
        let start = first_fit(&self.pieces[0], letters, from)?;
        // If the rest does not fit behind the first place of the first piece, it fits behind no later one.
        let end = self.match_at(letters, start, Length::Longest)?;
        Some(start..end)
    }

    /// The end of a match that starts at `start`.
    fn match_at(&self, letters: &[char], start: usize, length: Length) -> Option<usize> {
        let (first, rest) = self.pieces.split_first()?;
        if !fits(first, letters, start) {
            return None;
        }
        let mut at = start + first.len();
        let Some((last, middle)) = rest.split_last() else { return Some(at) };
        for piece in middle {
            at = first_fit(piece, letters, at)? + piece.len();
        }
        let place = match length {
            Length::Shortest => first_fit(last, letters, at),
            Length::Longest => last_fit(last, letters, at),
        };
        place.map(|place| place + last.len())
    }
}

fn fits(piece: &[Element], letters: &[char], at: usize) -> bool {
    let Some(candidate) = letters.get(at..at + piece.len()) else { return false };
    piece.iter().zip(candidate).all(|(element, letter)| element.matches(*letter))
}

fn first_fit(piece: &[Element], letters: &[char], from: usize) -> Option<usize> {
    let last = letters.len().checked_sub(piece.len())?;
    (from..=last).find(|at| fits(piece, letters, *at))
}

fn last_fit(piece: &[Element], letters: &[char], from: usize) -> Option<usize> {
    let last = letters.len().checked_sub(piece.len())?;
    (from..=last).rev().find(|at| fits(piece, letters, *at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, for comparison: does a pattern match all of a text?
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some('*'), _) => matches(&pattern[1..], text) || (!text.is_empty() && matches(pattern, &text[1..])),
            (Some('?'), Some(_)) => matches(&pattern[1..], &text[1..]),
            (Some(letter), Some(other)) => letter == other && matches(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn stripping_agrees_with_the_definition(pattern in "[ab*?]{0,5}", text in "[abc]{0,7}") {
            let parsed = Pattern::parse(&pattern).expect("no escapes");
            let pattern: Vec<char> = pattern.chars().collect();
            let letters: Vec<char> = text.chars().collect();
            let prefixes: Vec<usize> = (0..=letters.len()).filter(|end| matches(&pattern, &letters[..*end])).collect();
            let suffixes: Vec<usize> = (0..=letters.len()).filter(|start| matches(&pattern, &letters[*start..])).collect();
            let (first, last) = (prefixes.first().copied().unwrap_or(0), prefixes.last().copied().unwrap_or(0));
            prop_assert_eq!(parsed.strip_prefix(&text, Length::Shortest), &text[first..]);
            prop_assert_eq!(parsed.strip_prefix(&text, Length::Longest), &text[last..]);
            let all = text.len();
            let (first, last) = (suffixes.first().copied().unwrap_or(all), suffixes.last().copied().unwrap_or(all));
            prop_assert_eq!(parsed.strip_suffix(&text, Length::Shortest), &text[..last]);
            prop_assert_eq!(parsed.strip_suffix(&text, Length::Longest), &text[..first]);
        }
    }
}
