//! How freed memory goes back to the system.

/// Vectors from this size on get memory of their own from the system: larger than all that is allocated again and again
/// (buffers, pieces that are compressed), smaller than the lists of what is in a large context or layer.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 2 << 20;

/// Has large blocks returned to the system as soon as they are freed, and moved, not copied, where they grow.
///
/// glibc raises the size from which it does so to that of the largest block that was freed so far (up to 32 MiB): of the
/// lists of 100,000 files, which are freed early, 10 to 20 MiB would stay in use until the process ends.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call sets a number inside of malloc, under malloc's own lock.
    let is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    // Nothing but memory depends on it.
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(is_set, 1, "malloc refuses its own option");
}
