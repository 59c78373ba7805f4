//! The client against the registry in this process (each of its faults), and against a real one.

mod auth;
mod compose;
mod places;
mod pull;
mod push;
mod real;

use std::time::Duration;

use super::credentials::Credentials;
use super::fake::{Auth, Registry};
use super::{Client, ClientOptions, RetryPolicy};
use crate::image::reference::Reference;

/// As patient as in real life, but without the waiting.
fn quick() -> RetryPolicy {
    RetryPolicy {
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(5),
        longest_retry_after: Duration::from_millis(300),
        stall: Duration::from_millis(400),
        commit: Duration::from_secs(5),
        connect: Duration::from_secs(2),
        ..RetryPolicy::default()
    }
}

fn options() -> ClientOptions {
    ClientOptions { retry: quick(), certificate_directories: Vec::new(), ..ClientOptions::default() }
}

fn client() -> Client {
    Client::new(options())
}

fn client_of(user: &str, password: &str, registry: &Registry) -> Client {
    let json = format!(r#"{{"auths":{{"{}":{{"username":"{user}","password":"{password}"}}}}}}"#, registry.host());
    Client::new(ClientOptions { credentials: Credentials::from_json("config.json", &json), ..options() })
}

fn open_registry() -> Registry {
    Registry::start(Auth::Open)
}

fn reference(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host()).parse().unwrap()
}
