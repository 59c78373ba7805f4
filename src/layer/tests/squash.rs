//! Layers that are made one show what they showed one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use proptest::prelude::*;

use super::{list, ownership};
use crate::digest::Digest;
use crate::layer::flatten::{OpenTar, Source, for_each_node, remove, squash, view_of};
use crate::layer::index::index_tar;
use crate::layer::read::TarReader;
use crate::layer::unpack::{Style, unpack};
use crate::layer::write::TarWriter;
use crate::rootfs::RootDir;
use crate::tree::{Kind, Node, Time};

/// One entry: `d/` is a directory, `-x` removes x, `!d` hides what is below in d, `a=b` is a link to b, `a>b` a symbolic one,
/// all else a file whose content is its name and its place. Names are written as they are: also through links.
fn layer(number: usize, entries: &[&str]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (place, entry) in entries.iter().enumerate() {
        if let Some(path) = entry.strip_prefix('-') {
            tar.whiteout(path.as_bytes()).unwrap();
        } else if let Some(path) = entry.strip_prefix('!') {
            tar.opaque(path.as_bytes()).unwrap();
        } else if let Some(path) = entry.strip_suffix('/') {
            let node = Node { mode: 0o700 + number as u32, ..Node::directory(Time::default()) };
            tar.append(path.as_bytes(), &node, None, &mut std::io::empty()).unwrap();
        } else if let Some((path, target)) = entry.split_once('>') {
            let kind = Kind::Symlink(target.as_bytes().to_vec());
            let node = Node { kind, mode: 0o777, ..Node::directory(Time::default()) };
            tar.append(path.as_bytes(), &node, None, &mut std::io::empty()).unwrap();
        } else {
            let (path, link) = entry.split_once('=').map_or((*entry, None), |(path, link)| (path, Some(link)));
            let content = format!("{path}{number}.{place}");
            let size = if link.is_some() { 0 } else { content.len() as u64 };
            let kind = Kind::File { size, digest: None };
            let node = Node { kind, mode: 0o644, ..Node::directory(Time::default()) };
            tar.append(path.as_bytes(), &node, link.map(str::as_bytes), &mut content.as_bytes()).unwrap();
        }
    }
    tar.finish().unwrap()
}

fn source(tar: Vec<u8>) -> Source {
    let index = Arc::new(index_tar(tar.as_slice()).unwrap().0);
    let open: OpenTar = Arc::new(move || Ok(Box::new(std::io::Cursor::new(tar.clone())) as Box<dyn Read + Send>));
    Source { index, open }
}

/// What is seen of layers.
fn shown(layers: &[Source]) -> Vec<String> {
    let view = view_of(layers.iter().map(|layer| Arc::clone(&layer.index)).collect());
    let mut nodes = BTreeMap::new();
    for_each_node(&view, &mut |path, node| {
        nodes.insert(path.to_vec(), node.clone());
        Ok(true)
    })
    .unwrap();
    lines(&nodes)
}

/// What there is when a layer is unpacked.
fn unpacked(tar: &[u8]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    unpack(tar, &RootDir::open(directory.path()).unwrap(), ownership(), Style::Plain).unwrap();
    let node = |(path, (mut node, content)): (Vec<u8>, (Node, Vec<u8>))| {
        if let Kind::File { digest, .. } = &mut node.kind {
            *digest = Some(Digest::of(&content));
        }
        (path, node)
    };
    lines(&list(directory.path()).into_iter().map(node).collect())
}

/// A line for each path; hard links with the first of the names that are left of them.
fn lines(nodes: &BTreeMap<Vec<u8>, Node>) -> Vec<String> {
    let mut groups: BTreeMap<u64, &[u8]> = BTreeMap::new();
    let mut lines = Vec::new();
    let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    for (path, node) in nodes {
        let kind = match &node.kind {
            Kind::File { digest, .. } => digest.map(|digest| digest.short()).unwrap_or_default(),
            Kind::Symlink(target) => format!("-> {}", text(target)),
            _ => format!("{:o}", node.mode),
        };
        let first = if node.link_group == 0 { path } else { *groups.entry(node.link_group).or_insert(path) };
        let link = if first == path { String::new() } else { format!(" = {}", text(first)) };
        lines.push(format!("{} {kind}{link}", text(path)));
    }
    lines
}

