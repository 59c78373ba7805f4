//! Where requests go: mirrors, locations, blocked registries, proxies, IPv6.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::super::credentials::Credentials;
use super::super::fake::{Auth, Fault, Registry, digest_of};
use super::super::proxy::Proxies;
use super::super::service::{Call, CallContent, Effort, Reply, Verb};
use super::super::url::Url;
use super::super::{Client, ClientOptions, PushOutcome, RegistryError, RegistryFiles};
use super::{client, open_registry, options, reference};
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::media_type::{OCI_INDEX, OCI_LAYER_GZIP};

const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

/// A client that reads this `registries.conf`.
fn told(text: &str) -> Client {
    told_with(text, Credentials::none())
}

fn told_with(text: &str, credentials: Credentials) -> Client {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registries.conf");
    std::fs::write(&path, text).unwrap();
    let client = Client::new(ClientOptions { registries: RegistryFiles::of(path), credentials, ..options() });
    // Has it read while it is there.
    client.full_name(&"x".parse().unwrap()).unwrap();
    client
}

fn mirrored(registry: &Registry, mirror: &Registry) -> String {
    format!("[[registry]]\nlocation='{}'\n[[registry.mirror]]\nlocation='{}/copy'\n", registry.host(), mirror.host())
}

fn read(client: &Client, registry: &Registry, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    client.blob(&reference(registry, "a"), &Descriptor::of(OCI_LAYER_GZIP, bytes)).read_to_end(&mut out)?;
    Ok(out)
}

#[test]
fn a_mirror_that_has_it_is_asked_alone() {
    let (registry, mirror) = (open_registry(), open_registry());
    mirror.put_manifest("copy/a", "t", OCI_INDEX, INDEX);
    mirror.put_blob("copy/a", b"x");
    let client = told(&mirrored(&registry, &mirror));
    let tag = reference(&registry, "a:t");
    let resolved = client.resolve(&tag, None).unwrap();
    assert_eq!(resolved.digest, Digest::of(INDEX));
    assert_eq!(client.head_manifest(&tag).unwrap().unwrap().digest, resolved.digest);
    assert_eq!(client.manifest(&tag, &Descriptor::of(OCI_INDEX, INDEX)).unwrap(), INDEX);
    assert_eq!(read(&client, &registry, b"x").unwrap(), b"x");
    assert_eq!(registry.asked(), []);
}

#[test]
fn a_mirror_that_does_not_help_costs_one_question_and_no_build() {
    for fault in [
        Fault::Status(404, vec![], ""),
        Fault::Status(403, vec![], ""),
        Fault::Status(401, vec![], ""),
        Fault::Status(500, vec![], ""),
        Fault::Status(200, vec![("content-type", "text/html".into())], "<html>sign in</html>"),
        Fault::Reset,
    ] {
        let (registry, mirror) = (open_registry(), open_registry());
        registry.put_manifest("a", "t", OCI_INDEX, INDEX);
        registry.put_blob("a", b"x");
        mirror.plan("", "", 1000, fault.clone());
        let client = told(&mirrored(&registry, &mirror));
        assert_eq!(client.resolve(&reference(&registry, "a:t"), None).unwrap().digest, Digest::of(INDEX), "{fault:?}");
        let asked = mirror.asked().len();
        assert_eq!(read(&client, &registry, b"x").unwrap(), b"x", "{fault:?}");
        assert_eq!(mirror.asked().len(), asked, "{fault:?}: the place that had the manifest comes first");
    }
    let (registry, gone) = (open_registry(), open_registry());
    registry.put_blob("a", b"x");
    let client = told(&mirrored(&registry, &gone));
    drop(gone);
    assert_eq!(read(&client, &registry, b"x").unwrap(), b"x");
}

#[test]
fn a_blob_that_a_mirror_loses_goes_on_at_the_registry() {
    let (registry, mirror) = (open_registry(), open_registry());
    let bytes = vec![7; 300_000];
    registry.put_blob("a", &bytes);
    mirror.put_blob("copy/a", &bytes);
    mirror.plan("GET", "/blobs/", 1, Fault::Cut(100_000));
    mirror.plan("GET", "/blobs/", 1000, Fault::Status(404, vec![], ""));
    let client = told(&mirrored(&registry, &mirror));
    assert!(read(&client, &registry, &bytes).unwrap() == bytes);
    assert_eq!(registry.asked().last().unwrap().range.as_deref(), Some("bytes=100000-"));
}

