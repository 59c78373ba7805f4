//! The command line: argv, environment and clock in, a [`Command`] out that says everything once.
//!
//! In reading order: [`args`] is what people type, [`environment`] what surrounds the process, [`request`] what they mean;
//! [`failure`] turns an error into kind, hints and exit code. Contract: after [`parse`] nothing reads argv or the
//! environment
//! any more, and every value that is bad by itself has been refused.

// Its doc comments are the text of `--help`, in which brackets mean what is optional and not links.
#[allow(rustdoc::broken_intra_doc_links, reason = "brackets in help texts are no links")]
pub mod args;
mod commands;
pub mod environment;
pub mod failure;
pub mod request;
mod signals;
pub mod template;
mod terminal;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::diagnostic::Color;
use args::{Arguments, IndexCommand, Subcommand};
use environment::Environment;
use failure::{Failure, FailureKind};
use request::archive::{Export, Import, Load, Save};
use request::commands::{Doctor, History, Images, Inspect, Remove, TagImage};
use request::compare::Compare;
use request::container::RunImage;
use request::copy::Copy;
use request::index::{CreateIndex, InspectIndex};
use request::login::{Login, Logout};
use request::sbom::ListContents;
use request::storage::{CheckStore, DiskUsage, Prune};
use request::transfer::{Pull, Push};
use request::{InvalidRequest, Request, misspelt_command};

/// What rbuild was asked to do.
#[derive(Debug)]
pub enum Command {
    /// Build an image.
    Build(Box<Request>),
    /// Run an image.
    Run(Box<RunImage>),
    /// List images.
    Images(Images),
    /// Remove images.
    Remove(Remove),
    /// Remove what no image needs.
    Prune(Prune),
    /// Look for damage in the store.
    Check(CheckStore),
    /// Push an image.
    Push(Push),
    /// Pull an image.
    Pull(Pull),
    /// Copy images.
    Copy(Box<Copy>),
    /// Keep credentials.
    Login(Box<Login>),
    /// Forget credentials.
    Logout(Logout),
    /// Give an image more names.
    Tag(TagImage),
    /// Show an image's data.
    Inspect(Inspect),
    /// Show how an image was made.
    History(History),
    /// Show how images differ.
    Compare(Compare),
    /// List the packages in an image.
    ListContents(ListContents),
    /// Print a script for a shell.
    Completion(clap_complete::Shell),
    /// Write manual pages.
    Manual(std::path::PathBuf),
    /// Write images into an archive.
    Save(Save),
    /// Take images of an archive.
    Load(Load),
    /// Make an image of files.
    Import(Import),
    /// Write an image's files.
    Export(Export),
    /// Compose an index in a registry.
    CreateIndex(CreateIndex),
    /// Show what a name in a registry stands for.
    InspectIndex(InspectIndex),
    /// Say what this machine can do.
    Doctor(Doctor),
    /// Say what the store holds.
    DiskUsage(DiskUsage),
    /// Print a text (help, version) on standard output and be done.
    Show(String),
}

/// Says why a command line was not understood.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Its shape is wrong: an unknown flag, a missing value.
    #[error("{message}")]
    Syntax {
        /// What is wrong.
        message: String,
        /// What to do.
        hints: Vec<String>,
    },
    /// A value is wrong.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
}

impl UsageError {
    /// What to do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            UsageError::Syntax { hints, .. } => hints.clone(),
            UsageError::Request(invalid) => invalid.hints(),
        }
    }
}

/// The whole program: understands argv, does what it says, reports what went wrong.
pub fn main() -> std::process::ExitCode {
    keep_memory_to_itself();
    let outcome =
        Environment::capture().map_err(|error| Failure::of(FailureKind::Other, &error)).and_then(|environment| {
            let argv: Vec<OsString> = std::env::args_os().collect();
            let command = parse(argv.clone(), &environment).map_err(|error| refused(&argv, error))?;
            let ran = commands::run(command, &environment);
            if names_executor(&argv) { ran.map_err(Failure::for_executor) } else { ran }
        });
    match outcome {
        Ok(code) => std::process::ExitCode::from(code),
        Err(failure) => {
            // Nobody can be told that nobody can be told.
            drop(failure.print(&mut std::io::stderr().lock(), color_of_stderr()));
            std::process::ExitCode::from(failure.exit_code())
        }
    }
}

fn color_of_stderr() -> Color {
    let is_colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if is_colored { Color::Always } else { Color::Never }
}

