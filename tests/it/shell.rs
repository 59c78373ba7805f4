//! `--on-error=shell`: a shell in the RUN that failed.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::{Files, Rbuild, finish, succeed};
use crate::leftovers::on_busybox;
use crate::terminal::Terminal;

/// A RUN that fails when it has done half of its work, with everything that a RUN can have.
const FAILING: &str = "RUN echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd && mkdir /work && chown 1000 /work\n\
    ENV GREETING=hello\nWORKDIR /work\nUSER app\n\
    RUN --mount=type=cache,target=/cache,uid=1000 --mount=type=secret,id=token,uid=1000,env=TOKEN,target=/token \
    --mount=type=bind,source=given,target=/bound,rw --network=none \
    echo half > half; echo kept > /cache/kept; echo $(id -u); rm /etc/group 2>/dev/null; exit 7\n\
    RUN echo never\n";

fn failing(rbuild: &Rbuild) -> Result<(Files, String), String> {
    let context = on_busybox(rbuild, "failing", FAILING)?.file("given/file", "bound\n").mode("given/file", 0o666);
    let files = rbuild.context("keys").file("token", "s3cr3t-8d1f0a");
    Ok((context, format!("--secret=id=token,src={}/token", files.directory.display())))
}

fn drafts(rbuild: &Rbuild) -> Vec<String> {
    let list = |path: std::path::PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let trees = list(rbuild.store().join("trees")).flat_map(list);
    trees
        .filter(|path| path.extension().is_some_and(|it| it == "draft"))
        .map(|path| path.display().to_string())
        .collect()
}

for_each_user! {
    fn a_shell_is_opened_where_a_run_failed(rbuild) {
        let (context, secret) = match failing(&rbuild) {
            Ok(made) => made,
            Err(reason) => skip!("{reason}"),
        };
        let path = context.directory.to_str().expect("paths of tests are UTF-8");
        let mut terminal = Terminal::start(&rbuild, &["build", "--on-error=shell", &secret, path]);
        // The report of the failure is whole before the shell begins.
        terminal.expect("ERROR");
        terminal.expect("A shell (/bin/sh) in the step that failed");
        terminal.expect("What failed (exit code 7): /bin/sh -c echo half > half;");
        terminal.expect("`exit` or Ctrl-D ends the shell");
        terminal.expect("$ ");
        terminal.type_in("cat half /cache/kept /bound/file; echo $GREETING $TOKEN; cat /token; pwd; id -u\n");
        terminal.expect("half\r\nkept\r\nbound\r\nhello s3cr3t-8d1f0a\r\ns3cr3t-8d1f0a");
        terminal.expect("/work\r\n1000\r\n");
        terminal.type_in("tty; stty size; ls /sys/class/net | wc -l; echo y > /bound/file && echo written; stat -c %U half\n");
        terminal.expect("/dev/pts/0\r\n30 100\r\n1\r\nwritten\r\napp\r\n");
        terminal.resize(90, 20);
        terminal.type_in("sleep 0.2; stty size\n");
        terminal.expect("20 90\r\n");
        terminal.type_in("exit 3\n");
        terminal.expect("The shell has ended, and so does the build.");
        let (code, said) = terminal.finish();
        assert_eq!(code, Some(7), "the build ends with the exit code of the RUN:\n{said}");
        assert!(!said.contains("echo never\r\n"), "a later step was begun:\n{said}");
        assert_eq!(drafts(&rbuild), Vec::<String>::new());
        let given = fs::read_to_string(context.directory.join("given/file")).expect("read a file of the context");
        assert_eq!(given, "bound\n", "the shell wrote to the context");
    }

    fn rbuild_debug_is_short_for_it(rbuild) {
        let context = match on_busybox(&rbuild, "debug", "RUN exit 5\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let path = context.directory.to_str().expect("paths of tests are UTF-8");
        for arguments in [&["debug", path][..], &["debug", "build", "--progress=plain", path]] {
            let mut terminal = Terminal::start(&rbuild, arguments);
            terminal.expect("A shell (/bin/sh) in the step");
            terminal.expect("# ");
            terminal.type_in("\x04");
            terminal.expect("exit code: 5");
            assert_eq!(terminal.finish().0, Some(5));
        }
    }

    fn without_a_terminal_or_a_shell_the_build_says_why_there_is_none(rbuild) {
        let context = match on_busybox(&rbuild, "none", "RUN exit 5\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let program = rbuild.program();
        let path = context.directory.to_str().expect("paths of tests are UTF-8");
        let arguments = ["--wait", program.to_str().expect("UTF-8"), "build", "--on-error=shell", "--progress=plain", path];
        // A session of its own has no terminal, wherever the test is run.
        let child = rbuild.command_of("setsid", arguments).stdin(Stdio::null()).spawn().expect("start setsid");
        finish(child).failed(5).says("hint: no shell was opened: there is no terminal; --on-error=shell needs one");
        let rest = "FROM scratch\nCOPY --from=busybox /bin/false /false\nRUN [\"/false\"]\n";
        let context = match on_busybox(&rbuild, "none", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let terminal = Terminal::start(&rbuild, &["debug", context.directory.to_str().expect("UTF-8")]);
        let (code, said) = terminal.finish();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no shell was opened: the image has none"), "{said}");
    }

    fn a_shell_ends_with_rbuild_and_leaves_the_terminal_as_it_was(rbuild) {
        let context = match on_busybox(&rbuild, "ended", "RUN exit 5\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let path = context.directory.to_str().expect("paths of tests are UTF-8");
        let mut terminal = Terminal::start(&rbuild, &["debug", path]);
        terminal.expect("# ");
        succeed(Command::new("kill").args(["-s", "TERM", &terminal.id().to_string()]));
        let (code, said) = terminal.finish();
        assert!(matches!(code, Some(5 | 130)), "{code:?}: {said}");
        assert_eq!(drafts(&rbuild), Vec::<String>::new());
    }

    fn secrets_are_masked_on_a_terminal_too(rbuild) {
        let rest = "RUN --mount=type=secret,id=token for i in $(seq 3); do cat /run/secrets/token; sleep 0.2; done; exit 5\n";
        let context = match on_busybox(&rbuild, "masked", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let files = rbuild.context("keys").file("token", "s3cr3t-8d1f0a\n");
        let secret = format!("--secret=id=token,src={}/token", files.directory.display());
        let path = context.directory.to_str().expect("paths of tests are UTF-8");
        let (code, said) = Terminal::start(&rbuild, &["build", &secret, path]).finish();
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("***") && !said.contains("s3cr3t"), "{said}");
    }
}
