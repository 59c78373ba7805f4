//! The command line as people type it. Flags that `docker buildx build` has are spelled and mean the same.
//!
//! Contract: this is a flat table, and its texts are the manual. It takes values as words; [`super::request`] understands
//! them. Go's flags take `--push=false`, and scripts are full of it: every switch here is a [`Switch`].

mod caches;
mod limits;
mod storage;

use std::str::FromStr;

pub use caches::CacheArguments;
use clap::{Args, Parser};
pub use limits::LimitArguments;

pub use storage::{CheckArguments, DiskUsageArguments, PruneArguments};

/// A flag that may be written bare or with `=true` or `=false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// Given, or `=true`.
    On,
    /// Not given, or `=false`.
    #[default]
    Off,
}

impl FromStr for Switch {
    type Err = &'static str;

    /// Takes the words of Go's `strconv.ParseBool`.
    fn from_str(word: &str) -> Result<Switch, &'static str> {
        match word {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Switch::On),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Switch::Off),
            _ => Err("expected true or false"),
        }
    }
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

const BUILD_HELP: &str = "\
Outputs (--output), besides rbuild's own store, which always has the image:
  DIR, type=local,dest=DIR      the result's files; mode=delete removes others, platform-split=false keeps platforms together
  -, type=tar[,dest=FILE]       the result's files in a tar
  type=oci[,dest=FILE]          an OCI layout in a tar; with tar=false,dest=DIR a directory
  type=docker[,dest=FILE]       what docker load and podman load read
  type=registry[,name=NAME]     pushed; push-by-digest=true pushes without a tag
  type=image,name=NAME          one more name in the store; with push=true as registry
  Without dest, a tar goes to standard output. Images also take: compression=gzip|zstd|uncompressed,
  compression-level=N, force-compression=true, rewrite-timestamp=true, oci-mediatypes=true, annotation.KEY=VALUE

Examples:
  rbuild -t app .
  rbuild -t registry.example/me/app:1 --push .
  rbuild -o type=docker,dest=- -t app . | docker load
  rbuild -o type=oci,dest=app.tar,compression=zstd --platform linux/amd64,linux/arm64 .
  rbuild --target test --build-arg GO_VERSION=1.24 --no-cache-filter test .
  rbuild --secret id=npm,src=$HOME/.npmrc --ssh default https://git.example/me/app.git#main

Exit status: 0, the exit status of a RUN that failed, 2 for a wrong command line, 130 after Ctrl-C, 1 otherwise.";

const RUN_HELP: &str = "\
The command runs in the sandbox that RUN has, as the image's USER in its WORKDIR, with the network of
this machine (no ports to publish). What it writes is gone when it ends, but for what is mounted.

Examples:
  rbuild run app                                    ENTRYPOINT and CMD of the image
  rbuild run app sh                                 a shell; with ENTRYPOINT: --entrypoint sh app
  echo 1+1 | rbuild run -i app bc
  rbuild run -v .:/src -w /src node:22 npm test

Ctrl-C, SIGTERM and the like go to the command; the second one kills it.
Exit status: the command's; 126 if it cannot be executed, 127 if it is not there, 125 if something
else kept it from running.";

const EXPLAIN_HELP: &str = "\
Takes the flags of `rbuild build`; give the same ones. Nothing runs and nothing is written; configs of base images and
remote sources are fetched where a key needs them.

For each step: HIT, or MISS with the reason, and all that its key is made of. UNKNOWN is what copies from a stage that has
to run first.";

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
    #[arg(
        short = 'D',
        long,
        global = true,
        help_heading = "Common",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        hide_possible_values = true,
        value_name = "BOOL"
    )]
    pub debug: Switch,
}

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Build an image (the default command)
    #[command(after_help = BUILD_HELP, visible_alias = "b")]
    Build(Box<BuildArguments>),
    /// Build, and open a shell where a RUN fails: build --on-error=shell
    #[command(after_help = BUILD_HELP)]
    Debug(Box<BuildArguments>),
    /// Run an image, to try it; nothing of it stays
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArguments>),
    /// Say which steps a build would run, and why, without running any
    #[command(after_help = EXPLAIN_HELP)]
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
    /// Give an image more names
    Tag(TagArguments),
    /// Show an image's configuration and manifest as JSON
    Inspect(InspectArguments),
    /// Show the steps that made an image
    History(HistoryArguments),
    /// Say what this machine can do, and how it could do more
    Doctor(DoctorArguments),
    /// Say how much space images and cache take
    Du(DiskUsageArguments),
}

