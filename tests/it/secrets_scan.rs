//! A secret that is used in every way that there is can be found in no byte that is written: store, outputs, logs, messages,
//! registry; neither as it is nor encoded, nor in compressed streams.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use walkdir::WalkDir;

use crate::cloud::{BUCKET, Cloud, Fault, KEY_ID};
use crate::cloud_cache::{token, with_keys, with_runtime};
use crate::harness::{Files, Rbuild, Run, finish, has_program, source_directory, succeed, suite_user};
use crate::leftovers::on_busybox;
use crate::registry_server::{Access, PASSWORD, Registry, USER_NAME, missing_programs};
use crate::web_server::{Page, WebServer};

/// Something that must not be found, in all the forms that it is looked for in.
struct Needle {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Needle {
    fn new(name: &'static str, secret: &str) -> Needle {
        let bytes = secret.as_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let escaped: String = bytes
            .iter()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(*byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let json = serde_json::to_string(secret).expect("a text is JSON");
        let mut forms = vec![
            bytes.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            escaped.to_lowercase().into_bytes(),
            escaped.into_bytes(),
            json.trim_matches('"').as_bytes().to_vec(),
        ];
        forms.extend((0..3).map(|before| base64_inside(bytes, before)));
        forms.extend((0..3).map(|before| url_safe(base64_inside(bytes, before))));
        Needle { name, forms }
    }
}

/// The part of a base64 text that depends on these bytes alone where `before` (modulo 3) others stand before them.
fn base64_inside(bytes: &[u8], before: usize) -> Vec<u8> {
    let padded = [&vec![0; before], bytes].concat();
    let text = STANDARD.encode(&padded).into_bytes();
    let first = [0, 2, 3][before];
    let last = padded.len() * 8 / 6;
    text[first..last].to_vec()
}

fn url_safe(text: Vec<u8>) -> Vec<u8> {
    text.into_iter()
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            byte => byte,
        })
        .collect()
}

/// 32 random bytes in 43 characters, one of which has to be escaped in an address.
fn random() -> String {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("read random bytes");
    STANDARD.encode(bytes).trim_end_matches('=').replace(['+', '/'], "x") + "!"
}

/// What of the needles is in some bytes, or in any compressed stream that begins anywhere in them.
fn found(bytes: &[u8], needles: &[Needle], depth: usize) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = needles
        .iter()
        .filter(|needle| needle.forms.iter().any(|form| memmem::find(bytes, form).is_some()))
        .map(|needle| needle.name)
        .collect();
    if depth == 0 {
        return names;
    }
    let (gzip, zstd): (&[u8], &[u8]) = (&[0x1f, 0x8b, 0x08], &[0x28, 0xb5, 0x2f, 0xfd]);
    for place in memmem::find_iter(bytes, gzip).chain(memmem::find_iter(bytes, zstd)) {
        let rest = &bytes[place..];
        let mut content = Vec::new();
        // What was decompressed before a stream turned out to be none, or cut short, counts all the same.
        let limit = 64 << 20;
        if rest.starts_with(gzip) {
            drop(flate2::read::MultiGzDecoder::new(rest).take(limit).read_to_end(&mut content));
        } else {
            let decoder = zstd::Decoder::new(rest).expect("make a decoder");
            drop(decoder.take(limit).read_to_end(&mut content));
        }
        names.extend(found(&content, needles, depth - 1));
    }
    names
}

/// What is found below a directory: names of needles and files.
fn scan(directory: &Path, needles: &[Needle]) -> Vec<String> {
    let mut all = Vec::new();
    for entry in WalkDir::new(directory) {
        let entry = match entry {
            Ok(entry) => entry,
            // Trees of other ids, where the suite is not root's: what is in them, the layers' blobs have, too.
            Err(error)
                if error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) =>
            {
                continue;
            }
            Err(error) => panic!("list {}: {error}", directory.display()),
        };
        let mut names = found(entry.path().to_string_lossy().as_bytes(), needles, 0);
        if entry.file_type().is_file() {
            match fs::read(entry.path()) {
                Ok(bytes) => names.extend(found(&bytes, needles, 2)),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
                Err(error) => panic!("read {}: {error}", entry.path().display()),
            }
        }
        all.extend(names.into_iter().map(|name| format!("{name} in {}", entry.path().display())));
    }
    all
}

