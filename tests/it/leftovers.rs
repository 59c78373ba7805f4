//! What steps leave in the store: results under their names, and nothing half made, whatever a command does to its root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rbuild::digest::Digest;
use serde_json::{Value, json};

use crate::bases::Base;
use crate::harness::{Files, Rbuild, read_command, succeed};
use crate::image::Image;

/// A context whose Dockerfile goes on from busybox.
pub fn on_busybox(rbuild: &Rbuild, name: &str, rest: &str) -> Result<Files, String> {
    let context =
        rbuild.context(name).file("Dockerfile", format!("FROM scratch AS busybox\nADD rootfs.tar.xz /\n{rest}"));
    fs::copy(Base::Busybox.rootfs()?, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
    Ok(context)
}

/// Trees and cache mounts that were begun and have no name.
pub fn drafts(rbuild: &Rbuild) -> Vec<PathBuf> {
    let list = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mappings = list(rbuild.store().join("trees"));
    let entries = mappings.flat_map(|mapping| list(mapping.clone()).chain(list(mapping.join("caches"))));
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "draft")).collect()
}

/// The folder of the trees of the user's ids.
pub fn mapping(rbuild: &Rbuild) -> PathBuf {
    let mappings = fs::read_dir(rbuild.store().join("trees")).expect("list the mappings").flatten();
    mappings.map(|entry| entry.path()).find(|path| path.join("caches").is_dir()).expect("a mapping")
}

/// An OCI layout with an image of these layers, which are plain tars.
fn write_layout(directory: &Path, layers: &[Vec<u8>]) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("make a layout");
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("write a blob");
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": bytes.len() })
    };
    let descriptors: Vec<Value> = layers.iter().map(|layer| put("layer.v1.tar", layer)).collect();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let architecture = read_command("dpkg", &["--print-architecture"]);
    let config = json!({ "os": "linux", "architecture": architecture.trim(),
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config.v1+json", config.to_string().as_bytes()), "layers": descriptors });
    let manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(directory.join("index.json"), index.to_string()).expect("write the index");
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write the version");
}

for_each_user! {
    fn a_root_directory_that_the_user_may_not_write_to_can_be_a_layer(rbuild) {
        let rest = "RUN chown 1000:1000 / || true; chmod 555 /; echo 1 > /dev/null\nRUN stat -c %a / && touch /there\n";
        let context = match on_busybox(&rbuild, "root", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &[]).succeeded().says(" 555\n");
        rbuild.build(&context, &[]).succeeded().all_cached();
    }

    fn a_cache_mount_may_belong_to_anybody(rbuild) {
        let rest = "RUN --mount=type=cache,target=/c,mode=0555 stat -c %a /c\n";
        let context = match on_busybox(&rbuild, "cache", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &[]).succeeded().says(" 555\n");
    }

    fn a_step_that_fails_leaves_no_draft(rbuild) {
        let context = match on_busybox(&rbuild, "failing", "USER nobody-knows\nRUN true\n") {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.build(&context, &[]).failed(1).says("nobody-knows");
        assert_eq!(drafts(&rbuild), Vec::<PathBuf>::new());
    }

    fn drafts_of_a_killed_build_are_removed_by_the_next_one(rbuild) {
        let rest = "RUN --mount=type=cache,target=/c echo begun; echo > /file; sleep 60\n";
        let context = match on_busybox(&rbuild, "killed", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        rbuild.own_everything();
        let directory = context.directory.to_str().expect("paths are UTF-8");
        let mut child = rbuild.start(["build", "--progress", "plain", directory]);
        let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        let begun = said.any(|line| line.is_ok_and(|line| line.ends_with(" begun")));
        child.kill().expect("kill rbuild");
        child.wait().expect("wait for rbuild");
        assert!(begun, "the RUN did not begin");
        assert_ne!(drafts(&rbuild), Vec::<PathBuf>::new(), "the test shows nothing");
        context.edit("Dockerfile", "sleep 60", "true");
        rbuild.build(&context, &[]).succeeded();
        assert_eq!(drafts(&rbuild), Vec::<PathBuf>::new());
    }

    fn a_layer_of_other_ids_is_not_mixed_with_one_that_is_made_anew(rbuild) {
        let rest = "RUN cat /proc/sys/kernel/random/uuid | tee /uuid | sed 's/^/uuid /'\n";
        let context = match on_busybox(&rbuild, "anew", rest) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        rbuild.build(&context, &["-o", &output]).succeeded();
        // As if the user's subordinate ids were others now: the trees of the old ones are of no use.
        let mapping = mapping(&rbuild);
        fs::rename(&mapping, mapping.with_file_name("7-7")).expect("rename the trees");
        let run = rbuild.build(&context, &["--no-cache", "-o", &output]).succeeded();
        let (_, uuid) = run.stderr.lines().find_map(|line| line.split_once(" uuid ")).expect("the RUN prints its uuid");
        assert_eq!(Image::read(&archive).content("/uuid").trim(), uuid);
    }

    fn a_layer_that_is_not_in_order_can_be_exported_after_a_build_without_output(rbuild) {
        let rest = "FROM busybox\nADD unordered.tar /added/\nCOPY --from=busybox /etc/passwd <<zzz /copied/\ntext\nzzz\nRUN true\n";
        let context = match on_busybox(&rbuild, "unordered", rest) {
            Ok(context) => context.file("z/file", "1").file("a/file", "2"),
            Err(reason) => skip!("{reason}"),
        };
        let mut tar = Command::new("tar");
        tar.current_dir(&context.directory).args(["--create", "--file", "unordered.tar", "z/file", "a/file"]);
        succeed(&mut tar);
        rbuild.build(&context, &[]).succeeded();
        let archive = rbuild.path("out/image.tar");
        rbuild.build(&context, &["-o", &format!("type=oci,dest={}", archive.display())]).succeeded().all_cached();
        let image = Image::read(&archive);
        assert_eq!(image.content("/added/z/file"), "1");
        assert_eq!(image.content("/copied/zzz"), "text\n");
    }

    fn directories_that_a_layer_leaves_out_stay_as_they_are_below_it(rbuild) {
        let busybox = match Base::Busybox.rootfs() {
            Ok(busybox) => busybox,
            Err(reason) => skip!("{reason}"),
        };
        let dockerfile = "FROM short\nRUN stat -c '%n %a' /tmp /tmp/sub\n";
        let context = rbuild.context("implied").file("Dockerfile", dockerfile).file("files/tmp/sub/file", "1");
        let files = context.directory.join("files");
        fs::set_permissions(files.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("set a mode");
        fs::set_permissions(files.join("tmp/sub"), fs::Permissions::from_mode(0o700)).expect("set a mode");
        let tar = |arguments: &[&str]| {
            let mut tar = Command::new("tar");
            tar.current_dir(&files).args(["--create", "--owner=0", "--group=0"]).args(arguments);
            succeed(&mut tar).stdout
        };
        let mut unpack = Command::new("xz");
        let root = succeed(unpack.arg("--decompress").arg("--stdout").arg(busybox)).stdout;
        let directories = tar(&["--no-recursion", "tmp", "tmp/sub"]);
        let layout = context.directory.join("layout");
        write_layout(&layout, &[root, directories, tar(&["tmp/sub/file"])]);
        let short = format!("short=oci-layout://{}", layout.display());
        rbuild.build(&context, &["--build-context", &short]).succeeded().says(" /tmp 1777\n").says(" /tmp/sub 700\n");
    }
}
