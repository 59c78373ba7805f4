//! Caches elsewhere: one machine builds and leaves a cache, another that has nothing builds with it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bases::Base;
use crate::harness::{Files, Rbuild, Run, suite_user};
use crate::image::Image;
use crate::registry_server::{Access, Registry, missing_programs};

/// Requests that a registry answered since it had answered some already: method and path.
struct Traffic<'a> {
    registry: &'a Registry,
    before: usize,
}

impl Traffic<'_> {
    fn begin(registry: &Registry) -> Traffic<'_> {
        Traffic { registry, before: registry.log().lines().count() }
    }

    fn requests(&self) -> Vec<String> {
        let log = self.registry.log();
        let request = |line: &str| {
            let method =
                ["\"GET ", "\"HEAD ", "\"POST ", "\"PUT ", "\"PATCH "].iter().find_map(|method| line.find(method));
            line[method? + 1..].split(" HTTP/").next().map(str::to_owned)
        };
        log.lines().skip(self.before).filter_map(request).collect()
    }

    fn count(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|request| request.starts_with(method) && request.contains(part)).count()
    }
}

/// A build in two stages, of commands and copies.
fn two_stages(rbuild: &Rbuild, base: &str) -> Files {
    let dockerfile = format!(
        "FROM {base} AS build\nWORKDIR /work\nCOPY src /src\nRUN cat /src/* > /out; head -c 100000 /dev/urandom > /noise\n\
         FROM {base}\nCOPY --from=build /out /out\nRUN --mount=from=build,target=/mnt wc -c < /mnt/noise > /size\n\
         COPY --link src/one /linked\n"
    );
    rbuild.context("stages").file("Dockerfile", dockerfile).file("src/one", "1\n").file("src/two", "2\n")
}