#[test]
fn a_blob_that_a_mirror_changed_is_refused() {
    let (registry, mirror) = (open_registry(), open_registry());
    mirror.put_blob("copy/a", b"right");
    mirror.plan("GET", "/blobs/", 1, Fault::Corrupt);
    let error = read(&told(&mirrored(&registry, &mirror)), &registry, b"right").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[test]
fn what_nobody_has_is_told_of_all_that_were_asked() {
    let (registry, mirror) = (open_registry(), open_registry());
    let client = told(&mirrored(&registry, &mirror));
    let error = client.resolve(&reference(&registry, "a:t"), None).unwrap_err();
    assert!(matches!(error.last(), RegistryError::NotFound { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("{}/copy/a", mirror.host())) && text.contains(&registry.host()), "{text}");
    assert_eq!(client.head_manifest(&reference(&registry, "a:t")).unwrap(), None);
    let error = read(&client, &registry, b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
}

#[test]
fn a_mirror_for_digests_is_not_asked_what_a_tag_stands_for() {
    let (registry, mirror) = (open_registry(), open_registry());
    registry.put_manifest("a", "t", OCI_INDEX, INDEX);
    mirror.put_manifest("copy/a", "t", OCI_INDEX, b"{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{}}");
    mirror.put_manifest("copy/b", "", OCI_INDEX, INDEX);
    let client = told(&format!("{}pull-from-mirror='digest-only'\n", mirrored(&registry, &mirror)));
    assert_eq!(client.resolve(&reference(&registry, "a:t"), None).unwrap().digest, Digest::of(INDEX));
    assert_eq!(mirror.asked(), []);
    let pinned = reference(&registry, &format!("b@{}", digest_of(INDEX)));
    assert_eq!(client.resolve(&pinned, None).unwrap().digest, Digest::of(INDEX));
    assert_eq!(registry.count("GET", "/v2/b/"), 0);
}

#[test]
fn a_push_goes_where_its_name_says() {
    let (registry, mirror) = (open_registry(), open_registry());
    let client = told(&mirrored(&registry, &mirror));
    let open = || Ok(Box::new(b"x".as_slice()) as Box<dyn Read + Send>);
    let pushed = client.push_blob(&reference(&registry, "a"), &Descriptor::of(OCI_LAYER_GZIP, b"x"), &open, None);
    assert_eq!(pushed.unwrap(), PushOutcome::Uploaded);
    client.push_manifest(&reference(&registry, "a:t"), OCI_INDEX, INDEX).unwrap();
    assert_eq!(mirror.asked(), []);
}

#[test]
fn a_blocked_registry_is_not_asked() {
    let registry = open_registry();
    let client = told(&format!("[[registry]]\nlocation='{}'\nblocked=true\n", registry.host()));
    let error = client.resolve(&reference(&registry, "a:t"), None).unwrap_err();
    assert!(error.to_string().contains("blocks"), "{error}");
    let error = client.push_manifest(&reference(&registry, "a:t"), OCI_INDEX, INDEX).unwrap_err();
    assert!(error.to_string().contains("blocks"), "{error}");
    assert!(read(&client, &registry, b"x").unwrap_err().to_string().contains("blocks"));
    assert_eq!(registry.asked(), []);
}

#[test]
fn a_mirror_sees_its_own_credentials_alone() {
    let registry = Registry::start(Auth::Basic("me", "secret"));
    let mirror = Registry::start(Auth::Basic("other", "mirrored"));
    mirror.put_blob("copy/a", b"x");
    registry.put_blob("a", b"y");
    let json = format!(
        r#"{{"auths":{{"{}":{{"username":"me","password":"secret"}},"{}":{{"username":"other","password":"mirrored"}}}}}}"#,
        registry.host(),
        mirror.host()
    );
    let client = told_with(&mirrored(&registry, &mirror), Credentials::from_json("c", &json));
    assert_eq!(read(&client, &registry, b"x").unwrap(), b"x");
    assert_eq!(read(&client, &registry, b"y").unwrap(), b"y");
    let shown = |registry: &Registry| {
        let mut shown: Vec<String> = registry.asked().into_iter().filter_map(|asked| asked.authorization).collect();
        shown.dedup();
        shown
    };
    assert_eq!((shown(&registry).len(), shown(&mirror).len()), (1, 1));
    assert_ne!(shown(&registry), shown(&mirror));
}

#[test]
fn a_registry_on_an_ipv6_address_is_reached() {
    let Some(registry) = Registry::start_at("[::1]:0", Auth::Token("me", "secret")) else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    registry.put_blob("a", b"x");
    assert!(registry.host().starts_with("[::1]:"));
    assert_eq!(read(&client(), &registry, b"x").unwrap(), b"x");
}

/// Asks an address as it is, without finding out whether it speaks TLS.
fn asked(client: &Client, address: &str) -> Result<Reply, RegistryError> {
    let address = &Url::parse(address).unwrap();
    let (content, effort) = (CallContent::None, Effort::Usual);
    client.call(&Call { verb: Verb::Get, address, headers: &Vec::new, content, effort, passing: &[], task: None })
}

#[test]
fn a_registry_that_speaks_plain_http_where_tls_is_wanted_is_told_as_that() {
    let registry = open_registry();
    let error = asked(&client(), &format!("https://{}/v2/", registry.host())).err().unwrap();
    assert!(matches!(&error, RegistryError::NoTls { host } if *host == registry.host()), "{error:?}");
    assert_eq!(registry.asked(), []);
}

/// A proxy that knows CONNECT alone, and writes down where it is asked to connect to; all names lead to `target`.
fn proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let asked = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (asked, target) = (asked.clone(), target.clone());
            thread::spawn(move || tunnel(stream.unwrap(), &target, &asked).ok());
        }
    });
    (address.to_string(), seen)
}

