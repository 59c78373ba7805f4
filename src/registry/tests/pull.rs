//! Reading: blobs, manifests, platforms.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::fake::{Fault, Registry, digest_of};
use super::super::pull::resolve_platform;
use super::super::{Client, ClientOptions, RegistryError};
use super::{client, open_registry, options, reference};
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::progress::{Event, Progress, Sink};

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31 % 251) as u8).collect()
}

fn read(client: &Client, registry: &Registry, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    client.blob(&reference(registry, "a"), &Descriptor::of(OCI_LAYER_GZIP, bytes)).read_to_end(&mut out)?;
    Ok(out)
}

/// Puts a manifest with one layer and gives its bytes.
fn put_image(registry: &Registry, repository: &str, tag: &str, config: &[u8]) -> Vec<u8> {
    let layer = b"layer".as_slice();
    registry.put_blob(repository, config);
    registry.put_blob(repository, layer);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": config.len()},
        "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": digest_of(layer), "size": layer.len()}],
    });
    let bytes = manifest.to_string().into_bytes();
    registry.put_manifest(repository, tag, OCI_MANIFEST, &bytes);
    bytes
}

const CONFIG: &[u8] = br#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

#[test]
fn a_blob_is_read_and_verified() {
    let registry = open_registry();
    for size in [0, 1, 300_000] {
        let bytes = content(size);
        registry.put_blob("a", &bytes);
        assert_eq!(read(&client(), &registry, &bytes).unwrap(), bytes);
    }
}

#[test]
fn a_blob_that_is_cut_goes_on_where_it_was_cut() {
    let bytes = content(300_000);
    for fault in [Fault::Cut(0), Fault::Cut(1), Fault::Cut(150_000), Fault::Cut(299_999)] {
        let registry = open_registry();
        registry.put_blob("a", &bytes);
        registry.plan("GET", "/blobs/", 1, fault.clone());
        assert_eq!(read(&client(), &registry, &bytes).unwrap(), bytes, "{fault:?}");
        let cut_at = match fault {
            Fault::Cut(0) => None,
            Fault::Cut(bytes) => Some(format!("bytes={bytes}-")),
            other => panic!("{other:?}"),
        };
        let ranges: Vec<_> = registry.asked().into_iter().filter(|asked| asked.method == "GET").collect();
        assert_eq!(ranges.last().unwrap().range, cut_at);
    }
}

#[test]
fn a_registry_without_ranges_or_with_wrong_ones_is_read_again_from_the_start() {
    let bytes = content(300_000);
    for second in [
        Fault::IgnoreRange,
        Fault::WrongRange,
        Fault::Status(416, vec![], ""),
        Fault::Status(206, vec![("content-range", "bytes 0-2/3".into())], "abc"),
    ] {
        let registry = open_registry();
        registry.put_blob("a", &bytes);
        registry.plan("GET", "/blobs/", 1, Fault::Cut(1000));
        registry.plan("GET", "/blobs/", 1, second.clone());
        assert_eq!(read(&client(), &registry, &bytes).unwrap(), bytes, "{second:?}");
    }
}

#[test]
fn a_blob_that_is_cut_for_ever_is_given_up() {
    let registry = open_registry();
    let bytes = content(1000);
    registry.put_blob("a", &bytes);
    registry.plan("GET", "/blobs/", 100, Fault::Cut(1));
    let error = read(&client(), &registry, &bytes).unwrap_err();
    assert!(matches!(RegistryError::of_io(&error), Some(RegistryError::Transfer { .. })), "{error:?}");
    assert!(error.to_string().contains("of 1000 bytes"), "{error}");
    assert!(registry.count("GET", "/blobs/") <= 12, "{}", registry.count("GET", "/blobs/"));
}

#[test]
fn other_bytes_than_the_descriptor_says_are_refused() {
    let bytes = content(1000);
    for fault in [Fault::Corrupt, Fault::TooLong] {
        let registry = open_registry();
        registry.put_blob("a", &bytes);
        registry.plan("GET", "/blobs/", 100, fault.clone());
        let error = read(&client(), &registry, &bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{fault:?}: {error}");
    }
    let registry = open_registry();
    registry.put_blob("a", &bytes);
    let shorter = Descriptor::new(OCI_LAYER_GZIP, Digest::of(&bytes), 999);
    let error = client().blob(&reference(&registry, "a"), &shorter).read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("longer than its 999 bytes"), "{error}");
}

#[test]
fn failures_that_pass_are_waited_for() {
    let bytes = content(1000);
    for fault in [
        Fault::Status(500, vec![], ""),
        Fault::Status(502, vec![], "<html>"),
        Fault::Status(503, vec![("retry-after", "0".into())], ""),
        Fault::Status(504, vec![], ""),
        Fault::Status(408, vec![], ""),
        Fault::Status(429, vec![], ""),
        Fault::Status(429, vec![("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT".into())], ""),
        Fault::Reset,
        Fault::ResetInHeaders,
    ] {
        let registry = open_registry();
        registry.put_blob("a", &bytes);
        registry.plan("GET", "/blobs/", 3, fault.clone());
        assert_eq!(read(&client(), &registry, &bytes).unwrap(), bytes, "{fault:?}");
        assert_eq!(registry.count("GET", "/blobs/"), 4, "{fault:?}");
    }
}

