//! Writing blobs that are still made.

use std::io::{self, Cursor, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::super::fake::{Auth, Fault, Registry, digest_of};
use super::super::push::{PushContent, PushImage, PushLayer, PushReport, push_begun};
use super::super::{Begun, Client, EarlyUploads, Unfinished};
use super::{client, client_of, open_registry, reference};
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Manifest, canonical};
use crate::image::media_type::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};

/// A blob that comes in pieces.
#[derive(Debug, Default)]
struct Made {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    is_whole: bool,
    is_given_up: bool,
}

impl Made {
    fn add(&self, bytes: &[u8]) {
        self.state.lock().unwrap().bytes.extend_from_slice(bytes);
        self.changed.notify_all();
    }

    fn finish(&self) {
        self.state.lock().unwrap().is_whole = true;
        self.changed.notify_all();
    }

    fn whole(bytes: &[u8]) -> Arc<Made> {
        let made = Arc::new(Made::default());
        made.add(bytes);
        made.finish();
        made
    }
}

#[derive(Debug)]
struct Shared(Arc<Made>);

struct Reader(Arc<Made>, usize);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.0.state.lock().unwrap();
        let goes_on = |state: &mut State| state.bytes.len() == self.1 && !state.is_whole && !state.is_given_up;
        let state = self.0.changed.wait_while(state, goes_on).unwrap();
        if state.is_given_up {
            return Err(io::Error::other("given up"));
        }
        let count = (&state.bytes[self.1..]).read(buffer)?;
        self.1 += count;
        Ok(count)
    }
}

impl Unfinished for Shared {
    fn open(&self) -> Box<dyn Read + Send> {
        Box::new(Reader(Arc::clone(&self.0), 0))
    }

    fn digest(&self) -> Option<Digest> {
        let state = self.0.state.lock().unwrap();
        state.is_whole.then(|| Digest::of(&state.bytes))
    }

    fn abandon(&self) {
        let mut state = self.0.state.lock().unwrap();
        state.is_given_up = !state.is_whole;
        self.0.changed.notify_all();
    }
}

/// An image of one layer, and what tells that the layer was read to be sent as any other.
fn image(layer: &[u8]) -> (PushContent, Receiver<()>) {
    let (sender, opened): (Sender<()>, _) = channel();
    let config: &[u8] = b"{}";
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, layer);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, config),
        layers: vec![descriptor.clone()],
        subject: None,
        annotations: Default::default(),
    };
    let (bytes, layer) = (canonical(&manifest), layer.to_vec());
    let open = move || {
        sender.send(()).unwrap();
        Ok(Box::new(Cursor::new(layer.clone())) as Box<dyn Read + Send>)
    };
    let layers = vec![PushLayer { descriptor, open: Box::new(open), mount_from: Vec::new() }];
    let config = (Descriptor::of(OCI_CONFIG, config), config.to_vec());
    let manifest = (Descriptor::of(OCI_MANIFEST, &bytes), bytes);
    (PushContent::Image(Box::new(PushImage { layers, config, manifest })), opened)
}

fn pushed(client: &Client, registry: &Registry, early: &EarlyUploads, content: &PushContent) -> PushReport {
    push_begun(client, &reference(registry, "a:t"), content, &[], Some(early), None).unwrap()
}

fn sample() -> Vec<u8> {
    (0..3 << 20).map(|index: u32| (index / 7) as u8).collect()
}

