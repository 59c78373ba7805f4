//! The process that is kept ready for the next command: its namespaces take the kernel a while to make, which passes while
//! another command runs.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Pid;

use super::{Family, First, Holder, kill, status_of};
use crate::sandbox::{child, wire};
use crate::sys::process::Namespaces;

/// The process, if there is one, and whether there is to be one.
#[derive(Default)]
pub(super) struct Spare {
    ready: Option<Ready>,
    /// Most who run one command, as by hand, run one only; who runs two, runs more.
    wanted: bool,
}

/// One that waits for a command.
struct Ready {
    pid: Pid,
    child: OwnedFd,
    handover: OwnedFd,
    of_recorder: Option<OwnedFd>,
}

impl Holder {
    /// Starts a process for the command after this one, from the second command on. One that cannot be had now is not
    /// missed: the next command starts its own, and says what is wrong.
    pub(super) fn keep_spare(&mut self) {
        if !std::mem::replace(&mut self.spare.wanted, true) || self.spare.ready.is_some() {
            return;
        }
        let Ok((handover, theirs)) = wire::socket_pair() else { return };
        match self.fork_first(Namespaces::ALL_BUT_NETWORK) {
            Ok(First::Parent { pid, child, of_recorder }) => {
                self.spare.ready = Some(Ready { pid, child, handover, of_recorder });
            }
            Ok(First::Child(given)) => {
                drop(handover);
                child::begin_and_wait(theirs, given, self.proof)
            }
            Err(_) => {}
        }
    }

    /// Lets the process that is ready do a job; nothing if there is none, or something has ended it.
    pub(super) fn hand_to_spare(&mut self, job: &OwnedFd) -> std::io::Result<Option<Family>> {
        let Some(Ready { pid, child, handover, of_recorder }) = self.spare.ready.take() else { return Ok(None) };
        let is_alive = !wire::has_news(&child).unwrap_or(true) && wire::send(&handover, b"j", &[job.as_fd()]).is_ok();
        if !is_alive {
            kill(&child);
            status_of(&child)?;
            return Ok(None);
        }
        self.accompany(pid, child, of_recorder, None).map(Some)
    }

    /// Gives whether there was one.
    pub(super) fn end_spare(&mut self) -> bool {
        let Some(Ready { child, .. }) = self.spare.ready.take() else { return false };
        kill(&child);
        // Nothing can be done for one that cannot be waited for.
        drop(status_of(&child));
        true
    }
}
