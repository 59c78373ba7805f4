//! What every command finds mounted: `/proc`, `/sys`, `/dev`, and what of them is masked.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::child::{Reason, SetUp, While, file_type};
use super::mounts::{NO_SUID_DEV_EXEC, attach, clone_tree, new_mount, tmpfs};
use super::spec::{Network, Security};
use crate::rootfs::RootDir;
use crate::sys::mount::set_attributes;

const READ_ONLY: MountAttrFlags = NO_SUID_DEV_EXEC.union(MountAttrFlags::MOUNT_ATTR_RDONLY);

/// What `/dev` and its terminals are mounted with: device nodes are not to be kept from working.
const DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Device nodes that are shown, with the numbers that they must have.
pub(super) const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

pub(super) const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Docker's list: they tell of other processes, of keys, or let one measure the machine.
const MASKED: &[&str] = &[
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

/// Docker's list: settings of the kernel.
const PROTECTED: &[&str] = &["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

pub(super) fn refuse_links(setup: &mut SetUp) -> Result<(), Reason> {
    for name in ["proc", "sys", "dev"] {
        let place = setup.root()?.open_without_links(name.as_bytes(), OFlags::PATH, Mode::empty()).doing(name)?;
        match file_type(place.as_fd())? {
            FileType::Directory => {}
            FileType::Symlink => return Err(Reason(format!("the image has /{name} as a symbolic link"))),
            _ => return Err(Reason(format!("the image has /{name} as something that is no directory"))),
        }
    }
    Ok(())
}

fn place(root: &RootDir, path: &str) -> Result<OwnedFd, Reason> {
    Ok(root.open_without_links(path.as_bytes(), OFlags::PATH, Mode::empty())?)
}

/// Before there is an order.
pub(super) fn make_proc() -> Result<OwnedFd, Reason> {
    match new_mount("proc", &[], NO_SUID_DEV_EXEC) {
        Ok(mount) => Ok(mount),
        // In a container whose own /proc is masked no new one may be mounted, as it would show what the masks hide.
        // The outer one serves, masks and all: the pid namespace is kept, and the user namespace is the wall. Read-only,
        // because with one id the processes outside belong to the command's user, and files like oom_score_adj ask for
        // no more than that.
        Err(_) => {
            let mount = clone_host("/proc")?;
            set_attributes(&mount, READ_ONLY)?;
            Ok(mount)
        }
    }
}

pub(super) fn mount_proc(setup: &mut SetUp) -> Result<(), Reason> {
    attach(&setup.begun()?.proc, place(setup.root()?, "proc")?)
}

pub(super) fn mount_sys(setup: &mut SetUp) -> Result<(), Reason> {
    let root = setup.root()?;
    let mount = match &setup.order.network {
        // A new sysfs shows the interfaces of the network namespace it is mounted in, so one's own is needed.
        Network::None | Network::Private(_) => new_mount("sysfs", &[], READ_ONLY).or_else(|_| clone_sys()),
        Network::Host => clone_sys(),
    }?;
    attach(&mount, place(root, "sys")?)?;
    let Ok(cgroup) = place(root, "sys/fs/cgroup") else { return Ok(()) };
    // Of its own cgroup namespace, or nothing: the host's groups tell what else runs here.
    let mount = match new_mount("cgroup2", &[], READ_ONLY) {
        Ok(mount) => mount,
        Err(_) => tmpfs(0o555, None, READ_ONLY)?,
    };
    attach(&mount, &cgroup)
}

fn clone_sys() -> Result<OwnedFd, Reason> {
    let mount = clone_host("/sys")?;
    set_attributes(&mount, READ_ONLY)?;
    Ok(mount)
}

/// A copy of what the host has mounted at a path of its own.
fn clone_host(path: &str) -> Result<OwnedFd, Reason> {
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).doing(path)?;
    clone_tree(&found).doing(path)
}

/// Before there is an order, on a new directory in the scratch directory: nothing can be mounted on what is not attached.
pub(super) fn make_dev(scratch: &OwnedFd, one_id: bool) -> Result<OwnedFd, Reason> {
    let dev = tmpfs(0o755, Some("65536k"), DEV)?;
    rustix::fs::mkdirat(scratch, "dev", Mode::from_raw_mode(0o700))?;
    move_mount(&dev, "", scratch, "dev", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for (name, ..) in DEVICES {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&dev, *name, flags, Mode::from_raw_mode(0o666)).map(drop).doing(name)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(*target, &dev, *name).doing(name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).doing(name)?;
    }
    for (name, major, minor) in DEVICES {
        mount_in_dev(&dev, name, &device(name, *major, *minor)?)?;
    }
    // Group 5 is `tty` everywhere, but where only one id exists it does not.
    let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts = if one_id { &pts[..2] } else { &pts[..] };
    // Each devpts is an instance of its own since Linux 4.7.
    mount_in_dev(&dev, "pts", &new_mount("devpts", pts, DEV)?)?;
    mount_in_dev(&dev, "mqueue", &new_mount("mqueue", &[], NO_SUID_DEV_EXEC)?)?;
    Ok(dev)
}

pub(super) fn mount_dev(setup: &mut SetUp) -> Result<(), Reason> {
    let dev = &setup.begun()?.dev;
    // With all that is mounted on it.
    attach(dev, place(setup.root()?, "dev")?)?;
    let shm_size = setup.order.shm_size.to_string();
    mount_in_dev(dev, "shm", &tmpfs(0o1777, Some(&shm_size), NO_SUID_DEV_EXEC)?)
}

fn mount_in_dev(dev: &OwnedFd, name: &str, mount: &OwnedFd) -> Result<(), Reason> {
    move_mount(mount, "", dev, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(name)
}

/// A copy of the host's device node, which is checked by descriptor to be that device (CVE-2025-31133).
fn device(name: &str, major: u32, minor: u32) -> Result<OwnedFd, Reason> {
    let path = Path::new("/dev").join(name);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let mount = open_tree(CWD, &path, flags).doing(path.display())?;
    let found = rustix::fs::fstat(&mount)?;
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    if !is_device || found.st_rdev != makedev(major, minor) {
        return Err(Reason(format!("the host's {} is not the device {major}:{minor}", path.display())));
    }
    Ok(mount)
}

pub(super) fn mask(setup: &mut SetUp) -> Result<(), Reason> {
    if setup.order.security == Security::Insecure {
        return Ok(());
    }
    let root = setup.root()?;
    let mut nothing = None;
    for path in MASKED {
        mask_one(root, path, &mut nothing).doing(path)?;
    }
    // One per processor, and only where the hardware has it.
    for number in 0_u32.. {
        let processor = format!("sys/devices/system/cpu/cpu{number}");
        if !exists(root, &processor)? {
            break;
        }
        mask_one(root, &format!("{processor}/thermal_throttle"), &mut nothing)?;
    }
    Ok(())
}

fn exists(root: &RootDir, path: &str) -> Result<bool, Reason> {
    match root.open_without_links(path.as_bytes(), OFlags::PATH, Mode::empty()) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An empty file or directory over what is there; nothing where nothing is. The empty directory is made once: another file
/// system costs more than another mount of it.
fn mask_one(root: &RootDir, path: &str, nothing: &mut Option<OwnedFd>) -> Result<(), Reason> {
    let place = match root.open_without_links(path.as_bytes(), OFlags::PATH, Mode::empty()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if file_type(place.as_fd())? != FileType::Directory {
        return attach(&device("null", 1, 3)?, &place);
    }
    match nothing {
        Some(first) => attach(&clone_tree(first)?, &place),
        // Attached first, as Linux before 6.15 clones nothing from a detached mount.
        None => attach(nothing.insert(tmpfs(0o555, None, READ_ONLY)?), &place),
    }
}

pub(super) fn protect(setup: &mut SetUp) -> Result<(), Reason> {
    if setup.order.security == Security::Insecure {
        return Ok(());
    }
    let root = setup.root()?;
    for path in PROTECTED {
        if !exists(root, path)? {
            continue;
        }
        let place = place(root, path)?;
        let mount = clone_tree(&place).doing(path)?;
        set_attributes(&mount, READ_ONLY).doing(path)?;
        attach(&mount, &place).doing(path)?;
    }
    Ok(())
}