/// This process holds credentials and secrets, which a core file would keep on disk, and which other processes of the same
/// user, those of a RUN among them, could read through `/proc` or as a debugger. The holder is another program's start and
/// so can be looked into again, as it must be to get its ids; it has no secrets.
fn keep_memory_to_itself() {
    // It always works; if it ever does not, the namespaces still keep a RUN away.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    let limit = rustix::process::getrlimit(Resource::Core);
    // Lowering a limit always works; if it ever does not, the build is as good without.
    setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit }).ok();
}

/// A command line that was not understood. That of `rbuild run` ends as docker's does: 2 could be the command's own.
fn refused(argv: &[OsString], error: UsageError) -> Failure {
    let failure = Failure::from(error);
    let place = place_of_subcommand(argv);
    match argv.get(place).is_some_and(|word| word == "run") {
        true => Failure { kind: FailureKind::Container { status: commands::NOT_RUN }, ..failure },
        false => failure,
    }
}

/// Understands a command line; `argv` starts with the program's name.
pub fn parse(argv: Vec<OsString>, environment: &Environment) -> Result<Command, UsageError> {
    // Made once: it has two hundred parts, which is a good share of what a build that changes nothing costs.
    let command = command();
    let first = argv.get(place_of_subcommand(&argv)).and_then(|word| word.to_str());
    let unknown = first.filter(|word| !is_subcommand(word, &command)).map(str::to_owned);
    let argv = with_default_subcommand(argv, &command);
    let words = argv.iter().filter_map(|word| word.to_str());
    let subcommand = words.into_iter().find(|word| is_subcommand(word, &command)).map(str::to_owned);
    let parsed = command.try_get_matches_from(argv).and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => return Ok(Command::Show(error.render().to_string())),
        Err(error) if error.kind() == ErrorKind::UnknownArgument => {
            let misspelt = unknown.and_then(|word| misspelt_command(&word, environment));
            return Err(misspelt.map_or_else(|| syntax_error(&error, subcommand.as_deref()), UsageError::from));
        }
        Err(error) => return Err(syntax_error(&error, subcommand.as_deref())),
    };
    resolve(arguments, environment).map_err(UsageError::from)
}

/// The clap command. Of a flag that is given twice the last one counts, as in Go's flags; scripts rely on it.
fn command() -> clap::Command {
    Arguments::command().mut_subcommands(|subcommand| subcommand.args_override_self(true))
}

fn resolve(arguments: Arguments, environment: &Environment) -> Result<Command, InvalidRequest> {
    let global = &arguments.global;
    Ok(match arguments.subcommand {
        Subcommand::Build(build) => Command::Build(Box::new(Request::resolve(*build, global, environment)?)),
        Subcommand::Debug(mut build) => {
            build.on_error.get_or_insert_with(|| "shell".to_owned());
            Command::Build(Box::new(Request::resolve(*build, global, environment)?))
        }
        Subcommand::Run(run) => Command::Run(Box::new(RunImage::resolve(*run, global, environment)?)),
        Subcommand::Explain(explain) => {
            Command::Build(Box::new(Request::resolve_explain(*explain, global, environment)?))
        }
        Subcommand::Images(images) => Command::Images(Images::resolve(images, global, environment)?),
        Subcommand::Rmi(remove) => Command::Remove(Remove::resolve(remove, global, environment)?),
        Subcommand::Prune(prune) => Command::Prune(Prune::resolve(prune, global, environment)?),
        Subcommand::Check(check) => Command::Check(CheckStore::resolve(check, global, environment)?),
        Subcommand::Push(push) => Command::Push(Push::resolve(push, global, environment)?),
        Subcommand::Pull(pull) => Command::Pull(Pull::resolve(pull, global, environment)?),
        Subcommand::Copy(copy) => Command::Copy(Box::new(Copy::resolve(copy, global, environment)?)),
        Subcommand::Executor(executor) => {
            Command::Build(Box::new(Request::resolve_executor(*executor, global, environment)?))
        }
        Subcommand::Login(login) => Command::Login(Box::new(Login::resolve(login, environment)?)),
        Subcommand::Logout(logout) => Command::Logout(Logout::resolve(logout, environment)?),
        Subcommand::Tag(tag) => Command::Tag(TagImage::resolve(tag, global, environment)?),
        Subcommand::Inspect(inspect) => Command::Inspect(Inspect::resolve(inspect, global, environment)?),
        Subcommand::History(history) => Command::History(History::resolve(history, global, environment)?),
        Subcommand::Diff(diff) => Command::Compare(Compare::resolve(diff, global, environment)?),
        Subcommand::Sbom(sbom) => Command::ListContents(ListContents::resolve(sbom, global, environment)?),
        Subcommand::Completion(completion) => Command::Completion(completion.shell),
        Subcommand::Man(manual) => Command::Manual(environment.absolute(manual.directory)),
        Subcommand::Save(save) => Command::Save(Save::resolve(save, global, environment)?),
        Subcommand::Load(load) => Command::Load(Load::resolve(load, global, environment)?),
        Subcommand::Import(import) => Command::Import(Import::resolve(import, global, environment)?),
        Subcommand::Export(export) => Command::Export(Export::resolve(export, global, environment)?),
        Subcommand::Index(index) => match index.command {
            IndexCommand::Create(create) => Command::CreateIndex(CreateIndex::resolve(create, environment)?),
            IndexCommand::Inspect(inspect) => Command::InspectIndex(InspectIndex::resolve(inspect, environment)?),
        },
        Subcommand::Doctor(doctor) => Command::Doctor(Doctor::resolve(doctor, global, environment)),
        Subcommand::Du(usage) => Command::DiskUsage(DiskUsage::resolve(usage, global, environment)?),
    })
}

