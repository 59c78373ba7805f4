//! Which ids of the host stand behind the ids inside the sandbox, and how the kernel is told.
//!
//! Unprivileged: 0 is the caller, 1 and up are the ranges that `/etc/subuid` and `/etc/subgid` grant, set by the setuid
//! programs `newuidmap` and `newgidmap`. Root: the ranges granted to root if there are any, else 65536 ids from
//! [`ROOT_RANGE`], so that container root is never the host's root. Root whose own ids are few (it sits in somebody's
//! user namespace already): the same ids again, because there are no others.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use crate::digest::Digest;
use rustix::process::Pid;

/// First host id of the range that root uses when none is granted to it: above what useradd hands out (`SUB_UID_MAX` of
/// login.defs is 600100000) and below 2147483648, where some programs take ids for negative.
const ROOT_RANGE: u32 = 0x4000_0000;
/// Ids an image may use: Debian's `nogroup` is 65534, and 65535 is the last of 16 bits.
const FULL: u32 = 65536;

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) inside: u32,
    pub(super) outside: u32,
    pub(super) count: u32,
}

/// Who writes the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// This process has the right to.
    Ourselves,
    /// `newuidmap` and `newgidmap` have it.
    Helpers,
}

/// The map of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdMap {
    pub(super) uids: Vec<Extent>,
    pub(super) gids: Vec<Extent>,
    writer: Writer,
}

/// Why there is no range: what was seen and what to change.
#[derive(Debug)]
pub(super) struct NoRange {
    pub(super) reason: String,
    pub(super) remedy: String,
}

impl IdMap {
    /// The map that this process can have.
    pub(super) fn of_caller() -> Result<IdMap, NoRange> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let names = User::read(uid);
        if uid == 0 {
            return Ok(IdMap {
                uids: root_extents(&granted("/etc/subuid", &names), &available("/proc/self/uid_map")),
                gids: root_extents(&granted("/etc/subgid", &names), &available("/proc/self/gid_map")),
                writer: Writer::Ourselves,
            });
        }
        let extents = |file, own| -> Result<Vec<Extent>, NoRange> {
            let ranges = granted(file, &names);
            if ranges.is_empty() {
                return Err(NoRange {
                    reason: format!("{file} grants no ids to {names}"),
                    remedy: format!("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {names}"),
                });
            }
            Ok(after_own(own, &ranges))
        };
        Ok(IdMap { uids: extents("/etc/subuid", uid)?, gids: extents("/etc/subgid", gid)?, writer: Writer::Helpers })
    }

    /// Only the caller itself, as 0. Everyone may write this map for themselves.
    pub(super) fn single() -> IdMap {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let one = |outside| vec![Extent { inside: 0, outside, count: 1 }];
        IdMap { uids: one(uid), gids: one(gid), writer: Writer::Ourselves }
    }

    /// A name that no other map has: files that were made under one belong to other ids under another.
    pub(super) fn name(&self) -> String {
        let (uid, gid) = self.root();
        if is_single(&self.uids) {
            return format!("{uid}-{gid}-single");
        }
        let ranges = Digest::of(format!("{}\n{}", lines(&self.uids), lines(&self.gids)).as_bytes());
        format!("{uid}-{gid}-{}", ranges.short())
    }

    /// The name of the map that a sandbox will get here, as far as can be told without trying.
    pub(super) fn expected_name() -> String {
        // newuidmap and newgidmap get no rights where no process may gain any.
        let helpers_work = rustix::thread::no_new_privs().is_ok_and(|none| !none);
        match IdMap::of_caller() {
            Ok(map) if helpers_work || map.writer == Writer::Ourselves => map.name(),
            Ok(_) | Err(_) => IdMap::single().name(),
        }
    }

    /// The host ids of container root.
    pub(super) fn root(&self) -> (u32, u32) {
        (self.uids[0].outside, self.gids[0].outside)
    }

    /// How many user ids there are inside.
    pub(super) fn count(&self) -> u64 {
        self.uids.iter().map(|extent| u64::from(extent.count)).sum()
    }

    /// Gives the map to a process that has just entered its user namespace.
    pub(super) fn apply(&self, process: Pid) -> Result<(), NoRange> {
        match self.writer {
            Writer::Ourselves => self.write(process).map_err(|error| NoRange {
                reason: format!("write the id maps of process {process}: {error}"),
                remedy: "give this process CAP_SETUID and CAP_SETGID, or run as an unprivileged user".to_owned(),
            }),
            Writer::Helpers => self.ask_helpers(process),
        }
    }

    fn write(&self, process: Pid) -> io::Result<()> {
        let directory = format!("/proc/{}", process.as_raw_nonzero());
        if self.count() == 1 {
            // Without this the kernel refuses a group map from an unprivileged writer (user_namespaces(7)).
            fs::write(format!("{directory}/setgroups"), "deny")?;
        }
        fs::write(format!("{directory}/uid_map"), lines(&self.uids))?;
        fs::write(format!("{directory}/gid_map"), lines(&self.gids))
    }

    fn ask_helpers(&self, process: Pid) -> Result<(), NoRange> {
        let start = |program: &'static str, extents: &[Extent]| {
            let numbers = extents.iter().flat_map(|extent| [extent.inside, extent.outside, extent.count]);
            Command::new(program)
                .arg(process.as_raw_nonzero().to_string())
                .args(numbers.map(|number| number.to_string()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map(|child| (program, child))
                .map_err(|error| helper_missing(program, &error))
        };
        // Both at once: each takes a millisecond or two, and neither needs the other.
        let running = [start("newuidmap", &self.uids), start("newgidmap", &self.gids)];
        let mut outcome = Ok(());
        for started in running {
            let result = started.and_then(|(program, child)| {
                let output = child.wait_with_output().map_err(|error| helper_missing(program, &error))?;
                if output.status.success() { Ok(()) } else { Err(helper_refused(program, &output.stderr)) }
            });
            outcome = outcome.and(result);
        }
        outcome
    }
}

