//! Copies between registries: every byte as it was, and no byte that was there.

use std::collections::BTreeMap;

use super::super::copy::{CopyError, Existing, Listed, RegistryOrigin, copy};
use super::super::error::RegistryError;
use super::super::fake::{Auth, Fault, Registry, digest_of};
use super::super::push::PushReport;
use super::super::referrers::copy_referrers;
use super::{client, client_of, open_registry, reference};
use crate::image::manifest::{Descriptor, Document, Index, Manifest, canonical};
use crate::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::image::platform::Platform;

/// Puts an image of one layer of 100 kB into a registry; its descriptor.
fn put(registry: &Registry, repository: &str, word: &str) -> Descriptor {
    let config = format!(r#"{{"os":"linux","architecture":"{word}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#);
    let layer = word.repeat(100_000 / word.len());
    for blob in [config.as_bytes(), layer.as_bytes()] {
        registry.put_blob(repository, blob);
    }
    let manifest = canonical(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, config.as_bytes()),
        layers: vec![Descriptor::of(OCI_LAYER_GZIP, layer.as_bytes())],
        subject: None,
        annotations: BTreeMap::new(),
    });
    registry.put_manifest(repository, "", OCI_MANIFEST, &manifest);
    Descriptor::of(OCI_MANIFEST, &manifest)
}

fn put_index(registry: &Registry, repository: &str, tag: &str, manifests: Vec<Descriptor>) -> Descriptor {
    let media_type = Some(OCI_INDEX.to_owned());
    let annotations = BTreeMap::from([("about".to_owned(), tag.to_owned())]);
    let bytes = canonical(&Index { schema_version: 2, media_type, manifests, annotations });
    registry.put_manifest(repository, tag, OCI_INDEX, &bytes);
    Descriptor::of(OCI_INDEX, &bytes)
}

/// An index of two platforms with an attestation of each.
fn put_all(registry: &Registry, repository: &str) -> Vec<Descriptor> {
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let mut image = put(registry, repository, architecture);
        image.platform = Some(Platform::new("linux", architecture, ""));
        let mut attestation = put(registry, repository, &format!("attests {architecture}"));
        attestation.platform = Some(Platform::new("unknown", "unknown", ""));
        attestation.annotations = [
            ("vnd.docker.reference.digest".to_owned(), image.digest.to_string()),
            ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
        ]
        .into();
        entries.extend([image, attestation]);
    }
    put_index(registry, repository, "1", entries.clone());
    entries
}

fn copied(from: (&Registry, &str), to: (&Registry, &str), platforms: &[&str]) -> Result<PushReport, CopyError> {
    let (client, source) = (client(), reference(from.0, from.1));
    let origin = RegistryOrigin::new(&client, &source);
    let platforms: Vec<Platform> = platforms.iter().map(|text| text.parse().unwrap()).collect();
    let top = Listed::resolve(&client, &source, None)?.for_platforms(&origin, &platforms)?;
    copy(&client, &origin, top, &reference(to.0, to.1), Existing::Replaced, None)
}

#[test]
fn an_index_is_copied_with_all_that_it_leads_to_and_once() {
    let (here, there) = (open_registry(), open_registry());
    let entries = put_all(&here, "a");
    let report = copied((&here, "a:1"), (&there, "b:2"), &[]).unwrap();
    assert_eq!((report.uploaded, report.existed, report.mounted), (8, 0, 0));
    assert_eq!(there.manifest("b", "2"), here.manifest("a", "1"));
    for entry in &entries {
        let digest = entry.digest.to_string();
        assert_eq!(there.manifest("b", &digest), here.manifest("a", &digest));
    }
    // The tag is written last, and an index after what it leads to.
    let puts: Vec<String> =
        there.asked().into_iter().filter(|asked| asked.method == "PUT").map(|asked| asked.target).collect();
    assert!(puts.last().unwrap().ends_with("/manifests/2"), "{puts:?}");
    assert!(puts[..8].iter().all(|target| target.contains("/blobs/uploads/")), "{puts:?}");
    // Again, it costs one question of each registry.
    let before = (here.asked().len(), there.asked().len());
    let again = copied((&here, "a:1"), (&there, "b:2"), &[]).unwrap();
    assert_eq!((again.uploaded, again.existed), (0, 0));
    let asked: Vec<String> = there.asked()[before.1..].iter().map(|asked| asked.method.clone()).collect();
    assert_eq!(here.asked().len() - before.0, 1);
    // A new client first finds out that there is no TLS.
    assert_eq!(asked.last().map(String::as_str), Some("HEAD"), "{asked:?}");
    assert_eq!(there.count("PUT", "/manifests/2"), 1);
}

