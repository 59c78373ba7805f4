//! Rows of the threat catalogue that take the whole builder: what a Dockerfile may try. Every attack is made on every rung
//! of the ladder that the machine and the user have, and each time the canary must be what it was and unread.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Files, Rbuild, Run, User, finish, has_program, suite_user};
use crate::ladder::confined;
use crate::leftovers::on_busybox;

/// What must stay where it is, unread. It reads as a user database as well, for attacks on that.
const CANARY: &str = "canary7f3a:x:0:0::/:/bin/sh\n";

/// Where commands run, from the best place to the poorest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Best,
    CopiedRoot,
    OneId,
    Chroot,
}

/// A context, a canary outside of everything, and what was there before.
struct Attack {
    context: Files,
    canary: PathBuf,
    names: Vec<String>,
}

impl Attack {
    /// In the lines that go on from busybox, `CANARY` stands for the canary's path and `AROUND` for its directory.
    fn new(rbuild: &Rbuild, rest: &str) -> Result<Attack, String> {
        let around = rbuild.path("home/around");
        fs::create_dir_all(&around).expect("make a directory");
        let canary = around.join("canary");
        fs::write(&canary, CANARY).expect("write the canary");
        // Who gets out must be stopped by nothing else, so that the attack can succeed.
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o666)).expect("open the canary to all");
        for directory in [rbuild.path("home"), around.clone()] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("open its directories to all");
        }
        let rest =
            rest.replace("CANARY", &canary.display().to_string()).replace("AROUND", &around.display().to_string());
        let context = on_busybox(rbuild, "attack", &rest)?;
        Ok(Attack { context, canary, names: names(rbuild) })
    }

    /// Attacks from everywhere; each run is looked at after the canary was.
    fn everywhere(&self, rbuild: &Rbuild, flags: &[&str], look: impl Fn(Place, Run)) {
        for place in places(rbuild) {
            let run = self.from(rbuild, place, flags);
            self.check(rbuild, &format!("{place:?}"), &run);
            look(place, run);
        }
    }

    fn from(&self, rbuild: &Rbuild, place: Place, flags: &[&str]) -> Run {
        let directory = self.context.directory.to_str().expect("paths are UTF-8");
        let words = [&["build", "--no-cache", "--progress=plain"], flags, &[directory]].concat();
        let program = rbuild.program();
        let program = program.to_str().expect("paths are UTF-8");
        let mut command = match place {
            Place::Best => rbuild.command(&words),
            Place::CopiedRoot => {
                let mut command = rbuild.command(&words);
                command.env("RBUILD_STORAGE_DRIVER", "copy");
                command
            }
            Place::OneId => rbuild.command_of("setpriv", ["--no-new-privs", program].iter().chain(&words)),
            Place::Chroot => confined(rbuild, &words),
        };
        finish(command.spawn().expect("start it"))
    }

    fn check(&self, rbuild: &Rbuild, place: &str, run: &Run) {
        assert_eq!(fs::read_to_string(&self.canary).expect("read the canary"), CANARY, "{place}: {}", run.stderr);
        for said in [&run.stdout, &run.stderr] {
            assert!(!said.contains("canary7f3a"), "{place}: the canary was read:\n{said}");
        }
        assert_eq!(names(rbuild), self.names, "{place}: something was made or deleted outside:\n{}", run.stderr);
    }
}

/// Everything beside the store that an attack could make or delete.
fn names(rbuild: &Rbuild) -> Vec<String> {
    let list = |place: &str| {
        let entries = fs::read_dir(rbuild.path(place)).expect("list a directory").flatten();
        entries.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
    };
    let mut names: Vec<String> = ["", "home", "home/around", "tmp", "run", "out"].into_iter().flat_map(list).collect();
    names.retain(|name| !name.ends_with("/store"));
    names.sort();
    names
}

