//! Warnings that only a plan can give, in BuildKit's words (linter/ruleset.go).

use crate::diagnostic::{Diagnostic, Span};

/// FROM uses an ARG that nothing declares.
pub(super) fn undefined_arg_in_from(span: Span, name: &str, meant: Option<&str>) -> Diagnostic {
    let message = format!("FROM argument '{name}' is not declared");
    with_meant(Diagnostic::warning("UndefinedArgInFrom", span, message), meant.map(|meant| meant.to_owned()))
}

/// An instruction uses a variable that nothing sets.
pub(super) fn undefined_var(span: Span, name: &str, meant: Option<&str>) -> Diagnostic {
    let message = format!("Usage of undefined variable '${name}'");
    with_meant(Diagnostic::warning("UndefinedVar", span, message), meant.map(|meant| format!("${meant}")))
}

/// Whether a `# check=skip=…` comment switches a rule off.
pub(super) fn is_skipped(skipped: &[String], rule: &str) -> bool {
    skipped.iter().any(|skipped| skipped == "all" || skipped.eq_ignore_ascii_case(rule))
}

fn with_meant(mut warning: Diagnostic, meant: Option<String>) -> Diagnostic {
    if let Some(meant) = meant {
        warning.message.push_str(&format!(" (did you mean {meant}?)"));
    }
    warning
}