fn sources(layers: &[Vec<String>]) -> Vec<Source> {
    let layer = |(number, entries): (usize, &Vec<String>)| {
        source(layer(number, &entries.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    layers.iter().enumerate().map(layer).collect()
}

/// Checks that the layers from a number on show as one what they show one by one, also unpacked where nothing is below.
fn check(layers: &[Vec<String>], first: usize) {
    let all = sources(layers);
    let (below, parts) = all.split_at(first);
    let indexes: Vec<_> = below.iter().map(|layer| Arc::clone(&layer.index)).collect();
    let with = |tar: Vec<u8>| shown(&below.iter().cloned().chain([source(tar)]).collect::<Vec<_>>());
    let tar = squash(&indexes, parts, Vec::new()).unwrap();
    once_each(&tar, layers);
    if first == 0 {
        assert_eq!(unpacked(&tar), shown(&all), "{layers:?}");
    }
    assert_eq!(with(tar), shown(&all), "{layers:?} from {first}");
    if !remove(parts) {
        // What lies below need not be known then.
        assert_eq!(with(squash(&[], parts, Vec::new()).unwrap()), shown(&all), "{layers:?} from {first}, blind");
    }
}

fn once_each(tar: &[u8], layers: &[Vec<String>]) {
    let (mut reader, mut seen) = (TarReader::new(tar), BTreeSet::new());
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        assert!(seen.insert(path.clone()), "{path} twice: {layers:?}");
    }
}

fn layers(texts: &[&[&str]]) -> Vec<Vec<String>> {
    texts.iter().map(|layer| layer.iter().map(|entry| (*entry).to_owned()).collect()).collect()
}

#[test]
fn one_layer_shows_what_several_showed() {
    let base: &[&str] = &["d/", "d/a", "d/b", "e/", "e/f/", "e/f/g", "h", "i/", "i/j"];
    let cases: &[&[&[&str]]] = &[
        &[&["d/a", "new/", "new/x"], &["new/x", "h"]],
        &[&["-d/a", "y"], &["-y", "-e"], &["e/", "e/z"]],
        &[&["-e/f"], &["e/f/", "e/f/k"]],
        &[&["d/", "!d", "d/only"], &["d/more"]],
        &[&["-i", "i"], &["-i", "i/", "i/l"]],
        &[&["one", "two=one"], &["one"]],
        &[&["one", "two=one", "three=one"], &["-one"]],
        &[&["one", "two=one", "three=two"], &["-two"]],
        &[&["one", "two=one", "three=two"], &["-one"]],
        &[&["d"], &["d/", "d/new"]],
    ];
    for new in cases {
        check(&layers(&[&[base], *new].concat()), 1);
    }
}

#[test]
fn entries_that_go_through_links_of_their_layer_are_there_once_where_they_lead_to() {
    let base: &[&str] = &["usr/", "usr/lib/", "usr/lib/old"];
    let cases: &[&[&[&str]]] = &[
        &[&["usr/", "usr/lib/", "lib>usr/lib", "lib/x", "lib/y=lib/x"]],
        &[&["usr/lib/", "lib>/usr/lib", "lib/x", "usr/lib/x"], &["lib/z"]],
        &[&["usr/lib/", "lib>usr/lib", "lib/x", "lib/", "lib/x"]],
        &[&["usr/lib/", "lib>usr/lib", "lib/x", "y=usr/lib/x"], &["-usr/lib/x"]],
        &[&["usr/lib/", "lib>usr/lib", "lib/x"], &["-lib"], &["lib/k"]],
    ];
    for new in cases {
        check(&layers(&[&[base], *new].concat()), 1);
    }
}

#[test]
fn of_several_entries_of_a_name_the_last_one_counts() {
    let cases: &[&[&[&str]]] = &[
        &[&["a"], &["a", "a"]],
        &[&[], &["a", "a/", "a/b"]],
        &[&[], &["a", "b=a", "a"], &["-a"]],
        &[&[], &["a", "b=a", "b"], &["-a"]],
        &[&[], &["a/b", "c=a/b", "a"]],
        &[&[], &["a>b", "c=a", "a"]],
    ];
    for new in cases {
        check(&layers(new), 1);
    }
}

#[test]
fn directories_that_no_entry_names_keep_their_attributes() {
    // The one below is removed in between: what is there then is not that one.
    check(&layers(&[&["d/", "d/a"], &["-d"], &["d/x"]]), 1);
    check(&layers(&[&["d/", "d/a"], &["-d", "d/x"]]), 1);
    check(&layers(&[&["d/", "d/a"], &["d"], &["-d"], &["d/x/y"]]), 1);
    check(&layers(&[&["d/", "d/a"], &["d/x"], &["d/y"]]), 1);
}

fn entry() -> impl Strategy<Value = String> {
    let path = || "[abc](/[abc]){0,2}";
    prop_oneof![
        4 => path(),
        3 => path().prop_map(|path| path + "/"),
        2 => (path(), "/?(\\.\\./)?[abc](/[abc])?").prop_map(|(path, target)| format!("{path}>{target}")),
        2 => (path(), path()).prop_map(|(path, target)| format!("{path}={target}")),
        2 => path().prop_map(|path| format!("-{path}")),
        1 => path().prop_map(|path| format!("!{path}")),
    ]
}

/// A layer without the entries that it could not be unpacked with (a link to nothing, a file as a directory).
fn possible(number: usize, entries: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for entry in entries {
        kept.push(entry);
        let all: Vec<&str> = kept.iter().map(String::as_str).collect();
        if index_tar(layer(number, &all).as_slice()).is_err() {
            kept.pop();
        }
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_layers_made_one_show_what_they_showed(
        drafts in proptest::collection::vec(proptest::collection::vec(entry(), 0..8), 2..5),
        first in 0usize..3,
    ) {
        let layers: Vec<_> = drafts.into_iter().enumerate().map(|(number, draft)| possible(number, draft)).collect();
        check(&layers, first.min(layers.len() - 1));
    }
}

#[test]
fn what_comes_and_goes_leaves_nothing() {
    let parts = [source(layer(1, &["t/", "t/x", "kept"])), source(layer(2, &["-t"]))];
    let bytes = squash(&[source(layer(0, &["a"])).index], &parts, Vec::new()).unwrap();
    assert_eq!(shown(&[source(bytes)]).len(), 1);
}
