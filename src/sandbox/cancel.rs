//! Ends what runs, from any thread.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::process::{Signal, pidfd_send_signal};

/// A handle that several runs can share; its clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    next: u64,
    running: Vec<(u64, Arc<OwnedFd>)>,
    /// Those that somebody still holds, and some of the others.
    nested: Vec<Weak<Mutex<State>>>,
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
        for nested in state.nested.iter().filter_map(Weak::upgrade) {
            Cancel(nested).cancel();
        }
    }

    /// A handle that is cancelled with this one, and can be cancelled alone.
    pub fn nested(&self) -> Cancel {
        let nested = Cancel::new();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cancelled {
            nested.cancel();
        }
        // What is over shall not be held for as long as this handle lives: it may be a server's.
        state.nested.retain(|known| known.strong_count() > 0);
        state.nested.push(Arc::downgrade(&nested.0));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_handles_are_cancelled_with_theirs_and_forgotten_when_they_are_over() {
        let outer = Cancel::new();
        let (kept, copy) = (outer.nested(), outer.nested());
        let clone = copy.clone();
        drop(copy);
        for _ in 0..100 {
            drop(outer.nested());
        }
        let held = || outer.0.lock().unwrap().nested.len();
        assert!(held() <= 3, "{}", held());
        clone.cancel();
        assert!(!outer.is_cancelled() && !kept.is_cancelled());
        let inner = kept.nested();
        outer.cancel();
        assert!(kept.is_cancelled() && inner.is_cancelled() && outer.nested().is_cancelled());
    }
}
