//! A copy and what was changed in it, against overlay's rules.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev};

use super::*;

/// Trees, an upper and a work directory; whoever runs the tests owns all of it.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let world = World { directory: tempfile::tempdir().unwrap() };
        for name in ["top", "low", "upper", "work"] {
            fs::create_dir(world.path(name)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn lowers(&self) -> Vec<PathBuf> {
        vec![self.path("top"), self.path("low")]
    }

    fn copy(&self) -> PathBuf {
        make_root(&self.lowers(), &self.path("work")).unwrap()
    }

    /// What the upper directory is told: one line for each name, in order.
    fn compare(&self) -> Vec<String> {
        let (upper, work) = (self.path("upper"), self.path("work"));
        compare(&Copied { lowers: self.lowers(), upper: upper.clone(), work: work.clone() }).unwrap();
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "something is left of the copy");
        let mut lines = Vec::new();
        list(&upper, &upper, &mut lines);
        lines
    }
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    rustix::fs::lgetxattr(path, name, &mut value).ok().map(|length| value[..length].to_vec())
}

fn list(directory: &Path, root: &Path, lines: &mut Vec<String>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let found = path.symlink_metadata().unwrap();
        let is_device = found.mode() & libc::S_IFMT == libc::S_IFCHR && found.rdev() == 0;
        if is_device || attribute(&path, "user.overlay.whiteout").is_some() {
            lines.push(format!("gone {name}"));
        } else if found.is_dir() {
            let opaque = attribute(&path, inode::OPAQUE).as_deref() == Some(b"y");
            lines.push(format!("{} {name}", if opaque { "opaque" } else { "dir" }));
            list(&path, root, lines);
        } else if found.is_symlink() {
            lines.push(format!("link {name} -> {}", fs::read_link(&path).unwrap().display()));
        } else {
            lines.push(format!("file {name} {} {:?}", found.nlink(), fs::read_to_string(&path).unwrap()));
        }
    }
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn trees_are_merged_as_overlay_shows_them() {
    let world = World::new();
    for (name, text) in [
        ("low/a/kept", "low"),
        ("low/a/hidden", "low"),
        ("low/a/marked", "low"),
        ("low/a/covered", "low"),
        ("low/b/under-opaque", "low"),
        ("low/c/x", "low"),
        ("low/one", "linked"),
        ("top/a/covered", "top"),
        ("top/a/marked", ""),
        ("top/b/new", "top"),
        ("top/c", "file over a directory"),
    ] {
        world.write(name, text);
    }
    fs::hard_link(world.path("low/one"), world.path("low/two")).unwrap();
    set(&world.path("top/b"), inode::OPAQUE, b"y");
    set(&world.path("top/a/marked"), "user.overlay.whiteout", b"y");
    set(&world.path("top/b/new"), "user.overlay.overlay.opaque", b"mine");
    set(&world.path("top/b/new"), "user.overlay.origin", b"overlay's own");
    // Without the right to make one it is hidden as the other is.
    let device =
        rustix::fs::mknodat(CWD, world.path("top/a/hidden"), FileType::CharacterDevice, Mode::empty(), makedev(0, 0));
    if device.is_err() {
        world.write("top/a/hidden", "");
        set(&world.path("top/a/hidden"), "user.overlay.whiteout", b"y");
    }
    fs::set_permissions(world.path("top/b"), fs::Permissions::from_mode(0o2750)).unwrap();
    let root = world.copy();
    let mut lines = Vec::new();
    list(&root, &root, &mut lines);
    assert_eq!(
        lines,
        [
            "dir a",
            "file a/covered 1 \"top\"",
            "file a/kept 1 \"low\"",
            "dir b",
            "file b/new 1 \"top\"",
            "file c 1 \"file over a directory\"",
            "file one 2 \"linked\"",
            "file two 2 \"linked\"",
        ]
    );
    assert_eq!(attribute(&root.join("b/new"), inode::OPAQUE).as_deref(), Some(&b"mine"[..]));
    assert_eq!(attribute(&root.join("b/new"), "user.overlay.origin"), None);
    let (copy, original) = (root.join("b").metadata().unwrap(), world.path("top/b").metadata().unwrap());
    assert_eq!(
        (copy.mode(), copy.mtime(), copy.mtime_nsec()),
        (original.mode(), original.mtime(), original.mtime_nsec())
    );
    assert_eq!(world.compare(), Vec::<String>::new(), "nothing was changed");
}

