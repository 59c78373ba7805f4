//! A terminal for `rbuild` to run in, with somebody who reads and types.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::Rbuild;

/// How long anything may take to be said.
const LIMIT: Duration = Duration::from_secs(60);

/// An `rbuild` in a terminal.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// Its other side, to look at its settings after the end.
    other: Option<File>,
    said: Arc<(Mutex<String>, Condvar)>,
    reader: Option<JoinHandle<()>>,
    seen: usize,
}

impl Terminal {
    /// Starts `rbuild` as the foreground of a new session, as in a window of its own.
    pub fn start(rbuild: &Rbuild, arguments: &[&str]) -> Terminal {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("make a terminal");
        grantpt(&keyboard).expect("grant the terminal");
        unlockpt(&keyboard).expect("unlock the terminal");
        let name = ptsname(&keyboard, Vec::new()).expect("the terminal has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let other: File = rustix::fs::open(&name, flags, Mode::empty()).expect("open the terminal").into();
        resize(&keyboard, 100, 30);
        // Whoever runs it opens it by name as well.
        let everybody = Mode::from_raw_mode(0o666);
        rustix::fs::fchmod(&other, everybody).expect("open the terminal to the user");
        let program = rbuild.program();
        let program = program.to_str().expect("paths of tests are UTF-8");
        let mut command = rbuild.command_of("setsid", [&["--ctty", program], arguments].concat());
        let copy = || Stdio::from(other.try_clone().expect("copy the terminal"));
        command.stdin(copy()).stdout(copy()).stderr(copy()).env("TERM", "xterm");
        let child = command.spawn().expect("start setsid");
        drop(command);
        let said = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let keyboard = File::from(keyboard);
        let (mut screen, heard) = (keyboard.try_clone().expect("copy the terminal"), Arc::clone(&said));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end is an error (EIO): nobody has the other side open any more.
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                heard.0.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
                heard.1.notify_all();
            }
        });
        Terminal { child, keyboard, other: Some(other), said, reader: Some(reader), seen: 0 }
    }

    /// Waits until something is said after what was waited for before.
    #[track_caller]
    pub fn expect(&mut self, words: &str) {
        let (text, more) = &*self.said;
        let mut text = text.lock().unwrap();
        loop {
            if let Some(at) = text[self.seen..].find(words) {
                self.seen += at + words.len();
                return;
            }
            let (next, timeout) = more.wait_timeout(text, LIMIT).unwrap();
            assert!(!timeout.timed_out(), "{words:?} was not said, but:\n{}", &next[self.seen..]);
            text = next;
        }
    }

    /// Types.
    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("type");
    }

    /// Gives the window another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        resize(&self.keyboard, columns, rows);
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end; gives the exit code and everything that was said. The terminal must be as it was.
    #[track_caller]
    pub fn finish(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("look after rbuild") {
                break status;
            }
            let said = || self.said.0.lock().unwrap().clone();
            assert!(Instant::now() < until, "rbuild does not end:\n{}", said());
            std::thread::sleep(Duration::from_millis(10));
        };
        let modes =
            tcgetattr(self.other.as_ref().expect("it is open")).expect("read the terminal's settings").local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG), "left raw: {modes:?}");
        // The reader sees the end when nobody has the other side open.
        drop(self.other.take());
        self.reader.take().expect("there is a reader").join().expect("read the terminal");
        let text = self.said.0.lock().unwrap().clone();
        (status.code(), text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed must not wait for it, nor leave it behind. One that has ended is left alone.
        self.child.kill().expect("kill rbuild");
    }
}

fn resize(terminal: impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("set the terminal's size");
}
