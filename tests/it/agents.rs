//! `--ssh` with keys: an agent of the build's own offers them, and is gone with the build, however that ends.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Files, Rbuild, finish, has_program, read_command, succeed};
use crate::leftovers::on_busybox;

/// Makes a key, which others may read, and gives its path and its public half.
fn key(rbuild: &Rbuild, name: &str, passphrase: &str) -> (PathBuf, String) {
    let path = rbuild.context("keys").directory.join(name);
    let file = path.to_str().expect("paths of tests are UTF-8");
    succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", passphrase, "-f", file]));
    succeed(Command::new("chmod").args(["644", file]));
    let public = fs::read_to_string(path.with_extension("pub")).expect("read the public key");
    let blob = public.split(' ').nth(1).expect("a public key has two words").to_owned();
    (path, blob)
}

/// A context whose command lists the keys of its agent, with this machine's ssh-add and what it is linked to.
fn asking(rbuild: &Rbuild, mounts: &str, after: &str) -> Result<Files, String> {
    let rest = format!("COPY root/ /\nRUN {mounts} /usr/bin/ssh-add -L; {after}\n");
    let context = on_busybox(rbuild, "asking", &rest)?;
    let root = context.directory.join("root");
    fs::create_dir(&root).expect("create a directory");
    let linked = read_command("ldd", &["/usr/bin/ssh-add"]);
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    succeed(Command::new("cp").args(["-L", "--parents", "/usr/bin/ssh-add"]).args(libraries).arg(&root));
    Ok(context)
}

/// What agents have left where they live.
fn left(rbuild: &Rbuild) -> Vec<String> {
    let entries = fs::read_dir(rbuild.path("run")).expect("read the runtime directory");
    let names = entries.map(|entry| entry.expect("read an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("rbuild-ssh-")).collect()
}

/// Waits until nothing is left of agents, neither a socket nor a process.
fn assert_gone(rbuild: &Rbuild) {
    let until = Instant::now() + Duration::from_secs(20);
    let place = rbuild.path("run").display().to_string();
    let running = || {
        read_command("ps", &["-eo", "args"]).lines().any(|line| line.contains(&place) && line.starts_with("ssh-agent"))
    };
    while !left(rbuild).is_empty() || running() {
        assert!(Instant::now() < until, "left: {:?}, still running: {}", left(rbuild), running());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn flag(id: &str, paths: &[&Path]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("--ssh={id}={}", paths.join(","))
}

for_each_user! {
    fn a_command_uses_keys_that_are_named(rbuild) {
        if !has_program("ssh-keygen") {
            skip!("ssh-keygen is missing");
        }
        let ((first, one), (second, two)) = (key(&rbuild, "first", ""), key(&rbuild, "second", ""));
        let context = match asking(&rbuild, "--mount=type=ssh,id=deploy,required", "true") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let run = rbuild.build(&context, &[&flag("deploy", &[&first])]).succeeded();
        assert!(run.stderr.contains(&one) && !run.stderr.contains(&two), "other keys:\n{}", run.stderr);
        let run = rbuild.build(&context, &["--no-cache", &flag("deploy", &[&first, &second])]).succeeded();
        run.says(&one).says(&two);
        assert_gone(&rbuild);
    }

    fn keys_that_cannot_be_used_are_told_before_anything_runs(rbuild) {
        if !has_program("ssh-keygen") {
            skip!("ssh-keygen is missing");
        }
        let (locked, _) = key(&rbuild, "locked", "a secret");
        let context = rbuild.context("any").file("Dockerfile", "FROM scratch\n");
        let refused = |path: &Path| rbuild.build(&context, &[&flag("default", &[path])]).failed(1);
        refused(&locked).says("keys/locked of --ssh default has a passphrase").says("ssh-add");
        refused(&locked.with_extension("pub")).says("locked.pub of --ssh default is neither an agent's socket nor a private key");
        refused(&rbuild.path("nothing")).says("nothing for --ssh default").says("No such file or directory");
        let socket = rbuild.path("run").join("own");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let run = rbuild.build(&context, &[&flag("default", &[&socket, &locked])]).failed(1);
        run.says("--ssh default names a socket and something else");
        assert_gone(&rbuild);
    }

    fn keys_without_an_agent_program_say_what_to_install(rbuild) {
        let mut rbuild = rbuild;
        rbuild.set_variable("PATH", "/nonexistent");
        let context = rbuild.context("any").file("Dockerfile", "FROM scratch\n").file("key", "a key");
        let run = rbuild.build(&context, &[&flag("default", &[&context.directory.join("key")])]).failed(1);
        run.says("needs ssh-agent: install openssh-client");
        assert_eq!(left(&rbuild), Vec::<String>::new());
    }

    fn an_agent_for_keys_ends_with_a_build_that_is_interrupted_or_killed(rbuild) {
        if !has_program("ssh-keygen") {
            skip!("ssh-keygen is missing");
        }
        let (path, _) = key(&rbuild, "key", "");
        let context = match asking(&rbuild, "--mount=type=ssh", "sleep 60") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let arguments = ["build", &flag("default", &[&path]), context.directory.to_str().expect("paths of tests are UTF-8")];
        for signal in ["-INT", "-KILL"] {
            let child = rbuild.start(arguments);
            let until = Instant::now() + Duration::from_secs(60);
            while !left(&rbuild).iter().any(|name| rbuild.path("run").join(name).join("agent").exists()) {
                assert!(Instant::now() < until, "there is no agent");
                std::thread::sleep(Duration::from_millis(20));
            }
            // All of the group, as a terminal does.
            succeed(Command::new("kill").args([signal, "--", &format!("-{}", child.id())]));
            let run = finish(child);
            assert_ne!(run.code, Some(0), "it was not stopped:\n{}", run.stderr);
            assert_gone(&rbuild);
        }
    }
}