#[test]
fn what_changed_is_what_overlay_would_have_written() {
    let world = World::new();
    for name in
        ["low/d/same-size", "low/d/removed", "low/d/untouched", "low/e/old", "low/f/old", "low/one", "low/g/source"]
    {
        world.write(name, "before");
    }
    fs::hard_link(world.path("low/one"), world.path("low/two")).unwrap();
    symlink("x", world.path("low/link")).unwrap();
    let root = world.copy();
    let inside = |name: &str| root.join(name);
    // Of the same size and time, so that nothing but the kernel's own time tells.
    let modified = inside("d/same-size").metadata().unwrap().modified().unwrap();
    fs::write(inside("d/same-size"), "behind").unwrap();
    fs::File::options().write(true).open(inside("d/same-size")).unwrap().set_modified(modified).unwrap();
    fs::remove_file(inside("d/removed")).unwrap();
    // To what it was: no change for a layer, and of a name less.
    fs::set_permissions(inside("d/untouched"), inside("d/untouched").metadata().unwrap().permissions()).unwrap();
    fs::remove_file(inside("two")).unwrap();
    fs::remove_dir_all(inside("e")).unwrap();
    fs::create_dir(inside("e")).unwrap();
    fs::write(inside("e/new"), "new").unwrap();
    fs::remove_dir_all(inside("f")).unwrap();
    fs::write(inside("f"), "a file now").unwrap();
    fs::hard_link(inside("g/source"), inside("g/target")).unwrap();
    // A command's own attribute must not steer the overlay of a later one.
    fs::create_dir(inside("h")).unwrap();
    set(&inside("h"), inode::OPAQUE, b"y");
    set(&inside("g"), "user.overlay.redirect", b"/etc");
    assert_eq!(
        world.compare(),
        [
            "dir d",
            "gone d/removed",
            "file d/same-size 1 \"behind\"",
            "opaque e",
            "file e/new 1 \"new\"",
            "file f 1 \"a file now\"",
            "dir g",
            "file g/source 2 \"before\"",
            "file g/target 2 \"before\"",
            "dir h",
            "gone two",
        ]
    );
    let upper = world.path("upper");
    assert_eq!(attribute(&upper.join("h"), "user.overlay.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(attribute(&upper.join("g"), "user.overlay.redirect"), None);
    assert_eq!(attribute(&upper.join("g"), "user.overlay.overlay.redirect").as_deref(), Some(&b"/etc"[..]));
}

#[test]
fn what_stands_for_a_mount_stays_out_of_the_layer_wherever_it_is_moved_and_a_cache_takes_it_back() {
    let world = World::new();
    world.write("low/run/secret", "");
    world.write("cache/old", "old");
    let (root, entries) = copy_root(&world.lowers(), &world.path("work")).unwrap();
    fs::write(root.join("run/secret"), "the word").unwrap();
    copy_part(&[world.path("cache")], b"", &root.join("cache")).unwrap();
    let open = RootDir::open(&root).unwrap();
    let filled = [
        Filled::at(&open, b"run/secret", None).unwrap(),
        Filled::at(&open, b"cache", Some(world.path("cache"))).unwrap(),
    ];
    write_record(&entries, &filled, &world.path("work")).unwrap();
    fs::create_dir(root.join("kept")).unwrap();
    fs::rename(root.join("run/secret"), root.join("kept/secret")).unwrap();
    fs::write(root.join("kept/other"), "mine").unwrap();
    fs::write(root.join("cache/new"), "new").unwrap();
    fs::remove_file(root.join("cache/old")).unwrap();
    let lines = world.compare();
    assert_eq!(lines, ["dir kept", "file kept/other 1 \"mine\"", "dir run"]);
    let mut cached = Vec::new();
    list(&world.path("cache"), &world.path("cache"), &mut cached);
    assert_eq!(cached, ["file new 1 \"new\""]);
}

#[test]
fn holes_stay_holes_and_content_is_whole() {
    use std::io::{Seek, SeekFrom, Write};
    let world = World::new();
    let mut file = fs::File::create(world.path("low/sparse")).unwrap();
    file.write_all(b"begin").unwrap();
    file.seek(SeekFrom::Start(8 << 20)).unwrap();
    file.write_all(b"end").unwrap();
    file.set_len(64 << 20).unwrap();
    drop(file);
    let root = world.copy();
    let (copy, original) = (root.join("sparse").metadata().unwrap(), world.path("low/sparse").metadata().unwrap());
    assert_eq!(copy.len(), original.len());
    assert!(copy.blocks() <= original.blocks() + 64, "{} blocks of {}", copy.blocks(), original.blocks());
    assert!(fs::read(root.join("sparse")).unwrap() == fs::read(world.path("low/sparse")).unwrap());
}
