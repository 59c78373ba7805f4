//! What remote sources turned out to be: which commit, which bytes. The plan knows their addresses alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::digest::Digest;

/// What an address stood for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revision {
    /// A commit of a repository.
    Commit(String),
    /// A file.
    File(Digest),
}

/// What steps have fetched, by address without user and password.
#[derive(Debug, Default)]
pub struct Materials(Mutex<BTreeMap<String, Revision>>);

impl Materials {
    /// Notes what an address stood for.
    pub(super) fn note(&self, address: String, revision: Revision) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address, revision);
    }

    /// What an address stood for; none where no step had to fetch it.
    pub fn of(&self, address: &str) -> Option<Revision> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }
}
