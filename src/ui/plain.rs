//! Progress as lines for a log, in BuildKit's format (`util/progress/progressui/printer.go`).
//!
//! Steps run at the same time, but a log is read from top to bottom: one step at a time is *current* and printed, the
//! others are held back until it ends or, when it goes on, get their fair share of time. Between two steps stands an
//! empty line, and `#3 ...` where a step was left before its end. Numbers are given in the order of first printing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant};

use super::Display;
use super::step::{PartNews, Step};
use super::text::{LineKind, Lines, one_line, stamp_text};
use crate::progress::{Event, Outcome, TaskId};

/// The least time that a step stays current while others have something to say.
const ANTI_FLICKER: Duration = Duration::from_secs(5);
/// How long a step may have unprinted news before it is printed in any case.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// A part is printed again after this time, or after this share of its bytes.
const PART_INTERVAL: Duration = Duration::from_secs(5);
const PART_SHARE: f64 = 0.05;
/// A line that its command overwrites again and again (a progress bar) is printed once in this time.
const OVERWRITTEN_INTERVAL: Duration = Duration::from_secs(5);
/// Unprinted output of a step that is not current; more makes it current.
const HELD: usize = 1 << 20;
/// Last lines that a failed step's report repeats.
const REPEATED: usize = 10;

/// Prints lines.
pub(super) struct Plain {
    out: Box<dyn Write + Send>,
    steps: BTreeMap<TaskId, PlainStep>,
    updated: BTreeSet<TaskId>,
    current: Option<TaskId>,
    numbers: usize,
    something_is_printed: bool,
    warnings: Vec<String>,
}

struct PlainStep {
    step: Step,
    number: usize,
    notes: Vec<String>,
    /// For each part, what was printed of it last.
    printed_parts: Vec<Option<(u64, Instant)>>,
    updated_parts: BTreeSet<usize>,
    splitter: Lines,
    /// Lines to print, with their time stamps.
    lines: VecDeque<String>,
    held: usize,
    /// Bytes of the first unprinted (or the open) line that are on the screen already.
    open_printed: usize,
    overwritten_at: Option<Instant>,
    last_lines: VecDeque<String>,
    /// News since `news_since`: since the step is current, or else since its first news that are not printed.
    news: u32,
    news_since: Instant,
}

impl PlainStep {
    fn new(title: &str, now: Instant) -> PlainStep {
        PlainStep {
            step: Step::new(title),
            number: 0,
            notes: Vec::new(),
            printed_parts: Vec::new(),
            updated_parts: BTreeSet::new(),
            splitter: Lines::default(),
            lines: VecDeque::new(),
            held: 0,
            open_printed: 0,
            overwritten_at: None,
            last_lines: VecDeque::new(),
            news: 0,
            news_since: now,
        }
    }

    fn output(&mut self, at: Instant, bytes: &[u8]) {
        for line in self.splitter.push(bytes, at) {
            let is_on_the_screen = self.lines.is_empty() && self.open_printed > 0;
            if line.kind == LineKind::Overwritten && !is_on_the_screen {
                let is_too_early =
                    self.overwritten_at.is_some_and(|last| at.saturating_duration_since(last) < OVERWRITTEN_INTERVAL);
                if is_too_early {
                    continue;
                }
                self.overwritten_at = Some(at);
            }
            self.line(line.at, &line.text);
        }
    }

    fn line(&mut self, at: Instant, text: &str) {
        let line = self.stamped(at, text);
        self.held += line.len();
        if self.last_lines.len() == REPEATED {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line.clone());
        self.lines.push_back(line);
    }

    fn stamped(&self, at: Instant, text: &str) -> String {
        let since_start = self.step.started.map_or(Duration::ZERO, |started| at.saturating_duration_since(started));
        format!("{} {text}", stamp_text(since_start))
    }
}

impl Plain {
    /// Prints to a stream.
    pub(super) fn new(out: Box<dyn Write + Send>) -> Plain {
        Plain {
            out,
            steps: BTreeMap::new(),
            updated: BTreeSet::new(),
            current: None,
            numbers: 0,
            something_is_printed: false,
            warnings: Vec::new(),
        }
    }

    fn write(&mut self, text: &str) {
        // A closed pipe: nobody reads, and the build goes on.
        let _ = self.out.write_all(text.as_bytes());
    }

    /// Changes a known step; it has something to print once it has started.
    fn update(&mut self, task: TaskId, now: Instant, change: impl FnOnce(&mut PlainStep)) {
        let Some(step) = self.steps.get_mut(&task) else { return };
        change(step);
        if step.news == 0 && self.current != Some(task) {
            step.news_since = now;
        }
        step.news += 1;
        if step.step.started.is_some() {
            self.updated.insert(task);
        }
    }

    fn notice(&mut self, text: &str) {
        let current = self.current.and_then(|task| self.steps.get_mut(&task));
        let line_is_open = current.is_some_and(|step| std::mem::take(&mut step.open_printed) > 0);
        let line_end = if line_is_open { "\n" } else { "" };
        self.write(&format!("{line_end}note: {}\n", one_line(text)));
    }

