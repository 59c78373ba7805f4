use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use super::*;
use crate::context::dir::DirContext;
use crate::context::ignore::IgnoreRules;
use crate::tree::{Node, Time};

/// An image of a few entries.
struct Image(BTreeMap<Vec<u8>, (Kind, Vec<u8>)>);

impl Image {
    fn new(entries: &[(&str, Kind, &[u8])]) -> Image {
        let mut image = BTreeMap::from([(Vec::new(), (Kind::Directory, Vec::new()))]);
        image.insert(b"etc".to_vec(), (Kind::Directory, Vec::new()));
        for (path, kind, content) in entries {
            image.insert(path.as_bytes().to_vec(), (kind.clone(), content.to_vec()));
        }
        Image(image)
    }

    fn with(passwd: &[u8], group: &[u8]) -> Image {
        Image::new(&[("etc/passwd", file(passwd.len()), passwd), ("etc/group", file(group.len()), group)])
    }
}

fn file(size: usize) -> Kind {
    Kind::File { size: size as u64, digest: None }
}

impl View for Image {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let node = |kind: &Kind| Node { kind: kind.clone(), ..Node::directory(Time::default()) };
        Ok(self.0.get(path).map(|(kind, _)| node(kind)))
    }

    fn names(&self, _path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        match self.0.get(path) {
            // What a FIFO would do to a reader.
            Some((Kind::Fifo, _)) => panic!("a FIFO was opened"),
            Some((_, content)) => Ok(Box::new(&content[..])),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

const PASSWD_TEXT: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1::/usr/sbin:/usr/sbin/nologin\r\n\
    \n\
    app:x:1000:1001:App,,,:/home/app:/bin/sh\n\
    nohome:x:1002:1002:::\n\
    wraps:x:4294967296:0:::\n\
    bad:x:zero:0:::\n\
    minus:x:-1:-1:::\n\
    short:x\n\
    app:x:2000:2000::/second:/bin/sh\n\
    1500:x:42:42::/number:/bin/sh";
const GROUP_TEXT: &[u8] = b"root:x:0:\nstaff:x:50:app,daemon\napp:x:1001:app\naudio:x:29:app\nvideo:x:44:xapp,appx\n\
    wheel:x:10:app,other\nbad:x:no:app\ntwice:x:10:app";

fn outcome(image: &Image, spec: &str) -> String {
    match lookup_user(image, spec) {
        Ok(User { uid, gid, groups, home }) => format!("{uid}:{gid} {groups:?} {home}"),
        Err(error) => error.to_string(),
    }
}

fn owner(image: &Image, spec: &str) -> String {
    lookup_owner(image, spec).map_or_else(|error| error.to_string(), |(uid, gid)| format!("{uid}:{gid}"))
}

#[test]
fn users_are_found_by_name_and_number() {
    let image = Image::with(PASSWD_TEXT, GROUP_TEXT);
    for (spec, expected) in [
        ("", "0:0 [] /root"),
        ("root", "0:0 [] /root"),
        ("0", "0:0 [] /root"),
        ("app", "1000:1001 [10, 29, 50] /home/app"),
        ("1000", "1000:1001 [10, 29, 50] /home/app"),
        ("daemon", "1:1 [50] /usr/sbin"),
        ("nohome", "1002:1002 [] /"),
        ("7777", "7777:0 [] /"),
        ("app:staff", "1000:50 [] /home/app"),
        ("app:99", "1000:99 [] /home/app"),
        ("1000:staff", "1000:50 [] /home/app"),
        ("7777:8888", "7777:8888 [] /"),
        ("4294967294:4294967294", "4294967294:4294967294 [] /"),
        ("0001000", "1000:1001 [10, 29, 50] /home/app"),
    ] {
        assert_eq!(outcome(&image, spec), expected, "{spec}");
    }
}

#[test]
fn owners_are_found_by_name_and_number() {
    let image = Image::with(PASSWD_TEXT, GROUP_TEXT);
    for (spec, expected) in [
        ("app", "1000:1001"),
        ("app:staff", "1000:50"),
        ("55", "55:55"),
        ("1000", "1000:1000"),
        ("55:66", "55:66"),
        ("55:staff", "55:50"),
        ("app:7", "1000:7"),
        ("root:root", "0:0"),
    ] {
        assert_eq!(owner(&image, spec), expected, "{spec}");
    }
}

#[test]
fn unknown_names_are_errors_and_never_root() {
    let image = Image::with(PASSWD_TEXT, GROUP_TEXT);
    let unknown = "it is not in the image's /etc/passwd";
    assert_eq!(outcome(&image, "ap"), format!("unknown user \"ap\": {unknown} (did you mean \"app\"?)"));
    assert_eq!(outcome(&image, "nobody-at-all"), format!("unknown user \"nobody-at-all\": {unknown}"));
    assert_eq!(owner(&image, "deamon"), format!("unknown user \"deamon\": {unknown} (did you mean \"daemon\"?)"));
    let unknown = "it is not in the image's /etc/group";
    assert_eq!(owner(&image, "app:staf"), format!("unknown group \"staf\": {unknown} (did you mean \"staff\"?)"));
    assert_eq!(outcome(&image, "app:wheels"), format!("unknown group \"wheels\": {unknown} (did you mean \"wheel\"?)"));
    for name in ["wraps", "bad", "minus", "short"] {
        assert!(outcome(&image, name).starts_with("unknown user"), "a line with a bad number is no user: {name}");
        assert!(owner(&image, name).starts_with("unknown user"), "{name}");
    }
}

#[test]
fn numbers_out_of_range_and_other_forms_are_refused() {
    let image = Image::with(PASSWD_TEXT, GROUP_TEXT);
    for spec in
        ["4294967295", "4294967296", "99999999999999999999", "-1", "+1", "0:4294967296", "0:-1", "app:4294967295"]
    {
        for found in [outcome(&image, spec), owner(&image, spec)] {
            assert!(found.contains("from 0 to 4294967294"), "{spec}: {found}");
        }
    }
    for spec in ["1000:", ":", "a:b:c", "1:2:3", "app\n", "a\0b"] {
        for found in [outcome(&image, spec), owner(&image, spec)] {
            assert!(found.starts_with("invalid user"), "{spec:?}: {found}");
        }
    }
    // A group alone says nothing of who runs, but enough of who owns.
    assert!(outcome(&image, ":1000").starts_with("invalid user"));
    assert_eq!(owner(&image, ":1000"), "0:1000");
    assert!(owner(&image, "").starts_with("invalid user"));
}

#[test]
fn an_image_without_the_files_has_root_and_numbers() {
    let image = Image::new(&[]);
    assert_eq!(outcome(&image, "root"), "0:0 [] /root");
    assert_eq!(outcome(&image, "5"), "5:0 [] /");
    assert_eq!(owner(&image, "root:root"), "0:0");
    assert!(outcome(&image, "app").starts_with("unknown user"));
    let image = Image::new(&[("etc", file(0), b"")]);
    assert!(owner(&image, "app").starts_with("unknown user"), "/etc is a file");
}

#[test]
fn the_files_may_be_links_inside_the_image() {
    let target = Kind::Symlink(b"../../../usr/share/passwd".to_vec());
    let text = b"app:x:7:8::/:\n";
    let image = Image::new(&[
        ("etc/passwd", target, b""),
        ("usr", Kind::Directory, b""),
        ("usr/share", Kind::Directory, b""),
        ("usr/share/passwd", file(text.len()), text),
    ]);
    assert_eq!(owner(&image, "app"), "7:8");
}

#[test]
fn a_link_out_of_a_real_root_reads_nothing_of_the_host() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "intruder:x:0:0::/:\n").unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("etc/passwd")).unwrap();
    let view = DirContext::open(root.path(), IgnoreRules::default(), None).unwrap();
    assert!(matches!(lookup_owner(&view, "intruder"), Err(UserError::UnknownUser { .. })));
}

