//! `mount_setattr`, which rustix lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::mount::MountAttrFlags;

use super::checked;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets attributes of a mount that was opened (or cloned), and of all mounts below it.
pub fn set_attributes(mount: impl AsFd, attributes: MountAttrFlags) -> io::Result<()> {
    apply(
        mount.as_fd(),
        &MountAttributes { set: attributes.bits().into(), clear: 0, propagation: 0, user_namespace: 0 },
    )
}

/// Makes a detached mount show its owners as the given user namespace would name them (an id-mapped mount).
pub fn map_owners(mount: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    let user_namespace = u64::try_from(user_namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let set = MountAttrFlags::MOUNT_ATTR_IDMAP.bits().into();
    apply(mount.as_fd(), &MountAttributes { set, clear: 0, propagation: 0, user_namespace })
}

fn apply(mount: BorrowedFd<'_>, attributes: &MountAttributes) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a constant C string, `attributes` is a live `mount_attr` and its size is passed.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}
