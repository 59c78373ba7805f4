//! The layers of an image as one tree, by overlayfs's rules, without a tree on disk.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::index::{Index, Item, Present};
use super::shown;
use crate::tree::{self, Kind, Node, View};

/// Opens the content of a file of one layer: the layer's position (0 is the lowest) and the path in it.
pub type Opener = dyn Fn(usize, &[u8]) -> io::Result<Box<dyn Read + Send>> + Send + Sync;

/// Several layers, the topmost of which wins.
pub struct MergedView {
    layers: Vec<Arc<Index>>,
    open: Box<Opener>,
    /// Which layers show in a directory, topmost first: paths of a COPY are looked up by the thousand in few of them.
    showing: Mutex<HashMap<Vec<u8>, Arc<[usize]>>>,
}

impl MergedView {
    /// Puts layers on each other, lowest first. `open` is asked for the content of files, under the path of the entry
    /// that has it.
    pub fn new(
        layers: Vec<Arc<Index>>,
        open: impl Fn(usize, &[u8]) -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static,
    ) -> MergedView {
        MergedView { layers, open: Box::new(open), showing: Mutex::default() }
    }

    /// The layer that has the content of a path, and the path that it has it under (a hard link's first name). `None`
    /// where nothing is, and for the root and directories that no layer has an entry for.
    pub fn locate(&self, path: &[u8]) -> Option<(usize, Vec<u8>)> {
        let (layer, present) = self.present(path)?;
        if present.implied {
            return None;
        }
        Some((layer, present.source.clone().unwrap_or_else(|| path.to_vec())))
    }

    /// The layers that show in a directory, topmost first; empty where it is none.
    fn showing(&self, directory: &[u8]) -> Arc<[usize]> {
        if let Some(found) = self.showing.lock().unwrap_or_else(PoisonError::into_inner).get(directory) {
            return Arc::clone(found);
        }
        let found: Arc<[usize]> = self.find_showing(directory).into();
        let mut showing = self.showing.lock().unwrap_or_else(PoisonError::into_inner);
        showing.insert(directory.to_vec(), Arc::clone(&found));
        found
    }

    fn find_showing(&self, directory: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        if directory.is_empty() {
            for layer in (0..self.layers.len()).rev() {
                found.push(layer);
                if self.layers[layer].root_opaque() {
                    break;
                }
            }
            return found;
        }
        for layer in self.showing(tree::parent(directory)).iter() {
            match self.layers[*layer].find(directory) {
                None => {}
                Some(Item::Present(present)) if present.node.is_directory() => {
                    found.push(*layer);
                    if present.opaque {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        found
    }

    fn present(&self, path: &[u8]) -> Option<(usize, &Present)> {
        if path.is_empty() {
            return None;
        }
        let mut implied = None;
        for layer in self.showing(tree::parent(path)).iter() {
            match self.layers[*layer].find(path) {
                None => {}
                Some(Item::Present(present)) if implied.is_none() || present.node.is_directory() => {
                    if !present.implied {
                        return Some((*layer, present));
                    }
                    implied.get_or_insert((*layer, present));
                    if present.opaque {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        implied
    }
}

impl View for MergedView {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        if path.is_empty() {
            return Ok(Some(Node::directory(tree::Time::default())));
        }
        Ok(self.present(path).map(|(layer, present)| {
            let mut node = present.node.clone();
            if node.link_group != 0 {
                node.link_group |= (layer as u64 + 1) << 40;
            }
            node
        }))
    }

    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut names: BTreeMap<&[u8], bool> = BTreeMap::new();
        for layer in self.showing(path).iter() {
            for (name, item) in self.layers[*layer].children(path) {
                names.entry(name).or_insert(matches!(item, Item::Present(_)));
            }
        }
        Ok(names.into_iter().filter(|(_, present)| *present).map(|(name, _)| name.to_vec()).collect())
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        let Some((layer, present)) = self.present(path) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no file {} in the image", shown(path))));
        };
        if !matches!(present.node.kind, Kind::File { .. }) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", shown(path))));
        }
        let source = present.source.as_deref().unwrap_or(path);
        match self.layers[layer].kept(source) {
            Some(content) => Ok(Box::new(content)),
            None => (self.open)(layer, source),
        }
    }
}
