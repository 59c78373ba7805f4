//! How main, the holder and its children talk.
//!
//! *Control socket* (main to holder): one message per job, a [`Job`] byte with the holder's end of the job's own socket.
//! *Job socket*: main first puts the request there (a count, then descriptors in portions, the first one a memory file
//! with the request's bytes), which the child that does the job takes from it; then come [`Reply`]s, from the child and,
//! as the last one, from the holder. Both are `SOCK_SEQPACKET`, so a message is whole and senders need no lock.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use super::spec::Status;
use super::trial::Trial;

/// What the holder is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Job {
    /// A command on the host's network.
    RunOnHostNetwork = b'h',
    /// A command with a network of its own.
    RunOnOwnNetwork = b'o',
    /// No command: what would fail in one's set-up is tried.
    Probe = b't',
    /// A command with a network of its own that leads out.
    RunOnPrivateNetwork = b'p',
    /// A registered worker.
    Worker = b'w',
}

impl Job {
    pub(super) fn from_byte(byte: u8) -> Option<Job> {
        let all = [Job::RunOnHostNetwork, Job::RunOnOwnNetwork, Job::RunOnPrivateNetwork, Job::Probe, Job::Worker];
        all.into_iter().find(|job| *job as u8 == byte)
    }
}

/// What comes back on a job socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Reply {
    /// From the holder, with a descriptor of the child.
    Started,
    /// From a worker: it succeeded.
    Done,
    /// From a worker: its error.
    WorkerFailed(String),
    /// From a command's set-up, with the other side of its terminal.
    Terminal,
    /// From the shim, with a descriptor of the command's own process.
    Running,
    /// From a command's set-up: its root is a copy, and perhaps why that is so.
    Copied(Option<String>),
    /// From a probe: why what is needed for a command's mounts and records cannot be had.
    Probed(Vec<(Trial, Option<String>)>),
    /// From a command's set-up.
    SetUpFailed { step: String, reason: String },
    /// From the command's process: its program cannot be executed.
    ProgramFailed { program: String, errno: i32 },
    /// From the shim: how the command ended.
    Exited(Status),
    /// From the shim, after that: nothing of the command is left but the shim itself, which has nothing to do any more but
    /// to end. With it end the mounts, which takes the kernel as long as many a command.
    Alone,
    /// From the recorder of owners: what it knows is written down.
    Recorded,
    /// From the holder, always last: the child is gone, and all its processes with it.
    Gone(Status),
}

/// Messages between main and holder while the holder starts.
pub(super) const NAMESPACES_ENTERED: u8 = b'n';
pub(super) const IDS_MAPPED: u8 = b'm';
pub(super) const READY: u8 = b'r';
pub(super) const START_FAILED: u8 = b'f';

/// Longest message: below the default send buffer of a unix socket, and little to clear for each that is received.
const MAX_MESSAGE: usize = 16 * 1024;
/// Descriptors per message: the kernel's limit is 253 (`SCM_MAX_FD`).
const MAX_DESCRIPTORS: usize = 128;

/// A connected pair of sockets that keep messages whole.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with its descriptors. A peer that is gone is an error, not a signal.
pub(super) fn send(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in one message"));
    }
    let body = [IoSlice::new(message)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &body, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message; `None` when the other side has closed.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut body = [IoSliceMut::new(&mut buffer)];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut body, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let length = received.bytes;
    if length == 0 {
        return Ok(None);
    }
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    buffer.truncate(length);
    Ok(Some((buffer, descriptors)))
}

/// Puts a request on a job socket for the child to come.
pub(super) fn send_request(socket: impl AsFd, request: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let memory = memory_file(request)?;
    let all: Vec<BorrowedFd<'_>> = std::iter::once(memory.as_fd()).chain(descriptors.iter().copied()).collect();
    let count = u32::try_from(all.len()).map_err(io::Error::other)?;
    for portion in all.chunks(MAX_DESCRIPTORS) {
        send(&socket, &count.to_le_bytes(), portion)?;
    }
    Ok(())
}

