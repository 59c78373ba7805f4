//! Follows a command from outside: its output, its end, and whether memory ran out meanwhile.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};

use super::cancel::Cancel;
use super::entry::Entry;
use super::error::SandboxError;
use super::spec::{Exit, Status, Stream};
use super::wire::{self, Reply};

/// What a pipe holds at most, unless somebody made it larger.
const PIPE_SIZE: usize = 64 * 1024;

/// Hands on the command's output until all of its processes are gone.
pub(super) fn follow(
    job: &OwnedFd,
    pipes: [OwnedFd; 2],
    output: &(dyn Fn(Stream, &[u8]) + Sync),
    mut entry: Option<Entry>,
    cancel: &Cancel,
) -> Result<Exit, SandboxError> {
    let memory = OomCounter::read(entry.as_ref().and_then(Entry::memory_events));
    let mut heard = Heard::default();
    let [stdout, stderr] = pipes;
    let mut pipes = [(Stream::Stdout, Some(stdout)), (Stream::Stderr, Some(stderr))];
    let mut buffer = vec![0; PIPE_SIZE];
    let mut registration = None;
    while heard.gone.is_none() || pipes.iter().any(|(_, pipe)| pipe.is_some()) {
        let ready = wait(job, heard.gone.is_some(), &pipes)?;
        // Output before news of the end: what was written before it is told before it.
        for ((stream, pipe), ready) in pipes.iter_mut().zip(ready.pipes) {
            if ready && !pass_on(*stream, pipe.as_ref(), &mut buffer, output)? {
                *pipe = None;
            }
        }
        if ready.job {
            match heard.listen(job) {
                Ok(None) => {}
                Ok(Some(process)) => {
                    if let Some(entry) = &mut entry {
                        entry.admit(&process)?;
                    }
                    registration = Some(cancel.register(process));
                }
                // A process that was killed before it read its request takes the holder's last word with it: its end of
                // the socket closes with something unread, and this one sees a reset.
                Err(SandboxError::HolderGone) if cancel.is_cancelled() => return Err(SandboxError::Cancelled),
                Err(error) => return Err(error),
            }
        }
    }
    drop(registration);
    heard.conclude(&memory, cancel)
}

struct Ready {
    job: bool,
    pipes: [bool; 2],
}

fn wait(job: &OwnedFd, gone: bool, pipes: &[(Stream, Option<OwnedFd>); 2]) -> Result<Ready, SandboxError> {
    let mut polled = Vec::with_capacity(3);
    for descriptor in [(!gone).then_some(job), pipes[0].1.as_ref(), pipes[1].1.as_ref()].into_iter().flatten() {
        polled.push(PollFd::new(descriptor, PollFlags::IN));
    }
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).map_err(talk)?;
    let mut answers = polled.iter().map(|descriptor| !descriptor.revents().is_empty());
    let mut next = |is_polled: bool| is_polled && answers.next().unwrap_or(false);
    Ok(Ready { job: next(!gone), pipes: [next(pipes[0].1.is_some()), next(pipes[1].1.is_some())] })
}

/// Hands on one portion; false at the end.
fn pass_on(
    stream: Stream,
    pipe: Option<&OwnedFd>,
    buffer: &mut [u8],
    output: &(dyn Fn(Stream, &[u8]) + Sync),
) -> Result<bool, SandboxError> {
    let Some(pipe) = pipe else { return Ok(false) };
    let length = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut *buffer)).map_err(talk)?;
    if length > 0 {
        output(stream, &buffer[..length]);
    }
    Ok(length > 0)
}

fn talk(error: rustix::io::Errno) -> SandboxError {
    SandboxError::Talk { source: error.into() }
}

/// What the job socket told.
#[derive(Default)]
struct Heard {
    exited: Option<Status>,
    failed: Option<SandboxError>,
    gone: Option<Status>,
}

