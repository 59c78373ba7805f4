//! The tree as text, for the corpora: one instruction a line, `@n` its line in the source.

use super::Parsed;
use super::ast::{
    ArgDeclaration, Command, Healthcheck, Heredoc, Instruction, KeyValue, Operation, Run, Stage, Transfer,
    TransferSource, Word,
};
use crate::diagnostic::{Diagnostic, Severity, Source, Span};

/// Shows what a file was parsed to.
pub(super) fn dump(parsed: &Parsed, source: &Source) -> String {
    let mut lines = Vec::new();
    let directives = &parsed.dockerfile.directives;
    lines.extend(directives.syntax.iter().map(|word| format!("(syntax {})", quote(word))));
    if directives.escape != '\\' {
        lines.push(format!("(escape {})", directives.escape));
    }
    lines.extend(directives.check.iter().map(|word| format!("(check {})", quote(word))));
    lines.extend(parsed.dockerfile.global_args.iter().map(|arg| instruction(arg, source)));
    for stage in &parsed.dockerfile.stages {
        lines.push(from(stage, source));
        lines.extend(stage.instructions.iter().map(|inner| format!("  {}", instruction(inner, source))));
    }
    lines.extend(parsed.diagnostics.iter().map(|found| diagnostic(found, source)));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn from(stage: &Stage, source: &Source) -> String {
    let mut parts = vec![format!("from @{}", source.line(stage.span.start))];
    parts.extend(stage.platform.iter().map(|word| format!("platform={}", quote(word))));
    parts.push(quote(&stage.base));
    parts.extend(stage.name.iter().map(|word| format!("as {}", quote(word))));
    parts.extend(stage.doc.iter().map(|doc| format!("doc={doc:?}")));
    parts.extend(skipped(&stage.skipped_rules));
    format!("({})", parts.join(" "))
}

fn skipped(rules: &[String]) -> Option<String> {
    (!rules.is_empty()).then(|| format!("skip={}", rules.join(",")))
}

/// Shows one instruction.
pub(super) fn instruction(instruction: &Instruction, source: &Source) -> String {
    let mut parts = vec![format!("{} @{}", instruction.keyword.value, source.line(instruction.span.start))];
    parts.extend(operation(&instruction.operation, source));
    parts.extend(skipped(&instruction.skipped_rules));
    format!("({})", parts.join(" "))
}

fn operation(operation: &Operation, source: &Source) -> Vec<String> {
    match operation {
        Operation::Add(transfer) | Operation::Copy(transfer) => self::transfer(transfer),
        Operation::Arg(declarations) => declarations.iter().map(declaration).collect(),
        Operation::Cmd(command) | Operation::Entrypoint(command) => vec![self::command(command)],
        Operation::Env(pairs) | Operation::Label(pairs) => pairs.iter().map(pair).collect(),
        Operation::Expose(words) | Operation::Shell(words) | Operation::Volume(words) => {
            words.iter().map(quote).collect()
        }
        Operation::Healthcheck(check) => healthcheck(check),
        Operation::Maintainer(word)
        | Operation::Stopsignal(word)
        | Operation::User(word)
        | Operation::Workdir(word) => vec![quote(word)],
        Operation::Onbuild(inner) => vec![instruction(inner, source), format!("original={:?}", inner.original)],
        Operation::Run(run) => self::run(run),
    }
}

fn quote(word: &Word) -> String {
    format!("{:?}", word.value)
}

fn flag(name: &str, word: Option<&Word>) -> Option<String> {
    word.map(|word| format!("{name}={}", quote(word)))
}

fn transfer(transfer: &Transfer) -> Vec<String> {
    let switch = |name: &str, given: bool| given.then(|| name.to_owned());
    let choice = |name: &str, given: Option<bool>| given.map(|given| format!("{name}={given}"));
    let mut parts = Vec::new();
    parts.extend(flag("from", transfer.from.as_ref()));
    parts.extend(flag("chown", transfer.chown.as_ref()));
    parts.extend(flag("chmod", transfer.chmod.as_ref()));
    parts.extend(flag("checksum", transfer.checksum.as_ref()));
    parts.extend(switch("link", transfer.link));
    parts.extend(switch("parents", transfer.parents));
    parts.extend(choice("keep-git-dir", transfer.keep_git_dir));
    parts.extend(choice("unpack", transfer.unpack));
    parts.extend(transfer.exclude.iter().map(|word| format!("exclude={}", quote(word))));
    parts.extend(transfer.sources.iter().map(|source| match source {
        TransferSource::Path(word) => quote(word),
        TransferSource::Heredoc(body) => heredoc(body),
    }));
    parts.push(format!("-> {}", quote(&transfer.destination)));
    parts
}

fn declaration(declaration: &ArgDeclaration) -> String {
    let default = declaration.default.as_ref().map(|word| format!("={}", quote(word))).unwrap_or_default();
    let doc = declaration.doc.as_ref().map(|doc| format!(" doc={doc:?}")).unwrap_or_default();
    format!("{}{default}{doc}", declaration.name.value)
}

fn pair(pair: &KeyValue) -> String {
    let legacy = if pair.legacy { "legacy " } else { "" };
    format!("{legacy}{}={}", quote(&pair.key), quote(&pair.value))
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(word) => quote(word),
        Command::Exec(words) => format!("[{}]", words.iter().map(quote).collect::<Vec<_>>().join(" ")),
    }
}

fn healthcheck(check: &Healthcheck) -> Vec<String> {
    let Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } = check else {
        return vec!["none".to_owned()];
    };
    let numbers = [
        ("interval", *interval),
        ("timeout", *timeout),
        ("start-period", *start_period),
        ("start-interval", *start_interval),
        ("retries", *retries),
    ];
    let given = numbers.into_iter().filter(|(_, number)| *number != 0);
    let mut parts: Vec<_> = given.map(|(name, number)| format!("{name}={number}")).collect();
    parts.push(self::command(command));
    parts
}

fn run(run: &Run) -> Vec<String> {
    let mut parts = Vec::new();
    for mount in &run.mounts {
        let fields: Vec<_> = mount
            .fields
            .iter()
            .map(|(key, value)| match value {
                Some(value) => format!("{}={}", key.value, quote(value)),
                None => key.value.clone(),
            })
            .collect();
        parts.push(format!("mount({})", fields.join(" ")));
    }
    parts.extend(flag("network", run.network.as_ref()));
    parts.extend(flag("security", run.security.as_ref()));
    parts.extend(run.devices.iter().map(|device| {
        let required = if device.required { " required" } else { "" };
        format!("device={}{required}", quote(&device.name))
    }));
    parts.push(command(&run.command));
    parts.extend(run.heredocs.iter().map(heredoc));
    parts
}

fn heredoc(heredoc: &Heredoc) -> String {
    let descriptor = if heredoc.descriptor == 0 { String::new() } else { heredoc.descriptor.to_string() };
    let dash = if heredoc.strip_tabs { "-" } else { "" };
    let plain = if heredoc.expand { "" } else { " plain" };
    format!("{descriptor}<<{dash}({:?}{plain} {:?})", heredoc.name, heredoc.content())
}

/// Shows one diagnostic with the words that it underlines.
pub(super) fn diagnostic(diagnostic: &Diagnostic, source: &Source) -> String {
    let severity = match diagnostic.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let rule = diagnostic.rule.map(|rule| format!(" {rule}")).unwrap_or_default();
    let Span { start, end } = diagnostic.span;
    let help = diagnostic.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    let line = source.line(start);
    format!("{severity}{rule} @{line} {:?}: {}{help}", &source.text[start..end], diagnostic.message)
}
