//! How registries are to be reached.

use std::path::PathBuf;

use super::InvalidRequest;
use super::fields::Given;
use crate::cli::args::RegistryArguments;
use crate::cli::environment::Environment;
use crate::image::reference::{DEFAULT_REGISTRY, Reference};

/// How to reach registries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryOptions {
    /// Registries (`host[:port]`, `*` for all) that may speak plain HTTP or have bad certificates.
    pub insecure: Vec<String>,
    /// PEM files of certificates to trust.
    pub ca_certificates: Vec<PathBuf>,
    /// Registries with mirrors of them, which are asked first.
    pub mirrors: Vec<(String, String)>,
}

pub(super) fn registries(
    arguments: &RegistryArguments,
    environment: &Environment,
) -> Result<RegistryOptions, InvalidRequest> {
    let is_host = |host: &&String| !host.is_empty() && !host.contains('/') && !host.contains(char::is_whitespace);
    if let Some(value) = arguments.insecure_registries.iter().find(|host| !is_host(host)) {
        return Err(Given { flag: "--insecure-registry", value, expected: "HOST or HOST:PORT" }.invalid());
    }
    let ca_certificates = arguments.ca_certificates.iter().map(|path| environment.absolute(path)).collect();
    let mirrors = arguments.registry_mirrors.iter().map(|text| mirror(text)).collect::<Result<_, _>>()?;
    Ok(RegistryOptions { insecure: arguments.insecure_registries.clone(), ca_certificates, mirrors })
}

/// `HOST=MIRROR`, or a mirror of Docker Hub.
fn mirror(text: &str) -> Result<(String, String), InvalidRequest> {
    let given = Given { flag: "--registry-mirror", value: text, expected: "MIRROR or HOST=MIRROR, without https://" };
    let (registry, mirror) = text.split_once('=').unwrap_or((DEFAULT_REGISTRY, text));
    let mirror = mirror.trim_end_matches('/');
    // Whatever it mirrors, it will have this name below it.
    let probe: Reference = "x/x".parse().map_err(|_| given.invalid())?;
    let registry = probe.relocated(&format!("{registry}/x")).map_err(|_| given.invalid())?.registry().to_owned();
    probe.relocated(&format!("{mirror}/x")).map_err(|_| given.invalid())?;
    Ok((registry, mirror.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_of_docker_hub_or_of_the_registry_before_it() {
        for (text, registry, location) in [
            ("mirror.example:5000", "docker.io", "mirror.example:5000"),
            ("mirror.example/hub/", "docker.io", "mirror.example/hub"),
            ("quay.io=[::1]:5000/quay", "quay.io", "[::1]:5000/quay"),
            ("index.docker.io=m", "docker.io", "m"),
        ] {
            assert_eq!(mirror(text), Ok((registry.to_owned(), location.to_owned())), "{text}");
        }
        for text in ["", "https://mirror.example", "a b", "quay.io=", "=m", "m/UPPER"] {
            assert!(mirror(text).is_err(), "{text:?}");
        }
    }
}
