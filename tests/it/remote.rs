//! What a build fetches: git repositories and files behind URLs, as sources of ADD and as contexts.

use crate::harness::{Rbuild, has_program};
use crate::image::{Image, Kind};
use crate::web_server::{Page, WebServer, object};

/// A repository with two commits, a branch, tags, links, an executable and a nested directory.
const SCRIPT: &str = "\
echo first > file; mkdir -p sub/deep; echo nested > sub/deep/n; printf '#!/bin/sh\\n' > run.sh; chmod 755 run.sh
ln -s file link; ln -s / outside; ln -s sub inside; git add -A; git commit -qm one; git tag light; git tag -a noted -m x
git checkout -q -b other; echo branch > file; git commit -qam two; git checkout -q main
echo second > file; git commit -qam three";

/// Builds a Dockerfile and reads the image.
fn image(rbuild: &Rbuild, name: &str, dockerfile: &str, arguments: &[&str]) -> Image {
    let context = rbuild.context(name).file("Dockerfile", dockerfile);
    let archive = rbuild.path(format!("out/{name}.tar"));
    let output = format!("type=oci,dest={}", archive.display());
    rbuild.build(&context, &[&["-o", &output], arguments].concat()).succeeded();
    Image::read(&archive)
}

/// `path kind mode` of each file, for comparing.
fn listing(image: &Image) -> Vec<String> {
    let line = |(path, entry): (&String, &crate::image::Entry)| {
        let kind = match &entry.kind {
            Kind::File(bytes) => format!("file {:?}", String::from_utf8_lossy(bytes)),
            other => format!("{other:?}"),
        };
        format!("{path} {:o} {}:{} {kind}", entry.mode, entry.uid, entry.gid)
    };
    image.files().iter().map(line).collect()
}