    /// Prints what a step has to say and makes it current.
    fn print_step(&mut self, now: Instant, task: TaskId) {
        let Some(mut step) = self.steps.remove(&task) else { return };
        if step.number == 0 {
            self.numbers += 1;
            step.number = self.numbers;
        }
        let number = step.number;
        let mut text = String::new();
        if self.current != Some(task) {
            self.leave_current(&mut text);
            step.news = 0;
            step.news_since = now;
            if std::mem::replace(&mut self.something_is_printed, true) {
                text.push('\n');
            }
            text.push_str(&format!("#{number} {}\n", step.step.title));
        }
        if !step.notes.is_empty() || !step.updated_parts.is_empty() {
            end_open_line(&mut text, &mut step);
        }
        for note in step.notes.drain(..) {
            text.push_str(&format!("#{number} {note}\n"));
        }
        print_parts(&mut text, &mut step);
        print_lines(&mut text, &mut step);
        self.current = Some(task);
        if let Some((at, outcome)) = &step.step.ended {
            self.current = None;
            let end = match outcome {
                Outcome::Done => format!("DONE {:.1}s", step.step.elapsed(*at).as_secs_f64()),
                Outcome::Cached => "CACHED".to_owned(),
                Outcome::Canceled => "CANCELED".to_owned(),
                Outcome::Failed(message) => format!("ERROR: {}", one_line(message)),
            };
            text.push_str(&format!("#{number} {end}\n"));
        }
        self.steps.insert(task, step);
        self.updated.remove(&task);
        self.write(&text);
    }

    fn leave_current(&mut self, text: &mut String) {
        let Some(old) = self.current.and_then(|task| self.steps.get_mut(&task)) else { return };
        end_open_line(text, old);
        text.push_str(&format!("#{} ...\n", old.number));
        old.news = 0;
    }

    /// Decides whose turn it is.
    fn print(&mut self, now: Instant) {
        let (mut completed, mut rest) = (Vec::new(), BTreeSet::new());
        for task in &self.updated {
            match &self.steps[task].step.ended {
                Some((at, _)) => completed.push((*at, *task)),
                None => _ = rest.insert(*task),
            }
        }
        completed.sort();
        let current = self.current;
        let current_is_completed = completed.iter().any(|(_, task)| Some(*task) == current);
        if let Some(task) = current.filter(|_| current_is_completed) {
            self.print_step(now, task);
        }
        for (_, task) in completed {
            if Some(task) != current {
                self.print_step(now, task);
            }
        }
        if rest.is_empty() {
            self.stay_with_a_running_step(now);
            return;
        }
        if let Some(task) = current.filter(|task| rest.contains(task)) {
            self.print_step(now, task);
        }
        self.share(now, rest);
    }

    fn stay_with_a_running_step(&mut self, now: Instant) {
        let is_running = |task: &TaskId| self.steps[task].step.is_running();
        if self.current.as_ref().is_some_and(is_running) {
            return;
        }
        if let Some(task) = self.steps.keys().copied().find(is_running) {
            self.print_step(now, task);
        }
    }

    /// Gives the turn to another step when the current one has had its share.
    fn share(&mut self, now: Instant, mut rest: BTreeSet<TaskId>) {
        let current = self.current.filter(|task| self.steps[task].step.is_running());
        rest.extend(current);
        let speeds: Vec<(TaskId, Duration, f64)> = rest
            .iter()
            .map(|task| {
                let step = &self.steps[task];
                let since = now.saturating_duration_since(step.news_since);
                (*task, since, f64::from(step.news) / since.as_secs_f64().max(0.001))
            })
            .collect();
        let Some((fastest, _, _)) = speeds.iter().max_by(|left, right| left.2.total_cmp(&right.2)).copied() else {
            return;
        };
        let Some(current) = current else {
            self.print_step(now, fastest);
            return;
        };
        let late = speeds.iter().find(|(task, waited, _)| *task != current && *waited > MAX_DELAY);
        if let Some((task, _, _)) = late {
            self.print_step(now, *task);
            return;
        }
        let sum: f64 = speeds.iter().map(|(_, _, speed)| speed).sum();
        let Some((_, stayed, speed)) = speeds.iter().find(|(task, _, _)| *task == current) else { return };
        let share = if sum > 0.0 { speed / sum } else { 0.0 };
        if fastest != current && ANTI_FLICKER.as_secs_f64() / (1.0 - share) < stayed.as_secs_f64() {
            self.print_step(now, fastest);
        }
    }

    fn print_warnings(&mut self) {
        for warning in std::mem::take(&mut self.warnings) {
            let gap = if std::mem::replace(&mut self.something_is_printed, true) { "\n" } else { "" };
            self.write(&format!("{gap}{}\n", warning.trim_end_matches('\n')));
        }
    }

