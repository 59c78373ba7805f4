//! `rbuild doctor`: what this place allows, and what to change for more.

use std::fmt::Write as _;

use super::{failed, print};
use crate::cli::failure::Failure;
use crate::cli::request::commands::{Doctor, Listing};
use crate::sandbox::{Report, Rung, amenities, probe};

pub(super) fn run(request: &Doctor) -> Result<(), Failure> {
    let mut report = probe(request.store_root.as_deref());
    report.findings.extend(amenities(&std::env::var_os("PATH").unwrap_or_default()));
    match request.listing {
        Listing::Json => print(&format!("{}\n", json(&report)?)),
        Listing::Table | Listing::Ids | Listing::Template(..) => print(&text(&report)),
    }
}

fn summary(rung: &Rung) -> String {
    match rung {
        Rung::FullRange { ids } => format!("RUN works, isolated in a user namespace with {ids} ids"),
        Rung::SingleId => "RUN works, isolated in a user namespace; continuing with one uid, file owners are recorded \
                           (layers carry them)"
            .to_owned(),
        Rung::Chroot { landlock: 0 } => {
            "RUN works with --isolation=chroot only, as root in a chroot without Landlock: a \
             command that means harm gets out of it"
                .to_owned()
        }
        Rung::Chroot { .. } => {
            "RUN works as root in a chroot, confined by Landlock and a system-call filter; it shares \
             network and processes with this container"
                .to_owned()
        }
        Rung::None => "RUN is not possible here; Dockerfiles without RUN build all the same".to_owned(),
    }
}

fn text(report: &Report) -> String {
    let mut text = format!("{}\n", summary(&report.rung));
    for finding in &report.findings {
        match &finding.obstacle {
            None => writeln!(text, "  ok       {}", finding.subject),
            Some(obstacle) => writeln!(text, "  missing  {}: {obstacle}", finding.subject),
        }
        .expect("text can be written to");
        if let Some(remedy) = &finding.remedy {
            writeln!(text, "           {remedy}").expect("text can be written to");
        }
    }
    text
}

fn json(report: &Report) -> Result<String, Failure> {
    let findings: Vec<serde_json::Value> = report
        .findings
        .iter()
        .map(|finding| {
            serde_json::json!({ "subject": finding.subject, "obstacle": finding.obstacle, "remedy": finding.remedy })
        })
        .collect();
    let document = serde_json::json!({ "summary": summary(&report.rung), "findings": findings });
    serde_json::to_string_pretty(&document).map_err(|error| failed(&error))
}
