//! Waiting for what another process, or another step, makes now: nobody should wonder why nothing happens.

use std::time::{Duration, Instant};

use super::ExecuteError;
use crate::digest::Digest;
use crate::progress::Task;
use crate::sandbox::Cancel;
use crate::store::{Holder, Lock, Store};

/// How long a wait is nothing to speak of.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a lock may be free before it is noticed.
const LONGEST_PAUSE: Duration = Duration::from_millis(30);

/// What is waited for: the kind of lock, and what its holder does in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// A step's result.
    Step,
    /// A layer's tree.
    Tree,
    /// A blob from a registry.
    Blob,
    /// A cache mount that one command at a time may use.
    Cache,
}

impl Shared {
    fn kind(self) -> &'static str {
        match self {
            Shared::Step => "step",
            Shared::Tree => "tree",
            Shared::Blob => "blob",
            Shared::Cache => "cache",
        }
    }

    fn deed(self) -> &'static str {
        match self {
            Shared::Step => "runs the same step",
            Shared::Tree => "unpacks the same layer",
            Shared::Blob => "downloads the same layer",
            Shared::Cache => "uses the same cache mount",
        }
    }

    /// Takes the lock if nobody has it.
    pub(super) fn try_lock(self, name: &Digest, store: &Store) -> Result<Option<Lock>, ExecuteError> {
        Ok(store.try_lock(self.kind(), name)?)
    }

    /// Takes the lock. A wait of more than a moment is told on the task's line; where the build can be stopped, the
    /// wait ends with it: who fails must not wait for what others do.
    pub(super) fn lock(
        self,
        name: &Digest,
        store: &Store,
        task: &Task,
        cancel: Option<&Cancel>,
    ) -> Result<Lock, ExecuteError> {
        let begun = Instant::now();
        let (mut pause, mut told) = (Duration::from_millis(1), false);
        loop {
            if let Some(lock) = self.try_lock(name, store)? {
                return Ok(lock);
            }
            if cancel.is_some_and(Cancel::is_cancelled) {
                return Err(ExecuteError::Cancelled);
            }
            if !told && begun.elapsed() > SILENCE {
                told = true;
                task.start();
                task.note(self.sentence(store.holder(self.kind(), name)));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn sentence(self, holder: Holder) -> String {
        let who = match holder {
            Holder::Own => "another step of this build".to_owned(),
            Holder::Process(id) => format!("process {id}"),
            Holder::Unseen => "another process".to_owned(),
        };
        format!("waiting for {who}, which {}", self.deed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_is_told() {
        assert_eq!(Shared::Step.sentence(Holder::Process(7)), "waiting for process 7, which runs the same step");
        let own = Shared::Cache.sentence(Holder::Own);
        assert_eq!(own, "waiting for another step of this build, which uses the same cache mount");
    }
}
