//! Numbers and extended records of tar headers, read strictly: what is malformed is an error, never skipped, because two
//! readers that skip differently see two different archives (CVE-2025-62518).

use std::collections::BTreeMap;

use super::read::ReadError;
use super::sparse::SparseRecords;
use crate::tree::Time;

/// What a PAX extended header says about the next entry.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: SparseRecords,
}

impl Extended {
    /// Reads the records of an `x` header.
    pub(super) fn parse(body: &[u8]) -> Result<Extended, ReadError> {
        let mut extended = Extended::default();
        for (key, value) in records(body)? {
            extended.add(key, value)?;
        }
        Ok(extended)
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() {
                return Err(malformed("an attribute without a name"));
            }
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.add(name, value);
        }
        if value.is_empty() {
            // An empty value takes a global record back (POSIX pax, "pax Extended Header"); there are none here.
            return Ok(());
        }
        match key {
            b"path" => once(&mut self.path, key, text(value)?),
            b"linkpath" => once(&mut self.link, key, text(value)?),
            b"size" => once(&mut self.size, key, decimal(value)?),
            b"uid" => once(&mut self.uid, key, decimal(value)?),
            b"gid" => once(&mut self.gid, key, decimal(value)?),
            b"mtime" => once(&mut self.mtime, key, time(value)?),
            _ => Ok(()),
        }
    }
}

/// Refuses global records that would rename or resize entries: Go's reader ignores them, GNU tar's obeys them, so an
/// archive with them has no one meaning. Others (git's `comment`) are ignored, as Docker does.
pub(super) fn check_global(body: &[u8]) -> Result<(), ReadError> {
    for (key, _) in records(body)? {
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
            return Err(malformed(&format!("a global record for {:?}", String::from_utf8_lossy(key))));
        }
    }
    Ok(())
}

fn once<T>(slot: &mut Option<T>, key: &[u8], value: T) -> Result<(), ReadError> {
    if slot.replace(value).is_some() {
        return Err(malformed(&format!("two records for {:?}", String::from_utf8_lossy(key))));
    }
    Ok(())
}

fn text(value: &[u8]) -> Result<Vec<u8>, ReadError> {
    if value.contains(&0) { Err(malformed("a name with a NUL byte")) } else { Ok(value.to_vec()) }
}

pub(super) fn malformed(reason: &str) -> ReadError {
    ReadError::Malformed { reason: reason.to_owned() }
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits `<length> <key>=<value>\n` records.
fn records(mut body: &[u8]) -> Result<Vec<Record<'_>>, ReadError> {
    let bad = || malformed("an extended header record with a wrong length");
    let mut found = Vec::new();
    while !body.is_empty() {
        let space = body.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = usize::try_from(decimal(&body[..space])?).map_err(|_| bad())?;
        if length > body.len() || length < space + 3 || body[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &body[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0).ok_or_else(bad)?;
        found.push((&record[..equals], &record[equals + 1..]));
        body = &body[length..];
    }
    Ok(found)
}

/// A decimal number: digits only.
pub(super) fn decimal(text: &[u8]) -> Result<u64, ReadError> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return Err(malformed("a number that is none"));
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| malformed("a number that is too large"))
}

/// A PAX time: `[-]seconds[.fraction]`; digits behind the ninth are dropped.
pub(super) fn time(text: &[u8]) -> Result<Time, ReadError> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(malformed("a time that is none"));
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let seconds = i64::try_from(whole).map_err(|_| malformed("a time that is too far away"))?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// A numeric header field: octal text, or GNU's base-256 where the first bit is set.
pub(super) fn number(field: &[u8]) -> Result<i64, ReadError> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        return base256(field);
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let end = field[start..].iter().position(blank).map_or(field.len(), |at| start + at);
    if !field[end..].iter().all(blank) {
        return Err(malformed("a numeric field with text behind it"));
    }
    field[start..end].iter().try_fold(0i64, |sum, digit| match digit {
        b'0'..=b'7' => Ok(sum << 3 | i64::from(digit - b'0')),
        _ => Err(malformed("a numeric field that is not octal")),
    })
}

fn base256(field: &[u8]) -> Result<i64, ReadError> {
    // Two's complement whose sign is the second bit; the first one only marks the encoding.
    let negative = field[0] & 0x40 != 0;
    let mut sum: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = if at == 0 { byte & 0x7f | if negative { 0x80 } else { 0 } } else { *byte };
        sum = sum << 8 | i128::from(byte);
    }
    i64::try_from(sum).map_err(|_| malformed("a number that is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_fractions_are_rounded_down() {
        let at = |seconds, nanoseconds| Time { seconds, nanoseconds };
        assert_eq!(time(b"1.5").unwrap(), at(1, 500_000_000));
        assert_eq!(time(b"-1.5").unwrap(), at(-2, 500_000_000));
        assert_eq!(time(b"-1").unwrap(), at(-1, 0));
        assert_eq!(time(b"10413792000.0000000019").unwrap(), at(10_413_792_000, 1));
        for bad in [&b""[..], b"x", b"1.x", b"--1", b"1.-5", b"99999999999999999999"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn header_numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]).unwrap(), 0xffff_fffe);
        assert_eq!(number(&[0xff; 12]).unwrap(), -1);
        assert!(number(b"0000648\0").is_err());
        assert!(number(b"06 4\0\0\0\0").is_err());
        assert!(number(&[0xbf; 12]).is_err());
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in ["5 a=b\n", "6 a=bX", "06a=b\n", "7 a=bc\n1", "6 =ab\n", "0 a=b\n", "x a=b\n", "5 abc\n"] {
            assert!(Extended::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Extended::parse(b"6 a=b\n").is_ok());
        assert!(Extended::parse(b"10 path=a\n10 path=b\n").unwrap_err().to_string().contains("two records"));
        assert!(Extended::parse(b"10 path=\0\n").is_err());
        assert!(check_global(b"10 size=9\n").is_err());
        assert!(check_global(b"13 comment=x\n").is_ok());
    }
}
