//! Caches in a bucket of S3 and in the cache service of GitHub Actions: one machine builds and leaves a cache, another that
//! has nothing builds with it.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::bases::Base;
use crate::cloud::{BUCKET, Cloud, Fault, KEY_ID, REGION};
use crate::harness::{Files, Rbuild, has_program, suite_user};
use crate::image::Image;
use crate::registry_server::{Access, Registry, missing_programs};

const SECRET: &str = "a secret key/of+tests";
const MAIN: &str = "refs/heads/main";

/// A token of a job, as GitHub makes them.
pub fn token(branch: &str, others: &[&str], signature: &str) -> String {
    let scope = |name: &str, permission: u32| serde_json::json!({ "Scope": name, "Permission": permission });
    let mut scopes = vec![scope(branch, 3)];
    scopes.extend(others.iter().map(|name| scope(name, 1)));
    let payload = serde_json::json!({ "ac": serde_json::to_string(&scopes).expect("JSON"), "exp": 32_503_680_000_u64 });
    format!("e30.{}.{signature}", URL_SAFE_NO_PAD.encode(payload.to_string()))
}

/// A build without commands, which needs nothing of the machine.
fn plain(rbuild: &Rbuild) -> Files {
    let dockerfile = "FROM scratch AS files\nCOPY one /one\nCOPY two /two\nFROM scratch\nCOPY --from=files /one /three\nCOPY two /\n";
    let context =
        rbuild.context("plain").file("Dockerfile", dockerfile).file("one", "1\n").file("two", "2\n".repeat(1000));
    context.modified("one", 1_700_000_000).modified("two", 1_700_000_000)
}

/// Keys and address of S3 as Amazon's own tools take them.
pub fn with_keys(rbuild: &mut Rbuild, cloud: &Cloud, secret: &str) {
    rbuild.set_variable("AWS_ACCESS_KEY_ID", KEY_ID);
    rbuild.set_variable("AWS_SECRET_ACCESS_KEY", secret);
    rbuild.set_variable("AWS_REGION", REGION);
    rbuild.set_variable("AWS_ENDPOINT_URL_S3", cloud.url());
}

/// What a workflow's environment says, once an action has passed it on.
pub fn with_runtime(rbuild: &mut Rbuild, cloud: &Cloud, version: u32, token: &str) {
    rbuild.set_variable("ACTIONS_RUNTIME_TOKEN", token);
    match version {
        1 => rbuild.set_variable("ACTIONS_CACHE_URL", format!("{}/", cloud.url())),
        _ => {
            rbuild.set_variable("ACTIONS_CACHE_SERVICE_V2", "True");
            rbuild.set_variable("ACTIONS_RESULTS_URL", format!("{}/", cloud.url()));
        }
    }
}

/// A service, the flag that names a cache in it, and how a machine gets at it.
struct Place {
    cloud: Cloud,
    cache: String,
    version: u32,
}

impl Place {
    fn all() -> Vec<Place> {
        let actions = |version| {
            let cloud = Cloud::actions(&token(MAIN, &[], "c2ln"), MAIN, &[]);
            Place { cloud, cache: "type=gha,scope=app".to_owned(), version }
        };
        vec![Place::bucket(), actions(1), actions(2)]
    }

    fn bucket() -> Place {
        let cloud = Cloud::s3(SECRET, None);
        Place { cloud, cache: format!("type=s3,bucket={BUCKET},name=app;main"), version: 0 }
    }

    fn machine(&self) -> Rbuild {
        let mut rbuild = Rbuild::new(suite_user());
        match self.version {
            0 => with_keys(&mut rbuild, &self.cloud, SECRET),
            version => with_runtime(&mut rbuild, &self.cloud, version, &token(MAIN, &[], "c2ln")),
        }
        rbuild
    }

    /// The requests that changed something.
    fn writes(&self) -> usize {
        let is_write = |method: &str| ["PUT", "PATCH", "DELETE"].contains(&method);
        self.cloud.asked().iter().filter(|asked| is_write(&asked.method)).count()
    }
}

