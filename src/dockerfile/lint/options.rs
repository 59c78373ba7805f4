//! What `# check=` and its like switch off and on.

use super::{RULES, Rule, check_comment};
use crate::diagnostic::{Diagnostic, Severity, did_you_mean};

/// Some rules, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleSet {
    /// Every rule.
    All,
    /// The named ones.
    Named(Vec<String>),
}

impl Default for RuleSet {
    fn default() -> RuleSet {
        RuleSet::Named(Vec::new())
    }
}

impl RuleSet {
    /// Whether a rule is one of them.
    pub fn contains(&self, rule: &str) -> bool {
        match self {
            RuleSet::All => true,
            RuleSet::Named(names) => names.iter().any(|name| name == rule),
        }
    }

    fn parse(text: &str) -> RuleSet {
        match text.trim() {
            "all" => RuleSet::All,
            names => RuleSet::Named(names.split(',').filter_map(first_word).collect()),
        }
    }
}

/// A rule's name without what follows it: people write remarks behind a directive.
fn first_word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(str::to_owned)
}

/// What a `# check=` directive, or BUILDKIT_DOCKERFILE_CHECK, says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Rules that are switched off.
    pub skip: RuleSet,
    /// Whether a warning fails the build.
    pub error: bool,
    /// Experimental rules that are switched on.
    pub experimental: RuleSet,
}

/// Why check options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A part that is no option.
    #[error("invalid check option {option:?}")]
    Invalid {
        /// The part.
        option: String,
    },
    /// `error=` with something that is no boolean.
    #[error("failed to parse check option {option:?}: strconv.ParseBool: parsing {value:?}: invalid syntax")]
    NotBoolean {
        /// The part.
        option: String,
        /// Its value.
        value: String,
    },
}

impl CheckOptions {
    /// Reads `skip=A,B;error=true;experimental=all`.
    pub fn parse(text: &str) -> Result<CheckOptions, CheckError> {
        let mut options = CheckOptions::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        for part in text.splitn(3, ';') {
            let (name, value) = part.split_once('=').ok_or_else(|| CheckError::Invalid { option: part.to_owned() })?;
            match name.trim() {
                "skip" => options.skip = RuleSet::parse(value),
                "experimental" => options.experimental = RuleSet::parse(value),
                "error" => options.error = boolean(part, value)?,
                name => return Err(CheckError::Invalid { option: name.to_owned() }),
            }
        }
        Ok(options)
    }

    /// Names in the options that no rule has, each with the rule that was perhaps meant.
    pub fn unknown_rules(&self) -> Vec<(&str, Option<&'static str>)> {
        let sets = [&self.skip, &self.experimental];
        let names = sets.into_iter().flat_map(|set| match set {
            RuleSet::All => [].iter(),
            RuleSet::Named(names) => names.iter(),
        });
        names
            .filter(|name| Rule::named(name).is_none())
            .map(|name| {
                let near = if name.len() > 64 { None } else { did_you_mean(name, RULES.iter().map(|rule| rule.name)) };
                (name.as_str(), near)
            })
            .collect()
    }
}

fn boolean(part: &str, value: &str) -> Result<bool, CheckError> {
    let value = first_word(value).unwrap_or_default();
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(CheckError::NotBoolean { option: part.to_owned(), value }),
    }
}

/// Keeps errors, and the warnings that the options do not switch off. Experimental rules must be switched on, and `skip`
/// does not concern them.
pub fn filter(diagnostics: Vec<Diagnostic>, options: &CheckOptions) -> Vec<Diagnostic> {
    let wanted = |diagnostic: &Diagnostic| match diagnostic.rule {
        Some(rule) if Rule::named(rule).is_some_and(|rule| rule.experimental) => options.experimental.contains(rule),
        Some(rule) => diagnostic.severity == Severity::Error || !options.skip.contains(rule),
        None => true,
    };
    diagnostics.into_iter().filter(wanted).collect()
}

/// The rules that a `# check=skip=…` comment right above an instruction switches off; `all` among them means every rule.
pub(in crate::dockerfile) fn skipped_by_comments(comments: &[&str]) -> Vec<String> {
    let options = comments.iter().find_map(|comment| check_comment(comment)).map(CheckOptions::parse);
    match options {
        Some(Ok(CheckOptions { skip: RuleSet::All, .. })) => vec!["all".to_owned()],
        Some(Ok(CheckOptions { skip: RuleSet::Named(names), .. })) => names,
        // BuildKit, too, takes a comment that it cannot read for a comment.
        Some(Err(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Span;

    fn named(names: &[&str]) -> RuleSet {
        RuleSet::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn options_are_read_with_spaces_and_remarks() {
        let options = CheckOptions::parse(" skip = A , B # why ; error=true ; experimental=all").expect("options");
        assert_eq!(options, CheckOptions { skip: named(&["A", "B"]), error: true, experimental: RuleSet::All });
        assert_eq!(CheckOptions::parse("").expect("options"), CheckOptions::default());
        assert_eq!(CheckOptions::parse("skip=all").expect("options").skip, RuleSet::All);
    }

    #[test]
    fn faulty_options_are_told_in_buildkits_words() {
        for (text, message) in [
            ("skip", "invalid check option \"skip\""),
            ("skpi=A", "invalid check option \"skpi\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(CheckOptions::parse(text).expect_err(text).to_string(), message);
        }
    }

    #[test]
    fn names_that_no_rule_has_are_found() {
        let options = CheckOptions::parse("skip=StageNameCasin,UndefinedVar;experimental=xyzzy").expect("options");
        assert_eq!(options.unknown_rules(), [("StageNameCasin", Some("StageNameCasing")), ("xyzzy", None)]);
    }

    #[test]
    fn filtering_keeps_errors_and_drops_experimental_rules_unless_asked() {
        let span = Span::default();
        let all = vec![
            Diagnostic::error(span, "e"),
            Diagnostic::warning("StageNameCasing", span, "w"),
            Diagnostic::warning("InvalidDefinitionDescription", span, "x"),
        ];
        let kept = |text: &str| -> String {
            let options = CheckOptions::parse(text).expect(text);
            filter(all.clone(), &options).into_iter().map(|diagnostic| diagnostic.message).collect()
        };
        assert_eq!(kept(""), "ew");
        assert_eq!(kept("skip=StageNameCasing"), "e");
        assert_eq!(kept("skip=all;experimental=InvalidDefinitionDescription"), "ex");
        assert_eq!(kept("experimental=all"), "ewx");
    }
}
