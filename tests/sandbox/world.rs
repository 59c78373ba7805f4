//! A store, a sandbox in it and a small image, for the cases to use.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rbuild::owners::{ATTRIBUTE, Inode, Owner, Table};
use rbuild::sandbox::{
    Cancel, Exit, Isolation, Mount, MountKind, Network, Options, Ownership, RunSpec, Sandbox, SandboxError, Security,
    Status, StorageDriver, Stream, Streams, UserSpec, Worker,
};
use serde::{Deserialize, Serialize};

/// What the cases can have done inside.
pub const WORKERS: &[Worker] = &[
    ("image", |args, _| make_image(&path(args)).map_err(|error| error.to_string())),
    ("lay", |args, _| lay(&serde_json::from_slice(args).map_err(|error| error.to_string())?)),
    ("list", |args, fds| list(&path(args), fds)),
    ("fail", |args, _| Err(String::from_utf8_lossy(args).into_owned())),
    ("panic", |_, _| panic!("on purpose")),
    ("length", |args, fds| write_to(fds, args.len().to_string().as_bytes())),
    ("stay", |_, fds| {
        write_to(fds, format!("{}\n", std::process::id()).as_bytes())?;
        std::thread::sleep(std::time::Duration::from_secs(1000));
        Ok(())
    }),
    ("ids", |_, fds| {
        let map = fs::read("/proc/self/uid_map").map_err(|error| error.to_string())?;
        write_to(fds, &map)
    }),
];

/// Something to put into a layer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Entry {
    Directory(String),
    File(String, String),
    Link(String, String),
}

pub struct World {
    pub sandbox: Arc<Sandbox>,
    pub base: PathBuf,
    /// A directory of the host that is not beneath the base.
    pub outside: PathBuf,
    /// The image.
    pub image: PathBuf,
    number: AtomicUsize,
    _directory: tempfile::TempDir,
}

/// How a command went.
#[derive(Debug)]
pub struct Went {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub fn new(storage: StorageDriver) -> World {
        // Such as a store has: nobody else may enter it.
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let options = Options { isolation: crate::chroot::isolation(), storage, ..Options::new(base.clone()) };
        let sandbox = Arc::new(Sandbox::start(options).unwrap());
        let world = World {
            sandbox,
            image: base.join("image"),
            base,
            outside,
            number: AtomicUsize::new(0),
            _directory: directory,
        };
        world.sandbox.worker("image", b"image", Vec::new()).unwrap().wait().unwrap();
        world
    }

    /// Whether commands run in a chroot, without namespaces.
    pub fn in_chroot(&self) -> bool {
        self.sandbox.isolation() == Isolation::Chroot
    }

    /// Whether owners are recorded: there is one id only.
    pub fn records(&self) -> bool {
        self.sandbox.ownership() == Ownership::Recorded
    }

    pub fn fresh(&self, name: &str) -> PathBuf {
        self.base.join(format!("{name}-{}", self.number.fetch_add(1, Ordering::Relaxed)))
    }

    /// A layer with these entries.
    pub fn layer(&self, entries: &[Entry]) -> PathBuf {
        let layer = self.fresh("layer");
        let inside = self.sandbox.path_inside(&layer).unwrap();
        let args = serde_json::to_vec(&(inside, entries)).unwrap();
        self.sandbox.worker("lay", &args, Vec::new()).unwrap().wait().unwrap();
        layer
    }

