//! What the commands that speak with registries take.

use clap::Args;

use super::SigningArguments;
use super::words::WordArgument;
use crate::ui::PROGRESS_WORDS;

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

/// What `push` takes.
#[derive(Debug, Args)]
pub struct PushArguments {
    /// A name in the store, which is also where it goes
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where else to push it
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Push all tags that the repository has in the store
    #[arg(short, long)]
    pub all_tags: bool,
    /// How to show progress: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE", words(&PROGRESS_WORDS))]
    pub progress: Option<String>,
    /// Print the digest and nothing else
    #[arg(short, long)]
    pub quiet: bool,
    /// What signs what is pushed.
    #[command(flatten)]
    pub signing: SigningArguments,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}

/// What `pull` takes.
#[derive(Debug, Args)]
pub struct PullArguments {
    /// A name
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Pull all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// The platform to pull; several are kept as an index (repeatable) [default: this machine's;
    /// env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub platforms: Vec<String>,
    /// How to show progress: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE", words(&PROGRESS_WORDS))]
    pub progress: Option<String>,
    /// Print the digest and nothing else
    #[arg(short, long)]
    pub quiet: bool,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}
