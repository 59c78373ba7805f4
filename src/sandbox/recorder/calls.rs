//! The calls that a recorder answers: which, when, and where their arguments are. A table, and its look-up.

use std::collections::HashMap;

use super::credentials::Identity;
use crate::sandbox::seccomp;
use crate::sandbox::syscalls::{Abi, SYSCALLS, Verdict};

/// Where a call names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Path {
    /// An argument is an open descriptor.
    Open(usize),
    /// An argument is a path from the working directory.
    Named(usize, Links),
    /// Two arguments are a directory and a path in it.
    At(usize, usize, Links),
}

/// What a link at the end of a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Links {
    Followed,
    Meant,
    /// As this argument's `AT_SYMLINK_NOFOLLOW` says; `AT_EMPTY_PATH` counts too.
    Flags(usize),
}

/// How a call reports what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Form {
    /// `struct stat` at this argument's address.
    Stat(usize),
    /// `struct statx` at the last argument's address.
    Statx,
}

/// What a call makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Made {
    /// A file, opened: flags and mode are these arguments.
    File(usize, usize),
    /// The same with fixed flags: `creat`, whose mode is this argument.
    NewFile(usize),
    /// The same with a `struct open_how` at this argument's address.
    FileAsked(usize),
    /// A directory with a mode.
    Directory(usize),
    /// A link whose target is named by this argument.
    Link(usize),
    /// A node: mode with type, and device.
    Node(usize),
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Call {
    Identity(Identity),
    /// The ids follow the path.
    Own(Path),
    Stat(Path, Form),
    Make(Path, Made),
    Execute(Path),
}

/// A call that is answered, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) struct Known {
    pub(in crate::sandbox) call: Call,
    pub(in crate::sandbox) verdict: Verdict,
}

use Links::{Flags, Followed, Meant};
use Path::{At, Named, Open};

#[rustfmt::skip]
const CALLS: &[(&str, Call)] = &[
    ("chown", Call::Own(Named(0, Followed))),
    ("chown32", Call::Own(Named(0, Followed))),
    ("lchown", Call::Own(Named(0, Meant))),
    ("lchown32", Call::Own(Named(0, Meant))),
    ("fchown", Call::Own(Open(0))),
    ("fchown32", Call::Own(Open(0))),
    ("fchownat", Call::Own(At(0, 1, Flags(4)))),
    ("stat", Call::Stat(Named(0, Followed), Form::Stat(1))),
    ("lstat", Call::Stat(Named(0, Meant), Form::Stat(1))),
    ("fstat", Call::Stat(Open(0), Form::Stat(1))),
    ("newfstatat", Call::Stat(At(0, 1, Flags(3)), Form::Stat(2))),
    ("statx", Call::Stat(At(0, 1, Flags(2)), Form::Statx)),
    ("open", Call::Make(Named(0, Followed), Made::File(1, 2))),
    ("openat", Call::Make(At(0, 1, Followed), Made::File(2, 3))),
    ("openat2", Call::Make(At(0, 1, Followed), Made::FileAsked(2))),
    ("creat", Call::Make(Named(0, Followed), Made::NewFile(1))),
    ("mkdir", Call::Make(Named(0, Meant), Made::Directory(1))),
    ("mkdirat", Call::Make(At(0, 1, Meant), Made::Directory(2))),
    ("symlink", Call::Make(Named(1, Meant), Made::Link(0))),
    ("symlinkat", Call::Make(At(1, 2, Meant), Made::Link(0))),
    ("mknod", Call::Make(Named(0, Meant), Made::Node(1))),
    ("mknodat", Call::Make(At(0, 1, Meant), Made::Node(2))),
    ("execve", Call::Execute(Named(0, Followed))),
    ("execveat", Call::Execute(At(0, 1, Flags(4)))),
    ("getuid", Call::Identity(Identity::RealUser)),
    ("getuid32", Call::Identity(Identity::RealUser)),
    ("geteuid", Call::Identity(Identity::EffectiveUser)),
    ("geteuid32", Call::Identity(Identity::EffectiveUser)),
    ("getgid", Call::Identity(Identity::RealGroup)),
    ("getgid32", Call::Identity(Identity::RealGroup)),
    ("getegid", Call::Identity(Identity::EffectiveGroup)),
    ("getegid32", Call::Identity(Identity::EffectiveGroup)),
    ("getresuid", Call::Identity(Identity::Users)),
    ("getresuid32", Call::Identity(Identity::Users)),
    ("getresgid", Call::Identity(Identity::Groups)),
    ("getresgid32", Call::Identity(Identity::Groups)),
    ("getgroups", Call::Identity(Identity::Supplementary)),
    ("getgroups32", Call::Identity(Identity::Supplementary)),
    ("setuid", Call::Identity(Identity::SetUser)),
    ("setuid32", Call::Identity(Identity::SetUser)),
    ("setgid", Call::Identity(Identity::SetGroup)),
    ("setgid32", Call::Identity(Identity::SetGroup)),
    ("setreuid", Call::Identity(Identity::SetTwoUsers)),
    ("setreuid32", Call::Identity(Identity::SetTwoUsers)),
    ("setregid", Call::Identity(Identity::SetTwoGroups)),
    ("setregid32", Call::Identity(Identity::SetTwoGroups)),
    ("setresuid", Call::Identity(Identity::SetUsers)),
    ("setresuid32", Call::Identity(Identity::SetUsers)),
    ("setresgid", Call::Identity(Identity::SetGroups)),
    ("setresgid32", Call::Identity(Identity::SetGroups)),
    ("setfsuid", Call::Identity(Identity::SetFileUser)),
    ("setfsuid32", Call::Identity(Identity::SetFileUser)),
    ("setfsgid", Call::Identity(Identity::SetFileGroup)),
    ("setfsgid32", Call::Identity(Identity::SetFileGroup)),
    ("setgroups", Call::Identity(Identity::SetSupplementary)),
    ("setgroups32", Call::Identity(Identity::SetSupplementary)),
    ("prctl", Call::Identity(Identity::KeepCapabilities)),
    ("chroot", Call::Identity(Identity::ChangeRoot)),
];

