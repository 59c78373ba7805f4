//! What RUN may use at most: kept where the place has control groups for it, told where it has not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Rbuild, User, finish};
use crate::leftovers::on_busybox;

const UNKEPT: &str = "cannot be kept here";

/// Whether limits are kept here. That they are not has to be told; root without control groups is a skip.
fn are_kept(rbuild: &Rbuild, flags: &[&str]) -> Result<bool, String> {
    let context = on_busybox(rbuild, "probe", "RUN true\n")?;
    let run = rbuild.build(&context, &[flags, &["--no-cache"]].concat()).succeeded();
    let is_kept = !run.stderr.contains(UNKEPT);
    if !is_kept {
        run.says(flags[0]).says("systemd-run --user --scope -p Delegate=yes");
    }
    if !is_kept && rbuild.user == User::Root {
        Err("no control groups to be written to".to_owned())
    } else {
        Ok(is_kept)
    }
}

/// The control groups that a process made.
fn groups_of(process: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("rbuild-") && name.split('-').nth(2) == Some(process.to_string().as_str()) {
                    found.push(entry.path());
                }
                todo.push(entry.path());
            }
        }
    }
    found
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn build_and_look(rbuild: &Rbuild, context: &Path, flags: &[&str]) -> crate::harness::Run {
    let context = context.to_str().expect("paths of tests are UTF-8");
    let child = rbuild.start([&["build", "--progress", "plain"], flags, &[context]].concat());
    let process = child.id();
    let run = finish(child);
    assert_eq!(groups_of(process), Vec::<PathBuf>::new(), "groups are left");
    run
}

for_each_user! {
    fn memory_that_runs_out_is_told_even_where_the_shell_hides_it(rbuild) {
        match are_kept(&rbuild, &["--memory", "32m"]) {
            Err(reason) => skip!("{reason}"),
            // Without the limit the command would take all that the machine has.
            Ok(false) => return,
            Ok(true) => {}
        }
        let flags = ["--memory", "32m", "--memory-swap", "32m"];
        let hidden = on_busybox(&rbuild, "hidden", "RUN tail /dev/zero; echo went on\n").expect("it was there before");
        build_and_look(&rbuild, &hidden.directory, &flags)
            .succeeded()
            .says("went on")
            .says("a process of this command was killed for lack of memory, although the command ended well");
        let open = on_busybox(&rbuild, "open", "RUN exec tail /dev/zero\n").expect("it was there before");
        build_and_look(&rbuild, &open.directory, &flags).failed(137).says("killed for lack of memory");
    }

    fn a_command_has_no_more_processes_and_processors_than_it_may(rbuild) {
        match are_kept(&rbuild, &["--pids-limit", "20", "--cpuset-cpus", "0"]) {
            Err(reason) => skip!("{reason}"),
            Ok(false) => return,
            Ok(true) => {}
        }
        let rest = "RUN grep Cpus_allowed_list /proc/self/status\n\
                    RUN for i in $(seq 40); do sleep 1 & done; echo started $((6 * 7))\n";
        let context = on_busybox(&rbuild, "many", rest).expect("it was there before");
        build_and_look(&rbuild, &context.directory, &["--pids-limit", "20", "--cpuset-cpus", "0"])
            .says("Cpus_allowed_list:\t0\n")
            .says("can't fork")
            .does_not_say("started 42");
    }

    fn limits_are_no_part_of_the_key(rbuild) {
        let context = match on_busybox(&rbuild, "key", "RUN ulimit -n\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &["--ulimit", "nofile=77:99"]).succeeded().says(" 77\n");
        rbuild.build(&context, &["--ulimit", "nofile=78", "--memory", "1g"]).succeeded().all_cached();
    }

    fn limits_of_processes_are_the_command_s(rbuild) {
        let context = match on_busybox(&rbuild, "ulimits", "RUN ulimit -n; ulimit -Hn; ulimit -c; ulimit -f; ulimit -t\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let flags = ["--ulimit", "nofile=77:99", "--ulimit", "fsize=4096", "--ulimit", "cpu=1000", "--ulimit", "nproc=500"];
        // Blocks of 512 bytes.
        rbuild.build(&context, &flags).succeeded().says(" 77\n").says(" 99\n").says(" 0\n").says(" 8\n").says(" 1000\n");
    }

    fn a_limit_above_what_can_be_had_is_what_can_be_had(rbuild) {
        let context = match on_busybox(&rbuild, "above", "RUN echo processes: $(ulimit -Hn)\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        // More than the kernel gives anybody (`fs.nr_open`).
        rbuild
            .build(&context, &["--ulimit", "nofile=1024:9223372036854775807"])
            .succeeded()
            .says("note: --ulimit nofile: ")
            .says("is the most that can be had here")
            .says("processes: ");
    }

    fn groups_of_a_killed_build_are_removed_by_the_next(rbuild) {
        match are_kept(&rbuild, &["--pids-limit", "100"]) {
            Err(reason) => skip!("{reason}"),
            Ok(false) => return,
            Ok(true) => {}
        }
        let context = on_busybox(&rbuild, "killed", "RUN sleep 1000\n").expect("it was there before");
        let path = context.directory.to_str().expect("paths of tests are UTF-8");
        let child = rbuild.start(["build", "--progress", "plain", "--pids-limit", "100", path]);
        let process = child.id();
        let has_processes = |group: &PathBuf| {
            fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
        };
        wait_for("a group with processes", || groups_of(process).iter().any(has_processes));
        let id = Pid::from_raw(i32::try_from(process).expect("ids are small")).expect("an id");
        kill_process(id, Signal::KILL).expect("kill rbuild");
        finish(child);
        wait_for("its processes to end", || !groups_of(process).iter().any(has_processes));
        assert_ne!(groups_of(process), Vec::<PathBuf>::new(), "who removed them?");
        are_kept(&rbuild, &["--pids-limit", "99"]).expect("limits were kept before");
        assert_eq!(groups_of(process), Vec::<PathBuf>::new(), "groups are left");
    }
}
