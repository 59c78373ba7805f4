//! An edit of few files among many: the layer is made of the one before it, and is the one that a cold build makes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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

fn largest(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).expect("list the blobs").flatten();
    entries.map(|entry| entry.path()).max_by_key(|path| path.metadata().map_or(0, |file| file.len())).expect("a blob")
}

/// Changes one byte in the middle of a file.
fn damage(path: &Path) {
    let mut content = fs::read(path).expect("read a blob");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).expect("damage a blob");
}

/// How many layers are kept as what differs from another.
fn patched(rbuild: &Rbuild) -> usize {
    let records = fs::read_dir(rbuild.store().join("layers")).expect("list the layers").flatten();
    records.filter(|record| fs::read_to_string(record.path()).expect("read a record").contains("\"patch\"")).count()
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

    fn an_archive_of_edited_files_is_that_of_a_cold_build(rbuild) {
        let mut context = context(&rbuild);
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
        // The first is as long as before: all but its part of the compressed layer is taken over.
        let flipped = fs::read_to_string(context.directory.join("d1/f5")).expect("read a file").replace('1', "2");
        context = context.file("d1/f5", flipped);
        for number in 0..4 {
            assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context), "edit {number}");
            context = edit(context, number);
        }
        is_whole(&rbuild);
        // What cannot be taken over is found out before anything is made of it.
        let archive = rbuild.path("out/edits.tar");
        let layer = Image::read(&archive).manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
        damage(&rbuild.store().join("blobs").join(layer.replace(':', "/")));
        let output = format!("type=oci,dest={}", archive.display());
        rbuild.build(&context, &["-o", &output]).succeeded().says("is damaged and was taken out of use");
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context), "after a damage");
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
        rbuild.run(["rmi", "--force", "edited"]).succeeded();
        rbuild.run(["prune", "--all"]).succeeded();
        assert_eq!(stored(&blobs), 0, "{:?} stays", fs::read_dir(&blobs));
        // Damage to what it is made of is found; the next build makes it anew.
        rbuild.build(&context, &[]).succeeded();
        context = edit(context, 4);
        rbuild.build(&context, &[]).succeeded();
        damage(&largest(&blobs));
        rbuild.run(["check", "--deep"]).failed(1);
        rbuild.run(["check", "--deep", "--repair"]);
        rbuild.run(["check", "--deep", "--repair"]);
        is_whole(&rbuild);
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
    }

    fn an_edit_that_is_taken_back_gives_the_layer_of_before_and_not_a_patch_of_itself(rbuild) {
        let mut context = context(&rbuild).modified("d0/f0", 1_000_000_000);
        let before = fs::read(context.directory.join("d0/f0")).expect("read a file");
        rbuild.build(&context, &[]).succeeded();
        context = edit(context, 4);
        rbuild.build(&context, &[]).succeeded();
        assert_eq!(patched(&rbuild), 1);
        // As if they had not been used for long: what is compared with stays.
        for step in fs::read_dir(rbuild.store().join("steps")).expect("list the steps").flatten() {
            fs::remove_file(step.path()).expect("forget a step");
        }
        context = context.file("d0/f0", before).modified("d0/f0", 1_000_000_000);
        rbuild.build(&context, &[]).succeeded();
        assert_eq!(patched(&rbuild), 1, "the layer that is whole became a patch");
        fs::remove_file(largest(&rbuild.store().join("blobs/sha256"))).expect("remove a blob");
        rbuild.run(["check"]).failed(1);
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
    }

    fn a_damaged_layer_is_told_of_once_and_no_edit_is_made_of_it_again(rbuild) {
        let blobs = rbuild.store().join("blobs/sha256");
        let mut context = context(&rbuild);
        rbuild.build(&context, &[]).succeeded();
        context = edit(context, 4);
        rbuild.build(&context, &[]).succeeded();
        let base = largest(&blobs);
        damage(&base);
        context = edit(context, 5);
        let run = rbuild.build(&context, &[]).succeeded();
        assert!(run.stderr.contains("is damaged and was taken out of use"), "{}", run.stderr);
        assert!(!base.exists(), "the damaged blob is still there");
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
        // What was made of it before is made again.
        context = edit(context, 4);
        let run = rbuild.build(&context, &[]).succeeded();
        assert!(!run.stderr.contains("damaged"), "{}", run.stderr);
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
    }

    fn a_layer_that_is_made_of_a_damaged_one_is_made_again_by_the_next_build(rbuild) {
        let mut context = context(&rbuild);
        rbuild.build(&context, &[]).succeeded();
        context = edit(context, 4);
        rbuild.build(&context, &[]).succeeded();
        damage(&largest(&rbuild.store().join("blobs/sha256")));
        let archive = rbuild.path("out/edits.tar");
        let output = format!("type=oci,dest={}", archive.display());
        rbuild.build(&context, &["-o", &output]).failed(1);
        assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context));
    }

    fn a_layer_that_its_patch_does_not_make_is_found_and_made_again(rbuild) {
        let mut context = context(&rbuild);
        rbuild.build(&context, &[]).succeeded();
        for number in [4, 5] {
            // A step that is known keeps the times of its files.
            context = edit(context, number).modified("d0/f0", 1_000_000_000);
            rbuild.build(&context, &[]).succeeded();
        }
        let layers_folder = fs::read_dir(rbuild.store().join("layers")).expect("list the layers").flatten();
        let records = layers_folder.map(|entry| {
            let text = fs::read_to_string(entry.path()).expect("read a record");
            (entry.path(), serde_json::from_str::<serde_json::Value>(&text).expect("a record is JSON"))
        });
        let mut patched: Vec<_> = records.filter(|(_, record)| record.get("patch").is_some()).collect();
        let [(one, record), (_, other)] = patched.as_mut_slice() else { panic!("{} patches", patched.len()) };
        // Every blob is what its name says, and what is named is there.
        record["patch"] = other["patch"].take();
        fs::write(&*one, record.to_string()).expect("damage a record");
        rbuild.run(["check"]).succeeded();
        let run = rbuild.run(["check", "--deep", "--format", "json"]).failed(1);
        let found: serde_json::Value = serde_json::from_str(&run.stdout).expect("check prints JSON");
        assert_eq!(found["damage"].as_array().map(Vec::len), Some(1), "{found}");
        assert_eq!(found["damage"][0]["kind"], "wrong-patch");
        assert_eq!(found["damage"][0]["path"], one.to_str().expect("UTF-8"));
        rbuild.run(["check", "--deep", "--repair"]).succeeded();
        is_whole(&rbuild);
        for number in [4, 5] {
            context = edit(context, number).modified("d0/f0", 1_000_000_000);
            assert_eq!(layers(&rbuild, &context, &[]), cold_layers(&rbuild, &context), "edit {number}");
        }
    }

    fn a_file_that_looks_as_before_is_read_again_where_its_inode_changed(rbuild) {
        let context = rbuild.context("disguised").file("Dockerfile", "FROM scratch\nCOPY . /src/\n");
        let path = |name: &str| context.directory.join(name);
        let write = |name: &str, content: &str| {
            fs::write(path(name), content).expect("write a file");
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            File::options().write(true).open(path(name)).and_then(|file| file.set_modified(time)).expect("set a time");
        };
        for name in ["written", "replaced", "other"] {
            write(name, "before");
        }
        rbuild.own_everything();
        // Before, nothing of them would be remembered, and the test would be one of nothing.
        std::thread::sleep(Duration::from_millis(2100));
        let archive = rbuild.path("out/image.tar");
        let contents = || {
            let output = format!("type=oci,dest={}", archive.display());
            rbuild.build(&context, &["-o", &output]).succeeded();
            let image = Image::read(&archive);
            ["/src/written", "/src/replaced", "/src/other"].map(|name| image.content(name))
        };
        assert_eq!(contents(), ["before"; 3]);
        // Sizes and times stay. What was just changed is not believed either, though nothing has changed since the reading.
        for after in ["after1", "after2"] {
            write("written", after);
            write("new", after);
            fs::rename(path("new"), path("replaced")).expect("replace a file");
            rbuild.own_everything();
            assert_eq!(contents(), [after, after, "before"]);
        }
    }

    fn an_edited_layer_that_is_here_is_not_fetched_from_a_cache(rbuild) {
        let mut context = context(&rbuild);
        rbuild.build(&context, &[]).succeeded();
        context = edit(context, 4);
        rbuild.build(&context, &[]).succeeded();
        let (cache, elsewhere) = (rbuild.path("out/cache"), rbuild.path("out/elsewhere"));
        let to = format!("type=local,mode=max,dest={}", cache.display());
        rbuild.build(&context, &["--root", elsewhere.to_str().expect("UTF-8"), "--cache-to", &to]).succeeded();
        for step in fs::read_dir(rbuild.store().join("steps")).expect("list the steps").flatten() {
            fs::remove_file(step.path()).expect("forget a step");
        }
        let from = format!("type=local,src={}", cache.display());
        let found = layers(&rbuild, &context, &["--cache-from", &from]);
        assert_eq!(found, cold_layers(&rbuild, &context));
        let records = fs::read_dir(rbuild.store().join("layers")).expect("list the layers").flatten();
        let fetched = |path: &Path| fs::read_to_string(path).expect("read a record").contains("pulled:");
        assert!(!records.into_iter().any(|record| fetched(&record.path())), "the layer was fetched");
    }

    fn an_edit_that_is_not_well_below_the_layer_that_it_is_made_of_is_kept_whole(rbuild) {
        // 40 kB that take a few hundred bytes.
        let mut context = rbuild.context("small").file("Dockerfile", DOCKERFILE);
        for number in 0..20 {
            context = context.file(&format!("f{number}"), "x".repeat(2000));
        }
        rbuild.build(&context, &[]).succeeded();
        context = context.file("f7", "y".repeat(2000));
        rbuild.build(&context, &[]).succeeded();
        assert_eq!(patched(&rbuild), 0);
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
