//! The index of one layer, and several layers as one tree.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::{archive, directory, file, link, list, ownership, raw, symlink};
use crate::digest::Digest;
use crate::layer::index::{Index, IndexEntry, Indexer, Item, Present, index_tar};
use crate::layer::unpack::{Style, unpack};
use crate::layer::view::MergedView;
use crate::rootfs::RootDir;
use crate::tree::{Kind, Node, Time, View};

fn index(parts: &[Vec<u8>]) -> Index {
    index_tar(archive(parts).as_slice()).unwrap().0
}

fn present<'a>(index: &'a Index, path: &str) -> &'a Present {
    match index.find(path.as_bytes()) {
        Some(Item::Present(present)) => present,
        other => panic!("{path}: {other:?}"),
    }
}

fn paths(index: &Index) -> Vec<&str> {
    index.entries().iter().map(|entry| std::str::from_utf8(&entry.path).unwrap()).collect()
}

fn view(layers: &[&[Vec<u8>]]) -> MergedView {
    let layers = layers.iter().map(|parts| Arc::new(index(parts))).collect();
    MergedView::new(layers, |layer, path| {
        let text = format!("{layer}:{}", String::from_utf8_lossy(path)).into_bytes();
        Ok(Box::new(io::Cursor::new(text)))
    })
}

fn content(view: &MergedView, path: &str) -> String {
    let mut text = String::new();
    view.open(path.as_bytes()).unwrap().read_to_string(&mut text).unwrap();
    text
}

fn names(view: &MergedView, path: &str) -> Vec<String> {
    view.names(path.as_bytes()).unwrap().into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
}

#[test]
fn the_index_has_digests_sizes_and_the_whole_archives_digest() {
    let trailing = [archive(&[file("a", "content")]), vec![7; 100]].concat();
    let (index, digest, size) = index_tar(trailing.as_slice()).unwrap();
    assert_eq!((digest, size), (Digest::of(&trailing), trailing.len() as u64));
    let expected = Kind::File { size: 7, digest: Some(Digest::of(b"content")) };
    assert_eq!(present(&index, "a").node.kind, expected);
}

#[test]
fn a_streamed_index_is_the_same_however_it_is_cut() {
    let big = "0123456789".repeat(100_000);
    let bytes = archive(&[directory("d"), file("d/big", &big), link("d/big", "d/again"), file("etc/passwd", "root:x")]);
    let expected = index_tar(bytes.as_slice()).unwrap();
    for cut in [1000, 512, 300_000, bytes.len()] {
        let mut indexer = Indexer::new().unwrap();
        bytes.chunks(cut).for_each(|piece| indexer.write_all(piece).unwrap());
        assert_eq!(indexer.finish().unwrap(), expected);
    }
}

#[test]
fn a_streamed_index_says_what_is_wrong() {
    let mut indexer = Indexer::new().unwrap();
    let bad = archive(&[file("../x", ""), file("y", &"z".repeat(10_000_000))]);
    let error = match indexer.write_all(&bad) {
        Ok(()) => indexer.finish().map(|_| ()).unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("leads upwards"), "{error}");
    assert!(Indexer::new().unwrap().finish().unwrap().0.entries().is_empty());
}

#[test]
fn links_go_to_the_entry_that_has_the_content() {
    let index = index(&[file("a", "x"), link("/a", "b"), link("b", "c"), file("d", "")]);
    assert_eq!(present(&index, "a").source, None);
    assert_eq!(present(&index, "c").source.as_deref(), Some(&b"a"[..]));
    let group = present(&index, "a").node.link_group;
    assert!(
        group != 0 && present(&index, "b").node.link_group == group && present(&index, "c").node.link_group == group
    );
    assert_eq!(present(&index, "c").node.kind, present(&index, "a").node.kind);
    assert_eq!(present(&index, "d").node.link_group, 0);
}

#[test]
fn a_link_outlives_the_name_that_it_was_made_from() {
    let index = index(&[file("a", "x"), link("a", "b"), link("a", "c"), file("a", "new")]);
    assert_eq!(present(&index, "b").source, None);
    assert_eq!(present(&index, "c").source.as_deref(), Some(&b"b"[..]));
}

#[test]
fn names_through_links_are_where_the_tree_has_them() {
    let parts = [directory("usr/lib"), symlink("usr/lib", "lib"), file("lib/a/b", "x"), file("etc/passwd", "p")];
    let index = index(&parts);
    assert_eq!(paths(&index), ["etc", "etc/passwd", "lib", "usr", "usr/lib", "usr/lib/a", "usr/lib/a/b"]);
    let implied: Vec<&[u8]> = index.implied_directories().collect();
    assert_eq!(implied, [b"etc".as_slice(), b"usr", b"usr/lib/a"]);
    assert_eq!(index.kept(b"etc/passwd"), Some(&b"p"[..]));
    let tree = tempfile::tempdir().unwrap();
    let root = RootDir::open(tree.path()).unwrap();
    unpack(archive(&parts).as_slice(), &root, ownership(), Style::OverlayLower).unwrap();
    let listed: Vec<Vec<u8>> = list(tree.path()).into_keys().collect();
    assert_eq!(listed, index.entries().iter().map(|entry| entry.path.clone()).collect::<Vec<_>>());
}

#[test]
fn children_are_direct_and_in_order() {
    let index = index(&[file("a/x/deep", ""), file("a-b", ""), file("a/b", ""), file("a/x-y", ""), file("ab", "")]);
    let children = |path: &[u8]| index.children(path).map(|(name, _)| name.to_vec()).collect::<Vec<_>>();
    assert_eq!(children(b""), [b"a".to_vec(), b"a-b".to_vec(), b"ab".to_vec()]);
    assert_eq!(children(b"a"), [b"b".to_vec(), b"x".to_vec(), b"x-y".to_vec()]);
    assert!(children(b"none").is_empty() && children(b"ab").is_empty());
}

