//! `rbuild prune`: frees what no image and no recent build needs.

use std::time::Duration;

use super::list::human;
use super::{failed, open_store, print, store_failed};
use crate::cli::failure::Failure;
use crate::cli::request::commands::{Execution, Prune, PruneScope};
use crate::executor::Namespace;
use crate::sandbox::Options;

/// Results that were used within this time stay, unless all are to go.
const RECENT: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn run(request: &Prune) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    if request.execution == Execution::DryRun {
        let usage = store.usage();
        return print(&format!(
            "the store takes {} now; nothing was removed\n",
            human(usage.blobs + usage.trees + usage.records)
        ));
    }
    let unused_for = match (request.scope, request.older_than) {
        (_, Some(older_than)) => older_than,
        (PruneScope::All, None) => Duration::ZERO,
        (PruneScope::Unneeded, None) => RECENT,
    };
    let before = store.usage();
    let (store, collected) = store.collect(unused_for).map_err(store_failed)?;
    if !collected.trees.is_empty() {
        let namespace = Namespace::new(Options::new(store.root().join("trees")));
        namespace.remove(&collected.trees).map_err(|error| failed(&error))?;
    }
    let after = store.usage();
    let sum = |usage: crate::store::Usage| usage.blobs + usage.trees + usage.records;
    print(&format!("Total reclaimed space: {}\n", human(sum(before).saturating_sub(sum(after)))))
}
