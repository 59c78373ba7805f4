//! The merged view of trees on disk, for looking a few names up without mounting anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, RawDir};

use crate::owners::{self, Owner};
use crate::rootfs::RootDir;
use crate::tree::{self, Kind, Node, Time, View};

/// Trees in overlay's form, highest first, seen as one (`overlayfs.rst`, "whiteouts and opaque directories").
///
/// Owners are the image's only within the namespace, and those of links are not looked up in tables of owners: this view
/// is for content and types.
pub struct StackView {
    roots: Vec<RootDir>,
    /// Of directories that were asked for: where each is seen.
    directories: Mutex<BTreeMap<Vec<u8>, Arc<Seen>>>,
}

/// In which trees a directory is seen.
#[derive(Debug)]
struct Seen {
    /// Highest first.
    trees: Vec<usize>,
    /// A tree below these, with the directory on the way that could not be looked at: an error for who gets as far.
    unknown: Option<(usize, Vec<u8>)>,
}

/// How many directories are remembered at most.
const MOST_DIRECTORIES: usize = 256;

/// What one tree says of a path.
enum Found {
    Nothing,
    /// A whiteout: nothing below counts.
    Hidden,
    Node(Node, Opacity),
}

/// Whether a directory hides those below it.
#[derive(PartialEq, Eq)]
enum Opacity {
    Merged,
    Opaque,
}

impl StackView {
    /// Opens the trees, highest first.
    pub fn open(trees: &[PathBuf]) -> io::Result<StackView> {
        Ok(StackView::new(trees.iter().map(|tree| RootDir::open(tree)).collect::<io::Result<_>>()?))
    }

    /// A view of trees that are open already, highest first.
    pub fn new(roots: Vec<RootDir>) -> StackView {
        StackView { roots, directories: Mutex::default() }
    }

    /// The highest tree that shows a path, with what it has there.
    fn highest(&self, path: &[u8]) -> io::Result<Option<(usize, Node)>> {
        Ok(self.layers(path, 1)?.into_iter().next())
    }

    /// The trees that show a path, highest first and so many at most, with what each has there.
    fn layers(&self, path: &[u8], most: usize) -> io::Result<Vec<(usize, Node)>> {
        let mut shown = Vec::new();
        let above = self.parents(path);
        let mut is_decided = false;
        for &number in &above.trees {
            is_decided = match look(&self.roots[number], path)? {
                Found::Nothing => false,
                Found::Hidden => true,
                Found::Node(node, opacity) => {
                    let merges = node.is_directory() && opacity == Opacity::Merged;
                    shown.push((number, node));
                    !merges || shown.len() == most
                }
            };
            if is_decided {
                break;
            }
        }
        if let Some((number, directory)) = above.unknown.as_ref().filter(|_| !is_decided) {
            look(&self.roots[*number], directory)?;
            return Err(io::Error::other("a tree changed while it was looked at"));
        }
        // A file below a directory is hidden by it.
        let directories = shown.iter().take_while(|(_, node)| node.is_directory()).count();
        shown.truncate(directories.max(1));
        Ok(shown)
    }

    /// The trees that can have something at a path. Each directory is looked for once, as there are many trees, and few of
    /// them have it.
    fn parents(&self, path: &[u8]) -> Arc<Seen> {
        let parts = tree::components(path);
        let mut seen = Arc::new(Seen { trees: (0..self.roots.len()).collect(), unknown: None });
        let mut prefix: Vec<u8> = Vec::new();
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            prefix = tree::join(&prefix, part);
            let known = self.directories().get(&prefix).cloned();
            seen = match known {
                Some(known) => known,
                None => {
                    let found = Arc::new(self.directories_in(&seen, &prefix));
                    let mut directories = self.directories();
                    if directories.len() >= MOST_DIRECTORIES {
                        directories.clear();
                    }
                    directories.insert(prefix.clone(), Arc::clone(&found));
                    found
                }
            };
        }
        seen
    }

    /// Those of some trees whose directory at a path is seen.
    fn directories_in(&self, above: &Seen, path: &[u8]) -> Seen {
        let mut found = Seen { trees: Vec::new(), unknown: None };
        for &number in &above.trees {
            match look(&self.roots[number], path) {
                Ok(Found::Nothing) => {}
                Ok(Found::Node(node, opacity)) if node.is_directory() => {
                    found.trees.push(number);
                    if opacity == Opacity::Opaque {
                        return found;
                    }
                }
                Ok(Found::Hidden | Found::Node(..)) => return found,
                Err(_) => {
                    found.unknown = Some((number, path.to_vec()));
                    return found;
                }
            }
        }
        found.unknown.clone_from(&above.unknown);
        found
    }

    fn directories(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Arc<Seen>>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look(root: &RootDir, path: &[u8]) -> io::Result<Found> {
    let fd = match root.open_without_links(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => fd,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Found::Nothing),
                // A link in the middle of the path: this tree has no such directory of its own.
                _ if error.raw_os_error() == Some(libc::ELOOP) => link_itself(root, path),
                _ => Err(error),
            };
        }
    };
    describe(&fd)
}

