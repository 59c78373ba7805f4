//! Every rung of the ladder makes the same layers, in the places that have no better one: a masked /proc, a store whose
//! file system refuses overlay, no new privileges, a chroot, no namespaces.

use std::fs;
use std::process::Command;

use crate::harness::{Files, Rbuild, Run, User, finish};
use crate::image::Image;
use crate::leftovers::on_busybox;
use crate::places::WITHOUT_NAMESPACES;
use crate::registry_server::{Access, Registry, missing_programs};

/// What a layer can hold, made by commands, with times that are not the build's.
const CHANGES: &str = "\
    RUN echo hi > /etc/new && rm -rf /etc/passwd && ln /bin/busybox /bin/mine && mkdir -p /opt/a && mv /etc/group /opt/a \
    && chown 5:6 /opt/a /etc/new && ln -s x /etc/link && chown -h 7:8 /etc/link && mkfifo /opt/pipe && chmod 6755 /etc/new \
    && touch -h -d @9 /etc/link && touch -d @7 /opt/a /opt/a/group /opt/pipe /etc/new /etc /opt /bin /\n\
    RUN rm -rf /opt/a && mkdir /opt/a && echo 1 > /opt/a/z && mv /etc/link /etc/moved && rm /bin/vi && ls /etc > /list \
    && echo 2 >> /etc/hostname && touch -d @5 /etc /opt/a /opt/a/z /opt /bin /list /etc/hostname /\n\
    RUN --mount=type=bind,from=busybox,source=/etc,target=/mnt,rw --mount=type=tmpfs,target=/scratch \
    --mount=type=cache,target=/cache touch /mnt/x /scratch/x && echo 1 >> /cache/n && cp /cache/n /n && touch -d @3 /n /\n\
    RUN --mount=type=cache,target=/cache --mount=type=secret,id=word,target=/run/deep/word \
    wc -c /cache/n /run/deep/word > /m && touch -d @3 /m /\n";

const WORD: &str = "the secret word";

fn context(rbuild: &Rbuild) -> Result<Files, String> {
    // The base as a stage of its own, which later mounts can name.
    Ok(on_busybox(rbuild, "ladder", &format!("FROM busybox\n{CHANGES}"))?.file("word", WORD))
}

/// Arguments that build a context into this archive.
fn arguments(rbuild: &Rbuild, context: &Files, archive: &str) -> Vec<String> {
    let secret = format!("--secret=id=word,src={}", context.directory.join("word").display());
    let output = format!("type=oci,dest={}", rbuild.path(archive).display());
    let directory = context.directory.to_str().expect("paths are UTF-8").to_owned();
    ["build", "--no-cache", "--progress=plain", &secret, "-o", &output, &directory].map(str::to_owned).to_vec()
}

fn layers(rbuild: &Rbuild, archive: &str) -> Vec<String> {
    let image = Image::read(&rbuild.path(archive));
    let layers = image.manifest["layers"].as_array().expect("a manifest has layers").clone();
    layers.iter().map(|layer| layer["digest"].to_string()).collect()
}

/// Builds in the best place and in another one, and compares. Gives what was said in the other one.
fn same_layers(rbuild: &Rbuild, other: impl FnOnce(&[&str]) -> Option<Command>) -> Option<Run> {
    let context = match context(rbuild) {
        Ok(context) => context,
        Err(reason) => {
            assert!(std::env::var_os("CI").is_none(), "would be skipped: {reason}");
            eprintln!("SKIPPED: {reason}");
            return None;
        }
    };
    let there = arguments(rbuild, &context, "out/there.tar");
    let words: Vec<&str> = there.iter().map(String::as_str).collect();
    let run = finish(other(&words)?.spawn().expect("start it")).succeeded();
    // Its own store, so that nothing of the other place's is used.
    let best = Rbuild::new(rbuild.user);
    let context = self::context(&best).expect("it was there a moment ago");
    let run_here = best.run(arguments(&best, &context, "out/here.tar")).succeeded().does_not_say("are copied here");
    assert_eq!(layers(rbuild, "out/there.tar"), layers(&best, "out/here.tar"), "{}\n{}", run.stderr, run_here.stderr);
    Some(run)
}

