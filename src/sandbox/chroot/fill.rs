//! What would be mounted, copied into the root instead.
//!
//! Every place that was filled is written down by path and inode ([`Filled`]): nothing of it gets into a layer, wherever
//! the command moves it, and what was in a cache is taken back from there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;

use crate::rootfs::{self, RootDir};
use crate::sandbox::child::{Reason, SetUp, While, file_type, write_file};
use crate::sandbox::copied::{self, Filled, PartKind};
use crate::sandbox::layers::Layers;
use crate::sandbox::mounts::Shape;
use crate::sandbox::order::{Bytes, OrderedKind, OrderedMount, Place};
use crate::sandbox::overlay::as_path;
use crate::sandbox::spec::Access;
use crate::sandbox::standard::{DEVICES, LINKS};
use crate::tree::{self, Last, resolve};

/// Decides what each mount point has to be, parents first.
pub(super) fn plan(setup: &mut SetUp) -> Result<(), Reason> {
    setup.order.mounts.sort_by_key(|mount| tree::components(mount.target.as_bytes()).len());
    for OrderedMount { target, kind } in &setup.order.mounts {
        if tree::clean(target.as_bytes()).is_empty() {
            return Err(Reason(format!("{target:?}: nothing can be mounted over the root")));
        }
        let shape = match kind {
            OrderedKind::File { .. } => Shape::File,
            OrderedKind::Tmpfs { .. } | OrderedKind::Existing { place: Place::Beneath(_), .. } => Shape::Directory,
            OrderedKind::Device { .. } => {
                return Err(Reason(format!("{target:?}: a device of the host cannot be given to a chroot")));
            }
            OrderedKind::Existing { .. } | OrderedKind::Socket { .. } => {
                return Err(Reason(format!("{target:?}: a socket of the host cannot be reached from a chroot")));
            }
            OrderedKind::Merged { lowers, source, .. } => match part(lowers, source).doing(target)?.2 {
                PartKind::Directory => Shape::Directory,
                PartKind::Other => Shape::File,
            },
        };
        setup.points.push((target.clone(), shape));
    }
    Ok(())
}

/// Trees, a path in them that leads through no link, and what is there.
fn part(lowers: &[Bytes], source: &Bytes) -> Result<(Vec<PathBuf>, Vec<u8>, PartKind), Reason> {
    let lowers: Vec<PathBuf> = lowers.iter().map(|lower| lower.path().to_owned()).collect();
    let path = resolve(&Layers::new(lowers.clone()), &source.0, Last::Follow)?.path;
    let kind = copied::part_kind(&lowers, &path)?;
    Ok((lowers, path, kind))
}

/// As much of `/dev` as this place allows.
pub(super) fn make_devices(setup: &mut SetUp) -> Result<(), Reason> {
    let root = setup.root()?;
    let dev = root.open_without_links(b"dev", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    for name in rootfs::names(&dev)? {
        rootfs::remove_all(&dev, &name)?;
    }
    for (name, major, minor) in DEVICES {
        make_device(&dev, name, makedev(*major, *minor)).doing(name)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(*target, &dev, *name).doing(name)?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o700)).doing(name)?;
        rustix::fs::chmodat(&dev, name, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty()).doing(name)?;
    }
    let mut filled = Vec::new();
    for name in ["dev", "proc", "sys"] {
        filled.push(Filled::at(root, name.as_bytes(), None)?);
    }
    setup.filled.extend(filled);
    Ok(())
}

/// A node that can be used, or nothing; for the null device at least a file, as every script writes to it.
fn make_device(dev: &OwnedFd, name: &str, device: u64) -> Result<(), Reason> {
    let mode = Mode::from_raw_mode(0o666);
    match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device) {
        Ok(()) => {
            rustix::fs::chmodat(dev, name, mode, rustix::fs::AtFlags::empty())?;
            // A mount with `nodev`, or a device that the container may not use; a terminal is nobody's here.
            match rustix::fs::openat(dev, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Err(Errno::ACCESS | Errno::PERM) => rustix::fs::unlinkat(dev, name, rustix::fs::AtFlags::empty())?,
                _ => return Ok(()),
            }
        }
        Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if name == "null" {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dev, name, flags, mode)?;
        rustix::fs::fchmod(&file, mode)?;
    }
    Ok(())
}

/// Copies what the command asks for to where it asks for it.
pub(super) fn fill(setup: &mut SetUp) -> Result<(), Reason> {
    for OrderedMount { target, kind } in std::mem::take(&mut setup.order.mounts) {
        fill_one(setup, &target, kind).doing(format!("{target:?}"))?;
    }
    Ok(())
}

