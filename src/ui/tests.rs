//! Transcripts: a sequence of events with fixed times → what is printed, for each way to show it.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::*;
use crate::diagnostic::{Diagnostic, Span};
use crate::progress::{Outcome, PartId, Stream};

/// A stream that can be read again.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Kept {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Events at milliseconds after the start.
pub(super) struct Script {
    pub(super) began: Instant,
    pub(super) events: Vec<(u64, Event)>,
}

impl Script {
    pub(super) fn new() -> Script {
        Script { began: Instant::now(), events: Vec::new() }
    }

    fn add(mut self, at: u64, event: impl FnOnce(Instant) -> Event) -> Script {
        let event = event(self.began + Duration::from_millis(at));
        self.events.push((at, event));
        self
    }

    pub(super) fn task(self, at: u64, task: u64, title: &str) -> Script {
        self.add(at, |_| Event::Announced { task: TaskId(task), title: title.to_owned() })
    }

    pub(super) fn start(self, at: u64, task: u64) -> Script {
        self.add(at, |at| Event::Started { task: TaskId(task), at })
    }

    pub(super) fn note(self, at: u64, task: u64, text: &str) -> Script {
        self.add(at, |_| Event::Note { task: TaskId(task), text: text.to_owned() })
    }

    pub(super) fn print(self, at: u64, task: u64, text: &str) -> Script {
        let bytes = text.as_bytes().to_vec();
        self.add(at, |at| Event::Output { task: TaskId(task), stream: Stream::Stderr, at, bytes })
    }

    pub(super) fn part(self, at: u64, task: u64, part: u64, name: &str, current: u64, total: u64) -> Script {
        let (task, part, name, done) = (TaskId(task), PartId(part), name.to_owned(), current == total);
        self.add(at, |_| Event::Part { task, part, name, current, total, done })
    }

    pub(super) fn end(self, at: u64, task: u64, outcome: Outcome) -> Script {
        self.add(at, |at| Event::Ended { task: TaskId(task), at, outcome })
    }

    pub(super) fn notice(self, at: u64, text: &str) -> Script {
        self.add(at, |_| Event::Notice(text.to_owned()))
    }

    pub(super) fn warning(self, at: u64, message: &str) -> Script {
        let diagnostic = Diagnostic::warning("StageNameCasing", Span::new(0, 4), message);
        self.add(at, |_| Event::Warning { diagnostic, rendered: format!("warning: {message}\n --> Dockerfile:1\n") })
    }

    /// Plays it: a drawing after every event.
    pub(super) fn play(&self, display: &mut dyn Display) {
        let mut last = self.began;
        for (at, event) in &self.events {
            last = self.began + Duration::from_millis(*at);
            display.take(last, event.clone());
            display.refresh(last);
        }
        display.finish(last);
    }

    fn plain(&self) -> String {
        let out = Kept::default();
        self.play(&mut plain::Plain::new(Box::new(out.clone())));
        out.text()
    }
}

fn failed(message: &str) -> Outcome {
    Outcome::Failed(message.to_owned())
}

#[test]
fn a_plain_build_reads_as_buildkits() {
    let script = Script::new()
        .task(0, 1, "[internal] load build definition from Dockerfile")
        .task(0, 2, "[1/3] FROM docker.io/library/alpine:3")
        .task(0, 3, "[2/3] COPY src /src")
        .task(0, 4, "[3/3] RUN make")
        .task(0, 5, "[unused 1/1] RUN never")
        .start(0, 1)
        .end(12, 1, Outcome::Done)
        .start(20, 2)
        .part(30, 2, 1, "sha256:aaaa", 0, 3_200_000)
        .part(130, 2, 1, "sha256:aaaa", 1_048_576, 3_200_000)
        .part(140, 2, 1, "sha256:aaaa", 1_050_000, 3_200_000)
        .part(330, 2, 1, "sha256:aaaa", 3_200_000, 3_200_000)
        .end(400, 2, Outcome::Done)
        .end(410, 3, Outcome::Cached)
        .start(420, 4)
        .note(420, 4, "cache miss: src/main.rs changed")
        .print(543, 4, "cc -c a.c\ncc -c ")
        .print(700, 4, "b.c\r\n")
        .print(800, 4, "\u{1b}[32mok\u{1b}[0m\tdone\u{7}\n")
        .end(1620, 4, Outcome::Done)
        .end(1620, 5, Outcome::Canceled);
    assert_eq!(
        script.plain(),
        "\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s

#2 [1/3] FROM docker.io/library/alpine:3
#2 sha256:aaaa 0B / 3.20MB
#2 sha256:aaaa 1.05MB / 3.20MB 0.1s
#2 sha256:aaaa 3.20MB / 3.20MB 0.3s done
#2 DONE 0.4s

#3 [2/3] COPY src /src
#3 CACHED

#4 [3/3] RUN make
#4 cache miss: src/main.rs changed
#4 0.123 cc -c a.c
#4 0.123 cc -c b.c
#4 0.380 ok\tdone\\u{7}
#4 DONE 1.2s
"
    );
}

