//! An ssh agent for one command: a socket of its own that leads to the user's agent.
//!
//! The user's own socket is his alone, and its mode and owner are not the command's to choose. So a command gets another
//! one, which the sandbox gives to whom `--mount=type=ssh` names, and whatever is said there is passed on.

use std::io;
use std::net::Shutdown;
use std::os::unix::fs::lchown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fd::AsRawFd;
use rustix::fs::{Mode, OFlags};

/// The name of the socket in its directory.
const NAME: &str = "agent";

/// A socket that leads to another one, until it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    directory: PathBuf,
    listener: Arc<UnixListener>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    /// Makes a directory with the socket, both of an owner that the sandbox has, and listens.
    pub(super) fn start(directory: PathBuf, agent: &Path, (uid, gid): (u32, u32)) -> io::Result<Relay> {
        std::fs::create_dir(&directory)?;
        // Through a descriptor, for the name of a socket may have 107 bytes only.
        let opened = rustix::fs::open(&directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let listener = Arc::new(UnixListener::bind(format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd()))?);
        for path in [&directory, &directory.join(NAME)] {
            lchown(path, Some(uid), Some(gid))?;
        }
        let (accepted, agent) = (Arc::clone(&listener), agent.to_owned());
        let accepting = std::thread::Builder::new().name("ssh agent".to_owned()).spawn(move || {
            // Shutting the socket down ends this.
            while let Ok((client, _)) = accepted.accept() {
                // An agent that is gone is told as such: the connection is closed.
                if let Ok(agent) = UnixStream::connect(&agent) {
                    drop(pass_on(client, agent));
                }
            }
        })?;
        Ok(Relay { directory, listener, accepting: Some(accepting) })
    }

    /// The socket.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Nothing can be done if this fails, and what stays is swept by a later run.
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap_or_default();
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Passes on what either side says, until both have ended.
fn pass_on(client: UnixStream, agent: UnixStream) -> io::Result<()> {
    let (from_client, to_client) = (client.try_clone()?, client);
    let (from_agent, to_agent) = (agent.try_clone()?, agent);
    for (mut from, mut to) in [(from_client, to_agent), (from_agent, to_client)] {
        std::thread::Builder::new().name("ssh agent".to_owned()).spawn(move || {
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_is_said_is_passed_on_until_the_relay_ends() {
        let root = tempfile::tempdir().expect("a directory");
        let agent = root.path().join("own");
        let listener = UnixListener::bind(&agent).expect("an agent");
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let relay = Relay::start(root.path().join("relay"), &agent, owner).expect("a relay");
        let mut client = UnixStream::connect(relay.path()).expect("a connection");
        client.write_all(b"question").expect("a write");
        client.shutdown(Shutdown::Write).expect("an end");
        let (mut asked, _) = listener.accept().expect("the relay connects");
        let mut text = String::new();
        asked.read_to_string(&mut text).expect("the question");
        asked.write_all(b"answer").expect("a write");
        drop(asked);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the answer");
        assert_eq!((text.as_str(), answer.as_str()), ("question", "answer"));
        let path = relay.path();
        drop(relay);
        assert!(!path.exists(), "the socket is still there");
    }
}
