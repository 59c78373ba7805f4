//! Work that needs the sandbox's ids but runs this program's own code: unpack a layer, read a diff, delete a tree.

use std::any::Any;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::copied::{self, Copied};
use super::wire::{self, Reply};
use crate::sys::process;

/// A name and what to do under it: gets the arguments and descriptors that [`super::Sandbox::worker`] was given.
pub type Worker = (&'static str, fn(args: &[u8], fds: Vec<OwnedFd>) -> Result<(), String>);

/// The sandbox's own worker behind [`super::Sandbox::remove_trees`].
pub(super) const REMOVE_TREES: &str = "remove-trees";

/// The sandbox's own worker that finds what a command changed in its copied root.
pub(super) const COMPARE: &str = "compare";

/// The whole life of a worker's process.
pub(super) fn work(socket: &OwnedFd, workers: &[Worker]) -> ! {
    let holder = getppid();
    let armed = set_parent_process_death_signal(Some(Signal::KILL));
    if armed.is_err() || getppid() != holder {
        process::exit_now(125);
    }
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| perform(socket, workers)));
    let reply = match outcome {
        Ok(Ok(())) => Reply::Done,
        Ok(Err(message)) => Reply::WorkerFailed(message),
        Err(panic) => Reply::WorkerFailed(format!("the worker panicked: {}", panic_message(panic.as_ref()))),
    };
    match wire::reply(socket, &reply, &[]) {
        Ok(()) => process::exit_now(0),
        Err(_) => process::exit_now(125),
    }
}

fn perform(socket: &OwnedFd, workers: &[Worker]) -> Result<(), String> {
    let (request, descriptors) =
        wire::receive_request(socket).map_err(|error| format!("receive a worker's request: {error}"))?;
    let (name, arguments) = split(&request).ok_or("receive a worker's request: it has no name")?;
    if name == REMOVE_TREES.as_bytes() {
        return remove_trees(arguments);
    }
    if name == COMPARE.as_bytes() {
        let copied: Copied =
            serde_json::from_slice(arguments).map_err(|error| format!("find what changed: {error}"))?;
        return copied::compare(&copied).map_err(|reason| format!("find what the command changed: {}", reason.0));
    }
    let known = workers.iter().find(|(known, _)| known.as_bytes() == name);
    let Some((_, function)) = known else {
        return Err(format!("run the worker {:?}: there is none of that name", String::from_utf8_lossy(name)));
    };
    function(arguments, descriptors)
}

/// A request: the worker's name, a zero byte, the arguments.
pub(super) fn join(name: &str, arguments: &[u8]) -> Vec<u8> {
    [name.as_bytes(), &[0], arguments].concat()
}

fn split(request: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = request.iter().position(|byte| *byte == 0)?;
    Some((&request[..end], &request[end + 1..]))
}

/// Deletes trees; those that do not exist are fine. Goes on after a failure, and reports the first.
fn remove_trees(arguments: &[u8]) -> Result<(), String> {
    let paths: Vec<PathBuf> = serde_json::from_slice(arguments).map_err(|error| format!("remove trees: {error}"))?;
    let mut outcome = Ok(());
    for path in paths {
        outcome = outcome.and(remove(&path));
    }
    outcome
}

fn remove(path: &Path) -> Result<(), String> {
    // The standard library's removal goes from descriptor to descriptor and follows no links. The overlay's own
    // directory of mode 000 is no obstacle to root of this namespace.
    let removed = match std::fs::remove_dir_all(path) {
        // The table of owners beside a tree.
        Err(error) if error.kind() == ErrorKind::NotADirectory => std::fs::remove_file(path),
        result => result,
    };
    match removed {
        // Another process that found it abandoned may remove it at the same time.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(format!("remove {}: {error}", path.display())),
        _ => Ok(()),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::thread;

    #[test]
    fn trees_and_their_tables_may_be_removed_by_several_processes_at_once() {
        let place = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..200).map(|number| place.path().join(number.to_string())).collect();
        for (number, path) in paths.iter().enumerate() {
            if number % 2 == 0 {
                fs::create_dir_all(path.join("a/b")).unwrap();
                fs::write(path.join("a/b/file"), "content").unwrap();
            } else {
                fs::write(path, "owners").unwrap();
            }
        }
        let arguments = serde_json::to_vec(&paths).unwrap();
        let remove = || super::remove_trees(&arguments);
        thread::scope(|scope| {
            let removals: Vec<_> = (0..4).map(|_| scope.spawn(remove)).collect();
            removals.into_iter().for_each(|removal| assert_eq!(removal.join().unwrap(), Ok(())));
        });
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
