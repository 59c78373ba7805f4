//! One pass over a layer's tar: hashed, indexed, and at the same time compressed and unpacked, as far as wanted.
//!
//! Every layer goes through here once, whether it comes from a registry, a COPY or a RUN. Each consumer has its own
//! thread behind a bounded queue, so the slowest sets the pace and memory stays at a few chunks.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hasher};
use crate::image::media_type::Compression;
use crate::layer::compress::{Compressor, generation};
use crate::layer::index::{Index, Indexer};
use crate::layer::members::ReadyMembers;
use crate::store::{BlobWriter, Store, Watch};

/// Bytes handed to the consumers at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait for a consumer.
const QUEUE: usize = 8;

/// How a blob is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobForm {
    /// The compression.
    pub compression: Compression,
    /// Its level; `None` = the compression's default.
    pub level: Option<i32>,
}

impl BlobForm {
    /// The name under which a layer's record keeps a blob of this form: with the generation of its encoder, for blobs that
    /// an older one made are good to read from, but an output would get other bytes than from a store without them.
    pub fn name(&self) -> String {
        let mut name = compression_name(self.compression).to_owned();
        if let Some(generation) = generation(self.compression) {
            name.push_str(&format!(".{generation}"));
        }
        if let Some(level) = self.level {
            name.push_str(&format!(":{level}"));
        }
        name
    }
}

/// The name of a compression as exporters write it.
pub fn compression_name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "uncompressed",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    }
}

/// What is known of a tar before it comes.
#[derive(Debug, Default)]
pub struct Known {
    /// What is in it.
    pub index: Option<Index>,
    /// What an earlier blob of the same form has of it, compressed.
    pub members: ReadyMembers,
}

/// What became of a tar.
pub struct Ingested {
    /// What is in it.
    pub index: Index,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub size: u64,
    /// Digest and size of the blob, where one was wanted.
    pub blob: Option<(Digest, u64)>,
}

/// Takes a tar and gives it to its consumers.
pub struct Ingest {
    buffer: Vec<u8>,
    /// Chunks that were handed out, the oldest first. Those that nobody reads any more are filled again: fresh memory for
    /// each would be a page fault for every four KiB.
    handed_out: VecDeque<Arc<Vec<u8>>>,
    queues: Vec<SyncSender<Arc<Vec<u8>>>>,
    indexer: JoinHandle<io::Result<(Index, Digest, u64)>>,
    compressor: Option<JoinHandle<io::Result<(Digest, u64)>>>,
    pipe: Option<JoinHandle<io::Result<()>>>,
}

