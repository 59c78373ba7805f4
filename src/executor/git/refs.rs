//! Which commit a name of a repository is.

use super::command::Git;
use super::{GitError, GitReference};
use crate::diagnostic::did_you_mean;
use crate::plan::git::is_full_commit;

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) commit: String,
    /// The full name, where there is one: servers give a name to everybody, a bare commit not always.
    pub(super) name: Option<String>,
    /// The tag's own object, where it is an annotated one.
    pub(super) tag: Option<String>,
}

/// Asks the repository.
pub(super) fn find(git: &Git<'_>, reference: &GitReference) -> Result<Found, GitError> {
    let listed = git.list()?;
    let lines: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let name = reference.name.as_deref().unwrap_or("HEAD");
    if let Some(found) = choose(&lines, name) {
        return Ok(found);
    }
    if is_short_commit(name) {
        if let Some(found) = begins_with(&lines, name) {
            return Ok(found);
        }
        let format = lines.first().map_or(0, |(object, _)| object.len());
        if let Some(commit) = git.resolve(name, format)? {
            return Ok(Found { commit, name: None, tag: None });
        }
    }
    Err({
        let short =
            |name: &str| name.strip_prefix("refs/heads/").or(name.strip_prefix("refs/tags/")).map(str::to_owned);
        let names: Vec<String> = lines.iter().filter_map(|(_, name)| short(name)).collect();
        let hint = did_you_mean(name, names.iter().map(String::as_str));
        GitError::NoName { remote: reference.shown(), name: name.to_owned(), hint: hint.map(|hint| hint.to_owned()) }
    })
}

/// Whether a name may be the first digits of a commit, as git prints it in lists.
fn is_short_commit(name: &str) -> bool {
    (7..64).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The one commit with a name of its own that begins with these digits: it costs no history to fetch it.
fn begins_with(lines: &[(&str, &str)], digits: &str) -> Option<Found> {
    let is_head = |name: &str| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
    let mut matching = lines.iter().filter(|(object, name)| object.starts_with(digits) && is_head(name));
    let (commit, name) = matching.next()?;
    let is_same = matching.all(|(other, _)| other == commit);
    let name = name.strip_suffix("^{}").unwrap_or(name);
    // An annotated tag has digits of its own, which are those of no commit.
    let found = choose(lines, name).filter(|found| found.commit == *commit && is_full_commit(commit))?;
    is_same.then_some(found)
}

/// As git-checkout(1) does: the name in full, then a branch, then a tag.
fn choose(lines: &[(&str, &str)], name: &str) -> Option<Found> {
    let object = |name: &str| lines.iter().find(|(_, listed)| *listed == name).map(|(object, _)| (*object).to_owned());
    let candidates =
        [name.to_owned(), format!("refs/{name}"), format!("refs/heads/{name}"), format!("refs/tags/{name}")];
    candidates.into_iter().find_map(|full| {
        let found = object(&full).filter(|object| is_full_commit(object))?;
        Some(match object(&format!("{full}^{{}}")) {
            Some(commit) => Found { commit, name: Some(full), tag: Some(found) },
            None => Found { commit: found, name: Some(full), tag: None },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_as_git_does_it() {
        let objects: Vec<String> = (0..6).map(|number| number.to_string().repeat(40)).collect();
        let lines = [
            (objects[0].as_str(), "HEAD"),
            (objects[0].as_str(), "refs/heads/main"),
            (objects[1].as_str(), "refs/heads/both"),
            (objects[2].as_str(), "refs/tags/both"),
            (objects[3].as_str(), "refs/tags/v1"),
            (objects[4].as_str(), "refs/tags/v1^{}"),
            (objects[5].as_str(), "refs/pull/7/head"),
        ];
        for (name, commit, full) in [
            ("HEAD", 0, "HEAD"),
            ("main", 0, "refs/heads/main"),
            ("heads/main", 0, "refs/heads/main"),
            ("both", 1, "refs/heads/both"),
            ("refs/tags/both", 2, "refs/tags/both"),
            ("v1", 4, "refs/tags/v1"),
            ("pull/7/head", 5, "refs/pull/7/head"),
        ] {
            let found = choose(&lines, name).expect(name);
            assert_eq!(
                (found.commit.as_str(), found.name.as_deref()),
                (objects[commit].as_str(), Some(full)),
                "{name}"
            );
        }
        assert_eq!(choose(&lines, "v1").unwrap().tag, Some(objects[3].clone()));
        assert_eq!(choose(&lines, "ain"), None, "a part of a name is no name");
    }

    #[test]
    fn the_first_digits_of_a_commit_name_it_if_they_are_of_one_only() {
        let (one, two, tag) = ("aaaaaaa1".repeat(5), "aaaaaaa2".repeat(5), "bbbbbbb1".repeat(5));
        let lines = [
            (one.as_str(), "HEAD"),
            (one.as_str(), "refs/heads/main"),
            (one.as_str(), "refs/heads/same"),
            (two.as_str(), "refs/heads/other"),
            (tag.as_str(), "refs/tags/v1"),
            (two.as_str(), "refs/tags/v1^{}"),
        ];
        let commit = |digits: &str| begins_with(&lines, digits).map(|found| found.commit);
        assert_eq!(commit("aaaaaaa1"), Some(one.clone()));
        assert_eq!(commit("aaaaaaa2aaaaaaa2"), Some(two.clone()));
        assert_eq!(commit("aaaaaaa"), None, "two commits begin so");
        assert_eq!(commit("bbbbbbb"), None, "a tag is no commit");
        for (name, is_short) in [("aaaaaaa", true), ("aaaaaa", false), ("AAAAAAA", false), ("aaaaaag", false)] {
            assert_eq!(is_short_commit(name), is_short, "{name}");
        }
    }
}
