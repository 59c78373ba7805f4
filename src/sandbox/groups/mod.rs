//! Control groups: limits on all processes of a command together (cgroups(7), `cgroup-v2.rst`).
//!
//! # What it is for
//! [`Groups::prepare`] finds out, once for a build and by trying, where groups can be made and which limits they keep;
//! [`Groups::make`] makes one for a command, and dropping that removes it.
//!
//! # Contract
//! * A limit that was asked for and cannot be kept is told, with what to change; the others are kept all the same.
//! * Groups of others are left as they are: no controller is switched on in a group that rbuild has not made, unless
//!   `--cgroup-parent` names it, or nobody but rbuild is in it (which is what `Delegate=yes` of systemd means).
//! * What a killed rbuild left is removed by the next one that limits anything in the same place.
//!
//! # What it must not know
//! Commands; it gets ids of processes.

mod hierarchy;
mod settings;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hierarchy::{Hierarchy, Version, words};
use settings::Setting;

use super::limits::Limits;

/// What the names of groups begin with.
const PREFIX: &str = "rbuild-";

/// What to do where no group can be made.
const REMEDY: &str = "give rbuild a group of its own (systemd-run --user --scope -p Delegate=yes rbuild …; as root without \
                      --user), or limit the container that it runs in";

/// Where groups of commands are made, and what is set in them.
#[derive(Debug)]
pub(super) struct Groups {
    places: Vec<Place>,
    next: AtomicU64,
}

/// One hierarchy.
#[derive(Debug)]
struct Place {
    version: Version,
    /// Beneath it the groups are made.
    parent: PathBuf,
    settings: Vec<Setting>,
    /// Made for this build, outermost first.
    made: Vec<PathBuf>,
}

/// The group of one command, in each hierarchy that it needs. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Group {
    directories: Vec<PathBuf>,
}

/// Why a limit is not kept.
struct Unkept {
    flags: Vec<&'static str>,
    reason: String,
}

impl Groups {
    /// Finds where the limits can be kept. Gives a sentence about those that cannot.
    pub(super) fn prepare(limits: &Limits) -> (Groups, Vec<String>) {
        let hierarchies = hierarchy::find();
        let mut places: Vec<Place> = Vec::new();
        let mut unkept = Vec::new();
        for (controller, flags) in settings::needed(limits) {
            match find_place(&hierarchies, controller, limits.parent.as_deref()) {
                Ok(mut found) => {
                    found.settings = settings::settings(found.version, controller, limits);
                    match places.iter_mut().find(|place| place.parent == found.parent) {
                        Some(place) => place.settings.append(&mut found.settings),
                        None => places.push(found),
                    }
                }
                Err(reason) => unkept.push(Unkept { flags, reason }),
            }
        }
        for place in &places {
            sweep(&place.parent);
        }
        let mut groups = Groups { places, next: AtomicU64::new(0) };
        groups.drop_what_fails(&mut unkept);
        (groups, unkept.iter().map(Unkept::sentence).collect())
    }

    /// Tries it once, and keeps what works.
    fn drop_what_fails(&mut self, unkept: &mut Vec<Unkept>) {
        let name = self.name();
        self.places.retain_mut(|place| {
            let directory = place.parent.join(&name);
            let flags: Vec<&'static str> =
                place.settings.iter().filter(|setting| setting.is_asked).map(|setting| setting.flag).collect();
            if let Err(error) = create(place.version, &directory) {
                unkept.push(Unkept { flags, reason: format!("{}: {error}", directory.display()) });
                return false;
            }
            let group = Group { directories: vec![directory.clone()] };
            place.settings.retain(|setting| match write(&directory, setting) {
                Ok(()) => true,
                Err(error) => {
                    if setting.is_asked {
                        let reason = format!("{} in {}: {error}", setting.file, place.parent.display());
                        unkept.push(Unkept { flags: vec![setting.flag], reason });
                    }
                    false
                }
            });
            drop(group);
            true
        });
    }

    /// Whether any limit is kept by groups.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Makes the group of one command.
    pub(super) fn make(&self) -> io::Result<Group> {
        let name = self.name();
        let mut group = Group { directories: Vec::new() };
        for place in &self.places {
            let directory = place.parent.join(&name);
            create(place.version, &directory)?;
            group.directories.push(directory.clone());
            for setting in &place.settings {
                write(&directory, setting)?;
            }
        }
        Ok(group)
    }

