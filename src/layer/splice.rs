//! A layer's tar as what it shares with an earlier layer's tar and what is new in it: what the edit of one file leaves of a
//! hundred thousand.
//!
//! Contract: pieces of the earlier tar come in its own order, so it is read once, as a stream. Whoever reads the result has
//! to check its digest; nothing here knows it.

use std::io::{self, Read};

use super::invalid;

/// One piece of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the earlier tar.
    Old {
        /// Where they begin in it.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// These bytes.
    New(Vec<u8>),
}

/// Bytes of the earlier tar, and where the new one has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where they begin in the earlier tar.
    pub old: u64,
    /// Where they begin in the new one.
    pub new: u64,
    /// How many.
    pub length: u64,
}

/// A tar made of pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    pieces: Vec<Piece>,
}

const MAGIC: &[u8; 8] = b"rbsplic\x01";
const OLD: u8 = 0;
const NEW: u8 = 1;

impl Splice {
    /// Takes pieces in the order of the new tar.
    ///
    /// # Errors
    /// `InvalidData` where those of the earlier tar are not in its order.
    pub fn new(pieces: Vec<Piece>) -> io::Result<Splice> {
        let mut last = 0;
        for piece in &pieces {
            let Piece::Old { offset, length } = piece else { continue };
            let end = offset.checked_add(*length).filter(|_| *offset >= last);
            last = end.ok_or_else(|| invalid("cannot put a layer together: its pieces are out of order".to_owned()))?;
        }
        Ok(Splice { pieces })
    }

    /// Whether it is the whole of an earlier tar of so many bytes: nothing but zeros at its end is new.
    pub fn is_whole(&self, size: u64) -> bool {
        match self.pieces.as_slice() {
            [Piece::Old { offset: 0, length }, Piece::New(end)] => {
                length.checked_add(end.len() as u64) == Some(size) && end.iter().all(|byte| *byte == 0)
            }
            _ => false,
        }
    }

    /// What it has of the earlier tar, in order.
    pub fn places(&self) -> Vec<Place> {
        let mut new = 0;
        let place = |piece: &Piece| match *piece {
            Piece::Old { offset, length } => {
                let place = Place { old: offset, new, length };
                new += length;
                Some(place)
            }
            Piece::New(ref content) => {
                new += content.len() as u64;
                None
            }
        };
        self.pieces.iter().filter_map(place).collect()
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for piece in &self.pieces {
            match piece {
                Piece::Old { offset, length } => {
                    bytes.push(OLD);
                    bytes.extend_from_slice(&offset.to_le_bytes());
                    bytes.extend_from_slice(&length.to_le_bytes());
                }
                Piece::New(content) => {
                    bytes.push(NEW);
                    bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
                    bytes.extend_from_slice(content);
                }
            }
        }
        bytes
    }

    /// Reads what [`Splice::to_bytes`] gave.
    ///
    /// # Errors
    /// `InvalidData` for anything else.
    pub fn read_from(bytes: &[u8]) -> io::Result<Splice> {
        let cut = || invalid("cannot put a layer together: the list of its pieces is damaged".to_owned());
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(cut)?;
        let number = |rest: &mut &[u8]| -> io::Result<u64> {
            let (number, after) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
            *rest = after;
            Ok(u64::from_le_bytes(*number))
        };
        let mut pieces = Vec::new();
        while let Some((tag, after)) = rest.split_first() {
            rest = after;
            pieces.push(match *tag {
                OLD => Piece::Old { offset: number(&mut rest)?, length: number(&mut rest)? },
                NEW => {
                    let length = usize::try_from(number(&mut rest)?).map_err(|_| cut())?;
                    let (content, after) = rest.split_at_checked(length).ok_or_else(cut)?;
                    rest = after;
                    Piece::New(content.to_vec())
                }
                _ => return Err(cut()),
            });
        }
        Splice::new(pieces)
    }

    /// What is new, without what is between.
    pub fn new_content(&self) -> impl Read + '_ {
        NewContent { pieces: self.pieces.iter(), current: &[] }
    }

    /// The new tar. The earlier one is read to its end, so that a checksum there is looked at.
    pub fn read<R: Read>(self, earlier: R) -> Spliced<R> {
        Spliced { earlier, at: 0, pieces: self.pieces.into_iter(), current: None }
    }
}

/// Reads a tar that is put together of pieces.
pub struct Spliced<R> {
    earlier: R,
    /// How much of the earlier tar was read.
    at: u64,
    pieces: std::vec::IntoIter<Piece>,
    current: Option<Current>,
}

