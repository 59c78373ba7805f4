//! Variables: build arguments, the global scope of FROM lines, and the one environment that ARG and ENV of a stage share.
//!
//! The rules are those of dockerfile2llb: `--build-arg` beats a default beats the global value; in a stage the last
//! writer wins; a stage built on another inherits its variables and its ARGs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::expand::{self, Variables};
use super::{Argument, Options, SbomScan};
use crate::diagnostic::{Diagnostic, Severity, Span, did_you_mean};
use crate::dockerfile::ast::{Dockerfile, Instruction, Operation, Word};

/// The search path of an image that sets none (BuildKit's `DefaultPathEnvUnix`).
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The variable that names the machine which commands see.
pub(super) const HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";
/// The variable that dates a build.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";
/// The prefix of the ids of cache mounts.
pub(super) const CACHE_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";
/// Arguments that steer an attestation; they are never put into the environment of a command.
const NOT_IN_ENVIRONMENT: [&str; 2] = [SCAN_CONTEXT, SCAN_STAGE];
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
/// Predeclared; commands see them in both cases.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Variables in the order in which they were first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Environment {
    variables: Vec<(String, String)>,
}

impl Environment {
    /// Reads `NAME=value` entries of a config; one without an equals sign has an empty value.
    pub(super) fn from_config(entries: &[String]) -> Environment {
        let mut environment = Environment::default();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.set(name, value);
        }
        environment
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets a variable; one that exists keeps its place.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.variables.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
    }

    pub(super) fn unset(&mut self, name: &str) {
        self.variables.retain(|(key, _)| key != name);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn to_vec(&self) -> Vec<(String, String)> {
        self.variables.clone()
    }
}

impl Variables for Environment {
    fn value(&self, name: &str) -> Option<&str> {
        Environment::value(self, name)
    }
}

/// An ARG that a stage declared, or inherited with its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeclaredArg {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// What a list of software shall look through because of a stage: what the stage's own ARG says counts more than what a
/// global one does. A value is true or false, or the names of the stages that are meant.
pub(super) fn scans(stage: &str, declared: &[DeclaredArg], globals: &Globals) -> Vec<SbomScan> {
    let is_meant = |value: &str| match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
        "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
        names => names.split(',').any(|name| name == stage),
    };
    let wants = |name: &str| {
        let own = declared.iter().rev().find(|argument| argument.name == name).and_then(|own| own.value.as_deref());
        own.or_else(|| globals.value(name)).is_some_and(is_meant)
    };
    let all = [(SCAN_STAGE, SbomScan::Stage), (SCAN_CONTEXT, SbomScan::Context)];
    all.into_iter().filter(|(name, _)| wants(name)).map(|(_, scan)| scan).collect()
}

/// Adds an ARG; one that is declared already keeps its place.
pub(super) fn declare(declared: &mut Vec<DeclaredArg>, argument: DeclaredArg) {
    match declared.iter_mut().find(|known| known.name == argument.name) {
        Some(known) => *known = argument,
        None => declared.push(argument),
    }
}

/// The ARGs as a RUN's history shows them, with the value that each has now.
pub(super) fn shown<'a>(declared: &'a [DeclaredArg], environment: &'a Environment) -> Vec<(&'a str, &'a str)> {
    let value = |argument: &'a DeclaredArg| environment.value(&argument.name).or(argument.value.as_deref());
    declared.iter().map(|argument| (argument.name.as_str(), value(argument).unwrap_or_default())).collect()
}

/// What `--build-arg` gives.
#[derive(Debug, Clone, Default)]
pub(super) struct BuildArgs {
    values: BTreeMap<String, String>,
}

impl BuildArgs {
    /// Takes the options' arguments.
    pub(super) fn new(options: &Options) -> BuildArgs {
        BuildArgs { values: options.build_args.clone() }
    }