fn places(rbuild: &Rbuild) -> Vec<Place> {
    let mut places = vec![Place::Best, Place::CopiedRoot];
    if has_program("setpriv") && rbuild.user == User::Subuid {
        places.push(Place::OneId);
    }
    if has_program("setpriv") && has_program("python3") && rbuild.user == User::Root {
        places.push(Place::Chroot);
    }
    places
}

/// Builds on busybox everywhere with a build that must succeed: the attack is contained.
fn contained(rbuild: &Rbuild, rest: &str) {
    match Attack::new(rbuild, rest) {
        Ok(attack) => attack.everywhere(rbuild, &[], |place, run| {
            assert_eq!(run.code, Some(0), "{place:?}: {}", run.stderr);
        }),
        Err(reason) => skip!("{reason}"),
    }
}

/// The same with a build that must fail and say why.
fn refused(rbuild: &Rbuild, rest: &str, flags: &[&str], because: &str) {
    match Attack::new(rbuild, rest) {
        Ok(attack) => attack.everywhere(rbuild, flags, |place, run| {
            assert!(run.code.is_some_and(|code| code != 0), "{place:?} went on:\n{}", run.stderr);
            assert!(run.stderr.contains(because), "{place:?} does not say {because:?}:\n{}", run.stderr);
        }),
        Err(reason) => skip!("{reason}"),
    }
}