impl Heard {
    /// Takes one reply in; gives the process when that is what came.
    fn listen(&mut self, job: &OwnedFd) -> Result<Option<OwnedFd>, SandboxError> {
        let received = wire::receive_reply(job).map_err(|source| SandboxError::Talk { source })?;
        let (reply, descriptors) = received.ok_or(SandboxError::HolderGone)?;
        match reply {
            Reply::Started => return Ok(descriptors.into_iter().next()),
            Reply::Exited(status) => self.exited = Some(status),
            Reply::Gone(status) => self.gone = Some(status),
            // The first failure is the cause; the shim reports the end of the command's process after it.
            Reply::SetUpFailed { step, reason } => {
                self.failed.get_or_insert(SandboxError::SetUp { step, reason });
            }
            Reply::ProgramFailed { program, errno } => {
                let source = io::Error::from_raw_os_error(errno);
                self.failed.get_or_insert(SandboxError::Program { program, source });
            }
            Reply::Done | Reply::WorkerFailed(_) => {}
        }
        Ok(None)
    }

    fn conclude(self, memory: &OomCounter, cancel: &Cancel) -> Result<Exit, SandboxError> {
        if self.exited.is_none() && cancel.is_cancelled() {
            // Whatever else was reported is what being killed looks like.
            return Err(SandboxError::Cancelled);
        }
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let killed = memory.killed_since();
        match (self.exited, self.gone) {
            (Some(status), _) => {
                let by_kill = status.shell_code() == 128 + libc::SIGKILL;
                Ok(Exit { status, out_of_memory: killed && (memory.is_own() || by_kill) })
            }
            // The shim died: nobody but the kernel kills it.
            (None, Some(status @ Status::Signal(libc::SIGKILL))) if killed => Ok(Exit { status, out_of_memory: true }),
            (None, status) => {
                let status = status.unwrap_or(Status::Code(125));
                Err(SandboxError::Died { job: "command".to_owned(), status })
            }
        }
    }
}

/// How many processes were killed for want of memory, in this process's control group if that is told, else on the
/// whole machine.
struct OomCounter {
    file: String,
    before: u64,
}

const MACHINE: &str = "/proc/vmstat";

impl OomCounter {
    /// `own` is the file of a group that the command has for itself.
    fn read(own: Option<PathBuf>) -> OomCounter {
        let own = own.map(|file| file.to_string_lossy().into_owned());
        if let Some((before, file)) = own.and_then(|file| Some((count_in(&file)?, file))) {
            return OomCounter { file, before };
        }
        let of_groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for file in group_files(&of_groups) {
            if let Some(before) = count_in(&file) {
                return OomCounter { file, before };
            }
        }
        OomCounter { file: MACHINE.to_owned(), before: count_in(MACHINE).unwrap_or(0) }
    }

    fn is_own(&self) -> bool {
        self.file != MACHINE
    }

    fn killed_since(&self) -> bool {
        count_in(&self.file).is_some_and(|now| now > self.before)
    }
}

/// Where the count may be found: the unified hierarchy, or the memory controller's own.
fn group_files(groups: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if path == "/" {
            // The root group has no such count on v2, and on v1 it counts nothing.
            return None;
        }
        match controllers {
            "" => Some(format!("/sys/fs/cgroup{path}/memory.events")),
            "memory" => Some(format!("/sys/fs/cgroup/memory{path}/memory.oom_control")),
            _ => None,
        }
    };
    groups.lines().filter_map(of_line).collect()
}

fn count_in(file: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_group_that_counts_is_found_in_both_hierarchies() {
        let hybrid = "12:memory:/user/build\n3:cpu:/x\n0::/user.slice\n";
        assert_eq!(
            group_files(hybrid),
            ["/sys/fs/cgroup/memory/user/build/memory.oom_control", "/sys/fs/cgroup/user.slice/memory.events"]
        );
        assert_eq!(group_files("0::/\n"), Vec::<String>::new());
    }
}