#[test]
fn steps_that_run_at_once_are_printed_one_after_the_other_and_take_turns() {
    let script = Script::new()
        .task(0, 1, "[a 1/1] RUN slow")
        .task(0, 2, "[b 1/1] RUN chatty")
        .start(0, 1)
        .start(10, 2)
        .print(100, 1, "first\n")
        .print(200, 2, "held back\n")
        .print(300, 1, "an open line")
        .print(12_000, 2, "waited too long\n")
        .print(12_500, 1, ", closed\n")
        .end(13_000, 2, Outcome::Done)
        .end(14_000, 1, Outcome::Done);
    assert_eq!(
        script.plain(),
        "\
#1 [a 1/1] RUN slow
#1 0.100 first
#1 0.300 an open line
#1 ...

#2 [b 1/1] RUN chatty
#2 0.190 held back
#2 11.99 waited too long
#2 DONE 13.0s

#1 [a 1/1] RUN slow
#1 0.300 an open line, closed
#1 DONE 14.0s
"
    );
}

#[test]
fn a_failure_is_reported_with_its_last_lines_after_all_else() {
    let mut script = Script::new().task(0, 1, "[1/2] RUN make").task(0, 2, "[2/2] RUN sleep 9").start(0, 1).start(0, 2);
    for number in 1..=12 {
        script = script.print(100, 1, &format!("line {number}\n"));
    }
    let script = script
        .print(110, 1, "make: no rule")
        .end(200, 1, failed("process \"/bin/sh -c make\" did not complete successfully: exit code: 2"))
        .warning(200, "stage name 'A' should be lower case")
        .end(210, 2, Outcome::Canceled);
    let text = script.plain();
    let mut expected = String::from("#1 [1/2] RUN make\n");
    for number in 1..=12 {
        expected.push_str(&format!("#1 0.100 line {number}\n"));
    }
    expected.push_str("#1 0.110 make: no rule\n");
    expected.push_str("#1 ERROR: process \"/bin/sh -c make\" did not complete successfully: exit code: 2\n\n");
    expected.push_str("#2 [2/2] RUN sleep 9\n#2 CANCELED\n\n");
    expected.push_str("warning: stage name 'A' should be lower case\n --> Dockerfile:1\n");
    expected.push_str("------\n > [1/2] RUN make:\n");
    for number in 4..=12 {
        expected.push_str(&format!("0.100 line {number}\n"));
    }
    expected.push_str("0.110 make: no rule\n------\n");
    assert_eq!(text, expected);
}

#[test]
fn a_bar_that_overwrites_itself_is_printed_now_and_then() {
    let mut script = Script::new().task(0, 1, "RUN curl").start(0, 1);
    for percent in 0..100u64 {
        script = script.print(percent * 100, 1, &format!("\r{percent}%"));
    }
    let script = script.print(10_000, 1, "\r100%\n").end(10_100, 1, Outcome::Done);
    let expected = "#1 RUN curl\n#1 0.000 0%\n#1 5.000 50%\n#1 10.00 100%\n#1 DONE 10.1s\n";
    assert_eq!(script.plain(), expected);
}

#[test]
fn a_notice_stands_on_its_own_line_even_within_an_open_one() {
    let script = Script::new()
        .notice(0, "--builder is ignored")
        .task(0, 1, "RUN printf")
        .start(0, 1)
        .print(100, 1, "Continue? ")
        .notice(200, "slow\nnetwork")
        .print(300, 1, "yes\n")
        .end(400, 1, Outcome::Done);
    assert_eq!(
        script.plain(),
        "note: --builder is ignored\n#1 RUN printf\n#1 0.100 Continue? \nnote: slow network\n#1 0.100 Continue? yes\n#1 DONE \
         0.4s\n"
    );
}

#[test]
fn output_that_is_held_back_does_not_grow_without_end() {
    let mut script = Script::new().task(0, 1, "RUN sleep").task(0, 2, "RUN yes").start(0, 1).start(0, 2);
    let chunk = "y\n".repeat(8 << 10);
    for number in 0..100 {
        script = script.print(100 + number, 2, &chunk);
    }
    let out = Kept::default();
    let mut display = plain::Plain::new(Box::new(out.clone()));
    for (at, event) in &script.events {
        let now = script.began + Duration::from_millis(*at);
        display.take(now, event.clone());
    }
    let held = 100 * chunk.len() - out.text().matches("y\n").count() * 2;
    assert!(held <= 2 << 20, "{held} bytes are held back");
}

