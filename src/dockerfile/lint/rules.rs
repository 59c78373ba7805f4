//! The rules that need only the tree.
//!
//! Where BuildKit looks at an expanded value, these look at what is written and keep silent about what holds a variable.
//! ARG before FROM has none of them. They look at every stage; BuildKit looks at those that the target needs, and at all of them for `--check`.

use crate::diagnostic::{Diagnostic, Span};
use crate::dockerfile::ast::{Dockerfile, Instruction, KeyValue, Operation, Stage, Word};
use std::collections::{HashMap, HashSet};

/// Applies the rules to a file.
pub(in crate::dockerfile) fn check(dockerfile: &Dockerfile) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let majority = majority_case(dockerfile);
    let mut names = HashSet::new();
    let mut ends: HashMap<String, Inherited> = HashMap::new();
    for stage in &dockerfile.stages {
        let mut at_from = Vec::new();
        at_from.extend(keyword_case(&stage.keyword, majority));
        check_from(stage, &mut names, &mut at_from);
        keep(&mut found, &stage.skipped_rules, at_from);
        let base = ends.get(stage.base.value.as_str()).copied().unwrap_or_default();
        let end = check_instructions(stage, base, majority, &mut found);
        if let Some(name) = &stage.name {
            ends.insert(name.value.to_lowercase(), end);
        }
    }
    found
}

/// Keeps what a comment above the instruction does not switch off.
fn keep(found: &mut Vec<Diagnostic>, skipped: &[String], mut warnings: Vec<Diagnostic>) {
    if !skipped.is_empty() {
        warnings.retain(|warning| !skipped.iter().any(|rule| rule == "all" || Some(rule.as_str()) == warning.rule));
    }
    found.append(&mut warnings);
}

/// What a stage hands on to those that start from it, as far as rules ask.
#[derive(Debug, Clone, Copy, Default)]
struct Inherited {
    workdir: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

/// The case of a word that has one case.
fn case_of(word: &str) -> Option<Case> {
    if !word.bytes().any(|letter| letter.is_ascii_uppercase()) {
        Some(Case::Lower)
    } else if !word.bytes().any(|letter| letter.is_ascii_lowercase()) {
        Some(Case::Upper)
    } else {
        None
    }
}

fn keywords(dockerfile: &Dockerfile) -> impl Iterator<Item = &Word> {
    dockerfile.stages.iter().flat_map(|stage| {
        std::iter::once(&stage.keyword).chain(stage.instructions.iter().map(|instruction| &instruction.keyword))
    })
}

fn majority_case(dockerfile: &Dockerfile) -> Case {
    let (mut lower, mut upper) = (0, 0);
    for keyword in keywords(dockerfile) {
        match case_of(&keyword.value) {
            Some(Case::Lower) => lower += 1,
            Some(Case::Upper) => upper += 1,
            None => {}
        }
    }
    if lower > upper { Case::Lower } else { Case::Upper }
}

fn keyword_case(keyword: &Word, majority: Case) -> Option<Diagnostic> {
    if case_of(&keyword.value) == Some(majority) {
        return None;
    }
    let wanted = match majority {
        Case::Lower => "lowercase",
        Case::Upper => "uppercase",
    };
    let message = format!("Command '{}' should match the case of the command majority ({wanted})", keyword.value);
    Some(Diagnostic::warning("ConsistentInstructionCasing", keyword.span, message))
}

fn check_from(stage: &Stage, names: &mut HashSet<String>, found: &mut Vec<Diagnostic>) {
    if let (Some(keyword), Some(name)) = (&stage.as_keyword, &stage.name) {
        let lower = name.value.to_lowercase();
        if lower != name.value {
            let message = format!("Stage name '{}' should be lowercase", name.value);
            found.push(Diagnostic::warning("StageNameCasing", name.span, message));
        }
        if case_of(&stage.keyword.value).is_some_and(|case| case_of(&keyword.value) != Some(case)) {
            let message = format!("'{}' and '{}' keywords' casing do not match", keyword.value, stage.keyword.value);
            found.push(Diagnostic::warning("FromAsCasing", keyword.span, message));
        }
        if matches!(lower.as_str(), "scratch" | "context") {
            let message = format!("Stage name should not use the same name as reserved stage {lower:?}");
            found.push(Diagnostic::warning("ReservedStageName", name.span, message));
        }
        if names.contains(&lower) {
            let message = format!("Duplicate stage name {lower:?}, stage names should be unique");
            found.push(Diagnostic::warning("DuplicateStageName", name.span, message));
        }
        names.insert(lower);
    }
    found.extend(stage.platform.as_ref().and_then(|platform| from_platform(stage, platform)));
}

fn from_platform(stage: &Stage, platform: &Word) -> Option<Diagnostic> {
    let text = platform.value.as_str();
    if matches!(text, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
        let message =
            format!("Setting platform to predefined {text} in FROM is redundant as this is the default behavior");
        return Some(Diagnostic::warning("RedundantTargetPlatform", platform.span, message));
    }
    if text.contains('$') {
        return None;
    }
    let named_for = stage.name.as_ref().map(|name| name.value.to_lowercase()).unwrap_or_default();
    let (system, architecture) = platform_parts(text)?;
    if system.is_some_and(|system| named_for.contains(&system))
        || architecture.is_some_and(|architecture| named_for.contains(&architecture))
    {
        return None;
    }
    let message = format!("FROM --platform flag should not use constant value {text:?}");
    Some(Diagnostic::warning("FromPlatformFlagConstDisallowed", platform.span, message))
}

/// The system and the architecture that a platform names; `None` for what is no platform.
fn platform_parts(text: &str) -> Option<(Option<String>, Option<String>)> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.()-".contains(letter);
    let parts: Vec<String> = text.split('/').map(str::to_lowercase).collect();
    if parts.iter().any(|part| part.is_empty() || !part.chars().all(allowed)) {
        return None;
    }
    let architecture = |name: &str| match name {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "i386" | "i486" | "i586" | "i686" => "386".to_owned(),
        "armhf" | "armel" => "arm".to_owned(),
        name => name.to_owned(),
    };
    match parts.as_slice() {
        [one] if matches!(one.as_str(), "linux" | "windows" | "darwin" | "freebsd") => Some((Some(one.clone()), None)),
        [one] => Some((None, Some(architecture(one)))),
        [system, machine] | [system, machine, _] => Some((Some(system.clone()), Some(architecture(machine)))),
        _ => None,
    }
}

