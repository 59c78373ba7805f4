//! Programs (ELF): one pass over the bytes of one, however large, finds what a Go or Rust compiler wrote into it.
//!
//! A section's name and place are known only at the end of a file, and a layer cannot be read backwards: so the pass notes where
//! the names of sections that are looked for stand, and what begins as Go's list does; the section headers, which say which of
//! them count, it keeps when it comes to them. What lies before them is read in a second pass ([`section`]).

use std::io::{self, Read};
use std::ops::Range;

use memchr::memmem::Finder;

use super::{cargo, go};

/// Bytes that are looked at together.
const CHUNK: usize = 256 << 10;
/// What two chunks share, so that nothing is missed between them: longer than anything that is looked for.
const OVERLAP: usize = 32;
/// Places of one kind that are noted; a program has one or two.
const MOST_PLACES: usize = 64;
/// Lists of Go that are kept.
const MOST_LISTS: usize = 4;
/// The largest table of section headers.
const MOST_SECTIONS: usize = 10_000;

/// What is in a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// What begins as Go's list of modules, that of the program itself first.
    pub(super) go: Vec<Vec<u8>>,
    /// Where the list of `cargo auditable` lies.
    pub(super) audit: Option<Range<u64>>,
}

/// Looks through a file; `None` where it is no ELF file.
///
/// # Errors
/// What reading reports; whatever the file holds is none.
pub(super) fn survey(content: &mut dyn Read) -> io::Result<Option<Survey>> {
    let mut head = Vec::new();
    content.take(64).read_to_end(&mut head)?;
    let Some(header) = Header::parse(&head) else { return Ok(None) };
    let mut pass = Pass::new(&header);
    let (mut buffer, mut position) = (head, 0u64);
    loop {
        let before = buffer.len();
        content.take((CHUNK - before.min(CHUNK)) as u64).read_to_end(&mut buffer)?;
        let is_last = buffer.len() < CHUNK;
        pass.look(&buffer, position);
        if is_last {
            return Ok(Some(pass.finish(&header)));
        }
        let kept = buffer.len() - OVERLAP;
        buffer.drain(..kept);
        position += kept as u64;
    }
}

/// Reads a part of a file; `None` where the file ends before it, or it is larger than `limit`.
///
/// # Errors
/// What reading reports.
pub(super) fn section(content: &mut dyn Read, range: &Range<u64>, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let size = range.end.saturating_sub(range.start);
    io::copy(&mut content.take(range.start), &mut io::sink())?;
    let mut bytes = Vec::new();
    content.take(size.min(limit.saturating_add(1))).read_to_end(&mut bytes)?;
    Ok((size <= limit && bytes.len() as u64 == size).then_some(bytes))
}

/// The parts of an ELF header that lead to the sections (elf(5)).
struct Header {
    class: Class,
    order: Order,
    sections: u64,
    entry_size: usize,
    count: usize,
    names: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Bits32,
    Bits64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    /// The number in `size` bytes at a place; 0 behind the end.
    fn number(self, bytes: &[u8], place: usize, size: usize) -> u64 {
        let Some(bytes) = bytes.get(place..place + size) else { return 0 };
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            Order::Big => bytes.iter().fold(0, join),
            Order::Little => bytes.iter().rev().fold(0, join),
        }
    }
}

impl Header {
    fn parse(head: &[u8]) -> Option<Header> {
        let class = match head.get(4)? {
            1 => Class::Bits32,
            2 => Class::Bits64,
            _ => return None,
        };
        let order = match head.get(5)? {
            1 => Order::Little,
            2 => Order::Big,
            _ => return None,
        };
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        let number = |place, size| order.number(head, place, size);
        let small = |place| number(place, 2) as usize;
        Some(match class {
            Class::Bits32 => {
                let (entry_size, count, names) = (small(46), small(48), small(50));
                Header { class, order, sections: number(32, 4), entry_size, count, names }
            }
            Class::Bits64 => {
                let (entry_size, count, names) = (small(58), small(60), small(62));
                Header { class, order, sections: number(40, 8), entry_size, count, names }
            }
        })
    }

