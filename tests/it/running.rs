//! `rbuild run`: an image is tried.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Rbuild, Run, User, finish, succeed};
use crate::leftovers::on_busybox;
use crate::terminal::Terminal;

const IMAGE: &str = "localhost/tried:1";

/// Builds an image that says what it was started with.
fn build(rbuild: &Rbuild) -> Result<(), String> {
    let rest = "RUN echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd && mkdir -p /home/app && chown 1000:1000 /home/app\n\
                ENV GREETING=hello OTHER=1\nWORKDIR /home/app\nUSER app\n\
                ENTRYPOINT [\"/bin/echo\", \"entry\"]\nCMD [\"the\", \"command\"]\n";
    let context = on_busybox(rbuild, "tried", rest)?;
    rbuild.build(&context, &["-t", IMAGE]).succeeded();
    // The first time there may be something to unpack, which is said.
    rbuild.run(["run", "--entrypoint", "true", IMAGE]).succeeded();
    Ok(())
}

/// Runs a script of the shell in the image.
fn shell(rbuild: &Rbuild, flags: &[&str], script: &str) -> Run {
    rbuild.run([&["run"], flags, &["--entrypoint", "sh", IMAGE, "-c", script]].concat())
}

/// What must not stay: drafts of trees, and files of a session.
fn leftovers(rbuild: &Rbuild) -> Vec<String> {
    let list = |path: std::path::PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let drafts = list(rbuild.store().join("trees")).flat_map(list);
    let drafts = drafts.filter(|path| path.extension().is_some_and(|extension| extension == "draft"));
    drafts.chain(list(rbuild.store().join("tmp"))).map(|path| path.display().to_string()).collect()
}

