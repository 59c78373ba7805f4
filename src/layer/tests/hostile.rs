//! Archives that two readers would read differently, that cost too much, or that steer overlayfs.

use std::io::{self, Read};

use super::{archive, directory, file, link, ownership, pax, raw, symlink};
use crate::layer::index::index_tar;
use crate::layer::read::{Entry, Limits, Marker, TarReader, is_tar};
use crate::layer::unpack::{Style, UnpackError, unpack};
use crate::rootfs::RootDir;
use crate::tree::{Kind, Time};

fn read_with(bytes: &[u8], limits: Limits) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = TarReader::with_limits(bytes, limits);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content)?;
        found.push((entry, content));
    }
    Ok(found)
}

fn read(parts: &[Vec<u8>]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    read_with(&archive(parts), Limits::default())
}

fn names(parts: &[Vec<u8>]) -> Vec<String> {
    let entries = read(parts).unwrap();
    entries.into_iter().map(|(entry, _)| String::from_utf8(entry.path).unwrap()).collect()
}

fn refusal(parts: &[Vec<u8>]) -> String {
    read(parts).unwrap_err().to_string()
}

#[test]
fn an_extended_size_decides_where_the_next_header_is() {
    // CVE-2025-62518: the header says 0, the record 1024, and the content looks like an archive.
    let hidden = [file("hidden", ""), vec![0; 512]].concat();
    let parts = [pax(&[("size", "1024")]), raw(b'0', "outer", "", b""), hidden.clone(), file("after", "x")];
    let entries = read(&parts).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].0.path.as_slice(), &entries[0].1), (b"outer".as_slice(), &hidden));
    assert_eq!(entries[1].0.path, b"after");
    // CVE-2026-33055: the header says something else than 0.
    let parts = [pax(&[("size", "3")]), raw(b'0', "outer", "", &[b'x'; 512]), file("after", "x")];
    let entries = read(&parts).unwrap();
    assert_eq!(entries[0].1, b"xxx");
    assert_eq!(entries[1].0.path, b"after");
}

#[test]
fn extended_headers_apply_to_the_entry_and_not_to_what_is_between() {
    // GHSA-3pv8-6f4r-ffg2: the size belongs to the file, not to GNU's long name.
    let long = raw(b'L', "././@LongLink", "", b"long-name\0");
    let content = [b'c'; 600];
    let parts = [pax(&[("size", "600"), ("path", "pax-name")]), long, raw(b'0', "short", "", &content)];
    let entries = read(&parts).unwrap();
    assert_eq!((entries.len(), entries[0].0.path.as_slice(), entries[0].1.len()), (1, b"long-name".as_slice(), 600));
}

#[test]
fn ambiguous_archives_are_refused() {
    assert!(refusal(&[pax(&[("path", "a")]), pax(&[("path", "b")]), file("x", "")]).contains("two extended headers"));
    assert!(refusal(&[pax(&[("path", "a"), ("path", "b")]), file("x", "")]).contains("two records"));
    assert!(refusal(&[pax(&[("path", "a")])]).contains("without an entry"));
    assert!(refusal(&[raw(b'g', "g", "", b"9 path=a\n"), file("x", "")]).contains("global record"));
    assert!(refusal(&[file("x", ""), vec![0; 512], file("y", "")]).contains("single zero block"));
    assert!(refusal(&[pax(&[("size", "-1")]), file("x", "")]).contains("number"));
    let mut broken = file("x", "");
    broken[0] = b'y';
    assert!(refusal(&[broken]).contains("checksum"));
    assert!(refusal(&[raw(b'Z', "x", "", b"")]).contains("not supported"));
}

#[test]
fn a_global_comment_is_no_entry() {
    assert_eq!(names(&[raw(b'g', "pax_global_header", "", b"13 comment=x\n"), file("x", "")]), ["x"]);
}

#[test]
fn links_and_directories_have_no_content_whatever_their_size_says() {
    // As Go and Python read them; content after a link's header would hide entries from one of the two.
    for kind in [b'1', b'2', b'5', b'6'] {
        let mut header = raw(kind, "x", "t", b"");
        header[124..136].copy_from_slice(b"00000001000\0");
        header.splice(148..156, b"        ".iter().copied());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
        assert_eq!(names(&[header, file("after", "")]), ["x", "after"]);
    }
}

