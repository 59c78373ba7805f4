//! Draws what `progress` reports: on a terminal, as plain lines, as JSON, or not at all.
//!
//! Contract: everything goes to standard error; one thread draws, so nobody who works waits for a terminal. Only the
//! output of commands is held back when the reader is slower than the command (see `inbox`), as in a pipe. What cannot be
//! written (a closed pipe) is dropped: a build does not fail because nobody looks. It knows nothing of builds.

mod inbox;
mod plain;
mod rawjson;
mod step;
mod tail;
mod text;
mod tty;

use std::io::Write;
use std::str::FromStr;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::progress::{Event, Sink, TaskId};
use inbox::{Inbox, Letter, Opened};

/// How progress is shown (`--progress`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressMode {
    /// Redrawn on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// Lines as BuildKit prints them, for logs.
    Plain,
    /// Redrawn lines; plain where standard error is no terminal.
    Tty,
    /// Nothing.
    Quiet,
    /// One JSON object per line, as BuildKit's `SolveStatus`.
    RawJson,
}

/// The words that `--progress` takes.
pub const PROGRESS_WORDS: [&str; 6] = ["auto", "plain", "tty", "quiet", "none", "rawjson"];

/// Says that a word names no way to show progress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid progress mode {word:?}: expected auto, plain, tty, quiet or rawjson")]
pub struct UnknownProgressMode {
    /// The word as it was given.
    pub word: String,
}

impl FromStr for ProgressMode {
    type Err = UnknownProgressMode;

    fn from_str(word: &str) -> Result<ProgressMode, UnknownProgressMode> {
        match word {
            "auto" => Ok(ProgressMode::Auto),
            "plain" => Ok(ProgressMode::Plain),
            "tty" => Ok(ProgressMode::Tty),
            "quiet" | "none" => Ok(ProgressMode::Quiet),
            "rawjson" => Ok(ProgressMode::RawJson),
            _ => Err(UnknownProgressMode { word: word.to_owned() }),
        }
    }
}

/// What drawing has to know of the process's surroundings, read once by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UiEnvironment {
    /// Whether standard error is a terminal that understands cursor movement (`TERM` is not `dumb`).
    pub stderr_is_terminal: bool,
    /// Whether `NO_COLOR` is set to anything.
    pub no_color: bool,
    /// The terminal's width where it cannot be asked for (`COLUMNS`).
    pub columns: Option<u16>,
    /// The terminal's height where it cannot be asked for (`LINES`).
    pub lines: Option<u16>,
    /// Lines of output shown under a running command (`BUILDKIT_TTY_LOG_LINES`).
    pub log_lines: u16,
}

impl Default for UiEnvironment {
    fn default() -> UiEnvironment {
        UiEnvironment { stderr_is_terminal: false, no_color: true, columns: None, lines: None, log_lines: 6 }
    }
}

/// One way to show events. Called from the drawing thread alone.
trait Display: Send {
    /// Takes an event that arrived at `now` in; may draw.
    fn take(&mut self, now: Instant, event: Event);
    /// Draws what changed.
    fn refresh(&mut self, now: Instant);
    /// Draws the end: all that is still held back, warnings, the last output of what failed.
    fn finish(&mut self, now: Instant);
}

/// Time between two drawings, as in BuildKit.
const REFRESH: Duration = Duration::from_millis(100);

/// Something that shows progress until it is finished or dropped.
pub struct Ui {
    inbox: Arc<Inbox>,
    drawing: Mutex<Option<JoinHandle<()>>>,
}

impl Ui {
    /// Starts to draw on standard error.
    pub fn start(mode: ProgressMode, environment: &UiEnvironment) -> Ui {
        let tty = environment.stderr_is_terminal;
        let stderr = || -> Box<dyn Write + Send> { Box::new(std::io::stderr()) };
        match mode {
            ProgressMode::Quiet => Ui { inbox: Inbox::silent(), drawing: Mutex::default() },
            ProgressMode::RawJson => {
                Ui::draw(Box::new(rawjson::RawJson::new(stderr(), Instant::now(), SystemTime::now())))
            }
            ProgressMode::Auto | ProgressMode::Tty if tty => {
                Ui::draw(Box::new(tty::Tty::on_stderr(environment, Instant::now())))
            }
            ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
                Ui::draw(Box::new(plain::Plain::new(stderr())))
            }
        }
    }

    fn draw(display: Box<dyn Display>) -> Ui {
        let Opened { inbox, letters } = Inbox::open();
        let drawn = inbox.clone();
        let drawing = std::thread::Builder::new().name("ui".to_owned()).spawn(move || draw(display, &letters, &drawn));
        match drawing {
            Ok(handle) => Ui { inbox, drawing: Mutex::new(Some(handle)) },
            // No thread to be had: work on in silence rather than not at all.
            Err(_) => Ui { inbox: Inbox::silent(), drawing: Mutex::default() },
        }
    }

    /// Where events go. It may outlive the `Ui`; what comes after the end is dropped.
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.inbox.clone()
    }

    /// The last 64 KiB of what a running or failed task printed, as lines without control characters.
    pub fn tail(&self, task: TaskId) -> Vec<String> {
        self.inbox.tail(task)
    }

    /// Draws the end and leaves the terminal in order; what comes later is dropped. Dropping does the same.
    pub fn finish(&self) {
        self.inbox.close();
        if let Some(drawing) = self.drawing.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of the drawing thread was printed by the panic hook; the build's result does not depend on it.
            let _ = drawing.join();
        }
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The drawing thread: takes letters until the inbox is closed, and draws ten times a second at most.
fn draw(mut display: Box<dyn Display>, letters: &Receiver<Letter>, inbox: &Inbox) {
    // Whoever waits for room must not wait for a thread that is gone, even by a panic.
    let _closing = CloseOnDrop(inbox);
    let mut drawn_at = Instant::now();
    loop {
        let wait = REFRESH.saturating_sub(drawn_at.elapsed());
        match letters.recv_timeout(wait) {
            Ok(Letter::Event { at, event, weight }) => {
                display.take(at, event);
                inbox.handled(weight);
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Letter::Close) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if drawn_at.elapsed() >= REFRESH {
            display.refresh(Instant::now());
            drawn_at = Instant::now();
        }
    }
    display.finish(Instant::now());
}

struct CloseOnDrop<'a>(&'a Inbox);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests;
