//! The mounts that a command asks for: opened while the host's paths are there, attached once the root is.
//!
//! A mount travels as a descriptor from the moment its source was resolved (`open_tree`) to the moment it is attached
//! (`move_mount`) to a target that was resolved within the image, also to a descriptor. No path is looked up twice, so
//! exchanging a directory for a link meanwhile changes nothing (CVE-2021-30465, CVE-2024-23651).

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use super::child::{Reason, SetUp, While, file_type, mount_log, write_file};
use super::copied;
use super::layers::Layers;
use super::order::{Bytes, OrderedKind, OrderedMount, Place};
use super::overlay::{Overlay, make_directory};
use super::spec::{Access, SocketOwner};
use super::start::StorageDriver;
use crate::owners::{ATTRIBUTE, Owner};
use crate::rootfs::RootDir;
use crate::sys::mount::set_attributes;
use crate::tree::{Last, resolve};

/// Not from here may anything gain power.
pub(super) const NO_SUID_DEV_EXEC: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Whether a mount point has to be a directory or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Directory,
    File,
}

/// A mount that is not attached yet.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) target: String,
    pub(super) shape: Shape,
    /// Whether the image has the target, so that it is no stub.
    pub(super) below: Below,
    /// Whether it is a directory in memory.
    is_memory: bool,
    mount: OwnedFd,
}

/// What the image has at a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    /// Something of its own.
    Image,
    /// Nothing; there is a stub or a place within another mount.
    Nothing,
}

/// Opens everything that is to be mounted, parents first.
pub(super) fn open_sources(setup: &mut SetUp) -> Result<(), Reason> {
    let mut mounts = std::mem::take(&mut setup.order.mounts);
    mounts.sort_by_key(|mount| crate::tree::components(mount.target.as_bytes()).len());
    for (number, mount) in mounts.into_iter().enumerate() {
        let OrderedMount { target, kind } = mount;
        if crate::tree::clean(target.as_bytes()).is_empty() {
            return Err(Reason(format!("{target:?}: nothing can be mounted over the root")));
        }
        let is_memory = matches!(kind, OrderedKind::Tmpfs { .. });
        let opened = open(setup, number, kind).doing(format!("{target:?}"))?;
        let shape = match file_type(opened.as_fd())? {
            FileType::Directory => Shape::Directory,
            _ => Shape::File,
        };
        setup.sources.push(Source { target, shape, below: Below::Image, is_memory, mount: opened });
    }
    Ok(())
}