/// The image of a build as an archive.
fn build_image(rbuild: &Rbuild, context: &Files, flags: &[&str]) -> (Run, Image) {
    let archive = rbuild.path("out/image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let run = rbuild.build(context, &[&["-o", &output], flags].concat()).succeeded();
    (run, Image::read(&archive))
}

for_each_user! {
    fn a_machine_that_has_nothing_fetches_no_layer_and_sends_none(rbuild) {
        let (registry, base) = match Base::Busybox.in_registry() {
            Ok(both) => both,
            Err(reason) => skip!("{reason}"),
        };
        let cache = registry.name("team/cache:main");
        let to = format!("type=registry,ref={cache},mode=max");
        let context = two_stages(&rbuild, &base);
        let first = rbuild.build(&context, &["-t", &registry.name("team/app:1"), "--push", "--cache-to", &to]).succeeded();
        // Another machine, another store, another user.
        let fresh = Rbuild::new(suite_user());
        let context = two_stages(&fresh, &base);
        let (traffic, name) = (Traffic::begin(&registry), registry.name("other/app:1"));
        let flags = ["-t", &name, "--push", "--cache-from", &cache, "--cache-to", &to];
        let second = fresh.build(&context, &flags).succeeded().all_cached();
        assert_eq!(second.image_id(), first.image_id());
        let requests = traffic.requests();
        // The manifest and config of the base and of the cache, and nothing else.
        assert_eq!(traffic.count("GET", ""), 4, "{requests:#?}");
        assert_eq!(traffic.count("GET", "/blobs/"), 2, "{requests:#?}");
        // The config of the image is the only blob that is sent: layers are mounted.
        assert_eq!(traffic.count("PUT", "/blobs/uploads/"), 1, "{requests:#?}");
        assert_eq!(traffic.count("POST", "mount="), 4, "{requests:#?}");
        // Where the layers are, a push is a question for each of five blobs and the manifest; three requests more are for
        // the cache.
        let traffic = Traffic::begin(&registry);
        let third = Rbuild::new(suite_user());
        let context = two_stages(&third, &base);
        third.build(&context, &["-t", &name, "--push", "--cache-from", &cache]).succeeded().all_cached();
        let (requests, base_requests) = (traffic.requests(), traffic.count("GET", "/base/"));
        assert!(requests.len() - base_requests <= 6 + 3, "{requests:#?}");
        assert_eq!(traffic.count("PUT", "/blobs/") + traffic.count("POST", ""), 0, "{requests:#?}");
    }

    fn without_run_and_with_linked_copies_a_base_is_neither_fetched_nor_sent(rbuild) {
        let (registry, base) = match Base::Busybox.in_registry() {
            Ok(both) => both,
            Err(reason) => skip!("{reason}"),
        };
        let dockerfile = format!("FROM {base}\nENV A=1\nCOPY --link one /etc/one\nCMD [\"true\"]\n");
        let context = rbuild.context("linked").file("Dockerfile", dockerfile).file("one", "1\n");
        let traffic = Traffic::begin(&registry);
        rbuild.build(&context, &["-t", &registry.name("other/linked:1"), "--push"]).succeeded();
        let requests = traffic.requests();
        assert_eq!(traffic.count("GET", "/blobs/"), 1, "the base's config alone: {requests:#?}");
        assert_eq!(traffic.count("PUT", "/blobs/uploads/"), 2, "the layer and the config: {requests:#?}");
        assert_eq!(traffic.count("POST", "mount="), 1, "{requests:#?}");
        // An archive needs the bytes, and nothing is unpacked for it.
        let archive = rbuild.path("out/linked.tar");
        rbuild.build(&context, &["-o", &format!("type=oci,dest={}", archive.display())]).succeeded();
        assert_eq!(Image::read(&archive).layers.len(), 2);
        let trees = fs::read_dir(rbuild.store().join("trees")).expect("list the trees").count();
        assert_eq!(trees, 0, "something was unpacked");
    }

    fn what_a_changed_step_needs_is_fetched(rbuild) {
        let (registry, base) = match Base::Busybox.in_registry() {
            Ok(both) => both,
            Err(reason) => skip!("{reason}"),
        };
        let cache = registry.name("team/cache");
        let dockerfile = |last: &str| format!("FROM {base}\nRUN echo made > /made\nCOPY one /one\nRUN cat /made /one > /{last}\n");
        let context = rbuild.context("app").file("Dockerfile", dockerfile("first")).file("one", "1\n");
        rbuild.build(&context, &["--cache-to", &cache]).succeeded();
        let fresh = Rbuild::new(suite_user());
        let context = fresh.context("app").file("Dockerfile", dockerfile("second")).file("one", "1\n");
        let (run, image) = build_image(&fresh, &context, &["--cache-from", &cache]);
        assert_eq!(run.step("RUN echo made"), "CACHED");
        assert_eq!(run.step("COPY one"), "CACHED");
        assert_eq!(run.step("RUN cat"), "DONE");
        assert_eq!(image.content("/second"), "made\n1\n");
        run.says(&format!("found in the cache {cache}:latest"));
        // What was found is this store's own from now on.
        fresh.build(&context, &[]).succeeded().all_cached();
    }
}

/// A build whose command adds a line to a cache mount and shows it; another word is another command.
fn with_cache_mount(rbuild: &Rbuild, base: &str, word: &str) -> Files {
    let dockerfile = format!(
        "FROM {base}\nRUN --mount=type=cache,target=/cache,id=lines,mode=0750 echo {word} >> /cache/lines; \\\n    \
         mkdir -p /cache/sub; ln -sf ../lines /cache/sub/link; chown 7:8 /cache/sub; \\\n    \
         cat /cache/sub/link > /result; stat -c '%u:%g %a' /cache/sub /cache >> /result\n"
    );
    rbuild.context("mounts").file("Dockerfile", dockerfile)
}

for_each_user! {
    fn a_cache_mount_travels(rbuild) {
        let (registry, base) = match Base::Busybox.in_registry() {
            Ok(both) => both,
            Err(reason) => skip!("{reason}"),
        };
        let cache = registry.name("team/cache");
        let to = format!("type=registry,ref={cache},mounts=true");
        rbuild.build(&with_cache_mount(&rbuild, &base, "one"), &["--cache-to", &to]).succeeded();
        let fresh = Rbuild::new(suite_user());
        let (_, image) = build_image(&fresh, &with_cache_mount(&fresh, &base, "one"), &["--cache-from", &cache]);
        assert_eq!(image.content("/result"), "one\n7:8 755\n0:0 750\n");
        // A machine that had nothing to run hands on what it has read.
        fresh.build(&with_cache_mount(&fresh, &base, "one"), &["--cache-from", &cache, "--cache-to", &to]).succeeded();
        let third = Rbuild::new(rbuild.user);
        let context = with_cache_mount(&third, &base, "two");
        let (run, image) = build_image(&third, &context, &["--cache-from", &cache, "--cache-to", &to]);
        run.says("cache mount /cache taken from the cache");
        assert_eq!(image.content("/result"), "one\ntwo\n7:8 755\n0:0 750\n");
        // One that is larger than is allowed stays, and one that is here is not replaced.
        let to = format!("{to},mounts-max-size=100");
        let context = with_cache_mount(&fresh, &base, "three");
        let (run, image) = build_image(&fresh, &context, &["--cache-from", &cache, "--cache-to", &to]);
        assert_eq!(image.content("/result"), "one\ntwo\nthree\n7:8 755\n0:0 750\n");
        run.says("cache mount /cache is left out: it has more than 100 bytes");
        let (_, image) = build_image(&third, &with_cache_mount(&third, &base, "four"), &["--cache-from", &cache]);
        assert_eq!(image.content("/result"), "one\ntwo\nfour\n7:8 755\n0:0 750\n");
    }

    fn a_cache_mount_that_is_damaged_begins_empty(rbuild) {
        let (_registry, base) = match Base::Busybox.in_registry() {
            Ok(both) => both,
            Err(reason) => skip!("{reason}"),
        };
        let cache = rbuild.path("out/cache");
        let to = format!("type=local,dest={},mounts=true", cache.display());
        rbuild.build(&with_cache_mount(&rbuild, &base, "one"), &["--cache-to", &to]).succeeded();
        let fresh = Rbuild::new(rbuild.user);
        let (place, from) = carried(&fresh, &cache);
        let limited = format!("{from},mounts-max-size=100");
        let (run, image) = build_image(&fresh, &with_cache_mount(&fresh, &base, "small"), &["--cache-from", &limited]);
        run.says("is not taken from the cache").says("it has more than 100 bytes; mounts-max-size of --cache-from allows more");
        assert_eq!(image.content("/result"), "small\n7:8 755\n0:0 750\n");
        let fresh = Rbuild::new(rbuild.user);
        let (place, from) = (fresh.path("out/carried"), from.replace(&*place.to_string_lossy(), &fresh.path("out/carried").to_string_lossy()));
        crate::harness::succeed(std::process::Command::new("cp").arg("-R").arg(&cache).arg(&place));
        let index = read_json(&place.join("index.json"));
        let manifest = read_json(&blob(&place, &index["manifests"][0]));
        let records = read_json(&blob(&place, &manifest["config"]));
        let mount = blob(&place, &json!({"digest": records["mounts"][0]["blob"]}));
        let content = fs::read(&mount).expect("read the mount");
        fs::write(&mount, &content[..content.len() - 5]).expect("cut the mount");
        let (run, image) = build_image(&fresh, &with_cache_mount(&fresh, &base, "two"), &["--cache-from", &from]);
        run.says("cache mount /cache is not taken from the cache");
        assert_eq!(image.content("/result"), "two\n7:8 755\n0:0 750\n");
    }
}

fn rbuild() -> Rbuild {
    Rbuild::new(suite_user())
}

/// A build without commands, which needs nothing of the machine.
fn plain(rbuild: &Rbuild) -> Files {
    let dockerfile = "FROM scratch AS files\nCOPY one /one\nCOPY two /two\nFROM scratch\nCOPY --from=files /one /three\nCOPY two /\n";
    let context =
        rbuild.context("plain").file("Dockerfile", dockerfile).file("one", "1\n").file("two", "2\n".repeat(1000));
    context.modified("one", 1_700_000_000).modified("two", 1_700_000_000)
}

/// A cache in a directory that `plain` left.
fn written(rbuild: &Rbuild, mode: &str) -> PathBuf {
    let directory = rbuild.path("out/cache");
    let to = format!("type=local,dest={},mode={mode}", directory.display());
    rbuild.build(&plain(rbuild), &["--cache-to", &to]).succeeded();
    directory
}

/// Copies a cache to where another machine finds it.
fn carried(rbuild: &Rbuild, cache: &Path) -> (PathBuf, String) {
    let place = rbuild.path("out/carried");
    crate::harness::succeed(std::process::Command::new("cp").arg("-R").arg(cache).arg(&place));
    let from = format!("type=local,src={}", place.display());
    (place, from)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("read a document")).expect("a document is JSON")
}