fn fill_one(setup: &mut SetUp, target: &str, kind: OrderedKind) -> Result<(), Reason> {
    let root = setup.root()?;
    // Links were followed within the root; what is there already is a mount point, or lies in an earlier copy.
    let path = match root.open_at(target.as_bytes(), OFlags::PATH, Mode::empty()) {
        Ok(found) => inside(root, &found)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_parents(root, target.as_bytes())?,
        Err(error) => return Err(error.into()),
    };
    if [&b"proc"[..], b"sys"].contains(&tree::components(&path).first().map_or(&b""[..], Vec::as_slice)) {
        return Err(Reason("nothing can be mounted over /proc and /sys".to_owned()));
    }
    let (parent, name) = (tree::parent(&path), tree::base_name(&path));
    let directory = root.open_without_links(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let times = copied::times_of(&directory)?;
    check_shape(&directory, name, &kind)?;
    let hidden = mode_in_image(setup, &directory, &path)?;
    rootfs::remove_all(&directory, name)?;
    let place = setup.changes.join(as_path(&path));
    let cache = match kind {
        OrderedKind::File { content, mode, uid, gid } => {
            let file = write_file(&directory, as_path(name), &content.0, mode)?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            None
        }
        OrderedKind::Tmpfs { mode, .. } => {
            rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o700))?;
            rustix::fs::chmodat(
                &directory,
                name,
                Mode::from_raw_mode(hidden.unwrap_or(mode)),
                rustix::fs::AtFlags::empty(),
            )?;
            None
        }
        OrderedKind::Merged { lowers, source, .. } => {
            let (lowers, source, _) = part(&lowers, &source)?;
            copied::copy_part(&lowers, &source, &place)?;
            None
        }
        OrderedKind::Existing { place: Place::Beneath(cache), access } => {
            crate::sandbox::overlay::make_directory(cache.path())?;
            copied::copy_part(&[cache.path().to_owned()], b"", &place)?;
            (access == Access::ReadWrite).then(|| cache.path().to_owned())
        }
        // Refused when it was looked at.
        OrderedKind::Existing { .. } | OrderedKind::Socket { .. } | OrderedKind::Device { .. } => None,
    };
    rustix::fs::futimens(&directory, &times)?;
    let filled = Filled::at(root, &path, cache)?;
    setup.filled.push(filled);
    Ok(())
}

/// The mode of what the image has at a path, which is no stub: a directory in memory takes it over, as with runc.
fn mode_in_image(setup: &SetUp, directory: &OwnedFd, path: &[u8]) -> Result<Option<u32>, Reason> {
    let of_image = setup.entries.get(path).is_some_and(|tree| *tree < setup.order.lowers.len());
    if !of_image {
        return Ok(None);
    }
    let found = rustix::fs::statat(directory, tree::base_name(path), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Some(found.st_mode & 0o7777))
}

/// A file does not take a directory's place, nor a directory a file's, as in a mount.
fn check_shape(directory: &OwnedFd, name: &[u8], kind: &OrderedKind) -> Result<(), Reason> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(found) = rustix::fs::openat(directory, name, flags, Mode::empty()) else { return Ok(()) };
    let is_directory = file_type(found.as_fd())? == FileType::Directory;
    match kind {
        OrderedKind::File { .. } if is_directory => {
            Err(Reason("it is a directory in the image, but what is mounted there is none".to_owned()))
        }
        OrderedKind::Tmpfs { .. } | OrderedKind::Existing { .. } if !is_directory => {
            Err(Reason("it is no directory in the image, but what is mounted there is one".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Where in the root something that was opened in it is.
fn inside(root: &RootDir, found: &OwnedFd) -> Result<Vec<u8>, Reason> {
    let name = |descriptor: i32| rustix::fs::readlink(format!("/proc/self/fd/{descriptor}"), Vec::new());
    let (root, found) = (name(root.as_fd().as_raw_fd())?, name(found.as_raw_fd())?);
    let outside = || Reason("it is not in the image's root".to_owned());
    Ok(tree::clean(found.to_bytes().strip_prefix(root.to_bytes()).ok_or_else(outside)?))
}

/// Makes the directories on the way to a mount point within an earlier mount.
fn make_parents(root: &RootDir, target: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut walked: Vec<u8> = Vec::new();
    for component in tree::components(tree::parent(&tree::clean(target))) {
        let next = tree::join(&walked, &component);
        walked = match root.open_at(&next, OFlags::PATH, Mode::empty()) {
            Ok(found) => inside(root, &found)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let at = root.open_without_links(&walked, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                rustix::fs::mkdirat(&at, component.as_slice(), Mode::from_raw_mode(0o755))?;
                next
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(tree::join(&walked, tree::base_name(&tree::clean(target))))
}