fn open(setup: &mut SetUp, number: usize, kind: OrderedKind) -> Result<OwnedFd, Reason> {
    match kind {
        OrderedKind::Existing { place: Place::Passed(at), .. } => {
            let taken = setup.passed.get_mut(at).and_then(Option::take);
            taken.ok_or_else(|| Reason("main passed no such mount".to_owned()))
        }
        OrderedKind::Existing { place: Place::Beneath(path), access } => {
            make_directory(path.path())?;
            clone_within(&path, b"", access)
        }
        OrderedKind::Existing { place: Place::Host { root, source }, access } => clone_within(&root, &source.0, access),
        OrderedKind::Merged { lowers, source, access } => {
            let lowers = lowers.iter().map(|lower| lower.path().to_owned()).collect();
            open_merged(setup, number, lowers, &source.0, access)
        }
        OrderedKind::Device { path } => device(path.path()),
        OrderedKind::Tmpfs { size, mode } => {
            let size = size.map(|bytes| bytes.to_string());
            tmpfs(mode, size.as_deref(), NO_SUID_DEV_EXEC.difference(MountAttrFlags::MOUNT_ATTR_NOEXEC))
        }
        OrderedKind::Socket { path, owner } => {
            let SocketOwner { mode, uid, gid } = owner;
            rustix::fs::chmod(path.path(), Mode::from_raw_mode(mode))?;
            // With a single id there is nobody to give it to, and nobody else who connects.
            if setup.recorder.is_none() {
                rustix::fs::chown(path.path(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            let socket =
                rustix::fs::open(path.path(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            clone_mount(&socket, Access::ReadOnly)
        }
        OrderedKind::File { content, mode, uid, gid } => {
            let (scratch, name) = (&setup.begun()?.scratch, number.to_string());
            let file = write_file(scratch, &name, &content.0, mode)?;
            if setup.recorder.is_some() {
                record_owner(&file, Owner { uid, gid })?;
            } else {
                rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = open_tree(scratch, name.as_str(), flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)?;
            // A here-document that is run as a script has to be executable.
            let attributes = match mode & 0o111 {
                0 => NO_SUID_DEV_EXEC,
                _ => NO_SUID_DEV_EXEC.difference(MountAttrFlags::MOUNT_ATTR_NOEXEC),
            };
            set_attributes(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY | attributes)?;
            Ok(mount)
        }
    }
}

/// A copy of a device node, checked by descriptor to be one.
fn device(path: &std::path::Path) -> Result<OwnedFd, Reason> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags).doing(path.display())?;
    if !matches!(file_type(mount.as_fd())?, FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(Reason(format!("{} is no device", path.display())));
    }
    Ok(mount)
}

/// The command's root reads it whoever it belongs to, so a kernel that cannot say so (tmpfs has such attributes since
/// Linux 6.6) is no obstacle.
fn record_owner(file: &OwnedFd, owner: Owner) -> Result<(), Reason> {
    if owner == Owner::ROOT {
        return Ok(());
    }
    match rustix::fs::fsetxattr(file, ATTRIBUTE, owner.text().as_bytes(), XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => Ok(result?),
    }
}

/// A path of a stage's merged view: by an overlay, or of a copy where there is none.
fn open_merged(
    setup: &mut SetUp,
    number: usize,
    lowers: Vec<PathBuf>,
    source: &[u8],
    access: Access,
) -> Result<OwnedFd, Reason> {
    let storage = setup.order.storage;
    if storage != StorageDriver::Copy {
        match merge(setup, number, lowers.clone(), access) {
            Ok(merged) => {
                setup.shown.extend(lowers);
                let found = RootDir::from_fd(merged).open_at(source, OFlags::PATH, Mode::empty())?;
                return clone_mount(&found, access);
            }
            Err(reason) if storage == StorageDriver::Overlay => return Err(reason),
            // The root will say why, if it is refused there too.
            Err(_) => {}
        }
    }
    let space = setup.order.work.path().join(format!("copied-{number}"));
    make_directory(&space)?;
    let copy = space.join("root");
    let resolved = resolve(&Layers::new(lowers.clone()), source, Last::Follow)?;
    copied::copy_part(&lowers, &resolved.path, &copy)?;
    let found = rustix::fs::open(&copy, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    setup.shown.push(copy);
    clone_mount(&found, access)
}

/// A stage's merged view, mounted in this run's scratch space.
fn merge(setup: &SetUp, number: usize, mut lowers: Vec<PathBuf>, access: Access) -> Result<OwnedFd, Reason> {
    let name = format!("merged-{number}");
    // In the work directory, where the overlay of the root uses one name, `work`.
    let space = setup.order.work.path().join(&name);
    let writable = match access {
        Access::ReadOnly => None,
        Access::ReadWrite => {
            let (upper, work) = (space.join("upper"), space.join("work"));
            make_directory(&upper)?;
            make_directory(&work)?;
            Some((upper, work))
        }
    };
    // An overlay that cannot be written to has two layers at least, any other one.
    let least = if writable.is_some() { 1 } else { 2 };
    for name in ["empty-1", "empty-2"].into_iter().take(least - lowers.len().min(least)) {
        make_directory(&space.join(name))?;
        lowers.push(space.join(name));
    }
    Overlay { lowers, writable }.mount_in(&setup.begun()?.scratch, &name)
}

fn clone_within(root: &Bytes, source: &[u8], access: Access) -> Result<OwnedFd, Reason> {
    let found = RootDir::open(root.path())
        .and_then(|root| root.open_at(source, OFlags::PATH, Mode::empty()))
        .doing(format!("{} in {}", String::from_utf8_lossy(source), root.path().display()))?;
    clone_mount(&found, access)
}

/// A detached copy of the mount at a place, with what is mounted below it (a copy without that is refused in a less
/// privileged namespace: it would show what the mounts hide).
pub(super) fn clone_mount(place: impl AsFd, access: Access) -> Result<OwnedFd, Reason> {
    let mount = clone_tree(place)?;
    let read_only = match access {
        Access::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Access::ReadWrite => MountAttrFlags::empty(),
    };
    set_attributes(&mount, MountAttrFlags::MOUNT_ATTR_NODEV | read_only)?;
    Ok(mount)
}

/// A detached copy of the mounts at a place and below, with their attributes.
pub(super) fn clone_tree(place: impl AsFd) -> Result<OwnedFd, Reason> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(place, "", flags)?)
}

/// A new file system, not attached.
pub(super) fn new_mount(name: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Reason> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).doing(format!("fsopen {name}"))?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).doing(format!("{name}: {key}={value}"))?;
    }
    fsconfig_create(&context).map_err(|error| Reason(format!("{name}: {error}{}", mount_log(&context))))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(format!("fsmount {name}"))
}

