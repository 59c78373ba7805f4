//! Sends a blob: in one piece, or a large one in parts, so that what is cut is not sent again from its beginning.

use std::io::{self, Read};

use super::connection::{Asked, Connection};
use super::{Result, xml};
use crate::cache::remote::storage::{Open, RemoteError};
use crate::digest::{Digest, VerifyReader};
use crate::image::manifest::Descriptor;
use crate::progress::Task;
use crate::registry::encode;
use crate::registry::service::{CallContent, Reply, Verb};

/// A blob of more bytes is sent in parts.
const ONE_PIECE: u64 = 32 << 20;

/// Bytes of a part, which is in memory while it is sent.
const PART: u64 = 16 << 20;

/// Parts of an object.
const MOST_PARTS: u64 = 10_000;

/// Writes a blob.
pub(super) fn put(connection: &Connection, key: &str, descriptor: &Descriptor, open: &Open, task: &Task) -> Result<()> {
    let Descriptor { digest, size, .. } = *descriptor;
    let verified = || -> io::Result<Box<dyn Read>> { Ok(Box::new(VerifyReader::new(open()?, digest, Some(size)))) };
    if size <= ONE_PIECE {
        let content = CallContent::Blob { digest, size, open: &verified };
        let asked = Asked { content, payload: digest, task: Some(task), ..Asked::new(Verb::Put, key) };
        return match connection.ask(&asked)? {
            reply if reply.is_success() => {
                reply.discard();
                Ok(())
            }
            reply => Err(connection.refused("write", key, reply)),
        };
    }
    let failed = |source| RemoteError::Io { action: "read", path: digest.to_string(), source };
    let upload = Parts::begin(connection, key, task)?;
    let sent = verified().map_err(failed).and_then(|reader| upload.send(reader, size, failed));
    match sent.and_then(|tags| upload.complete(&tags, size)) {
        Ok(()) => Ok(()),
        Err(error) => {
            upload.abort();
            Err(error)
        }
    }
}

/// An upload in parts that has begun.
struct Parts<'a> {
    connection: &'a Connection,
    key: &'a str,
    task: &'a Task,
    id: String,
}

impl<'a> Parts<'a> {
    fn begin(connection: &'a Connection, key: &'a str, task: &'a Task) -> Result<Parts<'a>> {
        let reply = connection.ask(&Asked { query: "uploads=".to_owned(), ..Asked::new(Verb::Post, key) })?;
        if !reply.is_success() {
            return Err(connection.refused("begin to write", key, reply));
        }
        let document = reply.refusal();
        let id = xml::text(&document, "UploadId")
            .ok_or_else(|| connection.error("begin to write", key, 200, None, &document))?;
        Ok(Parts { connection, key, task, id })
    }

    fn query(&self) -> String {
        format!("uploadId={}", encode(&self.id))
    }

    fn ask(&self, verb: Verb, query: String, bytes: &[u8]) -> Result<Reply> {
        let content = if verb == Verb::Delete { CallContent::None } else { CallContent::Bytes(bytes) };
        let (payload, task) = (Digest::of(bytes), Some(self.task));
        self.connection.ask(&Asked { query, content, payload, task, ..Asked::new(verb, self.key) })
    }

    /// Sends all parts; their tags.
    fn send(
        &self,
        mut reader: Box<dyn Read + '_>,
        size: u64,
        failed: impl Fn(io::Error) -> RemoteError,
    ) -> Result<Vec<String>> {
        let length = PART.max(size.div_ceil(MOST_PARTS));
        let mut tags = Vec::new();
        loop {
            let mut part = Vec::new();
            reader.by_ref().take(length).read_to_end(&mut part).map_err(&failed)?;
            if part.is_empty() {
                return Ok(tags);
            }
            let reply = self.ask(Verb::Put, format!("partNumber={}&{}", tags.len() + 1, self.query()), &part)?;
            let tag = reply.header("etag").map(str::to_owned).filter(|_| reply.is_success());
            match tag {
                Some(tag) => tags.push(tag),
                None => return Err(self.connection.refused("write a part of", self.key, reply)),
            }
            reply.discard();
        }
    }

    fn complete(&self, tags: &[String], size: u64) -> Result<()> {
        let part = |(number, tag): (usize, &String)| {
            format!("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", number + 1, xml::escaped(tag))
        };
        let parts: String = tags.iter().enumerate().map(part).collect();
        let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let reply = self.ask(Verb::Post, self.query(), document.as_bytes())?;
        if reply.status() == 404 && self.is_there(size)? {
            // A try before this one did it, and its answer was lost.
            return Ok(());
        }
        if !reply.is_success() {
            return Err(self.connection.refused("finish", self.key, reply));
        }
        // What begins well may still fail, or be cut: the document says so.
        let document = reply.refusal();
        if document.contains("<CompleteMultipartUploadResult") || self.is_there(size)? {
            return Ok(());
        }
        Err(self.connection.error("finish", self.key, 200, None, &document))
    }

    fn is_there(&self, size: u64) -> Result<bool> {
        let reply = self.connection.ask(&Asked::new(Verb::Head, self.key))?;
        Ok(reply.is_success() && reply.header("content-length").and_then(|text| text.parse().ok()) == Some(size))
    }

    fn abort(&self) {
        // The cause is what counts; parts that stay are for the bucket's policy.
        self.ask(Verb::Delete, self.query(), b"").map(Reply::discard).ok();
    }
}
