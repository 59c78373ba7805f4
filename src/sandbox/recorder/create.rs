//! Calls that make files, and programs that lend their owner's id.
//!
//! A file belongs to who makes it, or to the group of a directory with setgid. For root, elsewhere, that is what the
//! kernel does anyway. For all others the call is carried out here, and the new file is on record before the caller (or
//! anybody else who looks) can know of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::calls::{Made, Path};
use super::files::Name;
use super::{Caller, Otherwise, Outcome, Recorder};
use crate::owners::Owner;
use crate::sys::notify;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;

/// How a file is to be opened.
struct Opening {
    flags: OFlags,
    mode: u32,
    resolve: ResolveFlags,
}

/// The directory that gets the new name, and who will own what has it.
struct Place {
    directory: OwnedFd,
    name: Vec<u8>,
    owner: Owner,
    allowed: bool,
}

impl Recorder {
    pub(super) fn make(&mut self, caller: &Caller, path: Path, made: Made) -> Outcome {
        let name = caller.name(path)?;
        match made {
            Made::File(flags, mode) => {
                let flags = OFlags::from_bits_retain(caller.number(flags));
                let opening = Opening { flags, mode: caller.number(mode), resolve: ResolveFlags::empty() };
                self.open_file(caller, &name, &opening)
            }
            Made::NewFile(mode) => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
                let opening = Opening { flags, mode: caller.number(mode), resolve: ResolveFlags::empty() };
                self.open_file(caller, &name, &opening)
            }
            Made::FileAsked(how) => {
                let opening = asked(caller, caller.address(how))?;
                self.open_file(caller, &name, &opening)
            }
            Made::Directory(_) | Made::Link(_) | Made::Node(_) => self.make_name(caller, &name, made),
        }
    }

    fn make_name(&mut self, caller: &Caller, name: &Name, made: Made) -> Outcome {
        let place = self.place(caller, name)?;
        let mode = |argument: usize| -> Result<u32, Otherwise> {
            Ok(caller.number(argument) & 0o7777 & !umask(caller.notice.thread)?)
        };
        let may = || {
            self.still_waits(caller)?;
            if place.allowed { Ok(()) } else { Err(Otherwise::Fails(Errno::ACCESS)) }
        };
        let (directory, last) = (place.directory.as_fd(), place.name.as_slice());
        match made {
            Made::Directory(argument) => {
                let mode = mode(argument)?;
                may()?;
                rustix::fs::mkdirat(directory, last, Mode::from_raw_mode(mode))?;
            }
            Made::Link(argument) => {
                let target = caller.read_path(caller.address(argument))?;
                may()?;
                rustix::fs::symlinkat(target.as_slice(), directory, last)?;
            }
            Made::Node(argument) => {
                let wanted = caller.number(argument);
                let kind = match wanted & libc::S_IFMT {
                    0 => FileType::RegularFile,
                    kind => FileType::from_raw_mode(kind),
                };
                if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
                    return Err(Otherwise::Kernel);
                }
                let mode = mode(argument)?;
                may()?;
                rustix::fs::mknodat(directory, last, kind, Mode::from_raw_mode(mode), 0)?;
            }
            _ => return Err(Otherwise::Kernel),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, last, flags, Mode::empty())?;
        self.record(&file, &rustix::fs::fstat(&file)?, place.owner)?;
        Ok(Some(0))
    }

    fn open_file(&mut self, caller: &Caller, name: &Name, opening: &Opening) -> Outcome {
        let unnamed = opening.flags.contains(OFlags::TMPFILE);
        if !unnamed && !opening.flags.contains(OFlags::CREATE) {
            return Err(Otherwise::Kernel);
        }
        let place = if unnamed { self.directory_itself(caller, name)? } else { self.place(caller, name)? };
        let exclusive = opening.flags.contains(OFlags::EXCL) && !unnamed;
        if !unnamed && !exclusive && caller.open(name).is_ok() {
            // Nothing is made.
            return Err(Otherwise::Kernel);
        }
        self.still_waits(caller)?;
        if !place.allowed {
            // A file that is there already is another error.
            return Err(if exclusive { Otherwise::Kernel } else { Errno::ACCESS.into() });
        }
        let mode = opening.mode & 0o7777 & !umask(caller.notice.thread)?;
        let flags = opening.flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = caller.open_with(name, flags, Mode::from_raw_mode(mode), opening.resolve)?;
        self.record(&file, &rustix::fs::fstat(&file)?, place.owner)?;
        let close = opening.flags.bits() & OFlags::CLOEXEC.bits();
        match notify::answer_with_descriptor(self.listener.as_fd(), caller.notice.id, file.as_fd(), close) {
            Ok(()) => Ok(None),
            // It has no descriptor left, or is gone.
            Err(error) => Err(error.into()),
        }
    }

    /// Where a name goes; the kernel's business where that is root's, or does not exist.
    fn place(&self, caller: &Caller, name: &Name) -> Result<Place, Otherwise> {
        let trimmed = match name.path.iter().rposition(|byte| *byte != b'/') {
            Some(last) => &name.path[..=last],
            None => return Err(Otherwise::Kernel),
        };
        let (parent, last) = match trimmed.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&trimmed[..=slash], &trimmed[slash + 1..]),
            None => (&b"."[..], trimmed),
        };
        if last == b"." || last == b".." {
            return Err(Otherwise::Kernel);
        }
        let parent = Name { directory: name.directory, path: parent.to_vec(), follow: true, may_be_empty: false };
        self.within(caller, &parent, last)
    }

    fn directory_itself(&self, caller: &Caller, name: &Name) -> Result<Place, Otherwise> {
        self.within(caller, name, b"")
    }

    fn within(&self, caller: &Caller, parent: &Name, last: &[u8]) -> Result<Place, Otherwise> {
        let directory = caller.open(parent).map_err(|_| Otherwise::Kernel)?;
        let stat = rustix::fs::fstat(&directory)?;
        let hands_down = stat.st_mode & SETGID != 0;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory
            || (caller.credentials.makes_roots_files() && !hands_down)
        {
            return Err(Otherwise::Kernel);
        }
        let of_directory = self.owner(&directory, &stat);
        let gid = if hands_down { of_directory.gid } else { caller.credentials.groups.effective };
        let owner = Owner { uid: caller.credentials.users.effective, gid };
        if owner == Owner::ROOT {
            return Err(Otherwise::Kernel);
        }
        let allowed = caller.credentials.may(of_directory, stat.st_mode, 0o3);
        Ok(Place { directory, name: last.to_vec(), owner, allowed })
    }

    pub(super) fn execute(&mut self, caller: &Caller, path: Path) -> Outcome {
        let mut credentials = caller.credentials.clone();
        let lent = self.lent_ids(caller, path);
        let (user, group) = lent.unwrap_or((None, None));
        credentials.execute(user, group);
        if credentials != caller.credentials {
            self.still_waits(caller)?;
            self.identities.change(caller.notice.thread, credentials)?;
        }
        Err(Otherwise::Kernel)
    }

    /// The ids that a program's setuid and setgid bits give.
    fn lent_ids(&self, caller: &Caller, path: Path) -> Result<(Option<u32>, Option<u32>), Otherwise> {
        let file = caller.open(&caller.name(path)?)?;
        let stat: Stat = rustix::fs::fstat(&file)?;
        let lends_group = stat.st_mode & (SETGID | GROUP_EXECUTES) == SETGID | GROUP_EXECUTES;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & (SETUID | SETGID) == 0 {
            return Ok((None, None));
        }
        let owner = self.owner(&file, &stat);
        Ok(((stat.st_mode & SETUID != 0).then_some(owner.uid), lends_group.then_some(owner.gid)))
    }
}

/// `struct open_how`: flags, mode, how to resolve.
fn asked(caller: &Caller, address: u64) -> Result<Opening, Otherwise> {
    let mut bytes = [0; 24];
    if notify::read_memory(caller.notice.thread, address, &mut bytes)? != bytes.len() {
        return Err(Otherwise::Kernel);
    }
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let narrow = |at: usize| u32::try_from(word(at)).map_err(|_| Otherwise::Kernel);
    let resolve = ResolveFlags::from_bits_retain(word(16));
    Ok(Opening { flags: OFlags::from_bits_retain(narrow(0)?), mode: narrow(8)?, resolve })
}

/// The bits that a process takes from the mode of what it makes.
fn umask(thread: i32) -> Result<u32, Otherwise> {
    let status = std::fs::read_to_string(format!("{thread}/status"))?;
    let text = status.lines().find_map(|line| line.strip_prefix("Umask:")).map(str::trim);
    Ok(text.and_then(|text| u32::from_str_radix(text, 8).ok()).unwrap_or(0o022))
}