impl Ingest {
    /// Starts the consumers: the index, if it is not known, a blob of this form if one is given, and a pipe (to an unpacking
    /// worker). A large blob can be read by who watches for it while it is written.
    pub fn start(
        store: &Store,
        known: Known,
        blob: Option<BlobForm>,
        watch: Option<Watch>,
        pipe: Option<OwnedFd>,
    ) -> io::Result<Ingest> {
        let mut queues = Vec::new();
        let mut queue = || {
            let (sender, receiver) = sync_channel(QUEUE);
            queues.push(sender);
            receiver
        };
        let chunks = queue();
        let Known { index, members } = known;
        let indexer = spawn("index", move || match index {
            Some(index) => Ok(digest(&chunks, index)),
            None => {
                let mut indexer = Indexer::new()?;
                drain(&chunks, &mut indexer)?;
                indexer.finish()
            }
        })?;
        let compressor = match blob {
            Some(form) => {
                let chunks = queue();
                let writer = store.blob_writer().map_err(io::Error::other)?.watched_by(watch);
                Some(spawn("compress", move || compress(&chunks, form, members, writer))?)
            }
            None => None,
        };
        let pipe = match pipe {
            Some(pipe) => {
                let chunks = queue();
                Some(spawn("unpack", move || drain(&chunks, &mut File::from(pipe)))?)
            }
            None => None,
        };
        let handed_out = VecDeque::new();
        Ok(Ingest { buffer: Vec::with_capacity(CHUNK), handed_out, queues, indexer, compressor, pipe })
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let unread = |chunk: &mut Arc<Vec<u8>>| Arc::get_mut(chunk).is_some();
        let spare = self.handed_out.pop_front_if(unread).and_then(Arc::into_inner);
        let mut next = spare.unwrap_or_else(|| Vec::with_capacity(CHUNK));
        next.clear();
        let chunk = Arc::new(std::mem::replace(&mut self.buffer, next));
        self.handed_out.push_back(Arc::clone(&chunk));
        for queue in &self.queues {
            // A consumer that failed has hung up; its own error is the one to show, and `finish` finds it.
            queue.send(Arc::clone(&chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }

    /// Ends the tar and waits for the consumers.
    ///
    /// # Errors
    /// The first consumer's error: a malformed tar, a full disk, an unpacking worker that died.
    pub fn finish(mut self) -> io::Result<Ingested> {
        let sent = self.send();
        self.queues.clear();
        let indexed = join(self.indexer);
        let blob = self.compressor.map(join).transpose();
        let piped = self.pipe.map(join).transpose();
        // Who hangs up (a full disk) ends the tar for the others: for the index, which expects more, that is an error too,
        // but never the cause.
        let blob = blob?;
        piped?;
        let (index, diff_id, size) = indexed?;
        sent?;
        Ok(Ingested { index, diff_id, size, blob })
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compress(
    chunks: &Receiver<Arc<Vec<u8>>>,
    form: BlobForm,
    members: ReadyMembers,
    writer: BlobWriter,
) -> io::Result<(Digest, u64)> {
    let mut compressor = Compressor::new(form.compression, form.level, writer)?.with_ready(members);
    drain(chunks, &mut compressor)?;
    compressor.finish()?.commit(None).map_err(io::Error::other)
}

fn digest(chunks: &Receiver<Arc<Vec<u8>>>, index: Index) -> (Index, Digest, u64) {
    let (mut hasher, mut size) = (Hasher::new(), 0);
    for chunk in chunks {
        hasher.update(&chunk);
        size += chunk.len() as u64;
    }
    (index, hasher.finish(), size)
}

fn drain(chunks: &Receiver<Arc<Vec<u8>>>, out: &mut dyn Write) -> io::Result<()> {
    for chunk in chunks {
        out.write_all(&chunk)?;
    }
    Ok(())
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn join<T>(thread: JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that handled a layer panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::write::TarWriter;
    use crate::tree::{Kind, Node, Time};

    /// Text and noise in turns, more than any encoder takes at a time.
    fn sample() -> Vec<u8> {
        let (mut state, mut bytes) = (1u64, Vec::new());
        while bytes.len() < 5 << 20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (bytes.len() >> 16) % 2 {
                0 => bytes.extend_from_slice(format!("line {} of the text\n", state >> 50).as_bytes()),
                _ => bytes.extend_from_slice(&state.to_le_bytes()),
            }
        }
        bytes
    }

    /// Where these bytes change, [`generation`] has to: a store with older blobs would give another image than an empty one.
    #[test]
    fn a_name_stands_for_the_same_bytes_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let made = |compression, level| {
            let form = BlobForm { compression, level };
            let (sender, chunks) = sync_channel(1);
            sender.send(Arc::new(sample())).unwrap();
            drop(sender);
            let (digest, _) = compress(&chunks, form, ReadyMembers::default(), store.blob_writer().unwrap()).unwrap();
            format!("{} {}", form.name(), digest.short())
        };
        let expected = [
            "uncompressed c5fe0a5f1dda",
            "gzip.3 39dc20fb3dbb",
            "gzip.3:9 67529a2d4274",
            "zstd.2 cfdc38f89cd5",
            "zstd.2:1 d58d6674200f",
        ];
        let forms = [
            (Compression::None, None),
            (Compression::Gzip, None),
            (Compression::Gzip, Some(9)),
            (Compression::Zstd, None),
            (Compression::Zstd, Some(1)),
        ];
        assert_eq!(forms.map(|(compression, level)| made(compression, level)), expected);
    }

    #[test]
    fn a_full_disk_is_not_reported_as_a_damaged_tar() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        // A device that is always full stands for the pipe's reader, which is told of in the same way as a blob.
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut ingest = Ingest::start(&store, Known::default(), None, None, Some(full.into())).unwrap();
        let size = (CHUNK * QUEUE * 4) as u64;
        let node = Node { kind: Kind::File { size, digest: None }, ..Node::directory(Time::default()) };
        let mut tar = TarWriter::new(Vec::new());
        tar.append(b"file", &node, None, &mut io::Read::take(io::repeat(1), size)).unwrap();
        assert!(ingest.write_all(&tar.finish().unwrap()).is_err());
        let error = ingest.finish().err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }
}
