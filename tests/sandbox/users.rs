//! The same cases again as unprivileged users. Making users takes root, so only root does that.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rbuild::sandbox::{Isolation, Options, Ownership, Rung, Sandbox, probe};

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
    let without = [&["--no-range".to_owned()], arguments].concat();
    for (user, arguments) in [(WITH_RANGE, arguments), (WITHOUT_RANGE, &without)] {
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

/// What a user without a range has to be told, and gets.
fn check_without_range() {
    let report = probe();
    assert_eq!(report.rung, Rung::SingleId, "{report:?}");
    let missing = report.findings.iter().find(|finding| finding.subject == "range of ids").unwrap();
    let said = missing.obstacle.as_deref().unwrap_or_default();
    assert!(said.contains("/etc/subuid grants no ids to rb-nosub"), "{said}");
    assert!(missing.remedy.as_deref().unwrap_or_default().contains("usermod --add-subuids"), "{report:?}");
    let directory = tempfile::tempdir().unwrap();
    let options = |isolation| Options { isolation, ..Options::new(directory.path().to_owned()) };
    let single = Sandbox::start(options(Isolation::Full)).unwrap();
    assert_eq!(single.ownership(), Ownership::Recorded);
    assert!(single.mapping_name().ends_with("-single"), "{}", single.mapping_name());
    let plain = Sandbox::start(options(Isolation::None)).unwrap();
    plain.worker("lay", br#"["layer", [{"Directory": "a"}]]"#, Vec::new()).unwrap().wait().unwrap();
    assert!(directory.path().join("layer/a").is_dir());
    plain.remove_trees(&["layer"]).unwrap();
    assert!(!directory.path().join("layer").exists());
}

/// The same cases with one id, and what is said about it.
pub fn run_without_range(arguments: &[String]) -> ExitCode {
    check_without_range();
    println!("user without a range: told what to change, workers run ... ok");
    let wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    if crate::run_cases(&wanted) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
