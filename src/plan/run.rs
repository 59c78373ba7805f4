//! RUN: shell, here-documents, environment, mounts.

use super::args::{self, CACHE_NAMESPACE};
use super::planner::Reported;
use super::stage::Walk;
use super::stages::{Origin, Reader};
use super::{CommandForm, Device, HeredocFile, MountSource, Network, Op, ResolvedMount, RunOp, Security, StepId};
use super::{history, path, title};
use crate::diagnostic::{Diagnostic, Span};
use crate::dockerfile::ast::{self, Command, Heredoc, Instruction, MountFlag, Run, Word};
use crate::dockerfile::mount::{self, Mount, MountError, MountKind};

fn device(device: &ast::Device) -> Device {
    Device { name: device.name.value.clone(), required: device.required }
}

/// What a RUN executes.
struct Executed {
    args: Vec<String>,
    form: CommandForm,
    file: Option<HeredocFile>,
    /// What the title says of a here-document that is the whole command.
    summary: String,
}

impl Walk<'_, '_> {
    pub(super) fn run(&mut self, instruction: &Instruction, run: &Run) -> Result<(), Reported> {
        let mut agents = 0;
        let mounts: Vec<Result<ResolvedMount, Reported>> =
            run.mounts.iter().map(|flag| self.mount(flag, &mut agents)).collect();
        let network = self.network(run.network.as_ref());
        let security = self.security(run.security.as_ref());
        let mounts = mounts.into_iter().collect::<Result<Vec<ResolvedMount>, Reported>>()?;
        let executed = self.executed(run);
        if executed.args.is_empty() {
            return Err(self.error(instruction.span, "RUN has no command: its list is empty"));
        }
        let environment = &self.state.environment;
        let secrets: Vec<String> = mounts.iter().filter_map(|mount| mount.mount.env.clone()).collect();
        let text = title::instruction(instruction, environment, &secrets) + &executed.summary;
        let history = history::run(&executed.args, &args::shown(&self.state.args, environment));
        let inputs: Vec<StepId> = mounts
            .iter()
            .filter_map(|mount| match mount.source {
                MountSource::Step(step) => Some(step),
                _ => None,
            })
            .collect();
        let op = RunOp {
            command_text: executed.args.join(" "),
            args: executed.args,
            heredoc_file: executed.file,
            env: environment.to_vec(),
            proxy_env: self.planner.build_args.proxies(),
            cwd: self.workdir_path(),
            user: self.state.config.config.user.clone(),
            hostname: self.hostname(),
            mounts,
            network: network?,
            security: security?,
            devices: run.devices.iter().map(device).collect(),
            form: executed.form,
        };
        let step = self.push(Op::Run(op), inputs, instruction.span, text);
        self.state.history.push(history::entry(history, Some(step)));
        Ok(())
    }

    fn hostname(&self) -> String {
        let given = self.planner.build_args.value(args::HOSTNAME).filter(|name| !name.is_empty());
        given.unwrap_or(&self.planner.options.hostname).to_owned()
    }

    /// The arguments, by the three rules for here-documents (A2): a script, a command for the shell, or text that the
    /// shell itself reads as here-documents.
    fn executed(&self, run: &Run) -> Executed {
        let text = match &run.command {
            Command::Exec(words) => {
                let args = words.iter().map(|word| word.value.clone()).collect();
                return Executed { args, form: CommandForm::Exec, file: None, summary: String::new() };
            }
            Command::Shell(text) => text.value.as_str(),
        };
        let (command, file, summary) = match run.heredocs.as_slice() {
            [only] if is_whole_command(text, only) => {
                let summary = title::summary(only);
                let content = only.content();
                if content.starts_with("#!") && self.state.config.os != "windows" {
                    let file = HeredocFile { name: only.name.clone(), content };
                    (file.path(), Some(file), summary)
                } else {
                    (content, None, summary)
                }
            }
            heredocs => {
                // The shell itself takes the tabs of `<<-` off.
                let bodies = heredocs.iter().map(|heredoc| format!("\n{}{}", heredoc.body, heredoc.name));
                (text.to_owned() + &bodies.collect::<String>(), None, String::new())
            }
        };
        let mut args = self.shell_words();
        args.push(command);
        Executed { args, form: CommandForm::Shell, file, summary }
    }

    fn network(&mut self, word: Option<&Word>) -> Result<Network, Reported> {
        let Some(word) = word else { return Ok(self.planner.options.network) };
        match word.value.as_str() {
            "default" => Ok(self.planner.options.network),
            "none" => Ok(Network::None),
            "host" => Ok(Network::Host),
            other => Err(self.choice(word, format!("invalid network mode {other:?}"), &["default", "none", "host"])),
        }
    }

    fn security(&mut self, word: Option<&Word>) -> Result<Security, Reported> {
        let Some(word) = word else { return Ok(Security::Sandbox) };
        match word.value.as_str() {
            "sandbox" => Ok(Security::Sandbox),
            "insecure" => Ok(Security::Insecure),
            other => Err(self.choice(word, format!("security {other:?} is not valid"), &["sandbox", "insecure"])),
        }
    }

