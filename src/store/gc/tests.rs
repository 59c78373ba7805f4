use super::*;
use crate::store::{ImageRecord, PatchRecord, Tagged, TreeName};

fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn tree(store: &Store, name: &TreeName) -> PathBuf {
    let draft = store.tree_draft("1-1", owner()).unwrap();
    store.seal_tree("1-1", name, draft.path()).unwrap()
}

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("store")).unwrap()
}

fn policy(unused_for: u64, max_bytes: Option<u64>, kinds: Kinds) -> Policy {
    Policy { unused_for: Duration::from_secs(unused_for), max_bytes, kinds }
}

/// A step that was used so many minutes ago, with a tree of so many bytes on other layers.
fn step(store: &Store, name: &str, minutes: u64, bytes: u64, below: &[Digest], sizes: &mut Sizes) -> Digest {
    let layer = Digest::of(name.as_bytes());
    store.update_layer(&layer, |record| record.below = below.to_vec()).unwrap();
    sizes.insert(tree(store, &TreeName::of(&layer)), bytes);
    let record = StepRecord { layer, title: name.to_owned(), created: String::new() };
    store.write_record(RecordKind::Step, &layer, &record).unwrap();
    let used = SystemTime::now() - Duration::from_secs(60 * minutes);
    let file = fs::File::open(store.root().join("steps").join(layer.hex())).unwrap();
    file.set_modified(used).unwrap();
    layer
}

fn titles(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.title.as_str()).collect()
}

#[test]
fn trees_without_records_and_variants_of_unwanted_trees_are_found_and_cannot_be_used_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let [wanted, unwanted, unknown, variant] = [b"a", b"b", b"c", b"v"].map(|name| Digest::of(name));
    let step = StepRecord { layer: wanted, title: String::new(), created: String::new() };
    store.write_record(RecordKind::Step, &variant, &step).unwrap();
    for layer in [&wanted, &unwanted] {
        store.update_layer(layer, |record| record.size = 1).unwrap();
    }
    let kept = [TreeName::of(&wanted), TreeName::variant(&wanted, &variant)];
    let gone = [TreeName::of(&unwanted), TreeName::variant(&unwanted, &variant), TreeName::of(&unknown)];
    for name in kept.iter().chain(&gone) {
        tree(&store, name);
    }
    let stub = store.root().join("trees/stubs").join(unknown.hex());
    fs::create_dir_all(&stub).unwrap();
    let draft = store.cache_draft("1-1", owner()).unwrap().path().to_owned();
    drop(store.lock("step", &unknown).unwrap());
    let collected = store.collect(&policy(3600, None, Kinds::Cache), &Sizes::new()).unwrap();
    assert!(kept.iter().all(|name| store.tree("1-1", name).is_some()), "a tree that is needed was taken away");
    assert!(gone.iter().all(|name| store.tree("1-1", name).is_none()), "a tree that goes can still be used");
    assert!(stub.is_dir() && collected.trees.iter().all(|path| path.is_dir()));
    assert_eq!(collected.trees.len(), 4);
    assert!(collected.trees.contains(&draft));
    // Whoever is killed before he removes them leaves what the next build finds.
    assert_eq!(store.abandoned_drafts("1-1").unwrap().len(), 3);
    assert!(!store.root().join("locks").join(format!("step-{}", unknown.hex())).exists());
    // Mount points that nobody used for long are as good as new ones.
    let collected = store.collect(&policy(0, None, Kinds::Cache), &Sizes::new()).unwrap();
    assert!(!stub.exists() && collected.trees.iter().any(|path| path.to_string_lossy().contains("stubs")));
}

#[test]
fn the_least_recently_used_go_until_the_store_is_small_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut sizes) = (open(&folder), Sizes::new());
    let megabyte = 1 << 20;
    let base = step(&store, "base", 5, megabyte, &[], &mut sizes);
    step(&store, "old", 30, megabyte, &[base], &mut sizes);
    step(&store, "older", 60, megabyte, &[base], &mut sizes);
    step(&store, "new", 1, megabyte, &[base], &mut sizes);
    let foresee = |max| store.foresee_collection(&policy(0, Some(max), Kinds::Cache), &sizes).unwrap();
    assert_eq!(titles(&foresee(5 * megabyte)), [""; 0]);
    assert_eq!(titles(&foresee(7 * megabyte / 2)), ["older"]);
    assert_eq!(titles(&foresee(5 * megabyte / 2)), ["older", "old"]);
    // The base is needed by what is newer, so it goes after that.
    assert_eq!(titles(&foresee(megabyte / 2)), ["older", "old", "new", "base"]);
    let recent = policy(45 * 60, Some(0), Kinds::Cache);
    assert_eq!(titles(&store.foresee_collection(&recent, &sizes).unwrap()), ["older"]);
    store.collect(&policy(0, Some(5 * megabyte / 2), Kinds::Cache), &sizes).unwrap();
    let left: BTreeSet<String> = store.entries(&sizes).unwrap().into_iter().map(|entry| entry.title).collect();
    assert_eq!(left, BTreeSet::from(["base".to_owned(), "new".to_owned()]));
}

