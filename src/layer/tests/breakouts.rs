//! The cases of containerd's `TestBreakouts`, each with its own expected tree, applied to a tree as Docker would.
//!
//! Where containerd cleans a name with `..`, rbuild refuses it: no tool writes such a layer.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as make_link};
use std::path::Path;

use super::{archive, directory, file, link, ownership, symlink};
use crate::layer::unpack::{Style, UnpackError, unpack};
use crate::rootfs::RootDir;

/// Unpacks onto what `prepare` made; the root lies in a directory whose other content must not change.
fn apply(prepare: impl FnOnce(&Path), parts: &[Vec<u8>], check: impl FnOnce(&Path, Result<(), UnpackError>)) {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::create_dir(outer.path().join("etc")).unwrap();
    fs::write(outer.path().join("etc/passwd"), "outside").unwrap();
    prepare(&root);
    let opened = RootDir::open(&root).unwrap();
    let result = unpack(archive(parts).as_slice(), &opened, ownership(), Style::Plain);
    check(&root, result.map(|_| ()));
    assert_eq!(fs::read_to_string(outer.path().join("etc/passwd")).unwrap(), "outside");
    assert_eq!(fs::read_dir(outer.path().join("etc")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
}

fn base(root: &Path) {
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "inside").unwrap();
}

fn unbroken(parts: &[Vec<u8>]) {
    apply(
        |_| {},
        parts,
        |root, result| {
            result.unwrap();
            assert_eq!(fs::read_to_string(root.join("etc/unbroken")).unwrap(), "unbroken");
        },
    );
}

fn same_file(root: &Path, one: &str, other: &str) {
    let (one, other) = (fs::metadata(root.join(one)).unwrap(), fs::metadata(root.join(other)).unwrap());
    assert_eq!((one.dev(), one.ino()), (other.dev(), other.ino()));
}

/// Unpacks `etc/passwd` and then these; the two names must be one file, in the root.
fn linked(prepare: impl FnOnce(&Path), parts: &[Vec<u8>], one: &str) {
    let whole = [&[directory("etc"), file("/etc/passwd", "inside")], parts].concat();
    apply(prepare, &whole, |root, result| {
        result.unwrap();
        same_file(root, one, "etc/passwd");
    });
}

fn refused(prepare: impl FnOnce(&Path), parts: &[Vec<u8>]) {
    apply(prepare, parts, |root, result| {
        assert!(matches!(result, Err(UnpackError::Read { .. })), "{result:?}");
        if root.join("etc").exists() {
            assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "inside");
        }
    });
}

#[test]
fn files_written_through_links_stay_inside() {
    let target = file("/localetc/unbroken", "unbroken");
    unbroken(&[directory("etc"), symlink("/etc", "localetc"), target.clone()]);
    unbroken(&[directory("etc"), directory("dummy"), symlink("/dummy/../etc", "localetc"), target.clone()]);
    unbroken(&[directory("etc"), symlink("../../../../../etc", "localetc"), target]);
    for chain in ["/dummy/etc", "./dummy/etc"] {
        let parts = [
            directory("etc"),
            directory("dummy"),
            symlink("/etc", "/dummy/etc"),
            symlink(chain, "localetc"),
            file("/dummy/etc/unbroken", "unbroken"),
        ];
        unbroken(&parts);
    }
}

#[test]
fn a_file_emptied_through_a_link_is_empty() {
    let parts =
        [directory("etc"), file("etc/emptied", "notempty"), symlink("/etc", "localetc"), file("/localetc/emptied", "")];
    apply(
        |_| {},
        &parts,
        |root, result| {
            result.unwrap();
            assert_eq!(fs::read(root.join("etc/emptied")).unwrap(), b"");
        },
    );
}

#[test]
fn hard_links_through_links_stay_inside() {
    for target in ["../../etc", "../downandout/../../etc"] {
        let parts = [
            directory("breakouts"),
            directory("downandout"),
            symlink(target, "breakouts/d1"),
            link("/breakouts/d1/passwd", "breakouts/mypasswd"),
        ];
        linked(|_| {}, &parts, "breakouts/mypasswd");
    }
    for target in ["/etc", "../../../../../../../etc"] {
        linked(|_| {}, &[symlink(target, "localetc"), link("/localetc/passwd", "localpasswd")], "localpasswd");
    }
    for target in ["../../../../../etc/passwd", "/etc/passwd"] {
        linked(|_| {}, &[link(target, "localpasswd")], "localpasswd");
    }
}

#[test]
fn a_hard_link_through_a_link_whose_way_does_not_exist_is_an_error() {
    // containerd resolves `upandout/../../../etc` lexically; the kernel, as in a running container, does not.
    let parts = [
        directory("etc"),
        file("/etc/passwd", "inside"),
        symlink("upandout/../../../etc", "localetc"),
        link("/localetc/passwd", "localpasswd"),
    ];
    apply(|_| {}, &parts, |_, result| assert!(matches!(result, Err(UnpackError::Link { .. })), "{result:?}"));
}

#[test]
fn names_that_lead_upwards_are_refused() {
    for name in ["..", "localetc/sub/..", "../x", "a/../../b", "dne/../.wh.etc"] {
        refused(base, &[symlink("/etc/", name)]);
    }
}

