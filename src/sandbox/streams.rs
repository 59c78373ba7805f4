//! A command's standard streams, both ends of them: what the command has as 0, 1 and 2, and what is done with it here.
//!
//! There are two kinds. *Pipes*: each stream is apart, and nothing of the caller's own is handed in, as a descriptor of
//! the host's terminal could be typed into (CVE-2017-5226) and one of a file be cut. A *terminal*: a pseudo-terminal of
//! the command's own `/dev/pts`, so that `tty` has an answer, whose other side comes out to main over the job socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::PollFlags;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};

use super::child::{Reason, SetUp, While};
use super::spec::Stream;
use super::wire::{self, Reply};

/// What a command reads from and writes to.
pub struct Streams<'a> {
    /// What they are for the command.
    pub kind: StreamKind,
    /// What is read from here is what the command reads; without it the command finds nothing to read.
    pub input: Option<BorrowedFd<'a>>,
    /// Is called with what the command writes, as it comes, on the thread that runs it. A terminal has one output.
    pub output: &'a (dyn Fn(Stream, &[u8]) + Sync),
    /// Reaches the command while it runs.
    pub foreground: Foreground,
}

impl<'a> Streams<'a> {
    /// What a RUN has: nothing to read, and outputs that are looked at.
    pub fn captured(output: &'a (dyn Fn(Stream, &[u8]) + Sync)) -> Streams<'a> {
        Streams { kind: StreamKind::Pipes, input: None, output, foreground: Foreground::default() }
    }
}

/// What the three streams are for the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Pipes.
    Pipes,
    /// A terminal of this size, which is the command's controlling one.
    Terminal(TerminalSize),
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for TerminalSize {
    /// What terminals had before they had windows.
    fn default() -> TerminalSize {
        TerminalSize { columns: 80, rows: 24 }
    }
}

impl TerminalSize {
    /// The size of a terminal of the caller's.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn of(terminal: impl AsFd) -> io::Result<TerminalSize> {
        let size = rustix::termios::tcgetwinsize(terminal)?;
        Ok(TerminalSize { columns: size.ws_col, rows: size.ws_row })
    }

    fn set(self, terminal: impl AsFd) -> io::Result<()> {
        let size = Winsize { ws_col: self.columns, ws_row: self.rows, ws_xpixel: 0, ws_ypixel: 0 };
        // The kernel tells the terminal's foreground processes (SIGWINCH) where it is a new one.
        Ok(tcsetwinsize(terminal, size)?)
    }
}

/// Reaches a command from any thread while it runs. Clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Foreground(Arc<Mutex<Reached>>);

#[derive(Debug, Default)]
struct Reached {
    command: Option<OwnedFd>,
    terminal: Option<Arc<OwnedFd>>,
    unread: Vec<Stream>,
}

impl Foreground {
    /// Sends the command a signal; says whether there is one.
    pub fn signal(&self, signal: Signal) -> bool {
        // Where it cannot be sent the command has ended: whoever wants more than to ask it cancels the run.
        self.lock().command.as_ref().is_some_and(|command| pidfd_send_signal(command, signal).is_ok())
    }

    /// Gives the command's terminal a new size, if it has one.
    pub fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.lock().terminal {
            // A terminal that hung up meanwhile has no size.
            size.set(terminal).unwrap_or(());
        }
    }

    /// Nobody wants a stream any more: whoever writes to it is told, as by any pipe (`SIGPIPE`). A terminal has no such end.
    pub fn nobody_reads(&self, stream: Stream) {
        self.lock().unread.push(stream);
    }

    pub(super) fn command_runs(&self, command: OwnedFd) {
        self.lock().command = Some(command);
    }

    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the child is told of its streams. Descriptors come first among those of the request.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum OrderedStreams {
    /// Two descriptors: standard output and standard error.
    Outputs,
    /// Three.
    Pipes,
    /// None: the child makes a terminal.
    Terminal(TerminalSize),
}

impl OrderedStreams {
    fn descriptors(self) -> usize {
        match self {
            OrderedStreams::Outputs => 2,
            OrderedStreams::Pipes => 3,
            OrderedStreams::Terminal(_) => 0,
        }
    }

    pub(super) fn has_terminal(self) -> bool {
        matches!(self, OrderedStreams::Terminal(_))
    }
}

/// Main's ends.
pub(super) struct Ends<'a> {
    streams: &'a Streams<'a>,
    /// What the command writes, until its end.
    outputs: Vec<(Stream, Arc<OwnedFd>)>,
    input: Option<Input<'a>>,
    buffer: Vec<u8>,
}

/// What a pipe holds at most, unless somebody made it larger.
const PIPE_SIZE: usize = 64 * 1024;