#[test]
fn what_a_named_image_needs_stays_and_a_pulled_one_goes_last() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut sizes) = (open(&folder), Sizes::new());
    let [held, pulled] = ["held", "pulled"].map(|name| step(&store, name, 60, 1 << 20, &[], &mut sizes));
    let config = store.put_blob(b"config").unwrap();
    for (name, layer, built) in [("mine", held, true), ("base", pulled, false)] {
        let image = ImageRecord::sample(config, vec![layer]);
        store.tag(&Tagged { name: name.into(), platform: "linux/amd64".into(), built, image }).unwrap();
    }
    let foresee = |kinds| store.foresee_collection(&policy(0, Some(0), kinds), &sizes).unwrap();
    assert_eq!(titles(&foresee(Kinds::Cache)), ["pulled"]);
    assert_eq!(titles(&foresee(Kinds::CacheAndPulled)), ["pulled", "base"]);
    store.collect(&policy(0, Some(0), Kinds::CacheAndPulled), &sizes).unwrap();
    assert!(store.tree("1-1", &TreeName::of(&held)).is_some() && store.tree("1-1", &TreeName::of(&pulled)).is_none());
    assert!(store.has_blob(&config));
}

#[test]
fn cache_mounts_are_counted_and_go_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut sizes) = (open(&folder), Sizes::new());
    step(&store, "step", 60, 10, &[], &mut sizes);
    let name = Digest::of(b"cache");
    let mount = store.cache_folder("1-1", owner(), &name).unwrap();
    fs::create_dir(&mount).unwrap();
    store.use_mount(&name, "cache mount /c").unwrap();
    sizes.insert(mount.clone(), 1000);
    assert_eq!(store.unmeasured().unwrap().len(), 2);
    assert_eq!(store.usage(&sizes).mounts, 1000);
    let mounts = policy(0, None, Kinds::CacheMounts);
    assert_eq!(titles(&store.foresee_collection(&mounts, &sizes).unwrap()), ["cache mount /c"]);
    assert_eq!(titles(&store.foresee_collection(&policy(0, None, Kinds::Results), &sizes).unwrap()), ["step"]);
    let collected = store.collect(&mounts, &sizes).unwrap();
    assert!(!mount.exists() && collected.trees.len() == 1);
    assert_eq!(store.abandoned_drafts("1-1").unwrap(), collected.trees);
}

/// Makes a layer a patch of another.
fn patch(store: &Store, layer: &Digest, base: Digest) {
    let bytes = layer.hex().into_bytes();
    let (blob, size) = (store.put_blob(&bytes).unwrap(), bytes.len() as u64);
    store.update_layer(layer, |record| record.patch = Some(PatchRecord { base, blob, size })).unwrap();
}

#[test]
fn layers_that_are_made_of_themselves_count_once_when_they_go() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut sizes) = (open(&folder), Sizes::new());
    let megabyte = 1 << 20;
    let [own, one, other] = [("own", 40), ("one", 30), ("other", 20)]
        .map(|(name, minutes)| step(&store, name, minutes, megabyte, &[], &mut sizes));
    step(&store, "new", 1, megabyte, &[], &mut sizes);
    patch(&store, &own, own);
    patch(&store, &one, other);
    patch(&store, &other, one);
    let chosen = |max| store.foresee_collection(&policy(0, Some(max), Kinds::Cache), &sizes).unwrap();
    assert_eq!(titles(&chosen(7 * megabyte / 2)), ["own"]);
    // Which of the two goes first does not matter: both have gone, and nothing else.
    assert_eq!(chosen(3 * megabyte / 2).len(), 3);
    store.collect(&policy(0, Some(3 * megabyte / 2), Kinds::Cache), &sizes).unwrap();
    assert_eq!(titles(&store.entries(&sizes).unwrap()), ["new"]);
}

#[test]
fn what_a_layer_is_made_of_counts_with_it_and_is_held_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut sizes) = (open(&folder), Sizes::new());
    let base = step(&store, "base", 60, 1 << 20, &[], &mut sizes);
    let edited = step(&store, "edited", 50, 1 << 10, &[], &mut sizes);
    patch(&store, &edited, base);
    let config = store.put_blob(b"config").unwrap();
    let image = ImageRecord::sample(config, vec![edited]);
    store.tag(&Tagged { name: "mine".into(), platform: "linux/amd64".into(), built: true, image }).unwrap();
    let entries = store.entries(&sizes).unwrap();
    let bytes = |title: &str| entries.iter().find(|entry| entry.title == title).unwrap().bytes;
    assert!(bytes("edited") > bytes("base") && bytes("base") >= 1 << 20, "{entries:?}");
    // Neither would give room.
    assert_eq!(titles(&store.foresee_collection(&policy(0, Some(0), Kinds::Cache), &sizes).unwrap()), [""; 0]);
}
