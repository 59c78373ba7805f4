//! Waiting for what another process, or another step, makes now: nobody should wonder why nothing happens.

use crate::digest::Digest;
use crate::progress::Task;
use crate::store::{Holder, Lock, Store, StoreError};

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

    /// Takes the lock. A wait of more than a moment is told on the task's line.
    pub(super) fn lock(self, name: &Digest, store: &Store, task: &Task) -> Result<Lock, StoreError> {
        store.lock_telling(self.kind(), name, |holder| {
            task.start();
            task.note(self.sentence(holder));
        })
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
