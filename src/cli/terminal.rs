//! The user's terminal, while a program inside a sandbox has it.
//!
//! Contract: it is in raw mode (every key goes to the program, Ctrl-C as well) from [`Terminal::lend`] on, and as it was
//! before once [`Lent`] is dropped, or [`take_back`] is called by whoever ends the process in another way: by a signal or
//! a panic.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::sandbox::TerminalSize;

/// What was lent, with what it was like. A process has one terminal.
static LENT: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// A terminal.
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    /// The terminal that the process belongs to, whatever its standard streams are.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn controlling() -> io::Result<Terminal> {
        Ok(Terminal(File::options().read(true).write(true).open("/dev/tty")?.into()))
    }

    /// The terminal that one of the standard streams is.
    ///
    /// # Errors
    /// It cannot be copied.
    pub(super) fn of(stream: impl AsFd) -> io::Result<Terminal> {
        Ok(Terminal(stream.as_fd().try_clone_to_owned()?))
    }

    /// Its size.
    ///
    /// # Errors
    /// It is no terminal.
    pub(super) fn size(&self) -> io::Result<TerminalSize> {
        TerminalSize::of(&self.0)
    }

    /// Puts it into raw mode.
    ///
    /// # Errors
    /// It is no terminal.
    pub(super) fn lend(&self) -> io::Result<Lent<'_>> {
        take_back_on_panic();
        let before = tcgetattr(&self.0)?;
        let mut raw = before.clone();
        raw.make_raw();
        *lent() = Some((self.0.try_clone()?, before));
        let lent = Lent(PhantomData);
        tcsetattr(&self.0, OptionalActions::Now, &raw)?;
        Ok(lent)
    }
}

impl Terminal {
    /// Says something to the user, when nothing else has the terminal.
    pub(super) fn print(&self, text: &str) {
        self.write(text.as_bytes());
    }

    /// Passes bytes on. A terminal that is gone shows nothing.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.0, rest) {
                Ok(length) => rest = &rest[length..],
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A terminal in raw mode.
pub(super) struct Lent<'a>(PhantomData<&'a Terminal>);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        take_back();
    }
}

/// Makes the terminal what it was before it was lent; nothing where none is lent.
pub(super) fn take_back() {
    if let Some((terminal, before)) = lent().take() {
        // A terminal that is gone needs no settings.
        tcsetattr(terminal, OptionalActions::Now, &before).unwrap_or(());
    }
}

/// The size of the terminal that is lent.
pub(super) fn size_of_lent() -> Option<TerminalSize> {
    lent().as_ref().and_then(|(terminal, _)| TerminalSize::of(terminal).ok())
}

fn lent() -> MutexGuard<'static, Option<(OwnedFd, Termios)>> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing is dropped where a panic ends the process at once, as in a release.
fn take_back_on_panic() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            take_back();
            before(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    #[test]
    fn a_terminal_that_was_lent_is_as_before_after_the_end_and_after_a_panic() {
        let other = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&other).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let terminal = Terminal(rustix::fs::open(ptsname(&other, Vec::new()).unwrap(), flags, Mode::empty()).unwrap());
        let is_raw = || !tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ICANON);
        assert!(!is_raw());
        let lent = terminal.lend().unwrap();
        assert!(is_raw());
        assert_eq!(size_of_lent(), terminal.size().ok());
        drop(lent);
        assert!(!is_raw());
        assert_eq!(size_of_lent(), None);
        // As in a release, in which a panic drops nothing.
        std::mem::forget(terminal.lend().unwrap());
        assert!(is_raw());
        std::panic::catch_unwind(|| panic!("on purpose")).unwrap_err();
        assert!(!is_raw());
    }
}