/// Waits for something that another thread brings about.
fn comes(what: &str, is_there: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_there() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_blob_is_sent_while_it_is_made_and_not_again_when_it_is_pushed() {
    let bytes = sample();
    for registry in
        [open_registry(), Registry::start(Auth::Token("me", "secret")), Registry::start(Auth::Basic("me", "secret"))]
    {
        let client = client_of("me", "secret", &registry);
        let early = EarlyUploads::new(client.clone(), reference(&registry, "a:t"));
        let made = Arc::new(Made::default());
        made.add(&bytes[..2 << 20]);
        early.begin(Arc::new(Shared(Arc::clone(&made))));
        comes("it is sent before it is whole", || registry.count("PATCH", "/uploads/") > 0);
        made.add(&bytes[2 << 20..]);
        made.finish();
        let (content, opened) = image(&bytes);
        let report = pushed(&client, &registry, &early, &content);
        assert_eq!((report.existed, report.uploaded), (0, 2), "the layer and the config");
        assert!(registry.blob("a", &digest_of(&bytes)) == Some(bytes.clone()));
        assert!(opened.try_recv().is_err(), "it is not read again");
        assert_eq!(registry.count("PUT", "/uploads/"), 2);
        assert!(registry.manifest("a", "t").is_some());
    }
}

#[test]
fn what_cannot_be_sent_early_is_pushed_as_any_other() {
    let bytes = sample();
    for (method, fault) in [
        ("POST", Fault::Status(503, vec![], "")),
        ("POST", Fault::Status(403, vec![], "")),
        ("POST", Fault::Reset),
        ("PATCH", Fault::Status(405, vec![], "")),
        ("PATCH", Fault::Status(413, vec![], "<html>too large</html>")),
        ("PATCH", Fault::Status(500, vec![], "")),
        ("PATCH", Fault::Reset),
        ("PATCH", Fault::ResetInRequest(1 << 20)),
        ("PATCH", Fault::LoseAnswer),
        // Something on the way has thrown the body away.
        ("PATCH", Fault::Header("range", "0-0".to_owned())),
        ("PATCH", Fault::Status(429, vec![], "")),
        ("PUT", Fault::Status(400, vec![], r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#)),
        ("PUT", Fault::Status(404, vec![], "")),
        ("PUT", Fault::Reset),
        ("PUT", Fault::LoseAnswer),
        ("PUT", Fault::Status(429, vec![], "")),
    ] {
        let registry = open_registry();
        // The config, so that the fault meets the layer.
        registry.put_blob("a", b"{}");
        registry.plan(method, "/uploads/", 1, fault.clone());
        let client = client();
        let early = EarlyUploads::new(client.clone(), reference(&registry, "a:t"));
        early.begin(Arc::new(Shared(Made::whole(&bytes))));
        comes("the fault", || registry.count(method, "/uploads/") > 0 || method == "PUT");
        let (content, opened) = image(&bytes);
        pushed(&client, &registry, &early, &content);
        // Who has it needs it no more than once.
        let is_there = matches!(fault, Fault::Reset | Fault::LoseAnswer | Fault::Status(429, ..)) && method == "PUT";
        assert_eq!(opened.try_recv().is_err(), is_there, "{method} {fault:?}");
        assert!(registry.blob("a", &digest_of(&bytes)) == Some(bytes.clone()), "{method} {fault:?}");
        assert!(registry.manifest("a", "t").is_some(), "{method} {fault:?}");
    }
}

#[test]
fn an_upload_that_nobody_wants_any_more_is_taken_back() {
    let bytes = sample();
    // The repository has it, which shows once it is known what it is.
    let registry = open_registry();
    registry.put_blob("a", &bytes);
    let early = EarlyUploads::new(client(), reference(&registry, "a:t"));
    let made = Arc::new(Made::default());
    made.add(&bytes);
    early.begin(Arc::new(Shared(Arc::clone(&made))));
    comes("it is begun", || registry.count("PATCH", "/uploads/") > 0);
    // Another blob of the same repository has nothing to do with it.
    let (other, opened) = image(b"other");
    assert_eq!(pushed(&client(), &registry, &early, &other).uploaded, 2);
    assert!(opened.try_recv().is_ok());
    made.finish();
    let (content, opened) = image(&bytes);
    assert_eq!(pushed(&client(), &registry, &early, &content).existed, 2);
    assert!(opened.try_recv().is_err());
    comes("it is taken back", || registry.count("DELETE", "/uploads/") == 1);

    // Whether the repository has it cannot be found out.
    let made = Made::whole(&bytes);
    early.begin(Arc::new(Shared(Arc::clone(&made))));
    registry.plan("HEAD", "/blobs/", 1, Fault::Status(403, vec![], ""));
    push_begun(&client(), &reference(&registry, "a:t"), &content, &[], Some(&early), None).unwrap_err();
    comes("it is taken back", || registry.count("DELETE", "/uploads/") == 2);

    // A build that fails drops what it had begun.
    let made = Arc::new(Made::default());
    made.add(&bytes);
    let before = registry.count("PATCH", "/uploads/");
    early.begin(Arc::new(Shared(Arc::clone(&made))));
    comes("it is begun", || registry.count("PATCH", "/uploads/") > before);
    let taken_back = registry.count("DELETE", "/uploads/");
    drop(early);
    comes("it is taken back", || registry.count("DELETE", "/uploads/") > taken_back);
    assert!(made.state.lock().unwrap().is_given_up);
}

#[test]
fn nothing_is_begun_for_another_repository_or_after_the_end() {
    let bytes = sample();
    let registry = open_registry();
    let early = EarlyUploads::new(client(), reference(&registry, "b:t"));
    early.begin(Arc::new(Shared(Made::whole(&bytes))));
    let (content, opened) = image(&bytes);
    assert_eq!(pushed(&client(), &registry, &early, &content).uploaded, 2);
    assert!(opened.try_recv().is_ok(), "what goes to b is not in a");
    assert!(registry.blob("b", &digest_of(&bytes)).is_none());
    comes("it was sent", || registry.count("PATCH", "/uploads/") == 1);
    early.close();
    assert_eq!(registry.count("DELETE", "/uploads/"), 1, "what nobody took is taken back before it is over");
    early.begin(Arc::new(Shared(Made::whole(&bytes))));
    assert_eq!(registry.count("PATCH", "/uploads/"), 1);
}

#[test]
fn so_many_are_sent_at_a_time() {
    let registry = open_registry();
    let early = EarlyUploads::new(client(), reference(&registry, "a:t"));
    let made: Vec<Arc<Made>> = (0..5).map(|_| Arc::new(Made::default())).collect();
    let begin = |number: usize| early.begin(Arc::new(Shared(Arc::clone(&made[number]))));
    assert_eq!([0, 1, 2, 3].map(begin), [Begun::Yes; 4]);
    assert_eq!(begin(4), Begun::NotYet);
    // What was sent makes room, whether or not somebody has asked for it.
    made[2].add(b"short");
    made[2].finish();
    comes("there is room", || begin(4) == Begun::Yes);
    made.iter().for_each(|made| made.finish());
}
