//! The cache in the service of GitHub Actions, in both its versions, against one in this process and each of its faults.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::fake::{Cloud, Fault};
use super::super::quick_client;
use super::super::storage::Piece;
use super::*;
use crate::digest::VerifyReader;
use crate::image::media_type::OCI_LAYER_ZSTD;
use crate::progress::Progress;

/// A token that may write for a branch, and read others.
fn token(branch: &str, others: &[&str], end: u64) -> String {
    let scope = |name: &str, permission: u32| serde_json::json!({ "Scope": name, "Permission": permission });
    let mut scopes = vec![scope(branch, 3)];
    scopes.extend(others.iter().map(|name| scope(name, 1)));
    let access = serde_json::to_string(&scopes).unwrap();
    let payload = serde_json::json!({ "ac": access, "exp": end, "nbf": 1 }).to_string();
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

const FAR: u64 = 32_503_680_000;

fn main_token() -> String {
    token("refs/heads/main", &[], FAR)
}

fn start() -> Cloud {
    Cloud::actions(&main_token(), "refs/heads/main", &[])
}

fn place(cloud: &Cloud, version: Version, token: &str) -> ActionsPlace {
    let url = Url::parse(&format!("{}/", cloud.url())).unwrap();
    let (service, token) = (Some((version, url)), Some(Secret::new(token)));
    ActionsPlace { scope: "app/one".to_owned(), service, token, timeout: Duration::from_secs(60) }
}

fn writer(cloud: &Cloud, version: Version) -> Actions {
    place(cloud, version, &main_token()).writer(&quick_client())
}

fn piece(bytes: &'static [u8]) -> Piece {
    let open: Open = Arc::new(move || Ok(Box::new(bytes)));
    Piece { descriptor: Descriptor::of(OCI_LAYER_ZSTD, bytes), open, mount_from: Vec::new(), belief: Belief::Usual }
}

fn content(layers: &[&'static [u8]], manifest: &[u8]) -> Content {
    Content {
        manifest: (Descriptor::of(OCI_MANIFEST, manifest), manifest.to_vec()),
        config: (Descriptor::of("application/json", b"{}"), b"{}".to_vec()),
        layers: layers.iter().map(|bytes| piece(bytes)).collect(),
        belief: Belief::Usual,
    }
}

fn write(actions: &Actions, content: Content) -> Result<Written> {
    actions.write(content, &Progress::silent().task("export"))
}

fn read(actions: &Actions, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let descriptor = Descriptor::of(OCI_LAYER_ZSTD, bytes);
    let mut found = Vec::new();
    let reader = actions.open(&descriptor)?;
    VerifyReader::new(reader, descriptor.digest, Some(descriptor.size)).read_to_end(&mut found)?;
    Ok(found)
}

const BOTH: [Version; 2] = [Version::One, Version::Two];

#[test]
fn what_is_written_is_read_and_only_what_is_missing_is_sent() {
    for version in BOTH {
        let cloud = start();
        assert_eq!(writer(&cloud, version).top().unwrap(), None);
        let written = write(&writer(&cloud, version), content(&[b"one", b"two"], b"first")).unwrap();
        assert_eq!(written, Written { sent: 2, bytes: 6 });
        let other = writer(&cloud, version);
        cloud.forget_asked();
        assert_eq!(other.top().unwrap().as_deref(), Some(b"first".as_slice()));
        assert_eq!(other.small(&Descriptor::of("application/json", b"{}"), 100).unwrap(), b"{}");
        assert_eq!(cloud.asked().len(), 2, "a question and an answer for the manifest and its config");
        assert_eq!(read(&other, b"two").unwrap(), b"two");
        assert_eq!(write(&other, content(&[b"one", b"three"], b"next")).unwrap(), Written { sent: 1, bytes: 5 });
        assert_eq!(other.top().unwrap().as_deref(), Some(b"next".as_slice()));
        cloud.forget_asked();
        assert_eq!(write(&other, content(&[b"one", b"three"], b"next")).unwrap(), Written::default());
        assert_eq!(cloud.asked().len(), 2, "the same again costs a question and an answer");
        let mut indexes: Vec<String> = cloud.keys().into_iter().filter(|key| key.starts_with("rbuild-index")).collect();
        indexes.sort();
        let hash = &Digest::of(b"refs/heads/main").hex()[..8];
        let key = |number| format!("rbuild-index-1-app%2Fone-{hash}#{number}");
        assert_eq!(indexes, [key(1), key(2)]);
        assert!(cloud.keys().contains(&format!("rbuild-blob-1-{}", Digest::of(b"one"))));
    }
}

#[test]
fn a_large_blob_goes_in_parts_and_a_part_that_fails_is_sent_again() {
    let large: &'static [u8] = Box::leak((0..(33 << 20) + 7).map(|at: u32| (at >> 8) as u8).collect::<Box<[u8]>>());
    for version in BOTH {
        let cloud = start();
        cloud.plan("PATCH", "caches/1", 1, Fault::LoseAnswer);
        cloud.plan("PUT", "comp=block&", 1, Fault::LoseAnswer);
        cloud.plan("PUT", "comp=blocklist", 1, Fault::Status(503, vec![("retry-after", "0")], ""));
        assert_eq!(write(&writer(&cloud, version), content(&[large], b"m")).unwrap().sent, 1);
        let parts = cloud.count("PATCH", "caches/1") + cloud.count("PUT", "comp=block&");
        assert_eq!(parts, 4, "three and one again");
        cloud.plan("GET", "/blobs/", 1, Fault::Cut(20 << 20));
        assert!(read(&writer(&cloud, version), large).unwrap() == large);
    }
}

#[test]
fn a_branch_writes_its_own_and_reads_that_of_its_base() {
    for version in BOTH {
        let cloud = start();
        write(&writer(&cloud, version), content(&[b"one"], b"of main")).unwrap();
        let topic = token("refs/heads/topic", &["refs/heads/main"], FAR);
        cloud.next_job(&topic, "refs/heads/topic", &["refs/heads/main"]);
        let place = place(&cloud, version, &topic);
        let tops = || -> Vec<Option<Vec<u8>>> {
            place.readers(&quick_client()).iter().map(|reader| reader.top().unwrap()).collect()
        };
        assert_eq!(tops(), [None, Some(b"of main".to_vec())]);
        let written = write(&place.writer(&quick_client()), content(&[b"one", b"two"], b"of topic")).unwrap();
        assert_eq!(written, Written { sent: 1, bytes: 3 }, "what the base has is not sent again");
        assert_eq!(tops(), [Some(b"of topic".to_vec()), Some(b"of main".to_vec())]);
        cloud.next_job(&main_token(), "refs/heads/main", &[]);
        assert_eq!(writer(&cloud, version).top().unwrap().as_deref(), Some(b"of main".as_slice()));
    }
}

#[test]
fn keys_that_others_took_are_passed_over() {
    for version in BOTH {
        let cloud = start();
        let hash = &Digest::of(b"refs/heads/main").hex()[..8];
        cloud.take(&format!("rbuild-index-1-app%2Fone-{hash}#1"));
        cloud.take(&format!("rbuild-blob-1-{}", Digest::of(b"one")));
        let written = write(&writer(&cloud, version), content(&[b"one", b"two"], b"first")).unwrap();
        assert_eq!(written, Written { sent: 2, bytes: 6 }, "what nobody finishes is written beside");
        assert!(cloud.keys().contains(&format!("rbuild-index-1-app%2Fone-{hash}#2")), "{:?}", cloud.keys());
        assert_eq!(read(&writer(&cloud, version), b"one").unwrap(), b"one");
        let again = write(&writer(&cloud, version), content(&[b"one"], b"again")).unwrap();
        assert_eq!(again, Written::default(), "it is found where it is");
        // An index that is none is followed by one that is.
        cloud.put(&format!("rbuild-index-1-app%2Fone-{hash}#3"), b"damaged");
        assert!(writer(&cloud, version).top().is_err());
        write(&writer(&cloud, version), content(&[b"two"], b"second")).unwrap();
        assert_eq!(writer(&cloud, version).top().unwrap().as_deref(), Some(b"second".as_slice()));
    }
}

#[test]
fn failures_that_pass_are_waited_for_and_others_are_told() {
    for version in BOTH {
        let cloud = start();
        for fault in [
            Fault::Status(429, vec![("retry-after", "0")], "{\"code\":\"resource_exhausted\",\"msg\":\"slowly\"}"),
            Fault::Status(502, vec![], "<html>"),
            Fault::Reset,
        ] {
            for method in ["GET", "POST", "PUT", "PATCH"] {
                cloud.plan(method, "", 1, fault.clone());
            }
        }
        write(&writer(&cloud, version), content(&[b"one"], b"first")).unwrap();
        assert_eq!(read(&writer(&cloud, version), b"one").unwrap(), b"one");
        let limited = Fault::Status(429, vec![], "{\"code\":\"resource_exhausted\",\"msg\":\"slowly\"}");
        cloud.plan("", "", 99, limited);
        let error = writer(&cloud, version).top().unwrap_err().to_string();
        assert!(error.contains("status 429 (resource_exhausted: slowly); the service limits"), "{error}");
    }
}

#[test]
fn a_refusal_that_is_none_of_a_taken_key_is_told_with_what_can_be_done() {
    let cases = [
        (
            200,
            r#"{"ok":false,"message":"Cache storage quota exceeded"}"#,
            "quota exceeded); the room for caches is used up",
        ),
        (200, r#"{"ok":false,"message":"write permission denied"}"#, "the token may not do this"),
        (403, r#"{"code":"permission_denied","msg":"no"}"#, "status 403 (permission_denied: no); the token may not"),
        (409, r#"{"code":"failed_precondition","msg":"closed for repairs"}"#, "closed for repairs"),
        (400, r#"{"code":"invalid_argument","msg":"size limit of 10 GB"}"#, "the room for caches is used up"),
    ];
    for (status, text, expected) in cases {
        let cloud = start();
        cloud.plan("POST", "CreateCacheEntry", 1, Fault::Status(status, vec![], text));
        let error = write(&writer(&cloud, Version::Two), content(&[b"one"], b"first")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(cloud.count("POST", "CreateCacheEntry"), 1, "another key would be refused, too: {text}");
    }
    // That may pass, whatever words it has.
    let cloud = start();
    let limited = r#"{"code":"resource_exhausted","msg":"request quota exceeded"}"#;
    cloud.plan("", "", 99, Fault::Status(429, vec![], limited));
    let error = writer(&cloud, Version::Two).top().unwrap_err().to_string();
    assert!(error.contains("a later build goes on"), "{error}");
    // Twirp has a code of its own for who comes second.
    let cloud = start();
    let second = r#"{"code":"aborted","msg":"conflict"}"#;
    cloud.plan("POST", "CreateCacheEntry", 1, Fault::Status(409, vec![], second));
    write(&writer(&cloud, Version::Two), content(&[b"one"], b"first")).unwrap();
    for text in [r#"{"ok":false}"#, r#"{"ok":false,"message":"cache entry already exists"}"#] {
        let cloud = start();
        cloud.plan("POST", "CreateCacheEntry", 1, Fault::Status(200, vec![], text));
        write(&writer(&cloud, Version::Two), content(&[b"one"], b"first")).unwrap();
    }
    let cloud = start();
    cloud.plan("POST", "FinalizeCache", 1, Fault::Status(200, vec![], r#"{"ok":false,"message":"too slow"}"#));
    let error = write(&writer(&cloud, Version::Two), content(&[b"one"], b"first")).unwrap_err().to_string();
    assert!(error.contains("finish rbuild-blob") && error.contains("too slow"), "{error}");
}

#[test]
fn what_was_evicted_is_written_again_once_it_was_missed() {
    for version in BOTH {
        let cloud = start();
        write(&writer(&cloud, version), content(&[b"one", b"two"], b"first")).unwrap();
        cloud.remove(&format!("rbuild-blob-1-{}", Digest::of(b"one")));
        assert!(read(&writer(&cloud, version), b"one").is_err());
        assert_eq!(write(&writer(&cloud, version), content(&[b"one", b"two"], b"first")).unwrap(), Written::default());
        let shaken = Content { belief: Belief::Shaken, ..content(&[b"one", b"two"], b"first") };
        assert_eq!(write(&writer(&cloud, version), shaken).unwrap(), Written { sent: 1, bytes: 3 });
        assert_eq!(read(&writer(&cloud, version), b"one").unwrap(), b"one");
    }
}

#[test]
fn patience_ends_with_the_timeout() {
    let cloud = start();
    cloud.plan("", "", 99, Fault::Status(503, vec![], ""));
    let place = ActionsPlace { timeout: Duration::ZERO, ..place(&cloud, Version::Two, &main_token()) };
    assert!(place.writer(&quick_client()).top().is_err());
    assert_eq!(cloud.asked().len(), 1);
}

#[test]
fn other_bytes_than_were_promised_are_never_taken() {
    let cloud = start();
    write(&writer(&cloud, Version::Two), content(&[b"one"], b"first")).unwrap();
    cloud.plan("GET", "/blobs/", 1, Fault::Corrupt);
    assert!(read(&writer(&cloud, Version::Two), b"one").is_err());
    // What is written is not what it should be: it is not closed, and no index names it.
    let wrong = Piece { descriptor: Descriptor::of(OCI_LAYER_ZSTD, b"four"), ..piece(b"five") };
    let wrong = Content { layers: vec![wrong], ..content(&[], b"second") };
    assert!(write(&writer(&cloud, Version::Two), wrong).is_err());
    assert_eq!(writer(&cloud, Version::Two).top().unwrap().as_deref(), Some(b"first".as_slice()));
    assert_eq!(cloud.keys().len(), 2);
}

#[test]
fn refusals_say_what_can_be_done_and_nothing_of_the_token() {
    for version in BOTH {
        let cloud = start();
        let says = |token: &str| {
            let error = place(&cloud, version, token).writer(&quick_client()).top().unwrap_err().to_string();
            assert!(!error.contains(token), "{error}");
            error
        };
        assert!(says(&token("refs/heads/main", &[], 1000)).contains("the token has ended"));
        assert!(says("another").contains("ACTIONS_RUNTIME_TOKEN of this very job"));
        assert!(says(&token("a", &[], FAR)).contains("status 401 (unauthenticated: who is this?)"));
    }
    let client = quick_client();
    let nowhere = ActionsPlace { scope: "a".into(), service: None, token: None, timeout: Duration::ZERO };
    let says = |place: &ActionsPlace| {
        let error = place.readers(&client)[0].top().unwrap_err().to_string();
        assert_eq!(write(&place.writer(&client), content(&[], b"m")).unwrap_err().to_string(), error);
        error
    };
    let text = says(&nowhere);
    assert!(text.contains("ACTIONS_RESULTS_URL") && text.contains("crazy-max/ghaction-github-runtime"), "{text}");
    let cloud = start();
    let nobody = ActionsPlace { token: None, ..place(&cloud, Version::Two, "") };
    assert!(says(&nobody).starts_with("the service's token (ACTIONS_RUNTIME_TOKEN) is not known"));
}

#[test]
fn an_encrypted_service_does_not_lead_to_plain_addresses() {
    let service = Service {
        client: quick_client(),
        version: Version::Two,
        url: Url::parse("https://service.example/").unwrap(),
        token: Secret::new("t"),
        namespace: Digest::of(b""),
        end: Instant::now(),
    };
    assert!(service.address("http://blobs.example/1?sig=x").is_err());
    assert!(service.address("https://blobs.example/1?sig=x").is_ok());
}