fn blob(cache: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
    cache.join("blobs/sha256").join(digest.strip_prefix("sha256:").expect("digests are of SHA-256"))
}

fn put_blob(cache: &Path, descriptor: &mut Value, document: &Value) {
    let bytes = serde_json::to_vec(document).expect("write JSON");
    descriptor["digest"] = rbuild::digest::Digest::of(&bytes).to_string().into();
    descriptor["size"] = bytes.len().into();
    fs::write(blob(cache, descriptor), bytes).expect("write a blob");
}

/// Rewrites what a cache in a directory says, with digests that are right.
fn rewrite(cache: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
    let mut index = read_json(&cache.join("index.json"));
    let mut manifest = read_json(&blob(cache, &index["manifests"][0]));
    let mut records = read_json(&blob(cache, &manifest["config"]));
    change(&mut manifest, &mut records);
    put_blob(cache, &mut manifest["config"], &records);
    put_blob(cache, &mut index["manifests"][0], &manifest);
    fs::write(cache.join("index.json"), index.to_string()).expect("write the index");
}

#[test]
fn a_directory_carries_a_cache() {
    let first = rbuild();
    let (cache, (_, before)) = (written(&first, "max"), build_image(&first, &plain(&first), &[]));
    let second = rbuild();
    let (_, from) = carried(&second, &cache);
    let (run, after) = build_image(&second, &plain(&second), &["--cache-from", &from]);
    run.all_cached();
    assert_eq!(after.config, before.config);
    assert_eq!(after.content("/three"), "1\n");
    // The image is whole without the cache.
    fs::remove_dir_all(second.path("out/carried")).expect("remove the cache");
    assert_eq!(build_image(&second, &plain(&second), &[]).1.content("/three"), "1\n");
}

