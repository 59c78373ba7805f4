//! The client against Debian's `docker-registry`: over plain http, over TLS, with a password.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::super::credentials::Credentials;
use super::super::pull::resolve_platform;
use super::super::push::{PushContent, PushImage, PushLayer, push};
use super::super::{Client, ClientOptions, RegistryError};
use super::options;
use crate::digest::Digest;
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Manifest, canonical};
use crate::image::media_type::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::image::reference::Reference;

pub(super) struct RealRegistry {
    process: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Finds a program; a missing one fails the test where `CI` is set, and skips it aloud elsewhere.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name} is not installed");
        eprintln!("skipped: {name} is not installed");
    }
    found
}

fn run(program: &Path, arguments: &[&str], directory: &Path) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Tls,
    TlsWithPassword,
}

impl RealRegistry {
    fn start(kind: Kind) -> Option<RealRegistry> {
        let registry = program("docker-registry")?;
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut configuration = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n",
            root.join("data").display()
        );
        if kind == Kind::TlsWithPassword {
            let line = run(&program("htpasswd")?, &["-Bbn", "me", "secret"], root);
            fs::write(root.join("htpasswd"), line).unwrap();
            let path = root.join("htpasswd");
            configuration.push_str(&format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path.display()));
        }
        if kind != Kind::Http {
            make_certificates(&program("openssl")?, root);
        }
        // Another process may take the port before the registry does: then it is tried again with another.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut http = format!("http:\n  addr: 127.0.0.1:{port}\n");
            if kind != Kind::Http {
                let (certificate, key) = (root.join("server.crt"), root.join("server.key"));
                let (certificate, key) = (certificate.display(), key.display());
                http.push_str(&format!("  tls: {{certificate: {certificate}, key: {key}}}\n"));
            }
            fs::write(root.join("config.yml"), format!("{configuration}{http}")).unwrap();
            let mut process = Command::new(&registry)
                .arg("serve")
                .arg(root.join("config.yml"))
                .stdout(Stdio::null())
                .stderr(fs::File::create(root.join("log")).unwrap())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while process.try_wait().unwrap().is_none() && Instant::now() < deadline {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(RealRegistry { process, directory, port });
                }
                thread::sleep(Duration::from_millis(20));
            }
            process.kill().ok();
            process.wait().unwrap();
        }
        panic!("docker-registry does not start: {}", fs::read_to_string(root.join("log")).unwrap_or_default());
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("localhost:{}/{rest}", self.port).parse().unwrap()
    }

    fn authority_file(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }
}

/// One that everybody may ask over plain http, and its host and port.
pub(super) fn plain() -> Option<(RealRegistry, String)> {
    let registry = RealRegistry::start(Kind::Http)?;
    let host = format!("localhost:{}", registry.port);
    Some((registry, host))
}

/// An authority, and a certificate of it for `localhost`.
fn make_certificates(openssl: &Path, root: &Path) {
    let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"];
    let authority = ["-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt"];
    run(openssl, &[&request[..], &["/CN=test authority"], &authority].concat(), root);
    let server = ["-keyout", "server.key", "-out", "server.csr"];
    run(openssl, &[&request[..], &["/CN=localhost"], &server].concat(), root);
    fs::write(root.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let sign = ["x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"];
    let files = ["-CAcreateserial", "-extfile", "names", "-out", "server.crt"];
    run(openssl, &[&sign[..], &files].concat(), root);
}

const SIZE: usize = 5 << 20;

fn layer_bytes() -> Vec<u8> {
    (0..SIZE).map(|index| (index * 7 % 253) as u8).collect()
}

fn image(mount_from: Vec<Reference>) -> PushContent {
    let bytes = layer_bytes();
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, &bytes);
    let layer = PushLayer {
        descriptor: descriptor.clone(),
        open: Box::new(move || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>)),
        mount_from,
    };
    let config = ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..ImageConfig::default() }.to_bytes();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, &config),
        layers: vec![descriptor],
        subject: None,
        annotations: Default::default(),
    };
    let bytes = canonical(&manifest);
    let manifest = (Descriptor::of(OCI_MANIFEST, &bytes), bytes);
    PushContent::Image(Box::new(PushImage {
        layers: vec![layer],
        config: (Descriptor::of(OCI_CONFIG, &config), config),
        manifest,
    }))
}

