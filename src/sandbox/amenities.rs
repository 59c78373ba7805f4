//! What a command can have beside a sandbox, for `rbuild doctor`: nothing of it is needed for a build that does not ask.

use std::ffi::OsStr;

use super::connector::Connector;
use super::error::SandboxError;
use super::foreign::check_architecture;
use super::groups::Groups;
use super::limits::{CpuTime, CpuTimeForm, Limits};
use super::probe::Finding;

/// Tries each. Control groups that are made for that are removed again.
pub fn amenities(path: &OsStr) -> Vec<Finding> {
    let other = if std::env::consts::ARCH == "aarch64" { "amd64" } else { "arm64" };
    let subject = if other == "amd64" { "programs of amd64" } else { "programs of arm64" };
    vec![
        limits(),
        finding("private network", Connector::find(None, path).map(drop)),
        finding(subject, check_architecture(other)),
    ]
}

fn limits() -> Finding {
    let limits = Limits {
        memory: Some(1 << 30),
        cpu_time: Some(CpuTime { quota: 100_000, period: 100_000, asked: CpuTimeForm::Quota }),
        pids: Some(1000),
        ..Limits::default()
    };
    let (_, unkept) = Groups::prepare(&limits);
    Finding { subject: "limits by control groups", obstacle: unkept.into_iter().next(), remedy: None }
}

fn finding(subject: &'static str, tried: Result<(), SandboxError>) -> Finding {
    let (obstacle, remedy) = match tried {
        Ok(()) => (None, None),
        Err(
            SandboxError::NoPrivateNetwork { reason, remedy }
            | SandboxError::ForeignArchitecture { reason, remedy, .. },
        ) => (Some(reason), Some(remedy)),
        Err(error) => (Some(error.to_string()), None),
    };
    Finding { subject, obstacle, remedy }
}
