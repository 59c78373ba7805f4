//! What takes power away from the calling thread: seccomp, Landlock, the bounding set, keyrings.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::checked;

/// One instruction of a seccomp filter (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// A filter as the kernel takes it (`struct sock_fprog`).
#[repr(C)]
pub(super) struct Program<'a> {
    length: libc::c_ushort,
    instructions: *const Instruction,
    borrowed: std::marker::PhantomData<&'a [Instruction]>,
}

impl Program<'_> {
    pub(super) fn new(instructions: &[Instruction]) -> io::Result<Program<'_>> {
        let length = libc::c_ushort::try_from(instructions.len()).map_err(io::Error::other)?;
        Ok(Program { length, instructions: instructions.as_ptr(), borrowed: std::marker::PhantomData })
    }
}

/// Installs a seccomp filter on the calling thread, which needs `CAP_SYS_ADMIN` in its user namespace
/// (`no_new_privs` is not set: `sudo` in an image must go on working).
pub fn install_seccomp(program: &[Instruction]) -> io::Result<()> {
    let program = Program::new(program)?;
    // The command may speculate: the mitigation costs much and Docker does not switch it on either.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: `program` and the instructions it points to (laid out as `sock_filter`) outlive the call, which copies.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })?;
    Ok(())
}

#[repr(C)]
struct LandlockRules {
    file_access: u64,
    network_access: u64,
    scoped: u64,
}

/// The Landlock version that the kernel speaks; an error where it has none.
pub fn landlock_version() -> io::Result<libc::c_long> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes no rules: a null pointer of size zero is what it asks for.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<LandlockRules>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    checked(version)
}

/// Keeps the calling thread from connecting to abstract unix sockets that were made outside (Landlock version 6).
pub fn landlock_scope_abstract_sockets() -> io::Result<()> {
    const LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
    let rules = LandlockRules { file_access: 0, network_access: 0, scoped: LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET };
    // SAFETY: `rules` is a live `landlock_ruleset_attr` and its size is passed.
    let ruleset = checked(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rules, size_of::<LandlockRules>(), 0_u32)
    })?;
    let ruleset = i32::try_from(ruleset).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: no memory is passed.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) })?;
    Ok(())
}

/// Removes every capability but these (a bit mask) from the bounding set, also those that this program does not know.
pub fn limit_bounding_set(kept: u64) -> io::Result<()> {
    for capability in 0..64_u32 {
        if kept & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: no memory is passed.
        match checked(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }.into()) {
            // The kernel has no capability of this number: the ones above it do not exist either.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        };
    }
    Ok(())
}

/// Gives the calling process a new, empty session keyring, so that the caller's keys are out of reach.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) })?;
    Ok(())
}
