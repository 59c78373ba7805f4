//! The only unsafe code: system calls that neither the standard library nor `rustix` offers safely.
//!
//! Each function does one call (or one call's worth of bookkeeping) and turns the answer into an [`std::io::Result`].
//! What the calls are for, and in which order, is the callers' business (`sandbox`).

pub mod descriptors;
pub mod memory;
pub mod mount;
pub mod network;
pub mod notify;
pub mod privileges;
pub mod process;
pub mod signal;

use std::io;

/// The result of a raw system call: minus one means that `errno` has the reason.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
