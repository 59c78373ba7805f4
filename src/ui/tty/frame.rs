//! One frame of the terminal: steps, time and size → lines. Pure.

use std::time::Instant;

use super::super::step::StepPart;
use super::super::text::{columns, cut};
use super::TtyStep;
use crate::progress::Outcome;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) lines: usize,
}

/// How much of the build a frame shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What fits on the screen, running steps first.
    Screen,
    /// Everything, at the end.
    All,
}

/// Whether lines are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    /// With BuildKit's colours.
    Colored,
    /// Without (`NO_COLOR`).
    Plain,
}

/// What a line means, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Running,
    Done,
    Canceled,
    Failed,
    Output,
}

/// What a frame depends on besides the steps.
pub(super) struct Frame {
    pub(super) now: Instant,
    pub(super) began: Instant,
    pub(super) size: Size,
    pub(super) extent: Extent,
    pub(super) palette: Palette,
    pub(super) log_lines: usize,
}

/// A step or a part of one: one line, and for a running step the output under it.
struct Job<'a> {
    name: String,
    amount: String,
    bar: Option<f64>,
    /// None for a sentence.
    seconds: Option<f64>,
    tone: Tone,
    output: Option<&'a TtyStep>,
}

/// A narrower terminal shows no steps, as in BuildKit.
const NARROWEST: usize = 12;
/// Columns of a part's bar, and the room for its name that there must be besides.
const BAR: usize = 20;
const NAME_BESIDE_BAR: usize = 30;

impl Frame {
    /// Draws the steps, which stand in order of announcement.
    pub(super) fn draw(&self, steps: &[&TtyStep]) -> Vec<String> {
        let mut started: Vec<&TtyStep> = steps.iter().copied().filter(|step| step.step.started.is_some()).collect();
        started.sort_by_key(|step| step.step.started);
        let jobs: Vec<Job<'_>> = started.iter().flat_map(|step| self.jobs(step)).collect();
        let mut lines = vec![self.header(steps)];
        if self.extent == Extent::All {
            lines.extend(jobs.iter().filter_map(|job| self.line(job)));
            return lines;
        }
        // One line for the header, one left free so that the last line never scrolls the screen.
        let room = self.size.lines.saturating_sub(2);
        let shown = choose(jobs, room);
        let mut free = room - shown.len();
        let output_lines = self.share_output(&shown, &mut free);
        for (job, count) in shown.iter().zip(output_lines) {
            lines.extend(self.line(job));
            for text in job.output.map(|step| step.shown(count)).unwrap_or_default() {
                let text = format!(" => => # {}", text.replace('\t', "    "));
                lines.push(self.paint(Tone::Output, cut(&text, self.width()).to_owned()));
            }
        }
        lines
    }

    /// The last column stays free: some terminals wrap when it is written.
    fn width(&self) -> usize {
        self.size.columns.saturating_sub(1)
    }

    fn header(&self, steps: &[&TtyStep]) -> String {
        let ended = steps.iter().filter(|step| step.step.ended.is_some()).count();
        let seconds = self.now.saturating_duration_since(self.began).as_secs_f64();
        let end = if self.extent == Extent::All && steps.iter().any(|step| step.step.has_failed()) {
            " FAILED"
        } else if self.extent == Extent::All && steps.iter().all(|step| !step.step.is_running()) {
            " FINISHED"
        } else {
            ""
        };
        let header = format!("[+] Building {seconds:.1}s ({ended}/{}){end}", steps.len());
        cut(&header, self.width()).to_owned()
    }

