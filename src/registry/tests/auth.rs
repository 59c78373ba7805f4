//! Who gets to see what: challenges, tokens, redirects.

use std::io::{self, Read};

use super::super::credentials::{Credential, Credentials, Stored};
use super::super::fake::{Auth, Fault, Registry, digest_of};
use super::super::{Client, ClientOptions, RegistryError};
use super::{client, client_of, open_registry, options, reference};
use crate::image::manifest::Descriptor;
use crate::image::media_type::{OCI_INDEX, OCI_LAYER_GZIP};

fn read(client: &Client, registry: &Registry, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    client.blob(&reference(registry, "a"), &Descriptor::of(OCI_LAYER_GZIP, bytes)).read_to_end(&mut out)?;
    Ok(out)
}

fn send(client: &Client, registry: &Registry) -> Result<(), RegistryError> {
    client.push_manifest(&reference(registry, "a:t"), OCI_INDEX, b"{}").map(drop)
}

fn token_registry() -> Registry {
    let registry = Registry::start(Auth::Token("me", "secret"));
    registry.put_blob("a", b"x");
    registry
}

/// The `Authorization` values that a registry was shown.
fn shown(registry: &Registry) -> Vec<String> {
    registry.asked().into_iter().filter_map(|asked| asked.authorization).collect()
}

#[test]
fn a_password_is_shown_when_it_is_asked_for() {
    let registry = Registry::start(Auth::Basic("me", "secret"));
    registry.put_blob("a", b"x");
    let client = client_of("me", "secret", &registry);
    assert_eq!(read(&client, &registry, b"x").unwrap(), b"x");
    assert_eq!(shown(&registry).len(), 1, "not with the first request");
    send(&client, &registry).unwrap();
    assert_eq!(registry.count("PUT", "/manifests/"), 1, "from then on without being asked");
}

#[test]
fn refused_and_missing_credentials_are_told_apart() {
    for auth in [Auth::Basic("me", "secret"), Auth::Token("me", "secret")] {
        let registry = Registry::start(auth);
        let error = send(&client_of("me", "wrong", &registry), &registry).unwrap_err();
        let RegistryError::Unauthorized { credentials, message, .. } = &error else { panic!("{error}") };
        assert_eq!(credentials.as_deref(), Some("config.json"));
        assert!(message.contains("said by the test registry"), "{message}");
        let error = send(&client(), &registry).unwrap_err();
        assert!(matches!(error, RegistryError::Unauthorized { credentials: None, .. }), "{error}");
        assert!(registry.asked().len() < 12, "it is not tried again and again: {:?}", registry.asked());
    }
}

#[test]
fn a_token_is_fetched_once_per_scope_and_used_again() {
    let registry = token_registry();
    let anonymous = client();
    for _ in 0..3 {
        assert_eq!(read(&anonymous, &registry, b"x").unwrap(), b"x");
    }
    assert_eq!(registry.count("GET", "/token"), 1);
    assert_eq!(registry.count("GET", "service=test&scope=repository%3Aa%3Apull&client_id="), 1);
    let known = client_of("me", "secret", &registry);
    send(&known, &registry).unwrap();
    send(&known, &registry).unwrap();
    assert_eq!(registry.count("GET", "scope=repository%3Aa%3Apull%2Cpush&account=me"), 1);
}