#[test]
fn within_a_registry_blobs_are_mounted_and_not_read() {
    let registry = open_registry();
    put_all(&registry, "a");
    let report = copied((&registry, "a:1"), (&registry, "b"), &[]).unwrap();
    assert_eq!((report.uploaded, report.mounted, report.tags), (0, 8, vec!["latest".to_owned()]));
    assert_eq!(registry.count("GET", "/blobs/"), 0);
    // Another tag of the same repository is one document.
    let before = registry.count("GET", "/manifests/");
    copied((&registry, "a:1"), (&registry, "a:again"), &[]).unwrap();
    assert_eq!(registry.count("GET", "/manifests/") - before, 1);
    assert_eq!(registry.manifest("a", "again"), registry.manifest("a", "1"));
}

#[test]
fn a_copy_that_is_cut_goes_on_and_what_is_harmed_gets_no_tag() {
    let (here, there) = (open_registry(), open_registry());
    put_all(&here, "a");
    let layer = digest_of("amd64".repeat(20_000).as_bytes());
    here.plan("GET", &format!("/blobs/{layer}"), 2, Fault::Cut(30_000));
    copied((&here, "a:1"), (&there, "b:1"), &[]).unwrap();
    assert!(here.asked().iter().any(|asked| asked.range.is_some()), "all was read again");
    here.plan("GET", &format!("/blobs/{layer}"), 50, Fault::Corrupt);
    assert!(copied((&here, "a:1"), (&there, "c:1"), &[]).is_err());
    assert_eq!(there.manifest("c", "1"), None);
    assert_eq!(there.blob("c", &layer), None);
}

#[test]
fn of_some_platforms_an_index_of_these_is_copied_and_of_one_its_image() {
    let (here, there) = (open_registry(), open_registry());
    let mut entries = put_all(&here, "a");
    let one = copied((&here, "a:1"), (&there, "one:1"), &["linux/arm64"]).unwrap();
    assert_eq!(one.digest, entries[2].digest);
    let mut third = put(&here, "a", "s390x");
    third.platform = Some(Platform::new("linux", "s390x", ""));
    entries.push(third);
    put_index(&here, "a", "three", entries.clone());
    copied((&here, "a:three"), (&there, "two:1"), &["linux/amd64", "linux/s390x"]).unwrap();
    let (_, bytes) = there.manifest("two", "1").unwrap();
    let Document::Index(index) = Document::parse(&bytes, None).unwrap() else { panic!("no index") };
    let kept: Vec<_> = [0, 1, 4].map(|place: usize| entries[place].clone()).into();
    assert_eq!((index.manifests, index.annotations["about"].as_str()), (kept, "three"));
    let error = copied((&here, "a:1"), (&there, "x:1"), &["linux/riscv64"]).unwrap_err().to_string();
    assert!(error.contains("linux/amd64") && !error.contains("unknown"), "{error}");
}

#[test]
fn an_index_within_an_index_is_copied_and_one_without_end_is_refused() {
    let (here, there) = (open_registry(), open_registry());
    let image = put(&here, "a", "amd64");
    let mut outer = put_index(&here, "a", "inner", vec![image]);
    outer = put_index(&here, "a", "outer", vec![outer]);
    copied((&here, "a:outer"), (&there, "b:1"), &[]).unwrap();
    assert_eq!(there.manifest("b", "1"), here.manifest("a", "outer"));
    for depth in 0..6 {
        outer = put_index(&here, "a", &format!("deep{depth}"), vec![outer]);
    }
    let error = copied((&here, "a:deep5"), (&there, "b:2"), &[]).unwrap_err();
    assert!(matches!(error, CopyError::Document { .. }), "{error}");
}

