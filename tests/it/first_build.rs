//! The first build of a copy reads its files once; what it makes is what any later one finds and makes.

use std::fs;
use std::path::Path;

use crate::harness::{Files, Rbuild, Run, finish};
use crate::image::Image;

/// A base whose directory is there already, and the copy.
fn dockerfile(instruction: &str) -> String {
    format!(
        "FROM scratch AS base\nCOPY <<EOF /etc/passwd\nme:x:7:8::/:/bin/sh\nEOF\nCOPY --chmod=0700 etc /app/\nFROM base\nWORKDIR /srv\n{instruction}\n"
    )
}

fn context(rbuild: &Rbuild, name: &str, instruction: &str, word: &str) -> Files {
    let context = rbuild
        .context(name)
        .file("Dockerfile", dockerfile(instruction))
        .file("etc/hosts", "hosts\n")
        .file("src/main.rs", format!("{word}\n"))
        .file("src/empty", "")
        .file("src/deep/other.rs", format!("other {word}\n"))
        .mode("src/deep/other.rs", 0o755)
        .file("large", word.repeat(100_000))
        .link("src/link", "main.rs")
        .hard_link("src/again", "src/main.rs");
    ["etc/hosts", "etc", "src/main.rs", "src/empty", "src/deep/other.rs", "src/deep", "src", "large"]
        .into_iter()
        .fold(context, |context, path| context.modified(path, 1_600_000_000))
}