    /// Puts the moment that dates the build in place of the text that names it.
    pub(super) fn date(&mut self, epoch: Option<i64>) {
        match (self.values.get_mut(EPOCH), epoch) {
            (Some(value), Some(epoch)) => *value = epoch.to_string(),
            (_, None) => drop(self.values.remove(EPOCH)),
            (None, Some(_)) => {}
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The proxy variables that a command sees, in both cases; they win over its environment.
    pub(super) fn proxies(&self) -> Vec<(String, String)> {
        let mut proxies = Vec::new();
        for name in PROXIES {
            // BuildKit goes through the names in order, so the lower-case spelling wins over the upper-case one.
            let given = self.values.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
            let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) else { continue };
            proxies.extend([name.to_owned(), name.to_lowercase()].map(|name| (name, value.clone())));
        }
        proxies
    }

    /// One warning for all arguments that nothing in the file declares and nothing predeclares.
    pub(super) fn unconsumed(
        &self,
        options: &Options,
        dockerfile: &Dockerfile,
        fired: &BTreeSet<String>,
    ) -> Option<Diagnostic> {
        let mut declared: BTreeSet<&str> = fired.iter().map(String::as_str).collect();
        let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
        for instruction in dockerfile.global_args.iter().chain(instructions) {
            declared.extend(declared_names(instruction));
        }
        let unknown: Vec<&str> = options
            .build_args
            .keys()
            .map(String::as_str)
            .filter(|name| !declared.contains(name) && !is_predeclared(name))
            .collect();
        if unknown.is_empty() {
            return None;
        }
        let message = format!("[Warning] One or more build-args [{}] were not consumed", unknown.join(" "));
        let meant = unknown.iter().find_map(|name| did_you_mean(name, declared.iter().copied()));
        let help = meant.map(|meant| format!("did you mean {meant}?"));
        // No rule of `--check`: the fault is on the command line, and `error=true` in the file must not fail for it.
        let (severity, span) = (Severity::Warning, Span::default());
        Some(Diagnostic { severity, rule: None, message, span, label: None, help })
    }
}

/// The names that an ARG, or the ARG that an ONBUILD keeps, declares.
fn declared_names(instruction: &Instruction) -> Vec<&str> {
    match &instruction.operation {
        Operation::Arg(declarations) => {
            declarations.iter().map(|declaration| declaration.name.value.as_str()).collect()
        }
        Operation::Onbuild(trigger) => declared_names(trigger),
        _ => Vec::new(),
    }
}

fn is_predeclared(name: &str) -> bool {
    name == EPOCH
        || name.starts_with("BUILDKIT_")
        || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        || AUTOMATIC.contains(&name)
}

/// Whether an ARG reaches the environment of commands.
pub(super) fn reaches_commands(name: &str) -> bool {
    !NOT_IN_ENVIRONMENT.contains(&name)
}

const AUTOMATIC: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// The scope of FROM lines, which a bare ARG in a stage reads from.
#[derive(Debug, Clone, Default)]
pub(super) struct Globals {
    values: Environment,
    /// Every name that an ARG before the first FROM declares, with or without a value.
    declared: BTreeSet<String>,
}

impl Globals {
    /// Evaluates the ARGs before the first FROM; errors go to `diagnostics`.
    pub(super) fn evaluate(
        dockerfile: &Dockerfile,
        options: &Options,
        build_args: &BuildArgs,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Globals {
        let mut globals = Globals { values: automatic(dockerfile, options, build_args), declared: BTreeSet::new() };
        for declaration in declarations(&dockerfile.global_args) {
            let name = &declaration.name.value;
            globals.declared.insert(name.clone());
            let value = match (build_args.value(name), &declaration.default) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => {
                    match expand::expand(&default.value, dockerfile.directives.escape, &globals.values) {
                        Ok(expansion) => Some(expansion.text),
                        Err(error) => {
                            diagnostics.push(Diagnostic::error(place(default, &error.at), error.message));
                            None
                        }
                    }
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                globals.values.set(name, &value);
            }
        }
        globals
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.value(name)
    }

    /// Puts the moment that dates the build in place of the text that names it.
    pub(super) fn date(&mut self, epoch: Option<i64>) {
        match epoch {
            Some(epoch) if self.value(EPOCH).is_some() => self.values.set(EPOCH, &epoch.to_string()),
            Some(_) => {}
            None => self.values.unset(EPOCH),
        }
    }

    pub(super) fn variables(&self) -> &Environment {
        &self.values
    }

    /// Every name that a FROM line may use.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(String::as_str).chain(self.values.names())
    }

    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.declared.contains(name) || self.value(name).is_some()
    }
}

