//! What else a place has or lacks for RUN: things that some Dockerfiles need, and whose absence keeps nobody from building.

use std::fs;
use std::path::Path;

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use super::probe::Finding;
use crate::sys::privileges::landlock_version;

/// Tries them all.
pub(super) fn look() -> Vec<Finding> {
    vec![landlock(), tunnel(), foreign_programs(), control_groups()]
}

fn bad(subject: &'static str, obstacle: impl Into<String>, remedy: &str) -> Finding {
    Finding { subject, obstacle: Some(obstacle.into()), remedy: Some(remedy.to_owned()) }
}

fn landlock() -> Finding {
    const NEWER: &str = "use Linux 6.12 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in its lsm= list";
    match landlock_version() {
        Ok(6..) => Finding::good("Landlock"),
        Ok(version) => bad(
            "Landlock",
            format!("version {version} cannot close abstract sockets of the host's network to RUN"),
            NEWER,
        ),
        Err(error) => bad("Landlock", format!("the kernel does not offer it ({error})"), NEWER),
    }
}

/// For a network of its own that reaches outside, by pasta or slirp4netns.
fn tunnel() -> Finding {
    const PATH: &str = "/dev/net/tun";
    match rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Finding::good("tun device"),
        Err(error) => bad(
            "tun device",
            format!("no private network: {PATH}: {}", std::io::Error::from(error)),
            "RUN takes the host's network, or none with --network=none; for one of its own give the container \
             --device /dev/net/tun (on a host: modprobe tun)",
        ),
    }
}

/// Other architectures' programs are started by an emulator that the kernel was told of.
fn foreign_programs() -> Finding {
    let registered = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    let is_emulator = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        // `F`: opened when it was registered, so that it need not be in the image.
        text.starts_with("enabled")
            && text.contains("qemu")
            && text.lines().any(|line| line.starts_with("flags:") && line.contains('F'))
    };
    if registered.into_iter().any(is_emulator) {
        return Finding::good("programs of other architectures");
    }
    bad(
        "programs of other architectures",
        "binfmt_misc has no emulator that works in a container",
        "RUN for another --platform needs one; on the host: apt-get install qemu-user-static binfmt-support",
    )
}

/// Whether this user may make control groups below the own one.
fn control_groups() -> Finding {
    const SUBJECT: &str = "control groups";
    const REMEDY: &str = "limits for RUN need delegation: systemd-run --user --scope -p Delegate=yes rbuild …";
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return bad(SUBJECT, "there is no unified hierarchy (cgroup v2)", REMEDY);
    };
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let Some(root) = roots.iter().find(|root| Path::new(root).join("cgroup.controllers").is_file()) else {
        return bad(SUBJECT, "the unified hierarchy is not mounted at /sys/fs/cgroup", REMEDY);
    };
    let directory = format!("{root}{own}");
    match rustix::fs::access(directory.as_str(), Access::WRITE_OK) {
        Ok(()) => Finding::good(SUBJECT),
        Err(Errno::ROFS) => bad(SUBJECT, "they are mounted read-only, as in most containers", REMEDY),
        Err(error) => bad(SUBJECT, format!("{directory}: {}", std::io::Error::from(error)), REMEDY),
    }
}

/// `linux/magic.h`: file systems that cannot be an overlay's upper directory.
const REFUSED: &[(u64, &str)] = &[
    (0x794c_7630, "an overlay, as a container's own file system is"),
    (0x6969, "NFS"),
    (0x6573_5546, "FUSE"),
    (0x4d44, "vfat"),
    (0xff53_4d42, "CIFS"),
];

/// For a store on a file system that overlay does not take.
pub(super) fn remedy_for_overlay(store: &str) -> String {
    let existing = Path::new(store).ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let kind = rustix::fs::statfs(existing).map(|found| found.f_type as u64 & 0xffff_ffff).unwrap_or_default();
    let copies = "roots of RUN are copied instead, which takes longer with every file of the image";
    match REFUSED.iter().find(|(magic, _)| *magic == kind) {
        Some((_, name)) => format!(
            "the store {store} is on {name}; mount a volume (ext4, XFS, btrfs or tmpfs) there, or name one with --root; \
             {copies}"
        ),
        None => format!("overlay in a user namespace takes Linux 5.11 or newer; {copies}"),
    }
}

/// For namespaces in which nothing can be mounted.
pub(super) fn remedy_for_mounts() -> String {
    "a container's AppArmor or SELinux profile can forbid mounts: --security-opt apparmor=unconfined (or label=disable)"
        .to_owned()
}
