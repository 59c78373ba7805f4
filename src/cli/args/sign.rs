//! The part of the tables about signatures.

use clap::Args;

/// What signs what is pushed.
#[derive(Debug, Args)]
pub struct SigningArguments {
    /// Sign what is pushed, as cosign does: key=FILE or key=env://VARIABLE, a private key in PEM; the password of an encrypted
    /// one is in COSIGN_PASSWORD (repeatable)
    #[arg(long = "sign", value_name = "key=KEY", help_heading = "Supply chain")]
    pub signing_keys: Vec<String>,
}