for_each_user! {
    fn the_canary_can_be_reached_where_it_is_given(rbuild) {
        // That the checks of the other tests can fail: the same attack, on a directory that the Dockerfile was given.
        let attack = match Attack::new(&rbuild, "RUN --mount=from=around,target=/m cat /m/canary\n") {
            Ok(attack) => attack,
            Err(reason) => skip!("{reason}"),
        };
        let around = attack.canary.parent().expect("it is in a directory").display().to_string();
        for place in places(&rbuild) {
            let run = attack.from(&rbuild, place, &["--build-context", &format!("around={around}")]).succeeded();
            let checked = std::panic::catch_unwind(|| attack.check(&rbuild, "given", &run));
            assert!(checked.is_err(), "{place:?}: the canary was read and nobody noticed:\n{}", run.stderr);
        }
    }

    fn s1_cve_2024_21626_a_working_directory_behind_a_descriptor(rbuild) {
        let each = |number: u32| format!(
            "FROM busybox AS s{number}\nWORKDIR /proc/self/fd/{number}\nRUN cat ../../..CANARY ../../../..CANARY >/seen 2>&1; \
             pwd; ls -l . .. >>/seen; ! grep -q canary7f3a /seen\n"
        );
        let stages: String = [3, 5, 7, 8, 9, 11].map(each).concat();
        match Attack::new(&rbuild, &(stages + "FROM busybox\nWORKDIR /proc/self/root/proc/1/root\nRUN cat .CANARY\n")) {
            // Some fail as there is no such directory, others are in a directory of the image: none gets out.
            Ok(attack) => attack.everywhere(&rbuild, &[], |_, run| assert!(run.code.is_some(), "{run:?}")),
            Err(reason) => skip!("{reason}"),
        }
    }

    fn s12_setuid_files_of_a_command_are_out_of_reach_of_other_users(rbuild) {
        if suite_user() != User::Root {
            eprintln!("not applicable: only root looks into another user's store");
            return;
        }
        let attack = match Attack::new(&rbuild, "RUN cp /bin/busybox /setuid-here && chmod 6755 /setuid-here\n") {
            Ok(attack) => attack,
            Err(reason) => skip!("{reason}"),
        };
        attack.everywhere(&rbuild, &[], |_, run| drop(run.succeeded()));
        assert_eq!(fs::metadata(rbuild.store()).expect("look at the store").permissions().mode() & 0o777, 0o700);
        let find = ["find", "STORE", "-name", "setuid-here"].map(|word| word.replace("STORE", &rbuild.store().display().to_string()));
        let found = Command::new(&find[0]).args(&find[1..]).output().expect("run find").stdout;
        let found = String::from_utf8_lossy(&found).into_owned();
        let file = found.lines().next().expect("the file is in the store").to_owned();
        // The shell between, because setpriv itself keeps root's rights until the program is started.
        let words = ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "exec \"$0\" true", &file];
        let run = Command::new("setpriv").args(words).output().expect("run setpriv");
        assert!(String::from_utf8_lossy(&run.stderr).contains("Permission denied"), "{file}: {run:?}");
    }

    fn s14_cve_2024_40635_users_that_are_no_users(rbuild) {
        for user in ["4294967296", "4294967295", "-1", "0x0", "a:b:c", "18446744073709551616:0"] {
            refused(&rbuild, &format!("USER {user}\nRUN id\n"), &[], user);
        }
    }

    fn s14_cve_2024_9676_a_user_database_that_is_none(rbuild) {
        refused(&rbuild, "RUN rm /etc/passwd && ln -s CANARY /etc/passwd\nUSER canary7f3\nRUN id\n", &[], "canary7f3");
        refused(&rbuild, "RUN rm /etc/passwd && mkfifo /etc/passwd\nUSER nobody\nRUN id\n", &[], "/etc/passwd");
    }

    fn s14_cve_2026_47262_a_user_database_without_end(rbuild) {
        let rest = "RUN truncate -s 11M /etc/passwd\nUSER nobody\nRUN id\n";
        refused(&rbuild, rest, &[], "/etc/passwd");
    }

    fn d1_cve_2024_23652_a_link_in_place_of_a_mount_point(rbuild) {
        contained(&rbuild, "RUN --mount=type=tmpfs,target=/a/AROUND --mount=type=cache,target=/b/AROUND \
                            rm -rf /a /b; mv /a /x; mv /b /y; ln -s / /a; ln -s / /b; true\nRUN true\n");
    }

    fn d2_cve_2024_23651_a_cache_whose_source_is_a_link_out(rbuild) {
        let link = "RUN --mount=type=cache,id=c,target=/c ln -sfn AROUND /c/sel && ln -sfn ../../../../../../../AROUND /c/up\n";
        for source in ["sel", "up", "../../../../../../AROUND", "sel/../../../../AROUND"] {
            let mount = format!("RUN --mount=type=cache,id=c,source={source},target=/m cat /m/canary && echo gone > /m/canary\n");
            refused(&rbuild, &(link.to_owned() + &mount), &[], "");
        }
    }

    fn d3_cve_2024_1753_a_bind_mount_of_a_stage_s_link_to_the_root(rbuild) {
        contained(&rbuild, "FROM busybox AS evil\nRUN ln -s / /root-link && ln -s AROUND /around-link\nFROM busybox\n\
            RUN --mount=from=evil,source=/root-link,target=/m,rw ! cat /m/CANARY && ! (echo gone > /m/CANARY) 2>/dev/null\n\
            RUN --mount=from=evil,target=/m,rw ! cat /m/around-link/canary && ! ls /m/CANARY\n");
    }

    fn d4_cve_2024_9407_mount_options_that_nobody_checked(rbuild) {
        for option in ["bind-propagation=shared", "propagation=rshared", "suid", "dev", "exec=true"] {
            refused(&rbuild, &format!("RUN --mount=type=bind,target=/m,{option} true\n"), &[], option.split('=').next().unwrap_or(option));
        }
        refused(&rbuild, "RUN --mount=type=bind,from=busybox,source=../../../../AROUND,target=/m cat /m/canary\n", &[], "");
    }

    fn d4_cve_2024_9675_cache_ids_are_no_paths(rbuild) {
        let ids = ["../../../../home/around", "AROUND", "..", ".", "a/b", "/"];
        let runs: String = ids
            .iter()
            .map(|id| format!("RUN --mount=type=cache,id={id},target=/c ls /c; ! cat /c/canary; echo gone > /c/canary\n"))
            .collect();
        contained(&rbuild, &runs);
    }

    fn d5_cve_2024_23653_nothing_beyond_the_sandbox_without_leave(rbuild) {
        refused(&rbuild, "RUN --security=insecure true\n", &[], "--allow security.insecure");
        refused(&rbuild, "RUN --network=host true\n", &["--network=none"], "--allow network.host");
        refused(&rbuild, "RUN --device=vendor.com/gpu=0,required true\n", &[], "vendor.com/gpu");
    }

    fn d7_copies_through_links_stay_in_their_roots(rbuild) {
        contained(&rbuild, "FROM busybox AS evil\nRUN ln -s AROUND /out && ln -s ../../../../../../AROUND /up && mkdir /AROUND -p && \
            echo own > CANARY\nFROM busybox\nCOPY --from=evil /out/canary /a\nCOPY --from=evil /up/canary /b\n\
            RUN ln -s AROUND /to\nCOPY --from=evil /out/canary /to/canary\nADD rootfs.tar.xz /to/\n\
            RUN test $(cat /a /b CANARY | sort -u) = own && rm -rf /to/* && rm -rf AROUND\n");
        let links: String = (0..41).map(|number| format!("ln -s l{} /l{number}; ", number + 1)).collect();
        refused(&rbuild, &format!("FROM busybox AS evil\nRUN {links} ln -s l0 /l41\nFROM busybox\nCOPY --from=evil /l0/x /a\n"), &[], "/l0/x");
    }

    fn d8_nothing_of_the_builder_is_in_a_root(rbuild) {
        contained(&rbuild, "ONBUILD COPY rootfs.tar.xz /proc/self/exe\nCOPY rootfs.tar.xz /rbuild\n\
            RUN test -z \"$(find / -xdev -name '*rbuild*' ! -path /rbuild)\" && ! ls /proc/1/exe/ /proc/self/exe/\n");
    }

    fn d9_ghsa_x86f_5xw2_fm2r_no_program_of_an_image_is_run_by_the_builder(rbuild) {
        let programs = "xz unxz git tar gzip gunzip bzip2 zstd cp chown mount newuidmap getent";
        let rest = format!(
            "RUN mkdir -p /usr/bin /usr/local/bin; for each in {programs}; do for at in /usr/bin /usr/local/bin; do \
             printf '#!/bin/busybox sh\\necho gone > CANARY; echo > /ran\\n' > $at/$each && /bin/busybox chmod 755 $at/$each; done; done\n\
             ADD rootfs.tar.xz /again\nCOPY --chown=root:root rootfs.tar.xz /kept\nWORKDIR /made\nRUN [\"/bin/busybox\", \"test\", \"!\", \"-e\", \"/ran\"]\n"
        );
        contained(&rbuild, &rest);
    }

    fn d10_cve_2026_53488_labels_volumes_and_variables_of_a_base_steer_nothing(rbuild) {
        contained(&rbuild, "FROM busybox AS evil\nLABEL containerd.io/restart.logpath=binary:///bin/sh?-c=rm%20CANARY \
            io.rbuild.run=\"rm CANARY\"\nVOLUME ../../../../AROUND\nVOLUME [\"/AROUND\", \"/../..\"]\n\
            ENV LD_PRELOAD=CANARY PATH=.:AROUND GIT_SSH_COMMAND=\"rm CANARY\" RBUILD_ROOT=AROUND TMPDIR=AROUND\n\
            FROM evil\nCOPY rootfs.tar.xz /kept\nRUN [\"/bin/busybox\", \"true\"]\n");
    }

    fn k2_a_secret_s_place_behind_a_link_stays_in_the_root_and_leaves_no_trace(rbuild) {
        let rest = "RUN ln -s AROUND /etc/x && ln -s ../../../../../../AROUND /etc/y\n\
            RUN --mount=type=secret,id=word,target=/etc/x/word --mount=type=secret,id=word,target=/etc/y/other \
            test $(cat /etc/x/word) = $(cat /etc/y/other)\nRUN ! ls AROUND/word || ! ls AROUND/other\nRUN ! find / -xdev -name word | grep .\n";
        match Attack::new(&rbuild, rest) {
            Ok(attack) => {
                let attack = Attack { context: attack.context.file("secret", "k2-secret"), ..attack };
                let secret = format!("--secret=id=word,src={}", attack.context.directory.join("secret").display());
                attack.everywhere(&rbuild, &[&secret], |_, run| drop(run.succeeded()));
            }
            Err(reason) => skip!("{reason}"),
        }
    }

    fn k4_a_builder_shows_its_memory_to_nobody_and_writes_no_core(rbuild) {
        let context = match on_busybox(&rbuild, "crash", "RUN echo begun; sleep 1000\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let program = rbuild.program().display().to_string();
        let directory = context.directory.display().to_string();
        let script = "ulimit -c $(ulimit -Hc); exec \"$@\"";
        let mut child = rbuild
            .command_of("sh", ["-c", script, "sh", &program, "build", "--progress=plain", &directory])
            .spawn()
            .expect("start rbuild");
        let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        let begun = said.any(|line| line.is_ok_and(|line| line.ends_with(" begun")));
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("read the limits");
        // By another process of the same user. Root may look into everything, unless something keeps root from it.
        let looks: Vec<Run> = ["environ", "mem", "maps"]
            .iter()
            .filter(|_| rbuild.user != User::Root)
            .map(|file| finish(rbuild.command_of("cat", [format!("/proc/{}/{file}", child.id())]).spawn().expect("cat")))
            .collect();
        let killed = Command::new("kill").args(["-s", "ABRT", &child.id().to_string()]).status().expect("run kill");
        child.wait().expect("wait for rbuild");
        assert!(begun && killed.success(), "the RUN did not begin");
        for look in looks {
            assert!(look.code == Some(1) && look.stderr.contains("Permission denied"), "looked into rbuild: {look:#?}");
        }
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line of it");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        assert_eq!(fs::read_dir(rbuild.path("out")).expect("list the directory").count(), 0);
    }

    fn k5_what_a_step_has_is_not_seen_by_one_that_runs_beside_it(rbuild) {
        let rest = "FROM busybox AS holds\n\
            RUN --mount=type=cache,id=k5,target=/c --mount=type=secret,id=word,env=WORD \
            rm -f /c/over; echo $WORD > /dev/shm/word; sh -c 'sleep 30' \"$WORD\" & touch /c/up; \
            for i in $(seq 200); do test -e /c/over && break; sleep 0.1; done; rm -f /c/up; test -e /c/over\n\
            FROM busybox AS looks\nRUN --mount=type=cache,id=k5,target=/c \
            for i in $(seq 200); do test -e /c/up && break; sleep 0.1; done; touch /c/up-seen; test -e /c/up || exit 3; \
            cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /dev/shm/* /tmp/* 2>/dev/null | grep -c k5-sec[r]et > /found; \
            touch /c/over; grep -x 0 /found\n\
            FROM scratch\nCOPY --from=holds /etc/passwd /a\nCOPY --from=looks /found /b\n";
        let attack = match Attack::new(&rbuild, rest) {
            Ok(attack) => attack,
            Err(reason) => skip!("{reason}"),
        };
        let attack = Attack { context: attack.context.file("secret", "k5-secret"), ..attack };
        let secret = format!("--secret=id=word,src={}", attack.context.directory.join("secret").display());
        // In a chroot the two have no cache to meet in, as caches are copies; and /proc there is empty.
        for place in places(&rbuild).into_iter().filter(|place| *place != Place::Chroot) {
            let run = attack.from(&rbuild, place, &[&secret]);
            attack.check(&rbuild, &format!("{place:?}"), &run);
            run.succeeded();
        }
    }
}
