//! A layer with no time later than a given one: what `rewrite-timestamp=true` asks for.
//!
//! It works on the tar as it is, header by header, so that nothing else of it changes. It reads the dialect that
//! `write` writes: ustar headers with octal times, and pax records where a header is too small.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
const TIME: std::ops::Range<usize> = 136..148;
const SUM: std::ops::Range<usize> = 148..156;
const SIZE: std::ops::Range<usize> = 124..136;
const TYPE: usize = 156;

/// Which times become which, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retime {
    /// Every later time becomes this one.
    pub latest: i64,
    /// And so does exactly this one, where one is given, though it may be earlier.
    pub placeholder: Option<i64>,
}

impl Retime {
    fn replaces(self, time: i64) -> bool {
        time > self.latest || self.placeholder == Some(time)
    }
}

/// Copies a tar with the times that are to be replaced replaced.
///
/// # Errors
/// The bytes are no tar of this dialect, or what reading or writing reports.
pub fn retime(tar: &mut dyn Read, rule: Retime, out: &mut dyn Write) -> io::Result<()> {
    let latest = rule.latest;
    let mut header = [0; BLOCK];
    // The next header has a time in a record before it, which was replaced.
    let mut is_late = false;
    loop {
        if let Err(error) = tar.read_exact(&mut header) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) };
        }
        if header.iter().all(|byte| *byte == 0) {
            out.write_all(&header)?;
            continue;
        }
        let size = octal(&header[SIZE]).ok_or_else(|| invalid("a size"))?;
        let size = u64::try_from(size).map_err(|_| invalid("a size"))?;
        let time = octal(&header[TIME]).ok_or_else(|| invalid("a time"))?;
        // Readers that know no pax records see the header's.
        if rule.replaces(time) || (std::mem::take(&mut is_late) && header[TYPE] != b'x') {
            header[TIME].copy_from_slice(&time_field(latest));
        }
        if header[TYPE] == b'x' {
            let mut records = vec![0; usize::try_from(size).map_err(|_| invalid("a pax header"))?];
            tar.read_exact(&mut records)?;
            skip(tar, padding(size))?;
            let before = records;
            let records = without_late_times(&before, latest)?;
            is_late = records != before;
            header[SIZE].copy_from_slice(format!("{:011o}\0", records.len()).as_bytes());
            out.write_all(&summed(header))?;
            out.write_all(&records)?;
            out.write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
            continue;
        }
        out.write_all(&summed(header))?;
        let whole = size + padding(size) as u64;
        if io::copy(&mut (&mut *tar).take(whole), out)? != whole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The records of a pax header, with `mtime` where it is not later.
fn without_late_times(records: &[u8], latest: i64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::with_capacity(records.len());
    let mut rest = records;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(|| invalid("a pax record"))?;
        let length: usize =
            std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
        let record = rest.get(..length).filter(|record| record.len() > space).ok_or_else(|| invalid("a pax record"))?;
        let value =
            record[space + 1..].strip_prefix(b"mtime=").map(|value| String::from_utf8_lossy(value).into_owned());
        let seconds =
            value.as_deref().map(|value| value.trim_end().split('.').next().unwrap_or_default().parse::<i64>());
        match seconds {
            // A fraction of the last second allowed is later, too.
            Some(Ok(seconds)) if seconds >= latest => {
                let text = format!(" mtime={latest}\n");
                // The length counts its own digits.
                let mut length = text.len() + 2;
                while format!("{length}{text}").len() != length {
                    length += 1;
                }
                kept.extend_from_slice(format!("{length}{text}").as_bytes());
            }
            Some(Err(_)) => return Err(invalid("a time")),
            Some(Ok(_)) | None => kept.extend_from_slice(record),
        }
        rest = &rest[length..];
    }
    Ok(kept)
}

/// A time as a header has it: octal, or, where that has too few digits, in two's complement with the first bit set, as all
/// readers have understood it since GNU tar wrote it.
fn time_field(seconds: i64) -> [u8; TIME.end - TIME.start] {
    let mut field = [0; TIME.end - TIME.start];
    if (0..1 << 33).contains(&seconds) {
        field[..11].copy_from_slice(format!("{seconds:011o}").as_bytes());
        return field;
    }
    field.fill(if seconds < 0 { 0xff } else { 0 });
    field[4..].copy_from_slice(&seconds.to_be_bytes());
    field[0] |= 0x80;
    field
}

fn octal(field: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok() }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn skip(tar: &mut dyn Read, count: usize) -> io::Result<()> {
    tar.read_exact(&mut [0; BLOCK][..count])
}