    /// Bytes of the table of sections.
    fn table_size(&self) -> usize {
        let size = if self.class == Class::Bits32 { 40 } else { 64 };
        // No format has another size, and a larger one would be a way to ask for memory.
        if self.entry_size == size { self.count.min(MOST_SECTIONS) * size } else { 0 }
    }

    /// The offset of each section's name among the names, and where it lies.
    fn sections(&self, table: &[u8]) -> Vec<(u64, Range<u64>)> {
        if self.table_size() == 0 {
            return Vec::new();
        }
        let section = |entry: &[u8]| {
            let number = |place, size| self.order.number(entry, place, size);
            let (offset, size) = match self.class {
                Class::Bits32 => (number(16, 4), number(20, 4)),
                Class::Bits64 => (number(24, 8), number(32, 8)),
            };
            (number(0, 4), offset..offset.saturating_add(size))
        };
        table.chunks_exact(self.entry_size).map(section).collect()
    }
}

/// Bytes that are kept as the pass comes to them.
struct Capture {
    start: u64,
    limit: usize,
    bytes: Vec<u8>,
}

impl Capture {
    fn new(start: u64, limit: usize) -> Capture {
        Capture { start, limit, bytes: Vec::new() }
    }

    fn take(&mut self, chunk: &[u8], position: u64) {
        let next = self.start.saturating_add(self.bytes.len() as u64);
        let Some(skipped) = next.checked_sub(position).and_then(|skipped| usize::try_from(skipped).ok()) else {
            return;
        };
        let rest = chunk.get(skipped..).unwrap_or_default();
        self.bytes.extend_from_slice(&rest[..rest.len().min(self.limit - self.bytes.len())]);
    }
}

/// The places at which something stands.
struct Places {
    finder: Finder<'static>,
    found: Vec<u64>,
}

impl Places {
    fn of(what: &'static [u8]) -> Places {
        Places { finder: Finder::new(what), found: Vec::new() }
    }

    /// Gives the places that were not known.
    fn look(&mut self, chunk: &[u8], position: u64) -> Vec<u64> {
        let last = self.found.last().copied();
        let places = self.finder.find_iter(chunk).map(|place| position + place as u64);
        // What two chunks share is looked at twice.
        let new: Vec<u64> = places.filter(|place| last.is_none_or(|last| *place > last)).collect();
        let room = MOST_PLACES - self.found.len();
        self.found.extend(new.iter().take(room));
        new.into_iter().take(room).collect()
    }
}

struct Pass {
    table: Capture,
    audit_names: Places,
    go_names: Places,
    go_magic: Places,
    lists: Vec<Capture>,
}

impl Pass {
    fn new(header: &Header) -> Pass {
        Pass {
            table: Capture::new(header.sections, header.table_size()),
            audit_names: Places::of(cargo::SECTION),
            go_names: Places::of(go::SECTION),
            go_magic: Places::of(go::MAGIC),
            lists: Vec::new(),
        }
    }

    fn look(&mut self, chunk: &[u8], position: u64) {
        self.audit_names.look(chunk, position);
        self.go_names.look(chunk, position);
        let aligned = self.go_magic.look(chunk, position).into_iter().filter(|place| place % go::ALIGNMENT == 0);
        let room = MOST_LISTS - self.lists.len();
        self.lists.extend(aligned.take(room).map(|place| Capture::new(place, go::LIMIT)));
        for capture in self.lists.iter_mut().chain([&mut self.table]) {
            capture.take(chunk, position);
        }
    }

