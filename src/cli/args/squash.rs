//! The flag about an image's layers.

use clap::Args;

use super::switch::{Switch, SwitchArgument};

/// How layers come from steps.
#[derive(Debug, Args)]
pub struct LayeringArguments {
    /// Make one layer of all that the build puts on the base image; the cache keeps the layer of each step
    #[arg(long, switch(), help_heading = "Result")]
    pub squash: Switch,
}
