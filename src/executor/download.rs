//! Files behind URLs, as ADD takes them: kept by address, and asked for again only with the tag that the server gave.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::copy::CopySource;
use super::step::Work;
use super::{ExecuteError, Revision, SecretSource};
use crate::digest::{Digest, Frame};
use crate::layer::decompress::decompress;
use crate::layer::read::TarReader;
use crate::plan::CopyOp;
use crate::progress::Task;
use crate::registry::{Client, Download, DownloadRequest, Downloaded, RegistryError, without_credentials};
use crate::sandbox::Cancel;
use crate::store::{FetchedRecord, RecordKind, Store, StoreError};
use crate::tree::{Kind, STEADY, Time};

/// A file that is here now.
pub struct FetchedFile {
    name: String,
    path: PathBuf,
    record: FetchedRecord,
}

impl FetchedFile {
    /// When it was last changed, in seconds since 1970, where its server says so.
    pub fn modified(&self) -> Option<i64> {
        self.record.modified
    }

    /// The time of the newest file in it, where it is an archive of files.
    pub fn newest_in_archive(&self) -> Option<i64> {
        let mut archive = TarReader::new(decompress(File::open(&self.path).ok()?).ok()?).literal();
        let mut newest = None;
        // What is no archive, or only begins as one, has no time.
        while let Some(entry) = archive.next_entry().ok()? {
            if matches!(entry.node.kind, Kind::File { .. }) && entry.link.is_none() {
                newest = newest.max(Some(entry.node.mtime.seconds));
            }
        }
        newest
    }

    /// The digest of its content.
    pub fn digest(&self) -> Digest {
        self.record.blob
    }

    /// Where its content is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same without the date that its server gave it.
    pub(super) fn steady(mut self) -> FetchedFile {
        self.record.modified = Some(STEADY.seconds);
        self
    }

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

/// Says why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// What came, or what was to be sent, is not what it has to be.
    #[error("{0}")]
    Refused(String),
    /// The server does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The user stopped the build.
    #[error("canceled")]
    Cancelled,
}

/// What fetching files needs.
pub struct Downloads<'a> {
    /// Where they are kept.
    pub store: &'a Store,
    /// Who asks for them.
    pub client: &'a Client,
    /// Secrets by id, of which some are for servers.
    pub secrets: &'a BTreeMap<String, SecretSource>,
    /// Stops fetching.
    pub cancel: &'a Cancel,
    /// Where it is shown.
    pub task: &'a Task,
}

impl Downloads<'_> {
    /// Fetches a file, or finds that the one that is here is still what its server has.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub fn fetch(&self, url: &str, expected: Option<Digest>) -> Result<FetchedFile, DownloadError> {
        let key = Frame::new("rbuild.url.1").text("url", url).finish();
        let known: Option<FetchedRecord> = self.store.read_record(RecordKind::Fetched, &key)?;
        let known = known.filter(|known| self.store.has_blob(&known.blob));
        let authorization = http_authorization(url, self.secrets).map_err(DownloadError::Refused)?;
        let record = match known {
            // What has to come is here: nobody has to be asked.
            Some(known) if expected == Some(known.blob) => known,
            known => {
                let tag = known.as_ref().and_then(|known| known.tag.as_deref());
                let asked = DownloadRequest { address: url, authorization: authorization.as_deref(), known: tag };
                match (self.client.download(&asked)?, known) {
                    (Downloaded::New(download), _) => self.keep(url, download, expected)?,
                    (Downloaded::Unchanged, Some(known)) if expected.is_none() => known,
                    (Downloaded::Unchanged, Some(known)) => return Err(mismatch(&known.blob, expected.as_ref())),
                    (Downloaded::Unchanged, None) => {
                        let message = "the server answered that nothing is what it was";
                        return Err(DownloadError::Refused(message.to_owned()));
                    }
                }
            }
        };
        self.store.write_record(RecordKind::Fetched, &key, &record)?;
        Ok(FetchedFile { name: file_name(url), path: self.store.blob_path(&record.blob), record })
    }

    fn keep(&self, url: &str, download: Download, expected: Option<Digest>) -> Result<FetchedRecord, DownloadError> {
        let shown = without_credentials(url);
        let mut part = self.task.part(format!("downloading {shown}"), 0);
        let mut writer = self.store.blob_writer()?;
        let failed = |error: io::Error| DownloadError::Refused(format!("cannot download {shown}: {error}"));
        let mut reader = download.body;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = reader.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            if self.cancel.is_cancelled() {
                return Err(DownloadError::Cancelled);
            }
            writer.write_all(&buffer[..count]).map_err(failed)?;
            part.advance(count as u64);
        }
        part.finish();
        let (blob, size) = match writer.commit(expected) {
            Err(StoreError::Digest { found, expected }) => return Err(mismatch(&found, Some(&expected))),
            committed => committed?,
        };
        Ok(FetchedRecord { blob, size, source: shown, tag: download.tag, modified: download.last_modified })
    }
}

