//! Whom TLS trusts: the system's certificates, those of the options, and a registry's own in `certs.d`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::error::RegistryError;

/// Finds certificates; reads them when the first TLS connection needs them (140 roots cost some milliseconds).
pub(super) struct Certificates {
    extra: Vec<PathBuf>,
    /// Directories that hold a directory per registry (docker's and podman's `certs.d`).
    directories: Vec<PathBuf>,
    roots: OnceLock<Result<RootCerts, (PathBuf, String)>>,
}

impl Certificates {
    pub fn new(extra: Vec<PathBuf>, directories: Vec<PathBuf>) -> Certificates {
        Certificates { extra, directories, roots: OnceLock::new() }
    }

    /// Whether a registry has certificates of its own.
    pub fn has_own(&self, authority: &str) -> bool {
        !self.own(authority).is_empty()
    }

    fn own(&self, authority: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for directory in &self.directories {
            // A directory that is not there or not ours to read trusts nobody further.
            let Ok(entries) = std::fs::read_dir(directory.join(authority)) else { continue };
            files.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
        files.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
        files.sort();
        files
    }

    /// The TLS settings for a registry.
    pub fn configuration(&self, authority: &str) -> Result<TlsConfig, RegistryError> {
        let shared = self.roots.get_or_init(|| self.load()).clone();
        let roots = shared.map_err(|(path, reason)| RegistryError::Certificate { path, reason })?;
        let mut own = Vec::new();
        for path in self.own(authority) {
            let read = read_certificates(&path);
            own.extend(read.map_err(|reason| RegistryError::Certificate { path: path.clone(), reason })?);
        }
        let roots = match roots {
            roots if own.is_empty() => roots,
            RootCerts::Specific(shared) => {
                own.extend(shared.iter().cloned());
                RootCerts::from(own)
            }
            // ureq cannot add to the built-in roots; a registry with its own authority is not signed by a public one.
            _ => RootCerts::from(own),
        };
        Ok(TlsConfig::builder().root_certs(roots).build())
    }

    fn load(&self) -> Result<RootCerts, (PathBuf, String)> {
        // Honours SSL_CERT_FILE and SSL_CERT_DIR. What it cannot read it reports, but one bad file in a directory of
        // hundreds is no reason to refuse to work: a connection that needs it fails with "unknown issuer".
        let native = rustls_native_certs::load_native_certs().certs;
        let mut all: Vec<Certificate<'static>> =
            native.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
        for path in &self.extra {
            all.extend(read_certificates(path).map_err(|reason| (path.clone(), reason))?);
        }
        // Static binaries run in images without /etc/ssl: then Mozilla's list, which is built in, has to do.
        Ok(if all.is_empty() { RootCerts::WebPki } else { RootCerts::from(all) })
    }
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() { Err("it has no certificate in PEM form".to_owned()) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let host = directory.path().join("r.example:5000");
        std::fs::create_dir(&host).unwrap();
        let certificates = Certificates::new(Vec::new(), vec![directory.path().to_owned()]);
        assert!(!certificates.has_own("r.example:5000"));
        std::fs::write(host.join("ca.crt"), "no certificate").unwrap();
        std::fs::write(host.join("client.key"), "not looked at").unwrap();
        assert!(certificates.has_own("r.example:5000"));
        assert!(!certificates.has_own("r.example"));
        let error = certificates.configuration("r.example:5000").map(drop).unwrap_err().to_string();
        assert!(error.contains("ca.crt") && error.contains("PEM"), "{error}");
        let missing = Certificates::new(vec![directory.path().join("none.pem")], Vec::new());
        assert!(missing.configuration("r.example").map(drop).unwrap_err().to_string().contains("none.pem"));
    }
}
