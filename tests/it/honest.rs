//! The cache never lies: whatever happens to a context between two builds, or during one, the image is that of a store which
//! knows nothing; and the store keeps what an image needs, whatever is removed beside it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::harness::{Files, Rbuild, finish};
use crate::image::{Image, Listing};

/// The image that a build writes into an archive.
fn image(rbuild: &Rbuild, context: &Files, arguments: &[&str]) -> Image {
    let archive = rbuild.path("out/honest.tar");
    let output = format!("type=oci,dest={}", archive.display());
    rbuild.build(context, &[arguments, &["-o", &output]].concat()).succeeded();
    Image::read(&archive)
}

/// The files of an image without times, which a step that is known keeps.
fn files(image: &Image) -> Listing {
    let mut files = image.files();
    files.values_mut().for_each(|entry| entry.modified = 0);
    files
}

fn cold_files(rbuild: &Rbuild, context: &Files, arguments: &[&str]) -> Listing {
    let root = rbuild.path("out/cold");
    let files = files(&image(rbuild, context, &[arguments, &["--root", root.to_str().expect("UTF-8")]].concat()));
    fs::remove_dir_all(root).expect("remove the cold store");
    files
}

/// Gives a file, which may be new, a content and a time that is always the same.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).expect("write a file");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(path).and_then(|file| file.set_modified(time)).expect("set a time");
}

