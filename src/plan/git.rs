//! What people write for a git repository: `https://host/a.git#ref:dir`, with its query, as ADD and contexts take it.
//!
//! Everything that is handed to git later is checked here, so that no part of it can be taken for an option or lead out
//! of the repository. Pure; who fetches it is `executor/git.rs`.

use std::fmt;

/// A repository, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitReference {
    /// The address for git, without query and fragment. It may hold a password: show [`GitReference::shown`] instead.
    pub remote: String,
    /// A branch, a tag, a full reference or a commit; none means what the repository's HEAD names.
    pub name: Option<String>,
    /// The directory of it that is wanted, without slashes around it; empty is all.
    pub directory: String,
    /// The commit that it has to be: all of its hexadecimal digits, or the first ones.
    pub commit: Option<String>,
    /// Whether `.git` is wanted too.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are left out.
    pub submodules: Submodules,
    /// The times of the files, where it is said.
    pub times: Option<GitTimes>,
    /// Where the commit is known, whether it is asked for by itself rather than by the name.
    pub fetch_by: FetchBy,
    /// All of it as it was written, without password.
    text: String,
}

/// Whether the submodules of a repository are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Submodules {
    /// They are, and theirs.
    #[default]
    Fetch,
    /// `submodules=false`.
    Leave,
}

/// What the files of a repository have as their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GitTimes {
    /// That of everything else which the build makes.
    #[default]
    Checkout,
    /// That of the commit.
    Commit,
}

/// What the server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FetchBy {
    /// The name, which then has to be the commit.
    #[default]
    Name,
    /// The commit, wherever the name has gone.
    Commit,
}

/// Says why a text that is meant as a git repository cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGitReference {
    /// A key of the query that does not exist.
    #[error("unexpected query {key:?}")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A key with nothing behind it.
    #[error("query {key:?} has no value")]
    NoValue {
        /// The key.
        key: String,
    },
    /// A key that is there twice.
    #[error("query {key:?} has multiple values")]
    Repeated {
        /// The key.
        key: String,
    },
    /// A value that the key cannot have.
    #[error("invalid {key} value: {value:?}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Two parts that say different things.
    #[error("{what} conflicts: {first:?} vs {second:?}")]
    Conflict {
        /// What they are about.
        what: &'static str,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A branch and a tag.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// A name that no branch, tag or commit can have.
    #[error("invalid git ref {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// A directory outside the repository.
    #[error("the directory {directory:?} is not inside the repository")]
    Directory {
        /// The directory.
        directory: String,
    },
    /// An address that git must not be given.
    #[error("invalid git address")]
    Address,
}

impl GitReference {
    /// Understands a source of ADD; `None` where it is no git repository but a path or another URL.
    ///
    /// `github.com/…` without a scheme is a path here, as in BuildKit; only a build context may be written so.
    ///
    /// # Errors
    /// See [`InvalidGitReference`].
    pub fn parse(text: &str) -> Option<Result<GitReference, InvalidGitReference>> {
        is_git(text).then(|| GitReference::read(text))
    }

    /// Understands a build context.
    ///
    /// # Errors
    /// See [`InvalidGitReference`].
    pub fn parse_context(text: &str) -> Option<Result<GitReference, InvalidGitReference>> {
        if text.starts_with("github.com/") {
            return Some(GitReference::read(&format!("https://{text}")));
        }
        GitReference::parse(text)
    }

    /// The address as it may be shown: without password, query and fragment.
    pub fn shown(&self) -> String {
        without_password(&self.remote)
    }

    /// The host, with its port, that secrets are for; none where the address has no scheme.
    pub fn host(&self) -> Option<&str> {
        let (_, rest) = self.remote.split_once("://")?;
        let authority = rest.split('/').next().unwrap_or(rest);
        Some(authority.rsplit('@').next().unwrap_or(authority))
    }

    /// Adds `--checksum`.
    ///
    /// # Errors
    /// It is no commit, or not the one that the query names.
    pub fn set_commit(&mut self, commit: &str) -> Result<(), InvalidGitReference> {
        let commit = checked_commit(commit)?;
        if let Some(first) = self.commit.take().filter(|first| *first != commit) {
            return Err(InvalidGitReference::Conflict { what: "checksum", first, second: commit });
        }
        self.name.get_or_insert_with(|| commit.clone());
        self.commit = Some(commit);
        Ok(())
    }

    /// Adds `--keep-git-dir`.
    ///
    /// # Errors
    /// The query says something else.
    pub fn set_keep_git_dir(&mut self, keep: bool) -> Result<(), InvalidGitReference> {
        match self.keep_git_dir {
            Some(first) if first != keep => Err(InvalidGitReference::Conflict {
                what: "keep-git-dir",
                first: first.to_string(),
                second: keep.to_string(),
            }),
            _ => {
                self.keep_git_dir = Some(keep);
                Ok(())
            }
        }
    }

