//! What a command's standard streams are: pipes, or a terminal of its own.

use std::io::{PipeWriter, Write, pipe};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use rbuild::sandbox::{Cancel, Exit, Foreground, RunSpec, Status, Stream, StreamKind, Streams, TerminalSize, UserSpec};
use rustix::process::Signal;

use crate::Case;
use crate::world::World;

pub const CASES: &[Case] = &[
    ("input is read to its end, however much it is", much_input),
    ("input that nobody reads holds nothing up", unread_input),
    ("a terminal is the command's own, with a name and a size", own_terminal),
    ("a terminal takes new sizes, and Ctrl-C and Ctrl-D typed into it", typed),
    ("a terminal belongs to the command's user", terminal_of_user),
    ("outputs can be opened again by their names", opened_by_name),
    ("signals reach the command, whoever its user is", signals),
    ("a second command on the same upper directory goes on where the first one ended", same_upper),
];

const TERMINAL: StreamKind = StreamKind::Terminal(TerminalSize { columns: 91, rows: 37 });

/// What a command has said so far.
#[derive(Default)]
struct Said {
    text: Mutex<String>,
    more: Condvar,
}

impl Said {
    fn hear(&self, _: Stream, bytes: &[u8]) {
        self.text.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
        self.more.notify_all();
    }

    /// Waits for words.
    fn wait_for(&self, words: &str) {
        let mut text = self.text.lock().unwrap();
        while !text.contains(words) {
            let (next, timeout) = self.more.wait_timeout(text, Duration::from_secs(30)).unwrap();
            assert!(!timeout.timed_out(), "{words:?} was not said, but {next:?}");
            text = next;
        }
    }
}

/// Runs a command while somebody else types and listens.
fn converse(
    world: &World,
    spec: &RunSpec,
    kind: StreamKind,
    talk: impl FnOnce(PipeWriter, &Said, &Foreground) + Send,
) -> (Exit, String) {
    let (reader, writer) = pipe().unwrap();
    let (said, foreground) = (Said::default(), Foreground::default());
    let output = |stream, bytes: &[u8]| said.hear(stream, bytes);
    let exit = std::thread::scope(|scope| {
        scope.spawn(|| talk(writer, &said, &foreground));
        let streams = Streams { kind, input: Some(reader.as_fd()), output: &output, foreground: foreground.clone() };
        world.sandbox.run(spec, &streams, &Cancel::new()).unwrap()
    });
    (exit, said.text.into_inner().unwrap())
}

fn much_input(world: &World) {
    let spec = world.shell("sleep 0.1; wc -c");
    let (exit, said) = converse(world, &spec, StreamKind::Pipes, |mut writer, _, _| {
        writer.write_all(&vec![b'x'; 5_000_000]).unwrap();
    });
    assert_eq!((exit.status, said.as_str()), (Status::Code(0), "5000000\n"));
}

fn unread_input(world: &World) {
    let spec = world.shell("exec 0< /dev/null; seq 200000 | wc -l");
    let (exit, said) = converse(world, &spec, StreamKind::Pipes, |mut writer, _, _| {
        // Ends with a broken pipe, or when all of it fits.
        drop(writer.write_all(&vec![b'x'; 60_000]));
    });
    assert_eq!((exit.status, said.as_str()), (Status::Code(0), "200000\n"));
}

fn own_terminal(world: &World) {
    let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo three; echo me > /dev/tty; \
                  ls -l /proc/self/fd/0 | sed 's/.*-> //'; setsid sh -c 'echo other 2> /dev/null > /dev/tty' || echo none";
    let (exit, said) = converse(world, &world.shell(script), TERMINAL, |_, _, _| {});
    let expected = "/dev/pts/0\r\n37 91\r\nthree\r\nme\r\n/dev/pts/0\r\n";
    assert!(said.starts_with(expected) && said.ends_with("none\r\n"), "{said:?}");
    assert_eq!(exit.status, Status::Code(0));
}

fn typed(world: &World) {
    let script = "trap 'stty size' WINCH; trap 'echo interrupted' INT; echo ready; \
                  while ! read line; do :; done; echo \"got $line\"; cat; echo end";
    let (exit, said) = converse(world, &world.shell(script), TERMINAL, |mut writer, said, foreground| {
        said.wait_for("ready");
        foreground.resize(TerminalSize { columns: 120, rows: 50 });
        said.wait_for("50 120");
        writer.write_all(b"\x03").unwrap();
        said.wait_for("interrupted");
        writer.write_all(b"words\n").unwrap();
        said.wait_for("got words");
        writer.write_all(b"more\n").unwrap();
        said.wait_for("more\r\nmore");
        writer.write_all(b"\x04").unwrap();
    });
    assert!(said.ends_with("end\r\n"), "{said:?}");
    assert_eq!(exit.status, Status::Code(0));
}

fn terminal_of_user(world: &World) {
    let user = UserSpec { uid: 1000, gid: 1000, groups: Vec::new() };
    let spec = RunSpec { user, ..world.shell("id -u; echo opened > $(tty); echo out > /dev/stdout") };
    let (exit, said) = converse(world, &spec, TERMINAL, |_, _, _| {});
    assert_eq!((exit.status, said.as_str()), (Status::Code(0), "1000\r\nopened\r\nout\r\n"));
}

fn opened_by_name(world: &World) {
    for uid in [0, 1000] {
        let user = UserSpec { uid, gid: uid, groups: Vec::new() };
        let script = "echo 1 > /dev/stdout; echo 2 >> /dev/stderr; echo 3 > /proc/self/fd/1; echo 4 > /dev/fd/2";
        let went = world.run(&RunSpec { user, ..world.shell(script) });
        assert_eq!((went.stdout.as_str(), went.stderr.as_str()), ("1\n3\n", "2\n4\n"), "user {uid}");
    }
}

fn signals(world: &World) {
    let user = UserSpec { uid: 1000, gid: 1000, groups: Vec::new() };
    let spec =
        RunSpec { user, ..world.shell("trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done") };
    let (exit, said) = converse(world, &spec, StreamKind::Pipes, |_, said, foreground| {
        said.wait_for("ready");
        assert!(foreground.signal(Signal::TERM));
    });
    assert_eq!((exit.status, said.as_str()), (Status::Code(5), "ready\nasked\n"));
    assert!(!Foreground::default().signal(Signal::TERM), "there is no command to reach");
}

fn same_upper(world: &World) {
    let first = world.shell("echo 1 > /new; ln -s new /link; chown -h 7:8 /link; rm /etc/*; chown 5:6 /new; exit 3");
    assert_eq!(world.run(&first).exit.status, Status::Code(3));
    let look = "cat /link; stat -c %u:%g /new /link; ls /etc";
    let second = RunSpec { upper: first.upper.clone(), work: first.work.clone(), ..world.shell(look) };
    assert_eq!(world.run(&second).stdout, "1\n5:6\n7:8\nhosts\nresolv.conf\n");
}