fn build_image(rbuild: &Rbuild, context: &Files, flags: &[&str]) -> Image {
    let archive = rbuild.path("out/image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    rbuild.build(context, &[&["-o", &output], flags].concat()).succeeded();
    Image::read(&archive)
}

#[test]
fn a_machine_that_has_nothing_fetches_no_layer_of_a_cloud() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let registry = Registry::start(Access::Plain);
    for place in Place::all() {
        let (to, cloud) = (format!("{},mode=max,ignore-error=false", place.cache), &place.cloud);
        let name = registry.name(&format!("team/app{}:1", place.version));
        let first = place.machine();
        let made = first.build(&plain(&first), &["-t", &name, "--push", "--cache-to", &to]).succeeded();
        let second = place.machine();
        cloud.forget_asked();
        let flags = ["-t", &name, "--push", "--cache-from", &place.cache, "--cache-to", &to];
        let run = second.build(&plain(&second), &flags).succeeded().all_cached();
        assert_eq!(run.image_id(), made.image_id());
        let asked: Vec<String> = cloud.asked().iter().map(crate::cloud::Asked::line).collect();
        // Manifest and config are read; then the manifest of each name is compared with what would be written.
        assert_eq!((asked.len(), place.writes()), (4, 0), "{asked:#?}");
        let flags = ["--cache-from", &place.cache, "--cache-to", &to];
        // What is needed is fetched.
        let image = build_image(&second, &plain(&second), &["--cache-from", &place.cache]);
        assert_eq!((image.content("/three").as_str(), image.content("/two").len()), ("1\n", 2000));
        // Another machine adds what it has made, and no more: a layer, its config or index, and the names.
        let third = place.machine();
        cloud.forget_asked();
        let context = plain(&third).file("two", "another\n");
        third.build(&context, &flags).succeeded();
        let blobs =
            cloud.count("PUT", "/blobs/sha256") + cloud.count("PUT", "/blobs/") + cloud.count("PATCH", "caches/");
        assert!((1..=6).contains(&blobs), "{blobs}");
        let fourth = place.machine();
        fourth
            .build(&plain(&fourth).file("two", "another\n"), &["--cache-from", &place.cache])
            .succeeded()
            .all_cached();
    }
}

#[test]
fn a_cloud_that_lost_or_damaged_a_layer_is_done_without() {
    for place in Place::all() {
        let first = place.machine();
        first.build(&plain(&first), &["--cache-to", &format!("{},mode=max", place.cache)]).succeeded();
        let layers = || place.cloud.keys().into_iter().filter(|key| key.contains("sha256:")).collect::<Vec<_>>();
        let damage: [&dyn Fn(&str); 2] =
            [&|key| place.cloud.put(key, b"something else"), &|key| place.cloud.remove(key)];
        for damage in damage {
            // The config of a bucket's cache is a small record, not a layer.
            for key in layers() {
                let bytes = place.cloud.content(&key).expect("its content");
                if !bytes.starts_with(b"{") {
                    damage(&key);
                }
            }
            let second = place.machine();
            let image = build_image(&second, &plain(&second), &["--cache-from", &place.cache]);
            assert_eq!((image.content("/three").as_str(), image.content("/two").len()), ("1\n", 2000));
        }
        // A service that does not answer is no reason to fail.
        place.cloud.plan("", "", usize::MAX, Fault::Status(403, vec![], "<Error><Code>AccessDenied</Code></Error>"));
        let third = place.machine();
        let flags = ["--cache-from", &place.cache, "--cache-to", &place.cache];
        third.build(&plain(&third), &flags).succeeded().says("is not used").says("was not written").says("status 403");
        let strict = format!("{},ignore-error=false", place.cache);
        third.build(&plain(&third), &["--cache-to", &strict]).failed(1).says("status 403");
    }
}

#[test]
fn a_layer_that_a_cloud_has_lost_is_there_again_after_a_build_that_missed_it() {
    let dated = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    for place in Place::all() {
        let to = format!("{},mode=max,ignore-error=false", place.cache);
        let first = place.machine();
        first.build(&plain(&first), &[&dated[..], &["--cache-to", &to]].concat()).succeeded();
        let is_layer = |key: &String| {
            key.contains("sha256:") && !place.cloud.content(key).is_some_and(|bytes| bytes.starts_with(b"{"))
        };
        let layers = || place.cloud.keys().into_iter().filter(is_layer).collect::<Vec<_>>();
        let before = layers();
        // A build that does not need a layer writes a cache elsewhere without it.
        let mut left_out = 0;
        for key in &before {
            let bytes = place.cloud.content(key).expect("a layer");
            place.cloud.put(key, b"something else");
            let second = place.machine();
            let elsewhere = second.path("out/elsewhere");
            let local = format!("type=local,dest={},mode=max,ignore-error=false", elsewhere.display());
            let flags = [&dated[..], &["--cache-from", &place.cache, "--cache-to", &local]].concat();
            let run = second.build(&plain(&second), &flags).succeeded();
            left_out += usize::from(run.stderr.contains("is in no cache any more and is left out"));
            place.cloud.put(key, &bytes);
            let from = format!("type=local,src={}", elsewhere.display());
            place
                .machine()
                .build(&plain(&second), &[&dated[..], &["--cache-from", &from]].concat())
                .succeeded()
                .all_cached();
        }
        assert_eq!(left_out, 1, "the result needs all but the layer that one file is copied from");
        // One that needs them makes them, and writes them again.
        before.iter().for_each(|key| place.cloud.remove(key));
        let fourth = place.machine();
        let flags = [&dated[..], &["--cache-from", &place.cache, "--cache-to", &to]].concat();
        build_image(&fourth, &plain(&fourth), &flags);
        assert_eq!(layers().len(), before.len());
        let fifth = place.machine();
        let image = build_image(&fifth, &plain(&fifth), &[&dated[..], &["--cache-from", &place.cache]].concat());
        assert_eq!((image.content("/three").as_str(), image.content("/two").len()), ("1\n", 2000));
    }
}

