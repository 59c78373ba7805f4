//! What `login` and `logout` were asked to do.

use std::path::PathBuf;

use super::fields::Given;
use super::{InvalidRequest, RegistryOptions, registries};
use crate::cli::args::{LoginArguments, LogoutArguments};
use crate::cli::environment::Environment;
use crate::registry::credentials::Secret;
use crate::registry::login::{LoginFile, Server};

/// `login`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// For which registry.
    pub server: Server,
    /// Where credentials are kept.
    pub file: LoginFile,
    /// What to do.
    pub action: LoginAction,
    /// How to reach registries.
    pub registries: RegistryOptions,
}

/// What `login` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginAction {
    /// Prints who is known.
    ShowUser {
        /// By this file; by all places where rbuild looks, where none is named.
        file: Option<PathBuf>,
    },
    /// Tries credentials and keeps them.
    Enter {
        /// The user; asked for where none.
        username: Option<String>,
        /// The password.
        password: PasswordSource,
    },
}

/// Where the password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// The command line.
    Given(Secret),
    /// Standard input, all of it.
    Input,
    /// Whoever sits at the terminal.
    Terminal,
}

/// `logout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logout {
    /// From which registry; from all where none.
    pub server: Option<Server>,
    /// Where credentials are kept.
    pub file: LoginFile,
}

impl Login {
    pub(in crate::cli) fn resolve(
        arguments: LoginArguments,
        environment: &Environment,
    ) -> Result<Login, InvalidRequest> {
        let password = match (arguments.password, arguments.password_stdin.is_on()) {
            (Some(password), _) => PasswordSource::Given(Secret::new(password)),
            (None, true) => PasswordSource::Input,
            (None, false) => PasswordSource::Terminal,
        };
        let name = arguments.username.as_deref();
        if name.is_some_and(|name| name.is_empty() || name.contains(':')) {
            let value = name.unwrap_or_default();
            return Err(Given { flag: "--username", value, expected: "a name without a colon" }.invalid());
        }
        let action = if arguments.get_login.is_on() {
            LoginAction::ShowUser { file: arguments.authfile.as_ref().map(|path| environment.absolute(path)) }
        } else {
            LoginAction::Enter { username: arguments.username, password }
        };
        Ok(Login {
            server: server(&arguments.registry)?,
            file: file(arguments.authfile.as_deref(), environment)?,
            action,
            registries: registries(&arguments.registries, environment)?,
        })
    }
}

impl Logout {
    pub(in crate::cli) fn resolve(
        arguments: LogoutArguments,
        environment: &Environment,
    ) -> Result<Logout, InvalidRequest> {
        let server = if arguments.all.is_on() { None } else { Some(server(&arguments.registry)?) };
        Ok(Logout { server, file: file(arguments.authfile.as_deref(), environment)? })
    }
}

fn server(text: &str) -> Result<Server, InvalidRequest> {
    let given = Given { flag: "REGISTRY", value: text, expected: "HOST, HOST:PORT or HOST/NAMESPACE" };
    text.parse().map_err(|_| given.invalid())
}

fn file(flag: Option<&str>, environment: &Environment) -> Result<LoginFile, InvalidRequest> {
    match flag {
        Some("") => Err(Given { flag: "--authfile", value: "", expected: "a file" }.invalid()),
        Some(path) => Ok(LoginFile::at(environment.absolute(path))),
        None => {
            let variable = |name: &str| environment.variable(name).map(|value| environment.absolute(value));
            LoginFile::of_environment(variable).map_err(|error| InvalidRequest::InvalidValue {
                flag: "--authfile",
                value: String::new(),
                reason: error.to_string(),
            })
        }
    }
}
