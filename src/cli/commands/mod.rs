//! The commands: each carries one [`super::Command`] out.

mod agents;
mod archive;
mod archived;
mod build;
mod check;
mod compare;
mod copy;
mod doctor;
mod each_tag;
mod explain;
mod image;
mod index;
mod inputs;
mod inspect;
mod list;
mod login;
mod manual;
mod remote;
mod report;
mod run;
mod sbom;
mod shell;
mod storage;
mod transfer;

pub(in crate::cli) use run::NOT_RUN;

use std::io::Write;
use std::path::Path;

use super::Command;
use super::environment::Environment;
use super::failure::{Failure, FailureKind};
use super::request::RegistryOptions;
use super::signals::OnSignal;
use crate::build::BuildError;
use crate::registry::copy::CopyError;
use crate::registry::{Client, ClientOptions};
use crate::store::{Alone, Store, StoreError};
use crate::unfinished;

/// Carries a command out; what it answers goes to standard output.
///
/// Gives the exit code, which is not 0 only where it is that of a container's command.
pub(super) fn run(command: Command, environment: &Environment) -> Result<u8, Failure> {
    match command {
        Command::Run(request) => run::run(&request, environment),
        Command::Compare(request) => compare::diff(&request),
        other => answer(other, environment).map(|()| 0),
    }
}

fn answer(command: Command, environment: &Environment) -> Result<(), Failure> {
    match command {
        Command::Build(request) => build::run(&request, environment),
        Command::Images(request) => list::images(&request, environment),
        Command::History(request) => inspect::history(&request, environment),
        Command::Inspect(request) => inspect::inspect(&request),
        Command::DiskUsage(request) => storage::disk_usage(&request),
        Command::Tag(request) => image::tag(&request),
        Command::Remove(request) => image::remove(&request),
        Command::Prune(request) => storage::prune(&request),
        Command::Check(request) => check::run(&request),
        Command::Push(request) => transfer::push(&request, environment),
        Command::Pull(request) => transfer::pull(&request, environment),
        Command::Copy(request) => copy::copy(&request, environment),
        Command::Save(request) => archive::save(&request, environment),
        Command::Load(request) => archive::load(&request, environment),
        Command::Import(request) => archive::import(&request, environment),
        Command::Export(request) => archive::export(&request, environment),
        Command::CreateIndex(request) => index::create(&request, environment),
        Command::InspectIndex(request) => index::inspect(&request),
        Command::Login(request) => login::login(&request, environment),
        Command::Logout(request) => login::logout(&request),
        Command::Doctor(request) => doctor::run(&request),
        Command::Show(text) => print(&text),
        Command::ListContents(request) => sbom::sbom(&request, environment),
        Command::Completion(shell) => manual::completion(shell),
        Command::Manual(directory) => manual::manual(&directory),
        // They have exit codes of their own.
        Command::Run(request) => run::run(&request, environment).map(drop),
        Command::Compare(request) => compare::diff(&request).map(drop),
    }
}

/// Writes to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(FailureKind::Other, format!("write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The store for this process alone; waits for others that use it, and says so.
fn take_alone(store: Store) -> Result<Alone, Failure> {
    let root = store.root().to_owned();
    // Its own share of the store would be waited for, too.
    drop(store);
    match Alone::try_take(&root).map_err(store_failed)? {
        Some(alone) => Ok(alone),
        None => {
            say(&waiting_for(&Alone::others(&root)));
            Alone::wait(&root).map_err(store_failed)
        }
    }
}

/// Who is waited for.
fn waiting_for(processes: &[u32]) -> String {
    match processes {
        [] => "waiting for other rbuild processes that use the store".to_owned(),
        [one] => format!("waiting for process {one}, which uses the store"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(u32::to_string).collect();
            format!("waiting for processes {} and {last}, which use the store", first.join(", "))
        }
    }
}

/// Says something beside the answer.
fn say(text: &str) {
    // Nobody can be told that nobody can be told.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Warns of records that could not be read.
fn warn_of_damage(store: &Store) {
    for path in store.damaged_records() {
        say(&format!(
            "warning: {} is damaged and was not used; `rbuild check` looks for more, `rbuild check --repair` removes it",
            path.display()
        ));
    }
}

fn open_store(root: &Path) -> Result<Store, Failure> {
    Store::open(root).map_err(|error| failed(&error))
}

/// The store, for what ends at once when a signal comes, and leaves nothing unfinished.
fn open_interruptible(root: &Path) -> Result<Store, Failure> {
    let store = open_store(root)?;
    unfinished::remove_at_end(store.session());
    OnSignal::at_once().stop();
    Ok(store)
}

fn client(options: &RegistryOptions) -> Client {
    Client::new(client_options(options))
}

/// What the command line says about registries, beside what the surroundings do.
fn client_options(options: &RegistryOptions) -> ClientOptions {
    let loaded = ClientOptions::load();
    ClientOptions {
        insecure: options.insecure.clone(),
        ca_certificates: options.ca_certificates.clone(),
        registries: loaded.registries.clone().with_mirrors(options.mirrors.clone()),
        ..loaded
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::of(FailureKind::Other, error)
}

/// What went wrong between the store, archives and registries, with the hints that there are for a registry's error.
fn transfer_failed(error: &BuildError) -> Failure {
    match error {
        BuildError::Copy(CopyError::Registry(inner)) | BuildError::Registry(inner) => failed(inner),
        BuildError::Copy(CopyError::Exists { .. }) => failed(error).hint("leave --no-clobber out to replace it"),
        other => failed(other),
    }
}

fn store_failed(error: StoreError) -> Failure {
    failed(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_is_named() {
        assert_eq!(waiting_for(&[7]), "waiting for process 7, which uses the store");
        assert_eq!(waiting_for(&[7, 8, 9]), "waiting for processes 7, 8 and 9, which use the store");
        assert_eq!(waiting_for(&[]), "waiting for other rbuild processes that use the store");
    }
}