    fn finish(self, header: &Header) -> Survey {
        let sections = header.sections(&self.table.bytes);
        let names = sections.get(header.names).map_or(0, |(_, range)| range.start);
        let section = |places: &Places| {
            let is_named = |name: u64| names.checked_add(name).is_some_and(|place| places.found.contains(&place));
            sections.iter().find(|(name, _)| is_named(*name)).map(|(_, range)| range.clone())
        };
        let mut lists = self.lists;
        // A program may have other programs in its data.
        if let Some(own) = section(&self.go_names) {
            lists.sort_by_key(|list| !own.contains(&list.start));
        }
        Survey { go: lists.into_iter().map(|list| list.bytes).collect(), audit: section(&self.audit_names) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A program for 64 bits with these sections, some of which are lists of Go; `before` is data that no section names.
    pub(in crate::sbom) fn program(before: &[u8], sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file.extend(before);
        let mut names = vec![0];
        let mut headers = vec![[0u8; 64]];
        let mut add = |file: &mut Vec<u8>, name: &str, content: Option<&[u8]>| {
            let name_offset = names.len() as u32;
            names.extend(name.bytes().chain([0]));
            file.resize(file.len().next_multiple_of(16), 0);
            let content = content.map_or_else(|| names.clone(), <[u8]>::to_vec);
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name_offset.to_le_bytes());
            header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            file.extend(content);
            headers.push(header);
        };
        for (name, content) in sections {
            add(&mut file, name, Some(content));
        }
        add(&mut file, ".shstrtab", None);
        let table = file.len() as u64;
        file[40..48].copy_from_slice(&table.to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&(headers.len() as u16).to_le_bytes());
        file[62..64].copy_from_slice(&(headers.len() as u16 - 1).to_le_bytes());
        file.extend(headers.concat());
        file
    }

    /// Reads a few bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(4093);
            self.0.read(&mut buffer[..count])
        }
    }

    fn surveyed(file: &[u8]) -> Survey {
        survey(&mut Slow(file)).unwrap().unwrap()
    }

    #[test]
    fn sections_are_found_wherever_chunks_end() {
        let list = go::tests::blob("go1.24.4", "mod\texample.org/app\tv1.0.0\n");
        for before in [0, 17, CHUNK - 200, CHUNK - 128, CHUNK - 96, CHUNK - 64, CHUNK, 3 * CHUNK + 5] {
            let file =
                program(&vec![1; before], &[(".go.buildinfo", &list), (".dep-v0", b"crates"), (".data", &[2; 1000])]);
            let found = surveyed(&file);
            assert_eq!(found.go.len(), 1, "{before}");
            assert!(found.go[0].starts_with(&list), "{before}");
            let place = found.audit.unwrap_or_else(|| panic!("no section with {before} bytes before it"));
            assert_eq!(section(&mut Slow(&file), &place, 6).unwrap().as_deref(), Some(&b"crates"[..]));
            assert_eq!(section(&mut Slow(&file), &place, 5).unwrap(), None);
        }
    }

    #[test]
    fn the_list_of_the_program_itself_comes_before_those_in_its_data() {
        let (own, other) = (go::tests::blob("go1.24.4", "own"), go::tests::blob("go1.22.0", "other"));
        let found = surveyed(&program(&other, &[(".rodata", &other), (".go.buildinfo", &own)]));
        assert_eq!(found.go.len(), 3);
        assert!(found.go[0].starts_with(&own));
        // Where nothing is aligned there is no list.
        assert_eq!(surveyed(&program(&[&[0], &other[..]].concat(), &[])).go.len(), 0);
    }

    #[test]
    fn hostile_programs_are_passed_over() {
        assert_eq!(survey(&mut &b"#!/bin/sh\n"[..]).unwrap(), None);
        assert_eq!(survey(&mut &b"\x7fELF"[..]).unwrap(), None);
        let file = program(&[0; 100], &[(".dep-v0", b"crates"), (".go.buildinfo", &go::tests::blob("go1.20", "x"))]);
        for end in (0..file.len()).step_by(7) {
            drop(survey(&mut &file[..end]).unwrap());
        }
        for place in (0..64).chain(file.len() - 256..file.len()) {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = file.clone();
                damaged[place] = value;
                let found = survey(&mut &damaged[..]).unwrap();
                if let Some(range) = found.and_then(|found| found.audit) {
                    drop(section(&mut &damaged[..], &range, 1 << 20).unwrap());
                }
            }
        }
        // As many of everything as fit.
        let many = [go::MAGIC, b"\x08\x02", &[0; 16]].concat().repeat(50_000);
        assert!(surveyed(&program(&many, &[(".dep-v0", cargo::SECTION)])).go.len() <= MOST_LISTS);
        let names = cargo::SECTION.repeat(100_000);
        drop(surveyed(&program(&names, &[])));
    }
}