#[test]
fn a_tag_can_be_kept_and_a_digest_has_to_be_the_copys() {
    let (here, there) = (open_registry(), open_registry());
    put_all(&here, "a");
    let other = put(&there, "b", "riscv64");
    put_index(&there, "b", "1", vec![other.clone()]);
    let (client, source) = (client(), reference(&here, "a:1"));
    let origin = RegistryOrigin::new(&client, &source);
    let top = || Listed::resolve(&client, &source, None).unwrap();
    let kept = copy(&client, &origin, top(), &reference(&there, "b:1"), Existing::Refused, None);
    assert!(matches!(kept, Err(CopyError::Exists { .. })));
    copy(&client, &origin, top(), &reference(&there, "b:2"), Existing::Refused, None).unwrap();
    copy(&client, &origin, top(), &reference(&there, "b:2"), Existing::Refused, None).unwrap();
    let at = |digest| reference(&there, &format!("c@{digest}"));
    let wrong = copy(&client, &origin, top(), &at(other.digest), Existing::Replaced, None);
    assert!(matches!(wrong, Err(CopyError::OtherDigest { .. })));
    let digest = top().descriptor.digest;
    copy(&client, &origin, top(), &at(digest), Existing::Replaced, None).unwrap();
    assert_eq!(there.manifest("c", &digest.to_string()), here.manifest("a", "1"));
    assert_eq!(there.manifest("c", "latest"), None);
    // By tag and digest it gets its tag, also where the digest is there, and what has the tag can be kept.
    copy(&client, &origin, top(), &reference(&there, &format!("c:1@{digest}")), Existing::Refused, None).unwrap();
    assert_eq!(there.manifest("c", "1"), here.manifest("a", "1"));
    let kept = copy(&client, &origin, top(), &reference(&there, &format!("b:1@{digest}")), Existing::Refused, None);
    assert!(matches!(kept, Err(CopyError::Exists { .. })));
}

#[test]
fn a_target_is_asked_for_with_the_right_to_write_and_need_not_say_what_it_has() {
    let source = open_registry();
    put_all(&source, "a");
    for status in [None, Some(401), Some(403), Some(404)] {
        let target = Registry::start(Auth::Token("me", "secret"));
        if let Some(status) = status {
            target.plan("HEAD", "/v2/b/manifests/", 100, Fault::Status(status, Vec::new(), ""));
        }
        let client = client_of("me", "secret", &target);
        let copied = |name: &str, existing| {
            let (from, to) = (reference(&source, "a:1"), reference(&target, name));
            let listed = Listed::resolve(&client, &from, None).unwrap();
            copy(&client, &RegistryOrigin::new(&client, &from), listed, &to, existing, None)
        };
        let report = copied("b:1", Existing::Replaced).unwrap();
        assert_eq!(Some(digest_of(&target.manifest("b", "1").unwrap().1)), Some(report.digest.to_string()));
        let tokens: Vec<String> = target.asked().into_iter().map(|asked| asked.target).collect();
        let mut tokens = tokens.iter().filter(|target| target.starts_with("/token")).peekable();
        assert!(tokens.peek().is_some_and(|target| target.contains("push")), "{status:?}");
        // Only who is refused asks for less.
        assert!(tokens.all(|target| target.contains("push")) || matches!(status, Some(401 | 403)), "{status:?}");
        // What is there cannot be kept by who does not know of it.
        let kept = copied("b:2", Existing::Refused);
        assert_eq!(kept.is_ok(), matches!(status, None | Some(404)), "{status:?}: {kept:?}");
    }
    let target = Registry::start(Auth::Token("me", "secret"));
    let stranger = client();
    let (from, to) = (reference(&source, "a:1"), reference(&target, "b:1"));
    let listed = Listed::resolve(&stranger, &from, None).unwrap();
    let refused =
        copy(&stranger, &RegistryOrigin::new(&stranger, &from), listed, &to, Existing::Replaced, None).unwrap_err();
    assert!(matches!(refused, CopyError::Registry(RegistryError::Unauthorized { .. })), "{refused:?}");
}

