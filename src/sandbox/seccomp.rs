//! The seccomp filter as BPF: for each instruction set a binary tree over runs of system-call numbers.
//!
//! The kernel evaluates a filter for every number when it is loaded, so a tree (some 60 runs, six comparisons deep)
//! loads in a fraction of the time that a list takes. Arguments are compared by their low 32 bits only, as that is what
//! the kernel looks at (CVE-2019-10063: a filter that compared 64 bits let `1 << 32 | TIOCSTI` pass).

use super::recorder::calls;
use super::syscalls::{Abi, SYSCALLS, Verdict};
use crate::sys::privileges::Instruction;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// Offsets in `struct seccomp_data`; both supported processors are little-endian, so an argument's low half is first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
/// PER_LINUX, PER_LINUX32, both with UNAME26, and the question for the current value.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const ON_X86: &[(u32, Abi)] = &[(AUDIT_ARCH_X86_64, Abi::X86_64), (AUDIT_ARCH_I386, Abi::I386)];
const ON_ARM: &[(u32, Abi)] = &[(AUDIT_ARCH_AARCH64, Abi::Aarch64), (AUDIT_ARCH_ARM, Abi::Arm)];

/// `O_CREAT` and the bit of `O_TMPFILE` that is no `O_DIRECTORY`.
const MAKING: u32 = 0o100 | 0o20_000_000;
const PR_SET_KEEPCAPS: u32 = 8;

/// The instruction sets that a kernel for this processor can run.
pub(super) const NATIVE: &[(u32, Abi)] = if cfg!(target_arch = "x86_64") { ON_X86 } else { ON_ARM };

/// What a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Keeps a command from what it must not do.
    Confine,
    /// The same, and hands what the recorder answers to it.
    ConfineAndRecord,
    /// Only that.
    Record,
}

impl Purpose {
    fn verdict(self, name: &str, usual: Verdict, abi: Abi) -> Verdict {
        let recorded = || calls::find(name, abi).map(|known| known.verdict);
        match self {
            Purpose::Confine => usual,
            // What is not allowed is not answered either.
            Purpose::ConfineAndRecord if usual != Verdict::Allow => usual,
            Purpose::ConfineAndRecord => recorded().unwrap_or(usual),
            Purpose::Record => recorded().unwrap_or(Verdict::Allow),
        }
    }

    /// For numbers that are not in the table.
    fn unknown(self) -> Verdict {
        match self {
            Purpose::Record => Verdict::Allow,
            Purpose::Confine | Purpose::ConfineAndRecord => Verdict::Missing,
        }
    }
}

/// The filters that a holder's commands may need, made once.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    /// Of every command in the sandbox.
    pub(super) confine: Vec<Instruction>,
    /// Of an insecure one, where owners are recorded.
    pub(super) only_record: Vec<Instruction>,
}

impl Filters {
    /// Those for a namespace with many ids.
    pub(super) fn confining() -> Filters {
        Filters { confine: filter(Purpose::Confine), only_record: Vec::new() }
    }

    /// Those for a namespace with one.
    pub(super) fn recording() -> Filters {
        Filters { confine: filter(Purpose::ConfineAndRecord), only_record: filter(Purpose::Record) }
    }
}

/// The filter for this machine.
fn filter(purpose: Purpose) -> Vec<Instruction> {
    program(NATIVE, purpose)
}

fn program(abis: &[(u32, Abi)], purpose: Purpose) -> Vec<Instruction> {
    let mut code = vec![load(ARCHITECTURE)];
    for (architecture, abi) in abis {
        let mut body = vec![load(NUMBER)];
        body.extend(tree(&runs(*abi, purpose)));
        // A body is longer than a conditional jump reaches, so it is jumped over by an unconditional one.
        code.push(jump(JUMP_EQUAL, *architecture, 1, 0));
        code.push(Instruction { code: JUMP, jump_true: 0, jump_false: 0, operand: count(&body) });
        code.extend(body);
    }
    // No program of this machine can be of another architecture.
    code.push(answer(RET_KILL_PROCESS));
    code
}

