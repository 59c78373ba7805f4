//! Makes an index of a layer while its bytes stream past.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::index::{Index, index_entries};
use super::read::Limits;
use crate::digest::{Digest, Hasher};

/// Bytes that travel together: small writes (headers) are collected.
const CHUNK: usize = 256 * 1024;
/// Chunks in flight: bounds memory to 2 MiB.
const DEPTH: usize = 8;

/// Takes a layer's tar as it is written; hashes it here (diffID) and its files on a thread of its own.
pub struct Indexer {
    hasher: Hasher,
    size: u64,
    chunk: Vec<u8>,
    sender: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<Index>>>,
}

impl Indexer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new() -> io::Result<Indexer> {
        let (sender, receiver) = sync_channel(DEPTH);
        let work = move || {
            let mut chunks = Chunks { receiver, chunk: Vec::new(), at: 0 };
            let index = index_entries(&mut chunks, Limits::default())?;
            io::copy(&mut chunks, &mut io::sink())?;
            Ok(index)
        };
        let thread = std::thread::Builder::new().name("index".to_owned()).spawn(work)?;
        Ok(Indexer {
            hasher: Hasher::new(),
            size: 0,
            chunk: Vec::with_capacity(CHUNK),
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    /// The index, the diffID and the size of what was written.
    ///
    /// # Errors
    /// What was wrong with the archive.
    pub fn finish(mut self) -> io::Result<(Index, Digest, u64)> {
        self.send()?;
        self.sender = None;
        let index = self.join()?;
        Ok((index, self.hasher.finish(), self.size))
    }

    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        if self.sender.as_ref().is_some_and(|sender| sender.send(chunk).is_ok()) {
            return Ok(());
        }
        // The thread reads to the end unless the archive is wrong; why is its result.
        self.sender = None;
        let error = self.join().err();
        Err(error.unwrap_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "layer index was given up")))
    }

    fn join(&mut self) -> io::Result<Index> {
        let gone = || io::Error::other("layer index was given up");
        self.thread.take().ok_or_else(gone)?.join().map_err(|_| gone())?
    }
}

impl Write for Indexer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.chunk.len());
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Chunks {
    receiver: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            let Ok(chunk) = self.receiver.recv() else { return Ok(0) };
            self.chunk = chunk;
            self.at = 0;
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
