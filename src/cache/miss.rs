//! Why a step was not in the cache, in words.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use super::key::{DIGEST, FILES, Key, PARENT};
use crate::store::SlotRecord;

/// Why a step has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// Nothing like it was built in this store before.
    First,
    /// `--no-cache` or `--no-cache-filter`.
    Disabled,
    /// The same was built before, but its result was removed from the store.
    Removed,
    /// Another kind of step stood at its place.
    Replaced,
    /// The step before it has another result.
    Parent,
    /// Some of what entered its key differs.
    Changed(Vec<Change>),
}

/// One difference between two keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A named value is another one.
    Value {
        /// Its name.
        name: String,
        /// What it was.
        old: String,
        /// What it is.
        new: String,
    },
    /// A named value is new.
    Added {
        /// Its name.
        name: String,
        /// What it is.
        new: String,
    },
    /// A named value is gone.
    Removed {
        /// Its name.
        name: String,
    },
    /// Files that were read differ.
    Files(FileChanges),
}

/// How two lists of files differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileChanges {
    /// Files whose content or metadata is another, sorted.
    pub changed: Vec<String>,
    /// New files, sorted.
    pub added: Vec<String>,
    /// Files that are gone, sorted.
    pub removed: Vec<String>,
}

impl FileChanges {
    /// Compares what was with what is: paths and what they stand for, each list sorted by path. Nothing is collected but
    /// the differences, for a context has a hundred thousand files and more.
    pub fn between<'a, T: PartialEq>(
        old: impl Iterator<Item = (&'a [u8], T)>,
        new: impl Iterator<Item = (&'a [u8], T)>,
        shown: impl Fn(&[u8]) -> String,
    ) -> FileChanges {
        let mut changes = FileChanges::default();
        let (mut old, mut new) = (old.peekable(), new.peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((before, _)), Some((now, _))) => before.cmp(now),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return changes,
            };
            match order {
                Ordering::Less => changes.removed.extend(old.next().map(|(path, _)| shown(path))),
                Ordering::Greater => changes.added.extend(new.next().map(|(path, _)| shown(path))),
                Ordering::Equal => {
                    let before = old.next();
                    let now = new.next().filter(|now| before.as_ref() != Some(now));
                    changes.changed.extend(now.map(|(path, _)| shown(path)));
                }
            }
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

/// Compares a step's key with the last one at its place.
///
/// `files` is how the files differ, where the step reads files and both lists are known.
pub fn explain(before: Option<&SlotRecord>, key: &Key, files: Option<FileChanges>) -> MissReason {
    let Some(before) = before else { return MissReason::First };
    if before.key == key.digest {
        return MissReason::Removed;
    }
    let kind = |ingredients: &[(String, String)]| ingredients.first().map(|(name, _)| name.clone());
    // What comes first tells the kinds apart; to list how a COPY differs from a RUN says nothing.
    if kind(&before.ingredients) != kind(&key.ingredients) {
        return MissReason::Replaced;
    }
    let old: BTreeMap<&str, &str> =
        before.ingredients.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let new: BTreeMap<&str, &str> =
        key.ingredients.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut changes = Vec::new();
    let mut parent_changed = false;
    for (name, value) in &key.ingredients {
        match old.get(name.as_str()) {
            Some(before) if before == value => {}
            _ if name == PARENT => parent_changed = true,
            _ if name == FILES => changes.push(Change::Files(files.clone().unwrap_or_default())),
            Some(before) => {
                changes.push(Change::Value { name: name.clone(), old: (*before).to_owned(), new: value.clone() });
            }
            None => changes.push(Change::Added { name: name.clone(), new: value.clone() }),
        }
    }
    for (name, _) in &before.ingredients {
        if !new.contains_key(name.as_str()) && name != PARENT {
            changes.push(Change::Removed { name: name.clone() });
        }
    }
    match changes.is_empty() {
        true if parent_changed => MissReason::Parent,
        // Equal in every word, other in a part that has none (a version of the key's form): honest, if dull.
        true => MissReason::First,
        false => MissReason::Changed(changes),
    }
}

/// Values longer than this are cut in messages.
const SHOWN: usize = 60;

fn quoted(value: &str) -> String {
    let line: String = value.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    if line.chars().count() <= SHOWN {
        return format!("{line:?}");
    }
    let cut: String = line.chars().take(SHOWN - 1).collect();
    format!("\"{cut}…\"")
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissReason::First => f.write_str("not built before"),
            MissReason::Disabled => f.write_str("the cache is switched off for it"),
            MissReason::Removed => f.write_str("its result was removed from the store"),
            MissReason::Replaced => f.write_str("another instruction was here before"),
            MissReason::Parent => f.write_str("the step before it changed"),
            MissReason::Changed(changes) => {
                let texts: Vec<String> = changes.iter().map(Change::to_string).collect();
                f.write_str(&texts.join("; "))
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Value { name, old, new } if name == DIGEST => write!(f, "digest moved from {old} to {new}"),
            Change::Value { name, old, new } => write!(f, "{name} was {}, is {}", quoted(old), quoted(new)),
            Change::Added { name, new } => write!(f, "{name} is new: {}", quoted(new)),
            Change::Removed { name } => write!(f, "{name} is gone"),
            Change::Files(files) => files.fmt(f),
        }
    }
}

impl fmt::Display for FileChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("its files changed");
        }
        let mut parts = Vec::new();
        for (paths, verb) in [(&self.changed, "changed"), (&self.added, "added"), (&self.removed, "removed")] {
            match paths.as_slice() {
                [] => {}
                [one] => parts.push(format!("{one} {verb}")),
                [one, other] => parts.push(format!("{one} and {other} {verb}")),
                [first, rest @ ..] => parts.push(format!("{first} and {} more files {verb}", rest.len())),
            }
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn key(name: &str, ingredients: &[(&str, &str)]) -> Key {
        let ingredients = ingredients.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Key { digest: Digest::of(name.as_bytes()), ingredients }
    }

    fn reason(old: &[(&str, &str)], new: &[(&str, &str)], files: Option<FileChanges>) -> String {
        let old = key("old", old);
        let before = SlotRecord { key: old.digest, ingredients: old.ingredients, layer: None };
        explain(Some(&before), &key("new", new), files).to_string()
    }

    #[test]
    fn the_argument_that_changed_is_named_with_both_values() {
        let old = [("command", "make"), ("variable VERSION", "1.2"), (PARENT, "a")];
        let new = [("command", "make"), ("variable VERSION", "1.3"), (PARENT, "b")];
        assert_eq!(reason(&old, &new, None), "variable VERSION was \"1.2\", is \"1.3\"");
        assert_eq!(reason(&old, &old[..2], None), "not built before");
        assert_eq!(reason(&old, &[("path", "/a"), (PARENT, "a")], None), "another instruction was here before");
        assert_eq!(reason(&[(PARENT, "a")], &[(PARENT, "b")], None), "the step before it changed");
        assert_eq!(reason(&new[..1], &new[..2], None), "variable VERSION is new: \"1.3\"");
        assert_eq!(reason(&new[..2], &new[..1], None), "variable VERSION is gone");
    }

    #[test]
    fn files_are_named_and_counted() {
        let old = [("a", 1), ("b", 1), ("gone", 1)];
        let new = [("a", 2), ("b", 1), ("x", 0), ("y", 0), ("z", 0)];
        let changes = FileChanges::between(
            old.iter().map(|(path, content)| (path.as_bytes(), *content)),
            new.iter().map(|(path, content)| (path.as_bytes(), *content)),
            |path| String::from_utf8_lossy(path).into_owned(),
        );
        let text = reason(&[(FILES, "1")], &[(FILES, "2")], Some(changes));
        assert_eq!(text, "a changed, x and 2 more files added, gone removed");
    }

    #[test]
    fn a_result_that_was_collected_is_said_to_be() {
        let key = key("same", &[]);
        let before = SlotRecord { key: key.digest, ingredients: vec![], layer: None };
        assert_eq!(explain(Some(&before), &key, None), MissReason::Removed);
        assert_eq!(explain(None, &key, None), MissReason::First);
    }

    #[test]
    fn long_and_hostile_values_are_cut_and_cleaned() {
        let text = quoted(&format!("a\u{1b}[31m\n{}", "x".repeat(200)));
        assert!(text.chars().count() <= SHOWN + 2 && !text.contains('\u{1b}') && !text.contains('\n'));
    }
}
