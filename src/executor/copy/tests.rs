//! Cases of `testdata/copy/*.txt`: a source tree, a destination tree, one instruction, and the recipe that it comes to.
//! `UPDATE=1` rewrites the expectations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::tree::{Kind, Node, join, parent};

const NOW: Time = Time { seconds: 9, nanoseconds: 0 };

/// A tree of a case. One line per entry: `path[/] [mode] [uid:gid] [@mtime] [= content | -> target | == other | fifo |
/// socket | char | +user.name=value]`; directories above an entry are made 0755, with mtime 2.
#[derive(Default)]
struct Tree(BTreeMap<Vec<u8>, (Node, String)>);

impl Tree {
    fn new() -> Tree {
        let root = Node::directory(Time { seconds: 2, nanoseconds: 0 });
        Tree(BTreeMap::from([(Vec::new(), (root, String::new()))]))
    }

    fn add(&mut self, line: &str) {
        let (path, rest) = line.split_once(' ').unwrap_or((line, ""));
        let directory = path.ends_with('/');
        let path = clean(path.as_bytes());
        let kind = if directory { Kind::Directory } else { Kind::File { size: 0, digest: None } };
        let (mode, seconds) = if directory { (0o755, 2) } else { (0o644, 1) };
        let mut node = Node { kind, mode, ..Node::directory(Time { seconds, nanoseconds: 0 }) };
        let mut content = String::new();
        let mut words = rest.split_whitespace();
        while let Some(word) = words.next() {
            let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{line}"));
            match word {
                "=" => content = words.next().unwrap_or_default().to_owned(),
                "->" => node.kind = Kind::Symlink(words.next().unwrap().as_bytes().to_vec()),
                "fifo" => node.kind = Kind::Fifo,
                "socket" => node.kind = Kind::Socket,
                "char" => node.kind = Kind::CharDevice { major: 1, minor: 3 },
                "==" => {
                    let other = words.next().unwrap().as_bytes();
                    let group = other.len() as u64;
                    let (target, text) = self.0.get_mut(other).unwrap();
                    target.link_group = group;
                    (node, content) = (target.clone(), text.clone());
                }
                word if word.starts_with('@') => node.mtime.seconds = word[1..].parse().unwrap(),
                word if word.starts_with('+') => {
                    let (name, value) = word[1..].split_once('=').unwrap();
                    node.xattrs.insert(name.as_bytes().to_vec(), value.as_bytes().to_vec());
                }
                word => match word.split_once(':') {
                    Some((uid, gid)) => (node.uid, node.gid) = (number(uid), number(gid)),
                    None => node.mode = u32::from_str_radix(word, 8).unwrap(),
                },
            }
        }
        if let Kind::File { size, .. } = &mut node.kind {
            *size = content.len() as u64;
        }
        let mut above = parent(&path);
        while !self.0.contains_key(above) {
            let node = Node::directory(Time { seconds: 2, nanoseconds: 0 });
            self.0.insert(above.to_vec(), (node, String::new()));
            above = parent(above);
        }
        self.0.insert(path, (node, content));
    }
}

impl View for Tree {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        Ok(self.0.get(path).map(|(node, _)| node.clone()))
    }

    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let below = self.0.keys().filter(|other| !other.is_empty() && parent(other) == path);
        Ok(below.map(|other| crate::tree::base_name(other).to_vec()).collect())
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.0.get(path).ok_or(io::ErrorKind::NotFound)?.1.as_bytes()))
    }
}

/// One case as it is written.
#[derive(Default)]
struct Case {
    head: String,
    source: Option<Tree>,
    image: Option<Tree>,
    ignored: Vec<String>,
    workdir: String,
    command: String,
    expected: String,
}

impl Case {
    fn parse(text: &str) -> Case {
        let mut case = Case { workdir: "/".to_owned(), source: Some(Tree::new()), ..Case::default() };
        let mut section = "";
        for line in text.lines() {
            if section == "=>" {
                let _ = writeln!(case.expected, "{line}");
                continue;
            }
            let _ = writeln!(case.head, "{line}");
            match line.split_once(' ').unwrap_or((line, "")) {
                ("source:" | "image:" | "=>", _) => {
                    section = line;
                    if section == "image:" {
                        case.image = Some(Tree::new());
                    }
                }
                ("workdir", path) => case.workdir = path.to_owned(),
                ("ignored", path) => case.ignored.push(path.to_owned()),
                ("COPY", command) => case.command = command.to_owned(),
                ("", "") | ("#", _) => {}
                _ => {
                    let tree = if section == "image:" { &mut case.image } else { &mut case.source };
                    tree.as_mut().unwrap().add(line.trim());
                }
            }
        }
        case
    }

