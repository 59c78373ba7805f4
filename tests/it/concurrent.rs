//! Builds at the same time on one store.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Child;

use crate::bases::Base;
use crate::harness::{Files, Rbuild, finish};
use crate::image::Image;
use crate::leftovers::on_busybox;

fn context(rbuild: &Rbuild, name: &str, last: &str) -> Result<Files, String> {
    let dockerfile = format!("FROM scratch\nADD rootfs.tar.xz /\nRUN sleep 0.3; echo shared > /shared\n{last}\n");
    let context = rbuild.context(name).file("Dockerfile", dockerfile);
    fs::copy(Base::Busybox.rootfs()?, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
    Ok(context)
}

/// Builds all contexts at once, each into an archive; the images in the same order.
fn build_at_once(rbuild: &Rbuild, contexts: &[&Files]) -> Vec<Image> {
    rbuild.own_everything();
    let mut children = Vec::new();
    for (number, context) in contexts.iter().enumerate() {
        let archive = rbuild.path(format!("out/{number}.tar"));
        let output = format!("type=oci,dest={}", archive.display());
        let directory = context.directory.to_str().expect("paths are UTF-8");
        children.push((archive, rbuild.start(["build", "--progress", "plain", "-o", &output, directory])));
    }
    let wait = |(archive, child): (PathBuf, Child)| {
        let run = finish(child).succeeded();
        let image = Image::read(&archive);
        assert_eq!(run.image_id(), image.id);
        image
    };
    children.into_iter().map(wait).collect()
}

for_each_user! {
    fn equal_steps_of_one_build_run_once_also_without_a_cache(rbuild) {
        let stages = ["one", "two", "three"].map(|name| {
            format!("FROM busybox AS {name}\nRUN cat /proc/sys/kernel/random/uuid > /uuid; sleep 0.3\nRUN echo {name} > /name\n")
        });
        let last = "FROM scratch\nCOPY --from=one /uuid /1\nCOPY --from=two /uuid /2\nCOPY --from=three /uuid /3\n";
        let context = match on_busybox(&rbuild, "equal", &(stages.concat() + last)) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2 {
            rbuild.build(&context, &["--no-cache", "-o", &output]).succeeded();
            let image = Image::read(&archive);
            let uuid = image.content("/1");
            assert!(image.content("/2") == uuid && image.content("/3") == uuid, "a step ran more than once");
            assert!(seen.insert(uuid), "the step came from the cache");
        }
    }

    fn who_waits_for_another_process_is_told_for_which(rbuild) {
        let context = match context(&rbuild, "waiting", "RUN echo begun; sleep 1000") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.own_everything();
        let directory = context.directory.to_str().expect("paths are UTF-8");
        let hears = |child: &mut Child, words: &str| {
            let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
            said.any(|line| line.is_ok_and(|line| line.contains(words)))
        };
        let mut first = rbuild.start(["build", "--progress", "plain", directory]);
        let begun = hears(&mut first, " begun");
        let mut second = rbuild.start(["build", "--progress", "plain", directory]);
        let waits = hears(&mut second, &format!("waiting for process {}, which runs the same step", first.id()));
        for child in [&mut first, &mut second] {
            child.kill().expect("kill rbuild");
            child.wait().expect("wait for rbuild");
        }
        assert!(begun && waits, "begun: {begun}, told: {waits}");
    }

    fn the_same_build_twice_at_once(rbuild) {
        let context = match context(&rbuild, "same", "RUN echo last > /last") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let images = build_at_once(&rbuild, &[&context, &context]);
        for image in &images {
            assert_eq!(image.content("/shared"), "shared\n");
            assert_eq!(image.content("/last"), "last\n");
        }
        let run = rbuild.build(&context, &[]).succeeded().all_cached();
        assert!(images.iter().any(|image| image.id == run.image_id()), "the cache holds an image that nobody built");
    }

    fn different_builds_with_a_common_beginning(rbuild) {
        let contexts: Result<Vec<Files>, String> = (0..4)
            .map(|number| context(&rbuild, &format!("c{number}"), &format!("RUN echo {number} > /number")))
            .collect();
        let contexts = match contexts {
            Ok(contexts) => contexts,
            Err(reason) => skip!("{reason}"),
        };
        let images = build_at_once(&rbuild, &contexts.iter().collect::<Vec<_>>());
        for (number, image) in images.iter().enumerate() {
            assert_eq!(image.content("/number"), format!("{number}\n"));
            assert_eq!(image.content("/shared"), "shared\n");
        }
    }

    fn cleaning_up_beside_a_build_takes_nothing_from_it(rbuild) {
        let context = match context(&rbuild, "cleaned", "RUN sleep 0.5\nRUN echo last > /last") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        rbuild.own_everything();
        let directory = context.directory.to_str().expect("paths are UTF-8");
        let mut child = rbuild.start(["build", "--progress", "plain", "-o", &output, directory]);
        while child.try_wait().expect("look after rbuild").is_none() {
            rbuild.run(["prune"]).succeeded();
        }
        finish(child).succeeded();
        assert_eq!(Image::read(&archive).content("/last"), "last\n");
    }
}
