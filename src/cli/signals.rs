//! Ctrl-C and its like: everything stops, nothing is left, the exit code says so; or they are the command's.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::terminal;
use crate::sandbox::{Cancel, Foreground};
use crate::sys::signal::Signals;

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
    /// The store's directory of unfinished files.
    pub(super) session: PathBuf,
}

impl OnSignal {
    /// Stops this, too.
    pub(super) fn new(stopped: Vec<Cancel>, foreground: &Foreground, session: &Path) -> OnSignal {
        OnSignal { stopped, foreground: foreground.clone(), session: session.to_owned() }
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
        std::thread::sleep(PATIENCE);
        terminal::take_back();
        // Files that another thread writes at this moment are swept by the next rbuild.
        drop(std::fs::remove_dir_all(&self.session));
        std::process::exit(130);
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