    fn print_failures(&mut self) {
        let mut failed: Vec<(Option<Instant>, String)> = self
            .steps
            .values()
            .filter(|step| step.step.has_failed() && !step.last_lines.is_empty())
            .map(|step| (step.step.started, failure_report(&step.step.title, step.last_lines.iter())))
            .collect();
        failed.sort_by_key(|(started, _)| *started);
        for (_, report) in failed {
            self.write(&report);
        }
    }
}

/// A failed step's last lines between rules, as BuildKit repeats them at the end.
pub(super) fn failure_report<'a>(title: &str, lines: impl Iterator<Item = &'a String>) -> String {
    let mut report = format!("------\n > {title}:\n");
    for line in lines {
        report.push_str(line);
        report.push('\n');
    }
    report.push_str("------\n");
    report
}

fn end_open_line(text: &mut String, step: &mut PlainStep) {
    if step.open_printed > 0 && step.lines.is_empty() {
        text.push('\n');
        step.open_printed = 0;
    }
}

/// Prints the parts that moved enough.
fn print_parts(text: &mut String, step: &mut PlainStep) {
    for place in std::mem::take(&mut step.updated_parts) {
        let part = &step.step.parts[place];
        if let Some((bytes, at)) = step.printed_parts[place]
            && !part.done
        {
            let share = if part.total > 0 { (part.current as f64 - bytes as f64) / part.total as f64 } else { 0.0 };
            if share < PART_SHARE && part.changed.saturating_duration_since(at) < PART_INTERVAL {
                continue;
            }
        }
        step.printed_parts[place] = Some((part.current, part.changed));
        let mut line = format!("#{} {}", step.number, part.name);
        let amount = part.amount();
        if !amount.is_empty() {
            line.push_str(&format!(" {amount}"));
        }
        let seconds = part.changed.saturating_duration_since(part.started).as_secs_f64();
        if seconds > 0.01 {
            line.push_str(&format!(" {seconds:.1}s"));
        }
        line.push_str(if part.done { " done\n" } else { "\n" });
        text.push_str(&line);
    }
}

/// Prints whole lines, and the beginning of the line that the command is at.
fn print_lines(text: &mut String, step: &mut PlainStep) {
    let ending = if step.step.ended.is_some() { step.splitter.rest() } else { None };
    if let Some(line) = ending {
        step.line(line.at, &line.text);
    }
    for line in std::mem::take(&mut step.lines) {
        push_unprinted(text, step.number, &line, step.open_printed);
        text.push('\n');
        step.open_printed = 0;
    }
    step.held = 0;
    if let Some(open) = step.splitter.open() {
        let line = step.stamped(open.at, &open.text);
        push_unprinted(text, step.number, &line, step.open_printed);
        step.open_printed = line.len();
    }
}

/// Adds what is not on the screen of a line; that sanitizing keeps a beginning a beginning is a property of `text`.
fn push_unprinted(text: &mut String, number: usize, line: &str, printed: usize) {
    match printed {
        0 => text.push_str(&format!("#{number} {line}")),
        printed => text.push_str(line.get(printed..).unwrap_or_default()),
    }
}

impl Display for Plain {
    fn take(&mut self, now: Instant, event: Event) {
        match event {
            Event::Announced { task, title } => {
                self.steps.entry(task).or_insert_with(|| PlainStep::new(&title, now));
            }
            Event::Started { task, at } => self.update(task, now, |step| _ = step.step.started.get_or_insert(at)),
            Event::Note { task, text } => self.update(task, now, |step| step.notes.push(one_line(&text))),
            Event::Output { task, at, bytes, .. } => {
                self.update(task, now, |step| step.output(at, &bytes));
                if self.steps.get(&task).is_some_and(|step| step.held > HELD) {
                    self.print_step(now, task);
                }
            }
            Event::Part { task, part, name, current, total, done } => {
                let news = PartNews { id: part, name, current, total, done };
                self.update(task, now, |step| {
                    let place = step.step.part(now, news);
                    step.printed_parts.resize(step.step.parts.len(), None);
                    step.updated_parts.insert(place);
                });
            }
            Event::Ended { task, at, outcome } => self.update(task, now, |step| step.step.end(at, outcome)),
            Event::Warning { rendered, .. } => self.warnings.push(rendered),
            Event::Notice(text) => self.notice(&text),
        }
    }

    fn refresh(&mut self, now: Instant) {
        self.print(now);
        // A closed pipe, as in `write`.
        let _ = self.out.flush();
    }

    fn finish(&mut self, now: Instant) {
        self.print(now);
        // What never ended (the build was interrupted) is printed all the same.
        for task in std::mem::take(&mut self.updated) {
            self.print_step(now, task);
        }
        let mut text = String::new();
        if let Some(step) = self.current.and_then(|task| self.steps.get_mut(&task)) {
            end_open_line(&mut text, step);
        }
        self.write(&text);
        self.print_warnings();
        self.print_failures();
        // A closed pipe, as in `write`.
        let _ = self.out.flush();
    }
}