#[test]
fn a_build_that_is_interrupted_shows_what_ran() {
    let script = Script::new().task(0, 1, "RUN a").task(0, 2, "RUN b").start(0, 1).start(0, 2).print(10, 2, "half");
    assert_eq!(script.plain(), "#1 RUN a\n#1 ...\n\n#2 RUN b\n#2 0.010 half\n");
}

#[test]
fn raw_json_is_buildkits_solve_status() {
    let script = Script::new()
        .task(0, 1, "RUN make")
        .start(250, 1)
        .print(500, 1, "hi\n")
        .part(600, 1, 7, "sha256:aaaa", 5, 10)
        .part(700, 1, 7, "sha256:aaaa", 10, 10)
        .note(700, 1, "cache miss")
        .warning(700, "careful")
        .notice(700, "n")
        .end(1000, 1, failed("exit code: 1"))
        .end(1000, 2, Outcome::Canceled)
        .end(1000, 3, Outcome::Cached);
    let out = Kept::default();
    // 2024-02-29T23:59:59.5Z
    let began_at = UNIX_EPOCH + Duration::from_millis(1_709_251_199_500);
    script.play(&mut rawjson::RawJson::new(Box::new(out.clone()), script.began, began_at));
    let lines: Vec<serde_json::Value> = out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let digest = lines[0]["vertexes"][0]["digest"].as_str().unwrap().to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    let expected = serde_json::json!([
        {"vertexes": [{"digest": digest, "name": "RUN make"}]},
        {"vertexes": [{"digest": digest, "name": "RUN make", "started": "2024-02-29T23:59:59.750000000Z"}]},
        {"logs": [{"vertex": digest, "stream": 2, "data": "aGkK", "timestamp": "2024-03-01T00:00:00.000000000Z"}]},
        {"statuses": [{"id": "sha256:aaaa", "vertex": digest, "total": 10, "current": 5,
            "timestamp": "2024-03-01T00:00:00.100000000Z", "started": "2024-03-01T00:00:00.100000000Z"}]},
        {"statuses": [{"id": "sha256:aaaa", "vertex": digest, "total": 10, "current": 10,
            "timestamp": "2024-03-01T00:00:00.200000000Z", "started": "2024-03-01T00:00:00.100000000Z",
            "completed": "2024-03-01T00:00:00.200000000Z"}]},
        {"notes": [{"vertex": digest, "text": "cache miss"}]},
        {"warnings": [{"level": 1, "short": "U3RhZ2VOYW1lQ2FzaW5nOiBjYXJlZnVs",
            "detail": ["d2FybmluZzogY2FyZWZ1bAogLS0+IERvY2tlcmZpbGU6MQo="]}]},
        {"notes": [{"text": "n"}]},
        {"vertexes": [{"digest": digest, "name": "RUN make", "started": "2024-02-29T23:59:59.750000000Z",
            "completed": "2024-03-01T00:00:00.500000000Z", "error": "exit code: 1"}]},
    ]);
    assert_eq!(serde_json::Value::from(lines[..9].to_vec()), expected);
    assert_eq!(lines[9]["vertexes"][0]["error"], "context canceled");
    assert_eq!(lines[10]["vertexes"][0]["cached"], true);
}

#[test]
fn a_writer_that_fails_does_not_stop_the_build() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    let ui = Ui::draw(Box::new(plain::Plain::new(Box::new(Closed))));
    let task = crate::progress::Progress::new(ui.sink()).task("RUN yes");
    task.start();
    for _ in 0..40 {
        task.output(Stream::Stdout, &[b'y'; 64 << 10]);
    }
    ui.finish();
}

#[test]
fn all_that_was_sent_is_drawn_before_finish_returns() {
    let out = Kept::default();
    let ui = Ui::draw(Box::new(plain::Plain::new(Box::new(out.clone()))));
    let sink = ui.sink();
    let task = crate::progress::Progress::new(sink.clone()).task("RUN true");
    task.start();
    task.output(Stream::Stdout, b"last words");
    task.end(Outcome::Done);
    assert_eq!(ui.tail(task.id()), Vec::<String>::new());
    ui.finish();
    assert!(out.text().contains("last words\n#1 DONE"), "{}", out.text());
    // A worker that is late has nowhere to write, and must not wait.
    task.output(Stream::Stdout, &vec![b'y'; 4 << 20]);
    drop(sink);
}
