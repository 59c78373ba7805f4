use super::*;
use crate::digest::Digest;

fn header(entry_type: EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(entry_type);
    header.set_size(size);
    header.set_mode(0o640);
    header.set_uid(1000);
    header.set_gid(100);
    header.set_mtime(7);
    header
}

struct Builder(tar::Builder<Vec<u8>>);

impl Builder {
    fn new() -> Builder {
        Builder(tar::Builder::new(Vec::new()))
    }

    /// Writes the name as it is, which `tar::Builder` would refuse to.
    fn raw(mut self, name: &str, entry_type: EntryType, link: &str, content: &[u8]) -> Builder {
        let mut header = header(entry_type, content.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Builder {
        self.raw(name, EntryType::Regular, "", content)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn open(self) -> io::Result<TarContext> {
        TarContext::read(&self.bytes()[..], &std::env::temp_dir())
    }
}

fn content(context: &TarContext, path: &str) -> Vec<u8> {
    let mut text = Vec::new();
    context.open(path.as_bytes()).unwrap().read_to_end(&mut text).unwrap();
    text
}

fn names(context: &TarContext, path: &str) -> String {
    let names = context.names(path.as_bytes()).unwrap();
    names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_tar_is_seen_as_the_tree_it_unpacks_to() {
    let tar = Builder::new()
        .raw("./", EntryType::Directory, "", b"")
        .file("./a/b/c.txt", b"one")
        .file("a-b", b"two")
        .raw("a/link", EntryType::Symlink, "b/c.txt", b"")
        .raw("a/hard", EntryType::Link, "a/b/c.txt", b"")
        .raw("pipe", EntryType::Fifo, "", b"");
    let context = tar.open().unwrap();
    assert_eq!(names(&context, ""), "a a-b pipe");
    assert_eq!(names(&context, "a"), "b hard link");
    assert_eq!(names(&context, "a/b"), "c.txt");
    assert_eq!(names(&context, "a-b"), "");
    assert_eq!(content(&context, "a/hard"), b"one");
    let node = context.node(b"a/b/c.txt").unwrap().unwrap();
    assert_eq!((node.mode, node.uid, node.gid, node.mtime.seconds), (0o640, 1000, 100, 7));
    assert_eq!(node.kind, Kind::File { size: 3, digest: Some(Digest::of(b"one")) });
    assert_ne!(node.link_group, 0);
    assert_eq!(node.link_group, context.node(b"a/hard").unwrap().unwrap().link_group);
    assert_eq!(context.node(b"a").unwrap().unwrap().mode, 0o755, "a directory that the tar leaves out");
}

#[test]
fn names_never_leave_the_root_and_links_are_followed_inside_it() {
    let tar = Builder::new()
        .file("../../etc/passwd", b"x")
        .file("/abs", b"y")
        .raw("out", EntryType::Symlink, "../../new", b"")
        .file("out/file", b"z");
    let context = tar.open().unwrap();
    assert_eq!(names(&context, ""), "abs etc new out");
    assert_eq!(content(&context, "new/file"), b"z");
}

#[test]
fn a_later_entry_replaces_an_earlier_one_with_all_below_it() {
    let context = Builder::new().file("a/b", b"1").file("a/c/d", b"2").file("a0", b"3").file("a", b"4").open().unwrap();
    assert_eq!(names(&context, ""), "a a0");
    assert_eq!(content(&context, "a"), b"4");
    assert_eq!(content(&context, "a0"), b"3");
}

#[test]
fn tars_that_contradict_themselves_are_refused() {
    let refused = |tar: Builder, words: &str| {
        let error = tar.open().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(Builder::new().file("a", b"").file("a/b", b""), "a/b");
    refused(Builder::new().raw("a", EntryType::Link, "nothing", b""), "hard link");
    refused(Builder::new().raw("a", EntryType::new(b'Q'), "", b""), "unknown type");
    assert!(TarContext::read(&b"this is no tar, although it is a text of some length"[..], Path::new("/")).is_err());
    let mut cut = Builder::new().file("a", &[1; 5000]).bytes();
    cut.truncate(2000);
    assert!(TarContext::read(&cut[..], Path::new("/")).is_err(), "a tar that ends in the middle of a file");
}

#[test]
fn contents_that_do_not_fit_in_memory_go_to_a_file() {
    let large = vec![b'x'; MEMORY / 2 + 1];
    let tar = Builder::new().file("a", &large).file("b", b"between").file("c", &large).file("d", b"after");
    let context = tar.open().unwrap();
    assert!(context.spool.file.is_some() && context.spool.memory.is_empty());
    assert_eq!(content(&context, "b"), b"between");
    assert_eq!(content(&context, "d"), b"after");
    assert_eq!(content(&context, "c"), large);
}

#[test]
fn extended_headers_override_the_plain_ones() {
    let mut tar = Builder::new();
    let extensions: [(&str, &[u8]); 4] =
        [("mtime", b"-1.25"), ("uid", b"3000000"), ("gid", b"5"), ("SCHILY.xattr.user.k", b"v\0w")];
    tar.0.append_pax_extensions(extensions).unwrap();
    let context = tar.file("a", b"").open().unwrap();
    let node = context.node(b"a").unwrap().unwrap();
    assert_eq!(node.mtime, Time { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!((node.uid, node.gid), (3_000_000, 5));
    assert_eq!(node.xattrs.get(&b"user.k"[..]).map(Vec::as_slice), Some(&b"v\0w"[..]));
}

#[test]
fn archives_are_known_by_their_first_bytes() {
    let tar = Builder::new().file("a", b"x").bytes();
    assert_eq!(detect(&tar[..PREFIX]), Some(Format::Tar));
    assert_eq!(detect(b"\x1f\x8b\x08\0"), Some(Format::Gzip));
    assert_eq!(detect(b"BZh91AY"), Some(Format::Bzip2));
    assert_eq!(detect(b"\xfd7zXZ\0"), Some(Format::Xz));
    assert_eq!(detect(b"\x28\xb5\x2f\xfd"), Some(Format::Zstd));
    assert_eq!(detect(b"\x50\x2a\x4d\x18"), Some(Format::Zstd));
    let mut v7 = tar::Header::new_old();
    v7.set_path("old").unwrap();
    v7.set_size(0);
    v7.set_cksum();
    assert!(is_archive(v7.as_bytes()), "a v7 tar has no magic");
    let mut damaged = tar[..PREFIX].to_vec();
    damaged[0] ^= 1;
    for other in [&b""[..], b"BZ", b"BZhello", b"PK\x03\x04", &[0; 1024], b"#!/bin/sh", &tar[..511], &damaged] {
        assert!(!is_archive(other), "{other:?}");
    }
}