fn tunnel(client: TcpStream, target: &str, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        asked.lock().unwrap().push(std::mem::take(&mut line).trim().to_owned());
    }
    let mut server = TcpStream::connect(target)?;
    (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut back, mut client_side) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        io::copy(&mut back, &mut client_side).ok();
        client_side.shutdown(Shutdown::Both).ok();
    });
    io::copy(&mut reader, &mut server)?;
    server.shutdown(Shutdown::Both)
}

#[test]
fn a_registry_behind_a_proxy_is_reached_through_it() {
    let registry = open_registry();
    registry.put_blob("a", b"x");
    let (address, seen) = proxy(registry.host());
    let through = |exceptions: &str| {
        let address = format!("http://me:pass@{address}");
        let variable = |name: &str| match name {
            "HTTP_PROXY" | "HTTPS_PROXY" => Some(address.clone()),
            "NO_PROXY" => Some(exceptions.to_owned()),
            _ => None,
        };
        let proxies = Proxies::from_environment(&variable);
        Client::new(ClientOptions { proxies, insecure: vec!["r.invalid".to_owned()], ..options() })
    };
    let away = "r.invalid/a".parse().unwrap();
    let read = |client: Client| {
        let mut out = Vec::new();
        client.blob(&away, &Descriptor::of(OCI_LAYER_GZIP, b"x")).read_to_end(&mut out).map(|_| out)
    };
    assert_eq!(read(through("")).unwrap(), b"x");
    let asked = seen.lock().unwrap().join("\n");
    assert!(
        asked.contains("CONNECT r.invalid:80 ") && asked.to_lowercase().contains("proxy-authorization:"),
        "{asked}"
    );
    assert!(registry.asked().iter().all(|asked| asked.authorization.is_none()));
    assert!(read(through("r.invalid")).is_err(), "straight to a name that does not exist");
    // A port that nobody listens on any more.
    let gone = open_registry().host();
    let variable = |name: &str| (name == "https_proxy").then(|| format!("http://me:hunter2@{gone}"));
    let dead = Client::new(ClientOptions { proxies: Proxies::from_environment(&variable), ..options() });
    let error = dead.resolve(&"r.invalid/a".parse().unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("r.invalid") && error.contains("(through the proxy that https_proxy names)"), "{error}");
    assert!(!error.contains("hunter2") && !error.contains(&gone), "{error}");
    let variable = |name: &str| (name == "HTTPS_PROXY").then(|| "http://me:hunter2@".to_owned());
    let proxies = Proxies::from_environment(&variable);
    let broken = Client::new(ClientOptions { proxies, ..options() });
    let error = broken.resolve(&"r.invalid/a".parse().unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("HTTPS_PROXY") && !error.contains("hunter2"), "{error}");
}
