//! Follows a command from outside: its output, its end, and whether memory ran out meanwhile.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};

use super::cancel::Cancel;
use super::entry::Entry;
use super::error::SandboxError;
use super::spec::{Exit, Made, Status};
use super::streams::Ends;
use super::wire::{self, Reply};

/// What has to have ended besides the command before its changes may be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attendance {
    /// Nothing: the shim's end may be left to itself.
    None,
    /// The recorder of owners, which writes when the command has ended.
    Recorder,
    /// Everything, as something is taken away afterwards that it uses: a control group, a network.
    All,
}

/// Serves the command's streams until all of its processes are gone.
pub(super) fn follow(
    job: &OwnedFd,
    mut ends: Ends<'_>,
    mut entry: Option<Entry>,
    attendance: Attendance,
    cancel: &Cancel,
) -> Result<Exit, SandboxError> {
    let memory = OomCounter::read(entry.as_ref().and_then(Entry::memory_events));
    let mut heard = Heard::default();
    let mut registration = None;
    while !heard.is_over(attendance) || ends.are_open() {
        let ready = wait((!heard.is_over(attendance)).then_some(job), &ends)?;
        let news = if ready.job { hear_all(job, &mut heard, attendance, &ends)? } else { Vec::new() };
        // Output before news of the end: what was written before it is told before it.
        ends.serve(&ready.streams).map_err(|source| SandboxError::Talk { source })?;
        for one in news {
            match one {
                Ok(News::None | News::Command(_)) => {}
                Ok(News::Process(process)) => {
                    if let Some(entry) = &mut entry {
                        entry.admit(&process)?;
                    }
                    registration = Some(cancel.register(process));
                }
                Ok(News::Terminal(terminal)) => {
                    ends.terminal_came(terminal).map_err(|source| SandboxError::Talk { source })?;
                }
                // Whatever else ended with it: it was to end.
                Err(SandboxError::HolderGone) if cancel.is_cancelled() => return Err(SandboxError::Cancelled),
                Err(error) => return Err(error),
            }
        }
        if heard.is_over(attendance) {
            ends.stop_input();
        }
    }
    drop(registration);
    heard.conclude(&memory, cancel)
}

/// Hears all that was told until now. The command itself is within reach before what it says is passed on: who reads that may
/// want to reach it at once.
fn hear_all(
    job: &OwnedFd,
    heard: &mut Heard,
    attendance: Attendance,
    ends: &Ends<'_>,
) -> Result<Vec<Result<News, SandboxError>>, SandboxError> {
    let mut news = Vec::new();
    loop {
        match heard.listen(job) {
            Ok(News::Command(command)) => ends.command_came(command),
            one => news.push(one),
        }
        let is_last = heard.is_over(attendance) || matches!(news.last(), Some(Err(_)));
        if is_last || !wire::has_news(job).map_err(talk)? {
            return Ok(news);
        }
    }
}

struct Ready {
    job: bool,
    streams: Vec<bool>,
}

fn wait(job: Option<&OwnedFd>, ends: &Ends<'_>) -> Result<Ready, SandboxError> {
    let job = job.map(|job| (job.as_fd(), PollFlags::IN));
    let has_job = job.is_some();
    let awaited: Vec<_> = job.into_iter().chain(ends.awaited()).collect();
    let mut polled: Vec<PollFd<'_>> =
        awaited.iter().map(|(descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags)).collect();
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).map_err(talk)?;
    let mut answers: Vec<bool> = polled.iter().map(|descriptor| !descriptor.revents().is_empty()).collect();
    let job = has_job && answers.remove(0);
    Ok(Ready { job, streams: answers })
}

fn talk(error: rustix::io::Errno) -> SandboxError {
    SandboxError::Talk { source: error.into() }
}

/// What a reply brings along.
enum News {
    None,
    /// The command's first process.
    Process(OwnedFd),
    /// The command itself.
    Command(OwnedFd),
    /// The other side of its terminal.
    Terminal(OwnedFd),
}

/// What the job socket told.
#[derive(Default)]
struct Heard {
    exited: Option<Status>,
    failed: Option<SandboxError>,
    copied: Option<Option<String>>,
    is_alone: bool,
    is_recorded: bool,
    gone: Option<Status>,
}

impl Heard {
    /// Whether none of the command's processes is left, nor anything that it needs.
    fn is_over(&self, attendance: Attendance) -> bool {
        let is_attended = match attendance {
            Attendance::None => true,
            Attendance::Recorder => self.is_recorded,
            Attendance::All => false,
        };
        self.gone.is_some() || (self.is_alone && is_attended)
    }

    /// Takes one reply in.
    fn listen(&mut self, job: &OwnedFd) -> Result<News, SandboxError> {
        let received = wire::receive_reply(job).map_err(|source| SandboxError::Talk { source })?;
        let (reply, descriptors) = received.ok_or(SandboxError::HolderGone)?;
        match reply {
            Reply::Started => return Ok(descriptors.into_iter().next().map_or(News::None, News::Process)),
            Reply::Running => return Ok(descriptors.into_iter().next().map_or(News::None, News::Command)),
            Reply::Terminal => return Ok(descriptors.into_iter().next().map_or(News::None, News::Terminal)),
            Reply::Exited(status) => self.exited = Some(status),
            Reply::Alone => self.is_alone = true,
            Reply::Recorded => self.is_recorded = true,
            Reply::Gone(status) => self.gone = Some(status),
            Reply::Copied(refused) => self.copied = Some(refused),
            // The first failure is the cause; the shim reports the end of the command's process after it.
            Reply::SetUpFailed { step, reason } => {
                self.failed.get_or_insert(SandboxError::SetUp { step, reason });
            }
            Reply::ProgramFailed { program, errno } => {
                let source = io::Error::from_raw_os_error(errno);
                self.failed.get_or_insert(SandboxError::Program { program, source });
            }
            Reply::Done | Reply::WorkerFailed(_) | Reply::Probed(_) => {}
        }
        Ok(News::None)
    }

    fn conclude(self, memory: &OomCounter, cancel: &Cancel) -> Result<Exit, SandboxError> {
        if self.exited.is_none() && cancel.is_cancelled() {
            // Whatever else was reported is what being killed looks like.
            return Err(SandboxError::Cancelled);
        }
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let root = self.copied.map_or(Made::Mounted, |refused| Made::Copied { refused });
        match (self.exited, self.gone) {
            (Some(status), _) => {
                let may_be = memory.is_own() || status.shell_code() == 128 + libc::SIGKILL;
                Ok(Exit { status, out_of_memory: may_be && memory.killed_since(), root })
            }
            // The shim died: nobody but the kernel kills it.
            (None, Some(status @ Status::Signal(libc::SIGKILL))) if memory.killed_since() => {
                Ok(Exit { status, out_of_memory: true, root })
            }
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
