//! The way from those who work to the one thread that draws.
//!
//! Control events (started, ended, parts) never wait. Output waits while more than [`ROOM`] bytes of it are not drawn
//! yet: a RUN that prints 10 GiB is slowed to the speed of the terminal instead of filling the memory.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::tail::Tails;
use crate::progress::{Event, Outcome, Sink, TaskId};

/// Bytes of output that may wait to be drawn.
const ROOM: usize = 1 << 20;

/// What the drawing thread receives.
pub(super) enum Letter {
    /// An event, when it arrived, and how many bytes of room it holds until it is handled.
    Event {
        /// When it arrived.
        at: Instant,
        /// What happened.
        event: Event,
        /// Bytes of room it holds.
        weight: usize,
    },
    /// Nothing comes any more.
    Close,
}

/// An inbox and the end that the drawing thread reads.
pub(super) struct Opened {
    pub(super) inbox: Arc<Inbox>,
    pub(super) letters: Receiver<Letter>,
}

/// The sink that every worker shares.
pub(super) struct Inbox {
    sender: Option<Sender<Letter>>,
    waiting: Mutex<Waiting>,
    room: Condvar,
    tails: Mutex<Tails>,
}

struct Waiting {
    bytes: usize,
    closed: bool,
}

impl Inbox {
    /// Opens an inbox for a drawing thread.
    pub(super) fn open() -> Opened {
        let (sender, letters) = channel();
        Opened { inbox: Arc::new(Inbox::new(Some(sender))), letters }
    }

    /// An inbox that nobody reads; it only keeps tails.
    pub(super) fn silent() -> Arc<Inbox> {
        Arc::new(Inbox::new(None))
    }

    fn new(sender: Option<Sender<Letter>>) -> Inbox {
        let waiting = Mutex::new(Waiting { bytes: 0, closed: false });
        Inbox { sender, waiting, room: Condvar::new(), tails: Mutex::default() }
    }

    /// What a running or failed task printed last.
    pub(super) fn tail(&self, task: TaskId) -> Vec<String> {
        lock(&self.tails).lines(task)
    }

    /// Lets nothing in any more and wakes all who wait. Tails stay.
    pub(super) fn close(&self) {
        let mut waiting = lock(&self.waiting);
        if !waiting.closed {
            waiting.closed = true;
            self.send(Letter::Close);
        }
        drop(waiting);
        self.room.notify_all();
    }

    /// Gives back the room that a letter held.
    pub(super) fn handled(&self, weight: usize) {
        if weight > 0 {
            lock(&self.waiting).bytes -= weight;
            self.room.notify_all();
        }
    }

    fn send(&self, letter: Letter) {
        if let Some(sender) = &self.sender {
            // The receiver is gone only after the end, when nothing has to be drawn.
            let _ = sender.send(letter);
        }
    }

    fn keep_tail(&self, event: &Event) {
        match event {
            Event::Output { task, bytes, .. } => lock(&self.tails).push(*task, bytes),
            Event::Ended { task, outcome, .. } if !matches!(outcome, Outcome::Failed(_)) => {
                lock(&self.tails).forget(*task);
            }
            _ => {}
        }
    }
}

/// A panic of another thread leaves these values whole: every change of them is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink for Inbox {
    fn event(&self, event: Event) {
        self.keep_tail(&event);
        if self.sender.is_none() {
            return;
        }
        let weight = match &event {
            Event::Output { bytes, .. } => bytes.len(),
            _ => 0,
        };
        let mut waiting = lock(&self.waiting);
        // A single piece larger than all the room is let in when nothing else waits.
        while weight > 0 && !waiting.closed && waiting.bytes > 0 && waiting.bytes + weight > ROOM {
            waiting = self.room.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if !waiting.closed {
            waiting.bytes += weight;
            // Sent under the lock, so that nothing comes after `Close`.
            self.send(Letter::Event { at: Instant::now(), event, weight });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Progress, Stream};
    use std::time::Duration;

    #[test]
    fn output_waits_for_room_but_control_events_do_not() {
        let Opened { inbox, letters } = Inbox::open();
        let progress = Progress::new(inbox.clone());
        let task = progress.task("RUN yes");
        let printing = task.clone();
        let writer = std::thread::spawn(move || {
            for _ in 0..64 {
                printing.output(Stream::Stdout, &[b'y'; 64 << 10]);
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(lock(&inbox.waiting).bytes <= ROOM, "more output is held than there is room");
        assert!(!writer.is_finished(), "4 MiB went into 1 MiB of room");
        task.note("not held up by output");
        let mut weight_seen = 0;
        while weight_seen < 4 << 20 {
            if let Letter::Event { weight, .. } = letters.recv_timeout(Duration::from_secs(10)).unwrap() {
                weight_seen += weight;
                inbox.handled(weight);
            }
        }
        writer.join().unwrap();
    }

    #[test]
    fn closing_frees_those_who_wait_and_drops_what_comes_later() {
        let Opened { inbox, letters } = Inbox::open();
        let task = Progress::new(inbox.clone()).task("RUN yes");
        let printing = task.clone();
        let writer = std::thread::spawn(move || {
            for _ in 0..4 {
                printing.output(Stream::Stdout, &vec![b'y'; ROOM]);
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        inbox.close();
        writer.join().unwrap();
        task.note("after the end");
        let last = letters.iter().position(|letter| matches!(letter, Letter::Close)).unwrap();
        assert!(last >= 1);
        assert!(letters.try_recv().is_err(), "a letter came after the end");
    }

    #[test]
    fn a_failed_task_keeps_its_tail_and_a_finished_one_does_not() {
        let inbox = Inbox::silent();
        let progress = Progress::new(inbox.clone());
        let (good, bad) = (progress.task("good"), progress.task("bad"));
        good.output(Stream::Stdout, b"fine\n");
        bad.output(Stream::Stderr, b"one\ntw");
        bad.output(Stream::Stderr, b"o\n");
        good.end(Outcome::Done);
        bad.end(Outcome::Failed("exit code: 1".to_owned()));
        assert_eq!(inbox.tail(good.id()), Vec::<String>::new());
        assert_eq!(inbox.tail(bad.id()), ["one", "two"]);
    }
}
