//! The room that the store takes: `rbuild prune`, `rbuild du`, and the limit that holds after every command that fills the store.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::list::{human, pretty, table};
use super::{failed, open_store, print, say, store_failed, take_alone};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::{Execution, Listing};
use crate::cli::request::storage::{Detail, DiskUsage, Prune, PruneScope, store_limit};
use crate::executor::{ExecuteError, Namespace, measure};
use crate::sandbox::Options;
use crate::store::{Alone, Entry, Kinds, Policy, Sizes, Store, StoreError};

/// Results that were used within this time stay, unless all are to go.
const RECENT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a collection is stopped by.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

/// `rbuild prune`.
pub(super) fn prune(request: &Prune) -> Result<(), Failure> {
    let unused_for = match (request.scope, request.older_than, request.max_used_space) {
        (_, Some(older_than), _) => older_than,
        // With a size to come down to, age decides the order only.
        (PruneScope::All, None, _) | (_, None, Some(_)) => Duration::ZERO,
        (PruneScope::Unneeded, None, None) => RECENT,
    };
    let policy = Policy { unused_for, max_bytes: request.max_used_space, kinds: request.kinds };
    let store = open_store(&request.store_root)?;
    let namespace = namespace(&store);
    if request.execution == Execution::DryRun {
        let sizes = measure(&store, &namespace).map_err(|error| failed(&error))?;
        let entries = store.foresee_collection(&policy, &sizes).map_err(store_failed)?;
        return print(&format!("{}nothing was removed\n", listed(&entries)));
    }
    let alone = take_alone(store)?;
    let freed = collect(alone, &policy, &namespace).map_err(|error| failed(&error))?;
    print(&format!("Total reclaimed space: {}\n", human(freed)))
}

fn namespace(store: &Store) -> Namespace {
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    namespace.expect_no_commands();
    namespace
}

/// Collects; the bytes that are free now.
fn collect(alone: Alone, policy: &Policy, namespace: &Namespace) -> Result<u64, CollectError> {
    let sizes = measure(alone.store(), namespace)?;
    let before = alone.store().usage(&sizes).total();
    let collected = alone.collect(policy, &sizes)?;
    let root = alone.store().root().to_owned();
    // Nobody finds these trees any more, so others need not wait until they are gone.
    drop(alone);
    namespace.remove(&collected.trees)?;
    let store = Store::open(&root)?;
    let after = store.usage(&measure(&store, namespace)?).total();
    Ok(before.saturating_sub(after))
}

/// The limit that the user has set, if any.
pub(super) fn limit(environment: &Environment) -> Result<Option<u64>, Failure> {
    store_limit(environment).map_err(|error| Failure::of(FailureKind::Usage, &error))
}

/// Does what may fill a store, and brings the store down to its limit where it has. What was done is done: that the store could
/// not be made smaller is told and no failure.
pub(super) fn within<T>(
    limit: Option<u64>,
    store: Store,
    work: impl FnOnce(&Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let ended = work(&store);
    let (root, has_grown) = (store.root().to_owned(), store.has_grown());
    drop(store);
    if let Some(limit) = limit.filter(|_| has_grown)
        && let Err(failure) = obey_limit(&root, limit)
    {
        say(&format!("warning: the store was not brought down to its limit: {}", failure.message));
    }
    ended
}

/// Brings the store down to a limit, the least recently used first. Where others use the store now, the one that ends last
/// does it.
fn obey_limit(root: &Path, limit: u64) -> Result<(), Failure> {
    let store = open_store(root)?;
    let namespace = namespace(&store);
    let sizes: Sizes = measure(&store, &namespace).map_err(|error| failed(&error))?;
    if store.usage(&sizes).total() <= limit {
        return Ok(());
    }
    drop(store);
    let Some(alone) = Alone::try_take(root).map_err(store_failed)? else { return Ok(()) };
    let policy = Policy { unused_for: Duration::ZERO, max_bytes: Some(limit), kinds: Kinds::CacheAndPulled };
    collect(alone, &policy, &namespace).map_err(|error| failed(&error))?;
    let store = open_store(root)?;
    let left = store.usage(&measure(&store, &namespace).map_err(|error| failed(&error))?).total();
    if left > limit {
        say(&format!(
            "warning: the store takes {}, more than the limit of {}: all that is left belongs to images that have a name \
             (`rbuild images` lists them, `rbuild rmi` removes them)",
            human(left),
            human(limit)
        ));
    }
    Ok(())
}

/// `rbuild du`.
pub(super) fn disk_usage(request: &DiskUsage) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let sizes = measure(&store, &namespace(&store)).map_err(|error| failed(&error))?;
    let usage = store.usage(&sizes);
    let entries = match request.detail {
        Detail::Entries => store.entries(&sizes).map_err(store_failed)?,
        Detail::Sums => Vec::new(),
    };
    let parts = [
        ("blobs", usage.blobs),
        ("trees", usage.trees),
        ("cache mounts", usage.mounts),
        ("records and logs", usage.records),
    ];
    if request.listing == Listing::Json {
        let mut document = serde_json::json!({
            "blobs": usage.blobs, "trees": usage.trees, "cache_mounts": usage.mounts, "records": usage.records,
            "total": usage.total(),
        });
        if request.detail == Detail::Entries {
            document["entries"] = entries.iter().map(as_json).collect();
        }
        return print(&pretty(&document)?);
    }
    let mut rows: Vec<Vec<String>> =
        parts.iter().map(|(name, bytes)| vec![(*name).to_owned(), human(*bytes)]).collect();
    rows.push(vec!["total".to_owned(), human(usage.total())]);
    let entries = if entries.is_empty() { String::new() } else { format!("{}\n", listed(&entries)) };
    print(&format!("{entries}{}", table(&rows)))
}

fn as_json(entry: &Entry) -> serde_json::Value {
    let used = entry.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    serde_json::json!({
        "type": entry.kind.name(), "bytes": entry.bytes, "used": used, "title": entry.title, "path": entry.path,
    })
}

/// Entries as a table.
fn listed(entries: &[Entry]) -> String {
    let mut rows = vec![["TYPE", "SIZE", "LAST USED", "WHAT"].map(str::to_owned).to_vec()];
    for entry in entries {
        let age = SystemTime::now().duration_since(entry.used).unwrap_or_default();
        rows.push(vec![entry.kind.name().to_owned(), human(entry.bytes), ago(age), entry.title.replace('\n', " ")]);
    }
    table(&rows)
}

/// A time as people say it.
fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    let (number, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_the_largest_unit() {
        for (seconds, text) in [(5, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (900_000, "10 days ago")]
        {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
    }
}
