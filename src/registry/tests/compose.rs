//! Indexes of what registries have.

use super::super::compose::{Annotations, Composed, Said, Single, Source, compose};
use super::super::fake::{Registry, digest_of};
use super::{client, open_registry, reference};
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, Manifest, canonical};
use crate::image::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::progress::Progress;

/// Puts an image of one layer into a registry.
fn put(registry: &Registry, name: &str, architecture: &str, media_type: &str) -> Vec<u8> {
    let (repository, tag) = name.split_once(':').unwrap();
    let config =
        format!(r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#);
    let layer = format!("layer of {architecture}");
    registry.put_blob(repository, config.as_bytes());
    registry.put_blob(repository, layer.as_bytes());
    let manifest = canonical(&Manifest {
        schema_version: 2,
        media_type: Some(media_type.to_owned()),
        artifact_type: None,
        config: Descriptor::of(OCI_CONFIG, config.as_bytes()),
        layers: vec![Descriptor::of(OCI_LAYER_GZIP, layer.as_bytes())],
        subject: None,
        annotations: Default::default(),
    });
    registry.put_manifest(repository, tag, media_type, &manifest);
    manifest
}

fn source(registry: &Registry, name: &str) -> Source {
    Source { reference: reference(registry, name), said: Said::default() }
}

fn index_of(composed: &Composed) -> Index {
    match Document::parse(&composed.bytes, Some(&composed.descriptor.media_type)).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("not an index"),
    }
}

fn platforms(composed: &Composed) -> Vec<String> {
    index_of(composed).manifests.iter().map(|entry| entry.platform.as_ref().unwrap().to_string()).collect()
}

#[test]
fn images_of_several_repositories_and_registries_become_one_index() {
    let (here, there) = (open_registry(), open_registry());
    let first = put(&here, "a:1", "amd64", OCI_MANIFEST);
    let second = put(&there, "b:1", "arm64", OCI_MANIFEST);
    let sources = [source(&here, "a:1"), source(&there, "b:1"), source(&here, "a:1")];
    let composed = compose(&client(), &sources, &[], &Annotations::default(), Single::Index).unwrap();
    assert_eq!(platforms(&composed), ["linux/amd64", "linux/arm64"]);
    assert_eq!(composed.descriptor.media_type, OCI_INDEX);
    let names = ["c:1", "c:2"].map(|name| reference(&here, name));
    composed.push(&client(), &names, &Progress::silent().task("")).unwrap();
    for tag in ["1", "2"] {
        assert_eq!(here.manifest("c", tag), Some((OCI_INDEX.to_owned(), composed.bytes.clone())));
    }
    for (manifest, layer) in [(first, "layer of amd64"), (second, "layer of arm64")] {
        assert_eq!(here.manifest("c", &digest_of(&manifest)).unwrap().1, manifest);
        assert_eq!(here.blob("c", &digest_of(layer.as_bytes())).unwrap(), layer.as_bytes());
    }
}

#[test]
fn an_index_is_added_to_and_what_is_said_wins() {
    let registry = open_registry();
    for (name, architecture) in [("a:amd64", "amd64"), ("a:arm64", "arm64"), ("a:other", "riscv64")] {
        put(&registry, name, architecture, OCI_MANIFEST);
    }
    let two = [source(&registry, "a:amd64"), source(&registry, "a:arm64")];
    let composed = compose(&client(), &two, &[], &Annotations::default(), Single::Index).unwrap();
    composed.push(&client(), &[reference(&registry, "a:all")], &Progress::silent().task("")).unwrap();
    // Taken alone it is copied as it is.
    let all = [source(&registry, "a:all")];
    assert_eq!(compose(&client(), &all, &[], &Annotations::default(), Single::Index).unwrap().bytes, composed.bytes);
    let said = Said { platform: "linux/s390x".parse().ok(), annotations: [("k".to_owned(), "v".to_owned())].into() };
    let three = [source(&registry, "a:all"), Source { said, ..source(&registry, "a:other") }];
    let annotations = Annotations {
        index: [("about".to_owned(), "all".to_owned())].into(),
        entries: vec![("linux/arm64".parse().ok(), "slow".to_owned(), "yes".to_owned())],
    };
    let more = compose(&client(), &three, &[], &annotations, Single::Index).unwrap();
    assert_eq!(platforms(&more), ["linux/amd64", "linux/arm64", "linux/s390x"]);
    let index = index_of(&more);
    assert_eq!(index.annotations["about"], "all");
    let of_entries: Vec<usize> = index.manifests.iter().map(|entry| entry.annotations.len()).collect();
    assert_eq!(of_entries, [0, 1, 1]);
}

#[test]
fn one_image_is_copied_or_put_into_an_index() {
    let registry = open_registry();
    let manifest = put(&registry, "a:1", "amd64", DOCKER_MANIFEST);
    let one = [source(&registry, "a:1")];
    let copied = compose(&client(), &one, &[], &Annotations::default(), Single::Copy).unwrap();
    assert_eq!((copied.descriptor.digest, &copied.bytes), (Digest::of(&manifest), &manifest));
    copied.push(&client(), &[reference(&registry, "b:1")], &Progress::silent().task("")).unwrap();
    assert_eq!(registry.manifest("b", "1"), Some((DOCKER_MANIFEST.to_owned(), manifest)));
    let listed = compose(&client(), &one, &[], &Annotations::default(), Single::Index).unwrap();
    assert_eq!(listed.descriptor.media_type, DOCKER_LIST);
}

#[test]
fn an_index_gets_no_name_with_the_digest_of_something_else() {
    let registry = open_registry();
    put(&registry, "a:1", "amd64", OCI_MANIFEST);
    let composed =
        compose(&client(), &[source(&registry, "a:1")], &[], &Annotations::default(), Single::Index).unwrap();
    let other = Digest::of(b"other");
    let names = [reference(&registry, "b:1"), reference(&registry, &format!("b@{other}"))];
    let asked = registry.asked().len();
    let error = composed.push(&client(), &names, &Progress::silent().task("")).unwrap_err();
    assert!(error.to_string().contains("cannot name what is pushed"), "{error}");
    assert_eq!(registry.asked().len(), asked, "nothing is sent");
    let right = reference(&registry, &format!("b@{}", composed.descriptor.digest));
    composed.push(&client(), &[right], &Progress::silent().task("")).unwrap();
}

#[test]
fn an_index_of_indexes_is_refused() {
    let registry = open_registry();
    let inner = put(&registry, "a:1", "amd64", OCI_MANIFEST);
    let index = |media_type: &str, bytes: &[u8]| {
        let manifests = vec![Descriptor::of(media_type, bytes)];
        let media_type = Some(OCI_INDEX.to_owned());
        canonical(&Index { schema_version: 2, media_type, manifests, annotations: Default::default() })
    };
    let inner = index(OCI_MANIFEST, &inner);
    registry.put_manifest("a", "inner", OCI_INDEX, &inner);
    registry.put_manifest("a", "outer", OCI_INDEX, &index(OCI_INDEX, &inner));
    let composed =
        compose(&client(), &[source(&registry, "a:outer")], &[], &Annotations::default(), Single::Index).unwrap();
    let error = composed.push(&client(), &[reference(&registry, "b:1")], &Progress::silent().task("")).unwrap_err();
    assert!(error.to_string().contains("an index within an index"), "{error}");
}