#[test]
fn a_directory_that_is_kept_does_not_grow() {
    let rbuild = rbuild();
    let cache = written(&rbuild, "max");
    let blobs = || fs::read_dir(cache.join("blobs/sha256")).expect("list blobs").count();
    let before = blobs();
    let context = plain(&rbuild).file("one", "another\n");
    rbuild.build(&context, &["--cache-to", &format!("type=local,dest={},mode=max", cache.display())]).succeeded();
    assert_eq!(blobs(), before, "blobs of the cache that was there before stay");
    // Under another name there are two.
    rbuild
        .build(&plain(&rbuild), &["--cache-to", &format!("type=local,dest={},tag=other", cache.display())])
        .succeeded();
    assert!(blobs() > before);
    let fresh = Rbuild::new(suite_user());
    let (_, from) = carried(&fresh, &cache);
    fresh.build(&plain(&fresh), &["--cache-from", &format!("{from},tag=other")]).succeeded().all_cached();
}

#[test]
fn a_damaged_blob_is_written_again() {
    let rbuild = rbuild();
    let cache = written(&rbuild, "max");
    let blobs =
        || fs::read_dir(cache.join("blobs/sha256")).expect("list blobs").map(|entry| entry.expect("an entry").path());
    let before: Vec<(PathBuf, Vec<u8>)> =
        blobs().map(|path| (path.clone(), fs::read(path).expect("read a blob"))).collect();
    for (path, bytes) in &before {
        let harmed: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
        fs::write(path, harmed).expect("harm a blob");
    }
    rbuild
        .build(&plain(&rbuild), &["--cache-to", &format!("type=local,dest={},mode=max", cache.display())])
        .succeeded();
    for (path, bytes) in &before {
        assert!(fs::read(path).is_ok_and(|found| found == *bytes), "{}", path.display());
    }
}

