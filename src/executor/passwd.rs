//! Users and groups as an image knows them: `USER` and `--chown` to numbers.
//!
//! Contract: `/etc/passwd` and `/etc/group` are read from the image and from nowhere else, links followed inside it, only
//! as regular files of at most 10 MiB; an unknown name is an error, never root. It knows nothing of steps.

use std::io::Read;

use crate::diagnostic::did_you_mean;
use crate::tree::{Kind, Last, View, resolve};

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, sorted, without the primary one.
    pub groups: Vec<u32>,
    /// Home directory; `/` where the image names none.
    pub home: String,
}

/// Says why a user or group is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The text has not the form `user[:group]`.
    #[error("invalid user {spec:?}: expected user, uid, user:group or uid:gid")]
    Syntax {
        /// The text as given.
        spec: String,
    },
    /// A number that is no id.
    #[error("invalid id {text:?} in user {spec:?}: expected a number from 0 to 4294967294")]
    Range {
        /// The text as given.
        spec: String,
        /// The number in it.
        text: String,
    },
    /// No such user.
    #[error("unknown user {name:?}: it is not in the image's /etc/passwd{}", meant(near))]
    UnknownUser {
        /// The name.
        name: String,
        /// A name that may be meant.
        near: Option<String>,
    },
    /// No such group.
    #[error("unknown group {name:?}: it is not in the image's /etc/group{}", meant(near))]
    UnknownGroup {
        /// The name.
        name: String,
        /// A name that may be meant.
        near: Option<String>,
    },
    /// The file cannot be used.
    #[error("look up {name:?} in the image's {file}: {reason}")]
    File {
        /// The name that was looked up.
        name: String,
        /// Which file.
        file: &'static str,
        /// Why not.
        reason: String,
    },
}

fn meant(near: &Option<String>) -> String {
    near.as_ref().map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default()
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// BuildKit's limit for both files (CVE-2026-47262).
const MAX_FILE: u64 = 10 << 20;
/// Longer names are not offered as what may be meant: comparing them costs the product of the lengths.
const MAX_NEAR: usize = 64;

/// Finds the user of a USER instruction or of `--user`: `user`, `uid`, `user:group`, `uid:gid`; empty is root.
///
/// A user without a group gets his primary group and the supplementary groups that list him (a number that the image
/// does not know gets group 0); an explicit group is the only one.
///
/// # Errors
/// An unknown name, a number out of range, another form, or a file that cannot be used.
pub fn lookup_user(view: &dyn View, spec: &str) -> Result<User, UserError> {
    let parsed = Spec::parse(if spec.is_empty() { "0" } else { spec })?;
    let known = match &parsed.user {
        Name::Text(name) => Some(Entry::named(view, name)?),
        // A number needs no file, so one that cannot be read is no reason to fail.
        Name::Number(uid) => read(view, PASSWD, spec)
            .ok()
            .and_then(|text| entries(&text).filter_map(Entry::parse).find(|entry| entry.uid == *uid)),
    };
    let uid = match (&parsed.user, &known) {
        (Name::Number(uid), _) => *uid,
        (Name::Text(_), known) => known.as_ref().map_or(0, |known| known.uid),
    };
    let (gid, groups) = match (&parsed.group, &known) {
        (Some(group), _) => (group_id(view, group)?, Vec::new()),
        (None, Some(entry)) => (entry.gid, supplementary(view, entry, spec)?),
        (None, None) => (0, Vec::new()),
    };
    let home = known.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(User { uid, gid, groups, home })
}

/// Finds the owner that `--chown` names. Unlike [`lookup_user`], a number alone is user and group at once.
///
/// # Errors
/// As [`lookup_user`].
pub fn lookup_owner(view: &dyn View, spec: &str) -> Result<(u32, u32), UserError> {
    // A group alone leaves the user as it would be without --chown.
    let parsed = if spec.starts_with(':') { Spec::parse(&format!("0{spec}"))? } else { Spec::parse(spec)? };
    let (uid, gid) = match &parsed.user {
        Name::Number(uid) => (*uid, *uid),
        Name::Text(name) => {
            let entry = Entry::named(view, name)?;
            (entry.uid, entry.gid)
        }
    };
    match &parsed.group {
        Some(group) => Ok((uid, group_id(view, group)?)),
        None => Ok((uid, gid)),
    }
}

/// `user[:group]`.
struct Spec {
    user: Name,
    group: Option<Name>,
}

enum Name {
    Number(u32),
    Text(String),
}

impl Spec {
    fn parse(spec: &str) -> Result<Spec, UserError> {
        let mut parts = spec.split(':');
        let user = parts.next().unwrap_or_default();
        let group = parts.next();
        let odd = |text: &str| text.is_empty() || text.chars().any(|character| character.is_control());
        if odd(user) || group.is_some_and(odd) || parts.next().is_some() {
            return Err(UserError::Syntax { spec: spec.to_owned() });
        }
        Ok(Spec { user: Name::parse(user, spec)?, group: group.map(|group| Name::parse(group, spec)).transpose()? })
    }
}

impl Name {
    fn parse(text: &str, spec: &str) -> Result<Name, UserError> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Name::Text(text.to_owned()));
        }
        let range = || UserError::Range { spec: spec.to_owned(), text: text.to_owned() };
        if digits.len() != text.len() {
            return Err(range());
        }
        id(text).map(Name::Number).ok_or_else(range)
    }
}

