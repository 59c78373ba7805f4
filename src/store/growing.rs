//! A blob that is read while it is written.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;

/// What is there of a blob, for those who do not wait for all of it. Clones are the same blob.
#[derive(Debug, Clone)]
pub struct Growing {
    file: Arc<File>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that can be read.
    written: u64,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// All of it is there, and this is its digest.
    Whole(Digest),
    /// No more comes, or nobody wants it any more.
    Abandoned,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

impl Growing {
    pub(super) fn new(file: File) -> Growing {
        Growing { file: Arc::new(file), shared: Arc::default() }
    }

    pub(super) fn grow(&self, written: u64) {
        self.shared.change(|state| state.written = written);
    }

    /// Ends a blob that nobody has abandoned.
    pub(super) fn complete(&self, digest: Digest) {
        self.shared.change(|state| {
            state.end.get_or_insert(End::Whole(digest));
        });
    }

    /// Ends what is not whole: whoever reads it is told so. What is whole stays.
    pub fn abandon(&self) {
        self.shared.change(|state| {
            state.end.get_or_insert(End::Abandoned);
        });
    }

    /// The digest of a blob that is whole.
    pub fn digest(&self) -> Option<Digest> {
        match self.shared.state().end {
            Some(End::Whole(digest)) => Some(digest),
            Some(End::Abandoned) | None => None,
        }
    }

    /// Reads it from its start, each byte as soon as it is there.
    pub fn open(&self) -> impl Read + Send + use<> {
        Reader { blob: self.clone(), at: 0 }
    }
}

struct Reader {
    blob: Growing,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let shared = &self.blob.shared;
        let mut state = shared.state();
        let ready = loop {
            match state.end {
                Some(End::Abandoned) => return Err(io::Error::other("the blob was not finished")),
                _ if state.written > self.at => break state.written - self.at,
                Some(End::Whole(_)) => return Ok(0),
                None => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        let count = usize::try_from(ready).map_or(buffer.len(), |ready| ready.min(buffer.len()));
        let count = self.blob.file.read_at(&mut buffer[..count], self.at)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}
