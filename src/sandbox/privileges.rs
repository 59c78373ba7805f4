//! Where power is dropped: limits, filter, capabilities, ids.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getppid, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::child::{Reason, SetUp, While};
use super::command::Outset;
use super::order::Order;
use super::spec::Security;
use super::wire;
use crate::sys::notify;
use crate::sys::privileges as sys;

/// What Docker leaves to a container's root. Inheritable and ambient sets stay empty.
pub(super) const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Landlock's version that knows scopes.
const LANDLOCK_WITH_SCOPES: libc::c_long = 6;

/// No core files; descriptors as Docker has them, as far as this process may give them.
pub(super) fn limit_resources(setup: &mut SetUp) -> Result<(), Reason> {
    limit_resources_of(&setup.order)
}

pub(super) fn limit_resources_of(order: &Order) -> Result<(), Reason> {
    // What is asked for may be more, and is given later.
    let is_asked = |resource| order.ulimits.iter().any(|ulimit| ulimit.resource.resource() == resource);
    if !is_asked(Resource::Core) {
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).doing("core size")?;
    }
    if !is_asked(Resource::Nofile) {
        let possible = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let maximum = possible.min(1_048_576);
        let limit = Rlimit { current: Some(maximum.min(1024)), maximum: Some(maximum) };
        rustix::process::setrlimit(Resource::Nofile, limit).doing("open files")?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

pub(super) fn offer_to_oom_killer(outset: &Outset<'_>) -> Result<(), Reason> {
    const FILE: &str = "self/oom_score_adj";
    let proc = outset.proc.ok_or_else(|| Reason("the host's /proc is not open".to_owned()))?;
    let open = |flags| rustix::fs::openat(proc, FILE, flags | OFlags::CLOEXEC, Mode::empty()).doing(FILE);
    // Not dumpable means that the file belongs to the host's root. The exec to come makes it so anyway.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let mut now = String::new();
    File::from(open(OFlags::RDONLY)?).read_to_string(&mut now)?;
    let score = now.trim().parse::<i32>()? + 500;
    File::from(open(OFlags::WRONLY)?).write_all(score.min(1000).to_string().as_bytes()).doing(FILE)
}

/// Where Landlock cannot do it (before Linux 6.12), abstract sockets of the host's network are in reach: the network
/// was granted as the host's.
pub(super) fn scope_abstract_sockets(_: &Outset<'_>) -> Result<(), Reason> {
    if sys::landlock_version().unwrap_or(0) < LANDLOCK_WITH_SCOPES {
        return Ok(());
    }
    Ok(sys::landlock_scope_abstract_sockets()?)
}

/// The holder's keyring is empty and everything sandboxed may share it, as the filter keeps them all from it. Without
/// the filter it takes one of its own.
pub(super) fn isolate_keyring(outset: &Outset<'_>) -> Result<(), Reason> {
    if outset.order.security == Security::Sandbox {
        return Ok(());
    }
    match sys::new_session_keyring() {
        Err(error) if ![Some(libc::ENOSYS), Some(libc::EPERM)].contains(&error.raw_os_error()) => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) fn install_filter(outset: &Outset<'_>) -> Result<(), Reason> {
    let Some(recorder) = outset.recorder else {
        return match outset.order.security {
            Security::Sandbox => Ok(sys::install_seccomp(&outset.filters.confine)?),
            Security::Insecure => Ok(()),
        };
    };
    let listener = match outset.order.security {
        Security::Sandbox => notify::install_with_listener(&outset.filters.confine)?,
        Security::Insecure => notify::install_with_listener(&outset.filters.only_record)?,
    };
    // From here on the recorder answers, first of all what becoming the user asks.
    Ok(wire::send(recorder, b"listener", &[listener.as_fd()])?)
}

pub(super) fn drop_capabilities(outset: &Outset<'_>) -> Result<(), Reason> {
    match outset.order.security {
        Security::Sandbox => limit_to(KEPT),
        Security::Insecure => Ok(()),
    }
}

/// For the shim, which only waits.
pub(super) fn drop_everything() -> Result<(), Reason> {
    limit_to(CapabilitySet::empty())
}

pub(super) fn limit_to(kept: CapabilitySet) -> Result<(), Reason> {
    // The bounding set first: that takes CAP_SETPCAP.
    sys::limit_bounding_set(kept.bits()).doing("bounding set")?;
    rustix::thread::clear_ambient_capability_set().doing("ambient set")?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).doing("capset")
}

/// As [`limit_to`], of a process that may lack what limiting the bounding set takes: then it needs `no_new_privs`, or to
/// execute nothing, for the bounding set counts at the next program only.
pub(super) fn limit_within(kept: CapabilitySet, own: CapabilitySet) -> Result<(), Reason> {
    if own.contains(CapabilitySet::SETPCAP) {
        return limit_to(kept);
    }
    rustix::thread::clear_ambient_capability_set().doing("ambient set")?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).doing("capset")
}

pub(super) fn become_user(outset: &Outset<'_>) -> Result<(), Reason> {
    let user = &outset.order.user;
    // (id_t) -1 means "leave it": a user of that number would stay root (CVE-2024-40635 is of that kind).
    if [user.uid, user.gid].contains(&u32::MAX) || user.groups.contains(&u32::MAX) {
        return Err(Reason(format!("{} is no id", u32::MAX)));
    }
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups).doing(format!("groups {:?}", user.groups))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).doing(format!("group {}", user.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).doing(format!("user {}", user.uid))
}

pub(super) fn die_with_parent(_: &Outset<'_>) -> Result<(), Reason> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid() {
        Some(_) => Ok(()),
        None => Err(Reason("the shim is gone".to_owned())),
    }
}
