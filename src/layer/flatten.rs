//! What is visible of several layers, as one stream: for plain files, and for layers that are made one.
//!
//! Layers are read one after the other and each path is taken where it is visible, so nothing is written that a higher
//! layer hides.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use super::index::{Index, Item};
use super::read::{Entry, Marker, TarReader};
use super::view::MergedView;
use super::write::TarWriter;
use crate::tree::{self, Node, View};

/// Opens a layer's tar, not compressed, anew each time it is called.
pub type OpenTar = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// Takes an entry: its path, its header, what it is a hard link to, its content.
pub type Append<'a> = dyn FnMut(&[u8], &Node, Option<&[u8]>, &mut dyn Read) -> io::Result<()> + 'a;

/// A layer that is read.
#[derive(Clone)]
pub struct Source {
    /// What is in it.
    pub index: Arc<Index>,
    /// Opens its tar.
    pub open: OpenTar,
}

/// A view of layers for looking paths up; files cannot be opened through it.
pub fn view_of(indexes: Vec<Arc<Index>>) -> MergedView {
    MergedView::new(indexes, |_, _| Err(io::ErrorKind::Unsupported.into()))
}

/// Calls a function for everything that is visible below the root, a directory before what is in it; where it says false,
/// what is in a directory is passed over.
pub fn for_each_node(view: &MergedView, visit: &mut dyn FnMut(&[u8], &Node) -> io::Result<bool>) -> io::Result<()> {
    let mut todo = vec![Vec::new()];
    while let Some(directory) = todo.pop() {
        for name in view.names(&directory)? {
            let path = tree::join(&directory, &name);
            let Some(node) = view.node(&path)? else { continue };
            if visit(&path, &node)? && node.is_directory() {
                todo.push(path);
            }
        }
    }
    Ok(())
}

/// Streams everything but directories that is visible of the layers, of which the first is the view's layer `first`.
pub fn write_contents(view: &MergedView, first: usize, layers: &[Source], append: &mut Append<'_>) -> io::Result<()> {
    for (number, layer) in layers.iter().enumerate() {
        let number = first + number;
        let orphans = orphaned_links(view, number, &layer.index);
        let sources = link_sources(&layer.index);
        let mut reader = TarReader::new((layer.open)()?);
        while let Some(entry) = reader.next_entry()? {
            if entry.node.is_directory() || entry.marker != Marker::Plain {
                continue;
            }
            if let Some(names) = orphans.get(&entry.path) {
                write_names(append, names, &entry, &mut reader)?;
            } else if view.shows(number, &entry.path) {
                // A link to a link is one to what that is a link to.
                let target = entry.link.as_ref().map(|link| *sources.get(&entry.path).unwrap_or(&link));
                match target {
                    Some(target) if orphans.contains_key(target) => {}
                    Some(target) => append(&entry.path, &entry.node, Some(target), &mut io::empty())?,
                    None => append(&entry.path, &entry.node, None, &mut reader.content())?,
                }
            }
        }
    }
    Ok(())
}

/// The first names of what is linked in a layer, by the later ones.
fn link_sources(index: &Index) -> BTreeMap<&Vec<u8>, &Vec<u8>> {
    let mut sources = BTreeMap::new();
    for entry in index.entries() {
        if let Item::Present(present) = &entry.item
            && let Some(source) = &present.source
        {
            sources.insert(&entry.path, source);
        }
    }
    sources
}

/// Visible hard links of a layer whose first name, which has the content in the tar, a higher layer hides.
fn orphaned_links(view: &MergedView, layer: usize, index: &Index) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut orphans: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for entry in index.entries() {
        let Item::Present(present) = &entry.item else { continue };
        if let Some(source) = &present.source
            && view.shows(layer, &entry.path)
            && !view.shows(layer, source)
        {
            orphans.entry(source.clone()).or_default().push(entry.path.clone());
        }
    }
    orphans
}

fn write_names<R: Read>(
    append: &mut Append<'_>,
    names: &[Vec<u8>],
    entry: &Entry,
    reader: &mut TarReader<R>,
) -> io::Result<()> {
    let Some((first, others)) = names.split_first() else { return Ok(()) };
    append(first, &entry.node, None, &mut reader.content())?;
    for other in others {
        append(other, &entry.node, Some(first), &mut io::empty())?;
    }
    Ok(())
}

/// Whether layers (lowest first) remove something of those below them: only then does it matter to [`squash`] what these
/// are. A file hides a directory, also where a later layer has a directory there again.
pub fn remove(layers: &[Source]) -> bool {
    let mut files: BTreeSet<&[u8]> = BTreeSet::new();
    layers.iter().any(|layer| {
        let mut is_removal = |path, item: &Item| match item {
            Item::Whiteout => true,
            Item::Present(present) if present.node.is_directory() => present.opaque || files.contains(path),
            Item::Present(_) => {
                files.insert(path);
                false
            }
        };
        layer.index.root_opaque()
            || layer.index.entries().iter().any(|entry| is_removal(entry.path.as_slice(), &entry.item))
    })
}

/// Writes layers (lowest first) as one, which shows on the layers below what they show there one after the other.
///
/// # Errors
/// A layer cannot be read, or the output not written.
pub fn squash<W: Write>(below: &[Arc<Index>], layers: &[Source], out: W) -> io::Result<W> {
    let indexes = below.iter().cloned().chain(layers.iter().map(|layer| Arc::clone(&layer.index))).collect();
    let view = view_of(indexes);
    let mut tar = TarWriter::new(out);
    let mut directories: BTreeSet<&[u8]> = BTreeSet::new();
    for layer in layers {
        let entries = layer.index.entries().iter();
        let is_own = |item: &Item| matches!(item, Item::Present(one) if one.node.is_directory() && !one.implied);
        directories.extend(entries.filter(|entry| is_own(&entry.item)).map(|entry| entry.path.as_slice()));
    }
    for path in directories {
        // Of one that is gone again, or that is a file now, nothing is left.
        if let Some(node) = view.node(path)?.filter(Node::is_directory) {
            tar.append(path, &node, None, &mut io::empty())?;
        }
    }
    for_each_node(&view_of(below.to_vec()), &mut |path, _| match view.node(path)? {
        Some(node) => Ok(node.is_directory()),
        None => tar.whiteout(path).map(|()| false),
    })?;
    write_contents(&view, below.len(), layers, &mut |path, node, link, content| tar.append(path, node, link, content))?;
    tar.finish()
}
