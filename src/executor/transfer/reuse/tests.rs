use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::executor::transfer::write_recipe;
use crate::tree::Time;

/// A file or link: its content or target, mode, time.
#[derive(Debug, Clone, PartialEq)]
enum Leaf {
    File(Vec<u8>, u32, i64),
    Link(String),
}

type Tree = BTreeMap<String, Leaf>;

fn entry(path: &str, kind: Kind, mode: u32, seconds: i64, content: Content) -> RecipeEntry {
    // Every context has times of nanoseconds, and no layer has.
    let node = Node { kind, mode, ..Node::directory(Time { seconds, nanoseconds: 77 }) };
    RecipeEntry { path: path.into(), node, content, copy: 1 }
}

/// The recipe of a tree, sorted, directories included.
fn recipe(tree: &Tree) -> Vec<RecipeEntry> {
    let mut entries = BTreeMap::new();
    for (path, leaf) in tree {
        for (at, _) in path.match_indices('/') {
            let directory = &path[..at];
            entries.insert(directory.to_owned(), entry(directory, Kind::Directory, 0o755, 5, Content::None));
        }
        let made = match leaf {
            Leaf::File(bytes, mode, seconds) => {
                let kind = Kind::File { size: bytes.len() as u64, digest: Some(Digest::of(bytes)) };
                entry(path, kind, *mode, *seconds, Content::Inline(Arc::from(bytes.as_slice())))
            }
            Leaf::Link(target) => entry(path, Kind::Symlink(target.clone().into()), 0o755, 5, Content::None),
        };
        entries.insert(path.clone(), made);
    }
    let mut entries: Vec<RecipeEntry> = entries.into_values().collect();
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    entries
}

fn cold(entries: &[RecipeEntry]) -> Vec<u8> {
    write_recipe(entries, &[], Vec::new()).unwrap()
}

/// The tar and index that an edit gives, made from the tar before it; `None` where it is written whole.
fn edited(before: &[u8], after: &[RecipeEntry]) -> Option<(Vec<u8>, Index, Splice)> {
    let (index, ..) = index_tar(before).unwrap();
    let (splice, index) = put_together(index, before.len() as u64, after, &[])?.unwrap();
    let mut tar = Vec::new();
    splice.clone().read(before).read_to_end(&mut tar).unwrap();
    Some((tar, index, splice))
}

fn is_as_cold(before: &Tree, after: &Tree) -> Option<Splice> {
    let (before, after) = (cold(&recipe(before)), recipe(after));
    let (tar, index, splice) = edited(&before, &after)?;
    let expected = cold(&after);
    assert!(tar == expected, "the tar is another");
    assert_eq!(index, index_tar(expected.as_slice()).unwrap().0);
    assert_eq!(index.to_bytes(), index_tar(expected.as_slice()).unwrap().0.to_bytes());
    Some(splice)
}

