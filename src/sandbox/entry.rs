//! How a command comes to be limited from its first moment: its process waits at a gate until main, which may write to
//! the host's control groups, has put it into one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};

use super::child::{Reason, SetUp, While};
use super::error::SandboxError;
use super::groups::{Group, Groups};
use super::limits::{Limits, Ulimit};
use super::order::Order;
use super::wire;
use crate::sys::process::{self, SingleThreaded};

/// The limits of a sandbox, with what keeps them; found out when the first command comes.
#[derive(Debug, Default)]
pub(super) struct Limited {
    limits: Limits,
    groups: OnceLock<Groups>,
    notices: Mutex<Vec<String>>,
}

impl Limited {
    pub(super) fn new(limits: Limits) -> Limited {
        let notices = Mutex::new(limits.make_room());
        Limited { limits, groups: OnceLock::new(), notices }
    }

    pub(super) fn ulimits(&self) -> Vec<Ulimit> {
        self.limits.ulimits.clone()
    }

    pub(super) fn take_notices(&self) -> Vec<String> {
        self.groups();
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn groups(&self) -> &Groups {
        self.groups.get_or_init(|| {
            let (groups, mut unkept) = Groups::prepare(&self.limits);
            self.notices.lock().unwrap_or_else(PoisonError::into_inner).append(&mut unkept);
            groups
        })
    }

    /// Makes a group for a command, and a gate for it to wait at; neither where nothing is limited.
    pub(super) fn entry(&self, order: &mut Order, passed: &mut Vec<OwnedFd>) -> Result<Option<Entry>, SandboxError> {
        let groups = self.groups();
        if groups.is_empty() {
            return Ok(None);
        }
        let group = groups.make().map_err(|source| SandboxError::Group { source })?;
        let gate = pipe_with(PipeFlags::CLOEXEC).map_err(|error| SandboxError::Talk { source: error.into() })?;
        order.gate = Some(passed.len());
        passed.push(gate.0);
        Ok(Some(Entry { group, gate: Some(gate.1) }))
    }
}

/// A command's group. Dropping it removes the group, so it has to outlive the command's processes.
#[derive(Debug)]
pub(super) struct Entry {
    group: Group,
    gate: Option<OwnedFd>,
}

impl Entry {
    pub(super) fn memory_events(&self) -> Option<PathBuf> {
        self.group.memory_events()
    }

    /// Puts the command's first process, which is still alone, into the group and lets it go on.
    pub(super) fn admit(&mut self, process: &OwnedFd) -> Result<(), SandboxError> {
        let Some(gate) = self.gate.take() else { return Ok(()) };
        let admit = || {
            match id_of(process)? {
                Some(id) => match self.group.add(id) {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                    result => result?,
                },
                // It has ended already, and says why itself.
                None => return Ok(()),
            }
            match File::from(gate).write_all(b"g") {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(()),
            }
        };
        admit().map_err(|source| SandboxError::Group { source })
    }
}

/// The id of the process that a descriptor stands for; none if it has ended (proc(5), `fdinfo`).
fn id_of(process: &OwnedFd) -> io::Result<Option<u32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    match id {
        Some("-1") => Ok(None),
        id => id
            .and_then(|id| id.parse().ok())
            .map(Some)
            .ok_or_else(|| io::Error::other("the kernel does not tell the id of a process")),
    }
}

/// In the child.
pub(super) fn pass_gate(setup: &mut SetUp) -> Result<(), Reason> {
    if setup.order.gate.is_some() {
        wait_at_gate(setup)?;
        // The one that it was started in shows the group's name, which tells of the host.
        process::enter_cgroup_namespace(SingleThreaded::check()?)?;
    }
    Ok(())
}

/// In the child, where no namespace is to be had.
pub(super) fn wait_at_gate(setup: &mut SetUp) -> Result<(), Reason> {
    let Some(number) = setup.order.gate else { return Ok(()) };
    let gate = setup.passed.get_mut(number).and_then(Option::take);
    let gate = gate.ok_or_else(|| Reason("the gate was not passed".to_owned()))?;
    wire::wait_for_byte(gate).doing("wait for rbuild")
}
