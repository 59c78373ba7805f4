//! Reads a blob from where it was cut, and several pieces of work at a time.

use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use crate::registry::Client;

/// Opens a blob at an offset.
pub(super) type OpenAt = Box<dyn Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send>;

/// The bytes of a blob of a known size. Who reads it verifies them.
pub(super) struct Resumed {
    client: Client,
    open: OpenAt,
    size: u64,
    offset: u64,
    body: Option<Box<dyn Read + Send>>,
    failures: u32,
    failed_at: u64,
}

/// A transfer that brought this much since its last failure is alive: its failures are counted anew.
const ALIVE: u64 = 1 << 20;

impl Resumed {
    pub(super) fn new(client: Client, size: u64, open: OpenAt) -> Resumed {
        Resumed { client, open, size, offset: 0, body: None, failures: 0, failed_at: 0 }
    }

    /// Counts a failure, and waits before the next try; the error where there is none.
    fn failed(&mut self, error: io::Error) -> io::Result<()> {
        self.body = None;
        if self.offset - self.failed_at >= ALIVE {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        let Some(delay) = self.client.patience(self.failures) else {
            let (offset, size) = (self.offset, self.size);
            return Err(io::Error::new(error.kind(), format!("{error} (after {offset} of {size} bytes)")));
        };
        self.failures += 1;
        std::thread::sleep(delay);
        Ok(())
    }
}

impl Read for Resumed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(body) = &mut self.body else {
                if self.offset >= self.size {
                    return Ok(0);
                }
                self.body = Some((self.open)(self.offset)?);
                continue;
            };
            match body.read(buffer) {
                // More than there should be is for the reader that verifies to find.
                Ok(0) if self.offset >= self.size => return Ok(0),
                Ok(0) => self.failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer was cut"))?,
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.offset >= self.size => return Ok(0),
                Err(error) => self.failed(error)?,
            }
        }
    }
}

/// Does a piece of work for each item, `width` at a time; after a failure nothing new is begun. The results in no order.
pub(super) fn side_by_side<I: Sync, T: Send, E: Send>(
    items: &[I],
    width: NonZeroUsize,
    work: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let todo = Mutex::new(items.iter());
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..items.len().min(width.get()) {
            scope.spawn(|| {
                loop {
                    let Some(item) = todo.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                    let result = work(item);
                    if result.is_err() {
                        todo.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop);
                    }
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_nothing_new_is_begun() {
        let (one, three) = (NonZeroUsize::MIN, NonZeroUsize::new(3).unwrap());
        let begun = Mutex::new(Vec::new());
        let work = |item: &u32| {
            begun.lock().unwrap().push(*item);
            if *item == 2 { Err("two") } else { Ok(*item) }
        };
        assert_eq!(side_by_side(&[1, 2, 3, 4], one, work), Err("two"));
        assert_eq!(*begun.lock().unwrap(), [1, 2]);
        let mut all = side_by_side(&[1, 3, 4], three, |item| Ok::<u32, ()>(item * 2)).unwrap();
        all.sort_unstable();
        assert_eq!(all, [2, 6, 8]);
    }
}
