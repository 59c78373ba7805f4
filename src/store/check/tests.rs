use super::*;
use crate::store::{BlobRecord, ImageRecord, PatchRecord, RecordKind, RemoteBlob, RemoteOrigin};

/// A store with one step, its layer in a blob, and an image of it.
fn store(root: &Path) -> (Store, Digest, Digest) {
    let store = Store::open(root).unwrap();
    let (blob, config) = (store.put_blob(b"blob").unwrap(), store.put_blob(b"config").unwrap());
    let layer = Digest::of(b"layer");
    store
        .update_layer(&layer, |record| {
            record.blobs.insert("gzip".into(), BlobRecord { digest: blob, size: 4, compression: "gzip".into() });
        })
        .unwrap();
    let step = StepRecord { layer, title: "RUN x".into(), created: String::new() };
    store.write_record(RecordKind::Step, &Digest::of(b"step"), &step).unwrap();
    let image = ImageRecord::sample(config, vec![layer]);
    store.tag(&Tagged { name: "x".into(), platform: "linux/amd64".into(), built: true, image }).unwrap();
    (store, blob, config)
}

/// Makes a layer nothing but a patch of another; it has a step.
fn patched(store: &Store, name: &str, base: Digest) -> Digest {
    let (layer, blob) = (Digest::of(name.as_bytes()), store.put_blob(b"patch").unwrap());
    let patch = PatchRecord { base, blob, size: 5 };
    store.update_layer(&layer, |record| record.patch = Some(patch)).unwrap();
    let step = StepRecord { layer, title: name.into(), created: String::new() };
    store.write_record(RecordKind::Step, &Digest::of(name.as_bytes()), &step).unwrap();
    layer
}

#[test]
fn layers_that_are_made_of_themselves_cannot_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = store(&folder.path().join("store"));
    let own = Digest::of(b"own");
    patched(&store, "own", own);
    let one = patched(&store, "one", Digest::of(b"other"));
    patched(&store, "other", one);
    assert_eq!(kinds(&store, Depth::Names), ["step-without-layer"; 3]);
    assert_eq!(repaired(&store), ["step-without-layer"; 3]);
}

#[test]
fn a_patch_needs_a_blob_of_the_layer_that_it_is_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = store(&folder.path().join("store"));
    let remote = RemoteBlob {
        repository: "registry.example/app".into(),
        media_type: String::new(),
        digest: Digest::of(b"elsewhere"),
        size: 9,
        origin: RemoteOrigin::Image,
    };
    let elsewhere = Digest::of(b"elsewhere");
    store.update_layer(&elsewhere, |record| record.remotes.push(remote)).unwrap();
    patched(&store, "of a blob", Digest::of(b"layer"));
    assert_eq!(kinds(&store, Depth::Names), [""; 0]);
    patched(&store, "of what is elsewhere", elsewhere);
    assert_eq!(kinds(&store, Depth::Names), ["step-without-layer"]);
    assert_eq!(repaired(&store), ["step-without-layer"]);
}

fn kinds(store: &Store, depth: Depth) -> Vec<&'static str> {
    let mut kinds: Vec<&str> = store.check(depth).unwrap().damage.iter().map(|one| one.kind.name()).collect();
    kinds.sort_unstable();
    kinds
}

/// Repairs until nothing is found any more; what was found in all.
fn repaired(store: &Store) -> Vec<&'static str> {
    let mut all = Vec::new();
    for _ in 0..5 {
        let checked = store.check(Depth::Content).unwrap();
        if checked.damage.is_empty() {
            return all;
        }
        all.extend(checked.damage.iter().map(|one| one.kind.name()));
        store.repair(&checked.damage).unwrap();
    }
    panic!("a repair does not end: {all:?}");
}

