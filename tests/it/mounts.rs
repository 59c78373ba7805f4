//! Mounts of RUN that several commands share.

use crate::harness::Rbuild;
use crate::leftovers::on_busybox;

/// How long the builds here may take: one that waits for itself never ends.
const LIMIT: &str = "30";

/// Builds with an end in sight.
fn build_in_time(rbuild: &Rbuild, rest: &str) -> Result<(), String> {
    let context = on_busybox(rbuild, "mounts", rest)?;
    let program = rbuild.path("rbuild");
    let arguments = [LIMIT.as_ref(), program.as_os_str(), "build".as_ref(), context.directory.as_os_str()];
    let run = crate::harness::finish(rbuild.command_of("timeout", arguments).spawn().expect("start timeout"));
    run.succeeded();
    Ok(())
}

for_each_user! {
    fn a_command_may_mount_a_locked_cache_twice(rbuild) {
        let rest = "RUN --mount=type=cache,id=a,target=/x,sharing=locked \
                    --mount=type=cache,id=a,target=/y,sharing=locked echo 1 > /x/file; cat /y/file\n";
        if let Err(reason) = build_in_time(&rbuild, rest) {
            skip!("{reason}");
        }
    }

    fn commands_that_lock_two_caches_in_their_own_orders_do_not_wait_for_each_other(rbuild) {
        let run = |first: &str, second: &str| {
            let mount = |id: &str| format!("--mount=type=cache,id={id},target=/cache/{id},sharing=locked");
            format!("RUN {} {} sleep 0.1; echo {first}\n", mount(first), mount(second))
        };
        // Both stages begin with a command of their own, so that they start together more than once.
        let mut rest = String::from("FROM busybox AS one\n");
        for (stage, first, second) in [("one", "a", "b"), ("two", "b", "a")] {
            if stage == "two" {
                rest.push_str("FROM busybox AS two\n");
            }
            for _ in 0..3 {
                rest.push_str(&run(first, second));
            }
        }
        rest.push_str("FROM busybox\nCOPY --from=one /etc /1\nCOPY --from=two /etc /2\n");
        if let Err(reason) = build_in_time(&rbuild, &rest) {
            skip!("{reason}");
        }
    }
}