/// What `explain` takes.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The flags of the build.
    #[command(flatten)]
    pub build: BuildArguments,
    /// text, or json for programs
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Messages")]
    pub format: String,
}

/// What `build` takes.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// The directory that COPY reads from; or a URL of a Git repository or an archive; or `-`: an archive or
    /// a Dockerfile on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: String,

    /// Name the image: [registry/]repository[:tag] (repeatable)
    #[arg(short, long = "tag", value_name = "NAME", help_heading = "Result")]
    pub tags: Vec<String>,
    /// Write the result: a directory, `-` (tar on standard output), or type=TYPE[,KEY=VALUE…], see below (repeatable)
    #[arg(short, long = "output", value_name = "OUTPUT", help_heading = "Result")]
    pub outputs: Vec<String>,
    /// Push to the registries that the tags name; short for --output type=registry
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL",
        help_heading = "Result"
    )]
    pub push: Switch,
    /// Accepted: the image is always in rbuild's own store. To hand it to Docker: -o type=docker,dest=- | docker load
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL",
        help_heading = "Result"
    )]
    pub load: Switch,
    /// Add a label to the image (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", help_heading = "Result")]
    pub labels: Vec<String>,
    /// Add an OCI annotation; TYPE is manifest, index, manifest-descriptor or index-descriptor, with
    /// [PLATFORM] behind it for one platform (repeatable)
    #[arg(long = "annotation", value_name = "[TYPE:]KEY=VALUE", help_heading = "Result")]
    pub annotations: Vec<String>,
    /// Write the image's id to a file
    #[arg(long = "iidfile", value_name = "FILE", help_heading = "Result")]
    pub image_id_file: Option<String>,
    /// Write digests and names of the result to a file as JSON
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub metadata_file: Option<String>,

    /// The Dockerfile; `-` reads it from standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE", help_heading = "What to build")]
    pub file: Option<String>,
    /// Build up to this stage
    #[arg(long, value_name = "STAGE", help_heading = "What to build")]
    pub target: Option<String>,
    /// Give an ARG a value; without `=`, the environment's (repeatable)
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", help_heading = "What to build")]
    pub build_args: Vec<String>,
    /// Build for these platforms, such as linux/arm64; several make an index [env: DOCKER_DEFAULT_PLATFORM]
    /// (repeatable)
    #[arg(long = "platform", value_name = "PLATFORM,…", value_delimiter = ',', help_heading = "What to build")]
    pub platforms: Vec<String>,
    /// Name another context for FROM and COPY --from: a directory, a URL, docker-image://NAME,
    /// oci-layout://DIR[:TAG|@DIGEST] or target:STAGE (repeatable)
    #[arg(long = "build-context", value_name = "NAME=SOURCE", help_heading = "What to build")]
    pub build_contexts: Vec<String>,

    /// Look for newer base images: always, missing (only what is not here), never [default: missing]
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        value_name = "WHEN",
        help_heading = "Cache"
    )]
    pub pull: Option<String>,
    /// Run every step again
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL",
        help_heading = "Cache"
    )]
    pub no_cache: Switch,
    /// Run every step of these stages again (repeatable)
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',', help_heading = "Cache")]
    pub no_cache_filter: Vec<String>,
    /// Caches elsewhere.
    #[command(flatten)]
    pub caches: CacheArguments,

    /// Give RUN --mount=type=secret a value: id=NAME[,src=FILE|,env=VARIABLE] (repeatable)
    #[arg(long = "secret", value_name = "SECRET", help_heading = "RUN")]
    pub secrets: Vec<String>,
    /// Give RUN --mount=type=ssh an agent or keys: default|ID[=SOCKET|KEY,…] (repeatable)
    #[arg(long, value_name = "AGENT", help_heading = "RUN")]
    pub ssh: Vec<String>,
    /// The network of RUN: default (the machine's, without abstract sockets), private (its own, which leads out through
    /// pasta or slirp4netns; nothing of this machine's loopback is in reach), none, host
    #[arg(long, visible_alias = "net", value_name = "MODE", default_value = "default", help_heading = "RUN")]
    pub network: String,
    /// Add a line to /etc/hosts of RUN: HOST:IP or HOST=IP; the address host-gateway is this machine (repeatable)
    #[arg(long = "add-host", value_name = "HOST:IP", value_delimiter = ',', help_heading = "RUN")]
    pub hosts: Vec<String>,
    /// A name server for RUN in place of this machine's (repeatable)
    #[arg(long = "dns", value_name = "IP", value_delimiter = ',', help_heading = "RUN")]
    pub name_servers: Vec<String>,
    /// A domain in which RUN looks for short names; `.` for none (repeatable)
    #[arg(long = "dns-search", value_name = "DOMAIN", value_delimiter = ',', help_heading = "RUN")]
    pub search_domains: Vec<String>,
    /// An option of resolv.conf for RUN, such as ndots:1 (repeatable)
    #[arg(long = "dns-option", alias = "dns-opt", value_name = "OPTION", help_heading = "RUN")]
    pub resolver_options: Vec<String>,
    /// Allow what a Dockerfile may ask for: network.host, security.insecure, device[=NAME] (repeatable)
    #[arg(long = "allow", value_name = "ENTITLEMENT", help_heading = "RUN")]
    pub entitlements: Vec<String>,
    /// Look for descriptions of devices (CDI, in JSON) here in place of /etc/cdi and /var/run/cdi (repeatable)
    #[arg(long = "cdi-spec-dir", value_name = "DIRECTORY", help_heading = "RUN")]
    pub cdi_directories: Vec<String>,
    /// The size of /dev/shm in RUN, such as 256m
    #[arg(long, value_name = "SIZE", help_heading = "RUN")]
    pub shm_size: Option<String>,
    /// When a RUN fails: stop, or open a shell in its files, variables, user and mounts (needs a terminal) [default: stop]
    #[arg(long, value_name = "ACTION", help_heading = "RUN")]
    pub on_error: Option<String>,
    /// The least isolation of RUN that will do: full (namespaces) or chroot, also without Landlock [default: full where
    /// the place allows it, else chroot with Landlock; env: RBUILD_ISOLATION]
    #[arg(long, value_name = "MODE", help_heading = "RUN")]
    pub isolation: Option<String>,
    /// How a root for RUN is made of layers: auto, overlay, copy; auto takes copies where the kernel or the store's
    /// file system refuses overlay mounts, which takes longer [default: auto; env: RBUILD_STORAGE_DRIVER]
    #[arg(long, value_name = "DRIVER", help_heading = "RUN")]
    pub storage_driver: Option<String>,
    /// Run at most so many steps at once [default: one per processor]
    #[arg(short, long, value_name = "NUMBER", help_heading = "RUN")]
    pub jobs: Option<String>,

    /// How to show progress: auto, plain, tty, rawjson, quiet, none [default: auto; env: BUILDKIT_PROGRESS]
    #[arg(long, value_name = "MODE", help_heading = "Messages")]
    pub progress: Option<String>,
    /// Print the image's id and nothing else
    #[arg(
        short,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL",
        help_heading = "Messages"
    )]
    pub quiet: Switch,
    /// Check the Dockerfile and build nothing; short for --call check
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL",
        help_heading = "Messages"
    )]
    pub check: Switch,
    /// Print the plan, every step with all that it depends on, and build nothing; short for --call plan
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL",
        help_heading = "Messages"
    )]
    pub dry_run: Switch,
    /// What to do with the Dockerfile: build, plan, check, outline, targets; add ,format=json for programs
    #[arg(long, visible_alias = "print", value_name = "METHOD", help_heading = "Messages")]
    pub call: Option<String>,

    /// What RUN may use at most.
    #[command(flatten)]
    pub limits: LimitArguments,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
    /// What is accepted for the sake of scripts.
    #[command(flatten)]
    pub accepted: AcceptedArguments,
}