#[test]
fn failures_that_do_not_pass_are_reported_after_five_retries() {
    let registry = open_registry();
    registry.plan("GET", "/blobs/", 1000, Fault::Status(500, vec![], "\x1b[31mred"));
    let error = read(&client(), &registry, b"x").unwrap_err();
    assert_eq!(registry.count("GET", "/blobs/"), 6);
    let text = error.to_string();
    assert!(text.contains("unexpected status 500") && !text.contains('\x1b'), "{text}");
    let registry = open_registry();
    registry.plan("GET", "/blobs/", 1000, Fault::Status(429, vec![], "slow down"));
    let error = read(&client(), &registry, b"x").unwrap_err();
    let error = RegistryError::of_io(&error).unwrap();
    assert!(matches!(error, RegistryError::TooManyRequests { retries: 5, .. }), "{error:?}");
}

#[test]
fn retry_after_is_waited_for_up_to_a_limit() {
    let registry = open_registry();
    registry.put_blob("a", b"x");
    registry.plan("GET", "/blobs/", 1, Fault::Status(429, vec![("retry-after", "3600".into())], ""));
    let started = Instant::now();
    read(&client(), &registry, b"x").unwrap();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(20), "{waited:?}");
}

#[test]
fn refusals_are_final_and_typed() {
    let registry = open_registry();
    let error = read(&client(), &registry, b"none").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
    registry.plan("GET", "/blobs/", 1, Fault::Status(403, vec![], r#"{"errors":[{"code":"DENIED","message":"no"}]}"#));
    let error = read(&client(), &registry, b"none").unwrap_err();
    assert!(error.to_string().ends_with("denied: DENIED no"), "{error}");
}

#[test]
fn a_transfer_that_stands_still_is_cut_and_a_slow_one_is_not() {
    let bytes = content(4000);
    let registry = open_registry();
    registry.put_blob("a", &bytes);
    registry.plan("GET", "/blobs/", 1, Fault::Drip(1000, Duration::from_secs(30)));
    let started = Instant::now();
    assert_eq!(read(&client(), &registry, &bytes).unwrap(), bytes);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(registry.asked().last().unwrap().range.as_deref(), Some("bytes=1000-"));
    registry.plan("GET", "/blobs/", 1, Fault::Drip(400, Duration::from_millis(80)));
    let before = registry.count("GET", "/blobs/");
    assert_eq!(read(&client(), &registry, &bytes).unwrap(), bytes, "longer than the stall limit in all");
    assert_eq!(registry.count("GET", "/blobs/"), before + 1);
    registry.plan("GET", "/blobs/", 1, Fault::Delay(Duration::from_secs(30)));
    assert_eq!(read(&client(), &registry, &bytes).unwrap(), bytes, "an answer that does not come");
}

#[test]
fn a_header_without_end_is_refused() {
    let registry = open_registry();
    registry.plan("GET", "/blobs/", 1, Fault::EndlessHeader);
    let error = read(&client(), &registry, b"x").unwrap_err();
    assert!(error.to_string().contains("header is too big"), "{error}");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (registry, store) = (open_registry(), open_registry());
    store.put_blob("a", b"x");
    for status in [301, 302, 303, 307, 308] {
        registry.plan("GET", "/blobs/", 1, Fault::Redirect(status, store.url()));
        assert_eq!(read(&client(), &registry, b"x").unwrap(), b"x", "{status}");
    }
    registry.plan("GET", "/blobs/", 100, Fault::Redirect(307, registry.url()));
    let error = read(&client(), &registry, b"x").unwrap_err();
    assert!(error.to_string().contains("more than 10 redirects"), "{error}");
}

#[test]
fn a_host_that_refuses_connections_is_named_soon() {
    let registry = open_registry();
    let host = registry.host();
    let reference = reference(&registry, "a");
    drop(registry);
    let started = Instant::now();
    let error = client().resolve(&reference, None).unwrap_err();
    assert!(matches!(&error, RegistryError::Connect { host: named, .. } if *named == host), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_tag_is_resolved_to_what_it_stands_for() {
    let registry = open_registry();
    let bytes = put_image(&registry, "a", "t", CONFIG);
    let resolved = client().resolve(&reference(&registry, "a:t"), None).unwrap();
    assert_eq!((resolved.digest, resolved.media_type.as_str()), (Digest::of(&bytes), OCI_MANIFEST));
    assert_eq!(resolved.bytes, bytes);
    let head = client().head_manifest(&reference(&registry, "a:t")).unwrap().unwrap();
    assert_eq!(head, Descriptor::of(OCI_MANIFEST, &bytes));
    assert_eq!(client().head_manifest(&reference(&registry, "a:none")).unwrap(), None);
    registry.plan("HEAD", "/manifests/", 1, Fault::Header("docker-content-digest", String::new()));
    assert_eq!(client().head_manifest(&reference(&registry, "a:t")).unwrap(), Some(head.clone()), "said less than all");
    assert_eq!(client().manifest(&reference(&registry, "a"), &head).unwrap(), bytes);
    let error = client().resolve(&reference(&registry, "a:none"), None).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[test]
fn a_manifest_that_is_not_what_was_asked_for_is_refused() {
    let registry = open_registry();
    let bytes = put_image(&registry, "a", "t", CONFIG);
    let tag = reference(&registry, "a:t");
    let pinned = reference(&registry, &format!("a:t@{}", digest_of(&bytes)));
    for reference in [&tag, &pinned] {
        registry.plan("GET", "/manifests/", 1, Fault::Corrupt);
        let error = client().resolve(reference, None).unwrap_err();
        assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
    }
    let other = Digest::of(b"other").to_string();
    registry.plan("GET", "/manifests/", 1, Fault::Header("docker-content-digest", other.clone()));
    assert!(matches!(client().resolve(&tag, None).unwrap_err(), RegistryError::Digest { .. }));
    registry.plan("HEAD", "/manifests/", 1, Fault::Header("docker-content-digest", other));
    assert!(matches!(client().head_manifest(&pinned).unwrap_err(), RegistryError::Digest { .. }));
    registry.plan("GET", "/manifests/", 1, Fault::Header("content-type", OCI_INDEX.to_owned()));
    assert!(matches!(client().resolve(&tag, None).unwrap_err(), RegistryError::Document { .. }));
    let descriptor = Descriptor::new(OCI_MANIFEST, Digest::of(&bytes), bytes.len() as u64 + 1);
    assert!(client().manifest(&tag, &descriptor).unwrap_err().to_string().contains("of its descriptor"));
}

#[test]
fn an_endless_manifest_is_refused() {
    let registry = open_registry();
    registry.put_manifest("a", "t", OCI_MANIFEST, &vec![b' '; (4 << 20) + 1]);
    let error = client().resolve(&reference(&registry, "a:t"), None).unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { limit: 4_194_304, .. }), "{error}");
}

#[test]
fn the_image_for_a_platform_is_found_through_indexes() {
    let registry = open_registry();
    let manifest = put_image(&registry, "a", "single", CONFIG);
    let entry = |bytes: &[u8], media_type: &str| {
        serde_json::json!({"mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len(),
            "platform": {"os": "linux", "architecture": "arm64"}})
    };
    let wrap = |entry: serde_json::Value| {
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).to_string().into_bytes()
    };
    let inner = wrap(entry(&manifest, OCI_MANIFEST));
    registry.put_manifest("a", "", OCI_INDEX, &inner);
    let outer = wrap(entry(&inner, OCI_INDEX));
    registry.put_manifest("a", "multi", OCI_INDEX, &outer);
    let arm = "linux/arm64".parse().unwrap();
    let image = resolve_platform(&client(), &reference(&registry, "a:multi"), &arm, None).unwrap();
    assert_eq!((image.manifest_digest, image.index_digest), (Digest::of(&manifest), Some(Digest::of(&outer))));
    assert_eq!((image.manifest_bytes, image.config_bytes.as_slice()), (manifest, CONFIG));
    assert_eq!(image.config.architecture, "arm64");
    let single = resolve_platform(&client(), &reference(&registry, "a:single"), &arm, None).unwrap();
    assert_eq!(single.index_digest, None);
    let amd = "linux/amd64".parse().unwrap();
    let error = resolve_platform(&client(), &reference(&registry, "a:multi"), &amd, None).unwrap_err();
    assert!(error.to_string().ends_with("has no image for linux/amd64, it has linux/arm64"), "{error}");
    let mut deep = outer;
    for _ in 0..6 {
        deep = wrap(entry(&deep, OCI_INDEX));
        registry.put_manifest("a", "deep", OCI_INDEX, &deep);
    }
    let error = resolve_platform(&client(), &reference(&registry, "a:deep"), &arm, None).unwrap_err();
    assert!(error.to_string().contains("deep"), "{error}");
}

#[test]
fn retries_are_told() {
    struct Notes(Mutex<Vec<String>>);
    impl Sink for Notes {
        fn event(&self, event: Event) {
            if let Event::Note { text, .. } = event {
                self.0.lock().unwrap().push(text);
            }
        }
    }
    let registry = open_registry();
    put_image(&registry, "a", "t", CONFIG);
    registry.plan("GET", "/manifests/", 1, Fault::Status(503, vec![], ""));
    let notes = Arc::new(Notes(Mutex::default()));
    let task = Progress::new(notes.clone()).task("x");
    client().resolve(&reference(&registry, "a:t"), Some(&task)).unwrap();
    let notes = notes.0.lock().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("503; retry 1 of 5"), "{notes:?}");
}

#[test]
fn an_insecure_registry_is_never_asked_for_tls() {
    let registry = open_registry();
    put_image(&registry, "a", "t", CONFIG);
    let insecure = Client::new(ClientOptions { insecure: vec![registry.host()], ..options() });
    insecure.resolve(&reference(&registry, "a:t"), None).unwrap();
    assert_eq!(registry.asked().len(), 1);
}
