//! What people are shown while a step runs: `[builder 2/5] RUN make`.

use super::args::Environment;
use super::git::without_passwords;
use crate::dockerfile::ast::{Heredoc, Instruction};
use crate::image::platform::Platform;

/// Puts the number in front: the position is as wide as the total, the name is left out where it is empty.
pub(super) fn numbered(stage: &str, position: usize, total: usize, text: &str) -> String {
    let width = total.to_string().len();
    let space = if stage.is_empty() { "" } else { " " };
    format!("[{stage}{space}{position:width$}/{total}] {text}")
}

/// The platform that automatic arguments in a command's environment name.
pub(super) fn target(environment: &Environment) -> Option<Platform> {
    if let Some(platform) = environment.value("TARGETPLATFORM").and_then(|text| text.parse().ok()) {
        return Some(platform);
    }
    let [os, architecture, variant] =
        ["TARGETOS", "TARGETARCH", "TARGETVARIANT"].map(|name| environment.value(name).unwrap_or_default());
    let is_set = !(os.is_empty() && architecture.is_empty() && variant.is_empty());
    is_set.then(|| Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        os_version: String::new(),
    })
}

/// The stage with the platform that it runs on before its name, and the one that it compiles for where that is another.
pub(super) fn on_platform(platform: &Platform, target: Option<&Platform>, stage: &str) -> String {
    let cross = target.map(|target| cross(platform, target)).unwrap_or_default();
    let space = if stage.is_empty() { "" } else { " " };
    format!("{platform}{cross}{space}{stage}")
}

/// `->arm64`, `->windows/amd64`; nothing where only the variant differs (BuildKit, `formatTargetPlatform`).
fn cross(base: &Platform, target: &Platform) -> String {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let (os, architecture) = (or(&target.os, &base.os), or(&target.architecture, &base.architecture));
    let target = Platform::new(&os, &architecture, &target.variant);
    if target.os != base.os {
        return format!("->{target}");
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    match target.variant.as_str() {
        "" => format!("->{}", target.architecture),
        variant => format!("->{}/{variant}", target.architecture),
    }
}

/// The instruction in one line: its name in capitals, the variables that are known filled in.
///
/// A variable that is not known is the shell's business and stays as it is; so does what stands in single quotes.
pub(super) fn instruction(instruction: &Instruction, environment: &Environment, masked: &[String]) -> String {
    let line = instruction.original.lines().next().unwrap_or_default().trim();
    let filled = fill(line, |name| match masked.iter().any(|secret| secret == name) {
        true => Some("****"),
        false => environment.value(name),
    });
    let filled = if filled.contains("://") { without_passwords(&filled) } else { filled };
    match filled.split_once(' ') {
        Some((name, rest)) => format!("{} {rest}", name.to_uppercase()),
        None => filled.to_uppercase(),
    }
}

/// The first line of a here-document, for the title of a RUN that is nothing else.
pub(super) fn summary(heredoc: &Heredoc) -> String {
    let content = heredoc.content();
    let body = content.trim();
    match body.split_once('\n') {
        Some((first, _)) => format!(" ({}...)", first.trim_end_matches('\r')),
        None => format!(" ({body})"),
    }
}

fn fill<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut quote: Option<char> = None;
    while let Some(at) = rest.find(['$', '\'', '"', '\\']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match variable(rest).filter(|_| quote != Some('\'')) {
            Some((length, name)) => {
                out.push_str(value(name).unwrap_or(&rest[..length]));
                length
            }
            None => {
                let mark = rest.chars().next().unwrap_or('$');
                let escaped = if mark == '\\' && quote != Some('\'') { 2 } else { 1 };
                if matches!(mark, '\'' | '"') {
                    quote = match quote {
                        None => Some(mark),
                        Some(open) if open == mark => None,
                        other => other,
                    };
                }
                let length: usize = rest.chars().take(escaped).map(char::len_utf8).sum();
                out.push_str(&rest[..length]);
                length
            }
        };
        rest = &rest[taken..];
    }
    out + rest
}

/// `$NAME` or `${NAME}` at the start of a text: its length and its name.
fn variable(text: &str) -> Option<(usize, &str)> {
    let after = text.strip_prefix('$')?;
    let (name_text, braces) = match after.strip_prefix('{') {
        // Looking for the brace first would read the rest of the line again for each that is not closed.
        Some(inner) => {
            let name = &inner[..name_length(inner)];
            inner[name.len()..].starts_with('}').then_some((name, 2))?
        }
        None => (&after[..name_length(after)], 0),
    };
    let is_name = name_text
        .bytes()
        .enumerate()
        .all(|(at, byte)| byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()));
    (is_name && !name_text.is_empty()).then_some((1 + braces + name_text.len(), name_text))
}

fn name_length(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_as_wide_as_the_total() {
        assert_eq!(numbered("", 1, 3, "FROM a"), "[1/3] FROM a");
        assert_eq!(numbered("builder", 2, 10, "RUN x"), "[builder  2/10] RUN x");
    }

    #[test]
    fn platforms_are_shown_as_buildkit_shows_them() {
        for (base, target, stage, shown) in [
            ("linux/amd64", "", "build", "linux/amd64 build"),
            ("linux/amd64", "", "", "linux/amd64"),
            ("linux/amd64", "linux/arm64", "build", "linux/amd64->arm64 build"),
            ("linux/amd64", "linux/arm/v7", "", "linux/amd64->arm/v7"),
            ("linux/amd64", "windows/amd64", "build", "linux/amd64->windows/amd64 build"),
            ("linux/amd64", "linux/amd64/v2", "build", "linux/amd64 build"),
        ] {
            let target: Option<Platform> = target.parse().ok();
            assert_eq!(on_platform(&base.parse().unwrap(), target.as_ref(), stage), shown);
        }
        let mut environment = Environment::default();
        assert_eq!(super::target(&environment), None);
        environment.set("TARGETARCH", "arm64");
        let base = "linux/amd64".parse().unwrap();
        assert_eq!(on_platform(&base, super::target(&environment).as_ref(), "x"), "linux/amd64->arm64 x");
        environment.set("TARGETPLATFORM", "linux/s390x");
        assert_eq!(on_platform(&base, super::target(&environment).as_ref(), "x"), "linux/amd64->s390x x");
    }

    #[test]
    fn known_variables_are_filled_in_and_others_are_left_to_the_shell() {
        let value = |name: &str| (name == "A").then_some("1");
        for (text, filled) in [
            ("x $A ${A} $B ${B} $$ $", "x 1 1 $B ${B} $$ $"),
            ("'$A' \"$A\" \\$A", "'$A' \"1\" \\$A"),
            ("${A:-x} $(A) $AB", "${A:-x} $(A) $AB"),
            ("é\\é$A", "é\\é1"),
            ("\"it's $A\"", "\"it's 1\""),
        ] {
            assert_eq!(fill(text, value), filled, "{text}");
        }
    }
}
