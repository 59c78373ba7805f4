//! Processes: fork into namespaces, exec, exit.

use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::checked;

/// Proof that the process has one thread, so that a forked child may do anything (no lock can be held by a thread that
/// the child does not have). Stays with its thread, and its holder starts no others.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Checks with the kernel that this process has one thread only.
    pub fn check() -> io::Result<SingleThreaded> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!("the process has {threads} threads")));
        }
        Ok(SingleThreaded(PhantomData))
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The process that forked, with the child's id and a descriptor for it.
    Parent {
        /// The child's id in the parent's pid namespace.
        pid: Pid,
        /// Refers to the child, whatever becomes of its id.
        child: OwnedFd,
    },
    /// The new process.
    Child,
}

/// Namespaces that a child starts in instead of sharing its parent's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Namespaces(u64);

impl Namespaces {
    /// User, mount, pid, ipc, uts and cgroup: everything a command gets of its own but the network.
    pub const ALL_BUT_NETWORK: Namespaces = Namespaces(
        (libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP) as u64,
    );

    /// The same and a network of its own.
    pub const ALL: Namespaces = Namespaces(Namespaces::ALL_BUT_NETWORK.0 | libc::CLONE_NEWNET as u64);

    /// Pid alone: what is started within ends with the first process.
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID as u64);
}

/// Forks into new namespaces. The child must not start threads: its C library does not know that it is a new process.
pub fn fork_into(namespaces: Namespaces, _proof: SingleThreaded) -> io::Result<Forked> {
    let mut child_fd: libc::c_int = -1;
    // SAFETY: `clone_args` is a plain C structure for which all zeroes is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces.0 | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut child_fd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is a fork: the child goes on with a copy of this one-threaded process on a copy
    // of the same stack. The kernel writes the descriptor to `child_fd`, which outlives the call.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel made this descriptor for us (CLONE_PIDFD); nothing else owns it.
    let child = unsafe { OwnedFd::from_raw_fd(child_fd) };
    Ok(Forked::Parent { pid: pid_from(pid)?, child })
}

/// Forks within the same namespaces. The child may start threads.
pub fn fork(_proof: SingleThreaded) -> io::Result<Forked> {
    // SAFETY: the process has one thread, so the child is as able as this one.
    let pid = checked(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    let pid = pid_from(pid)?;
    // The child is ours and not yet waited for, so its id cannot have been given to another process.
    let child = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    Ok(Forked::Parent { pid, child })
}

fn pid_from(raw: libc::c_long) -> io::Result<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("the kernel gave no process id"))
}

/// Moves this process into a new user and a new mount namespace.
pub fn enter_user_and_mount_namespace(_proof: SingleThreaded) -> io::Result<()> {
    // SAFETY: neither flag touches the descriptor table, which is what makes unshare dangerous to Rust code.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
    Ok(())
}

/// Moves this process into a new cgroup namespace: the group that it is in becomes the root that it sees.
pub fn enter_cgroup_namespace(_proof: SingleThreaded) -> io::Result<()> {
    // SAFETY: the flag does not touch the descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }?;
    Ok(())
}

/// Replaces this process by a program; returns only the reason why that failed.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and point to C strings that are borrowed for the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once: no destructors, no exit handlers (they belong to the process it was forked from).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; takes no memory.
    unsafe { libc::_exit(code) }
}

/// Gives every signal its default action and lets all of them through, as a new program expects.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: the default action is no handler of ours. KILL, STOP and the C library's own signals answer EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `sigset_t` is a plain C structure; sigemptyset fills it before it is read.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is live and writable.
    checked(unsafe { libc::sigemptyset(&raw mut none) }.into())?;
    // SAFETY: `none` is initialised, and the old mask is not asked for.
    checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) }.into())?;
    Ok(())
}
