//! What a limit is called, and how its value is written, in either version of control groups.

use super::hierarchy::Version;
use crate::sandbox::limits::{CpuTime, Limits, MemorySwap};

/// One line to be written into one file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The flag that asks for it.
    pub(super) flag: &'static str,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Whether it is worth a word where it cannot be had: nobody asked for what only follows from another limit.
    pub(super) is_asked: bool,
}

/// The controllers that limits need, each with the flags that ask for it.
pub(super) fn needed(limits: &Limits) -> Vec<(&'static str, Vec<&'static str>)> {
    let asked: [(&str, &str, bool); 8] = [
        ("cpuset", "--cpuset-cpus", limits.cpuset_cpus.is_some()),
        ("cpuset", "--cpuset-mems", limits.cpuset_mems.is_some()),
        ("memory", "--memory", limits.memory.is_some()),
        ("memory", "--memory-swap", limits.memory_swap.is_some()),
        ("cpu", limits.cpu_time.map_or("", |time| time.asked.flag()), limits.cpu_time.is_some()),
        ("cpu", "--cpu-shares", limits.cpu_shares.is_some()),
        ("pids", "--pids-limit", limits.pids.is_some()),
        ("pids", "--cgroup-parent", limits.parent.is_some() && limits.pids.is_none()),
    ];
    let mut needed: Vec<(&str, Vec<&str>)> = Vec::new();
    for (controller, flag, _) in asked.into_iter().filter(|(_, _, is_asked)| *is_asked) {
        match needed.iter_mut().find(|(known, _)| *known == controller) {
            Some((_, flags)) => flags.push(flag),
            None => needed.push((controller, vec![flag])),
        }
    }
    needed
}

/// What is written for a controller, in this order: version 1 wants memory before memory and swap together.
pub(super) fn settings(version: Version, controller: &str, limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |flag, file, value: Option<String>| {
        settings.extend(value.map(|value| Setting { flag, file, value, is_asked: true }));
    };
    let by_version = |v1, v2| if version == Version::V1 { v1 } else { v2 };
    match controller {
        "cpuset" => {
            set("--cpuset-cpus", "cpuset.cpus", limits.cpuset_cpus.clone());
            set("--cpuset-mems", "cpuset.mems", limits.cpuset_mems.clone());
        }
        "memory" => {
            let file = by_version("memory.limit_in_bytes", "memory.max");
            set("--memory", file, limits.memory.map(|bytes| bytes.to_string()));
            settings.extend(swap(version, limits));
        }
        "pids" => set("--pids-limit", "pids.max", limits.pids.map(|count| count.to_string())),
        "cpu" => {
            let file = by_version("cpu.shares", "cpu.weight");
            set("--cpu-shares", file, limits.cpu_shares.map(|shares| weight(version, shares)));
            if let Some(CpuTime { quota, period, asked }) = limits.cpu_time {
                let flag = asked.flag();
                match version {
                    Version::V1 => {
                        set(flag, "cpu.cfs_period_us", Some(period.to_string()));
                        set(flag, "cpu.cfs_quota_us", Some(quota.to_string()));
                    }
                    Version::V2 => set(flag, "cpu.max", Some(format!("{quota} {period}"))),
                }
            }
        }
        _ => {}
    }
    settings
}

/// As Docker has it: without a word about swap space, as much of it again as memory.
fn swap(version: Version, limits: &Limits) -> Option<Setting> {
    let memory = limits.memory?;
    let total = limits.memory_swap.unwrap_or(MemorySwap::Bytes(memory.saturating_mul(2)));
    let (file, value) = match (version, total) {
        (Version::V1, MemorySwap::Bytes(total)) => ("memory.memsw.limit_in_bytes", total.to_string()),
        (Version::V1, MemorySwap::Unlimited) => ("memory.memsw.limit_in_bytes", "-1".to_owned()),
        (Version::V2, MemorySwap::Bytes(total)) => ("memory.swap.max", total.saturating_sub(memory).to_string()),
        (Version::V2, MemorySwap::Unlimited) => ("memory.swap.max", "max".to_owned()),
    };
    Some(Setting { flag: "--memory-swap", file, value, is_asked: limits.memory_swap.is_some() })
}

/// Version 2 has weights from 1 to 10000 in place of shares from 2 to 262144; the line between them is the one that OCI
/// runtimes draw (runtime-spec, `config-linux.md`, "CPU").
fn weight(version: Version, shares: u64) -> String {
    let shares = shares.clamp(2, 262_144);
    match version {
        Version::V1 => shares.to_string(),
        Version::V2 => (1 + (shares - 2) * 9999 / 262_142).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::limits::CpuTimeForm;

    fn lines(version: Version, limits: &Limits) -> Vec<String> {
        let of = |(controller, _): (&str, _)| settings(version, controller, limits);
        let all = needed(limits).into_iter().flat_map(of);
        all.map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    #[test]
    fn each_version_gets_its_own_words() {
        let limits = Limits {
            memory: Some(64 << 20),
            memory_swap: Some(MemorySwap::Bytes(96 << 20)),
            cpu_time: Some(CpuTime { quota: 150_000, period: 100_000, asked: CpuTimeForm::Processors }),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".to_owned()),
            pids: Some(50),
            ..Limits::default()
        };
        let v1 = "cpuset.cpus=0-1 memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=100663296 \
                  cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 pids.max=50";
        assert_eq!(lines(Version::V1, &limits).join(" "), v1);
        let v2 = "cpuset.cpus=0-1 memory.max=67108864 memory.swap.max=33554432 cpu.weight=39 cpu.max=150000 100000 pids.max=50";
        assert_eq!(lines(Version::V2, &limits).join(" "), v2);
    }

    #[test]
    fn swap_space_is_as_much_as_memory_unless_it_is_said() {
        let limits = Limits { memory: Some(100), ..Limits::default() };
        assert_eq!(lines(Version::V2, &limits), ["memory.max=100", "memory.swap.max=100"]);
        let limits = Limits { memory_swap: Some(MemorySwap::Unlimited), ..limits };
        assert_eq!(lines(Version::V1, &limits), ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=-1"]);
    }

    #[test]
    fn a_limit_goes_by_the_flag_that_was_typed() {
        for (asked, flag) in [(CpuTimeForm::Processors, "--cpus"), (CpuTimeForm::Quota, "--cpu-quota")] {
            let cpu_time = Some(CpuTime { quota: 150_000, period: 100_000, asked });
            let limits = Limits { cpu_time, ..Limits::default() };
            assert_eq!(needed(&limits), [("cpu", vec![flag])]);
            for version in [Version::V1, Version::V2] {
                assert!(settings(version, "cpu", &limits).iter().all(|setting| setting.flag == flag));
            }
        }
    }
}
