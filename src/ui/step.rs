//! What every way to draw has to remember of a task: when it ran, how it ended, how far its parts are.

use std::time::{Duration, Instant};

use super::text::{amount_text, one_line};
use crate::progress::{Outcome, PartId};

/// A task as it is drawn.
#[derive(Debug)]
pub(super) struct Step {
    /// Its title in one line.
    pub(super) title: String,
    /// When it began.
    pub(super) started: Option<Instant>,
    /// When and how it ended.
    pub(super) ended: Option<(Instant, Outcome)>,
    /// Its measured parts in order of appearance.
    pub(super) parts: Vec<StepPart>,
}

/// A measured part as it is drawn.
#[derive(Debug)]
pub(super) struct StepPart {
    pub(super) id: PartId,
    pub(super) name: String,
    pub(super) current: u64,
    pub(super) total: u64,
    pub(super) started: Instant,
    /// When it last changed.
    pub(super) changed: Instant,
    pub(super) done: bool,
}

impl Step {
    /// A task that was announced.
    pub(super) fn new(title: &str) -> Step {
        Step { title: one_line(title), started: None, ended: None, parts: Vec::new() }
    }

    /// Whether its work goes on.
    pub(super) fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    /// Whether it failed.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.ended, Some((_, Outcome::Failed(_))))
    }

    /// Takes its end in. What was cached or failed before its start was shown counts as started then.
    pub(super) fn end(&mut self, at: Instant, outcome: Outcome) {
        if outcome != Outcome::Canceled {
            self.started.get_or_insert(at);
        }
        self.ended = Some((at, outcome));
    }

    /// The time since its start, up to its end.
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        let end = self.ended.as_ref().map_or(now, |(at, _)| *at);
        self.started.map_or(Duration::ZERO, |started| end.saturating_duration_since(started))
    }

    /// Takes news of a part in; gives its place.
    pub(super) fn part(&mut self, now: Instant, news: PartNews) -> usize {
        let place = self.parts.iter().position(|part| part.id == news.id).unwrap_or_else(|| {
            let PartNews { id, .. } = news;
            let part =
                StepPart { id, name: String::new(), current: 0, total: 0, started: now, changed: now, done: false };
            self.parts.push(part);
            self.parts.len() - 1
        });
        let part = &mut self.parts[place];
        part.name = one_line(&news.name);
        part.current = news.current;
        part.total = news.total;
        part.changed = now;
        part.done = news.done;
        place
    }
}

/// An event about a part.
pub(super) struct PartNews {
    pub(super) id: PartId,
    pub(super) name: String,
    pub(super) current: u64,
    pub(super) total: u64,
    pub(super) done: bool,
}

impl StepPart {
    /// `1.05MB / 3.20MB`, empty where nothing is known.
    pub(super) fn amount(&self) -> String {
        amount_text(self.current, self.total)
    }
}
