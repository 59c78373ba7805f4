//! What the commands about the store's room and health take.

use clap::Args;

use super::words::WordArgument;

/// What `prune` takes.
#[derive(Debug, Args)]
pub struct PruneArguments {
    /// Remove all of the cache and all images without a name
    #[arg(short, long)]
    pub all: bool,
    /// Remove the least recently used until the store is no larger than this, such as 10g
    #[arg(long, visible_alias = "keep-storage", value_name = "SIZE")]
    pub max_used_space: Option<String>,
    /// Remove only what was not used for so long, such as 24h or 7d [default: 7d, without --all and SIZE]
    #[arg(long, visible_alias = "keep-duration", value_name = "TIME")]
    pub older_than: Option<String>,
    /// Remove only some: until=TIME, type=exec.cachemount (cache mounts), type=regular (all but those) (repeatable)
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Say what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Accepted: rbuild never asks
    #[arg(short, long, hide = true)]
    pub force: bool,
}

/// What `check` takes.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Read everything: whether every blob has the bytes that its name promises, and every unpacked layer its files
    #[arg(long)]
    pub deep: bool,
    /// Remove what is damaged and what cannot be without it, so that the next build makes it anew
    #[arg(long)]
    pub repair: bool,
    /// Print text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", words(&["text", "json"]))]
    pub format: String,
}

/// What `du` takes.
#[derive(Debug, Args)]
pub struct DiskUsageArguments {
    /// One line per entry
    #[arg(short, long)]
    pub verbose: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `doctor` takes.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
