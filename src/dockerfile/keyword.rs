//! The names of instructions.

use crate::diagnostic::did_you_mean;

/// An instruction's name, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

const NAMES: [(&str, Keyword); 18] = [
    ("ADD", Keyword::Add),
    ("ARG", Keyword::Arg),
    ("CMD", Keyword::Cmd),
    ("COPY", Keyword::Copy),
    ("ENTRYPOINT", Keyword::Entrypoint),
    ("ENV", Keyword::Env),
    ("EXPOSE", Keyword::Expose),
    ("FROM", Keyword::From),
    ("HEALTHCHECK", Keyword::Healthcheck),
    ("LABEL", Keyword::Label),
    ("MAINTAINER", Keyword::Maintainer),
    ("ONBUILD", Keyword::Onbuild),
    ("RUN", Keyword::Run),
    ("SHELL", Keyword::Shell),
    ("STOPSIGNAL", Keyword::Stopsignal),
    ("USER", Keyword::User),
    ("VOLUME", Keyword::Volume),
    ("WORKDIR", Keyword::Workdir),
];

/// Longer words are not typing mistakes, and comparing them costs time.
const LONGEST_MISTAKE: usize = 32;

impl Keyword {
    /// The instruction that a word names.
    pub(super) fn of(word: &str) -> Option<Keyword> {
        NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, keyword)| *keyword)
    }

    /// The name in upper case.
    pub(super) fn name(self) -> &'static str {
        NAMES[self as usize].0
    }

    /// Whether its arguments may hold here-documents.
    pub(super) fn takes_heredocs(self) -> bool {
        matches!(self, Keyword::Add | Keyword::Copy | Keyword::Run)
    }

    /// The name that was meant by an unknown word, in the case that the word is written in.
    pub(super) fn meant_by(word: &str) -> Option<String> {
        if word.len() > LONGEST_MISTAKE {
            return None;
        }
        let name = did_you_mean(word, NAMES.iter().map(|(name, _)| *name))?;
        let lower = word.chars().all(|letter| !letter.is_uppercase());
        Some(if lower { name.to_ascii_lowercase() } else { name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_the_variants() {
        for (name, keyword) in NAMES {
            assert_eq!(keyword.name(), name);
            assert_eq!(Keyword::of(&name.to_lowercase()), Some(keyword));
        }
    }

    #[test]
    fn a_mistyped_name_is_suggested_in_its_own_case() {
        assert_eq!(Keyword::meant_by("rum").as_deref(), Some("run"));
        assert_eq!(Keyword::meant_by("Frm").as_deref(), Some("FROM"));
        assert_eq!(Keyword::meant_by(&"R".repeat(99_000)), None);
    }
}