/// A number that is an id: 4294967295 is "no change" to `chown`, and what lies above would wrap round to root.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// A line of `/etc/passwd`.
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl Entry {
    /// Reads a line; one with a bad number is no entry (not, as in some parsers, root).
    fn parse(line: &[u8]) -> Option<Entry> {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or_default().to_owned() })
    }

    fn named(view: &dyn View, name: &str) -> Result<Entry, UserError> {
        let text = read(view, PASSWD, name)?;
        if let Some(entry) = entries(&text).filter_map(Entry::parse).find(|entry| entry.name == name) {
            return Ok(entry);
        }
        // An image without /etc/passwd has root all the same.
        if name == "root" {
            return Ok(Entry { name: name.to_owned(), uid: 0, gid: 0, home: "/root".to_owned() });
        }
        Err(UserError::UnknownUser { name: name.to_owned(), near: near(name, &text) })
    }
}

fn group_id(view: &dyn View, group: &Name) -> Result<u32, UserError> {
    let name = match group {
        Name::Number(gid) => return Ok(*gid),
        Name::Text(name) => name,
    };
    let text = read(view, GROUP, name)?;
    let found = entries(&text).filter_map(group_entry).find(|(known, ..)| *known == name.as_bytes());
    match found {
        Some((_, gid, _)) => Ok(gid),
        None if name == "root" => Ok(0),
        None => Err(UserError::UnknownGroup { name: name.clone(), near: near(name, &text) }),
    }
}

/// The groups that list a user.
fn supplementary(view: &dyn View, user: &Entry, spec: &str) -> Result<Vec<u32>, UserError> {
    let text = read(view, GROUP, spec)?;
    let lists = |members: &[u8]| members.split(|byte| *byte == b',').any(|member| member == user.name.as_bytes());
    let groups = entries(&text).filter_map(group_entry);
    let mut groups: Vec<u32> =
        groups.filter(|(_, gid, members)| *gid != user.gid && lists(members)).map(|(_, gid, _)| gid).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

/// Name, number and members of a line of `/etc/group`.
fn group_entry(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = id(std::str::from_utf8(fields.nth(1)?).ok()?)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn entries(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

fn near(name: &str, text: &[u8]) -> Option<String> {
    let names = entries(text).filter_map(|line| std::str::from_utf8(line.split(|byte| *byte == b':').next()?).ok());
    let names = names.filter(|name| name.len() <= MAX_NEAR);
    if name.len() > MAX_NEAR { None } else { did_you_mean(name, names).map(str::to_owned) }
}

/// The content of one of the two files; empty where there is none.
fn read(view: &dyn View, file: &'static str, name: &str) -> Result<Vec<u8>, UserError> {
    let failed = |reason: String| UserError::File { name: name.to_owned(), file, reason };
    let found = match resolve(view, file.as_bytes(), Last::Follow) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(failed(error.to_string())),
    };
    let too_large = || failed(format!("it is larger than {} MiB", MAX_FILE >> 20));
    match found.node.map(|node| node.kind) {
        None => return Ok(Vec::new()),
        Some(Kind::File { size, .. }) if size > MAX_FILE => return Err(too_large()),
        Some(Kind::File { .. }) => {}
        Some(_) => return Err(failed("it is not a regular file".to_owned())),
    }
    let mut text = Vec::new();
    let reader = view.open(&found.path).map_err(|error| failed(error.to_string()))?;
    reader.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > MAX_FILE { Err(too_large()) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
