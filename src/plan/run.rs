//! RUN: shell, here-documents, environment, mounts.

use super::args::{self, CACHE_NAMESPACE};
use super::planner::Reported;
use super::stage::Walk;
use super::stages::{Origin, Reader};
use super::{CommandForm, HeredocFile, MountSource, Network, Op, ResolvedMount, RunOp, Security, StepId};
use super::{history, path, title};
use crate::diagnostic::{Diagnostic, Span};
use crate::dockerfile::ast::{Command, Heredoc, Instruction, MountFlag, Run, Word};
use crate::dockerfile::mount::{self, Mount, MountType};

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
        let mounts = run.mounts.iter().map(|flag| self.mount(flag)).collect::<Vec<Result<ResolvedMount, Reported>>>();
        let network = self.network(run.network.as_ref());
        let security = self.security(run.security.as_ref());
        if let Some(device) = run.devices.first() {
            return Err(self.error(device.span, "RUN --device is not supported: a build has no devices to give"));
        }
        let mounts = mounts.into_iter().collect::<Result<Vec<ResolvedMount>, Reported>>()?;
        let executed = self.executed(run);
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
            proxy_env: self.planner.build_args.proxies(environment),
            cwd: self.workdir_path().to_owned(),
            user: self.state.config.config.user.clone(),
            hostname: self.planner.options.hostname.clone(),
            mounts,
            network: network?,
            security: security?,
            form: executed.form,
        };
        let step = self.push(Op::Run(op), inputs, instruction.span, text);
        self.state.history.push(history::entry(history, Some(step)));
        Ok(())
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
                if only.body.starts_with("#!") && self.state.config.os != "windows" {
                    let file = HeredocFile { name: only.name.clone(), content: only.body.clone() };
                    (file.path(), Some(file), summary)
                } else {
                    (only.body.clone(), None, summary)
                }
            }
            heredocs => {
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

    fn mount(&mut self, flag: &MountFlag) -> Result<ResolvedMount, Reported> {
        let mut fields: Vec<(String, Option<String>)> = Vec::new();
        let mut from: Option<&Word> = None;
        for (key, value) in &flag.fields {
            let expanded = self.expand_optional(value.as_ref())?;
            if key.value.eq_ignore_ascii_case("from") {
                from = value.as_ref();
            }
            fields.push((key.value.clone(), expanded));
        }
        let mut mount = mount::parse(&fields).map_err(|error| self.error(flag.span, error.message))?;
        let source = self.mount_source(&mount, from, flag.span)?;
        self.complete(&mut mount, flag)?;
        Ok(ResolvedMount { mount, source })
    }

    fn mount_source(&mut self, mount: &Mount, from: Option<&Word>, flag: Span) -> Result<MountSource, Reported> {
        if !matches!(mount.kind, MountType::Bind | MountType::Cache) {
            return Ok(MountSource::Empty);
        }
        let Some(name) = mount.from.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(if mount.kind == MountType::Cache { MountSource::Empty } else { MountSource::Context });
        };
        let span = self.place(from.map_or(flag, |word| word.span));
        if !self.state.is_known && from.is_some_and(|word| word.value.contains('$')) {
            return Err(Reported);
        }
        let target = mount.target.clone().unwrap_or_default();
        let origin = self.planner.origin(name, span, self.index, Reader::Mount { target: &target })?;
        Ok(match origin {
            Origin::Context(key) => MountSource::NamedContext(key),
            Origin::Scratch if mount.kind == MountType::Cache => MountSource::Empty,
            origin => MountSource::Step(self.planner.read_only(&origin, span, self.index)),
        })
    }

    /// Fills in what depends on the stage: the absolute target, a cache's id.
    fn complete(&mut self, mount: &mut Mount, flag: &MountFlag) -> Result<(), Reported> {
        let written = mount.target.clone();
        let has_no_file = matches!(mount.kind, MountType::Secret | MountType::Ssh) && written.is_none();
        if !has_no_file {
            let target = path::absolute(self.workdir_path(), written.as_deref().unwrap_or_default());
            if target == "/" {
                return Err(self.error(flag.span, "invalid mount target \"/\""));
            }
            mount.target = Some(target);
        }
        if mount.kind == MountType::Cache {
            let id = mount.id.take().filter(|id| !id.is_empty());
            let id = id.unwrap_or_else(|| path::clean(written.as_deref().unwrap_or_default()));
            mount.id = Some(match self.planner.build_args.value(CACHE_NAMESPACE) {
                Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
                _ => id,
            });
        }
        Ok(())
    }
}

/// Whether a command is one here-document and nothing else: `<<EOF`, `<<-"EOF"`.
fn is_whole_command(text: &str, heredoc: &Heredoc) -> bool {
    let text = text.trim().trim_start_matches(|character: char| character.is_ascii_digit());
    let Some(rest) = text.strip_prefix("<<") else { return false };
    let name = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    name.replace(['"', '\'', '\\'], "") == heredoc.name
}
