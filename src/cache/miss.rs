//! Why a step was not in the cache, in words.

mod files;
mod words;

use std::collections::BTreeMap;

pub use files::{ChangedFile, Difference, FileChanges};

use super::Place;
use super::key::{BASE, FILES, FILES_OF, FROM, Key, MODE, PARENT, PLATFORM, REPRODUCIBLE, SOURCES, VARIABLE, WORDS};
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
    Replaced {
        /// Which; empty where that is not known.
        before: String,
    },
    /// Something that was not noted when it was built by an earlier version.
    NotNoted,
    /// The step before it has another result.
    Parent,
    /// It stood behind another step.
    Order {
        /// Behind which.
        before: String,
        /// Which one is before it now.
        now: String,
    },
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
    Files {
        /// Whose files, where a step reads several sets.
        of: Option<String>,
        /// How; none where that cannot be said any more.
        changes: Option<FileChanges>,
    },
}

/// How files differ, by the name of the ingredient that stands for them.
pub type FilesByIngredient = BTreeMap<String, FileChanges>;

/// Compares a step's key with the last one at its place.
///
/// `files` is how the files differ, where the step reads files and both lists are known.
pub fn explain(
    before: Option<&SlotRecord>,
    key: &Key,
    place: Place<'_>,
    files: impl FnOnce(&SlotRecord) -> FilesByIngredient,
) -> MissReason {
    let Some(before) = before else { return MissReason::First };
    if before.key == key.digest {
        return MissReason::Removed;
    }
    let kind = |ingredients: &[(String, String)]| ingredients.first().map(|(name, _)| name.clone());
    // What comes first tells the kinds apart; to list how a COPY differs from a RUN says nothing.
    if kind(&before.ingredients) != kind(&key.ingredients) {
        return MissReason::Replaced { before: before.text.clone() };
    }
    let comparison = Comparison::new(before, key, files);
    let parent_changed = comparison.parent_changed;
    let changes = comparison.changes();
    match changes.is_empty() {
        true if parent_changed => order(before, place),
        true if before.words != WORDS => MissReason::NotNoted,
        // Equal in every word, other in a part that has none (a version of the key's form): honest, if dull.
        true => MissReason::First,
        false => MissReason::Changed(changes),
    }
}

/// An edited step is still the step before; one that was put in, taken out or moved is another.
fn order(before: &SlotRecord, place: Place<'_>) -> MissReason {
    let is_known = before.words == WORDS && !before.after.is_empty();
    if !is_known || before.ordinal == place.ordinal || before.after == place.after {
        return MissReason::Parent;
    }
    MissReason::Order { before: before.after.clone(), now: place.after.to_owned() }
}

/// Two lists of ingredients beside each other.
struct Comparison<'a> {
    before: &'a SlotRecord,
    key: &'a Key,
    old: BTreeMap<&'a str, &'a str>,
    new: BTreeMap<&'a str, &'a str>,
    files: FilesByIngredient,
    parent_changed: bool,
}

