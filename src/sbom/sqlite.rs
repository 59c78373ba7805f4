//! The rows of a table of an SQLite database (<https://www.sqlite.org/fileformat2.html>), read from bytes: enough for rpm's, whose
//! table of packages has a number and a blob.
//!
//! Nothing of the file is believed: every offset is checked, and no more is read in all than twice what the file has, so that
//! pages in a circle and rows that share their bytes come to an end.

/// Says why a database is not read.
pub(super) type Malformed = &'static str;

/// Calls a function with the blob of every row of a table.
pub(super) fn blobs(file: &[u8], table: &str, visit: &mut dyn FnMut(&[u8])) -> Result<(), Malformed> {
    let database = Database::open(file)?;
    let mut root = None;
    // A row of the schema: type, name, table, root page, text.
    database.rows(1, &mut |row| {
        if let (Some(Value::Bytes(b"table")), Some(Value::Bytes(name)), Some(Value::Number(page))) =
            (column(row, 0), column(row, 1), column(row, 3))
            && name == table.as_bytes()
        {
            root = u32::try_from(page).ok();
        }
    })?;
    let root = root.ok_or("it has no table of packages")?;
    database.rows(root, &mut |row| {
        if let Some(Value::Bytes(blob)) = column(row, 1) {
            visit(blob);
        }
    })
}

struct Database<'a> {
    file: &'a [u8],
    page_size: usize,
    /// Bytes of a page that are SQLite's own.
    usable: usize,
}

const CUT: Malformed = "it is cut off, or not what it says it is";
const MALFORMED: Malformed = "it is damaged";

impl<'a> Database<'a> {
    fn open(file: &'a [u8]) -> Result<Database<'a>, Malformed> {
        if !file.starts_with(b"SQLite format 3\0") {
            return Err("it is no SQLite database");
        }
        let page_size = match number(file, 16, 2).ok_or(CUT)? as usize {
            1 => 1 << 16,
            size => size,
        };
        let reserved = *file.get(20).ok_or(CUT)? as usize;
        if !page_size.is_power_of_two() || page_size < 512 || reserved > 32 {
            return Err(MALFORMED);
        }
        Ok(Database { file, page_size, usable: page_size - reserved })
    }

    fn page(&self, page: u32) -> Result<&'a [u8], Malformed> {
        let start =
            (page as usize).checked_sub(1).and_then(|page| page.checked_mul(self.page_size)).ok_or(MALFORMED)?;
        let end = start.checked_add(self.page_size).ok_or(MALFORMED)?;
        self.file.get(start..end).ok_or(CUT)
    }

    /// Walks through the tree of a table.
    fn rows(&self, root: u32, visit: &mut dyn FnMut(&[u8])) -> Result<(), Malformed> {
        let mut budget = self.file.len().saturating_mul(2);
        let mut spend = |bytes: usize| {
            budget = budget.checked_sub(bytes).ok_or(MALFORMED)?;
            Ok::<(), Malformed>(())
        };
        let mut todo = vec![root];
        while let Some(page) = todo.pop() {
            spend(self.page_size)?;
            let bytes = self.page(page)?;
            // The file's own header lies in the first page.
            let start = if page == 1 { 100 } else { 0 };
            let count = number(bytes, start + 3, 2).ok_or(MALFORMED)? as usize;
            let cell = |index: usize, header: usize| {
                let place = number(bytes, start + header + 2 * index, 2).ok_or(MALFORMED)? as usize;
                bytes.get(place..self.usable).ok_or(MALFORMED)
            };
            match bytes[start] {
                0x05 => {
                    todo.push(number(bytes, start + 8, 4).ok_or(MALFORMED)? as u32);
                    for index in (0..count).rev() {
                        todo.push(number(cell(index, 12)?, 0, 4).ok_or(MALFORMED)? as u32);
                    }
                    if todo.len() > self.file.len() / self.page_size {
                        return Err(MALFORMED);
                    }
                }
                0x0d => {
                    for index in 0..count {
                        visit(&self.payload(cell(index, 8)?, &mut spend)?);
                    }
                }
                _ => return Err(MALFORMED),
            }
        }
        Ok(())
    }

