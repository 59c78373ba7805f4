//! What RUN may use at most: the flags of `docker build`, with `--cpus` and `--pids-limit` of `docker run`.

use super::fields::Given;
use super::{InvalidRequest, byte_size};
use crate::cli::args::LimitArguments;
use crate::sandbox::{CpuTime, CpuTimeForm, LimitedResource, Limits, MemorySwap, Ulimit};

/// The least that Docker takes: with less, not even a shell starts.
const LEAST_MEMORY: u64 = 6 << 20;
/// The scheduler's period where none is asked for, in microseconds.
const USUAL_PERIOD: u64 = 100_000;

const RESOURCE_KEYS: [&str; 7] =
    ["memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems"];

/// Understands all of them.
pub(super) fn limits(arguments: &LimitArguments) -> Result<Limits, InvalidRequest> {
    let of_resources = resources(&arguments.resources)?;
    let given = |flag: Option<&String>, key: &str| {
        let other = || of_resources.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.clone());
        flag.cloned().or_else(other).filter(|value| !value.is_empty())
    };
    let memory = given(arguments.memory.as_ref(), "memory").map(|text| memory(&text)).transpose()?.flatten();
    let swap = given(arguments.memory_swap.as_ref(), "memory-swap");
    let number = |flag, text: Option<String>| text.map(|text| number(flag, &text)).transpose();
    Ok(Limits {
        memory,
        memory_swap: swap.map(|text| memory_swap(&text, memory)).transpose()?.flatten(),
        cpu_time: cpu_time(
            arguments.cpus.as_deref(),
            number("--cpu-period", given(arguments.cpu_period.as_ref(), "cpu-period"))?.flatten(),
            number("--cpu-quota", given(arguments.cpu_quota.as_ref(), "cpu-quota"))?.flatten(),
        )?,
        cpu_shares: number("--cpu-shares", given(arguments.cpu_shares.as_ref(), "cpu-shares"))?.flatten(),
        cpuset_cpus: set("--cpuset-cpus", given(arguments.cpuset_cpus.as_ref(), "cpuset-cpus"))?,
        cpuset_mems: set("--cpuset-mems", given(arguments.cpuset_mems.as_ref(), "cpuset-mems"))?,
        pids: number("--pids-limit", arguments.pids_limit.clone())?.flatten(),
        parent: arguments.cgroup_parent.as_deref().map(parent).transpose()?.flatten(),
        ulimits: ulimits(&arguments.ulimits)?,
    })
}

/// Pairs of `--resource`.
fn resources(texts: &[String]) -> Result<Vec<(String, String)>, InvalidRequest> {
    let mut all = Vec::new();
    for text in texts {
        let given = Given { flag: "--resource", value: text, expected: "memory=SIZE, cpu-quota=NUMBER and the like" };
        for (key, value) in given.pairs()? {
            if !RESOURCE_KEYS.contains(&key.as_str()) {
                return Err(given.unknown_key(&key, &RESOURCE_KEYS));
            }
            all.push((key, value));
        }
    }
    Ok(all)
}

/// 0 is Docker's word for no limit.
fn memory(text: &str) -> Result<Option<u64>, InvalidRequest> {
    match byte_size("--memory", text)? {
        0 => Ok(None),
        bytes if bytes < LEAST_MEMORY => {
            Err(Given { flag: "--memory", value: text, expected: "" }.because("6m is the least"))
        }
        bytes => Ok(Some(bytes)),
    }
}

fn memory_swap(text: &str, memory: Option<u64>) -> Result<Option<MemorySwap>, InvalidRequest> {
    let given = Given { flag: "--memory-swap", value: text, expected: "" };
    let swap = match text {
        "-1" => MemorySwap::Unlimited,
        "0" => return Ok(None),
        text => MemorySwap::Bytes(byte_size("--memory-swap", text)?),
    };
    match (swap, memory) {
        (_, None) => Err(given.because("it needs --memory: it is the limit of memory and swap space together")),
        (MemorySwap::Bytes(total), Some(memory)) if total < memory => {
            Err(given.because("it is less than --memory, which is a part of it"))
        }
        (swap, Some(_)) => Ok(Some(swap)),
    }
}

/// None for Docker's words for no limit.
fn number(flag: &'static str, text: &str) -> Result<Option<u64>, InvalidRequest> {
    match text {
        "0" | "-1" => Ok(None),
        value => value.parse().map(Some).map_err(|_| Given { flag, value, expected: "a number" }.invalid()),
    }
}

fn cpu_time(cpus: Option<&str>, period: Option<u64>, quota: Option<u64>) -> Result<Option<CpuTime>, InvalidRequest> {
    if let Some(value) = cpus.filter(|text| *text != "0") {
        if period.is_some() || quota.is_some() {
            return Err(InvalidRequest::Contradiction {
                problem: "--cpus and --cpu-period or --cpu-quota contradict each other".to_owned(),
                hint: "--cpus 1.5 is --cpu-quota 150000 with the usual period; leave one of them out".to_owned(),
            });
        }
        let given = Given { flag: "--cpus", value, expected: "a number of processors from 0.01 on, such as 1.5" };
        let cpus: f64 = value.parse().map_err(|_| given.invalid())?;
        if !(0.01..=1_000_000.0).contains(&cpus) {
            return Err(given.invalid());
        }
        let quota = (cpus * USUAL_PERIOD as f64).round() as u64;
        return Ok(Some(CpuTime { quota, period: USUAL_PERIOD, asked: CpuTimeForm::Processors }));
    }
    let period = period.unwrap_or(USUAL_PERIOD);
    // The kernel's bounds (sched-bwc.rst).
    if !(1_000..=1_000_000).contains(&period) {
        let value = period.to_string();
        return Err(Given { flag: "--cpu-period", value: &value, expected: "1000 to 1000000 microseconds" }.invalid());
    }
    match quota {
        Some(quota) if quota < 1_000 => {
            let value = quota.to_string();
            Err(Given { flag: "--cpu-quota", value: &value, expected: "1000 microseconds or more" }.invalid())
        }
        quota => Ok(quota.map(|quota| CpuTime { quota, period, asked: CpuTimeForm::Quota })),
    }
}