for_each_user! {
    fn an_image_runs_as_docker_would_run_it(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let said = |arguments: &[&str]| {
            let run = rbuild.run([&["run"], arguments].concat()).succeeded();
            assert_eq!(run.stderr, "");
            run.stdout
        };
        assert_eq!(said(&[IMAGE]), "entry the command\n");
        assert_eq!(said(&["--rm", IMAGE, "-n", "--rm"]), "entry -n --rm\n");
        assert_eq!(said(&["--entrypoint", "pwd", IMAGE]), "/home/app\n");
        assert_eq!(said(&["--entrypoint", "", "-w", "/tmp", IMAGE, "pwd"]), "/tmp\n");
        let script = "echo $GREETING $OTHER $NEW $HOME; id -u; cat /etc/hostname 2>/dev/null; hostname; grep -c example /etc/hosts";
        fs::write(rbuild.path("out/variables"), "# of a file\nOTHER=1\n NEW=3\n").expect("write a file of variables");
        let flags = ["-e", "OTHER=2", "--env-file", "variables", "-u", "0", "--hostname", "here", "--add-host", "example:192.0.2.1"];
        assert_eq!(shell(&rbuild, &flags, script).succeeded().stdout, "hello 2 3 /root\n0\nhere\n1\n");
        assert_eq!(shell(&rbuild, &[], "id -u; echo $HOME; tty").stdout, "1000\n/home/app\nnot a tty\n");
        let run = shell(&rbuild, &["--network", "none"], "ls /sys/class/net; echo out; echo err >&2");
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("lo\nout\n", "err\n"));
        assert_eq!(leftovers(&rbuild), Vec::<String>::new());
    }

    fn of_several_platforms_the_one_that_is_asked_for_runs(rbuild) {
        let context = match on_busybox(&rbuild, "several", "ARG TARGETARCH\nENV FOR=$TARGETARCH\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &["--platform", "linux/amd64,linux/arm64", "-t", "several:1"]).succeeded();
        // What runs is this machine's busybox in both: only the configs differ.
        let run = |platform: &str| {
            let flags = ["run", "--pull=never", "--platform", platform, "several:1", "/bin/sh", "-c", "echo $FOR"];
            rbuild.run(flags)
        };
        assert_eq!(run("linux/arm64").succeeded().stdout, "arm64\n");
        assert_eq!(run("linux/amd64").succeeded().stdout, "amd64\n");
        run("linux/s390x").failed(125).says("several:1");
    }

    fn the_exit_code_is_the_commands_or_says_why_there_was_none(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)] {
            let run = shell(&rbuild, &[], script);
            assert_eq!((run.code, run.stderr.as_str()), (Some(code), ""), "{script}");
        }
        let run = |arguments: &[&str]| rbuild.run([&["run"], arguments].concat());
        run(&["--entrypoint", "nowhere", IMAGE]).failed(127).says("run \"nowhere\" in the image");
        run(&["--entrypoint", "/etc/passwd", IMAGE]).failed(126).says("Permission denied");
        run(&["--pull=never", "localhost/nowhere:1"]).failed(125).says("there is no image \"localhost/nowhere:1\"");
        run(&["--nowhere", IMAGE]).failed(125).says("--nowhere");
        run(&["-u", "nobody-knows", IMAGE]).failed(125).says("nobody-knows");
        run(&["-w", "/nowhere", IMAGE]).failed(125).says("/nowhere");
        run(&["-v", "data:/data", IMAGE]).failed(125).says("no named volumes");
        run(&["-it", IMAGE]).failed(125).says("needs a terminal");
        run(&["--entrypoint", "", IMAGE]).failed(125).says("has neither ENTRYPOINT nor CMD");
        assert_eq!(leftovers(&rbuild), Vec::<String>::new());
    }

    fn what_a_command_writes_is_gone_but_for_what_is_mounted(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let files = rbuild.context("data").file("given", "from outside\n");
        let data = files.directory.display();
        let (writable, readable) = (format!("{data}:/data"), format!("{data}/given:/etc/given:ro"));
        let script = "cat /etc/given; (echo 2>/dev/null > /etc/given) || echo read-only; echo x > /home/app/new; ls /home/app";
        let run = shell(&rbuild, &["-v", &readable], script).succeeded();
        assert_eq!(run.stdout, "from outside\nread-only\nnew\n");
        assert_eq!(shell(&rbuild, &[], "ls /home/app").succeeded().stdout, "");
        let mount = format!("type=bind,source={data},target=/data,readonly");
        let run = shell(&rbuild, &["--mount", &mount, "--mount", "type=tmpfs,target=/t,size=1m"], "ls /data; df -k /t | tail -n 1");
        assert!(run.stdout.starts_with("given\n") && run.stdout.contains("1024"), "{run:#?}");
        // Root of a container of the host's root is another user there, who may write where others may.
        if rbuild.user == User::Root {
            succeed(Command::new("chmod").arg("777").arg(&files.directory));
        }
        shell(&rbuild, &["-v", &writable, "-u", "0"], "echo from inside > /data/made").succeeded();
        assert_eq!(fs::read_to_string(files.directory.join("made")).expect("read what was made"), "from inside\n");
        assert_eq!(leftovers(&rbuild), Vec::<String>::new());
    }

    fn standard_input_is_passed_on_where_it_is_asked_for(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let given = |flags: &[&str]| {
            let arguments = [&["run"], flags, &["--entrypoint", "wc", IMAGE, "-c"]].concat();
            let mut child = rbuild.command(arguments).stdin(Stdio::piped()).spawn().expect("start rbuild");
            let mut stdin = child.stdin.take().expect("it has an input");
            let writer = std::thread::spawn(move || drop(stdin.write_all(&vec![b'x'; 1_000_000])));
            let run = finish(child).succeeded();
            writer.join().expect("write");
            run.stdout
        };
        assert_eq!(given(&["-i"]), "1000000\n");
        assert_eq!(given(&["--interactive=false"]), "0\n");
    }

    fn a_reader_that_goes_away_ends_the_command(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let mut child = rbuild.start(["run", "--entrypoint", "yes", IMAGE]);
        let mut stdout = child.stdout.take().expect("it has an output");
        std::io::Read::read_exact(&mut stdout, &mut [0; 4]).expect("the command begins");
        drop(stdout);
        // As for a shell: 128 and SIGPIPE.
        finish(child).failed(141);
    }

    fn signals_go_to_the_command_and_the_second_one_kills_it(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let start = |script: &str| {
            let mut child = rbuild.start(["run", "--entrypoint", "sh", IMAGE, "-c", script]);
            let mut ready = [0; 6];
            let stdout = child.stdout.as_mut().expect("it has an output");
            std::io::Read::read_exact(stdout, &mut ready).expect("the command begins");
            child
        };
        let signal = |name: &str, id: u32| succeed(Command::new("kill").args(["-s", name, &id.to_string()]));
        let child = start("trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.1; done");
        signal("TERM", child.id());
        let run = finish(child).failed(9);
        assert_eq!(run.stdout, "asked\n");
        let child = start("echo ready; exec sleep 1000");
        signal("INT", child.id());
        finish(child).failed(130);
        let mut child = start("trap 'echo no' INT; echo ready; while :; do sleep 0.1; done");
        signal("INT", child.id());
        let stdout = child.stdout.as_mut().expect("it has an output");
        std::io::Read::read_exact(stdout, &mut [0; 3]).expect("the command was asked");
        signal("INT", child.id());
        finish(child).failed(137);
        assert_eq!(leftovers(&rbuild), Vec::<String>::new());
    }

    fn a_terminal_is_passed_on_with_keys_sizes_and_jobs(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let mut terminal = Terminal::start(&rbuild, &["run", "--entrypoint", "sh", IMAGE]);
        terminal.expect("$ ");
        terminal.type_in("tty; stty size; echo $TERM\n");
        terminal.expect("/dev/pts/0\r\n30 100\r\nxterm\r\n");
        terminal.resize(120, 40);
        terminal.type_in("sleep 0.2; stty size\n");
        terminal.expect("40 120\r\n");
        terminal.type_in("sleep 1000\n");
        terminal.expect("sleep 1000\r\n");
        // In time: a key that comes before the command is the shell's.
        std::thread::sleep(std::time::Duration::from_millis(300));
        terminal.type_in("\x1a");
        terminal.expect("Stopped");
        terminal.type_in("kill -9 %1; wait; echo gone; cat\n");
        terminal.expect("gone\r\n");
        std::thread::sleep(std::time::Duration::from_millis(300));
        terminal.type_in("\x03");
        terminal.expect("$ ");
        terminal.type_in("exit 6\n");
        let (code, said) = terminal.finish();
        assert_eq!(code, Some(6), "{said}");
        assert_eq!(leftovers(&rbuild), Vec::<String>::new());
    }

    fn a_terminal_that_nobody_has_open_can_be_opened_again(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let script = "echo early; exec </dev/null >/dev/null 2>&1; sleep 0.3; echo late > /dev/tty";
        let mut terminal = Terminal::start(&rbuild, &["run", "-it", "--entrypoint", "sh", IMAGE, "-c", script]);
        terminal.expect("late\r\n");
        let (code, said) = terminal.finish();
        assert_eq!(code, Some(0), "{said}");
    }

    fn a_terminal_is_as_before_when_rbuild_is_terminated(rbuild) {
        if let Err(reason) = build(&rbuild) {
            skip!("{reason}");
        }
        let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
        let mut terminal = Terminal::start(&rbuild, &["run", "-it", "--entrypoint", "sh", IMAGE, "-c", script]);
        terminal.expect("ready");
        let id = terminal.id().to_string();
        succeed(Command::new("kill").args(["-s", "TERM", &id]));
        std::thread::sleep(std::time::Duration::from_millis(200));
        succeed(Command::new("kill").args(["-s", "TERM", &id]));
        let (code, said) = terminal.finish();
        assert_eq!(code, Some(137), "{said}");
    }
}
