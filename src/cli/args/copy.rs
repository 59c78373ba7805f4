//! What `copy` takes.

use clap::Args;

use super::RegistryArguments;

pub(super) const COPY_HELP: &str = "\
SOURCE and DESTINATION:
  NAME, docker://NAME             a name in a registry
  oci:DIRECTORY[:NAME]            an OCI layout in a directory; what else is in it stays
  oci-archive:FILE[:NAME]         an OCI layout in a tar; as DESTINATION, - is standard output
  docker-archive:FILE[:NAME]      a tar that docker load reads, likewise; of several platforms this machine's

An index is copied with all its platforms and attestations, and every digest stays what it is. From registry to registry
nothing touches the disk: what is there already is not sent, and what the same registry has elsewhere is mounted. Images of
rbuild's own store are copied by push, save, pull and load.

Examples:
  rbuild copy registry.example/app:1 mirror.example/team/app:1
  rbuild copy --all-tags registry.example/app mirror.example/team/app
  rbuild copy --platform linux/arm64 registry.example/app:1 oci-archive:app-arm64.tar
  rbuild copy oci:layout:1.0 registry.example/app:1.0";

/// What `copy` takes.
#[derive(Debug, Args)]
pub struct CopyArguments {
    /// What is copied
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where to
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
    /// Copy this platform's image alone; several make a smaller index (repeatable) [default: everything]
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub platforms: Vec<String>,
    /// Copy all tags of a repository into another one
    #[arg(long)]
    pub all_tags: bool,
    /// Copy what refers to it, too: signatures, SBOMs and attestations (OCI referrers, and cosign's tags)
    #[arg(long)]
    pub referrers: bool,
    /// Do not replace a tag that stands for something else
    #[arg(short = 'n', long)]
    pub no_clobber: bool,
    /// Accepted: all platforms are copied anyway
    #[arg(long, hide = true)]
    pub all: bool,
    /// How to show progress: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE")]
    pub progress: Option<String>,
    /// Print the digest and nothing else
    #[arg(short, long)]
    pub quiet: bool,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}