fn set(flag: &'static str, text: Option<String>) -> Result<Option<String>, InvalidRequest> {
    let is_list = |text: &str| {
        text.split(',').all(|part| {
            let mut ends = part.split('-');
            let is_number = |end: Option<&str>| end.is_some_and(|end| end.parse::<u32>().is_ok());
            is_number(ends.next()) && ends.next().is_none_or(|end| is_number(Some(end))) && ends.next().is_none()
        })
    };
    match text {
        Some(value) if !is_list(&value) => {
            Err(Given { flag, value: &value, expected: "a list such as 0-3,7" }.invalid())
        }
        text => Ok(text),
    }
}

fn parent(text: &str) -> Result<Option<String>, InvalidRequest> {
    let given = Given { flag: "--cgroup-parent", value: text, expected: "" };
    if text.split('/').any(|part| part == "..") {
        return Err(given.because("a group is named from the root of the hierarchy, without .."));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.trim_matches('/').is_empty()))
}

/// Understands `--ulimit`. A later one of the same name wins.
fn ulimits(texts: &[String]) -> Result<Vec<Ulimit>, InvalidRequest> {
    let mut all: Vec<Ulimit> = Vec::new();
    for text in texts {
        let ulimit = ulimit(text)?;
        all.retain(|other| other.resource != ulimit.resource);
        all.push(ulimit);
    }
    Ok(all)
}

fn ulimit(text: &str) -> Result<Ulimit, InvalidRequest> {
    let given = Given { flag: "--ulimit", value: text, expected: "NAME=SOFT[:HARD], such as nofile=1024:4096" };
    let (name, values) = text.split_once('=').ok_or_else(|| given.invalid())?;
    let resource = LimitedResource::named(name).ok_or_else(|| given.unknown_key(name, &LimitedResource::names()))?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        text => text.parse().map(Some).map_err(|_| given.invalid()),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (value(soft)?, value(hard)?),
        None => (value(values)?, value(values)?),
    };
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        return Err(given.because("the soft limit is above the hard limit"));
    }
    Ok(Ulimit { resource, soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> LimitArguments {
        LimitArguments {
            memory: None,
            memory_swap: None,
            cpus: None,
            cpu_shares: None,
            cpu_period: None,
            cpu_quota: None,
            cpuset_cpus: None,
            cpuset_mems: None,
            pids_limit: None,
            cgroup_parent: None,
            ulimits: Vec::new(),
            resources: Vec::new(),
        }
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn words_for_no_limit_limit_nothing() {
        let arguments = LimitArguments {
            memory: text("0"),
            memory_swap: text("0"),
            cpu_quota: text("-1"),
            pids_limit: text("-1"),
            cgroup_parent: text(""),
            ..none()
        };
        assert_eq!(limits(&arguments), Ok(Limits::default()));
    }

    #[test]
    fn processors_are_a_quota_of_the_usual_period() {
        let arguments = LimitArguments { cpus: text("1.5"), ..none() };
        assert_eq!(
            limits(&arguments).unwrap().cpu_time,
            Some(CpuTime { quota: 150_000, period: 100_000, asked: CpuTimeForm::Processors })
        );
        let arguments = LimitArguments { cpu_quota: text("5000"), cpu_period: text("10000"), ..none() };
        assert_eq!(
            limits(&arguments).unwrap().cpu_time,
            Some(CpuTime { quota: 5_000, period: 10_000, asked: CpuTimeForm::Quota })
        );
    }

    #[test]
    fn a_flag_wins_over_the_same_limit_of_resource() {
        let resources = vec!["memory=1g,cpu-shares=512".to_owned()];
        let found = limits(&LimitArguments { memory: text("64m"), resources, ..none() }).unwrap();
        assert_eq!((found.memory, found.cpu_shares), (Some(64 << 20), Some(512)));
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        let said = |arguments: LimitArguments| limits(&arguments).unwrap_err().to_string();
        assert_eq!(said(LimitArguments { memory: text("5m"), ..none() }), "invalid --memory \"5m\": 6m is the least");
        let needs = said(LimitArguments { memory_swap: text("1g"), ..none() });
        assert_eq!(
            needs,
            "invalid --memory-swap \"1g\": it needs --memory: it is the limit of memory and swap space together"
        );
        let both = said(LimitArguments { cpus: text("1"), cpu_quota: text("5000"), ..none() });
        assert_eq!(both, "--cpus and --cpu-period or --cpu-quota contradict each other");
        let list = said(LimitArguments { cpuset_cpus: text("0-"), ..none() });
        assert_eq!(list, "invalid --cpuset-cpus \"0-\": expected a list such as 0-3,7");
        let parent = said(LimitArguments { cgroup_parent: text("a/../b"), ..none() });
        assert!(parent.contains("without .."), "{parent}");
    }
}