/// Runs of numbers with the same verdict: first number of each, ascending, the first one 0, up to the last number.
fn runs(abi: Abi, purpose: Purpose) -> Vec<(u32, Verdict)> {
    let number = |row: &(&str, Verdict, [i32; 4])| u32::try_from(row.2[abi as usize]).ok();
    let mut known: Vec<(u32, Verdict)> = SYSCALLS
        .iter()
        .filter_map(|row| number(row).map(|number| (number, purpose.verdict(row.0, row.1, abi))))
        .collect();
    known.sort_unstable_by_key(|(number, _)| *number);
    let mut runs = Vec::new();
    let mut next = 0;
    let mut push = |start, verdict| {
        if runs.last().is_none_or(|(_, last)| *last != verdict) {
            runs.push((start, verdict));
        }
    };
    for (number, verdict) in known {
        if number > next {
            push(next, purpose.unknown());
        }
        push(number, verdict);
        next = number + 1;
    }
    // Also x32 numbers (bit 30 set).
    push(next, purpose.unknown());
    runs
}

/// Code that finds the run of the loaded number and answers.
fn tree(runs: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = runs {
        return leaf(*verdict);
    }
    let middle = runs.len() / 2;
    let (low, high) = (tree(&runs[..middle]), tree(&runs[middle..]));
    let split = runs[middle].0;
    let mut code = match u8::try_from(low.len()) {
        Ok(length) => vec![jump(JUMP_GREATER_EQUAL, split, length, 0)],
        Err(_) => vec![
            jump(JUMP_GREATER_EQUAL, split, 0, 1),
            Instruction { code: JUMP, jump_true: 0, jump_false: 0, operand: count(&low) },
        ],
    };
    code.extend(low);
    code.extend(high);
    code
}

fn leaf(verdict: Verdict) -> Vec<Instruction> {
    let (allow, deny, record) = (answer(RET_ALLOW), answer(errno(libc::EPERM)), answer(RET_USER_NOTIF));
    match verdict {
        Verdict::Allow => vec![allow],
        Verdict::Deny => vec![deny],
        Verdict::Missing => vec![answer(errno(libc::ENOSYS))],
        Verdict::Spawn => vec![
            load(ARGUMENTS),
            Instruction { code: AND, jump_true: 0, jump_false: 0, operand: NAMESPACE_FLAGS },
            jump(JUMP_EQUAL, 0, 0, 1),
            allow,
            deny,
        ],
        Verdict::Socket => unless_one_of(0, &[AF_ALG, AF_VSOCK], allow, deny),
        Verdict::Personality => unless_one_of(0, &PERSONALITIES, deny, allow),
        Verdict::Ioctl => unless_one_of(1, &[TIOCSTI, TIOCLINUX], allow, deny),
        Verdict::Record => vec![record],
        Verdict::RecordIfMaking(argument) => vec![
            load(argument_at(argument)),
            Instruction { code: AND, jump_true: 0, jump_false: 0, operand: MAKING },
            jump(JUMP_EQUAL, 0, 0, 1),
            allow,
            record,
        ],
        Verdict::RecordIfKeeping => unless_one_of(0, &[PR_SET_KEEPCAPS], allow, record),
    }
}

/// Answers `otherwise` unless the argument is one of the values, then `listed`.
fn unless_one_of(argument: usize, values: &[u32], otherwise: Instruction, listed: Instruction) -> Vec<Instruction> {
    let mut code = vec![load(argument_at(argument))];
    for (behind, value) in (1..=values.len()).rev().zip(values) {
        // At most five values, so the distance fits.
        code.push(jump(JUMP_EQUAL, *value, u8::try_from(behind).unwrap_or(u8::MAX), 0));
    }
    code.extend([otherwise, listed]);
    code
}

fn argument_at(argument: usize) -> u32 {
    // A call has six.
    ARGUMENTS + 8 * u32::try_from(argument).unwrap_or(0)
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jump_true: 0, jump_false: 0, operand: offset }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

/// A filter that changes nothing.
pub(super) fn allow_all() -> [Instruction; 1] {
    [answer(RET_ALLOW)]
}

