//! What the fields of a header say.

use tar::Header;

use super::{BLOCK, ReadError};
use crate::layer::pax::{Extended, malformed, number};
use crate::layer::{MAX_ID, attributes, shown, sparse};
use crate::tree::{Kind, Node, Time};

/// Whether the first 512 bytes of something are a tar header: how ADD tells an archive from a file.
pub fn is_tar(first_block: &[u8]) -> bool {
    first_block.len() >= BLOCK
        && first_block[0] != 0
        && check_sum(Header::from_byte_slice(&first_block[..BLOCK])).is_ok()
}

pub(super) fn check_sum(header: &Header) -> Result<(), ReadError> {
    let field = 148..156;
    let said = number(&header.as_old().cksum)?;
    let bytes = header.as_bytes().iter().enumerate();
    let (unsigned, signed) = bytes.fold((0i64, 0i64), |(unsigned, signed), (at, byte)| {
        let byte = if field.contains(&at) { b' ' } else { *byte };
        // Some old writers summed signed characters.
        (unsigned + i64::from(byte), signed + i64::from(byte.cast_signed()))
    });
    if said == unsigned || said == signed { Ok(()) } else { Err(malformed("a header with a wrong checksum")) }
}

pub(super) fn fill<T>(slot: &mut Option<T>, value: T) -> Result<(), ReadError> {
    if slot.replace(value).is_some() { Err(malformed("two extended headers for one entry")) } else { Ok(()) }
}

pub(super) fn device(header: &Header) -> Result<(u32, u32), ReadError> {
    let part = |field: &[u8]| u32::try_from(number(field)?).map_err(|_| malformed("a device number out of range"));
    Ok((part(&header.as_bytes()[329..337])?, part(&header.as_bytes()[337..345])?))
}

pub(super) fn node(header: &Header, kind: Kind, extended: Extended, name: &[u8]) -> Result<Node, ReadError> {
    let old = header.as_old();
    let id = |record: Option<u64>, field: &[u8]| {
        let value = record.map_or_else(|| sparse::size(field), Ok)?;
        let refused = || ReadError::Refused { name: shown(name), reason: "its owner is out of range" };
        if value > MAX_ID { Err(refused()) } else { u32::try_from(value).map_err(|_| refused()) }
    };
    let mtime = match extended.mtime {
        Some(mtime) => mtime,
        None => Time { seconds: number(&old.mtime)?, nanoseconds: 0 },
    };
    let carried = extended.xattrs.into_iter().filter_map(|(name, value)| attributes::for_layer(&name, value));
    Ok(Node {
        kind,
        mode: (number(&old.mode)? & 0o7777) as u32,
        uid: id(extended.uid, &old.uid)?,
        gid: id(extended.gid, &old.gid)?,
        mtime,
        xattrs: carried.collect(),
        link_group: 0,
    })
}
