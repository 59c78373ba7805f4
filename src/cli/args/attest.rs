//! The part of the table about what is said of an image.

use clap::Args;

use super::SigningArguments;

/// What is said about an image beside it.
#[derive(Debug, Args)]
pub struct AttestArguments {
    /// Say how the image came to be (SLSA): true, false, or mode=min|max[,builder-id=ID][,version=v1|v0.2]… (see below)
    #[arg(long, value_name = "PROVENANCE", num_args = 0..=1, default_missing_value = "true", help_heading = "Supply chain")]
    pub provenance: Option<String>,
    /// Say what software is in the image (SPDX): true or false
    #[arg(long, value_name = "SBOM", num_args = 0..=1, default_missing_value = "true", help_heading = "Supply chain")]
    pub sbom: Option<String>,
    /// The same in one flag: type=provenance|sbom[,KEY=VALUE,…] (repeatable)
    #[arg(long = "attest", value_name = "ATTESTATION", help_heading = "Supply chain")]
    pub attestations: Vec<String>,
    /// What signs what is pushed.
    #[command(flatten)]
    pub signing: SigningArguments,
}