/// The last instruction of its kind so far, of those that count only once.
#[derive(Default)]
struct Latest {
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

impl Latest {
    fn of(&mut self, operation: &Operation) -> Option<&mut Option<Span>> {
        match operation {
            Operation::Cmd(_) => Some(&mut self.cmd),
            Operation::Entrypoint(_) => Some(&mut self.entrypoint),
            Operation::Healthcheck(_) => Some(&mut self.healthcheck),
            _ => None,
        }
    }
}

fn check_instructions(stage: &Stage, mut state: Inherited, majority: Case, found: &mut Vec<Diagnostic>) -> Inherited {
    let mut latest = Latest::default();
    let mut warnings = Vec::new();
    for instruction in &stage.instructions {
        warnings.extend(keyword_case(&instruction.keyword, majority));
        // The earlier one is at fault: it has no effect.
        if let Some(span) = latest.of(&instruction.operation).and_then(|last| last.replace(instruction.span)) {
            let message = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                instruction.keyword.value
            );
            warnings.push(Diagnostic::warning("MultipleInstructionsDisallowed", span, message));
        }
        check_operation(instruction, &mut state, &mut warnings);
        if !warnings.is_empty() {
            keep(found, &instruction.skipped_rules, std::mem::take(&mut warnings));
        }
    }
    state
}

fn check_operation(instruction: &Instruction, state: &mut Inherited, found: &mut Vec<Diagnostic>) {
    match &instruction.operation {
        Operation::Maintainer(_) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            found.push(Diagnostic::warning("MaintainerDeprecated", instruction.span, message));
        }
        Operation::Workdir(path) => {
            let absolute = path.value.trim_start_matches(['"', '\'']).starts_with(['/', '$']);
            if !absolute && !state.workdir {
                let message =
                    format!("Relative workdir {:?} can have unexpected results if the base image changes", path.value);
                found.push(Diagnostic::warning("WorkdirRelativePath", path.span, message));
            }
            state.workdir = true;
        }
        Operation::Env(pairs) => {
            found.extend(legacy(instruction, pairs));
            found.extend(pairs.iter().filter_map(|pair| secret("ENV", &pair.key)));
        }
        Operation::Label(pairs) => found.extend(legacy(instruction, pairs)),
        Operation::Arg(declarations) => {
            found.extend(declarations.iter().filter_map(|declaration| secret("ARG", &declaration.name)));
        }
        Operation::Expose(ports) => ports.iter().for_each(|port| expose(port, found)),
        _ => {}
    }
}

fn legacy(instruction: &Instruction, pairs: &[KeyValue]) -> Option<Diagnostic> {
    pairs.iter().any(|pair| pair.legacy).then(|| {
        let name = &instruction.keyword.value;
        let message = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
        Diagnostic::warning("LegacyKeyValueFormat", instruction.span, message)
    })
}

const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

fn secret(keyword: &str, name: &Word) -> Option<Diagnostic> {
    let holds =
        |words: &[&str]| name.value.split('_').any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)));
    if !holds(&SECRET_WORDS) || holds(&HARMLESS_WORDS) {
        return None;
    }
    let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {:?})", name.value);
    Some(Diagnostic::warning("SecretsUsedInArgOrEnv", name.span, message))
}

fn expose(port: &Word, found: &mut Vec<Diagnostic>) {
    let text = port.value.as_str();
    if text.contains(['$', '"', '\'', '\\', '`']) {
        return;
    }
    let (host, container) = text.rsplit_once(':').unwrap_or(("", text));
    let (number, protocol) = container.split_once('/').unwrap_or((container, ""));
    let known = ["", "tcp", "udp", "sctp"].iter().any(|known| known.eq_ignore_ascii_case(protocol));
    // What is no port at all is the plan's to refuse.
    if number.is_empty() || !known {
        return;
    }
    if protocol.bytes().any(|letter| letter.is_ascii_uppercase()) {
        let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
        found.push(Diagnostic::warning("ExposeProtoCasing", port.span, message));
    }
    if host.bytes().any(|letter| letter != b':') {
        let message =
            format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
        found.push(Diagnostic::warning("ExposeInvalidFormat", port.span, message));
    }
}
