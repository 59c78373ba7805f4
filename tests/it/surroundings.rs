//! Rows of the catalogue of threats and faults about contexts and surroundings: each test is named by its row. Which test
//! is for which row, of all of them, says `testdata/catalogue.md`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command};

use crate::harness::{Files, Rbuild, Run, User, finish, succeed, suite_user};
use crate::image::Image;
use crate::leftovers::on_busybox;

/// Words that nobody must ever see, in a file beside the context.
fn plant_canary(rbuild: &Rbuild) -> String {
    let path = rbuild.path("home/canary");
    fs::write(&path, "canary9d2c\nFROM canary9d2c\n").expect("write the canary");
    path.display().to_string()
}

fn never_shows_it(run: &Run) {
    assert!(!run.stderr.contains("canary9d2c") && !run.stdout.contains("canary9d2c"), "{}", run.stderr);
}

fn in_shell(rbuild: &Rbuild, script: &str, context: &Files) -> Child {
    let mut command = rbuild.command_of("sh", ["-c", script, "sh"]);
    command.arg(rbuild.program()).args(["build", "--progress=plain", "--reproducible"]).arg(&context.directory);
    command.spawn().expect("start sh")
}

fn signal(name: &str, child: &Child) {
    succeed(Command::new("kill").args(["-s", name, &child.id().to_string()]));
}

/// The letter that says what a process does (proc_pid_stat(5)).
fn state(child: &Child) -> String {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("read the state of a process");
    stat.rsplit(") ").next().and_then(|rest| rest.get(..1)).unwrap_or_default().to_owned()
}

