//! Writing: blobs, mounts, manifests, whole images.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::fake::{Auth, Fault, Registry, digest_of};
use super::super::push::{PushContent, PushImage, PushIndex, PushLayer, PushReport, push};
use super::super::{Client, MountOutcome, PushOutcome, RegistryError};
use super::{client, client_of, open_registry, reference};
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Index, Manifest, canonical};
use crate::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};

fn send(client: &Client, registry: &Registry, bytes: &[u8]) -> Result<PushOutcome, RegistryError> {
    let owned = bytes.to_vec();
    let open = move || Ok(Box::new(io::Cursor::new(owned.clone())) as Box<dyn Read + Send>);
    client.push_blob(&reference(registry, "a"), &Descriptor::of(OCI_LAYER_GZIP, bytes), &open, None)
}

#[test]
fn a_blob_is_sent_once() {
    let registry = open_registry();
    for bytes in [vec![], vec![7; 1 << 20]] {
        assert_eq!(send(&client(), &registry, &bytes).unwrap(), PushOutcome::Uploaded);
        assert_eq!(registry.blob("a", &digest_of(&bytes)), Some(bytes.clone()));
        assert_eq!(send(&client(), &registry, &bytes).unwrap(), PushOutcome::Existed);
    }
    assert_eq!(registry.count("PUT", ""), 2);
    let (a, b) = (reference(&registry, "a"), reference(&registry, "b"));
    assert!(client().has_blob(&a, &Digest::of(b"")).unwrap());
    assert!(!client().has_blob(&b, &Digest::of(b"")).unwrap());
}

