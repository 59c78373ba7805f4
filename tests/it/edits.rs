//! An edit of few files among many: the layer is made of the one before it, and is the one that a cold build makes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Files, Rbuild};
use crate::image::Image;

const DOCKERFILE: &str = "FROM scratch\nCOPY . /src/\n";
const FILES: usize = 40;

/// Files of 20 kB each, and a link.
fn context(rbuild: &Rbuild) -> Files {
    let mut context = rbuild.context("edits").file("Dockerfile", DOCKERFILE).link("link", "d1/f1");
    for number in 0..FILES {
        let content: String = (0..2000).map(|line| format!("{:09}\n", line * (number + 7) * 7919)).collect();
        context = context.file(&format!("d{}/f{number}", number % 4), content);
    }
    context
}

/// The layers that an archive has, as it describes them.
fn layers(rbuild: &Rbuild, context: &Files, arguments: &[&str]) -> String {
    let archive = rbuild.path("out/edits.tar");
    let output = format!("type=oci,dest={}", archive.display());
    rbuild.build(context, &[arguments, &["-o", &output]].concat()).succeeded();
    let image = Image::read(&archive);
    format!("{} {}", image.manifest["layers"], image.config["rootfs"])
}

/// The same of a store that knows nothing.
fn cold_layers(rbuild: &Rbuild, context: &Files) -> String {
    let root = rbuild.path("out/cold");
    let layers = layers(rbuild, context, &["--root", root.to_str().expect("UTF-8")]);
    fs::remove_dir_all(root).expect("remove the cold store");
    layers
}

fn stored(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("list the blobs").flatten();
    entries.map(|entry| entry.metadata().map_or(0, |file| file.len())).sum()
}

fn is_whole(rbuild: &Rbuild) {
    let run = rbuild.run(["check", "--deep"]);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
}

/// The edits of a day, one after the other.
fn edit(context: Files, number: u64) -> Files {
    let path = |name: &str| context.directory.join(name);
    match number {
        0 => context.file("d0/f4", "shorter\n"),
        1 => {
            let longer = [fs::read(path("d2/f2")).expect("read a file"), vec![b'x'; 3000]].concat();
            context.file("d2/f2", longer)
        }
        2 => {
            fs::remove_file(path("d3/f3")).expect("remove a file");
            fs::rename(path("d1/f1"), path("d1/renamed")).expect("rename a file");
            context.mode("d1/f5", 0o755)
        }
        3 => context.file("new/deep/file", "new\n").directory("d0/empty").modified("d2/f6", 1_000_000_000),
        _ => context.file("d0/f0", format!("edit {number}\n")),
    }
}

for_each_user! {
    fn edited_files_give_the_layer_of_a_cold_build_and_cost_what_they_are(rbuild) {
        let mut context = context(&rbuild);
        let blobs = rbuild.store().join("blobs/sha256");
        rbuild.build(&context, &[]).succeeded();
        let mut before = stored(&blobs);
        let whole = before;
        for number in 0..4 {
            context = edit(context, number);
            rbuild.build(&context, &[]).succeeded();
            let after = stored(&blobs);
            // All edits since the layer was written whole, and the config of the image.
            assert!(after - before < whole / 2, "edit {number}: {before}, {after}, all of it {whole}");
            is_whole(&rbuild);
            // From what is kept, then at once.
            assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context), "edit {number}");
            before = stored(&blobs);
        }
        let context = edit(context, 4);
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context), "exported at once");
        is_whole(&rbuild);
    }

    fn what_an_edited_layer_is_made_of_stays_as_long_as_the_layer(rbuild) {
        let mut context = context(&rbuild);
        rbuild.build(&context, &[]).succeeded();
        context = edit(context, 0);
        rbuild.build(&context, &["-t", "edited"]).succeeded();
        rbuild.run(["prune", "--all"]).succeeded();
        is_whole(&rbuild);
        let archive = rbuild.path("out/saved.tar");
        rbuild.run(["save", "-o", archive.to_str().expect("UTF-8"), "edited"]).succeeded();
        let blobs = rbuild.store().join("blobs/sha256");
        let largest = || {
            let entries = fs::read_dir(&blobs).expect("list the blobs").flatten();
            entries.map(|entry| entry.path()).max_by_key(|path| path.metadata().map_or(0, |file| file.len()))
        };
        rbuild.run(["rmi", "--force", "edited"]).succeeded();
        rbuild.run(["prune", "--all"]).succeeded();
        assert_eq!(stored(&blobs), 0, "{:?} stays", largest());
        // Damage to what it is made of is found; the next build makes it anew.
        rbuild.build(&context, &[]).succeeded();
        context = edit(context, 4);
        rbuild.build(&context, &[]).succeeded();
        let base = largest().expect("a blob");
        let mut content = fs::read(&base).expect("read a blob");
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&base, content).expect("damage a blob");
        context = edit(context, 5);
        rbuild.build(&context, &[]).succeeded();
        rbuild.run(["check", "--deep"]).failed(1);
        rbuild.run(["check", "--deep", "--repair"]);
        rbuild.run(["check", "--deep", "--repair"]);
        is_whole(&rbuild);
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
    }

    fn a_build_that_is_killed_while_it_takes_an_edit_leaves_a_whole_store(rbuild) {
        let mut context = context(&rbuild);
        rbuild.build(&context, &[]).succeeded();
        let directory = context.directory.to_str().expect("UTF-8").to_owned();
        for number in 5..13 {
            context = edit(context, number);
            let mut child = rbuild.start(["build", &directory]);
            std::thread::sleep(Duration::from_millis((number - 4) * 3));
            // It may be done by then.
            drop(child.kill());
            child.wait().expect("wait for rbuild");
            is_whole(&rbuild);
        }
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
    }
}
