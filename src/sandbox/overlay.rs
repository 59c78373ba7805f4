//! Merged views of trees: overlay mounts.
//!
//! Always with `userxattr` (without it, opaque directories fail in a user namespace with EIO) and `index=off` (hard
//! links break at copy-up, as in Docker). Names are relative to the base directory, so that the command finds no path
//! of the host in its mount table.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::child::{Reason, SetUp, While, mount_log};
use super::copied;
use super::mounts::clone_tree;
use super::order::Bytes;
use super::start::StorageDriver;
use super::wire::Reply;
use crate::rootfs::RootDir;

/// What to merge.
pub(super) struct Overlay {
    /// Top first.
    pub(super) lowers: Vec<PathBuf>,
    /// Upper and work directory, if changes are allowed.
    pub(super) writable: Option<(PathBuf, PathBuf)>,
}

/// Mounts the image's root, the stubs, if there are any, at its very bottom: by an overlay, or a copy where there is none.
pub(super) fn mount_root(setup: &mut SetUp) -> Result<(), Reason> {
    let order = &setup.order;
    let (upper, work) = (order.upper.path(), order.work.path());
    make_upper(upper, order.lowers.first().map(Bytes::path))?;
    make_directory(work)?;
    let lowers: Vec<PathBuf> =
        order.lowers.iter().map(|lower| lower.path().to_owned()).chain(setup.stubs.clone()).collect();
    let refused = match order.storage {
        StorageDriver::Copy => None,
        StorageDriver::Auto | StorageDriver::Overlay => {
            let overlay = Overlay { lowers: lowers.clone(), writable: Some((upper.to_owned(), work.to_owned())) };
            match overlay.mount_in(&setup.begun()?.scratch, "root") {
                Ok(mounted) => {
                    setup.root = Some(RootDir::from_fd(mounted));
                    setup.shown.extend(lowers);
                    return Ok(());
                }
                Err(reason) if order.storage == StorageDriver::Overlay => return Err(reason),
                Err(reason) => Some(reason.0),
            }
        }
    };
    let root = copied::make_root(&lowers, work).map_err(|reason| match &refused {
        Some(refused) => Reason(format!("{} (a copy, as overlay is refused: {refused})", reason.0)),
        None => reason,
    })?;
    setup.root = Some(RootDir::from_fd(mount_copy(&setup.begun()?.scratch, "copied-root", &root)?));
    setup.shown.push(root.clone());
    setup.changes = root;
    setup.report(&Reply::Copied(refused))
}