/// The layers that a build makes with a store.
fn layers(rbuild: &Rbuild, context: &Files, root: &Path) -> (Run, String) {
    let archive = rbuild.path("out/first.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let run = rbuild.build(context, &["--root", root.to_str().expect("UTF-8"), "-o", &output]).succeeded();
    let image = Image::read(&archive);
    (run, format!("{} {}", image.manifest["layers"], image.config["rootfs"]))
}

/// Bytes that a build reads.
fn bytes_read(rbuild: &Rbuild, context: &Files, root: &str) -> u64 {
    let script = "\"$@\" >&2 && while read line; do echo \"$line\"; done </proc/$$/io";
    let program = rbuild.program();
    let directory = context.directory.to_str().expect("UTF-8");
    let command = ["-c", script, "sh", program.to_str().expect("UTF-8"), "build", "--root", root, directory];
    let child = rbuild.command_of("sh", command).spawn().expect("start a shell");
    let run = finish(child).succeeded();
    let bytes = run.stdout.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("the shell's account");
    bytes.parse().expect("a number")
}

for_each_user! {
    fn the_first_build_makes_what_a_later_one_would(rbuild) {
        let instructions = [
            "COPY . .",
            "COPY src /app",
            "COPY src/ /app/new/",
            "COPY --chown=7:8 src large /app/",
            "COPY --chown=me src /app",
            "COPY --link --chown=9 src /app",
            "COPY --chmod=0640 src/main.rs large /srv/",
            "COPY --parents src/deep/*.rs /app/",
            "COPY --exclude=deep src /app",
            "ADD src /app",
            "COPY src/*.rs large <<two /app/\ntext\ntwo",
        ];
        for (number, instruction) in instructions.iter().enumerate() {
            let first = context(&rbuild, &format!("{number}/first"), instruction, "word");
            let (root, other_root) = (rbuild.path(format!("out/{number}-root")), rbuild.path(format!("out/{number}-other")));
            let (_, made) = layers(&rbuild, &first, &root);
            // Of the same files at another place nothing is known but their content: the key has to be the same.
            let moved = context(&rbuild, &format!("{number}/moved"), instruction, "word");
            let (run, found) = layers(&rbuild, &moved, &root);
            run.all_cached();
            assert_eq!(found, made, "{instruction}");
            // Where such a copy was made before, the key comes first.
            let before = context(&rbuild, &format!("{number}/before"), instruction, "other");
            assert_ne!(layers(&rbuild, &before, &other_root).1, made, "{instruction}");
            assert_eq!(layers(&rbuild, &first, &other_root).1, made, "{instruction}");
            for root in [root, other_root] {
                fs::remove_dir_all(root).expect("remove a store");
            }
        }
    }

    fn the_first_build_reads_each_file_once(rbuild) {
        let write = |name: &str, word: &str| {
            let files = rbuild.context(name).file("Dockerfile", "FROM scratch\nCOPY . /\n");
            let files = files.file("large", word.repeat(400_000));
            (0..40).fold(files, |files, number| files.file(&format!("small{number}"), word.repeat(10_000 + number)))
        };
        let root = rbuild.path("out/root");
        let root = root.to_str().expect("UTF-8");
        let sizes = |files: &Files| -> u64 {
            let entries = fs::read_dir(&files.directory).expect("list a context").flatten();
            entries.map(|entry| entry.metadata().expect("look at a file").len()).sum()
        };
        let (first, other) = (write("first", "these "), write("other", "those "));
        let size = sizes(&first);
        let read = bytes_read(&rbuild, &first, root);
        assert!((size..size * 3 / 2).contains(&read), "{read} bytes were read for {size}");
        // Now that a copy like this one is known, another one is looked for.
        let read = bytes_read(&rbuild, &other, root);
        assert!((size * 2..size * 5 / 2).contains(&read), "{read} bytes were read for {size}");
    }

    fn what_may_be_in_the_store_is_looked_for_before_it_is_written(rbuild) {
        let checkout = |name: &str, instruction: &str, seconds: u64| {
            let files = rbuild.context(name).file("Dockerfile", format!("FROM scratch\n{instruction}\n"));
            files.file("app/file", "word ".repeat(50_000)).modified("app/file", seconds).modified("app", seconds)
        };
        let layers = || fs::read_dir(rbuild.store().join("layers")).expect("list the layers").count();
        let build = |name: &str, instruction: &str, seconds: u64| {
            rbuild.build(&checkout(name, instruction, seconds), &[]).succeeded()
        };
        let (by_path, by_workdir) = ("COPY app /app/", "WORKDIR /app\nCOPY app .");
        build("one", by_path, 1_600_000_000);
        assert_eq!(layers(), 1);
        // At another place, with other times.
        build("two", by_path, 1_600_000_001).all_cached();
        assert_eq!(layers(), 1);
        // By another instruction it is found only after it was written, but that happens once.
        build("three", by_workdir, 1_600_000_002);
        let after = layers();
        build("four", by_workdir, 1_600_000_003).all_cached();
        build("five", by_workdir, 1_600_000_004).all_cached();
        assert_eq!(layers(), after);
        // What earlier versions left says nothing of instructions.
        for entry in fs::read_dir(rbuild.store().join("slots")).expect("list the slots").flatten() {
            fs::remove_file(entry.path()).expect("remove a slot");
        }
        build("six", by_path, 1_600_000_005).all_cached();
        let after = layers();
        build("seven", by_path, 1_600_000_006).all_cached();
        assert_eq!(layers(), after);
    }

    fn a_first_build_says_what_it_cannot_read(rbuild) {
        let context = rbuild.context("nobody").file("Dockerfile", "FROM scratch\nCOPY --chown=nobody file /\n").file("file", "text");
        rbuild.build(&context, &[]).failed(1).says("cache miss: ").says("nobody");
        let context = rbuild.context("closed").file("Dockerfile", "FROM scratch\nCOPY . /\n").file("open", "text");
        let context = context.file("closed", "text").mode("closed", 0);
        rbuild.own_everything();
        let run = rbuild.build(&context, &[]);
        if fs::read(context.directory.join("closed")).is_ok() && rbuild.user == crate::harness::User::Root {
            run.succeeded();
        } else {
            run.failed(1).says("cannot read what is to be copied: open \"/closed\" of the context: Permission denied");
        }
    }
}
