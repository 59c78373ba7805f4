//! A network of a command's own that still leads out: by `pasta` or `slirp4netns`, which pass on in user space what comes
//! to an interface in the command's network namespace.
//!
//! # Contract
//! * Nothing of the host's loopback is in reach, by no address, and no port of the command's is opened on the host.
//! * What is passed on ends with the command: see [`attach`].
//! * Both tools give the same addresses, so that a build does not depend on which of them there is.
//!
//! # What it must not know
//! What the command is.

pub(super) mod attach;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::order::Bytes;

/// Where a command's questions for names go: an address of the tool's, which asks whom the host asks.
pub const NAME_SERVER: &str = "10.0.2.3";
const ADDRESS: &str = "10.0.2.100";
const GATEWAY: &str = "10.0.2.2";
const TUN: &str = "/dev/net/tun";

/// A program that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tool {
    /// Of the package passt.
    Pasta,
    /// Of the package of the same name.
    Slirp4netns,
}

impl Tool {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Pasta => "pasta",
            Tool::Slirp4netns => "slirp4netns",
        }
    }
}

/// A tool that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    tool: Tool,
    program: Bytes,
}

impl Connector {
    /// Finds the tool, or the better one of those that there are, in the directories of `PATH`.
    ///
    /// # Errors
    /// [`SandboxError::NoPrivateNetwork`], with what to install or give.
    pub fn find(wanted: Option<Tool>, path: &OsStr) -> Result<Connector, SandboxError> {
        // slirp4netns is ready in a few milliseconds, and pasta of 2023, which Debian 12 has, keeps connections open that the
        // other side has closed.
        let tools = wanted.map_or(vec![Tool::Slirp4netns, Tool::Pasta], |tool| vec![tool]);
        let found = tools.iter().find_map(|tool| Some((*tool, program(tool.name(), path)?)));
        let Some((tool, program)) = found else {
            let names: Vec<&str> = tools.iter().map(|tool| tool.name()).collect();
            return Err(SandboxError::NoPrivateNetwork {
                reason: format!("{} is not installed", names.join(" or ")),
                remedy: "install passt (Debian, Fedora and Alpine name the package so), or slirp4netns".to_owned(),
            });
        };
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let failed = |error: io::Error| SandboxError::NoPrivateNetwork {
            remedy: match error.kind() {
                io::ErrorKind::PermissionDenied => format!("as root: chmod 666 {TUN}, which is its usual mode"),
                _ => format!("as root: modprobe tun; in a container: give it --device {TUN}"),
            },
            reason: format!("{TUN}: {error}"),
        };
        let tun = rustix::fs::open(TUN, flags, rustix::fs::Mode::empty()).map_err(|error| failed(error.into()))?;
        // What runs for root in the sandbox is none of the host's users, so it is one of the others.
        let mode = rustix::fs::fstat(&tun).map_err(|error| failed(error.into()))?.st_mode;
        if rustix::process::geteuid().is_root() && mode & 0o006 != 0o006 {
            return Err(failed(io::ErrorKind::PermissionDenied.into()));
        }
        Ok(Connector { tool, program: Bytes::of_path(&program) })
    }

    /// Which tool it is.
    pub fn tool(&self) -> Tool {
        self.tool
    }

    /// How it is called for a network namespace; slirp4netns says on descriptor `ready` when it is.
    fn arguments(&self, namespace: &str, ready: i32) -> Vec<String> {
        let text = match self.tool {
            // What is not asked for it does by itself: it passes ports of the host's loopback on, in both directions.
            Tool::Pasta => format!(
                "pasta --quiet --config-net --no-map-gw -t none -u none -T none -U none --ns-ifname tap0 \
                 --address {ADDRESS} --netmask 255.255.255.0 --gateway {GATEWAY} --dns-forward {NAME_SERVER} \
                 --no-netns-quit --netns-only --netns {namespace}"
            ),
            Tool::Slirp4netns => format!(
                "slirp4netns --configure --mtu=65520 --disable-host-loopback --enable-sandbox --cidr=10.0.2.0/24 \
                 --ready-fd={ready} --netns-type=path {namespace} tap0"
            ),
        };
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// Finds a program where a shell would; a relative entry of `PATH` is none.
fn program(name: &str, path: &OsStr) -> Option<PathBuf> {
    // An unprivileged user's PATH may lack the places of the administrator's programs.
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let directories = path.as_bytes().split(|byte| *byte == b':').map(|entry| PathBuf::from(OsStr::from_bytes(entry)));
    let candidates = directories.chain(more).filter(|entry| entry.is_absolute()).map(|entry| entry.join(name));
    let is_program = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    candidates.into_iter().find(|path| is_program(path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn without_a_tool_it_is_said_what_to_install() {
        let empty = tempfile::tempdir().unwrap();
        // The places that are looked at anyway hold neither of them.
        let error = match Connector::find(Some(Tool::Pasta), empty.path().as_os_str()) {
            Err(SandboxError::NoPrivateNetwork { reason, remedy }) => format!("{reason}: {remedy}"),
            other => panic!("{other:?}"),
        };
        assert!(error.starts_with("pasta is not installed: install passt"), "{error}");
    }

    #[test]
    fn a_program_is_an_executable_file_in_an_absolute_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pasta-of-a-test");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let path = format!("relative::{}", directory.path().display());
        // Root may read everything, but execute nothing that has no bit for it.
        assert_eq!(program("pasta-of-a-test", OsStr::new(&path)), None);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program("pasta-of-a-test", OsStr::new(&path)), Some(file));
        assert_eq!(program("..", OsStr::new(&path)), None);
    }
}
