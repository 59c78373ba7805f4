//! An environment for one test: its own directories, its own store, no variable of the machine, one of three users.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

/// Says why a test is not run and ends it; a failure where `CI` is set, so that nothing is skipped for ever unseen.
macro_rules! skip {
    ($($reason:tt)*) => {{
        let reason = format!($($reason)*);
        assert!(std::env::var_os("CI").is_none(), "would be skipped: {reason}");
        eprintln!("SKIPPED: {reason}");
        return;
    }};
}

/// Declares a test function as three tests: `name::as_root`, `name::with_subordinate_ids`, `name::without_subordinate_ids`.
macro_rules! for_each_user {
    ($($(#[$attribute:meta])* fn $name:ident($rbuild:ident) $body:block)*) => {$(
        $(#[$attribute])*
        fn $name($rbuild: crate::harness::Rbuild) $body

        mod $name {
            use crate::harness::{User, run_as};

            #[test]
            fn as_root() {
                run_as(User::Root, super::$name);
            }

            #[test]
            fn with_subordinate_ids() {
                run_as(User::Subuid, super::$name);
            }

            #[test]
            fn without_subordinate_ids() {
                run_as(User::NoSubuid, super::$name);
            }
        }
    )*};
}

/// Who runs `rbuild`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum User {
    /// uid 0.
    Root,
    /// A user with ranges in /etc/subuid and /etc/subgid.
    Subuid,
    /// A user with one uid and nothing else.
    NoSubuid,
}

/// A user of this machine.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

/// Runs a test as a user, where the suite may: root may be all, everybody else only himself.
pub fn run_as(user: User, check: fn(Rbuild)) {
    let suite = suite_user();
    if suite != User::Root && suite != user {
        eprintln!("not applicable: the suite itself runs as {suite:?}, so nothing can run as {user:?}");
        return;
    }
    check(Rbuild::new(user));
}

/// The kind of user that the suite runs as.
pub fn suite_user() -> User {
    static USER: OnceLock<User> = OnceLock::new();
    *USER.get_or_init(|| {
        let uid = own_account().uid;
        if uid == 0 {
            return User::Root;
        }
        let name = read_command("id", &["-un"]);
        let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
        let has = ranges.lines().any(|line| {
            let owner = line.split(':').next();
            owner == Some(name.as_str()) || owner == Some(uid.to_string().as_str())
        });
        if has { User::Subuid } else { User::NoSubuid }
    })
}

fn own_account() -> Account {
    let number = |option| read_command("id", &[option]).parse().expect("id prints a number");
    Account { uid: number("-u"), gid: number("-g") }
}

/// The account to run a kind of user as; made once per machine by a suite that runs as root.
fn account(user: User) -> Account {
    if user == suite_user() {
        return own_account();
    }
    let (name, options): (_, &[&str]) = match user {
        User::Root => unreachable!("only a suite of root runs as somebody else"),
        User::Subuid => ("rbuild-test-sub", &["--no-create-home", "--shell", "/bin/sh"]),
        // A system account gets no subordinate ids from useradd.
        User::NoSubuid => {
            ("rbuild-test-nosub", &["--system", "--user-group", "--no-create-home", "--shell", "/bin/sh"])
        }
    };
    // Tests are processes and threads that start together; the accounts are made by one of them.
    let lock = fs::File::create(cache_directory().join("users.lock")).expect("create the lock of the accounts");
    lock.lock().expect("lock the accounts");
    if !Command::new("id").arg(name).output().expect("run id").status.success() {
        succeed(Command::new("useradd").args(options).arg(name));
    }
    for (file, option) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
        let ranges = fs::read_to_string(file).unwrap_or_default();
        let mine = ranges.lines().any(|line| line.starts_with(&format!("{name}:")));
        match user {
            User::Subuid if !mine => {
                let start = first_free_id(&ranges);
                succeed(Command::new("usermod").arg(option).arg(format!("{start}-{}", start + 65_535)).arg(name));
            }
            User::NoSubuid => assert!(!mine, "{name} must not have subordinate ids, but {file} gives it some"),
            _ => {}
        }
    }
    let number = |option: &str| read_command("id", &[option, name]).parse().expect("id prints a number");
    Account { uid: number("-u"), gid: number("-g") }
}

