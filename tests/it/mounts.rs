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
    fn a_command_gets_the_devices_that_are_described_and_allowed(rbuild) {
        let rest = "RUN --device=vendor.com/zero=a,required --device=vendor.com/none=x \\
            test $(head -c 4 /dev/vendor/zero | od -An -tx1 | tr -d ' ') = 00000000 \\
            && cat /opt/driver && echo got $VENDOR and $ALL; if (echo x >> /opt/driver) 2>/dev/null; then exit 4; fi\n";
        let context = match on_busybox(&rbuild, "devices", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let driver = context.directory.join("driver.txt");
        let json = serde_json::json!({
            "cdiVersion": "0.6.0", "kind": "vendor.com/zero",
            "containerEdits": { "env": ["ALL=shared"], "hooks": [{ "hookName": "prestart", "path": "/bin/false" }] },
            "devices": [{ "name": "a", "containerEdits": {
                "env": ["VENDOR=device"],
                "deviceNodes": [{ "path": "/dev/vendor/zero", "hostPath": "/dev/zero" }],
                "mounts": [{ "hostPath": driver, "containerPath": "/opt/driver", "options": ["ro", "bind"] }],
            } }],
        });
        let context = context.file("driver.txt", "driver 1.0\n").file("cdi/vendor.json", json.to_string());
        let directory = format!("--cdi-spec-dir={}", context.directory.join("cdi").display());
        let refused = rbuild.build(&context, &[&directory]).failed(1);
        refused.says("device vendor.com/zero=a is requested by the build but not allowed").says("--allow device=");
        let run = rbuild.build(&context, &["--progress=plain", &directory, "--allow=device=vendor.com/zero=a"]).succeeded();
        let run = run.says("driver 1.0").says("got device and shared").says("optional device \"vendor.com/none=x\" is not registered");
        run.says("hooks of device vendor.com/zero=a are not run");
        let missing = rbuild.build(&context, &["--no-cache", "--allow=device", "--cdi-spec-dir=nowhere"]).failed(1);
        missing.says("required device \"vendor.com/zero=a\" is not registered").says("Dockerfile:");
    }

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
