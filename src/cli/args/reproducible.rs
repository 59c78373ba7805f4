//! The part of the table that makes builds alike.

use clap::Args;

use super::switch::{Switch, SwitchArgument};

/// What makes two builds of the same thing one image.
#[derive(Debug, Args)]
pub struct ReproducibleArguments {
    /// Make the same image wherever and whenever: dated by the context's last commit (or SOURCE_DATE_EPOCH, else 1970), with
    /// no time, umask or checkout in its layers; what RUN itself makes different stays so
    #[arg(long, switch(), help_heading = "Result")]
    pub reproducible: Switch,
}
