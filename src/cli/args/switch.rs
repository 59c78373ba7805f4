//! Flags that are on or off. Go's flags take `--push=false`, and scripts are full of it.

use std::str::FromStr;

/// A flag that may be written bare or with `=true` or `=false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// Given, or `=true`.
    On,
    /// Not given, or `=false`.
    #[default]
    Off,
}

impl FromStr for Switch {
    type Err = &'static str;

    /// Takes the words of Go's `strconv.ParseBool`.
    fn from_str(word: &str) -> Result<Switch, &'static str> {
        match word {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Switch::On),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Switch::Off),
            _ => Err("expected true or false"),
        }
    }
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

/// The attributes of an argument that is a [`Switch`], said once: `#[arg(long, switch())]`.
pub(super) trait SwitchArgument: Sized {
    /// For a field of type [`Switch`]: off where it is not given.
    fn switch(self) -> Self;

    /// For a field of type `Option<Switch>`: none where it is not given.
    fn optional_switch(self) -> Self;
}

impl SwitchArgument for clap::Arg {
    fn switch(self) -> clap::Arg {
        self.optional_switch().required(false).default_value("false").hide_default_value(true)
    }

    fn optional_switch(self) -> clap::Arg {
        self.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
    }
}