#[test]
fn a_layer_that_a_build_finds_damaged_in_its_cache_is_there_again_after_it() {
    let dated = "SOURCE_DATE_EPOCH=1700000000";
    let first = rbuild();
    let place = first.path("out/cache");
    let to = format!("type=local,dest={},mode=max", place.display());
    first.build(&plain(&first), &["--build-arg", dated, "--cache-to", &to]).succeeded();
    let second = rbuild();
    let (place, from) = carried(&second, &place);
    let to = format!("type=local,dest={},mode=max,ignore-error=false", place.display());
    let flags = ["--build-arg", dated, "--cache-from", &from, "--cache-to", &to];
    let index = read_json(&place.join("index.json"));
    let manifest = read_json(&blob(&place, &index["manifests"][0]));
    let mut healed = 0;
    for layer in manifest["layers"].as_array().expect("layers") {
        let path = blob(&place, layer);
        let bytes = fs::read(&path).expect("read a layer");
        fs::write(&path, vec![7; bytes.len()]).expect("harm a layer");
        let fresh = rbuild();
        let (run, image) = build_image(&fresh, &plain(&fresh), &flags);
        assert_eq!(image.content("/three"), "1\n");
        if run.stderr.contains("the cache does not have what a step needs") {
            assert!(fs::read(&path).is_ok_and(|found| found == bytes), "a damaged layer stays");
            healed += 1;
        } else {
            // Nothing of it was needed.
            fs::write(&path, bytes).expect("mend a layer");
        }
    }
    assert!(healed >= 2, "{healed}");
    assert_eq!(read_json(&place.join("index.json")), index, "the cache is another one");
}

#[test]
fn steps_of_other_stages_are_found_without_their_layers() {
    let first = rbuild();
    let cache = written(&first, "min");
    let second = rbuild();
    let (place, from) = carried(&second, &cache);
    let index = read_json(&place.join("index.json"));
    let manifest = read_json(&blob(&place, &index["manifests"][0]));
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(2), "{manifest}");
    build_image(&second, &plain(&second), &["--cache-from", &from]).0.all_cached();
    // Where one of them is needed after all, they are made.
    let third = rbuild();
    let (_, from) = carried(&third, &cache);
    let context = plain(&third);
    context.edit("Dockerfile", "/one /three", "/two /three");
    let (run, image) = build_image(&third, &context, &["--cache-from", &from]);
    assert_eq!(image.content("/three"), "2\n".repeat(1000));
    run.says("the cache does not have what a step needs");
}

/// Builds with a damaged cache: the result is right all the same, and somebody is told.
fn survives(first: &Rbuild, cache: &Path, damage: impl FnOnce(&Path), says: &str) {
    let second = rbuild();
    let (place, from) = carried(&second, cache);
    damage(&place);
    let (run, image) = build_image(&second, &plain(&second), &["--cache-from", &from]);
    assert_eq!(image.config["rootfs"], build_image(first, &plain(first), &[]).1.config["rootfs"], "{}", run.stderr);
    assert_eq!(image.content("/three"), "1\n");
    assert_eq!(image.content("/two"), "2\n".repeat(1000));
    run.says(says);
}