    fn run(&self) -> String {
        let source = self.source.as_ref().unwrap();
        let ignored = |path: &[u8]| self.ignored.iter().any(|ignored| ignored.as_bytes() == path);
        let mut request = CopyRequest {
            sources: Vec::new(),
            destination: String::new(),
            workdir: self.workdir.clone(),
            owner: None,
            chmod: None,
            exclude: Vec::new(),
            parents: false,
            link: false,
            ignored: Some(&ignored),
            mtime_now: NOW,
        };
        let mut words: Vec<&str> = self.command.split(' ').collect();
        request.destination = words.pop().unwrap().replace("\"\"", "");
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("--chown", owner) => {
                    let (uid, gid) = owner.split_once(':').unwrap();
                    request.owner = Some((uid.parse().unwrap(), gid.parse().unwrap()));
                }
                ("--chmod", mode) => request.chmod = Some(Chmod::parse(mode).unwrap()),
                ("--exclude", pattern) => request.exclude.push(pattern.to_owned()),
                ("--parents", _) => request.parents = true,
                ("--link", _) => request.link = true,
                _ => request.sources.push(a_source(source, word)),
            }
        }
        let image = self.image.as_ref().map(|image| image as &dyn View);
        let owner = request.owner.take();
        let by_source = plan_copy(&request, None);
        request.owner = owner;
        let placed = plan_copy(&request, image);
        let moved = by_source.as_ref().ok().and_then(|recipe| recipe.clone().onto(&request, image).ok());
        if let (Ok(by_source), Some(moved)) = (by_source, moved) {
            let placed = placed.as_ref().unwrap_or_else(|error| panic!("{}: {error}", self.head));
            let found = (&moved.recipe.entries, &moved.recipe.warnings);
            assert_eq!(found, (&placed.entries, &placed.warnings), "{}", self.head);
            if by_source.is_all_of_root() {
                assert_eq!(moved.taken_back(&BTreeSet::new()), by_source, "{}", self.head);
            }
        }
        match placed {
            Ok(recipe) => {
                assert_sound(&recipe, &self.head);
                rendered(&recipe, &request)
            }
            Err(error) => format!("error: {error}\n"),
        }
    }
}

fn a_source<'a>(view: &'a Tree, word: &str) -> CopySource<'a> {
    if let Some(name) = word.strip_prefix("<<") {
        return CopySource::Inline { name: name.to_owned(), content: Arc::from(&b"text\n"[..]), mode: 0o644 };
    }
    if let Some(name) = word.strip_prefix("https://example.com/") {
        let mtime = Time { seconds: 5, nanoseconds: 0 };
        let (file, digest) = (Path::new("/nowhere"), Digest::of(b"body"));
        return CopySource::Remote { name: name.to_owned(), file, size: 4, digest, mode: 0o600, mtime };
    }
    CopySource::View { view, pattern: word.replace("\"\"", "") }
}

/// What holds for every recipe: order, parents first, links to what comes before.
fn assert_sound(recipe: &Recipe, case: &str) {
    assert!(recipe.entries.is_sorted_by(|left, right| left.path < right.path), "{case}");
    for (at, entry) in recipe.entries.iter().enumerate() {
        assert_eq!(entry.node.link_group, 0, "{case}");
        let is_file = matches!(entry.node.kind, Kind::File { .. });
        assert_eq!(is_file, entry.content != Content::None, "{case}");
        if let Content::HardLink(target) = &entry.content {
            let before = recipe.entries[..at].iter().find(|entry| entry.path == *target);
            let before = before.unwrap_or_else(|| panic!("{case}: a link to nothing before it"));
            assert!(matches!(before.content, Content::View { .. }), "{case}");
        }
        for above in recipe.entries.iter().filter(|above| entry.path.starts_with(&join(&above.path, b""))) {
            assert!(above.node.is_directory() || above.path.is_empty(), "{case}");
        }
    }
}

fn rendered(recipe: &Recipe, request: &CopyRequest) -> String {
    let mut out = String::new();
    for RecipeEntry { path, node, content, .. } in &recipe.entries {
        let slash = if node.is_directory() { "/" } else { "" };
        let _ = write!(out, "{}{slash} {:o}", shown(path), node.mode);
        if (node.uid, node.gid) != (0, 0) {
            let _ = write!(out, " {}:{}", node.uid, node.gid);
        }
        let _ = write!(out, " @{}", node.mtime.seconds);
        for (name, value) in &node.xattrs {
            let _ = write!(out, " +{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        }
        let text = match (content, &node.kind) {
            (Content::HardLink(target), _) => format!(" == {}", shown(target)),
            (Content::Inline(content), _) => format!(" = inline {:?}", String::from_utf8_lossy(content)),
            (Content::View { source, path }, _) => match &request.sources[*source] {
                CopySource::View { .. } => {
                    let mut text = String::new();
                    request.sources[*source].open(path).unwrap().read_to_string(&mut text).unwrap();
                    format!(" = {text}")
                }
                _ => " = remote".to_owned(),
            },
            (Content::None, Kind::Symlink(target)) => format!(" -> {}", String::from_utf8_lossy(target)),
            (Content::None, Kind::Fifo) => " fifo".to_owned(),
            (Content::None, Kind::CharDevice { major, minor }) => format!(" char {major}:{minor}"),
            (Content::None, _) => String::new(),
        };
        let _ = writeln!(out, "{text}");
    }
    for warning in &recipe.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    if out.is_empty() { "nothing\n".to_owned() } else { out }
}

/// Runs the cases of one file; returns how many there were.
fn check(file: &Path) -> usize {
    let text = fs::read_to_string(file).unwrap();
    let mut parts = text.split("\n== ");
    let mut updated = parts.next().unwrap().to_owned();
    let mut failures = String::new();
    let mut count = 0;
    for part in parts {
        let (name, body) = part.split_once('\n').unwrap();
        let case = Case::parse(body);
        let found = case.run();
        if found.trim_end() != case.expected.trim_end() {
            let _ = writeln!(failures, "{name}: expected\n{}found\n{found}", case.expected);
        }
        let _ = write!(
            updated,
            "\n== {name}\n{}{}{found}",
            case.head,
            if case.head.ends_with("=>\n") { "" } else { "=>\n" }
        );
        count += 1;
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, updated).unwrap();
    } else {
        assert!(failures.is_empty(), "{}\n{failures}", file.display());
    }
    count
}

#[test]
fn the_corpus_of_copies_holds() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/copy");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let count: usize = files.map(|file| check(&file)).sum();
    assert!(count >= 80, "only {count} cases were read");
}