/// `RESOLVE_NO_SYMLINKS` refuses a link even as the last component when it is opened by path; look it up in its parent.
fn link_itself(root: &RootDir, path: &[u8]) -> io::Result<Found> {
    let parent = match root.open_without_links(tree::parent(path), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Ok(parent) => parent,
        Err(_) => return Ok(Found::Hidden),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    describe(&rustix::fs::openat(&parent, tree::base_name(path), flags, Mode::empty())?)
}

fn describe(fd: &OwnedFd) -> io::Result<Found> {
    let stat = rustix::fs::fstat(fd)?;
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File { size: u64::try_from(stat.st_size).unwrap_or(0), digest: None },
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes()),
        FileType::CharacterDevice if (major, minor) == (0, 0) => return Ok(Found::Hidden),
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Fifo => Kind::Fifo,
        _ => Kind::Socket,
    };
    let opaque = kind == Kind::Directory && attribute(fd, "user.overlay.opaque")?.is_some_and(|value| value == b"y");
    if matches!(kind, Kind::File { size: 0, .. }) && attribute(fd, "user.overlay.whiteout")?.is_some() {
        return Ok(Found::Hidden);
    }
    let carries = matches!(kind, Kind::File { .. } | Kind::Directory);
    let recorded =
        if carries { attribute(fd, owners::ATTRIBUTE)?.and_then(|value| Owner::parse(&value)) } else { None };
    let Owner { uid, gid } = recorded.unwrap_or(Owner { uid: stat.st_uid, gid: stat.st_gid });
    let node = Node {
        kind,
        mode: stat.st_mode & 0o7777,
        uid,
        gid,
        mtime: Time { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
        xattrs: std::collections::BTreeMap::new(),
        link_group: 0,
    };
    Ok(Found::Node(node, if opaque { Opacity::Opaque } else { Opacity::Merged }))
}

/// Reads an attribute of a file that is open with `O_PATH`, by way of `/proc/self/fd`.
fn attribute(fd: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    use std::os::fd::AsRawFd;
    let mut value = [0u8; 32];
    match rustix::fs::getxattr(format!("/proc/self/fd/{}", fd.as_raw_fd()), name, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP | rustix::io::Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl View for StackView {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        Ok(self.highest(path)?.map(|(_, node)| node))
    }

    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for (number, node) in self.layers(path, usize::MAX)? {
            if !node.is_directory() {
                break;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = self.roots[number].open_without_links(path, flags, Mode::empty())?;
            let mut buffer = Vec::with_capacity(32 << 10);
            let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(name.to_vec());
                }
            }
        }
        let mut visible = Vec::new();
        for name in names {
            if self.node(&tree::join(path, &name))?.is_some() {
                visible.push(name);
            }
        }
        Ok(visible)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        let Some((number, _)) = self.highest(path)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        Ok(Box::new(std::fs::File::from(self.roots[number].open_without_links(path, flags, Mode::empty())?)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn opaque(path: &std::path::Path) {
        rustix::fs::setxattr(path, c"user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    }

    #[test]
    fn higher_trees_hide_lower_ones_as_overlay_does() {
        let folder = tempfile::tempdir().unwrap();
        let (top, low) = (folder.path().join("top"), folder.path().join("low"));
        for directory in ["low/a", "low/b", "low/c", "top/a", "top/b"] {
            fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        for (file, text) in
            [("low/a/one", "low"), ("low/a/two", "low"), ("low/b/old", "low"), ("low/c/x", "low"), ("top/a/one", "top")]
        {
            fs::write(folder.path().join(file), text).unwrap();
        }
        opaque(&top.join("b"));
        std::os::unix::fs::symlink("a", top.join("c")).unwrap();
        let view = StackView::open(&[top, low]).unwrap();
        let read = |path: &str| {
            let mut text = String::new();
            view.open(path.as_bytes()).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!((read("a/one"), read("a/two")), ("top".to_owned(), "low".to_owned()));
        assert_eq!(view.node(b"b/old").unwrap(), None);
        assert_eq!(view.names(b"a").unwrap(), [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(view.node(b"c").unwrap().unwrap().kind, Kind::Symlink(b"a".to_vec()));
        assert_eq!(view.node(b"c/x").unwrap(), None);
        assert_eq!(view.names(b"").unwrap(), [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    }

    #[test]
    fn a_directory_that_cannot_be_looked_at_is_no_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        let view = StackView::open(&[folder.path().to_owned()]).unwrap();
        // No name may be that long. The first is asked for twice, as what is known of a directory is kept.
        let long = [b'a'; 300];
        for path in [&b"/x"[..], b"/x/y", b"/x"].map(|rest| [&long[..], rest].concat()) {
            assert_eq!(view.node(&path).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        }
        assert_eq!(view.node(b"b/x").unwrap(), None);
    }
}
