//! Lines of the table, as its files write them.

use crate::register::{Read, Row, Write};

/// A line.
pub(super) const fn register(
    at: u8,
    bytes: u8,
    name: &'static str,
    read: Read,
    write: Write,
    permissive: u32,
    source: &'static str,
) -> Row {
    Row { name, at, bytes, read, write, permissive, source }
}

/// The first two bytes of a conventional capability: constant, and nobody writes them on purpose.
pub(super) const fn id_and_next(source: &'static str) -> Row {
    register(0, 2, "id, next", Read::Copy, Write::Ignore, 0, source)
}

/// The same of one that drivers do not know as well.
pub(super) const fn quiet_id_and_next(source: &'static str) -> Row {
    register(0, 2, "id, next", Read::Copy, Write::Drop, 0, source)
}
