//! A tree as a Dockerfile again, written from its fields alone.

use std::fmt::Write;

use rbuild::dockerfile::ast::{
    Command, Device, Dockerfile, Healthcheck, Heredoc, Instruction, KeyValue, MountFlag, Operation, Run, Stage,
    Transfer, TransferSource, Word,
};

/// Writes a tree; `None` where a COPY has a here-document and a path with `<<` in it, of which only BuildKit's splitting
/// of the original line says whether it announces another one.
pub fn print(dockerfile: &Dockerfile) -> Option<String> {
    let directives = &dockerfile.directives;
    let mut printer = Printer { escape: directives.escape, out: String::new() };
    printer.line("# ", &format!("escape={}", directives.escape));
    // The value ends at the first blank, and may end in other white space.
    directives.syntax.iter().for_each(|word| printer.line("# syntax=", &format!("{} .", word.value)));
    directives.check.iter().for_each(|word| printer.line("# check=", &word.value));
    // Without it, a comment of the first instruction could be read as a directive.
    printer.line("#", "");
    for instruction in &dockerfile.global_args {
        printer.instruction(instruction)?;
    }
    for stage in &dockerfile.stages {
        printer.stage(stage);
        for instruction in &stage.instructions {
            printer.instruction(instruction)?;
        }
    }
    Some(printer.out)
}

struct Printer {
    escape: char,
    out: String,
}

/// An instruction's line, and the here-documents after it.
type Printed<'a> = (String, Vec<&'a Heredoc>);

impl Printer {
    fn line(&mut self, start: &str, rest: &str) {
        let _ = writeln!(self.out, "{start}{rest}");
    }

    /// Comments that mean something to the instruction below them.
    fn comments<'a>(&mut self, skipped: &[String], docs: impl Iterator<Item = (&'a str, &'a str)>) {
        if !skipped.is_empty() {
            // In the last place a rule's name may hold anything.
            self.line("# check=error=false;experimental=;skip=", &skipped.join(","));
        }
        docs.for_each(|(name, doc)| self.line("# ", &format!("{name} {doc}")));
    }

    fn stage(&mut self, stage: &Stage) {
        let name = stage.name.as_ref().map(|name| name.value.to_lowercase()).unwrap_or_default();
        self.comments(&stage.skipped_rules, stage.doc.iter().map(|doc| (name.as_str(), doc.as_str())));
        let mut words: Vec<String> = vec![stage.keyword.value.clone()];
        words.extend(stage.platform.iter().map(|word| self.flag("platform", &word.value)));
        words.push(text(&stage.base.value));
        if stage.name.is_none() && stage.base.value.ends_with(char::is_whitespace) {
            // Only a FROM that is in error has such a base: one with something behind it that is no name.
            words.push(".".to_owned());
        }
        words.extend([&stage.as_keyword, &stage.name].into_iter().flatten().map(|word| word.value.clone()));
        self.logical(&words.join(" "));
    }

    fn instruction(&mut self, instruction: &Instruction) -> Option<()> {
        let docs: Vec<(&str, &str)> = match &instruction.operation {
            Operation::Arg(declarations) => {
                let documented = declarations.iter().filter_map(|found| Some((&found.name, found.doc.as_ref()?)));
                documented.map(|(name, doc)| (name.value.as_str(), doc.as_str())).collect()
            }
            _ => Vec::new(),
        };
        self.comments(&instruction.skipped_rules, docs.into_iter());
        let (line, heredocs) = self.printed(instruction)?;
        self.logical(&line);
        for heredoc in heredocs {
            self.out.push_str(&heredoc.body);
            self.line("", &heredoc.name);
        }
        Some(())
    }

    /// A logical line; one that ends in the escape character must not be continued.
    fn logical(&mut self, line: &str) {
        let end = if line.ends_with(self.escape) { "\u{b}" } else { "" };
        self.line(line, end);
    }

    fn printed<'a>(&self, instruction: &'a Instruction) -> Option<Printed<'a>> {
        let (arguments, heredocs) = match &instruction.operation {
            Operation::Add(transfer) | Operation::Copy(transfer) => self.transfer(transfer)?,
            Operation::Run(run) => (self.run(run), run.heredocs.iter().collect()),
            Operation::Onbuild(inner) => self.printed(inner)?,
            Operation::Arg(declarations) => {
                let words = declarations.iter().map(|found| match &found.default {
                    Some(default) => format!("{}={}", found.name.value, default.value),
                    None => found.name.value.clone(),
                });
                (text(&words.collect::<Vec<_>>().join(" ")), Vec::new())
            }
            Operation::Cmd(command) | Operation::Entrypoint(command) => (self::command(command), Vec::new()),
            Operation::Env(pairs) | Operation::Label(pairs) => (self::pairs(pairs), Vec::new()),
            Operation::Expose(words) => (text(&plain(words)), Vec::new()),
            Operation::Shell(words) | Operation::Volume(words) => (json(words), Vec::new()),
            Operation::Healthcheck(check) => (healthcheck(check), Vec::new()),
            Operation::Maintainer(word)
            | Operation::Stopsignal(word)
            | Operation::User(word)
            | Operation::Workdir(word) => (text(&word.value), Vec::new()),
        };
        Some((format!("{} {arguments}", instruction.keyword.value), heredocs))
    }

    fn transfer<'a>(&self, transfer: &'a Transfer) -> Option<Printed<'a>> {
        let mut words = Vec::new();
        let given = [
            ("from", &transfer.from),
            ("chown", &transfer.chown),
            ("chmod", &transfer.chmod),
            ("checksum", &transfer.checksum),
        ];
        words.extend(given.iter().filter_map(|(name, word)| Some(self.flag(name, &word.as_ref()?.value))));
        words.extend(transfer.exclude.iter().map(|word| self.flag("exclude", &word.value)));
        words.extend(transfer.link.then(|| "--link".to_owned()));
        words.extend(transfer.parents.then(|| "--parents".to_owned()));
        words.extend(transfer.keep_git_dir.map(|given| format!("--keep-git-dir={given}")));
        words.extend(transfer.unpack.map(|given| format!("--unpack={given}")));
        let mut heredocs = Vec::new();
        let mut paths = Vec::new();
        for source in &transfer.sources {
            match source {
                TransferSource::Path(word) => paths.push(word.value.clone()),
                TransferSource::Heredoc(heredoc) => {
                    paths.push(marker(heredoc));
                    heredocs.push(heredoc);
                }
            }
        }
        paths.push(transfer.destination.value.clone());
        if heredocs.is_empty() {
            words.push(json_text(&paths));
        } else {
            let is_path =
                |source: &TransferSource| matches!(source, TransferSource::Path(word) if word.value.contains("<<"));
            if transfer.sources.iter().any(is_path) {
                return None;
            }
            words.push(text(&paths.join(" ")));
        }
        Some((words.join(" "), heredocs))
    }

    fn run(&self, run: &Run) -> String {
        let mut words: Vec<String> = run.mounts.iter().map(|mount| self.flag("mount", &csv(mount))).collect();
        words.extend(run.network.iter().map(|word| self.flag("network", &word.value)));
        words.extend(run.security.iter().map(|word| self.flag("security", &word.value)));
        words.extend(run.devices.iter().map(|device| self.flag("device", &self::device(device))));
        words.push(command(&run.command));
        words.join(" ")
    }

    /// Quoted so that both a flag's reader and a shell's find the same end.
    fn flag(&self, name: &str, value: &str) -> String {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_./:,=@+-".contains(letter);
        if value.chars().all(is_plain) {
            return format!("--{name}={value}");
        }
        let escaped = value.replace(self.escape, &format!("{0}{0}", self.escape));
        format!("--{name}='{}'", escaped.replace('\'', "'\"'\"'"))
    }
}

