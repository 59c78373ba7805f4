//! A real registry (Debian's `docker-registry`) on a free loopback port: plain, with TLS, or with a password.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{has_program, succeed};

/// The user that a registry with a password knows.
pub const USER_NAME: &str = "builder";
/// His password.
pub const PASSWORD: &str = "correct horse";

/// How clients have to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// HTTP, everybody.
    Plain,
    /// HTTPS with a certificate of a private authority.
    Tls,
    /// HTTPS, to who shows a certificate of the same authority.
    ClientCertificate,
    /// HTTP with a password.
    Password,
}

/// A running registry; it ends with the value.
pub struct Registry {
    process: Child,
    directory: TempDir,
    port: u16,
}

/// What is missing on this machine for a registry, if anything is.
pub fn missing_programs(access: Access) -> Option<&'static str> {
    let needs: &[&str] = match access {
        Access::Plain => &["docker-registry", "setpriv"],
        Access::Tls | Access::ClientCertificate => &["docker-registry", "setpriv", "openssl"],
        Access::Password => &["docker-registry", "setpriv", "htpasswd"],
    };
    needs.iter().copied().find(|name| !has_program(name))
}

impl Registry {
    /// Starts one and waits until it answers.
    pub fn start(access: Access) -> Registry {
        // Between choosing a free port and binding it somebody else may take it: then another one.
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = free_port();
            let directory = tempfile::Builder::new().prefix("rbuild-registry-").tempdir().expect("create a directory");
            write_configuration(directory.path(), port, access);
            let log = fs::File::create(directory.path().join("log")).expect("create the registry's log");
            // Ends with the test even if the test is killed.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(directory.path().join("config.yml"));
            command.env_clear().env("PATH", "/usr/bin:/bin").env("OTEL_TRACES_EXPORTER", "none");
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
            let process = command.spawn().expect("start docker-registry");
            let mut registry = Registry { process, directory, port };
            match registry.wait_until_it_answers() {
                Ok(()) => return registry,
                Err(reason) => assert!(attempts < 5, "docker-registry does not start: {reason}\n{}", registry.log()),
            }
        }
    }

    fn wait_until_it_answers(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.process.try_wait().expect("look after the registry") {
                return Err(format!("it ended with {status}"));
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err("nothing listens after 20 seconds".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A name in this registry.
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.host())
    }

    /// The certificate of the private authority of a registry with TLS.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// Where it keeps everything: its log, its configuration, what was pushed.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A client's certificate of that authority, and its key.
    pub fn client(&self) -> [PathBuf; 2] {
        ["client.crt", "client.key"].map(|name| self.directory.path().join(name))
    }

    /// Everything the registry printed, one line per request.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Removes a blob behind its back, as a disk that was lost or a careless collection does.
    pub fn lose_blob(&self, digest: &str) {
        let hex = digest.strip_prefix("sha256:").expect("a digest names its algorithm");
        let blob = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]);
        fs::remove_dir_all(self.directory.path().join(blob)).expect("remove a blob of the registry");
    }

    /// How many requests it answered.
    pub fn requests(&self) -> usize {
        self.log().lines().filter(|line| line.contains("HTTP/1.1\"") || line.contains("HTTP/2.0\"")).count()
    }

    /// Uploads that moved bytes.
    pub fn uploads(&self) -> usize {
        let moves =
            |line: &&str| line.contains("/blobs/uploads/") && (line.contains("\"PUT ") || line.contains("\"PATCH "));
        self.log().lines().filter(moves).count()
    }

    /// A request without credentials over plain HTTP, as a check that is independent of rbuild.
    pub fn fetch(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect to the registry");
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n", self.host());
        stream.write_all(request.as_bytes()).expect("ask the registry");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the registry's answer");
        answer
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().expect("kill the registry");
        self.process.wait().expect("wait for the registry");
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a free port");
    listener.local_addr().expect("read the port").port()
}

fn write_configuration(directory: &Path, port: u16, access: Access) {
    let mut text = format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: false}}, level: info}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}, delete: {{enabled: true}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n  secret: test\n",
        directory.display()
    );
    match access {
        Access::Plain => {}
        Access::Tls => {
            make_certificates(directory);
            text += &format!("  tls: {{certificate: {0}/server.crt, key: {0}/server.key}}\n", directory.display());
        }
        Access::ClientCertificate => {
            make_certificates(directory);
            text += &format!(
                "  tls: {{certificate: {0}/server.crt, key: {0}/server.key, clientcas: [{0}/ca.crt]}}\n",
                directory.display()
            );
        }
        Access::Password => {
            let made = succeed(Command::new("htpasswd").args(["-B", "-b", "-n", USER_NAME, PASSWORD]));
            fs::write(directory.join("htpasswd"), made.stdout).expect("write the passwords");
            text += &format!("auth: {{htpasswd: {{realm: test, path: {}/htpasswd}}}}\n", directory.display());
        }
    }
    fs::write(directory.join("config.yml"), text).expect("write the registry's configuration");
}

/// A private authority, and a certificate of it for 127.0.0.1.
fn make_certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        succeed(Command::new("openssl").current_dir(directory).args(arguments.split(' ')));
    };
    fs::write(directory.join("server.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n")
        .expect("write the certificate's extensions");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -days 2 -subj /CN=rbuild-test-authority -keyout ca.key -out ca.crt \
         -addext basicConstraints=critical,CA:TRUE"
    ));
    openssl(&format!("req -new {key} -subj /CN=127.0.0.1 -keyout server.key -out server.csr"));
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.crt",
    );
    fs::write(directory.join("client.ext"), "extendedKeyUsage=clientAuth\n").expect("write the client's extensions");
    openssl(&format!("req -new {key} -subj /CN=client -keyout client.key -out client.csr"));
    openssl(
        "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile client.ext -out client.crt",
    );
    // The users of the tests read the authority's certificate.
    use std::os::unix::fs::PermissionsExt;
    for (place, mode) in [(directory.to_owned(), 0o755), (directory.join("ca.crt"), 0o644)] {
        fs::set_permissions(place, fs::Permissions::from_mode(mode)).expect("set a mode");
    }
}