#[test]
fn an_entry_without_a_name_is_the_root_and_is_ignored() {
    linked(|_| {}, &[symlink("/etc/", ""), link("/etc/passwd", "localpasswd")], "localpasswd");
    linked(|_| {}, &[file("./", "x"), link("/etc/passwd", "localpasswd")], "localpasswd");
}

#[test]
fn a_trailing_slash_changes_nothing() {
    linked(|_| {}, &[directory("localetc/"), link("/etc/passwd", "/localetc/localpasswd")], "localetc/localpasswd");
}

#[test]
fn a_link_replaces_a_directory() {
    for target in ["/etc", "../../etc"] {
        apply(
            |root| {
                base(root);
                fs::create_dir(root.join("localetc")).unwrap();
            },
            &[symlink(target, "localetc"), link("/etc/passwd", "/localetc/localpasswd")],
            |root, result| {
                result.unwrap();
                assert!(root.join("localetc").is_symlink());
                same_file(root, "etc/localpasswd", "etc/passwd");
            },
        );
    }
}

#[test]
fn a_directory_replaces_a_link() {
    apply(
        |root| {
            base(root);
            make_link("/etc", root.join("localetc")).unwrap();
        },
        &[directory("/localetc/"), link("/etc/passwd", "/localetc/localpasswd")],
        |root, result| {
            result.unwrap();
            assert!(!root.join("localetc").is_symlink());
            same_file(root, "localetc/localpasswd", "etc/passwd");
        },
    );
    apply(
        |root| {
            base(root);
            make_link("etc", root.join("localetc")).unwrap();
            fs::hard_link(root.join("etc/passwd"), root.join("localetc/localpasswd")).unwrap();
        },
        &[directory("/localetc/"), file("/localetc/localpasswd", "different")],
        |root, result| {
            result.unwrap();
            assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "inside");
            assert_eq!(fs::read_to_string(root.join("localetc/localpasswd")).unwrap(), "different");
        },
    );
}

#[test]
fn removals_of_directories_themselves_are_refused() {
    for name in [".wh...", "etc/.wh...", ".wh..", "etc/.wh..", ".wh.", "etc/.wh."] {
        refused(base, &[file(name, "")]);
    }
}

#[test]
fn a_removed_link_leaves_its_target() {
    apply(
        |root| {
            base(root);
            make_link("/etc", root.join("localetc")).unwrap();
        },
        &[file(".wh.localetc", "")],
        |root, result| {
            result.unwrap();
            assert!(!root.join("localetc").is_symlink());
            assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "inside");
        },
    );
}

#[test]
fn a_removal_through_a_link_stays_inside() {
    apply(
        |root| {
            base(root);
            fs::write(root.join("etc/whitedout"), "x").unwrap();
            make_link("/etc", root.join("localetc")).unwrap();
        },
        &[file("localetc/.wh.whitedout", "")],
        |root, result| {
            result.unwrap();
            assert!(!root.join("etc/whitedout").exists());
            assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "inside");
        },
    );
}

#[test]
fn a_removal_behind_a_link_to_nothing_does_nothing() {
    apply(
        |root| {
            base(root);
            make_link("/dne", root.join("localetc")).unwrap();
        },
        &[file("localetc/.wh.etc", "")],
        |root, result| {
            result.unwrap();
            assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "inside");
        },
    );
}

#[test]
fn a_directory_whose_name_looks_like_a_removal_is_a_directory() {
    apply(base, &[file(".wh.etc/somefile", "non-empty")], |root, result| {
        result.unwrap();
        assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), "inside");
        assert_eq!(fs::read_to_string(root.join(".wh.etc/somefile")).unwrap(), "non-empty");
    });
}

#[test]
fn a_hard_link_to_a_link_is_that_link() {
    let before = [
        directory("etc"),
        symlink("/etc/passwd", "localpasswd"),
        link("localpasswd", "localpasswd-dup"),
        file("/etc/passwd", "after"),
    ];
    apply(
        |_| {},
        &before,
        |root, result| {
            result.unwrap();
            assert_eq!(fs::read_link(root.join("localpasswd-dup")).unwrap(), Path::new("/etc/passwd"));
        },
    );
    for target in ["../../../../../etc/passwd", "/etc/passwd"] {
        let parts = [
            directory("etc"),
            file("/etc/passwd", "inside"),
            symlink(target, "passwdlink"),
            link("/passwdlink", "localpasswd"),
        ];
        apply(
            |_| {},
            &parts,
            |root, result| {
                result.unwrap();
                assert_eq!(fs::read_link(root.join("localpasswd")).unwrap(), Path::new(target));
            },
        );
    }
}

#[test]
fn modes_do_not_go_through_links_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let target = outside.path().join("p");
    fs::write(&target, "...").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o400)).unwrap();
    let name = target.to_str().unwrap();
    apply(|_| {}, &[symlink(name, "sketchy"), link("sketchy", "link")], |_, result| result.unwrap());
    // CVE-2026-33056: a directory entry with the name of a link to a directory.
    let name = outside.path().to_str().unwrap();
    apply(
        |_| {},
        &[symlink(name, "a"), directory("a"), file("a/x", "y")],
        |root, result| {
            result.unwrap();
            assert!(!root.join("a").is_symlink());
        },
    );
    apply(
        |_| {},
        &[directory("a"), symlink(name, "a")],
        |root, result| {
            result.unwrap();
            assert!(root.join("a").is_symlink());
        },
    );
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o400);
    assert_eq!(fs::metadata(outside.path()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}
