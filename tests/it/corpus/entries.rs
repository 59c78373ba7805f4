//! What the entries of a case's context say, written as files.

use std::io::Write as _;

use crate::harness::Files;

/// An entry of a context: its line, and the text of the lines with `|` under it.
pub struct Entry {
    line: String,
    text: String,
}

/// The entries of a section.
pub fn entries(section: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in section.lines().filter(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix('|') {
            let entry = entries.last_mut().expect("a text belongs to an entry");
            entry.text.push_str(text.strip_prefix(' ').unwrap_or(text));
            entry.text.push('\n');
        } else {
            entries.push(Entry { line: line.to_owned(), text: String::new() });
        }
    }
    entries
}

/// Writes an entry: `file PATH MODE`, `dir PATH MODE`, `link PATH TARGET`, `hard PATH EXISTING`, `time PATH SECONDS` (of
/// the last change of what is there), `socket PATH`, `packed PATH COMPRESSION`, or `tar PATH COMPRESSION` whose text is again entries, each
/// with `UID:GID` after the mode; `cut` is a `tar` without its last quarter. `\s` is a space in a name.
pub fn write_entry(files: Files, entry: &Entry) -> Files {
    let words: Vec<String> = entry.line.split(' ').map(|word| word.replace("\\s", " ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mode = || u32::from_str_radix(words[2], 8).unwrap_or_else(|_| panic!("not a mode: {}", entry.line));
    match words[0] {
        "file" => files.file(words[1], &entry.text).mode(words[1], mode()),
        "dir" => files.directory(words[1]).mode(words[1], mode()),
        "link" => files.link(words[1], words[2]),
        "hard" => files.hard_link(words[1], words[2]),
        "time" => files.modified(words[1], words[2].parse().expect("a time is a number of seconds")),
        "socket" => files.socket(words[1]),
        "packed" => files.file(words[1], compress(entry.text.as_bytes(), words[2])),
        "cut" => {
            let whole = compress(&archive(&entry.text), words[2]);
            files.file(words[1], &whole[..whole.len() * 3 / 4])
        }
        "tar" => files.file(words[1], compress(&archive(&entry.text), words[2])),
        _ => panic!("not an entry: {}", entry.line),
    }
}

fn archive(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let mut header = tar::Header::new_gnu();
        let (uid, gid) = words[3].split_once(':').expect("an owner is UID:GID");
        header.set_mode(u32::from_str_radix(words[2], 8).expect("a mode is octal"));
        header.set_uid(uid.parse().expect("a uid is a number"));
        header.set_gid(gid.parse().expect("a gid is a number"));
        header.set_mtime(1_000_000_000);
        let rest = words[4..].join(" ");
        match words[0] {
            "file" => {
                header.set_size(rest.len() as u64);
                builder.append_data(&mut header, words[1], rest.as_bytes())
            }
            "dir" => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, words[1], &b""[..])
            }
            "link" => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, words[1], &rest)
            }
            "hard" => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                builder.append_link(&mut header, words[1], &rest)
            }
            _ => panic!("not an entry of an archive: {line}"),
        }
        .expect("write an archive");
    }
    builder.into_inner().expect("finish an archive")
}

fn compress(bytes: &[u8], compression: &str) -> Vec<u8> {
    match compression {
        "none" => bytes.to_vec(),
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("compress");
            encoder.finish().expect("compress")
        }
        "bzip2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).expect("compress");
            encoder.finish().expect("compress")
        }
        "xz" => {
            let mut encoder =
                lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).expect("compress");
            encoder.write_all(bytes).expect("compress");
            encoder.finish().expect("compress")
        }
        "zstd" => zstd::encode_all(bytes, 1).expect("compress"),
        _ => panic!("unknown compression {compression}"),
    }
}
