//! Whom TLS trusts: the system's certificates, those of the options, and a registry's own in `certs.d`; and what it shows
//! of itself: a client's certificate from there.
//!
//! In a registry's directory of `certs.d`, `*.crt` are authorities, and `*.cert` with a `*.key` of the same name is a client's
//! certificate with its key, as for docker and podman.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::error::RegistryError;

/// Finds certificates; reads them when the first TLS connection needs them (140 roots cost some milliseconds).
pub(super) struct Certificates {
    extra: Vec<PathBuf>,
    /// Directories that hold a directory per registry (docker's and podman's `certs.d`).
    directories: Vec<PathBuf>,
    roots: OnceLock<Result<Vec<Certificate<'static>>, (PathBuf, String)>>,
}

/// Whether a certificate has to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    Verified,
    /// Any certificate will do, and none.
    Insecure,
}

/// The files of one registry.
#[derive(Default)]
struct Own {
    authorities: Vec<PathBuf>,
    clients: Vec<PathBuf>,
    keys: Vec<PathBuf>,
}

impl Own {
    fn add(&mut self, path: PathBuf) {
        let list = match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => &mut self.authorities,
            Some("cert") => &mut self.clients,
            Some("key") => &mut self.keys,
            _ => return,
        };
        list.push(path);
    }
}

impl Certificates {
    pub fn new(extra: Vec<PathBuf>, directories: Vec<PathBuf>) -> Certificates {
        Certificates { extra, directories, roots: OnceLock::new() }
    }

    /// Whether a registry has certificates of its own.
    pub fn has_own(&self, authority: &str) -> bool {
        let own = self.own(authority);
        !own.authorities.is_empty() || !own.clients.is_empty() || !own.keys.is_empty()
    }

    fn own(&self, authority: &str) -> Own {
        let mut own = Own::default();
        for directory in &self.directories {
            // A directory that is not there or not ours to read trusts nobody further.
            let Ok(entries) = std::fs::read_dir(directory.join(authority)) else { continue };
            let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
            paths.sort();
            paths.into_iter().for_each(|path| own.add(path));
        }
        own
    }

    /// The TLS settings for a registry.
    pub fn configuration(&self, authority: &str, trust: Trust) -> Result<TlsConfig, RegistryError> {
        let failed = |(path, reason)| RegistryError::Certificate { path, reason };
        let own = self.own(authority);
        let client = client_certificate(&own).map_err(failed)?;
        let builder = TlsConfig::builder().client_cert(client);
        if trust == Trust::Insecure {
            return Ok(builder.disable_verification(true).build());
        }
        let mut roots = self.roots.get_or_init(|| self.load(of_the_system())).clone().map_err(failed)?;
        for path in own.authorities {
            roots.extend(read_certificates(&path).map_err(|reason| failed((path, reason)))?);
        }
        Ok(builder.root_certs(RootCerts::from(roots)).build())
    }

    fn load(&self, mut all: Vec<Certificate<'static>>) -> Result<Vec<Certificate<'static>>, (PathBuf, String)> {
        if all.is_empty() {
            // Static binaries run in images without /etc/ssl: then Mozilla's list, which is built in, has to do.
            let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
            all.extend(built_in.iter().map(|certificate| Certificate::from_der(certificate)));
        }
        for path in &self.extra {
            all.extend(read_certificates(path).map_err(|reason| (path.clone(), reason))?);
        }
        Ok(all)
    }
}

/// Honours SSL_CERT_FILE and SSL_CERT_DIR. What it cannot read it reports, but one bad file in a directory of hundreds is
/// no reason to refuse to work: a connection that needs it fails with "unknown issuer".
fn of_the_system() -> Vec<Certificate<'static>> {
    let native = rustls_native_certs::load_native_certs().certs;
    native.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
}

fn items(path: &Path) -> Result<Vec<PemItem<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    parse_pem(&bytes).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let found = items(path)?.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = found.collect();
    if certificates.is_empty() { Err("it has no certificate in PEM form".to_owned()) } else { Ok(certificates) }
}

fn read_key(path: &Path) -> Result<PrivateKey<'static>, String> {
    let found = items(path)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    found.ok_or_else(|| "it has no private key in PEM form (an encrypted one is none)".to_owned())
}