/// How to reach registries.
#[derive(Debug, Args)]
pub struct RegistryArguments {
    /// Speak plain HTTP, or HTTPS without checking certificates, with this registry: HOST[:PORT] (repeatable)
    #[arg(long = "insecure-registry", value_name = "HOST", help_heading = "Registries")]
    pub insecure_registries: Vec<String>,
    /// Trust the certificates in this PEM file besides the system's (repeatable)
    #[arg(long = "ca-cert", value_name = "FILE", help_heading = "Registries")]
    pub ca_certificates: Vec<String>,
}

/// Flags of other builders that have no meaning here (yet): each gives a sentence about what happens instead.
#[derive(Debug, Args)]
pub struct AcceptedArguments {
    /// Provenance attestations; only `false` is supported
    #[arg(long, value_name = "PROVENANCE", hide = true)]
    pub provenance: Option<String>,
    /// SBOM attestations; only `false` is supported
    #[arg(long, value_name = "SBOM", hide = true)]
    pub sbom: Option<String>,
    /// Attestations; only disabled ones are supported
    #[arg(long = "attest", value_name = "ATTESTATION", hide = true)]
    pub attestations: Vec<String>,
    /// No intermediate containers are left
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rm: Option<Switch>,
    /// No intermediate containers are left
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub force_rm: Option<Switch>,
    /// There is no daemon that the context is sent to
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub compress: Option<Switch>,
    /// A layer per step is kept
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub squash: Option<Switch>,
    /// There are no builder instances
    #[arg(long, hide = true, value_name = "NAME")]
    pub builder: Option<String>,
    /// Security options of the daemon's containers
    #[arg(long, hide = true, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Source policy
    #[arg(long = "policy", hide = true, value_name = "POLICY")]
    pub policies: Vec<String>,
}