/// A flag that is raised at the end of a scope.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is done to a context, and what it is called when something is wrong.
type Change = (&'static str, fn(&Path) -> std::io::Result<()>);

/// What happens to the context of one, in this order.
const CHANGES: &[Change] = &[
    ("a directory is renamed", |root| fs::rename(root.join("dir"), root.join("renamed"))),
    ("and back", |root| fs::rename(root.join("renamed"), root.join("dir"))),
    ("a file becomes a link to a file with its content", |root| {
        fs::rename(root.join("dir/file"), root.join("dir/other"))?;
        symlink("other", root.join("dir/file"))
    }),
    ("the link leads elsewhere", |root| {
        fs::remove_file(root.join("dir/file"))?;
        symlink("./other", root.join("dir/file"))
    }),
    ("the link becomes a hard link", |root| {
        fs::remove_file(root.join("dir/file"))?;
        fs::hard_link(root.join("dir/other"), root.join("dir/file"))
    }),
    ("a directory becomes a link to one like it", |root| {
        fs::rename(root.join("dir"), root.join("kept"))?;
        symlink("kept", root.join("dir"))
    }),
    ("the link becomes a file", |root| {
        fs::remove_file(root.join("dir"))?;
        fs::write(root.join("dir"), "kept")
    }),
    ("two files change places", |root| {
        fs::rename(root.join("one"), root.join("between"))?;
        fs::rename(root.join("two"), root.join("one"))?;
        fs::rename(root.join("between"), root.join("two"))
    }),
    ("an empty directory comes", |root| fs::create_dir(root.join("empty"))),
    ("the empty directory becomes an empty file", |root| {
        fs::remove_dir(root.join("empty"))?;
        fs::write(root.join("empty"), "")
    }),
    ("a pattern excludes a file", |root| fs::write(root.join(".dockerignore"), "one\n")),
    ("another pattern excludes another", |root| fs::write(root.join(".dockerignore"), "two\n")),
    ("an exception lets it in", |root| fs::write(root.join(".dockerignore"), "*\n!two\n!.dockerignore\n")),
    ("no pattern excludes anything", |root| fs::remove_file(root.join(".dockerignore"))),
];

for_each_user! {
    fn whatever_changes_in_a_context_the_image_is_that_of_a_store_that_knows_nothing(rbuild) {
        let dockerfile = "FROM scratch AS all\nCOPY . /all/\nFROM scratch\nCOPY . /src/\nCOPY --from=all /all /again/\nADD . /added/\n";
        let context = rbuild.context("honest").file("Dockerfile", dockerfile).file("dir/file", "f").file("dir/deep/file", "g");
        // Much that stays the same, so that the layer is made of the one before it.
        let context = (0..20).fold(context, |context, number| {
            let content: String = (0..900).map(|line| format!("{:09}\n", line * (number + 3) * 7919)).collect();
            context.file(&format!("same/{number}"), content)
        });
        write(&context.directory.join("one"), "1");
        write(&context.directory.join("two"), "2");
        rbuild.build(&context, &[]).succeeded();
        for (change, make) in CHANGES {
            make(&context.directory).unwrap_or_else(|error| panic!("{change}: {error}"));
            rbuild.own_everything();
            assert_eq!(files(&image(&rbuild, &context, &[])), cold_files(&rbuild, &context, &[]), "{change}");
        }
        rbuild.build(&context, &[]).succeeded().all_cached();
        rbuild.run(["check", "--deep"]).succeeded();
    }

    fn the_umask_of_who_builds_is_in_no_layer_and_in_no_key(rbuild) {
        let dockerfile = "FROM scratch AS made\nWORKDIR /made/deep\nCOPY <<here /made/here\nx\nhere\nFROM scratch\nWORKDIR /w/x\n\
                          COPY --from=made /made /copied\nCOPY file /new/directory/\nCOPY --chmod=700 file /modes/\n";
        let context = rbuild.context("masked").file("Dockerfile", dockerfile).file("file", "f").modified("file", 1_000_000_000);
        rbuild.own_everything();
        let masked = |umask: &str, root: &str| {
            let archive = rbuild.path("out/masked.tar");
            let mut command = rbuild.command_of("sh", ["-c", "umask $0; exec \"$@\"", umask]);
            command.arg(rbuild.program()).args(["build", "--progress=plain", "--build-arg=SOURCE_DATE_EPOCH=1000000000"]);
            command.arg("--root").arg(rbuild.path(root)).arg("-o").arg(format!("type=oci,dest={}", archive.display()));
            let run = finish(command.arg(&context.directory).spawn().expect("start sh")).succeeded();
            (run, fs::read(&archive).expect("read the archive"))
        };
        let (_, open) = masked("000", "out/one");
        let (run, closed) = masked("077", "out/one");
        run.all_cached();
        let (_, alone) = masked("077", "out/two");
        assert!(open == closed && open == alone, "a umask is in the image");
    }

    fn readers_of_a_stage_that_is_made_anew_with_equal_content_are_known(rbuild) {
        let dockerfile = "FROM scratch AS made\nCOPY one /file\nFROM scratch AS reader\nCOPY --from=made /file /read\n";
        let context = rbuild.context("equal").file("Dockerfile", dockerfile).file("one", "x").file("two", "x");
        rbuild.build(&context, &[]).succeeded();
        context.edit("Dockerfile", "COPY one", "COPY --chown=0 two");
        let run = rbuild.build(&context, &[]).succeeded();
        assert_eq!(run.step("COPY --from=made"), "CACHED", "{}", run.stderr);
        // It is made anew because that is asked for, and so is nothing else.
        let run = rbuild.build(&context, &["--no-cache-filter", "made"]).succeeded();
        assert_ne!(run.step("COPY --chown=0 two"), "CACHED", "{}", run.stderr);
        assert_eq!(run.step("COPY --from=made"), "CACHED", "{}", run.stderr);
        let run = rbuild.build(&context, &["--no-cache-filter", "reader"]).succeeded();
        assert_ne!(run.step("COPY --from=made"), "CACHED", "{}", run.stderr);
        assert_eq!(run.step("COPY --chown=0 two"), "CACHED", "{}", run.stderr);
        // Other content is other content.
        write(&context.directory.join("two"), "y");
        assert_eq!(image(&rbuild, &context, &[]).content("/read"), "y");
    }

    fn files_that_change_all_the_time_are_what_they_were_at_some_time_and_poison_nothing(rbuild) {
        let context = rbuild.context("restless").file("Dockerfile", "FROM scratch\nCOPY . /src/\n").file("quiet", "q");
        let states = ["a".repeat(300_000), "b".repeat(300_000)];
        let path = |name: &str| context.directory.join(name);
        // Replaced whole, so that there is no other state; sizes and times are equal.
        let change = |state: &str| {
            let new = rbuild.path("new");
            write(&new, state);
            fs::rename(new, path("file")).expect("replace a file");
        };
        change(&states[0]);
        rbuild.own_everything();
        let done = AtomicBool::new(false);
        let runs = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    states.iter().for_each(|state| change(state));
                }
            });
            // Whatever goes wrong, the thread that is waited for ends.
            let _done = Raised(&done);
            let mut runs = Vec::new();
            for round in 0..3 {
                let started = ["one", "two"].map(|name| {
                    let archive = rbuild.path(format!("out/{name}{round}.tar"));
                    let output = format!("type=oci,dest={}", archive.display());
                    (rbuild.start(["build", "-o", &output, context.directory.to_str().expect("UTF-8")]), archive)
                });
                runs.extend(started.map(|(child, archive)| (finish(child), archive)));
            }
            runs
        });
        for (run, archive) in runs {
            if run.code == Some(0) {
                let content = Image::read(&archive).content("/src/file");
                assert!(states.contains(&content), "a state that never was, of {} bytes", content.len());
            } else {
                run.failed(1).says("changed while");
            }
        }
        for state in [&states[1], &states[0], &states[1]] {
            change(state);
            rbuild.own_everything();
            assert!(image(&rbuild, &context, &[]).content("/src/file") == *state, "another state was remembered");
        }
        rbuild.run(["check", "--deep"]).succeeded();
    }

    fn what_an_edit_is_made_of_stays_whatever_is_removed_beside_it_or_before_its_export(rbuild) {
        let mut rbuild = rbuild;
        let mut context = rbuild.context("kept").file("Dockerfile", "FROM scratch\nCOPY . /src/\n");
        for number in 0..20 {
            let content: String = (0..900).map(|line| format!("{:09}\n", line * (number + 3) * 7919)).collect();
            context = context.file(&format!("{number}"), content);
        }
        rbuild.build(&context, &["-t", "before"]).succeeded();
        write(&context.directory.join("0"), "edited");
        rbuild.own_everything();
        let mut child = rbuild.start(["build", "-t", "edited", context.directory.to_str().expect("UTF-8")]);
        // Until it ends, and once more.
        loop {
            let has_ended = child.try_wait().expect("look after rbuild").is_some();
            rbuild.run(["rmi", "--force", "before"]);
            rbuild.run(["prune", "--all"]).succeeded();
            if has_ended {
                break;
            }
        }
        finish(child).succeeded();
        // A limit that the image alone exceeds takes nothing of it, nor does a build that reaches it.
        rbuild.set_variable("RBUILD_STORE_MAX", "20k");
        write(&context.directory.join("1"), "edited too");
        assert_eq!(image(&rbuild, &context, &["-t", "again"]).content("/src/1"), "edited too");
        rbuild.run(["check", "--deep"]).succeeded();
        let other = fs::read_to_string(context.directory.join("2")).expect("read a file");
        for name in ["edited", "again"] {
            let archive = rbuild.path(format!("out/{name}.tar"));
            let path = archive.to_str().expect("UTF-8");
            rbuild.run(["save", "--format", "oci-archive", "-o", path, name]).succeeded();
            let image = Image::read(&archive);
            assert!(image.content("/src/0") == "edited" && image.content("/src/2") == other, "{name} is another image");
        }
    }
}
