//! What the commands about images in the store take.

use clap::Args;

use super::words::WordArgument;

/// What `images` takes.
#[derive(Debug, Args)]
pub struct ImagesArguments {
    /// Only images whose name holds this text
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Print table, json, or a template such as '{{.ID}}'; fields: ID, Repository, Tag, Digest, Platform, CreatedAt,
    /// CreatedSince, Size
    #[arg(long, value_name = "FORMAT", default_value = "table", words(&["table", "json"]))]
    pub format: String,
    /// Do not cut ids
    #[arg(long)]
    pub no_trunc: bool,
}

/// What `rmi` takes.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove an id that has several names, and do not fail where there is no such image
    #[arg(short, long)]
    pub force: bool,
}

/// What `tag` takes.
#[derive(Debug, Args)]
pub struct TagArguments {
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The new names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// What `inspect` takes.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Names, ids, or archives: oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// What to show: image (all at once), manifest, config, index; the last three byte for byte
    #[arg(long, value_name = "WHAT", default_value = "image", words(&["image", "manifest", "config", "index"]))]
    pub show: String,
    /// Of an index, the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Print json, or a template such as '{{.Id}}' or '{{range .Config.Env}}{{println .}}{{end}}'
    #[arg(short, long, value_name = "FORMAT", words(&["json"]))]
    pub format: Option<String>,
}

/// What `history` takes.
#[derive(Debug, Args)]
pub struct HistoryArguments {
    /// A name, an id or an archive: oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Do not cut long commands and ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print table, json, or a template such as '{{.CreatedBy}}'; fields: ID, CreatedAt, CreatedSince, CreatedBy, Size,
    /// Comment
    #[arg(long, value_name = "FORMAT", default_value = "table", words(&["table", "json"]))]
    pub format: String,
}