#[test]
fn the_scan_finds_a_secret_in_every_form() {
    let folder = tempfile::tempdir().expect("create a directory");
    let secret = random();
    let needles = [Needle::new("it", &secret), Needle::new("other", &random())];
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::default());
        let mut out = Vec::new();
        encoder.read_to_end(&mut out).expect("compress");
        out
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("compress");
    let plain = format!("before {secret} after").into_bytes();
    let cases: [Vec<u8>; 10] = [
        plain.clone(),
        STANDARD.encode(format!("user:{secret}")).into_bytes(),
        STANDARD.encode(format!("users:{secret}x")).into_bytes(),
        STANDARD.encode(format!("a user:{secret}xy")).into_bytes(),
        secret.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes(),
        secret.replace('!', "%21").into_bytes(),
        gzip(&plain),
        [b"a tar that holds ".to_vec(), gzip(&plain), b"and more".to_vec()].concat(),
        zstd(&STANDARD.encode(&plain).into_bytes()),
        gzip(&[b"outer".to_vec(), zstd(&plain)].concat()),
    ];
    for (number, case) in cases.iter().enumerate() {
        let path = folder.path().join("file");
        fs::write(&path, case).expect("write a file");
        let names = scan(folder.path(), &needles);
        assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("it in ")), "case {number}: {names:?}");
        fs::remove_file(path).expect("remove a file");
    }
    fs::write(folder.path().join("file"), gzip(b"nothing")).expect("write a file");
    assert_eq!(scan(folder.path(), &needles), Vec::<String>::new());
    fs::write(folder.path().join(&secret), "").expect("write a file");
    assert_eq!(scan(folder.path(), &needles).len(), 1);
}

/// Servers that want passwords, and what must not be found.
struct Places {
    needles: Vec<Needle>,
    registry: Registry,
    /// Kept running.
    web: [WebServer; 2],
    flags: Vec<String>,
    /// A private key, in a file.
    signing_key: PathBuf,
    /// With its password.
    address_of_page: String,
}

/// What is missing for the test, or all that it needs, and the context.
fn places(rbuild: &mut Rbuild) -> Result<(Places, Files), String> {
    for program in ["git", "ssh-keygen", "ssh-agent", "ssh-add"] {
        if !has_program(program) {
            return Err(format!("{program} is not installed"));
        }
    }
    if let Some(program) = missing_programs(Access::Password) {
        return Err(format!("{program} is not installed"));
    }
    let secrets: Vec<String> = (0..6).map(|_| random()).collect();
    let [file, variable, git, basic, proxy, proxy_argument] = secrets.as_slice() else { unreachable!("six were made") };
    let bearer = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let repositories = WebServer::start(&[], Some(&bearer("token", git)));
    repositories.repository("project", "echo 1 > file\ngit add file\ngit commit -q -m one");
    let page = Page { body: b"page".to_vec(), ..Page::default() };
    let pages = WebServer::start(&[("/page", page)], Some(&bearer("me", basic)));
    let registry = Registry::start(Access::Password);
    let auth = STANDARD.encode(format!("{USER_NAME}:{PASSWORD}"));
    let config = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{auth}\"}}}}}}", registry.host());
    fs::write(rbuild.path("home/.docker/config.json"), config).expect("write credentials");

    let keys = rbuild.context("keys").file("secret", file);
    let key = keys.directory.join("key");
    succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let private = fs::read_to_string(&key).expect("read the key");
    // Its first lines are the same in every key, and hold the public half.
    let private = private.lines().rev().nth(1).expect("a key has lines").to_owned();

    rbuild.set_variable("THE_VARIABLE", variable);
    rbuild.set_variable("BUILDX_METADATA_PROVENANCE", "max");
    rbuild.set_variable("THE_HEADER", bearer("me", basic));
    for name in ["http_proxy", "https_proxy"] {
        rbuild.set_variable(name, format!("http://me:{}@127.0.0.1:9", proxy.replace('!', "%21")));
    }
    rbuild.set_variable("no_proxy", "127.0.0.1,localhost");
    let address = |server: &WebServer, user: &str, password: &str, path: &str| {
        format!("http://{user}:{}@{}{path}", password.replace('!', "%21"), server.host())
    };
    let text = format!(
        "ADD {} /repository\nADD {} /page\nARG GREETING\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=VALUE --mount=type=ssh \\\n\
         cat /run/secrets/file; echo $VALUE; test -n \"$http_proxy\" && test -n \"$ftp_proxy\" && echo $GREETING > /greeting\n",
        address(&repositories, "token", git, "/project.git"),
        pages.url("/page"),
    );
    let signing_key = keys.directory.join("signing.pem");
    fs::copy(source_directory().join("testdata/sign/p256.pem"), &signing_key).expect("copy a key");
    let signing = fs::read_to_string(&signing_key).expect("read the key");
    let signing = signing.lines().find(|line| line.starts_with("MIG")).expect("a key is DER in base64").to_owned();
    let context = on_busybox(rbuild, "scanned", &text)?;
    let flags = vec![
        format!("--secret=id=file,src={}", keys.directory.join("secret").display()),
        "--secret=id=variable,env=THE_VARIABLE".to_owned(),
        format!("--ssh=default={}", key.display()),
        format!("--build-arg=ftp_proxy=http://me:{}@127.0.0.1:9", proxy_argument.replace('!', "%21")),
        "--build-arg=http_proxy".to_owned(),
        // An address with a password in it is refused: its header comes as a secret.
        format!("--secret=id=HTTP_AUTH_HEADER_{},env=THE_HEADER", pages.host()),
        "--build-arg=GREETING=a greeting of no secret".to_owned(),
    ];
    let needles = vec![
        Needle::new("secret file", file),
        Needle::new("secret variable", variable),
        Needle::new("git token", git),
        Needle::new("password of a page", basic),
        Needle::new("password of the proxy", proxy),
        Needle::new("password of a proxy given as argument", proxy_argument),
        Needle::new("password of the registry", PASSWORD),
        Needle::new("ssh key", &private),
        Needle::new("signing key", &signing),
    ];
    let address_of_page = address(&pages, "me", basic, "/page");
    Ok((Places { needles, registry, web: [repositories, pages], flags, signing_key, address_of_page }, context))
}

