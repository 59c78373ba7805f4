//! Trees in overlay's form, merged by overlay's rules into one plain directory.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::inode::{self, Header};
use crate::owners::{Inode, Table};
use crate::rootfs::{self, RootDir};
use crate::sandbox::child::{Reason, While};
use crate::sandbox::overlay::as_path;
use crate::tree;

/// Trees to copy from.
pub(super) struct Merge {
    /// Top first.
    roots: Vec<RootDir>,
    /// Owners of what cannot carry them: of all the trees, as an inode is in one of them only.
    owners: Table,
}

/// What was copied.
#[derive(Default)]
pub(super) struct Done {
    /// Every path, with the number of the tree that shows there.
    pub(super) entries: BTreeMap<Vec<u8>, usize>,
    /// Owners of copies that cannot carry them.
    pub(super) owners: Table,
    /// Copies of files with several names, by tree and inode.
    links: HashMap<(usize, u64), Vec<u8>>,
}

/// What merged trees show at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nothing,
    Directory,
    Other,
}

/// One name in a merged directory.
struct Shown {
    /// The tree it is shown from.
    tree: usize,
    /// None for a whiteout.
    stat: Option<Stat>,
    /// The trees whose directories are merged there.
    merged: Vec<usize>,
    /// Whether trees below can still add to it.
    open: bool,
}

impl Merge {
    pub(super) fn open(trees: &[PathBuf]) -> Result<Merge, Reason> {
        let mut merge = Merge { roots: Vec::with_capacity(trees.len()), owners: Table::default() };
        for path in trees {
            merge.roots.push(RootDir::open(path).doing(path.display())?);
            merge.owners.extend(Table::beside(path).doing(path.display())?);
        }
        Ok(merge)
    }

