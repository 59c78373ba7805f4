//! Nothing asks the network where what is local decides.

use std::fs;

use crate::bases::Base;

for_each_user! {
    fn a_base_that_is_local_is_not_asked_for_again(rbuild) {
        let (registry, base) = match Base::Busybox.in_registry() {
            Ok(both) => both,
            Err(reason) => skip!("{reason}"),
        };
        let context = rbuild
            .context("offline")
            .file("Dockerfile", format!("FROM {base}\nRUN echo one > /one\nCOPY file /file\nRUN cat /file > /copy\n"))
            .file("file", "first");
        rbuild.build(&context, &[]).succeeded();

        let requests = registry.requests();
        assert!(requests > 0, "the log of the registry shows no request:\n{}", registry.log());
        rbuild.build(&context, &[]).succeeded().all_cached();
        assert_eq!(registry.requests(), requests, "a build of only cached steps asked the registry:\n{}", registry.log());
        rbuild.build(&context, &["--pull"]).succeeded();
        assert!(registry.requests() > requests, "--pull did not ask the registry");

        // And with nobody there to ask, also where steps have to run.
        drop(registry);
        fs::write(context.directory.join("file"), "second").expect("edit a file");
        let run = rbuild.build(&context, &[]).succeeded();
        assert_eq!(run.step("RUN echo one"), "CACHED", "{}", run.stderr);
        assert_eq!(run.step("RUN cat /file"), "DONE", "{}", run.stderr);
        rbuild.build(&context, &["--no-cache"]).succeeded();
        rbuild.build(&context, &["--pull"]).failed(1);
    }

    fn a_build_from_scratch_needs_no_network_at_all(rbuild) {
        let context = rbuild.context("scratch").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        // A proxy where nobody listens: whoever asks anything, fails.
        let mut rbuild = rbuild;
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            rbuild.set_variable(name, "http://127.0.0.1:1");
        }
        rbuild.build(&context, &["-t", "registry.invalid/x:1"]).succeeded().image_id();
    }
}
