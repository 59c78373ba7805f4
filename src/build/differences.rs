//! How two images differ, point by point: `rbuild diff`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::BuildError;
use super::stored::stored;
use crate::executor::{ExecuteError, Layers};
use crate::image::config::ImageConfig;
use crate::progress::Progress;
use crate::store::ImageRecord;
use crate::tree::{Kind, Node, View};

/// What counts as a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Everything.
    Everything,
    /// Not what differs between two builds of the same.
    Semantic,
}

/// How two images differ.
#[derive(Debug, PartialEq)]
pub struct Differences {
    /// In their configs.
    pub config: Vec<Field>,
    /// In what a container of each would see.
    pub files: Vec<FileChange>,
}

/// A value that is not the same in both; null where one has none.
#[derive(Debug, PartialEq)]
pub struct Field {
    /// Its names from the outermost: `config.Env`.
    pub path: String,
    /// In the first.
    pub before: Value,
    /// In the second.
    pub after: Value,
}

/// A file that is not the same in both.
#[derive(Debug, PartialEq)]
pub struct FileChange {
    /// Where, from `/`.
    pub path: String,
    /// Whether both have it.
    pub kind: ChangeKind,
    /// What of it differs, where both have it.
    pub what: Vec<Field>,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Deleted,
    /// Both have it.
    Changed,
}

/// Compares two images of the store.
///
/// # Errors
/// What reading their configs and layers reports.
pub fn differences(
    layers: &Layers<'_>,
    before: &ImageRecord,
    after: &ImageRecord,
    strictness: Strictness,
) -> Result<Differences, BuildError> {
    let document = |image| Ok::<_, BuildError>(config_document(&stored(layers, image)?.config, strictness));
    let mut config = Vec::new();
    compare_values("", &document(before)?, &document(after)?, &mut config);
    let files = compare_files(&files(layers, before)?, &files(layers, after)?, strictness);
    Ok(Differences { config, files })
}

/// The config as it is; of two builds of the same, times and history differ, and diffIDs by the times in the files.
fn config_document(config: &ImageConfig, strictness: Strictness) -> Value {
    let mut value = serde_json::to_value(config).expect("a config is JSON");
    if let (Strictness::Semantic, Some(object)) = (strictness, value.as_object_mut()) {
        for key in ["created", "history", "rootfs"] {
            object.remove(key);
        }
    }
    value
}

/// Everything that a container of the image would see, by its path.
fn files(layers: &Layers<'_>, image: &ImageRecord) -> Result<BTreeMap<Vec<u8>, Node>, BuildError> {
    let view = layers.view(&image.layers, &Progress::silent().task(""))?;
    let found = view.descendants(b"", &|_| true).map_err(ExecuteError::internal)?;
    Ok(found.collect())
}

fn compare_values(path: &str, before: &Value, after: &Value, fields: &mut Vec<Field>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(first), Value::Object(second)) => {
            let empty = Map::new();
            let names = first.keys().chain(second.keys().filter(|name| !first.contains_key(*name)));
            for name in names {
                // A part that one of them has not is compared with nothing, field by field.
                let of =
                    |object: &Map<String, Value>, other: &Map<String, Value>| match (object.get(name), other.get(name))
                    {
                        (None, Some(Value::Object(_))) => Value::Object(empty.clone()),
                        (value, _) => value.cloned().unwrap_or(Value::Null),
                    };
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare_values(&inner, &of(first, second), &of(second, first), fields);
            }
        }
        (Value::Array(first), Value::Array(second)) if is_list_of_objects(first, second) => {
            for number in 0..first.len().max(second.len()) {
                let of = |list: &[Value]| list.get(number).cloned().unwrap_or(Value::Null);
                compare_values(&format!("{path}[{number}]"), &of(first), &of(second), fields);
            }
        }
        _ => fields.push(Field { path: path.to_owned(), before: before.clone(), after: after.clone() }),
    }
}

/// Lists of words, such as a command, are shown whole: their numbers say nothing.
fn is_list_of_objects(first: &[Value], second: &[Value]) -> bool {
    first.iter().chain(second).any(|value| value.is_object())
}

