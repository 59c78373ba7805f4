//! How two lists of files differ, and how that is said.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use super::words::line;

/// How two lists of files differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileChanges {
    /// Files that are in both and not the same, sorted.
    pub changed: Vec<ChangedFile>,
    /// New files, sorted.
    pub added: Vec<String>,
    /// Files that are gone, sorted.
    pub removed: Vec<String>,
    /// Files that are there, but ignore rules leave them out now; sorted.
    pub ignored: Vec<String>,
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedFile {
    /// Its path.
    pub path: String,
    /// What tells it from what it was.
    pub difference: Difference,
}

/// What two states of a file differ in; of several, the one that comes first here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// It is another kind of thing.
    Kind {
        /// What it is now, with its article.
        now: &'static str,
    },
    /// Its content.
    Content,
    /// Where a symbolic link leads.
    Target {
        /// Where it led.
        old: String,
        /// Where it leads.
        new: String,
    },
    /// Its permissions.
    Mode {
        /// What they were.
        old: u32,
        /// What they are.
        new: u32,
    },
    /// User and group.
    Owner {
        /// Who they were.
        old: (u32, u32),
        /// Who they are.
        new: (u32, u32),
    },
    /// Extended attributes.
    Attributes,
}

impl FileChanges {
    /// Compares what was with what is: paths and what they stand for, each list sorted by path. Nothing is collected but
    /// the differences, for a context has a hundred thousand files and more.
    pub fn between<'a, T>(
        old: impl Iterator<Item = (&'a [u8], T)>,
        new: impl Iterator<Item = (&'a [u8], T)>,
        differ: impl Fn(&T, &T) -> Option<Difference>,
        shown: impl Fn(&[u8]) -> String,
    ) -> FileChanges {
        let mut changes = FileChanges::default();
        let (mut old, mut new) = (old.peekable(), new.peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((before, _)), Some((now, _))) => before.cmp(now),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match order {
                Ordering::Less => changes.removed.extend(old.next().map(|(path, _)| shown(path))),
                Ordering::Greater => changes.added.extend(new.next().map(|(path, _)| shown(path))),
                Ordering::Equal => {
                    let (Some((path, before)), Some((_, now))) = (old.next(), new.next()) else { continue };
                    let difference = differ(&before, &now);
                    changes.changed.extend(difference.map(|difference| ChangedFile { path: shown(path), difference }));
                }
            }
        }
        changes.added = without_parents(changes.added);
        changes.removed = without_parents(changes.removed);
        changes
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty() && self.ignored.is_empty()
    }

    /// Leaves out the files that differ in nothing but their permissions: something else explains those.
    pub(super) fn without_modes(mut self) -> FileChanges {
        self.changed.retain(|file| !matches!(file.difference, Difference::Mode { .. }));
        self
    }
}

/// Files that come or go with their directory tell enough of it.
fn without_parents(paths: Vec<String>) -> Vec<String> {
    let parents: BTreeSet<&str> = paths.iter().filter_map(|path| Some(path.rsplit_once('/')?.0)).collect();
    let is_kept: Vec<bool> = paths.iter().map(|path| !parents.contains(path.as_str())).collect();
    paths.into_iter().zip(is_kept).filter(|(_, is_kept)| *is_kept).map(|(path, _)| path).collect()
}

/// A few of many names: one or two, or one and the number of the others.
fn named(paths: &[&str]) -> String {
    // Whoever writes to a context decides on names: none of them moves the cursor of a terminal.
    let shown = |path: &str| line(path).into_iter().collect::<String>();
    match paths {
        [] => String::new(),
        [one] => shown(one),
        [one, other] => format!("{} and {}", shown(one), shown(other)),
        [first, rest @ ..] => format!("{} and {} more files", shown(first), rest.len()),
    }
}

impl Difference {
    /// Files that differ in the same are told of together, in this order: content first, for that is what most edits change.
    fn rank(&self) -> usize {
        match self {
            Difference::Content => 0,
            Difference::Kind { .. } => 1,
            Difference::Target { .. } => 2,
            Difference::Mode { .. } => 3,
            Difference::Owner { .. } => 4,
            Difference::Attributes => 5,
        }
    }
}