/// What is to be sent to the child.
pub(super) struct Sent {
    pub(super) order: OrderedStreams,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Sent {
    /// Gives the pipes to container root.
    pub(super) fn give_to(&self, (uid, gid): (u32, u32)) -> io::Result<()> {
        let give = |end: &OwnedFd| rustix::fs::fchown(end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(self.descriptors.iter().try_for_each(give)?)
    }
}

impl<'a> Ends<'a> {
    /// Makes both ends.
    pub(super) fn open(streams: &'a Streams<'a>) -> io::Result<(Ends<'a>, Sent)> {
        let mut ends = Ends { streams, outputs: Vec::new(), input: None, buffer: vec![0; PIPE_SIZE] };
        if let StreamKind::Terminal(size) = streams.kind {
            ends.input = streams.input.map(|from| Input::new(from, None));
            return Ok((ends, Sent { order: OrderedStreams::Terminal(size), descriptors: Vec::new() }));
        }
        let mut descriptors = Vec::new();
        let mut order = OrderedStreams::Outputs;
        if let Some(from) = streams.input {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            do_not_block(&ours)?;
            ends.input = Some(Input::new(from, Some(Arc::new(ours))));
            descriptors.push(theirs);
            order = OrderedStreams::Pipes;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            ends.outputs.push((stream, Arc::new(ours)));
            descriptors.push(theirs);
        }
        Ok((ends, Sent { order, descriptors }))
    }

    /// The command's terminal has come.
    pub(super) fn terminal_came(&mut self, terminal: OwnedFd) -> io::Result<()> {
        do_not_block(&terminal)?;
        let terminal = Arc::new(terminal);
        self.streams.foreground.lock().terminal = Some(Arc::clone(&terminal));
        if let Some(input) = &mut self.input {
            input.to = Some(Arc::clone(&terminal));
        }
        self.outputs.push((Stream::Stdout, terminal));
        Ok(())
    }

    /// The command's process has come.
    pub(super) fn command_came(&self, command: OwnedFd) {
        self.streams.foreground.command_runs(command);
    }

    /// Whether the command, or what it started, may still write.
    pub(super) fn are_open(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// The command is gone: nobody reads any more.
    pub(super) fn stop_input(&mut self) {
        self.input = None;
    }

    /// What to wait for: outputs in order, then the input, if there is one now.
    pub(super) fn awaited(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let outputs = self.outputs.iter().map(|(_, output)| (output.as_fd(), PollFlags::IN));
        outputs.chain(self.input.as_ref().and_then(Input::awaited)).collect()
    }

    /// Passes on what can be passed on; `ready` answers [`Ends::awaited`].
    pub(super) fn serve(&mut self, ready: &[bool]) -> io::Result<()> {
        let mut kept = Vec::with_capacity(self.outputs.len());
        let count = self.outputs.len();
        for ((stream, output), is_ready) in std::mem::take(&mut self.outputs).into_iter().zip(ready) {
            if *is_ready {
                match self.pass_on(stream, &output) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => return Err(error),
                }
            }
            kept.push((stream, output));
        }
        self.outputs = kept;
        let is_input_ready = ready.get(count).copied().unwrap_or(false);
        if is_input_ready && self.input.as_mut().is_some_and(|input| !input.pass_on(&mut self.buffer)) {
            self.input = None;
        }
        Ok(())
    }

    /// Hands on one portion; false at the end.
    fn pass_on(&mut self, stream: Stream, output: &OwnedFd) -> io::Result<bool> {
        match rustix::io::retry_on_intr(|| rustix::io::read(output, &mut *self.buffer)) {
            Ok(0) => Ok(false),
            Ok(length) => {
                (self.streams.output)(stream, &self.buffer[..length]);
                let is_unread = self.streams.foreground.lock().unread.contains(&stream);
                Ok(!is_unread || self.streams.kind != StreamKind::Pipes)
            }
            Err(rustix::io::Errno::AGAIN) => Ok(true),
            // What a terminal says when nobody has its other side open any more.
            Err(rustix::io::Errno::IO) if self.streams.kind != StreamKind::Pipes => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        // What comes later has nobody to reach, least of all whoever gets the same process number.
        *self.streams.foreground.lock() = Reached::default();
    }
}

/// What goes in: read only when the command has taken what came before, so that a fast source fills no memory.
struct Input<'a> {
    from: BorrowedFd<'a>,
    /// Does not block: a command that reads nothing must not keep its output from being read.
    to: Option<Arc<OwnedFd>>,
    pending: Vec<u8>,
}

impl<'a> Input<'a> {
    fn new(from: BorrowedFd<'a>, to: Option<Arc<OwnedFd>>) -> Input<'a> {
        Input { from, to, pending: Vec::new() }
    }

    fn awaited(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let to = self.to.as_ref()?;
        Some(if self.pending.is_empty() { (self.from, PollFlags::IN) } else { (to.as_fd(), PollFlags::OUT) })
    }

    /// Reads or writes a portion; false at the end.
    fn pass_on(&mut self, buffer: &mut [u8]) -> bool {
        let Some(to) = &self.to else { return true };
        if self.pending.is_empty() {
            match rustix::io::read(self.from, &mut *buffer) {
                Ok(0) => return false,
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                // A terminal that is gone: the signal that says so ends more than the input.
                Err(_) => return false,
            }
        }
        match rustix::io::write(to, &self.pending) {
            Ok(length) => {
                self.pending.drain(..length);
                true
            }
            Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }
}

/// Nobody else has the open file of this end, so nobody else finds it changed.
fn do_not_block(descriptor: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    Ok(rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)?)
}

/// The child's ends.
pub(super) enum ChildEnds {
    Pipes { input: Option<OwnedFd>, outputs: [OwnedFd; 2] },
    Terminal(TerminalSize),
}

impl ChildEnds {
    /// Takes what belongs to the streams from the front of what main passed.
    pub(super) fn take(order: OrderedStreams, passed: &mut Vec<OwnedFd>) -> Result<ChildEnds, Reason> {
        if let OrderedStreams::Terminal(size) = order {
            return Ok(ChildEnds::Terminal(size));
        }
        let rest = passed.split_off(order.descriptors().min(passed.len()));
        let mut ends = std::mem::replace(passed, rest);
        let outputs = ends.split_off(ends.len().saturating_sub(2));
        let outputs = <[OwnedFd; 2]>::try_from(outputs).map_err(|_| Reason("the outputs are missing".to_owned()))?;
        Ok(ChildEnds::Pipes { input: ends.pop(), outputs })
    }
}

/// Makes the streams 0, 1 and 2 of this process.
pub(super) fn connect(setup: &mut SetUp) -> Result<(), Reason> {
    let (input, outputs) = match &setup.streams {
        ChildEnds::Pipes { input, outputs: [stdout, stderr] } => (input.as_ref(), [stdout.as_fd(), stderr.as_fd()]),
        ChildEnds::Terminal(size) => {
            let terminal = open_terminal(setup, *size)?;
            rustix::stdio::dup2_stdin(&terminal)?;
            rustix::stdio::dup2_stdout(&terminal)?;
            return Ok(rustix::stdio::dup2_stderr(&terminal)?);
        }
    };
    if setup.recorder.is_none() {
        for pipe in outputs.into_iter().chain(input.map(AsFd::as_fd)) {
            give_to_user(pipe, setup)?;
        }
    }
    match input {
        Some(input) => rustix::stdio::dup2_stdin(input)?,
        None => {
            // /dev of this root is ours, and its null was checked to be the null device.
            let null = setup.root()?.open_at(b"dev/null", OFlags::RDONLY, Mode::empty()).doing("/dev/null")?;
            rustix::stdio::dup2_stdin(&null)?;
        }
    }
    rustix::stdio::dup2_stdout(outputs[0])?;
    Ok(rustix::stdio::dup2_stderr(outputs[1])?)
}

/// Lets the command's user open a stream by its name (`/dev/stdout`). The group stays: that of a terminal is `tty`.
fn give_to_user(stream: BorrowedFd<'_>, setup: &SetUp) -> Result<(), Reason> {
    let uid = setup.order.user.uid;
    // No number of a user, and below no id of this sandbox: becoming that user will say so.
    if uid == u32::MAX {
        return Ok(());
    }
    match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None) {
        Err(rustix::io::Errno::INVAL) => Ok(()),
        result => result.doing("give the standard streams to the user"),
    }
}

/// A terminal of this root's own devpts, its other side being sent to main.
fn open_terminal(setup: &SetUp, size: TerminalSize) -> Result<OwnedFd, Reason> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = setup.root()?.open_without_links(b"dev/pts/ptmx", flags, Mode::empty()).doing("/dev/pts/ptmx")?;
    rustix::pty::unlockpt(&master).doing("unlock the terminal")?;
    // By descriptor: which number it has in which /dev/pts makes no difference.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags).doing("open the terminal")?;
    size.set(&master).doing("set the terminal's size")?;
    if setup.recorder.is_none() {
        give_to_user(terminal.as_fd(), setup)?;
    }
    wire::reply(&setup.job, &Reply::Terminal, &[master.as_fd()])?;
    Ok(terminal)
}