#[test]
fn a_token_that_expires_in_the_middle_of_a_pull_is_replaced() {
    let registry = token_registry();
    let bytes = vec![7; 400_000];
    registry.put_blob("a", &bytes);
    let client = client();
    assert_eq!(read(&client, &registry, b"x").unwrap(), b"x");
    registry.plan("GET", "/blobs/", 1, Fault::Cut(200_000));
    let mut reader = client.blob(&reference(&registry, "a"), &Descriptor::of(OCI_LAYER_GZIP, &bytes));
    let mut out = vec![0; 100_000];
    reader.read_exact(&mut out).unwrap();
    registry.expire_tokens();
    reader.read_to_end(&mut out).unwrap();
    assert!(out == bytes);
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[test]
fn a_registry_that_refuses_every_token_is_not_asked_for_ever() {
    let registry = token_registry();
    let challenge = format!("Bearer realm=\"{}/token\"", registry.url());
    registry.plan("GET", "/blobs/", 1000, Fault::Status(401, vec![("www-authenticate", challenge)], ""));
    let error = read(&client(), &registry, b"x").unwrap_err();
    assert!(matches!(RegistryError::of_io(&error), Some(RegistryError::Unauthorized { .. })), "{error}");
    assert_eq!(registry.count("GET", "/blobs/"), 2);
    let registry = open_registry();
    registry.plan("GET", "/blobs/", 1000, Fault::Status(401, vec![], "no challenge"));
    assert!(read(&client(), &registry, b"x").unwrap_err().to_string().contains("no challenge"));
}

#[test]
fn an_identity_token_is_changed_for_an_access_token() {
    let registry = token_registry();
    let json = format!(r#"{{"auths":{{"{}":{{"identitytoken":"secret"}}}}}}"#, registry.host());
    let credentials = Credentials::from_json("c", &json);
    let found = credentials.for_repository(&registry.host(), "a").unwrap();
    assert!(matches!(found, Some(Credential { stored: Stored::IdentityToken(_), .. })));
    send(&Client::new(ClientOptions { credentials, ..options() }), &registry).unwrap();
    assert_eq!(registry.count("POST", "/token"), 1);
    assert!(registry.asked().iter().all(|asked| !asked.target.contains("secret")));
}

#[test]
fn a_token_server_that_fails_for_a_moment_is_asked_again() {
    let registry = token_registry();
    registry.plan("GET", "/token", 2, Fault::Status(503, vec![], ""));
    assert_eq!(read(&client(), &registry, b"x").unwrap(), b"x");
    assert_eq!(registry.count("GET", "/token"), 3);
}

#[test]
fn nonsense_of_a_token_server_is_an_error_without_its_text() {
    for (answer, expected) in [
        ("{\"token\":\"\"}", "gave no token"),
        ("{\"token\":\"a\\r\\nb\"}", "gave no token"),
        ("{\"token\":5,\"x\":\"hunter2\"}", "is no token"),
        ("hunter2", "is no token"),
    ] {
        let registry = token_registry();
        registry.plan("GET", "/token", 1, Fault::Status(200, vec![], answer));
        let error = read(&client(), &registry, b"x").unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_token_without_end_is_refused() {
    let registry = token_registry();
    let large: &'static str = " ".repeat((1 << 20) + 1).leak();
    registry.plan("GET", "/token", 1, Fault::Status(200, vec![], large));
    let error = read(&client(), &registry, b"x").unwrap_err();
    assert!(matches!(RegistryError::of_io(&error), Some(RegistryError::TooLarge { limit: 1_048_576, .. })), "{error}");
}

#[test]
fn a_token_request_is_not_redirected() {
    let (registry, thief) = (token_registry(), open_registry());
    registry.plan("GET", "/token", 1, Fault::Redirect(307, thief.url()));
    let error = send(&client_of("me", "secret", &registry), &registry).unwrap_err();
    assert!(error.to_string().contains("redirect of the token server"), "{error}");
    assert_eq!(thief.asked(), []);
}

#[test]
fn a_token_stays_with_the_registry() {
    let (registry, store) = (token_registry(), open_registry());
    store.put_blob("a", b"x");
    let client = client_of("me", "secret", &registry);
    read(&client, &registry, b"x").unwrap();
    for status in [301, 302, 303, 307, 308] {
        registry.plan("GET", "/blobs/", 1, Fault::Redirect(status, store.url()));
        assert_eq!(read(&client, &registry, b"x").unwrap(), b"x");
        assert!(registry.asked().last().unwrap().authorization.is_some(), "or the test shows nothing");
    }
    assert_eq!(store.count("GET", "/blobs/"), 5);
    assert_eq!(shown(&store), Vec::<String>::new());
}

#[test]
fn a_redirect_to_a_host_that_wants_credentials_gets_none() {
    let (registry, thief) = (token_registry(), Registry::start(Auth::Token("me", "secret")));
    let client = client_of("me", "secret", &registry);
    read(&client, &registry, b"x").unwrap();
    registry.plan("GET", "/blobs/", 100, Fault::Redirect(307, thief.url()));
    let error = read(&client, &registry, b"x").unwrap_err();
    assert!(matches!(RegistryError::of_io(&error), Some(RegistryError::Denied { .. })), "{error}");
    assert_eq!((shown(&thief), thief.count("GET", "/token")), (vec![], 0));
}

#[test]
fn a_redirect_that_comes_back_does_not_bring_the_token_back() {
    let (registry, other) = (token_registry(), open_registry());
    let client = client_of("me", "secret", &registry);
    read(&client, &registry, b"x").unwrap();
    let before = shown(&registry).len();
    registry.plan("GET", "/blobs/", 1, Fault::Redirect(307, other.url()));
    other.plan("GET", "/blobs/", 1, Fault::Redirect(307, registry.url()));
    read(&client, &registry, b"x").unwrap();
    let after = registry.asked();
    let without = after.iter().skip(before).filter(|asked| asked.authorization.is_none()).count();
    assert!(without >= 1, "{after:?}");
    assert_eq!(shown(&other), Vec::<String>::new());
}

#[test]
fn an_upload_to_another_host_carries_no_token() {
    let (registry, store) = (token_registry(), open_registry());
    let location = format!("{}/v2/a/blobs/uploads/unknown", store.url());
    registry.plan("POST", "/uploads/", 100, Fault::Status(202, vec![("location", location)], ""));
    let open = || Ok(Box::new(b"y".as_slice()) as Box<dyn Read + Send>);
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, b"y");
    let outcome = client_of("me", "secret", &registry).push_blob(&reference(&registry, "a"), &descriptor, &open, None);
    assert!(outcome.is_err(), "the other host knows no such upload");
    assert!(store.count("PUT", "/uploads/") > 0);
    assert_eq!(shown(&store), Vec::<String>::new());
}

#[test]
fn layers_from_elsewhere_are_not_fetched_from_there() {
    let (registry, elsewhere) = (token_registry(), Registry::start(Auth::Token("me", "secret")));
    elsewhere.put_blob("a", b"y");
    let mut descriptor = Descriptor::of(OCI_LAYER_GZIP, b"y");
    descriptor.urls = vec![format!("{}/v2/a/blobs/{}", elsewhere.url(), digest_of(b"y"))];
    let mut reader = client_of("me", "secret", &registry).blob(&reference(&registry, "a"), &descriptor);
    assert_eq!(reader.read(&mut [0; 10]).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(elsewhere.asked(), []);
}

#[test]
fn secrets_are_in_no_error() {
    let registry = token_registry();
    let client = client_of("me", "hunter2", &registry);
    let error = send(&client, &registry).unwrap_err();
    let text = format!("{error} {error:?} {client:?}");
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    let store = open_registry();
    let location = format!("{}/gone?X-Amz-Signature=hunter2", store.url());
    registry.plan("GET", "/blobs/", 1, Fault::Status(307, vec![("location", location)], ""));
    store.plan("GET", "", 10, Fault::Status(418, vec![], ""));
    let error = read(&super::client(), &registry, b"x").unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("/gone") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_broken_credential_helper_is_told_when_credentials_are_needed() {
    let registry = token_registry();
    let json = format!(r#"{{"credHelpers":{{"{}":"../evil"}}}}"#, registry.host());
    let client = Client::new(ClientOptions { credentials: Credentials::from_json("c", &json), ..options() });
    let error = send(&client, &registry).unwrap_err();
    assert!(matches!(error, RegistryError::Credentials(_)), "{error}");
    let open = open_registry();
    let credentials = Credentials::from_json("c", "broken");
    let client = Client::new(ClientOptions { credentials, ..options() });
    send(&client, &open).expect("nobody asked for credentials");
}
