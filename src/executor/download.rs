//! Files behind URLs, as ADD takes them: kept by address, and asked for again only with the tag that the server gave.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::copy::CopySource;
use super::step::Work;
use super::{ExecuteError, SecretSource};
use crate::digest::{Digest, Frame};
use crate::plan::CopyOp;
use crate::registry::{Download, DownloadRequest, Downloaded, without_credentials};
use crate::store::{FetchedRecord, RecordKind, StoreError};
use crate::tree::Time;

/// A file that is here now.
pub(super) struct FetchedFile {
    name: String,
    path: PathBuf,
    record: FetchedRecord,
}

impl FetchedFile {
    /// The source that it is of a copy. Downloads are private (0600) unless `--chmod` says otherwise, as in BuildKit.
    pub(super) fn source(&self) -> CopySource<'_> {
        CopySource::Remote {
            name: self.name.clone(),
            file: &self.path,
            size: self.record.size,
            digest: self.record.blob,
            mode: 0o600,
            mtime: Time { seconds: self.record.modified.unwrap_or(0), nanoseconds: 0 },
        }
    }
}

impl Work<'_> {
    /// Fetches a file, or finds that the one that is here is still what its server has.
    pub(super) fn fetch_url(&self, url: &str, op: &CopyOp) -> Result<FetchedFile, ExecuteError> {
        let expected = op.checksum.as_deref().map(str::parse::<Digest>).transpose();
        let expected = expected.map_err(|error| self.refuse(error.to_string()))?;
        let store = self.services.layers.store;
        let key = Frame::new("rbuild.url.1").text("url", url).finish();
        let known: Option<FetchedRecord> = store.read_record(RecordKind::Fetched, &key)?;
        let known = known.filter(|known| store.has_blob(&known.blob));
        let authorization =
            http_authorization(url, &self.services.options.secrets).map_err(|error| self.refuse(error))?;
        let record = match known {
            // What has to come is here: nobody has to be asked.
            Some(known) if expected == Some(known.blob) => known,
            known => {
                let tag = known.as_ref().and_then(|known| known.tag.as_deref());
                let asked = DownloadRequest { address: url, authorization: authorization.as_deref(), known: tag };
                match (self.services.layers.registry.download(&asked)?, known) {
                    (Downloaded::New(download), _) => self.keep(url, download, expected)?,
                    (Downloaded::Unchanged, Some(known)) if expected.is_none() => known,
                    (Downloaded::Unchanged, Some(known)) => {
                        return Err(self.mismatch(&known.blob, expected.as_ref()));
                    }
                    (Downloaded::Unchanged, None) => {
                        return Err(ExecuteError::internal("a server answered that nothing is what it was"));
                    }
                }
            }
        };
        store.write_record(RecordKind::Fetched, &key, &record)?;
        Ok(FetchedFile { name: file_name(url), path: store.blob_path(&record.blob), record })
    }

    fn keep(&self, url: &str, download: Download, expected: Option<Digest>) -> Result<FetchedRecord, ExecuteError> {
        let shown = without_credentials(url);
        let mut part = self.task.part(format!("downloading {shown}"), 0);
        let mut writer = self.services.layers.store.blob_writer()?;
        let failed = |error: io::Error| self.refuse(format!("cannot download {shown}: {error}"));
        let mut reader = download.body;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = reader.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            if self.services.cancel.is_cancelled() {
                return Err(ExecuteError::Cancelled);
            }
            writer.write_all(&buffer[..count]).map_err(failed)?;
            part.advance(count as u64);
        }
        part.finish();
        let (blob, size) = match writer.commit(expected) {
            Err(StoreError::Digest { found, expected }) => return Err(self.mismatch(&found, Some(&expected))),
            committed => committed?,
        };
        Ok(FetchedRecord { blob, size, source: shown, tag: download.tag, modified: download.last_modified })
    }

    fn mismatch(&self, found: &Digest, expected: Option<&Digest>) -> ExecuteError {
        let expected = expected.map(Digest::to_string).unwrap_or_default();
        self.refuse(format!("digest mismatch {found}: {expected}"))
    }
}

/// The `Authorization` that secrets make for a URL's host: `HTTP_AUTH_HEADER_HOST`, or `HTTP_AUTH_TOKEN_HOST` as a bearer.
///
/// # Errors
/// A sentence: the secret is nothing that a header can hold.
pub fn http_authorization(url: &str, secrets: &BTreeMap<String, SecretSource>) -> Result<Option<String>, String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let names = [(format!("HTTP_AUTH_HEADER_{host}"), ""), (format!("HTTP_AUTH_TOKEN_{host}"), "Bearer ")];
    for (id, prefix) in names {
        let Some(source) = secrets.get(&id) else { continue };
        let value = match source {
            SecretSource::Value(value) => value.clone(),
            SecretSource::File(path) => std::fs::read(path)
                .map_err(|error| format!("cannot read secret {id} from {}: {error}", path.display()))?,
        };
        let text = String::from_utf8(value).map_err(|_| format!("secret {id} is no text"))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.contains(char::is_control) {
            return Err(format!("secret {id} has several lines, so it cannot be sent"));
        }
        return Ok(Some(format!("{prefix}{text}")));
    }
    Ok(None)
}

/// The name that a download has: the last component of the URL's path.
fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    match path.split_once('/').map(|(_, path)| path.trim_end_matches('/')) {
        Some(path) if !path.is_empty() => path.rsplit('/').next().unwrap_or(path).to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_are_named_by_the_path_of_their_url() {
        for (url, name) in [
            ("https://example.com/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("http://example.com/", "__unnamed__"),
            ("http://example.com", "__unnamed__"),
            ("https://example.com/dir/", "dir"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }
}
