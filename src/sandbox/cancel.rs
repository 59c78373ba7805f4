//! Ends what runs, from any thread.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Signal, pidfd_send_signal};

/// A handle that several runs can share; its clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    next: u64,
    running: Vec<(u64, Arc<OwnedFd>)>,
    nested: Vec<Cancel>,
}

/// Keeps a process killable until it is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    cancel: Cancel,
    number: u64,
}

impl Cancel {
    /// A handle that has not been used.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Kills everything that runs under this handle, and whatever is started under it later.
    pub fn cancel(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.cancelled = true;
        for (_, process) in &state.running {
            kill(process);
        }
        for nested in &state.nested {
            nested.cancel();
        }
    }

    /// A handle that is cancelled with this one, and can be cancelled alone.
    pub fn nested(&self) -> Cancel {
        let nested = Cancel::new();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cancelled {
            nested.cancel();
        }
        state.nested.push(nested.clone());
        nested
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cancelled
    }

    /// Adds a process (a descriptor of one); kills it at once if the handle was cancelled meanwhile.
    pub(super) fn register(&self, process: OwnedFd) -> Registration {
        let process = Arc::new(process);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cancelled {
            kill(&process);
        }
        let number = state.next;
        state.next += 1;
        state.running.push((number, process));
        Registration { cancel: self.clone(), number }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.cancel.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.retain(|(number, _)| *number != self.number);
    }
}

/// The shim of a command is pid 1 of its namespace: the kernel ends everything else with it.
fn kill(process: &OwnedFd) {
    // The only failure left is ESRCH: it has ended by itself, which is as good.
    pidfd_send_signal(process, Signal::KILL).ok();
}