    fn directory(&self, tree: usize, path: &[u8]) -> io::Result<OwnedFd> {
        self.roots[tree].open_without_links(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// What the directories of these trees at a path show, merged.
    fn names(&self, path: &[u8], trees: &[usize]) -> io::Result<BTreeMap<Vec<u8>, Shown>> {
        let mut shown: BTreeMap<Vec<u8>, Shown> = BTreeMap::new();
        for &tree in trees {
            let directory = self.directory(tree, path)?;
            for name in rootfs::names(&directory)? {
                if shown.get(&name).is_some_and(|shown| !shown.open) {
                    continue;
                }
                let one = look(&directory, &name, tree)?;
                match shown.get_mut(&name) {
                    None => drop(shown.insert(name, one)),
                    Some(above) => {
                        above.merged.extend(one.merged);
                        above.open = one.open;
                    }
                }
            }
        }
        Ok(shown)
    }

    /// The trees that show in a directory; `None` where there is none.
    fn trees_at(&self, path: &[u8]) -> io::Result<Option<Vec<usize>>> {
        let mut trees = self.in_root()?;
        let mut walked = Vec::new();
        for component in tree::components(path) {
            let mut names = self.names(&walked, &trees)?;
            match names.remove(&component) {
                Some(shown) if !shown.merged.is_empty() => trees = shown.merged,
                _ => return Ok(None),
            }
            walked = tree::join(&walked, &component);
        }
        Ok(Some(trees))
    }

    /// The trees that show in the root: an opaque root hides those below it.
    fn in_root(&self) -> io::Result<Vec<usize>> {
        let mut trees = Vec::new();
        for (number, root) in self.roots.iter().enumerate() {
            trees.push(number);
            if is_opaque(root, b".")? {
                break;
            }
        }
        Ok(trees)
    }

    /// What is at a path that leads through no link.
    pub(super) fn kind(&self, path: &[u8]) -> io::Result<Kind> {
        if path.is_empty() {
            return Ok(Kind::Directory);
        }
        let Some(trees) = self.trees_at(tree::parent(path))? else { return Ok(Kind::Nothing) };
        let mut names = self.names(tree::parent(path), &trees)?;
        Ok(match names.remove(tree::base_name(path)) {
            Some(Shown { merged, .. }) if !merged.is_empty() => Kind::Directory,
            Some(Shown { stat: Some(_), .. }) => Kind::Other,
            Some(_) | None => Kind::Nothing,
        })
    }

    /// Copies what is at a path and no directory.
    pub(super) fn copy_single(&self, path: &[u8], target: &Path) -> Result<Table, Reason> {
        let missing = || Reason(format!("{}: it is not there", String::from_utf8_lossy(path)));
        let trees = self.trees_at(tree::parent(path))?.ok_or_else(missing)?;
        let shown = self.names(tree::parent(path), &trees)?.remove(tree::base_name(path)).ok_or_else(missing)?;
        let (parent, name) = (target.parent().unwrap_or(target), target.file_name().unwrap_or_default());
        let into = RootDir::open(parent).doing(parent.display())?;
        let mut done = Done::default();
        self.copy_file(shown.tree, path, &into, name.as_encoded_bytes(), &mut done)?;
        Ok(done.owners)
    }

    /// Copies what is in a directory of the merged view into an empty directory, with the directory's own header.
    pub(super) fn copy(&self, from: &[u8], target: &Path) -> Result<Done, Reason> {
        let missing = || Reason(format!("{}: it is no directory", String::from_utf8_lossy(from)));
        let into = RootDir::open(target).doing(target.display())?;
        let mut done = Done::default();
        let mut directories = vec![(Vec::new(), self.trees_at(from)?.ok_or_else(missing)?)];
        let mut next = 0;
        while let Some((path, trees)) = directories.get(next).cloned() {
            let at = |error: io::Error| Reason(format!("copy {}: {error}", as_path(&path).display()));
            let below = self.copy_names(from, &path, &trees, &into, &mut done).map_err(at)?;
            directories.extend(below);
            next += 1;
        }
        // Last, as everything made in a directory changes its times; lowest first, for a directory's own mode may shut
        // out whoever has no power over modes.
        for (path, trees) in directories.iter().rev() {
            let Some(tree) = trees.first() else { continue };
            let place = tree::join(from, path);
            let source = self.directory(*tree, &place).doing(as_path(&place).display())?;
            let header = Header::seen(&source, b".").doing(as_path(&place).display())?;
            header.apply(&into, if path.is_empty() { b"." } else { path }).doing(as_path(path).display())?;
        }
        Ok(done)
    }

    /// Copies the names of one directory; gives the directories among them, still without header and content.
    fn copy_names(
        &self,
        from: &[u8],
        path: &[u8],
        trees: &[usize],
        into: &RootDir,
        done: &mut Done,
    ) -> io::Result<Vec<(Vec<u8>, Vec<usize>)>> {
        let target = into.open_without_links(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let place = tree::join(from, path);
        let mut below = Vec::new();
        for (name, shown) in self.names(&place, trees)? {
            let whole = tree::join(path, &name);
            // Nobody listens on a socket in an image, and no layer can hold one.
            let is_socket = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
            let Some(stat) = shown.stat.filter(|stat| !is_socket(stat)) else { continue };
            if !shown.merged.is_empty() {
                rustix::fs::mkdirat(&target, name.as_slice(), Mode::from_raw_mode(0o700))?;
                below.push((whole.clone(), shown.merged));
            } else {
                let id = (shown.tree, stat.st_ino);
                if let Some(first) = done.links.get(&id).filter(|_| stat.st_nlink > 1) {
                    rustix::fs::linkat(into, first.as_slice(), &target, name.as_slice(), AtFlags::empty())?;
                } else {
                    self.copy_file(shown.tree, &tree::join(&place, &name), &target, &name, done)?;
                    if stat.st_nlink > 1 {
                        done.links.insert(id, whole.clone());
                    }
                }
            }
            done.entries.insert(whole, shown.tree);
        }
        Ok(below)
    }

    fn copy_file(&self, tree: usize, path: &[u8], target: impl AsFd, name: &[u8], done: &mut Done) -> io::Result<()> {
        let source = self.directory(tree, tree::parent(path))?;
        let base = tree::base_name(path);
        let header = Header::seen(&source, base)?;
        inode::copy(&source, base, &header, &target, name)?;
        if !self.owners.is_empty()
            && let Some(owner) = self.owners.find(&Inode::of(&source, base)?)
        {
            done.owners.record(Inode::of(&target, name)?, owner);
        }
        Ok(())
    }

    /// Opens a regular file of one tree.
    pub(super) fn file(&self, tree: usize, path: &[u8]) -> io::Result<OwnedFd> {
        self.roots[tree].open_without_links(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
    }

    /// A file's header in one tree, as a command saw it.
    pub(super) fn header(&self, tree: usize, path: &[u8]) -> io::Result<Header> {
        Header::seen(self.directory(tree, tree::parent(path))?, tree::base_name(path))
    }
}

fn look(directory: &OwnedFd, name: &[u8], tree: usize) -> io::Result<Shown> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if inode::is_whiteout(directory, name, &stat)? {
        return Ok(Shown { tree, stat: None, merged: Vec::new(), open: false });
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(Shown { tree, stat: Some(stat), merged: Vec::new(), open: false });
    }
    let open = !is_opaque(directory, name)?;
    Ok(Shown { tree, stat: Some(stat), merged: vec![tree], open })
}

fn is_opaque(directory: impl AsFd, name: &[u8]) -> io::Result<bool> {
    let stored = inode::stored_attributes(directory, name)?;
    Ok(stored.get(inode::OPAQUE.as_bytes()).is_some_and(|value| value == b"y"))
}
