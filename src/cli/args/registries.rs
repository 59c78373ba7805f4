//! What all commands take that speak to registries.

use clap::Args;

/// How to reach registries.
#[derive(Debug, Args)]
pub struct RegistryArguments {
    /// Do not check this registry's certificate, and speak plain HTTP where it has none: HOST[:PORT] (repeatable)
    #[arg(long = "insecure-registry", value_name = "HOST", help_heading = "Registries")]
    pub insecure_registries: Vec<String>,
    /// Trust the certificates in this PEM file besides the system's (repeatable)
    #[arg(long = "ca-cert", value_name = "FILE", help_heading = "Registries")]
    pub ca_certificates: Vec<String>,
    /// Pull from this mirror first, where it is reached and has the image: HOST=MIRROR, or MIRROR for one of Docker Hub;
    /// MIRROR is HOST[:PORT][/PATH] (repeatable)
    #[arg(long = "registry-mirror", value_name = "[HOST=]MIRROR", help_heading = "Registries")]
    pub registry_mirrors: Vec<String>,
}