    fn choice(&mut self, word: &Word, message: String, choices: &[&str]) -> Reported {
        self.report(Diagnostic::error(word.span, message).help(format!("give one of {}", choices.join(", "))));
        Reported
    }

    fn mount(&mut self, flag: &MountFlag, agents: &mut usize) -> Result<ResolvedMount, Reported> {
        let mut fields: Vec<(String, Option<String>)> = Vec::new();
        let mut from: Option<&Word> = None;
        for (key, value) in &flag.fields {
            if key.value.eq_ignore_ascii_case("from") {
                from = value.as_ref();
            }
            fields.push((key.value.clone(), self.expand_optional(value.as_ref())?));
        }
        let mut mount = mount::parse(&fields).map_err(|error| self.mount_error(flag, error))?;
        let source = self.mount_source(&mount, from, flag.span)?;
        self.complete(&mut mount, flag, agents)?;
        Ok(ResolvedMount { mount, source })
    }

    fn mount_error(&mut self, flag: &MountFlag, error: MountError) -> Reported {
        let field = error.field.and_then(|field| flag.fields.get(field));
        let span =
            field.map_or(flag.span, |(key, value)| value.as_ref().map_or(key.span, |value| key.span.to(value.span)));
        let mut diagnostic = Diagnostic::error(span, error.message);
        diagnostic.help = error.suggestion.map(|meant| format!("did you mean {meant}?"));
        self.report(diagnostic);
        Reported
    }

    fn mount_source(&mut self, mount: &Mount, from: Option<&Word>, flag: Span) -> Result<MountSource, Reported> {
        if !matches!(mount.kind, MountKind::Bind | MountKind::Cache) {
            return Ok(MountSource::Empty);
        }
        let Some(name) = mount.from.as_deref().filter(|name| !name.is_empty()) else {
            // Where a variable turns out to be empty, the context is not what was meant.
            if let Some(word) = from.filter(|word| word.value.contains('$') && self.state.is_known) {
                return Err(self.error(word.span, format!("the source of from={} should not be blank", word.value)));
            }
            return Ok(if mount.kind == MountKind::Cache { MountSource::Empty } else { MountSource::Context });
        };
        let span = self.place(from.map_or(flag, |word| word.span));
        if !self.state.is_known && from.is_some_and(|word| word.value.contains('$')) {
            return Err(Reported);
        }
        let target = mount.target.clone().unwrap_or_default();
        let origin = self.planner.origin(name, span, self.index, Reader::Mount { target: &target })?;
        Ok(match origin {
            Origin::Context(key) => MountSource::NamedContext(key),
            Origin::Scratch if mount.kind == MountKind::Cache => MountSource::Empty,
            origin => MountSource::Step(self.planner.read_only(&origin, span, self.index)),
        })
    }

    /// Fills in what is not given, so that two ways to ask for the same mount are the same mount.
    fn complete(&mut self, mount: &mut Mount, flag: &MountFlag, agents: &mut usize) -> Result<(), Reported> {
        match mount.kind {
            MountKind::Cache => {
                let written = mount.target.as_deref().unwrap_or_default();
                let id = mount.id.take().unwrap_or_else(|| path::clean(written));
                mount.id = Some(match self.planner.build_args.value(CACHE_NAMESPACE) {
                    Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
                    _ => id,
                });
            }
            MountKind::Secret => complete_secret(mount),
            MountKind::Ssh => {
                mount.id.get_or_insert_with(|| "default".to_owned());
                mount.target.get_or_insert_with(|| format!("/run/buildkit/ssh_agent.{agents}"));
                *agents += 1;
            }
            MountKind::Bind | MountKind::Tmpfs => {}
        }
        if matches!(mount.kind, MountKind::Bind | MountKind::Cache) {
            mount.source = Some(path::absolute("/", mount.source.as_deref().unwrap_or_default()));
        }
        let is_writable = matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs);
        mount.read_only.get_or_insert(!is_writable);
        if mount.kind == MountKind::Secret && mount.target.is_none() {
            return Ok(());
        }
        let target = path::absolute(&self.workdir_path(), mount.target.as_deref().unwrap_or_default());
        if target == "/" {
            return Err(self.error(flag.span, "invalid mount target \"/\""));
        }
        mount.target = Some(target);
        Ok(())
    }
}

/// `source` is another word for `id`; a secret that is a variable is a file as well only where a target is given.
fn complete_secret(mount: &mut Mount) {
    let of_target = mount.target.as_deref().map(path::base_name).unwrap_or_default().to_owned();
    let id = mount.source.take().or(mount.id.take()).unwrap_or(of_target);
    match &mut mount.env {
        Some(name) if name.is_empty() => name.clone_from(&id),
        Some(_) => {}
        None => {
            mount.target.get_or_insert_with(|| format!("/run/secrets/{}", path::base_name(&id)));
        }
    }
    mount.id = Some(id);
}

/// Whether a command is one here-document and nothing else: `<<EOF`, `<<-"EOF"`.
fn is_whole_command(text: &str, heredoc: &Heredoc) -> bool {
    let text = text.trim().trim_start_matches(|character: char| character.is_ascii_digit());
    let Some(rest) = text.strip_prefix("<<") else { return false };
    let name = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    name.replace(['"', '\'', '\\'], "") == heredoc.name
}
