//! What a command may use at most: the vocabulary, and the part of it that is a process's own (getrlimit(2)).

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use super::child::{Reason, While};
use super::command::Outset;

/// Limits of each command. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap space together.
    pub memory_swap: Option<MemorySwap>,
    /// Time on processors.
    pub cpu_time: Option<CpuTime>,
    /// Weight among others where processors are short; 1024 is everybody's.
    pub cpu_shares: Option<u64>,
    /// Processors to run on (`0-3,7`).
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to take memory from.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The control group beneath which those of commands are made, from the root of the hierarchy; that of rbuild itself
    /// or, where there can be none beneath it, one above, if absent.
    pub parent: Option<String>,
    /// Limits of each single process.
    pub ulimits: Vec<Ulimit>,
}

/// How much memory and swap space together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySwap {
    /// So many bytes.
    Bytes(u64),
    /// As much swap space as there is.
    Unlimited,
}

/// Of each period, so much time of one processor; in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    /// The time.
    pub quota: u64,
    /// The period.
    pub period: u64,
    /// How it was asked for.
    pub asked: CpuTimeForm,
}

/// The flag by which time on processors is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuTimeForm {
    /// `--cpus`: a number of processors.
    Processors,
    /// `--cpu-quota`: microseconds of each period.
    Quota,
}

impl CpuTimeForm {
    /// The flag.
    pub fn flag(self) -> &'static str {
        match self {
            CpuTimeForm::Processors => "--cpus",
            CpuTimeForm::Quota => "--cpu-quota",
        }
    }
}

/// A limit of each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Of what.
    pub resource: LimitedResource,
    /// What a process gets; no limit if absent.
    pub soft: Option<u64>,
    /// What it may raise it to; no limit if absent.
    pub hard: Option<u64>,
}

/// What a process can be limited in. The names are those of `docker --ulimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LimitedResource(usize);

const RESOURCES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

impl LimitedResource {
    /// Finds one by name.
    pub fn named(name: &str) -> Option<LimitedResource> {
        RESOURCES.iter().position(|(known, _)| *known == name).map(LimitedResource)
    }

    /// All names.
    pub fn names() -> [&'static str; 16] {
        RESOURCES.map(|(name, _)| name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        RESOURCES[self.0].0
    }

    pub(super) fn resource(self) -> Resource {
        RESOURCES[self.0].1
    }
}

impl From<LimitedResource> for String {
    fn from(resource: LimitedResource) -> String {
        resource.name().to_owned()
    }
}

impl TryFrom<String> for LimitedResource {
    type Error = String;

    fn try_from(name: String) -> Result<LimitedResource, String> {
        LimitedResource::named(&name).ok_or_else(|| format!("{name:?} is no resource"))
    }
}

impl Limits {
    /// Raises what this process may hand on, where a command is to get more than it has itself: only the host's root can,
    /// and a command's own process no longer is that. Gives what cannot be.
    pub(super) fn make_room(&self) -> Vec<String> {
        let mut refused = Vec::new();
        for Ulimit { resource, hard, .. } in &self.ulimits {
            let own = rustix::process::getrlimit(resource.resource());
            if is_within(*hard, own.maximum) {
                continue;
            }
            let raised = Rlimit { current: own.current, maximum: *hard };
            if rustix::process::setrlimit(resource.resource(), raised).is_err() {
                let possible = own.maximum.map_or("unlimited".to_owned(), |value| value.to_string());
                refused.push(format!(
                    "--ulimit {}: {possible} is the most that can be had here; that is what RUN gets",
                    resource.name()
                ));
            }
        }
        refused
    }
}

fn is_within(value: Option<u64>, maximum: Option<u64>) -> bool {
    match (value, maximum) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(value), Some(maximum)) => value <= maximum,
    }
}

fn least(value: Option<u64>, maximum: Option<u64>) -> Option<u64> {
    if is_within(value, maximum) { value } else { maximum }
}

/// In the process that becomes the command, as the shim must not be limited: it would fail to fork, or be killed for the
/// command's processor time.
pub(super) fn limit_command(outset: &Outset<'_>) -> Result<(), Reason> {
    for Ulimit { resource, soft, hard } in &outset.order.ulimits {
        let maximum = least(*hard, rustix::process::getrlimit(resource.resource()).maximum);
        let limit = Rlimit { current: least(*soft, maximum), maximum };
        rustix::process::setrlimit(resource.resource(), limit).doing(resource.name())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_above_every_number() {
        assert_eq!(least(None, Some(7)), Some(7));
        assert_eq!(least(Some(7), None), Some(7));
        assert_eq!(least(Some(9), Some(7)), Some(7));
        assert_eq!(least(None, None), None);
    }

    #[test]
    fn resources_are_found_by_the_names_that_they_have() {
        for name in LimitedResource::names() {
            assert_eq!(LimitedResource::named(name).map(LimitedResource::name), Some(name));
        }
        assert_eq!(LimitedResource::named("nofiles"), None);
    }
}
