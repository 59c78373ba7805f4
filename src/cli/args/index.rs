//! What `index` takes: indexes (manifest lists) in registries.

use clap::{Args, Subcommand};

use super::words::WordArgument;
use super::{RegistryArguments, Switch};
use crate::ui::PROGRESS_WORDS;

/// What `index` takes.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct IndexArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: IndexCommand,
}

/// What can be done with indexes.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Make an index of images that registries have, and push it
    #[command(args_override_self = true)]
    Create(IndexCreateArguments),
    /// Show what a name in a registry stands for
    #[command(args_override_self = true)]
    Inspect(IndexInspectArguments),
}

/// What `index create` takes.
#[derive(Debug, Args)]
pub struct IndexCreateArguments {
    /// Images or indexes in registries: a name, a digest in the repository of the tags, or a descriptor in JSON
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Name the index: registry/repository[:tag] (repeatable)
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// Read a source from a file: a name, a digest, or a descriptor in JSON with its digest, platform and annotations (repeatable)
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<String>,
    /// Add to the index that the tag names
    #[arg(long)]
    pub append: bool,
    /// Add an annotation: index:KEY=VALUE, or manifest-descriptor[PLATFORM]:KEY=VALUE on entries (repeatable)
    #[arg(long = "annotation", value_name = "TYPE:KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Print the index and push nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Put a single image into an index; with =false it is copied as it is
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "true",
        value_name = "BOOL"
    )]
    pub prefer_index: Switch,
    /// How to show progress: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE", words(&PROGRESS_WORDS))]
    pub progress: Option<String>,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}

/// What `index inspect` takes.
#[derive(Debug, Args)]
pub struct IndexInspectArguments {
    /// A name in a registry
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print the document, byte for byte
    #[arg(long)]
    pub raw: bool,
    /// Print text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", words(&["text", "json"]))]
    pub format: String,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}