fn compare_files(
    before: &BTreeMap<Vec<u8>, Node>,
    after: &BTreeMap<Vec<u8>, Node>,
    strictness: Strictness,
) -> Vec<FileChange> {
    let mut changes = Vec::new();
    let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    for path in paths {
        let (kind, what) = match (before.get(path), after.get(path)) {
            (Some(before), Some(after)) => match node_fields(before, after, strictness) {
                what if what.is_empty() => continue,
                what => (ChangeKind::Changed, what),
            },
            (None, _) => (ChangeKind::Added, Vec::new()),
            (Some(_), None) => (ChangeKind::Deleted, Vec::new()),
        };
        changes.push(FileChange { path: format!("/{}", String::from_utf8_lossy(path)), kind, what });
    }
    changes.sort_by(|left, right| left.path.cmp(&right.path));
    changes
}

fn node_fields(before: &Node, after: &Node, strictness: Strictness) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut compare = |path: &str, before: Value, after: Value| {
        if before != after {
            fields.push(Field { path: path.to_owned(), before, after });
        }
    };
    compare("type", kind(&before.kind).into(), kind(&after.kind).into());
    compare("mode", format!("{:04o}", before.mode).into(), format!("{:04o}", after.mode).into());
    compare("uid", before.uid.into(), after.uid.into());
    compare("gid", before.gid.into(), after.gid.into());
    match (&before.kind, &after.kind) {
        (Kind::File { size: first, digest: one }, Kind::File { size: second, digest: two }) => {
            compare("size", (*first).into(), (*second).into());
            compare("content", json!(one), json!(two));
        }
        (Kind::Symlink(first), Kind::Symlink(second)) => {
            compare("target", String::from_utf8_lossy(first).into(), String::from_utf8_lossy(second).into());
        }
        (
            Kind::CharDevice { major: first, minor: one } | Kind::BlockDevice { major: first, minor: one },
            Kind::CharDevice { major: second, minor: two } | Kind::BlockDevice { major: second, minor: two },
        ) => compare("device", json!([first, one]), json!([second, two])),
        _ => {}
    }
    let attributes = |node: &Node| {
        let shown = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            (String::from_utf8_lossy(name).into_owned(), Value::from(hex))
        };
        Value::Object(node.xattrs.iter().map(shown).collect())
    };
    compare("xattrs", attributes(before), attributes(after));
    if strictness == Strictness::Everything {
        let time =
            |node: &Node| Value::from(crate::image::time::rfc3339(node.mtime.seconds, Some(node.mtime.nanoseconds)));
        compare("mtime", time(before), time(after));
    }
    fields
}

fn kind(kind: &Kind) -> &'static str {
    match kind {
        Kind::File { .. } => "file",
        Kind::Directory => "directory",
        Kind::Symlink(_) => "symlink",
        Kind::CharDevice { .. } => "character device",
        Kind::BlockDevice { .. } => "block device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Time;

    #[test]
    fn configs_are_compared_field_by_field_and_lists_of_words_whole() {
        let before =
            json!({ "a": 1, "same": [1], "config": { "Cmd": ["x"], "Labels": { "l": "1" } }, "history": [{ "c": 1 }] });
        let after =
            json!({ "b": 2, "same": [1], "config": { "Cmd": ["y", "z"] }, "history": [{ "c": 2 }, { "c": 3 }] });
        let mut fields = Vec::new();
        compare_values("", &before, &after, &mut fields);
        let shown: Vec<String> =
            fields.iter().map(|field| format!("{} {} {}", field.path, field.before, field.after)).collect();
        assert_eq!(
            shown,
            [
                "a 1 null",
                "config.Cmd [\"x\"] [\"y\",\"z\"]",
                "config.Labels.l \"1\" null",
                "history[0].c 1 2",
                "history[1] null {\"c\":3}",
                "b null 2",
            ]
        );
    }

    #[test]
    fn of_a_file_everything_counts_but_its_time_where_that_is_asked_for() {
        let node = Node::directory(Time::default());
        let later = Node { mtime: Time { seconds: 1, nanoseconds: 0 }, ..node.clone() };
        assert_eq!(node_fields(&node, &later, Strictness::Semantic), []);
        assert_eq!(node_fields(&node, &later, Strictness::Everything)[0].path, "mtime");
        let other = Node { mode: 0o700, uid: 1, gid: 2, kind: Kind::Symlink(b"x".to_vec()), ..node.clone() };
        let paths: Vec<String> =
            node_fields(&node, &other, Strictness::Semantic).into_iter().map(|field| field.path).collect();
        assert_eq!(paths, ["type", "mode", "uid", "gid"]);
    }
}
