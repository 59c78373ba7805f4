//! Archives of other programs, and other programs on ours. A program that is missing is a visible skip.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{by_first_name, list, own_ids};
use crate::layer::index::{Item, index_tar};
use crate::layer::pack::pack_tree;
use crate::layer::unpack::{Ownership, Style, unpack};
use crate::layer::write::TarWriter;
use crate::rootfs::RootDir;
use crate::tree::{Kind, Node, Time};

/// Runs a program with this input; `None` where it is not installed.
fn run(directory: &Path, program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: no {program} here");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    Some(output.stdout)
}

/// A path, its header, the path it is a hard link to, its content.
type Described = (Vec<u8>, Node, Option<Vec<u8>>, Vec<u8>);

/// Entries that need every kind of record.
fn entries() -> Vec<Described> {
    let (uid, gid) = own_ids();
    let node = |kind, mode| {
        let mut node = Node { kind, ..Node::directory(Time { seconds: 1_700_000_000, nanoseconds: 0 }) };
        (node.mode, node.uid, node.gid) = (mode, uid, gid);
        node
    };
    let file = |content: &str| node(Kind::File { size: content.len() as u64, digest: None }, 0o644);
    let long = ["directory"; 30].join("/").into_bytes();
    let mut all = vec![
        (b"bin".to_vec(), node(Kind::Directory, 0o755), None, Vec::new()),
        (b"bin/tool".to_vec(), node(Kind::File { size: 4, digest: None }, 0o4755), None, b"tool".to_vec()),
        (b"bin/again".to_vec(), file("tool"), Some(b"bin/tool".to_vec()), Vec::new()),
        (b"bin/link".to_vec(), node(Kind::Symlink(b"../bin/tool".to_vec()), 0o777), None, Vec::new()),
        (b"pipe".to_vec(), node(Kind::Fifo, 0o600), None, Vec::new()),
        ("\u{e4}\u{f6}".as_bytes().to_vec(), file("umlaut"), None, b"umlaut".to_vec()),
        (vec![b'l'; 180], file("long"), None, b"long".to_vec()),
        (b"target".to_vec(), node(Kind::Symlink(vec![b't'; 150]), 0o777), None, Vec::new()),
    ];
    for end in long.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([long.len()]) {
        all.push((long[..end].to_vec(), node(Kind::Directory, 0o755), None, Vec::new()));
    }
    all.push(([&long[..], b"/x"].concat(), file("deep"), None, b"deep".to_vec()));
    let mut old = file("old");
    old.mtime.seconds = -5;
    all.push((b"old".to_vec(), old, None, b"old".to_vec()));
    all
}

fn written() -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (path, node, link, content) in entries() {
        writer.append(&path, &node, link.as_deref(), &mut content.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn the_tar_crate_reads_what_was_written() {
    let bytes = written();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut wanted = entries().into_iter();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (path, node, link, content) = wanted.next().unwrap();
        let suffix: &[u8] = if node.is_directory() { b"/" } else { b"" };
        assert_eq!(entry.path_bytes().as_ref(), [&path, suffix].concat());
        assert_eq!(entry.header().mode().unwrap(), node.mode);
        let target = match &node.kind {
            Kind::Symlink(target) => Some(target.clone()),
            _ => link,
        };
        assert_eq!(entry.link_name_bytes().map(|name| name.to_vec()), target);
        let mut read = Vec::new();
        entry.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
    }
    assert!(wanted.next().is_none());
}

#[test]
fn gnu_tar_makes_the_same_tree_of_it() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = written();
    let root = RootDir::open(ours.path()).unwrap();
    unpack(bytes.as_slice(), &root, Ownership::Keep, Style::Plain).unwrap();
    let arguments = ["-x", "-p", "--same-owner", "--numeric-owner", "-f", "-"];
    if run(theirs.path(), "tar", &arguments, &bytes).is_some() {
        assert_eq!(by_first_name(list(ours.path())), by_first_name(list(theirs.path())));
    }
}

