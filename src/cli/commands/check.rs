//! `rbuild check`: looks for damage in the store, and removes it.

use std::fmt::Write as _;

use super::list::pretty;
use super::{client, failed, open_store, print, store_failed, take_alone};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::RegistryOptions;
use crate::cli::request::commands::Listing;
use crate::cli::request::storage::{CheckStore, Remedy};
use crate::executor::{Layers, Namespace};
use crate::sandbox::Options;
use crate::store::{Checked, Damage, Depth, Store};

/// To remove something may show that something else cannot be without it: layer, step, image.
const ROUNDS: usize = 8;

/// What was found, and what became of it.
#[derive(Default)]
struct Findings {
    checked: Checked,
    /// Trees that could not be looked into.
    foreign: usize,
    /// What was removed in later rounds because it needed what was damaged.
    followed: Vec<Damage>,
}

pub(super) fn run(request: &CheckStore) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    namespace.expect_no_commands();
    let findings = match request.remedy {
        Remedy::Report => look(&store, request.depth, &namespace)?,
        Remedy::Repair => {
            let alone = take_alone(store)?;
            repair(alone.store(), request.depth, &namespace)?
        }
    };
    match request.listing {
        Listing::Json => print(&json(&findings, request.remedy)?)?,
        Listing::Table | Listing::Ids | Listing::Template(..) => print(&text(&findings, request.remedy))?,
    }
    match (findings.checked.damage.len(), request.remedy) {
        (0, _) | (_, Remedy::Repair) => Ok(()),
        (count, Remedy::Report) => {
            let message = format!("the store is damaged in {count} place{}", if count == 1 { "" } else { "s" });
            // What was found by reading is not found again without.
            let flags = match request.depth {
                Depth::Names => "--repair",
                Depth::Content => "--deep --repair",
            };
            let hint = format!("`rbuild check {flags}` removes what is damaged; the next build makes it anew");
            Err(Failure::new(FailureKind::Other, message).hint(hint))
        }
    }
}

fn look(store: &Store, depth: Depth, namespace: &Namespace) -> Result<Findings, Failure> {
    let mut checked = store.check(depth).map_err(store_failed)?;
    let registry = client(&RegistryOptions::default());
    let audited =
        Layers::new(store, &registry, namespace).audit(depth, &checked.damage).map_err(|error| failed(&error))?;
    checked.damage.extend(audited.damage);
    checked.entries += audited.entries;
    Ok(Findings { checked, foreign: audited.foreign.len(), followed: Vec::new() })
}

fn repair(store: &Store, depth: Depth, namespace: &Namespace) -> Result<Findings, Failure> {
    let mut findings = look(store, depth, namespace)?;
    store.repair(&findings.checked.damage).map_err(store_failed)?;
    for _ in 0..ROUNDS {
        // Content was read once; what is missing now shows by its name.
        let next = store.check(Depth::Names).map_err(store_failed)?.damage;
        if next.is_empty() {
            break;
        }
        store.repair(&next).map_err(store_failed)?;
        let known = |one: &Damage| findings.checked.damage.iter().any(|other| other.path == one.path);
        let new: Vec<Damage> = next.into_iter().filter(|one| !known(one)).collect();
        findings.followed.extend(new);
    }
    let leftovers = store.check(Depth::Names).map_err(store_failed)?.leftovers;
    namespace.remove(&leftovers).map_err(|error| failed(&error))?;
    Ok(findings)
}

fn text(findings: &Findings, remedy: Remedy) -> String {
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").expect("text can be written to");
    let what = |one: &Damage| format!("{:<22}{}\n{:<22}{}", one.kind.name(), one.path.display(), "", one.detail);
    for one in findings.checked.damage.iter().chain(&findings.followed) {
        line(what(one));
    }
    if findings.foreign > 0 {
        line(format!("{} unpacked layers belong to other ids and were not looked into", findings.foreign));
    }
    let leftovers = findings.checked.leftovers.len();
    match (leftovers, remedy) {
        (0, _) => {}
        (_, Remedy::Report) => {
            line(format!("{leftovers} unfinished files of processes that were killed; the next build removes them"));
        }
        (_, Remedy::Repair) => line(format!("{leftovers} unfinished files of processes that were killed: removed")),
    }
    let damage = findings.checked.damage.len() + findings.followed.len();
    match (damage, remedy) {
        (0, _) => line(format!("{} entries, no damage", findings.checked.entries)),
        (_, Remedy::Report) => line(format!("{} entries, {damage} damaged", findings.checked.entries)),
        (_, Remedy::Repair) => line(format!("{} entries, {damage} removed", findings.checked.entries)),
    }
    text
}

fn json(findings: &Findings, remedy: Remedy) -> Result<String, Failure> {
    let one = |damage: &Damage| serde_json::json!({ "kind": damage.kind.name(), "path": damage.path, "detail": damage.detail });
    let all: Vec<serde_json::Value> = findings.checked.damage.iter().chain(&findings.followed).map(one).collect();
    pretty(&serde_json::json!({
        "entries": findings.checked.entries,
        "damage": all,
        "repaired": remedy == Remedy::Repair,
        "leftovers": findings.checked.leftovers,
        "not_looked_into": findings.foreign,
    }))
}
