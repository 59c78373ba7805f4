//! What is said of two states of the files of a copy.

use super::*;
use crate::plan::{CopyFrom, Link};
use crate::tree::Time;

fn operation(sources: &[Source], destination: &str) -> CopyOp {
    CopyOp {
        instruction: CopyInstruction::Copy,
        from: CopyFrom::Context,
        sources: sources.to_vec(),
        destination: destination.to_owned(),
        workdir: "/".to_owned(),
        chown: None,
        chmod: None,
        link: Link::Follow,
        parents: Parents::Drop,
        exclude: Vec::new(),
        checksum: None,
        keep_git_dir: None,
        unpack: None,
    }
}

fn path(text: &str) -> Source {
    Source::Path(text.to_owned())
}

fn node(kind: Kind, mode: u32) -> Node {
    Node { kind, mode, ..Node::directory(Time::default()) }
}

fn entry(to: &str, node: Node, content: Content) -> RecipeEntry {
    RecipeEntry { path: to.as_bytes().to_vec(), node, content, copy: 1 }
}

/// A file that is copied from one path to another.
fn file(from: &str, to: &str, content: &str) -> RecipeEntry {
    let kind = Kind::File { size: 1, digest: Some(Digest::of(content.as_bytes())) };
    entry(to, node(kind, 0o644), Content::View { source: 0, path: from.as_bytes().to_vec() })
}

fn directory(to: &str, mode: u32) -> RecipeEntry {
    entry(to, node(Kind::Directory, mode), Content::None)
}

fn recipe(entries: &[RecipeEntry]) -> Recipe {
    let mut entries = entries.to_vec();
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Recipe { entries, ..Recipe::default() }
}

/// What is said, where the instruction was another before.
fn told_since(before: &CopyOp, old: &[RecipeEntry], op: &CopyOp, new: &[RecipeEntry]) -> String {
    let sources: Vec<String> = before.sources.iter().map(Source::shown).collect();
    let before = [("destination".to_owned(), before.destination.clone()), ("source".to_owned(), sources.join(" "))];
    let names = Names::of_copy(op, &before, &|path| path == b"app/ignored");
    between(&Then::Recipe(&recipe(old)), &recipe(new), &names).to_string()
}

fn told(op: &CopyOp, old: &[RecipeEntry], new: &[RecipeEntry]) -> String {
    told_since(op, old, op, new)
}

#[test]
fn files_have_the_names_that_they_have_where_they_are_read() {
    let op = operation(&[path("app")], "/srv");
    let (one, two) = (file("app/one", "srv/one", "1"), file("app/sub/two", "srv/sub/two", "2"));
    let ignored = file("app/ignored", "srv/ignored", "3");
    let changed = file("app/sub/two", "srv/sub/two", "other");
    assert_eq!(told(&op, &[one.clone(), two.clone()], &[one.clone(), changed]), "app/sub/two changed");
    assert_eq!(told(&op, &[one.clone(), two.clone()], std::slice::from_ref(&one)), "app/sub/two removed");
    assert_eq!(told(&op, std::slice::from_ref(&one), &[]), "app/one removed");
    assert_eq!(told(&op, &[one.clone(), ignored], &[one]), "app/ignored left out by the ignore rules now");
    let renamed = operation(&[path("a")], "/b");
    assert_eq!(told(&renamed, &[file("a", "b", "1")], &[file("a", "b", "2")]), "a changed");
}

#[test]
fn where_it_is_not_known_what_files_were_called_the_destination_says_it() {
    let op = operation(&[path("a*")], "/srv/");
    let of_two = [file("a", "srv/a", "1"), file("app/b", "srv/b", "1")];
    assert_eq!(told(&op, &[of_two.to_vec(), vec![file("app/c", "srv/c", "1")]].concat(), &of_two), "c removed");
    let (before, now) = (operation(&[path("one")], "/srv"), operation(&[path("two")], "/srv"));
    let (old, new) = ([file("one/x", "srv/x", "1")], [file("two/y", "srv/y", "1")]);
    assert_eq!(told_since(&before, &old, &now, &new), "y added, x removed");
}