/// The first id behind every range of a subuid file.
fn first_free_id(ranges: &str) -> u64 {
    let ends = ranges.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(1).map(|field| field.parse::<u64>().ok());
        Some(fields.next()?? + fields.next()??)
    });
    ends.max().unwrap_or(0).max(100_000)
}

/// Runs a command of the machine that has to work.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}):\n{text}", output.status);
    output
}

/// What a command of the machine prints, without its line end.
pub fn read_command(program: &str, arguments: &[&str]) -> String {
    let output = succeed(Command::new(program).args(arguments));
    String::from_utf8(output.stdout).expect("commands print UTF-8").trim().to_owned()
}

/// A call of skopeo that has no credentials: those below /run/containers may be closed to whoever runs the suite.
pub fn skopeo(arguments: &[&str]) -> Command {
    static CREDENTIALS: OnceLock<PathBuf> = OnceLock::new();
    let file = CREDENTIALS.get_or_init(|| {
        let file = cache_directory().join("no-credentials.json");
        fs::write(&file, "{}").expect("write a file of credentials");
        file
    });
    let mut command = Command::new("skopeo");
    command.args(arguments).env("REGISTRY_AUTH_FILE", file);
    command
}

/// Whether a program can be started by name.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path).chain(more).any(|directory| directory.join(name).is_file())
}

/// One of two amounts of work: what a suite does each time, or what is done before a release (`RBUILD_TEST_THOROUGH`).
pub fn amount<T>(usual: T, thorough: T) -> T {
    if std::env::var_os("RBUILD_TEST_THOROUGH").is_some() { thorough } else { usual }
}