/// Pushes, pushes again, mounts, and pulls.
fn round_trip(client: &Client, registry: &RealRegistry) {
    let target = registry.reference("team/app:one");
    let report = push(client, &target, &image(vec![]), &["two".to_owned()], None).unwrap();
    assert_eq!((report.existed, report.mounted, report.uploaded), (0, 0, 2));
    let report = push(client, &target, &image(vec![]), &[], None).unwrap();
    assert_eq!((report.existed, report.mounted, report.uploaded), (2, 0, 0));
    let other = registry.reference("team/other:one");
    let report = push(client, &other, &image(vec![target]), &[], None).unwrap();
    assert_eq!((report.existed, report.mounted, report.uploaded), (0, 1, 1));
    let pulled = registry.reference("team/app:two");
    let image = resolve_platform(client, &pulled, &"linux/amd64".parse().unwrap(), None).unwrap();
    assert_eq!(image.manifest_digest, report.digest);
    assert_eq!(client.head_manifest(&pulled).unwrap().map(|found| found.digest), Some(report.digest));
    let mut bytes = Vec::new();
    client.blob(&pulled, &image.manifest.layers[0]).read_to_end(&mut bytes).unwrap();
    assert!(bytes == layer_bytes());
    assert_eq!(client.head_manifest(&registry.reference("team/app:none")).unwrap(), None);
    assert!(!client.has_blob(&pulled, &Digest::of(b"none")).unwrap());
}

#[test]
fn a_real_registry_over_http() {
    let Some(registry) = RealRegistry::start(Kind::Http) else { return };
    round_trip(&Client::new(options()), &registry);
}

#[test]
fn a_real_registry_takes_chunks() {
    let Some(registry) = RealRegistry::start(Kind::Http) else { return };
    let bytes = [layer_bytes(), layer_bytes()].concat();
    let client = Client::new(options());
    let target = registry.reference("chunks");
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, &bytes);
    let open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
    client.upload_in_chunks(&target, &descriptor, &open).unwrap();
    assert!(client.has_blob(&target, &descriptor.digest).unwrap());
}

#[test]
fn a_real_registry_over_tls_of_a_private_authority() {
    let Some(registry) = RealRegistry::start(Kind::Tls) else { return };
    let trusting = ClientOptions { ca_certificates: vec![registry.authority_file()], ..options() };
    round_trip(&Client::new(trusting), &registry);
    let error = Client::new(options()).resolve(&registry.reference("team/app:one"), None).unwrap_err();
    assert!(matches!(&error, RegistryError::Tls { reason, .. } if reason.contains("certificate")), "{error}");
    let directory = registry.directory.path().join("certs.d");
    let own = directory.join(format!("localhost:{}", registry.port));
    fs::create_dir_all(&own).unwrap();
    fs::copy(registry.authority_file(), own.join("ca.crt")).unwrap();
    let by_directory = ClientOptions { certificate_directories: vec![directory], ..options() };
    Client::new(by_directory).resolve(&registry.reference("team/app:one"), None).unwrap();
    let by_address: Reference = format!("127.0.0.1:{}/team/app:one", registry.port).parse().unwrap();
    let trusting = ClientOptions { ca_certificates: vec![registry.authority_file()], ..options() };
    let error = Client::new(trusting).resolve(&by_address, None).unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. }), "the certificate is for another name: {error}");
}

#[test]
fn a_real_registry_with_a_password() {
    let Some(registry) = RealRegistry::start(Kind::TlsWithPassword) else { return };
    let with = |user: &str, password: &str| {
        let host = format!("localhost:{}", registry.port);
        let json = format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#);
        let credentials = Credentials::from_json("config.json", &json);
        Client::new(ClientOptions { credentials, ca_certificates: vec![registry.authority_file()], ..options() })
    };
    round_trip(&with("me", "secret"), &registry);
    let error = with("me", "wrong").resolve(&registry.reference("team/app:one"), None).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { credentials: Some(_), .. }), "{error}");
    let anonymous = ClientOptions { ca_certificates: vec![registry.authority_file()], ..options() };
    let error = Client::new(anonymous).resolve(&registry.reference("team/app:one"), None).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { credentials: None, .. }), "{error}");
}
