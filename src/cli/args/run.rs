//! What `run` takes.

use clap::Args;

use super::RegistryArguments;
use super::switch::{Switch, SwitchArgument};
use super::words::WordArgument;
use crate::ui::PROGRESS_WORDS;

pub(super) const RUN_HELP: &str = "\
The command runs in the sandbox that RUN has, as the image's USER in its WORKDIR, with the network of
this machine (no ports to publish). What it writes is gone when it ends, but for what is mounted.

Examples:
  rbuild run app                                    ENTRYPOINT and CMD of the image
  rbuild run app sh                                 a shell; with ENTRYPOINT: --entrypoint sh app
  echo 1+1 | rbuild run -i app bc
  rbuild run oci-archive:app.tar                    an image that is in no store; also oci:DIR, docker-archive:FILE
  rbuild run -v .:/src -w /src node:22 npm test
  rbuild run --commit base:patched -c 'CMD [\"sh\"]' base sh -c 'apt-get update && apt-get -y upgrade'

Ctrl-C, SIGTERM and the like go to the command; the second one kills it.
Exit status: the command's; 126 if it cannot be executed, 127 if it is not there, 125 if something
else kept it from running.";

/// What `run` takes.
#[derive(Debug, Args)]
#[command(override_usage = "rbuild run [OPTIONS] IMAGE [COMMAND] [ARGUMENT]…")]
pub struct RunArguments {
    /// A name, an id or an archive; what follows it is the command in place of the image's CMD
    #[arg(value_name = "IMAGE", required = true, num_args = 1.., trailing_var_arg = true)]
    pub image_and_command: Vec<String>,

    /// Pass standard input on
    #[arg(short, long, optional_switch())]
    pub interactive: Option<Switch>,
    /// Give the command a terminal [default: -it where rbuild has one]
    #[arg(short, long, optional_switch())]
    pub tty: Option<Switch>,
    /// Run this program in place of the image's ENTRYPOINT; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Set a variable; without `=`, to the environment's value (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables of a file of NAME=VALUE lines; --env wins (repeatable)
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<String>,
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
    /// The network: default, private, none, host
    #[arg(long, visible_alias = "net", value_name = "MODE", default_value = "default", words(&["default", "private", "none", "host"]))]
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
    #[arg(long, value_name = "WHEN", words(&["always", "missing", "never"]))]
    pub pull: Option<String>,
    /// The platform to run [default: this machine's; env: DOCKER_DEFAULT_PLATFORM]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How to show a pull: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE", words(&PROGRESS_WORDS))]
    pub progress: Option<String>,
    /// Show nothing of a pull
    #[arg(short, long, switch())]
    pub quiet: Switch,
    /// Make an image of what the command wrote, where it ends with 0; the config stays the image's (repeatable)
    #[arg(long = "commit", value_name = "NAME", help_heading = "Commit")]
    pub commit: Vec<String>,
    /// Change the config of that image as this instruction of a Dockerfile does (repeatable)
    #[arg(short, long = "change", value_name = "INSTRUCTION", help_heading = "Commit", requires = "commit")]
    pub changes: Vec<String>,
    /// What its history says about it
    #[arg(long, value_name = "TEXT", help_heading = "Commit", requires = "commit")]
    pub message: Option<String>,
    /// Accepted: nothing of a container ever stays
    #[arg(long, hide = true, optional_switch())]
    pub rm: Option<Switch>,
    /// Accepted: a first process that reaps the others is always there
    #[arg(long, hide = true, optional_switch())]
    pub init: Option<Switch>,
    /// Accepted: ports are this machine's own
    #[arg(short, long = "publish", hide = true, value_name = "PORT")]
    pub published: Vec<String>,

    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
}