fn path() -> impl Strategy<Value = String> {
    let long = "[ab]{60}/[cd]{60}/[ef]{1,3}";
    // All kinds of names that sort around a slash, and some that need more than one header.
    prop_oneof![5 => "d[0-3]/[a-f][a-f.!]?", 2 => "[0-9]{1,2}", 1 => "d[0-3][.!]", 1 => "d[0-1]/\u{e4}[a-c]", 1 => long]
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let content = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        (any::<u8>(), 0usize..2000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let mode = prop::sample::select(vec![0o644, 0o755, 0o600, 0o4755]);
    prop_oneof![
        6 => (content, mode, 0i64..4).prop_map(|(content, mode, seconds)| Leaf::File(content, mode, seconds)),
        1 => "[a-z/]{1,120}".prop_map(Leaf::Link),
    ]
}

#[derive(Debug, Clone)]
enum Edit {
    Put(String, Leaf),
    Remove(usize),
    Rename(usize, String),
    Mode(usize, u32),
    Touch(usize),
    Grow(usize, u8),
    Shrink(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = || any::<prop::sample::Index>().prop_map(|index| index.index(1000));
    prop_oneof![
        (path(), leaf()).prop_map(|(path, leaf)| Edit::Put(path, leaf)),
        at().prop_map(Edit::Remove),
        (at(), path()).prop_map(|(at, path)| Edit::Rename(at, path)),
        (at(), prop::sample::select(vec![0o600, 0o777])).prop_map(|(at, mode)| Edit::Mode(at, mode)),
        at().prop_map(Edit::Touch),
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Grow(at, byte)),
        at().prop_map(Edit::Shrink),
    ]
}

/// Keeps what is a tree: nothing lies below a file.
fn put(tree: &mut Tree, path: String, leaf: Leaf) {
    let is_below = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
    if !tree.keys().any(|known| is_below(known, &path) || is_below(&path, known)) {
        tree.insert(path, leaf);
    }
}

fn apply(tree: &mut Tree, edit: Edit) {
    let name = |tree: &Tree, at: usize| tree.keys().nth(at % tree.len().max(1)).cloned();
    match edit {
        Edit::Put(path, leaf) => put(tree, path, leaf),
        Edit::Remove(at) => drop(name(tree, at).and_then(|name| tree.remove(&name))),
        Edit::Rename(at, path) => {
            if let Some(leaf) = name(tree, at).and_then(|name| tree.remove(&name)) {
                put(tree, path, leaf);
            }
        }
        Edit::Mode(at, _) | Edit::Touch(at) | Edit::Grow(at, _) | Edit::Shrink(at) => {
            let Some(Leaf::File(content, mode, seconds)) = name(tree, at).and_then(|name| tree.get_mut(&name)) else {
                return;
            };
            match edit {
                Edit::Mode(_, new) => *mode = new,
                Edit::Grow(_, byte) => content.extend(std::iter::repeat_n(byte, 700)),
                Edit::Shrink(_) => content.truncate(content.len() / 2),
                _ => *seconds += 1,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_edit_gives_the_bytes_that_a_cold_copy_gives(
        files in prop::collection::vec((path(), leaf()), 1..25),
        edits in prop::collection::vec(edit(), 0..6),
    ) {
        let mut before = Tree::new();
        // Enough that the edits are a small part.
        before.insert("ballast".to_owned(), Leaf::File(vec![7; 200_000], 0o644, 0));
        for (path, leaf) in files {
            put(&mut before, path, leaf);
        }
        let mut after = before.clone();
        for edit in edits {
            apply(&mut after, edit);
        }
        let written_whole = is_as_cold(&before, &after).is_none();
        // Whoever removes or changes the ballast has changed nearly everything.
        prop_assert!(!written_whole || after.get("ballast") != before.get("ballast") || after == before);
    }
}

fn sample() -> Tree {
    let file = |content: &str| Leaf::File(content.repeat(3000).into_bytes(), 0o644, 3);
    Tree::from([("a/one".into(), file("1")), ("b/two".into(), file("2")), ("c".into(), file("3"))])
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let mut after = sample();
    after.insert("b/two".into(), Leaf::File(b"edited".to_vec(), 0o644, 9));
    let splice = is_as_cold(&sample(), &after).unwrap();
    assert!(splice.to_bytes().len() < 3000, "{splice:?}");
}

#[test]
fn what_did_not_change_at_all_is_made_from_the_files() {
    assert_eq!(is_as_cold(&sample(), &sample()), None);
}

#[test]
fn where_nearly_all_changed_the_layer_is_written_whole() {
    let touched = |(path, leaf): (String, Leaf)| match leaf {
        Leaf::File(content, mode, seconds) => (path, Leaf::File(content, mode, seconds + 1)),
        link @ Leaf::Link(_) => (path, link),
    };
    assert_eq!(is_as_cold(&sample(), &sample().into_iter().map(touched).collect()), None);
}

#[test]
fn headers_count_as_much_as_content() {
    let with = |count: usize| {
        let mut tree = sample();
        tree.extend((0..count).map(|number| (format!("d/{number}"), Leaf::File(Vec::new(), 0o644, 1))));
        tree
    };
    // Nine thousand bytes of content in twelve thousand of tar: six thousand are half.
    assert!(is_as_cold(&sample(), &with(8)).is_some());
    assert_eq!(is_as_cold(&sample(), &with(20)), None);
}

#[test]
fn hard_links_and_directories_without_entries_are_written_whole() {
    let entries = recipe(&sample());
    let before = cold(&entries);
    let mut linked = entries.clone();
    let node = entries.last().unwrap().node.clone();
    linked.push(RecipeEntry { path: b"d".to_vec(), node, content: Content::HardLink(b"c".to_vec()), copy: 1 });
    assert!(edited(&before, &linked).is_none());
    assert!(edited(&cold(&linked), &entries).is_none(), "the earlier layer has a link");
    let without: Vec<RecipeEntry> = entries.iter().filter(|entry| entry.path != b"b").cloned().collect();
    assert!(edited(&before, &without).is_none());
}

#[test]
fn an_earlier_tar_that_was_written_otherwise_is_not_used() {
    let entries = recipe(&sample());
    let before = cold(&entries);
    let (index, ..) = index_tar(before.as_slice()).unwrap();
    for size in [before.len() as u64 + 512, before.len() as u64 - 512] {
        assert!(put_together(index.clone(), size, &entries, &[]).is_none(), "{size}");
    }
}

#[test]
fn users_that_are_looked_up_in_a_layer_are_those_of_its_bytes() {
    let with = |content: &str| {
        let mut tree = sample();
        tree.insert("etc/passwd".into(), Leaf::File(content.into(), 0o644, 1));
        tree
    };
    for (before, after) in [(with("one"), with("two")), (with("one"), sample()), (sample(), with("two"))] {
        assert!(is_as_cold(&before, &after).is_some());
    }
}