fn mismatch(found: &Digest, expected: Option<&Digest>) -> DownloadError {
    let expected = expected.map(Digest::to_string).unwrap_or_default();
    DownloadError::Refused(format!("digest mismatch {found}: {expected}"))
}

impl Work<'_> {
    /// ADD of a file.
    pub(super) fn fetch_url(&self, url: &str, op: &CopyOp) -> Result<FetchedFile, ExecuteError> {
        let expected = op.checksum.as_deref().map(str::parse::<Digest>).transpose();
        let expected = expected.map_err(|error| self.refuse(error.to_string()))?;
        let downloads = Downloads {
            store: self.services.layers.store,
            client: self.services.layers.registry,
            secrets: &self.services.options.secrets,
            cancel: self.services.cancel,
            task: self.task,
        };
        let fetched = downloads.fetch(url, expected).map_err(|error| match error {
            DownloadError::Refused(message) => self.refuse(message),
            DownloadError::Registry(source) => {
                let source = Box::new(source);
                ExecuteError::Download { title: self.step.title.clone(), source, span: self.step.span }
            }
            DownloadError::Store(error) => error.into(),
            DownloadError::Cancelled => ExecuteError::Cancelled,
        })?;
        self.services.materials.note(without_credentials(url), Revision::File(fetched.digest()));
        Ok(fetched)
    }
}

/// The `Authorization` that secrets make for a URL's host: `HTTP_AUTH_HEADER_HOST`, or `HTTP_AUTH_TOKEN_HOST` as a bearer.
///
/// # Errors
/// A sentence: the secret is nothing that a header can hold.
fn http_authorization(url: &str, secrets: &BTreeMap<String, SecretSource>) -> Result<Option<String>, String> {
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

/// The name that a download has: the last component of the URL's path, which Go's `net/url` decodes first.
fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let path = path.split_once('/').and_then(|(_, path)| decoded(path)).unwrap_or_default();
    match path.trim_end_matches('/').rsplit('/').next() {
        Some(name) if !matches!(name, "" | "." | "..") && !name.contains('\0') => name.to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

/// A path with its `%41` decoded; none where a `%` is followed by something else.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let byte = match first {
            b'%' => {
                let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                rest = &after[2..];
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            byte => *byte,
        };
        bytes.push(byte);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
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
            ("https://example.com/a%20b%2Bc.txt", "a b+c.txt"),
            ("https://example.com/dir%2Ffile", "file"),
            ("https://example.com/a+b", "a+b"),
            ("https://example.com/%C3%A9", "é"),
            ("https://example.com/%zz", "__unnamed__"),
            ("https://example.com/a%2", "__unnamed__"),
            ("https://example.com/a/%2e%2e", "__unnamed__"),
            ("https://example.com/a%00b", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }
}
