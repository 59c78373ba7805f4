//! Progress for programs: one JSON object per line, as BuildKit's `SolveStatus` (`client/graph.go`).
//!
//! What BuildKit has no word for (notes and notices) comes under `notes`, which its readers ignore.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::Digest as _;

use super::Display;
use crate::diagnostic::Diagnostic;
use crate::progress::{Event, Outcome, PartId, Stream, TaskId};

/// Writes one object per event.
pub(super) struct RawJson {
    out: Box<dyn Write + Send>,
    began: Instant,
    began_at: SystemTime,
    vertexes: HashMap<TaskId, Vertex>,
    parts: HashMap<PartId, Instant>,
}

#[derive(Default, Serialize)]
struct SolveStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<VertexStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<VertexLog>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<VertexWarning>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Note>,
}

#[derive(Clone, Serialize)]
struct Vertex {
    digest: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Serialize)]
struct VertexStatus {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    current: u64,
    timestamp: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Serialize)]
struct VertexLog {
    vertex: String,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct VertexWarning {
    level: u8,
    short: String,
    detail: Vec<String>,
}

#[derive(Serialize)]
struct Note {
    #[serde(skip_serializing_if = "Option::is_none")]
    vertex: Option<String>,
    text: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl RawJson {
    /// Writes to a stream; both times name the same moment.
    pub(super) fn new(out: Box<dyn Write + Send>, began: Instant, began_at: SystemTime) -> RawJson {
        RawJson { out, began, began_at, vertexes: HashMap::new(), parts: HashMap::new() }
    }

    fn time(&self, at: Instant) -> String {
        timestamp(self.began_at + at.saturating_duration_since(self.began))
    }

    fn vertex(&mut self, task: TaskId, change: impl FnOnce(&mut Vertex)) -> SolveStatus {
        let vertex = self.vertexes.entry(task).or_insert_with(|| new_vertex(task, ""));
        change(vertex);
        SolveStatus { vertexes: vec![vertex.clone()], ..SolveStatus::default() }
    }

    fn digest(&self, task: TaskId) -> String {
        self.vertexes.get(&task).map_or_else(|| new_vertex(task, "").digest, |vertex| vertex.digest.clone())
    }

    fn ended(&mut self, task: TaskId, at: Instant, outcome: Outcome) -> SolveStatus {
        let time = self.time(at);
        self.vertex(task, |vertex| {
            vertex.started.get_or_insert_with(|| time.clone());
            vertex.completed = Some(time);
            vertex.cached = outcome == Outcome::Cached;
            vertex.error = match outcome {
                Outcome::Done | Outcome::Cached => String::new(),
                // The end of the text by which BuildKit's readers tell cancelling from failing.
                Outcome::Canceled => "context canceled".to_owned(),
                Outcome::Failed(message) => message,
            };
        })
    }

    fn status(&mut self, now: Instant, event: Event) -> SolveStatus {
        match event {
            Event::Announced { task, title } => {
                self.vertexes.insert(task, new_vertex(task, &title));
                self.vertex(task, |_| {})
            }
            Event::Started { task, at } => {
                let time = self.time(at);
                self.vertex(task, |vertex| _ = vertex.started.get_or_insert(time))
            }
            Event::Ended { task, at, outcome } => self.ended(task, at, outcome),
            Event::Part { task, part, name, current, total, done } => {
                let began = *self.parts.entry(part).or_insert(now);
                let started = self.time(began);
                let timestamp = self.time(now);
                let completed = done.then(|| timestamp.clone());
                let vertex = self.digest(task);
                let status = VertexStatus { id: name, vertex, total, current, timestamp, started, completed };
                SolveStatus { statuses: vec![status], ..SolveStatus::default() }
            }
            Event::Output { task, stream, at, bytes } => {
                let stream = match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                };
                let (vertex, timestamp) = (self.digest(task), self.time(at));
                let log = VertexLog { vertex, stream, data: STANDARD.encode(bytes), timestamp };
                SolveStatus { logs: vec![log], ..SolveStatus::default() }
            }
            Event::Warning { diagnostic, rendered } => {
                SolveStatus { warnings: vec![warning(&diagnostic, &rendered)], ..SolveStatus::default() }
            }
            Event::Note { task, text } => {
                let vertex = Some(self.digest(task));
                SolveStatus { notes: vec![Note { vertex, text }], ..SolveStatus::default() }
            }
            Event::Notice(text) => SolveStatus { notes: vec![Note { vertex: None, text }], ..SolveStatus::default() },
        }
    }
}

/// BuildKit names a vertex by a digest; ours is of the number and the title, so two builds of one file can be compared.
fn new_vertex(task: TaskId, title: &str) -> Vertex {
    let hash = sha2::Sha256::digest(format!("rbuild task {} {title}", task.0));
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Vertex {
        digest: format!("sha256:{hex}"),
        name: title.to_owned(),
        started: None,
        completed: None,
        cached: false,
        error: String::new(),
    }
}

fn warning(diagnostic: &Diagnostic, rendered: &str) -> VertexWarning {
    let short = match diagnostic.rule {
        Some(rule) => format!("{rule}: {}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    VertexWarning { level: 1, short: STANDARD.encode(short), detail: vec![STANDARD.encode(rendered)] }
}

/// A time as RFC 3339 in UTC with nanoseconds, as Go writes it.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// Days since 1970-01-01 → year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms",
/// civil_from_days).
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

impl Display for RawJson {
    fn take(&mut self, now: Instant, event: Event) {
        let status = self.status(now, event);
        if let Ok(mut line) = serde_json::to_vec(&status) {
            line.push(b'\n');
            // A closed pipe: nobody reads, and the build goes on.
            let _ = self.out.write_all(&line);
        }
    }

    fn refresh(&mut self, _now: Instant) {}

    fn finish(&mut self, _now: Instant) {
        // A closed pipe, as in `take`.
        let _ = self.out.flush();
    }
}