/// Mounts a copied directory on a new one in the scratch directory, as a root has to be a mount of its own.
pub(super) fn mount_copy(scratch: &OwnedFd, name: &str, copy: &Path) -> Result<OwnedFd, Reason> {
    let found = rustix::fs::open(copy, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mounted = clone_tree(&found).doing(copy.display())?;
    rustix::fs::mkdirat(scratch, name, Mode::from_raw_mode(0o700)).doing(name)?;
    move_mount(&mounted, "", scratch, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(name)?;
    Ok(mounted)
}

/// The root directory of the merged view has the attributes of the upper one, so that one takes over the image's.
pub(super) fn make_upper(upper: &Path, top: Option<&Path>) -> Result<(), Reason> {
    if upper.is_dir() {
        return Ok(());
    }
    make_directory(upper)?;
    let Some(top) = top else { return Ok(()) };
    let like = std::fs::metadata(top).doing(top.display())?;
    std::os::unix::fs::chown(upper, Some(like.uid()), Some(like.gid())).doing(upper.display())?;
    std::fs::set_permissions(upper, PermissionsExt::from_mode(like.mode() & 0o7777)).doing(upper.display())?;
    let modified = rustix::fs::Timespec { tv_sec: like.mtime(), tv_nsec: like.mtime_nsec() };
    let times = rustix::fs::Timestamps { last_access: modified, last_modification: modified };
    rustix::fs::utimensat(CWD, upper, &times, AtFlags::empty()).doing(upper.display())
}

pub(super) fn make_directory(path: &Path) -> Result<(), Reason> {
    std::fs::create_dir_all(path).doing(format!("make {}", path.display()))
}

impl Overlay {
    /// Mounts it on a new directory in the scratch directory and gives its root.
    pub(super) fn mount_in(&self, scratch: &OwnedFd, name: &str) -> Result<OwnedFd, Reason> {
        rustix::fs::mkdirat(scratch, name, Mode::from_raw_mode(0o700)).doing(name)?;
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).doing("fsopen overlay")?;
        fsconfig_set_string(&context, "source", "overlay").doing("source")?;
        for (number, lower) in self.lowers.iter().enumerate() {
            match fsconfig_set_string(&context, "lowerdir+", lower.as_path()) {
                // Before Linux 6.8 there is no such option, and the one there is takes 256 bytes for all of them.
                Err(Errno::INVAL) if number == 0 => return self.mount_classically(scratch, name),
                result => result.doing(format!("layer {}", lower.display()))?,
            }
        }
        if let Some((upper, work)) = &self.writable {
            go_on(work)?;
            for (option, path) in [("upperdir", upper), ("workdir", work)] {
                // The kernel's log says which file system it does not take, the error does not.
                fsconfig_set_string(&context, option, path.as_path())
                    .map_err(|error| Reason(format!("overlay: {option}: {error}{}", mount_log(&context))))?;
            }
            // What is upper becomes durable as a layer's archive, or is thrown away; without this option the end of
            // every command waits for a sync of the whole file system. Linux before 5.10 does not know it: slower.
            match fsconfig_set_flag(&context, "volatile") {
                Err(Errno::INVAL) | Ok(()) => {}
                Err(error) => return Err(error).doing("volatile"),
            }
        }
        fsconfig_set_flag(&context, "userxattr").doing("userxattr")?;
        fsconfig_set_string(&context, "index", "off").doing("index=off")?;
        fsconfig_create(&context).map_err(|error| Reason(format!("overlay: {error}{}", mount_log(&context))))?;
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).doing("fsmount")?;
        move_mount(&mounted, "", scratch, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(name)?;
        Ok(mounted)
    }

    /// As `mount_in`, by mount(2), whose options are limited to a page: layers are named by descriptor to fit.
    fn mount_classically(&self, scratch: &OwnedFd, name: &str) -> Result<OwnedFd, Reason> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).doing(path.display())
        };
        let by_number = |descriptor: &OwnedFd| format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let lowers = self.lowers.iter().map(|lower| open(lower)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = lowers.iter().map(by_number).collect();
        let mut options = format!("lowerdir={},userxattr,index=off", names.join(":"));
        let upper = self.writable.as_ref().map(|(upper, work)| Ok::<_, Reason>((open(upper)?, open(work)?)));
        let upper = upper.transpose()?;
        if let Some((_, work)) = &self.writable {
            go_on(work)?;
        }
        if let Some((upper, work)) = &upper {
            options.push_str(&format!(",upperdir={},workdir={},volatile", by_number(upper), by_number(work)));
        }
        let options = std::ffi::CString::new(options)?;
        let target = Path::new(&by_number(scratch)).join(name);
        let mount = rustix::mount::mount("overlay", &target, "overlay", MountFlags::empty(), Some(options.as_c_str()));
        mount.doing("overlay by mount(2)")?;
        open(&target)
    }
}

/// Lets an overlay go on where an earlier one ended. A volatile one leaves a mark that keeps it from being mounted again,
/// as what it wrote may be lost with the machine (`overlayfs.rst`, "Volatile mount"); the machine is still the same.
fn go_on(work: &Path) -> Result<(), Reason> {
    let mark = work.join("work/incompat/volatile");
    match std::fs::remove_dir_all(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing(mark.display()),
        _ => Ok(()),
    }
}

/// The path of a name in an image, which is bytes.
pub(super) fn as_path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}
