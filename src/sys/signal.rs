//! Signals as something that a thread waits for.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::Signal;

/// The pipe that the handler writes to; -1 before there is one.
static WAKE: AtomicI32 = AtomicI32::new(-1);
static PIPE: OnceLock<(io::PipeReader, io::PipeWriter)> = OnceLock::new();

/// Signals that are caught, for one thread to wait for.
///
/// Handlers rather than a blocked mask: a mask would be inherited by every process that is started, and a command that
/// runs with SIGINT blocked cannot be interrupted.
#[derive(Debug)]
pub struct Signals(&'static io::PipeReader);

extern "C" fn wake(signal: libc::c_int) {
    let fd = WAKE.load(Ordering::Relaxed);
    // Numbers of signals are small.
    let byte = signal as u8;
    // SAFETY: write is async-signal-safe (signal-safety(7)); the descriptor is never closed once it is stored.
    unsafe { libc::write(fd, (&raw const byte).cast(), 1) };
}

fn is_ignored(signal: Signal) -> io::Result<bool> {
    // SAFETY: a zeroed sigaction is valid; the call sets nothing and writes one to `now`, which outlives it.
    let (result, now) = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal.as_raw(), std::ptr::null(), &raw mut now), now)
    };
    if result == 0 { Ok(now.sa_sigaction == libc::SIG_IGN) } else { Err(io::Error::last_os_error()) }
}

impl Signals {
    /// Catches these from now on, but for those that whoever started this process had it ignore: `nohup`, or a shell that
    /// runs it in the background, wants it to go on.
    pub fn catch(signals: &[Signal]) -> io::Result<Signals> {
        use std::os::fd::AsRawFd;
        let pipe = io::pipe()?;
        let (reader, writer) = PIPE.get_or_init(|| pipe);
        WAKE.store(writer.as_raw_fd(), Ordering::Relaxed);
        for signal in signals {
            if is_ignored(*signal)? {
                continue;
            }
            // SAFETY: a zeroed sigaction is valid (no flags, empty mask); the handler does async-signal-safe things only.
            let result = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = wake as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal.as_raw(), &action, std::ptr::null_mut())
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Signals(reader))
    }

    /// Waits for the next of them.
    ///
    /// # Errors
    /// The pipe cannot be read, so none will come.
    pub fn next(&self) -> io::Result<Signal> {
        use std::io::Read;
        let mut reader = self.0;
        let mut byte = [0];
        loop {
            match reader.read_exact(&mut byte) {
                // By the very signal that it waits for: then the byte is there.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if let Some(signal) = Signal::from_named_raw(byte[0].into()) {
                        return Ok(signal);
                    }
                }
            }
        }
    }
}