/// Takes the request from a job socket.
pub(super) fn receive_request(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut descriptors = Vec::new();
    loop {
        let (count, portion) = receive(&socket)?.ok_or_else(closed)?;
        let count = <[u8; 4]>::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if portion.is_empty() {
            // The descriptor limit of this process was reached: the kernel drops what does not fit.
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        descriptors.extend(portion);
        if descriptors.len() >= u32::from_le_bytes(count) as usize {
            break;
        }
    }
    let memory = File::from(descriptors.remove(0));
    Ok((read_memory_file(&memory)?, descriptors))
}

/// A file in memory with this content.
pub(super) fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create(c"rbuild", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(file.into())
}

/// The whole content of a memory file, wherever its (shared) offset is.
pub(super) fn read_memory_file(file: &File) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

/// Sends a reply. Texts that are too long for a message lose their end.
pub(super) fn reply(socket: impl AsFd, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let message = serde_json::to_vec(reply)?;
    if message.len() <= MAX_MESSAGE {
        return send(socket, &message, descriptors);
    }
    let shorter = match reply.clone() {
        Reply::WorkerFailed(text) => Reply::WorkerFailed(shorten(text)),
        Reply::SetUpFailed { step, reason } => Reply::SetUpFailed { step, reason: shorten(reason) },
        Reply::ProgramFailed { program, errno } => Reply::ProgramFailed { program: shorten(program), errno },
        other => other,
    };
    send(socket, &serde_json::to_vec(&shorter)?, descriptors)
}

/// JSON writes a character in six bytes at worst.
fn shorten(mut text: String) -> String {
    let mut end = text.len().min(MAX_MESSAGE / 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Whether something can be received without waiting, be it the end; of a process's descriptor, whether it has ended.
pub(super) fn has_news(source: impl AsFd) -> Result<bool, Errno> {
    let mut polled = [PollFd::new(&source, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut polled, Some(&Timespec::default())))? > 0)
}

/// Receives a reply; `None` when nobody is left to send one.
pub(super) fn receive_reply(socket: impl AsFd) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
    let received = match receive(&socket) {
        // A child died with part of the request unread. The kernel says so once, and then gives what was said before.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(&socket),
        received => received,
    };
    match received? {
        Some((message, descriptors)) => Ok(Some((serde_json::from_slice(&message)?, descriptors))),
        None => Ok(None),
    }
}

/// Waits for one byte; the pipe's end (its writer died) is an error.
pub(super) fn wait_for_byte(pipe: impl AsFd) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::io::read(&pipe, &mut [0]))? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_many_descriptors_arrives_whole() {
        let (ours, theirs) = socket_pair().unwrap();
        let request = vec![7; 3 << 20];
        let file = memory_file(b"x").unwrap();
        let many = vec![file.as_fd(); 300];
        send_request(&ours, &request, &many).unwrap();
        let (received, descriptors) = receive_request(&theirs).unwrap();
        assert!(received == request);
        assert_eq!(descriptors.len(), 300);
        assert_eq!(read_memory_file(&File::from(descriptors.into_iter().next_back().unwrap())).unwrap(), b"x");
    }

    #[test]
    fn what_was_said_is_heard_though_a_request_was_not_read() {
        let (ours, theirs) = socket_pair().unwrap();
        send_request(&ours, b"never read", &[]).unwrap();
        reply(&theirs, &Reply::Gone(Status::Signal(9)), &[]).unwrap();
        drop(theirs);
        assert!(matches!(receive_reply(&ours).unwrap(), Some((Reply::Gone(Status::Signal(9)), _))));
        assert!(receive_reply(&ours).unwrap().is_none());
    }

    #[test]
    fn a_reply_of_any_length_arrives_shortened_at_worst() {
        let (ours, theirs) = socket_pair().unwrap();
        reply(&ours, &Reply::WorkerFailed("\u{1}é".repeat(1 << 20)), &[]).unwrap();
        let Some((Reply::WorkerFailed(text), _)) = receive_reply(&theirs).unwrap() else { panic!("another reply") };
        assert!(text.starts_with("\u{1}é") && text.len() > 1000);
        drop(ours);
        assert!(receive_reply(&theirs).unwrap().is_none());
    }
}
