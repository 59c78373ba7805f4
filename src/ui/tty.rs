//! Progress on a terminal: the running steps, redrawn in place, as BuildKit's `ttyDisplay`.
//!
//! What is shown is a pure function of the steps, the time and the terminal's size ([`frame`]); indicatif only replaces
//! one frame by the next. The cursor is never hidden, so a build that is killed leaves no terminal without one. At the
//! end the frame is cleared and everything is printed once more in full, so that nothing scrolled away unseen.

mod frame;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::plain::failure_report;
use super::step::{PartNews, Step};
use super::text::{LineKind, Lines, one_line, stamp_text};
use super::{Display, UiEnvironment};
use crate::progress::{Event, TaskId};
use frame::{Extent, Frame, Palette, Size};

/// Lines kept of each step's output: those shown while it runs, and those repeated when it fails.
const KEPT: usize = 10;

/// Draws on a terminal.
pub(super) struct Tty {
    bars: MultiProgress,
    bar: ProgressBar,
    size: Box<dyn Fn() -> Size + Send>,
    /// The same terminal, for what stays.
    out: Box<dyn Write + Send>,
    palette: Palette,
    log_lines: usize,
    began: Instant,
    steps: BTreeMap<TaskId, TtyStep>,
    warnings: Vec<String>,
}

/// A step with the last lines of its output.
pub(super) struct TtyStep {
    step: Step,
    splitter: Lines,
    lines: VecDeque<String>,
    bytes: u64,
    notes: Vec<String>,
}

impl TtyStep {
    fn new(title: &str) -> TtyStep {
        TtyStep {
            step: Step::new(title),
            splitter: Lines::default(),
            lines: VecDeque::new(),
            bytes: 0,
            notes: Vec::new(),
        }
    }

    fn output(&mut self, at: Instant, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for line in self.splitter.push(bytes, at).into_iter().filter(|line| line.kind == LineKind::Whole) {
            self.line(line.at, &line.text);
        }
    }

    fn line(&mut self, at: Instant, text: &str) {
        let since_start = self.step.started.map(|started| at.saturating_duration_since(started)).unwrap_or_default();
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{} {text}", stamp_text(since_start)));
    }

    /// The last lines as a terminal shows them: with the line that the command is at, without time stamps.
    fn shown(&self, count: usize) -> Vec<String> {
        let open = self.splitter.current().map(|line| line.text);
        let whole = self.lines.iter().map(|line| line.split_once(' ').map_or("", |(_, text)| text).to_owned());
        let mut lines: Vec<String> = whole.chain(open).filter(|line| !line.trim().is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }
}

impl Tty {
    /// Draws on standard error.
    pub(super) fn on_stderr(environment: &UiEnvironment, began: Instant) -> Tty {
        let fallback = Size {
            columns: usize::from(environment.columns.unwrap_or(80)),
            lines: usize::from(environment.lines.unwrap_or(24)),
        };
        let size = move || match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { columns: usize::from(size.ws_col), lines: usize::from(size.ws_row) }
            }
            _ => fallback,
        };
        let target = ProgressDrawTarget::stderr();
        Tty::new(target, Box::new(size), Box::new(std::io::stderr()), environment, began)
    }

    fn new(
        target: ProgressDrawTarget,
        size: Box<dyn Fn() -> Size + Send>,
        out: Box<dyn Write + Send>,
        environment: &UiEnvironment,
        began: Instant,
    ) -> Tty {
        let bars = MultiProgress::with_draw_target(target);
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        let palette = if environment.no_color { Palette::Plain } else { Palette::Colored };
        let log_lines = usize::from(environment.log_lines);
        Tty { bars, bar, size, out, palette, log_lines, began, steps: BTreeMap::new(), warnings: Vec::new() }
    }

    fn step(&mut self, task: TaskId, change: impl FnOnce(&mut TtyStep)) {
        if let Some(step) = self.steps.get_mut(&task) {
            change(step);
        }
    }

    fn frame(&self, now: Instant, extent: Extent) -> Vec<String> {
        let (size, steps) = ((self.size)(), self.steps.values());
        let frame = Frame { now, began: self.began, size, extent, palette: self.palette, log_lines: self.log_lines };
        frame.draw(&steps.collect::<Vec<_>>())
    }

    fn print(&mut self, text: &str) {
        // A terminal that is gone: nobody reads, and the build goes on.
        let _ = self.out.write_all(text.as_bytes());
    }
}

impl Display for Tty {
    fn take(&mut self, now: Instant, event: Event) {
        match event {
            Event::Announced { task, title } => {
                self.steps.entry(task).or_insert_with(|| TtyStep::new(&title));
            }
            Event::Started { task, at } => self.step(task, |step| _ = step.step.started.get_or_insert(at)),
            Event::Output { task, at, bytes, .. } => self.step(task, |step| step.output(at, &bytes)),
            Event::Part { task, part, name, current, total, done } => {
                let news = PartNews { id: part, name, current, total, done };
                self.step(task, |step| _ = step.step.part(now, news));
            }
            Event::Ended { task, at, outcome } => self.step(task, |step| {
                if let Some(line) = step.splitter.rest() {
                    step.line(line.at, &line.text);
                }
                step.step.end(at, outcome);
                if !step.step.has_failed() {
                    step.lines = VecDeque::new();
                }
            }),
            Event::Note { task, text } => self.step(task, |step| step.notes.push(one_line(&text))),
            Event::Warning { rendered, .. } => self.warnings.push(rendered),
            Event::Notice(text) => {
                // A terminal that is gone, as in `print`.
                let _ = self.bars.println(format!("note: {}", one_line(&text)));
            }
        }
    }

    fn refresh(&mut self, now: Instant) {
        self.bar.set_message(self.frame(now, Extent::Screen).join("\n"));
    }

    fn finish(&mut self, now: Instant) {
        self.bar.finish_and_clear();
        let mut text = String::new();
        if self.steps.values().any(|step| step.step.started.is_some()) {
            for line in self.frame(now, Extent::All) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        for warning in std::mem::take(&mut self.warnings) {
            text.push_str(&format!("\n{}\n", warning.trim_end_matches('\n')));
        }
        for step in self.steps.values().filter(|step| step.step.has_failed() && !step.lines.is_empty()) {
            text.push_str(&failure_report(&step.step.title, step.lines.iter()));
        }
        self.print(&text);
    }
}

#[cfg(test)]
mod tests;