    /// A command as a Dockerfile's `RUN` would give it.
    pub fn shell(&self, script: &str) -> RunSpec {
        RunSpec {
            lowers: vec![self.image.clone()],
            upper: self.fresh("upper"),
            work: self.fresh("work"),
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("PATH".to_owned(), "/bin".to_owned()), ("HOME".to_owned(), "/root".to_owned())],
            cwd: "/".to_owned(),
            user: UserSpec::default(),
            hostname: "builder".to_owned(),
            network: Network::Host,
            mounts: Vec::new(),
            hosts: b"127.0.0.1 localhost\n".to_vec(),
            resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
            security: Security::Sandbox,
            shm_size: 64 << 20,
        }
    }

    pub fn try_run(&self, spec: &RunSpec) -> Result<Went, SandboxError> {
        let said = Mutex::new((Vec::new(), Vec::new()));
        let output = |stream, bytes: &[u8]| {
            let mut said = said.lock().unwrap();
            match stream {
                Stream::Stdout => said.0.extend_from_slice(bytes),
                Stream::Stderr => said.1.extend_from_slice(bytes),
            }
        };
        let exit = self.sandbox.run(spec, &Streams::captured(&output), &Cancel::new())?;
        let (stdout, stderr) = said.into_inner().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ok(Went { exit, stdout: text(stdout), stderr: text(stderr) })
    }

    pub fn run(&self, spec: &RunSpec) -> Went {
        self.try_run(spec).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
    }

    /// Runs a script that must succeed; gives what it printed.
    pub fn say(&self, script: &str) -> String {
        self.say_with(script, Vec::new())
    }

    pub fn say_with(&self, script: &str, mounts: Vec<Mount>) -> String {
        let went = self.run(&RunSpec { mounts, ..self.shell(script) });
        assert_eq!(went.exit.status, Status::Code(0), "{script}: {} {}", went.stdout, went.stderr);
        went.stdout
    }

    /// Everything in a tree: path, type and size, as seen with the sandbox's ids.
    pub fn tree(&self, path: &Path) -> String {
        let inside = self.sandbox.path_inside(path).unwrap();
        self.ask("list", inside.to_str().unwrap().as_bytes())
    }

    /// What a worker writes to the pipe it is given.
    pub fn ask(&self, worker: &str, args: &[u8]) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let handle = self.sandbox.worker(worker, args, vec![OwnedFd::from(writer)]).unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut reader, &mut said).unwrap();
        handle.wait().unwrap();
        said
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What belongs to other ids can be deleted by those only; the rest goes with the directory.
        let entries = fs::read_dir(&self.base).unwrap().map(|entry| entry.unwrap().path());
        self.sandbox.remove_trees(&entries.collect::<Vec<_>>()).ok();
    }
}

pub fn mount(target: &str, kind: MountKind) -> Mount {
    Mount { target: target.to_owned(), kind }
}

fn path(args: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(args).into_owned())
}

fn make_image(root: &Path) -> std::io::Result<()> {
    for directory in ["bin", "proc", "sys", "dev", "tmp", "root", "etc", "lib64"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for applet in APPLETS.split_ascii_whitespace() {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    // This program and what it is linked with, for what a shell cannot try.
    fs::copy("/proc/self/exe", root.join("bin/inside"))?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let libraries = maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| format!("/{path}")));
    for library in libraries.filter(|path| path.contains(".so")) {
        let name = Path::new(&library).file_name().unwrap_or_default();
        fs::copy(&library, root.join("lib64").join(name))?;
    }
    Ok(())
}

const APPLETS: &str = "sh ls cat echo sleep id touch mkdir rm ln mv stat kill true false readlink hostname mount \
    unshare mknod chmod chown head wc grep sed awk ps ulimit ipcs nc df find sort dd test env pwd seq umask setsid tty stty tr";

fn lay((root, entries): &(PathBuf, Vec<Entry>)) -> Result<(), String> {
    let lay_all = || -> std::io::Result<()> {
        fs::create_dir_all(root)?;
        for entry in entries {
            match entry {
                Entry::Directory(path) => fs::create_dir_all(root.join(path))?,
                Entry::File(path, content) => fs::write(root.join(path), content)?,
                Entry::Link(path, target) => symlink(target, root.join(path))?,
            }
        }
        Ok(())
    };
    lay_all().map_err(|error| error.to_string())
}

/// The owner of a file: on record, or the file system's.
fn owner(path: &Path, table: &Table) -> std::io::Result<Owner> {
    let mut value = [0; 32];
    if let Ok(length) = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value[..]) {
        return Ok(Owner::parse(&value[..length]).expect("an owner is uid:gid"));
    }
    let (parent, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
    let found = path.symlink_metadata()?;
    let inode = Inode::of(fs::File::open(parent)?, std::os::unix::ffi::OsStrExt::as_bytes(name))?;
    Ok(table.find(&inode).unwrap_or(Owner { uid: found.uid(), gid: found.gid() }))
}

fn list(root: &Path, fds: Vec<OwnedFd>) -> Result<(), String> {
    fn visit(directory: &Path, root: &Path, table: &Table, text: &mut String) -> std::io::Result<()> {
        let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let found = entry.metadata()?;
            let Owner { uid, gid } = owner(&entry.path(), table)?;
            let name = entry.path().strip_prefix(root).unwrap_or(&entry.path()).display().to_string();
            text.push_str(&format!("{name} {:o} {uid}:{gid} {}\n", found.mode(), found.size()));
            if found.is_dir() {
                visit(&entry.path(), root, table, text)?;
            }
        }
        Ok(())
    }
    let mut text = String::new();
    let table = Table::beside(root).map_err(|error| error.to_string())?;
    visit(root, root, &table, &mut text).map_err(|error| error.to_string())?;
    write_to(fds, text.as_bytes())
}

fn write_to(fds: Vec<OwnedFd>, text: &[u8]) -> Result<(), String> {
    let first = fds.into_iter().next().ok_or("no descriptor came")?;
    fs::File::from(first).write_all(text).map_err(|error| error.to_string())
}
