//! Ignore rules: which paths of a context do not exist for a build.
//!
//! Contract: the verdicts of moby/patternmatcher's `MatchesOrParentMatches` (the last line that matches a path or a
//! directory above it decides), and the reading of `ignorefile.ReadAll`. It does no I/O but [`locate`].

use std::path::{Path, PathBuf};

use super::pattern::{InvalidPattern, Lineage, PathPattern, clean};

/// A line longer than this is refused (the limit of Go's `bufio.Scanner`, which reads the file for Docker).
const MAX_LINE: usize = 64 * 1024 - 1;

/// Says which line of an ignore file means nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read ignore pattern {pattern:?} (line {line}): {reason}")]
pub struct IgnoreError {
    /// The line, counted from 1.
    pub line: usize,
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The rules of one ignore file, or of the `--exclude` flags of one COPY.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Whether it starts with `!`.
    exception: bool,
    pattern: PathPattern,
    /// Whether it is written so that it matches whatever there is.
    everything: bool,
}

/// The verdicts that a directory's entries share: what already matched the directory or one above it, and which rules
/// can match an entry at all. Make one per directory and ask it for each entry.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    rules: &'a IgnoreRules,
    directory: Vec<u8>,
    /// The rules that can change a verdict in this directory, in order.
    live: Vec<Live>,
}

/// A rule in a directory.
#[derive(Debug, Clone, Copy)]
struct Live {
    index: u32,
    /// It matched the directory or one above it, so it matches every entry.
    holds: bool,
    /// See [`PathPattern::last_byte`]; here, so that most rules are passed over without a look at them.
    last: Option<u8>,
}

impl IgnoreRules {
    /// Reads an ignore file.
    ///
    /// # Errors
    /// A pattern that Docker refuses too: a bad `[…]` or `\`, a lone `!`, a line of 64 KiB.
    pub fn parse(text: &[u8]) -> Result<IgnoreRules, IgnoreError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            // A comment has its # in the very first column; ` #x` is a pattern.
            if line.first() == Some(&b'#') {
                continue;
            }
            let rule = match line.len() {
                ..=MAX_LINE => normalize(line).map_or(Ok(None), |pattern| rule(&pattern)),
                _ => Err(InvalidPattern("the line is longer than 65535 bytes")),
            };
            let error = |InvalidPattern(reason)| IgnoreError {
                line: index + 1,
                pattern: shortened(line),
                reason: format!("syntax error in pattern: {reason}"),
            };
            rules.extend(rule.map_err(error)?);
        }
        Ok(IgnoreRules { rules })
    }

    /// Compiles the patterns of `--exclude` flags.
    ///
    /// # Errors
    /// As [`IgnoreRules::parse`]; the line is the flag's number.
    pub fn from_patterns(patterns: &[String]) -> Result<IgnoreRules, IgnoreError> {
        let mut rules = Vec::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let error = |InvalidPattern(reason)| IgnoreError {
                line: index + 1,
                pattern: shortened(pattern.as_bytes()),
                reason: format!("syntax error in pattern: {reason}"),
            };
            rules.extend(rule(pattern.as_bytes()).map_err(error)?);
        }
        Ok(IgnoreRules { rules })
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path is excluded. For the entries of a whole directory, [`IgnoreRules::scope`] is faster.
    pub fn excludes(&self, path: &[u8]) -> bool {
        // The root always exists ("Don't let them exclude everything, kind of silly").
        !path.is_empty() && self.deciding(path).is_some_and(|index| !self.rules[index].exception)
    }

    /// Whether nothing of a path, the root included, can be part of the context: neither itself nor anything below it.
    pub fn leave_nothing_of(&self, path: &[u8]) -> bool {
        match self.rules.iter().rposition(|rule| rule.everything && !rule.exception) {
            _ if !path.is_empty() => self.excludes(path) && !self.may_descend(path),
            Some(index) => !self.rules[index + 1..].iter().any(|rule| rule.exception),
            None => false,
        }
    }

    /// Whether anything below a directory can be part of the context: false where the directory is excluded and no
    /// later exception can match below it.
    pub fn may_descend(&self, directory: &[u8]) -> bool {
        match self.deciding(directory) {
            Some(index) if !self.rules[index].exception && !directory.is_empty() => {
                self.excepted_below(index, directory)
            }
            _ => true,
        }
    }

    /// Whether any pattern, exception or not, may match something below a directory; never a wrong no.
    pub fn may_match_below(&self, directory: &[u8]) -> bool {
        self.rules.iter().any(|rule| rule.pattern.may_match_below(directory))
    }

    /// The verdicts shared by the entries of a directory (the empty path is the root).
    pub fn scope(&self, directory: &[u8]) -> Scope<'_> {
        let lineage = Lineage::of(directory);
        self.scope_with(directory, |_, rule| !directory.is_empty() && rule.pattern.matches_any(&lineage))
    }

    fn scope_with(&self, directory: &[u8], holds: impl Fn(usize, &Rule) -> bool) -> Scope<'_> {
        let live = (0u32..).zip(&self.rules).filter_map(|(index, rule)| {
            let holds = holds(index as usize, rule);
            let live = Live { index, holds, last: rule.pattern.last_byte() };
            (holds || rule.pattern.may_match_in(directory)).then_some(live)
        });
        Scope { rules: self, directory: directory.to_vec(), live: live.collect() }
    }

    /// The rule that decides: the last that matches the path or a directory above it.
    fn deciding(&self, path: &[u8]) -> Option<usize> {
        // A copy asks for each of its paths, and has seldom a rule of its own.
        if self.rules.is_empty() {
            return None;
        }
        let lineage = Lineage::of(path);
        self.rules.iter().rposition(|rule| rule.pattern.matches_any(&lineage))
    }

    /// Whether an exception after a rule may match below a directory.
    fn excepted_below(&self, rule: usize, directory: &[u8]) -> bool {
        self.rules[rule + 1..].iter().any(|rule| rule.exception && rule.pattern.may_match_below(directory))
    }
}

