//! Layers that are made one show what they showed one by one.

use std::io::Read;
use std::sync::Arc;

use crate::layer::flatten::{OpenTar, Source, for_each_node, remove, squash, view_of};
use crate::layer::index::index_tar;
use crate::layer::write::TarWriter;
use crate::tree::{Kind, Node, Time};

/// One entry: `d/` is a directory, `-x` removes x, `!d` hides what is below in d, `a=b` is a link to b, all else a file
/// whose content is its name and the layer's number.
fn layer(number: usize, entries: &[&str]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for entry in entries {
        if let Some(path) = entry.strip_prefix('-') {
            tar.whiteout(path.as_bytes()).unwrap();
        } else if let Some(path) = entry.strip_prefix('!') {
            tar.opaque(path.as_bytes()).unwrap();
        } else if let Some(path) = entry.strip_suffix('/') {
            let node = Node { mode: 0o700 + number as u32, ..Node::directory(Time::default()) };
            tar.append(path.as_bytes(), &node, None, &mut std::io::empty()).unwrap();
        } else {
            let (path, link) = entry.split_once('=').map_or((*entry, None), |(path, link)| (path, Some(link)));
            let content = format!("{path}{number}");
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

fn shown(layers: &[Source]) -> Vec<String> {
    let view = view_of(layers.iter().map(|layer| Arc::clone(&layer.index)).collect());
    let mut lines = Vec::new();
    for_each_node(&view, &mut |path, node| {
        let kind = match &node.kind {
            Kind::File { digest, .. } => digest.map(|digest| digest.short()).unwrap_or_default(),
            _ => format!("{:o}", node.mode),
        };
        lines.push(format!("{} {kind}", String::from_utf8_lossy(path)));
        Ok(true)
    })
    .unwrap();
    lines.sort();
    lines
}

#[test]
fn one_layer_shows_what_several_showed() {
    let base: &[&str] = &["d/", "d/a", "d/b", "e/", "e/f/", "e/f/g", "h", "i/", "i/j"];
    for new in [
        vec![vec!["d/a", "new/", "new/x"], vec!["new/x", "h"]],
        vec![vec!["-d/a", "y"], vec!["-y", "-e"], vec!["e/", "e/z"]],
        vec![vec!["-e/f"], vec!["e/f/", "e/f/k"]],
        vec![vec!["d/", "!d", "d/only"], vec!["d/more"]],
        vec![vec!["-i", "i"], vec!["-i", "i/", "i/l"]],
        vec![vec!["one", "two=one"], vec!["one"]],
        vec![vec!["one", "two=one", "three=one"], vec!["-one"]],
        vec![vec!["one", "two=one", "three=two"], vec!["-two"]],
        vec![vec!["one", "two=one", "three=two"], vec!["-one"]],
        vec![vec!["d"], vec!["d/", "d/new"]],
    ] {
        let base = source(layer(0, base));
        let parts: Vec<Source> = new.iter().enumerate().map(|(number, it)| source(layer(number + 1, it))).collect();
        let all: Vec<Source> = std::iter::once(base.clone()).chain(parts.iter().cloned()).collect();
        let one = source(squash(&[Arc::clone(&base.index)], &parts, Vec::new()).unwrap());
        assert_eq!(shown(&[base.clone(), one.clone()]), shown(&all), "{new:?}");
        if !remove(&parts) {
            // What lies below need not be known then.
            let blind = source(squash(&[], &parts, Vec::new()).unwrap());
            assert_eq!(shown(&[base, blind]), shown(&all), "{new:?}");
        }
    }
}

#[test]
fn what_comes_and_goes_leaves_nothing() {
    let parts = [source(layer(1, &["t/", "t/x", "kept"])), source(layer(2, &["-t"]))];
    let bytes = squash(&[source(layer(0, &["a"])).index], &parts, Vec::new()).unwrap();
    assert_eq!(shown(&[source(bytes)]).len(), 1);
}