#[test]
fn layers_that_are_in_a_bucket_alone_are_pushed() {
    if let Some(program) = missing_programs(Access::Plain) {
        skip!("{program} is not installed");
    }
    let registry = Registry::start(Access::Plain);
    let place = Place::bucket();
    let first = place.machine();
    let made = first.build(&plain(&first), &["--cache-to", &place.cache]).succeeded();
    // Where the layers are others than the cache says, steps run.
    for harm in [false, true] {
        let second = place.machine();
        let name = registry.name(if harm { "team/harmed:1" } else { "team/app:1" });
        if harm {
            let layers = place.cloud.keys().into_iter().filter(|key| key.contains("blobs/"));
            for key in layers.filter(|key| !place.cloud.content(key).is_some_and(|bytes| bytes.starts_with(b"{"))) {
                place.cloud.put(&key, b"something else");
            }
        }
        let flags = ["-t", &name, "--push", "--cache-from", &place.cache];
        let run = second.build(&plain(&second), &flags).succeeded();
        // A step that runs again is dated anew.
        assert_eq!(run.image_id() == made.image_id(), !harm);
        assert!(second.run(["inspect", &name]).succeeded().stdout.contains(&run.image_id()));
        // The image is whole without the cache: its layers are where they were pushed.
        let other = registry.name(if harm { "other/harmed:1" } else { "other/app:1" });
        second.run(["tag", &name, &other]).succeeded();
        second.run(["push", &other]).succeeded();
    }
    // A push that fails leaves an image that can be pushed later.
    let place = Place::bucket();
    let first = place.machine();
    first.build(&plain(&first), &["--cache-to", &place.cache]).succeeded();
    let third = place.machine();
    let nowhere = "127.0.0.1:1/app:1";
    third.build(&plain(&third), &["-t", nowhere, "--push", "--cache-from", &place.cache]).failed(1);
    let name = registry.name("team/later:1");
    third.run(["tag", nowhere, &name]).succeeded();
    third.run(["push", &name]).succeeded();
}

#[test]
fn a_workflow_that_does_not_know_its_cache_is_told_what_to_do() {
    let rbuild = Rbuild::new(suite_user());
    let run = rbuild.build(&plain(&rbuild), &["--cache-from", "type=gha", "--cache-to", "type=gha,mode=max"]);
    let run = run.succeeded().says("ACTIONS_RUNTIME_TOKEN").says("crazy-max/ghaction-github-runtime");
    run.says("note: the cache gha (scope rbuild) was not written");
    let strict = rbuild.build(&plain(&rbuild), &["--cache-to", "type=gha,ignore-error=false"]);
    strict.failed(1).says("crazy-max/ghaction-github-runtime");
    rbuild.build(&plain(&rbuild), &["--cache-to", "type=gha,scop=x"]).failed(2).says("did you mean scope?");
    rbuild.build(&plain(&rbuild), &["--cache-to", "type=s3,region=x"]).failed(2).says("type=s3 needs bucket=");
    rbuild
        .build(&plain(&rbuild), &["--cache-to", "type=s3,bucket=b,access_key_id=x"])
        .failed(2)
        .says("belong together");
}

#[test]
fn a_pull_request_reads_the_base_branch_and_writes_nothing() {
    let cloud = Cloud::actions(&token(MAIN, &[], "c2ln"), MAIN, &[]);
    let place = Place { cloud, cache: "type=gha".to_owned(), version: 2 };
    let first = place.machine();
    first.build(&plain(&first), &["--cache-to", "type=gha,mode=max"]).succeeded();
    let request = token("refs/pull/7/merge", &[MAIN], "c2ln");
    place.cloud.next_job(&request, "refs/pull/7/merge", &[MAIN]);
    let mut second = Rbuild::new(suite_user());
    with_runtime(&mut second, &place.cloud, 2, &request);
    second.set_variable("GITHUB_EVENT_NAME", "pull_request");
    place.cloud.forget_asked();
    let flags = ["--cache-from", "type=gha", "--cache-to", "type=gha,mode=max"];
    let run = second.build(&plain(&second), &flags).succeeded().all_cached();
    run.says("no cache is written: this is the build of a pull request");
    assert_eq!(place.writes(), 0);
    // A part of its own is written where that is asked for, and read first.
    let context = plain(&second).file("one", "sent by somebody\n");
    second.build(&context, &[&flags[..], &["--cache-domain", "pull-7"]].concat()).succeeded();
    assert!(place.cloud.keys().iter().any(|key| key.starts_with("rbuild-index-1-rbuild-pull-7-")));
    let mut third = Rbuild::new(suite_user());
    with_runtime(&mut third, &place.cloud, 2, &request);
    let context = plain(&third).file("one", "sent by somebody\n");
    third.build(&context, &["--cache-from", "type=gha", "--cache-domain", "pull-7"]).succeeded().all_cached();
}

