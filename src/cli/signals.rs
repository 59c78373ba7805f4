//! Ctrl-C and its like: everything stops, nothing is left, words and exit code say so; or they are the command's.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;

use super::failure::Failure;
use super::{color_of_stderr, terminal};
use crate::sandbox::{Cancel, Foreground};
use crate::sys::signal::Signals;
use crate::unfinished;

/// How long a build may take to wind up before it is ended.
const PATIENCE: Duration = Duration::from_millis(1500);

static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Whether a signal asked the build to stop.
pub(super) fn was_signalled() -> bool {
    SIGNALLED.load(Ordering::Relaxed)
}

/// What signals do.
pub(super) struct OnSignal {
    /// What is stopped: commands are killed at once; whatever else does not end by itself within a moment (a transfer
    /// that hangs) is ended with the process, after its unfinished files were removed.
    pub(super) stopped: Vec<Cancel>,
    /// What has the terminal, if anything: it gets new sizes.
    pub(super) foreground: Foreground,
}

impl OnSignal {
    /// Stops this, and removes the store's directory of unfinished files.
    pub(super) fn new(stopped: Vec<Cancel>, foreground: &Foreground, session: &Path) -> OnSignal {
        unfinished::remove_at_end(session);
        OnSignal { stopped, foreground: foreground.clone() }
    }

    /// Nothing has to wind up: a transfer, say, just ends.
    pub(super) fn at_once() -> OnSignal {
        OnSignal { stopped: Vec::new(), foreground: Foreground::default() }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP stop everything.
    pub(super) fn stop(self) {
        wait(&[], move |signal| match signal {
            Signal::WINCH => self.resize(),
            _ => self.end(),
        });
    }

    /// From now on signals go to the command in the foreground. The second that asks it to end kills it, and one that
    /// comes before it runs stops everything.
    pub(super) fn forward(self) {
        let mut was_asked = false;
        wait(&[Signal::QUIT, Signal::USR1, Signal::USR2], move |signal| match signal {
            Signal::WINCH => self.resize(),
            Signal::USR1 | Signal::USR2 => _ = self.foreground.signal(signal),
            _ if was_asked => self.stopped.iter().for_each(Cancel::cancel),
            _ if self.foreground.signal(signal) => was_asked = true,
            _ => self.end(),
        });
    }

    fn resize(&self) {
        if let Some(size) = terminal::size_of_lent() {
            self.foreground.resize(size);
        }
    }

    fn end(&self) {
        SIGNALLED.store(true, Ordering::Relaxed);
        self.stopped.iter().for_each(Cancel::cancel);
        if !self.stopped.is_empty() {
            std::thread::sleep(PATIENCE);
        }
        terminal::take_back();
        unfinished::remove_all();
        say_interrupted();
        std::process::exit(i32::from(Failure::interrupted().exit_code()));
    }
}

/// Says why it ends, unless whoever reads standard error does not read any more.
fn say_interrupted() {
    let (said, is_said) = mpsc::channel();
    let say = move || {
        let mut out = std::io::stderr().lock();
        // Nobody can be told that nobody can be told.
        drop(Failure::interrupted().print(&mut out, color_of_stderr()));
        // What shows the progress draws nothing over it.
        std::mem::forget(out);
        said.send(()).ok();
    };
    if std::thread::Builder::new().name("last words".to_owned()).spawn(say).is_ok() {
        is_said.recv_timeout(PATIENCE).ok();
    }
}

/// Does something for each signal, on a thread of its own.
fn wait(more: &[Signal], mut act: impl FnMut(Signal) + Send + 'static) {
    let usual = [Signal::INT, Signal::TERM, Signal::HUP, Signal::WINCH];
    let Ok(signals) = Signals::catch(&[&usual, more].concat()) else { return };
    let wait = move || {
        while let Ok(signal) = signals.next() {
            act(signal);
        }
    };
    // Without the thread a signal would be lost; the process then keeps the default of being ended by it.
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(wait));
}
