//! Programs of other processors: whether the kernel runs them, by its own means or through an emulator that is registered
//! with `binfmt_misc` (`Documentation/admin-guide/binfmt-misc.rst`).
//!
//! Contract: found out by running a program of a few bytes, as what is registered can be hidden (a container sees no
//! `/proc/sys/fs/binfmt_misc`, and each user namespace may have its own); what is registered is looked at to explain.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use super::error::SandboxError;

const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";
/// What the program ends with: neither success, which anything may end with, nor what a shell makes of a strange file.
const STATUS: u8 = 42;

/// A processor that a program of a few bytes is known for.
#[derive(Clone, Copy)]
struct Machine {
    /// As images name it.
    name: &'static str,
    /// As qemu names it.
    emulator: &'static str,
    /// ELF's number.
    number: u16,
    bits: Bits,
    order: Order,
    flags: u32,
    /// exit(42).
    code: &'static [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bits {
    B32,
    B64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

const MACHINES: [Machine; 7] = [
    Machine {
        name: "amd64",
        emulator: "x86_64",
        number: 62,
        bits: Bits::B64,
        order: Order::Little,
        flags: 0,
        code: b"\xb8\x3c\0\0\0\xbf\x2a\0\0\0\x0f\x05",
    },
    Machine {
        name: "386",
        emulator: "i386",
        number: 3,
        bits: Bits::B32,
        order: Order::Little,
        flags: 0,
        code: b"\xbb\x2a\0\0\0\xb8\x01\0\0\0\xcd\x80",
    },
    Machine {
        name: "arm64",
        emulator: "aarch64",
        number: 183,
        bits: Bits::B64,
        order: Order::Little,
        flags: 0,
        code: b"\x40\x05\x80\xd2\xa8\x0b\x80\xd2\x01\0\0\xd4",
    },
    Machine {
        name: "arm",
        emulator: "arm",
        number: 40,
        bits: Bits::B32,
        order: Order::Little,
        // The fifth version of its calling convention.
        flags: 0x0500_0000,
        code: b"\x2a\0\xa0\xe3\x01\x70\xa0\xe3\0\0\0\xef",
    },
    Machine {
        name: "riscv64",
        emulator: "riscv64",
        number: 243,
        bits: Bits::B64,
        order: Order::Little,
        flags: 0,
        code: b"\x13\x05\xa0\x02\x93\x08\xd0\x05\x73\0\0\0",
    },
    Machine {
        name: "ppc64le",
        emulator: "ppc64le",
        number: 21,
        bits: Bits::B64,
        order: Order::Little,
        // The second version of its calling convention.
        flags: 2,
        code: b"\x01\0\0\x38\x2a\0\x60\x38\x02\0\0\x44",
    },
    Machine {
        name: "s390x",
        emulator: "s390x",
        number: 22,
        bits: Bits::B64,
        order: Order::Big,
        flags: 0,
        code: b"\xa7\x29\0\x2a\x0a\x01",
    },
];

/// Checks that programs of a processor run here. One that is not known here is left to the kernel.
///
/// # Errors
/// [`SandboxError::ForeignArchitecture`], with what to install or register.
pub fn check_architecture(name: &str) -> Result<(), SandboxError> {
    let Some(machine) = MACHINES.iter().find(|machine| machine.name == name) else { return Ok(()) };
    let program = machine.program();
    let entry = registered(&program);
    let refuse = |reason: String, remedy: String| {
        Err(SandboxError::ForeignArchitecture { architecture: name.to_owned(), reason, remedy })
    };
    let install = "as root: apt-get install qemu-user-static binfmt-support (Debian, Ubuntu) or dnf install qemu-user-static \
                   (Fedora), or docker run --privileged --rm tonistiigi/binfmt --install";
    match runs(&program) {
        // An interpreter that is found by its path when a program starts would have to be in the image.
        Ok(true) => match entry {
            Some(entry) if !entry.flags.contains('F') => refuse(
                format!("{} is registered without the flag F, so that an image cannot use it", entry.interpreter),
                format!("{install} {name}, which register it with the flag"),
            ),
            _ => Ok(()),
        },
        Ok(false) => match entry {
            Some(entry) if !entry.is_enabled => refuse(
                format!("{} is registered with binfmt_misc, but switched off", entry.name),
                format!("as root: echo 1 > {REGISTERED}/{}", entry.name),
            ),
            Some(entry) => refuse(
                format!("{}, which is registered with binfmt_misc, does not run its programs", entry.interpreter),
                format!("{install} {name}"),
            ),
            None => refuse(
                format!("no emulator (qemu-{}) is registered with binfmt_misc", machine.emulator),
                format!("{install} {name}"),
            ),
        },
        Err(source) => refuse(format!("trying failed: {source}"), format!("{install} {name}")),
    }
}

fn runs(program: &[u8]) -> io::Result<bool> {
    // Not closed by execve: an emulator opens the program by the name that it is given.
    let mut file = fs::File::from(memfd_create("rbuild-trial", MemfdFlags::empty())?);
    file.write_all(program)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) => Ok(status.code() == Some(i32::from(STATUS))),
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => Ok(false),
        // The emulator is registered and gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is registered for a program.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    interpreter: String,
    flags: String,
    is_enabled: bool,
}