/// Whether a map has room for root alone.
pub(super) fn is_single(extents: &[Extent]) -> bool {
    matches!(extents, [Extent { count: 1, .. }])
}

/// The map of a namespace nested in one with this map, with the same ids: one line for each line of the parent, as a
/// line may not span two (`user_namespaces(7)`).
pub(super) fn nested(extents: &[Extent]) -> String {
    let same: Vec<Extent> = extents.iter().map(|extent| Extent { outside: extent.inside, ..*extent }).collect();
    lines(&same)
}

/// Reads the map of a namespace from inside.
pub(super) fn current(file: &str) -> io::Result<Vec<Extent>> {
    let text = fs::read_to_string(file)?;
    let extents = text.lines().map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) => Ok(Extent { inside, outside, count }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{file} has the line {line:?}"))),
        }
    });
    extents.collect()
}

fn lines(extents: &[Extent]) -> String {
    extents.iter().fold(String::new(), |mut text, Extent { inside, outside, count }| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
        text
    })
}

/// The caller as 0, then the granted ranges from 1 on.
fn after_own(own: u32, ranges: &[(u32, u32)]) -> Vec<Extent> {
    let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
    append(&mut extents, 1, ranges);
    extents
}

fn append(extents: &mut Vec<Extent>, mut inside: u32, ranges: &[(u32, u32)]) {
    // The kernel takes 340 lines, newuidmap as many.
    for (outside, count) in ranges.iter().take(300) {
        // 4294967295 is no id (`(uid_t) -1`).
        let count = (*count).min(u32::MAX - 1 - inside);
        if count > 0 {
            extents.push(Extent { inside, outside: *outside, count });
            inside += count;
        }
    }
}

/// What root uses: granted ranges, the fixed one, or what it has itself, the first that is possible.
fn root_extents(granted: &[(u32, u32)], available: &[Extent]) -> Vec<Extent> {
    let has = |(start, count): &(u32, u32)| {
        let end = start.saturating_add(*count);
        available.iter().any(|own| own.inside <= *start && end <= own.inside.saturating_add(own.count))
    };
    let fixed = [(ROOT_RANGE, FULL)];
    for ranges in [granted, &fixed] {
        if ranges.iter().all(has) && ranges.iter().map(|range| u64::from(range.1)).sum::<u64>() >= u64::from(FULL) {
            let mut extents = Vec::new();
            append(&mut extents, 0, ranges);
            return extents;
        }
    }
    available.iter().map(|own| Extent { outside: own.inside, ..*own }).collect()
}

