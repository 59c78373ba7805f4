//! Seccomp's user notification, and what answering for another process takes: its memory and a mark it inherits.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::checked;
use super::privileges::{Instruction, Program};

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Notice {
    /// Names the waiting call; never used twice.
    pub id: u64,
    /// The calling thread, as this process's pid namespace names it.
    pub thread: i32,
    /// `AUDIT_ARCH_*` of the call.
    pub architecture: u32,
    /// Its number.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What a waiting call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails with this `errno`.
    Errno(i32),
}

/// Installs a filter as [`super::privileges::install_seccomp`] does; the descriptor receives the calls that it names.
pub fn install_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
    let program = Program::new(program)?;
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let install = |flags: libc::c_ulong| {
        // SAFETY: `program` and the instructions it borrows outlive the call, which copies them.
        checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
    };
    let listener = match install(flags | WAIT_KILLABLE) {
        // Before Linux 5.19 a signal interrupts a call that was carried out already: rare, and it is tried again.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(flags)?,
        result => result?,
    };
    let listener = i32::try_from(listener).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Asks for the answering process to run where the caller did: the two take turns, so moving is wasted (Linux 6.6).
pub fn answer_on_same_processor(listener: BorrowedFd<'_>) -> io::Result<()> {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    let request = libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS;
    // SAFETY: this request takes a number, no memory.
    checked(unsafe { libc::ioctl(listener.as_raw_fd(), request, SYNC_WAKE_UP) }.into())?;
    Ok(())
}

/// Takes the next waiting call; `None` if it was given up meanwhile.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Notice>> {
    // A kernel may know longer forms than this program: it says so in `GET_NOTIF_SIZES`, but fills only what it was
    // given since the first version, whose size the request's number holds.
    // SAFETY: `seccomp_notif` is a plain C structure; the kernel asks for zeroes.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one `seccomp_notif`, which lives until the call returns.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) };
    match checked(result.into()) {
        Err(error) if [Some(libc::ENOENT), Some(libc::EINTR)].contains(&error.raw_os_error()) => return Ok(None),
        result => result?,
    };
    Ok(Some(Notice {
        id: notice.id,
        thread: i32::try_from(notice.pid).map_err(io::Error::other)?,
        architecture: notice.data.arch,
        number: u32::try_from(notice.data.nr).map_err(io::Error::other)?,
        arguments: notice.data.args,
    }))
}

/// Whether a call still waits: only then does the thread's id mean the thread that made it.
pub fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads one `u64`, which lives until the call returns.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Answers a call. One that was given up meanwhile is no error.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    const CONTINUE: u32 = 1;
    let (val, error, flags) = match answer {
        Answer::Continue => (0, 0, CONTINUE),
        Answer::Value(value) => (value, 0, 0),
        Answer::Errno(number) => (0, -number, 0),
    };
    let response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: the request reads one `seccomp_notif_resp`, which lives until the call returns.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
    match checked(sent.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

/// Answers a call with a descriptor: a copy of this one, which becomes the caller's. `flags` are `O_CLOEXEC` or none.
pub fn answer_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    descriptor: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SEND).map_err(io::Error::other)?,
        srcfd: descriptor.as_raw_fd().unsigned_abs(),
        newfd: 0,
        newfd_flags: flags,
    };
    // SAFETY: the request reads one `seccomp_notif_addfd`, which lives until the call returns.
    checked(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) }.into())?;
    Ok(())
}

/// Reads another process's memory; how much there was.
pub fn read_memory(thread: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let here = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let there = remote(address, buffer.len())?;
    // SAFETY: `here` is our own writable buffer; an address of the other process that is wrong is an error.
    let count = unsafe { libc::process_vm_readv(thread, &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Writes to another process's memory, all or nothing that counts.
pub fn write_memory(thread: i32, address: u64, content: &[u8]) -> io::Result<()> {
    let here = libc::iovec { iov_base: content.as_ptr().cast_mut().cast(), iov_len: content.len() };
    let there = remote(address, content.len())?;
    // SAFETY: `here` is only read; an address of the other process that is wrong is an error.
    let count = unsafe { libc::process_vm_writev(thread, &raw const here, 1, &raw const there, 1, 0) };
    match usize::try_from(count) {
        Ok(count) if count == content.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn remote(address: u64, length: usize) -> io::Result<libc::iovec> {
    let address = usize::try_from(address).map_err(io::Error::other)?;
    Ok(libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: length })
}

/// The soft limit of file locks of a process, which the kernel inherits over `fork` and `execve` and uses for nothing
/// (getrlimit(2), RLIMIT_LOCKS): room for a mark that another process can put there.
pub fn mark(thread: i32) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit is given, and the old one is written to `limit`, which outlives the call.
    checked(unsafe { libc::prlimit(thread, libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut limit) }.into())?;
    Ok(limit.rlim_cur)
}

/// Sets what [`mark`] reads.
pub fn set_mark(thread: i32, mark: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: mark, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is read, and the old one is not asked for.
    checked(unsafe { libc::prlimit(thread, libc::RLIMIT_LOCKS, &raw const limit, std::ptr::null_mut()) }.into())?;
    Ok(())
}

/// The bytes of `struct stat`, as the kernel writes it, of an open file, with another owner.
pub fn stat_with_owner(file: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<Vec<u8>> {
    // SAFETY: `stat` is a plain C structure for which all zeroes is a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `fstat` writes one `stat`, which outlives the call; both C libraries of Linux use the kernel's layout here.
    checked(unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) }.into())?;
    (stat.st_uid, stat.st_gid) = (uid, gid);
    Ok(bytes_of(&stat))
}

/// The bytes of `struct statx` of an open file, with another owner.
pub fn statx_with_owner(file: BorrowedFd<'_>, flags: i32, mask: u32, uid: u32, gid: u32) -> io::Result<Vec<u8>> {
    // SAFETY: `statx` is a plain C structure for which all zeroes is a valid value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = flags | libc::AT_EMPTY_PATH;
    // SAFETY: the path is a constant C string; the kernel writes one `statx`, which outlives the call.
    checked(unsafe { libc::syscall(libc::SYS_statx, file.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut stat) })?;
    (stat.stx_uid, stat.stx_gid) = (uid, gid);
    Ok(bytes_of(&stat))
}

/// The bytes of a structure that was zeroed before the kernel filled it, so that padding is initialised too.
fn bytes_of<T>(structure: &T) -> Vec<u8> {
    // SAFETY: the callers' structures are plain data that was zeroed as a whole: every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(structure).cast::<u8>(), size_of::<T>()) }.to_vec()
}