fn registered(program: &[u8]) -> Option<Entry> {
    let entries = fs::read_dir(Path::new(REGISTERED)).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            parse(&name, &fs::read_to_string(entry.path()).ok()?, program)
        })
        .next()
}

/// An entry as the kernel shows it, if it is one for this program.
fn parse(name: &str, text: &str, program: &[u8]) -> Option<Entry> {
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let bytes = |text: &str| -> Option<Vec<u8>> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
    };
    let magic = bytes(field("magic ")?)?;
    let mask = field("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let offset: usize = field("offset ")?.parse().ok()?;
    let found = program.get(offset..offset + magic.len())?;
    let is_meant = found.iter().zip(&magic).zip(&mask).all(|((found, magic), mask)| found & mask == magic & mask);
    is_meant.then(|| Entry {
        name: name.to_owned(),
        interpreter: field("interpreter ").unwrap_or_default().to_owned(),
        flags: field("flags:").unwrap_or_default().to_owned(),
        is_enabled: text.starts_with("enabled"),
    })
}

impl Machine {
    /// The smallest program: two headers (elf(5)) and the code.
    fn program(&self) -> Vec<u8> {
        const BASE: u64 = 0x1_0000;
        let is_long = self.bits == Bits::B64;
        let (header, segment) = if is_long { (64, 56) } else { (52, 32) };
        let start = header + segment;
        let length = start + self.code.len() as u64;
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_long), 1 + u8::from(self.order == Order::Big), 1];
        bytes.resize(16, 0);
        let mut put = |value: u64, size: usize| match self.order {
            Order::Little => bytes.extend(&value.to_le_bytes()[..size]),
            Order::Big => bytes.extend(&value.to_be_bytes()[8 - size..]),
        };
        let word = if is_long { 8 } else { 4 };
        // Executable, machine, version; entry, segments, no sections.
        for (value, size) in [(2, 2), (u64::from(self.number), 2), (1, 4)] {
            put(value, size);
        }
        [BASE + start, header, 0].into_iter().for_each(|value| put(value, word));
        put(u64::from(self.flags), 4);
        [header, segment, 1, 0, 0, 0].into_iter().for_each(|value| put(value, 2));
        // Loaded, readable and executable; the whole file. The two classes have the flags in different places.
        put(1, 4);
        if is_long {
            put(5, 4);
        }
        [0, BASE, BASE, length, length].into_iter().for_each(|value| put(value, word));
        if !is_long {
            put(5, 4);
        }
        put(0x1_0000, word);
        bytes.extend_from_slice(self.code);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_this_machine_run() {
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        check_architecture(own).unwrap();
        let machine = MACHINES.iter().find(|machine| machine.name == own).unwrap();
        assert!(runs(&machine.program()).unwrap());
    }

    #[test]
    fn what_no_kernel_knows_does_not_run() {
        let unknown = Machine { number: 0xfeed, ..MACHINES[0] };
        assert!(!runs(&unknown.program()).unwrap());
    }

    #[test]
    fn an_entry_is_told_by_its_magic_under_the_mask() {
        let text = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: POCF\noffset 0\n\
                    magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
        let of = |name: &str| MACHINES.iter().find(|machine| machine.name == name).unwrap().program();
        let entry = parse("qemu-aarch64", text, &of("arm64")).unwrap();
        assert_eq!((entry.flags.as_str(), entry.is_enabled), ("POCF", true));
        assert_eq!(entry.interpreter, "/usr/bin/qemu-aarch64-static");
        for other in ["amd64", "arm", "riscv64", "s390x"] {
            assert_eq!(parse("qemu-aarch64", text, &of(other)), None, "{other}");
        }
        assert!(!parse("x", &text.replace("enabled", "disabled"), &of("arm64")).unwrap().is_enabled);
        assert_eq!(parse("python", "enabled\ninterpreter /x\nflags: \nextension .py\n", &of("arm64")), None);
    }
}