fn request<'a>(view: &'a Tree, destination: &str) -> CopyRequest<'a> {
    CopyRequest {
        sources: vec![CopySource::View { view, pattern: ".".to_owned() }],
        destination: destination.to_owned(),
        workdir: "/".to_owned(),
        owner: None,
        chmod: None,
        exclude: Vec::new(),
        parents: false,
        link: false,
        ignored: None,
        mtime_now: NOW,
    }
}

fn key(lines: &[&str], destination: &str) -> Digest {
    let mut tree = Tree::new();
    lines.iter().for_each(|line| tree.add(line));
    let mut recipe = plan_copy(&request(&tree, destination), None).unwrap();
    recipe
        .fill_digests(|source, files| {
            assert_eq!(source, 0);
            for (path, node) in files {
                let Kind::File { digest, .. } = &mut node.kind else { panic!("only files have digests") };
                *digest = Some(Digest::of(tree.0[*path].1.as_bytes()));
            }
            Ok(())
        })
        .unwrap();
    recipe.content_key().unwrap()
}

#[test]
fn the_key_of_a_copy_knows_everything_but_times() {
    let base = key(&["a = x", "d/b = y"], "/t/");
    assert_eq!(base, key(&["a @77 = x", "d/ @5", "d/b = y"], "/t/"), "a time is not in the key");
    let others = [
        key(&["a = z", "d/b = y"], "/t/"),
        key(&["a = x", "d/c = y"], "/t/"),
        key(&["a 0755 = x", "d/b = y"], "/t/"),
        key(&["a 1:0 = x", "d/b = y"], "/t/"),
        key(&["a 0:1 = x", "d/b = y"], "/t/"),
        key(&["a -> x", "d/b = y"], "/t/"),
        key(&["a fifo", "d/b = y"], "/t/"),
        key(&["a char", "d/b = y"], "/t/"),
        key(&["a +user.k=v = x", "d/b = y"], "/t/"),
        key(&["a +user.kv= = x", "d/b = y"], "/t/"),
        key(&["a = x", "d/ 0700", "d/b = y"], "/t/"),
        key(&["a = x", "d/b = x"], "/t/"),
        key(&["a = x", "d/b == a"], "/t/"),
        key(&["a = x", "d/b = y"], "/u/"),
        key(&["a = x", "d/"], "/t/"),
        key(&["a = x"], "/t/"),
        base,
    ];
    let different: std::collections::BTreeSet<&Digest> = others.iter().collect();
    assert_eq!(different.len(), others.len());
}

#[test]
fn a_key_without_its_digests_is_an_error() {
    let mut tree = Tree::new();
    tree.add("a = x");
    let recipe = plan_copy(&request(&tree, "/"), None).unwrap();
    assert!(matches!(recipe.content_key(), Err(CopyError::DigestMissing { path }) if path == "/a"));
}

#[test]
fn archives_land_below_their_directory_and_nowhere_else() {
    let rebased = |path: &str| rebase(path.as_bytes(), b"opt/app").map(|path| String::from_utf8(path).unwrap());
    assert_eq!(rebased("./a/b").as_deref(), Some("opt/app/a/b"));
    assert_eq!(rebased("/etc/passwd").as_deref(), Some("opt/app/etc/passwd"));
    assert_eq!(rebased("../../etc/passwd").as_deref(), Some("opt/app/etc/passwd"));
    assert_eq!(rebased("."), None);
    assert_eq!(rebased("./"), None);
    assert_eq!(rebase(b"a", b""), Some(b"a".to_vec()));
    let mut image = Tree::new();
    image.add("opt -> /usr/opt");
    let tree = Tree::new();
    let mut request = request(&tree, "/opt/app");
    request.owner = Some((3, 4));
    let (path, entries) = plan_directory(&request, Some(&image)).unwrap();
    assert_eq!(path, b"usr/opt/app");
    let entries: Vec<String> =
        entries.iter().map(|entry| format!("{} {}", shown(&entry.path), entry.node.uid)).collect();
    assert_eq!(entries, ["/usr 3", "/usr/opt 3", "/usr/opt/app 3"]);
}
