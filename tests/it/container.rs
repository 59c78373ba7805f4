//! Starts a built image with a real container runtime and asks it for a page over its own loopback.
//!
//! The container has a network of its own, so no port of this machine is taken, and several may listen on port 80.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{User, has_program, skopeo, succeed, suite_user};

/// A running container; it ends with the value.
pub struct Container {
    runtime: Child,
    directory: TempDir,
    /// The runtime names a control group of the whole machine after it, so that two containers must not share it.
    name: String,
}

/// Why no container can be started here, if so.
pub fn missing() -> Option<String> {
    let programs = ["runc", "umoci", "skopeo", "nsenter", "busybox"];
    programs.iter().find(|name| !has_program(name)).map(|name| format!("{name} is not installed"))
}

/// Whether the suite may start containers at all; those of other users are started by the suite's own user.
pub fn may_start() -> bool {
    suite_user() == User::Root
}

impl Container {
    /// Starts the image of an OCI archive: `umoci unpack` makes the root file system and `runc` runs its command.
    pub fn start(archive: &Path) -> Container {
        let directory = tempfile::Builder::new().prefix("rbuild-container-").tempdir().expect("create a directory");
        let name = directory.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        let layout = format!("oci:{}:x", directory.path().join("layout").display());
        let archive = format!("oci-archive:{}", archive.display());
        succeed(&mut skopeo(&["copy", "--quiet", &archive, &layout]));
        let bundle = directory.path().join("bundle");
        let image = format!("{}:x", directory.path().join("layout").display());
        succeed(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
        prepare(&bundle.join("config.json"));
        let log = fs::File::create(directory.path().join("log")).expect("create a log");
        let mut command = Command::new("runc");
        command.arg("--root").arg(directory.path().join("state")).arg("run").arg("--bundle").arg(&bundle).arg(&name);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        let runtime = command.spawn().expect("start runc");
        Container { runtime, directory, name }
    }

    fn runc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.directory.path().join("state")).args(arguments);
        command
    }

    /// What the container printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn process(&self) -> Option<u64> {
        let output = self.runc(&["state", &self.name]).output().expect("run runc");
        let state: Value = serde_json::from_slice(&output.stdout).ok()?;
        state["pid"].as_u64().filter(|pid| *pid != 0)
    }

    /// Fetches a page from a server inside, as soon as it listens.
    pub fn page(&mut self, port: u16, path: &str) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.runtime.try_wait().expect("look after the container") {
                panic!("the container ended with {status}:\n{}", self.log());
            }
            if let Some(pid) = self.process() {
                let url = format!("http://127.0.0.1:{port}{path}");
                let mut command = Command::new("nsenter");
                command.args(["--net", "--target", &pid.to_string(), "busybox", "wget", "-q", "-O", "-", &url]);
                let output = command.output().expect("run nsenter");
                if output.status.success() {
                    return String::from_utf8_lossy(&output.stdout).into_owned();
                }
            }
            assert!(Instant::now() < until, "no answer on port {port} in 60 seconds:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until the command ends by itself, and gives what it printed.
    pub fn output(mut self) -> String {
        let status = self.runtime.wait().expect("wait for the container");
        assert!(status.success(), "the container ended with {status}:\n{}", self.log());
        self.log()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Its end may have come by itself, which the answer of runc would call an error.
        let killed = self.runc(&["delete", "--force", &self.name]).output();
        if killed.is_err() {
            eprintln!("cannot run runc delete");
        }
        self.runtime.kill().ok();
        self.runtime.wait().expect("wait for runc");
    }
}

/// What Docker lets a container's root do; umoci's template grants less, not even the chown that a web server starts with.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Makes the configuration that umoci wrote fit a test: no terminal, no limits that need a capability to set, and Docker's
/// capabilities.
fn prepare(path: &Path) {
    let mut config: Value = serde_json::from_slice(&fs::read(path).expect("read config.json")).expect("it is JSON");
    config["process"]["terminal"] = Value::Bool(false);
    config["process"]["rlimits"] = Value::Array(Vec::new());
    // A set may not hold what the permitted one lacks.
    for set in ["inheritable", "ambient"] {
        config["process"]["capabilities"][set] = Value::Array(Vec::new());
    }
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = CAPABILITIES.into();
    }
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("resources");
    }
    fs::write(path, config.to_string()).expect("write config.json");
}