pub(super) fn tmpfs(mode: u32, size: Option<&str>, attributes: MountAttrFlags) -> Result<OwnedFd, Reason> {
    let mode = format!("{mode:o}");
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.map(|size| ("size", size)));
    new_mount("tmpfs", &options, attributes)
}

/// Attaches the user's mounts.
pub(super) fn attach_all(setup: &mut SetUp) -> Result<(), Reason> {
    for Source { target, shape, below, is_memory, mount } in std::mem::take(&mut setup.sources) {
        let root = setup.root()?;
        let (place, origin) = mount_point(root, &target, shape).doing(format!("mount point {target:?}"))?;
        let is_stub = below == Below::Nothing && mount_id(&place)? == mount_id(root)?;
        if is_memory && origin == Origin::Found && !is_stub {
            take_mode(&mount, &place).doing(format!("{target:?}"))?;
        }
        attach(&mount, &place).map_err(|error| match (shape, file_type(place.as_fd())) {
            (Shape::Directory, Ok(kind)) if kind != FileType::Directory => {
                Reason(format!("{target:?} is no directory in the image, but what is mounted there is one"))
            }
            (Shape::File, Ok(FileType::Directory)) => {
                Reason(format!("{target:?} is a directory in the image, but what is mounted there is none"))
            }
            _ => Reason(format!("{target:?}: {}", error.0)),
        })?;
    }
    Ok(())
}

pub(super) fn attach(mount: &OwnedFd, place: impl AsFd) -> Result<(), Reason> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

/// A directory in memory has the mode of the one that it hides, as with runc.
fn take_mode(mount: &OwnedFd, place: &OwnedFd) -> Result<(), Reason> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(place)?.st_mode & 0o7777);
    Ok(rustix::fs::chmodat(mount, ".", mode, rustix::fs::AtFlags::empty())?)
}

/// Where a mount point comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was there.
    Found,
    /// It was made within another mount.
    Made,
}

/// Resolves a target within the root. Where it is missing it lies within another mount of this command (the stubs have
/// the rest), and is made there.
fn mount_point(root: &RootDir, target: &str, shape: Shape) -> Result<(OwnedFd, Origin), Reason> {
    let (place, origin) = match root.open_at(target.as_bytes(), OFlags::PATH, Mode::empty()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (make_within_mount(root, target, shape)?, Origin::Made)
        }
        other => (other?, Origin::Found),
    };
    let kernel = [rustix::fs::PROC_SUPER_MAGIC, SYSFS_MAGIC];
    if kernel.contains(&rustix::fs::fstatfs(&place)?.f_type) {
        // It could lie over what is masked, or make what rbuild itself reads there something else.
        return Err(Reason("nothing can be mounted over /proc and /sys".to_owned()));
    }
    Ok((place, origin))
}

/// `linux/magic.h`.
const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;

fn make_within_mount(root: &RootDir, target: &str, shape: Shape) -> Result<OwnedFd, Reason> {
    let components = crate::tree::components(target.as_bytes());
    let mut at = root.open_at(b"", OFlags::PATH, Mode::empty())?;
    let mut walked: Vec<u8> = Vec::new();
    for (number, component) in components.iter().enumerate() {
        walked = crate::tree::join(&walked, component);
        at = match root.open_at(&walked, OFlags::PATH, Mode::empty()) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if mount_id(&at)? == mount_id(root)? {
                    return Err(Reason("it is missing in the image".to_owned()));
                }
                let last = number + 1 == components.len();
                make_entry(&at, component, if last { shape } else { Shape::Directory })?;
                RootDir::from_fd(at).open_without_links(component, OFlags::PATH, Mode::empty())?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(at)
}

fn make_entry(directory: &OwnedFd, name: &[u8], shape: Shape) -> Result<(), Reason> {
    match shape {
        Shape::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))?,
        Shape::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)?;
        }
    }
    Ok(())
}

fn mount_id(place: impl AsFd) -> Result<u64, Reason> {
    let found = rustix::fs::statx(place, "", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}
