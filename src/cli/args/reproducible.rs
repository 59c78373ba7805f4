//! The part of the table that makes builds alike.

use clap::{ArgAction, Args};

use super::Switch;

/// What makes two builds of the same thing one image.
#[derive(Debug, Args)]
pub struct ReproducibleArguments {
    /// Make the same image wherever and whenever: dated by the context's last commit (or SOURCE_DATE_EPOCH, else 1970), with
    /// no time, umask or checkout in its layers; what RUN itself makes different stays so
    #[arg(
        long,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL",
        help_heading = "Output"
    )]
    pub reproducible: Switch,
}
