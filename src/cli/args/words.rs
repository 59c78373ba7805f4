//! Flags with words of their own: shells complete them, and [`super::super::request`] understands them. Clap refuses none,
//! for what is said about a wrong one is said there.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};

/// Words that a flag is known to take.
#[derive(Clone)]
struct Words(&'static [&'static str]);

impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().copied().map(PossibleValue::new)))
    }
}

/// The attributes of an argument that takes words: `#[arg(long, words(&["text", "json"]))]`.
pub(super) trait WordArgument: Sized {
    /// What shells complete; the help text says what they mean.
    fn words(self, words: &'static [&'static str]) -> Self;
}

impl WordArgument for clap::Arg {
    fn words(self, words: &'static [&'static str]) -> clap::Arg {
        self.value_parser(Words(words)).hide_possible_values(true)
    }
}