fn answer(operand: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand }
}

fn errno(number: i32) -> u32 {
    RET_ERRNO | number.unsigned_abs()
}

fn count(code: &[Instruction]) -> u32 {
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would: `seccomp_data` is the number, the architecture and six arguments.
    fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 2]) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let instruction = program[at];
            let Instruction { code, jump_true, jump_false, operand } = instruction;
            let skip = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
            at += 1;
            match code {
                LOAD => {
                    accumulator = match operand {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        16 => arguments[0] as u32,
                        24 => arguments[1] as u32,
                        other => panic!("load from {other}"),
                    }
                }
                AND => accumulator &= operand,
                JUMP => at += operand as usize,
                JUMP_EQUAL => at += skip(accumulator == operand),
                JUMP_GREATER_EQUAL => at += skip(accumulator >= operand),
                RETURN => return operand,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn every_number_of_every_abi_gets_its_verdict() {
        for (abis, architecture, abi) in [
            (ON_X86, AUDIT_ARCH_X86_64, Abi::X86_64),
            (ON_X86, AUDIT_ARCH_I386, Abi::I386),
            (ON_ARM, AUDIT_ARCH_AARCH64, Abi::Aarch64),
            (ON_ARM, AUDIT_ARCH_ARM, Abi::Arm),
        ] {
            let program = program(abis, Purpose::Confine);
            for number in (0..600).chain(0xf_0000..0xf_0010).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                let row = SYSCALLS.iter().find(|row| row.2[abi as usize] == number as i32 && number < 0x4000_0000);
                let expected = match row.map_or(Verdict::Missing, |row| row.1) {
                    Verdict::Deny => errno(libc::EPERM),
                    Verdict::Missing => errno(libc::ENOSYS),
                    // With arguments of zero, these are all harmless.
                    _ => RET_ALLOW,
                };
                assert_eq!(run(&program, architecture, number, [0, 0]), expected, "{abi:?} {number} {row:?}");
            }
        }
    }

    #[test]
    fn arguments_are_compared_by_their_low_half() {
        let program = program(ON_X86, Purpose::Confine);
        let answer = |number: u32, arguments| run(&program, AUDIT_ARCH_X86_64, number, arguments);
        let (denied, high) = (errno(libc::EPERM), 1_u64 << 32);
        for request in [0x5412, 0x541c] {
            assert_eq!(answer(16, [0, request]), denied);
            assert_eq!(answer(16, [0, high | request]), denied);
        }
        assert_eq!(answer(16, [0x5412, 0x5401]), RET_ALLOW);
        for (family, expected) in [(38, denied), (high | 38, denied), (40, denied), (39, RET_ALLOW), (2, RET_ALLOW)] {
            assert_eq!(answer(41, [family, 0]), expected, "family {family}");
        }
        for flag in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(answer(56, [flag | 17, 0]), denied, "flag {flag:x}");
        }
        assert_eq!(answer(56, [0x0100_0011, 0]), RET_ALLOW);
        for (value, expected) in [(8, RET_ALLOW), (0xffff_ffff, RET_ALLOW), (0x0004_0000, denied), (1, denied)] {
            assert_eq!(answer(135, [value, 0]), expected, "personality {value:x}");
        }
    }

    #[test]
    fn another_architecture_is_killed() {
        assert_eq!(run(&program(ON_X86, Purpose::Confine), AUDIT_ARCH_AARCH64, 0, [0, 0]), RET_KILL_PROCESS);
    }

    #[test]
    fn the_table_has_no_number_twice_and_the_program_is_short() {
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64, Abi::Arm] {
            let mut numbers: Vec<i32> = SYSCALLS.iter().map(|row| row.2[abi as usize]).filter(|at| *at >= 0).collect();
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), all, "{abi:?}");
        }
        // The kernel takes 4096.
        for abis in [ON_X86, ON_ARM] {
            assert!(program(abis, Purpose::Confine).len() < 1000, "{}", program(abis, Purpose::Confine).len());
        }
    }
}
