//! What a build tells while it runs: typed events, in the order in which they happen.
//!
//! Contract: whoever works sends events through a [`Progress`]; whoever draws receives them. Sending never blocks on a
//! terminal and never fails. It knows nothing of how events are shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::diagnostic::Diagnostic;

/// Names one line of work on the screen; counted from 1 in order of announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u64);

/// Names one transfer (or other measured part) within a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub u64);

/// Which of a process's streams output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A task exists; its title is what BuildKit prints: `[stage 2/5] RUN make`.
    Announced {
        /// The task.
        task: TaskId,
        /// What people see.
        title: String,
    },
    /// A task's work begins.
    Started {
        /// The task.
        task: TaskId,
        /// When.
        at: Instant,
    },
    /// A sentence about a task, such as why the cache missed.
    Note {
        /// The task.
        task: TaskId,
        /// The sentence, without a line end.
        text: String,
    },
    /// Output of a RUN command, as it came: any bytes, cut anywhere.
    Output {
        /// The task.
        task: TaskId,
        /// Where the command wrote it.
        stream: Stream,
        /// When it was read.
        at: Instant,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A measured part of a task begins or goes on: a blob pulled, packed or pushed.
    Part {
        /// The task.
        task: TaskId,
        /// The part.
        part: PartId,
        /// What it is (`sha256:1234… pulling`).
        name: String,
        /// Bytes done.
        current: u64,
        /// Bytes in all, 0 where unknown.
        total: u64,
        /// Whether this is the part's last event.
        done: bool,
    },
    /// A task ended.
    Ended {
        /// The task.
        task: TaskId,
        /// When.
        at: Instant,
        /// How.
        outcome: Outcome,
    },
    /// A warning about the Dockerfile, already rendered for people, and as data.
    Warning {
        /// The warning.
        diagnostic: Diagnostic,
        /// The warning drawn with its line.
        rendered: String,
    },
    /// A sentence about the build as a whole (an ignored flag, a fall-back).
    Notice(String),
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its work was done.
    Done,
    /// Its result was in the cache.
    Cached,
    /// Something else failed first.
    Canceled,
    /// It failed, with what to say.
    Failed(String),
}

/// Receives events; implemented by everything that draws.
pub trait Sink: Send + Sync {
    /// Takes one event. Called from many threads.
    fn event(&self, event: Event);
}

/// The sending side, cheap to copy.
#[derive(Clone)]
pub struct Progress {
    sink: Arc<dyn Sink>,
    next_task: Arc<AtomicU64>,
    next_part: Arc<AtomicU64>,
}

struct Silence;

impl Sink for Silence {
    fn event(&self, _event: Event) {}
}

impl Progress {
    /// Sends to a sink.
    pub fn new(sink: Arc<dyn Sink>) -> Progress {
        Progress { sink, next_task: Arc::new(AtomicU64::new(1)), next_part: Arc::new(AtomicU64::new(1)) }
    }

    /// Sends nowhere.
    pub fn silent() -> Progress {
        Progress::new(Arc::new(Silence))
    }

    /// Announces a task.
    pub fn task(&self, title: impl Into<String>) -> Task {
        let id = TaskId(self.next_task.fetch_add(1, Ordering::Relaxed));
        self.sink.event(Event::Announced { task: id, title: title.into() });
        Task { progress: self.clone(), id }
    }

    /// Says a sentence about the whole build.
    pub fn notice(&self, text: impl Into<String>) {
        self.sink.event(Event::Notice(text.into()));
    }

    /// Shows a warning about the Dockerfile.
    pub fn warning(&self, diagnostic: Diagnostic, rendered: String) {
        self.sink.event(Event::Warning { diagnostic, rendered });
    }
}

/// One announced line of work.
#[derive(Clone)]
pub struct Task {
    progress: Progress,
    id: TaskId,
}

impl Task {
    /// Its number.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Its work begins now.
    pub fn start(&self) {
        self.progress.sink.event(Event::Started { task: self.id, at: Instant::now() });
    }

    /// Says a sentence that is none of the task's alone; see [`Progress::notice`].
    pub fn notice(&self, text: impl Into<String>) {
        self.progress.notice(text);
    }

    /// Says a sentence.
    pub fn note(&self, text: impl Into<String>) {
        self.progress.sink.event(Event::Note { task: self.id, text: text.into() });
    }

    /// Passes a command's output on.
    pub fn output(&self, stream: Stream, bytes: &[u8]) {
        let event = Event::Output { task: self.id, stream, at: Instant::now(), bytes: bytes.to_vec() };
        self.progress.sink.event(event);
    }

    /// Begins a measured part; `total` is 0 where unknown.
    pub fn part(&self, name: impl Into<String>, total: u64) -> Part {
        let id = PartId(self.progress.next_part.fetch_add(1, Ordering::Relaxed));
        let part = Part { task: self.clone(), id, name: name.into(), total, current: 0, shown: 0 };
        part.send(false);
        part
    }

    /// It ended.
    pub fn end(&self, outcome: Outcome) {
        self.progress.sink.event(Event::Ended { task: self.id, at: Instant::now(), outcome });
    }
}

/// A measured part of a task; dropping it without [`Part::finish`] leaves it unfinished on the screen.
pub struct Part {
    task: Task,
    id: PartId,
    name: String,
    total: u64,
    current: u64,
    shown: u64,
}

/// Bytes between two events of one part: enough to look alive, few enough to cost nothing.
const PART_STEP: u64 = 1 << 20;

impl Part {
    fn send(&self, done: bool) {
        let (task, part, name) = (self.task.id, self.id, self.name.clone());
        let event = Event::Part { task, part, name, current: self.current, total: self.total, done };
        self.task.progress.sink.event(event);
    }

    /// Adds bytes that are done.
    pub fn advance(&mut self, bytes: u64) {
        self.current += bytes;
        if self.current - self.shown >= PART_STEP {
            self.shown = self.current;
            self.send(false);
        }
    }

    /// Starts again from these bytes (a transfer that was retried).
    pub fn reset(&mut self, bytes: u64) {
        self.current = bytes;
        self.shown = bytes;
        self.send(false);
    }

    /// All of it is done.
    pub fn finish(self) {
        self.send(true);
    }
}