for_each_user! {
    fn add_of_a_repository_gives_its_files_at_each_kind_of_name(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        let repository = server.repository("a", SCRIPT);
        let first = object(&repository, "light");
        let url = server.url("/a.git");
        for (number, (reference, content)) in [
            (url.clone(), "second"),
            (format!("{url}#main"), "second"),
            (format!("{url}#other"), "branch"),
            (format!("{url}#light"), "first"),
            (format!("{url}#noted"), "first"),
            (format!("{url}#{first}"), "first"),
            (format!("{url}#{}", &first[..7]), "first"),
            (format!("{url}?branch=other"), "branch"),
            (format!("{url}?tag=noted"), "first"),
            (format!("{url}?ref=refs/heads/other"), "branch"),
            (format!("{url}?commit={first}"), "first"),
            (format!("{url}?ref=light&checksum={}", &first[..12]), "first"),
            (format!("{url}?ref=main&commit={first}&fetch-by-commit=true"), "first"),
        ]
        .iter()
        .enumerate()
        {
            let image = image(&rbuild, &format!("add{number}"), &format!("FROM scratch\nADD {reference} /r/\n"), &[]);
            assert_eq!(image.content("/r/file"), format!("{content}\n"), "{reference}");
            assert!(!image.files().contains_key("/r/.git"), "{reference} kept .git");
        }
    }

    fn a_repository_is_copied_with_modes_and_links_and_no_traces_of_the_machine(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        server.repository("a", SCRIPT);
        let image = image(&rbuild, "modes", &format!("FROM scratch\nADD {}#light /\n", server.url("/a.git")), &[]);
        let expected = [
            "/file 644 0:0 file \"first\\n\"",
            "/inside 777 0:0 Link(\"sub\")",
            "/link 777 0:0 Link(\"file\")",
            "/outside 777 0:0 Link(\"/\")",
            "/run.sh 755 0:0 file \"#!/bin/sh\\n\"",
            "/sub 755 0:0 Directory",
            "/sub/deep 755 0:0 Directory",
            "/sub/deep/n 644 0:0 file \"nested\\n\"",
        ];
        assert_eq!(listing(&image), expected);
    }

    fn subdirectories_flags_and_times_of_repositories(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        let repository = server.repository("a", SCRIPT);
        let url = server.url("/a.git");
        let first = object(&repository, "light");
        let dockerfile = format!(
            "FROM scratch\nADD {url}#main:sub /fragment/\nADD {url}?subdir=/sub/deep/ /query/\n\
             ADD --chown=7:8 --chmod=0600 --exclude=sub {url}#light /flags/\n\
             ADD {url}?mtime=commit&subdir=sub/deep /times/\nADD --checksum={first} {url}#light /checked/\n"
        );
        let image = image(&rbuild, "flags", &dockerfile, &[]);
        assert_eq!(image.content("/fragment/deep/n"), "nested\n");
        assert_eq!(image.content("/query/n"), "nested\n");
        let files = image.files();
        let file = &files["/flags/file"];
        assert_eq!((file.uid, file.gid, file.mode), (7, 8, 0o600));
        assert!(!files.contains_key("/flags/sub"), "--exclude was not heard");
        assert_eq!(files["/times/n"].modified, 1_700_000_000, "mtime=commit was not heard");
        assert_eq!(image.content("/checked/file"), "first\n");
    }

    fn keep_git_dir_keeps_a_repository_that_git_can_use_and_that_is_the_same_twice(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        let repository = server.repository("a", SCRIPT);
        let dockerfile = format!("FROM scratch\nADD --keep-git-dir=true {} /r\n", server.url("/a.git#main"));
        let one = image(&rbuild, "kept", &dockerfile, &[]);
        let head = one.content("/r/.git/HEAD");
        assert!(head.contains(&object(&repository, "main")), "HEAD is {head}");
        assert!(one.content("/r/.git/config").contains(&server.url("/a.git")), "the origin is not there");
        let other = Rbuild::new(rbuild.user);
        let two = image(&other, "kept", &dockerfile, &[]);
        assert_eq!(one.manifest["layers"], two.manifest["layers"], "the same commit gave two layers");
    }

    fn a_commit_is_fetched_once(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        let repository = server.repository("a", SCRIPT);
        let url = server.url("/a.git");
        let dockerfile = format!("FROM scratch\nADD {url} /r/\nADD {url}#{} /c/\n", object(&repository, "light"));
        let context = rbuild.context("once").file("Dockerfile", dockerfile);
        rbuild.build(&context, &[]).succeeded();
        let before = server.requests().len();
        rbuild.build(&context, &[]).succeeded().all_cached();
        let asked = server.requests()[before..].to_vec();
        // Which commit `main` is has to be asked; what is in it is known, and of a commit all is.
        assert!(asked.len() <= 2, "a build of cached steps asked too much: {asked:#?}");
    }

    fn submodules_come_along_but_never_files_of_this_machine(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        server.repository("inner", "echo inner > i; git add -A; git commit -qm x");
        let local = server.repository("local", "echo local > l; git add -A; git commit -qm x");
        let outer = |path: &str| {
            format!("git -c protocol.allow=always submodule --quiet add {path} module; git commit -qm x")
        };
        server.repository("outer", &outer(&server.url("/inner.git")));
        server.repository("hostile", &outer(&format!("file://{}", local.display())));
        let url = server.url("/outer.git");
        let dockerfile = format!("FROM scratch\nADD {url} /with/\nADD {url}?submodules=false /without/\n");
        let image = image(&rbuild, "modules", &dockerfile, &[]);
        assert_eq!(image.content("/with/module/i"), "inner\n");
        let files = image.files();
        assert!(!files.contains_key("/with/module/.git"), "a submodule kept .git");
        assert!(!files.contains_key("/without/module/i"), "submodules=false was not heard");
        let context = rbuild
            .context("hostile")
            .file("Dockerfile", format!("FROM scratch\nADD {} /\n", server.url("/hostile.git")));
        rbuild.build(&context, &[]).failed(1).says("submodule").says("'file' not allowed");
    }

    fn secrets_open_repositories_and_are_shown_nowhere(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        // "x-access-token:s3cr3t"
        let server = WebServer::start(&[], Some("basic eC1hY2Nlc3MtdG9rZW46czNjcjN0"));
        server.repository("a", SCRIPT);
        let dockerfile = format!("FROM scratch\nADD {} /r/\n", server.url("/a.git"));
        let context = rbuild.context("secret").file("Dockerfile", &dockerfile);
        rbuild.build(&context, &[]).failed(1).says("ls-remote").says("/a.git");
        let keys = rbuild.context("keys").file("token", "s3cr3t\n").file("header", "basic eC1hY2Nlc3MtdG9rZW46czNjcjN0");
        for id in ["GIT_AUTH_TOKEN".to_owned(), format!("GIT_AUTH_TOKEN.{}", server.host())] {
            let secret = format!("id={id},src={}", keys.directory.join("token").display());
            rbuild.build(&context, &["--no-cache", "--secret", &secret]).succeeded().does_not_say("s3cr3t");
        }
        let header = format!("id=GIT_AUTH_HEADER,src={}", keys.directory.join("header").display());
        rbuild.build(&context, &["--secret", &header]).succeeded();
        // As a context too, before anything of the build has begun.
        let token = format!("id=GIT_AUTH_TOKEN,src={}", keys.directory.join("token").display());
        let file = context.directory.join("Dockerfile");
        let file = file.to_str().expect("paths are UTF-8");
        rbuild.run(["build", "-f", file, "--secret", &token, &server.url("/a.git")]).succeeded();
    }

    fn what_a_repository_does_not_have_is_said_with_what_it_has(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        let repository = server.repository("a", SCRIPT);
        let first = object(&repository, "light");
        let url = server.url("/a.git");
        for (number, (source, words)) in [
            (format!("{url}#othr"), "does not contain ref othr; did you mean other?"),
            (format!("{url}#main:missing"), "\"missing\" is not a directory of"),
            (format!("{url}#main:file"), "\"file\" is not a directory of"),
            (format!("{url}#main:outside"), "\"outside\" is not a directory of"),
            (format!("{url}#main:inside/deep"), "\"inside/deep\" is not a directory of"),
            (format!("{url}#main:../.."), "is not inside the repository"),
            (format!("{url}#--upload-pack=touch"), "invalid git ref"),
            (format!("{url}?what=ever"), "unexpected query \"what\""),
            (format!("--checksum={first} {url}#main"), "expected checksum to match"),
            (server.url("/none.git"), "/none.git"),
        ]
        .iter()
        .enumerate()
        {
            let dockerfile = format!("FROM scratch\n\nADD {source} /r/\n");
            let context = rbuild.context(&format!("missing{number}")).file("Dockerfile", dockerfile);
            rbuild.build(&context, &[]).failed(1).says("Dockerfile:3").says(words);
        }
    }

    fn a_password_in_an_address_is_shown_nowhere(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        server.repository("a", SCRIPT);
        let url = server.url("/a.git").replace("http://", "http://user:s3cr3t@");
        let context = rbuild.context("password").file("Dockerfile", format!("FROM scratch\nADD {url} /r/\n"));
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let run = rbuild.build(&context, &["-o", &output]).succeeded();
        let shown: Vec<&str> = run.stderr.lines().filter(|line| line.contains("s3cr3t")).collect();
        assert!(shown.is_empty(), "the password was shown: {shown:#?}");
        let image = Image::read(&archive);
        assert!(!image.config.to_string().contains("s3cr3t"), "the config holds the password: {}", image.config);
    }

    fn a_repository_is_a_context(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        let script = "mkdir -p app/sub; printf 'FROM scratch\\nCOPY . /c/\\n' > app/Dockerfile; echo a > app/a
            printf 'FROM scratch\\nCOPY --from=named n /n\\n' > app/sub/Other; printf a > app/.dockerignore
            git add -A; git commit -qm x";
        server.repository("context", script);
        let named = SCRIPT.replace("sub/deep", "n");
        server.repository("named", &named.replace("echo nested > n/n", "echo nested > n/n; mkdir n/n2"));
        let url = server.url("/context.git");
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        rbuild.run(["build", "-o", &output, &format!("{url}#main:app")]).succeeded();
        // Ignore files have no say in a repository.
        assert_eq!(Image::read(&archive).content("/c/a"), "a\n");
        let other = format!("named={}#light", server.url("/named.git"));
        rbuild
            .run(["build", "-o", &output, "--build-context", &other, "-f", "sub/Other", &format!("{url}#main:app")])
            .succeeded();
        assert_eq!(Image::read(&archive).content("/n/n"), "nested\n");
        let keep = "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1";
        let file = rbuild.context("outer").file("Dockerfile", "FROM scratch\nCOPY .git /g\n").directory.join("Dockerfile");
        let file = file.to_str().expect("paths are UTF-8");
        rbuild.run(["build", "-o", &output, "-f", file, "--build-arg", keep, &url]).succeeded();
        assert!(Image::read(&archive).files().contains_key("/g/HEAD"), "the context has no .git");
        rbuild.run(["build", &url]).failed(1).says("there is no Dockerfile in").says("/context.git");
        rbuild.run(["build", &format!("{url}#nowhere")]).failed(1).says("does not contain ref nowhere");
    }

    fn a_commit_is_named_by_its_first_digits_wherever_in_the_history_it_is(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let server = WebServer::start(&[], None);
        let script = "for word in one two three; do echo $word > file; git add -A; git commit -qm $word; done";
        let repository = server.repository("a", script);
        let (inner, url) = (object(&repository, "main~1"), server.url("/a.git"));
        let add = format!("FROM scratch\nADD {url}#{} /\nADD --keep-git-dir {url}#{} /kept/\n", &inner[..8], &inner[..10]);
        let image = image(&rbuild, "short", &add, &[]);
        assert_eq!(image.content("/file"), "two\n");
        assert_eq!(image.content("/kept/.git/HEAD"), format!("{inner}\n"));
        let none = rbuild.context("none").file("Dockerfile", format!("FROM scratch\nADD {url}#0123456 /\n"));
        rbuild.build(&none, &[]).failed(1).says("does not contain ref 0123456");
    }

    fn the_time_of_a_context_or_of_a_stage_dates_the_build(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let last_modified = vec![("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned())];
        let tar = tar_of("Dockerfile", "FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL at=$SOURCE_DATE_EPOCH\n");
        let pages = [
            ("/dated.tar", Page { headers: last_modified, body: tar.clone(), ..Page::default() }),
            ("/undated.tar", Page { body: tar, ..Page::default() }),
        ];
        let server = WebServer::start(&pages, None);
        server.repository("a", "printf 'FROM scratch\\nCOPY . /\\n' > Dockerfile; git add -A; git commit -qm x");
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let epoch = |value: &str| format!("SOURCE_DATE_EPOCH={value}");
        let built = |arguments: &[&str]| {
            rbuild.run([&["build", "--no-cache", "-o", &output], arguments].concat()).succeeded();
            Image::read(&archive)
        };
        let git = server.url("/a.git");
        let of_git = built(&["--build-arg", &epoch("context"), &git]);
        assert_eq!(of_git.config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(of_git.files()["/Dockerfile"].modified, 1_700_000_000, "files have the commit's time");
        let of_tar = built(&["--build-arg", &epoch("context"), &server.url("/dated.tar")]);
        assert_eq!(of_tar.config["created"], "1994-11-06T08:49:37Z");
        assert_eq!(of_tar.config["config"]["Labels"]["at"], "784111777");
        let of_newest_file = built(&["--build-arg", &epoch("context"), &server.url("/undated.tar")]);
        assert_eq!(of_newest_file.config["created"], "1970-01-01T00:00:00Z");
        let stages = format!(
            "ARG PLACE={}\nFROM scratch AS dated\nADD $PLACE /\nFROM scratch AS commit\nADD {git} /\n\
             FROM scratch AS wrong\nADD {} /\nFROM scratch\nLABEL a=b\n",
            server.url("/dated.tar"),
            server.url("/missing"),
        );
        let context = rbuild.context("stages").file("Dockerfile", stages);
        let place = context.directory.to_str().expect("paths are UTF-8").to_owned();
        assert_eq!(built(&["--build-arg", &epoch("dated"), &place]).config["created"], "1994-11-06T08:49:37Z");
        assert_eq!(built(&["--build-arg", &epoch("commit"), &place]).config["created"], "2023-11-14T22:13:20Z");
        let named = format!("sources={git}");
        let of_named = built(&["--build-arg", &epoch("sources"), "--build-context", &named, &place]);
        assert_eq!(of_named.config["created"], "2023-11-14T22:13:20Z");
        // A directory has no time, so the build has none of its own either.
        assert_ne!(built(&["--build-arg", &epoch("context"), &place]).config["created"], "2023-11-14T22:13:20Z");
        let wrong = rbuild.run(["build", "--build-arg", &epoch("wrong"), &place]).failed(1);
        wrong.says("cannot look SOURCE_DATE_EPOCH up").says("404").says("ADD");
    }

    fn fetching_a_context_is_shown(rbuild) {
        if !has_program("git") {
            skip!("git is not installed");
        }
        let dockerfile = Page { body: b"FROM scratch\nLABEL a=b\n".to_vec(), ..Page::default() };
        let server = WebServer::start(&[("/Dockerfile", dockerfile)], None);
        server.repository("a", "echo FROM scratch > Dockerfile; git add -A; git commit -qm x");
        let (git, file) = (server.url("/a.git#main"), server.url("/Dockerfile"));
        rbuild.run(["build", "--progress=plain", &git]).succeeded().says(&format!("[internal] load git source {git}"));
        let run = rbuild.run(["build", "--progress=plain", &file]).succeeded();
        run.says(&format!("[internal] load remote build context {file}"));
        let missing = server.url("/missing");
        let run = rbuild.run(["build", "--progress=plain", &missing]).failed(1);
        run.says(&format!("[internal] load remote build context {missing}")).says("ERROR").says("404");
    }

    fn a_tar_or_a_dockerfile_behind_a_url_is_a_context(rbuild) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, content: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            builder.append_data(&mut header, path, content.as_bytes()).expect("write an archive");
        };
        add("Dockerfile", "FROM scratch\nCOPY file /\n");
        add("file", "packed");
        add("dir/Other", "FROM scratch\nCOPY --from=again file /again\n");
        let tar = builder.into_inner().expect("finish an archive");
        let gzip = zstd::encode_all(tar.as_slice(), 1).expect("compress");
        let page = |body: &[u8]| Page { body: body.to_vec(), ..Page::default() };
        let pages = [
            ("/plain.tar", page(&tar)),
            ("/packed", page(&gzip)),
            ("/Dockerfile", page(b"FROM scratch\nLABEL alone=yes\n")),
        ];
        let server = WebServer::start(&pages, None);
        let archive = rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        for path in ["/plain.tar", "/packed"] {
            rbuild.run(["build", "-o", &output, &server.url(path)]).succeeded();
            assert_eq!(Image::read(&archive).content("/file"), "packed", "{path}");
        }
        rbuild.run(["build", "-o", &output, &server.url("/Dockerfile")]).succeeded();
        assert_eq!(Image::read(&archive).config["config"]["Labels"]["alone"], "yes");
        let again = format!("again={}", server.url("/packed"));
        rbuild
            .run(["build", "-o", &output, "-f", "dir/Other", "--build-context", &again, &server.url("/plain.tar")])
            .succeeded();
        assert_eq!(Image::read(&archive).content("/again"), "packed");
        let alone = format!("again={}", server.url("/Dockerfile"));
        rbuild.run(["build", "--build-context", &alone, &server.url("/plain.tar")]).failed(1).says("is no archive");
        rbuild.run(["build", &server.url("/none")]).failed(1).says("404");
    }

    fn add_of_a_url_takes_name_time_and_mode_and_unpacks_only_when_told(rbuild) {
        let tar = tar_of("inside", "packed");
        let headers = vec![("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned())];
        let pages = [
            ("/dir/file.txt", Page { headers: headers.clone(), body: b"text".to_vec(), ..Page::default() }),
            ("/x.tar", Page { body: tar.clone(), ..Page::default() }),
            ("/", Page { body: b"root".to_vec(), ..Page::default() }),
        ];
        let server = WebServer::start(&pages, None);
        let (file, archive) = (server.url("/dir/file.txt?q=1"), server.url("/x.tar"));
        let text = "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
        let dockerfile = format!(
            "FROM scratch\nADD {file} /as/\nADD {file} /named\nADD --chmod=0644 --chown=3:4 {file} /flags\n\
             ADD --checksum={text} {file} /checked\nADD {archive} /whole\nADD --unpack=true {archive} /unpacked/\n\
             ADD --unpack=false {archive} /kept/\nADD {} /unnamed/\n",
            server.url("/")
        );
        let image = image(&rbuild, "urls", &dockerfile, &[]);
        let files = image.files();
        let file = &files["/as/file.txt"];
        assert_eq!((file.mode, file.uid, file.gid, file.modified), (0o600, 0, 0, 784_111_777));
        assert_eq!(image.content("/named"), "text");
        let file = &files["/flags"];
        assert_eq!((file.mode, file.uid, file.gid), (0o644, 3, 4));
        assert_eq!(image.content("/checked"), "text");
        assert_eq!(files["/whole"].kind, Kind::File(tar.clone()));
        assert_eq!(files["/whole"].modified, 0, "without Last-Modified the time is 1970");
        assert_eq!(image.content("/unpacked/inside"), "packed");
        assert!(!files.contains_key("/unpacked/x.tar"), "an unpacked archive was copied too");
        assert_eq!(files["/kept/x.tar"].kind, Kind::File(tar));
        assert_eq!(image.content("/unnamed/__unnamed__"), "root");
    }

    fn a_url_is_asked_again_with_its_tag_and_not_at_all_where_its_digest_is_given(rbuild) {
        let tagged = Page { headers: vec![("ETag", "\"one\"".to_owned())], body: b"text".to_vec(), ..Page::default() };
        let server = WebServer::start(&[("/tagged", tagged)], None);
        let url = server.url("/tagged");
        let context = rbuild.context("tags").file("Dockerfile", format!("FROM scratch\nADD {url} /\n"));
        rbuild.build(&context, &[]).succeeded();
        rbuild.build(&context, &[]).succeeded().all_cached();
        let text = "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
        let checked = rbuild.context("checked").file("Dockerfile", format!("FROM scratch\nADD --checksum={text} {url} /c\n"));
        let before = server.requests().len();
        rbuild.build(&checked, &[]).succeeded();
        assert_eq!(server.requests().len(), before, "what was here was asked for");
    }

    fn redirects_are_followed_but_secrets_stay_with_their_host(rbuild) {
        let redirect = |to: String| Page { status: 302, headers: vec![("Location", to)], ..Page::default() };
        let page = Page { body: b"there".to_vec(), ..Page::default() };
        let other = WebServer::start(&[("/file", page.clone())], None);
        let pages = [
            ("/away", redirect(other.url("/file"))),
            ("/near", redirect("/file".to_owned())),
            ("/loop", redirect("/loop".to_owned())),
            ("/ftp", redirect("ftp://127.0.0.1/file".to_owned())),
            ("/local", redirect("file:///etc/passwd".to_owned())),
            ("/file", page),
        ];
        let server = WebServer::start(&pages, Some("Bearer s3cr3t"));
        let keys = rbuild.context("keys").file("token", "s3cr3t\n");
        let secret = |host: &str| format!("id=HTTP_AUTH_TOKEN_{host},src={}", keys.directory.join("token").display());
        let dockerfile = format!("FROM scratch\nADD {} /a\nADD {} /n\n", server.url("/away"), server.url("/near"));
        let image = image(&rbuild, "redirects", &dockerfile, &["--secret", &secret(&server.host())]);
        assert_eq!(image.content("/a") + &image.content("/n"), "therethere");
        assert_eq!(other.requests(), ["GET /file -"], "the secret of one host went to another");
        for (path, words) in [("/loop", "redirects"), ("/ftp", "redirect"), ("/local", "redirect"), ("/none", "404"), ("/file", "401")] {
            let name = path.trim_start_matches('/');
            let context =
                rbuild.context(name).file("Dockerfile", format!("FROM scratch\n\nADD {} /\n", server.url(path)));
            let given = secret(if path == "/file" { "other" } else { "" }).replace("_,", &format!("_{},", server.host()));
            let run = rbuild.build(&context, &["--no-cache", "--secret", &given]).failed(1);
            run.says(words).does_not_say("s3cr3t");
        }
    }

    fn a_download_with_another_digest_is_refused(rbuild) {
        let server = WebServer::start(&[("/f", Page { body: b"text".to_vec(), ..Page::default() })], None);
        let wrong = format!("sha256:{}", "0".repeat(64));
        let dockerfile = format!("FROM scratch\n\nADD --checksum={wrong} {} /\n", server.url("/f"));
        let context = rbuild.context("wrong").file("Dockerfile", dockerfile);
        rbuild.build(&context, &[]).failed(1).says("Dockerfile:3").says("digest mismatch").says(&wrong);
    }
}

fn tar_of(path: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, path, content.as_bytes()).expect("write an archive");
    builder.into_inner().expect("finish an archive")
}