fn assert_silent(run: &Run, needles: &[Needle], what: &str) {
    for (stream, text) in [("standard output", &run.stdout), ("standard error", &run.stderr)] {
        assert_eq!(found(text.as_bytes(), needles, 1), Vec::<&str>::new(), "{stream} of {what}:\n{text}");
    }
}

for_each_user! {
    fn a_secret_is_in_no_byte_that_is_written(rbuild) {
        let mut rbuild = rbuild;
        let (places, context) = match places(&mut rbuild) {
            Ok(made) => made,
            Err(reason) => skip!("{reason}"),
        };
        let name = places.registry.name("scanned:1");
        let outputs = [
            "--metadata-file=metadata.json", "-o", "type=oci,dest=oci.tar,compression=zstd",
            "-o", "type=docker,dest=docker.tar", "-o", "type=local,dest=files", "-o", "type=tar,dest=files.tar",
            "-o", "type=oci,tar=false,dest=layout", "-t", &name, "--push",
        ];
        let flags: Vec<&str> = places.flags.iter().map(String::as_str).chain(outputs).collect();
        let check = |run: Run, what: &str| assert_silent(&run, &places.needles, what);
        check(rbuild.build(&context, &flags).succeeded(), "build");
        check(rbuild.build(&context, &[&flags[..], &["--no-cache", "--debug", "--progress", "rawjson"]].concat()).succeeded(), "another build");
        // What is said about the image in public, as much as there is to say, and a signature under it; and what others get
        // to build on, in every kind of cache there is.
        let (bucket, actions) = (Cloud::s3("key", None), Cloud::actions(&token("refs/heads/main", &[], "c2ln"), "refs/heads/main", &[]));
        with_keys(&mut rbuild, &bucket, "key");
        with_runtime(&mut rbuild, &actions, 2, &token("refs/heads/main", &[], "c2ln"));
        let sign = format!("--sign=key={}", places.signing_key.display());
        let max = "mode=max,mounts=true,ignore-error=false";
        let caches = [
            format!("type=local,dest=cache,{max}"), format!("type=registry,ref={},{max}", places.registry.name("cache:1")),
            format!("type=s3,bucket={BUCKET},{max}"), format!("type=gha,{max}"),
        ];
        let said = [
            "--provenance=mode=max", "--sbom", "--metadata-file=said.json", "-o", "type=oci,tar=false,dest=said",
            "-o", "type=local,dest=files-said", "-t", &name, "--push", &sign,
        ];
        let to: Vec<&str> = caches.iter().flat_map(|cache| ["--cache-to", cache]).collect();
        let flags: Vec<&str> = places.flags.iter().map(String::as_str).collect();
        check(rbuild.build(&context, &[&flags[..], &said, &to].concat()).succeeded(), "a build with attestations");
        check(rbuild.run(["push", &sign, &name]).succeeded(), "a push with a signature");
        let provenance = fs::read_to_string(rbuild.path("out/files-said/provenance.json")).expect("read the provenance");
        for word in ["a greeting of no secret", "buildkit_metadata", "\"sha1\"", "/project.git", "/page"] {
            assert!(provenance.contains(word), "{word} is not in {provenance}");
        }
        let directory = context.directory.to_str().expect("paths of tests are UTF-8");
        for arguments in [&["explain", "--format", "json"][..], &["build", "--dry-run"], &["build", "--call", "outline"]] {
            check(rbuild.run([arguments, &flags[..], &[directory]].concat()).succeeded(), arguments[0]);
        }
        for arguments in [&["inspect", &name][..], &["history", "--no-trunc", &name], &["du", "-v"], &["push", &name]] {
            check(rbuild.run(arguments).succeeded(), arguments[0]);
        }
        // What goes wrong is told without them, too.
        context.edit("Dockerfile", "/project.git", "/nothing.git");
        check(rbuild.build(&context, &flags).failed(1), "a build without its repository");
        context.edit("Dockerfile", "echo $VALUE;", "echo $VALUE; echo $VALUE >&2; exit 3;");
        context.edit("Dockerfile", "/nothing.git", "/project.git");
        check(rbuild.run([&["build"], &flags[..], &[&places.address_of_page]].concat()).failed(1), "a context behind a password");
        check(rbuild.build(&context, &flags).failed(3), "a build whose command fails");
        assert!(places.web.iter().all(|server| !server.requests().is_empty()), "nothing was fetched");

        let mut written = Vec::new();
        for place in ["store", "out", "tmp", "run"] {
            written.extend(scan(&rbuild.path(place), &places.needles));
        }
        written.extend(scan(&places.registry.directory().join("data"), &places.needles));
        assert_eq!(written, Vec::<String>::new());
        // The scan has read all that: what is no secret is in the store, the outputs, the registry and the caches.
        let public = [Needle::new("the command's file", "a greeting of no secret")];
        for place in [rbuild.path("store"), rbuild.path("out/layout"), rbuild.path("out/cache"), places.registry.directory().join("data")] {
            assert!(!scan(&place, &public).is_empty(), "{} does not hold what it should", place.display());
        }
        for cloud in [&bucket, &actions] {
            let content = cloud.all_content();
            assert!(content.iter().all(|bytes| found(bytes, &places.needles, 2).is_empty()), "a secret is in a cloud");
            assert!(content.iter().any(|bytes| !found(bytes, &public, 2).is_empty()), "the scan reads what is kept");
        }
    }
}