#[test]
fn archives_that_cost_too_much_are_refused() {
    let limit = |limits, parts: &[Vec<u8>]| read_with(&archive(parts), limits).unwrap_err().to_string();
    let usual = Limits::default();
    let three = [file("a", "1234"), file("b", "1234"), file("c", "")];
    assert!(limit(Limits { entries: 2, ..usual }, &three).contains("limit of 2 entries"));
    assert!(limit(Limits { bytes: 7, ..usual }, &three).contains("limit of 7 bytes of content"));
    assert!(limit(Limits { metadata: 10, ..usual }, &[pax(&[("a", "bcdefgh")]), file("x", "")]).contains("extended"));
    assert!(limit(Limits { path: 3, ..usual }, &[file("abcd", "")]).contains("bytes in a name"));
    assert!(limit(Limits { path: 3, ..usual }, &[symlink("abcd", "x")]).contains("bytes in a link"));
    // Neither a record that claims 1 GiB nor a sparse file of 8 EiB makes anything be reserved or written.
    let mut bomb = raw(b'x', "x", "", b"");
    bomb[124..136].copy_from_slice(b"10000000000\0");
    bomb.splice(148..156, b"        ".iter().copied());
    let sum: u32 = bomb.iter().map(|byte| u32::from(*byte)).sum();
    bomb.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    assert!(limit(usual, &[bomb]).contains("extended headers"));
    let sparse = pax(&[("GNU.sparse.map", "0,0"), ("GNU.sparse.size", "9223372036854775807")]);
    assert!(limit(usual, &[sparse, file("x", "")]).contains("bytes of content"));
}

#[test]
fn a_cut_archive_is_an_error() {
    let bytes = archive(&[file("a", "content"), directory("d")]);
    for at in [100, 512, 515, 1020, 1100] {
        let result = read_with(&bytes[..at], Limits::default());
        // A cut in the padding behind content leaves every entry whole.
        assert_eq!(result.is_err(), at != 1020, "cut at {at}");
    }
    assert_eq!(read_with(&bytes[..1536], Limits::default()).unwrap().len(), 2);
}

#[test]
fn odd_but_harmless_entries_are_read() {
    let parts = [
        pax(&[("mtime", "-1.25"), ("uid", "4294967294"), ("SCHILY.xattr.user.a", "b=c\nd")]),
        file("./a//b/", "x"),
        raw(0, "old-directory/", "", b""),
        raw(b'7', "contiguous", "", b"y"),
    ];
    let entries = read(&parts).unwrap();
    let node = &entries[0].0.node;
    assert_eq!(entries[0].0.path, b"a/b");
    assert_eq!((node.mtime, node.uid), (Time { seconds: -2, nanoseconds: 750_000_000 }, u32::MAX - 1));
    assert_eq!(node.xattrs.get(b"user.a".as_slice()).unwrap(), b"b=c\nd");
    assert!(entries[1].0.node.is_directory());
    assert_eq!(entries[2].1, b"y");
    assert!(refusal(&[pax(&[("uid", "4294967295")]), file("x", "")]).contains("owner is out of range"));
}

#[test]
fn attributes_that_steer_overlayfs_are_left_out() {
    let parts = [
        pax(&[("SCHILY.xattr.user.overlay.redirect", "/etc"), ("SCHILY.xattr.trusted.overlay.metacopy", "x")]),
        directory("d"),
        pax(&[("SCHILY.xattr.user.rbuild.own", "0:0"), ("SCHILY.xattr.security.selinux", "x")]),
        file("f", ""),
    ];
    assert!(read(&parts).unwrap().iter().all(|(entry, _)| entry.node.xattrs.is_empty()));
    assert!(refusal(&[raw(b'3', "c", "", b"")]).contains("device 0:0"));
}

