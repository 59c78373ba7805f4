//! The instructions that change the image's config alone, and WORKDIR.

use super::planner::Reported;
use super::stage::Walk;
use super::{Op, WorkdirOp};
use super::{expose, history, path, signal, title};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::dockerfile::ast::{Command, Healthcheck, Instruction, KeyValue, Word};
use crate::dockerfile::lint;
use crate::image::config;

/// As many as there are: every port of three protocols, and a few. The history repeats each port that an EXPOSE names, so that a small
/// file of many ranges would be an image config of gigabytes.
const MOST_PORTS: usize = 200_000;

/// The longest path that Linux takes (`PATH_MAX`, less its final zero). It also bounds what `WORKDIR a` a thousand times,
/// each below the one before, comes to.
const LONGEST_PATH: usize = 4_095;

/// What interprets shell-form commands where SHELL does not say.
fn default_shell(os: &str) -> Vec<String> {
    let words: &[&str] = if os == "windows" { &["cmd", "/S", "/C"] } else { &["/bin/sh", "-c"] };
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Walk<'_, '_> {
    /// The shell, without the command.
    pub(super) fn shell_words(&self) -> Vec<String> {
        match self.state.config.config.shell.as_slice() {
            [] => default_shell(&self.state.config.os),
            shell => shell.to_vec(),
        }
    }

    /// The working directory, absolute and clean.
    pub(super) fn workdir_path(&self) -> String {
        path::absolute("/", &self.state.config.config.working_dir)
    }

    /// Makes the base's working directory absolute; one that is stays as it is written.
    pub(super) fn normalize_workdir(&mut self) {
        let directory = &mut self.state.config.config.working_dir;
        if !directory.is_empty() && !directory.starts_with('/') {
            *directory = path::absolute("/", directory);
        }
    }

    pub(super) fn workdir(&mut self, instruction: &Instruction, word: &Word) -> Result<(), Reported> {
        let text = self.expand(word)?;
        if !self.state.has_workdir && !text.starts_with('/') && self.is_unseen(word) {
            let message = format!("Relative workdir {text:?} can have unexpected results if the base image changes");
            self.warn("WorkdirRelativePath", word.span, message);
        }
        self.state.has_workdir = true;
        // As BuildKit has it, what is absolute stands in the config as it is written: WORKDIR /app/ with its slash.
        let before = &self.state.config.config.working_dir;
        let shown = match text.as_str() {
            "" if !before.is_empty() => before.clone(),
            text if text.starts_with('/') => text.to_owned(),
            text => path::absolute(&self.workdir_path(), text),
        };
        if shown.len() > LONGEST_PATH {
            let message = format!("the working directory has a path of more than {LONGEST_PATH} bytes");
            let error = Diagnostic::error(word.span, message);
            self.report(error.help("no program can enter it; give a shorter path that starts with /"));
            // So that it is not said of each relative path that follows.
            "/".clone_into(&mut self.state.config.config.working_dir);
            return Err(Reported);
        }
        let history = format!("WORKDIR {shown}");
        let is_root = shown == "/";
        self.state.config.config.working_dir = shown;
        if is_root {
            self.commit(history);
            return Ok(());
        }
        let title = title::instruction(instruction, &self.state.environment, &[]);
        let op = WorkdirOp { path: self.workdir_path(), user: self.state.config.config.user.clone() };
        let step = self.push(Op::Workdir(op), Vec::new(), instruction.span, title);
        self.state.history.push(history::entry(history, Some(step)));
        Ok(())
    }

    pub(super) fn env(&mut self, pairs: &[KeyValue]) -> Result<(), Reported> {
        let pairs = self.pairs(pairs)?;
        for (name, value) in &pairs {
            self.state.environment.set(name, value);
            let entry = format!("{name}={value}");
            let entries = &mut self.state.config.config.env;
            let old = entries.iter_mut().find(|entry| entry.split('=').next() == Some(name));
            match old {
                Some(old) => *old = entry,
                None => entries.push(entry),
            }
        }
        self.commit(pairs_text("ENV", &pairs));
        Ok(())
    }

    pub(super) fn label(&mut self, pairs: &[KeyValue]) -> Result<(), Reported> {
        let pairs = self.pairs(pairs)?;
        self.state.config.config.labels.extend(pairs.iter().cloned());
        self.commit(pairs_text("LABEL", &pairs));
        Ok(())
    }

    /// Expands every pair with the variables as they were before the instruction.
    fn pairs(&mut self, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, Reported> {
        let expanded: Vec<Result<(String, String), Reported>> =
            pairs.iter().map(|pair| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?))).collect();
        expanded.into_iter().collect()
    }

    pub(super) fn cmd(&mut self, instruction: &Instruction, command: &Command) -> Result<(), Reported> {
        self.has_cmd = true;
        self.recommend_json(instruction, command);
        let args = self.command(command);
        self.commit(format!("CMD {}", history::quoted_list(&args)));
        let config = &mut self.state.config.config;
        config.cmd = Some(args).filter(|args| !args.is_empty());
        // Docker for Windows asked for it; BuildKit sets it everywhere, so the config's bytes would differ without it.
        config.args_escaped = true;
        Ok(())
    }

    pub(super) fn entrypoint(&mut self, instruction: &Instruction, command: &Command) -> Result<(), Reported> {
        self.recommend_json(instruction, command);
        let args = self.command(command);
        self.commit(format!("ENTRYPOINT {}", history::quoted_list(&args)));
        let config = &mut self.state.config.config;
        config.entrypoint = Some(args).filter(|args| !args.is_empty());
        if !self.has_cmd {
            config.cmd = None;
        }
        Ok(())
    }

    /// Who chose a shell, here or in the base image, means it.
    fn recommend_json(&mut self, instruction: &Instruction, command: &Command) {
        if matches!(command, Command::Shell(_)) && self.state.config.config.shell.is_empty() {
            self.report(lint::json_args_recommended(instruction.span, &instruction.keyword.value));
        }
    }

    fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
            Command::Shell(text) => {
                let mut args = self.shell_words();
                args.push(text.value.clone());
                args
            }
        }
    }

    pub(super) fn healthcheck(&mut self, check: &Healthcheck) -> Result<(), Reported> {
        let check = match check {
            Healthcheck::None => {
                config::Healthcheck { test: vec!["NONE".to_owned()], ..config::Healthcheck::default() }
            }
            Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
                let test = match command {
                    Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.value.clone()],
                    Command::Exec(words) => {
                        let words = words.iter().map(|word| word.value.clone());
                        std::iter::once("CMD".to_owned()).chain(words).collect()
                    }
                };
                config::Healthcheck {
                    test,
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                }
            }
        };
        self.commit(history::healthcheck(&check));
        self.state.config.config.healthcheck = Some(check);
        Ok(())
    }

    /// The words are sorted as written, then expanded, then split again, so one variable can hold several ports.
    pub(super) fn expose(&mut self, words: &[Word]) -> Result<(), Reported> {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|left, right| left.value.cmp(&right.value));
        let mut ports: Vec<String> = Vec::new();
        let mut failure = None;
        for word in sorted {
            match self.exposed(word) {
                Ok(found) => ports.extend(found),
                Err(reported) => failure = Some(reported),
            }
        }
        if let Some(reported) = failure {
            return Err(reported);
        }
        for port in &ports {
            self.state.config.config.exposed_ports.insert(port.clone(), serde_json::json!({}));
        }
        self.commit(format!("EXPOSE {}", history::plain_list(&ports)));
        Ok(())
    }

    fn exposed(&mut self, word: &Word) -> Result<Vec<String>, Reported> {
        let mut ports = Vec::new();
        for text in self.expand_words(word)? {
            if self.planner.exposed_ports > MOST_PORTS {
                return Err(Reported);
            }
            let exposed = expose::parse(&text).map_err(|message| self.error(word.span, message))?;
            self.planner.exposed_ports += exposed.ports.len();
            if self.planner.exposed_ports > MOST_PORTS {
                let error =
                    Diagnostic::error(word.span, format!("the file exposes more than {MOST_PORTS} ports in all"));
                self.report(error.help("name only the ports that something listens on"));
                return Err(Reported);
            }
            if exposed.protocol_has_capitals && self.is_unseen(word) {
                let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
                self.warn("ExposeProtoCasing", word.span, message);
            }
            if exposed.maps_host && self.is_unseen(word) {
                let message =
                    format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
                self.warn("ExposeInvalidFormat", word.span, message);
            }
            ports.extend(exposed.ports);
        }
        Ok(ports)
    }

    pub(super) fn maintainer(&mut self, word: &Word) -> Result<(), Reported> {
        self.state.config.author.clone_from(&word.value);
        self.commit(format!("MAINTAINER {}", word.value));
        Ok(())
    }

    pub(super) fn shell(&mut self, words: &[Word]) -> Result<(), Reported> {
        let shell: Vec<String> = words.iter().map(|word| word.value.clone()).collect();
        self.commit(format!("SHELL {}", history::plain_list(&shell)));
        self.state.config.config.shell = shell;
        Ok(())
    }

    pub(super) fn stopsignal(&mut self, word: &Word) -> Result<(), Reported> {
        let text = self.expand(word)?;
        if !signal::is_signal(&text) {
            let names: Vec<String> = signal::names().collect();
            let mut diagnostic = Diagnostic::error(word.span, format!("Invalid signal: {text}"));
            let meant = did_you_mean(&text, names.iter().map(String::as_str));
            diagnostic.help = meant.map(|meant| format!("did you mean {meant}?"));
            self.report(diagnostic);
            return Err(Reported);
        }
        self.commit(format!("STOPSIGNAL {text}"));
        self.state.config.config.stop_signal = text;
        Ok(())
    }

    pub(super) fn user(&mut self, word: &Word) -> Result<(), Reported> {
        let user = self.expand(word)?;
        self.commit(format!("USER {user}"));
        self.state.config.config.user = user;
        Ok(())
    }

    pub(super) fn volume(&mut self, words: &[Word]) -> Result<(), Reported> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(word)?;
            if volume.is_empty() {
                return Err(self.error(word.span, "VOLUME specified can not be an empty string"));
            }
            volumes.push(volume);
        }
        for volume in &volumes {
            self.state.config.config.volumes.insert(volume.clone(), serde_json::json!({}));
        }
        self.commit(format!("VOLUME {}", history::plain_list(&volumes)));
        Ok(())
    }
}

fn pairs_text(name: &str, pairs: &[(String, String)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!(" {key}={value}"));
    format!("{name}{}", pairs.collect::<String>())
}
