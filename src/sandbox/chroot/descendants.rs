//! Ends everything that came of this process, where no pid namespace does it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

/// Kills and reaps all descendants of this process, which is a subreaper, but these children and what came of them.
///
/// A process that makes another one and ends while the list is read can be missed by one look at it, hence two empty ones
/// before it is believed.
pub(in crate::sandbox) fn end_all(spared: &[Pid]) {
    let mut empty = 0;
    while empty < 2 {
        let found = descendants(&parents(), number(getpid()), spared);
        if found.is_empty() {
            empty += 1;
            continue;
        }
        empty = 0;
        for process in &found {
            // One that has ended, or is another's child by now, is found again or not.
            kill_process(*process, Signal::KILL).ok();
        }
        for process in found {
            // Fails for what is not our child yet: its parent, killed too, has to go first.
            while let Err(rustix::io::Errno::INTR) = waitpid(Some(process), WaitOptions::empty()) {}
        }
    }
}

fn number(process: Pid) -> i32 {
    process.as_raw_nonzero().get()
}

/// Every process with its parent.
fn parents() -> BTreeMap<i32, i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_entry = |entry: fs::DirEntry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        Some((process, parent(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
    };
    entries.filter_map(of_entry).collect()
}

/// The fourth field of `stat`; the second one is a name in parentheses that may hold anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn descendants(parents: &BTreeMap<i32, i32>, of: i32, spared: &[Pid]) -> Vec<Pid> {
    let spared: BTreeSet<i32> = spared.iter().copied().map(number).collect();
    let mut found = BTreeSet::new();
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(_, parent)| **parent == of || found.contains(*parent))
            .filter(|(process, _)| !spared.contains(process) && !found.contains(*process))
            .map(|(process, _)| *process)
            .collect();
        if more.is_empty() {
            return found.into_iter().filter_map(Pid::from_raw).collect();
        }
        found.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_came_of_a_process_is_found_but_not_what_is_spared() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 2), (6, 5), (7, 1)]);
        let numbers = |spared: &[i32]| {
            let spared: Vec<Pid> = spared.iter().filter_map(|pid| Pid::from_raw(*pid)).collect();
            descendants(&parents, 2, &spared).into_iter().map(number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&[]), [3, 4, 5, 6]);
        assert_eq!(numbers(&[3]), [5, 6]);
        assert_eq!(parent("12 (a) b (c) S 77 12 12"), Some(77));
    }
}
