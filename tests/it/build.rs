//! What an image holds after each instruction: every case of testdata/build, as every user, with the same result.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::bases::Base;
use crate::corpus;
use crate::harness::{Rbuild, succeed};
use crate::image::{Image, Kind, read_layer};
use crate::leftovers::on_busybox;

for_each_user! {
    fn every_case_gives_the_expected_image(rbuild) {
        if let Err(reason) = corpus::run(&rbuild) {
            skip!("{reason}");
        }
    }

    fn images_and_layouts_stand_for_names_in_a_dockerfile(rbuild) {
        let base = rbuild.context("base").file("Dockerfile", "FROM scratch\nCOPY f /f\n").file("f", "of the base");
        let layout = rbuild.path("out/layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        rbuild.build(&base, &["-t", "localhost/base:1", "-o", &output]).succeeded();
        rbuild.build(&base, &["-t", "localhost/base:1"]).succeeded();
        let dockerfile = "FROM base AS stage\nCOPY g /g\nFROM scratch\nCOPY --from=base /f /1\nCOPY --from=stage /f /g /2/\n";
        let context = rbuild.context("own").file("Dockerfile", dockerfile).file("g", "own");
        let sources = ["docker-image://localhost/base:1".to_owned(), format!("oci-layout://{}", layout.display()),
            format!("oci-layout://{}:1", layout.display())];
        for source in sources {
            let files = rbuild.path("out/files");
            let flags = [format!("--build-context=base={source}"), format!("--output={}", files.display())];
            rbuild.build(&context, &[&flags[0], &flags[1]]).succeeded();
            for (path, text) in [("1", "of the base"), ("2/f", "of the base"), ("2/g", "own")] {
                let found = std::fs::read_to_string(files.join(path)).expect("read a file of the image");
                assert_eq!(found, text, "{path} of {source}");
            }
            std::fs::remove_dir_all(&files).expect("remove the files");
        }
    }

    fn a_stage_stands_for_a_name_in_a_dockerfile(rbuild) {
        let dockerfile = "FROM scratch AS ours\nCOPY f /f\nFROM theirs\nCOPY --from=theirs /f /g\n";
        let context = rbuild.context("own").file("Dockerfile", dockerfile).file("f", "ours");
        let files = rbuild.path("out/files");
        let output = format!("--output={}", files.display());
        rbuild.build(&context, &["--build-context=theirs=target:ours", &output]).succeeded();
        for name in ["f", "g"] {
            assert_eq!(std::fs::read_to_string(files.join(name)).expect("read a file of the image"), "ours", "{name}");
        }
        let run = rbuild.build(&context, &["--build-context=theirs=target:our"]).failed(1).says("Dockerfile:3");
        run.says("the build context theirs is target:our, but there is no stage our");
    }

    fn a_dockerfile_has_an_ignore_file_of_its_own(rbuild) {
        let context = rbuild.context("own").file("Dockerfile", "FROM scratch\nCOPY . /\n").file("one", "").file("two", "");
        let context = context.file("other.Dockerfile", "FROM scratch\nCOPY . /\n").file(".dockerignore", "one\n");
        let context = context.file("other.Dockerfile.dockerignore", "two\n");
        let other = context.directory.join("other.Dockerfile").display().to_string();
        for (file, there, gone) in [("", "two", "one"), (other.as_str(), "one", "two")] {
            let files = rbuild.path("out/files");
            let output = format!("--output={}", files.display());
            let flags = [output.as_str(), "--file", file];
            rbuild.build(&context, if file.is_empty() { &flags[..1] } else { &flags }).succeeded();
            assert!(files.join(there).exists() && !files.join(gone).exists(), "another ignore file held for {file:?}");
            std::fs::remove_dir_all(&files).expect("remove the files");
        }
    }

    fn every_case_gives_the_same_image_without_overlay(rbuild) {
        let mut rbuild = rbuild;
        rbuild.set_variable("RBUILD_STORAGE_DRIVER", "copy");
        if let Err(reason) = corpus::run(&rbuild) {
            skip!("{reason}");
        }
    }

    fn the_same_input_gives_the_same_layer_in_another_store(rbuild) {
        let other = Rbuild::new(rbuild.user);
        let dockerfile = "FROM scratch\nCOPY . /data/\nENV A=1\n";
        let context = rbuild.context("same").file("Dockerfile", dockerfile).file("a/b", "text").link("l", "a/b");
        let copy = other.context("elsewhere");
        succeed(Command::new("cp").arg("-a").arg(context.directory.join(".")).arg(&copy.directory));
        let layer = |rbuild: &Rbuild, context| {
            let archive = rbuild.path("out/image.tar");
            rbuild.build(context, &["-o", &format!("type=oci,dest={}", archive.display())]).succeeded();
            Image::read(&archive).manifest["layers"][0]["digest"].to_string()
        };
        assert_eq!(layer(&rbuild, &context), layer(&other, &copy), "the same files gave two layers");
    }

    fn rewritten_times_are_no_later_than_asked_for_and_give_the_same_image_twice(rbuild) {
        let dockerfile = "FROM scratch AS base\nCOPY old /old\nFROM base\nCOPY new /new\nCOPY d /d\nADD a.tar /\nWORKDIR /w\n";
        let context = rbuild.context("times").file("Dockerfile", dockerfile).file("old", "o").file("new", "n");
        let date = |name: &str, date: &str| {
            succeed(Command::new("touch").args(["-d", date]).arg(context.directory.join(name)));
        };
        let build = |rewrite: &str| {
            let archive = rbuild.path("out/image.tar");
            let output = format!("type=oci,dest={},rewrite-timestamp={rewrite}", archive.display());
            let epoch = "SOURCE_DATE_EPOCH=1000000000";
            rbuild.build(&context, &["--no-cache", "--build-arg", epoch, "-o", &output]).succeeded();
            Image::read(&archive)
        };
        // So are times that are no part of a layer's header, and those of directories, links and what an archive holds.
        let script = "mkdir -p d/e u; ln -s nowhere d/link; echo f > d/e/f; echo p > u/p; touch -d '2400-01-01 00:00:00.5' u/p u; \
                      tar --format=pax -cf a.tar u; rm -r u; touch -h -d 2300-01-01 d/link d/e/f d/e d";
        succeed(Command::new("sh").args(["-ec", script]).current_dir(&context.directory));
        date("old", "1990-01-01T00:00:00Z");
        date("new", "2020-01-01T00:00:00Z");
        assert_eq!(build("false").files()["/new"].modified, 1_577_836_800);
        let one = build("true");
        let files = one.files();
        assert_eq!((files["/old"].modified, files["/new"].modified), (631_152_000, 1_000_000_000));
        for path in ["/d", "/d/e", "/d/e/f", "/d/link", "/u", "/u/p", "/w"] {
            assert_eq!(files[path].modified, 1_000_000_000, "{path}");
        }
        let history = one.config["history"].as_array().expect("a list");
        let moment = serde_json::json!("2001-09-09T01:46:40Z");
        assert!(history.iter().chain([&one.config]).all(|entry| entry["created"] == moment), "{}", one.config);
        date("new", "2021-01-01T00:00:00Z");
        assert_eq!(build("true").id, one.id, "another later time gave another image");
    }

    fn what_a_command_dates_later_than_the_build_is_of_the_build(rbuild) {
        let rest = "RUN mkdir -p /made/d; echo x > /made/d/x; ln -s x /made/link; mkfifo /made/pipe; touch -d '2300-01-01 00:00' /made/d/x /made/d\n";
        let context = match on_busybox(&rbuild, "dated", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let archive = rbuild.path("out/image.tar");
        for (flags, epoch) in [(&["--reproducible"][..], 1_000_000_000), (&[], 1_000_000_000), (&["--reproducible"], 1u64 << 33)] {
            let output = format!("type=oci,dest={},rewrite-timestamp=true", archive.display());
            let dated = format!("SOURCE_DATE_EPOCH={epoch}");
            rbuild.build(&context, &[flags, &["--build-arg", &dated, "-o", &output]].concat()).succeeded();
            let files = Image::read(&archive).files();
            for path in ["/made", "/made/d", "/made/d/x", "/made/link", "/made/pipe"] {
                assert_eq!(files[path].modified, epoch, "{path} with {flags:?}");
            }
        }
    }

    fn plain_files_of_a_dated_build_have_its_date(rbuild) {
        let context = rbuild.context("dated").file("Dockerfile", "FROM scratch\nCOPY d /d\n").file("d/f", "f").link("d/l", "f");
        let (archive, directory) = (rbuild.path("out/files.tar"), rbuild.path("out/files"));
        for (kind, target) in [("tar", &archive), ("local", &directory)] {
            let output = format!("type={kind},dest={}", target.display());
            rbuild.build(&context, &["--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-o", &output]).succeeded();
        }
        for entry in read_layer(&fs::read(&archive).expect("read the archive")) {
            assert_eq!(entry.modified, 1_000_000_000, "{}", entry.path);
        }
        for name in ["d", "d/f", "d/l"] {
            let metadata = fs::symlink_metadata(directory.join(name)).expect("look at a file of the result");
            assert_eq!(metadata.mtime(), 1_000_000_000, "{name}");
        }
    }

    fn a_secret_is_seen_by_its_run_and_by_nothing_else(rbuild) {
        let rootfs = match Base::Busybox.rootfs() {
            Ok(rootfs) => rootfs,
            Err(reason) => skip!("{reason}"),
        };
        let secret = "s3cr3t-8d1f0a";
        let dockerfile = "FROM scratch\nADD rootfs.tar.xz /\n\
            RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n\
            RUN test ! -e /run/secrets/token\n";
        let context = rbuild.context("secret").file("Dockerfile", dockerfile);
        std::fs::copy(rootfs, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
        let keys = rbuild.context("keys").file("token", secret);
        let source = format!("id=token,src={}", keys.directory.join("token").display());
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        rbuild.build(&context, &["--secret", &source, "-o", &output]).succeeded().does_not_say(secret);
        let image = Image::read(&archive);
        assert_eq!(image.content("/size"), format!("{}\n", secret.len()));
        assert!(!image.config.to_string().contains(secret), "the config holds the secret");
        for entry in image.layers.iter().flatten() {
            assert!(!entry.path.starts_with("/run/secrets"), "a layer holds {}", entry.path);
            if let Kind::File(bytes) = &entry.kind {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{} holds the secret", entry.path);
            }
        }
    }
}
