//! Where the host's control groups are mounted, and which of them this process is in (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

/// Which interface a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// A mounted tree of control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// The group of this process.
    pub(super) own: PathBuf,
    pub(super) controllers: Vec<String>,
}

/// Finds those of this process.
pub(super) fn find() -> Vec<Hierarchy> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let mut found = parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
    for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.version == Version::V2) {
        hierarchy.controllers = words(&hierarchy.own.join("cgroup.controllers"));
    }
    found
}

/// The words of a file of controllers.
pub(super) fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn parse(mounts: &str, groups: &str) -> Vec<Hierarchy> {
    groups.lines().filter_map(|line| of_group(mounts, line)).collect()
}

fn of_group(mounts: &str, line: &str) -> Option<Hierarchy> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let version = if controllers.is_empty() { Version::V2 } else { Version::V1 };
    let controllers: Vec<String> = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let (mounted, root) = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let place: Vec<&str> = place.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let is_meant = match version {
            Version::V2 => kind.first() == Some(&"cgroup2"),
            Version::V1 => {
                let options = kind.get(2)?;
                kind.first() == Some(&"cgroup")
                    && controllers.iter().all(|name| options.split(',').any(|one| one == name))
            }
        };
        is_meant.then_some((*place.get(3)?, PathBuf::from(place.get(4)?)))
    })?;
    // A container may have only its own part mounted, while the path is told from the host's root.
    let beneath = Path::new(path).strip_prefix(mounted).ok()?;
    if beneath.components().any(|part| part == std::path::Component::ParentDir) {
        // This process is outside of what its namespace shows.
        return None;
    }
    Some(Hierarchy { version, own: root.join(beneath), root, controllers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(version: Version, root: &str, own: &str, controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Hierarchy { version, root: root.into(), own: own.into(), controllers }
    }

    #[test]
    fn both_kinds_are_found_side_by_side() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
                      32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let groups = "4:memory:/user/build\n3:cpu,cpuacct:/\n1:name=systemd:/init\n0::/user.slice\n";
        assert_eq!(
            parse(mounts, groups),
            [
                hierarchy(Version::V1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/user/build", &["memory"]),
                hierarchy(Version::V1, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                hierarchy(Version::V2, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/user.slice", &[]),
            ]
        );
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let mounts = "32 24 0:28 /docker/0a1b /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(
            parse(mounts, "4:memory:/docker/0a1b/inner\n"),
            [hierarchy(Version::V1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/inner", &["memory"])]
        );
        assert_eq!(parse("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/../other\n"), []);
    }
}
