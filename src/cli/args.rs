//! The command line as people type it. Flags that `docker buildx build` has are spelled and mean the same.
//!
//! Contract: these are flat tables, one file per subject, and their texts are the manual. They take values as words;
//! [`super::request`] understands them.

mod archive;
mod attest;
mod build;
mod caches;
mod compare;
mod copy;
mod executor;
mod image;
mod index;
mod limits;
mod login;
mod manual;
mod registry;
mod reproducible;
mod run;
mod sbom;
mod sign;
mod squash;
mod storage;
mod switch;
mod words;

use clap::{Args, Parser};

pub use archive::{ExportArguments, ImportArguments, LoadArguments, SaveArguments};
pub use attest::AttestArguments;
pub use build::{AcceptedArguments, BuildArguments, ExplainArguments};
pub use caches::CacheArguments;
pub use compare::DiffArguments;
pub use copy::CopyArguments;
pub use executor::{ExecutorArguments, OtherExecutorArguments};
pub use image::{HistoryArguments, ImagesArguments, InspectArguments, RemoveArguments, TagArguments};
pub use index::{IndexArguments, IndexCommand, IndexCreateArguments, IndexInspectArguments};
pub use limits::LimitArguments;
pub use login::{LoginArguments, LogoutArguments};
pub use manual::{CompletionArguments, ManualArguments};
pub use registry::{PullArguments, PushArguments, RegistryArguments};
pub use reproducible::ReproducibleArguments;
pub use run::RunArguments;
pub use sbom::SbomArguments;
pub use sign::SigningArguments;
pub use squash::LayeringArguments;
pub use storage::{CheckArguments, DiskUsageArguments, DoctorArguments, PruneArguments};
pub use switch::Switch;
use switch::SwitchArgument;

const EXAMPLES: &str = "\
Examples:
  rbuild -t app .                                   build ./Dockerfile into rbuild's own store
  rbuild -t registry.example/me/app:1 --push .      build and push
  rbuild -o type=oci,dest=app.tar .                 write an OCI archive
  rbuild -o type=docker,dest=- -t app . | docker load
  rbuild -o out .                                   write the result's files into the directory out
  rbuild --secret id=npm,src=$HOME/.npmrc --ssh default .
  rbuild - < Dockerfile                             build without a context

A directory named like a command is written with a slash: rbuild ./images
Exit status: 0, the exit status of a RUN that failed, 2 for a wrong command line, 130 after Ctrl-C, 1 otherwise.";

const EXECUTOR_HELP: &str = "\
Takes the place of gcr.io/kaniko-project/executor: the same flags, and the same meaning. A link or copy of rbuild that is
named `executor` needs no word before them. Flags about kaniko's own way of working (snapshots, clean-up) are taken and need
nothing done; what cannot be followed is told, or an error where the result depends on it.

  rbuild executor --context dir:///workspace --dockerfile Dockerfile --destination registry.example/app:1 --cache=true";

/// Builds container images from Dockerfiles: no daemon, no root, no set-up.
///
/// `rbuild [FLAGS] [CONTEXT]` is short for `rbuild build [FLAGS] [CONTEXT]`; see `rbuild build --help`.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    bin_name = "rbuild",
    override_usage = "rbuild [build] [OPTIONS] [CONTEXT]\n       rbuild COMMAND [OPTIONS]",
    version,
    about,
    long_about,
    after_help = EXAMPLES,
    subcommand_required = true,
    max_term_width = 100
)]
pub struct Arguments {
    /// What every command takes.
    #[command(flatten)]
    pub global: GlobalArguments,
    /// The command.
    #[command(subcommand)]
    pub subcommand: Subcommand,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct GlobalArguments {
    /// Keep images and cache in this directory [default: /var/lib/rbuild as root, else ~/.local/share/rbuild;
    /// env: RBUILD_ROOT]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Common")]
    pub root: Option<String>,
    /// Say more about what happens
    #[arg(short = 'D', long, global = true, help_heading = "Common", switch())]
    pub debug: Switch,
}

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Build an image (the default command)
    #[command(after_help = build::BUILD_HELP, visible_alias = "b")]
    Build(Box<BuildArguments>),
    /// Build, and open a shell where a RUN fails: build --on-error=shell
    #[command(after_help = build::BUILD_HELP)]
    Debug(Box<BuildArguments>),
    /// Run an image, to try it; nothing of it stays
    #[command(after_help = run::RUN_HELP)]
    Run(Box<RunArguments>),
    /// Say which steps a build would run, and why, without running any
    #[command(after_help = build::EXPLAIN_HELP)]
    Explain(Box<ExplainArguments>),
    /// List images
    #[command(visible_alias = "ls")]
    Images(ImagesArguments),
    /// Remove images
    Rmi(RemoveArguments),
    /// Remove what no image needs: cache, unfinished downloads
    Prune(PruneArguments),
    /// Look for damage in the store, and repair it
    Check(CheckArguments),
    /// Push an image to its registry
    Push(PushArguments),
    /// Pull an image from its registry
    Pull(PullArguments),
    /// Copy images between registries and archives, byte for byte
    #[command(after_help = copy::COPY_HELP, visible_alias = "cp")]
    Copy(CopyArguments),
    /// Build with the flags of kaniko's executor
    #[command(after_help = EXECUTOR_HELP)]
    Executor(Box<ExecutorArguments>),
    /// Keep credentials for a registry
    Login(LoginArguments),
    /// Forget credentials for a registry
    Logout(LogoutArguments),
    /// Give an image more names
    Tag(TagArguments),
    /// Show an image's configuration and manifest as JSON
    Inspect(InspectArguments),
    /// Show the steps that made an image
    History(HistoryArguments),
    /// Compose and show indexes of several platforms' images in registries
    Index(IndexArguments),
    /// Show how two images differ, in their configs and files
    #[command(after_help = compare::DIFF_HELP)]
    Diff(DiffArguments),
    /// List the packages in an image: a table, or a software bill of materials in SPDX
    #[command(after_help = sbom::SBOM_HELP)]
    Sbom(SbomArguments),
    /// Write images into an archive, for docker load, podman load, rbuild load
    #[command(after_help = archive::SAVE_HELP)]
    Save(SaveArguments),
    /// Take the images of an archive into the store
    #[command(after_help = archive::LOAD_HELP)]
    Load(LoadArguments),
    /// Make an image of a tar of a root file system
    #[command(after_help = archive::IMPORT_HELP)]
    Import(ImportArguments),
    /// Write the files of an image, as its containers see them, into a tar
    Export(ExportArguments),
    /// Say what this machine can do, and how it could do more
    Doctor(DoctorArguments),
    /// Say how much space images and cache take
    Du(DiskUsageArguments),
    /// Print a script that completes commands, flags and names of images
    #[command(after_help = manual::COMPLETION_HELP)]
    Completion(CompletionArguments),
    /// Write manual pages into a directory
    Man(ManualArguments),
}