/// A build that needs nothing of the machine.
fn small(rbuild: &Rbuild) -> Files {
    rbuild.context("small").file("Dockerfile", "FROM scratch\nCOPY one /\n").file("one", "what is no secret")
}

/// Builds, writes and reads the cache, tells all that there is to tell, and finds a service that refuses.
fn use_cache(rbuild: &Rbuild, cache: &str, cloud: Option<&Cloud>, needles: &[Needle]) {
    let check = |run: Run, what: &str| assert_silent(&run, needles, what);
    let to = format!("{cache},mode=max,ignore-error=false");
    let context = small(rbuild);
    let flags =
        ["--cache-to", &to, "--cache-from", cache, "--metadata-file=metadata.json", "-o", "type=oci,dest=oci.tar"];
    check(rbuild.build(&context, &flags).succeeded(), "build");
    let more = [&flags[..], &["--no-cache", "--debug", "--progress", "rawjson"]].concat();
    check(rbuild.build(&context, &more).succeeded(), "another build");
    let directory = context.directory.to_str().expect("paths of tests are UTF-8");
    check(rbuild.run(["explain", "--format", "json", "--cache-from", cache, directory]).succeeded(), "explain");
    check(rbuild.run(["build", "--dry-run", "--cache-to", &to, directory]).succeeded(), "a dry run");
    check(rbuild.build(&context, &["--cache-to", &format!("{to},nonsense=1")]).failed(2), "a flag that is none");
    check(rbuild.build(&context, &["--cache-to", &format!("{to},mode=x")]).failed(2), "a mode that is none");
    if let Some(cloud) = cloud {
        let refusal = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        cloud.plan("", "", 99, Fault::Status(403, vec![], refusal));
        check(
            rbuild.build(&context, &[&flags[..], &["--debug", "--no-cache"]].concat()).failed(1),
            "a service that refuses",
        );
    }
}