for_each_user! {
    fn c1_links_lead_nowhere_out_of_a_context(rbuild) {
        let canary = plant_canary(&rbuild);
        let context = rbuild.context("links").file("sub/file", "1\n").file("Dockerfile", "FROM scratch\nCOPY sub /sub\n");
        symlink(&canary, context.directory.join("sub/absolute")).expect("make a link");
        symlink("../../../home/canary", context.directory.join("sub/upwards")).expect("make a link");
        symlink("../../home", context.directory.join("directory")).expect("make a link");
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        never_shows_it(&rbuild.build(&context, &["-o", &output]).succeeded());
        let files = Image::read(&archive).files();
        assert!(files.keys().any(|path| path.ends_with("sub/upwards")), "{files:?}");
        assert!(!String::from_utf8_lossy(&fs::read(&archive).expect("read the archive")).contains("canary9d2c"));
        for source in ["sub/absolute", "sub/upwards", "directory/canary", "sub/../../../home/canary"] {
            let context = rbuild.context("links").file("Dockerfile", format!("FROM scratch\nCOPY {source} /file\n"));
            let run = rbuild.build(&context, &["-o", &output]);
            never_shows_it(&run);
            if run.code == Some(0) {
                let content = fs::read(&archive).expect("read the archive");
                assert!(!String::from_utf8_lossy(&content).contains("canary9d2c"), "{source} was followed");
            }
        }
    }

    fn c1_a_dockerfile_that_leads_out_of_the_context_is_not_read(rbuild) {
        let canary = plant_canary(&rbuild);
        let context = rbuild.context("outside").file("inner/real", "FROM scratch\nCOPY Dockerfile /\n");
        let link = context.directory.join("Dockerfile");
        symlink("inner/real", &link).expect("make a link");
        rbuild.build(&context, &[]).succeeded();
        fs::remove_file(&link).expect("remove a link");
        symlink(&canary, &link).expect("make a link");
        for flags in [&[][..], &["--file", link.to_str().expect("UTF-8")], &["--check"]] {
            let run = rbuild.build(&context, flags).failed(1).says("which is outside the context").says("--file");
            never_shows_it(&run);
        }
        // Who names a file means it.
        let real = rbuild.context("elsewhere").file("Dockerfile", "FROM scratch\nCOPY inner/real /\n").directory;
        fs::remove_file(&link).expect("remove a link");
        rbuild.build(&context, &["--file", real.join("Dockerfile").to_str().expect("UTF-8")]).succeeded();
        // From inside of the context, too, where the path to it begins with the context's.
        let from = |directory: &Path, file: &str, context: &str| {
            let mut command = rbuild.command(["build", "--file", file, context]);
            finish(command.current_dir(directory).spawn().expect("start rbuild"))
        };
        from(&context.directory, "../elsewhere/Dockerfile", ".").succeeded();
        from(&context.directory, "inner/../../elsewhere/Dockerfile", ".").succeeded();
        from(&context.directory.join("inner"), "../../elsewhere/Dockerfile", "..").succeeded();
        symlink(&canary, real.join("Dockerfile.dockerignore")).expect("make a link");
        from(&context.directory, "../elsewhere/Dockerfile", ".");
        symlink(&canary, &link).expect("make a link");
        let run = from(&context.directory.join("inner"), "../Dockerfile", "..").failed(1).says("which is outside the context");
        never_shows_it(&run);
    }

    fn c2_an_ignore_file_that_leads_out_of_the_context_is_not_read(rbuild) {
        let canary = plant_canary(&rbuild);
        for name in [".dockerignore", "Dockerfile.dockerignore"] {
            let context = rbuild.context(name).file("Dockerfile", "FROM scratch\nCOPY . /\n");
            symlink(&canary, context.directory.join(name)).expect("make a link");
            never_shows_it(&rbuild.build(&context, &[]).failed(1).says("which is outside the context"));
        }
    }

    fn c5_what_cannot_be_read_matters_only_where_it_is_wanted(rbuild) {
        if rbuild.user == User::Root {
            eprintln!("not applicable: root can read everything");
            return;
        }
        let context = rbuild.context("closed").file("open", "1\n").file("secret", "2\n").file(".dockerignore", "secret\n");
        let context = context.file("Dockerfile", "FROM scratch\nCOPY . /\n");
        rbuild.own_everything();
        fs::set_permissions(context.directory.join("secret"), fs::Permissions::from_mode(0o0)).expect("close a file");
        rbuild.build(&context, &[]).succeeded();
        fs::remove_file(context.directory.join(".dockerignore")).expect("remove the ignore file");
        rbuild.build(&context, &[]).failed(1).says("secret").says("Permission denied");
    }

    fn f4_and_f5_poor_surroundings_change_nothing(rbuild) {
        let context = match on_busybox(&rbuild, "poor", "COPY Dockerfile /\nRUN umask > /umask; touch /file; pwd >> /umask\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let whole = finish(in_shell(&rbuild, "exec \"$@\"", &context)).succeeded().image_id();
        let scripts = [
            "unset HOME XDG_RUNTIME_DIR DOCKER_CONFIG; exec \"$@\"",
            "export TMPDIR=/nowhere HOME=/nowhere XDG_RUNTIME_DIR=/nowhere; exec \"$@\"",
            "export TMPDIR=/proc; exec \"$@\"",
            "umask 000; exec \"$@\"",
            "umask 077; exec \"$@\"",
            "export LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8 TZ=Pacific/Kiritimati; exec \"$@\"",
            "ulimit -n 128; exec \"$@\"",
            "unset PATH; exec \"$@\" <&-",
        ];
        for (number, script) in scripts.into_iter().enumerate() {
            // A store of its own each time, or everything would come from the cache.
            let store = format!("export RBUILD_ROOT={}; {script}", rbuild.path(format!("out/store{number}")).display());
            let run = finish(in_shell(&rbuild, &store, &context));
            assert_eq!((run.code, run.stdout.trim()), (Some(0), whole.as_str()), "{script}: {}", run.stderr);
        }
    }

    fn f6_nobody_who_listens_and_a_stop_do_not_stop_a_build(rbuild) {
        let context = match on_busybox(&rbuild, "deaf", "RUN for i in $(seq 2000); do echo $i; done; touch /done\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let mut child = in_shell(&rbuild, "exec \"$@\"", &context);
        drop((child.stdout.take(), child.stderr.take()));
        signal("STOP", &child);
        while state(&child) != "T" {
            assert_ne!(state(&child), "Z", "it ended before it could be stopped");
            std::thread::yield_now();
        }
        signal("CONT", &child);
        let status = child.wait().expect("wait for rbuild");
        assert_eq!(status.code(), Some(0), "{status}");
        finish(in_shell(&rbuild, "exec \"$@\"", &context)).succeeded().all_cached();
    }

    fn f8_output_of_any_kind_and_size_harms_nothing(rbuild) {
        let rest = "RUN head -c 30000000 /dev/zero | tr '\\0' x; head -c 300000 /dev/urandom; printf '\\033[2J\\r\\n'; \
                    exec >&- 2>&-; touch /done\n";
        let context = match on_busybox(&rbuild, "loud", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let mut child = in_shell(&rbuild, "exec \"$@\"", &context);
        let mut said = Vec::new();
        child.stderr.take().expect("stderr is a pipe").read_to_end(&mut said).expect("read what it says");
        assert_eq!(child.wait().expect("wait for rbuild").code(), Some(0));
        assert!(!said.contains(&0x1b), "control characters reach the terminal");
        finish(in_shell(&rbuild, "exec \"$@\"", &context)).succeeded().all_cached();
    }
}

#[test]
fn f9_more_layers_than_a_mount_takes() {
    let rbuild = Rbuild::new(suite_user());
    // The kernel takes 500 layers in one overlay.
    let directories: String = (0..510).map(|number| format!("WORKDIR /d{number}\n")).collect();
    let rest = format!("{directories}RUN ls -d /d* | wc -l | sed 's/^/there are /'; touch /d7/made\nRUN ls /d7\n");
    let context = match on_busybox(&rbuild, "many", &rest) {
        Ok(context) => context,
        Err(reason) => skip!("{reason}"),
    };
    let archive = rbuild.path("out/image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    rbuild.build(&context, &["-o", &output]).succeeded().says(" there are 511\n").says(" made\n");
    assert_eq!(Image::read(&archive).diff_ids().len(), 513);
}