/// Reads what is new in a tar.
struct NewContent<'a> {
    pieces: std::slice::Iter<'a, Piece>,
    current: &'a [u8],
}

impl Read for NewContent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.next() {
                Some(Piece::New(content)) => self.current = content,
                Some(Piece::Old { .. }) => {}
                None => return Ok(0),
            }
        }
        self.current.read(buffer)
    }
}

/// What is left of the piece that is read now.
enum Current {
    Old(u64),
    New(io::Cursor<Vec<u8>>),
}

impl<R: Read> Spliced<R> {
    fn begin(&mut self, piece: Piece) -> io::Result<Current> {
        match piece {
            Piece::New(content) => Ok(Current::New(io::Cursor::new(content))),
            Piece::Old { offset, length } => {
                let gap = offset - self.at;
                if io::copy(&mut self.earlier.by_ref().take(gap), &mut io::sink())? != gap {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.at = offset;
                Ok(Current::Old(length))
            }
        }
    }
}

impl<R: Read> Read for Spliced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.current {
                Some(Current::New(content)) => match content.read(buffer)? {
                    0 => self.current = None,
                    count => return Ok(count),
                },
                Some(Current::Old(0)) => self.current = None,
                Some(Current::Old(left)) => {
                    let wanted = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let count = self.earlier.read(&mut buffer[..wanted])?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *left -= count as u64;
                    self.at += count as u64;
                    return Ok(count);
                }
                None => match self.pieces.next() {
                    Some(piece) => self.current = Some(self.begin(piece)?),
                    None => {
                        io::copy(&mut self.earlier, &mut io::sink())?;
                        return Ok(0);
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(offset: u64, length: u64) -> Piece {
        Piece::Old { offset, length }
    }

    #[test]
    fn pieces_are_put_together_in_order() {
        let splice = Splice::new(vec![
            old(1, 2),
            Piece::New(b"XY".to_vec()),
            Piece::New(Vec::new()),
            old(3, 0),
            old(5, 1),
            Piece::New(b"Z".to_vec()),
        ]);
        let (splice, mut out) = (splice.unwrap(), String::new());
        splice.new_content().read_to_string(&mut out).unwrap();
        assert_eq!(std::mem::take(&mut out), "XYZ");
        splice.read(&b"abcdefgh"[..]).read_to_string(&mut out).unwrap();
        assert_eq!(out, "bcXYfZ");
    }

    #[test]
    fn what_is_all_of_the_earlier_tar_is_told_from_a_part_of_it() {
        let end = || Piece::New(vec![0; 1024]);
        let is_whole = |pieces| Splice::new(pieces).unwrap().is_whole(3024);
        assert!(is_whole(vec![old(0, 2000), end()]));
        let parts = [
            vec![old(0, 1000), end()],
            vec![old(1, 2000), end()],
            vec![old(0, 1000), old(1500, 1000), end()],
            vec![old(0, 2000), Piece::New(vec![1; 1024])],
            vec![end()],
        ];
        for pieces in parts {
            assert!(!is_whole(pieces.clone()), "{pieces:?}");
        }
    }

    #[test]
    fn a_list_comes_back_and_every_damage_of_its_form_is_an_error() {
        let splice = Splice::new(vec![old(0, 5), Piece::New(b"new".to_vec()), old(9, u64::MAX - 9)]).unwrap();
        let bytes = splice.to_bytes();
        assert_eq!(Splice::read_from(&bytes).unwrap(), splice);
        let whole = [MAGIC.len(), MAGIC.len() + 17, MAGIC.len() + 17 + 12, bytes.len()];
        for end in 0..=bytes.len() {
            assert_eq!(Splice::read_from(&bytes[..end]).is_ok(), whole.contains(&end), "cut at {end}");
        }
        assert!(Splice::read_from(&[&bytes[..], &[2]].concat()).is_err());
        assert!(Splice::new(vec![old(5, 2), old(6, 1)]).is_err(), "backwards");
        assert!(Splice::new(vec![old(5, u64::MAX)]).is_err(), "beyond all numbers");
    }

    #[test]
    fn an_earlier_tar_that_is_too_short_is_an_error() {
        for pieces in [vec![old(0, 9)], vec![old(9, 1)]] {
            let read = Splice::new(pieces).unwrap().read(&b"abcdefgh"[..]).read_to_end(&mut Vec::new());
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn damage_behind_what_is_used_is_noticed() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::InvalidData.into())
            }
        }
        let splice = Splice::new(vec![old(0, 3)]).unwrap();
        assert!(splice.read(b"abcd".chain(Broken)).read_to_end(&mut Vec::new()).is_err());
    }
}
