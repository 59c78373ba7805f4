//! `--on-error=shell`: a shell in the RUN that failed, before the build ends with its failure.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::executor::{ExecuteError, FailedRun, Namespace};
use crate::sandbox::{Cancel, Foreground, SandboxError, Stream, StreamKind, Streams};
use crate::ui::Ui;

/// Opens a shell, once, when a RUN has failed.
pub(super) struct Shell<'a> {
    pub(super) ui: &'a Ui,
    pub(super) cancel: Cancel,
    pub(super) foreground: Foreground,
    /// Why there was none.
    pub(super) refusal: Mutex<Option<String>>,
}

impl<'a> Shell<'a> {
    /// One that is opened on the terminal that the progress is drawn on.
    pub(super) fn new(ui: &'a Ui) -> Shell<'a> {
        Shell { ui, cancel: Cancel::new(), foreground: Foreground::default(), refusal: Mutex::default() }
    }

    /// Opens it, and comes back when it has ended.
    pub(super) fn open(&self, failed: &FailedRun, namespace: &Namespace) {
        // The report of the failure is on the screen before the shell, and nothing is drawn over it.
        self.ui.finish();
        if let Err(reason) = self.try_open(failed, namespace) {
            let said = format!("no shell was opened: {reason}");
            self.refusal.lock().unwrap_or_else(PoisonError::into_inner).replace(said);
        }
    }

    /// Adds to a failure why there was no shell.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        match self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reason) => failure.hint(reason),
            None => failure,
        }
    }

    fn try_open(&self, failed: &FailedRun, namespace: &Namespace) -> Result<(), String> {
        let no_terminal = |_| "there is no terminal; --on-error=shell needs one".to_owned();
        let terminal = Terminal::controlling().map_err(no_terminal)?;
        let size = terminal.size().map_err(no_terminal)?;
        let shell = failed.shell().map_err(|error| format!("the root file system cannot be read: {error}"))?;
        let Some(shell) = shell else {
            return Err("the image has none (looked for bash, sh, ash and busybox)".to_owned());
        };
        terminal.print(&banner(failed, &shell));
        let output = |_: Stream, bytes: &[u8]| terminal.write(bytes);
        let streams = Streams {
            kind: StreamKind::Terminal(size),
            input: Some(terminal.as_fd()),
            output: &output,
            foreground: self.foreground.clone(),
        };
        let ended = {
            let _lent = terminal.lend().map_err(|error| error.to_string())?;
            failed.run(shell, namespace, &streams, &self.cancel)
        };
        match ended {
            Ok(_) | Err(ExecuteError::Sandbox(SandboxError::Cancelled)) => {
                terminal.print("\nThe shell has ended, and so does the build.\n");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

fn banner(failed: &FailedRun, shell: &[String]) -> String {
    let failure = &failed.failure;
    let held = match failed.locked_caches() {
        0 => "",
        _ => "\nOther builds that want its locked caches wait meanwhile.",
    };
    format!(
        "\nA shell ({}) in the step that failed, with its files, variables, user, network and mounts.\n\
         What failed (exit code {}): {}\n\
         `exit` or Ctrl-D ends the shell and the build; what you change here is in no image.{held}\n\n",
        shell.join(" "),
        failure.code,
        failure.command,
    )
}
