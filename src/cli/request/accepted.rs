//! Flags of other builders: those that need nothing done, those that become a sentence, and those that must be refused.
//!
//! The rule: a flag whose wish is fulfilled anyway is silent; one that is ignored says so; one that protects (attestations
//! that somebody will look for, a policy) is an error, since ignoring it would be a lie.

use super::InvalidRequest;
use super::fields::Given;
use crate::cli::args::{AcceptedArguments, BuildArguments, Switch};

/// Sentences about flags that are ignored; an error for those that must not be.
pub(super) fn notices(arguments: &BuildArguments) -> Result<Vec<String>, InvalidRequest> {
    let accepted = &arguments.accepted;
    refuse_attestations(accepted)?;
    if let Some(policy) = accepted.policies.first() {
        return Err(InvalidRequest::NotSupported {
            flag: format!("--policy {policy}"),
            hint: "leave it out: what it forbids would not be forbidden".to_owned(),
        });
    }
    let mut notices = Vec::new();
    if arguments.load.is_on() {
        let text = "--load: the image is in rbuild's own store; for Docker, use -o type=docker,dest=- | docker load";
        notices.push(text.to_owned());
    }
    if accepted.builder.is_some() {
        notices.push("--builder is ignored: rbuild needs no builder".to_owned());
    }
    if !accepted.security_opt.is_empty() {
        notices.push("--security-opt is ignored: RUN --security=insecure asks for privileges".to_owned());
    }
    Ok(notices)
}

fn refuse_attestations(accepted: &AcceptedArguments) -> Result<(), InvalidRequest> {
    let refuse = |flag: String| InvalidRequest::NotSupported {
        flag,
        hint: "leave it out, or set it to false: images are built without attestations".to_owned(),
    };
    for (flag, value) in [("--provenance", &accepted.provenance), ("--sbom", &accepted.sbom)] {
        if let Some(value) = value
            && value.parse() != Ok(Switch::Off)
        {
            return Err(refuse(format!("{flag}={value}")));
        }
    }
    for value in &accepted.attestations {
        let given = Given { flag: "--attest", value, expected: "type=sbom|provenance,disabled=true" };
        let is_disabled =
            given.pairs()?.iter().any(|(key, value)| key == "disabled" && value.parse() == Ok(Switch::On));
        if !is_disabled {
            return Err(refuse(format!("--attest {value}")));
        }
    }
    Ok(())
}