impl<'a> Scope<'a> {
    /// Whether an entry of the directory is excluded; `path` is its whole path.
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some_and(|index| !self.rules.rules[index].exception)
    }

    /// Whether anything below a directory that is an entry here can be part of the context.
    pub fn may_descend(&self, path: &[u8]) -> bool {
        match self.deciding(path) {
            Some(index) if !self.rules.rules[index].exception => self.rules.excepted_below(index, path),
            _ => true,
        }
    }

    /// The scope of a directory that is an entry here.
    pub fn enter(&self, path: &[u8]) -> Scope<'a> {
        // A rule that is not live here cannot match the directory itself, but may match further down.
        let live = |index: usize| self.live.binary_search_by_key(&index, |live| live.index as usize).ok();
        self.rules.scope_with(path, |index, rule| {
            live(index).is_some_and(|at| self.live[at].holds || rule.pattern.matches(path))
        })
    }

    /// The directory.
    pub fn directory(&self) -> &[u8] {
        &self.directory
    }

    fn deciding(&self, path: &[u8]) -> Option<usize> {
        let end = path.last();
        let matches = |live: &&Live| {
            let may = live.last.is_none_or(|last| end == Some(&last));
            live.holds || may && self.rules.rules[live.index as usize].pattern.matches(path)
        };
        self.live.iter().rev().find(matches).map(|live| live.index as usize)
    }
}

/// The ignore file that applies: `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in the root of
/// the context; they are not merged.
pub fn locate(dockerfile: &Path, context: &Path) -> Option<PathBuf> {
    let mut name = dockerfile.file_name()?.to_owned();
    name.push(".dockerignore");
    [dockerfile.with_file_name(name), context.join(".dockerignore")].into_iter().find(|path| path.is_file())
}

/// `ignorefile.ReadAll` for one line: trims, cleans, and drops one leading slash; `None` for a blank line.
fn normalize(line: &[u8]) -> Option<Vec<u8>> {
    let line = trim(line);
    let (exception, pattern) = match line {
        [] => return None,
        [b'!', rest @ ..] => (true, trim(rest)),
        pattern => (false, pattern),
    };
    let mut normal = if exception { b"!".to_vec() } else { Vec::new() };
    if !pattern.is_empty() {
        let cleaned = clean(pattern);
        normal.extend_from_slice(if cleaned.len() > 1 {
            cleaned.strip_prefix(b"/").unwrap_or(&cleaned)
        } else {
            &cleaned
        });
    }
    Some(normal)
}

/// `patternmatcher.New` for one pattern, which trims and cleans once more (so that `x/../!y` is an exception).
fn rule(pattern: &[u8]) -> Result<Option<Rule>, InvalidPattern> {
    let pattern = trim(pattern);
    if pattern.is_empty() {
        return Ok(None);
    }
    let pattern = clean(pattern);
    let exception = pattern[0] == b'!';
    if pattern == b"!" {
        return Err(InvalidPattern("illegal exclusion pattern: \"!\""));
    }
    let text = &pattern[usize::from(exception)..];
    let everything = matches!(text, b"*" | b"**" | b"**/*");
    Ok(Some(Rule { exception, pattern: PathPattern::parse(text)?, everything }))
}

/// Without white space at both ends, as Go's `strings.TrimSpace`: Unicode's, where the bytes are UTF-8.
fn trim(bytes: &[u8]) -> &[u8] {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.trim_ascii(), |text| text.trim().as_bytes())
}

fn shortened(pattern: &[u8]) -> String {
    String::from_utf8_lossy(trim(&pattern[..pattern.len().min(200)])).into_owned()
}

#[cfg(test)]
mod tests;
