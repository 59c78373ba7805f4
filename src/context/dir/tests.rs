use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;

use super::*;
use crate::tree::{Last, Time, resolve};

fn write(root: &TempDir, path: &str, content: &str) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn tree(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    files.iter().for_each(|path| write(&root, path, path));
    root
}

fn open(root: &TempDir, rules: &str) -> DirContext {
    DirContext::open(root.path(), IgnoreRules::parse(rules.as_bytes()).unwrap(), None).unwrap()
}

fn paths(context: &DirContext, path: &str) -> String {
    let found = context.walk(path.as_bytes()).unwrap();
    let found: Vec<String> = found.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
    found.join(" ")
}

fn fill(context: &DirContext, files: &mut [(Vec<u8>, Node)]) {
    let mut files: Vec<_> = files.iter_mut().map(|(path, node)| (path.as_slice(), node)).collect();
    context.digests(&mut files).unwrap();
}

fn text(context: &DirContext, path: &str) -> io::Result<String> {
    let mut text = String::new();
    View::open(context, path.as_bytes())?.read_to_string(&mut text)?;
    Ok(text)
}

/// Makes a file look as if it had been changed a minute ago; its ctime is the present all the same.
fn age(path: &Path) {
    let file = fs::File::open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

#[test]
fn a_walk_sees_what_walkdir_sees() {
    let root = tempfile::tempdir().unwrap();
    for outer in 0..7 {
        for inner in 0..outer {
            for file in 0..5 {
                write(&root, &format!("d{outer}/e-{inner}/f{file}.txt"), &"x".repeat(file));
            }
        }
    }
    fs::create_dir(root.path().join("d1-")).unwrap();
    fs::create_dir(root.path().join("d1.x")).unwrap();
    symlink("d1", root.path().join("link")).unwrap();
    symlink("/nowhere", root.path().join("d3/dangling")).unwrap();
    fs::set_permissions(root.path().join("d4"), fs::Permissions::from_mode(0o2751)).unwrap();
    fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"not\xffutf8\n")), "x").unwrap();
    mkfifoat(CWD, root.path().join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = UnixListener::bind(root.path().join("socket")).unwrap();

    let expected: BTreeMap<Vec<u8>, (u32, i64, i64, bool)> = walkdir::WalkDir::new(root.path())
        .min_depth(1)
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            let path = entry.path().strip_prefix(root.path()).unwrap().as_os_str().as_bytes().to_vec();
            (path, (found.mode() & 0o7777, found.mtime(), found.mtime_nsec(), found.is_dir()))
        })
        .collect();
    let found = open(&root, "").walk(b"").unwrap();
    assert!(found.is_sorted_by(|left, right| left.0 < right.0));
    let found: BTreeMap<Vec<u8>, (u32, i64, i64, bool)> = found
        .into_iter()
        .map(|(path, node)| {
            let Time { seconds, nanoseconds } = node.mtime;
            assert_eq!((node.uid, node.gid), (0, 0));
            (path, (node.mode, seconds, nanoseconds.into(), node.is_directory()))
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_walk_agrees_with_single_look_ups() {
    let root = tree(&["a/b/c", "a/d", "e", "build/x", "build/keep/y", "build/z/w"]);
    symlink("a", root.path().join("link")).unwrap();
    fs::hard_link(root.path().join("e"), root.path().join("a/hard")).unwrap();
    let context = open(&root, "build\n!build/keep\na/d");
    for (path, node) in context.walk(b"").unwrap() {
        assert_eq!(context.node(&path).unwrap(), Some(node), "{}", String::from_utf8_lossy(&path));
    }
    let mut slow = Vec::new();
    let mut todo = vec![Vec::new()];
    while let Some(directory) = todo.pop() {
        for name in context.names(&directory).unwrap() {
            let path = join(&directory, &name);
            let node = context.node(&path).unwrap().unwrap();
            if node.is_directory() {
                todo.push(path.clone());
            }
            slow.push((path, node));
        }
    }
    slow.sort_by(|left, right| left.0.cmp(&right.0));
    assert_eq!(slow, context.walk(b"").unwrap());
}

#[test]
fn ignored_paths_are_absent_but_for_the_directories_above_exceptions() {
    let root = tree(&["build/keep/a", "build/drop/b", "build/c", "src/d", "other/deep/e", "hollow/f"]);
    let context = open(&root, "build\n!build/keep\nother\n!other/*/x\nhollow\n!hollow/g");
    assert_eq!(paths(&context, ""), "build build/keep build/keep/a src src/d");
    assert_eq!(paths(&context, "build"), "build/keep build/keep/a");
    assert_eq!(paths(&context, "other"), "");
    let is_there = |path: &str| context.node(path.as_bytes()).unwrap().is_some();
    for (path, expected) in [
        ("build", true),
        ("build/keep", true),
        ("build/keep/a", true),
        ("build/drop", false),
        ("build/drop/b", false),
        ("build/c", false),
        ("other", false),
        ("other/deep", false),
        ("hollow", false),
        ("src/d", true),
        ("nothing", false),
        ("src/d/e", false),
        ("", true),
    ] {
        assert_eq!(is_there(path), expected, "{path}");
    }
    assert_eq!(text(&context, "build/c").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(context.is_ignored(b"build/c") && context.is_ignored(b"build/no/such") && !context.is_ignored(b"src"));
    assert_eq!(context.names(b"").unwrap(), [&b"build"[..], b"src"]);
}

#[test]
fn a_walk_goes_only_where_it_is_let() {
    let root = tree(&["a/b/c", "a/x/y", "a/z"]);
    let context = open(&root, "");
    let entered = AtomicUsize::new(0);
    let enter = |path: &[u8]| {
        entered.fetch_add(1, Ordering::Relaxed);
        path != b"a/b"
    };
    let found = context.descendants(b"a", &enter).unwrap();
    let found: Vec<Vec<u8>> = found.map(|(path, _)| path).collect();
    assert_eq!(found, [&b"a/b"[..], b"a/x", b"a/x/y", b"a/z"]);
    assert_eq!(entered.load(Ordering::Relaxed), 2);
    assert!(context.descendants(b"a/z", &|_| true).unwrap().next().is_none(), "a file has nothing below it");
    assert!(context.descendants(b"nothing", &|_| true).unwrap().next().is_none());
}

#[test]
fn links_out_of_the_context_lead_nowhere() {
    let secret = tree(&["passwd"]);
    let root = tree(&["sub/a"]);
    let outside = secret.path().join("passwd");
    symlink(&outside, root.path().join("absolute")).unwrap();
    symlink(secret.path(), root.path().join("dir")).unwrap();
    symlink("../../../../../../../../etc/group", root.path().join("sub/relative")).unwrap();
    let context = open(&root, "");
    assert_eq!(paths(&context, ""), "absolute dir sub sub/a sub/relative", "links are entries, not ways");
    for path in ["absolute", "sub/relative", "dir/passwd", "../passwd", "sub/../../passwd"] {
        assert!(View::open(&context, path.as_bytes()).is_err(), "{path} was opened");
    }
    assert_eq!(context.node(b"dir/passwd").unwrap(), None);
    assert_eq!(context.names(b"dir").unwrap(), Vec::<Vec<u8>>::new());
    for path in ["absolute", "sub/relative", "dir/passwd"] {
        let found = resolve(&context, path.as_bytes(), Last::Follow).unwrap();
        assert_eq!(found.node, None, "{path} leads to {:?}", found.path);
    }
}

#[test]
fn nothing_that_is_not_a_file_makes_a_reader_wait() {
    let root = tree(&[]);
    mkfifoat(CWD, root.path().join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = UnixListener::bind(root.path().join("socket")).unwrap();
    let context = open(&root, "");
    assert_eq!(context.node(b"pipe").unwrap().unwrap().kind, Kind::Fifo);
    assert_eq!(context.node(b"socket").unwrap().unwrap().kind, Kind::Socket);
    let node = context.node(b"pipe").unwrap().unwrap();
    assert!(context.digest(b"pipe", &node).unwrap_err().to_string().contains("not a regular file"));
    assert!(text(&context, "pipe").is_err());
    assert!(text(&context, "socket").is_err());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("grows", |path| drop(fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more"))),
        ("shrinks", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1).unwrap()),
        ("changes", |path| fs::write(path, "Large".repeat(1000)).unwrap()),
        ("changes mode", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap()),
    ];
    for (name, change) in changes {
        let root = tree(&[]);
        write(&root, "file", &"large".repeat(1000));
        age(&root.path().join("file"));
        let context = open(&root, "");
        let mut reader = View::open(&context, b"file").unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        // The clock of the file system ticks every few milliseconds; within a tick a change cannot be seen.
        std::thread::sleep(Duration::from_millis(20));
        change(&root.path().join("file"));
        let error = reader.read_to_end(&mut Vec::new()).map(|_| name).unwrap_err();
        assert!(error.to_string().contains("\"/file\" of the context: the file changed while"), "{name}: {error}");
    }
    // Replacing a file leaves a reader its old content, whole.
    let root = tree(&["file", "new"]);
    let context = open(&root, "");
    let mut reader = View::open(&context, b"file").unwrap();
    fs::rename(root.path().join("new"), root.path().join("file")).unwrap();
    let mut content = String::new();
    let outcome = reader.read_to_string(&mut content);
    assert!(outcome.is_err() || content == "file", "{content}");
}

#[test]
fn hard_links_share_a_group_and_other_files_have_none() {
    let root = tree(&["a", "b/c", "d"]);
    fs::hard_link(root.path().join("a"), root.path().join("b/link")).unwrap();
    fs::hard_link(root.path().join("d"), root.path().join("b/d")).unwrap();
    let context = open(&root, "");
    let group = |path: &[u8]| context.node(path).unwrap().unwrap().link_group;
    assert_eq!(group(b"a"), group(b"b/link"));
    assert_eq!(group(b"d"), group(b"b/d"));
    assert_ne!(group(b"a"), group(b"d"));
    assert_eq!((group(b"b/c"), group(b"b")), (0, 0));
    assert_ne!(group(b"a"), 0);
}

#[test]
fn user_attributes_are_kept_and_others_are_not() {
    let root = tree(&["a"]);
    let path = root.path().join("a");
    let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty());
    if set("user.colour", b"red\0blue").is_err() {
        eprintln!("SKIPPED: the file system of the temporary directory has no extended attributes");
        return;
    }
    set("user.empty", b"").unwrap();
    // Only root may set it, and only outside of a user namespace.
    let trusted = set("trusted.secret", b"x").is_ok();
    let node = open(&root, "").node(b"a").unwrap().unwrap();
    let expected: BTreeMap<Vec<u8>, Vec<u8>> = [("user.colour", &b"red\0blue"[..]), ("user.empty", b"")]
        .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
        .into();
    assert_eq!(node.xattrs, expected, "trusted attribute set: {trusted}");
}

#[test]
fn an_attribute_set_after_a_build_is_seen_by_the_next() {
    let root = tree(&["a"]);
    let path = root.path().join("a");
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("stat");
    std::thread::sleep(Duration::from_millis(2100));
    let open = || DirContext::open(root.path(), IgnoreRules::default(), Some(&cache)).unwrap();
    let context = open();
    fill(&context, &mut context.walk(b"").unwrap());
    context.save().unwrap();
    let context = open();
    let identity = context.content(b"a").unwrap().opened;
    assert!(context.reader.cache.find(&identity).unwrap().plain);
    if rustix::fs::setxattr(&path, "user.new", b"1", rustix::fs::XattrFlags::empty()).is_err() {
        eprintln!("SKIPPED: the file system of the temporary directory has no extended attributes");
        return;
    }
    assert_eq!(open().walk(b"").unwrap()[0].1.xattrs.len(), 1);
}

#[test]
fn depth_has_no_limit() {
    let root = tempfile::tempdir().unwrap();
    // Long enough that the path of the file cannot be given to the kernel at once.
    let (depth, name) = (300, "a-directory-of-some-length");
    let mut at = rustix::fs::open(root.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    let context = open(&root, "");
    let found = context.walk(b"").unwrap();
    assert_eq!(found.len(), depth + 1);
    let (path, node) = &found[depth];
    assert_eq!(path.len(), depth * (name.len() + 1) + 4);
    assert_eq!(context.digest(path, node).unwrap(), Digest::of(b"deep"));
    assert_eq!(context.node(path).unwrap().as_ref(), Some(node));
}

#[test]
fn digests_come_from_the_cache_only_while_a_file_is_the_same() {
    let root = tree(&["a", "b"]);
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("stat");
    let open = || DirContext::open(root.path(), IgnoreRules::default(), Some(&cache)).unwrap();
    let files = |context: &DirContext| {
        let mut files = context.walk(b"").unwrap();
        fill(context, &mut files);
        let digest = |node: &Node| match node.kind {
            Kind::File { digest, .. } => digest,
            _ => None,
        };
        files.iter().map(|(_, node)| digest(node).unwrap()).collect::<Vec<_>>()
    };
    let context = open();
    assert_eq!(files(&context), [Digest::of(b"a"), Digest::of(b"b")]);
    context.save().unwrap();
    assert!(!cache.exists(), "files changed this instant are not remembered, so there is nothing to save");

    std::thread::sleep(Duration::from_millis(2100));
    let context = open();
    files(&context);
    context.save().unwrap();
    let known = context.content(b"a").unwrap().opened;
    let found = open().reader.cache.find(&known).unwrap();
    assert_eq!(found, Known { digest: Digest::of(b"a"), plain: true });

    // Same size, same mtime: the ctime tells.
    let mtime = fs::metadata(root.path().join("a")).unwrap().modified().unwrap();
    write(&root, "a", "A");
    fs::File::options().write(true).open(root.path().join("a")).unwrap().set_modified(mtime).unwrap();
    assert_eq!(files(&open()), [Digest::of(b"A"), Digest::of(b"b")]);

    fs::write(&cache, "damaged").unwrap();
    assert_eq!(files(&open()), [Digest::of(b"A"), Digest::of(b"b")]);
}

#[test]
fn what_is_read_once_is_remembered_in_the_state_in_which_it_was_read() {
    let root = tree(&["a", "b", "cut", "unread", "later"]);
    std::thread::sleep(Duration::from_millis(2100));
    write(&root, "young", "young");
    let context = open(&root, "hidden");
    let state = |path: &str| context.content(path.as_bytes()).unwrap().opened;
    let states = ["a", "b", "cut", "unread", "young", "later"].map(|path| (path, state(path)));
    let once = ReadOnce::new(&context, 0);
    for path in ["a", "b", "young", "later"] {
        let mut text = String::new();
        View::open(&once, path.as_bytes()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, path);
    }
    View::open(&once, b"cut").unwrap().read_exact(&mut [0]).unwrap();
    write(&root, "later", "other");
    assert!(View::open(&once, b"missing").is_err());
    let digests = states.map(|(path, _)| (path.as_bytes(), Digest::of(path.as_bytes())));
    once.learn(digests.into_iter());
    let known = states.map(|(path, state)| (path, context.reader.cache.find(&state).is_some()));
    let expected = [("a", true), ("b", true), ("cut", false), ("unread", false), ("young", false), ("later", true)];
    assert_eq!(known, expected);
    assert_eq!(context.reader.cache.find(&state("later")), None, "the state that nobody read");
}

#[test]
fn a_file_whose_state_is_not_certain_is_not_remembered() {
    let root = tree(&["a"]);
    std::thread::sleep(Duration::from_millis(2100));
    let context = open(&root, "");
    let state = context.content(b"a").unwrap().opened;
    let other = Identity { inode: state.inode + 1, ..state };
    let some = Some(state);
    for (seen, is_known) in [
        (vec![some, Some(other)], false),
        (vec![some, None], false),
        (vec![None, some], false),
        (vec![None], false),
        (vec![some, some], true),
    ] {
        let once = ReadOnce::new(&context, 0);
        seen.iter().for_each(|state| once.saw(b"a", *state));
        once.learn([(b"a".as_slice(), Digest::of(b"a"))].into_iter());
        assert_eq!(context.reader.cache.find(&state).is_some(), is_known, "{seen:?}");
    }
}

#[test]
fn a_digest_that_is_cached_is_not_read_again() {
    let root = tree(&["a"]);
    let context = open(&root, "");
    let mut files = context.walk(b"").unwrap();
    let state = context.content(b"a").unwrap().opened;
    let later = Time { seconds: state.ctime.seconds + 10, nanoseconds: 0 };
    let known = Known { digest: Digest::of(b"from the cache"), plain: true };
    context.reader.cache.record(state, known, later);
    fill(&context, &mut files);
    let Kind::File { digest, .. } = files[0].1.kind else { panic!("a is a file") };
    assert_eq!(digest, Some(Digest::of(b"from the cache")));
}

#[test]
fn directories_that_cannot_be_read_matter_only_where_they_are_wanted() {
    let root = tree(&["closed/a", "open/b"]);
    let closed = root.path().join("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&closed).is_ok() {
        // Root reads everything; the walk must still see it.
        assert_eq!(paths(&open(&root, ""), ""), "closed closed/a open open/b");
    } else {
        let error = open(&root, "").walk(b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("/closed"), "{error}");
    }
    assert_eq!(paths(&open(&root, "closed"), ""), "open open/b");
    assert_eq!(paths(&open(&root, "closed\n!closed/none"), ""), "open open/b");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}
