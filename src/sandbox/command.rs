//! The last steps, in the process that becomes the command: power is dropped, then the program takes over.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::child::{Reason, fail};
use super::limits;
use super::order::Order;
use super::privileges;
use super::seccomp::Filters;
use super::wire::{self, Reply};
use crate::sys::descriptors;
use crate::sys::process;

/// Where a program without a slash is looked for when the environment names no `PATH` (Docker's default).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a step may look at.
pub(super) struct Outset<'a> {
    pub(super) order: &'a Order,
    pub(super) filters: &'a Filters,
    /// Where only one id exists: who answers for the others.
    pub(super) recorder: Option<&'a OwnedFd>,
    /// The host's /proc.
    pub(super) proc: Option<&'a OwnedFd>,
    /// Where it is a directory like any other: the image's root.
    pub(super) root: Option<BorrowedFd<'a>>,
    /// Where it was mounted: gives a byte once the host's root is gone from below it.
    pub(super) alone: Option<&'a OwnedFd>,
}

pub(super) type Step = (&'static str, fn(&Outset<'_>) -> Result<(), Reason>);

/// In the order in which they are done.
pub(super) const STEPS: &[Step] = &[
    // A session of its own has no terminal of anybody else's to take over.
    ("start a session", |_| Ok(rustix::process::setsid().map(drop)?)),
    // What Ctrl-C, Ctrl-Z and a shell's jobs take.
    ("take its own terminal", take_terminal),
    // While /proc/self is still writable to us; the kernel shall choose the command before it chooses rbuild.
    ("offer the command to the out-of-memory killer", privileges::offer_to_oom_killer),
    // A new program expects them so; ignored ones and the mask are inherited.
    ("reset signals", |_| Ok(process::reset_signals()?)),
    ("keep abstract sockets of the host out of reach", privileges::scope_abstract_sockets),
    ("give it a keyring of its own", privileges::isolate_keyring),
    // While there is CAP_SYS_ADMIN: without it the kernel asks for no_new_privs, which breaks sudo in the image.
    ("install the system-call filter", privileges::install_filter),
    ("drop capabilities", privileges::drop_capabilities),
    // Late, so that our own steps do not run against them.
    ("limit the command", limits::limit_command),
    // Last, as the steps above need root. Also drops every capability of a user that is not root.
    ("become the user", privileges::become_user),
    // The change of ids cleared it. The shim's death ends this process anyway; this is for the moment in between.
    ("tie the command's life to the shim", privileges::die_with_parent),
    // Up to here no path was looked up. The program is one, and looks up others.
    ("wait for the host's root to be gone", wait_for_root),
    // After the last thing was opened: the program gets 0, 1 and 2 (CVE-2024-21626).
    ("close all other descriptors", |_| Ok(descriptors::close_on_exec_from(3)?)),
];

pub(super) fn take_terminal(outset: &Outset<'_>) -> Result<(), Reason> {
    match outset.order.streams.has_terminal() {
        true => Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?),
        false => Ok(()),
    }
}

fn wait_for_root(outset: &Outset<'_>) -> Result<(), Reason> {
    let alone = outset.alone.ok_or_else(|| Reason("nobody would tell".to_owned()))?;
    Ok(wire::wait_for_byte(alone)?)
}

pub(super) fn become_command(outset: &Outset<'_>, steps: &[Step], job: &OwnedFd) -> ! {
    for (name, step) in steps {
        if let Err(reason) = step(outset) {
            fail(job, name, reason);
        }
    }
    let order = outset.order;
    let error = match (c_strings(&order.args), environment(&order.env)) {
        (Ok(arguments), Ok(environment)) => execute(order, &arguments, &environment),
        (Err(error), _) | (_, Err(error)) => error,
    };
    let program = order.args.first().cloned().unwrap_or_default();
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    drop(wire::reply(job, &Reply::ProgramFailed { program, errno }, &[]));
    process::exit_now(127)
}

/// Tries the program where it can be; returns why none of them ran.
fn execute(order: &Order, arguments: &[CString], environment: &[CString]) -> io::Error {
    let Some(program) = order.args.first() else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    if program.contains('/') {
        return process::execute(&arguments[0], arguments, environment);
    }
    let path = order.env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    let mut reason = io::Error::from_raw_os_error(libc::ENOENT);
    // A relative entry would make the working directory a source of programs.
    for directory in path.split(':').filter(|directory| directory.starts_with('/')) {
        let Ok(candidate) = CString::new(format!("{directory}/{program}")) else { continue };
        let error = process::execute(&candidate, arguments, environment);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // As execvp: something is there, but another directory may have one that runs.
            Some(libc::EACCES) => reason = error,
            _ => return error,
        }
    }
    reason
}

fn c_strings(texts: &[String]) -> io::Result<Vec<CString>> {
    texts.iter().map(|text| Ok(CString::new(text.as_bytes())?)).collect()
}

fn environment(variables: &[(String, String)]) -> io::Result<Vec<CString>> {
    variables.iter().map(|(name, value)| Ok(CString::new(format!("{name}={value}"))?)).collect()
}
