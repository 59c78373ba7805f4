//! The process that runs the tool for one command, and the command's side of it.
//!
//! It is a child of the holder, in the host's network, and pid 1 of a pid namespace of its own: whatever the tool starts,
//! and however it detaches itself, ends with it. It ends with the command (the holder kills it) and with the holder (the
//! parent-death signal, which the tool's own changes of rights cannot clear here).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal};
use rustix::thread::CapabilitySet;

use super::{Connector, Tool};
use crate::sandbox::child::{Reason, SetUp, While};
use crate::sandbox::privileges;
use crate::sandbox::spec::Network;
use crate::sandbox::wire;
use crate::sys::process::{self, Forked, SingleThreaded};

const READY: &[u8] = b"ready";

/// What the tools need; they keep less themselves.
const KEPT: CapabilitySet = CapabilitySet::SETGID
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_ADMIN);

/// In the command's set-up, as early as can be: hands the network namespace over. Opened here, as later nobody else may.
pub(in crate::sandbox) fn ask(setup: &mut SetUp) -> Result<(), Reason> {
    let Some(socket) = &setup.connector else { return Ok(()) };
    let Network::Private(connector) = &setup.order.network else {
        return Err(Reason("it was not said by what".to_owned()));
    };
    let namespace = File::open("/proc/self/ns/net").doing("/proc/self/ns/net")?;
    Ok(wire::send(socket, &serde_json::to_vec(connector)?, &[namespace.as_fd()])?)
}

/// In the command's set-up, as late as can be.
pub(in crate::sandbox) fn wait(setup: &mut SetUp) -> Result<(), Reason> {
    let Some(socket) = setup.connector.take() else { return Ok(()) };
    match wire::receive(&socket)? {
        Some((message, _)) if message == READY => Ok(()),
        Some((message, _)) => Err(Reason(String::from_utf8_lossy(&message).into_owned())),
        None => Err(Reason("it ended without a word".to_owned())),
    }
}

/// The whole life of the process.
pub(in crate::sandbox) fn attach(socket: OwnedFd) -> ! {
    // If the holder is gone already, so is the command, and nobody asks.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        process::exit_now(125);
    }
    let answer = match serve(&socket) {
        Ok(true) => READY.to_vec(),
        // The command's set-up ended before it asked.
        Ok(false) => process::exit_now(0),
        Err(reason) => reason.0.into_bytes(),
    };
    // Nobody listens any more where the command was given up.
    drop(wire::send(&socket, &answer, &[]));
    drop(socket);
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    process::exit_now(0)
}

/// Starts the tool; true once it connects.
fn serve(socket: &OwnedFd) -> Result<bool, Reason> {
    let Some((message, mut passed)) = wire::receive(socket)? else { return Ok(false) };
    let connector: Connector = serde_json::from_slice(&message)?;
    let namespace = passed.pop().ok_or_else(|| Reason("the network namespace is missing".to_owned()))?;
    privileges::limit_to(KEPT)?;
    let (limited, announce) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (ready, ready_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let said = File::from(wire::memory_file(b"")?);
    match process::fork(SingleThreaded::check()?)? {
        Forked::Child => {
            drop(announce);
            if wire::wait_for_byte(limited).is_err() {
                process::exit_now(125);
            }
            let error = become_tool(&connector, &namespace, &ready_writer, &said);
            // Read by the parent, which then knows why there is no tool.
            drop((&said).write_all(error.to_string().as_bytes()));
            process::exit_now(127)
        }
        Forked::Parent { pid, .. } => {
            drop(ready_writer);
            // The tool opens the namespace through this process, which only one with all of its capabilities may (ptrace(2),
            // "Ptrace access mode checking"), and pasta has dropped most by then.
            privileges::drop_everything()?;
            rustix::io::write(&announce, b"l")?;
            let is_ready = match connector.tool {
                // It goes to the background when it is ready, and the process that was started ends well.
                Tool::Pasta => {
                    let status = rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
                    status.and_then(|(_, status)| status.exit_status()) == Some(0)
                }
                Tool::Slirp4netns => File::from(ready).read_exact(&mut [0]).is_ok(),
            };
            if is_ready { Ok(true) } else { Err(Reason(why(connector.tool, &said))) }
        }
    }
}

/// What the tool said last.
fn why(tool: Tool, said: &File) -> String {
    let text = wire::read_memory_file(said).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    format!("{}: {}", tool.name(), if last.is_empty() { "it failed without a word" } else { &last })
}

/// Returns only why it could not.
fn become_tool(connector: &Connector, namespace: &OwnedFd, ready: &OwnedFd, said: &File) -> io::Error {
    let attempt = || -> io::Result<io::Error> {
        // Ignored signals are inherited, and pasta takes that for a failure.
        process::reset_signals()?;
        rustix::stdio::dup2_stderr(said)?;
        fcntl_setfd(ready, FdFlags::empty())?;
        // Through the parent, which keeps it open: newer tools close what they inherit. By the number that /proc shows,
        // which is not the one in this pid namespace.
        let keeper = std::fs::read_to_string("/proc/self/stat")?;
        let keeper = keeper.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1));
        let keeper = keeper.ok_or_else(|| io::Error::other("the kernel does not tell the parent's id"))?;
        let path = format!("/proc/{keeper}/fd/{}", namespace.as_raw_fd());
        let arguments = connector.arguments(&path, ready.as_raw_fd());
        let arguments = arguments.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let program = CString::new(connector.program.path().as_os_str().as_bytes())?;
        Ok(process::execute(&program, &arguments, &[]))
    };
    attempt().unwrap_or_else(|error| error)
}