/// The checkout that is tested.
pub fn source_directory() -> PathBuf {
    std::env::var_os("RBUILD_TEST_SOURCE").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Where things are kept that cost minutes to make; shared by all runs.
pub fn cache_directory() -> PathBuf {
    let directory =
        std::env::var_os("RBUILD_TEST_CACHE").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    fs::create_dir_all(&directory).expect("create the cache directory of the tests");
    directory
}

/// An environment with a store of its own, in which `rbuild` runs as some user.
pub struct Rbuild {
    directory: TempDir,
    account: Account,
    /// Who runs it.
    pub user: User,
    variables: BTreeMap<OsString, OsString>,
}

impl Rbuild {
    /// Makes the environment.
    pub fn new(user: User) -> Rbuild {
        let directory = tempfile::Builder::new().prefix("rbuild-it-").tempdir().expect("create a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("open the directory to others");
        let mut rbuild = Rbuild { directory, account: account(user), user, variables: BTreeMap::new() };
        for name in ["home", "home/.docker", "tmp", "run", "out"] {
            fs::create_dir(rbuild.path(name)).expect("create a directory of the environment");
            fs::set_permissions(rbuild.path(name), fs::Permissions::from_mode(0o700)).expect("set a mode");
        }
        let program = std::env::var_os("RBUILD_TEST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_rbuild").into());
        // Other users may not be able to enter the checkout. A link, because a copy that another thread's fork still holds
        // open for writing cannot be executed (ETXTBSY).
        if fs::hard_link(&program, rbuild.program()).is_err() {
            fs::copy(&program, rbuild.program()).expect("copy rbuild");
            // As soon as it has been started once, no fork has it open any more.
            let mut first = Command::new(rbuild.program());
            finish(start(first.arg("--version").stdout(Stdio::null()).stderr(Stdio::null())));
        }
        rbuild.own_everything();
        for (name, place) in [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_RUNTIME_DIR", "run"),
            ("RBUILD_ROOT", "store"),
            ("DOCKER_CONFIG", "home/.docker"),
        ] {
            let value = rbuild.path(place);
            rbuild.set_variable(name, value);
        }
        // Where BuildKit is, if it takes the place of rbuild.
        if let Some(address) = std::env::var_os("BUILDKIT_HOST") {
            rbuild.set_variable("BUILDKIT_HOST", address);
        }
        rbuild.set_variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        rbuild
    }

    /// A second `rbuild` on the same store is the same environment; another one shares nothing.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The program under test, where the user can run it.
    pub fn program(&self) -> PathBuf {
        self.path("rbuild")
    }

    /// Sets a variable of all later runs.
    pub fn set_variable(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Lets RUN reach package registries the way this machine does: through its proxies, if it has any.
    pub fn reach_the_network(&mut self) {
        for name in ["http_proxy", "https_proxy", "no_proxy", "all_proxy"] {
            for name in [name.to_owned(), name.to_uppercase()] {
                if let Some(value) = std::env::var_os(&name) {
                    self.set_variable(name, value);
                }
            }
        }
    }

    /// Gives every file that the test wrote to the user.
    pub fn own_everything(&self) {
        if suite_user() == User::Root && self.user != User::Root {
            for name in ["home", "tmp", "run", "out", "contexts"] {
                own_tree(&self.path(name), self.account);
            }
            lchown(self.directory.path(), Some(self.account.uid), Some(self.account.gid))
                .expect("give a directory away");
        }
    }

    /// Begins a build context (or any directory of files).
    pub fn context(&self, name: &str) -> Files {
        let directory = self.path("contexts").join(name);
        fs::create_dir_all(&directory).expect("create a context");
        Files { directory }
    }

    /// A copy of one of the examples.
    pub fn example(&self, name: &str) -> Files {
        let files = self.context(name);
        let from = source_directory().join("Dockerfile.examples").join(name);
        succeed(Command::new("cp").arg("-R").arg(from.join(".")).arg(&files.directory));
        files
    }

    /// A run of `rbuild` that has not begun.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.command_of(self.program(), arguments)
    }

    /// Any program, as the user and in the environment that `rbuild` gets.
    pub fn command_of(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        self.own_everything();
        self.command_as_owned(program, arguments)
    }

    /// A run that begins while others go on, which a change of owners would disturb: who starts it has done that.
    pub fn start_as_owned(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        start(self.command_as_owned(self.program(), arguments).process_group(0))
    }

    fn command_as_owned(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        let mut command = not_ignoring_interrupts(program.as_ref());
        command.args(arguments).env_clear().envs(&self.variables).current_dir(self.path("out"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if suite_user() == User::Root && self.user != User::Root {
            // Setting a uid as root also drops root's supplementary groups.
            command.uid(self.account.uid).gid(self.account.gid);
        }
        command
    }

    /// A run of `rbuild`, still as the user, in a mount namespace that a script of root's prepares; none in a suite that
    /// is not root's. `programs` start `rbuild` there.
    pub fn command_in(&self, prepare: &str, programs: &[&str], arguments: &[&str]) -> Option<Command> {
        if suite_user() != User::Root {
            eprintln!("not applicable: only root prepares such a place");
            return None;
        }
        self.own_everything();
        let mut command = Command::new("unshare");
        let script = format!("set -e; mount --make-rprivate /; {prepare}\nexec \"$@\"");
        command.args(["--mount", "sh", "-c", &script, "sh"]);
        if self.user != User::Root {
            let (uid, gid) = (self.account.uid.to_string(), self.account.gid.to_string());
            command.args(["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"]);
        }
        command.args(programs).arg(self.program()).args(arguments);
        command.env_clear().envs(&self.variables).current_dir(self.path("out"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Some(command)
    }

    /// Runs `rbuild` to its end.
    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        finish(self.start(arguments))
    }

    /// Runs `rbuild build --progress plain …` to its end; the context comes last.
    pub fn build(&self, context: &Files, arguments: &[&str]) -> Run {
        let context = context.directory.to_str().expect("paths of tests are UTF-8");
        self.run([&["build", "--progress", "plain"], arguments, &[context]].concat())
    }

    /// Starts `rbuild` in a process group of its own, as a terminal does.
    pub fn start(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        start(self.command(arguments).process_group(0))
    }
}

/// A command. A suite that a shell started in the background has SIGINT ignored, and so would what it starts.
fn not_ignoring_interrupts(program: &OsStr) -> Command {
    const INTERRUPT: u64 = 1 << 1;
    static IGNORED: OnceLock<bool> = OnceLock::new();
    let is_ignored = || {
        let status = fs::read_to_string("/proc/self/status").expect("read the status of this process");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a line of it").trim();
        u64::from_str_radix(mask, 16).expect("a mask") & INTERRUPT != 0
    };
    if !*IGNORED.get_or_init(is_ignored) {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/bin/env");
    command.arg("--default-signal=INT").arg(program);
    command
}

/// Starts a command; one that was copied a moment ago may still be held open by a fork of another test.
fn start(command: &mut Command) -> Child {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match command.spawn() {
            Ok(child) => return child,
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("start {command:?}: {error}"),
        }
    }
}

/// Waits for a started `rbuild`.
pub fn finish(child: Child) -> Run {
    let output = child.wait_with_output().expect("wait for rbuild");
    Run {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Drop for Rbuild {
    fn drop(&mut self) {
        let path = self.directory.path();
        if fs::remove_dir_all(path).is_ok() || suite_user() != User::Subuid {
            return;
        }
        // Files of subordinate ids can only be removed by who maps these ids.
        let arguments = ["--user", "--map-root-user", "--map-auto", "rm", "-rf"];
        let removed = Command::new("unshare").args(arguments).arg(path).status();
        if !removed.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            panic!("cannot remove {}", path.display());
        }
    }
}

fn own_tree(path: &Path, account: Account) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    // A file that is the user's already keeps its ctime: to a build that reads it now it would seem to change.
    if (metadata.uid(), metadata.gid()) != (account.uid, account.gid) {
        lchown(path, Some(account.uid), Some(account.gid)).expect("give a file away");
        if metadata.is_file() {
            // The change of owner takes setuid and setgid away.
            fs::set_permissions(path, metadata.permissions()).expect("set a file's mode");
        }
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).expect("read a directory") {
            own_tree(&entry.expect("read a directory entry").path(), account);
        }
    }
}

/// What a run of `rbuild` left.
#[derive(Debug)]
pub struct Run {
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The result.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Run {
    /// Demands exit code 0.
    #[track_caller]
    pub fn succeeded(self) -> Run {
        assert_eq!(self.code, Some(0), "rbuild failed:\n{}", self.stderr);
        self
    }

    /// Demands an exit code other than 0.
    #[track_caller]
    pub fn failed(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "wrong exit code (signal {:?}):\n{}", self.signal, self.stderr);
        self
    }

    /// Demands words on stderr.
    #[track_caller]
    pub fn says(self, words: &str) -> Run {
        assert!(self.stderr.contains(words), "missing {words:?} in:\n{}", self.stderr);
        self
    }

    /// Demands that stderr does not hold words.
    #[track_caller]
    pub fn does_not_say(self, words: &str) -> Run {
        assert!(!self.stderr.contains(words), "unwanted {words:?} in:\n{}", self.stderr);
        self
    }

    /// The image's id, which is all that stands on stdout.
    #[track_caller]
    pub fn image_id(&self) -> String {
        let id = self.stdout.trim_end_matches('\n');
        let hex = id.strip_prefix("sha256:").unwrap_or_else(|| panic!("stdout is not an image id: {:?}", self.stdout));
        assert!(
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "stdout is not an image id: {id:?}"
        );
        id.to_owned()
    }

    /// The steps of the plain progress whose title holds words, each with how it ended: `CACHED`, `DONE` or `ERROR`.
    pub fn steps(&self) -> Vec<(String, String)> {
        let mut titles = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for line in self.stderr.lines().filter(|line| line.starts_with('#')) {
            let Some((number, rest)) = line[1..].split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            let word = rest.split([' ', ':']).next().unwrap_or_default();
            match word {
                "CACHED" | "DONE" | "ERROR" | "CANCELED" => {
                    ends.insert(number, word.to_owned());
                }
                _ if rest.starts_with('[') => {
                    titles.entry(number).or_insert_with(|| rest.to_owned());
                }
                _ => {}
            }
        }
        let end = |number: &u64| ends.get(number).cloned().unwrap_or_default();
        titles.iter().map(|(number, title)| (title.clone(), end(number))).collect()
    }

    /// How the only step whose title holds words ended.
    #[track_caller]
    pub fn step(&self, words: &str) -> String {
        let steps = self.steps();
        let mut found = steps.iter().filter(|(title, _)| title.contains(words));
        let (Some((_, end)), None) = (found.next(), found.next()) else {
            panic!("not exactly one step holds {words:?}: {steps:?}\n{}", self.stderr);
        };
        end.clone()
    }

    /// Demands that every step that makes something was taken from the cache.
    #[track_caller]
    pub fn all_cached(self) -> Run {
        let makes = |title: &str| ["] RUN ", "] COPY ", "] ADD ", "] WORKDIR "].iter().any(|word| title.contains(word));
        let steps: Vec<_> = self.steps().into_iter().filter(|(title, _)| makes(title)).collect();
        assert!(!steps.is_empty(), "no step was shown:\n{}", self.stderr);
        for (title, end) in steps {
            assert_eq!(end, "CACHED", "{title} ran again:\n{}", self.stderr);
        }
        self
    }
}

/// Files of a test, written one after the other.
pub struct Files {
    /// Where they are.
    pub directory: PathBuf,
}

impl Files {
    fn place(&self, path: &str) -> PathBuf {
        let place = self.directory.join(path);
        fs::create_dir_all(place.parent().expect("a file has a directory")).expect("create a directory");
        place
    }

    /// Writes a file, mode 0644 whatever the umask.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Files {
        let place = self.place(path);
        fs::write(&place, content).unwrap_or_else(|error| panic!("write {}: {error}", place.display()));
        self.mode(path, 0o644)
    }

    /// Makes a directory.
    pub fn directory(self, path: &str) -> Files {
        fs::create_dir_all(self.place(path)).expect("create a directory");
        self.mode(path, 0o755)
    }

    /// Makes a symbolic link.
    pub fn link(self, path: &str, target: &str) -> Files {
        symlink(target, self.place(path)).expect("make a symbolic link");
        self
    }

    /// Makes a second name of a file.
    pub fn hard_link(self, path: &str, existing: &str) -> Files {
        fs::hard_link(self.directory.join(existing), self.place(path)).expect("make a hard link");
        self
    }

    /// Sets the mode of a file.
    pub fn mode(self, path: &str, mode: u32) -> Files {
        fs::set_permissions(self.directory.join(path), fs::Permissions::from_mode(mode)).expect("set a mode");
        self
    }

    /// Sets the time of the last change.
    pub fn modified(self, path: &str, seconds: u64) -> Files {
        let file = fs::File::open(self.directory.join(path)).expect("open a file to set its time");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set a time");
        self
    }

    /// Makes a socket that nobody listens to.
    pub fn socket(self, path: &str) -> Files {
        UnixListener::bind(self.place(path)).expect("make a socket");
        self
    }

    /// Replaces words in a file.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let place = self.directory.join(path);
        let text = fs::read_to_string(&place).expect("read a file to edit");
        assert!(text.contains(from), "{path} does not hold {from:?}");
        fs::write(&place, text.replace(from, to)).expect("write an edited file");
    }
}