for_each_user! {
    fn with_a_masked_proc_the_outer_one_is_shown_and_the_layers_are_the_same(rbuild) {
        // As Docker and podman mask it: a new one would show what is hidden, so the kernel refuses it.
        let mask = "mount --bind /dev/null /proc/keys; mount --bind /dev/null /proc/timer_list; \
                    mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys";
        let same = same_layers(&rbuild, |words| rbuild.command_in(mask, &[], words));
        if same.is_none() {
            return;
        }
        let said = doctor(rbuild.command_in(mask, &[], &["doctor"]));
        assert!(said.contains("missing  a new /proc") && said.contains("systempaths=unconfined"), "{said}");
        // Nothing of the processes it shows can be read or changed, and none can be signalled.
        let rest = "RUN test $$ -lt 10 && test $(readlink /proc/self) -gt 10 || exit 3; \
                    cat /proc/1/environ /proc/$PPID/environ && exit 4; ls /proc/1/root/ && exit 5; \
                    for each in /proc/[0-9]*; do echo 900 > $each/oom_score_adj && exit 6; \
                    cat $each/environ | grep -q RBUILD_ROOT && exit 7; done; \
                    test -z \"$(cat /proc/keys)\" || exit 8; echo 1 > /proc/sys/kernel/panic && exit 9; true\n";
        let context = on_busybox(&rbuild, "probing", rest).expect("the base was there a moment ago");
        let directory = context.directory.to_str().expect("paths are UTF-8");
        let command = rbuild.command_in(mask, &[], &["build", "--progress=plain", directory]);
        finish(command.expect("root prepares it").spawn().expect("start it")).succeeded();
    }

    fn in_a_chroot_there_are_no_namespaces_but_root_still_runs_commands(rbuild) {
        let root = rbuild.path("elsewhere");
        fs::create_dir(&root).expect("make a directory");
        let enter = format!("mount --rbind / {0}; exec chroot {0} \"$@\"", root.display());
        let Some(command) = rbuild.command_in(&enter, &[], &["doctor"]) else { return };
        let said = doctor(Some(command));
        assert!(said.contains("missing  user namespace") && said.contains("chroot"), "{said}");
        if rbuild.user == User::Root {
            same_layers(&rbuild, |words| rbuild.command_in(&enter, &[], words));
        } else {
            let context = rbuild.context("refused").file("Dockerfile", "FROM scratch\nRUN true\n");
            let directory = context.directory.to_str().expect("paths are UTF-8");
            let command = rbuild.command_in(&enter, &[], &["build", directory]);
            let run = finish(command.expect("root prepares it").spawn().expect("start it")).failed(1);
            run.says("cannot run commands here").says("chroot");
        }
    }

    fn where_the_store_refuses_overlay_the_root_is_copied_and_the_layers_are_the_same(rbuild) {
        let (lower, upper, work) = (rbuild.path("lower"), rbuild.path("upper"), rbuild.path("work"));
        for path in [&lower, &upper, &work, &rbuild.store()] {
            fs::create_dir(path).expect("make a directory");
        }
        // A container's own file system is of this kind: an overlay cannot be the upper directory of another one.
        let [lower, upper, work] = [lower, upper, work].map(|path| path.display().to_string());
        let mount = format!(
            "chown --reference={} {upper}; chmod 700 {upper}; \
             mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {}",
            rbuild.path("out").display(),
            rbuild.store().display()
        );
        if let Some(run) = same_layers(&rbuild, |words| rbuild.command_in(&mount, &[], words)) {
            run.says("roots of RUN are copied here").says("overlay");
            let said = doctor(rbuild.command_in(&mount, &[], &["doctor"]));
            assert!(said.contains("missing  overlay") && said.contains("is on an overlay"), "{said}");
        }
    }

    fn copies_that_were_asked_for_give_the_same_layers_too(rbuild) {
        let run = same_layers(&rbuild, |words| {
            let mut command = rbuild.command(words);
            command.env("RBUILD_STORAGE_DRIVER", "copy");
            Some(command)
        });
        if let Some(run) = run {
            run.does_not_say("are copied here");
        }
    }

    fn without_new_privileges_one_id_serves_and_the_layers_are_the_same(rbuild) {
        if !crate::harness::has_program("setpriv") {
            skip!("setpriv is missing");
        }
        same_layers(&rbuild, |words| {
            let program = rbuild.program();
            let program = program.to_str().expect("paths are UTF-8");
            Some(rbuild.command_of("setpriv", ["--no-new-privs", program].iter().chain(words)))
        });
        if rbuild.user == User::Subuid {
            let program = rbuild.program();
            let program = program.to_str().expect("paths are UTF-8");
            let said = doctor(Some(rbuild.command_of("setpriv", ["--no-new-privs", program, "doctor"])));
            assert!(said.contains("NoNewPrivs is 1") && said.contains("owners are recorded"), "{said}");
        }
    }

    fn without_namespaces_root_runs_commands_in_a_chroot_and_others_are_told_before_anything_is_pulled(rbuild) {
        if rbuild.user == User::Root {
            let run = same_layers(&rbuild, |words| Some(confined(&rbuild, words)));
            if let Some(run) = run {
                run.says("no namespaces here");
            }
            check_chroot(&rbuild);
            check_killed_in_chroot(&rbuild);
        }
        let said = doctor(Some(confined(&rbuild, &["doctor"])));
        let summary = if rbuild.user == User::Root { "RUN works as root in a chroot" } else { "RUN is not possible here" };
        assert!(said.starts_with(summary) && said.contains("--security-opt seccomp=unconfined"), "{said}");
        let left = fs::read_dir(rbuild.path("")).expect("list the place").flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().contains("doctor")), "it left something");
        if let Some(program) = missing_programs(Access::Plain) {
            skip!("{program} is not installed");
        }
        let registry = Registry::start(Access::Plain);
        let before = registry.requests();
        let context = rbuild.context("pull").file("Dockerfile", format!("FROM {}\nRUN true\n", registry.name("x")));
        let directory = context.directory.to_str().expect("paths are UTF-8");
        let words = ["build", "--isolation=full", directory];
        let run = finish(confined(&rbuild, &words).spawn().expect("start it")).failed(1);
        run.says("cannot run commands here").says("seccomp profile forbids namespaces").says("rbuild doctor");
        assert_eq!(registry.requests(), before, "it asked the registry first:\n{}", registry.log());
    }
}

