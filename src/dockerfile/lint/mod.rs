//! The rules of `--check`, by BuildKit's names and in its words.
//!
//! Rules that need only the tree are applied by [`super::parse`]. For those that need values, base images or the context
//! there is a function each that makes the diagnostic; whoever knows calls it. Experimental rules are always applied:
//! [`filter`] drops what the options do not ask for.

mod options;
mod rules;

use super::directive;
use crate::diagnostic::{Diagnostic, Span};

pub(super) use options::skipped_by_comments;
pub use options::{CheckError, CheckOptions, RuleSet, filter};
pub(super) use rules::check;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it asks for, in one sentence.
    pub description: &'static str,
    /// The last part of its page's address; empty where it has no page.
    page: &'static str,
    /// Whether it has to be switched on.
    pub experimental: bool,
}

impl Rule {
    /// The address of its page, where it has one.
    pub fn url(&self) -> Option<String> {
        (!self.page.is_empty()).then(|| format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.page))
    }

    /// The rule of that name.
    pub fn named(name: &str) -> Option<&'static Rule> {
        RULES.iter().find(|rule| rule.name == name)
    }
}

const fn rule(name: &'static str, page: &'static str, description: &'static str) -> Rule {
    Rule { name, description, page, experimental: false }
}

/// All rules.
pub static RULES: [Rule; 22] = [
    rule("StageNameCasing", "stage-name-casing", "Stage names should be lowercase"),
    rule("FromAsCasing", "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword"),
    rule(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
    ),
    rule(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    rule("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique"),
    rule("ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names"),
    rule(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    rule(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    rule("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"),
    rule(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base \
         image changes",
    ),
    rule("UndefinedVar", "undefined-var", "Variables should be defined before their use"),
    rule(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    rule(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    rule("InvalidBaseImagePlatform", "", "Base image platform does not match expected target platform"),
    rule(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    rule(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    rule(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    rule(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
    ),
    rule("CopyIgnoredFile", "copy-ignored-file", "Attempting to Copy file that is excluded by .dockerignore"),
    Rule {
        name: "InvalidDefinitionDescription",
        page: "invalid-definition-description",
        description: "Comment for build stage or argument should follow the format: `# <arg/stage name> \
                      <description>`. If this is not intended to be a description comment, add an empty line or \
                      comment between the instruction and the comment.",
        experimental: true,
    },
    rule("ExposeProtoCasing", "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase"),
    rule(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a \
         future release",
    ),
];

/// A variable is used that nothing has defined; `name` without its dollar sign.
pub fn undefined_var(span: Span, name: &str, suggestion: Option<&str>) -> Diagnostic {
    let warning = Diagnostic::warning("UndefinedVar", span, format!("Usage of undefined variable '${name}'"));
    match suggestion {
        Some(suggestion) => warning.help(format!("did you mean ${suggestion}?")),
        None => warning,
    }
}

/// FROM uses an argument that no ARG before it declares.
pub fn undefined_arg_in_from(span: Span, name: &str, suggestion: Option<&str>) -> Diagnostic {
    let message = format!("FROM argument '{name}' is not declared");
    let warning = Diagnostic::warning("UndefinedArgInFrom", span, message);
    match suggestion {
        Some(suggestion) => warning.help(format!("did you mean {suggestion}?")),
        None => warning,
    }
}

/// FROM names no image when every ARG has its default; `base` as written.
pub fn invalid_default_arg_in_from(span: Span, base: &str) -> Diagnostic {
    let message = format!("Default value for ARG {base} results in empty or invalid base image name");
    Diagnostic::warning("InvalidDefaultArgInFrom", span, message)
}

/// A base image is for another platform than the build.
pub fn invalid_base_image_platform(span: Span, image: &str, expected: &str, actual: &str) -> Diagnostic {
    let message =
        format!("Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build");
    Diagnostic::warning("InvalidBaseImagePlatform", span, message)
}

/// COPY or ADD (`keyword`) names a file that `.dockerignore` leaves out.
pub fn copy_ignored_file(span: Span, keyword: &str, file: &str) -> Diagnostic {
    let message = format!("Attempting to {keyword} file {file:?} that is excluded by .dockerignore");
    Diagnostic::warning("CopyIgnoredFile", span, message)
}

/// CMD or ENTRYPOINT (`keyword`) runs in a shell that gets its signals, and neither the file nor the base image chose one.
pub fn json_args_recommended(span: Span, keyword: &str) -> Diagnostic {
    let message =
        format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals");
    Diagnostic::warning("JSONArgsRecommended", span, message)
}

/// An empty line within a continued instruction.
pub(super) fn no_empty_continuation(span: Span) -> Diagnostic {
    Diagnostic::warning("NoEmptyContinuation", span, "Empty continuation line")
}

/// A comment right above FROM or ARG that describes none of the names that the instruction defines.
pub(super) fn definition_description(
    span: Span,
    keyword: &str,
    names: &[String],
    comments: &[&str],
) -> Option<Diagnostic> {
    let described = comments.last()?.split(' ').next()?;
    if names.iter().any(|name| name == described) {
        return None;
    }
    let example = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    let message = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    Some(Diagnostic::warning("InvalidDefinitionDescription", span, message))
}

/// The value of a `check=` comment.
fn check_comment(comment: &str) -> Option<&str> {
    directive::assignment(comment).filter(|(name, _)| name.eq_ignore_ascii_case("check")).map(|(_, value)| value)
}