    /// Names this process, so that nobody takes a group for one that was left behind, and ends in a number.
    fn name(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}", own_prefix())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for directory in self.places.iter().flat_map(|place| place.made.iter().rev()) {
            // Somebody else may use it by now; then it stays.
            drop(fs::remove_dir(directory));
        }
    }
}

impl Group {
    /// Puts a process into it.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| fs::write(directory.join("cgroup.procs"), process.to_string()))
    }

    /// The file that counts processes that were killed for want of memory.
    pub(super) fn memory_events(&self) -> Option<PathBuf> {
        let files = self
            .directories
            .iter()
            .flat_map(|directory| ["memory.events", "memory.oom_control"].map(|name| directory.join(name)));
        files.into_iter().find(|file| file.is_file())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in &self.directories {
            // The last process is gone, but not yet out of the group: the kernel takes it out a moment later.
            for _ in 0..100 {
                match fs::remove_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    // Removed; or not to be removed, which the next run's sweep tries again.
                    Ok(()) | Err(_) => break,
                }
            }
        }
    }
}

impl Unkept {
    fn sentence(&self) -> String {
        format!("{} cannot be kept here: {}; to have it kept, {REMEDY}", self.flags.join(", "), self.reason)
    }
}

fn find_place(hierarchies: &[Hierarchy], controller: &str, parent: Option<&str>) -> Result<Place, String> {
    let hierarchy = hierarchies
        .iter()
        .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
        .ok_or_else(|| format!("there is no control group with {controller}"))?;
    let place = |parent, made| Place { version: hierarchy.version, parent, settings: Vec::new(), made };
    if let Some(parent) = parent {
        let (directory, made) = named_parent(hierarchy, controller, parent)?;
        return Ok(place(directory, made));
    }
    match hierarchy.version {
        // Groups with processes may have groups beneath them.
        Version::V1 => writable(&hierarchy.own).map(|()| place(hierarchy.own.clone(), Vec::new())),
        Version::V2 => Ok(place(nearest_parent(hierarchy, controller)?, Vec::new())),
    }
}

/// `--cgroup-parent`: made where it is missing. As in Docker, `a-b.slice` is what systemd means by it: a group in `a.slice`.
fn named_parent(hierarchy: &Hierarchy, controller: &str, name: &str) -> Result<(PathBuf, Vec<PathBuf>), String> {
    let mut directory = hierarchy.root.clone();
    let mut made = Vec::new();
    for part in slices(name) {
        if hierarchy.version == Version::V2 {
            // What cannot be switched on is missing in the end, and told then.
            drop(enable(&directory, controller));
        }
        directory.push(part);
        match create(hierarchy.version, &directory) {
            Ok(()) => made.push(directory.clone()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("{}: {error}", directory.display())),
        }
    }
    if hierarchy.version == Version::V2 {
        enable(&directory, controller)?;
    }
    writable(&directory).map(|()| (directory, made))
}

fn slices(name: &str) -> Vec<String> {
    let plain = |name: &str| name.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let Some(stem) = name.strip_suffix(".slice").filter(|stem| !stem.contains('/')) else { return plain(name) };
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect()
}

/// The nearest group, from our own upwards, that may have groups beneath it: in version 2 one with processes hands no
/// controller on (`cgroup-v2.rst`, "No Internal Process Constraint").
fn nearest_parent(hierarchy: &Hierarchy, controller: &str) -> Result<PathBuf, String> {
    let mut refusal = None;
    for group in hierarchy.own.ancestors().take_while(|group| group.starts_with(&hierarchy.root)) {
        let handed_on = words(&group.join("cgroup.subtree_control"));
        let found = if handed_on.iter().any(|name| name == controller) {
            writable(group)
        } else if group == hierarchy.own {
            writable(group).and_then(|()| step_down(group)).and_then(|()| enable(group, controller))
        } else {
            Err(format!("{}: it hands no {controller} on", group.display()))
        };
        match found {
            Ok(()) => return Ok(group.to_owned()),
            Err(reason) => refusal = refusal.or(Some(reason)),
        }
    }
    Err(refusal.unwrap_or_else(|| "the hierarchy is not mounted".to_owned()))
}

/// Whether groups can be made here and processes be put into them, which takes writing to the file of processes of the
/// group that is above where they come from and where they go.
fn writable(group: &Path) -> Result<(), String> {
    let may = |path: &Path| {
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK).map_err(|error| format!("{}: {error}", path.display()))
    };
    may(group)?;
    may(&group.join("cgroup.procs"))
}