/// Whether a command line is one of kaniko's, by the program's name or the subcommand's.
fn names_executor(argv: &[OsString]) -> bool {
    is_executor(argv) || argv.get(place_of_subcommand(argv)).is_some_and(|word| word == "executor")
}

/// Puts `build` where no subcommand stands, so that `rbuild .` and `rbuild -t x .` build.
///
/// Only flags that every subcommand has may stand before a subcommand. A word that names one wins over a directory of
/// that name, which is written `./images`.
fn with_default_subcommand(mut argv: Vec<OsString>, command: &clap::Command) -> Vec<OsString> {
    let words: Vec<Option<&str>> = argv.iter().skip(1).map(|word| word.to_str()).collect();
    if words == [Some("executor"), Some("version")] || is_executor(&argv) && words == [Some("version")] {
        // kaniko's own subcommand.
        argv.splice(1.., [OsString::from("--version")]);
        return argv;
    }
    if is_executor(&argv) {
        argv.insert(1, OsString::from("executor"));
        return argv;
    }
    let place = place_of_subcommand(&argv);
    let is_known = match argv.get(place).and_then(|word| word.to_str()) {
        Some("-h" | "--help" | "-V" | "--version" | "help") => true,
        Some(word) => is_subcommand(word, command),
        None => false,
    };
    let word = |place: usize| argv.get(place).and_then(|word| word.to_str());
    if word(place) == Some("debug") && matches!(word(place + 1), Some("build" | "b")) {
        // As `docker buildx debug build`.
        argv.remove(place + 1);
    }
    if !is_known {
        argv.insert(argv.len().min(1), OsString::from("build"));
    }
    argv
}

/// Whether the program goes by the name of kaniko's, and builds.
fn is_executor(argv: &[OsString]) -> bool {
    let name = argv.first().map(Path::new).and_then(Path::file_name);
    let first = argv.get(1).and_then(|word| word.to_str());
    name.is_some_and(|name| name == "executor") && !matches!(first, Some("executor" | "login" | "--version"))
}

/// Where a subcommand stands, if there is one: behind the flags that every one has.
fn place_of_subcommand(argv: &[OsString]) -> usize {
    let mut place = 1;
    while let Some(word) = argv.get(place).and_then(|word| word.to_str()) {
        match word {
            "--root" => place += 2,
            "-D" | "--debug" => place += 1,
            _ if word.starts_with("--root=") || word.starts_with("--debug=") => place += 1,
            _ => break,
        }
    }
    place
}

fn is_subcommand(word: &str, command: &clap::Command) -> bool {
    command
        .get_subcommands()
        .any(|command| command.get_name() == word || command.get_all_aliases().any(|alias| alias == word))
}

/// The names of all subcommands, for "did you mean".
pub(crate) fn subcommand_names() -> Vec<String> {
    Arguments::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Clap's own text without what repeats on every error: `error:`, the usage line, and the pointer to `--help`.
fn syntax_error(error: &clap::Error, subcommand: Option<&str>) -> UsageError {
    let text = error.render().to_string();
    let mut message: Vec<&str> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for line in text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")) {
        match line.trim().strip_prefix("tip:") {
            Some(tip) => hints.push(tip.trim().to_owned()),
            None => message.push(line),
        }
    }
    let message = message.join("\n");
    let message = message.trim();
    let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
    hints.push(match subcommand {
        Some(subcommand) => format!("`rbuild {subcommand} --help` says what it takes"),
        None => "`rbuild --help` lists the commands".to_owned(),
    });
    UsageError::Syntax { message, hints }
}

#[cfg(test)]
mod tests;