#[test]
fn keys_and_tokens_of_caches_are_in_no_byte_that_is_written() {
    if let Some(program) = missing_programs(Access::Password) {
        skip!("{program} is not installed");
    }
    let [variable, attribute, session, signature, job] = [(); 5].map(|()| random());
    let (signature, job) = (signature.replace('!', "_"), job.replace('!', "_"));
    let job_token = token("refs/heads/main", &[], &job);
    let needles = [
        Needle::new("key of a variable", &variable),
        Needle::new("key of a flag", &attribute),
        Needle::new("session of a flag", &session),
        Needle::new("token of a variable", &signature),
        Needle::new("token of a flag", &job),
        Needle::new("permission of an address", "very%2Bsecret"),
        Needle::new("password of the registry", PASSWORD),
    ];
    let mut rbuild = Rbuild::new(suite_user());
    let registry = Registry::start(Access::Password);
    let [of_variable, of_flag] = [Cloud::s3(&variable, None), Cloud::s3(&attribute, Some(&session))];
    let runtime = token("refs/heads/main", &[], &signature);
    let services = [runtime.as_str(), &job_token].map(|token| Cloud::actions(token, "refs/heads/main", &[]));
    with_keys(&mut rbuild, &of_variable, &variable);
    with_runtime(&mut rbuild, &services[0], 2, &runtime);

    let mut login = rbuild.command(["login", "--username", USER_NAME, "--password-stdin", &registry.host()]);
    let mut child = login.stdin(Stdio::piped()).spawn().expect("start rbuild login");
    let mut input = child.stdin.take().expect("its standard input");
    std::io::Write::write_all(&mut input, PASSWORD.as_bytes()).expect("give the password");
    drop(input);
    assert_silent(&finish(child).succeeded(), &needles, "login");
    use_cache(&rbuild, &format!("type=registry,ref={}", registry.name("team/cache")), None, &needles);
    use_cache(&rbuild, &format!("type=s3,bucket={BUCKET}"), Some(&of_variable), &needles);
    let given = format!("access_key_id={KEY_ID},secret_access_key={attribute},session_token={session}");
    let bucket = format!("type=s3,bucket={BUCKET},endpoint_url={},{given}", of_flag.url());
    use_cache(&rbuild, &bucket, Some(&of_flag), &needles);
    use_cache(&rbuild, "type=gha", Some(&services[0]), &needles);
    use_cache(
        &rbuild,
        &format!("type=gha,version=1,url={},token={job_token}", services[1].url()),
        Some(&services[1]),
        &needles,
    );

    let mut written = Vec::new();
    for place in ["store", "out", "tmp", "run"] {
        written.extend(scan(&rbuild.path(place), &needles));
    }
    written.extend(scan(&registry.directory().join("data"), &needles));
    assert_eq!(written, Vec::<String>::new());
    let public = [Needle::new("a layer", "what is no secret")];
    for cloud in [&of_variable, &of_flag, &services[0], &services[1]] {
        let content = cloud.all_content();
        assert!(content.iter().all(|bytes| found(bytes, &needles, 2).is_empty()));
        assert!(content.iter().any(|bytes| !found(bytes, &public, 2).is_empty()), "the scan reads what is kept");
    }
    // The key itself never leaves; only what was signed with it.
    for asked in of_variable.asked().iter().chain(&of_flag.asked()) {
        let headers: Vec<String> = asked.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let sent = format!("{} {}", asked.line(), headers.join("\n"));
        assert_eq!(found(sent.as_bytes(), &needles[..2], 0), Vec::<&str>::new(), "{sent}");
    }
}
