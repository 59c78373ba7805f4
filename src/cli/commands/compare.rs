//! `rbuild diff`: two images, point by point.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::archive::Workshop;
use super::image::choose;
use super::inspect::config_of;
use super::list::pretty;
use super::{failed, open_store, print};
use crate::cli::failure::Failure;
use crate::cli::request::ReportFormat;
use crate::cli::request::compare::{Compare, Difference, Strictness};
use crate::executor::Layers;
use crate::progress::Progress;
use crate::store::{Store, Tagged};
use crate::tree::{Kind, Node, View};

/// A value of the config that is not the same in both.
#[derive(Debug, PartialEq)]
struct Field {
    path: String,
    before: Value,
    after: Value,
}

/// A file that is not the same in both.
#[derive(Debug, PartialEq)]
struct FileChange {
    path: String,
    kind: ChangeKind,
    what: Vec<Field>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChangeKind {
    Added,
    Deleted,
    Changed,
}

/// `rbuild diff`; gives the exit code.
pub(super) fn diff(request: &Compare) -> Result<u8, Failure> {
    let store = open_store(&request.store_root)?;
    let (before, after) = (choose(&store, &request.before)?, choose(&store, &request.after)?);
    let workshop = Workshop::new(&store);
    let layers = workshop.layers(&store);
    let config = {
        let of = |tagged: &Tagged| config_document(&store, tagged, request.strictness);
        let mut fields = Vec::new();
        compare_values("", &of(&before)?, &of(&after)?, &mut fields);
        fields
    };
    let files = compare_files(&files(&layers, &before)?, &files(&layers, &after)?, request.strictness);
    match request.format {
        ReportFormat::Json => print(&pretty(&report(&before, &after, &config, &files))?)?,
        ReportFormat::Text => print(&text(&config, &files))?,
    }
    let is_equal = config.is_empty() && files.is_empty();
    Ok(u8::from(!is_equal && request.difference == Difference::Failure))
}

/// The config as it is; of two builds of the same, times and history differ, and diffIDs by the times in the files.
fn config_document(store: &Store, tagged: &Tagged, strictness: Strictness) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(config_of(store, tagged)?).map_err(|error| failed(&error))?;
    if let (Strictness::Semantic, Some(object)) = (strictness, value.as_object_mut()) {
        for key in ["created", "history", "rootfs"] {
            object.remove(key);
        }
    }
    Ok(value)
}

/// Everything that a container of the image would see, by its path.
fn files(layers: &Layers<'_>, tagged: &Tagged) -> Result<BTreeMap<Vec<u8>, Node>, Failure> {
    let view = layers.view(&tagged.image.layers, &Progress::silent().task("")).map_err(|error| failed(&error))?;
    let found = view.descendants(b"", &|_| true).map_err(|error| failed(&error))?;
    Ok(found.into_iter().collect())
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

fn report(before: &Tagged, after: &Tagged, config: &[Field], files: &[FileChange]) -> Value {
    let field = |field: &Field| json!({ "path": field.path, "before": field.before, "after": field.after });
    let file = |change: &FileChange| {
        let kind = match change.kind {
            ChangeKind::Added => "added",
            ChangeKind::Deleted => "deleted",
            ChangeKind::Changed => "changed",
        };
        let what: Vec<Value> = change.what.iter().map(field).collect();
        json!({ "path": change.path, "change": kind, "what": what })
    };
    json!({
        "before": before.image.config, "after": after.image.config,
        "config": config.iter().map(field).collect::<Vec<_>>(),
        "files": files.iter().map(file).collect::<Vec<_>>(),
    })
}

fn text(config: &[Field], files: &[FileChange]) -> String {
    let mut text = String::new();
    for field in config {
        writeln!(text, "{}", field.path).expect("text can be written to");
        for (mark, value) in [('-', &field.before), ('+', &field.after)] {
            if !value.is_null() {
                writeln!(text, "  {mark} {value}").expect("text can be written to");
            }
        }
    }
    if !config.is_empty() && !files.is_empty() {
        text.push('\n');
    }
    for change in files {
        let (mark, path) = (change.kind.mark(), &change.path);
        let what: Vec<String> = change.what.iter().map(short).collect();
        writeln!(text, "{}", format!("{mark} {path}   {}", what.join(", ")).trim_end())
            .expect("text can be written to");
    }
    text
}

impl ChangeKind {
    /// Docker's letters.
    fn mark(self) -> char {
        match self {
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
            ChangeKind::Changed => 'C',
        }
    }
}

/// What of a file changed, in a word or two; digests say nothing to people.
fn short(field: &Field) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match field.path.as_str() {
        "content" | "xattrs" => field.path.clone(),
        path => format!("{path} {} → {}", plain(&field.before), plain(&field.after)),
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
