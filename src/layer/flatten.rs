//! What is visible of several layers, as one stream: for plain files, and for layers that are made one.
//!
//! Layers are read one after the other and each path is taken where it is visible, so nothing is written that a higher
//! layer hides.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use super::index::{Index, Item, Present, names_by_entry};
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

/// Streams everything but directories that is visible of the layers, of which the first is the view's layer `first`. No name
/// is given twice, and further names of a file come right behind its first.
pub fn write_contents(view: &MergedView, first: usize, layers: &[Source], append: &mut Append<'_>) -> io::Result<()> {
    for (number, layer) in layers.iter().enumerate() {
        let names = Names::of(layer)?;
        let mut reader = TarReader::new((layer.open)()?);
        let mut at = 0;
        while let Some(entry) = reader.next_entry()? {
            let mut names = names.of_entry(at, &entry);
            at += 1;
            names.retain(|name| view.shows(first + number, name));
            write_names(append, &names, &entry, &mut reader)?;
        }
    }
    Ok(())
}

/// Where what an entry of a layer's tar has is found in the layer.
enum Names {
    /// Under the entry's own name, and hard links to it: these by what they are links to.
    AsCalled(BTreeMap<Vec<u8>, Vec<Vec<u8>>>),
    /// Anywhere, or nowhere: entries went through links of the layer, or took each other's place.
    ByNumber(BTreeMap<u64, Vec<Vec<u8>>>),
}

impl Names {
    /// A tar that is not straight is read once more for it: which of several entries counts, only the last one tells.
    fn of(layer: &Source) -> io::Result<Names> {
        if !layer.index.is_straight() {
            return Ok(Names::ByNumber(names_by_entry((layer.open)()?)?));
        }
        let mut links: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for entry in layer.index.entries() {
            if let Item::Present(Present { source: Some(source), .. }) = &entry.item {
                links.entry(source.clone()).or_default().push(entry.path.clone());
            }
        }
        Ok(Names::AsCalled(links))
    }

    fn of_entry(&self, number: u64, entry: &Entry) -> Vec<Vec<u8>> {
        match self {
            Names::ByNumber(names) => names.get(&number).cloned().unwrap_or_default(),
            _ if entry.marker != Marker::Plain || entry.node.is_directory() || entry.link.is_some() => Vec::new(),
            Names::AsCalled(links) => {
                let others = links.get(&entry.path).into_iter().flatten();
                std::iter::once(&entry.path).chain(others).cloned().collect()
            }
        }
    }
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
    // Where nothing is removed, a directory that no entry names is the one below, of which nothing need be known.
    let is_known = !below.is_empty() || remove(layers);
    let mut directories: BTreeSet<&[u8]> = BTreeSet::new();
    for layer in layers {
        let entries = layer.index.entries().iter();
        let is_own =
            |item: &Item| matches!(item, Item::Present(one) if one.node.is_directory() && (is_known || !one.implied));
        directories.extend(entries.filter(|entry| is_own(&entry.item)).map(|entry| entry.path.as_slice()));
    }
    for path in directories {
        // Of one that is gone again, or that is a file now, nothing is left; one that shows from below needs no entry.
        let is_new = view.locate(path).is_none_or(|(layer, _)| layer >= below.len());
        if let Some(node) = view.node(path)?.filter(|node| is_new && node.is_directory()) {
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