#[test]
fn python_reads_the_same_names_sizes_and_times() {
    let script = "import sys,tarfile,io\n\
        for m in tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())):\n \
        print(m.name,m.size,int(m.mtime),oct(m.mode),m.uid,m.linkname,m.type.decode(),sep='|')";
    let directory = tempfile::tempdir().unwrap();
    let Some(output) = run(directory.path(), "python3", &["-c", script], &written()) else { return };
    let expected: Vec<String> = entries()
        .into_iter()
        .map(|(path, node, link, _)| {
            let (kind, target) = match (&node.kind, &link) {
                (_, Some(link)) => ('1', link.clone()),
                (Kind::Directory, _) => ('5', Vec::new()),
                (Kind::Symlink(target), _) => ('2', target.clone()),
                (Kind::Fifo, _) => ('6', Vec::new()),
                _ => ('0', Vec::new()),
            };
            let size = if let (Kind::File { size, .. }, None) = (&node.kind, &link) { *size } else { 0 };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let (seconds, mode, uid) = (node.mtime.seconds, node.mode, node.uid);
            format!("{}|{size}|{seconds}|0o{mode:o}|{uid}|{}|{kind}", text(&path), text(&target))
        })
        .collect();
    assert_eq!(String::from_utf8(output).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_gnu_tar_writes_in_any_format_is_read() {
    let tree = tempfile::tempdir().unwrap();
    let deep = tree.path().join("some/rather/long/way/to/go").join("n".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    fs::hard_link(deep.join("file"), tree.path().join("linked")).unwrap();
    std::os::unix::fs::symlink("t".repeat(130), tree.path().join("symlink")).unwrap();
    for format in ["gnu", "pax"] {
        let arguments = ["-c", "--format", format, "--sort=name", "-f", "-", "."];
        let Some(bytes) = run(tree.path(), "tar", &arguments, b"") else { return };
        let after = tempfile::tempdir().unwrap();
        let root = RootDir::open(after.path()).unwrap();
        unpack(bytes.as_slice(), &root, Ownership::Keep, Style::Plain).unwrap();
        let (expected, found) = (by_first_name(list(tree.path())), by_first_name(list(after.path())));
        assert_eq!(super::whole_seconds(found), super::whole_seconds(expected), "{format}");
    }
}

#[test]
fn sparse_files_of_every_format_have_their_holes() {
    let tree = tempfile::tempdir().unwrap();
    let file = fs::File::create(tree.path().join("sparse")).unwrap();
    let mut expected = vec![0; 3_000_000];
    for at in [0usize, 65_536, 700_000, 2_500_000] {
        expected[at..at + 6000].fill(b'x');
        std::os::unix::fs::FileExt::write_all_at(&file, &[b'x'; 6000], at as u64).unwrap();
    }
    file.set_len(3_000_000).unwrap();
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for format in formats {
        let arguments = [&["-c", "-S", "--hole-detection=raw"], format, &["-f", "-", "sparse"]].concat();
        let Some(bytes) = run(tree.path(), "tar", &arguments, b"") else { return };
        assert!(bytes.len() < 300_000, "{format:?} is not sparse");
        let after = tempfile::tempdir().unwrap();
        let root = RootDir::open(after.path()).unwrap();
        unpack(bytes.as_slice(), &root, Ownership::Keep, Style::Plain).unwrap();
        assert!(fs::read(after.path().join("sparse")).unwrap() == expected, "{format:?}");
    }
}

#[test]
fn numbers_beyond_ustar_come_back() {
    let mut node = Node::directory(Time { seconds: 1 << 40, nanoseconds: 999 });
    (node.uid, node.gid, node.mode) = (u32::MAX - 1, 2_097_152, 0o1777);
    node.xattrs.insert(b"user.binary".to_vec(), vec![0, b'\n', 255]);
    let mut writer = TarWriter::new(Vec::new());
    writer.append(b"d", &node, None, &mut std::io::empty()).unwrap();
    let device = Node { kind: Kind::BlockDevice { major: 259, minor: 1_048_575 }, ..node.clone() };
    writer.append(b"e", &device, None, &mut std::io::empty()).unwrap();
    let bytes = writer.finish().unwrap();
    let (index, ..) = index_tar(bytes.as_slice()).unwrap();
    node.mtime.nanoseconds = 0;
    let found: Vec<Node> = index
        .entries()
        .iter()
        .map(|entry| match &entry.item {
            Item::Present(present) => present.node.clone(),
            Item::Whiteout => panic!("a removal"),
        })
        .collect();
    assert_eq!(found, [node.clone(), Node { kind: device.kind, ..node }]);
}

#[test]
fn a_plain_archive_has_no_extended_header() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("a")).unwrap();
    fs::write(tree.path().join("a/b"), "x").unwrap();
    let mut bytes = Vec::new();
    pack_tree(&RootDir::open(tree.path()).unwrap(), &mut bytes).unwrap();
    assert_eq!(bytes.len(), 512 + 1024 + 1024);
}