/// Calls whose 32-bit form has ids of 16 bits or an old `struct stat`: those stay the kernel's there.
const OTHER_WHEN_32_BITS: &[&str] = &["stat", "lstat", "fstat", "newfstatat"];

/// What is done about a call of an instruction set; `None` where it is the kernel's alone.
pub(in crate::sandbox) fn find(name: &str, abi: Abi) -> Option<Known> {
    let (_, call) = CALLS.iter().find(|(known, _)| *known == name)?;
    let has_wide_form = || CALLS.iter().any(|(known, _)| known.strip_suffix("32") == Some(name));
    if matches!(abi, Abi::I386 | Abi::Arm) && (OTHER_WHEN_32_BITS.contains(&name) || has_wide_form()) {
        return None;
    }
    let verdict = match call {
        Call::Make(_, Made::File(flags, _)) => Verdict::RecordIfMaking(*flags),
        Call::Identity(Identity::KeepCapabilities) => Verdict::RecordIfKeeping,
        _ => Verdict::Record,
    };
    Some(Known { call: *call, verdict })
}

/// The calls by architecture and number.
pub(super) fn known() -> HashMap<(u32, u32), Known> {
    let mut all = HashMap::new();
    for (architecture, abi) in seccomp::NATIVE {
        for (name, _, numbers) in SYSCALLS {
            if let (Some(known), Ok(number)) = (find(name, *abi), u32::try_from(numbers[*abi as usize])) {
                all.insert((*architecture, number), known);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_number_somewhere() {
        for (name, _) in CALLS {
            assert!(SYSCALLS.iter().any(|(known, ..)| known == name), "{name}");
        }
    }

    #[test]
    fn calls_with_short_ids_are_left_to_the_kernel() {
        assert_eq!(find("chown", Abi::I386), None);
        assert!(find("chown32", Abi::I386).is_some() && find("chown", Abi::X86_64).is_some());
        assert_eq!(find("stat", Abi::Arm), None);
        assert_eq!(find("read", Abi::X86_64), None);
    }
}