#[test]
fn a_damaged_or_hostile_cache_is_no_cache() {
    let first = rbuild();
    let cache = written(&first, "max");
    let survives = |damage: &dyn Fn(&Path), says: &str| survives(&first, &cache, damage, says);
    survives(&|cache| fs::write(cache.join("index.json"), "{\"schema").expect("cut the index"), "is not used");
    survives(&|cache| fs::remove_file(cache.join("index.json")).expect("remove the index"), "there is no cache yet");
    let of_manifest = |cache: &Path| blob(cache, &read_json(&cache.join("index.json"))["manifests"][0]);
    survives(&|cache| fs::write(of_manifest(cache), "{}").expect("replace the manifest"), "is not used");
    survives(
        &|cache| {
            let records = blob(cache, &read_json(&of_manifest(cache))["config"]);
            fs::write(&records, &fs::read(&records).expect("read the records")[..100]).expect("cut the records");
        },
        "is not used",
    );
    survives(&|cache| rewrite(cache, |_, records| *records = json!({"version": 1, "steps": 7})), "is not used");
    survives(&|cache| rewrite(cache, |_, records| records["version"] = 99.into()), "a newer rbuild wrote it");
    let layers = |cache: &Path| -> Vec<PathBuf> {
        let manifest = read_json(&of_manifest(cache));
        manifest["layers"].as_array().expect("there are layers").iter().map(|layer| blob(cache, layer)).collect()
    };
    let spoil = |bytes: &dyn Fn(&[u8]) -> Vec<u8>, cache: &Path| {
        for layer in layers(cache) {
            let content = fs::read(&layer).expect("read a layer");
            fs::write(layer, bytes(&content)).expect("write a layer");
        }
    };
    let gone = "the cache does not have what a step needs";
    survives(&|cache| layers(cache).iter().for_each(|layer| fs::remove_file(layer).expect("remove a layer")), gone);
    survives(&|cache| spoil(&|content| content[..content.len() / 2].to_vec(), cache), gone);
    survives(&|cache| spoil(&|content| content.iter().map(|byte| byte ^ 1).collect(), cache), gone);
    survives(&|cache| spoil(&|content| [content, &[0; 1 << 20]].concat(), cache), gone);
    // Layers that are whole, but others than they are said to be.
    survives(
        &|cache| {
            rewrite(cache, |_, records| {
                let layers = records["layers"].as_array_mut().expect("there are layers");
                let blobs: Vec<Value> = layers.iter().map(|layer| layer["blob"].clone()).collect();
                let rotated = blobs.iter().cycle().skip(1);
                layers.iter_mut().zip(rotated).for_each(|(layer, blob)| layer["blob"] = blob.clone());
            });
        },
        gone,
    );
}

#[test]
fn caches_of_others_are_named() {
    let first = rbuild();
    let cache = written(&first, "max");
    let buildkit = "application/vnd.buildkit.cacheconfig.v0";
    let says = "it is a cache of BuildKit";
    let config = |cache: &Path| rewrite(cache, |manifest, _| manifest["config"]["mediaType"] = buildkit.into());
    survives(&first, &cache, config, says);
    let image = |cache: &Path| {
        rewrite(cache, |manifest, records| {
            manifest["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
            *records = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}});
        });
    };
    survives(&first, &cache, image, "it is an image without a cache");
}

#[test]
fn an_image_carries_its_own_cache() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (first, registry) = (rbuild(), Registry::start(Access::Plain));
    let name = registry.name("team/app:1");
    let plain_id = first.build(&plain(&first), &[]).succeeded().image_id();
    let built = first.build(&plain(&first), &["-t", &name, "--push", "--cache-to", "type=inline"]).succeeded();
    assert_ne!(built.image_id(), plain_id, "the image has no cache in it");
    let second = rbuild();
    let traffic = Traffic::begin(&registry);
    let flags = ["-t", &name, "--push", "--cache-from", &name, "--cache-to", "type=inline"];
    let again = second.build(&plain(&second), &flags).succeeded().all_cached();
    assert_eq!(again.image_id(), built.image_id());
    assert_eq!(traffic.count("GET", ""), 2, "{:#?}", traffic.requests());
    // It is the cache of that image alone: what is built upon it has none.
    let third = rbuild();
    let context = third.context("child").file("Dockerfile", format!("FROM {name}\nLABEL a=b\n"));
    let (_, child) = build_image(&third, &context, &[]);
    assert!(!child.config.to_string().contains("rbuild.cache"), "{}", child.config);
}