#[test]
fn everything_but_times_is_told_of() {
    let op = operation(&[path("app")], "/srv");
    let plain = || file("app/x", "srv/x", "1");
    let with = |change: &dyn Fn(&mut RecipeEntry)| {
        let mut entry = plain();
        change(&mut entry);
        told(&op, &[plain()], &[entry])
    };
    assert_eq!(with(&|entry| entry.node.mtime.seconds = 7), "");
    assert_eq!(with(&|entry| entry.node.mode = 0o755), "app/x: mode was 0644, is 0755");
    assert_eq!(with(&|entry| entry.node.gid = 9), "app/x: owner was 0:0, is 0:9");
    let attribute = |entry: &mut RecipeEntry| drop(entry.node.xattrs.insert(b"user.a".to_vec(), b"1".to_vec()));
    assert_eq!(with(&attribute), "app/x: extended attributes changed");
    let link = |target: &str| entry("srv/x", node(Kind::Symlink(target.into()), 0o777), Content::None);
    assert_eq!(told(&op, &[plain()], &[link("y")]), "app/x became a symbolic link");
    assert_eq!(told(&op, &[link("y")], &[link("z")]), "app/x: link was \"y\", is \"z\"");
}

#[test]
fn a_further_name_of_a_file_has_its_content() {
    let op = operation(&[path("app")], "/srv");
    let (x, y) = (file("app/x", "srv/x", "1"), file("app/y", "srv/y", "1"));
    let linked = RecipeEntry { content: Content::HardLink(b"srv/x".to_vec()), ..y.clone() };
    let linked = RecipeEntry { node: node(Kind::File { size: 1, digest: None }, 0o644), ..linked };
    assert_eq!(told(&op, &[x.clone(), y], &[x, linked]), "");
}

#[test]
fn directories_count_below_the_destination_and_where_they_were_copied() {
    let op = operation(&[path("app")], "/srv");
    let in_sub = file("app/sub/x", "srv/sub/x", "1");
    let tree =
        |above, at, sub| [directory("srv", at), directory("srv/sub", sub), directory("etc", above), in_sub.clone()];
    assert_eq!(told(&op, &tree(0o755, 0o755, 0o755), &tree(0o700, 0o700, 0o755)), "");
    assert_eq!(told(&op, &tree(0o755, 0o755, 0o755), &tree(0o755, 0o755, 0o700)), "app/sub: mode was 0755, is 0700");
    let mut made = recipe(&tree(0o755, 0o755, 0o700));
    made.made.insert(b"srv/sub".to_vec());
    let old = recipe(&tree(0o755, 0o755, 0o755));
    assert!(between(&Then::Recipe(&old), &made, &Names::of_copy(&op, &[], &|_| false)).is_empty());
}

#[test]
fn a_copy_to_another_place_is_compared_from_there() {
    let (before, now) = (operation(&[path("app")], "/one"), operation(&[path("app")], "/two"));
    let (old, new) = ([file("app/x", "one/x", "1")], [file("app/x", "two/x", "1")]);
    assert_eq!(told_since(&before, &old, &now, &new), "");
    assert_eq!(told_since(&before, &old, &now, &[file("app/x", "two/x", "2")]), "x changed");
}

#[test]
fn addresses_and_here_documents_have_their_own_names() {
    let url = operation(&[Source::Url("https://user:word@host/x".to_owned())], "/srv/");
    let [old, new] = ["1", "2"].map(|content| file("x", "srv/x", content));
    assert_eq!(told(&url, &[old], &[new]), "https://host/x changed");
    let inline = |content: &str| Source::Inline { name: "END".to_owned(), content: content.to_owned() };
    let written = |content: &str| {
        let content = Content::Inline(content.as_bytes().into());
        entry("f", node(Kind::File { size: 1, digest: None }, 0o644), content)
    };
    let (before, now) = (operation(&[inline("1")], "/f"), operation(&[inline("2")], "/f"));
    assert_eq!(told_since(&before, &[written("1")], &now, &[written("2")]), "<<END changed");
}

#[test]
fn a_few_files_are_remembered_and_many_are_not() {
    let op = operation(&[path("app")], "/srv");
    let many: Vec<RecipeEntry> =
        (0..=MOST_REMEMBERED).map(|number| file(&format!("app/{number}"), &format!("srv/{number}"), "1")).collect();
    assert!(few_files(&recipe(&many), &op).is_empty());
    let old = few_files(&recipe(&[file("app/a.tar", "srv/a.tar", "1"), file("app/b", "srv/b", "1")]), &op);
    let new = few_files(&recipe(&[file("app/a.tar", "srv/a.tar", "2"), file("app/b", "srv/b", "1")]), &op);
    assert_eq!(between_few(&old, &new).to_string(), "app/a.tar changed");
}
