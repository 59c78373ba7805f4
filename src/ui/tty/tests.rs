//! Frames at several sizes, and what a terminal shows after indicatif has drawn them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::TermLike;

use super::super::tests::{Kept, Script};
use super::*;
use crate::progress::Outcome;

/// A terminal in memory: rows of characters, a cursor, wrapping at the right edge, scrolling at the bottom.
#[derive(Debug, Clone)]
struct Screen(Arc<Mutex<Cells>>);

#[derive(Debug)]
struct Cells {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    size: (usize, usize),
    scrolled: usize,
}

impl Screen {
    fn new(lines: usize, columns: usize) -> Screen {
        let rows = vec![vec![' '; columns]; lines];
        Screen(Arc::new(Mutex::new(Cells { rows, row: 0, column: 0, size: (lines, columns), scrolled: 0 })))
    }

    fn text(&self) -> Vec<String> {
        let cells = self.0.lock().unwrap();
        let mut rows: Vec<String> =
            cells.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    fn scrolled(&self) -> usize {
        self.0.lock().unwrap().scrolled
    }
}

impl Cells {
    fn put(&mut self, text: &str) {
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\u{1b}' => _ = characters.find(char::is_ascii_alphabetic),
                '\r' => self.column = 0,
                '\n' => self.new_line(),
                character => {
                    // As xterm: the last column is filled first, and the cursor wraps with the next character.
                    if self.column == self.size.1 {
                        self.new_line();
                    }
                    self.rows[self.row][self.column] = character;
                    self.column += 1;
                }
            }
        }
    }

    fn new_line(&mut self) {
        self.column = 0;
        self.row += 1;
        if self.row == self.size.0 {
            self.rows.remove(0);
            self.rows.push(vec![' '; self.size.1]);
            self.row -= 1;
            self.scrolled += 1;
        }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        self.0.lock().unwrap().size.1 as u16
    }

    fn height(&self) -> u16 {
        self.0.lock().unwrap().size.0 as u16
    }

    fn move_cursor_up(&self, lines: usize) -> std::io::Result<()> {
        let mut cells = self.0.lock().unwrap();
        cells.row = cells.row.saturating_sub(lines);
        Ok(())
    }

    fn move_cursor_down(&self, lines: usize) -> std::io::Result<()> {
        let mut cells = self.0.lock().unwrap();
        cells.row = (cells.row + lines).min(cells.size.0 - 1);
        Ok(())
    }

    fn move_cursor_right(&self, columns: usize) -> std::io::Result<()> {
        let mut cells = self.0.lock().unwrap();
        cells.column = (cells.column + columns).min(cells.size.1 - 1);
        Ok(())
    }

    fn move_cursor_left(&self, columns: usize) -> std::io::Result<()> {
        let mut cells = self.0.lock().unwrap();
        cells.column = cells.column.saturating_sub(columns);
        Ok(())
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.0.lock().unwrap().put(&format!("{text}\n"));
        Ok(())
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.0.lock().unwrap().put(text);
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        let mut cells = self.0.lock().unwrap();
        let row = cells.row;
        cells.rows[row].fill(' ');
        cells.column = 0;
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().put(std::str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn on_screen(lines: usize, columns: usize, began: Instant) -> (Screen, Tty) {
    let screen = Screen::new(lines, columns);
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
    let size = move || Size { columns, lines };
    let environment = UiEnvironment { stderr_is_terminal: true, no_color: false, ..UiEnvironment::default() };
    let tty = Tty::new(target, Box::new(size), Box::new(screen.clone()), &environment, began);
    (screen, tty)
}

/// A build in the middle: one step cached, one pulling, one compiling, two not begun.
fn in_the_middle() -> Script {
    Script::new()
        .task(0, 1, "[base 1/2] FROM docker.io/library/alpine:3")
        .task(0, 2, "[base 2/2] COPY . /src")
        .task(0, 3, "[final 1/2] FROM docker.io/library/debian:12")
        .task(0, 4, "[base 3/3] RUN make")
        .task(0, 5, "[final 2/2] COPY --from=base /out /")
        .task(0, 6, "exporting to image")
        .end(100, 1, Outcome::Cached)
        .start(100, 2)
        .end(400, 2, Outcome::Done)
        .start(150, 3)
        .part(200, 3, 1, "sha256:aaaaaaaaaaaa", 8_000_000, 32_000_000)
        .start(410, 4)
        .print(500, 4, "one\ntwo\nthree\nfour\nfive\nsix\nseven\n\u{1b}[31meight\u{1b}[0m half")
}

fn draw_at(script: &Script, lines: usize, columns: usize, millis: u64) -> (Screen, Tty) {
    let (screen, mut tty) = on_screen(lines, columns, script.began);
    for (at, event) in &script.events {
        tty.take(script.began + Duration::from_millis(*at), event.clone());
        // Many frames, so that a fault in replacing one by the next would show.
        tty.refresh(script.began + Duration::from_millis(*at));
    }
    tty.refresh(script.began + Duration::from_millis(millis));
    tty.bar.force_draw();
    (screen, tty)
}

#[test]
fn a_wide_screen_shows_steps_bars_and_the_last_lines_of_output() {
    let (screen, _tty) = draw_at(&in_the_middle(), 24, 80, 1200);
    let expected = [
        "[+] Building 1.2s (2/6)",
        " => CACHED [base 1/2] FROM docker.io/library/alpine:3                      0.0s",
        " => [base 2/2] COPY . /src                                                 0.3s",
        " => [final 1/2] FROM docker.io/library/debian:12                           1.1s",
        " => => sha256:aaaaaaaaaaaa [#####---------------] 8.00MB / 32.00MB         1.0s",
        " => [base 3/3] RUN make                                                    0.8s",
        " => => # three",
        " => => # four",
        " => => # five",
        " => => # six",
        " => => # seven",
        " => => # eight half",
    ];
    assert_eq!(screen.text(), expected);
    assert_eq!(screen.scrolled(), 0, "redrawing scrolled the screen");
}

#[test]
fn why_a_step_runs_stands_under_it_while_it_runs_and_at_the_end() {
    let reason = "cache miss: src/main.rs changed";
    let script = Script::new().task(0, 1, "[1/1] RUN make").start(0, 1).note(0, 1, reason).print(10, 1, "cc\n");
    let (screen, _tty) = draw_at(&script, 24, 40, 100);
    let running = [
        "[+] Building 0.1s (0/1)",
        " => [1/1] RUN make                 0.1s",
        " => => cache miss: src/main.rs changed",
        " => => # cc",
    ];
    assert_eq!(screen.text(), running);
    let script = script.end(200, 1, Outcome::Done).task(200, 2, "[1/1] COPY . /").start(200, 2);
    let (screen, mut tty) = draw_at(&script, 24, 40, 300);
    assert!(!screen.text().iter().any(|line| line.contains(reason)), "what is done takes room: {:?}", screen.text());
    tty.finish(script.began + Duration::from_millis(300));
    assert!(screen.text().iter().any(|line| line.contains(reason)), "{:?}", screen.text());
}

#[test]
fn a_narrow_screen_cuts_names_and_drops_bars() {
    let (screen, _tty) = draw_at(&in_the_middle(), 24, 40, 1200);
    let expected = [
        "[+] Building 1.2s (2/6)",
        " => CACHED [base 1/2] FROM docker. 0.0s",
        " => [base 2/2] COPY . /src         0.3s",
        " => [final 1/2] FROM docker.io/lib 1.1s",
        " => => sha256:aaa 8.00MB / 32.00MB 1.0s",
        " => [base 3/3] RUN make            0.8s",
    ];
    assert_eq!(screen.text()[..6], expected);
}

#[test]
fn a_low_screen_keeps_what_runs_and_never_scrolls() {
    for lines in 1..14 {
        let (screen, _tty) = draw_at(&in_the_middle(), lines, 80, 1200);
        assert_eq!(screen.scrolled(), 0, "{lines} lines: the screen scrolled");
        let text = screen.text();
        assert!(text.len() <= lines, "{lines} lines: {text:?}");
        if lines >= 5 {
            assert!(text.iter().any(|line| line.contains("RUN make")), "{lines} lines: {text:?}");
            assert!(text.iter().any(|line| line.contains("[final 1/2]")), "{lines} lines: {text:?}");
        }
    }
}

#[test]
fn a_tiny_screen_shows_the_header_alone() {
    let (screen, _tty) = draw_at(&in_the_middle(), 24, 16, 1200);
    let text = screen.text();
    assert_eq!(text[0], "[+] Building 1.");
    assert!(text.iter().all(|line| line.chars().count() < 16), "{text:?}");
}

#[test]
fn the_end_is_printed_in_full_with_what_failed() {
    let script = in_the_middle().end(1300, 4, Outcome::Failed("exit code: 2".to_owned())).warning(1300, "careful").end(
        1400,
        3,
        Outcome::Canceled,
    );
    let (screen, mut tty) = draw_at(&script, 40, 80, 1400);
    tty.finish(script.began + Duration::from_millis(1400));
    let expected = [
        "[+] Building 1.4s (4/6) FAILED",
        " => CACHED [base 1/2] FROM docker.io/library/alpine:3                      0.0s",
        " => [base 2/2] COPY . /src                                                 0.3s",
        " => CANCELED [final 1/2] FROM docker.io/library/debian:12                  1.2s",
        " => => sha256:aaaaaaaaaaaa 8.00MB / 32.00MB                                0.0s",
        " => ERROR [base 3/3] RUN make                                              0.9s",
        "",
        "warning: careful",
        " --> Dockerfile:1",
        "------",
        " > [base 3/3] RUN make:",
        "0.090 one",
        "0.090 two",
        "0.090 three",
        "0.090 four",
        "0.090 five",
        "0.090 six",
        "0.090 seven",
        "0.090 eight half",
        "------",
    ];
    assert_eq!(screen.text(), expected);
}

#[test]
fn a_notice_stays_above_the_frame() {
    let script = in_the_middle().notice(600, "the store is on a slow disk");
    let (screen, _tty) = draw_at(&script, 24, 80, 1200);
    let text = screen.text();
    assert_eq!(text[0], "note: the store is on a slow disk");
    assert_eq!(text[1], "[+] Building 1.2s (2/6)");
    assert_eq!(text.iter().filter(|line| line.contains("[+]")).count(), 1, "an old frame was left: {text:?}");
}

#[test]
fn colors_are_buildkits_and_no_color_is_honoured() {
    let began = Instant::now();
    let frame = |no_color| {
        let environment = UiEnvironment { no_color, ..UiEnvironment::default() };
        let size = || Size { columns: 80, lines: 24 };
        let target = ProgressDrawTarget::hidden();
        let mut tty = Tty::new(target, Box::new(size), Box::new(Kept::default()), &environment, began);
        let script = Script::new().task(0, 1, "a").task(0, 2, "b").task(0, 3, "c").end(0, 1, Outcome::Done).end(
            0,
            2,
            Outcome::Failed("x".to_owned()),
        );
        for (_, event) in script.start(0, 3).end(0, 3, Outcome::Canceled).events {
            tty.take(began, event);
        }
        tty.frame(began, Extent::All)
    };
    let colored = frame(false);
    assert!(colored[1].starts_with("\u{1b}[34m => a") && colored[1].ends_with("\u{1b}[0m"), "{colored:?}");
    assert!(colored[2].starts_with("\u{1b}[31m => ERROR b"), "{colored:?}");
    assert!(colored[3].starts_with("\u{1b}[33m => CANCELED c"), "{colored:?}");
    assert!(frame(true).iter().all(|line| !line.contains('\u{1b}')));
}
