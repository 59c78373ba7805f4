//! The Dockerfile as a tree: what was written, where, with nothing expanded and nothing decided.
//!
//! Words keep their quotes, escapes and `$variables`; `plan::expand` gives them their meaning.

use crate::diagnostic::{Span, Spanned};

/// A piece of text as it was written (continuations joined), and its place.
pub type Word = Spanned<String>;

/// A whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// Parser directives at the head of the file.
    pub directives: Directives,
    /// ARG instructions before the first FROM.
    pub global_args: Vec<Instruction>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

/// Parser directives (`# syntax=`, `# escape=`, `# check=`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The frontend that the file asks for.
    pub syntax: Option<Word>,
    /// The escape character: a backslash or a backtick.
    pub escape: char,
    /// What `# check=` says, as written after the equals sign.
    pub check: Option<Word>,
}

impl Default for Directives {
    fn default() -> Directives {
        Directives { syntax: None, escape: '\\', check: None }
    }
}

/// FROM and the instructions up to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The FROM instruction's place.
    pub span: Span,
    /// The word FROM as written.
    pub keyword: Word,
    /// `--platform=`.
    pub platform: Option<Word>,
    /// What the stage starts from, not expanded.
    pub base: Word,
    /// The word AS as written, where there is one.
    pub as_keyword: Option<Word>,
    /// The name after AS, as written; names are compared in lower case.
    pub name: Option<Word>,
    /// The `# name text` comment right above.
    pub doc: Option<String>,
    /// Rules that a `# check=skip=…` comment right above switches off.
    pub skipped_rules: Vec<String>,
    /// The instructions, FROM excluded.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The whole of it, here-documents included.
    pub span: Span,
    /// Its name as written (`copy`).
    pub keyword: Word,
    /// The logical line as BuildKit keeps it (continuations joined, comments dropped), with here-document bodies after it:
    /// what ONBUILD stores.
    pub original: String,
    /// The comment right above, where it has the form `# name text`.
    pub doc: Option<String>,
    /// Rules that a `# check=skip=…` comment right above switches off.
    pub skipped_rules: Vec<String>,
    /// What it asks for.
    pub operation: Operation,
}

/// What an instruction asks for. Large forms are boxed: most instructions are small, and files have many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// ADD.
    Add(Box<Transfer>),
    /// ARG: one or more declarations.
    Arg(Vec<ArgDeclaration>),
    /// CMD.
    Cmd(Command),
    /// COPY.
    Copy(Box<Transfer>),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// ENV.
    Env(Vec<KeyValue>),
    /// EXPOSE.
    Expose(Vec<Word>),
    /// HEALTHCHECK.
    Healthcheck(Box<Healthcheck>),
    /// LABEL.
    Label(Vec<KeyValue>),
    /// MAINTAINER.
    Maintainer(Word),
    /// ONBUILD with the instruction it keeps.
    Onbuild(Box<Instruction>),
    /// RUN.
    Run(Box<Run>),
    /// SHELL.
    Shell(Vec<Word>),
    /// STOPSIGNAL.
    Stopsignal(Word),
    /// USER.
    User(Word),
    /// VOLUME.
    Volume(Vec<Word>),
    /// WORKDIR.
    Workdir(Word),
}

/// `name` or `name=default` of an ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name.
    pub name: Word,
    /// The default, quotes kept.
    pub default: Option<Word>,
    /// The comment right above, where it has the form `# name text`.
    pub doc: Option<String>,
}

/// One pair of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, quotes kept.
    pub key: Word,
    /// The value, quotes kept.
    pub value: Word,
    /// Whether it was written in the old form, without an equals sign.
    pub legacy: bool,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Text for the shell.
    Shell(Word),
    /// A JSON list, decoded.
    Exec(Vec<Word>),
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes; the file's name in COPY and ADD.
    pub name: String,
    /// The file descriptor written before `<<`; 0 where none was.
    pub descriptor: u32,
    /// Whether variables in the body are expanded (the delimiter was not quoted).
    pub expand: bool,
    /// Whether it was written `<<-`.
    pub strip_tabs: bool,
    /// The body as written, each line ended.
    pub body: String,
    /// The body's place.
    pub span: Span,
}

impl Heredoc {
    /// What it says: the body without the leading tabs that `<<-` takes off.
    pub fn content(&self) -> String {
        let indent: &[char] = if self.strip_tabs { &['\t'] } else { &[] };
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches(indent)).collect()
    }
}

/// `--device=` of RUN: a device that the machine describes by CDI, the container device interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name, `vendor.com/class=name` in full.
    pub name: Word,
    /// Whether the command cannot do without it.
    pub required: bool,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command line; in shell form it still holds the `<<NAME` words.
    pub command: Command,
    /// Its here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount=` flags, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network=`.
    pub network: Option<Word>,
    /// `--security=`.
    pub security: Option<Word>,
    /// `--device=` flags.
    pub devices: Vec<Device>,
}

/// One `--mount=` flag, split at its commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The flag's place.
    pub span: Span,
    /// Keys (as written) and values (not expanded), in order.
    pub fields: Vec<(Word, Option<Word>)>,
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// What to copy, in order.
    pub sources: Vec<TransferSource>,
    /// Where to.
    pub destination: Word,
    /// `--from=`.
    pub from: Option<Word>,
    /// `--chown=`.
    pub chown: Option<Word>,
    /// `--chmod=`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude=` flags.
    pub exclude: Vec<Word>,
    /// `--checksum=`.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// One source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferSource {
    /// A path, pattern, URL or git reference.
    Path(Word),
    /// A here-document.
    Heredoc(Heredoc),
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [options] CMD …`.
    Check {
        /// What to run.
        command: Command,
        /// Nanoseconds; 0 = not given.
        interval: u64,
        /// Nanoseconds; 0 = not given.
        timeout: u64,
        /// Nanoseconds; 0 = not given.
        start_period: u64,
        /// Nanoseconds; 0 = not given.
        start_interval: u64,
        /// 0 = not given.
        retries: u64,
    },
}
