//! Upper directories become layers: as overlayfs leaves them (mounted here, where that is allowed) and as made by hand.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink as make_link;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::{archive, directory, file, is_root, link, list, ownership, symlink, whole_seconds};
use crate::layer::index::{Index, Item, index_tar};
use crate::layer::pack::pack;
use crate::layer::read::{Marker, TarReader};
use crate::layer::unpack::{Ownership, Style, unpack};
use crate::rootfs::RootDir;
use crate::tree::Kind;

/// Entries as a person writes them: `d` directory, `-` file, `h` hard link, `x` removal, `o` opaque.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut reader = TarReader::new(tar);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content).unwrap();
        let content = String::from_utf8_lossy(&content).into_owned();
        found.push(match (entry.marker, entry.link, entry.node.kind) {
            (Marker::Whiteout(_), ..) => format!("x {path}"),
            (Marker::Opaque, ..) => format!("o {path}"),
            (_, Some(target), _) => format!("h {path} {}", String::from_utf8(target).unwrap()),
            (_, _, Kind::Directory) => format!("d {path}"),
            (_, _, Kind::File { .. }) => format!("- {path} {content}"),
            (_, _, kind) => format!("{kind:?} {path}"),
        });
    }
    found
}

fn packed(upper: &Path, lowers: &[&Path]) -> Vec<u8> {
    let lowers: Vec<RootDir> = lowers.iter().map(|path| RootDir::open(path).unwrap()).collect();
    let mut out = Vec::new();
    pack(&RootDir::open(upper).unwrap(), &lowers, &mut out).unwrap();
    out
}

fn whiteout(path: &Path) -> bool {
    let made = rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0);
    if made.is_err() {
        eprintln!("skipped: mknod is not allowed here");
    }
    made.is_ok()
}