    fn jobs<'a>(&self, step: &'a TtyStep) -> Vec<Job<'a>> {
        let title = &step.step.title;
        let (name, tone) = match &step.step.ended {
            None => (title.clone(), Tone::Running),
            Some((_, Outcome::Done)) => (title.clone(), Tone::Done),
            Some((_, Outcome::Cached)) => (format!("CACHED {title}"), Tone::Done),
            Some((_, Outcome::Canceled)) => (format!("CANCELED {title}"), Tone::Canceled),
            Some((_, Outcome::Failed(_))) => (format!("ERROR {title}"), Tone::Failed),
        };
        let seconds = step.step.elapsed(self.now).as_secs_f64();
        let name = name.replace('\t', " ");
        let mut jobs = vec![Job { name, amount: String::new(), bar: None, seconds: Some(seconds), tone, output: None }];
        // What is done makes room on the screen; all is said again at the end.
        if tone == Tone::Running || self.extent == Extent::All {
            jobs.extend(step.notes.iter().map(|note| Job {
                name: format!("=> {note}"),
                amount: String::new(),
                bar: None,
                seconds: None,
                tone: if tone == Tone::Running { Tone::Running } else { Tone::Output },
                output: None,
            }));
        }
        if tone == Tone::Running {
            jobs.last_mut().expect("the step itself is there").output = Some(step);
        }
        jobs.extend(step.step.parts.iter().map(|part| self.part_job(part, tone)));
        jobs
    }

    fn part_job(&self, part: &StepPart, step: Tone) -> Job<'static> {
        let goes_on = !part.done && step == Tone::Running;
        let end = if goes_on { self.now } else { part.changed };
        let seconds = Some(end.saturating_duration_since(part.started).as_secs_f64());
        let bar = (goes_on && part.total > 0).then(|| (part.current as f64 / part.total as f64).min(1.0));
        let tone = if goes_on { Tone::Running } else { Tone::Done };
        Job { name: format!("=> {}", part.name), amount: part.amount(), bar, seconds, tone, output: None }
    }

    /// How many lines of output stand under each job: as many as are free, the busiest first.
    fn share_output(&self, jobs: &[Job<'_>], free: &mut usize) -> Vec<usize> {
        let mut counts = vec![0; jobs.len()];
        let mut busiest: Vec<usize> = (0..jobs.len()).filter(|place| jobs[*place].output.is_some()).collect();
        busiest.sort_by_key(|place| std::cmp::Reverse(jobs[*place].output.map(|step| step.bytes)));
        for place in busiest {
            let wanted = jobs[place].output.map_or(0, |step| step.shown(self.log_lines).len());
            counts[place] = wanted.min(*free);
            *free -= counts[place];
        }
        counts
    }

    /// ` => NAME [bar] amount      1.2s`; none on a terminal that is too narrow.
    fn line(&self, job: &Job<'_>) -> Option<String> {
        let Some(seconds) = job.seconds else {
            return Some(self.paint(job.tone, cut(&format!(" => {}", job.name), self.width()).to_owned()));
        };
        let seconds = if seconds < 0.05 { 0.0 } else { seconds };
        let timer = format!("{seconds:.1}s");
        let mut left = self.width().checked_sub(" => ".len() + 1 + timer.len())?;
        let mut extras = String::new();
        if left > NARROWEST + job.amount.len() && !job.amount.is_empty() {
            extras = format!(" {}", job.amount);
            left -= extras.len();
        }
        if let Some(share) = job.bar
            && left >= BAR + 3 + NAME_BESIDE_BAR
        {
            extras = format!(" {}{extras}", bar_text(share));
            left -= BAR + 3;
        }
        if left < NARROWEST {
            return None;
        }
        let name = cut(&job.name, left);
        let text = format!(" => {name}{extras}");
        let gap = self.width().saturating_sub(columns(&text) + timer.len()).max(1);
        Some(self.paint(job.tone, format!("{text}{}{timer}", " ".repeat(gap))))
    }

    fn paint(&self, tone: Tone, text: String) -> String {
        let code = match tone {
            _ if self.palette == Palette::Plain => return text,
            Tone::Running => return text,
            Tone::Done => "34",
            Tone::Canceled => "33",
            Tone::Failed => "31",
            Tone::Output => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The jobs that fit: all that run, then the latest of the others, in their order.
fn choose(jobs: Vec<Job<'_>>, room: usize) -> Vec<Job<'_>> {
    if jobs.len() <= room {
        return jobs;
    }
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|place| (jobs[*place].tone != Tone::Running, std::cmp::Reverse(*place)));
    order.truncate(room);
    let keep: std::collections::BTreeSet<usize> = order.into_iter().collect();
    jobs.into_iter().enumerate().filter(|(place, _)| keep.contains(place)).map(|(_, job)| job).collect()
}

fn bar_text(share: f64) -> String {
    let full = (share * BAR as f64) as usize;
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full))
}
