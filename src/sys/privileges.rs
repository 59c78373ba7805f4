//! What takes power away from the calling thread: seccomp, Landlock, the bounding set, keyrings.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
    restrict(&create_ruleset(&rules)?)
}

/// Keeps the calling thread, which must have `no_new_privs`, from every file that is not beneath a directory, as far as
/// this kernel's Landlock goes: from version 6 on also from signals to processes and abstract unix sockets outside.
pub fn landlock_beneath(directory: BorrowedFd<'_>) -> io::Result<()> {
    const LANDLOCK_RULE_PATH_BENEATH: libc::c_int = 1;
    const ABSTRACT_SOCKETS_AND_SIGNALS: u64 = 3;
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    let version = landlock_version()?;
    // Each version knows more kinds of access: links across directories, truncation, ioctl on devices.
    let kinds = match version {
        ..=1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let scoped = if version >= 6 { ABSTRACT_SOCKETS_AND_SIGNALS } else { 0 };
    let rules = LandlockRules { file_access: (1 << kinds) - 1, network_access: 0, scoped };
    let ruleset = create_ruleset(&rules)?;
    let beneath = PathBeneath { allowed_access: rules.file_access, parent_fd: directory.as_raw_fd() };
    // SAFETY: `beneath` is a live `landlock_path_beneath_attr`, laid out as the kernel has it (packed).
    checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const beneath,
            0_u32,
        )
    })?;
    restrict(&ruleset)
}

fn create_ruleset(rules: &LandlockRules) -> io::Result<OwnedFd> {
    // SAFETY: `rules` is a live `landlock_ruleset_attr` and its size is passed; older kernels want what they do not know
    // to be zero.
    let ruleset = checked(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::from_ref(rules), size_of::<LandlockRules>(), 0_u32)
    })?;
    let ruleset = i32::try_from(ruleset).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(ruleset) })
}

fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
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