pub(super) fn declarations(
    instructions: &[Instruction],
) -> impl Iterator<Item = &crate::dockerfile::ast::ArgDeclaration> {
    instructions.iter().flat_map(|instruction| match &instruction.operation {
        Operation::Arg(declarations) => declarations.as_slice(),
        _ => &[],
    })
}

/// The variables that a word names.
pub(super) fn variables(word: &Word, escape: char) -> Vec<String> {
    expand::expand(&word.value, escape, &Environment::default()).map(|expansion| expansion.unset).unwrap_or_default()
}

/// The ARGs before the first FROM that are used: by name, or in what the default of a used one before them is made of.
pub(super) fn used_globals(
    dockerfile: &Dockerfile,
    build_args: &BuildArgs,
    globals: &Globals,
    mut used: BTreeSet<String>,
) -> Vec<Argument> {
    let declared: Vec<_> = declarations(&dockerfile.global_args).collect();
    for declaration in declared.iter().rev().filter(|declaration| build_args.value(&declaration.name.value).is_none()) {
        if used.contains(&declaration.name.value) {
            let defaults = declaration.default.iter();
            used.extend(defaults.flat_map(|word| variables(word, dockerfile.directives.escape)));
        }
    }
    let argument = |declaration: &crate::dockerfile::ast::ArgDeclaration| {
        let name = declaration.name.value.clone();
        let value = build_args.value(&name).or_else(|| globals.value(&name)).map(str::to_owned);
        Argument { name, value, description: declaration.doc.clone(), span: declaration.name.span }
    };
    declared.into_iter().filter(|declaration| used.contains(&declaration.name.value)).map(argument).collect()
}

/// Whether a name is declared before the first FROM.
pub(super) fn is_global(dockerfile: &Dockerfile, name: &str) -> bool {
    declarations(&dockerfile.global_args).any(|declaration| declaration.name.value == name)
}

/// The automatic arguments; a build argument of the same name overrides each.
fn automatic(dockerfile: &Dockerfile, options: &Options, build_args: &BuildArgs) -> Environment {
    let last_name =
        dockerfile.stages.last().and_then(|stage| stage.name.as_ref()).map(|name| name.value.to_lowercase());
    let stage = options.target.clone().or(last_name).unwrap_or_else(|| "default".to_owned());
    let (build, target) = (&options.build_platform, options.target_platform());
    let values: [String; 11] = [
        build.to_string(),
        build.os.clone(),
        build.os_version.clone(),
        build.architecture.clone(),
        build.variant.clone(),
        target.to_string(),
        target.os.clone(),
        target.os_version.clone(),
        target.architecture.clone(),
        target.variant.clone(),
        stage,
    ];
    let mut environment = Environment::default();
    for (name, value) in AUTOMATIC.iter().zip(values) {
        environment.set(name, build_args.value(name).unwrap_or(&value));
    }
    environment
}

/// The place of a part of a word; the word's own place where continuations moved its bytes.
pub(super) fn place(word: &Word, part: &Range<usize>) -> Span {
    let length = word.span.end.saturating_sub(word.span.start);
    if length != word.value.len() || part.is_empty() || part.end > length {
        return word.span;
    }
    Span::new(word.span.start + part.start, word.span.start + part.end)
}
