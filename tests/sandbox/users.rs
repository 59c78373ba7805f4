//! The same cases again as unprivileged users. Making users takes root, so only root does that.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rbuild::sandbox::{Isolation, Options, Rung, Sandbox, SandboxError, probe};

/// Set in the environment of a run that root started.
pub const NESTED: &str = "RBUILD_SANDBOX_TEST_NESTED";

const WITH_RANGE: &str = "rb-sub";
const WITHOUT_RANGE: &str = "rb-nosub";

/// Runs this program as the other users; gives how many of them failed.
pub fn run_as_others(arguments: &[String]) -> usize {
    // In a place that everybody can reach, wherever the target directory is.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.path().join("sandbox");
    std::fs::copy("/proc/self/exe", &program).unwrap();
    let mut failed = 0;
    for (user, arguments) in [(WITH_RANGE, arguments), (WITHOUT_RANGE, &["--no-range".to_owned()][..])] {
        match ids(user) {
            Ok((uid, gid)) => failed += usize::from(!run_as(&program, uid, gid, arguments)),
            Err(reason) => {
                println!("user {user}: SKIPPED: {reason}");
                failed += usize::from(std::env::var_os("CI").is_some());
            }
        }
    }
    failed
}

fn run_as(program: &Path, uid: u32, gid: u32, arguments: &[String]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).env(NESTED, "1").current_dir("/").uid(uid).gid(gid);
    command.status().unwrap().success()
}

/// The user's ids; makes the user if there is none.
fn ids(user: &str) -> Result<(u32, u32), String> {
    if let Some(found) = look_up(user) {
        return Ok(found);
    }
    let ran = Command::new("useradd").arg(user).status().map_err(|error| format!("run useradd: {error}"))?;
    if !ran.success() {
        return Err(format!("useradd {user} failed"));
    }
    if user == WITHOUT_RANGE {
        for file in ["/etc/subuid", "/etc/subgid"] {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("rb-nosub:")).collect();
            std::fs::write(file, kept.join("\n") + "\n").map_err(|error| error.to_string())?;
        }
    }
    look_up(user).ok_or_else(|| format!("{user} is not in /etc/passwd"))
}

fn look_up(user: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// What a user without a range has to be told.
pub fn check_without_range() -> ExitCode {
    let report = probe();
    let directory = tempfile::tempdir().unwrap();
    let options = Options { base: directory.path().to_owned(), isolation: Isolation::Full };
    let error = Sandbox::start(options).map(drop).unwrap_err();
    let SandboxError::NoIdRange { reason, remedy } = &error else { panic!("{error:?}") };
    assert!(reason.contains("/etc/subuid grants no ids to rb-nosub"), "{reason}");
    assert!(remedy.contains("usermod --add-subuids"), "{remedy}");
    assert_eq!(report.rung, Rung::SingleId, "{report:?}");
    let options = Options { base: directory.path().to_owned(), isolation: Isolation::None };
    let plain = Sandbox::start(options).unwrap();
    plain.worker("lay", br#"["layer", [{"Directory": "a"}]]"#, Vec::new()).unwrap().wait().unwrap();
    assert!(directory.path().join("layer/a").is_dir());
    plain.remove_trees(&["layer"]).unwrap();
    assert!(!directory.path().join("layer").exists());
    println!("user without a range: told what to change, workers run ... ok");
    ExitCode::SUCCESS
}