/// Arguments that must not be taken for flags.
fn text(arguments: &str) -> String {
    if arguments.starts_with("--") { format!("-- {arguments}") } else { arguments.to_owned() }
}

fn plain(words: &[Word]) -> String {
    words.iter().map(|word| word.value.as_str()).collect::<Vec<_>>().join(" ")
}

fn json(words: &[Word]) -> String {
    json_text(&words.iter().map(|word| word.value.clone()).collect::<Vec<_>>())
}

fn json_text(words: &[String]) -> String {
    let mut quoted = words.iter().map(|word| {
        let letters = word.chars().map(|letter| match letter {
            '"' | '\\' => format!("\\{letter}"),
            '\0'..='\u{1f}' => format!("\\u{:04x}", u32::from(letter)),
            letter => letter.to_string(),
        });
        format!("\"{}\"", letters.collect::<String>())
    });
    let first = quoted.next().unwrap_or_default();
    format!("[{}]", quoted.fold(first, |list, word| format!("{list}, {word}")))
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(word) => text(&word.value),
        Command::Exec(words) => json(words),
    }
}

fn pairs(pairs: &[KeyValue]) -> String {
    let words = pairs.iter().map(|pair| match pair.legacy {
        // Two, as the first may be escaped.
        true => format!("{}  {}", pair.key.value, pair.value.value),
        false => format!("{}={}", pair.key.value, pair.value.value),
    });
    text(&words.collect::<Vec<_>>().join(" "))
}

fn csv(mount: &MountFlag) -> String {
    let fields = mount.fields.iter().map(|(key, value)| match value {
        Some(value) => format!("{}={}", key.value, value.value),
        None => key.value.clone(),
    });
    let line = fields.map(csv_field).collect::<Vec<_>>().join(",");
    // An empty line has no field at all.
    if line.is_empty() { "\"\"".to_owned() } else { line }
}

fn csv_field(field: String) -> String {
    if field.contains(['"', ',']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

fn device(device: &Device) -> String {
    format!("{},required={}", csv_field(format!("name={}", device.name.value)), device.required)
}

fn healthcheck(check: &Healthcheck) -> String {
    let Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } = check else {
        return "NONE".to_owned();
    };
    let times = [
        ("interval", interval),
        ("timeout", timeout),
        ("start-period", start_period),
        ("start-interval", start_interval),
    ];
    let flags = times.iter().map(|(name, time)| format!("--{name}={time}ns "));
    let command = match command {
        Command::Shell(word) => word.value.clone(),
        Command::Exec(words) => json(words),
    };
    format!("{}--retries={retries} CMD {command}", flags.collect::<String>())
}

/// `<<NAME` with what was said about it; unusual letters of the name are escaped or quoted.
fn marker(heredoc: &Heredoc) -> String {
    let descriptor = if heredoc.descriptor == 0 { String::new() } else { heredoc.descriptor.to_string() };
    let dash = if heredoc.strip_tabs { "-" } else { "" };
    let name = if heredoc.expand {
        let escaped = heredoc.name.chars().map(|letter| match letter.is_ascii_alphanumeric() {
            true => letter.to_string(),
            false => format!("\\{letter}"),
        });
        escaped.collect()
    } else {
        format!("'{}'", heredoc.name.replace('\'', "'\"'\"'"))
    };
    format!("{descriptor}<<{dash}{name}")
}