    fn read(text: &str) -> Result<GitReference, InvalidGitReference> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
        check_address(remote)?;
        let fragment = decoded(fragment);
        let (name, directory) = fragment.split_once(':').unwrap_or((&fragment, ""));
        let mut reference = GitReference {
            remote: remote.to_owned(),
            name: (!name.is_empty()).then(|| name.to_owned()),
            directory: directory.to_owned(),
            commit: None,
            keep_git_dir: None,
            submodules: Submodules::Fetch,
            times: None,
            fetch_by: FetchBy::Name,
            text: without_password(text),
        };
        reference.read_query(query)?;
        if let Some(name) = reference.name.as_deref().filter(|name| !is_name(name)) {
            return Err(InvalidGitReference::Name { name: name.to_owned() });
        }
        reference.directory = inner_directory(&reference.directory)?;
        Ok(reference)
    }

    fn read_query(&mut self, query: &str) -> Result<(), InvalidGitReference> {
        let mut seen: Vec<String> = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key), decoded(value));
            if seen.contains(&key) {
                return Err(InvalidGitReference::Repeated { key });
            }
            let is_switch = ["submodules", "keep-git-dir", "fetch-by-commit"].contains(&key.as_str());
            if value.is_empty() && !is_switch {
                return Err(InvalidGitReference::NoValue { key });
            }
            match key.as_str() {
                "ref" => self.set_name(value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "subdir" => {
                    if !self.directory.is_empty() && self.directory != value {
                        let first = std::mem::take(&mut self.directory);
                        return Err(InvalidGitReference::Conflict { what: "subdir", first, second: value });
                    }
                    self.directory = value;
                }
                "commit" | "checksum" => {
                    let commit = checked_commit(&value)?;
                    if let Some(first) = self.commit.take().filter(|first| *first != commit) {
                        return Err(InvalidGitReference::Conflict { what: "checksum", first, second: commit });
                    }
                    self.commit = Some(commit);
                }
                "keep-git-dir" => self.keep_git_dir = Some(switch(&key, &value)?),
                "submodules" if switch(&key, &value)? => self.submodules = Submodules::Fetch,
                "submodules" => self.submodules = Submodules::Leave,
                "fetch-by-commit" if switch(&key, &value)? => self.fetch_by = FetchBy::Commit,
                "fetch-by-commit" => self.fetch_by = FetchBy::Name,
                "mtime" if value == "checkout" => self.times = Some(GitTimes::Checkout),
                "mtime" if value == "commit" => self.times = Some(GitTimes::Commit),
                "mtime" => return Err(InvalidGitReference::Value { key, value }),
                _ => return Err(InvalidGitReference::UnknownKey { key }),
            }
            seen.push(key);
        }
        if tag.is_some() && branch.is_some() {
            return Err(InvalidGitReference::BranchAndTag);
        }
        for (value, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            if let Some(value) = value {
                let full = if value.starts_with(prefix) { value } else { format!("{prefix}{value}") };
                self.set_name(full)?;
            }
        }
        if self.name.is_none() {
            self.name.clone_from(&self.commit);
        }
        Ok(())
    }

    fn set_name(&mut self, name: String) -> Result<(), InvalidGitReference> {
        match self.name.take() {
            Some(first) if first != name => Err(InvalidGitReference::Conflict { what: "ref", first, second: name }),
            _ => {
                self.name = Some(name);
                Ok(())
            }
        }
    }
}

impl fmt::Display for GitReference {
    /// As it was written, without password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether all hexadecimal digits of a commit are there (SHA-1 or SHA-256).
pub fn is_full_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A text with the user and password of each URL in it taken out.
pub(super) fn without_passwords(text: &str) -> String {
    text.split_inclusive([' ', '\t', '"', ',']).map(without_password).collect()
}

/// An address without user and password; the user of `user@host:path`, which is no secret, stays.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#', ' ']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((user, host)) if user.contains(':') || scheme.starts_with("http") => {
            format!("{scheme}://{host}{}", &rest[end..])
        }
        _ => address.to_owned(),
    }
}

fn checked_commit(text: &str) -> Result<String, InvalidGitReference> {
    let is_commit = (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_commit {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(InvalidGitReference::Value { key: "checksum".to_owned(), value: text.to_owned() }),
    }
}

/// A boolean as Go's `strconv.ParseBool` reads it; a key alone is true.
fn switch(key: &str, value: &str) -> Result<bool, InvalidGitReference> {
    match value {
        "" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(InvalidGitReference::Value { key: key.to_owned(), value: value.to_owned() }),
    }
}

/// What git-check-ref-format(1) allows, and nothing that git or a shell would take for something else.
fn is_name(name: &str) -> bool {
    let forbidden = |letter: char| letter.is_control() || " ~^:?*[\\".contains(letter);
    !name.starts_with('-')
        && !name.contains(forbidden)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with(['/', '.'])
}

fn inner_directory(text: &str) -> Result<String, InvalidGitReference> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") || parts.contains(&".git") || text.contains(char::is_control) {
        return Err(InvalidGitReference::Directory { directory: text.to_owned() });
    }
    Ok(parts.join("/"))
}

/// Neither the address nor the host, which ssh is given alone, may look like an option.
fn check_address(remote: &str) -> Result<(), InvalidGitReference> {
    let host = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let host = host.split('@').next_back().unwrap_or(host);
    let strange = |letter: char| letter.is_control() || letter == ' ';
    match remote.starts_with('-') || host.starts_with('-') || host.is_empty() || remote.contains(strange) {
        true => Err(InvalidGitReference::Address),
        false => Ok(()),
    }
}

/// A text with its `%41` decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a text is a git address: `git://` or `ssh://`, `http(s)://….git`, or `user@host:path`.
fn is_git(text: &str) -> bool {
    let is_word = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_word(scheme, "")) {
        let path = rest.split(['#', '?']).next().unwrap_or_default();
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            "http" | "https" => path.contains('/') && path.ends_with(".git"),
            _ => false,
        };
    }
    let Some((user, rest)) = text.split_once('@') else { return false };
    rest.split_once(':').is_some_and(|(host, _)| is_word(user, "-_") && is_word(host, ".-"))
}

#[cfg(test)]
mod tests;