/// Moves this process, and those that it started, one down, if nobody else is in the group.
fn step_down(group: &Path) -> Result<(), String> {
    let told = |error: io::Error| format!("{}: {error}", group.display());
    let file = group.join("cgroup.procs");
    let inside = |file: &Path| -> io::Result<Vec<u32>> {
        Ok(fs::read_to_string(file)?.lines().filter_map(|line| line.parse().ok()).collect())
    };
    if let Some(other) = inside(&file).map_err(told)?.into_iter().find(|process| !is_ours(*process)) {
        return Err(format!("{}: others are in this group (process {other})", group.display()));
    }
    let below = group.join(format!("{}main", own_prefix()));
    match fs::create_dir(&below) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(told(error)),
        _ => {}
    }
    loop {
        let left = inside(&file).map_err(told)?;
        if left.is_empty() {
            return Ok(());
        }
        for process in left {
            match fs::write(below.join("cgroup.procs"), process.to_string()) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                result => result.map_err(told)?,
            }
        }
    }
}

/// Whether a process is this one or comes from it.
fn is_ours(process: u32) -> bool {
    let mut process = process;
    while process > 1 {
        if process == std::process::id() {
            return true;
        }
        let Some(fields) = stat_fields(process) else { return false };
        process = fields.get(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    }
    process == std::process::id()
}

fn enable(group: &Path, controller: &str) -> Result<(), String> {
    let file = group.join("cgroup.subtree_control");
    if words(&file).iter().any(|name| name == controller) {
        return Ok(());
    }
    fs::write(&file, format!("+{controller}")).map_err(|error| format!("{}: {error}", file.display()))
}

fn create(version: Version, directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    if version == Version::V1 {
        // Nothing can be put into a new group of this controller before it has processors and memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (true, Some(above)) = (directory.join(file).is_file(), directory.parent()) {
                fs::write(directory.join(file), fs::read_to_string(above.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

fn write(directory: &Path, setting: &Setting) -> io::Result<()> {
    fs::write(directory.join(setting.file), &setting.value)
}

/// Removes groups whose makers are gone.
fn sweep(parent: &Path) {
    // What cannot be read or removed stays; it does no harm.
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| is_left_behind(name, &pid_namespace(), started)) {
            drop(fs::remove_dir(entry.path()));
        }
    }
}

/// What the names of this process's groups begin with: its pid namespace, id and start, so that a later process of the
/// same id is another one.
fn own_prefix() -> String {
    let process = std::process::id();
    format!("{PREFIX}{}-{process}-{}-", pid_namespace(), started(process).unwrap_or_default())
}

/// Ids of another pid namespace say nothing here, so their groups are not judged.
fn is_left_behind(name: &str, namespace: &str, started: impl Fn(u32) -> Option<u64>) -> bool {
    let Some(fields) = name.strip_prefix(PREFIX).map(|rest| rest.split('-').collect::<Vec<_>>()) else { return false };
    let [of, process, start, _] = fields.as_slice() else { return false };
    let (Ok(process), Ok(start)) = (process.parse(), start.parse()) else { return false };
    *of == namespace && started(process) != Some(start)
}

fn pid_namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

fn started(process: u32) -> Option<u64> {
    // Field 22 of proc(5); the first two are before these.
    stat_fields(process)?.get(19)?.parse().ok()
}

/// The fields of a process's state from the third on, behind its name, which may hold anything.
fn stat_fields(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_nested_as_systemd_nests_them() {
        assert_eq!(slices("/docker/builds"), ["docker", "builds"]);
        assert_eq!(slices("a-b-c.slice"), ["a.slice", "a-b.slice", "a-b-c.slice"]);
        assert_eq!(slices("/x/a-b.slice"), ["x", "a-b.slice"]);
    }

    #[test]
    fn only_groups_of_processes_that_are_gone_are_left_behind() {
        let started = |process| (process == 7).then_some(100);
        assert!(!is_left_behind("rbuild-42-7-100-0", "42", started));
        assert!(is_left_behind("rbuild-42-7-99-0", "42", started));
        assert!(is_left_behind("rbuild-42-8-100-main", "42", started));
        assert!(!is_left_behind("rbuild-43-8-100-0", "42", started));
        assert!(!is_left_behind("rbuild-of-somebody-else", "42", started));
    }

    #[test]
    fn this_process_is_its_own_and_the_first_one_is_not() {
        assert!(is_ours(std::process::id()));
        assert!(!is_ours(std::os::unix::process::parent_id()));
        let own = own_prefix();
        assert!(!is_left_behind(&format!("{own}3"), &pid_namespace(), started));
    }
}
