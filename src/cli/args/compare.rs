//! What `diff` takes.

use clap::Args;

use super::words::WordArgument;

pub(super) const DIFF_HELP: &str = "\
Shows the configs field by field, and the files: A added, D deleted, C changed, with what of it changed.

Examples:
  rbuild diff app:1 app:2
  rbuild diff --semantic --exit-code app:1 app:again     a build is reproducible but for its times
  rbuild diff --format json app:1 app:2 | jq '.files[].path'";

/// What `diff` takes.
#[derive(Debug, Args)]
pub struct DiffArguments {
    /// A name, an id or an archive: oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    pub before: String,
    /// Another one
    #[arg(value_name = "OTHER")]
    pub after: String,
    /// Leave out what differs between two builds of the same: times, and the history
    #[arg(long)]
    pub semantic: bool,
    /// End with 1 where there is a difference
    #[arg(long)]
    pub exit_code: bool,
    /// Print text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", words(&["text", "json"]))]
    pub format: String,
}