#[test]
fn markers_are_told_from_files() {
    let parts =
        [file("a/.wh.b", ""), file("a/.wh..wh..opq", ""), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "")];
    let entries = read(&parts).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!((&entries[0].0.path[..], &entries[0].0.marker), (&b"a/b"[..], &Marker::Whiteout(b"b".to_vec())));
    assert_eq!((&entries[1].0.path[..], &entries[1].0.marker), (&b"a"[..], &Marker::Opaque));
    let bytes = archive(&parts);
    let mut literal = TarReader::new(bytes.as_slice()).literal();
    let entry = literal.next_entry().unwrap().unwrap();
    assert_eq!((&entry.path[..], &entry.marker), (&b"a/.wh.b"[..], &Marker::Plain));
    assert!(is_tar(&bytes));
    assert!(!is_tar(&[0; 512]) && !is_tar(&bytes[..511]) && !is_tar(&[b'x'; 512]));
}

fn unpacked(parts: &[Vec<u8>], style: Style) -> (tempfile::TempDir, Result<(), UnpackError>) {
    let directory = tempfile::tempdir().unwrap();
    let root = RootDir::open(directory.path()).unwrap();
    let result = unpack(archive(parts).as_slice(), &root, ownership(), style).map(|_| ());
    (directory, result)
}

#[test]
fn hard_links_to_nothing_are_errors_in_tree_and_index() {
    let cases: [&[Vec<u8>]; 5] = [
        &[link("later", "a"), file("later", "")],
        &[link("a", "a")],
        &[directory("d"), link("d", "a")],
        &[link("other/layer", "a")],
        &[file("x/.wh.gone", ""), link("x/gone", "a")],
    ];
    for parts in cases {
        let (_, result) = unpacked(parts, Style::OverlayLower);
        assert!(matches!(result, Err(UnpackError::Link { .. })), "{result:?}");
        assert!(index_tar(archive(parts).as_slice()).unwrap_err().to_string().contains("hard link"));
    }
}

#[test]
fn files_cannot_be_directories_of_others() {
    let parts = [file("a", ""), file("a/b", "")];
    for style in [Style::Plain, Style::OverlayLower] {
        let (_, result) = unpacked(&parts, style);
        assert!(matches!(result, Err(UnpackError::Parent { .. })), "{result:?}");
    }
    assert!(index_tar(archive(&parts).as_slice()).is_err());
}

#[test]
fn what_comes_later_replaces_what_came_before() {
    let parts = [
        file("a", "1"),
        directory("a"),
        file("a/x", "2"),
        directory("b"),
        file("b/x", "3"),
        file("b", "4"),
        file("c", "5"),
        file("c", "6"),
        file("C", "7"),
    ];
    let (directory, result) = unpacked(&parts, Style::OverlayLower);
    result.unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!([read("a/x"), read("b"), read("c"), read("C")], ["2", "4", "6", "7"]);
    let (index, ..) = index_tar(archive(&parts).as_slice()).unwrap();
    let paths: Vec<_> = index.entries().iter().map(|entry| entry.path.as_slice()).collect();
    assert_eq!(paths, [b"C".as_slice(), b"a", b"a/x", b"b", b"c"]);
}

#[test]
fn a_pipe_is_made_and_a_deep_tree_needs_no_stack() {
    let mut parts = vec![raw(b'6', "pipe", "", b"")];
    let name = ["d"; 1900].join("/");
    parts.push(pax(&[("path", &name)]));
    parts.push(file("short", "deep"));
    let (directory, result) = unpacked(&parts, Style::OverlayLower);
    result.unwrap();
    let root = RootDir::open(directory.path()).unwrap();
    let mut out = Vec::new();
    crate::layer::pack::pack_tree(&root, &mut out).unwrap();
    let (index, ..) = index_tar(out.as_slice()).unwrap();
    assert_eq!(index.entries().len(), 1901);
    let last = &index.find(name.as_bytes());
    assert!(
        matches!(last, Some(crate::layer::index::Item::Present(found)) if matches!(found.node.kind, Kind::File { size: 4, .. }))
    );
    crate::rootfs::remove_all(&root, b"d").unwrap();
}
