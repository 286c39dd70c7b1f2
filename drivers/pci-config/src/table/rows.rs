//! Constructors of the table's rows.

use crate::register::{Block, Length, Place, Read, Rest, Row, Write};

/// A line.
pub(super) const fn register(
    at: u16,
    bytes: u8,
    name: &'static str,
    read: Read,
    write: Write,
    permissive: u32,
    source: &'static str,
) -> Row {
    assert!(at <= u8::MAX as u16, "no block has so many registers");
    #[expect(clippy::cast_possible_truncation, reason = "checked")]
    let at = at as u8;
    Row { name, at, bytes, read, write, permissive, source }
}

/// The first two bytes of a conventional capability: constant, and no driver writes them on purpose.
pub(super) const fn id_and_next(source: &'static str) -> Row {
    register(0, 2, "id, next", Read::Copy, Write::Ignore, 0, source)
}

/// The same of a capability that drivers rarely know: a write is dropped without a note in the log.
pub(super) const fn unlogged_id_and_next(source: &'static str) -> Row {
    register(0, 2, "id, next", Read::Copy, Write::Drop, 0, source)
}

/// A conventional capability.
pub(super) const fn block(id: u16, name: &'static str, length: Length, rest: Rest, registers: &'static [Row]) -> Block {
    assert!(id <= u8::MAX as u16, "ids of conventional capabilities are bytes");
    #[expect(clippy::cast_possible_truncation, reason = "checked")]
    let id = id as u8;
    Block { place: Place::Capability(id), name, length, rest, registers }
}
