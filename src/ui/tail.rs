//! The last output of each task that runs or failed, for reports of failures.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::text::{LineKind, Lines};
use crate::progress::TaskId;

/// Bytes kept of one task.
const KEPT: usize = 64 << 10;

/// The tails of all tasks.
#[derive(Default)]
pub(super) struct Tails(HashMap<TaskId, Tail>);

#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tails {
    /// Adds output of a task.
    pub(super) fn push(&mut self, task: TaskId, bytes: &[u8]) {
        let tail = self.0.entry(task).or_default();
        let new = &bytes[bytes.len().saturating_sub(KEPT)..];
        let over = (tail.bytes.len() + new.len()).saturating_sub(KEPT);
        tail.cut |= over > 0 || new.len() < bytes.len();
        tail.bytes.drain(..over);
        tail.bytes.extend(new);
    }

    /// Forgets a task that nobody will ask about.
    pub(super) fn forget(&mut self, task: TaskId) {
        self.0.remove(&task);
    }

    /// A task's kept lines; a first line that was cut is left out.
    pub(super) fn lines(&self, task: TaskId) -> Vec<String> {
        let Some(tail) = self.0.get(&task) else { return Vec::new() };
        let bytes: Vec<u8> = tail.bytes.iter().copied().collect();
        let start = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if tail.cut => end + 1,
            _ => 0,
        };
        let mut splitter = Lines::default();
        let mut lines = splitter.push(&bytes[start..], Instant::now());
        lines.extend(splitter.rest());
        lines.retain(|line| line.kind == LineKind::Whole);
        lines.into_iter().map(|line| line.text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_64_kib_are_kept_and_the_cut_line_is_left_out() {
        let mut tails = Tails::default();
        let task = TaskId(1);
        for number in 0..100_000 {
            tails.push(task, format!("line {number}\n").as_bytes());
        }
        let lines = tails.lines(task);
        assert_eq!(lines.last().unwrap(), "line 99999");
        assert!(lines.iter().all(|line| line.starts_with("line ")), "a line was cut: {:?}", lines[0]);
        let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
        assert!(bytes <= KEPT && bytes > KEPT - 32, "{bytes} bytes kept");
        tails.push(task, &vec![b'x'; KEPT + 1]);
        assert_eq!(tails.lines(task), ["x".repeat(KEPT)], "a single endless line is kept as far as it fits");
    }
}
