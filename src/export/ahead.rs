//! Reads on a thread of its own while what was read before is written: a layer is digested beside its way to an archive.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait to be written.
const DEPTH: usize = 8;

/// Gives `use_it` a reader of the same bytes and errors as `reader`, which is read as far ahead as 2 MiB.
///
/// # Errors
/// What `use_it` reports.
pub(super) fn read_ahead<T>(
    reader: impl Read + Send,
    use_it: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let (full, chunks) = sync_channel(DEPTH);
    let (used, spare) = channel();
    thread::scope(|scope| {
        thread::Builder::new().name("read".to_owned()).spawn_scoped(scope, move || fill(reader, &full, &spare))?;
        // Dropped before the thread is waited for: it ends when nobody reads any more.
        use_it(&mut Ahead { chunks, used, chunk: Vec::new(), at: 0 })
    })
}

fn fill(mut reader: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, spare: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK));
        chunk.clear();
        let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let is_end = chunk.is_empty();
        // What came before an error is passed on before it.
        let is_wanted = is_end || full.send(Ok(chunk)).is_ok();
        if let Err(error) = read {
            let _ = full.send(Err(error));
            return;
        }
        if is_end || !is_wanted {
            return;
        }
    }
}

struct Ahead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            let Ok(next) = self.chunks.recv() else { return Ok(0) };
            // Who reads has no use for it once the end was read.
            let _ = self.used.send(std::mem::replace(&mut self.chunk, next?));
            self.at = 0;
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, VerifyReader};

    #[test]
    fn the_same_bytes_come_however_many_there_are() {
        for size in [0, 1, CHUNK - 1, CHUNK, 20 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut found = Vec::new();
            read_ahead(bytes.as_slice(), |reader| reader.read_to_end(&mut found)).unwrap();
            assert!(found == bytes, "{size}");
        }
    }

    #[test]
    fn an_error_comes_after_what_was_read_before_it() {
        let bytes = vec![7; 3 * CHUNK + 1];
        let reader = VerifyReader::new(bytes.as_slice(), Digest::of(b"something else"), None);
        let mut found = Vec::new();
        let error = read_ahead(reader, |reader| reader.read_to_end(&mut found)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(found.len(), bytes.len());
    }

    #[test]
    fn who_stops_early_does_not_wait_for_the_end() {
        let mut byte = [0];
        read_ahead(io::repeat(1), |reader| reader.read_exact(&mut byte)).unwrap();
        assert_eq!(byte, [1]);
    }
}
