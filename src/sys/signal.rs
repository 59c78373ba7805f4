//! Signals as something that a thread waits for.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// The pipe that the handler writes to; -1 before there is one.
static WAKE: AtomicI32 = AtomicI32::new(-1);
static PIPE: OnceLock<(io::PipeReader, io::PipeWriter)> = OnceLock::new();

/// SIGINT, SIGTERM and SIGHUP, caught.
///
/// Handlers rather than a blocked mask: a mask would be inherited by every process that is started, and a command that
/// runs with SIGINT blocked cannot be interrupted.
#[derive(Debug)]
pub struct Signals(&'static io::PipeReader);

extern "C" fn wake(_signal: libc::c_int) {
    let fd = WAKE.load(Ordering::Relaxed);
    // SAFETY: write is async-signal-safe (signal-safety(7)); the descriptor is never closed once it is stored.
    unsafe { libc::write(fd, [0u8].as_ptr().cast(), 1) };
}

impl Signals {
    /// Catches them from now on.
    pub fn catch() -> io::Result<Signals> {
        use std::os::fd::AsRawFd;
        let pipe = io::pipe()?;
        let (reader, writer) = PIPE.get_or_init(|| pipe);
        WAKE.store(writer.as_raw_fd(), Ordering::Relaxed);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: a zeroed sigaction is valid (no flags, empty mask); the handler does async-signal-safe things only.
            let result = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = wake as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &action, std::ptr::null_mut())
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Signals(reader))
    }

    /// Waits for the first of them.
    pub fn wait(&self) {
        use std::io::Read;
        let mut reader = self.0;
        let mut byte = [0];
        // Interrupted by the very signal that it waits for: then the byte is there.
        while matches!(reader.read(&mut byte), Err(error) if error.kind() == io::ErrorKind::Interrupted) {}
    }
}