    /// A row: what lies in its cell, and on further pages where it is too long for that.
    fn payload(
        &self,
        cell: &[u8],
        spend: &mut dyn FnMut(usize) -> Result<(), Malformed>,
    ) -> Result<Vec<u8>, Malformed> {
        let (length, rest) = varint(cell).ok_or(MALFORMED)?;
        let (_, rest) = varint(rest).ok_or(MALFORMED)?;
        let length = usize::try_from(length).map_err(|_| MALFORMED)?;
        let local = self.local(length);
        spend(local)?;
        let mut payload = rest.get(..local).ok_or(MALFORMED)?.to_vec();
        if local == length {
            return Ok(payload);
        }
        let mut next = number(rest, local, 4).ok_or(MALFORMED)? as u32;
        while payload.len() < length {
            spend(self.page_size)?;
            let page = self.page(next)?;
            next = number(page, 0, 4).ok_or(MALFORMED)? as u32;
            let room = (length - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(&page[4..4 + room]);
        }
        Ok(payload)
    }

    /// How much of a row lies in its cell (section 1.6 of the format, "B-tree Pages": X, M and K).
    fn local(&self, length: usize) -> usize {
        let most = self.usable - 35;
        if length <= most {
            return length;
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let wanted = least + (length - least) % (self.usable - 4);
        if wanted <= most { wanted } else { least }
    }
}

/// A value of a row.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A column of a row; `None` where it is not there, null or a fraction.
fn column(row: &[u8], wanted: usize) -> Option<Value<'_>> {
    let (size, types) = varint(row)?;
    let size = usize::try_from(size).ok()?;
    let mut types = types.get(..size.checked_sub(row.len() - types.len())?)?;
    let mut place = size;
    for number_of_column in 0.. {
        let (kind, rest) = varint(types)?;
        types = rest;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            kind => usize::try_from(kind.checked_sub(12)? / 2).ok()?,
        };
        if number_of_column == wanted {
            return match kind {
                1..=6 => Some(Value::Number(number(row, place, length)?)),
                8 | 9 => Some(Value::Number(kind - 8)),
                0 | 7 => None,
                _ => Some(Value::Bytes(row.get(place..place.checked_add(length)?)?)),
            };
        }
        place = place.checked_add(length)?;
    }
    None
}

/// A number in big endian.
fn number(bytes: &[u8], place: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(place..place.checked_add(length)?)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A number of one to nine bytes, of which all but the ninth have seven bits, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        if index == 8 {
            return Some((number << 8 | u64::from(*byte), &bytes[9..]));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &[u8] = include_bytes!("../../testdata/sbom/rpmdb.sqlite");

    fn rows(file: &[u8]) -> Result<usize, Malformed> {
        let mut count = 0;
        blobs(file, "Packages", &mut |_| count += 1).map(|()| count)
    }

    #[test]
    fn every_row_is_read_over_inner_and_overflow_pages() {
        assert_eq!(rows(DATABASE), Ok(26));
        assert_eq!(blobs(DATABASE, "Other", &mut |_| {}), Err("it has no table of packages"));
    }

    #[test]
    fn damaged_databases_are_refused_or_read_in_part_but_end() {
        for end in (0..DATABASE.len()).step_by(199) {
            assert!(rows(&DATABASE[..end]).is_err(), "cut at {end}");
        }
        // A page that is its own child, and a row whose further pages go round in a circle.
        let mut file = DATABASE.to_vec();
        for place in (0..1024).step_by(4).chain((1024..file.len()).step_by(64)) {
            let kept = file[place..place + 4].to_vec();
            for value in [0u32, 1, 2, 3, u32::MAX] {
                file[place..place + 4].copy_from_slice(&value.to_be_bytes());
                assert!(rows(&file).map_or(0, |count| count) < file.len(), "{value} at {place}");
            }
            file[place..place + 4].copy_from_slice(&kept);
        }
        assert_eq!(rows(&file), Ok(26));
    }

    #[test]
    fn varints_end_at_their_ninth_byte() {
        assert_eq!(varint(&[0x81, 0x00, 7]), Some((128, &[7][..])));
        assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, &[][..])));
        assert_eq!(varint(&[0x80; 3]), None);
    }
}
