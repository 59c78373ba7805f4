//! Flags of other builders: those that need nothing done, those that become a sentence, and those that must be refused.
//!
//! The rule: a flag whose wish is fulfilled anyway is silent; one that is ignored says so; one that protects (attestations
//! that somebody will look for, a policy) is an error, since ignoring it would be a lie.

use std::path::PathBuf;

use super::fields::Given;
use super::{InvalidRequest, reference};
use crate::cli::args::{AcceptedArguments, BuildArguments, Switch};
use crate::cli::environment::Environment;
use crate::image::reference::Reference;

/// A cache that is not this machine's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheLocation {
    /// An image in a registry.
    Registry {
        /// Its name.
        reference: Reference,
        /// How much is written.
        mode: CacheMode,
    },
    /// An OCI layout in a directory.
    Directory {
        /// The directory.
        path: PathBuf,
        /// How much is written.
        mode: CacheMode,
    },
    /// In the pushed image itself.
    Inline,
}

/// How much of the cache is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// The steps of the result.
    Minimal,
    /// All steps.
    Maximal,
}

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
    // Other caches are understood, so that a script keeps working, but neither read nor written.
    for (flag, texts) in [("--cache-from", &arguments.cache_from), ("--cache-to", &arguments.cache_to)] {
        if !texts.is_empty() {
            notices.push(format!("{flag} is ignored: only the cache in rbuild's own store is used"));
        }
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

/// Understands `--cache-from` and `--cache-to`.
pub(super) fn cache_locations(
    flag: &'static str,
    texts: &[String],
    environment: &Environment,
) -> Result<Vec<CacheLocation>, InvalidRequest> {
    let mut locations = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let given = Given { flag, value: text, expected: "NAME, type=registry,ref=NAME or type=local" };
        if !text.contains('=') {
            for name in given.fields()? {
                locations.push(registry_cache(flag, &name, CacheMode::Minimal)?);
            }
            continue;
        }
        locations.extend(cache_location(given, environment)?);
    }
    Ok(locations)
}

fn registry_cache(flag: &'static str, name: &str, mode: CacheMode) -> Result<CacheLocation, InvalidRequest> {
    Ok(CacheLocation::Registry { reference: reference(flag, name)?.with_default_tag(), mode })
}

/// None for the caches of services (gha, s3, azblob), which only those services' clouds have.
fn cache_location(given: Given<'_>, environment: &Environment) -> Result<Option<CacheLocation>, InvalidRequest> {
    let (mut kind, mut name, mut directory, mut mode) = (None, None, None, CacheMode::Minimal);
    for (key, value) in given.pairs()? {
        match key.as_str() {
            "type" => kind = Some(value),
            "ref" => name = Some(value),
            "src" | "dest" => directory = Some(value),
            "mode" if value == "max" => mode = CacheMode::Maximal,
            "mode" if value == "min" => mode = CacheMode::Minimal,
            "mode" => return Err(given.because("mode is min or max")),
            _ => {}
        }
    }
    match kind.as_deref() {
        Some("registry") => {
            let name = name.ok_or_else(|| given.because("it needs ref=NAME"))?;
            Ok(Some(registry_cache(given.flag, &name, mode)?))
        }
        Some("local") => {
            let directory = directory.ok_or_else(|| given.because("it needs src=DIR or dest=DIR"))?;
            Ok(Some(CacheLocation::Directory { path: environment.absolute(directory), mode }))
        }
        Some("inline") => Ok(Some(CacheLocation::Inline)),
        Some("gha" | "s3" | "azblob") => Ok(None),
        Some(kind) => Err(given.because(&format!("unknown type {kind:?}, expected registry, local or inline"))),
        None => Err(given.because("type=… is missing")),
    }
}
