//! What `login` and `logout` take, as docker and podman have it.

use clap::Args;

use super::{RegistryArguments, Switch};

/// What `login` takes.
#[derive(Debug, Args)]
pub struct LoginArguments {
    /// The registry: HOST[:PORT], or with a path HOST[:PORT]/NAMESPACE for a part of it
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub registry: String,
    /// The user; asked for on a terminal
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// The password, which everybody on this machine can see while it runs: --password-stdin is better
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub password_stdin: Switch,
    /// Print the user that is known for the registry, and do nothing
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub get_login: Switch,
    /// Keep credentials in this file [default: ~/.docker/config.json; env: REGISTRY_AUTH_FILE, DOCKER_CONFIG (directory)]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<String>,
    /// How to reach registries.
    #[command(flatten)]
    pub registries: RegistryArguments,
}

/// What `logout` takes.
#[derive(Debug, Args)]
pub struct LogoutArguments {
    /// The registry: HOST[:PORT], or with a path HOST[:PORT]/NAMESPACE for a part of it
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub registry: String,
    /// Forget the credentials for all registries
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
    pub all: Switch,
    /// The file that credentials are in [default: ~/.docker/config.json; env: REGISTRY_AUTH_FILE, DOCKER_CONFIG (directory)]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<String>,
}