impl<'a> Comparison<'a> {
    fn new(
        before: &'a SlotRecord,
        key: &'a Key,
        files: impl FnOnce(&SlotRecord) -> FilesByIngredient,
    ) -> Comparison<'a> {
        fn by_name(ingredients: &[(String, String)]) -> BTreeMap<&str, &str> {
            ingredients.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
        }
        let (old, new) = (by_name(&before.ingredients), by_name(&key.ingredients));
        // A linked copy depends on no step before it; that one did and does not now is said of the link.
        let parent_changed = matches!((old.get(PARENT), new.get(PARENT)), (Some(old), Some(new)) if old != new);
        Comparison { before, key, old, new, files: files(before), parent_changed }
    }

    fn changes(mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, value) in &self.key.ingredients {
            if self.old.get(name.as_str()) == Some(&value.as_str()) || !self.counts(name) {
                continue;
            }
            if name == FILES || name.starts_with(FILES_OF) {
                changes.extend(self.files(name));
                continue;
            }
            match self.old.get(name.as_str()) {
                Some(before) => {
                    let (name, old, new) = (name.clone(), (*before).to_owned(), value.clone());
                    changes.push(Change::Value { name, old, new });
                }
                None => changes.push(Change::Added { name: name.clone(), new: value.clone() }),
            }
        }
        for (name, _) in &self.before.ingredients {
            if !self.new.contains_key(name.as_str()) && self.counts(name) && !name.starts_with(FILES_OF) {
                changes.push(Change::Removed { name: name.clone() });
            }
        }
        changes
    }

    fn differs(&self, name: &str) -> bool {
        matches!((self.old.get(name), self.new.get(name)), (Some(old), Some(new)) if old != new)
    }

    /// Whether a difference in this can be why the keys differ.
    fn counts(&self, name: &str) -> bool {
        let is_in_both = self.old.contains_key(name) && self.new.contains_key(name);
        match name {
            PARENT => false,
            // These stand for nothing by themselves: the files do, and what the step continues.
            SOURCES | FROM => is_in_both && self.differs(FILES),
            PLATFORM => is_in_both && (self.parent_changed || self.new.contains_key(BASE)),
            // What an earlier version calls otherwise is neither new nor gone.
            _ => self.before.words == WORDS || is_in_both || name.starts_with(VARIABLE),
        }
    }

    /// How the files of an ingredient differ; none where that follows from another change.
    fn files(&mut self, name: &str) -> Option<Change> {
        let of = name.strip_prefix(FILES_OF).map(str::to_owned);
        if !self.old.contains_key(name) {
            // A mount that is new is told of by its own name.
            return None;
        }
        let known = self.files.remove(name);
        let changes = match known {
            Some(changes) if self.differs(MODE) => Some(changes.without_modes()),
            known => known,
        };
        match changes.filter(|changes| !changes.is_empty()) {
            Some(changes) => Some(Change::Files { of, changes: Some(changes) }),
            None if self.differs(REPRODUCIBLE) => None,
            // Another mount shows other files.
            None if of.as_ref().is_some_and(|mount| self.differs(mount)) => None,
            // Another instruction copies other files, or the same under other names.
            None if of.is_none() && self.is_explained() => None,
            None => Some(Change::Files { of, changes: None }),
        }
    }

    /// Whether something besides the files differs.
    fn is_explained(&self) -> bool {
        let is_else = |name: &str| name != FILES && !name.starts_with(FILES_OF) && name != PARENT;
        self.key.ingredients.iter().any(|(name, _)| is_else(name) && self.counts(name) && self.differs(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::{OFF, ON};
    use crate::digest::Digest;
    use crate::store::Evidence;

    fn key(name: &str, ingredients: &[(&str, &str)]) -> Key {
        let ingredients = ingredients.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Key { digest: Digest::of(name.as_bytes()), ingredients, evidence: Evidence::default() }
    }

    fn record(key: Key) -> SlotRecord {
        SlotRecord {
            key: key.digest,
            ingredients: key.ingredients,
            layer: None,
            words: WORDS,
            text: "RUN old".to_owned(),
            after: "FROM base".to_owned(),
            ordinal: 1,
            evidence: key.evidence,
        }
    }

    fn place(after: &str, ordinal: usize) -> Place<'_> {
        Place { stage: "one", text: "RUN new", ordinal, platforms: &[], after }
    }

    fn reason(old: &[(&str, &str)], new: &[(&str, &str)], files: FilesByIngredient) -> String {
        let before = record(key("old", old));
        explain(Some(&before), &key("new", new), place("FROM base", 1), |_| files).to_string()
    }

    fn words(old: &[(&str, &str)], new: &[(&str, &str)]) -> String {
        reason(old, new, BTreeMap::new())
    }

    fn file(path: &str, difference: Difference) -> FileChanges {
        FileChanges { changed: vec![ChangedFile { path: path.to_owned(), difference }], ..FileChanges::default() }
    }

    fn files(name: &str, changes: FileChanges) -> FilesByIngredient {
        BTreeMap::from([(name.to_owned(), changes)])
    }

    #[test]
    fn the_argument_that_changed_is_named_with_both_values() {
        let old = [("command", "make"), ("variable VERSION", "1.2"), (PARENT, "a")];
        let new = [("command", "make"), ("variable VERSION", "1.3"), (PARENT, "b")];
        assert_eq!(words(&old, &new), "variable VERSION was \"1.2\", is \"1.3\"");
        assert_eq!(words(&old, &[("path", "/a"), (PARENT, "a")]), "another instruction was here before: \"RUN old\"");
        assert_eq!(words(&[(PARENT, "a")], &[(PARENT, "b")]), "the step before it changed");
        assert_eq!(words(&new[..1], &new[..2]), "variable VERSION is new: \"1.3\"");
        assert_eq!(words(&new[..2], &new[..1]), "variable VERSION is gone");
    }

    #[test]
    fn a_result_that_was_collected_is_said_to_be() {
        let same = key("same", &[]);
        let before = record(same.clone());
        let nothing = |_: &SlotRecord| BTreeMap::new();
        assert_eq!(explain(Some(&before), &same, place("FROM base", 1), nothing), MissReason::Removed);
        assert_eq!(explain(None, &same, place("FROM base", 1), nothing), MissReason::First);
    }

    #[test]
    fn a_step_at_another_place_is_told_from_one_behind_an_edited_step() {
        let before = record(key("old", &[("command", "make"), (PARENT, "a")]));
        let now = key("new", &[("command", "make"), (PARENT, "b")]);
        let at = |after, ordinal| explain(Some(&before), &now, place(after, ordinal), |_| BTreeMap::new());
        assert_eq!(at("RUN two", 2).to_string(), "it came after \"FROM base\", comes after \"RUN two\"");
        assert_eq!(at("FROM other", 1), MissReason::Parent);
        assert_eq!(at("FROM base", 2), MissReason::Parent);
        let older = SlotRecord { words: 0, after: String::new(), ..before.clone() };
        assert_eq!(explain(Some(&older), &now, place("RUN two", 2), |_| BTreeMap::new()), MissReason::Parent);
    }

    #[test]
    fn flags_explain_what_they_do_to_the_files() {
        let copy = |link, mode, files, parent| {
            [("destination", "/b"), ("--link", link), (MODE, mode), (SOURCES, "a"), (FILES, files), (PARENT, parent)]
        };
        let plain = copy(OFF, "", "1", "p");
        assert_eq!(words(&plain, &copy(ON, "", "1", "p")[..5]), "--link was off, is on");
        let moved = files(FILES, file("b", Difference::Mode { old: 0o644, new: 0o600 }));
        assert_eq!(reason(&plain, &copy(OFF, "600", "2", "p"), moved.clone()), "--chmod was unset, is \"600\"");
        assert_eq!(reason(&plain, &copy(OFF, "", "2", "p"), moved), "b: mode was 0644, is 0600");
    }

    #[test]
    fn files_that_differ_by_themselves_are_told_of_beside_all_else() {
        let mount = format!("{FILES_OF}bind mount at /m");
        let run = |value, content| [("command", "make"), ("variable A", value), (mount.as_str(), content)];
        let changed = || files(&mount, file("x", Difference::Attributes));
        let of_mount =
            |options, content| [("command", "make"), ("bind mount at /m", options), (mount.as_str(), content)];
        assert_eq!(
            words(&of_mount("source=/a", "a"), &of_mount("source=/b", "b")),
            "bind mount at /m was \"source=/a\", is \"source=/b\""
        );
        assert_eq!(
            reason(&run("1", "a"), &run("1", "b"), changed()),
            "bind mount at /m: x: extended attributes changed"
        );
        assert_eq!(
            reason(&run("1", "a"), &run("2", "b"), BTreeMap::new()),
            "variable A was \"1\", is \"2\"; bind mount at /m: its files changed"
        );
        let copy = |sources, files, reproducible| {
            [("destination", "/"), (SOURCES, sources), (FILES, files), (REPRODUCIBLE, reproducible)]
        };
        assert_eq!(words(&copy("a", "1", OFF), &copy("b", "2", OFF)), "source was \"a\", is \"b\"");
        assert_eq!(words(&copy("a", "1", OFF), &copy("./a", "1", OFF)), "not built before");
        assert_eq!(words(&copy("a", "1", OFF), &copy("a", "2", OFF)), "its files changed");
        assert_eq!(words(&copy("a", "1", OFF), &copy("a", "2", ON)), "--reproducible was off, is on");
    }

    #[test]
    fn what_an_earlier_version_remembered_under_other_names_is_not_called_gone() {
        let old = [("destination", "/b"), ("owner", "1"), (FILES, "1"), ("variable A", "1")];
        let before = SlotRecord { words: 0, ..record(key("old", &old)) };
        let now = key("new", &[("destination", "/b"), ("--chown", "1"), (FILES, "2")]);
        let reason =
            explain(Some(&before), &now, place("FROM base", 1), |_| files(FILES, file("b", Difference::Content)));
        assert_eq!(reason.to_string(), "b changed; variable A is gone");
        let now = key("new", &old);
        assert_eq!(explain(Some(&before), &now, place("FROM base", 1), |_| BTreeMap::new()), MissReason::NotNoted);
    }

    #[test]
    fn a_platform_counts_where_the_step_continues_something() {
        let on =
            |platform, files, parent| [("destination", "/b"), (FILES, files), (PLATFORM, platform), (PARENT, parent)];
        assert_eq!(words(&on("x", "1", "p"), &on("y", "1", "q")), "platform was \"x\", is \"y\"");
        assert_eq!(words(&on("x", "1", "p")[..3], &on("y", "2", "p")[..3]), "its files changed");
    }
}
