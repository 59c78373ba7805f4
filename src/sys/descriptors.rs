//! File descriptors as a whole.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::checked;

/// Marks every descriptor from this number on as closed by `execve`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: no memory is passed, and no descriptor is closed under its owner: only flags change.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Has the kernel begin to write `length` bytes of a file to the disk, without waiting for them.
///
/// # Errors
/// The file system or the kernel knows no such thing, or a write failed earlier: `fsync` still says so.
pub fn begin_writing_back(file: impl AsFd, from: u64, length: u64) -> io::Result<()> {
    let number = |value: u64| libc::off64_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (file, from, length) = (file.as_fd().as_raw_fd(), number(from)?, number(length)?);
    // SAFETY: no memory is passed, and the descriptor is open for as long as it is borrowed.
    checked(unsafe { libc::sync_file_range(file, from, length, libc::SYNC_FILE_RANGE_WRITE) }.into())?;
    Ok(())
}

/// What becomes of the standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandardStreams {
    /// They stay open.
    Kept,
    /// They are closed, so that who reads what others write to them sees the end when those end.
    Closed,
}

/// Closes every descriptor but one, then goes on in `next`, from where there is no way back.
///
/// `next` is a plain function, so nothing that owned one of the closed descriptors is reachable from it.
pub fn keep_only(kept: OwnedFd, standard: StandardStreams, next: fn(OwnedFd) -> !) -> io::Result<()> {
    let number = kept.as_raw_fd();
    let least = match standard {
        StandardStreams::Kept => 3,
        StandardStreams::Closed => 0,
    };
    let ranges = [(least, number - 1), (number + 1, i32::MAX)];
    for (first, last) in ranges {
        if first <= last {
            // SAFETY: no memory is passed. Owners of these descriptors exist in frames below this one only, and
            // `next` never returns to them.
            checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
    }
    next(kept)
}