fn mark(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn lower() -> tempfile::TempDir {
    let lower = tempfile::tempdir().unwrap();
    fs::create_dir_all(lower.path().join("d/sub")).unwrap();
    fs::write(lower.path().join("d/a"), "a").unwrap();
    fs::write(lower.path().join("d/sub/b"), "b").unwrap();
    fs::write(lower.path().join("f"), "f").unwrap();
    lower
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn copies_that_nobody_changed_are_left_out() {
    let (lower, upper) = (lower(), tempfile::tempdir().unwrap());
    copy(&lower.path().join("d"), &upper.path().join("d"));
    copy(&lower.path().join("f"), &upper.path().join("f"));
    assert!(entries(&packed(upper.path(), &[lower.path()])).is_empty());
    // The same size and time, but not the same content.
    let time = fs::metadata(lower.path().join("f")).unwrap().modified().unwrap();
    fs::write(upper.path().join("f"), "g").unwrap();
    fs::File::options().write(true).open(upper.path().join("f")).unwrap().set_modified(time).unwrap();
    assert_eq!(entries(&packed(upper.path(), &[lower.path()])), ["- f g"]);
}

#[test]
fn parents_of_changes_come_along_and_before() {
    let (lower, upper) = (lower(), tempfile::tempdir().unwrap());
    copy(&lower.path().join("d"), &upper.path().join("d"));
    fs::write(upper.path().join("d/sub/b"), "changed").unwrap();
    assert_eq!(entries(&packed(upper.path(), &[lower.path()])), ["d d", "d d/sub", "- d/sub/b changed"]);
}

#[test]
fn removals_in_both_forms_are_written_only_of_what_shows() {
    let (lower, upper) = (lower(), tempfile::tempdir().unwrap());
    let sub = upper.path().join("d");
    fs::create_dir(&sub).unwrap();
    for name in ["a", "never-was"] {
        fs::write(sub.join(name), "").unwrap();
        mark(&sub.join(name), "user.overlay.whiteout", b"y");
    }
    mark(&sub, "user.overlay.opaque", b"x");
    let mut expected = vec!["d d", "x d/a"];
    if whiteout(&upper.path().join("f")) {
        // Overlayfs links its whiteouts to each other; they are no hard links of a layer.
        fs::hard_link(upper.path().join("f"), upper.path().join("g")).unwrap();
        expected.push("x f");
    }
    assert_eq!(entries(&packed(upper.path(), &[lower.path()])), expected);
    // What a tree above removed shows no more.
    let middle = tempfile::tempdir().unwrap();
    fs::write(middle.path().join("d"), "").unwrap();
    mark(&middle.path().join("d"), "user.overlay.whiteout", b"y");
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("d"), "").unwrap();
    mark(&top.path().join("d"), "user.overlay.whiteout", b"y");
    assert!(entries(&packed(top.path(), &[middle.path(), lower.path()])).is_empty());
}

#[test]
fn opaque_is_written_only_over_a_directory() {
    let (lower, upper) = (lower(), tempfile::tempdir().unwrap());
    for name in ["d", "f", "new"] {
        fs::create_dir(upper.path().join(name)).unwrap();
        mark(&upper.path().join(name), "user.overlay.opaque", b"y");
    }
    fs::write(upper.path().join("d/sub"), "").unwrap();
    mark(&upper.path().join("d/sub"), "user.overlay.whiteout", b"y");
    fs::write(upper.path().join("d/own"), "x").unwrap();
    let found = entries(&packed(upper.path(), &[lower.path()]));
    assert_eq!(found, ["d d", "o d", "- d/own x", "d f", "d new"]);
}

#[test]
fn hard_links_sockets_and_escaped_attributes() {
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join("a"), "x").unwrap();
    fs::hard_link(upper.path().join("a"), upper.path().join("b")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(upper.path().join("socket")).unwrap();
    fs::create_dir(upper.path().join("d")).unwrap();
    mark(&upper.path().join("d"), "user.overlay.overlay.opaque", b"y");
    mark(&upper.path().join("d"), "user.overlay.impure", b"y");
    mark(&upper.path().join("d"), "user.rbuild.own", b"12:34");
    let tar = packed(upper.path(), &[]);
    assert_eq!(entries(&tar), ["- a x", "h b a", "d d"]);
    let (index, ..) = index_tar(tar.as_slice()).unwrap();
    let Some(Item::Present(found)) = index.find(b"d") else { panic!("no directory") };
    // `user.overlay.*` is dropped when the archive is read again; no other layer's directory turns opaque by it.
    assert!(found.node.xattrs.is_empty());
    assert_eq!((found.node.uid, found.node.gid), (12, 34));
    assert!(tar.windows(30).any(|part| part.starts_with(b"SCHILY.xattr.user.overlay.opaq")));
}

#[test]
fn files_without_any_permission_are_packed() {
    if !is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let upper = tempfile::tempdir().unwrap();
    fs::create_dir(upper.path().join("d")).unwrap();
    fs::write(upper.path().join("d/a"), "x").unwrap();
    for name in ["d/a", "d"] {
        fs::set_permissions(upper.path().join(name), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    }
    assert_eq!(entries(&packed(upper.path(), &[])), ["d d", "- d/a x"]);
}

#[test]
fn a_name_that_would_be_a_removal_is_an_error_with_its_path() {
    let upper = tempfile::tempdir().unwrap();
    fs::create_dir(upper.path().join("d")).unwrap();
    fs::write(upper.path().join("d/.wh.x"), "").unwrap();
    let error = pack(&RootDir::open(upper.path()).unwrap(), &[], &mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("cannot add \"d/.wh.x\" to the layer: "), "{error}");
}

#[test]
fn markers_survive_a_tree_in_overlay_form() {
    let lower = lower();
    let layer = archive(&[
        file(".wh.f", ""),
        directory("d"),
        file("d/.wh..wh..opq", ""),
        file("d/new", "x"),
        link("d/new", "again"),
        symlink("d", "s"),
    ]);
    let tree = tempfile::tempdir().unwrap();
    let root = RootDir::open(tree.path()).unwrap();
    unpack(layer.as_slice(), &root, Ownership::Keep, Style::OverlayLower).unwrap();
    let found = entries(&packed(tree.path(), &[lower.path()]));
    assert_eq!(found, ["- again x", "d d", "o d", "h d/new again", "x f", "Symlink([100]) s"]);
}

/// What a shell does to a mounted overlay; every line is a case of its own.
const TORTURE: &str = r"
rm d/a; rm -r gone; mkdir gone; echo new > gone/new
mv moved elsewhere; ln old-link new-link
echo one > n1; ln n1 n2; ln n1 deep/n3
chmod 600 mode; chmod 644 touched-not; : >> opened
mkfifo pipe; ln -s /nowhere dangling; touch -d '1960-01-01' ancient; touch -d '2300-01-01' future
truncate -s 1M sparse; rm -r dir-to-file; echo file > dir-to-file; rm file-to-dir; mkdir file-to-dir
rm link-to-dir; mkdir link-to-dir; echo x > link-to-dir/x; chmod 4755 setuid
mkdir -p new/a/b/c; echo deep > new/a/b/c/d; rm -r emptied/*; chmod 700 emptied
printf '\377' > $(printf 'odd\377name')
";

fn torture_base(root: &Path) {
    for name in ["d", "gone/sub", "moved/sub", "deep", "dir-to-file/x", "emptied/one", "target"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in [
        "d/a",
        "d/b",
        "gone/sub/old",
        "moved/sub/f",
        "old-link",
        "mode",
        "touched-not",
        "opened",
        "setuid",
        "file-to-dir",
    ] {
        fs::write(root.join(name), name).unwrap();
        fs::set_permissions(root.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    make_link("target", root.join("link-to-dir")).unwrap();
}

fn mount_script(work: &Path, lowers: &str, script: &str) -> Option<()> {
    let mount =
        format!("mount -t overlay overlay -o userxattr,index=off,lowerdir={lowers},upperdir=upper,workdir=work merged");
    // The merged tree is copied while it is mounted, as what a running container would have seen. The script runs in a
    // shell of its own: `set -e` has no effect before `||`.
    let whole = format!("{mount} || exit 77; cd merged; sh -ec \"$1\" || exit 78; cd ..; cp -a merged/. copy/");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &whole, "sh", script]).current_dir(work);
    match command.status().ok()?.code() {
        Some(0) => Some(()),
        // unshare itself ends with 1.
        Some(77 | 1) | None => {
            eprintln!("skipped: overlay cannot be mounted here");
            None
        }
        other => panic!("script failed: {other:?}"),
    }
}

#[test]
fn a_layer_of_a_mounted_overlay_gives_what_was_seen() {
    let work = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work", "merged", "copy", "applied"] {
        fs::create_dir(work.path().join(name)).unwrap();
    }
    torture_base(&work.path().join("lower"));
    if mount_script(work.path(), "lower", TORTURE).is_none() {
        return;
    }
    let tar = packed(&work.path().join("upper"), &[&work.path().join("lower")]);
    let found = entries(&tar);
    for left_out in ["- touched-not ", "- opened ", "d target"] {
        assert!(!found.iter().any(|entry| entry.starts_with(left_out)), "{left_out}");
    }
    copy(&work.path().join("lower/."), &work.path().join("applied"));
    let applied = RootDir::open(&work.path().join("applied")).unwrap();
    unpack(tar.as_slice(), &applied, Ownership::Keep, Style::Plain).unwrap();
    let seen = whole_seconds(list(&work.path().join("copy")));
    let got = whole_seconds(list(&work.path().join("applied")));
    assert_eq!(got.keys().collect::<Vec<_>>(), seen.keys().collect::<Vec<_>>());
    for (path, wanted) in &seen {
        let (mut wanted, mut found) = (wanted.clone(), got[path].clone());
        assert_eq!(found.0.link_group != 0, wanted.0.link_group != 0, "links of {}", String::from_utf8_lossy(path));
        (wanted.0.link_group, found.0.link_group) = (0, 0);
        assert_eq!(found, wanted, "{}", String::from_utf8_lossy(path));
    }
    index_agrees(&tar);
}

/// The index of the layer can be made and written, whatever is in it.
fn index_agrees(tar: &[u8]) {
    let (index, ..) = index_tar(tar).unwrap();
    let bytes = index.to_bytes();
    assert_eq!(Index::read_from(&bytes).unwrap(), index);
}

#[test]
fn a_tree_that_was_unpacked_is_a_lower_layer_for_overlayfs() {
    let work = tempfile::tempdir().unwrap();
    for name in ["lower", "base", "upper", "work", "merged", "copy"] {
        fs::create_dir(work.path().join(name)).unwrap();
    }
    torture_base(&work.path().join("base"));
    let layer = archive(&[
        file(".wh.mode", ""),
        directory("d"),
        file("d/.wh..wh..opq", ""),
        file("d/new", "x"),
        file("gone/.wh.sub", ""),
        file("emptied/.wh.one", ""),
        directory("emptied/one"),
    ]);
    let root = RootDir::open(&work.path().join("lower")).unwrap();
    unpack(layer.as_slice(), &root, ownership(), Style::OverlayLower).unwrap();
    if mount_script(work.path(), "lower:base", "true").is_none() {
        return;
    }
    let seen = list(&work.path().join("copy"));
    for gone in ["mode", "d/a", "d/b", "gone/sub"] {
        assert!(!seen.contains_key(gone.as_bytes()), "{gone}");
    }
    for there in ["d/new", "gone", "opened", "emptied/one"] {
        assert!(seen.contains_key(there.as_bytes()), "{there}");
    }
}

#[test]
fn removals_made_without_mknod_are_removals_to_overlayfs_and_to_us() {
    let work = tempfile::tempdir().unwrap();
    for name in ["lower", "lower/d", "base", "upper", "work", "merged", "copy"] {
        fs::create_dir(work.path().join(name)).unwrap();
    }
    torture_base(&work.path().join("base"));
    for (path, name) in [("lower", "mode"), ("lower/d", "a")] {
        crate::layer::place::marked_whiteout(fs::File::open(work.path().join(path)).unwrap(), name.as_bytes()).unwrap();
    }
    let found = entries(&packed(&work.path().join("lower"), &[&work.path().join("base")]));
    assert_eq!(found, ["d d", "x d/a", "x mode"]);
    if mount_script(work.path(), "lower:base", "true").is_none() {
        return;
    }
    let seen = list(&work.path().join("copy"));
    assert!(seen.contains_key(b"d/b".as_slice()) && seen.contains_key(b"opened".as_slice()));
    assert!(!seen.contains_key(b"d/a".as_slice()) && !seen.contains_key(b"mode".as_slice()));
}
