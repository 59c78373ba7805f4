//! `rbuild login` and `rbuild logout`.

use std::io::{self, Read, Write};

use super::{client_options, failed, print, say};
use crate::cli::environment::{Environment, Stdio};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::login::{Login, LoginAction, Logout, PasswordSource};
use crate::cli::terminal::Terminal;
use crate::image::reference::Reference;
use crate::registry::credentials::{Credentials, Secret, Stored};
use crate::registry::login::{Forgotten, Kept, Server};
use crate::registry::{Client, ClientOptions, Entered, RegistryError};

/// The longest password; some are tokens of kilobytes.
const PASSWORD_LIMIT: u64 = 64 << 10;

/// Tries credentials and keeps them, or says whose are known.
pub(super) fn login(request: &Login, environment: &Environment) -> Result<(), Failure> {
    match &request.action {
        LoginAction::ShowUser { file } => {
            let credentials = file.as_ref().map_or_else(Credentials::load, |file| Credentials::from_file(file));
            show_user(&request.server, &credentials)
        }
        LoginAction::Enter { username, password } => {
            let asks = username.is_none() || *password == PasswordSource::Terminal;
            if asks && (environment.stdin != Stdio::Terminal || *password == PasswordSource::Input) {
                return Err(Failure::new(FailureKind::Usage, "there is no terminal to ask for user and password")
                    .hint(format!("rbuild login --username USER --password-stdin {} < FILE", request.server)));
            }
            if let PasswordSource::Given(_) = password {
                say(
                    "warning: others on this machine can see --password in the list of processes, and the shell keeps it; --password-stdin avoids that",
                );
            }
            let username = match username {
                Some(username) => username.clone(),
                None => ask_for_user()?,
            };
            let password = read_password(password)?;
            enter(request, environment, &username, &password)
        }
    }
}

fn enter(request: &Login, environment: &Environment, username: &str, password: &Secret) -> Result<(), Failure> {
    let server = &request.server;
    let credentials = Credentials::password(server.registry(), username, password);
    let client = Client::new(ClientOptions { credentials, ..client_options(&request.registries) });
    match client.enter(&within(server)?) {
        Ok(Entered::Convinced) => {}
        Ok(Entered::Unasked) => {
            say(&format!("note: {} did not ask for credentials, so they were not tried", server.registry()))
        }
        Err(RegistryError::Unauthorized { message, .. }) => {
            let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
            let text = format!("{server} does not accept this user and password{said}");
            return Err(Failure::new(FailureKind::Other, text)
                .hint("nothing was changed; some registries want an access token in place of the password"));
        }
        Err(error) => return Err(failed(&error)),
    }
    match request.file.keep(server, username, password).map_err(|error| failed(&error))? {
        Kept::Helper(_) => {}
        Kept::File => say(&format!(
            "note: the password is in {}, not encrypted, readable by you alone; a credential helper (credsStore) would hide it",
            request.file.path().display()
        )),
    }
    if environment.variable("DOCKER_AUTH_CONFIG").is_some() {
        say("note: DOCKER_AUTH_CONFIG is set; what it says comes before what is kept");
    }
    print("Login Succeeded\n")
}

/// A name in the registry; which one does not matter.
fn within(server: &Server) -> Result<Reference, Failure> {
    let path = if server.repository().is_empty() { "library/any" } else { server.repository() };
    let any: Reference = "any/any".parse().map_err(|error| failed(&error))?;
    any.relocated(&format!("{}/{path}", server.registry())).map_err(|error| failed(&error))
}

fn show_user(server: &Server, credentials: &Credentials) -> Result<(), Failure> {
    let found = credentials.for_repository(server.registry(), server.repository()).map_err(|error| failed(&error))?;
    match found.map(|credential| credential.stored) {
        Some(Stored::Password { username, .. }) => print(&format!("{username}\n")),
        Some(Stored::IdentityToken(_) | Stored::RegistryToken(_)) => print("<token>\n"),
        None => Err(Failure::new(FailureKind::Other, format!("no credentials for {server} are known"))
            .hint(format!("`rbuild login {server}` keeps some"))),
    }
}

fn ask_for_user() -> Result<String, Failure> {
    let mut error = io::stderr().lock();
    let asked = error.write_all(b"Username: ").and_then(|()| error.flush());
    let mut line = String::new();
    asked.and_then(|()| io::stdin().read_line(&mut line)).map_err(|error| failed(&error))?;
    match line.trim() {
        "" => Err(Failure::new(FailureKind::Usage, "no user name was given")),
        name if name.contains(':') => Err(Failure::new(FailureKind::Usage, "a user name has no colon")),
        name => Ok(name.to_owned()),
    }
}

fn read_password(source: &PasswordSource) -> Result<Secret, Failure> {
    let password = match source {
        PasswordSource::Given(password) => return not_empty(password.reveal()),
        PasswordSource::Input => {
            let mut text = String::new();
            io::stdin().take(PASSWORD_LIMIT).read_to_string(&mut text).map_err(|error| failed(&error))?;
            text
        }
        PasswordSource::Terminal => {
            type_password().map_err(|error| failed(&error))?.ok_or_else(Failure::interrupted)?
        }
    };
    // As docker: one line end at the end is of the file, not of the password.
    let password = password.strip_suffix('\n').unwrap_or(&password);
    not_empty(password.strip_suffix('\r').unwrap_or(password))
}

fn not_empty(password: &str) -> Result<Secret, Failure> {
    match password {
        "" => Err(Failure::new(FailureKind::Usage, "the password is empty")),
        password => Ok(Secret::new(password)),
    }
}

/// Reads a line that is not shown; `None` after Ctrl-C.
fn type_password() -> io::Result<Option<String>> {
    let terminal = Terminal::controlling()?;
    terminal.print("Password: ");
    // Raw, so that Ctrl-C comes here as a key: a signal would leave the terminal silent.
    let lent = terminal.lend()?;
    let mut typed = Vec::new();
    let ended = loop {
        let mut key = [0];
        match rustix::io::read(&terminal, &mut key) {
            Ok(0) => break false,
            Err(rustix::io::Errno::INTR) => continue,
            outcome => drop(outcome?),
        }
        match key[0] {
            b'\r' | b'\n' => break true,
            0x03 | 0x04 => break false,
            0x08 | 0x7f => drop(typed.pop()),
            0x15 => typed.clear(),
            other => typed.push(other),
        }
    };
    drop(lent);
    terminal.print("\n");
    let text = String::from_utf8(typed).map_err(|_| io::Error::other("the password is no UTF-8"))?;
    Ok(ended.then_some(text))
}

/// Forgets credentials.
pub(super) fn logout(request: &Logout) -> Result<(), Failure> {
    let servers = match &request.server {
        Some(server) => vec![server.clone()],
        None => request.file.servers().map_err(|error| failed(&error))?,
    };
    for server in &servers {
        match request.file.forget(server).map_err(|error| failed(&error))? {
            Forgotten::Removed => print(&format!("Removed login credentials for {server}\n"))?,
            Forgotten::Unknown => print(&format!("Not logged in to {server}\n"))?,
        }
    }
    Ok(())
}