#[test]
fn who_may_only_read_a_target_finds_a_copy_that_is_there() {
    let (source, target) = (open_registry(), Registry::start(Auth::Token("me", "secret")));
    put_all(&source, "a");
    let copied = |name: &str, existing| {
        let client = client_of("me", "secret", &target);
        let (from, to) = (reference(&source, "a:1"), reference(&target, name));
        let listed = Listed::resolve(&client, &from, None).unwrap();
        copy(&client, &RegistryOrigin::new(&client, &from), listed, &to, existing, None)
    };
    copied("b:1", Existing::Replaced).unwrap();
    target.plan("", "?push", 100, Fault::Status(403, Vec::new(), ""));
    for existing in [Existing::Replaced, Existing::Refused] {
        assert_eq!(copied("b:1", existing).unwrap().uploaded, 0);
        assert!(copied("c:1", existing).is_err(), "it cannot be written");
    }
}

#[test]
fn what_refers_to_a_copy_is_copied_by_list_and_by_tag() {
    let (here, there) = (open_registry(), open_registry());
    let entries = put_all(&here, "a");
    let digest = copied((&here, "a:1"), (&there, "b:1"), &[]).unwrap().digest;
    let (sbom, signature) = (put(&here, "a", "sbom"), put(&here, "a", "signature"));
    let about = format!("sha256-{}", entries[0].digest.hex());
    put_index(&here, "a", &about, vec![sbom.clone()]);
    let (_, bytes) = here.manifest("a", &signature.digest.to_string()).unwrap();
    here.put_manifest("a", &format!("sha256-{}.sig", digest.hex()), OCI_MANIFEST, &bytes);
    let (from, to) = (reference(&here, "a:1"), reference(&there, "b:1"));
    assert_eq!(copy_referrers(&client(), &from, &to, &digest, None).unwrap(), 2);
    assert_eq!(there.manifest("b", &format!("sha256-{}.sig", digest.hex())).unwrap().1, bytes);
    assert!(there.manifest("b", &sbom.digest.to_string()).is_some());
    let listed = there.manifest("b", &about).unwrap().1;
    let Document::Index(listed) = Document::parse(&listed, None).unwrap() else { panic!("no index") };
    assert_eq!(listed.manifests, [sbom]);
    // Twice is once.
    copy_referrers(&client(), &from, &to, &digest, None).unwrap();
    assert_eq!(there.count("PUT", &format!("/manifests/{about}")), 1);
    // A registry that may know the question and does not answer it is no registry without answers.
    here.plan("GET", "/referrers/", 1, Fault::Status(403, Vec::new(), "no"));
    assert!(copy_referrers(&client(), &from, &to, &digest, None).is_err());
}

#[test]
fn tags_are_listed_over_all_pages_of_the_same_registry() {
    let registry = open_registry();
    for tag in ["1", "2"] {
        let image = put(&registry, "a", tag);
        put_index(&registry, "a", tag, vec![image]);
    }
    let name = reference(&registry, "a");
    assert_eq!(client().tags(&name).unwrap(), ["1", "2"]);
    let next = |url: &str| Fault::Header("link", format!("<{url}>; rel=\"next\""));
    registry.plan("GET", "/tags/list", 1, next("/v2/a/tags/list?last=2&n=2"));
    assert_eq!(client().tags(&name).unwrap(), ["1", "2", "1", "2"]);
    registry.plan("GET", "/tags/list", 1, next("http://elsewhere.invalid/v2/a/tags/list"));
    assert!(client().tags(&name).unwrap_err().to_string().contains("another host"));
    registry.plan("GET", "/tags/list", 1, Fault::Status(404, vec![], ""));
    assert!(client().tags(&name).unwrap_err().to_string().contains("not found"));
}