#[test]
fn every_kind_of_damage_has_its_name_and_is_repaired() {
    type Harm = fn(&Store, Digest, Digest);
    let cases: [(Harm, &[&str], &[&str]); 5] = [
        (|_, _, _| {}, &[], &[]),
        (
            |store, blob, _| fs::remove_file(store.blob_path(&blob)).unwrap(),
            &["image-without-layer", "missing-blob", "step-without-layer"],
            &["image-without-layer", "step-without-layer", "missing-blob"],
        ),
        (
            |store, _, config| fs::remove_file(store.blob_path(&config)).unwrap(),
            &["image-without-config"],
            &["image-without-config"],
        ),
        (
            |store, blob, _| fs::write(store.blob_path(&blob), "longer").unwrap(),
            &["wrong-size"],
            &["wrong-size", "wrong-digest", "image-without-layer", "step-without-layer", "missing-blob"],
        ),
        (
            |store, _, _| {
                let name = Digest::of(b"step").hex();
                fs::write(store.root().join("steps").join(name), "{\"layer\":").unwrap();
            },
            &["unreadable-record"],
            &["unreadable-record"],
        ),
    ];
    for (harm, names, repairs) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (store, blob, config) = store(&folder.path().join("store"));
        harm(&store, blob, config);
        assert_eq!(kinds(&store, Depth::Names), names);
        assert_eq!(repaired(&store), repairs);
    }
}

#[test]
fn an_image_without_its_attestation_stays_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = store(&folder.path().join("store"));
    let attestations = [b"manifest", b"sentence"].map(|bytes| store.put_blob(bytes).unwrap());
    let mut tagged = store.tagged("x", "linux/amd64").unwrap().unwrap();
    tagged.image.attestations = attestations.to_vec();
    store.tag(&tagged).unwrap();
    assert_eq!(kinds(&store, Depth::Content), [""; 0]);
    fs::write(store.blob_path(&attestations[1]), "perjury!").unwrap();
    assert_eq!(kinds(&store, Depth::Names), [""; 0]);
    assert_eq!(repaired(&store), ["wrong-digest", "image-without-attestation"]);
    tagged.image.attestations.clear();
    assert_eq!(store.tagged("x", "linux/amd64").unwrap(), Some(tagged));
}

#[test]
fn an_image_without_the_manifest_it_came_with_is_told_and_gets_another() {
    for lost in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (store, ..) = store(&folder.path().join("store"));
        let [manifest, index] = [b"manifest", b"an index"].map(|bytes| store.put_blob(bytes).unwrap());
        let mut tagged = store.tagged("x", "linux/amd64").unwrap().unwrap();
        (tagged.image.manifest, tagged.image.index) = (Some(manifest), Some(index));
        store.tag(&tagged).unwrap();
        assert_eq!(kinds(&store, Depth::Content), [""; 0]);
        if lost {
            fs::remove_file(store.blob_path(&manifest)).unwrap();
            assert_eq!(repaired(&store), ["image-without-manifest"]);
        } else {
            fs::write(store.blob_path(&index), "another!").unwrap();
            assert_eq!(repaired(&store), ["wrong-digest", "image-without-manifest"]);
        }
        (tagged.image.manifest, tagged.image.index) = (None, None);
        assert_eq!(store.tagged("x", "linux/amd64").unwrap(), Some(tagged));
    }
}

#[test]
fn only_blobs_that_are_damaged_or_gone_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (store, blob, _) = store(&folder.path().join("store"));
    let (layer, other) = (Digest::of(b"layer"), store.put_blob(b"other").unwrap());
    store
        .update_layer(&layer, |record| {
            let other = BlobRecord { digest: other, size: 5, compression: "zstd".into() };
            record.blobs.insert("zstd".into(), other);
        })
        .unwrap();
    let forms = || {
        let record: LayerRecord = store.read_record(RecordKind::Layer, &layer).unwrap().unwrap();
        record.blobs.into_keys().collect::<Vec<_>>()
    };
    assert!(!store.drop_damaged_blobs(&layer).unwrap());
    assert_eq!(forms(), ["gzip", "zstd"]);
    fs::write(store.blob_path(&blob), "BLOB").unwrap();
    assert!(store.drop_damaged_blobs(&layer).unwrap());
    assert_eq!(forms(), ["zstd"]);
    assert!(!store.has_blob(&blob), "the next one would not be written");
    fs::remove_file(store.blob_path(&other)).unwrap();
    assert!(store.drop_damaged_blobs(&layer).unwrap());
    assert_eq!(forms(), [""; 0]);
}

#[test]
fn bytes_that_changed_are_found_by_reading_them() {
    let folder = tempfile::tempdir().unwrap();
    let (store, blob, _) = store(&folder.path().join("store"));
    fs::write(store.blob_path(&blob), "BLOB").unwrap();
    assert_eq!(kinds(&store, Depth::Names), [""; 0]);
    assert_eq!(kinds(&store, Depth::Content), ["wrong-digest"]);
}
