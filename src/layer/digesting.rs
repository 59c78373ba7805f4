//! Digests a layer's tar while it is written.
//!
//! Contract: a short tar costs no thread; a long one is hashed beside its writing, in memory that does not grow with it.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hasher};

/// Bytes that are hashed together; a tar of fewer is hashed where it is written.
const CHUNK: usize = 256 * 1024;
/// Chunks that wait to be hashed: bounds memory to 1 MiB.
const DEPTH: usize = 4;

/// Takes a tar and keeps nothing of it but its digest (the layer's diffID) and its size.
#[derive(Default)]
pub struct Digesting {
    chunk: Vec<u8>,
    size: u64,
    beside: Option<Beside>,
}

/// A thread that hashes chunks and gives their memory back.
struct Beside {
    chunks: SyncSender<Vec<u8>>,
    hashed: Receiver<Vec<u8>>,
    thread: JoinHandle<Hasher>,
}

impl Digesting {
    /// The digest and the size of what was written.
    ///
    /// # Errors
    /// When the thread that hashes has died.
    pub fn finish(self) -> io::Result<(Digest, u64)> {
        let mut hasher = match self.beside {
            None => Hasher::new(),
            Some(beside) => {
                drop(beside.chunks);
                beside.thread.join().map_err(|_| died())?
            }
        };
        hasher.update(&self.chunk);
        Ok((hasher.finish(), self.size))
    }

    fn send(&mut self) -> io::Result<()> {
        let beside = match &self.beside {
            Some(beside) => beside,
            None => self.beside.insert(Beside::start()?),
        };
        let next = beside.hashed.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK));
        beside.chunks.send(std::mem::replace(&mut self.chunk, next)).map_err(|_| died())
    }
}

impl Beside {
    fn start() -> io::Result<Beside> {
        let (chunks, received) = sync_channel::<Vec<u8>>(DEPTH);
        // As many as there can be, so that giving one back never waits.
        let (give_back, hashed) = sync_channel(DEPTH + 2);
        let hash = move || {
            let mut hasher = Hasher::new();
            for mut chunk in received {
                hasher.update(&chunk);
                chunk.clear();
                // Who has written everything wants none back.
                drop(give_back.try_send(chunk));
            }
            hasher
        };
        let thread = std::thread::Builder::new().name("digest".to_owned()).spawn(hash)?;
        Ok(Beside { chunks, hashed, thread })
    }
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK {
            self.send()?;
        }
        let count = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn died() -> io::Error {
    io::Error::other("the thread that digests a layer has died")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_of_any_length_has_the_digest_of_its_bytes() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 20 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..size).map(|number| (number / 7 % 251) as u8).collect();
            for piece in [511, CHUNK / 2, 3 * CHUNK] {
                let mut digesting = Digesting::default();
                bytes.chunks(piece).for_each(|piece| digesting.write_all(piece).unwrap());
                assert_eq!(digesting.beside.is_some(), size > CHUNK);
                assert_eq!(
                    digesting.finish().unwrap(),
                    (Digest::of(&bytes), size as u64),
                    "{size} in pieces of {piece}"
                );
            }
        }
    }
}