#[test]
fn layers_above_hide_remove_and_replace() {
    let view = view(&[
        &[
            directory("d"),
            file("d/a", ""),
            file("d/b", ""),
            file("f", ""),
            directory("o"),
            file("o/old", ""),
            file("g", ""),
        ],
        &[
            file("d/.wh.a", ""),
            file("d/c", ""),
            directory("o"),
            file("o/.wh..wh..opq", ""),
            file("o/new", ""),
            directory("g"),
        ],
        &[file("d/a", ""), file(".wh.f", ""), file("o/third", "")],
    ]);
    assert_eq!(names(&view, ""), ["d", "g", "o"]);
    assert_eq!(names(&view, "d"), ["a", "b", "c"]);
    assert_eq!(names(&view, "o"), ["new", "third"]);
    assert_eq!(content(&view, "d/a"), "2:d/a");
    assert_eq!(content(&view, "d/b"), "0:d/b");
    assert_eq!(view.locate(b"d/c"), Some((1, b"d/c".to_vec())));
    for gone in ["f", "o/old", "d/x", "g/x", "d/b/x", "none/x"] {
        assert_eq!(view.node(gone.as_bytes()).unwrap(), None, "{gone}");
        assert!(view.open(gone.as_bytes()).is_err());
    }
    assert!(view.node(b"g").unwrap().unwrap().is_directory());
    assert!(names(&view, "g").is_empty());
    assert!(view.node(b"").unwrap().unwrap().is_directory());
}

#[test]
fn a_directory_that_no_entry_names_looks_as_it_does_below() {
    let mut special = directory("tmp");
    special[100..108].copy_from_slice(b"0001777\0");
    special.splice(148..156, b"        ".iter().copied());
    let sum: u32 = special.iter().map(|byte| u32::from(*byte)).sum();
    special.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    let view = view(&[&[special, file("tmp/a", "")], &[file("tmp/b", "")], &[file("new/c", "")]]);
    assert_eq!(view.node(b"tmp").unwrap().unwrap().mode, 0o1777);
    assert_eq!(view.locate(b"tmp"), Some((0, b"tmp".to_vec())));
    assert_eq!(view.node(b"new").unwrap().unwrap().mode, 0o755);
    assert_eq!(view.locate(b"new"), None);
}

#[test]
fn a_removal_and_a_new_directory_in_one_layer_hide_the_old_one() {
    let lower = [directory("d"), file("d/old", "")];
    let orders: [&[Vec<u8>]; 3] = [
        &[file(".wh.d", ""), directory("d"), file("d/new", "")],
        &[directory("d"), file("d/new", ""), file(".wh.d", "")],
        &[file(".wh.d", ""), file("d/new", "")],
    ];
    for upper in orders {
        assert_eq!(names(&view(&[&lower, upper]), "d"), ["new"]);
        let tree = tempfile::tempdir().unwrap();
        let root = RootDir::open(tree.path()).unwrap();
        for parts in [&lower, upper] {
            unpack(archive(parts).as_slice(), &root, ownership(), Style::Plain).unwrap();
        }
        // Applied in place, an implied directory takes over the one that was removed only if the removal came first.
        assert!(!tree.path().join("d/old").exists());
        assert!(tree.path().join("d/new").exists());
    }
}

#[test]
fn an_opaque_root_hides_everything() {
    let view = view(&[&[file("a", "")], &[file(".wh..wh..opq", ""), file("b", "")], &[file("c", "")]]);
    assert_eq!(names(&view, ""), ["b", "c"]);
    assert_eq!(view.node(b"a").unwrap(), None);
}

#[test]
fn hard_links_of_different_layers_are_different_files() {
    let view = view(&[&[file("a", ""), link("a", "b")], &[file("c", ""), link("c", "d")]]);
    let group = |path: &str| view.node(path.as_bytes()).unwrap().unwrap().link_group;
    assert_eq!(group("a"), group("b"));
    assert_ne!(group("a"), group("c"));
    assert_eq!(content(&view, "b"), "0:a");
    assert_eq!(view.locate(b"d"), Some((1, b"c".to_vec())));
}

#[test]
fn users_are_read_from_the_index() {
    let view = view(&[&[file("etc/passwd", "one")], &[file("etc/passwd", "two"), file("etc/group", "g")]]);
    assert_eq!(content(&view, "etc/passwd"), "two");
    assert_eq!(content(&view, "etc/group"), "g");
}

#[test]
fn an_index_of_100_000_entries_is_read_back() {
    let entry = |number: usize| {
        let node = Node {
            kind: Kind::File { size: number as u64, digest: Some(Digest::of(&number.to_le_bytes())) },
            ..Node::directory(Time { seconds: 1_700_000_000, nanoseconds: 0 })
        };
        let path = format!("usr/lib/package-{:04}/module-{number:06}.so", number / 100).into_bytes();
        IndexEntry { path, item: Item::Present(Present { node, opaque: false, implied: false, source: None }) }
    };
    let index = Index { entries: (0..100_000).map(entry).collect(), ..Index::default() };
    let bytes = index.to_bytes();
    assert_eq!(Index::read_from(&bytes).unwrap(), index);
}

#[test]
fn devices_and_pipes_have_their_kinds() {
    let index = index(&[raw(b'6', "p", "", b"")]);
    assert_eq!(present(&index, "p").node.kind, Kind::Fifo);
}