#[test]
fn files_that_are_no_files_or_too_large_are_refused_at_once() {
    let start = Instant::now();
    for (kind, words) in [
        (Kind::Fifo, "not a regular file"),
        (Kind::CharDevice { major: 1, minor: 5 }, "not a regular file"),
        (Kind::Directory, "not a regular file"),
        (Kind::File { size: 10 << 30, digest: None }, "larger than 10 MiB"),
        (Kind::Symlink(b"passwd".to_vec()), "symbolic links"),
    ] {
        let image = Image::new(&[("etc/passwd", kind.clone(), b"app:x:1:1::/:")]);
        let found = outcome(&image, "app");
        assert!(found.starts_with("look up \"app\" in the image's /etc/passwd") && found.contains(words), "{found}");
        assert_eq!(outcome(&image, "5:6"), "5:6 [] /", "numbers need no file: {kind:?}");
    }
    // A size that is not the truth, as a file on a special file system may have.
    let endless = vec![b'x'; (MAX_FILE as usize) + 10];
    let image = Image::new(&[("etc/passwd", file(0), &endless)]);
    assert!(outcome(&image, "app").contains("larger than 10 MiB"));
    assert!(start.elapsed().as_secs() < 60);
}

#[test]
fn long_lines_and_many_lines_cost_no_more_than_their_length() {
    let start = Instant::now();
    let long = [vec![b'a'; 9 << 20], b":x:1:1::/:\napp:x:2:2::/:\n".to_vec()].concat();
    let image = Image::with(&long, b"");
    assert_eq!(owner(&image, "app"), "2:2");
    assert!(owner(&image, &"a".repeat(1 << 20)).starts_with("unknown user"));
    let many: Vec<u8> = (0..200_000).flat_map(|id| format!("user{id}:x:{id}:{id}::/:\n").into_bytes()).collect();
    let image = Image::with(&many, b"");
    assert_eq!(owner(&image, "user199999"), "199999:199999");
    assert!(owner(&image, "usr").starts_with("unknown user"));
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
