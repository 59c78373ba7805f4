//! Flags of other builders: those that need nothing done, those that become a sentence, and those that must be refused.
//!
//! The rule: a flag whose wish is fulfilled anyway is silent; one that is ignored says so; one that protects (a policy) is an
//! error, since ignoring it would be a lie.

use super::InvalidRequest;
use crate::cli::args::BuildArguments;

/// Sentences about flags that are ignored; an error for those that must not be.
pub(super) fn notices(arguments: &BuildArguments) -> Result<Vec<String>, InvalidRequest> {
    let accepted = &arguments.accepted;
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