/// The first certificate with its key; half a pair is an error, as it is for docker and podman.
fn client_certificate(own: &Own) -> Result<Option<ClientCert>, (PathBuf, String)> {
    if let Some(key) = own.keys.iter().find(|key| !own.clients.contains(&key.with_extension("cert"))) {
        return Err((key.clone(), "there is no .cert of the same name beside it".to_owned()));
    }
    if let Some(lonely) = own.clients.iter().find(|client| !own.keys.contains(&client.with_extension("key"))) {
        return Err((lonely.clone(), "there is no .key of the same name beside it".to_owned()));
    }
    let Some(client) = own.clients.first() else { return Ok(None) };
    let chain = read_certificates(client).map_err(|reason| (client.clone(), reason))?;
    let key_file = client.with_extension("key");
    let key = read_key(&key_file).map_err(|reason| (key_file.clone(), reason))?;
    belong_together(&chain, &key_file).map_err(|reason| (client.clone(), reason))?;
    Ok(Some(ClientCert::new_with_certs(&chain, key)))
}

/// Refuses a pair that rustls would refuse: ureq takes for granted that it does not, and panics.
fn belong_together(chain: &[Certificate<'static>], key_file: &Path) -> Result<(), String> {
    let chain = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| error.to_string())?;
    match CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the .key beside it is the key of another certificate".to_owned())
        }
        Err(error) if error.to_string().contains("UnsupportedCertVersion") => {
            Err("it is an X.509 certificate of version 1; only those of version 3 can be used".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(certificates: &Certificates, authority: &str) -> Option<String> {
        certificates.configuration(authority, Trust::Verified).err().map(|error| error.to_string())
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let host = directory.path().join("r.example:5000");
        std::fs::create_dir(&host).unwrap();
        let certificates = Certificates::new(Vec::new(), vec![directory.path().to_owned()]);
        assert!(!certificates.has_own("r.example:5000"));
        std::fs::write(host.join("ca.crt"), "no certificate").unwrap();
        std::fs::write(host.join("notes.txt"), "not looked at").unwrap();
        assert!(certificates.has_own("r.example:5000"));
        assert!(!certificates.has_own("r.example"));
        let error = refusal(&certificates, "r.example:5000").unwrap();
        assert!(error.contains("ca.crt") && error.contains("PEM"), "{error}");
        let missing = Certificates::new(vec![directory.path().join("none.pem")], Vec::new());
        assert!(refusal(&missing, "r.example").unwrap().contains("none.pem"));
    }

    #[test]
    fn half_a_client_certificate_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let host = directory.path().join("r.example");
        std::fs::create_dir(&host).unwrap();
        let certificates = Certificates::new(Vec::new(), vec![directory.path().to_owned()]);
        std::fs::write(host.join("me.key"), "").unwrap();
        let error = refusal(&certificates, "r.example").unwrap();
        assert!(error.contains("me.key") && error.contains("no .cert"), "{error}");
        std::fs::write(host.join("me.cert"), "").unwrap();
        let error = refusal(&certificates, "r.example").unwrap();
        assert!(error.contains("me.cert") && error.contains("PEM"), "{error}");
        std::fs::remove_file(host.join("me.key")).unwrap();
        let error = refusal(&certificates, "r.example").unwrap();
        assert!(error.contains("me.cert") && error.contains("no .key"), "{error}");
    }

    #[test]
    fn without_certificates_of_the_system_the_built_in_ones_are_kept_beside_others() {
        let directory = tempfile::tempdir().unwrap();
        let extra = directory.path().join("ca.pem");
        std::fs::write(&extra, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let certificates = Certificates::new(vec![extra], Vec::new());
        let own = certificates.load(vec![Certificate::from_der(b"system")]).unwrap();
        assert_eq!(own.iter().map(Certificate::der).collect::<Vec<_>>(), [b"system".as_slice(), &[0, 0, 0]]);
        let built_in = certificates.load(Vec::new()).unwrap();
        assert!(built_in.len() > 100, "{}", built_in.len());
        assert_eq!(built_in.last().map(Certificate::der), Some([0, 0, 0].as_slice()));
    }
}