fn available(file: &str) -> Vec<Extent> {
    // Without the file nothing is known, so nothing can be promised: the identity map of id 0 is always valid.
    current(file).unwrap_or_else(|_| vec![Extent { inside: 0, outside: 0, count: 1 }])
}

/// A user as the subordinate id files name one: by number or by name.
struct User {
    uid: u32,
    name: Option<String>,
}

impl User {
    fn read(uid: u32) -> User {
        // Our own reading, as a static binary cannot load the C library's name services. A user that another service
        // knows (LDAP) can be listed by number.
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        User { uid, name: name_of(&passwd, uid) }
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "{}", self.uid),
        }
    }
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    let mut entries = passwd.lines().map(|line| line.split(':'));
    entries.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges (start, count) that a file grants to a user; none where there is no such file.
fn granted(file: &str, user: &User) -> Vec<(u32, u32)> {
    parse_granted(&fs::read_to_string(file).unwrap_or_default(), user)
}

fn parse_granted(text: &str, user: &User) -> Vec<(u32, u32)> {
    let number = user.uid.to_string();
    let of_line = |line: &str| -> Option<(u32, u32)> {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner != number && Some(owner) != user.name.as_deref() {
            return None;
        }
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0).then_some((start, count))
    };
    text.lines().filter_map(of_line).collect()
}

fn helper_missing(program: &str, error: &io::Error) -> NoRange {
    NoRange {
        reason: format!("run {program}: {error}"),
        remedy: "install newuidmap and newgidmap (Debian: uidmap, Fedora: shadow-utils)".to_owned(),
    }
}

fn helper_refused(program: &str, stderr: &[u8]) -> NoRange {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let said = String::from_utf8_lossy(stderr).trim().to_owned();
    if status.lines().any(|line| line.strip_prefix("NoNewPrivs:").is_some_and(|value| value.trim() == "1")) {
        return NoRange {
            reason: format!("{program} has no power, as NoNewPrivs is 1 ({said})"),
            remedy: "start rbuild without no_new_privs (Kubernetes: allowPrivilegeEscalation: true)".to_owned(),
        };
    }
    NoRange {
        reason: format!("{program} refused: {said}"),
        remedy: format!("check that {program} is setuid root (or has file capabilities) and the ranges do not overlap"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(inside: u32, outside: u32, count: u32) -> Extent {
        Extent { inside, outside, count }
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let user = User { uid: 1001, name: Some("ann".to_owned()) };
        let text = "bob:100000:65536\nann:200000:65536\n# note\n1001:300000:10\nann:x:1\nann:1:0\n";
        assert_eq!(parse_granted(text, &user), [(200000, 65536), (300000, 10)]);
        assert_eq!(parse_granted(text, &User { uid: 7, name: None }), []);
    }

    #[test]
    fn a_user_is_root_inside_and_the_ranges_follow_from_one() {
        let extents = after_own(1001, &[(200000, 65536), (300000, 10)]);
        assert_eq!(extents, [extent(0, 1001, 1), extent(1, 200000, 65536), extent(65537, 300000, 10)]);
        assert_eq!(nested(&extents), "0 0 1\n1 1 65536\n65537 65537 10\n");
    }

    #[test]
    fn root_never_maps_to_the_hosts_root_while_other_ids_are_to_be_had() {
        let everything = [extent(0, 0, u32::MAX)];
        assert_eq!(root_extents(&[], &everything), [extent(0, ROOT_RANGE, 65536)]);
        assert_eq!(root_extents(&[(100000, 65536)], &everything), [extent(0, 100000, 65536)]);
        // Too few to hold an image's ids.
        assert_eq!(root_extents(&[(100000, 1000)], &everything), [extent(0, ROOT_RANGE, 65536)]);
        // Root of a rootless container.
        assert_eq!(
            root_extents(&[(100000, 65536)], &[extent(0, 1001, 1), extent(1, 100000, 65536)]),
            [extent(0, 0, 1), extent(1, 1, 65536)]
        );
    }

    #[test]
    fn names_come_from_the_third_field() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1001:7::/:/bin/sh\nbad\n";
        assert_eq!(name_of(passwd, 1001).as_deref(), Some("ann"));
        assert_eq!(name_of(passwd, 7), None);
    }
}
