//! What a command changed in its copy becomes an upper directory.
//!
//! What is new is moved, not copied: it keeps its inode, by which tables of owners know it ([`crate::owners`]). What
//! merely had its `ctime` touched (a hard link of it came or went, a mode was set to what it was) stays where it is, as a
//! layer would not have it either.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::inode::{self, Header};
use super::merge::Merge;
use super::record::{self, Entry, Fingerprint};
use super::{Copied, Filled, filled_in, record_in, root_in};
use crate::owners::table_path;
use crate::rootfs::{self, RootDir};
use crate::sandbox::child::{Reason, While};
use crate::sandbox::overlay::as_path;
use crate::tree;

/// An inode that is not another one of the same number.
type Id = (u64, (i64, u32));

/// Moves what changed to the upper directory and removes the copy.
pub(in crate::sandbox) fn compare(copied: &Copied) -> Result<(), Reason> {
    let root = root_in(&copied.work);
    let filled: Vec<Filled> = serde_json::from_slice(&std::fs::read(filled_in(&copied.work))?)?;
    let before = record::read(&record_in(&copied.work)).doing("read what was copied")?;
    let mut comparison = Comparison {
        trees: Merge::open(&copied.lowers)?,
        root: RootDir::open(&root).doing(root.display())?,
        upper: RootDir::open(&copied.upper).doing(copied.upper.display())?,
        names: children(&before),
        by_inode: by_inode(&before),
        before,
        entered: BTreeMap::new(),
        made: BTreeSet::new(),
        linked: Vec::new(),
        verdicts: HashMap::new(),
        filled: filled.iter().map(|place| place.path.0.clone()).collect(),
        filled_inodes: filled.iter().map(|place| (place.number, place.born)).collect(),
    };
    comparison.run()?;
    for (place, cache) in filled.iter().filter_map(|place| Some((place, place.cache.as_ref()?))) {
        take_back(&comparison.root, place, cache).doing(cache.display())?;
    }
    let removed = [root.clone(), table_path(&root), record_in(&copied.work), filled_in(&copied.work)];
    for path in removed {
        let directory = RootDir::open(&copied.work).doing(copied.work.display())?;
        let name = path.file_name().unwrap_or_default();
        rootfs::remove_all(&directory, name.as_encoded_bytes()).doing(format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Gives a cache what the command left in its place. A cache that others use meanwhile gets what the last one leaves.
fn take_back(root: &RootDir, place: &Filled, cache: &Path) -> io::Result<()> {
    match Fingerprint::of(root, &place.path.0) {
        Ok(print) if print.inode() == (place.number, place.born) => {}
        // It was moved away, or removed.
        _ => return Ok(()),
    }
    let parent = RootDir::open(cache.parent().unwrap_or(cache))?;
    let name = cache.file_name().unwrap_or_default().as_encoded_bytes();
    // Named as what is swept when it is left over.
    let before = [name, b".before.draft"].concat();
    rootfs::remove_all(&parent, &before)?;
    let inside =
        root.open_without_links(tree::parent(&place.path.0), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    rustix::fs::renameat(&parent, name, &parent, before.as_slice())?;
    rustix::fs::renameat(&inside, tree::base_name(&place.path.0), &parent, name)?;
    rootfs::remove_all(&parent, &before)
}

fn children(before: &BTreeMap<Vec<u8>, Entry>) -> HashMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut children: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    for path in before.keys() {
        children.entry(tree::parent(path).to_vec()).or_default().push(tree::base_name(path).to_vec());
    }
    children
}

fn by_inode(before: &BTreeMap<Vec<u8>, Entry>) -> HashMap<Id, Vec<Vec<u8>>> {
    let mut names: HashMap<Id, Vec<Vec<u8>>> = HashMap::new();
    for (path, entry) in before.iter().filter(|(_, entry)| !entry.print.is_directory()) {
        names.entry(entry.print.inode()).or_default().push(path.clone());
    }
    names
}

struct Comparison {
    /// What was copied.
    trees: Merge,
    root: RootDir,
    upper: RootDir,
    before: BTreeMap<Vec<u8>, Entry>,
    names: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    by_inode: HashMap<Id, Vec<Vec<u8>>>,
    /// Directories that were there before and still are, as they were found: moving things out of them sets times.
    entered: BTreeMap<Vec<u8>, Header>,
    /// Those of them that are in the upper directory.
    made: BTreeSet<Vec<u8>>,
    /// Files that were moved and have other names too.
    linked: Vec<Id>,
    /// Of files with several names: whether they changed.
    verdicts: HashMap<Id, bool>,
    /// Places that stand for mounts, and their inodes.
    filled: BTreeSet<Vec<u8>>,
    filled_inodes: BTreeSet<Id>,
}

impl Comparison {
    fn run(&mut self) -> Result<(), Reason> {
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let below = self.directory(&path).doing(format!("compare {}", as_path(&path).display()))?;
            todo.extend(below);
        }
        self.take_link_sources()?;
        // Last, as everything put into a directory changes its times. The root's own header too: an overlay's root has
        // that of its upper directory.
        self.made.insert(Vec::new());
        for path in &self.made {
            let place: &[u8] = if path.is_empty() { b"." } else { path };
            self.entered[path].apply(&self.upper, place).doing(as_path(path).display())?;
        }
        Ok(())
    }

    /// Looks through a directory that was there before. Gives those in it that were, too.
    fn directory(&mut self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let open = self.root.open_without_links(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut header = Header::of_directory(&open)?;
        header.attributes = escaped(header.attributes);
        self.entered.insert(path.to_vec(), header);
        let names = rootfs::names(&open)?;
        for name in self.names.remove(path).unwrap_or_default() {
            if names.binary_search(&name).is_err() {
                self.removed(&tree::join(path, &name))?;
            }
        }
        let mut below = Vec::new();
        for name in names {
            let whole = tree::join(path, &name);
            if self.filled.contains(&whole) {
                continue;
            }
            let print = Fingerprint::of(&open, &name)?;
            match self.before.get(&whole).copied() {
                Some(before) if before.print == print => {
                    if print.is_directory() {
                        below.push(whole);
                    }
                }
                Some(before) if before.print.inode() == print.inode() && before.print.is_directory() => {
                    self.make(&whole)?;
                    below.push(whole);
                }
                Some(before) if before.print.inode() == print.inode() => {
                    if self.has_changed(&open, &name, &whole, before, print)? {
                        self.take(&whole, print)?;
                    }
                }
                Some(before) => self.replaced(&whole, before, print)?,
                None => self.take(&whole, print)?,
            }
        }
        Ok(below)
    }

    fn removed(&mut self, path: &[u8]) -> io::Result<()> {
        let parent = self.parent(path)?;
        inode::whiteout(&parent, tree::base_name(path))
    }

    fn replaced(&mut self, path: &[u8], before: Entry, print: Fingerprint) -> io::Result<()> {
        self.take(path, print)?;
        if self.filled_inodes.contains(&print.inode()) {
            return self.removed(path);
        }
        if before.print.is_directory() && print.is_directory() {
            inode::make_opaque(&self.upper, path)?;
        }
        Ok(())
    }

    /// Whether a file that is still the same inode is another one for a layer. All of its names have one verdict.
    fn has_changed(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
        before: Entry,
        print: Fingerprint,
    ) -> io::Result<bool> {
        if let Some(verdict) = self.verdicts.get(&print.inode()) {
            return Ok(*verdict);
        }
        let touched = Fingerprint { changed: print.changed, links: print.links, ..before.print };
        let verdict = touched != print || !self.is_as_in_tree(directory, name, path, before.tree)?;
        self.verdicts.insert(print.inode(), verdict);
        Ok(verdict)
    }

    /// Content and attributes may have changed though size and time are as they were.
    fn is_as_in_tree(&self, directory: &OwnedFd, name: &[u8], path: &[u8], tree: usize) -> io::Result<bool> {
        let lower = self.trees.header(tree, path)?;
        if FileType::from_raw_mode(lower.stat.st_mode) != FileType::RegularFile {
            // Its owner may be in a table; what is equal all the same is left out when the layer is made.
            return Ok(false);
        }
        if inode::stored_attributes(directory, name)? != lower.attributes {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        inode::same_content(&file, &self.trees.file(tree, path)?)
    }

    /// Moves a name, with all that is in it, to the upper directory.
    fn take(&mut self, path: &[u8], print: Fingerprint) -> io::Result<()> {
        if self.filled_inodes.contains(&print.inode()) {
            // What stood for a mount stays out of a layer wherever it was moved: it may be a secret.
            return Ok(());
        }
        let (parent, name) = (self.parent(path)?, tree::base_name(path));
        let from = self.root.open_without_links(tree::parent(path), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        rustix::fs::renameat(&from, name, &parent, name)?;
        let mut todo = vec![(path.to_vec(), print)];
        while let Some((path, print)) = todo.pop() {
            if self.filled_inodes.contains(&print.inode()) {
                let from = self.upper.open_without_links(tree::parent(&path), OFlags::PATH, Mode::empty())?;
                rootfs::remove_all(&from, tree::base_name(&path))?;
                continue;
            }
            inode::escape(&self.upper, &path)?;
            if print.is_directory() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let open = self.upper.open_without_links(&path, flags, Mode::empty())?;
                for name in rootfs::names(&open)? {
                    todo.push((tree::join(&path, &name), Fingerprint::of(&open, &name)?));
                }
            } else if print.links > 1 {
                self.linked.push(print.inode());
            }
        }
        Ok(())
    }

    /// The other end of a link that the command made: overlay copies the file up to link it, so a layer has both names.
    /// Where a file had several names before, which one was used cannot be known, and the layer has its content twice.
    fn take_link_sources(&mut self) -> Result<(), Reason> {
        for id in std::mem::take(&mut self.linked) {
            let Some([source]) = self.by_inode.get(&id).map(Vec::as_slice) else { continue };
            let source = source.clone();
            match Fingerprint::of(&self.root, &source) {
                Ok(print) if print.inode() == id => self.take(&source, print).doing(as_path(&source).display())?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The directory of a path in the upper directory, made if it is not there.
    fn parent(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let parent = tree::parent(path).to_vec();
        self.make(&parent)?;
        self.upper.open_without_links(&parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// Makes a directory that was there before in the upper directory, with those above it; headers come at the end.
    fn make(&mut self, path: &[u8]) -> io::Result<()> {
        let mut walked = Vec::new();
        for component in tree::components(path) {
            walked = tree::join(&walked, &component);
            if self.made.contains(&walked) {
                continue;
            }
            match rustix::fs::mkdirat(&self.upper, walked.as_slice(), Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            self.made.insert(walked.clone());
        }
        Ok(())
    }
}

/// A command's attributes as they are stored in a tree.
fn escaped(attributes: inode::Attributes) -> inode::Attributes {
    attributes.into_iter().map(|(name, value)| (inode::escaped_name(&name), value)).collect()
}