/// What `run` takes.
#[derive(Debug, Args)]
#[command(override_usage = "rbuild run [OPTIONS] IMAGE [COMMAND] [ARGUMENT]…")]
pub struct RunArguments {
    /// A name or an id; what follows it is the command in place of the image's CMD
    #[arg(value_name = "IMAGE", required = true, num_args = 1.., trailing_var_arg = true)]
    pub image_and_command: Vec<String>,

    /// Pass standard input on
    #[arg(
        short,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub interactive: Option<Switch>,
    /// Give the command a terminal [default: -it where rbuild has one]
    #[arg(
        short,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub tty: Option<Switch>,
    /// Run this program in place of the image's ENTRYPOINT; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Set a variable; without `=`, to the environment's value (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// The working directory
    #[arg(short, long = "workdir", value_name = "DIR")]
    pub working_directory: Option<String>,
    /// Run as this user: user, uid, user:group or uid:gid
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Show a file or directory of this machine: SOURCE:TARGET, with :ro it cannot be changed (repeatable)
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    pub volumes: Vec<String>,
    /// The same in words: type=bind,source=PATH,target=PATH[,readonly]; or type=tmpfs,target=PATH[,size=SIZE] (repeatable)
    #[arg(long = "mount", value_name = "MOUNT")]
    pub mounts: Vec<String>,
    /// The network: default, none, host
    #[arg(long, visible_alias = "net", value_name = "MODE", default_value = "default")]
    pub network: String,
    /// Add a line to /etc/hosts: HOST:IP or HOST=IP (repeatable)
    #[arg(long = "add-host", value_name = "HOST:IP", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// The host name [default: rbuild]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// The size of /dev/shm, such as 256m
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Pull the image: always, missing (where it is not here), never [default: missing]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "always", value_name = "WHEN")]
    pub pull: Option<String>,
    /// The platform to pull [default: this machine's; env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How to show a pull: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE")]
    pub progress: Option<String>,
    /// Show nothing of a pull
    #[arg(
        short,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub quiet: Switch,
    /// Accepted: nothing of a container ever stays
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rm: Option<Switch>,
    /// Accepted: a first process that reaps the others is always there
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub init: Option<Switch>,
    /// Accepted: ports are this machine's own
    #[arg(short, long = "publish", hide = true, value_name = "PORT")]
    pub published: Vec<String>,

    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}

/// What `images` takes.
#[derive(Debug, Args)]
pub struct ImagesArguments {
    /// Only images whose name holds this text
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Print table or json
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
}

/// What `rmi` takes.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove an id that has several names, and do not fail where there is no such image
    #[arg(short, long)]
    pub force: bool,
}

/// What `push` takes.
#[derive(Debug, Args)]
pub struct PushArguments {
    /// A name in the store, which is also where it goes
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where else to push it
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// How to show progress: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE")]
    pub progress: Option<String>,
    /// Print the digest and nothing else
    #[arg(short, long)]
    pub quiet: bool,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}

/// What `pull` takes.
#[derive(Debug, Args)]
pub struct PullArguments {
    /// A name
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The platform to pull [default: this machine's; env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How to show progress: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE")]
    pub progress: Option<String>,
    /// Print the digest and nothing else
    #[arg(short, long)]
    pub quiet: bool,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}

/// What `tag` takes.
#[derive(Debug, Args)]
pub struct TagArguments {
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The new names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// What `inspect` takes.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// What to show: image (all at once), manifest, config, index; the last three byte for byte
    #[arg(long, value_name = "WHAT", default_value = "image")]
    pub show: String,
    /// Of an index, the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

/// What `history` takes.
#[derive(Debug, Args)]
pub struct HistoryArguments {
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Do not cut long commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Print table or json
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
}

/// What `doctor` takes.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
