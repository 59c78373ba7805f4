//! Ctrl-C and its like: everything stops, nothing is left, the exit code says so.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sandbox::Cancel;
use crate::sys::signal::Signals;

/// How long a build may take to wind up before it is ended.
const PATIENCE: Duration = Duration::from_millis(1500);

static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Whether a signal asked the build to stop.
pub(super) fn was_signalled() -> bool {
    SIGNALLED.load(Ordering::Relaxed)
}

/// Stops the build on SIGINT, SIGTERM and SIGHUP: commands are killed at once; whatever else does not end by itself
/// within a moment (a transfer that hangs) is ended with the process, after its unfinished files were removed.
pub(super) fn stop_on_signal(cancel: &Cancel, session: &Path) {
    let cancel = cancel.clone();
    let session: PathBuf = session.to_owned();
    let Ok(signals) = Signals::catch() else { return };
    let wait = move || {
        signals.wait();
        SIGNALLED.store(true, Ordering::Relaxed);
        cancel.cancel();
        std::thread::sleep(PATIENCE);
        // Files that another thread writes at this moment are swept by the next rbuild.
        drop(std::fs::remove_dir_all(&session));
        std::process::exit(130);
    };
    // Without the thread a signal would be lost; the process then keeps the default of being ended by it.
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(wait));
}