/// The header with its check sum, which counts its own field as spaces.
fn summed(mut header: [u8; BLOCK]) -> [u8; BLOCK] {
    header[SUM].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} in a layer cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::read::TarReader;
    use crate::layer::write::TarWriter;
    use crate::tree::{Kind, Node, Time};

    fn tar(times: &[(i64, u32)]) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        for (number, (seconds, nanoseconds)) in times.iter().enumerate() {
            let time = Time { seconds: *seconds, nanoseconds: *nanoseconds };
            let node = Node { kind: Kind::File { size: 3, digest: None }, ..Node::directory(time) };
            // Too long for ustar, so that there is a pax header with more than a time in it.
            let path = format!("{}/{number}", "x".repeat(if number % 2 == 0 { 300 } else { 3 }));
            tar.append(path.as_bytes(), &node, None, &mut &b"abc"[..]).unwrap();
            tar.whiteout(format!("gone{number}").as_bytes()).unwrap();
        }
        tar.finish().unwrap()
    }

    #[test]
    fn later_times_become_the_latest_one_and_nothing_else_changes() {
        let latest = 1_000;
        let times = [(0, 0), (999, 0), (999, 5), (1_000, 0), (1_000, 5), (5_000, 0), (5_000, 7), (8_000_000_000, 0)];
        let expected: Vec<(i64, u32)> = times.iter().map(|time| (*time).min((latest, 0))).collect();
        let mut out = Vec::new();
        retime(&mut tar(&times).as_slice(), Retime { latest, placeholder: None }, &mut out).unwrap();
        let entries = |bytes: &[u8]| -> Vec<(Vec<u8>, u64, Vec<u8>)> {
            let mut archive = ::tar::Archive::new(bytes);
            let read = archive.entries().unwrap().map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path_bytes().into_owned(), entry.header().mtime().unwrap(), content)
            });
            read.collect()
        };
        assert_eq!(entries(&out), entries(&tar(&expected)));
    }

    #[test]
    fn a_placeholder_becomes_the_latest_time_though_it_is_earlier() {
        let rule = Retime { latest: 1_000, placeholder: Some(500) };
        let (times, expected) = ([(499, 0), (500, 0), (501, 0), (1_001, 0)], [499, 1_000, 501, 1_000]);
        let mut out = Vec::new();
        retime(&mut tar(&times).as_slice(), rule, &mut out).unwrap();
        let mut archive = ::tar::Archive::new(out.as_slice());
        let found = archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap());
        // The marks of removals between them have no time.
        assert_eq!(found.filter(|time| *time != 0).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_time_that_only_a_pax_header_can_hold_is_replaced_there() {
        // More seconds than eleven octal digits have.
        let late = tar(&[(9_999_999_999, 0)]);
        let has = |bytes: &[u8], text: &str| String::from_utf8_lossy(bytes).contains(text);
        assert!(has(&late, "mtime=9999999999"), "the writer writes no such header any more");
        let mut out = Vec::new();
        retime(&mut late.as_slice(), Retime { latest: 1_000, placeholder: None }, &mut out).unwrap();
        assert!(has(&out, "14 mtime=1000\n") && !has(&out, "mtime=9999999999"));
        let mut archive = ::tar::Archive::new(out.as_slice());
        assert_eq!(archive.entries().unwrap().filter_map(Result::ok).count(), 2, "the archive cannot be read any more");
    }

    #[test]
    fn moments_that_octal_digits_cannot_hold_are_times_of_files_too() {
        let late = 1 << 33;
        let cases = [
            (late, None, 500, 500),
            (late, Some(500), 500, late),
            (late - 1, None, late, late - 1),
            (-7, None, 500, -7),
        ];
        for (latest, placeholder, time, expected) in cases {
            let mut out = Vec::new();
            retime(&mut tar(&[(time, 0)]).as_slice(), Retime { latest, placeholder }, &mut out).unwrap();
            let mut reader = TarReader::new(out.as_slice());
            let found = reader.next_entry().unwrap().unwrap().node.mtime;
            assert_eq!(found, Time { seconds: expected, nanoseconds: 0 }, "{time} with {latest}");
            while reader.next_entry().unwrap().is_some() {}
        }
    }

    #[test]
    fn a_cut_off_tar_is_an_error() {
        let whole = tar(&[(5_000, 0)]);
        assert!(retime(&mut &whole[..BLOCK + 10], Retime { latest: 0, placeholder: None }, &mut Vec::new()).is_err());
    }
}