#[test]
fn an_upload_that_fails_starts_again() {
    let bytes = vec![7; 3 << 20];
    for (method, fault) in [
        ("POST", Fault::Status(503, vec![], "")),
        ("POST", Fault::Status(429, vec![], "")),
        ("POST", Fault::Reset),
        ("PUT", Fault::Reset),
        ("PUT", Fault::ResetInRequest(1 << 20)),
        ("PUT", Fault::Status(500, vec![], "")),
        ("PUT", Fault::Status(404, vec![], "")),
        ("PUT", Fault::Status(429, vec![], "")),
        ("PUT", Fault::Status(400, vec![], r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#)),
    ] {
        let registry = open_registry();
        registry.plan(method, "/uploads/", 1, fault.clone());
        assert_eq!(send(&client(), &registry, &bytes).unwrap(), PushOutcome::Uploaded, "{method} {fault:?}");
        assert_eq!(registry.blob("a", &digest_of(&bytes)).as_ref(), Some(&bytes), "{method} {fault:?}");
        assert_eq!(registry.count("PATCH", ""), 0, "{method} {fault:?}");
    }
}

#[test]
fn an_upload_whose_answer_was_lost_is_not_sent_again() {
    let registry = open_registry();
    registry.plan("PUT", "/uploads/", 1, Fault::LoseAnswer);
    assert_eq!(send(&client(), &registry, b"x").unwrap(), PushOutcome::Uploaded);
    assert_eq!(registry.count("PUT", "/uploads/"), 1);
}

#[test]
fn a_registry_that_refuses_large_requests_gets_small_ones() {
    let bytes: Vec<u8> = (0..20 << 20).map(|index: u32| (index / 3) as u8).collect();
    for (times, fault) in [
        (1, Fault::Status(413, vec![], "<html>too large</html>")),
        (1, Fault::Status(405, vec![], "")),
        (2, Fault::ResetInRequest(1 << 20)),
    ] {
        let registry = open_registry();
        registry.plan("PUT", "/uploads/", times, fault.clone());
        assert_eq!(send(&client(), &registry, &bytes).unwrap(), PushOutcome::Uploaded, "{fault:?}");
        assert_eq!(registry.blob("a", &digest_of(&bytes)).as_ref(), Some(&bytes), "{fault:?}");
        let sizes: Vec<usize> =
            registry.asked().iter().filter(|asked| asked.method == "PATCH").map(|asked| asked.bytes).collect();
        assert_eq!(sizes, [8 << 20, 8 << 20, 4 << 20], "{fault:?}");
    }
}

/// A registry that wants chunks, and a blob of two and a half of them.
fn chunked() -> (Registry, Vec<u8>) {
    let registry = open_registry();
    registry.plan("PUT", "/uploads/", 1, Fault::Status(413, vec![], ""));
    (registry, (0..20 << 20).map(|index: u32| (index / 5) as u8).collect())
}

/// Bytes that were sent in chunks.
fn patched(registry: &Registry) -> Vec<usize> {
    registry.asked().iter().filter(|asked| asked.method == "PATCH").map(|asked| asked.bytes).collect()
}

#[test]
fn a_chunk_that_was_cut_goes_on_where_the_registry_has_it() {
    for (fault, sizes) in [
        // The registry has all of the chunk: it is not sent again.
        (Fault::LoseAnswer, vec![8 << 20, 8 << 20, 4 << 20]),
        // It has some of it: the rest is.
        (Fault::KeepAndReset(3 << 20), vec![8 << 20, 5 << 20, 8 << 20, 4 << 20]),
        // It has nothing of it.
        (Fault::ResetInRequest(1 << 20), vec![8 << 20, 8 << 20, 8 << 20, 4 << 20]),
        (Fault::Status(503, vec![], ""), vec![8 << 20, 8 << 20, 8 << 20, 4 << 20]),
        (Fault::Status(500, vec![], "<html>"), vec![8 << 20, 8 << 20, 8 << 20, 4 << 20]),
    ] {
        let (registry, bytes) = chunked();
        registry.plan("PATCH", "/uploads/", 1, fault.clone());
        assert_eq!(send(&client(), &registry, &bytes).unwrap(), PushOutcome::Uploaded, "{fault:?}");
        assert!(registry.blob("a", &digest_of(&bytes)) == Some(bytes), "{fault:?}");
        assert_eq!(patched(&registry), sizes, "{fault:?}");
        assert_eq!(
            registry.count("POST", "/uploads/"),
            2,
            "{fault:?}: one that was refused, one that was gone on with"
        );
    }
}

#[test]
fn a_chunked_upload_that_is_gone_starts_again() {
    for (method, fault) in [
        ("PATCH", Fault::Status(404, vec![], r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#)),
        ("GET", Fault::Status(404, vec![], "")),
        ("GET", Fault::Header("range", String::new())),
        ("GET", Fault::Header("range", "0-99999999".to_owned())),
        ("GET", Fault::Header("range", "nonsense".to_owned())),
    ] {
        let (registry, bytes) = chunked();
        registry.plan("PATCH", "/uploads/", 1, Fault::Status(416, vec![], ""));
        registry.plan(method, "/uploads/", 1, fault.clone());
        assert_eq!(send(&client(), &registry, &bytes).unwrap(), PushOutcome::Uploaded, "{method} {fault:?}");
        assert!(registry.blob("a", &digest_of(&bytes)) == Some(bytes), "{method} {fault:?}");
    }
}

#[test]
fn a_token_that_expires_in_the_middle_of_a_push_is_replaced() {
    let registry = Registry::start(Auth::Token("me", "secret"));
    let client = client_of("me", "secret", &registry);
    let expired = || {
        let challenge = format!("Bearer realm=\"{}/token\",service=\"test\"", registry.url());
        Fault::Status(401, vec![("www-authenticate", challenge)], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
    };
    let bytes = vec![3; 9 << 20];
    for method in ["POST", "PUT"] {
        registry.plan(method, "/uploads/", 1, expired());
    }
    assert_eq!(send(&client, &registry, &bytes).unwrap(), PushOutcome::Uploaded);
    registry.plan("PUT", "/uploads/", 1, Fault::Status(413, vec![], ""));
    registry.plan("PATCH", "/uploads/", 1, expired());
    let more = vec![4; 9 << 20];
    assert_eq!(send(&client, &registry, &more).unwrap(), PushOutcome::Uploaded);
    registry.plan("PUT", "/manifests/", 1, expired());
    client.push_manifest(&reference(&registry, "a:t"), OCI_INDEX, b"{}").unwrap();
    assert!(registry.blob("a", &digest_of(&bytes)).is_some() && registry.blob("a", &digest_of(&more)).is_some());
    registry.plan("PUT", "/manifests/", 100, expired());
    let error = client.push_manifest(&reference(&registry, "a:t"), OCI_INDEX, b"{}").unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { credentials: Some(_), .. }), "{error}");
}

#[test]
fn an_upload_goes_where_the_registry_says_however_it_says_it() {
    // Of the upload that the second POST begins; the first one has this name.
    for location in [
        "/v2/a/blobs/uploads/upload-1?state=s%3D1",
        "upload-1?state=a%2Fb&other=1",
        "{url}/v2/a/blobs/uploads/upload-1",
        "//{host}/v2/a/blobs/uploads/upload-1?x",
    ] {
        let registry = open_registry();
        let location = location.replace("{url}", &registry.url()).replace("{host}", &registry.host());
        registry.plan("POST", "/uploads/", 1, Fault::Header("location", location.clone()));
        assert_eq!(send(&client(), &registry, b"x").unwrap(), PushOutcome::Uploaded, "{location}");
        let put = registry.asked().into_iter().find(|asked| asked.method == "PUT").unwrap();
        let separator = if location.contains('?') { '&' } else { '?' };
        let kept = location.rsplit('/').next().unwrap();
        assert!(
            put.target.ends_with(&format!("{kept}{separator}digest={}", digest_of(b"x").replace(':', "%3A"))),
            "{put:?}"
        );
    }
}

#[test]
fn an_answer_of_a_push_may_leave_the_digest_out_but_not_give_another() {
    let registry = open_registry();
    for path in ["/uploads/", "/manifests/"] {
        registry.plan("PUT", path, 1, Fault::Header("docker-content-digest", String::new()));
    }
    assert_eq!(send(&client(), &registry, b"x").unwrap(), PushOutcome::Uploaded);
    let tag = reference(&registry, "a:t");
    assert_eq!(client().push_manifest(&tag, OCI_INDEX, b"{}").unwrap(), Digest::of(b"{}"));
    let other = || Fault::Header("docker-content-digest", digest_of(b"other"));
    registry.plan("PUT", "/uploads/", 1, other());
    assert!(matches!(send(&client(), &registry, b"y").unwrap_err(), RegistryError::Digest { .. }));
    registry.plan("PUT", "/manifests/", 1, other());
    let error = client().push_manifest(&tag, OCI_INDEX, b"{}").unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
}

#[test]
fn an_answer_to_a_push_that_does_not_come_is_not_waited_for_for_ever() {
    let registry = open_registry();
    registry.plan("POST", "/uploads/", 1, Fault::Delay(Duration::from_secs(30)));
    assert_eq!(send(&client(), &registry, b"x").unwrap(), PushOutcome::Uploaded);
    assert_eq!(registry.count("POST", "/uploads/"), 2);
}

#[test]
fn a_page_of_a_proxy_is_no_message() {
    let registry = open_registry();
    let page = Fault::Status(403, vec![("content-type", "text/html".into())], "<html><script>alert(1)</script></html>");
    registry.plan("", "", 100, page);
    let error = send(&client(), &registry, b"x").unwrap_err().to_string();
    assert!(error.contains("denied") && !error.contains("script"), "{error}");
}

#[test]
fn a_web_server_with_a_page_for_every_address_is_no_registry() {
    let page = || Fault::Status(200, vec![("content-type", "text/html".into())], "<html>welcome</html>\n");
    let registry = open_registry();
    registry.plan("", "", 100, page());
    let content = PushContent::Image(Box::new(image(&registry, &[b"one"], b"{}")));
    let error = push(&client(), &reference(&registry, "a:t"), &content, &[], None).unwrap_err().to_string();
    assert!(error.contains("does not look like a registry"), "{error}");
    // Where a page happens to be as long as each blob.
    let registry = open_registry();
    registry.plan("PUT", "/manifests/", 100, page());
    let error = push(&client(), &reference(&registry, "a:t"), &content, &[], None).unwrap_err().to_string();
    assert!(error.contains("does not look like a registry"), "{error}");
}

#[test]
fn a_manifest_may_be_taken_with_another_success_than_the_specs() {
    let digest = || vec![("content-type", "text/html".to_owned()), ("docker-content-digest", digest_of(b"{}"))];
    for (status, headers) in [(200, vec![]), (202, vec![]), (204, vec![]), (200, digest())] {
        let registry = open_registry();
        registry.plan("PUT", "/manifests/", 1, Fault::Status(status, headers, ""));
        let pushed = client().push_manifest(&reference(&registry, "a:t"), OCI_INDEX, b"{}");
        assert_eq!(pushed.unwrap(), Digest::of(b"{}"), "{status}");
    }
}

#[test]
fn a_blob_of_another_size_is_not_the_one_that_is_pushed() {
    let registry = open_registry();
    registry.put_blob("a", b"x");
    registry.plan("HEAD", "/blobs/", 1, Fault::Header("content-length", "22".into()));
    assert_eq!(send(&client(), &registry, b"x").unwrap(), PushOutcome::Uploaded);
    registry.plan("HEAD", "/blobs/", 1, Fault::Header("content-length", "1".into()));
    assert_eq!(send(&client(), &registry, b"x").unwrap(), PushOutcome::Existed);
}

#[test]
fn redirects_of_a_push_without_end_are_an_error() {
    let registry = open_registry();
    registry.plan("POST", "/uploads/", 100, Fault::Redirect(307, registry.url()));
    let error = send(&client(), &registry, b"x").unwrap_err().to_string();
    assert!(error.contains("more than 10 redirects"), "{error}");
}

#[test]
fn a_manifest_is_put_again_while_the_registry_forgets_its_blobs() {
    for status in [404, 400] {
        let registry = open_registry();
        let forgetful = Fault::Status(status, vec![], r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#);
        registry.plan("PUT", "/manifests/", 2, forgetful);
        client().push_manifest(&reference(&registry, "a:t"), OCI_INDEX, b"{}").unwrap();
        assert_eq!(registry.count("PUT", "/manifests/"), 3);
    }
}

#[test]
fn a_registry_that_does_not_know_oci_says_so_once() {
    for (status, code) in [(400, "MANIFEST_INVALID"), (415, "UNSUPPORTED"), (404, "")] {
        let registry = open_registry();
        let text = format!(r#"{{"errors":[{{"code":"{code}","message":"unknown media type"}}]}}"#);
        registry.plan("PUT", "/manifests/", 100, Fault::Status(status, vec![], text.leak()));
        let error = client().push_manifest(&reference(&registry, "a:t"), OCI_MANIFEST, b"{}").unwrap_err();
        assert!(registry.count("PUT", "/manifests/") <= 4, "{status}");
        let is_named = matches!(&error, RegistryError::ManifestRefused { .. }) == (status != 404);
        assert!(is_named, "{status}: {error:?}");
    }
}

#[test]
fn an_upload_that_fails_for_ever_is_given_up() {
    let registry = open_registry();
    registry.plan("PUT", "/uploads/", 100, Fault::Status(500, vec![], ""));
    registry.plan("PATCH", "/uploads/", 100, Fault::Status(500, vec![], ""));
    let error = send(&client(), &registry, b"x").unwrap_err();
    assert!(matches!(error, RegistryError::Protocol { status: 500, .. }), "{error}");
    let all = registry.count("PUT", "/uploads/") + registry.count("PATCH", "/uploads/");
    assert_eq!(all, 6);
}

#[test]
fn an_upload_without_a_place_to_go_is_an_error() {
    let registry = open_registry();
    registry.plan("POST", "/uploads/", 100, Fault::Status(202, vec![], ""));
    let error = send(&client(), &registry, b"x").unwrap_err();
    assert!(error.to_string().contains("where to upload"), "{error}");
    let registry = open_registry();
    registry.plan("POST", "/uploads/", 100, Fault::Status(403, vec![], ""));
    assert!(matches!(send(&client(), &registry, b"x").unwrap_err(), RegistryError::Denied { .. }));
}

#[test]
fn content_that_is_not_what_its_descriptor_says_is_never_sent_whole() {
    let descriptor = Descriptor::of(OCI_LAYER_GZIP, b"right");
    for wrong in [b"wrong".as_slice(), b"rig", b"right and more", b""] {
        let registry = open_registry();
        let opened = AtomicUsize::new(0);
        let open = || {
            opened.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(wrong) as Box<dyn Read + Send>)
        };
        let error = client().push_blob(&reference(&registry, "a"), &descriptor, &open, None).unwrap_err();
        assert!(matches!(error, RegistryError::Source { .. }), "{error}");
        assert_eq!(opened.load(Ordering::SeqCst), 1, "not a fault of the network");
        assert_eq!(registry.blob("a", &descriptor.digest.to_string()), None);
    }
}

#[test]
fn connections_are_used_again() {
    let registry = open_registry();
    let (client, target) = (client(), reference(&registry, "a"));
    for number in 0..20_u8 {
        assert!(!client.has_blob(&target, &Digest::of(&[number])).unwrap());
        send(&client, &registry, &[number; 1000]).unwrap();
    }
    assert!(registry.connections() <= 3, "one to find out about TLS, one for the rest: {}", registry.connections());
}

#[test]
fn a_blob_is_mounted_where_the_registry_can() {
    let registry = open_registry();
    registry.put_blob("base", b"x");
    let (target, digest) = (reference(&registry, "a"), Digest::of(b"x"));
    assert!(matches!(client().mount(&target, &digest, "base").unwrap(), MountOutcome::Mounted));
    assert!(registry.blob("a", &digest.to_string()).is_some());
    let other = Digest::of(b"y");
    assert!(matches!(client().mount(&target, &other, "base").unwrap(), MountOutcome::Upload(_)));
}

#[test]
fn a_manifest_is_written_and_checked() {
    let registry = open_registry();
    let target = reference(&registry, "a:t");
    let bytes = br#"{"schemaVersion":2,"manifests":[]}"#;
    assert_eq!(client().push_manifest(&target, OCI_INDEX, bytes).unwrap(), Digest::of(bytes));
    assert_eq!(registry.manifest("a", "t"), Some((OCI_INDEX.to_owned(), bytes.to_vec())));
    let other = Digest::of(b"other").to_string();
    registry.plan("PUT", "/manifests/", 1, Fault::Header("docker-content-digest", other));
    assert!(matches!(client().push_manifest(&target, OCI_INDEX, bytes), Err(RegistryError::Digest { .. })));
    registry.plan("PUT", "/manifests/", 1, Fault::Status(502, vec![], ""));
    registry.plan("PUT", "/manifests/", 1, Fault::LoseAnswer);
    client().push_manifest(&target, OCI_INDEX, bytes).unwrap();
}

#[test]
fn a_registry_that_forgets_its_blobs_for_a_moment_is_asked_again() {
    let registry = open_registry();
    let unknown = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}"#;
    registry.plan("PUT", "/manifests/", 1, Fault::Status(400, vec![], unknown));
    registry.plan("PUT", "/manifests/", 1, Fault::Status(404, vec![], unknown));
    client().push_manifest(&reference(&registry, "a:t"), OCI_INDEX, b"{}").unwrap();
    registry.plan("PUT", "/manifests/", 1, Fault::Status(400, vec![], r#"{"errors":[{"code":"MANIFEST_INVALID"}]}"#));
    let error = client().push_manifest(&reference(&registry, "a:t"), OCI_INDEX, b"{}").unwrap_err();
    assert!(error.to_string().contains("MANIFEST_INVALID"), "{error}");
}

fn image(registry: &Registry, layers: &[&'static [u8]], config: &'static [u8]) -> PushImage {
    let layer = |bytes: &'static [u8]| PushLayer {
        descriptor: Descriptor::of(OCI_LAYER_GZIP, bytes),
        open: Box::new(move || Ok(Box::new(bytes) as Box<dyn Read + Send>)),
        mount_from: vec!["elsewhere.example/base".parse().unwrap(), reference(registry, "base")],
    };
    let push_layers: Vec<PushLayer> = layers.iter().copied().map(layer).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, config),
        layers: push_layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        subject: None,
        annotations: Default::default(),
    };
    let bytes = canonical(&manifest);
    PushImage {
        layers: push_layers,
        config: (Descriptor::of(OCI_CONFIG, config), config.to_vec()),
        manifest: (Descriptor::of(OCI_MANIFEST, &bytes), bytes),
    }
}

#[test]
fn an_image_is_pushed_with_its_tags_last() {
    let registry = Registry::start(Auth::Token("me", "secret"));
    registry.put_blob("base", b"base layer");
    registry.put_blob("a", b"known");
    let content = PushContent::Image(Box::new(image(&registry, &[b"base layer", b"known", b"new", b"new"], b"{}")));
    let client = client_of("me", "secret", &registry);
    let report = push(&client, &reference(&registry, "a:t"), &content, &["u".into(), "t".into()], None).unwrap();
    let PushContent::Image(image) = &content else { unreachable!("made above") };
    let digest = Digest::of(&image.manifest.1);
    let tags = vec!["t".to_owned(), "u".to_owned()];
    assert_eq!(report, PushReport { digest, tags, existed: 1, mounted: 1, uploaded: 2, uploaded_bytes: 5 });
    assert_eq!(registry.manifest("a", "u").unwrap().1, image.manifest.1);
    let asked = registry.asked();
    let last_blob = asked.iter().rposition(|asked| asked.target.contains("/blobs/")).unwrap();
    let first_manifest = asked.iter().position(|asked| asked.target.contains("/manifests/")).unwrap();
    assert!(last_blob < first_manifest);
    assert!(registry.count("GET", "/token") <= 3, "one for pushing, one for mounting from base");
}

#[test]
fn a_name_with_the_digest_of_something_else_is_refused_before_anything_is_sent() {
    let registry = open_registry();
    let pushed = image(&registry, &[b"one"], b"{}");
    let right = Digest::of(&pushed.manifest.1);
    let content = PushContent::Image(Box::new(pushed));
    let other = Digest::of(b"other");
    for name in [format!("a@{other}"), format!("a:t@{other}")] {
        let error = push(&client(), &reference(&registry, &name), &content, &["u".into()], None).unwrap_err();
        assert!(matches!(error, RegistryError::OtherDigest { digest, .. } if digest == right), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
    assert_eq!(registry.asked(), []);
    push(&client(), &reference(&registry, &format!("a@{right}")), &content, &[], None).unwrap();
    assert!(registry.manifest("a", &right.to_string()).is_some());
}

#[test]
fn an_index_is_pushed_after_its_images() {
    let registry = open_registry();
    let images = vec![image(&registry, &[b"one"], b"{}"), image(&registry, &[b"two"], br#"{"os":"linux"}"#)];
    let index = Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.to_owned()),
        manifests: images.iter().map(|image| image.manifest.0.clone()).collect(),
        annotations: Default::default(),
    };
    let bytes = canonical(&index);
    let digests: Vec<Digest> = images.iter().map(|image| image.manifest.0.digest).collect();
    let content =
        PushContent::Index(Box::new(PushIndex { images, index: (Descriptor::of(OCI_INDEX, &bytes), bytes.clone()) }));
    let report = push(&client(), &reference(&registry, "a"), &content, &[], None).unwrap();
    assert_eq!((report.digest, report.tags), (Digest::of(&bytes), vec!["latest".to_owned()]));
    assert_eq!(registry.manifest("a", "latest"), Some((OCI_INDEX.to_owned(), bytes)));
    for digest in digests {
        assert!(registry.manifest("a", &digest.to_string()).is_some());
    }
}

#[test]
fn an_image_without_one_of_its_blobs_gets_no_tag() {
    let registry = open_registry();
    registry.plan("PUT", "/uploads/", 100, Fault::Status(403, vec![], ""));
    let content = PushContent::Image(Box::new(image(&registry, &[b"one", b"two", b"three", b"four", b"five"], b"{}")));
    let error = push(&client(), &reference(&registry, "a:t"), &content, &[], None).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
}

#[test]
fn a_registry_that_cannot_mount_gets_the_bytes() {
    for fault in [Fault::Status(405, vec![], ""), Fault::Status(404, vec![], ""), Fault::Status(403, vec![], "")] {
        let registry = open_registry();
        registry.put_blob("base", b"one");
        registry.plan("POST", "/uploads/", 1, fault);
        let content = PushContent::Image(Box::new(image(&registry, &[b"one"], b"{}")));
        registry.put_blob("a", b"{}");
        let report = push(&client(), &reference(&registry, "a:t"), &content, &[], None).unwrap();
        assert_eq!((report.mounted, report.uploaded), (0, 1));
    }
}