for_each_user! {
    fn a_cache_mount_travels_through_a_cloud(rbuild) {
        let (_registry, base) = match Base::Busybox.in_registry() {
            Ok(both) => both,
            Err(reason) => skip!("{reason}"),
        };
        let cloud = Cloud::actions(&token(MAIN, &[], "c2ln"), MAIN, &[]);
        let mut rbuild = rbuild;
        with_runtime(&mut rbuild, &cloud, 2, &token(MAIN, &[], "c2ln"));
        let context = |rbuild: &Rbuild, word: &str| {
            let run = format!("RUN --mount=type=cache,target=/cache,id=l echo {word} >> /cache/l; cat /cache/l > /result");
            rbuild.context("mounts").file("Dockerfile", format!("FROM {base}\n{run}\n"))
        };
        let flags = ["--cache-from", "type=gha", "--cache-to", "type=gha,mounts=true,ignore-error=false"];
        rbuild.build(&context(&rbuild, "first"), &flags).succeeded();
        let mut fresh = Rbuild::new(suite_user());
        with_runtime(&mut fresh, &cloud, 2, &token(MAIN, &[], "c2ln"));
        let image = build_image(&fresh, &context(&fresh, "second"), &flags);
        assert_eq!(image.content("/result"), "first\nsecond\n");
    }
}

/// Ends a server with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Another's idea of S3, with which nothing is shared.
#[test]
fn moto_keeps_a_cache_too() {
    if !has_program("moto_server") {
        skip!("moto_server is not installed (pip install moto flask flask-cors)");
    }
    let folder = tempfile::tempdir().expect("create a directory");
    let log = folder.path().join("log");
    let file = fs::File::create(&log).expect("create the log");
    let mut command = Command::new("moto_server");
    command.args(["-H", "127.0.0.1", "-p", "0"]).stdin(Stdio::null());
    let child =
        command.stdout(file.try_clone().expect("share the log")).stderr(file).spawn().expect("start moto_server");
    let mut server = Server(child);
    let begun = Instant::now();
    let host = loop {
        let text = fs::read_to_string(&log).expect("read the log");
        let host = text.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        if let Some(host) = host.filter(|host| TcpStream::connect(host).is_ok()) {
            break host.to_owned();
        }
        let ended = server.0.try_wait().expect("look at the server");
        assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(120), "moto_server does not start:\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let mut bucket = TcpStream::connect(&host).expect("reach moto_server");
    let request = format!(
        "PUT /caches HTTP/1.1\r\nHost: {host}\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    std::io::Write::write_all(&mut bucket, request.as_bytes()).expect("ask for a bucket");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut bucket, &mut answer).expect("read the answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "moto_server is here and does not work: {answer}");
    let cache = format!(
        "type=s3,bucket=caches,region=us-east-1,endpoint_url=http://{host},use_path_style=true,\
         access_key_id=id,secret_access_key={SECRET},prefix=a b/,touch_refresh=0s"
    );
    let to = format!("{cache},mode=max,ignore-error=false");
    // Of 33 MB, so that it goes in parts.
    let large: Vec<u8> = (0..33_u32 << 18).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let context = |rbuild: &Rbuild| {
        let context = rbuild.context("large").file("Dockerfile", "FROM scratch\nCOPY large /\nCOPY small /\n");
        context.file("large", &large).file("small", "small").modified("large", 1_700_000_000)
    };
    let first = Rbuild::new(suite_user());
    let made = first.build(&context(&first), &["--cache-to", &format!("{to},compression=uncompressed")]).succeeded();
    let second = Rbuild::new(suite_user());
    // All is touched, as nothing is young enough.
    let flags = ["--cache-from", &cache, "--cache-to", &to];
    let run = second.build(&context(&second), &flags).succeeded().all_cached();
    assert_eq!(run.image_id(), made.image_id());
    let image = build_image(&second, &context(&second), &["--cache-from", &cache]);
    assert_eq!(image.content("/small"), "small");
    let log = fs::read_to_string(&log).expect("read the log");
    assert!(log.contains("partNumber=3") && log.contains("HEAD /caches/"), "{log}");
}
