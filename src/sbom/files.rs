//! Where the files come from: layers, read as streams, or any tree that can be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use crate::layer::flatten::{Source, for_each_node, view_of};
use crate::layer::index::{Index, Item};
use crate::layer::read::{Entry, Marker, TarReader};
use crate::layer::view::MergedView;
use crate::tree::{self, Kind, Last, Node, View};

/// Takes the content of a file under its path.
pub type Visit<'a> = dyn FnMut(&[u8], &mut dyn Read) -> io::Result<()> + 'a;

/// Files that a document is made of. Paths are as in [`tree::View`].
pub trait Files {
    /// Calls a function for everything that there is, in any order, directories and links included.
    ///
    /// # Errors
    /// What is there cannot be listed.
    fn list(&self, visit: &mut dyn FnMut(&[u8], &Node)) -> io::Result<()>;

    /// Gives the content of those regular files, in whatever order is cheapest; no path twice, and those that are not there not
    /// at all. What the function leaves unread is passed over.
    ///
    /// # Errors
    /// The content cannot be had, or what the function reports.
    fn read(&self, paths: &BTreeSet<Vec<u8>>, visit: &mut Visit<'_>) -> io::Result<()>;
}

/// The files of an image, from its layers' tars: each is read once, and no further than to the last file that is wanted.
pub struct LayerFiles {
    layers: Vec<Source>,
    view: MergedView,
}

impl LayerFiles {
    /// Puts layers on each other, lowest first.
    pub fn new(layers: Vec<Source>) -> LayerFiles {
        let view = view_of(layers.iter().map(|layer| layer.index.clone()).collect());
        LayerFiles { layers, view }
    }
}

impl Files for LayerFiles {
    fn list(&self, visit: &mut dyn FnMut(&[u8], &Node)) -> io::Result<()> {
        for_each_node(&self.view, &mut |path, node| {
            visit(path, node);
            Ok(true)
        })
    }

    fn read(&self, paths: &BTreeSet<Vec<u8>>, visit: &mut Visit<'_>) -> io::Result<()> {
        let mut wanted: BTreeMap<usize, Wanted> = BTreeMap::new();
        for path in paths {
            if let Some((layer, source)) = self.view.locate(path) {
                wanted.entry(layer).or_default().entry(source).or_default().push(path.clone());
            }
        }
        for (layer, mut wanted) in wanted {
            read_layer(&self.layers[layer], &mut wanted, visit)?;
        }
        Ok(())
    }
}

/// The paths that are wanted of a layer, by the name under which its tar has their content: hard links share one.
type Wanted = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

fn read_layer(layer: &Source, wanted: &mut Wanted, visit: &mut Visit<'_>) -> io::Result<()> {
    let alone = view_of(vec![layer.index.clone()]);
    let mut tar = TarReader::new((layer.open)()?);
    while !wanted.is_empty()
        && let Some(entry) = tar.next_entry()?
    {
        if entry.marker != Marker::Plain || entry.link.is_some() || !matches!(entry.node.kind, Kind::File { .. }) {
            continue;
        }
        let path = place(&alone, &layer.index, &entry);
        // Of several entries of one name the last one counts; it is told from the others by its size and times, which is as good
        // as can be without reading the tar to its end first.
        if !is_same(&layer.index, &path, &entry) {
            continue;
        }
        let Some(names) = wanted.remove(&path) else { continue };
        // A file of several names is one file: what it holds lies at the first of them.
        if let Some(first) = names.first() {
            visit(first, &mut tar.content())?;
        }
    }
    Ok(())
}

/// Where an entry lies once links of its own layer are followed, as the index has it.
fn place(alone: &MergedView, index: &Index, entry: &Entry) -> Vec<u8> {
    if index.find(&entry.path).is_some() {
        return entry.path.clone();
    }
    let resolved = tree::resolve(alone, &entry.path, Last::Keep);
    resolved.map_or_else(|_| entry.path.clone(), |resolved| resolved.path)
}

fn is_same(index: &Index, path: &[u8], entry: &Entry) -> bool {
    let Some(Item::Present(present)) = index.find(path) else { return false };
    let size = |kind: &Kind| match kind {
        Kind::File { size, .. } => Some(*size),
        _ => None,
    };
    size(&present.node.kind) == size(&entry.node.kind) && present.node.mtime == entry.node.mtime
}

/// The files of a tree that can be asked: a build context.
pub struct TreeFiles<'a> {
    view: &'a dyn View,
}

impl<'a> TreeFiles<'a> {
    /// Takes all of a tree.
    pub fn new(view: &'a dyn View) -> TreeFiles<'a> {
        TreeFiles { view }
    }
}

impl Files for TreeFiles<'_> {
    fn list(&self, visit: &mut dyn FnMut(&[u8], &Node)) -> io::Result<()> {
        for (path, node) in self.view.descendants(b"", &|_| true)? {
            visit(&path, &node);
        }
        Ok(())
    }

    fn read(&self, paths: &BTreeSet<Vec<u8>>, visit: &mut Visit<'_>) -> io::Result<()> {
        for path in paths {
            let is_file = |node: &Node| matches!(node.kind, Kind::File { .. });
            if self.view.node(path)?.as_ref().is_some_and(is_file) {
                visit(path, &mut self.view.open(path)?)?;
            }
        }
        Ok(())
    }
}