#[test]
fn a_registry_that_lost_a_layer_is_done_without() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let (first, registry) = (rbuild(), Registry::start(Access::Plain));
    let cache = registry.name("team/cache");
    first.build(&plain(&first), &["--cache-to", &cache]).succeeded();
    let answer = registry.fetch("/v2/team/cache/manifests/latest");
    let (_, manifest) = answer.split_once("\r\n\r\n").expect("an answer has a body");
    let manifest: Value = serde_json::from_str(manifest).expect("a manifest is JSON");
    registry.lose_blob(manifest["layers"][0]["digest"].as_str().expect("there is a layer"));
    let second = rbuild();
    let name = registry.name("team/app:1");
    let run = second.build(&plain(&second), &["-t", &name, "--push", "--cache-from", &cache]).succeeded();
    run.says("the cache does not have what a step needs");
    let third = rbuild();
    let context = third.context("upon").file("Dockerfile", format!("FROM {name}\n"));
    let (_, image) = build_image(&third, &context, &[]);
    assert_eq!(image.config["rootfs"], build_image(&first, &plain(&first), &[]).1.config["rootfs"]);
}

#[test]
fn caches_are_asked_in_their_order_and_explained() {
    let first = rbuild();
    let cache = written(&first, "max");
    let second = rbuild();
    let (_, from) = carried(&second, &cache);
    let nothing = format!("type=local,src={}", second.path("out/nothing").display());
    let flags = ["explain", "--cache-from", &nothing, "--cache-from", &from];
    let context = plain(&second);
    let directory = context.directory.to_str().expect("paths of tests are UTF-8");
    second.own_everything();
    let told = second.run([flags.as_slice(), &[directory]].concat()).succeeded();
    assert_eq!(told.stdout.matches("HIT in ").count(), 4, "{}", told.stdout);
    assert!(told.stdout.contains("4 of 4 steps come from the cache"), "{}", told.stdout);
    second.build(&context, &flags[1..]).succeeded().all_cached().says("there is no cache yet");
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning_unless_asked() {
    let rbuild = rbuild();
    // Port 1 on loopback has no server.
    let to = "type=registry,ref=127.0.0.1:1/cache";
    rbuild
        .build(&plain(&rbuild), &["--cache-to", to])
        .succeeded()
        .says("note: the cache 127.0.0.1:1/cache:latest was not written");
    let strict = format!("{to},ignore-error=false");
    rbuild.build(&plain(&rbuild), &["--cache-to", &strict]).failed(1).says("write cache 127.0.0.1:1/cache:latest");
    // One that cannot be read never matters.
    rbuild.build(&plain(&rbuild), &["--cache-from", "127.0.0.1:1/cache"]).succeeded().says("is not used");
}

#[test]
fn a_pull_request_writes_no_cache_but_one_of_its_own() {
    let mut rbuild = rbuild();
    let cache = written(&rbuild, "max");
    let index = || fs::read(cache.join("index.json")).expect("read the index");
    let before = index();
    rbuild.set_variable("GITHUB_EVENT_NAME", "pull_request");
    let context = plain(&rbuild).file("one", "sent by somebody\n");
    let to = format!("type=local,dest={},mode=max", cache.display());
    let run = rbuild.build(&context, &["--cache-to", &to]).succeeded();
    run.says("no cache is written: this is the build of a pull request (GITHUB_EVENT_NAME=pull_request)");
    assert_eq!(index(), before);
    rbuild.build(&context, &["--cache-to", &to, "--cache-domain", "pull-7"]).succeeded();
    // Builds of the domain read what both have, others only what was not sent.
    let fresh = Rbuild::new(suite_user());
    let (_, from) = carried(&fresh, &cache);
    let context = plain(&fresh).file("one", "sent by somebody\n");
    let run = fresh.build(&context, &["--cache-from", &from]).succeeded();
    assert_eq!((run.step("COPY one"), run.step("COPY --from")), ("DONE".to_owned(), "DONE".to_owned()));
    let fresh = Rbuild::new(suite_user());
    let (_, from) = carried(&fresh, &cache);
    let flags = ["--cache-from", &from, "--cache-domain", "pull-7"];
    fresh.build(&plain(&fresh).file("one", "sent by somebody\n"), &flags).succeeded().all_cached();
    fresh.build(&plain(&fresh), &flags).succeeded().all_cached();
}