/// What is said of files that differ in the same.
fn sentence(first: &ChangedFile, rest: &[&ChangedFile]) -> String {
    let paths: Vec<&str> = [first].iter().chain(rest).map(|file| file.path.as_str()).collect();
    let (names, alone) = (named(&paths), rest.is_empty());
    match &first.difference {
        Difference::Content => format!("{names} changed"),
        Difference::Kind { now } if alone => format!("{names} became {now}"),
        Difference::Kind { .. } => format!("{names} became something else"),
        Difference::Target { old, new } if alone => format!("{names}: link was {old:?}, is {new:?}"),
        Difference::Target { .. } => format!("{names}: links changed"),
        Difference::Mode { old, new } if alone => format!("{names}: mode was {old:04o}, is {new:04o}"),
        Difference::Mode { .. } => format!("{names}: mode changed"),
        Difference::Owner { old, new } if alone => {
            format!("{names}: owner was {}:{}, is {}:{}", old.0, old.1, new.0, new.1)
        }
        Difference::Owner { .. } => format!("{names}: owner changed"),
        Difference::Attributes => format!("{names}: extended attributes changed"),
    }
}

impl fmt::Display for FileChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut changed: Vec<&ChangedFile> = self.changed.iter().collect();
        changed.sort_by_key(|file| file.difference.rank());
        let alike = changed.chunk_by(|one, other| one.difference.rank() == other.difference.rank());
        let mut parts: Vec<String> =
            alike.filter_map(|files| files.split_first()).map(|(first, rest)| sentence(first, rest)).collect();
        let lists =
            [(&self.added, "added"), (&self.removed, "removed"), (&self.ignored, "left out by the ignore rules now")];
        for (paths, verb) in lists {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            if !paths.is_empty() {
                parts.push(format!("{} {verb}", named(&paths)));
            }
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(old: &[(&'static str, u32)], new: &[(&'static str, u32)]) -> FileChanges {
        fn bytes(list: &[(&'static str, u32)]) -> Vec<(&'static [u8], u32)> {
            list.iter().map(|(path, content)| (path.as_bytes(), *content)).collect()
        }
        FileChanges::between(
            bytes(old).into_iter(),
            bytes(new).into_iter(),
            |before, now| (before != now).then_some(Difference::Content),
            |path| String::from_utf8_lossy(path).into_owned(),
        )
    }

    #[test]
    fn files_are_named_and_counted() {
        let changes = between(&[("a", 1), ("b", 1), ("gone", 1)], &[("a", 2), ("b", 1), ("x", 0), ("y", 0), ("z", 0)]);
        assert_eq!(changes.to_string(), "a changed, x and 2 more files added, gone removed");
        assert!(between(&[("a", 1)], &[("a", 1)]).is_empty());
        let directories = between(&[("x", 1), ("x/y", 1), ("x/y/z", 1)], &[("empty", 1)]);
        assert_eq!(directories.to_string(), "empty added, x/y/z removed");
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        let changes = between(&[], &[("a\u{1b}[31m\nb", 1)]);
        assert_eq!(changes.to_string(), "a [31m b added");
    }

    #[test]
    fn each_difference_has_its_words() {
        let said = |differences: Vec<Difference>| {
            let names = ["one", "two", "three"];
            let changed = names.iter().zip(differences);
            let changed = changed.map(|(name, difference)| ChangedFile { path: (*name).to_owned(), difference });
            FileChanges { changed: changed.collect(), ..FileChanges::default() }.to_string()
        };
        let mode = Difference::Mode { old: 0o644, new: 0o4755 };
        let owner = Difference::Owner { old: (0, 0), new: (7, 8) };
        let target = Difference::Target { old: "a".to_owned(), new: "b".to_owned() };
        let kind = Difference::Kind { now: "a directory" };
        for (differences, words) in [
            (vec![mode.clone()], "one: mode was 0644, is 4755"),
            (vec![mode.clone(), mode.clone()], "one and two: mode changed"),
            (vec![owner.clone()], "one: owner was 0:0, is 7:8"),
            (vec![owner.clone(), owner.clone(), owner], "one and 2 more files: owner changed"),
            (vec![target.clone()], "one: link was \"a\", is \"b\""),
            (vec![target.clone(), target], "one and two: links changed"),
            (vec![kind.clone()], "one became a directory"),
            (vec![kind.clone(), kind], "one and two became something else"),
            (vec![Difference::Attributes], "one: extended attributes changed"),
            (vec![mode, Difference::Content], "two changed, one: mode was 0644, is 4755"),
        ] {
            assert_eq!(said(differences), words);
        }
        let ignored = FileChanges { ignored: vec!["a".to_owned()], ..FileChanges::default() };
        assert_eq!(ignored.to_string(), "a left out by the ignore rules now");
    }
}