/// What `rbuild doctor` prints.
fn doctor(command: Option<Command>) -> String {
    finish(command.expect("the place can be made").spawn().expect("start it")).succeeded().stdout
}

/// Without a pid namespace, too, nothing of a command outlives `rbuild`.
fn check_killed_in_chroot(rbuild: &Rbuild) {
    let number = std::process::id() % 10_000 + 80_000;
    let stubborn = format!("trap '' TERM HUP INT; (setsid sleep {number} &); sleep {number} & sleep {number}");
    let context = on_busybox(rbuild, "killed", &format!("RUN {stubborn}\n")).expect("the base was there a moment ago");
    let directory = context.directory.to_str().expect("paths are UTF-8");
    let mut child = confined(rbuild, &["build", "--progress=plain", directory]).spawn().expect("start it");
    let pattern = format!("^sleep {number}");
    let running = || Command::new("pgrep").args(["-fc", &pattern]).output().expect("run pgrep").stdout;
    let wait_for = |wanted: &[u8]| {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while running() != wanted {
            assert!(std::time::Instant::now() < until, "{} are running", String::from_utf8_lossy(&running()));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    wait_for(b"3\n");
    child.kill().expect("kill rbuild");
    wait_for(b"0\n");
    child.wait().expect("wait for rbuild");
}

/// As in a container with Docker's defaults: no namespaces, and for root 14 capabilities.
pub fn confined(rbuild: &Rbuild, arguments: &[&str]) -> Command {
    let program = rbuild.program();
    let program = program.to_str().expect("paths are UTF-8");
    let python = ["python3", "-c", WITHOUT_NAMESPACES, program];
    if rbuild.user != User::Root {
        return rbuild.command_of("/usr/bin/env", python.iter().chain(arguments));
    }
    let capabilities = "--bounding-set=-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,\
                        +setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write";
    rbuild.command_of("setpriv", [capabilities].iter().chain(&python).chain(arguments))
}

/// What a command in a chroot must not be able to do, what of it must not stay, and that the cache knows it again.
fn check_chroot(rbuild: &Rbuild) {
    let canary = rbuild.path("canary");
    fs::write(&canary, "untouched").expect("write the canary");
    let number = std::process::id() % 10_000 + 70_000;
    let rest = format!(
        "RUN mkdir /x; chroot /x true && exit 3; mknod /disk b 8 0 && exit 4; kill -9 $PPID && exit 5; kill -0 1 && exit 6; \
         cd ../../../..; cat .{0} {0} && exit 7; echo gone > {0} && exit 8; ls /proc/self && exit 9; \
         mount -t tmpfs none /x && exit 10; (trap '' HUP TERM; setsid sleep {number} &); sleep {number} & \
         test -c /dev/null && echo x > /dev/null\n\
         RUN --mount=type=secret,id=word mv /run/secrets /kept; grep -r word /run/secrets /kept; true\n\
         USER 1000\nRUN id -u | grep -x 1000 && ! touch /etc/x\n",
        canary.display()
    );
    let context = on_busybox(rbuild, "chroot", &rest).expect("the base was there a moment ago");
    let directory = context.directory.to_str().expect("paths are UTF-8");
    let secret = format!("--secret=id=word,src={}", rbuild.path("contexts/ladder/word").display());
    let archive = rbuild.path("out/chroot.tar");
    let output = format!("type=oci,compression=uncompressed,dest={}", archive.display());
    let words = ["build", "--progress=plain", &secret, "-o", &output, directory];
    let build = || finish(confined(rbuild, &words).spawn().expect("start it")).succeeded();
    build();
    assert_eq!(fs::read_to_string(&canary).expect("read the canary"), "untouched");
    let running = Command::new("pgrep").args(["-f", &format!("sleep {number}")]).status().expect("run pgrep");
    assert!(!running.success(), "something of the command is left");
    build().all_cached();
    let bytes = fs::read(&archive).expect("read the image");
    assert!(
        !bytes.windows(WORD.len()).any(|window| window == WORD.as_bytes()),
        "a secret that was moved is in a layer"
    );
    let words = ["build", "--no-cache", "--network=none", directory];
    let run = finish(confined(rbuild, &words).spawn().expect("start it"));
    run.failed(1).says("--network=none needs namespaces");
}
