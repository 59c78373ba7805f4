//! What a command wrote, kept whole: a terminal shows the last lines, CI may cut, and the first error is often far above.
//!
//! Contract: nothing of it is told or kept before secrets in it are masked.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::mask::{Masked, Secrets};
use crate::progress::{Stream, Task};

/// What a command writes, on its way to those who watch and to its log.
pub(super) struct Written<'a> {
    task: &'a Task,
    log: Log,
    /// Of standard output and of standard error: a secret is not cut by what the other one says.
    masked: Mutex<[Masked; 2]>,
}

impl<'a> Written<'a> {
    /// What a command that knows these secrets writes.
    pub(super) fn new(task: &'a Task, log: Log, secrets: &Secrets) -> Written<'a> {
        Written { task, log, masked: Mutex::new([Masked::new(secrets), Masked::new(secrets)]) }
    }

    /// Takes the next bytes of a stream in.
    pub(super) fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut masked = self.masked.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = masked[stream as usize].push(bytes);
        self.pass_on(stream, &shown);
    }

    /// The command has ended. Gives the file that has all of it, if it was written.
    pub(super) fn finish(self) -> Option<PathBuf> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = self.masked.lock().unwrap_or_else(PoisonError::into_inner)[stream as usize].finish();
            self.pass_on(stream, &rest);
        }
        self.log.whole()
    }

    fn pass_on(&self, stream: Stream, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.task.output(stream, bytes);
            self.log.write(bytes);
        }
    }
}

/// The log of one command, made with its first output.
pub(super) struct Log {
    path: PathBuf,
    state: Mutex<State>,
}

enum State {
    Empty,
    Open(File),
    /// It could not be written: the command matters more than its log, so it goes on without one.
    Lost,
}

impl Log {
    /// A log in a file, which an earlier one of the same step is replaced in.
    pub(super) fn new(path: PathBuf) -> Log {
        Log { path, state: Mutex::new(State::Empty) }
    }

    /// Adds output.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Empty = *state {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path);
            *state = file.map_or(State::Lost, State::Open);
        }
        if let State::Open(file) = &mut *state
            && file.write_all(bytes).is_err()
        {
            *state = State::Lost;
        }
    }

    /// Where it is, if it was written and is whole.
    pub(super) fn whole(self) -> Option<PathBuf> {
        match self.state.into_inner().unwrap_or_else(PoisonError::into_inner) {
            State::Open(_) => Some(self.path),
            State::Empty | State::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_made_with_the_first_output_and_replaces_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(Log::new(path.clone()).whole(), None);
        assert!(!path.exists());
        for text in ["first run", "second"] {
            let log = Log::new(path.clone());
            log.write(text.as_bytes());
            assert_eq!(log.whole(), Some(path.clone()));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let lost = Log::new(folder.path().join("missing/log"));
        lost.write(b"x");
        assert_eq!(lost.whole(), None);
    }
}
